/* SPDX-License-Identifier: MIT */
/*
 * How requests get from the calls to the kernel and back: batches, what an error of the kernel's
 * does to the others, nested loops, and no thread to be had.
 */
#include <pthread.h>

#include "tests/unit/runtime/disk_fixture.h"

/* Coroutines that each sync once, which every engine does asynchronously. */
struct syncs {
    struct fixture *f;
    int fd;
    int last_error;
    unsigned n_failed;
    unsigned n_left;
};

static void sync_one(void *opaque)
{
    struct syncs *syncs = opaque;
    int r = co_fdatasync(syncs->fd);

    syncs->n_failed += r < 0;
    if (r < 0)
        syncs->last_error = r;
    syncs->n_left--;
}

static void start_syncs(struct syncs *syncs, unsigned n)
{
    syncs->n_left += n;
    for (unsigned i = 0; i < n; i++)
        coroutine_enter(coroutine_create_full(sync_one, syncs, "sync_one", 64 * 1024));
}

/* ---- what the kernel is handed ---- */

static struct {
    struct disk_kernel kernel;
    unsigned n_calls;
    unsigned n_handed;
    unsigned most_at_once;
    int error;    /* of the first call that hands over more than one */
    bool errored; /* it had it */
} watch;

static int watch_handed(unsigned n)
{
    watch.n_calls++;
    watch.n_handed += n;
    if (n > watch.most_at_once)
        watch.most_at_once = n;
    if (watch.error < 0 && n > 1 && !watch.errored) {
        watch.errored = true;
        return watch.error;
    }
    return 0;
}

static int watch_io_submit(struct io_context *aio, long n, struct iocb **iocbs)
{
    int r = watch_handed((unsigned)n);

    return r < 0 ? r : disk_kernel_real.io_submit(aio, n, iocbs);
}

static int watch_enter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
    void *arg, size_t arg_bytes)
{
    int r = to_submit > 0 ? watch_handed(to_submit) : 0;

    return r < 0 ? r
                 : disk_kernel_real.uring_enter(
                       ring_fd, to_submit, min_complete, flags, arg, arg_bytes);
}

static void watch_submissions(struct fixture *f, int error)
{
    memset(&watch, 0, sizeof watch);
    watch.kernel = disk_kernel_real;
    watch.kernel.io_submit = watch_io_submit;
    watch.kernel.uring_enter = watch_enter;
    watch.error = error;
    f->ctx->disk.kernel = &watch.kernel;
}

static bool has_batches(const struct fixture *f)
{
    return aio_context_engine(f->ctx) != AIO_ENGINE_THREADS;
}

static void submit_in_batches(struct fixture *f)
{
    struct syncs syncs = {.f = f, .fd = f->fd};

    assert_int_equal(aio_context_aio_batch(f->ctx), 20); /* never more than may be in flight */
    aio_context_set_aio_params(f->ctx, 4);
    assert_int_equal(aio_context_aio_batch(f->ctx), 4);
    aio_poll(f->ctx, false); /* the doorbell's poll is on its way */
    watch_submissions(f, 0);
    start_syncs(&syncs, 3);
    assert_int_equal(watch.n_calls, 0);
    start_syncs(&syncs, 6);
    if (has_batches(f)) {
        assert_int_equal(watch.n_calls, 2); /* without a turn of the loop */
        assert_int_equal(watch.n_handed, 8);
        assert_int_equal(watch.most_at_once, 4);
    }
    poll_until_zero(f->ctx, &syncs.n_left);
    assert_int_equal(syncs.n_failed, 0);
    f->ctx->disk.kernel = &disk_kernel_real;
    aio_context_set_aio_params(f->ctx, 0);
    assert_int_equal(aio_context_aio_batch(f->ctx), 20);
}

static void no_more_than_a_batch_gathers(void **state)
{
    on_each_engine(submit_in_batches, &(struct aio_config){.io_depth = 20}, true);
}

