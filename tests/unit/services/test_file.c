/* SPDX-License-Identifier: MIT */
#include "services/file.h"

#include <openssl/evp.h>
#include <signal.h>
#include <sys/resource.h>

#include "proto/file.pb-c.h"
#include "shard/service_home.h"
#include "tests/unit/services/fake_call.h"

/* The file service as a shard has it, with the fixture's folder as its root. */
struct service_fixture {
    struct fixture *f;
    struct registry *registry;
    void *states[1];
    struct service_home homes[1];
};

static struct service_fixture start_service(struct fixture *f, const char *rights)
{
    struct service_fixture s = {.f = f, .registry = registry_new()};
    char *spec = new_text("%s%s", f->dir, rights);
    char *error = NULL;
    assert_int_equal(registry_add(s.registry, &file_service, NULL), 0);
    assert_int_equal(registry_configure(s.registry, "file", "root", spec, &error), 0);
    assert_int_equal(registry_start(s.registry, s.homes, s.states, &error), 0);
    free(spec);
    return s;
}

static void stop_service(struct service_fixture *s)
{
    registry_stop(s->registry, s->states);
    registry_free(s->registry);
}

struct request {
    const char *name; /* in the folder */
    uint64_t offset;
    uint64_t length;
    const void *data;
    size_t data_len;
    bool direct;
};

/* A call, ready to be run; its arguments are to be freed. */
static struct service_call new_call(
    struct service_fixture *s, const char *method, struct request request)
{
    char *path = in_dir(s->f, request.name);
    Sherd__File__Request message = SHERD__FILE__REQUEST__INIT;
    message.path = (ProtobufCBinaryData){.data = (uint8_t *)path, .len = strlen(path)};
    message.offset = request.offset;
    message.length = request.length;
    message.direct = request.direct;
    message.data = (ProtobufCBinaryData){.data = (uint8_t *)request.data, .len = request.data_len};
    size_t len = sherd__file__request__get_packed_size(&message);
    uint8_t *packed = malloc(len);
    sherd__file__request__pack(&message, packed);
    free(path);
    return (struct service_call){.registry = s->registry,
        .states = s->states,
        .method = method,
        .args = packed,
        .args_len = len};
}

static void end_call(struct service_call *call)
{
    free((void *)call->args);
    call_deinit(call);
}

static struct service_call run(
    struct service_fixture *s, const char *method, struct request request)
{
    struct service_call call = new_call(s, method, request);
    run_co(s->f, call_body, &call);
    return call;
}

/* The call fails with error and a text that ends so. */
static void expect_failure(struct service_fixture *s, const char *method, struct request request,
    int error, const char *end)
{
    struct service_call call = run(s, method, request);
    assert_int_equal(call.status, error);
    assert_null(call.reply);
    assert_non_null(call.text);
    size_t at = strlen(call.text) - (strlen(call.text) < strlen(end) ? 0 : strlen(end));
    assert_string_equal(call.text + at, end);
    assert_int_equal(strncmp(call.text, method, strlen(method)), 0);
    end_call(&call);
}

static void expect_hash(const struct service_call *call, const void *data, size_t len)
{
    uint8_t digest[32];
    assert_int_equal(call->status, 0);
    assert_true(EVP_Digest(data, len, digest, NULL, EVP_sha256(), NULL));
    Sherd__File__Sha256Reply *reply =
        sherd__file__sha256_reply__unpack(NULL, call->reply_len, call->reply);
    assert_non_null(reply);
    assert_int_equal(reply->size, len);
    assert_int_equal(reply->digest.len, sizeof(digest));
    assert_memory_equal(reply->digest.data, digest, sizeof(digest));
    sherd__file__sha256_reply__free_unpacked(reply, NULL);
}

