/* SPDX-License-Identifier: MIT */
#include "runtime/aio_register.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "runtime/uring.h"
#include "tests/unit/runtime/disk_fixture.h"

#define ARENA_BYTES ((size_t)64 << 10)

static bool has_ring(const struct fixture *f)
{
    return aio_context_engine(f->ctx) == AIO_ENGINE_IO_URING;
}

/* ---- what goes into the ring ---- */

static struct {
    struct disk_kernel kernel;
    AioContext *ctx;
    unsigned n_fixed_files;
    unsigned n_fixed_buffers;
} seen;

static int look_at_entries(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
    void *arg, size_t arg_bytes)
{
    struct uring *u = uring_of(seen.ctx);

    for (unsigned i = 1; i <= to_submit; i++) {
        const struct io_uring_sqe *sqe = &u->ring.sq.sqes[(u->sqe_tail - i) & u->ring.sq.ring_mask];

        seen.n_fixed_files += (sqe->flags & IOSQE_FIXED_FILE) != 0;
        seen.n_fixed_buffers +=
            sqe->opcode == IORING_OP_READ_FIXED || sqe->opcode == IORING_OP_WRITE_FIXED;
    }
    return disk_kernel_real.uring_enter(ring_fd, to_submit, min_complete, flags, arg, arg_bytes);
}

/* Reads go to the ring, as if nothing were in memory. */
static void look(struct fixture *f)
{
    memset(&seen, 0, sizeof seen);
    seen.kernel = disk_kernel_real;
    seen.kernel.preadv = nothing_cached;
    seen.kernel.uring_enter = look_at_entries;
    seen.ctx = f->ctx;
    f->ctx->disk.kernel = &seen.kernel;
}

static void expect_in_ring(
    const struct fixture *f, unsigned n_fixed_files, unsigned n_fixed_buffers)
{
    assert_int_equal(seen.n_fixed_files, has_ring(f) ? n_fixed_files : 0);
    assert_int_equal(seen.n_fixed_buffers, has_ring(f) ? n_fixed_buffers : 0);
    seen.n_fixed_files = seen.n_fixed_buffers = 0;
}

/* ---- files ---- */

static void use_files(struct fixture *f)
{
    int fds[] = {-1, f->fd, -1};
    struct stat st;
    struct statx stx;
    char buf[100];

    look(f);
    assert_int_equal(aio_register_files(fds, 3), 0);
    assert_int_equal(co_pread(AIO_FIXED_FD(1), buf, sizeof buf, 1234), sizeof buf);
    check_content(f, buf, 1234, sizeof buf);
    memset(buf, 'f', sizeof buf);
    assert_int_equal(co_pwrite(AIO_FIXED_FD(1), buf, sizeof buf, 777), sizeof buf);
    assert_int_equal(co_fdatasync(AIO_FIXED_FD(1)), 0);
    memset(f->expected + 777, 'f', sizeof buf);
    expect_in_ring(f, 3, 0);
    assert_int_equal(co_statx(AIO_FIXED_FD(1), "", AT_EMPTY_PATH, STATX_SIZE, &stx), 0);
    assert_int_equal(fstat(f->fd, &st), 0);
    assert_int_equal(stx.stx_size, st.st_size);

    assert_int_equal(co_pread(AIO_FIXED_FD(0), buf, 1, 0), -EBADF);
    assert_int_equal(co_pread(AIO_FIXED_FD(3), buf, 1, 0), -EBADF);
    assert_int_equal(co_close(AIO_FIXED_FD(1)), -EBADF);
    assert_int_equal(aio_unregister_files(), 0);
    assert_int_equal(co_pread(AIO_FIXED_FD(1), buf, 1, 0), -EBADF);
    f->ctx->disk.kernel = &disk_kernel_real;
    read_everything(f);
}

static void a_registered_file_is_used_by_its_place(void **state)
{
    on_each_engine(use_files, NULL, false);
}

