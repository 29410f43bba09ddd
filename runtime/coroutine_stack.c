/* SPDX-License-Identifier: MIT */
#include "runtime/coroutine_stack.h"
/*
 * Each thread has a pool: a list of idle stacks for each power of two. Last in, first out: the
 * stack given back last is the one in the cache. Another thread gives a stack back by pushing it
 * onto `returned` of the pool it came from, which the owner takes whole when a list of its own is
 * empty; so where one thread makes coroutines and another ends them, stacks neither pile up in the
 * one nor are mapped anew in the other.
 *
 * `refs` decides who frees a pool: OPEN minus those returned and not collected yet. The end of the
 * thread replaces OPEN by the number still out; each given back later takes 1, and whoever reaches
 * 0 frees. `returned` is then CLOSED, and what comes back is unmapped.
 *
 * How many a pool keeps follows its use: as many as were out at once, forgotten slowly
 * (DECAY_ROUNDS), so that ten thousand at once are cheap every time, and a single burst is not paid
 * for ever.
 *
 * The guard page is a marker in the page table where the kernel has MADV_GUARD_INSTALL:
 * neighbouring stacks then share one map, and 100,000 of them are no matter. Else mprotect() makes
 * it a map of its own, two for each stack; beyond vm.max_map_count the kernel would refuse any map
 * to anybody, malloc() included, so they are bounded below that. Which it is, a thread finds out
 * with its first stack. An emulator may accept advice that it does not know, so the guard must also
 * be seen to work.
 *
 * Stacks begin at offsets of their page that differ (COLOURS): else the busiest lines of all of
 * them would compete for the same few sets of the cache.
 *
 * MAP_STACK keeps transparent huge pages away (kernel 6.7), which would make a touched stack cost
 * 2 MiB once neighbours share a map.
 *
 * Orderings  first                 then                   ordered by               if broken
 *   BACK     last use of a stack   its next use           push CAS, take xchg      two on one stack
 *   HINT     -                     -                      none: the CAS decides    -
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "runtime/coroutine.h"
#include "runtime/coroutine_sanitize.h"
#include "runtime/kernel.h"

#define MIN_STACK_BYTES ((size_t)16 * 1024)
#define MAX_STACK_BYTES ((size_t)1 << 40)
#define N_CLASSES       10 /* 16 KiB to 8 MiB */
#define DEFAULT_CLASS   4  /* COROUTINE_STACK_BYTES */
#define CACHE_LINE      64
#define COLOURS         32   /* cache lines; half a page, so that a shallow stack stays in one */
#define DECAY_ROUNDS    4    /* times the limit: stacks given back between two looks at it */
#define MIN_DECAY       4096 /* and at least so many */
#define OPEN            ((uint32_t)1 << 31)
#define MAX_MAP_COUNT   65530 /* the kernel's default, where /proc does not tell */

enum guard { GUARD_UNKNOWN, GUARD_MARKER, GUARD_MPROTECT };

struct co_stack_pool {
    /* Any thread. */
    uint32_t refs;
    struct co_stack *returned;

    /* Its own thread. */
    struct co_stack *idle[N_CLASSES] __attribute__((aligned(CACHE_LINE)));
    uint32_t n_idle;
    uint32_t n_owned; /* idle, in use, or returned and not collected */
    uint32_t limit;   /* of n_idle */
    uint32_t max;     /* of limit */
    uint32_t n_given; /* since the last look at the limit */
    uint32_t n_mapped;
    uint32_t max_mprotected; /* of n_mprotected, with GUARD_MPROTECT */
    enum guard guard;
};

/* In a pool's `returned` when its thread has ended. */
static struct co_stack closed;
#define CLOSED (&closed)

/* The number of a key, made once: a constant from then on. */
static pthread_key_t exit_key;
static pthread_once_t exit_key_once = PTHREAD_ONCE_INIT;

/* Guards made by mprotect(), in all threads: what they use up belongs to the process. */
static uint32_t n_mprotected;

/* Read and written by functions alone that are never inlined: a coroutine that moved to another
 * thread must not keep its address. */
static __thread struct co_stack_pool *this_pool;
#define USES_THIS_POOL __attribute__((noinline))

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static_assert(MIN_STACK_BYTES << DEFAULT_CLASS == COROUTINE_STACK_BYTES, "the default has a class");

/* N_CLASSES and more: too large to be kept. */
static uint32_t class_of(size_t bytes)
{
    uint32_t class = 0;

    while (class < N_CLASSES && MIN_STACK_BYTES << class < bytes)
        class ++;
    return class;
}

/* ---- guards ---- */

/* A quarter of the maps stays for others; a guarded stack takes two. */
static uint32_t max_mprotected(void)
{
    unsigned max_maps = MAX_MAP_COUNT;
    FILE *f = fopen("/proc/sys/vm/max_map_count", "re");

    if (f) {
        if (fscanf(f, "%u", &max_maps) != 1)
            max_maps = MAX_MAP_COUNT;
        fclose(f);
    }
    return max_maps / 8 * 3;
}