static void sha256_answers_with_digest_and_size(void **state)
{
    struct service_fixture s = start_service(*state, "");
    make_file(s.f, "some", "some bytes", 10);
    make_file(s.f, "line\nbreak\\", "", 0);
    struct service_call call = run(&s, "file.sha256", (struct request){.name = "some"});
    expect_hash(&call, "some bytes", 10);
    end_call(&call);
    call = run(&s, "file.sha256", (struct request){.name = "line\nbreak\\"});
    expect_hash(&call, "", 0);
    end_call(&call);
    stop_service(&s);
}

static void what_can_not_be_read_is_named_with_the_reason(void **state)
{
    struct service_fixture s = start_service(*state, "");
    make_dir(s.f, "folder");
    char *fifo = in_dir(s.f, "fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    static const char *const methods[] = {"file.sha256", "file.read"};
    for (size_t i = 0; i < 2; i++) {
        expect_failure(&s, methods[i], (struct request){.name = "nothing"}, -ENOENT,
            "/nothing: No such file or directory");
        expect_failure(
            &s, methods[i], (struct request){.name = "folder"}, -EISDIR, "/folder: Is a directory");
        expect_failure(&s, methods[i], (struct request){.name = "fifo"}, -EINVAL,
            "/fifo: Is a FIFO, not a regular file");
    }
    free(fifo);
    stop_service(&s);
}

static void file_without_permission_is_refused_with_the_user(void **state)
{
    if (geteuid() == 0)
        skip(); /* root may read it */
    struct service_fixture s = start_service(*state, "");
    make_file(s.f, "secret", "x", 1);
    char *path = in_dir(s.f, "secret");
    assert_int_equal(chmod(path, 0), 0);
    char *end = new_text("/secret: Permission denied; the shards run as user number %u", geteuid());
    expect_failure(&s, "file.sha256", (struct request){.name = "secret"}, -EACCES, end);
    free(end);
    free(path);
    stop_service(&s);
}

static void read_answers_with_the_bytes_that_are_there(void **state)
{
    struct service_fixture s = start_service(*state, "");
    size_t len = 600 * 1024 + 77; /* its end is on no page */
    char *bytes = malloc(len);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)(i * 7 + i / 255);
    make_file(s.f, "file", bytes, len);
    static const struct {
        uint64_t offset;
        uint64_t length;
        size_t expected;
    } ranges[] = {{0, 0, 0}, {0, 10, 10}, {4096, 100, 100}, {0, 600 * 1024, 600 * 1024},
        {100, 1024 * 1024, 600 * 1024 - 23}, {600 * 1024 + 77, 5, 0}, {1ull << 40, 1, 0},
        {600 * 1024 + 74, 300 * 1024, 3}, {4096, 8192, 8192}, {8192, 1024 * 1024, 592 * 1024 + 77},
        {592 * 1024, 64 * 1024, 8 * 1024 + 77}};
    for (size_t k = 0; k < 2 * sizeof(ranges) / sizeof(ranges[0]); k++) {
        size_t i = k / 2;
        bool direct = k % 2;
        struct service_call call = run(&s, "file.read",
            (struct request){.name = "file",
                .offset = ranges[i].offset,
                .length = ranges[i].length,
                .direct = direct});
        assert_int_equal(call.status, 0);
        assert_int_equal(call.reply_len, ranges[i].expected);
        assert_memory_equal(
            call.reply, bytes + (ranges[i].expected ? ranges[i].offset : 0), ranges[i].expected);
        end_call(&call);
    }
    free(bytes);
    stop_service(&s);
}

