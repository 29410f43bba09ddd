/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/co_fd_fixture.h"
#include "tests/unit/runtime/death.h"
#include "tests/unit/runtime/loop_thread.h"

#include <fcntl.h>
#include <sys/eventfd.h>

/* ---- what the coroutines of this file do ---- */

static ssize_t coroutine_fn do_wait(struct co_task *task)
{
    return co_fd_wait(task->f, task->event);
}

static ssize_t coroutine_fn do_wait_fd(struct co_task *task)
{
    return co_wait_fd((int)task->len, task->event);
}

static ssize_t coroutine_fn do_read(struct co_task *task)
{
    return co_read(task->f, task->buf, task->len);
}

static ssize_t coroutine_fn do_pause(struct co_task *task)
{
    return co_fd_pause(task->f, INT64_MAX);
}

static const struct aio_handler *handler_of(struct loop *loop, const CoFd *f)
{
    return (uint32_t)f->fd < loop->ctx->handlers_capacity ? loop->ctx->handlers[f->fd] : NULL;
}

/* ---- waiting ---- */

static void a_reader_and_a_writer_wait_for_one_fd(void **state)
{
    struct loop *loop = *state;
    struct pair pair;

    pair_open(&pair);
    fill(pair.f.fd);
    struct co_task reader = {.call = do_wait, .f = &pair.f, .event = POLLIN};
    struct co_task writer = {.call = do_wait, .f = &pair.f, .event = POLLOUT};

    co_task_start(&reader);
    co_task_start(&writer);
    co_task_settle(loop);
    assert_false(reader.done || writer.done);
    drain(pair.peer);
    assert_int_equal(co_task_finish(loop, &writer), 0);
    co_task_settle(loop);
    assert_false(reader.done);
    send_byte(pair.peer);
    assert_int_equal(co_task_finish(loop, &reader), 0);
    pair_close(&pair);
}

static void coroutines_without_a_cofd_wait_for_one_fd(void **state)
{
    struct loop *loop = *state;
    struct pair pair;

    pair_open(&pair);
    fill(pair.f.fd);
    struct co_task reader = {.call = do_wait_fd, .len = (size_t)pair.f.fd, .event = POLLIN};
    struct co_task writer = reader;
    struct co_task second_reader = reader;

    writer.event = POLLOUT;
    co_task_start(&reader);
    co_task_start(&writer);
    co_task_start(&second_reader);
    send_byte(pair.peer);
    assert_int_equal(co_task_finish(loop, &reader), 0);
    assert_int_equal(co_task_finish(loop, &second_reader), 0);
    assert_false(writer.done);
    drain(pair.peer);
    assert_int_equal(co_task_finish(loop, &writer), 0);
    assert_null(handler_of(loop, &pair.f));
    pair_close(&pair);
}

static void each_event_wakes_the_one_that_has_waited_longest(void **state)
{
    struct loop *loop = *state;
    struct pair pair;
    struct co_task tasks[3];
    char bytes[3];

    pair_open(&pair);
    for (int i = 0; i < 3; i++) {
        tasks[i] = (struct co_task){.call = do_read, .f = &pair.f, .buf = &bytes[i], .len = 1};
        co_task_start(&tasks[i]);
    }
    for (int i = 0; i < 3; i++) {
        send_byte(pair.peer);
        assert_int_equal(co_task_finish(loop, &tasks[i]), 1);
        co_task_settle(loop);
        assert_true(i == 2 || !tasks[i + 1].done);
    }
    pair_close(&pair);
}

static void what_one_leaves_over_wakes_the_next(void **state)
{
    struct loop *loop = *state;
    struct pair pair;
    struct co_task first = {.call = do_wait, .f = &pair.f, .event = POLLIN};
    struct co_task second = first;

    pair_open(&pair);
    co_task_start(&first);
    co_task_start(&second);
    send_byte(pair.peer);
    loop_until(loop, &first.done);
    loop_until(loop, &second.done);
    pair_close(&pair);
}

