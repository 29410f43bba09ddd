/* SPDX-License-Identifier: MIT */
/* Portable coroutines that wait, and who wakes them: from anywhere, at any moment, once. */
#include <fcntl.h>

#include "runtime/co_sleep.h"
#include "runtime/disk.h"
#include "tests/unit/shard/portable_fixture.h"

static const struct service *const service = &rig_nothing;

/* ---- waits and wakes ---- */

#define WAKES 500

static void coroutine_fn wait_often(struct mesh *mesh, void *opaque)
{
    (void)opaque;
    CHECK(shard_co_move(&mesh, 1) == 0);
    note(WORD_CO, shard_co_self());
    for (uint64_t i = 1; i <= WAKES; i++) {
        CHECK(shard_co_wait(&mesh, "the other shard") == 0);
        note(WORD_HOPS, i);
    }
    note(WORD_DONE, 1);
}

static void start_waiting(struct rig_end *end)
{
    CHECK(portable_start(end->mesh, wait_often, NULL, "wait", NULL) == 0);
    rig_serve(end);
}

static bool is_done(void *opaque)
{
    (void)opaque;
    return noted(WORD_DONE) != 0;
}

static bool has_name(void *opaque)
{
    (void)opaque;
    return noted(WORD_CO) != 0;
}

static bool has_counted(void *opaque)
{
    return noted(WORD_HOPS) >= *(const uint64_t *)opaque;
}

/* Each wake comes before or after its wait, as it happens; every second goes on in our shard. */
static void wake_often(struct rig_end *end)
{
    rig_poll_until(end, has_name, NULL);
    for (uint64_t i = 1; i <= WAKES; i++) {
        arena_co co = noted(WORD_CO);
        int r = i % 2 ? shard_co_wake(end->mesh, co) : shard_co_schedule(end->mesh, co, end->peer);

        CHECK(r == 0);
        rig_poll_until(end, has_counted, &i);
    }
    rig_poll_until(end, is_done, NULL);
    rig_serve(end);
}

static void one_that_waits_is_woken_from_any_shard_and_goes_on_where_it_is_told(void **state)
{
    (void)state;
    begin(1, rig_serve);
    begin(0, start_waiting);
    begin(2, wake_often);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_BAD), 0);
    rig_stop_all(&rig);
    assert_int_equal(n_in_use(), 0);
    assert_true(rig_balances(&rig));
}

/* ---- wakes that come at the wrong moment ---- */

/* Outside its coroutine, in the same loop: what it waits for can not come in between. */
static void coroutine_fn wait_twice(struct mesh *mesh, void *opaque)
{
    (void)opaque;
    co_sleep_ns(1);
    for (uint64_t i = 1; i <= 2; i++) {
        CHECK(shard_co_wait(&mesh, "a wake") == 0);
        note(WORD_HOPS, i);
    }
    note(WORD_DONE, 1);
}

static bool has_waited(void *opaque)
{
    arena_co co = *(arena_co *)opaque;

    return arena_read(&rig.seg, arena_slot_of(co)).state == ARENA_SUSPENDED;
}

static void wake_wrongly(struct rig_end *end)
{
    arena_co co, other;
    uint64_t one = 1;

    CHECK(portable_start(end->mesh, wait_twice, NULL, "twice", &co) == 0);
    /* Before it waits, twice: one wake. */
    CHECK(shard_co_wake(end->mesh, co) == 0);
    CHECK(shard_co_wake(end->mesh, co) == 0);
    rig_poll_until(end, has_counted, &one);
    rig_poll_until(end, has_waited, &co);
    CHECK(noted(WORD_HOPS) == 1);
    /* Of another generation, of no slot, of none at all. */
    other = co + (UINT64_C(1) << 24);
    CHECK(shard_co_wake(end->mesh, other) == -ESRCH);
    CHECK(shard_co_wake(end->mesh, co | 0xfffffe) == -ESRCH);
    CHECK(shard_co_wake(end->mesh, 0) == -ESRCH);
    CHECK(shard_co_schedule(end->mesh, other, 1) == -ESRCH);
    CHECK(noted(WORD_HOPS) == 1);
    CHECK(shard_co_schedule(end->mesh, co, 3) == -ENODEV);
    CHECK(shard_co_schedule(end->mesh, co, 2) == -EHOSTDOWN);
    CHECK(has_waited(&co)); /* neither has touched it */
    CHECK(shard_co_wake(end->mesh, co) == 0);
    CHECK(noted(WORD_DONE) == 1);
    /* After its end, and when its slot serves another. */
    CHECK(shard_co_wake(end->mesh, co) == -ESRCH);
    note(WORD_HOPS, 0);
    CHECK(portable_start(end->mesh, wait_twice, NULL, "twice", &other) == 0);
    CHECK(arena_slot_of(other) == arena_slot_of(co));
    CHECK(shard_co_wake(end->mesh, co) == -ESRCH);
    rig_poll_until(end, has_waited, &other);
    CHECK(noted(WORD_HOPS) == 0);
    note(WORD_READY, 1);
    rig_serve(end);
}

