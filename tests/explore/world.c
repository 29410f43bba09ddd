/* SPDX-License-Identifier: MIT */
#include "tests/explore/inside.h"
/*
 * What stands for the kernel and the heap. An eventfd's counter and a semaphore are words that the
 * kernel adds to; who finds 0 there sleeps until somebody adds. Memory comes from a part of an
 * arena that is the running thread's, so that addresses do not depend on the order of steps.
 */
#include <errno.h>
#include <linux/futex.h>
#include <string.h>

#include "tests/explore/redirect.h"

#define ARENA_BYTES  (32 * 1024)
#define N_SEMAPHORES 16
#define ALIGNMENT    16

struct semaphore {
    const void *key;
    uint64_t count;
};

static struct {
    uint64_t fds[EXPLORER_N_FDS];
    struct semaphore semaphores[N_SEMAPHORES];
    char arenas[MAX_FIBERS][ARENA_BYTES] __attribute__((aligned(ALIGNMENT)));
    size_t used[MAX_FIBERS];
    uint32_t has_slept; /* on a futex, a bit each */
    bool no_baton;
} w;

void world_reset(void)
{
    memset(w.fds, 0, sizeof w.fds);
    memset(w.semaphores, 0, sizeof w.semaphores);
    memset(w.used, 0, sizeof w.used);
    w.has_slept = 0;
    w.no_baton = false;
}

/* ---- event counters ---- */

void explorer_fd_write(int fd)
{
    memory_settle();
    run_point();
    memory_kernel_add(&w.fds[fd], 1, false);
    trace_note("writes eventfd %d", fd);
    run_wake(&w.fds[fd], UINT32_MAX);
}

void explorer_fd_wait(int fd, bool may_time_out)
{
    memory_settle();
    run_point();
    while (memory_kernel_add(&w.fds[fd], 0, false) == 0)
        if (may_time_out) {
            run_block_for_time(&w.fds[fd], "an eventfd, or a time");
            return;
        } else {
            run_block(&w.fds[fd], "an eventfd");
        }
    trace_note("sees eventfd %d", fd);
}

void explorer_fd_wait_or_idle(int fd)
{
    memory_settle();
    run_point();
    if (memory_kernel_add(&w.fds[fd], 0, false) == 0)
        run_block_or_idle(&w.fds[fd], "an eventfd, or that nothing goes on");
}

bool explorer_fd_read(int fd)
{
    memory_settle();
    run_point();
    uint64_t count = memory_kernel_add(&w.fds[fd], 0, false);

    memory_kernel_add(&w.fds[fd], -count, false);
    trace_note("reads %u from eventfd %d", (unsigned)count, fd);
    return count != 0;
}

/* ---- semaphores ---- */

static struct semaphore *semaphore_of(const void *key)
{
    for (uint32_t i = 0; i < N_SEMAPHORES; i++) {
        struct semaphore *semaphore = &w.semaphores[i];

        if (!semaphore->key)
            semaphore->key = key;
        if (semaphore->key == key)
            return semaphore;
    }
    explorer_fail("more than %d semaphores", N_SEMAPHORES);
}

void explorer_post(const void *key)
{
    struct semaphore *semaphore = semaphore_of(key);

    memory_settle();
    run_point();
    memory_kernel_add(&semaphore->count, 1, true);
    trace_note("posts %p", key);
    run_wake(semaphore, UINT32_MAX);
}

void explorer_wait(const void *key)
{
    struct semaphore *semaphore = semaphore_of(key);

    memory_settle();
    run_point();
    while (memory_kernel_add(&semaphore->count, 0, true) == 0)
        run_block(semaphore, "a post");
    memory_kernel_add(&semaphore->count, (uint64_t)-1, true);
}

void explorer_lock(const void *key)
{
    struct semaphore *semaphore = semaphore_of(key);

    memory_settle();
    run_point();
    while (memory_kernel_add(&semaphore->count, 0, true) != 0)
        run_block(semaphore, "a mutex");
    memory_kernel_add(&semaphore->count, 1, true);
}

void explorer_unlock(const void *key)
{
    struct semaphore *semaphore = semaphore_of(key);

    memory_settle();
    run_point();
    memory_kernel_add(&semaphore->count, (uint64_t)-1, true);
    run_wake(semaphore, UINT32_MAX);
}

void explorer_lock_end(const void *key)
{
    memory_settle();
    run_point();
    if (memory_kernel_add(&semaphore_of(key)->count, 0, true) != 0)
        explorer_fail("a mutex is destroyed while somebody has it");
}

/* ---- futex ---- */

int explorer_futex_wait(uint32_t *word, uint32_t value)
{
    memory_settle();
    run_point();
    memory_kernel_fence();
    if (memory_kernel_load(word) != value) {
        trace_note("does not sleep: the futex has changed");
        errno = EAGAIN;
        return -1;
    }
    w.has_slept |= 1u << run_self();
    run_block(word, "a futex");
    return 0;
}

void explorer_futex_lose_batons(void)
{
    w.no_baton = true;
}

int explorer_futex_wake(uint32_t *word, int n)
{
    if (w.no_baton && (w.has_slept & 1u << run_self()))
        return 0;
    memory_settle();
    run_point();
    memory_kernel_fence();
    int n_woken = (int)run_wake(word, (uint32_t)n);

    trace_note("wakes %d", n_woken);
    return n_woken;
}

/* ---- memory ---- */

struct block {
    size_t bytes;
    uint64_t unused; /* so that what follows is aligned */
};

void *explorer_alloc(size_t bytes)
{
    size_t *used = &w.used[run_self()];
    size_t whole = (sizeof(struct block) + bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1);

    if (whole > ARENA_BYTES - *used)
        explorer_fail("more than %d bytes allocated by one thread", ARENA_BYTES);
    struct block *block = (void *)&w.arenas[run_self()][*used];

    *used += whole;
    memset(block, 0, whole);
    block->bytes = bytes;
    return block + 1;
}

void explorer_free(void *p)
{
    if (p)
        plain_free(p, ((struct block *)p - 1)->bytes);
}

void explorer_unmap(const void *p, size_t bytes)
{
    plain_free(p, bytes);
}

/* ---- what the source under test calls instead of libc (redirect.h) ---- */

long explorer_write(int fd, const void *bytes, size_t n)
{
    explorer_fd_write(fd);
    return (long)n;
}

long explorer_read(int fd, void *bytes, size_t n)
{
    if (explorer_fd_read(fd))
        return (long)n;
    errno = EAGAIN;
    return -1;
}

long explorer_futex(uint32_t *word, int op, uint32_t value)
{
    return op == FUTEX_WAIT ? explorer_futex_wait(word, value)
                            : explorer_futex_wake(word, (int)value);
}

void explorer_assert_fail(const char *text, const char *file, unsigned line, const char *function)
{
    explorer_fail("%s:%u: assertion failed in %s: %s", file, line, function, text);
}