static void a_wait_costs_no_change_of_the_monitor(void **state)
{
    struct loop *loop = *state;
    struct pair pair;
    const struct aio_handler *handler = NULL;
    char byte;

    pair_open(&pair);
    for (int i = 0; i < 10; i++) {
        struct co_task reader = {.call = do_read, .f = &pair.f, .buf = &byte, .len = 1};

        co_task_start(&reader);
        assert_true(!handler || handler_of(loop, &pair.f) == handler);
        handler = handler_of(loop, &pair.f);
        assert_non_null(handler);
        send_byte(pair.peer);
        assert_int_equal(co_task_finish(loop, &reader), 1);
    }
    pair_close(&pair);
}

/* Turns once more after an event with nobody to take it: then the loop has nothing to do. */
static void assert_idle(struct loop *loop)
{
    co_task_settle(loop);
    uint64_t before = loop->ctx->instruments.counters->fds_dispatched;

    for (int i = 0; i < 5; i++)
        aio_poll(loop->ctx, false);
    assert_int_equal(loop->ctx->instruments.counters->fds_dispatched, before);
}

static void an_event_that_nobody_waits_for_does_not_spin(void **state)
{
    struct loop *loop = *state;
    struct pair pair;
    char byte;

    pair_open(&pair);
    struct co_task reader = {.call = do_read, .f = &pair.f, .buf = &byte, .len = 1};

    co_task_start(&reader);
    send_byte(pair.peer);
    assert_int_equal(co_task_finish(loop, &reader), 1);
    send_byte(pair.peer);
    assert_idle(loop);
    reader.done = false;
    co_task_start(&reader);
    assert_int_equal(co_task_finish(loop, &reader), 1);
    reader.done = false;
    co_task_start(&reader);
    co_task_settle(loop);
    assert_false(reader.done);
    send_byte(pair.peer);
    assert_int_equal(co_task_finish(loop, &reader), 1);
    pair_close(&pair);
}

static void a_hang_up_that_nobody_waits_for_does_not_spin(void **state)
{
    struct loop *loop = *state;
    struct pair pair;
    char byte;

    pair_open(&pair);
    struct co_task reader = {.call = do_read, .f = &pair.f, .buf = &byte, .len = 1};

    co_task_start(&reader);
    send_byte(pair.peer);
    assert_int_equal(co_task_finish(loop, &reader), 1);
    close(pair.peer);
    pair.peer = -1;
    assert_idle(loop);
    reader.done = false;
    co_task_start(&reader);
    assert_int_equal(co_task_finish(loop, &reader), 0);
    pair_close(&pair);
}

/* ---- scopes ---- */

static void a_scope_ends_a_wait_and_the_next_one_works(void **state)
{
    struct loop *loop = *state;
    struct pair pair;
    char byte;

    pair_open(&pair);
    struct co_task reader = {.call = do_read, .f = &pair.f, .buf = &byte, .len = 1};
    struct co_task late = reader;

    late.deadline_ns = aio_clock_ns() + LOOP_MS;
    assert_int_equal(co_task_do(loop, late), -ETIMEDOUT);
    co_task_start(&reader);
    co_task_settle(loop);
    assert_false(reader.done);
    send_byte(pair.peer);
    assert_int_equal(co_task_finish(loop, &reader), 1);
    pair_close(&pair);
}

static void who_was_cancelled_leaves_the_event_to_the_next(void **state)
{
    struct loop *loop = *state;
    struct pair pair;
    CoCancel token;
    char bytes[3];
    struct co_task tasks[3];

    co_cancel_init(&token);
    pair_open(&pair);
    for (int i = 0; i < 3; i++) {
        tasks[i] = (struct co_task){.call = do_read, .f = &pair.f, .buf = &bytes[i], .len = 1};
        tasks[i].token = i == 1 ? NULL : &token;
        co_task_start(&tasks[i]);
    }
    co_cancel(&token);
    assert_int_equal(co_task_finish(loop, &tasks[0]), -ECANCELED);
    assert_int_equal(co_task_finish(loop, &tasks[2]), -ECANCELED);
    assert_false(tasks[1].done);
    send_byte(pair.peer);
    assert_int_equal(co_task_finish(loop, &tasks[1]), 1);
    pair_close(&pair);
    co_cancel_deinit(&token);
}

