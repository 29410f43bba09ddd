/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/disk_fixture.h"

#include "runtime/atomic.h"

/* Faults are given by a table of system calls that answers as a kernel short of something would. */

static struct {
    struct disk_kernel kernel;
    unsigned step;
    unsigned n_faults;
} fault;

/* Answers with EAGAIN or EINTR now and then, else goes for a part of the count. Worker threads and
 * the loop come here: faults are decided by the call's own arguments and an atomic step. */
static int next_fault(void)
{
    unsigned step = atomic_add_seq(&fault.step, 1);

    atomic_add_seq(&fault.n_faults, 1);
    return step % 7 == 3 ? -EAGAIN : step % 7 == 5 ? -EINTR : 0;
}

static ssize_t short_preadv(int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags)
{
    int r = next_fault();
    struct iovec part = iov[0];

    if (r < 0)
        return r;
    part.iov_len = part.iov_len / 3 + 1 < part.iov_len ? part.iov_len / 3 + 1 : part.iov_len;
    return disk_kernel_real.preadv(fd, &part, 1, offset, flags);
}

static ssize_t short_pwritev(int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags)
{
    int r = next_fault();
    struct iovec part = iov[0];

    if (r < 0)
        return r;
    part.iov_len = part.iov_len / 3 + 1 < part.iov_len ? part.iov_len / 3 + 1 : part.iov_len;
    return disk_kernel_real.pwritev(fd, &part, 1, offset, flags);
}

/* As if the kernel had done a third, or nothing, of a request that it did whole. What was read
 * beyond is spoilt, so that only a right continuation gives the right content. */
static ssize_t short_result(const struct disk_request *request, ssize_t result)
{
    bool read = request->op == DISK_READ;

    if (!read && request->op != DISK_WRITE)
        return result;
    int r = next_fault();
    ssize_t part = r < 0 ? 0 : result / 3 + 1;
    if (result <= 1 || part >= result)
        return result;
    if (read)
        memset((char *)request->buf + part, 0xee, (size_t)(result - part));
    return r < 0 ? r : part;
}

/* Direct I/O goes on in whole blocks. */
static ssize_t short_direct_result(const struct disk_request *request, ssize_t result)
{
    if ((request->op != DISK_READ && request->op != DISK_WRITE) || result <= 4096)
        return result;
    atomic_add_seq(&fault.n_faults, 1);
    if (request->op == DISK_READ)
        memset((char *)request->buf + 4096, 0xee, (size_t)(result - 4096));
    return 4096;
}

static int partial_io_submit(struct io_context *aio, long n, struct iocb **iocbs)
{
    int r = next_fault();

    return r < 0 ? r : disk_kernel_real.io_submit(aio, n > 1 ? n / 2 : n, iocbs);
}

static int reluctant_enter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
    void *arg, size_t arg_bytes)
{
    int r = to_submit > 0 ? next_fault() : 0;

    if (r == -EAGAIN && flags % 2) /* both errors mean the same: later */
        r = -EBUSY;
    if (r < 0)
        return r;
    if (to_submit > 1) { /* one that takes less than it is handed does not wait either */
        to_submit /= 2;
        min_complete = 0;
    }
    return disk_kernel_real.uring_enter(ring_fd, to_submit, min_complete, flags, arg, arg_bytes);
}

static void use_faults(struct fixture *f)
{
    fault.kernel = disk_kernel_real;
    fault.kernel.preadv = short_preadv;
    fault.kernel.pwritev = short_pwritev;
    fault.kernel.io_submit = partial_io_submit;
    fault.kernel.uring_enter = reluctant_enter;
    fault.kernel.result = short_result;
    fault.step = 0;
    fault.n_faults = 0;
    f->ctx->disk.kernel = &fault.kernel;
}

static void copy_with_faults(struct fixture *f)
{
    uint8_t *buf = malloc(100000);
    struct iovec iov[] = {{buf + 60000, 40000}, {buf, 20000}, {buf + 20000, 40000}};

    use_faults(f);
    assert_int_equal(co_pread(f->fd, buf, 100000, 5), 100000);
    check_content(f, buf, 5, 100000);
    assert_int_equal(co_preadv(f->fd, iov, 3, 77), 100000);
    check_content(f, buf + 60000, 77, 40000);
    check_content(f, buf, 40077, 60000);
    memset(buf, 0x5a, 100000);
    memset(buf + 70000, 0xa5, 30000);
    assert_int_equal(co_pwrite(f->fd, buf, 100000, 300001), 100000);
    memcpy(f->expected + 300001, buf, 100000);
    assert_int_equal(co_pwritev(f->fd, iov, 3, 500001), 100000);
    memcpy(f->expected + 500001, buf + 60000, 40000);
    memcpy(f->expected + 540001, buf, 60000);
    assert_true(fault.n_faults > 0);
    f->ctx->disk.kernel = &disk_kernel_real;
    free(buf);
    read_everything(f);
}