static void update_files(struct fixture *f)
{
    int nothing[] = {-1, -1};
    int other = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    int mixed[] = {f->fd, 1000};
    char c = 'x';

    assert_int_equal(aio_update_files(0, &other, 1), -ENXIO);
    assert_int_equal(aio_unregister_files(), -ENXIO);
    assert_int_equal(aio_register_files(nothing, 0), -EINVAL);
    assert_int_equal(aio_register_files(nothing, AIO_MOST_FIXED_FILES + 1), -EINVAL);
    assert_int_equal(aio_register_files(mixed, 2), -EBADF);
    assert_int_equal(aio_register_files(nothing, 2), 0);
    assert_int_equal(aio_register_files(nothing, 2), -EBUSY);
    assert_int_equal(aio_update_files(1, &f->fd, 1), 0);
    assert_int_equal(co_pread(AIO_FIXED_FD(1), &c, 1, 5), 1);
    check_content(f, &c, 5, 1);
    assert_int_equal(aio_update_files(1, nothing, 2), -ENXIO);
    assert_int_equal(aio_update_files(0, mixed, 2), -EBADF);
    assert_int_equal(co_pread(AIO_FIXED_FD(0), &c, 1, 5), -EBADF); /* nothing has changed */
    assert_int_equal(aio_update_files(1, &other, 1), 0);
    assert_int_equal(co_pread(AIO_FIXED_FD(1), &c, 1, 5), 1);
    assert_int_equal(c, 0);
    assert_int_equal(aio_update_files(1, nothing, 1), 0);
    assert_int_equal(co_pread(AIO_FIXED_FD(1), &c, 1, 5), -EBADF);
    close(other);
}

static void places_are_filled_replaced_and_emptied(void **state)
{
    on_each_engine(update_files, NULL, false);
}

/* ---- buffers ---- */

static char *new_arena(void)
{
    char *arena =
        mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(arena, MAP_FAILED);
    return arena;
}

static void use_buffers(struct fixture *f)
{
    char *arena = new_arena();
    char *outside = new_arena();
    struct iovec buffers[] = {{arena + 32768, 16384}, {NULL, 0}, {arena, 8192}};

    look(f);
    int r = aio_register_buffers(buffers, 3);
    if (r == -ENOMEM) { /* RLIMIT_MEMLOCK of an ordinary user */
        print_message("no memory to be locked\n");
        f->ctx->disk.kernel = &disk_kernel_real;
        munmap(arena, ARENA_BYTES);
        munmap(outside, ARENA_BYTES);
        return;
    }
    assert_int_equal(r, 0);
    assert_int_equal(co_pread(f->fd, arena, 8192, 100), 8192);
    check_content(f, arena, 100, 8192);
    assert_int_equal(co_pread(f->fd, arena + 32768 + 16383, 1, 3), 1);
    check_content(f, arena + 32768 + 16383, 3, 1);
    assert_int_equal(co_pwrite(f->fd, arena + 40000, 5000, 200), 5000);
    memcpy(f->expected + 200, arena + 40000, 5000);
    expect_in_ring(f, 0, 3);

    /* Not wholly inside one. */
    assert_int_equal(co_pread(f->fd, arena + 1, 8192, 100), 8192);
    check_content(f, arena + 1, 100, 8192);
    assert_int_equal(co_pread(f->fd, arena + 32767, 2, 100), 2);
    assert_int_equal(co_pread(f->fd, outside, 100, 100), 100);
    check_content(f, outside, 100, 100);
    expect_in_ring(f, 0, 0);

    assert_int_equal(aio_update_buffers(1, &(struct iovec){outside, ARENA_BYTES}, 1), 0);
    assert_int_equal(aio_update_buffers(2, &(struct iovec){NULL, 0}, 1), 0);
    assert_int_equal(co_pread(f->fd, outside + 17, 100, 100), 100);
    check_content(f, outside + 17, 100, 100);
    expect_in_ring(f, 0, 1);
    assert_int_equal(co_pread(f->fd, arena, 10, 100), 10);
    expect_in_ring(f, 0, 0);
    assert_int_equal(aio_unregister_buffers(), 0);
    assert_int_equal(co_pread(f->fd, outside, 10, 100), 10);
    expect_in_ring(f, 0, 0);
    f->ctx->disk.kernel = &disk_kernel_real;
    read_everything(f);
    munmap(arena, ARENA_BYTES);
    munmap(outside, ARENA_BYTES);
}

