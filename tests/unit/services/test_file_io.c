/* SPDX-License-Identifier: MIT */
#include "services/file.h"

#include <endian.h>

#include "proto/file.pb-c.h"
#include "services/open_files.h"
#include "shard/service_home.h"
#include "tests/unit/services/fake_call.h"

#define BLOCK 4096u

/* The file service as a shard has it, with the fixture's folder as its root, to be written to. */
struct service_fixture {
    struct fixture *f;
    struct registry *registry;
    void *states[1];
    struct service_home homes[1];
    uint64_t caller; /* of the calls that follow */
    bool caller_gone;
};

static struct service_fixture start_service(struct fixture *f)
{
    struct service_fixture s = {.f = f, .registry = registry_new()};
    char *spec = new_text("%s:rw", f->dir);
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

/* Of one method with those arguments; call_deinit() it. */
static struct service_call run(
    struct service_fixture *s, const char *method, const void *args, size_t len)
{
    struct service_call call = {.registry = s->registry,
        .states = s->states,
        .method = method,
        .args = args,
        .args_len = len,
        .caller = s->caller,
        .caller_gone = s->caller_gone};
    run_co(s->f, call_body, &call);
    return call;
}

/* A handle, or 0 with *ret_error. */
static uint64_t try_open(
    struct service_fixture *s, const char *name, bool writable, bool direct, int *ret_error)
{
    char *path = in_dir(s->f, name);
    Sherd__File__Request message = SHERD__FILE__REQUEST__INIT;
    uint8_t packed[512];
    uint64_t handle = 0;
    message.path = (ProtobufCBinaryData){.data = (uint8_t *)path, .len = strlen(path)};
    message.writable = writable;
    message.direct = direct;
    struct service_call call =
        run(s, "file.open", packed, sherd__file__request__pack(&message, packed));
    *ret_error = call.status;
    if (call.status == 0) {
        Sherd__File__OpenReply *reply =
            sherd__file__open_reply__unpack(NULL, call.reply_len, call.reply);
        handle = reply->handle;
        sherd__file__open_reply__free_unpacked(reply, NULL);
    }
    call_deinit(&call);
    free(path);
    return handle;
}

static uint64_t open_file(struct service_fixture *s, const char *name, bool writable)
{
    int error;
    uint64_t handle = try_open(s, name, writable, false, &error);
    assert_int_equal(error, 0);
    assert_int_not_equal(handle, 0);
    return handle;
}

static void put_span(uint8_t *to, uint64_t handle, uint64_t offset, uint64_t len)
{
    uint64_t numbers[] = {htole64(handle), htole64(offset), htole64(len)};
    memcpy(to, numbers, sizeof(numbers));
}

static struct service_call read_at(
    struct service_fixture *s, uint64_t handle, uint64_t offset, uint64_t len)
{
    uint8_t args[24];
    put_span(args, handle, offset, len);
    return run(s, "file.pread", args, sizeof(args));
}

static void expect_bytes(struct service_fixture *s, uint64_t handle, uint64_t offset, uint64_t len,
    const void *bytes, size_t n)
{
    struct service_call call = read_at(s, handle, offset, len);
    assert_int_equal(call.status, 0);
    assert_int_equal(call.reply_len, n);
    if (n)
        assert_memory_equal(call.reply, bytes, n);
    call_deinit(&call);
}

static int write_at(struct service_fixture *s, uint64_t handle, uint64_t offset, const void *data,
    size_t len, uint64_t len_said)
{
    uint8_t *args = malloc(len + 24);
    memcpy(args, data, len);
    put_span(args + len, handle, offset, len_said);
    struct service_call call = run(s, "file.pwrite", args, len + 24);
    int status = call.status;
    call_deinit(&call);
    free(args);
    return status;
}

static int close_file(struct service_fixture *s, uint64_t handle)
{
    uint64_t args = htole64(handle);
    struct service_call call = run(s, "file.close", &args, sizeof(args));
    int status = call.status;
    call_deinit(&call);
    return status;
}

static void what_is_open_is_read_from_anywhere_to_its_end(void **state)
{
    struct service_fixture s = start_service(*state);
    uint8_t *bytes = malloc(300000);
    for (size_t i = 0; i < 300000; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 256);
    make_file(s.f, "some", bytes, 300000);
    uint64_t handle = open_file(&s, "some", false);
    expect_bytes(&s, handle, 0, 300000, bytes, 300000);
    expect_bytes(&s, handle, 1, 100, bytes + 1, 100);
    expect_bytes(&s, handle, 299000, BLOCK, bytes + 299000, 1000);
    expect_bytes(&s, handle, 299950, 100, bytes + 299950, 50);
    expect_bytes(&s, handle, 300000, 100, NULL, 0);
    expect_bytes(&s, handle, UINT64_C(1) << 40, BLOCK, NULL, 0);
    expect_bytes(&s, handle, 5, 0, NULL, 0);
    assert_int_equal(close_file(&s, handle), 0);
    free(bytes);
    stop_service(&s);
}

static void what_is_written_is_read_by_another_handle(void **state)
{
    struct service_fixture s = start_service(*state);
    uint64_t writer = open_file(&s, "new", true);
    uint64_t reader = open_file(&s, "new", false);
    assert_int_equal(write_at(&s, writer, 3, "hello", 5, 5), 0);
    expect_bytes(&s, reader, 0, 100, "\0\0\0hello", 8);
    assert_int_equal(write_at(&s, reader, 0, "x", 1, 1), -EBADF);
    assert_int_equal(write_at(&s, writer, 0, "x", 1, 2), -EBADMSG);
    assert_int_equal(write_at(&s, writer, 0, "", 0, 0), 0);
    expect_bytes(&s, reader, 0, 100, "\0\0\0hello", 8);
    stop_service(&s);
}

static void a_handle_is_good_until_it_is_closed_and_by_nobody_else_s_shard(void **state)
{
    struct service_fixture s = start_service(*state);
    make_file(s.f, "some", "bytes", 5);
    uint64_t handle = open_file(&s, "some", false);
    assert_int_equal(close_file(&s, handle), 0);
    assert_int_equal(close_file(&s, handle), -ESTALE);
    struct service_call call = read_at(&s, handle, 0, 5);
    assert_int_equal(call.status, -ESTALE);
    assert_non_null(strstr(call.text, "open it again"));
    call_deinit(&call);
    handle = open_file(&s, "some", false);
    stop_service(&s);
    s = start_service(*state);
    assert_int_not_equal(open_file(&s, "some", false), handle);
    assert_int_equal(close_file(&s, handle), -ESTALE);
    stop_service(&s);
}

static void expect_stale(struct service_fixture *s, uint64_t handle)
{
    struct service_call call = read_at(s, handle, 0, 5);
    assert_int_equal(call.status, -ESTALE);
    call_deinit(&call);
}

static void one_more_of_a_client_closes_the_one_that_it_has_not_used_for_longest(void **state)
{
    struct service_fixture s = start_service(*state);
    uint64_t handles[OPEN_FILES_EACH + 1], other;
    make_file(s.f, "some", "bytes", 5);
    s.caller = 2;
    other = open_file(&s, "some", false);
    s.caller = 1;
    for (uint32_t i = 0; i < OPEN_FILES_EACH; i++)
        handles[i] = open_file(&s, "some", false);
    expect_bytes(&s, handles[0], 0, 5, "bytes", 5);
    handles[OPEN_FILES_EACH] = open_file(&s, "some", false);
    expect_bytes(&s, handles[0], 0, 5, "bytes", 5);
    expect_bytes(&s, handles[OPEN_FILES_EACH], 0, 5, "bytes", 5);
    expect_stale(&s, handles[1]);
    s.caller = 2;
    expect_bytes(&s, other, 0, 5, "bytes", 5);
    stop_service(&s);
}

static void one_more_than_there_may_be_closes_one_of_who_has_most(void **state)
{
    struct service_fixture s = start_service(*state);
    uint64_t few, first[4];
    make_file(s.f, "some", "bytes", 5);
    s.caller = 10;
    few = open_file(&s, "some", false);
    for (uint32_t i = 0; i < OPEN_FILES - 1; i++) {
        s.caller = 1 + i % 4;
        uint64_t handle = open_file(&s, "some", false);
        if (i < 4)
            first[i] = handle;
    }
    s.caller = 11;
    uint64_t newcomer = open_file(&s, "some", false);
    expect_bytes(&s, newcomer, 0, 5, "bytes", 5);
    s.caller = 1; /* who has one more than the fourth, and whose is the oldest of those */
    expect_stale(&s, first[0]);
    for (uint32_t i = 1; i < 4; i++) {
        s.caller = 1 + i;
        expect_bytes(&s, first[i], 0, 5, "bytes", 5);
    }
    s.caller = 10;
    expect_bytes(&s, few, 0, 5, "bytes", 5);
    stop_service(&s);
}

static void a_file_is_there_for_its_own_client_alone(void **state)
{
    struct service_fixture s = start_service(*state);
    make_file(s.f, "some", "bytes", 5);
    s.caller = 1;
    uint64_t handle = open_file(&s, "some", true);
    s.caller = 2;
    expect_stale(&s, handle);
    assert_int_equal(write_at(&s, handle, 0, "x", 1, 1), -ESTALE);
    assert_int_equal(close_file(&s, handle), -ESTALE);
    s.caller = 1;
    expect_bytes(&s, handle, 0, 5, "bytes", 5);
    stop_service(&s);
}

static void what_a_client_has_open_is_closed_at_its_end_and_no_more_is_opened(void **state)
{
    struct service_fixture s = start_service(*state);
    make_file(s.f, "some", "bytes", 5);
    int n_fds = count_fds();
    s.caller = 2;
    uint64_t other = open_file(&s, "some", false);
    s.caller = 1;
    uint64_t handle = open_file(&s, "some", false);
    open_file(&s, "some", false);
    assert_int_equal(count_fds(), n_fds + 3);
    file_service.gone(s.states[0], &(struct service_caller){.id = 1});
    while (count_fds() > n_fds + 1)
        aio_poll(s.f->ctx, true);
    expect_stale(&s, handle);
    s.caller_gone = true;
    int error;
    assert_int_equal(try_open(&s, "some", false, false, &error), 0);
    assert_int_equal(error, -ECANCELED);
    assert_int_equal(count_fds(), n_fds + 1);
    s.caller_gone = false;
    s.caller = 2;
    expect_bytes(&s, other, 0, 5, "bytes", 5);
    stop_service(&s);
}

static int add_null(
    struct open_files *files, uint64_t owner, uint64_t *ret_handle, int *ret_evicted)
{
    struct open_file file = {.fd = open("/dev/null", O_RDONLY | O_CLOEXEC), .owner = owner};
    int r = open_files_add(files, &file, ret_handle, ret_evicted);
    if (r < 0)
        close(file.fd);
    return r;
}

static void one_that_is_in_use_stays_open_until_it_is_given_back(void **state)
{
    struct open_files *files = open_files_new();
    uint64_t handle, other;
    int evicted;
    (void)state;
    assert_int_equal(add_null(files, 1, &handle, &evicted), 0);
    assert_int_equal(evicted, -1);
    struct open_file *file = open_files_take(files, 1, handle);
    assert_int_equal(open_files_close(files, 1, handle), -1);
    assert_null(open_files_take(files, 1, handle));
    int fd = file->fd;
    assert_int_equal(open_files_give(file), fd);
    close(fd);
    for (uint32_t i = 0; i < OPEN_FILES; i++) {
        assert_int_equal(add_null(files, i / OPEN_FILES_EACH, &other, &evicted), 0);
        assert_int_equal(evicted, -1);
        assert_non_null(open_files_take(files, i / OPEN_FILES_EACH, other));
    }
    assert_int_equal(add_null(files, 0, &other, &evicted), -EMFILE);
    assert_int_equal(add_null(files, 77, &other, &evicted), -EMFILE);
    open_files_free(files);
}

static void past_the_cache_blocks_are_read_and_anything_else_is_refused(void **state)
{
    struct service_fixture s = start_service(*state);
    uint8_t *bytes = malloc(3 * BLOCK);
    int error;
    memset(bytes, 'b', 3 * BLOCK);
    make_file(s.f, "some", bytes, 2 * BLOCK + 10);
    uint64_t handle = try_open(&s, "some", false, true, &error);
    if (error == -EINVAL) {
        free(bytes);
        stop_service(&s);
        skip(); /* a file system that always caches */
    }
    assert_int_equal(error, 0);
    expect_bytes(&s, handle, 0, 2 * BLOCK, bytes, 2 * BLOCK);
    expect_bytes(&s, handle, BLOCK, 2 * BLOCK, bytes, BLOCK + 10);
    struct service_call call = read_at(&s, handle, 1, BLOCK);
    if (call.status < 0) { /* and not every disk refuses it */
        assert_int_equal(call.status, -EINVAL);
        assert_non_null(strstr(call.text, "4096 does for all"));
    }
    call_deinit(&call);
    free(bytes);
    stop_service(&s);
}

static void arguments_that_make_no_sense_are_refused(void **state)
{
    struct service_fixture s = start_service(*state);
    static const char *const methods[] = {"file.pread", "file.pwrite", "file.close"};
    for (size_t i = 0; i < 3; i++) {
        struct service_call call = run(&s, methods[i], "short", 5);
        assert_int_equal(call.status, -EBADMSG);
        call_deinit(&call);
    }
    make_file(s.f, "some", "bytes", 5);
    uint64_t handle = open_file(&s, "some", true);
    struct service_call call = read_at(&s, handle, UINT64_MAX, 5);
    assert_int_equal(call.status, -EINVAL);
    call_deinit(&call);
    call = read_at(&s, handle, INT64_MAX, 1);
    assert_int_equal(call.status, -EINVAL);
    call_deinit(&call);
    assert_int_equal(write_at(&s, handle, UINT64_MAX, "x", 1, 1), -EINVAL);
    stop_service(&s);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        FIXTURE_CASE(what_is_open_is_read_from_anywhere_to_its_end),
        FIXTURE_CASE(what_is_written_is_read_by_another_handle),
        FIXTURE_CASE(a_handle_is_good_until_it_is_closed_and_by_nobody_else_s_shard),
        FIXTURE_CASE(one_more_of_a_client_closes_the_one_that_it_has_not_used_for_longest),
        FIXTURE_CASE(one_more_than_there_may_be_closes_one_of_who_has_most),
        FIXTURE_CASE(a_file_is_there_for_its_own_client_alone),
        FIXTURE_CASE(what_a_client_has_open_is_closed_at_its_end_and_no_more_is_opened),
        FIXTURE_CASE(past_the_cache_blocks_are_read_and_anything_else_is_refused),
        FIXTURE_CASE(arguments_that_make_no_sense_are_refused),
        FIXTURE_CASE(one_that_is_in_use_stays_open_until_it_is_given_back),
    };
    return FIXTURE_RUN(cases);
}
