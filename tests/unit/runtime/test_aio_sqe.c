/* SPDX-License-Identifier: MIT */
#include "runtime/aio_sqe.h"

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "runtime/co_cancel.h"
#include "runtime/disk_kernel.h"
#include "tests/unit/runtime/death.h"
#include "tests/unit/runtime/loop_fixture.h"

/* A handler that writes down what comes. */
struct noted {
    AioCqeHandler handler;
    unsigned n_calls;
    int32_t result;
    uint32_t flags;
};

static void note(AioCqeHandler *handler, int32_t result, uint32_t cqe_flags)
{
    struct noted *noted = (struct noted *)handler;

    noted->n_calls++;
    noted->result = result;
    noted->flags = cqe_flags;
}

static void prep_nop(struct io_uring_sqe *sqe, void *opaque)
{
    io_uring_prep_nop(sqe);
}

static void prep_poll(struct io_uring_sqe *sqe, void *opaque)
{
    io_uring_prep_poll_add(sqe, *(int *)opaque, POLLIN);
}

static void prep_multishot_poll(struct io_uring_sqe *sqe, void *opaque)
{
    io_uring_prep_poll_multishot(sqe, *(int *)opaque, POLLIN);
}

static void poll_until_called(struct loop *loop, const struct noted *noted, unsigned n_calls)
{
    int64_t deadline_ns = aio_clock_ns() + LOOP_DEADLINE_NS;

    while (noted->n_calls < n_calls && aio_clock_ns() < deadline_ns)
        aio_poll(loop->ctx, true);
    assert_int_equal(noted->n_calls, n_calls);
}

static bool has_ring(const struct loop *loop)
{
    return loop->engine == AIO_ENGINE_IO_URING;
}

/* ---- what is promised ---- */

static void a_context_without_a_ring_says_so(void **state)
{
    struct loop *loop = *state;
    struct noted noted = {.handler.cb = note};

    assert_int_equal(aio_has_io_uring(), has_ring(loop));
    if (has_ring(loop))
        return;
    assert_int_equal(aio_add_sqe(prep_nop, NULL, &noted.handler), -ENOTSUP);
    assert_int_equal(noted.n_calls, 0);
}

static void a_handler_gets_the_kernels_result(void **state)
{
    struct loop *loop = *state;
    struct noted good = {.handler.cb = note}, bad = {.handler.cb = note};
    int no_fd = -1;

    if (!has_ring(loop))
        skip();
    assert_int_equal(aio_add_sqe(prep_nop, NULL, &good.handler), 0);
    assert_int_equal(aio_add_sqe(prep_poll, &no_fd, &bad.handler), 0);
    assert_int_equal(good.n_calls, 0);
    poll_until_called(loop, &good, 1);
    poll_until_called(loop, &bad, 1);
    assert_int_equal(good.result, 0);
    assert_int_equal(bad.result, -EBADF);
}

static void prep_linked(struct io_uring_sqe *sqe, void *opaque)
{
    io_uring_prep_nop(sqe);
    sqe->flags |= *(unsigned *)opaque;
}

static void entries_that_would_touch_others_are_refused(void **state)
{
    struct loop *loop = *state;
    unsigned flags[] = {IOSQE_IO_LINK, IOSQE_IO_HARDLINK, IOSQE_IO_DRAIN, IOSQE_CQE_SKIP_SUCCESS};
    struct noted noted = {.handler.cb = note};

    if (!has_ring(loop))
        skip();
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        assert_int_equal(aio_add_sqe(prep_linked, &flags[i], &noted.handler), -EINVAL);
    assert_int_equal(aio_add_sqe(prep_nop, NULL, &noted.handler), 0);
    poll_until_called(loop, &noted, 1);
    assert_int_equal(noted.result, 0);
}

static void far_more_entries_than_either_queue_holds_all_complete(void **state)
{
    enum { N = 5000 };
    struct loop *loop = *state;
    struct noted *noted = calloc(N, sizeof *noted);
    int64_t deadline_ns = aio_clock_ns() + LOOP_DEADLINE_NS;

    if (!has_ring(loop)) {
        free(noted);
        skip();
    }
    for (unsigned i = 0; i < N; i++) {
        noted[i].handler.cb = note;
        assert_int_equal(aio_add_sqe(prep_nop, NULL, &noted[i].handler), 0);
    }
    for (unsigned i = 0; i < N;) { /* without waiting, which would fetch the kernel's backlog */
        assert_true(aio_clock_ns() < deadline_ns);
        aio_poll(loop->ctx, false);
        while (i < N && noted[i].n_calls == 1)
            i++;
    }
    aio_poll(loop->ctx, false);
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(noted[i].n_calls, 1);
        assert_int_equal(noted[i].result, 0);
    }
    free(noted);
}

