/* SPDX-License-Identifier: MIT */
#include "runtime/coroutine_stack.h"
/*
 * Stacks of the default size that nobody uses form a list of the thread that gave them back, linked
 * through their topmost word, which is in a page that was touched anyway. Last in, first out: the
 * stack given back last is the one in the cache.
 *
 * The guard page is a marker in the page table where the kernel has MADV_GUARD_INSTALL:
 * neighbouring stacks then share one map, and 100,000 of them are no matter. Else mprotect() makes
 * it a map of its own, two for each stack, and vm.max_map_count (65,530) ends it near 32,700
 * stacks. Which it is, a thread finds out with its first stack. An emulator may accept advice that
 * it does not know, so the guard must also be seen to work.
 *
 * Unmapping from the middle of a shared map cuts it in two, which the kernel refuses once there are
 * vm.max_map_count pieces. Such a stack gives up its pages and stays in the list beyond the limit,
 * or where it is of another size, its addresses are lost.
 *
 * MAP_STACK keeps transparent huge pages away (kernel 6.7), which would make a touched stack cost
 * 2 MiB once neighbours share a map.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/bug.h"
#include "runtime/coroutine.h"
#include "runtime/coroutine_sanitize.h"
#include "runtime/kernel.h"

#define MIN_STACK_BYTES ((size_t)16 * 1024)
#define MAX_STACK_BYTES ((size_t)1 << 40)

enum guard { GUARD_UNKNOWN, GUARD_MARKER, GUARD_MPROTECT };

struct pool {
    void **idle; /* the top word of the first, which holds the address of the next one's */
    uint32_t n_idle;
    enum guard guard;
    bool registered; /* to be emptied when the thread ends */
};

/* The number of a key, made once: a constant from then on. */
static pthread_key_t exit_key;
static pthread_once_t exit_key_once = PTHREAD_ONCE_INIT;

/* Never inlined: a coroutine that moved to another thread must not keep the address. */
__attribute__((noinline)) static struct pool *this_pool(void)
{
    static __thread struct pool pool;

    __asm__ volatile("");
    return &pool;
}

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* False where the kernel has no map left to cut the hole with; the pages are free even so. */
static bool unmap(void *low, size_t bytes)
{
    size_t page = page_bytes();

    co_sanitize_stack_used(low, bytes);
    if (munmap((char *)low - page, bytes + page) == 0)
        return true;
    if (madvise(low, bytes, MADV_DONTNEED) != 0)
        bug("a coroutine stack at %p is not mapped", low);
    return false;
}

static void *top_word_to_low(void **top)
{
    return (char *)(top + 1) - COROUTINE_STACK_BYTES;
}

static void empty_pool(void *opaque)
{
    struct pool *pool = opaque;

    pool->registered = false;
    while (pool->idle) {
        void **top = pool->idle;

        co_sanitize_stack_used(top, sizeof *top);
        pool->idle = *top;
        unmap(top_word_to_low(top), COROUTINE_STACK_BYTES);
    }
    pool->n_idle = 0;
}

static void make_exit_key(void)
{
    if (pthread_key_create(&exit_key, empty_pool) != 0)
        bug("no thread-specific key left for coroutine stacks");
}

/* Without it the pool would leak at the end of the thread, so a thread that can't register keeps no
 * stacks. */
static bool registered(struct pool *pool)
{
    if (pool->registered)
        return true;
    pthread_once(&exit_key_once, make_exit_key);
    pool->registered = pthread_setspecific(exit_key, pool) == 0;
    return pool->registered;
}

static bool guard_works(void *page, size_t bytes)
{
    return madvise(page, bytes, MADV_POPULATE_READ) != 0;
}

static bool install_guard(struct pool *pool, void *page, size_t bytes)
{
    if (pool->guard == GUARD_UNKNOWN) {
        bool marker = madvise(page, bytes, MADV_GUARD_INSTALL) == 0 && guard_works(page, bytes);

        pool->guard = marker ? GUARD_MARKER : GUARD_MPROTECT;
    }
    if (pool->guard == GUARD_MARKER)
        return madvise(page, bytes, MADV_GUARD_INSTALL) == 0;
    return mprotect(page, bytes, PROT_NONE) == 0;
}

static bool map(struct pool *pool, size_t bytes, struct co_stack *ret_stack)
{
    size_t page = page_bytes();
    char *base = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);

    if (base == MAP_FAILED)
        return false;
    if (!install_guard(pool, base, page)) {
        int error = errno;

        munmap(base, bytes + page);
        errno = error;
        return false;
    }
    *ret_stack = (struct co_stack){.low = base + page, .bytes = bytes};
    return true;
}

bool co_stack_take(size_t bytes, struct co_stack *ret_stack)
{
    struct pool *pool = this_pool();

    if (bytes == 0 || bytes == COROUTINE_STACK_BYTES) {
        void **top = pool->idle;

        if (!top)
            return map(pool, COROUTINE_STACK_BYTES, ret_stack);
        void *low = top_word_to_low(top);
        co_sanitize_stack_used(low, COROUTINE_STACK_BYTES);
        pool->idle = *top;
        pool->n_idle--;
        *ret_stack = (struct co_stack){.low = low, .bytes = COROUTINE_STACK_BYTES};
        return true;
    }
    if (bytes > MAX_STACK_BYTES) {
        errno = EINVAL;
        return false;
    }
    size_t page = page_bytes();
    if (bytes < MIN_STACK_BYTES)
        bytes = MIN_STACK_BYTES;
    return map(pool, (bytes + page - 1) / page * page, ret_stack);
}

static void keep(struct pool *pool, const struct co_stack *stack)
{
    void **top = (void **)((char *)stack->low + stack->bytes) - 1;

    *top = pool->idle;
    pool->idle = top;
    pool->n_idle++;
    co_sanitize_stack_idle(stack->low, stack->bytes);
}

void co_stack_give(const struct co_stack *stack)
{
    struct pool *pool = this_pool();
    bool poolable = stack->bytes == COROUTINE_STACK_BYTES && registered(pool);

    if (poolable && pool->n_idle < CO_STACK_POOL_MAX)
        keep(pool, stack);
    else if (!unmap(stack->low, stack->bytes) && poolable)
        keep(pool, stack);
}
