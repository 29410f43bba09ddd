/* SPDX-License-Identifier: MIT */
#include "shard/geometry.h"
#include "shard/arena.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/atomic.h"
#include "shard/firewall.h"
#include "tests/unit/runtime/death.h"
#include "tests/unit/runtime/guard_markers.h"

#define N_SHARDS 3

static struct segment seg;

static int open_segment(void **state)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    (void)state;
    if (segment_geometry_plan(N_SHARDS, 0, &geometry, &bytes) < 0)
        return -1;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (base == MAP_FAILED)
        return -1;
    return segment_init(&seg, base, bytes, &geometry, "arena");
}

static int close_segment(void **state)
{
    (void)state;
    return munmap(seg.base, seg.bytes);
}

static void give_up(uint32_t shard)
{
    segment_control(&seg, shard)->state = PEER_FAILED;
}

static arena_co make(uint32_t self)
{
    arena_co co = arena_create(&seg, self, UINT32_MAX);

    assert_true(co != 0);
    return co;
}

static uint32_t n_free(void)
{
    uint32_t n = 0;

    for (uint32_t slot = 0; slot < seg.geometry.n_portable; slot++)
        n += arena_read(&seg, slot).state == ARENA_FREE;
    return n;
}

static uint32_t n_tagged(void)
{
    uint32_t n = 0;

    for (uint32_t chunk = 0; chunk < segment_n_chunks(&seg); chunk++)
        n += *segment_chunk_tag(&seg, chunk) != 0;
    return n;
}

/* ---- one hand ---- */

static void one_lives_from_its_creation_to_its_end_and_is_then_named_by_nothing(void **state)
{
    uint32_t where = 99;
    arena_co co = make(1), next;

    (void)state;
    assert_true(arena_co_lives(&seg, co, &where));
    assert_int_equal(where, 1);
    assert_true(arena_co_at(&seg, arena_slot_of(co)) == co);
    *segment_chunk_tag(&seg, 3) = co;
    arena_end(&seg, co, 1);
    assert_false(arena_co_lives(&seg, co, &where));
    assert_int_equal(n_tagged(), 0);
    next = arena_create(&seg, 2, arena_slot_of(co));
    assert_int_equal(arena_slot_of(next), arena_slot_of(co));
    assert_true(next != co);
    assert_false(arena_co_lives(&seg, co, &where));
    assert_false(arena_enter(&seg, co, 2));
    assert_int_equal(arena_wake(&seg, co, 0, ARENA_WHERE_IT_IS, &where), ARENA_GONE);
    assert_false(arena_co_lives(&seg, 0, &where));
    assert_false(arena_co_lives(&seg, UINT64_MAX, &where));
}

static void a_message_that_comes_twice_enters_once(void **state)
{
    arena_co co = make(0);
    uint32_t where;

    (void)state;
    assert_false(arena_enter(&seg, co, 0)); /* it runs */
    assert_true(arena_move(&seg, co, 0, 2));
    assert_false(arena_move(&seg, co, 0, 1));
    assert_false(arena_enter(&seg, co, 1)); /* not its */
    assert_true(arena_co_lives(&seg, co, &where) && where == 2);
    assert_true(arena_enter(&seg, co, 2));
    assert_false(arena_enter(&seg, co, 2));
    assert_false(arena_bounce(&seg, co, 0, 2)); /* too late */
    arena_end(&seg, co, 0);                     /* not its */
    assert_true(arena_co_lives(&seg, co, &where) && where == 2);
}

static void a_wake_before_the_wait_is_kept_and_used_once(void **state)
{
    arena_co co = make(0);
    uint32_t owner = 99;

    (void)state;
    assert_int_equal(arena_wake(&seg, co, 1, ARENA_WHERE_IT_IS, &owner), ARENA_KEPT);
    assert_int_equal(arena_wake(&seg, co, 2, ARENA_WHERE_IT_IS, &owner), ARENA_KEPT);
    assert_false(arena_suspend(&seg, co, 0)); /* uses it up */
    assert_true(arena_suspend(&seg, co, 0));
    assert_int_equal(arena_wake(&seg, co, 1, ARENA_WHERE_IT_IS, &owner), ARENA_IS_DUE);
    assert_int_equal(owner, 0);
    assert_int_equal(arena_read(&seg, arena_slot_of(co)).by, 1);
    assert_true(arena_enter(&seg, co, 0));
    assert_true(arena_suspend(&seg, co, 0));
    assert_int_equal(arena_wake(&seg, co, 1, 2, &owner), ARENA_IS_DUE); /* elsewhere */
    assert_int_equal(owner, 2);
    assert_true(arena_enter(&seg, co, 2));
}

