/* SPDX-License-Identifier: MIT */
#include "shard/crowd.h"

#include <errno.h>
#include <sys/socket.h>

#include "runtime/co_cancel.h"
#include "tests/unit/runtime/loop_fixture.h"

#define PAIRS 3

/* Sockets whose one end is in the crowd, each read by a coroutine. */
struct reader {
    struct crowd_member member;
    int fd, peer;
    CoCancel cancel;
    char got[64];
    size_t len;
    ssize_t last; /* what ended it: 0 or -errno */
    bool is_over;
    size_t piece; /* how much it reads at a time */
    uint32_t n_reads;
};

struct rig {
    struct loop *loop;
    struct crowd crowd;
    struct reader readers[PAIRS];
};

static void coroutine_fn read_all(void *opaque)
{
    struct reader *r = opaque;
    char buf[sizeof r->got];
    CoScope scope;
    ssize_t n;

    co_scope_begin(&scope, &r->cancel, CO_NO_DEADLINE);
    while ((n = crowd_recv(&r->member, buf, r->piece)) > 0) {
        r->n_reads++;
        if (r->len + (size_t)n <= sizeof r->got)
            memcpy(r->got + r->len, buf, (size_t)n);
        r->len += (size_t)n;
    }
    co_scope_end(&scope);
    r->last = n;
    r->is_over = true;
}