static void a_wake_before_the_wait_or_twice_is_one_and_after_the_end_none(void **state)
{
    (void)state;
    segment_control(&rig.seg, 2)->state = PEER_FAILED;
    begin(1, rig_serve);
    begin(0, wake_wrongly);
    rig_wait_word(&rig, WORD_READY, 1);
    assert_int_equal(noted(WORD_BAD), 0);
}

/* ---- many who wake ---- */

#define STORM_WAITS 400

static void coroutine_fn wait_in_storm(struct mesh *mesh, void *opaque)
{
    (void)opaque;
    note(WORD_CO, shard_co_self());
    for (uint64_t i = 1; i <= STORM_WAITS; i++) {
        CHECK(shard_co_wait(&mesh, "any of two") == 0);
        if (i % 7 == 0)
            CHECK(shard_co_move(&mesh, (uint32_t)(i % 3)) == 0);
        note(WORD_HOPS, i);
    }
    note(WORD_DONE, 1);
}

static void start_in_storm(struct rig_end *end)
{
    CHECK(portable_start(end->mesh, wait_in_storm, NULL, "storm", NULL) == 0);
    rig_serve(end);
}

/* From both at a time, wherever it is: running, on its way, waiting, or gone. */
static void wake_in_storm(struct rig_end *end)
{
    uint64_t i = 0;

    rig_poll_until(end, has_name, NULL);
    while (!noted(WORD_DONE)) {
        arena_co co = noted(WORD_CO);
        int r = ++i % 3 ? shard_co_wake(end->mesh, co)
                        : shard_co_schedule(end->mesh, co, (uint32_t)(i / 3 % 3));

        CHECK(r == 0 || (r == -ESRCH && arena_co_at(&rig.seg, arena_slot_of(co)) != co));
        aio_poll(end->ctx, false);
    }
    rig_serve(end);
}

static void one_that_two_shards_wake_at_once_is_never_lost_nor_run_twice(void **state)
{
    (void)state;
    begin(0, start_in_storm);
    begin(1, wake_in_storm);
    begin(2, wake_in_storm);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_HOPS), STORM_WAITS);
    assert_int_equal(noted(WORD_BAD), 0);
    wait_until_nothing_is_under_way();
    rig_stop_all(&rig);
    assert_true(rig_balances(&rig));
}

/* ---- while it waits for a disk ---- */

static void coroutine_fn read_and_wait(struct mesh *mesh, void *opaque)
{
    char text[5];
    int fd = open("/proc/version", O_RDONLY | O_CLOEXEC); /* never read without waiting */

    (void)opaque;
    CHECK(co_pread(fd, text, sizeof(text), 0) == sizeof(text));
    CHECK(memcmp(text, "Linux", sizeof(text)) == 0);
    note(WORD_WHERE, (uint64_t)getpid());
    close(fd);
    CHECK(shard_co_wait(&mesh, "the wake that came meanwhile") == 0);
    note(WORD_DONE, 1);
}

/* The loop does not turn between the submission and the wakes, so the read is in flight at them. */
static void wake_while_it_reads(struct rig_end *end)
{
    struct arena_word word;
    arena_co co;

    CHECK(portable_start(end->mesh, read_and_wait, NULL, "read", &co) == 0);
    CHECK(shard_co_schedule(end->mesh, co, 1) == 0);
    CHECK(shard_co_wake(end->mesh, co) == 0);
    word = arena_read(&rig.seg, arena_slot_of(co));
    CHECK(word.state == ARENA_RUNNING && word.owner == 0 && word.woken);
    note(WORD_READY, 1);
    rig_serve(end);
}

static void one_whose_read_is_in_flight_stays_and_goes_on_where_it_asked(void **state)
{
    (void)state;
    begin(1, rig_serve);
    begin(0, wake_while_it_reads);
    rig_wait_word(&rig, WORD_DONE, 1);
    if (IN_PROCESSES)
        assert_int_equal(noted(WORD_WHERE), rig.ends[0].pid);
    assert_int_equal(noted(WORD_BAD), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(one_that_waits_is_woken_from_any_shard_and_goes_on_where_it_is_told),
        CASE(a_wake_before_the_wait_or_twice_is_one_and_after_the_end_none),
        CASE(one_that_two_shards_wake_at_once_is_never_lost_nor_run_twice),
        CASE(one_whose_read_is_in_flight_stays_and_goes_on_where_it_asked),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