static void one_that_shares_an_fd_leaves_by_its_scope_while_another_is_woken(void **state)
{
    struct loop *loop = *state;
    struct pair pair;
    CoCancel token;

    co_cancel_init(&token);
    pair_open(&pair);
    struct co_task stays = {.call = do_wait_fd, .len = (size_t)pair.f.fd, .event = POLLIN};
    struct co_task leaves = stays;

    leaves.token = &token;
    co_task_start(&leaves);
    co_task_start(&stays);
    send_byte(pair.peer);
    co_cancel(&token);
    loop_until(loop, &leaves.done);
    assert_int_equal(co_task_finish(loop, &stays), 0);
    pair_close(&pair);
    co_cancel_deinit(&token);
}

/* ---- the end of a CoFd ---- */

static void whoever_waits_is_told_of_the_end(void **state)
{
    struct loop *loop = *state;
    struct pair *pair = malloc(sizeof *pair);
    int order = 0;
    char byte;

    pair_open(pair);
    fill(pair->f.fd);
    struct co_task tasks[] = {
        {.call = do_wait, .f = &pair->f, .event = POLLIN, .order = &order},
        {.call = do_read, .f = &pair->f, .buf = &byte, .len = 1, .order = &order},
        {.call = do_wait, .f = &pair->f, .event = POLLOUT, .order = &order},
        {.call = do_write_all, .f = &pair->f, .buf = "xy", .len = 2, .order = &order},
        {.call = do_pause, .f = &pair->f, .order = &order},
    };

    for (size_t i = 0; i < 5; i++)
        co_task_start(&tasks[i]);
    pair_close(pair);
    memset(pair, 0xdb, sizeof *pair);
    free(pair);
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(co_task_finish(loop, &tasks[i]), -EBADF);
}

static ssize_t coroutine_fn do_close(struct co_task *task)
{
    co_fd_close(task->f);
    free(task->f);
    return 0;
}

static ssize_t coroutine_fn do_wait_and_wipe(struct co_task *task)
{
    ssize_t r = do_wait(task);

    memset(task->f, 0xdb, sizeof *task->f);
    return r;
}

static void the_first_that_is_told_may_free_it(void **state)
{
    struct loop *loop = *state;
    CoFd f;
    CoFd wiped;

    memset(&wiped, 0xdb, sizeof wiped);
    assert_int_equal(co_fd_init(&f, eventfd(0, EFD_CLOEXEC)), 0);
    struct co_task tasks[] = {
        {.call = do_wait_and_wipe, .f = &f, .event = POLLIN},
        {.call = do_wait, .f = &f, .event = POLLIN},
        {.call = do_wait, .f = &f, .event = POLLOUT},
        {.call = do_pause, .f = &f},
    };

    for (size_t i = 0; i < 4; i++)
        co_task_start(&tasks[i]);
    co_fd_close(&f);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(co_task_finish(loop, &tasks[i]), -EBADF);
    assert_memory_equal(&f, &wiped, sizeof f);
}

/* Here those that are told run only once the closing coroutine has gone. */
static void a_coroutine_may_free_what_others_wait_for(void **state)
{
    struct loop *loop = *state;
    CoFd *f = malloc(sizeof *f);
    int fds[2];
    char byte;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(co_fd_init(f, fds[0]), 0);
    struct co_task reader = {.call = do_read, .f = f, .buf = &byte, .len = 1};
    struct co_task closer = {.call = do_close, .f = f};

    co_task_start(&reader);
    co_task_start(&closer);
    assert_int_equal(co_task_finish(loop, &reader), -EBADF);
    close(fds[1]);
}

