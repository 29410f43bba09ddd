/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/loop_fixture.h"

#include <fcntl.h>
#include <linux/landlock.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* One end of a pair of sockets that is watched, and what its callbacks did. */
struct end {
    AioContext *ctx;
    int fd;
    int peer;
    int reads;
    int writes;
    bool called;
    struct end *other;
};

static void open_end(struct loop *loop, struct end *end)
{
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    *end = (struct end){.ctx = loop->ctx, .fd = fds[0], .peer = fds[1]};
}

static void unwatch(struct end *end)
{
    assert_int_equal(aio_set_fd_handler(end->ctx, end->fd, NULL, NULL, NULL, NULL, NULL), 0);
}

static void close_end(struct end *end)
{
    unwatch(end);
    close(end->fd);
    if (end->peer >= 0)
        close(end->peer);
}

static void send_byte(struct end *end)
{
    assert_int_equal(write(end->peer, "x", 1), 1);
}

static void on_read(void *opaque)
{
    struct end *end = opaque;

    end->reads++;
    atomic_store_release(&end->called, true);
}

static void on_read_drain(void *opaque)
{
    struct end *end = opaque;
    char buf[64];

    while (read(end->fd, buf, sizeof buf) > 0) {
    }
    on_read(end);
}

static void on_write(void *opaque)
{
    struct end *end = opaque;

    /* Reads go first. */
    end->writes += end->reads ? 1 : 100;
    atomic_store_release(&end->called, true);
}

static void watch(struct end *end, IOHandler *io_read, IOHandler *io_write)
{
    assert_int_equal(aio_set_fd_handler(end->ctx, end->fd, io_read, io_write, NULL, NULL, end), 0);
}

static void readable_fd_is_reported_until_it_is_drained(void **state)
{
    struct loop *loop = *state;
    struct end end;

    open_end(loop, &end);
    watch(&end, on_read, NULL);
    assert_false(aio_poll(loop->ctx, false));
    send_byte(&end);
    for (int i = 0; i < 3; i++) {
        end.called = false;
        loop_until(loop, &end.called);
    }
    assert_int_equal(end.reads, 3);
    watch(&end, on_read_drain, NULL);
    end.called = false;
    loop_until(loop, &end.called);
    assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(end.reads, 4);
    close_end(&end);
}

static void fd_callback_is_progress_and_is_counted(void **state)
{
    struct loop *loop = *state;
    struct end end;
    bool progress = false;

    open_end(loop, &end);
    watch(&end, on_read_drain, NULL);
    send_byte(&end);
    while (!end.called)
        progress = aio_poll(loop->ctx, true);
    assert_true(progress);
    assert_int_equal(loop->ctx->instruments.counters->fds_dispatched, 1);
    close_end(&end);
}

static void read_runs_before_write(void **state)
{
    struct loop *loop = *state;
    struct end end;

    open_end(loop, &end);
    send_byte(&end);
    watch(&end, on_read, on_write);
    loop_until(loop, &end.called);
    assert_int_equal(end.reads, 1);
    assert_int_equal(end.writes, 1);
    close_end(&end);
}

static void hang_up_runs_the_read_callback(void **state)
{
    struct loop *loop = *state;
    struct end end;

    open_end(loop, &end);
    watch(&end, on_read, NULL);
    close(end.peer);
    end.peer = -1;
    loop_until(loop, &end.called);
    assert_int_equal(end.reads, 1);
    close_end(&end);
}

static void hang_up_runs_the_write_callback_where_there_is_no_other(void **state)
{
    struct loop *loop = *state;
    struct end end;

    open_end(loop, &end);
    while (write(end.fd, "0123456789abcdef", 16) > 0) {
    }
    watch(&end, NULL, on_write);
    assert_false(aio_poll(loop->ctx, false));
    close(end.peer);
    end.peer = -1;
    loop_until(loop, &end.called);
    close_end(&end);
}