struct pipe_read {
    int fd;
    unsigned n_left;
};

static void read_the_pipe(void *opaque)
{
    struct pipe_read *reading = opaque;
    char byte;

    assert_int_equal(co_pread(reading->fd, &byte, 1, 0), 1);
    reading->n_left--;
}

/* io_uring's: a read that nobody answers stands for a disk that takes its time. */
static void submit_while_the_disk_is_slow(struct fixture *f)
{
    struct syncs syncs = {.f = f, .fd = f->fd};
    int fds[2];

    if (aio_context_engine(f->ctx) != AIO_ENGINE_IO_URING)
        return;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct pipe_read reading = {.fd = fds[0], .n_left = 1};
    coroutine_enter(coroutine_create(read_the_pipe, &reading));
    aio_poll(f->ctx, false);
    watch_submissions(f, 0);
    start_syncs(&syncs, 9);
    assert_int_equal(watch.n_calls, 2); /* without a turn of the loop, and below the batch */
    assert_int_equal(watch.most_at_once, 4);
    assert_int_equal(write(fds[1], "", 1), 1);
    poll_until_zero(f->ctx, &syncs.n_left);
    poll_until_zero(f->ctx, &reading.n_left);
    assert_int_equal(syncs.n_failed, 0);
    f->ctx->disk.kernel = &disk_kernel_real;
    close(fds[0]);
    close(fds[1]);
}

static void a_slow_disk_is_handed_a_few_at_a_time(void **state)
{
    on_each_engine(submit_while_the_disk_is_slow, NULL, true);
}

static void fail_a_submission(struct fixture *f)
{
    struct syncs syncs = {.f = f, .fd = f->fd};

    if (aio_context_engine(f->ctx) != AIO_ENGINE_LINUX_AIO)
        return;
    watch_submissions(f, -EBADF);
    start_syncs(&syncs, 10);
    poll_until_zero(f->ctx, &syncs.n_left);
    assert_true(watch.errored);
    assert_int_equal(syncs.n_failed, 1);
    assert_int_equal(syncs.last_error, -EBADF);
    f->ctx->disk.kernel = &disk_kernel_real;
}

static void an_error_of_a_submission_is_the_first_requests_alone(void **state)
{
    on_each_engine(fail_a_submission, NULL, true);
}

/* io_uring's: what it does not take now it takes later. */
static void refuse_a_submission(struct fixture *f)
{
    static const int errors[] = {-EAGAIN, -EBUSY, -ENOMEM};

    if (aio_context_engine(f->ctx) != AIO_ENGINE_IO_URING)
        return;
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        struct syncs syncs = {.f = f, .fd = f->fd};

        watch_submissions(f, errors[i]);
        start_syncs(&syncs, 10);
        poll_until_zero(f->ctx, &syncs.n_left);
        assert_true(watch.errored);
        assert_int_equal(syncs.n_failed, 0);
    }
    f->ctx->disk.kernel = &disk_kernel_real;
}

static void a_ring_without_memory_is_tried_again(void **state)
{
    on_each_engine(refuse_a_submission, NULL, true);
}

/* The kernel's own errors, among others that are right. */
static void fail_some(struct fixture *f)
{
    struct syncs good = {.f = f, .fd = f->fd};
    struct syncs bad = {.f = f, .fd = 1000};

    for (unsigned i = 0; i < 8; i++) {
        start_syncs(&good, 1);
        start_syncs(&bad, 1);
    }
    poll_until_zero(f->ctx, &good.n_left);
    poll_until_zero(f->ctx, &bad.n_left);
    assert_int_equal(good.n_failed, 0);
    assert_int_equal(bad.n_failed, 8);
    assert_int_equal(bad.last_error, -EBADF);
}

static void an_error_strands_no_other_request(void **state)
{
    on_each_engine(fail_some, NULL, true);
}