static bool guard_works(void *page, size_t bytes)
{
    return madvise(page, bytes, MADV_POPULATE_READ) != 0;
}

static bool guard_by_mprotect(const struct co_stack_pool *pool, void *page, size_t bytes)
{
    if (atomic_add_seq(&n_mprotected, 1) >= pool->max_mprotected) {
        atomic_add_seq(&n_mprotected, -1);
        errno = ENOMEM;
        return false;
    }
    if (mprotect(page, bytes, PROT_NONE) == 0)
        return true;
    atomic_add_seq(&n_mprotected, -1);
    return false;
}

static bool install_guard(struct co_stack_pool *pool, void *page, size_t bytes)
{
    if (pool->guard == GUARD_UNKNOWN) {
        bool marker = madvise(page, bytes, MADV_GUARD_INSTALL) == 0 && guard_works(page, bytes);

        pool->guard = marker ? GUARD_MARKER : GUARD_MPROTECT;
        pool->max_mprotected = marker ? 0 : max_mprotected();
    }
    if (pool->guard == GUARD_MARKER)
        return madvise(page, bytes, MADV_GUARD_INSTALL) == 0;
    return guard_by_mprotect(pool, page, bytes);
}

bool co_stack_guards(const struct co_stack *stack, const void *address)
{
    const char *at = address;

    return at < stack->low && at >= stack->low - page_bytes();
}

/* ---- maps ---- */

static struct co_stack *map(struct co_stack_pool *pool, size_t bytes)
{
    size_t page = page_bytes();
    char *base = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);

    if (base == MAP_FAILED)
        return NULL;
    if (!install_guard(pool, base, page)) {
        int error = errno;

        munmap(base, bytes + page);
        errno = error;
        return NULL;
    }
    char *low = base + page;
    size_t colour = (size_t)(pool->n_mapped++ % COLOURS) * CACHE_LINE;
    struct co_stack *stack = (void *)(low + bytes - colour - sizeof *stack);
    *stack = (struct co_stack){.low = low, .bytes = bytes, .home = pool};
    return stack;
}

/* Where the kernel has no map left to cut the hole with, the pages alone are freed, and the
 * addresses are lost. */
static void unmap(struct co_stack *stack, enum guard guard)
{
    size_t page = page_bytes();
    char *low = stack->low;
    size_t bytes = stack->bytes;

    co_sanitize_stack_used(low, bytes);
    if (munmap(low - page, bytes + page) == 0) {
        if (guard == GUARD_MPROTECT)
            atomic_add_seq(&n_mprotected, -1);
    } else if (madvise(low, bytes, MADV_DONTNEED) != 0) {
        bug("a coroutine stack at %p is not mapped", (void *)low);
    }
}

/* ---- a thread's pool ---- */

/* Keeps n, of the smallest. Returns whether there were more. */
static bool drop_idle(struct co_stack_pool *pool, uint32_t n)
{
    uint32_t before = pool->n_owned;

    for (uint32_t class = N_CLASSES; class -- > 0;) {
        while (pool->idle[class] && pool->n_idle > n) {
            struct co_stack *stack = pool->idle[class];

            pool->idle[class] = stack->next;
            unmap(stack, pool->guard);
            pool->n_idle--;
            pool->n_owned--;
        }
    }
    return pool->n_owned < before;
}

static void keep_or_unmap(struct co_stack_pool *pool, struct co_stack *stack)
{
    uint32_t class = class_of(stack->bytes);

    if (class >= N_CLASSES || pool->n_idle >= pool->limit) {
        pool->n_owned--;
        unmap(stack, pool->guard);
        return;
    }
    stack->next = pool->idle[class];
    pool->idle[class] = stack;
    pool->n_idle++;
    co_sanitize_stack_idle(stack->low, co_stack_bytes(stack));
}

/* Takes over what other threads gave back; from then on they find `next_returned`. */
static void collect(struct co_stack_pool *pool, struct co_stack *next_returned)
{
    struct co_stack *stack = atomic_xchg_seq(&pool->returned, next_returned); /* BACK */
    uint32_t n = 0;

    for (; stack; n++) {
        struct co_stack *next = stack->next;

        keep_or_unmap(pool, stack);
        stack = next;
    }
    atomic_add_seq(&pool->refs, n);
}

/* The thread ends. */
static void close_pool(void *opaque)
{
    struct co_stack_pool *pool = opaque;

    this_pool = NULL;
    collect(pool, CLOSED);
    drop_idle(pool, 0);
    if (atomic_add_seq(&pool->refs, pool->n_owned - OPEN) == OPEN - pool->n_owned)
        free(pool);
}

static void make_exit_key(void)
{
    if (pthread_key_create(&exit_key, close_pool) != 0)
        bug("no thread-specific key left for coroutine stacks");
}

/* This thread's pool, made at first use. NULL with errno where there is no memory. */
static struct co_stack_pool *open_pool(void)
{
    struct co_stack_pool *pool = aligned_alloc(CACHE_LINE, sizeof *pool);