static void replacement_alone_is_called(void **state)
{
    struct loop *loop = *state;
    struct end end;

    open_end(loop, &end);
    watch(&end, on_read, NULL);
    send_byte(&end);
    watch(&end, NULL, on_write);
    loop_until(loop, &end.called);
    assert_int_equal(end.reads, 0);
    assert_true(end.writes > 0);
    close_end(&end);
}

static void unwatch_other(void *opaque)
{
    struct end *end = opaque;

    on_read_drain(end);
    unwatch(end->other);
}

static void handler_taken_off_by_a_sibling_of_the_same_turn_is_not_called(void **state)
{
    struct loop *loop = *state;
    struct end ends[2];

    for (int i = 0; i < 2; i++) {
        open_end(loop, &ends[i]);
        ends[i].other = &ends[1 - i];
        send_byte(&ends[i]);
    }
    watch(&ends[0], unwatch_other, NULL);
    watch(&ends[1], unwatch_other, NULL);
    while (ends[0].reads + ends[1].reads == 0)
        aio_poll(loop->ctx, true);
    assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(ends[0].reads + ends[1].reads, 1);
    close_end(&ends[0]);
    close_end(&ends[1]);
}

static void free_own_state(void *opaque)
{
    struct end *end = opaque;
    bool *done = &end->other->called;

    close_end(end);
    free(end);
    set_flag(done);
}

static void callback_may_take_itself_off_and_free_what_it_works_on(void **state)
{
    struct loop *loop = *state;
    struct end result = {0};
    struct end *end = calloc(1, sizeof *end);

    open_end(loop, end);
    end->other = &result;
    send_byte(end);
    /* The write callback would run after the read one, with freed memory. */
    assert_int_equal(
        aio_set_fd_handler(loop->ctx, end->fd, free_own_state, on_write, NULL, NULL, end), 0);
    loop_until(loop, &result.called);
}

static void poll_nested(void *opaque)
{
    struct end *end = opaque;

    on_read_drain(end);
    while (!end->other->called)
        aio_poll(end->ctx, true);
}

static void nested_poll_calls_what_the_outer_one_left(void **state)
{
    struct loop *loop = *state;
    struct end ends[2];

    for (int i = 0; i < 2; i++) {
        open_end(loop, &ends[i]);
        ends[i].other = &ends[1 - i];
        watch(&ends[i], poll_nested, NULL);
        send_byte(&ends[i]);
    }
    loop_until(loop, &ends[0].called);
    loop_until(loop, &ends[1].called);
    assert_int_equal(ends[0].reads, 1);
    assert_int_equal(ends[1].reads, 1);
    close_end(&ends[0]);
    close_end(&ends[1]);
}

#define DEPTH 4

/* Leaves what is there to the loop within, down to DEPTH. One turn submits the poll of a ring, the
 * next one collects it; a blocking one must not sleep over what it has just submitted. */
static void read_in_the_innermost(void *opaque, bool blocking)
{
    struct end *end = opaque;
    int depth = ++end->writes;

    on_read(end);
    for (int turn = 0; turn < 100 && depth < DEPTH && end->reads == depth; turn++)
        aio_poll(end->ctx, blocking);
    if (depth == DEPTH)
        on_read_drain(end);
    end->writes--;
}

static void look_within(void *opaque)
{
    read_in_the_innermost(opaque, false);
}

static void wait_within(void *opaque)
{
    read_in_the_innermost(opaque, true);
}

static void nested_poll_is_told_again_of_what_the_outer_callback_has_not_read(void **state)
{
    static IOHandler *const callbacks[] = {look_within, wait_within};
    struct loop *loop = *state;

    for (int i = 0; i < 2; i++) {
        struct end end;

        open_end(loop, &end);
        watch(&end, callbacks[i], NULL);
        send_byte(&end);
        loop_until(loop, &end.called);
        while (aio_poll(loop->ctx, false))
            continue;
        assert_int_equal(end.reads, DEPTH + 1); /* and on_read_drain() */
        close_end(&end);
    }
}