/* Some file systems have nothing but the cache. */
static bool may_be_direct(const struct fixture *f, const char *name)
{
    char *path = in_dir(f, name);
    int fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    free(path);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* Whether file.read, or file.write from memory that begins there, went past the cache. */
static bool is_direct(
    struct service_fixture *s, const char *method, struct request request, size_t data_at)
{
    bool saw = false;
    struct service_call call = new_call(s, method, request);
    const uint8_t *data =
        request.data ? memmem(call.args, call.args_len, request.data, request.data_len) : call.args;
    size_t head = (size_t)(data - (const uint8_t *)call.args);
    uint8_t *memory;

    memory = aligned_alloc(4096, 4096 + (call.args_len + 8191) / 4096 * 4096);
    assert_non_null(memory);
    memcpy(memory + 4096 + data_at - head % 4096, call.args, call.args_len);
    free((void *)call.args);
    call.args = memory + 4096 + data_at - head % 4096;
    call.saw_direct = &saw;
    run_co(s->f, call_body, &call);
    assert_int_equal(call.status, 0);
    free(memory);
    call_deinit(&call);
    return saw;
}

static void direct_goes_past_the_cache_where_all_is_aligned_and_else_not(void **state)
{
    enum { BYTES = 256 * 1024 };
    struct service_fixture s = start_service(*state, ":rw");
    char *bytes = malloc(BYTES);
    memset(bytes, 'd', BYTES);
    make_file(s.f, "file", bytes, BYTES);
    struct request read = {.name = "file", .length = BYTES, .direct = true};
    struct request write = {.name = "file", .data = bytes, .data_len = BYTES, .direct = true};
    bool can = may_be_direct(s.f, "file");

    assert_int_equal(is_direct(&s, "file.read", read, 0), can);
    assert_int_equal(is_direct(&s, "file.write", write, 0), can);
    assert_false(is_direct(&s, "file.write", write, 1));
    read.offset = write.offset = 1;
    assert_false(is_direct(&s, "file.read", read, 0));
    assert_false(is_direct(&s, "file.write", write, 0));
    read.offset = write.offset = 0;
    read.direct = write.direct = false;
    assert_false(is_direct(&s, "file.read", read, 0));
    assert_false(is_direct(&s, "file.write", write, 0));
    free(bytes);
    stop_service(&s);
}

static void ranges_beyond_the_limits_are_refused(void **state)
{
    struct service_fixture s = start_service(*state, ":rw");
    make_file(s.f, "file", "x", 1);
    expect_failure(&s, "file.read", (struct request){.name = "file", .length = 1024 * 1024 + 1},
        -EMSGSIZE, "/file: 1048577 bytes at once are too many: at most 1048576");
    expect_failure(&s, "file.read",
        (struct request){.name = "file", .length = 10, .offset = INT64_MAX - 5ull}, -EINVAL,
        "/file: the offset is too large");
    expect_failure(&s, "file.write",
        (struct request){.name = "file", .data = "x", .data_len = 1, .offset = UINT64_MAX}, -EINVAL,
        "/file: the offset is too large");
    stop_service(&s);
}

static void write_changes_its_range_and_nothing_else(void **state)
{
    struct service_fixture s = start_service(*state, ":rw");
    make_file(s.f, "file", "0123456789", 10);
    struct service_call call = run(&s, "file.write",
        (struct request){.name = "file", .offset = 3, .data = "abc", .data_len = 3});
    assert_int_equal(call.status, 0);
    Sherd__File__WriteReply *reply =
        sherd__file__write_reply__unpack(NULL, call.reply_len, call.reply);
    assert_int_equal(reply->written, 3);
    sherd__file__write_reply__free_unpacked(reply, NULL);
    end_call(&call);
    call = run(&s, "file.read", (struct request){.name = "file", .length = 100});
    assert_string_equal((char *)call.reply, "012abc6789");
    end_call(&call);
    stop_service(&s);
}

static void write_makes_a_missing_file_that_its_owner_writes(void **state)
{
    struct service_fixture s = start_service(*state, ":rw");
    struct stat st;
    char *path = in_dir(s.f, "new");
    mode_t mask = umask(022);
    struct service_call call = run(
        &s, "file.write", (struct request){.name = "new", .offset = 2, .data = "x", .data_len = 1});
    umask(mask);
    assert_int_equal(call.status, 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 0644);
    assert_int_equal(st.st_size, 3);
    end_call(&call);
    free(path);
    stop_service(&s);
}

static void write_under_a_read_only_root_is_refused(void **state)
{
    struct service_fixture s = start_service(*state, "");
    make_file(s.f, "file", "x", 1);
    char *end = new_text(
        "/file: the root %s is read-only; start sherd run with --root %s:rw", s.f->dir, s.f->dir);
    expect_failure(&s, "file.write", (struct request){.name = "file", .data = "y", .data_len = 1},
        -EROFS, end);
    free(end);
    stop_service(&s);
}

/* A limit on the size of files stands for a disk that is full half-way. */
static void failed_write_says_how_far_it_came(void **state)
{
    enum { LEN = 300 * 1024, LIMIT = 200 * 1024 };
    struct service_fixture s = start_service(*state, ":rw");
    struct rlimit old;
    void *data = calloc(1, LEN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){LIMIT, old.rlim_max}), 0);
    expect_failure(&s, "file.write", (struct request){.name = "new", .data = data, .data_len = LEN},
        -EFBIG,
        "/new: File too large, after at least 196608 of 307200 bytes at offset 0 were written");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, handler);
    free(data);
    stop_service(&s);
}

