/* SPDX-License-Identifier: MIT */
/*
 * What coroutines cost beside a bare switch of stacks: Boost.Context's jump_fcontext() where its
 * library was there at build time, and always co_switch() alone and swapcontext().
 *
 * Round robin enters coroutine after coroutine; the baseline switches between as many bare stacks,
 * which lie as malloc() has them. In the last rows a repeat is one coroutine.
 */
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "runtime/aio.h"
#include "runtime/atomic.h"
#include "runtime/coroutine.h"
#include "runtime/coroutine_switch.h"
#include "runtime/instruments.h"
#include "tests/bench/compare.h"

#define MANY       16384
#define ALIVE      100000
#define BARE_BYTES ((size_t)16 * 1024)

static AioContext *ctx;
static Coroutine *yielder;
static Coroutine *all[ALIVE];
static uint64_t n_all;

static void *must(void *made)
{
    if (!made) {
        fprintf(stderr, "bench_coroutine: no memory\n");
        exit(1);
    }
    return made;
}

/* ---- baselines ---- */

static void *bare_outside;
static void *bare_inside;

static void bare_forever(void *opaque)
{
    for (;;)
        co_switch(&bare_inside, bare_outside);
}

static void bare_pair(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++)
        co_switch(&bare_outside, bare_inside);
}

static ucontext_t swap_outside;
static ucontext_t swap_inside;

static void swap_forever(void)
{
    for (;;)
        swapcontext(&swap_inside, &swap_outside);
}

static void swap_pair(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++)
        swapcontext(&swap_outside, &swap_inside);
}

#ifdef WITH_BOOST
/* As <boost/context/detail/fcontext.hpp> declares them, for C. */
struct transfer {
    void *from;
    void *data;
};
struct transfer jump_fcontext(void *to, void *data);
void *make_fcontext(void *top, size_t bytes, void (*entry)(struct transfer from));

#define FAST_NAME "jump_fcontext"
static void *boost_one;
static void *boost_all[MANY];
static char *boost_stack;

static void boost_forever(struct transfer from)
{
    for (;;)
        from = jump_fcontext(from.from, NULL);
}

static void *boost_new(void)
{
    char *stack = must(malloc(BARE_BYTES));

    return make_fcontext(stack + BARE_BYTES, BARE_BYTES, boost_forever);
}

static void fast_pair(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++)
        boost_one = jump_fcontext(boost_one, NULL).from;
}

static void fast_create(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++)
        jump_fcontext(make_fcontext(boost_stack + BARE_BYTES, BARE_BYTES, boost_forever), NULL);
}

static void fast_robin(uint64_t repeats, uint64_t n)
{
    for (uint64_t i = 0; i < repeats; i++)
        boost_all[i % n] = jump_fcontext(boost_all[i % n], NULL).from;
}

static void fast_prepare(void)
{
    boost_one = boost_new();
    boost_stack = must(malloc(BARE_BYTES));
    for (int i = 0; i < MANY; i++)
        boost_all[i] = boost_new();
}
#else
#define FAST_NAME "co_switch"
static void *bare_all[MANY];

static void bare_robin_forever(void *opaque)
{
    for (;;)
        co_switch(opaque, bare_outside);
}

static void fast_pair(uint64_t repeats)
{
    bare_pair(repeats);
}

static void fast_create(uint64_t repeats)
{
    static char stack[BARE_BYTES];

    for (uint64_t i = 0; i < repeats; i++) {
        bare_inside = co_switch_prepare(stack, sizeof stack, bare_forever, NULL);
        co_switch(&bare_outside, bare_inside);
    }
}

static void fast_robin(uint64_t repeats, uint64_t n)
{
    for (uint64_t i = 0; i < repeats; i++)
        co_switch(&bare_outside, bare_all[i % n]);
}

static void fast_prepare(void)
{
    for (int i = 0; i < MANY; i++)
        bare_all[i] = co_switch_prepare(
            must(malloc(BARE_BYTES)), BARE_BYTES, bare_robin_forever, &bare_all[i]);
}
#endif

static void fast_robin_4096(uint64_t repeats)
{
    fast_robin(repeats, 4096);
}

static void fast_robin_16384(uint64_t repeats)
{
    fast_robin(repeats, 16384);
}

/* ---- ours ---- */

static void coroutine_fn yield_forever(void *opaque)
{
    for (;;)
        coroutine_yield();
}

static void coroutine_fn do_nothing(void *opaque)
{
}

static void coroutine_fn yield_once(void *opaque)
{
    coroutine_yield();
}

static void enter_and_yield(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++)
        coroutine_enter(yielder);
}