static void an_ended_cofd_refuses_and_ends_again(void **state)
{
    struct loop *loop = *state;
    struct pair pair;

    pair_open(&pair);
    int fd = pair.f.fd;
    co_fd_deinit(&pair.f);
    co_fd_deinit(&pair.f);
    assert_int_equal(co_task_do(loop, (struct co_task){.call = do_read, .f = &pair.f}), -EBADF);
    assert_int_equal(co_task_do(loop, (struct co_task){.call = do_pause, .f = &pair.f}), -EBADF);
    assert_int_equal(
        co_task_do(loop, (struct co_task){.call = do_wait, .f = &pair.f, .event = POLLIN}), -EBADF);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    close(fd);
    pair_close(&pair);
}

/* ---- who else has the fd ---- */

static void a_handler_that_stands_there_is_left_alone(void **state)
{
    struct loop *loop = *state;
    struct pair pair;
    bool called = false;

    pair_open(&pair);
    assert_int_equal(
        aio_set_fd_handler(loop->ctx, pair.f.fd, set_flag, NULL, NULL, NULL, &called), 0);
    struct co_task by_cofd = {.call = do_wait, .f = &pair.f, .event = POLLIN};
    struct co_task by_fd = {.call = do_wait_fd, .len = (size_t)pair.f.fd, .event = POLLIN};

    assert_int_equal(co_task_do(loop, by_cofd), -EBUSY);
    assert_int_equal(co_task_do(loop, by_fd), -EBUSY);
    send_byte(pair.peer);
    loop_until(loop, &called);
    assert_int_equal(aio_set_fd_handler(loop->ctx, pair.f.fd, NULL, NULL, NULL, NULL, NULL), 0);
    assert_int_equal(co_task_do(loop, by_cofd), 0);
    pair_close(&pair);
}

static void an_fd_has_one_cofd_at_a_time(void **state)
{
    struct loop *loop = *state;
    struct pair pair;
    CoFd second;
    char byte;

    pair_open(&pair);
    assert_int_equal(co_fd_init(&second, pair.f.fd), 0);
    struct co_task reader = {.call = do_read, .f = &pair.f, .buf = &byte, .len = 1};
    struct co_task by_second = {.call = do_wait, .f = &second, .event = POLLIN};
    struct co_task by_fd = {.call = do_wait_fd, .len = (size_t)pair.f.fd, .event = POLLIN};

    co_task_start(&reader);
    assert_int_equal(co_task_do(loop, by_second), -EBUSY);
    assert_int_equal(co_task_do(loop, by_fd), -EBUSY);
    co_fd_deinit(&second);
    send_byte(pair.peer);
    assert_int_equal(co_task_finish(loop, &reader), 1);
    pair_close(&pair);
}

static void what_is_always_ready_is_refused(void **state)
{
    struct loop *loop = *state;
    static const char *const paths[] = {"/proc/self/exe", "/", "/dev/null"};
    CoFd f;

    for (size_t i = 0; i < 3; i++) {
        int fd = open(paths[i], O_RDONLY | O_CLOEXEC);

        assert_true(fd >= 0);
        assert_int_equal(co_fd_init(&f, fd), -EPERM);
        co_fd_close(&f); /* does nothing: fd is still ours */
        if (i < 2) {
            struct co_task by_fd = {.call = do_wait_fd, .len = (size_t)fd, .event = POLLIN};
            assert_int_equal(co_task_do(loop, by_fd), -EPERM);
        }
        assert_int_equal(close(fd), 0);
        assert_int_equal(co_fd_init(&f, fd), -EBADF);
    }
    struct co_task by_none = {.call = do_wait_fd, .len = (size_t)-1, .event = POLLIN};
    assert_int_equal(co_task_do(loop, by_none), -EBADF);
}

/* ---- several contexts ---- */

struct mover {
    AioContext *there;
    AioContext *here;
    CoFd *f;
    int n_reads;
};

static void coroutine_fn read_here_and_there(void *opaque)
{
    struct mover *mover = opaque;
    char byte;

    for (int i = 0; i < 10; i++) {
        co_fd_detach(mover->f);
        aio_co_reschedule_self(i % 2 ? mover->here : mover->there);
        assert(co_read(mover->f, &byte, 1) == 1);
        atomic_add_seq(&mover->n_reads, 1);
        aio_notify(mover->here);
    }
    co_fd_detach(mover->f);
    aio_co_reschedule_self(mover->here);
    atomic_add_seq(&mover->n_reads, 1);
}