static void a_wake_on_the_way_is_kept_over_the_move(void **state)
{
    arena_co co = make(0);
    uint32_t owner;

    (void)state;
    assert_true(arena_move(&seg, co, 0, 1));
    assert_int_equal(arena_wake(&seg, co, 2, ARENA_WHERE_IT_IS, &owner), ARENA_KEPT);
    assert_true(arena_enter(&seg, co, 1));
    assert_false(arena_suspend(&seg, co, 1));
}

static void all_slots_are_used_by_whoever_needs_them_and_no_more_are_given(void **state)
{
    uint32_t n = seg.geometry.n_portable;
    arena_co last = 0;

    (void)state;
    for (uint32_t i = 0; i < n; i++)
        last = make(1);
    assert_true(arena_create(&seg, 1, 0) == 0);
    assert_true(arena_create(&seg, 2, UINT32_MAX) == 0);
    arena_end(&seg, last, 1);
    assert_int_equal(arena_read(&seg, arena_slot_of(last)).owner, 1);
    assert_true(make(2) != 0); /* adopted */
    assert_int_equal(arena_read(&seg, arena_slot_of(last)).owner, 2);
}

/* ---- deaths ---- */

static void a_death_ends_what_ran_or_waited_there_and_keeps_what_is_on_its_way(void **state)
{
    arena_co runs = make(1), waits = make(1), comes = make(0), woken = make(1), other = make(2);
    uint32_t owner, where;

    (void)state;
    *segment_chunk_tag(&seg, 0) = runs;
    *segment_chunk_tag(&seg, 1) = other;
    assert_true(arena_suspend(&seg, waits, 1));
    assert_true(arena_move(&seg, comes, 0, 1));
    assert_true(arena_suspend(&seg, woken, 1));
    assert_int_equal(arena_wake(&seg, woken, 0, ARENA_WHERE_IT_IS, &owner), ARENA_IS_DUE);
    assert_int_equal(arena_bury(&seg, 1, false), 2);
    assert_int_equal(arena_bury(&seg, 1, false), 0); /* again, by a second try */
    assert_false(arena_co_lives(&seg, runs, &where));
    assert_false(arena_co_lives(&seg, waits, &where));
    assert_true(arena_co_lives(&seg, comes, &where) && where == 1);
    assert_true(arena_co_lives(&seg, other, &where) && where == 2);
    assert_int_equal(n_tagged(), 1);
    assert_true(arena_enter(&seg, comes, 1)); /* by the replacement */
    assert_true(arena_enter(&seg, woken, 1));
}

static void what_is_on_its_way_to_one_given_up_goes_back_or_ends_with_its_sender(void **state)
{
    arena_co from0 = make(0), from2 = make(2);
    uint32_t where;

    (void)state;
    assert_true(arena_move(&seg, from0, 0, 1));
    assert_true(arena_move(&seg, from2, 2, 1));
    give_up(1);
    assert_int_equal(arena_bury(&seg, 1, true), 0);
    assert_true(arena_bounce(&seg, from0, 0, 1));
    assert_true(arena_co_lives(&seg, from0, &where) && where == 0);
    assert_int_equal(arena_bury(&seg, 2, false), 0); /* its replacement will take it back */
    assert_int_equal(arena_bury(&seg, 2, true), 1);
    assert_false(arena_co_lives(&seg, from2, &where));
}

static void of_two_that_are_gone_neither_takes_what_is_between_them(void **state)
{
    arena_co between = make(0), comes = make(0), leaves = make(2), waits = make(1);
    const uint64_t gone[SEGMENT_BITMAP_WORDS] = {1u << 0 | 1u << 1};
    uint32_t where;

    (void)state;
    assert_true(arena_move(&seg, between, 0, 1));
    assert_true(arena_move(&seg, comes, 0, 2));
    assert_true(arena_move(&seg, leaves, 2, 1));
    assert_true(arena_suspend(&seg, waits, 1));
    assert_int_equal(arena_bury_gone(&seg, gone), 2);
    assert_int_equal(arena_bury_gone(&seg, gone), 0); /* again, by another who is left */
    assert_false(arena_co_lives(&seg, between, &where));
    assert_false(arena_co_lives(&seg, waits, &where));
    assert_true(arena_enter(&seg, comes, 2));
    assert_true(arena_bounce(&seg, leaves, 2, 1));
}