static void stat_tells_what_the_kernel_tells(void **state)
{
    static const char *const names[] = {"file", "folder", "fifo"};
    struct service_fixture s = start_service(*state, "");
    char *fifo = in_dir(s.f, "fifo");
    make_file(s.f, "file", "12345", 5);
    make_dir(s.f, "folder");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    for (size_t i = 0; i < 3; i++) {
        struct stat st;
        char *path = in_dir(s.f, names[i]);
        struct service_call call = run(&s, "file.stat", (struct request){.name = names[i]});
        assert_int_equal(call.status, 0);
        Sherd__File__StatReply *reply =
            sherd__file__stat_reply__unpack(NULL, call.reply_len, call.reply);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(reply->size, st.st_size);
        assert_int_equal(reply->mode, st.st_mode);
        assert_int_equal(reply->inode, st.st_ino);
        assert_int_equal(reply->links, st.st_nlink);
        assert_int_equal(reply->uid, st.st_uid);
        assert_int_equal(reply->mtime_ns, st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec);
        sherd__file__stat_reply__free_unpacked(reply, NULL);
        end_call(&call);
        free(path);
    }
    free(fifo);
    stop_service(&s);
}

static void arguments_that_are_no_request_are_refused(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        int error;
    } wrong[] = {{"\xff\xff\xff", 3, -EBADMSG}, {"", 0, -EINVAL}, {"\x0a\x03/\0a", 5, -EINVAL},
        {"\x0a\x05/abc", 6, -EBADMSG},
        {"\x0a\x03"
         "a/b",
            5, -EINVAL}};
    struct service_fixture s = start_service(*state, "");
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct service_call call = {.registry = s.registry,
            .states = s.states,
            .method = "file.stat",
            .args = wrong[i].bytes,
            .args_len = wrong[i].len};
        run_co(s.f, call_body, &call);
        assert_int_equal(call.status, wrong[i].error);
        assert_non_null(call.text);
        call_deinit(&call);
    }
    stop_service(&s);
}

static void path_longer_than_any_is_refused_with_a_short_text(void **state)
{
    struct service_fixture s = start_service(*state, ":rw");
    size_t len = 1024 * 1024 - 100;
    char *name = malloc(len + 1);
    memset(name, 'a', len);
    name[len] = '\0';
    static const char *const methods[] = {"file.sha256", "file.read", "file.write", "file.stat"};
    for (size_t i = 0; i < 4; i++) {
        struct service_call call = run(&s, methods[i], (struct request){.name = name});
        assert_int_equal(call.status, -ENAMETOOLONG);
        assert_true(strlen(call.text) < 512);
        assert_non_null(strstr(call.text, "aaa...: "));
        end_call(&call);
    }
    free(name);
    stop_service(&s);
}