static bool kernel_refuses;

static int refuse_to_submit(int ring_fd, unsigned to_submit, unsigned min_complete, unsigned flags,
    void *arg, size_t arg_bytes)
{
    if (kernel_refuses && to_submit > 0)
        return -EAGAIN;
    return disk_kernel_real.uring_enter(ring_fd, to_submit, min_complete, flags, arg, arg_bytes);
}

static void append_order(AioCqeHandler *handler, int32_t result, uint32_t cqe_flags)
{
    static unsigned n_before;

    ((struct noted *)handler)->n_calls = ++n_before;
}

static void entries_beyond_a_full_queue_wait_their_turn(void **state)
{
    enum { N = 700 };
    struct loop *loop = *state;
    struct disk_kernel kernel = disk_kernel_real;
    struct noted *noted = calloc(N, sizeof *noted);
    struct noted last = {.handler.cb = note};

    if (!has_ring(loop)) {
        free(noted);
        skip();
    }
    kernel.uring_enter = refuse_to_submit;
    loop->ctx->disk.kernel = &kernel;
    kernel_refuses = true;
    for (unsigned i = 0; i < N; i++) {
        noted[i].handler.cb = append_order;
        assert_int_equal(aio_add_sqe(prep_nop, NULL, &noted[i].handler), 0);
    }
    aio_poll(loop->ctx, false);
    assert_int_equal(noted[0].n_calls, 0);
    kernel_refuses = false;
    assert_int_equal(aio_add_sqe(prep_nop, NULL, &last.handler), 0);
    poll_until_called(loop, &last, 1);
    for (unsigned i = 1; i < N; i++)
        assert_int_equal(noted[i].n_calls, noted[0].n_calls + i);
    loop->ctx->disk.kernel = &disk_kernel_real;
    free(noted);
}

static void each_completion_of_a_multishot_is_a_call(void **state)
{
    struct loop *loop = *state;
    struct noted noted = {.handler.cb = note};
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    if (has_ring(loop)) {
        assert_int_equal(aio_add_sqe(prep_multishot_poll, &fd, &noted.handler), 0);
        for (unsigned i = 1; i <= 3; i++) {
            assert_int_equal(eventfd_write(fd, 1), 0);
            poll_until_called(loop, &noted, i);
            assert_true(noted.flags & IORING_CQE_F_MORE);
            assert_true(noted.result & POLLIN);
        }
        aio_cancel_sqe(&noted.handler);
        poll_until_called(loop, &noted, 4);
        assert_false(noted.flags & IORING_CQE_F_MORE);
        assert_int_equal(noted.result, -ECANCELED);
    }
    close(fd);
}

static void an_entry_is_cancelled_wherever_it_is(void **state)
{
    enum { N = 300 };
    struct loop *loop = *state;
    struct disk_kernel kernel = disk_kernel_real;
    struct noted *noted = calloc(N, sizeof *noted);
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    kernel.uring_enter = refuse_to_submit;
    kernel_refuses = true;
    if (has_ring(loop)) {
        loop->ctx->disk.kernel = &kernel;
        for (unsigned i = 0; i < N; i++) { /* some beyond the end of the queue */
            noted[i].handler.cb = note;
            assert_int_equal(aio_add_sqe(prep_poll, &fd, &noted[i].handler), 0);
        }
        for (unsigned i = 0; i < N; i++)
            aio_cancel_sqe(&noted[i].handler);
        aio_cancel_sqe(&noted[0].handler); /* once more does no harm */
        kernel_refuses = false;
        for (unsigned i = 0; i < N; i++) {
            poll_until_called(loop, &noted[i], 1);
            assert_int_equal(noted[i].result, -ECANCELED);
        }
        loop->ctx->disk.kernel = &disk_kernel_real;
    }
    close(fd);
    free(noted);
}

/* ---- nested loops ---- */

struct nesting {
    AioCqeHandler handler;
    struct loop *loop;
    struct noted *other;
};

static void wait_for_other(AioCqeHandler *handler, int32_t result, uint32_t cqe_flags)
{
    struct nesting *nesting = (struct nesting *)handler;

    poll_until_called(nesting->loop, nesting->other, 1);
    nesting->loop = NULL;
}

static void a_callback_may_wait_for_a_completion_harvested_with_its_own(void **state)
{
    struct loop *loop = *state;
    struct noted other = {.handler.cb = note};
    struct nesting nesting = {.handler.cb = wait_for_other, .loop = loop, .other = &other};

    if (!has_ring(loop))
        skip();
    assert_int_equal(aio_add_sqe(prep_nop, NULL, &nesting.handler), 0);
    assert_int_equal(aio_add_sqe(prep_nop, NULL, &other.handler), 0);
    while (nesting.loop)
        aio_poll(loop->ctx, true);
    assert_int_equal(other.n_calls, 1);
}

