/* SPDX-License-Identifier: MIT */
#include "tests/explore/inside.h"
/*
 * Each thread of the scenario is a fiber on a stack of its own. Before each of its steps the
 * running one asks who steps next; where that is another, it switches to it. A run ends when all
 * have ended, when one fails, when all sleep, or when the search has seen its state before; fibers
 * that have not ended are simply never gone on with.
 *
 * The state of a run is told by one hash: the sum of what each thread has seen (which, the source
 * being deterministic, says where it stands) and of each location's history.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/coroutine_switch.h"

#define STACK_BYTES      (64 * 1024)
#define MAX_STEPS        20000
#define MAX_THREAD_BYTES 64

enum fiber_state { ABSENT, READY, ASLEEP, ENDED, CRASHED };

struct fiber {
    const struct explorer_thread *thread;
    enum fiber_state state;
    uint32_t pauses_for; /* it spins: these step first, each a bit */
    const void *waits_for;
    const char *waits_how;
    bool waits_for_time; /* too */
    bool may_crash;
    void *position;
    uint64_t hash;
    uint8_t locals[MAX_THREAD_BYTES];
};

static struct {
    const struct scenario *scenario;
    struct explorer_bounds left;
    struct fiber fibers[MAX_FIBERS];
    uint32_t self;
    uint32_t n_steps;
    uint64_t hash; /* of all that is not a fiber's */
    void *outside; /* the position of run_once() */
    enum run_result result;
    char failure[512];
    void *locals;
    size_t locals_bytes;
    const struct atomic_site *site; /* where the next step is; NULL: at none */
} r;

static char stacks[MAX_FIBERS][STACK_BYTES] __attribute__((aligned(4096)));

const char *run_failure(void)
{
    return r.failure;
}

uint32_t run_steps(void)
{
    return r.n_steps;
}

uint32_t run_self(void)
{
    return r.self;
}

uint32_t explorer_self(void)
{
    return r.self - 1;
}

const char *run_name(uint32_t fiber)
{
    return fiber == SETUP ? "begin or end" : r.fibers[fiber].thread->name;
}

void explorer_thread_local(void *address, size_t bytes)
{
    if (bytes > MAX_THREAD_BYTES)
        explorer_fail("thread-local variables of more than %d bytes", MAX_THREAD_BYTES);
    r.locals = address;
    r.locals_bytes = bytes;
    plain_ignore(address, bytes);
    for (uint32_t f = 0; f < MAX_FIBERS; f++)
        memcpy(r.fibers[f].locals, address, bytes);
}

/* ---- histories ---- */

uint64_t run_note(uint64_t what)
{
    return r.fibers[r.self].hash = mix(r.fibers[r.self].hash, what);
}

void run_note_global(uint64_t difference)
{
    r.hash ^= difference;
}

static uint64_t state_hash(void)
{
    uint64_t hash = r.hash;

    for (uint32_t f = 1; f < MAX_FIBERS; f++) {
        const struct fiber *fiber = &r.fibers[f];

        hash = mix(hash, fiber->hash + fiber->state + 8 * fiber->pauses_for);
    }
    hash = mix(hash, r.self);
    return mix(hash, (uint64_t)r.left.stale_loads << 32 | r.left.crashes);
}

/* ---- the end of a run ---- */

__attribute__((noreturn)) static void leave(enum run_result result)
{
    void *never;

    r.result = result;
    r.self = SETUP;
    co_switch(&never, r.outside);
    abort();
}

void explorer_fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(r.failure, sizeof r.failure, format, args);
    va_end(args);
    leave(RUN_FAILED);
}

/* The source under test went astray, as a mutant may: a failure like any other. */
static void on_fault(int signal, siginfo_t *info, void *context)
{
    explorer_fail("%s touches %p, where nothing is", run_name(r.self), info->si_addr);
}

void run_catch_faults(void)
{
    static char stack[64 * 1024];
    const stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
    const struct sigaction action = {
        .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

    sigaltstack(&alternative, NULL);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
}

/* All that are left sleep, and nobody will wake them. */
static void fail_asleep(void)
{
    char text[400];
    size_t n = 0;

    for (uint32_t f = 1; f < MAX_FIBERS && n < sizeof text; f++)
        if (r.fibers[f].state == ASLEEP)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%s waits for %s", n ? ", " : "",
                run_name(f), r.fibers[f].waits_how);
    explorer_fail("asleep for ever: %s", text);
}

/* ---- who steps next ---- */

static bool can_step(uint32_t f)
{
    return r.fibers[f].state == READY && r.fibers[f].pauses_for == 0;
}

/* Nobody pauses for these any more. */
static void unpause(uint32_t bits)
{
    for (uint32_t f = 1; f < MAX_FIBERS; f++)
        r.fibers[f].pauses_for &= ~bits;
}

