/* SPDX-License-Identifier: MIT */
#include "runtime/co_cancel.h"

#include <sys/stat.h>

#include "tests/unit/runtime/disk_fixture.h"

#define MS_NS ((int64_t)1000 * 1000)

/* A coroutine with one disk call in a scope. */
struct call {
    struct fixture *f;
    CoCancel *token;
    int64_t deadline_ns;
    int fd;           /* to read */
    const char *path; /* to open */
    char buf[64];
    ssize_t result;
    unsigned *n_left;
};

static void sync_in_scope(void *opaque)
{
    struct call *call = opaque;
    CoScope scope;

    co_scope_begin(&scope, call->token, call->deadline_ns);
    call->result = co_fdatasync(call->f->fd);
    co_scope_end(&scope);
    --*call->n_left;
}

static void open_in_scope(void *opaque)
{
    struct call *call = opaque;
    struct open_how how = {.flags = O_RDONLY | O_CLOEXEC};
    CoScope scope;

    co_scope_begin(&scope, call->token, call->deadline_ns);
    call->result = co_openat2(AT_FDCWD, call->path, &how);
    co_scope_end(&scope);
    --*call->n_left;
}

static void read_in_scope(void *opaque)
{
    struct call *call = opaque;
    CoScope scope;

    co_scope_begin(&scope, NULL, call->deadline_ns);
    call->result = co_pread(call->fd, call->buf, sizeof call->buf, 0);
    co_scope_end(&scope);
    --*call->n_left;
}

static void start(CoroutineEntry *entry, struct call *call)
{
    Coroutine *co = coroutine_create(entry, call);

    assert_non_null(co);
    coroutine_enter(co);
}

/* ---- held back in the kernel ---- */

static struct {
    struct disk_kernel kernel;
    struct disk_request *request;
    ssize_t result;
} held;

static bool hold_first(AioContext *ctx, struct disk_request *request, ssize_t result)
{
    if (held.request)
        return false;
    held.request = request;
    held.result = result;
    return true;
}

static void hold_one(struct fixture *f)
{
    held.kernel = disk_kernel_real;
    held.kernel.hold = hold_first;
    held.request = NULL;
    f->ctx->disk.kernel = &held.kernel;
}

static void poll_until_held(struct fixture *f)
{
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;

    while (!held.request && aio_clock_ns() < deadline_ns)
        aio_poll(f->ctx, true);
    assert_non_null(held.request);
}

static void let_go(struct fixture *f)
{
    disk_complete_held(f->ctx, held.request, held.result);
    f->ctx->disk.kernel = &disk_kernel_real;
}

static void cancel_one_that_waits_for_a_place(struct fixture *f)
{
    CoCancel token;
    unsigned n_left = 3;
    struct call first = {.f = f, .deadline_ns = CO_NO_DEADLINE, .n_left = &n_left};
    struct call told = {.f = f, .deadline_ns = CO_NO_DEADLINE, .n_left = &n_left, .token = &token};
    struct call late = {.f = f, .deadline_ns = aio_clock_ns() + 2 * MS_NS, .n_left = &n_left};

    co_cancel_init(&token);
    hold_one(f);
    start(sync_in_scope, &first); /* has the only place, until the test says so */
    poll_until_held(f);
    start(sync_in_scope, &told);
    start(sync_in_scope, &late);
    co_cancel(&token);
    while (n_left > 1)
        aio_poll(f->ctx, true);
    assert_int_equal(told.result, -ECANCELED);
    assert_int_equal(late.result, -ETIMEDOUT);
    assert_int_equal(f->ctx->disk.n_in_flight, 1);
    let_go(f);
    poll_until_zero(f->ctx, &n_left);
    assert_int_equal(first.result, 0);
    co_cancel_deinit(&token);
}

static void a_request_that_waits_for_a_place_ends_with_its_scope(void **state)
{
    on_each_engine(cancel_one_that_waits_for_a_place, &(struct aio_config){.io_depth = 1}, true);
}

