/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * atomic_shim - what the macros of atomic.h are in a build with -DSHERD_ATOMIC_SHIM
 *
 * Why:         a test decides what each access does and sees: it can run another thread in between,
 *              let a load return an older value that its ordering allows, drop a fence on purpose.
 * Use:         compile the source under test with -DSHERD_ATOMIC_SHIM and link it with something
 *              that defines the functions below (tests/explore)
 * Concurrency: as the functions' definer says
 * Not here:    SHERD_ATOMIC_HOOK in atomic.h, which calls the test and then makes the access itself
 *
 * Values pass as 64 bits whatever their type; size says how many bytes of them count.
 */
#include <stdbool.h>
#include <stdint.h>

/* One access in the source, as the macros name it. */
#define ATOMIC_OPS(X) \
    X(load_relaxed)   \
    X(load_acquire)   \
    X(store_relaxed)  \
    X(store_release)  \
    X(add_seq)        \
    X(or_seq)         \
    X(and_seq)        \
    X(xchg_seq)       \
    X(cas_seq)        \
    X(full_fence)     \
    X(pause)

enum atomic_op {
#define X(name) ATOMIC_OP_##name,
    ATOMIC_OPS(X)
#undef X
        ATOMIC_N_OPS,
};

struct atomic_site {
    const char *file;
    const char *function;
    const char *address; /* the expression that names it */
    enum atomic_op op;
    int line;
};

uint64_t atomic_shim_load(const struct atomic_site *site, const volatile void *p, unsigned size);
void atomic_shim_store(
    const struct atomic_site *site, volatile void *p, unsigned size, uint64_t value);
/* Returns the value before. */
uint64_t atomic_shim_rmw(
    const struct atomic_site *site, volatile void *p, unsigned size, uint64_t operand);
bool atomic_shim_cas(const struct atomic_site *site, volatile void *p, unsigned size,
    void *expected, uint64_t desired);
void atomic_shim_fence(const struct atomic_site *site);
void atomic_shim_pause(const struct atomic_site *site);

#define ATOMIC_SITE(name, text)                                    \
    __extension__({                                                \
        static const struct atomic_site atomic_site_ = {           \
            __FILE__, __func__, text, ATOMIC_OP_##name, __LINE__}; \
        &atomic_site_;                                             \
    })
#define ATOMIC_AS(p, bits)     ((__typeof__(*(p)))(uintptr_t)(bits))
#define ATOMIC_BITS(v)         ((uint64_t)(uintptr_t)(v))
#define ATOMIC_LOAD_(n, p)     ATOMIC_AS(p, atomic_shim_load(ATOMIC_SITE(n, #p), p, sizeof *(p)))
#define ATOMIC_STORE_(n, p, v) atomic_shim_store(ATOMIC_SITE(n, #p), p, sizeof *(p), ATOMIC_BITS(v))
#define ATOMIC_RMW_(n, p, v) \
    ATOMIC_AS(p, atomic_shim_rmw(ATOMIC_SITE(n, #p), p, sizeof *(p), ATOMIC_BITS(v)))

#define atomic_load_relaxed(p)     ATOMIC_LOAD_(load_relaxed, p)
#define atomic_load_acquire(p)     ATOMIC_LOAD_(load_acquire, p)
#define atomic_store_relaxed(p, v) ATOMIC_STORE_(store_relaxed, p, v)
#define atomic_store_release(p, v) ATOMIC_STORE_(store_release, p, v)
#define atomic_add_seq(p, v)       ATOMIC_RMW_(add_seq, p, v)
#define atomic_or_seq(p, v)        ATOMIC_RMW_(or_seq, p, v)
#define atomic_and_seq(p, v)       ATOMIC_RMW_(and_seq, p, v)
#define atomic_xchg_seq(p, v)      ATOMIC_RMW_(xchg_seq, p, v)
#define atomic_cas_seq(p, expected, desired) \
    atomic_shim_cas(ATOMIC_SITE(cas_seq, #p), p, sizeof *(p), expected, ATOMIC_BITS(desired))
#define atomic_full_fence() atomic_shim_fence(ATOMIC_SITE(full_fence, ""))
#define atomic_pause()      atomic_shim_pause(ATOMIC_SITE(pause, ""))