static void callback_whose_data_somebody_else_has_read_does_no_harm(void **state)
{
    struct loop *loop = *state;
    struct end ends[2];

    /* Two fds of one socket: whoever comes first reads all there is. */
    open_end(loop, &ends[0]);
    ends[1] = ends[0];
    ends[1].fd = dup(ends[0].fd);
    ends[1].peer = -1;
    watch(&ends[0], on_read_drain, NULL);
    watch(&ends[1], on_read_drain, NULL);
    while (aio_poll(loop->ctx, false))
        continue;
    for (int i = 1; i <= 20; i++) {
        send_byte(&ends[0]);
        while (ends[0].reads + ends[1].reads < i)
            aio_poll(loop->ctx, true);
        while (aio_poll(loop->ctx, false))
            continue;
        ends[0].reads = i;
        ends[1].reads = 0;
    }
    close_end(&ends[1]);
    close_end(&ends[0]);
}

static void what_cannot_be_watched_is_refused_and_changes_nothing(void **state)
{
    struct loop *loop = *state;
    char path[] = "/tmp/test_handler.XXXXXX";
    int file = mkstemp(path);
    int closed = dup(file);

    unlink(path);
    close(closed);
    assert_int_equal(aio_set_fd_handler(loop->ctx, file, on_read, NULL, NULL, NULL, NULL), -EPERM);
    assert_int_equal(
        aio_set_fd_handler(loop->ctx, closed, on_read, NULL, NULL, NULL, NULL), -EBADF);
    assert_int_equal(aio_set_fd_handler(loop->ctx, -1, on_read, NULL, NULL, NULL, NULL), -EBADF);
    assert_int_equal(aio_set_fd_handler(loop->ctx, file, NULL, NULL, NULL, NULL, NULL), 0);
    assert_false(aio_poll(loop->ctx, false));
    close(file);
}

static void fd_that_only_names_a_file_is_refused(void **state)
{
    struct loop *loop = *state;
    int fd = open("/", O_PATH | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(aio_set_fd_handler(loop->ctx, fd, on_read, NULL, NULL, NULL, NULL), -EBADF);
    close(fd);
}

static void number_far_up_that_is_no_fd_costs_no_memory(void **state)
{
    struct loop *loop = *state;

    assert_int_equal(
        aio_set_fd_handler(loop->ctx, 1 << 22, on_read, NULL, NULL, NULL, NULL), -EBADF);
    assert_true(loop->ctx->handlers_capacity < 1 << 22);
}

/* Kinds of an anonymous inode without a poll operation: poll(2) says that they are always ready. */
static void file_of_no_type_that_cannot_be_waited_for_is_refused(void **state)
{
    struct loop *loop = *state;
    struct landlock_ruleset_attr attr = {.handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE};
    int fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);

    if (fd < 0)
        skip(); /* this kernel has none */
    assert_int_equal(aio_set_fd_handler(loop->ctx, fd, on_read, NULL, NULL, NULL, NULL), -EPERM);
    close(fd);
}

/* All that these say at once is what poll(2) says of a file that has no poll operation. */
static void socket_that_is_ready_for_all_is_watched(void **state)
{
    struct loop *loop = *state;
    struct end end;

    open_end(loop, &end);
    send_byte(&end);
    watch(&end, on_read_drain, NULL);
    loop_until(loop, &end.called);
    close_end(&end);
}

static void expect_end_of_file(const struct end *end)
{
    char byte;

    assert_int_equal(recv(end->peer, &byte, 1, MSG_DONTWAIT), 0);
}

static void close_and_expect_end_of_file(void *opaque)
{
    struct end *end = opaque;

    unwatch(end);
    close(end->fd);
    expect_end_of_file(end);
    close(end->peer);
    set_flag(&end->called);
}