static void cancel_what_the_kernel_has_done(struct fixture *f)
{
    CoCancel token;
    unsigned n_left = 1;
    struct call call = {.f = f, .deadline_ns = CO_NO_DEADLINE, .n_left = &n_left, .token = &token};

    co_cancel_init(&token);
    hold_one(f);
    start(sync_in_scope, &call);
    poll_until_held(f);
    co_cancel(&token);
    for (int i = 0; i < 20; i++)
        aio_poll(f->ctx, false);
    assert_int_equal(n_left, 1); /* the kernel may still use its buffer, for all we know */
    let_go(f);
    poll_until_zero(f->ctx, &n_left);
    assert_int_equal(call.result, 0); /* and what it did is not denied */
    co_cancel_deinit(&token);
}

static void a_call_returns_only_when_the_kernel_is_done(void **state)
{
    on_each_engine(cancel_what_the_kernel_has_done, NULL, true);
}

/* ---- under way ---- */

/* A read of an empty pipe is the one that waits for sure; io_uring does it. */
static void cancel_a_read_in_the_ring(struct fixture *f)
{
    unsigned n_left = 1;
    int fds[2];
    struct call call = {.f = f, .deadline_ns = aio_clock_ns() + 3 * MS_NS, .n_left = &n_left};

    if (aio_context_engine(f->ctx) != AIO_ENGINE_IO_URING)
        return;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    call.fd = fds[0];
    start(read_in_scope, &call);
    poll_until_zero(f->ctx, &n_left);
    assert_int_equal(call.result, -ETIMEDOUT);
    assert_int_equal(write(fds[1], "x", 1), 1);
    char c;
    assert_int_equal(read(fds[0], &c, 1), 1); /* which nobody has taken */
    close(fds[0]);
    close(fds[1]);
}

static void a_read_in_the_ring_is_cancelled(void **state)
{
    on_each_engine(cancel_a_read_in_the_ring, NULL, true);
}

static void make_fifo(struct fixture *f, char path[PATH_MAX])
{
    snprintf(path, PATH_MAX, "%.4000s.fifo", f->path);
    assert_int_equal(mkfifo(path, 0600), 0);
}

static bool open_has_begun; /* atomic */

static int open_noted(int dirfd, const char *path, const struct open_how *how)
{
    atomic_store_release(&open_has_begun, true);
    return disk_kernel_real.openat2(dirfd, path, how);
}

/* Until a FIFO has a writer. (io_uring opens its end without one.) */
static void cancel_what_a_worker_does(struct fixture *f)
{
    char path[PATH_MAX];
    struct disk_kernel kernel = disk_kernel_real;
    CoCancel token;
    unsigned n_left = 1;
    struct call call = {.f = f, .deadline_ns = CO_NO_DEADLINE, .n_left = &n_left, .token = &token};
    int fd;

    if (aio_context_engine(f->ctx) == AIO_ENGINE_IO_URING)
        return;
    co_cancel_init(&token);
    make_fifo(f, path);
    call.path = path;
    kernel.openat2 = open_noted;
    f->ctx->disk.kernel = &kernel;
    open_has_begun = false;
    start(open_in_scope, &call);
    while (!atomic_load_acquire(&open_has_begun))
        aio_poll(f->ctx, false);
    co_cancel(&token);
    do {
        aio_poll(f->ctx, false);
        fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK); /* ENXIO: nobody has got there */
    } while (fd < 0 && n_left > 0);
    poll_until_zero(f->ctx, &n_left);
    assert_true(call.result >= 0);
    close((int)call.result);
    close(fd);
    unlink(path);
    f->ctx->disk.kernel = &disk_kernel_real;
    co_cancel_deinit(&token);
}

static void what_a_worker_does_ends_by_itself(void **state)
{
    if (!has_openat2())
        skip();
    on_each_engine(cancel_what_a_worker_does, NULL, true);
}