/* A process that dies between the word and the message, at each of its steps. */
static void die_after(uint32_t n_steps, arena_co co, arena_co waits)
{
    uint32_t owner;

    if (n_steps > 0)
        arena_wake(&seg, waits, 0, ARENA_WHERE_IT_IS, &owner);
    if (n_steps > 1)
        arena_move(&seg, co, 0, 1);
    raise(SIGKILL);
}

static void a_sender_that_dies_before_its_message_leaves_it_for_the_owner_to_find(void **state)
{
    uint32_t before = n_free();

    (void)state;
    for (uint32_t n_steps = 0; n_steps <= 2; n_steps++) {
        arena_co co = make(0), waits = make(1);
        int status;
        pid_t pid;

        assert_true(arena_suspend(&seg, waits, 1));
        pid = fork();
        if (pid == 0)
            die_after(n_steps, co, waits);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        arena_bury(&seg, 0, false);
        assert_int_equal(arena_enter(&seg, waits, 1), n_steps > 0);
        assert_int_equal(arena_enter(&seg, co, 1), n_steps > 1);
        arena_end(&seg, co, 1);
        arena_bury(&seg, 1, false); /* what still waits there */
        assert_int_equal(n_free(), before);
    }
}

/* ---- many hands ---- */

#define ROUNDS 2000

static uint32_t n_entered, n_done;
static arena_co shared_co;

/* Each shard: enters what is queued for it, and sends it on. Several messages, one enter. */
static void *hop(void *opaque)
{
    uint32_t self = (uint32_t)(uintptr_t)opaque;

    while (atomic_load_acquire(&n_done) < ROUNDS) {
        if (!arena_enter(&seg, shared_co, self)) {
            sched_yield();
            continue;
        }
        assert_int_equal(atomic_add_seq(&n_entered, 1), 0);
        atomic_add_seq(&n_entered, (uint32_t)-1);
        atomic_add_seq(&n_done, 1);
        assert_true(arena_move(&seg, shared_co, self, (self + 1) % N_SHARDS));
    }
    return NULL;
}

static void one_that_is_sent_about_is_never_in_two_hands(void **state)
{
    pthread_t threads[2 * N_SHARDS];

    (void)state;
    n_entered = n_done = 0;
    shared_co = make(0);
    assert_true(arena_move(&seg, shared_co, 0, 1));
    for (uintptr_t i = 0; i < 2 * N_SHARDS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hop, (void *)(i % N_SHARDS)), 0);
    for (uint32_t i = 0; i < 2 * N_SHARDS; i++)
        pthread_join(threads[i], NULL);
    assert_true(n_done >= ROUNDS);
}

static uint32_t n_kept_or_due;

static void *wake_often(void *opaque)
{
    uint32_t owner;

    (void)opaque;
    for (uint32_t i = 0; i < ROUNDS; i++)
        if (arena_wake(&seg, shared_co, 1, ARENA_WHERE_IT_IS, &owner) == ARENA_IS_DUE)
            atomic_add_seq(&n_kept_or_due, 1);
    return NULL;
}

static void every_wait_ends_by_one_wake_however_they_meet(void **state)
{
    pthread_t waker;
    uint32_t n_waits = 0;

    (void)state;
    n_kept_or_due = 0;
    shared_co = make(0);
    assert_int_equal(pthread_create(&waker, NULL, wake_often, NULL), 0);
    for (uint32_t i = 0; i < ROUNDS / 2; i++) {
        if (!arena_suspend(&seg, shared_co, 0))
            continue;
        n_waits++;
        while (arena_read(&seg, arena_slot_of(shared_co)).state == ARENA_SUSPENDED &&
               atomic_load_acquire(&n_kept_or_due) < n_waits) {
            uint32_t owner; /* the waker may be through */
            if (arena_wake(&seg, shared_co, 2, ARENA_WHERE_IT_IS, &owner) == ARENA_IS_DUE)
                atomic_add_seq(&n_kept_or_due, 1);
        }
        assert_true(arena_enter(&seg, shared_co, 0));
    }
    pthread_join(waker, NULL);
    assert_true(n_waits <= n_kept_or_due);
}

/* ---- guards ---- */

static void touch_and_exit(uint8_t *at, bool behind_the_firewall)
{
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
    if (behind_the_firewall && firewall_raise(&seg, 0) < 0)
        _exit(2);
    *(volatile uint8_t *)at = 1;
    _exit(0);
}