static void one_path_has_one_owner_for_all_methods(void **state)
{
    static const char *const methods[] = {"file.sha256", "file.read", "file.write", "file.stat"};
    struct service_fixture s = start_service(*state, "");
    uint64_t hashes[4];
    uint64_t other;
    for (size_t i = 0; i < 4; i++) {
        struct service_call call = new_call(&s, methods[i],
            (struct request){.name = "a", .offset = i, .data = "data", .data_len = i});
        uint32_t number;
        assert_int_equal(registry_find(s.registry, methods[i], strlen(methods[i]), &number), 0);
        assert_int_equal(
            registry_hash(s.registry, number, call.args, call.args_len, &hashes[i]), 0);
        assert_int_equal(hashes[i], hashes[0]);
        end_call(&call);
    }
    struct service_call call = new_call(&s, "file.stat", (struct request){.name = "b"});
    assert_int_equal(registry_hash(s.registry, 0, call.args, call.args_len, &other), 0);
    assert_int_not_equal(other, hashes[0]);
    assert_int_equal(registry_hash(s.registry, 0, "\xff", 1, &other), -EBADMSG);
    end_call(&call);
    stop_service(&s);
}

struct many {
    struct service_call call;
    uint32_t *n_left;
};

static void many_entry(void *opaque)
{
    struct many *one = opaque;
    call_body(&one->call);
    (*one->n_left)--;
}

static void calls_in_flight_beyond_the_fd_limit_wait_instead_of_failing(void **state)
{
    enum { N = 1000 };
    struct service_fixture s = start_service(*state, "");
    struct many *many = calloc(N, sizeof(*many));
    struct rlimit old;
    uint32_t n_left = N;
    make_file(s.f, "file", "x", 1);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    assert_int_equal(
        setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)count_fds() + 128, old.rlim_max}), 0);
    for (int i = 0; i < N; i++) {
        many[i].call =
            new_call(&s, i % 2 ? "file.sha256" : "file.stat", (struct request){.name = "file"});
        many[i].n_left = &n_left;
        coroutine_enter(coroutine_create(many_entry, &many[i]));
    }
    run_until_none_left(s.f, &n_left);
    for (int i = 0; i < N; i++) {
        assert_int_equal(many[i].call.status, 0);
        end_call(&many[i].call);
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    free(many);
    stop_service(&s);
}

/* Hashing the sparse file to its end would take longer than the fixture waits. */
static void calls_that_nobody_waits_for_give_their_places_back(void **state)
{
    enum { N = 200 };
    struct service_fixture s = start_service(*state, "");
    struct many *many = calloc(N, sizeof(*many));
    uint32_t n_left = N;
    make_file(s.f, "small", "some bytes", 10);
    make_file(s.f, "big", "", 0);
    char *path = in_dir(s.f, "big");
    assert_int_equal(truncate(path, (off_t)1 << 40), 0);
    for (int i = 0; i < N; i++) {
        many[i].call = new_call(&s, "file.sha256", (struct request){.name = "big"});
        many[i].n_left = &n_left;
        coroutine_enter(coroutine_create(many_entry, &many[i]));
    }
    aio_poll(s.f->ctx, false);
    for (int i = 0; i < N; i++)
        many[i].call.is_abandoned = true;
    struct service_call call = run(&s, "file.sha256", (struct request){.name = "small"});
    expect_hash(&call, "some bytes", 10);
    end_call(&call);
    run_until_none_left(s.f, &n_left);
    for (int i = 0; i < N; i++) {
        assert_int_equal(many[i].call.status, -ECANCELED);
        end_call(&many[i].call);
    }
    free(many);
    free(path);
    stop_service(&s);
}

