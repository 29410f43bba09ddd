/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * coroutine_sanitize - tells the sanitizers about stacks and who runs on them
 *
 * Why:         ASan takes the thread's stack to be the only one, TSan the thread to be the only
 * line of execution; told nothing, both report what is right and miss what is wrong. Use:
 * co_sanitize_leave(&from, &to, last);  co_switch(…);  co_sanitize_arrive(…); both inlined into the
 * function that switches. Not here:    valgrind
 *
 * One block for each sanitizer, one for none, in which all of it is empty.
 */
#include <stdbool.h>
#include <stddef.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CO_WITH_ASAN 1
#elif __has_feature(thread_sanitizer)
#define CO_WITH_TSAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define CO_WITH_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define CO_WITH_TSAN 1
#endif

#define CO_SWITCHES static inline __attribute__((always_inline))

#if defined(CO_WITH_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

/* What a sanitizer knows of one stack that is not run on at the moment. */
struct co_sanitize {
    void *fake_stack;
    const void *low;
    size_t bytes;
};

static inline void co_sanitize_begin(struct co_sanitize *s, const void *low, size_t bytes)
{
    s->fake_stack = NULL;
    s->low = low;
    s->bytes = bytes;
}

/* On stack from, about to switch to stack to; last: nobody will switch back. */
CO_SWITCHES void co_sanitize_leave(struct co_sanitize *from, struct co_sanitize *to, bool last)
{
    __sanitizer_start_switch_fiber(last ? NULL : &from->fake_stack, to->low, to->bytes);
}

/* On stack here, just come from stack from, of which this learns the bounds. */
CO_SWITCHES void co_sanitize_arrive(struct co_sanitize *here, struct co_sanitize *from)
{
    __sanitizer_finish_switch_fiber(here->fake_stack, &from->low, &from->bytes);
}

static inline void co_sanitize_end(struct co_sanitize *s)
{
}

/* Whether all of the running stack is where it seems to be. */
static inline bool co_sanitize_may_travel(void)
{
    return __asan_get_current_fake_stack() == NULL;
}

/* The stack was run on by another process, which has a shadow of its own: this one's is of frames
 * long gone. */
static inline void co_sanitize_travelled(struct co_sanitize *s)
{
    s->fake_stack = NULL;
    __asan_unpoison_memory_region(s->low, s->bytes);
}

static inline void co_sanitize_stack_used(void *low, size_t bytes)
{
    __asan_unpoison_memory_region(low, bytes);
}

static inline void co_sanitize_stack_idle(void *low, size_t bytes)
{
    __asan_poison_memory_region(low, bytes);
}

#elif defined(CO_WITH_TSAN)
#include <sanitizer/tsan_interface.h>
#include <unistd.h>

#include "runtime/bug.h"

struct co_sanitize {
    void *fiber;
    pid_t pid; /* that made it, and alone can go on with it */
};

static inline void co_sanitize_begin(struct co_sanitize *s, const void *low, size_t bytes)
{
    s->fiber = __tsan_create_fiber(0);
    s->pid = getpid();
}

CO_SWITCHES void co_sanitize_leave(struct co_sanitize *from, struct co_sanitize *to, bool last)
{
    from->fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->fiber, 0);
}

CO_SWITCHES void co_sanitize_arrive(struct co_sanitize *here, struct co_sanitize *from)
{
}

static inline void co_sanitize_end(struct co_sanitize *s)
{
    __tsan_destroy_fiber(s->fiber);
}

static inline bool co_sanitize_may_travel(void)
{
    return true;
}

static inline void co_sanitize_travelled(struct co_sanitize *s)
{
    if (s->pid != getpid())
        bug("a coroutine moved between processes, of which ThreadSanitizer sees one alone");
}

static inline void co_sanitize_stack_used(void *low, size_t bytes)
{
}

static inline void co_sanitize_stack_idle(void *low, size_t bytes)
{
}

#else

struct co_sanitize {
};

static inline void co_sanitize_begin(struct co_sanitize *s, const void *low, size_t bytes)
{
}

CO_SWITCHES void co_sanitize_leave(struct co_sanitize *from, struct co_sanitize *to, bool last)
{
}

CO_SWITCHES void co_sanitize_arrive(struct co_sanitize *here, struct co_sanitize *from)
{
}

static inline void co_sanitize_end(struct co_sanitize *s)
{
}

static inline bool co_sanitize_may_travel(void)
{
    return true;
}

static inline void co_sanitize_travelled(struct co_sanitize *s)
{
}

static inline void co_sanitize_stack_used(void *low, size_t bytes)
{
}

static inline void co_sanitize_stack_idle(void *low, size_t bytes)
{
}

#endif