static bool survives_a_touch(uint8_t *at, bool behind_the_firewall)
{
    int status;
    pid_t pid = fork();

    if (pid == 0)
        touch_and_exit(at, behind_the_firewall);
    assert(waitpid(pid, &status, 0) == pid);
    if (WIFSIGNALED(status)) {
        assert(WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGBUS);
        return false;
    }
    assert(WEXITSTATUS(status) == 0);
    return true;
}

/* A marker is an entry of the page table; protection makes the page a map of its own. */
static bool is_map_of_its_own(const uint8_t *page)
{
    FILE *f = fopen("/proc/self/maps", "re");
    unsigned long low, high;
    char line[512], may[5] = "";
    bool found = false;

    assert(f);
    while (!found && fgets(line, sizeof(line), f))
        found = sscanf(line, "%lx-%lx %4s", &low, &high, may) == 3 && (uintptr_t)page >= low &&
                (uintptr_t)page < high;
    fclose(f);
    assert(found);
    return strncmp(may, "---", 3) == 0;
}

/* In this process, or in a child without cmocka. */
static void check_guards(bool by_protection)
{
    assert(arena_guard(&seg) == 0);
    assert(arena_guard(&seg) == 0);
    for (uint32_t slot = 0; slot < seg.geometry.n_portable; slot += 7) {
        uint8_t *guard = segment_stack(&seg, slot);

        assert(is_map_of_its_own(guard) == by_protection);
        for (int firewall = 0; firewall < 2; firewall++) {
            assert(!survives_a_touch(guard + SEGMENT_PAGE - 1, firewall));
            assert(survives_a_touch(guard + SEGMENT_PAGE, firewall));
            assert(survives_a_touch(guard + seg.geometry.stack_bytes - 1, firewall));
        }
    }
}

static void a_stack_begins_above_its_guard(void **state)
{
    arena_co co = make(0);
    uint8_t *low;

    (void)state;
    assert_int_equal(arena_stack(&seg, co, &low), seg.geometry.stack_bytes - SEGMENT_PAGE);
    assert_ptr_equal(low, segment_stack(&seg, arena_slot_of(co)) + SEGMENT_PAGE);
}

/* An emulator may take the advice and do nothing. */
static bool has_markers(void)
{
    void *page =
        mmap(NULL, SEGMENT_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bool has;

    assert(page != MAP_FAILED);
    has = madvise(page, SEGMENT_PAGE, MADV_GUARD_INSTALL) == 0 &&
          madvise(page, SEGMENT_PAGE, MADV_POPULATE_READ) < 0;
    munmap(page, SEGMENT_PAGE);
    return has;
}

static void guards_are_markers_that_a_child_inherits_and_the_firewall_keeps(void **state)
{
    (void)state;
    if (!has_markers())
        skip();
    check_guards(false);
}

static void guard_without_markers(void)
{
    if (!refuse_guard_markers())
        _exit(77);
    check_guards(true);
}

/* As above, but made by protection. */
static void without_markers_guards_are_protected_pages_that_do_the_same(void **state)
{
    char said[4096];
    int status;

    (void)state;
    if (!has_markers()) {
        check_guards(true);
        return;
    }
    status = run_in_child(guard_without_markers, said, sizeof(said));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip(); /* no filter of system calls here */
    assert_string_equal(said, "");
    assert_int_equal(status, 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_segment, close_segment)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(one_lives_from_its_creation_to_its_end_and_is_then_named_by_nothing),
        CASE(a_message_that_comes_twice_enters_once),
        CASE(a_wake_before_the_wait_is_kept_and_used_once),
        CASE(a_wake_on_the_way_is_kept_over_the_move),
        CASE(all_slots_are_used_by_whoever_needs_them_and_no_more_are_given),
        CASE(a_death_ends_what_ran_or_waited_there_and_keeps_what_is_on_its_way),
        CASE(what_is_on_its_way_to_one_given_up_goes_back_or_ends_with_its_sender),
        CASE(of_two_that_are_gone_neither_takes_what_is_between_them),
        CASE(a_sender_that_dies_before_its_message_leaves_it_for_the_owner_to_find),
        CASE(one_that_is_sent_about_is_never_in_two_hands),
        CASE(every_wait_ends_by_one_wake_however_they_meet),
        CASE(a_stack_begins_above_its_guard),
        CASE(guards_are_markers_that_a_child_inherits_and_the_firewall_keeps),
        CASE(without_markers_guards_are_protected_pages_that_do_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