struct chain {
    AioCqeHandler handler;
    unsigned n_left;
    AioContext *ctx;
    bool done;
};

static void add_again(AioCqeHandler *handler, int32_t result, uint32_t cqe_flags)
{
    struct chain *chain = (struct chain *)handler;

    chain->done = --chain->n_left == 0;
    if (!chain->done)
        assert_int_equal(aio_add_sqe(prep_nop, NULL, handler), 0);
}

static void a_handler_may_be_used_again_by_its_callback(void **state)
{
    struct loop *loop = *state;
    struct chain chain = {.handler.cb = add_again, .n_left = 1000};

    if (!has_ring(loop))
        skip();
    assert_int_equal(aio_add_sqe(prep_nop, NULL, &chain.handler), 0);
    loop_until(loop, &chain.done);
}

/* ---- coroutines ---- */

struct op_call {
    int fd;
    CoCancel *token;
    int64_t deadline_ns;
    int result;
    uint32_t flags;
    bool done;
};

static void wait_for_fd(void *opaque)
{
    struct op_call *call = opaque;

    call->result = co_uring_op(prep_poll, &call->fd, &call->flags);
    call->done = true;
}

static void a_coroutine_waits_for_its_operation(void **state)
{
    struct loop *loop = *state;
    struct op_call call = {.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};

    coroutine_enter(coroutine_create(wait_for_fd, &call));
    if (has_ring(loop)) {
        aio_poll(loop->ctx, false);
        assert_false(call.done);
        assert_int_equal(eventfd_write(call.fd, 1), 0);
        loop_until(loop, &call.done);
        assert_int_equal(call.result, POLLIN);
    } else {
        assert_true(call.done);
        assert_int_equal(call.result, -ENOTSUP);
    }
    close(call.fd);
}

static void wait_for_fd_in_scope(void *opaque)
{
    struct op_call *call = opaque;
    CoScope scope;

    co_scope_begin(&scope, call->token, call->deadline_ns);
    call->result = co_uring_op(prep_poll, &call->fd, &call->flags);
    co_scope_end(&scope);
    call->done = true;
}

static void an_operation_ends_with_its_scope(void **state)
{
    struct loop *loop = *state;
    CoCancel token;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct op_call late = {.fd = fd, .deadline_ns = aio_clock_ns() + 3 * LOOP_MS};
    struct op_call told = {.fd = fd, .deadline_ns = CO_NO_DEADLINE, .token = &token};

    co_cancel_init(&token);
    if (has_ring(loop)) {
        coroutine_enter(coroutine_create(wait_for_fd_in_scope, &late));
        coroutine_enter(coroutine_create(wait_for_fd_in_scope, &told));
        loop_until(loop, &late.done);
        assert_int_equal(late.result, -ETIMEDOUT);
        assert_false(told.done);
        co_cancel(&token);
        loop_until(loop, &told.done);
        assert_int_equal(told.result, -ECANCELED);
    }
    co_cancel_deinit(&token);
    close(fd);
}

/* ---- the end ---- */

static void free_with_entry_under_way(void)
{
    AioContext *ctx = new_context(AIO_ENGINE_IO_URING);
    static struct noted noted = {.handler.cb = note};

    aio_context_set_current(NULL);
    aio_context_set_current(ctx);
    aio_add_sqe(prep_nop, NULL, &noted.handler);
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
}

static void a_context_that_ends_before_an_entry_aborts(void **state)
{
    struct loop *loop = *state;

    if (!has_ring(loop))
        skip();
    assert_bug(free_with_entry_under_way, "aio_add_sqe");
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        LOOP_CASE(a_context_without_a_ring_says_so),
        LOOP_CASE(a_handler_gets_the_kernels_result),
        LOOP_CASE(entries_that_would_touch_others_are_refused),
        LOOP_CASE(far_more_entries_than_either_queue_holds_all_complete),
        LOOP_CASE(entries_beyond_a_full_queue_wait_their_turn),
        LOOP_CASE(each_completion_of_a_multishot_is_a_call),
        LOOP_CASE(an_entry_is_cancelled_wherever_it_is),
        LOOP_CASE(a_callback_may_wait_for_a_completion_harvested_with_its_own),
        LOOP_CASE(a_handler_may_be_used_again_by_its_callback),
        LOOP_CASE(a_coroutine_waits_for_its_operation),
        LOOP_CASE(an_operation_ends_with_its_scope),
        LOOP_CASE(a_context_that_ends_before_an_entry_aborts),
    };

    return LOOP_RUN(cases);
}