static void file_is_not_hashed_past_the_deadline(void **state)
{
    struct service_fixture s = start_service(*state, "");
    make_file(s.f, "big", "", 0);
    char *path = in_dir(s.f, "big");
    assert_int_equal(truncate(path, (off_t)1 << 40), 0);
    struct service_call call = new_call(&s, "file.sha256", (struct request){.name = "big"});
    call.deadline_ns = aio_clock_ns() + 5 * 1000000;
    run_co(s.f, call_body, &call);
    assert_int_equal(call.status, -ETIMEDOUT);
    end_call(&call);
    free(path);
    stop_service(&s);
}

/* Their reader is stopped, as it were: more reads than there are pieces wait for its sake. */
static void reads_that_wait_for_room_hold_nothing_that_others_need(void **state)
{
    enum { N = 200, LEN = 5000 };
    struct service_fixture s = start_service(*state, "");
    struct many *many = calloc(N, sizeof(*many));
    uint8_t *bytes = malloc(LEN);
    uint32_t n_left = N;
    CoQueue room;
    co_queue_init(&room);
    memset(bytes, 7, LEN);
    make_file(s.f, "large", bytes, LEN);
    make_file(s.f, "small", "some bytes", 10);
    int n_fds = count_fds();
    for (int i = 0; i < N; i++) {
        many[i].call = new_call(&s, "file.read", (struct request){.name = "large", .length = LEN});
        many[i].call.no_room = &room;
        many[i].n_left = &n_left;
        coroutine_enter(coroutine_create(many_entry, &many[i]));
    }
    struct service_call call = run(&s, "file.sha256", (struct request){.name = "small"});
    expect_hash(&call, "some bytes", 10);
    end_call(&call);
    while (count_fds() > n_fds)
        aio_poll(s.f->ctx, true);
    make_file(s.f, "large", bytes, LEN - 1000); /* meanwhile */
    many[0].call.is_abandoned = true;
    while (n_left > 0) {
        co_queue_restart_all(&room);
        aio_poll(s.f->ctx, true);
    }
    for (int i = 0; i < N; i++) {
        assert_int_equal(many[i].call.status, i == 0 ? -ECANCELED : 0);
        assert_int_equal(many[i].call.reply_len, i == 0 ? 0 : LEN - 1000);
        assert_true(i == 0 || memcmp(many[i].call.reply, bytes, LEN - 1000) == 0);
        end_call(&many[i].call);
    }
    co_queue_deinit(&room);
    free(bytes);
    free(many);
    stop_service(&s);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        FIXTURE_CASE(sha256_answers_with_digest_and_size),
        FIXTURE_CASE(what_can_not_be_read_is_named_with_the_reason),
        FIXTURE_CASE(file_without_permission_is_refused_with_the_user),
        FIXTURE_CASE(read_answers_with_the_bytes_that_are_there),
        FIXTURE_CASE(direct_goes_past_the_cache_where_all_is_aligned_and_else_not),
        FIXTURE_CASE(ranges_beyond_the_limits_are_refused),
        FIXTURE_CASE(write_changes_its_range_and_nothing_else),
        FIXTURE_CASE(write_makes_a_missing_file_that_its_owner_writes),
        FIXTURE_CASE(write_under_a_read_only_root_is_refused),
        FIXTURE_CASE(failed_write_says_how_far_it_came),
        FIXTURE_CASE(stat_tells_what_the_kernel_tells),
        FIXTURE_CASE(arguments_that_are_no_request_are_refused),
        FIXTURE_CASE(path_longer_than_any_is_refused_with_a_short_text),
        FIXTURE_CASE(one_path_has_one_owner_for_all_methods),
        FIXTURE_CASE(calls_in_flight_beyond_the_fd_limit_wait_instead_of_failing),
        FIXTURE_CASE(calls_that_nobody_waits_for_give_their_places_back),
        FIXTURE_CASE(file_is_not_hashed_past_the_deadline),
        FIXTURE_CASE(reads_that_wait_for_room_hold_nothing_that_others_need),
    };
    return FIXTURE_RUN(cases);
}