static void partial_and_refused_calls_leave_the_content_whole(void **state)
{
    on_each_engine(copy_with_faults, NULL, false);
}

static void run_many_with_faults(struct fixture *f)
{
    enum { N = 40 };
    unsigned n_left = N;
    struct job job = {.f = f, .body = read_at_random, .n_left = &n_left};

    use_faults(f);
    for (int i = 0; i < N; i++)
        coroutine_enter(coroutine_create(run_job, &job));
    poll_until_zero(f->ctx, &n_left);
    assert_true(fault.n_faults > 0);
}

static void requests_behind_a_refused_one_all_end(void **state)
{
    on_each_engine(run_many_with_faults, &(struct aio_config){.io_depth = 16}, true);
}

static void read_directly_in_parts(struct fixture *f)
{
    struct open_how how = {.flags = O_RDWR | O_CLOEXEC | O_DIRECT};
    int fd = co_openat2(AT_FDCWD, f->path, &how);
    uint8_t *buf = NULL;

    if (fd == -EINVAL)
        return;
    use_faults(f);
    fault.kernel.result = short_direct_result;
    fault.kernel.preadv = disk_kernel_real.preadv;
    fault.kernel.pwritev = disk_kernel_real.pwritev;
    assert_int_equal(posix_memalign((void **)&buf, 4096, 65536), 0);
    assert_int_equal(co_pread(fd, buf, 65536, 8192), 65536);
    check_content(f, buf, 8192, 65536);
    memset(buf, 'p', 65536);
    assert_int_equal(co_pwrite(fd, buf, 65536, 131072), 65536);
    memset(f->expected + 131072, 'p', 65536);
    f->ctx->disk.kernel = &disk_kernel_real;
    assert_int_equal(co_close(fd), 0);
    free(buf);
    read_everything(f);
}

static void direct_io_in_parts_leaves_the_content_whole(void **state)
{
    if (!has_openat2())
        skip();
    on_each_engine(read_directly_in_parts, NULL, false);
}

/* The first few submissions of all are refused, with nothing in flight whose end could be waited
 * for. */
static int refuse_first(void)
{
    return atomic_add_seq(&fault.step, 1) < 3 ? -EAGAIN : 0;
}

static int io_submit_refused_first(struct io_context *aio, long n, struct iocb **iocbs)
{
    int r = refuse_first();

    return r < 0 ? r : disk_kernel_real.io_submit(aio, n, iocbs);
}

static int enter_refused_first(int ring_fd, unsigned to_submit, unsigned min_complete,
    unsigned flags, void *arg, size_t arg_bytes)
{
    int r = to_submit > 0 ? refuse_first() : 0;

    return r < 0 ? r
                 : disk_kernel_real.uring_enter(
                       ring_fd, to_submit, min_complete, flags, arg, arg_bytes);
}

static void sync_once(struct fixture *f)
{
    fault.kernel = disk_kernel_real;
    fault.kernel.io_submit = io_submit_refused_first;
    fault.kernel.uring_enter = enter_refused_first;
    fault.step = 0;
    f->ctx->disk.kernel = &fault.kernel;
    assert_int_equal(co_fdatasync(f->fd), 0);
    if (aio_context_engine(f->ctx) != AIO_ENGINE_THREADS)
        assert_true(fault.step > 3);
}

static void a_submission_refused_with_nothing_in_flight_is_tried_again(void **state)
{
    on_each_engine(sync_once, NULL, false);
}

static ssize_t write_nothing(const struct disk_request *request, ssize_t result)
{
    return request->op == DISK_WRITE ? 0 : result;
}

static ssize_t pwritev_nothing(
    int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags)
{
    return 0;
}

static void write_to_a_file_that_takes_nothing(struct fixture *f)
{
    fault.kernel = disk_kernel_real;
    fault.kernel.result = write_nothing;
    fault.kernel.pwritev = pwritev_nothing;
    f->ctx->disk.kernel = &fault.kernel;
    assert_int_equal(co_pwrite(f->fd, "x", 1, 0), -ENOSPC);
    assert_int_equal(co_pwrite(f->fd, "x", 0, 0), 0);
}

static void a_write_that_takes_nothing_is_a_full_disk(void **state)
{
    on_each_engine(write_to_a_file_that_takes_nothing, NULL, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(partial_and_refused_calls_leave_the_content_whole),
        cmocka_unit_test(requests_behind_a_refused_one_all_end),
        cmocka_unit_test(direct_io_in_parts_leaves_the_content_whole),
        cmocka_unit_test(a_submission_refused_with_nothing_in_flight_is_tried_again),
        cmocka_unit_test(a_write_that_takes_nothing_is_a_full_disk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