/* A monitor that keeps the file open would keep a listener's port from being bound again. */
static void fd_taken_off_and_closed_is_gone_at_once(void **state)
{
    struct loop *loop = *state;
    struct end end;

    for (int i = 0; i < 8; i++) {
        open_end(loop, &end);
        watch(&end, on_read, i & 4 ? on_write : NULL);
        for (int turn = 0; turn < (i & 1) * 3; turn++)
            aio_poll(loop->ctx, false);
        if (i & 2) {
            end.called = false;
            assert_int_equal(
                aio_bh_schedule_oneshot(loop->ctx, close_and_expect_end_of_file, &end), 0);
            loop_until(loop, &end.called);
        } else {
            close_and_expect_end_of_file(&end);
        }
    }
}

static void close_sibling(void *opaque)
{
    struct end *end = opaque;

    on_read_drain(end);
    if (end->other->fd >= 0)
        close_and_expect_end_of_file(end->other);
    end->other->fd = -1;
}

/* Also where it has just been seen ready. */
static void fd_closed_by_a_sibling_of_the_same_turn_is_gone_at_once(void **state)
{
    struct loop *loop = *state;
    struct end ends[2];

    for (int i = 0; i < 2; i++) {
        open_end(loop, &ends[i]);
        ends[i].other = &ends[!i];
        watch(&ends[i], close_sibling, NULL);
    }
    while (aio_poll(loop->ctx, false))
        continue;
    send_byte(&ends[0]);
    loop_until(loop, &ends[0].called);
    assert_int_equal(ends[0].reads, 1);
    ends[0].called = false;
    assert_false(aio_poll(loop->ctx, false));
    send_byte(&ends[0]);
    loop_until(loop, &ends[0].called);
    close_end(&ends[0]);
}

static void fd_far_up_is_watched_like_any_other(void **state)
{
    struct loop *loop = *state;
    struct end end;
    int low;

    open_end(loop, &end);
    low = end.fd;
    end.fd = fcntl(low, F_DUPFD_CLOEXEC, 700);
    assert_true(end.fd >= 700);
    watch(&end, on_read_drain, NULL);
    send_byte(&end);
    loop_until(loop, &end.called);
    close(low);
    close_end(&end);
}

/* ---- another thread changes the set ---- */

static void *watch_when_asleep(void *opaque)
{
    struct end *end = opaque;

    wait_for_sleep(end->ctx);
    watch(end, on_read, NULL);
    return NULL;
}

static void fd_added_by_another_thread_reaches_a_wait_that_has_begun(void **state)
{
    struct loop *loop = *state;
    struct end end;
    pthread_t thread;

    open_end(loop, &end);
    send_byte(&end);
    assert_int_equal(pthread_create(&thread, NULL, watch_when_asleep, &end), 0);
    loop_until(loop, &end.called);
    pthread_join(thread, NULL);
    close_end(&end);
}

struct storm {
    struct loop *loop;
    bool over;
};

/* Registers, closes and opens again, so that the loop meets each fd number as many a file. */
static void *open_and_close(void *opaque)
{
    struct storm *storm = opaque;

    for (int i = 0; i < 2000; i++) {
        struct end end;

        open_end(storm->loop, &end);
        assert_int_equal(
            aio_set_fd_handler(storm->loop->ctx, end.fd, count_call, NULL, NULL, NULL, &(int){0}),
            0);
        close_end(&end);
    }
    atomic_store_release(&storm->over, true);
    aio_notify(storm->loop->ctx);
    return NULL;
}

static void fds_opened_and_closed_by_another_thread_leave_nothing_behind(void **state)
{
    struct loop *loop = *state;
    struct storm storm = {.loop = loop};
    struct end end;
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, open_and_close, &storm), 0);
    loop_until(loop, &storm.over);
    pthread_join(thread, NULL);
    open_end(loop, &end);
    watch(&end, on_read_drain, NULL);
    send_byte(&end);
    loop_until(loop, &end.called);
    close_end(&end);
}