/* With one worker, which waits for a FIFO's other end. */
static void cancel_what_no_worker_has_begun(struct fixture *f)
{
    char path[PATH_MAX];
    unsigned n_left = 2;
    struct call first = {.f = f, .deadline_ns = CO_NO_DEADLINE, .n_left = &n_left};
    struct call second = {.f = f, .deadline_ns = aio_clock_ns() + 3 * MS_NS, .n_left = &n_left};

    if (aio_context_engine(f->ctx) == AIO_ENGINE_IO_URING)
        return;
    make_fifo(f, path);
    first.path = second.path = path;
    start(open_in_scope, &first);
    start(open_in_scope, &second);
    while (n_left > 1)
        aio_poll(f->ctx, true);
    assert_int_equal(second.result, -ETIMEDOUT);
    int fd;
    do
        fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
    while (fd < 0 && errno == ENXIO);
    poll_until_zero(f->ctx, &n_left);
    assert_true(first.result >= 0);
    close((int)first.result);
    close(fd);
    unlink(path);
}

static void what_no_worker_has_begun_is_taken_back(void **state)
{
    if (!has_openat2())
        skip();
    on_each_engine(cancel_what_no_worker_has_begun, &(struct aio_config){.max_threads = 1}, true);
}

/* ---- queued in the engine ---- */

static bool kernel_refuses;

static int refuse_io_submit(struct io_context *aio, long n, struct iocb **iocbs)
{
    return kernel_refuses ? -EAGAIN : disk_kernel_real.io_submit(aio, n, iocbs);
}

static int refuse_enter(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
    void *arg, size_t arg_bytes)
{
    if (kernel_refuses && to_submit > 0)
        return -EAGAIN;
    return disk_kernel_real.uring_enter(ring_fd, to_submit, min_complete, flags, arg, arg_bytes);
}

/* More than the ring has entries for, so that the last are queued beyond it. */
static void cancel_what_the_kernel_does_not_take(struct fixture *f)
{
    enum { N = 300 };
    struct disk_kernel kernel = disk_kernel_real;
    struct call *calls = calloc(N, sizeof *calls);
    CoCancel token;
    unsigned n_left = N;
    unsigned n_cancelled = 0;

    if (aio_context_engine(f->ctx) == AIO_ENGINE_THREADS) {
        free(calls);
        return;
    }
    co_cancel_init(&token);
    kernel.io_submit = refuse_io_submit;
    kernel.uring_enter = refuse_enter;
    kernel_refuses = true;
    f->ctx->disk.kernel = &kernel;
    for (unsigned i = 0; i < N; i++) {
        calls[i] = (struct call){
            .f = f, .deadline_ns = CO_NO_DEADLINE, .n_left = &n_left, .token = &token};
        start(sync_in_scope, &calls[i]);
    }
    aio_poll(f->ctx, false);
    assert_int_equal(n_left, N);
    co_cancel(&token);
    aio_poll(f->ctx, false);
    kernel_refuses = false;
    poll_until_zero(f->ctx, &n_left);
    for (unsigned i = 0; i < N; i++) {
        assert_true(calls[i].result == -ECANCELED || calls[i].result == 0);
        n_cancelled += calls[i].result == -ECANCELED;
    }
    /* linux-aio's were all queued here; of the ring's, those that found no entry. */
    assert_true(n_cancelled >= (aio_context_engine(f->ctx) == AIO_ENGINE_LINUX_AIO ? N : N - 256));
    f->ctx->disk.kernel = &disk_kernel_real;
    co_cancel_deinit(&token);
    free(calls);
}

static void what_the_kernel_does_not_take_is_taken_back(void **state)
{
    on_each_engine(
        cancel_what_the_kernel_does_not_take, &(struct aio_config){.io_depth = 512}, true);
}

/* ---- what a scope has no power over ---- */