/* Says once more what runs, as entering and leaving do: where all processes can read it. */
static void enter_and_yield_noted(uint64_t repeats)
{
    struct aio_instruments in;

    aio_context_instruments(ctx, &in);
    for (uint64_t i = 0; i < repeats; i++) {
        atomic_store_relaxed(in.running, i);
        coroutine_enter(yielder);
        atomic_store_relaxed(in.running, (uint64_t)0);
    }
}

static void create_run_end(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++)
        coroutine_enter(must(coroutine_create(do_nothing, NULL)));
}

static void schedule_and_poll(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++) {
        aio_co_schedule(ctx, yielder);
        aio_poll(ctx, false);
    }
}

static void robin(uint64_t repeats, uint64_t n)
{
    for (uint64_t i = 0; i < repeats; i++)
        coroutine_enter(all[i % n]);
}

static void robin_4096(uint64_t repeats)
{
    robin(repeats, 4096);
}

static void robin_16384(uint64_t repeats)
{
    robin(repeats, 16384);
}

static void coroutine_fn nest(void *opaque)
{
    uint64_t depth = (uint64_t)(uintptr_t)opaque;

    if (depth > 1)
        coroutine_enter(must(coroutine_create(nest, (void *)(uintptr_t)(depth - 1))));
}

static void nest_deep(uint64_t repeats)
{
    coroutine_enter(must(coroutine_create(nest, (void *)(uintptr_t)repeats)));
}

static void live_at_once(uint64_t repeats)
{
    static Coroutine *living[ALIVE];

    for (uint64_t i = 0; i < repeats; i++)
        coroutine_enter(living[i] = must(coroutine_create(yield_once, NULL)));
    for (uint64_t i = 0; i < repeats; i++)
        coroutine_enter(living[i]);
}

/* As many bare stacks, as far from each other as ours, and each switched to twice: what the memory
 * asks for. */
static void bare_yield_once(void *opaque)
{
    void **position = opaque;

    co_switch(position, bare_outside);
    co_switch(position, bare_outside);
}