/* ---- at random ---- */

#define N_CROWD 24
#define N_TURNS 1500

struct crowd {
    struct end ends[N_CROWD];
    bool watched[N_CROWD];
    struct loop *loop;
};

struct member {
    struct crowd *crowd;
    int number;
};

static void disturb(struct crowd *crowd);

static void on_member(void *opaque)
{
    struct member *member = opaque;

    /* Not called once it is off. */
    assert_true(member->crowd->watched[member->number]);
    if (random() % 2)
        on_read_drain(&member->crowd->ends[member->number]);
    disturb(member->crowd);
}

static struct member members[N_CROWD];

static void disturb(struct crowd *crowd)
{
    int i = (int)(random() % N_CROWD);
    struct end *end = &crowd->ends[i];

    switch (random() % 4) {
    case 0:
        unwatch(end);
        crowd->watched[i] = false;
        break;
    case 1:
        close_end(end);
        open_end(crowd->loop, end);
        crowd->watched[i] = false;
        break;
    case 2:
        crowd->watched[i] = true;
        assert_int_equal(
            aio_set_fd_handler(end->ctx, end->fd, on_member, NULL, NULL, NULL, &members[i]), 0);
        break;
    default:
        send_byte(end);
    }
}

static void handlers_that_change_each_other_at_random_are_called_only_while_on(void **state)
{
    struct crowd crowd = {.loop = *state};

    srandom(1);
    for (int i = 0; i < N_CROWD; i++) {
        open_end(*state, &crowd.ends[i]);
        members[i] = (struct member){&crowd, i};
    }
    for (int turn = 0; turn < N_TURNS; turn++) {
        disturb(&crowd);
        disturb(&crowd);
        aio_poll(crowd.loop->ctx, false);
    }
    for (int i = 0; i < N_CROWD; i++)
        close_end(&crowd.ends[i]);
}

int main(void)
{
    static const struct CMUnitTest handler[] = {
        LOOP_CASE(readable_fd_is_reported_until_it_is_drained),
        LOOP_CASE(fd_callback_is_progress_and_is_counted),
        LOOP_CASE(read_runs_before_write),
        LOOP_CASE(hang_up_runs_the_read_callback),
        LOOP_CASE(hang_up_runs_the_write_callback_where_there_is_no_other),
        LOOP_CASE(replacement_alone_is_called),
        LOOP_CASE(handler_taken_off_by_a_sibling_of_the_same_turn_is_not_called),
        LOOP_CASE(callback_may_take_itself_off_and_free_what_it_works_on),
        LOOP_CASE(nested_poll_calls_what_the_outer_one_left),
        LOOP_CASE(nested_poll_is_told_again_of_what_the_outer_callback_has_not_read),
        LOOP_CASE(callback_whose_data_somebody_else_has_read_does_no_harm),
        LOOP_CASE(what_cannot_be_watched_is_refused_and_changes_nothing),
        LOOP_CASE(fd_that_only_names_a_file_is_refused),
        LOOP_CASE(number_far_up_that_is_no_fd_costs_no_memory),
        LOOP_CASE(file_of_no_type_that_cannot_be_waited_for_is_refused),
        LOOP_CASE(socket_that_is_ready_for_all_is_watched),
        LOOP_CASE(fd_taken_off_and_closed_is_gone_at_once),
        LOOP_CASE(fd_closed_by_a_sibling_of_the_same_turn_is_gone_at_once),
        LOOP_CASE(fd_far_up_is_watched_like_any_other),
        LOOP_CASE(fd_added_by_another_thread_reaches_a_wait_that_has_begun),
        LOOP_CASE(fds_opened_and_closed_by_another_thread_leave_nothing_behind),
        LOOP_CASE(handlers_that_change_each_other_at_random_are_called_only_while_on),
    };

    return LOOP_RUN(handler);
}