static uint32_t ready_bits(void)
{
    uint32_t bits = 0;

    for (uint32_t f = 1; f < MAX_FIBERS; f++)
        bits |= (uint32_t)(r.fibers[f].state == READY) << f;
    return bits;
}

/* Those who can step, the running one first; others only where it can't, or where the budget allows
 * leaving it. */
static uint32_t list_next(uint32_t *list)
{
    uint32_t n = 0;

    if (can_step(r.self))
        list[n++] = r.self;
    for (uint32_t f = 1; f < MAX_FIBERS && (n == 0 || list[0] != r.self || r.left.preemptions > 0);
         f++)
        if (f != r.self && can_step(f))
            list[n++] = f;
    return n;
}

static bool all_ended(void)
{
    for (uint32_t f = 1; f < MAX_FIBERS; f++)
        if (r.fibers[f].state == READY || r.fibers[f].state == ASLEEP)
            return false;
    return true;
}

static void switch_to(uint32_t f)
{
    struct fiber *from = &r.fibers[r.self];

    if (f == r.self)
        return;
    memcpy(from->locals, r.locals, r.locals_bytes);
    memcpy(r.locals, r.fibers[f].locals, r.locals_bytes);
    r.self = f;
    co_switch(&from->position, r.fibers[f].position);
}

/* Where nothing else goes on, those wake who wait for a time. */
static bool let_time_pass(void)
{
    bool some = false;

    for (uint32_t f = 1; f < MAX_FIBERS; f++) {
        struct fiber *fiber = &r.fibers[f];

        if (fiber->state != ASLEEP || !fiber->waits_for_time)
            continue;
        fiber->state = READY;
        some = true;
    }
    return some;
}

static bool is_in(const struct atomic_site *site, const char *function_or_file)
{
    const char *slash = strrchr(site->file, '/');

    return strcmp(function_or_file, site->function) == 0 ||
           strcmp(function_or_file, slash ? slash + 1 : site->file) == 0;
}

/* Whether the running thread stops for ever, here. */
static bool choose_crash(void)
{
    struct fiber *self = &r.fibers[r.self];

    if (!self->may_crash || r.left.crashes == 0)
        return false;
    if (self->thread->crashes_in && !(r.site && is_in(r.site, self->thread->crashes_in)))
        return false;
    if (search_choose(2) == 0)
        return false;
    r.left.crashes--;
    trace_note("stops for ever");
    run_note(2);
    self->state = CRASHED;
    run_wake(&run_failure, UINT32_MAX);
    return true;
}

static void go_on(void)
{
    uint32_t list[MAX_FIBERS];
    uint32_t n;

    unpause(1u << r.self | ~ready_bits());
    n = list_next(list);
    if (n == 0) {
        unpause(UINT32_MAX);
        n = list_next(list);
    }
    if (n == 0 && all_ended())
        leave(RUN_ENDED);
    if (n == 0 && !let_time_pass())
        fail_asleep();
    if (n == 0)
        n = list_next(list);
    if (search_was_here(state_hash(), r.left.preemptions))
        leave(RUN_CUT);
    uint32_t next = list[n == 1 ? 0 : search_choose(n)];

    if (next != r.self && can_step(r.self))
        r.left.preemptions--;
    switch_to(next);
}

void run_point_at(const struct atomic_site *site)
{
    r.site = site;
    run_point();
}

void run_point(void)
{
    if (r.self == SETUP)
        return;
    if (++r.n_steps > MAX_STEPS)
        explorer_fail("no end after %d steps", MAX_STEPS);
    choose_crash();
    r.site = NULL; /* others come in */
    go_on();
}

void explorer_step(void)
{
    run_point();
    run_note(4);
}

void run_pause(void)
{
    if (r.self == SETUP)
        return;
    run_point();
    run_note(3);
    r.fibers[r.self].pauses_for = ready_bits() & ~(1u << r.self);
    go_on();
}

/* ---- sleep ---- */

static void block(const void *key, const char *what, bool for_time)
{
    struct fiber *self = &r.fibers[r.self];

    if (r.self == SETUP)
        explorer_fail("begin() or end() waits for %s", what);
    self->waits_for = key;
    self->waits_how = what;
    self->waits_for_time = for_time;
    trace_note("sleeps: %s", what);
    if (!choose_crash())
        self->state = ASLEEP;
    go_on();
}

void run_block(const void *key, const char *what)
{
    block(key, what, false);
}

void run_block_or_idle(const void *key, const char *what)
{
    block(key, what, true);
    run_note(5);
}

void run_block_for_time(const void *key, const char *what)
{
    if (search_choose(2) == 0)
        block(key, what, true);
    else
        trace_note("its time is over: %s", what);
}

/* Those that wait for the key, in their order. */
static uint32_t list_waiting(const void *key, uint32_t *list)
{
    uint32_t n = 0;

    for (uint32_t f = 1; f < MAX_FIBERS; f++)
        if (r.fibers[f].state == ASLEEP && r.fibers[f].waits_for == key)
            list[n++] = f;
    return n;
}