static void begin(struct rig *rig, struct loop *loop)
{
    rig->loop = loop;
    assert_int_equal(crowd_open(&rig->crowd, loop->ctx), 0);
    for (int i = 0; i < PAIRS; i++) {
        struct reader *r = &rig->readers[i];
        int fds[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
        *r = (struct reader){.fd = fds[0], .peer = fds[1], .piece = sizeof r->got};
        co_cancel_init(&r->cancel);
        assert_int_equal(crowd_add(&rig->crowd, &r->member, r->fd), 0);
    }
}

static void start(struct reader *r)
{
    coroutine_enter(coroutine_create(read_all, r));
}

static void poll_until(struct rig *rig, const bool *what)
{
    int64_t deadline_ns = aio_clock_ns() + LOOP_DEADLINE_NS;

    while (!*what) {
        aio_poll(rig->loop->ctx, true);
        assert_true(aio_clock_ns() < deadline_ns);
    }
}

static void poll_until_got(struct rig *rig, const struct reader *r, size_t len)
{
    int64_t deadline_ns = aio_clock_ns() + LOOP_DEADLINE_NS;

    while (r->len < len) {
        aio_poll(rig->loop->ctx, true);
        assert_true(aio_clock_ns() < deadline_ns);
    }
}

static void put(const struct reader *r, const char *text)
{
    assert_int_equal(send(r->peer, text, strlen(text), 0), strlen(text));
}

static void end(struct rig *rig)
{
    for (int i = 0; i < PAIRS; i++) {
        struct reader *r = &rig->readers[i];
        crowd_remove(&rig->crowd, &r->member);
        co_cancel_deinit(&r->cancel);
        close(r->fd);
        if (r->peer >= 0)
            close(r->peer);
    }
    crowd_close(&rig->crowd);
}

static void hang_up(struct reader *r)
{
    close(r->peer);
    r->peer = -1;
}

static void each_gets_what_comes_before_and_while_it_waits_and_then_the_end(void **state)
{
    struct rig rig;

    begin(&rig, *state);
    put(&rig.readers[0], "before");
    for (int i = 0; i < PAIRS; i++)
        start(&rig.readers[i]);
    for (int turn = 0; turn < 3; turn++)
        for (int i = PAIRS - 1; i >= 0; i--) {
            put(&rig.readers[i], "while");
            poll_until_got(&rig, &rig.readers[i], (size_t)(turn + 1) * 5 + (i == 0 ? 6 : 0));
        }
    assert_memory_equal(rig.readers[0].got, "beforewhilewhilewhile", 21);
    for (int i = 0; i < PAIRS; i++) {
        hang_up(&rig.readers[i]);
        poll_until(&rig, &rig.readers[i].is_over);
        assert_int_equal(rig.readers[i].last, 0);
    }
    end(&rig);
}

/* Told together, and never again. */
static void an_end_that_comes_with_the_last_bytes_is_not_missed(void **state)
{
    struct rig rig;

    begin(&rig, *state);
    start(&rig.readers[0]);
    put(&rig.readers[0], "last words");
    hang_up(&rig.readers[0]);
    poll_until(&rig, &rig.readers[0].is_over);
    assert_int_equal(rig.readers[0].len, 10);
    assert_int_equal(rig.readers[0].last, 0);
    end(&rig);
}

static void one_that_waits_is_cancelled_and_may_wait_again(void **state)
{
    struct rig rig;
    struct reader *r = &rig.readers[1];

    begin(&rig, *state);
    start(r);
    co_cancel(&r->cancel);
    poll_until(&rig, &r->is_over);
    assert_int_equal(r->last, -ECANCELED);
    co_cancel_deinit(&r->cancel);
    co_cancel_init(&r->cancel);
    r->is_over = false;
    put(r, "again");
    start(r);
    poll_until_got(&rig, r, 5);
    hang_up(r);
    poll_until(&rig, &r->is_over);
    end(&rig);
}

/* A large piece after the other is there for the first; the second has but a word. */
static void one_that_never_runs_dry_does_not_keep_others_from_their_turn(void **state)
{
    struct rig rig;
    struct reader *busy = &rig.readers[0], *other = &rig.readers[1];
    char much[4096] = {0};

    begin(&rig, *state);
    busy->piece = 1;
    start(other);
    assert_int_equal(send(busy->peer, much, sizeof much, 0), sizeof much);
    put(other, "word");
    start(busy);
    poll_until_got(&rig, other, 4);
    assert_true(busy->n_reads < sizeof much);
    poll_until_got(&rig, busy, sizeof much);
    hang_up(busy);
    hang_up(other);
    poll_until(&rig, &busy->is_over);
    poll_until(&rig, &other->is_over);
    end(&rig);
}

struct kick {
    struct rig *rig;
    struct reader *by, *whom;
    bool is_over;
};

static void coroutine_fn read_and_kick(void *opaque)
{
    struct kick *kick = opaque;
    char buf[8];

    assert_int_equal(crowd_recv(&kick->by->member, buf, sizeof buf), 4);
    crowd_remove(&kick->rig->crowd, &kick->whom->member);
    memset(&kick->whom->member, 0, sizeof kick->whom->member); /* it is somebody else's now */
    kick->is_over = true;
}

/* The events of both are fetched together: what was told of the second is not for its memory any
 * more. */
static void one_that_another_ends_in_the_same_turn_is_not_touched_again(void **state)
{
    static const struct crowd_member nobody;
    struct rig rig;
    struct kick kick = {.rig = &rig, .by = &rig.readers[0], .whom = &rig.readers[1]};

    begin(&rig, *state);
    coroutine_enter(coroutine_create(read_and_kick, &kick));
    put(kick.by, "kick");
    put(kick.whom, "word");
    put(&rig.readers[2], "behind");
    poll_until(&rig, &kick.is_over);
    assert_memory_equal(&kick.whom->member, &nobody, sizeof nobody);
    start(&rig.readers[2]);
    poll_until_got(&rig, &rig.readers[2], 6);
    hang_up(&rig.readers[2]);
    poll_until(&rig, &rig.readers[2].is_over);
    assert_int_equal(crowd_add(&rig.crowd, &kick.whom->member, kick.whom->fd), 0);
    end(&rig);
}

static const struct CMUnitTest cases[] = {
    LOOP_CASE(each_gets_what_comes_before_and_while_it_waits_and_then_the_end),
    LOOP_CASE(an_end_that_comes_with_the_last_bytes_is_not_missed),
    LOOP_CASE(one_that_waits_is_cancelled_and_may_wait_again),
    LOOP_CASE(one_that_never_runs_dry_does_not_keep_others_from_their_turn),
    LOOP_CASE(one_that_another_ends_in_the_same_turn_is_not_touched_again),
};

int main(void)
{
    return LOOP_RUN(cases);
}