    if (!pool)
        return NULL;
    *pool =
        (struct co_stack_pool){.refs = OPEN, .limit = CO_STACK_POOL_MIN, .max = COROUTINE_POOL_MAX};
    pthread_once(&exit_key_once, make_exit_key);
    int error = pthread_setspecific(exit_key, pool);
    if (error != 0) {
        free(pool);
        errno = error;
        return NULL;
    }
    this_pool = pool;
    return pool;
}

/* ---- taking ---- */

static struct co_stack *pop_idle(struct co_stack_pool *pool, uint32_t class)
{
    struct co_stack *stack = pool->idle[class];

    if (!stack)
        return NULL;
    pool->idle[class] = stack->next;
    pool->n_idle--;
    co_sanitize_stack_used(stack->low, co_stack_bytes(stack));
    return stack;
}

static inline void raise_limit(struct co_stack_pool *pool, uint32_t n)
{
    if (pool->limit < n && pool->limit < pool->max)
        pool->limit = n < pool->max ? n : pool->max;
}

/* None is idle here: one that others gave back, or a new one. */
static struct co_stack *fetch(struct co_stack_pool *pool, uint32_t class, size_t bytes)
{
    if (atomic_load_relaxed(&pool->returned)) { /* HINT */
        collect(pool, NULL);
        struct co_stack *stack = class < N_CLASSES ? pop_idle(pool, class) : NULL;
        if (stack)
            return stack;
    }
    struct co_stack *stack = map(pool, bytes);
    if (!stack && errno == ENOMEM && drop_idle(pool, 0))
        stack = map(pool, bytes);
    if (stack)
        pool->n_owned++;
    return stack;
}

USES_THIS_POOL __attribute__((cold)) static struct co_stack *take_slowly(
    uint32_t class, size_t bytes)
{
    struct co_stack_pool *pool = this_pool ? this_pool : open_pool();
    size_t page = page_bytes();

    if (!pool)
        return NULL;
    if (bytes > MAX_STACK_BYTES) {
        errno = EINVAL;
        return NULL;
    }
    bytes = class < N_CLASSES ? MIN_STACK_BYTES << class : (bytes + page - 1) / page * page;
    struct co_stack *stack = fetch(pool, class, bytes);
    raise_limit(pool, pool->n_owned);
    return stack;
}

USES_THIS_POOL struct co_stack *co_stack_take(size_t bytes)
{
    struct co_stack_pool *pool = this_pool;
    uint32_t class = bytes ? class_of(bytes) : DEFAULT_CLASS;
    struct co_stack *stack = pool && class < N_CLASSES ? pop_idle(pool, class) : NULL;

    if (!stack)
        return take_slowly(class, bytes);
    raise_limit(pool, pool->n_owned - pool->n_idle);
    return stack;
}

/* ---- giving back ---- */

static void forget_a_little(struct co_stack_pool *pool)
{
    pool->limit -= pool->limit / 16;
    raise_limit(pool, CO_STACK_POOL_MIN);
    raise_limit(pool, pool->n_owned - pool->n_idle);
}

/* From another thread than its own: the last that this one does with the pool is to count it. */
static void send_home(struct co_stack *stack)
{
    struct co_stack_pool *pool = stack->home;
    enum guard guard = pool->guard;
    struct co_stack *first = atomic_load_relaxed(&pool->returned); /* HINT */

    co_sanitize_stack_idle(stack->low, co_stack_bytes(stack));
    do {
        if (first == CLOSED) {
            unmap(stack, guard);
            break;
        }
        stack->next = first;
    } while (!atomic_cas_seq(&pool->returned, &first, stack)); /* BACK */
    if (atomic_add_seq(&pool->refs, -1) == 1)
        free(pool);
}

USES_THIS_POOL void co_stack_give(struct co_stack *stack)
{
    struct co_stack_pool *pool = this_pool;

    if (stack->home != pool) {
        send_home(stack);
        return;
    }
    if (++pool->n_given >= MIN_DECAY && pool->n_given / DECAY_ROUNDS >= pool->limit) {
        pool->n_given = 0;
        forget_a_little(pool);
    }
    keep_or_unmap(pool, stack);
}

USES_THIS_POOL int coroutine_pool_set_max(uint32_t n_stacks)
{
    struct co_stack_pool *pool = this_pool ? this_pool : open_pool();

    if (!pool)
        return -ENOMEM;
    pool->max = n_stacks;
    if (pool->limit > n_stacks)
        pool->limit = n_stacks;
    collect(pool, NULL);
    drop_idle(pool, n_stacks);
    return 0;
}

/* ---- how deep ---- */

size_t co_stack_high_water(const struct co_stack *stack)
{
    size_t page = page_bytes();
    size_t n_pages = stack->bytes / page;
    unsigned char touched[256];

    for (size_t first = 0; first < n_pages; first += sizeof touched) {
        size_t n = n_pages - first < sizeof touched ? n_pages - first : sizeof touched;

        if (mincore(stack->low + first * page, n * page, touched) != 0)
            bug("a coroutine stack at %p is not mapped", (void *)stack->low);
        for (size_t i = 0; i < n; i++)
            if (touched[i] & 1)
                return stack->bytes - (first + i) * page;
    }
    return 0;
}