uint32_t run_wake(const void *key, uint32_t n)
{
    uint32_t list[MAX_FIBERS];
    uint32_t n_woken = 0;

    for (; n_woken < n; n_woken++) {
        uint32_t n_waiting = list_waiting(key, list);

        if (n_waiting == 0)
            break;
        uint32_t all = n_waiting <= n - n_woken; /* then their order is no matter */
        uint32_t f = list[all ? 0 : search_choose(n_waiting)];

        r.fibers[f].state = READY;
        run_note(f);
    }
    return n_woken;
}

static bool can_crash(uint32_t bits)
{
    for (uint32_t f = 1; f < MAX_FIBERS; f++)
        if (bits & 1u << f && r.fibers[f].thread && r.fibers[f].thread->may_crash &&
            r.fibers[f].state != ENDED)
            return true;
    return false;
}

/* Who sees that a thread has died sees all that it did. */
static bool see_crash(uint32_t bits)
{
    for (uint32_t f = 1; f < MAX_FIBERS; f++)
        if (bits & 1u << f && r.fibers[f].state == CRASHED) {
            learn(memory_knowledge(r.self), memory_knowledge(f));
            return true;
        }
    return false;
}

static bool wait_for_crash(uint32_t bits)
{
    while (!see_crash(bits)) {
        if (!can_crash(bits))
            return false;
        run_block(&run_failure, "a crash");
    }
    return true;
}

bool explorer_wait_for_crash(void)
{
    return wait_for_crash(UINT32_MAX);
}

bool explorer_wait_for_crash_of(uint32_t thread)
{
    return wait_for_crash(1u << (thread + 1));
}

void explorer_wait_for_end_of(uint32_t thread)
{
    const struct fiber *fiber = &r.fibers[thread + 1];

    while (fiber->state != ENDED && fiber->state != CRASHED)
        run_block(&run_failure, "an end");
    learn(memory_knowledge(r.self), memory_knowledge(thread + 1));
}

void explorer_may_crash(bool may)
{
    if (r.self == SETUP)
        return;
    r.fibers[r.self].may_crash = may && r.fibers[r.self].thread->may_crash;
}

/* ---- stale loads ---- */

bool run_may_be_stale(void)
{
    return r.left.stale_loads > 0;
}

void run_spend_stale(void)
{
    r.left.stale_loads--;
}

/* ---- a run ---- */

static void run_fiber(void *opaque)
{
    struct fiber *self = opaque;

    self->thread->run();
    memory_settle();
    trace_note("ends");
    self->state = ENDED;
    run_wake(&run_failure, UINT32_MAX);
    go_on();
    abort();
}

static void prepare(const struct scenario *scenario, const struct explorer_bounds *bounds)
{
    memset(&r, 0, sizeof r);
    r.scenario = scenario;
    r.left = *bounds;
    world_reset();
    plain_reset();
    for (uint32_t i = 0; i < EXPLORER_MAX_THREADS && scenario->threads[i].run; i++) {
        struct fiber *fiber = &r.fibers[i + 1];

        fiber->thread = &scenario->threads[i];
        fiber->may_crash = fiber->thread->may_crash;
        fiber->state = READY;
        fiber->hash = mix(i, 1);
        fiber->position = co_switch_prepare(stacks[i + 1], STACK_BYTES, run_fiber, fiber);
    }
}

static uint32_t choose_first(void)
{
    uint32_t n = (uint32_t)__builtin_popcount(ready_bits());

    return 1 + (n == 1 ? 0 : search_choose(n));
}

/* begin(), the threads and end(), on the stack of the first fiber. */
static void run_all(void *opaque)
{
    void *never;

    if (r.scenario->begin)
        r.scenario->begin();
    r.result = RUN_ENDED;
    co_switch(&r.fibers[SETUP].position, r.outside);
    if (r.scenario->end)
        r.scenario->end();
    co_switch(&never, r.outside);
    abort();
}

static bool go_to(void *position)
{
    co_switch(&r.outside, position);
    return r.result == RUN_ENDED;
}

enum run_result run_once(const struct scenario *scenario, const struct explorer_bounds *bounds)
{
    prepare(scenario, bounds);
    if (!go_to(co_switch_prepare(stacks[SETUP], STACK_BYTES, run_all, NULL)))
        return r.result;
    for (uint32_t f = 1; f < MAX_FIBERS; f++)
        memory_begin_fiber(f);
    for (uint32_t f = 1; f < MAX_FIBERS; f++)
        memcpy(r.fibers[f].locals, r.locals, r.locals_bytes);
    r.self = choose_first();
    if (!go_to(r.fibers[r.self].position))
        return r.result;
    for (uint32_t f = 1; f < MAX_FIBERS; f++)
        memory_end_fiber(f);
    go_to(r.fibers[SETUP].position);
    return r.result;
}