static void close_in_scope_that_is_over(struct fixture *f)
{
    int fd = dup(f->fd);
    CoCancel token;
    CoScope scope;
    char c;

    co_cancel_init(&token);
    co_cancel(&token);
    co_scope_begin(&scope, &token, CO_NO_DEADLINE);
    assert_int_equal(co_close(fd), 0);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    ssize_t n = co_pread(f->fd, &c, 1, 0);
    assert_true(n == 1 || n == -ECANCELED); /* only waiting ends */
    co_scope_end(&scope);
    co_cancel_deinit(&token);
    assert_int_equal(co_pread(f->fd, &c, 1, 0), 1);
}

static void a_close_is_done_also_in_a_scope_that_is_over(void **state)
{
    on_each_engine(close_in_scope_that_is_over, NULL, false);
}

static ssize_t always_again(const struct disk_request *request, ssize_t result)
{
    return -EAGAIN;
}

static int io_submit_again(struct io_context *aio, long n, struct iocb **iocbs)
{
    return -EAGAIN;
}

static ssize_t preadv_again(int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags)
{
    return -EAGAIN;
}

static void end_retries(struct fixture *f)
{
    struct disk_kernel kernel = disk_kernel_real;
    unsigned n_left = 1;
    struct call call = {.f = f, .deadline_ns = aio_clock_ns() + 3 * MS_NS, .n_left = &n_left};

    call.fd = f->fd;
    kernel.result = always_again;
    kernel.preadv = preadv_again;
    kernel.io_submit = io_submit_again;
    f->ctx->disk.kernel = &kernel;
    start(read_in_scope, &call);
    poll_until_zero(f->ctx, &n_left);
    assert_int_equal(call.result, -ETIMEDOUT);
    f->ctx->disk.kernel = &disk_kernel_real;
}

static void what_the_kernel_puts_off_for_ever_ends_with_its_scope(void **state)
{
    on_each_engine(end_retries, NULL, true);
}

/* ---- the queue that requests leave early ---- */

#define N_QUEUED 12

static unsigned check_queue(const struct disk_queue *queue, struct disk_request *const *expected)
{
    unsigned n = 0;

    for (struct disk_request *r = queue->first; r; r = r->next)
        assert_ptr_equal(r, expected[n++]);
    return n;
}

static void who_leaves_a_queue_changes_nobodys_order(void **state)
{
    static struct disk_request requests[N_QUEUED];
    struct disk_request *in[N_QUEUED], *out[N_QUEUED];
    struct disk_queue queue = {NULL, NULL};
    unsigned n_in = 0, n_out = N_QUEUED, seed = 11;

    for (unsigned i = 0; i < N_QUEUED; i++)
        out[i] = &requests[i];
    for (int step = 0; step < 5000; step++) {
        unsigned at = 0;

        if (n_out > 0 && rand_r(&seed) % 2) {
            in[n_in++] = out[--n_out];
            disk_queue_push_leavable(&queue, in[n_in - 1]);
        } else if (n_in > 0) {
            if (rand_r(&seed) % 3 == 0) {
                assert_ptr_equal(disk_queue_pop(&queue), in[0]);
            } else {
                at = (unsigned)rand_r(&seed) % n_in;
                disk_queue_remove(&queue, in[at]);
            }
            out[n_out++] = in[at];
            memmove(&in[at], &in[at + 1], (--n_in - at) * sizeof *in);
        }
        assert_int_equal(check_queue(&queue, in), n_in);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_that_waits_for_a_place_ends_with_its_scope),
        cmocka_unit_test(a_call_returns_only_when_the_kernel_is_done),
        cmocka_unit_test(a_read_in_the_ring_is_cancelled),
        cmocka_unit_test(what_a_worker_does_ends_by_itself),
        cmocka_unit_test(what_no_worker_has_begun_is_taken_back),
        cmocka_unit_test(what_the_kernel_does_not_take_is_taken_back),
        cmocka_unit_test(who_leaves_a_queue_changes_nobodys_order),
        cmocka_unit_test(a_close_is_done_also_in_a_scope_that_is_over),
        cmocka_unit_test(what_the_kernel_puts_off_for_ever_ends_with_its_scope),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