/* linux-aio's own: no way to sync such a file asynchronously. */
static void refuse_syncs(struct fixture *f)
{
    struct syncs syncs = {.f = f, .fd = f->fd};

    if (aio_context_engine(f->ctx) != AIO_ENGINE_LINUX_AIO)
        return;
    watch_submissions(f, -EINVAL);
    start_syncs(&syncs, 4);
    poll_until_zero(f->ctx, &syncs.n_left);
    assert_true(watch.errored);
    assert_int_equal(syncs.n_failed, 0); /* a worker did it */
    f->ctx->disk.kernel = &disk_kernel_real;
}

static void a_file_system_without_asynchronous_syncs_has_a_worker(void **state)
{
    on_each_engine(refuse_syncs, NULL, true);
}

/* ---- completions ---- */

static void read_once(void *opaque)
{
    struct syncs *syncs = opaque;
    char c;

    assert_int_equal(co_pread(syncs->fd, &c, 1, 0), 1);
    syncs->n_left--;
}

static void end_inside_submit(struct fixture *f)
{
    struct syncs reads = {.f = f, .fd = f->fd, .n_left = 1};
    uint64_t n_switches = f->ctx->instruments.counters->co_switches;
    char c;
    struct iovec iov = {.iov_base = &c, .iov_len = 1};

    if (f->ctx->disk.kernel->preadv(f->fd, &iov, 1, 0, RWF_NOWAIT) != 1) {
        /* Not in memory, or as if; or nobody can tell: qemu-user, tmpfs of old kernels. */
        if (f->ctx->disk.kernel == &disk_kernel_real)
            print_message("no way to read what is in memory alone\n");
        return;
    }
    coroutine_enter(coroutine_create(read_once, &reads));
    assert_int_equal(reads.n_left, 0); /* without a turn of the loop */
    for (int i = 0; i < 3; i++)
        aio_poll(f->ctx, false);
    assert_int_equal(f->ctx->instruments.counters->co_switches, n_switches + 1);
}

static void a_request_that_ends_inside_its_submission_wakes_nobody(void **state)
{
    on_each_engine(end_inside_submit, NULL, true);
}

static struct {
    struct disk_kernel kernel;
    struct disk_request *requests[2];
    ssize_t results[2];
    unsigned n;
} held;

static bool hold_both(AioContext *ctx, struct disk_request *request, ssize_t result)
{
    if (held.n == 2)
        return false;
    held.requests[held.n] = request;
    held.results[held.n++] = result;
    return true;
}

/* Both are completed here, as by one harvest, and waited for in a nested loop. */
static void complete_both_and_wait(void *opaque)
{
    struct syncs *syncs = opaque;

    for (unsigned i = 0; i < 2; i++)
        disk_complete_held(syncs->f->ctx, held.requests[i], held.results[i]);
    poll_until_zero(syncs->f->ctx, &syncs->n_left);
}

static void wait_nested_for_two(struct fixture *f)
{
    struct syncs syncs = {.f = f, .fd = f->fd};
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;

    held.kernel = disk_kernel_real;
    held.kernel.hold = hold_both;
    held.n = 0;
    f->ctx->disk.kernel = &held.kernel;
    start_syncs(&syncs, 2);
    while (held.n < 2 && aio_clock_ns() < deadline_ns)
        aio_poll(f->ctx, true);
    assert_int_equal(held.n, 2);
    assert_int_equal(aio_bh_schedule_oneshot(f->ctx, complete_both_and_wait, &syncs), 0);
    poll_until_zero(f->ctx, &syncs.n_left);
    assert_int_equal(syncs.n_failed, 0);
    f->ctx->disk.kernel = &disk_kernel_real;
}

static void a_nested_loop_goes_on_with_what_was_completed(void **state)
{
    on_each_engine(wait_nested_for_two, NULL, true);
}

static void start_and_wait(void *opaque)
{
    struct syncs *syncs = opaque;

    start_syncs(syncs, 5);
    poll_until_zero(syncs->f->ctx, &syncs->n_left);
    syncs->last_error = 1;
}

