/* SPDX-License-Identifier: MIT */
/*
 * What goes through a CoFd: bytes, more than fit at once, without end, or none though it is ready.
 */
#include "tests/unit/runtime/co_fd_fixture.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/eventfd.h>

static ssize_t coroutine_fn do_read_all(struct co_task *task)
{
    return co_read_all(task->f, task->buf, task->len);
}

/* ---- bytes ---- */

static void a_pipe_carries_more_than_it_holds(void **state)
{
    enum { BYTES = 1 << 20 };
    struct loop *loop = *state;
    uint8_t *sent = malloc(BYTES);
    uint8_t *got = malloc(BYTES + 1);
    CoFd from;
    CoFd to;
    int fds[2];

    fill_pattern(sent, BYTES, 1);
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(co_fd_init(&from, fds[0]), 0);
    assert_int_equal(co_fd_init(&to, fds[1]), 0);
    assert_true(fcntl(fds[0], F_GETFL) & O_NONBLOCK);
    struct co_task reader = {.call = do_read_all, .f = &from, .buf = got, .len = BYTES + 1};
    struct co_task writer = {.call = do_write_all, .f = &to, .buf = sent, .len = BYTES};

    co_task_start(&reader);
    co_task_start(&writer);
    assert_int_equal(co_task_finish(loop, &writer), BYTES);
    assert_false(reader.done);
    co_fd_close(&to);
    assert_int_equal(co_task_finish(loop, &reader), BYTES);
    assert_memory_equal(sent, got, BYTES);
    co_fd_close(&from);
    free(sent);
    free(got);
}

static void a_write_that_nobody_reads_is_an_error(void **state)
{
    struct loop *loop = *state;
    sighandler_t old = signal(SIGPIPE, SIG_IGN);
    CoFd to;
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(co_fd_init(&to, fds[1]), 0);
    fill(fds[1]);
    struct co_task writer = {.call = do_write_all, .f = &to, .buf = "x", .len = 1};

    co_task_start(&writer);
    co_task_settle(loop);
    assert_false(writer.done);
    close(fds[0]);
    assert_int_equal(co_task_finish(loop, &writer), -EPIPE);
    co_fd_close(&to);
    signal(SIGPIPE, old);
}

/* ---- what never runs dry ---- */

static ssize_t coroutine_fn write_for_ever(struct co_task *task)
{
    static const uint64_t one = 1;
    ssize_t n;

    do {
        n = co_write(task->f, &one, sizeof one);
        (*(int *)task->buf)++;
    } while (n > 0 && *(int *)task->buf < 1000000);
    return n;
}

static void an_fd_that_takes_everything_lets_others_run(void **state)
{
    struct loop *loop = *state;
    CoCancel token;
    CoFd f;
    int n_writes = 0;
    bool others_ran = false;

    co_cancel_init(&token);
    assert_int_equal(co_fd_init(&f, eventfd(0, EFD_CLOEXEC)), 0);
    assert_int_equal(aio_bh_schedule_oneshot(loop->ctx, set_flag, &others_ran), 0);
    struct co_task writer = {.call = write_for_ever, .f = &f, .buf = &n_writes, .token = &token};

    co_task_start(&writer);
    assert_in_range(n_writes, 2, 1000);
    loop_until(loop, &others_ran);
    co_cancel(&token);
    assert_int_equal(co_task_finish(loop, &writer), -ECANCELED);
    co_fd_close(&f);
    co_cancel_deinit(&token);
}

static void closing_reaches_one_that_lets_others_run(void **state)
{
    struct loop *loop = *state;
    CoFd *f = malloc(sizeof *f);
    int n_writes = 0;

    assert_int_equal(co_fd_init(f, eventfd(0, EFD_CLOEXEC)), 0);
    struct co_task writer = {.call = write_for_ever, .f = f, .buf = &n_writes};

    co_task_start(&writer);
    co_fd_close(f);
    free(f);
    assert_int_equal(co_task_finish(loop, &writer), -EBADF);
}

/* ---- what is ready and yet says EAGAIN ---- */

struct refusal {
    int n_calls;
    int n_left; /* before it takes one */
    bool empties;
};

static ssize_t call_refused(int fd, void *opaque)
{
    struct refusal *refusal = opaque;

    refusal->n_calls++;
    if (refusal->empties)
        drain(fd);
    return refusal->n_left-- > 0 ? -EAGAIN : 1;
}

static ssize_t coroutine_fn do_call_refused(struct co_task *task)
{
    return co_fd_call(task->f, task->event, call_refused, task->buf);
}

static void what_is_ready_and_refuses_is_tried_after_longer_and_longer_pauses(void **state)
{
    struct loop *loop = *state;
    struct refusal refusal = {.n_left = 5};
    struct pair pair;

    pair_open(&pair);
    struct co_task task = {
        .call = do_call_refused, .f = &pair.f, .event = POLLOUT, .buf = &refusal};
    int64_t before_ns = aio_clock_ns();

    assert_int_equal(co_task_do(loop, task), 1);
    assert_int_equal(refusal.n_calls, 6);
    assert_true(aio_clock_ns() - before_ns >= (1 + 2 + 4 + 8) * LOOP_MS);

    refusal.n_left = INT_MAX;
    co_task_start(&task);
    while (refusal.n_calls < 10)
        aio_poll(loop->ctx, true);
    pair_close(&pair);
    assert_int_equal(co_task_finish(loop, &task), -EBADF);
}

static void what_another_has_taken_is_waited_for_without_a_pause(void **state)
{
    struct loop *loop = *state;
    struct refusal refusal = {.n_left = 4, .empties = true};
    struct pair pair;

    pair_open(&pair);
    struct co_task task = {.call = do_call_refused, .f = &pair.f, .event = POLLIN, .buf = &refusal};

    co_task_start(&task);
    for (int n = 1; n < 5; n++) {
        while (refusal.n_calls < n)
            aio_poll(loop->ctx, true);
        assert_int_equal(aio_compute_timeout(loop->ctx), -1); /* no timer */
        send_byte(pair.peer);
    }
    assert_int_equal(co_task_finish(loop, &task), 1);
    pair_close(&pair);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        LOOP_CASE(a_pipe_carries_more_than_it_holds),
        LOOP_CASE(a_write_that_nobody_reads_is_an_error),
        LOOP_CASE(an_fd_that_takes_everything_lets_others_run),
        LOOP_CASE(closing_reaches_one_that_lets_others_run),
        LOOP_CASE(what_is_ready_and_refuses_is_tried_after_longer_and_longer_pauses),
        LOOP_CASE(what_another_has_taken_is_waited_for_without_a_pause),
    };
    return LOOP_RUN(cases);
}
