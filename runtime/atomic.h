/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * atomic - every access to memory that another thread or process may write
 *
 * Why:         one place where the interleaving explorer and the crash points hook in. Built with
 *              -DSHERD_ATOMIC_HOOK each access first calls atomic_hook(), which a test defines;
 *              with -DSHERD_ATOMIC_SHIM the test makes the access (atomic_shim.h, tests/explore).
 * Use:         plain fixed-width integers as fields, these macros at each access. Data is handed
 *              over by atomic_store_release() and atomic_load_acquire(); atomic_full_fence() is
 *              for store-then-load alone. A read-modify-write here is sequentially consistent,
 *              but does not order the relaxed accesses around it: put the fence where the
 *              pattern needs it.
 * Concurrency: any process
 * Not here:    <stdatomic.h>; its _Atomic types are no part of a shared memory ABI
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum atomic_access { ATOMIC_LOAD, ATOMIC_STORE, ATOMIC_RMW, ATOMIC_FENCE };

/* Orders this thread's accesses for its own signal handlers, and costs nothing. */
#define atomic_signal_barrier() __atomic_signal_fence(__ATOMIC_SEQ_CST)

/* Asks for p's cache line for writing, before the access that needs it. No access itself. */
#define atomic_prefetch_write(p) __builtin_prefetch(p, 1)

#ifdef SHERD_ATOMIC_SHIM
#include "runtime/atomic_shim.h"
#else

#ifdef SHERD_ATOMIC_HOOK
/* Called before the access, with the address (NULL for a fence) and where it stands. */
void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line);
#define ATOMIC_POINT(access, p) atomic_hook(access, p, __FILE__, __LINE__)
#else
#define ATOMIC_POINT(access, p) ((void)0)
#endif

#define atomic_load_relaxed(p) (ATOMIC_POINT(ATOMIC_LOAD, p), __atomic_load_n(p, __ATOMIC_RELAXED))
#define atomic_load_acquire(p) (ATOMIC_POINT(ATOMIC_LOAD, p), __atomic_load_n(p, __ATOMIC_ACQUIRE))
#define atomic_store_relaxed(p, v) \
    (ATOMIC_POINT(ATOMIC_STORE, p), __atomic_store_n(p, v, __ATOMIC_RELAXED))
#define atomic_store_release(p, v) \
    (ATOMIC_POINT(ATOMIC_STORE, p), __atomic_store_n(p, v, __ATOMIC_RELEASE))

/* Each returns the value before the change. */
#define atomic_add_seq(p, v) \
    (ATOMIC_POINT(ATOMIC_RMW, p), __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST))
#define atomic_or_seq(p, v) (ATOMIC_POINT(ATOMIC_RMW, p), __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST))
#define atomic_and_seq(p, v) \
    (ATOMIC_POINT(ATOMIC_RMW, p), __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST))
#define atomic_xchg_seq(p, v) \
    (ATOMIC_POINT(ATOMIC_RMW, p), __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST))

/*
 * True and *p = desired where *p was *expected; else false and *expected = *p. Whether it succeeded
 * is the result alone: what *p holds by then may be anybody's.
 */
#define atomic_cas_seq(p, expected, desired)                                               \
    (ATOMIC_POINT(ATOMIC_RMW, p), __atomic_compare_exchange_n(p, expected, desired, false, \
                                      __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))

/* Store-then-load: no load after it is satisfied before the stores ahead of it are seen by all. */
#define atomic_full_fence() \
    (ATOMIC_POINT(ATOMIC_FENCE, NULL), __atomic_thread_fence(__ATOMIC_SEQ_CST))

/* Tells the core that this is a busy wait. The condition stands inside because it is one
 * instruction that differs, and nothing where a processor has none. */
static inline void atomic_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif /* SHERD_ATOMIC_SHIM */