static void a_detached_cofd_goes_on_in_another_context(void **state)
{
    struct loop *loop = *state;
    struct loop_thread other;
    struct pair pair;

    pair_open(&pair);
    loop_thread_start(&other);
    struct mover mover = {.there = other.ctx, .here = loop->ctx, .f = &pair.f};
    Coroutine *co = coroutine_create(read_here_and_there, &mover);

    coroutine_enter(co);
    for (int i = 1; i <= 10; i++) {
        send_byte(pair.peer);
        assert_true(poll_until(loop->ctx, &mover.n_reads, i));
    }
    assert_true(poll_until(loop->ctx, &mover.n_reads, 11));
    loop_thread_stop(&other);
    pair_close(&pair);
}

static void coroutine_fn wait_readable(void *opaque)
{
    co_fd_wait(opaque, POLLIN);
}

static void wait_in_two_contexts(void)
{
    struct pair pair;

    pair_open(&pair);
    coroutine_enter(coroutine_create(wait_readable, &pair.f));
    aio_context_set_current(NULL);
    aio_context_set_current(test_context_new());
    coroutine_enter(coroutine_create(wait_readable, &pair.f));
}

static void detach_while_one_waits(void)
{
    struct pair pair;

    pair_open(&pair);
    coroutine_enter(coroutine_create(wait_readable, &pair.f));
    co_fd_detach(&pair.f);
}

static void wait_outside_a_coroutine(void)
{
    struct pair pair;

    pair_open(&pair);
    co_fd_wait(&pair.f, POLLIN);
}

static void coroutine_fn wait_by_number(void *opaque)
{
    co_wait_fd(0, POLLIN);
}

static void wait_without_a_context(void)
{
    aio_context_set_current(NULL);
    coroutine_enter(coroutine_create(wait_by_number, NULL));
}

static void misuse_is_named(void **state)
{
    assert_bug(wait_without_a_context, "co_wait_fd outside a coroutine of a context");
    assert_bug(wait_in_two_contexts, "is waited for in two contexts");
    assert_bug(detach_while_one_waits, "co_fd_detach while a coroutine waits for fd");
    assert_bug(wait_outside_a_coroutine, "co_fd_wait outside a coroutine");
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        LOOP_CASE(a_reader_and_a_writer_wait_for_one_fd),
        LOOP_CASE(coroutines_without_a_cofd_wait_for_one_fd),
        LOOP_CASE(each_event_wakes_the_one_that_has_waited_longest),
        LOOP_CASE(what_one_leaves_over_wakes_the_next),
        LOOP_CASE(a_wait_costs_no_change_of_the_monitor),
        LOOP_CASE(an_event_that_nobody_waits_for_does_not_spin),
        LOOP_CASE(a_hang_up_that_nobody_waits_for_does_not_spin),
        LOOP_CASE(a_scope_ends_a_wait_and_the_next_one_works),
        LOOP_CASE(who_was_cancelled_leaves_the_event_to_the_next),
        LOOP_CASE(one_that_shares_an_fd_leaves_by_its_scope_while_another_is_woken),
        LOOP_CASE(whoever_waits_is_told_of_the_end),
        LOOP_CASE(the_first_that_is_told_may_free_it),
        LOOP_CASE(a_coroutine_may_free_what_others_wait_for),
        LOOP_CASE(an_ended_cofd_refuses_and_ends_again),
        LOOP_CASE(a_handler_that_stands_there_is_left_alone),
        LOOP_CASE(an_fd_has_one_cofd_at_a_time),
        LOOP_CASE(what_is_always_ready_is_refused),
        LOOP_CASE(a_detached_cofd_goes_on_in_another_context),
        LOOP_CASE(misuse_is_named),
    };
    return LOOP_RUN(cases);
}