static void wait_nested_for_new_ones(struct fixture *f)
{
    struct syncs syncs = {.f = f, .fd = f->fd};

    assert_int_equal(aio_bh_schedule_oneshot(f->ctx, start_and_wait, &syncs), 0);
    while (syncs.last_error == 0)
        aio_poll(f->ctx, true);
    assert_int_equal(syncs.n_failed, 0);
}

static void a_nested_loop_submits_what_has_gathered(void **state)
{
    on_each_engine(wait_nested_for_new_ones, NULL, true);
}

/* ---- no thread to be had ---- */

static void open_file(struct fixture *f)
{
    struct open_how how = {.flags = O_RDONLY | O_CLOEXEC};
    int fd = co_openat2(AT_FDCWD, f->path, &how);

    if (aio_context_engine(f->ctx) == AIO_ENGINE_IO_URING) {
        assert_true(fd >= 0); /* the ring needs no thread of ours */
        close(fd);
    } else {
        assert_int_equal(fd, -EAGAIN);
    }
}

/* New threads of this process shall have a stack that no address space has room for. */
static void make_threads_impossible(size_t stack_bytes)
{
    pthread_attr_t attr;

    assert_int_equal(pthread_getattr_default_np(&attr), 0);
    assert_int_equal(pthread_attr_setstacksize(&attr, stack_bytes), 0);
    assert_int_equal(pthread_setattr_default_np(&attr), 0);
    pthread_attr_destroy(&attr);
}

static void an_open_without_a_thread_is_an_error_and_not_waited_for(void **state)
{
    pthread_attr_t usual;
    size_t stack_bytes;

    if (!has_openat2())
        skip();
    assert_int_equal(pthread_getattr_default_np(&usual), 0);
    assert_int_equal(pthread_attr_getstacksize(&usual, &stack_bytes), 0);
    make_threads_impossible((size_t)1 << 47);
    on_each_engine(open_file, NULL, false);
    make_threads_impossible(stack_bytes);
    pthread_attr_destroy(&usual);
}

/* io_uring's word for a worker that the kernel could not make. */
static ssize_t cancelled_unasked(const struct disk_request *request, ssize_t result)
{
    if (request->op != DISK_FDATASYNC)
        return result;
    watch.n_calls++;
    return -ECANCELED;
}

static void have_the_ring_give_up(struct fixture *f)
{
    struct syncs syncs = {.f = f, .fd = f->fd};

    if (aio_context_engine(f->ctx) != AIO_ENGINE_IO_URING)
        return;
    watch_submissions(f, 0);
    watch.kernel.result = cancelled_unasked;
    start_syncs(&syncs, 3);
    poll_until_zero(f->ctx, &syncs.n_left);
    assert_true(watch.n_calls >= 3);
    assert_int_equal(syncs.n_failed, 0);
    f->ctx->disk.kernel = &disk_kernel_real;
}

static void what_the_ring_cancels_unasked_has_a_worker(void **state)
{
    on_each_engine(have_the_ring_give_up, NULL, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_more_than_a_batch_gathers),
        cmocka_unit_test(a_slow_disk_is_handed_a_few_at_a_time),
        cmocka_unit_test(an_error_of_a_submission_is_the_first_requests_alone),
        cmocka_unit_test(a_ring_without_memory_is_tried_again),
        cmocka_unit_test(an_error_strands_no_other_request),
        cmocka_unit_test(a_file_system_without_asynchronous_syncs_has_a_worker),
        cmocka_unit_test(a_request_that_ends_inside_its_submission_wakes_nobody),
        cmocka_unit_test(a_nested_loop_goes_on_with_what_was_completed),
        cmocka_unit_test(a_nested_loop_submits_what_has_gathered),
        cmocka_unit_test(an_open_without_a_thread_is_an_error_and_not_waited_for),
        cmocka_unit_test(what_the_ring_cancels_unasked_has_a_worker),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