static void bare_live_at_once(uint64_t repeats)
{
    static void *positions[ALIVE];
    static char *stacks;

    if (!stacks)
        stacks = mmap(NULL, ALIVE * COROUTINE_STACK_BYTES, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    must(stacks == MAP_FAILED ? NULL : stacks);
    for (uint64_t i = 0; i < repeats; i++) {
        positions[i] = co_switch_prepare(stacks + i * COROUTINE_STACK_BYTES,
            COROUTINE_STACK_BYTES - i % 32 * 64, bare_yield_once, &positions[i]);
        co_switch(&bare_outside, positions[i]);
    }
    for (uint64_t i = 0; i < repeats; i++)
        co_switch(&bare_outside, positions[i]);
}

/* ---- two threads ---- */

struct peer {
    AioContext *ctx;
    pthread_t thread;
    int stop;
    uint64_t line __attribute__((aligned(64)));
};

static struct peer peer;
static int hopped;

static void *poll_busily(void *opaque)
{
    aio_context_set_current(peer.ctx);
    while (!atomic_load_acquire(&peer.stop))
        aio_poll(peer.ctx, false);
    aio_context_set_current(NULL);
    return NULL;
}

static void coroutine_fn hop(void *opaque)
{
    uint64_t n = *(uint64_t *)opaque;

    for (uint64_t i = 0; i < n; i += 2) {
        aio_co_reschedule_self(peer.ctx);
        aio_co_reschedule_self(ctx);
    }
    hopped = 1;
}

static void hop_to_and_fro(uint64_t repeats)
{
    hopped = 0;
    coroutine_enter(must(coroutine_create(hop, &repeats)));
    while (!hopped)
        aio_poll(ctx, false);
}

static void *answer_line(void *opaque)
{
    for (uint64_t i = 1; i < UINT64_MAX; i += 2) {
        while (atomic_load_acquire(&peer.line) < i)
            atomic_pause();
        if (atomic_load_acquire(&peer.line) == UINT64_MAX)
            return NULL;
        atomic_store_release(&peer.line, i + 1);
    }
    return NULL;
}

static void line_to_and_fro(uint64_t repeats)
{
    pthread_t thread;

    atomic_store_release(&peer.line, (uint64_t)0);
    if (pthread_create(&thread, NULL, answer_line, NULL) != 0)
        exit(1);
    for (uint64_t i = 0; i < repeats; i += 2) {
        atomic_store_release(&peer.line, i + 1);
        while (atomic_load_acquire(&peer.line) != i + 2)
            atomic_pause();
    }
    atomic_store_release(&peer.line, UINT64_MAX);
    pthread_join(thread, NULL);
}

/* Two threads that poll busily on one core would wait for each other's time slices to end. */
static bool has_two_cores(void)
{
    cpu_set_t mine;

    return sched_getaffinity(0, sizeof mine, &mine) == 0 && CPU_COUNT(&mine) >= 2;
}

static void compare_hops(void)
{
    if (!has_two_cores() || aio_context_new(NULL, &peer.ctx) != 0)
        return;
    if (pthread_create(&peer.thread, NULL, poll_busily, NULL) != 0)
        exit(1);
    compare_row(&(struct compare){.what = "hop to another thread",
        .run = hop_to_and_fro,
        .repeats = 2000,
        .rounds = 51,
        .goal = {.most_ns = 500}});
    atomic_store_release(&peer.stop, 1);
    pthread_join(peer.thread, NULL);
    compare_row(&(struct compare){.what = "a cache line to another thread",
        .run = line_to_and_fro,
        .repeats = 2000,
        .rounds = 51});
    aio_context_unref(peer.ctx);
}

/* ---- memory ---- */

static long resident_pages(void)
{
    long total, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    if (!f || fscanf(f, "%ld %ld", &total, &resident) != 2)
        resident = 0;
    if (f)
        fclose(f);
    return resident;
}

/* First of all, while no stack is pooled. */
static double bytes_of_each(void)
{
    long before = resident_pages();

    for (; n_all < ALIVE; n_all++)
        coroutine_enter(all[n_all] = must(coroutine_create(yield_forever, NULL)));
    return (double)(resident_pages() - before) * (double)sysconf(_SC_PAGESIZE) / ALIVE;
}

static void prepare(void)
{
    static char swap_stack[64 * 1024];
    static char bare_stack[BARE_BYTES];

    if (aio_context_new(NULL, &ctx) != 0 || getcontext(&swap_inside) != 0)
        exit(1);
    aio_context_set_current(ctx);
    swap_inside.uc_stack.ss_sp = swap_stack;
    swap_inside.uc_stack.ss_size = sizeof swap_stack;
    makecontext(&swap_inside, swap_forever, 0);
    bare_inside = co_switch_prepare(bare_stack, sizeof bare_stack, bare_forever, NULL);
    fast_prepare();
    yielder = must(coroutine_create(yield_forever, NULL));
}

int main(void)
{
    /* Rounds are short, so that most of them pass without an interruption by others. */
    static const struct compare rows[] = {
        {"enter + yield", enter_and_yield, FAST_NAME " pair", fast_pair, 20000, 0, 101,
            {.most_ns = 12, .most_ratio = 1.6}},
        {"enter + yield", enter_and_yield, "swapcontext pair", swap_pair, 20000, 2000, 101, {0}},
        {"enter + yield, `running` noted twice", enter_and_yield_noted, "once", enter_and_yield,
            20000, 0, 101, {.text = "at most 2 ns more"}},
        {"co_switch pair", bare_pair, FAST_NAME " pair", fast_pair, 20000, 0, 101, {0}},
        {"create, run, end", create_run_end, FAST_NAME " the same", fast_create, 10000, 0, 101,
            {.most_ns = 30, .most_ratio = 3.5}},
        {"schedule, poll, enter, yield", schedule_and_poll, NULL, NULL, 5000, 0, 101, {0}},
        {"enter + yield, 4,096 in turn", robin_4096, FAST_NAME " in turn", fast_robin_4096, 16384,
            0, 101, {0}},
        {"enter + yield, 16,384 in turn", robin_16384, FAST_NAME " in turn", fast_robin_16384,
            16384, 0, 101, {0}},
        {"nested 100 deep, each", nest_deep, NULL, NULL, 100, 0, 101, {0}},
        {"nested 10,000 deep, each", nest_deep, NULL, NULL, 10000, 0, 15, {.text = "as 100 deep"}},
        {"1,000 alive, each", live_at_once, "co_switch, as many", bare_live_at_once, 1000, 0, 101,
            {0}},
        {"10,000 alive, each", live_at_once, "co_switch, as many", bare_live_at_once, 10000, 0, 15,
            {.text = "as 1,000"}},
        {"100,000 alive, each", live_at_once, "co_switch, as many", bare_live_at_once, ALIVE, 0, 5,
            {.text = "as 1,000"}},
    };

    prepare();
    double bytes = bytes_of_each();
    compare_head();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        compare_row(&rows[i]);
    compare_hops();
    printf("a coroutine that yields at once takes %.0f bytes, of pages of %ld\n", bytes,
        sysconf(_SC_PAGESIZE));
    return compare_end();
}