static void a_buffer_inside_a_registered_one_is_found(void **state)
{
    on_each_engine(use_buffers, NULL, false);
}

static void refuse_buffers(struct fixture *f)
{
    char *arena = new_arena();
    struct iovec good = {arena, ARENA_BYTES};
    struct iovec bad[] = {{arena, ((size_t)1 << 30) + 1}, {NULL, 10}, {arena, 0}};
    char c;

    assert_int_equal(aio_unregister_buffers(), -ENXIO);
    assert_int_equal(aio_update_buffers(0, &good, 1), -ENXIO);
    assert_int_equal(aio_register_buffers(&good, 0), -EINVAL);
    assert_int_equal(aio_register_buffers(&good, AIO_MOST_FIXED_BUFFERS + 1), -EINVAL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(aio_register_buffers(&bad[i], 1), -EFAULT);
    assert_int_equal(aio_register_buffers(&(struct iovec){NULL, 0}, 1), 0);
    assert_int_equal(aio_register_buffers(&good, 1), -EBUSY);
    assert_int_equal(aio_update_buffers(0, &bad[1], 1), -EFAULT);
    assert_int_equal(aio_update_buffers(1, &good, 1), -ENXIO);
    assert_int_equal(co_pread(f->fd, &c, 1, 9), 1);
    check_content(f, &c, 9, 1);
    munmap(arena, ARENA_BYTES);
}

static void buffers_that_cannot_be_are_refused(void **state)
{
    on_each_engine(refuse_buffers, NULL, false);
}

/* Whatever a reader's buffer is among many, overlapping ones too, its content is right. */
static void search_among_many(struct fixture *f)
{
    enum { N = 40 };
    char *arena = new_arena();
    struct iovec buffers[N];
    unsigned seed = 3;

    for (int i = 0; i < N; i++) {
        size_t at = (size_t)rand_r(&seed) % (ARENA_BYTES - 4096);
        buffers[i] = (struct iovec){arena + at, (size_t)rand_r(&seed) % 4096 + 1};
    }
    int r = aio_register_buffers(buffers, N);
    if (r == 0)
        look(f);
    for (int i = 0; i < 60; i++) {
        size_t at = (size_t)rand_r(&seed) % (ARENA_BYTES - 1000);
        size_t len = (size_t)rand_r(&seed) % 1000 + 1;

        assert_int_equal(co_pread(f->fd, arena + at, len, at), len);
        check_content(f, arena + at, at, len);
    }
    if (r == 0 && has_ring(f))
        assert_true(seen.n_fixed_buffers > 0);
    f->ctx->disk.kernel = &disk_kernel_real;
    if (r == 0)
        assert_int_equal(aio_unregister_buffers(), 0);
    munmap(arena, ARENA_BYTES);
}

static void reads_into_any_place_are_right(void **state)
{
    on_each_engine(search_among_many, NULL, false);
}

/* ---- tables that change under requests ---- */

enum { N_WRITERS = 300, WRITE_BYTES = 3, N_CUT = 8 };

/* Writers that begin in one file and end in it, whatever stands at its place meanwhile. */
struct crowd {
    char source[N_WRITERS * WRITE_BYTES];
    struct disk_kernel kernel;
    unsigned n_cut; /* writes that the kernel still does in part, or interrupts */
    unsigned n_left;
    int other;
    bool refuses;
};

static struct crowd crowd;

struct writer {
    int fd;
    unsigned i;
};

static ssize_t cut(ssize_t n)
{
    if (n != WRITE_BYTES || crowd.n_cut == 0)
        return n;
    return crowd.n_cut-- % 2 ? -EINTR : 1;
}

static ssize_t cut_result(const struct disk_request *request, ssize_t result)
{
    return cut(result);
}

static int maybe_refuse(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
    void *arg, size_t arg_bytes)
{
    if (crowd.refuses && to_submit > 0)
        return -EAGAIN;
    return disk_kernel_real.uring_enter(ring_fd, to_submit, min_complete, flags, arg, arg_bytes);
}

static void write_three(void *opaque)
{
    struct writer *writer = opaque;
    unsigned at = writer->i * WRITE_BYTES;
    struct iovec iov[] = {{crowd.source + at, 2}, {crowd.source + at + 2, WRITE_BYTES - 2}};

    if (writer->i % 4 < 2)
        assert_int_equal(co_pwrite(writer->fd, iov[0].iov_base, WRITE_BYTES, at), WRITE_BYTES);
    else
        assert_int_equal(co_pwritev(writer->fd, iov, 2, at), WRITE_BYTES);
    crowd.n_left--;
}

static void begin_writers(struct writer *writers, int fd)
{
    crowd.n_left = N_WRITERS;
    for (unsigned i = 0; i < N_WRITERS; i++) {
        writers[i] = (struct writer){.fd = fd, .i = i};
        coroutine_enter(coroutine_create(write_three, &writers[i]));
    }
}

static void end_writers(struct fixture *f)
{
    uint8_t buf[sizeof crowd.source];
    struct stat st;

    poll_until_zero(f->ctx, &crowd.n_left);
    memcpy(f->expected, crowd.source, sizeof crowd.source);
    assert_int_equal(pread(f->fd, buf, sizeof buf, 0), sizeof buf);
    check_content(f, buf, 0, sizeof buf);
    assert_int_equal(fstat(crowd.other, &st), 0);
    assert_int_equal(st.st_size, 0);
    memset(crowd.source, crowd.source[0] + 1, sizeof crowd.source);
}

static void begin_crowd(struct fixture *f)
{
    crowd = (struct crowd){.kernel = disk_kernel_real, .other = memfd_create("other", MFD_CLOEXEC)};
    assert_true(crowd.other >= 0);
    memset(crowd.source, 'A', sizeof crowd.source);
    crowd.kernel.result = cut_result;
    crowd.kernel.uring_enter = maybe_refuse;
    f->ctx->disk.kernel = &crowd.kernel;
}

/* Some are the kernel's, some gathered, some wait for a place, some have to try again. */
static void change_files_under_writers(struct fixture *f)
{
    static struct writer writers[N_WRITERS];

    begin_crowd(f);
    assert_int_equal(aio_register_files(&f->fd, 1), 0);
    crowd.n_cut = N_CUT;
    begin_writers(writers, AIO_FIXED_FD(0));
    assert_int_equal(aio_update_files(0, &crowd.other, 1), 0);
    end_writers(f);

    assert_int_equal(aio_update_files(0, &f->fd, 1), 0);
    crowd.n_cut = N_CUT;
    begin_writers(writers, AIO_FIXED_FD(0));
    assert_int_equal(aio_unregister_files(), 0);
    assert_int_equal(aio_register_files(&crowd.other, 1), 0);
    end_writers(f);
    close(crowd.other);
}

static void requests_under_way_keep_their_file(void **state)
{
    on_each_engine(change_files_under_writers, &(struct aio_config){.io_depth = 7}, true);
    on_each_engine(change_files_under_writers, &(struct aio_config){.io_depth = 1024}, true);
}

static void change_buffers_under_writers(struct fixture *f)
{
    static struct writer writers[N_WRITERS];
    struct iovec source = {crowd.source, sizeof crowd.source};
    struct iovec nothing = {NULL, 0};

    begin_crowd(f);
    for (int round = 0; round < 2 && aio_register_buffers(&source, 1) == 0; round++) {
        crowd.n_cut = N_CUT;
        begin_writers(writers, f->fd);
        if (round == 0)
            assert_int_equal(aio_update_buffers(0, &nothing, 1), 0);
        assert_int_equal(aio_unregister_buffers(), 0);
        end_writers(f);
    }
    close(crowd.other);
}

static void requests_under_way_keep_their_buffer(void **state)
{
    on_each_engine(change_buffers_under_writers, &(struct aio_config){.io_depth = 7}, true);
    on_each_engine(change_buffers_under_writers, &(struct aio_config){.io_depth = 1024}, true);
}

/* What was begun can't be handed over first, so the table must stay as it is. */
static void change_files_while_refused(struct fixture *f)
{
    static struct writer writers[N_WRITERS];

    if (!has_ring(f))
        return;
    begin_crowd(f);
    assert_int_equal(aio_register_files(&f->fd, 1), 0);
    crowd.refuses = true;
    begin_writers(writers, AIO_FIXED_FD(0));
    assert_int_equal(aio_update_files(0, &crowd.other, 1), -EAGAIN);
    assert_int_equal(aio_unregister_files(), -EAGAIN);
    crowd.refuses = false;
    assert_int_equal(aio_update_files(0, &crowd.other, 1), 0);
    end_writers(f);
    close(crowd.other);
}

static void a_table_stays_while_the_kernel_takes_no_requests(void **state)
{
    on_each_engine(change_files_while_refused, &(struct aio_config){.io_depth = 1024}, true);
}

/* ---- the home thread ---- */

struct visit {
    AioContext *ctx;
    int fd;
    ssize_t result;
    bool done;
};

static void read_registered(void *opaque)
{
    struct visit *visit = opaque;
    char c;

    assert_int_equal(aio_register_files(&visit->fd, 1), 0);
    visit->result = co_pread(AIO_FIXED_FD(0), &c, 1, 0);
    visit->result += co_fdatasync(AIO_FIXED_FD(0));
    visit->done = true;
}

static void *live_in(void *opaque)
{
    struct visit *visit = opaque;

    aio_context_set_current(visit->ctx);
    coroutine_enter(coroutine_create(read_registered, visit));
    while (!visit->done)
        aio_poll(visit->ctx, true);
    aio_context_set_current(NULL);
    return NULL;
}

/* Made here, lived in there, freed here: a ring is bound to the thread that first uses it, and its
 * end must not take anything from the thread that it ends in. */
static void move_house(struct fixture *f)
{
    struct aio_config config = {.engine = aio_context_engine(f->ctx)};
    struct visit visit = {.fd = f->fd};
    pthread_t thread;
    char c;

    assert_int_equal(co_pread(f->fd, &c, 1, 1), 1);
    assert_int_equal(aio_register_files(&f->fd, 1), 0);
    assert_int_equal(aio_context_new(&config, &visit.ctx), 0);
    assert_int_equal(pthread_create(&thread, NULL, live_in, &visit), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(visit.result, 1);
    aio_context_unref(visit.ctx);
    assert_int_equal(co_pread(AIO_FIXED_FD(0), &c, 1, 1), 1);
    assert_int_equal(co_fdatasync(AIO_FIXED_FD(0)), 0);
}

static void a_ring_belongs_to_its_home_thread(void **state)
{
    on_each_engine(move_house, NULL, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_registered_file_is_used_by_its_place),
        cmocka_unit_test(places_are_filled_replaced_and_emptied),
        cmocka_unit_test(a_buffer_inside_a_registered_one_is_found),
        cmocka_unit_test(buffers_that_cannot_be_are_refused),
        cmocka_unit_test(reads_into_any_place_are_right),
        cmocka_unit_test(requests_under_way_keep_their_file),
        cmocka_unit_test(requests_under_way_keep_their_buffer),
        cmocka_unit_test(a_table_stays_while_the_kernel_takes_no_requests),
        cmocka_unit_test(a_ring_belongs_to_its_home_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
