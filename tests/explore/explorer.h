/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * explorer - runs a small scenario in every order its threads may run in, on a weak memory
 *
 * Why:         a lost wake-up needs one interleaving in millions and a processor that reorders.
 *              Here both are choices, and all of them are tried up to a bound; what fails is
 *              replayed, step by step, with file and line.
 * Use:         write what each thread does as a function, with the real source under it
 *              (meson.build lists which files of runtime/ are compiled in), list them in a struct
 *              scenario:
 *
 *                  static struct { struct doorbell_words words; uint32_t work; } s;
 *                  static void begin(void)  { memset(&s, 0, sizeof s); }
 *                  static void send(void)   { atomic_store_release(&s.work, 1); … }
 *                  static void sleep_(void) { … explorer_wait_readable(FD, true); … }
 *
 *              A scenario claims something by explorer_check() in its threads and in end(), and by
 *              ending at all: threads that sleep for ever are a lost wake-up.
 * Concurrency: one OS thread. The scenario's threads are fibers, which change places at each access
 *              of runtime/atomic.h and at each call here that may wait.
 * Lifetime:    a scenario runs thousands of times: begin() makes its whole state anew. What
 *              explorer_alloc() gave is taken back by itself.
 * Not here:    how the search goes (search.c), what a load may return (memory.c), how accesses that
 *              are not atomic are watched (plain.c), mutants (mutant.h)
 *
 * What it shows. Stores reach other threads late (store buffers), in another order than they were
 * made unless a release or a fence forbids it, and loads return old values as long as nothing that
 * their thread has acquired says otherwise: the memory of C11 without its speculation. Two plain
 * accesses to the same memory of which one writes, and which no release and acquire put in order,
 * are a failure, and so is any access to memory that was freed.
 *
 * What it can't show. Stores to one address take effect in the order in which they are executed,
 * and no load sees a store that comes later in time: a load never moves down over a store of its
 * own thread (load buffering). A failing compare-and-swap sees the newest value. A store that has
 * been executed is seen in the end: a fence of both sides, or a read-modify-write, finds it. Kernel
 * calls (eventfd) wake, but do not put memory in order, which is less than Linux promises; a futex
 * does.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPLORER_MAX_THREADS 5

/* How far a search goes: how often the running thread is left though it could go on, how many loads
 * return something older than the newest, how many threads stop for ever. */
struct explorer_bounds {
    uint32_t preemptions;
    uint32_t stale_loads;
    uint32_t crashes;
};

struct explorer_thread {
    const char *name;
    void (*run)(void);
    bool may_crash;         /* may stop for ever before any of its steps */
    const char *crashes_in; /* only before accesses in this function or file; NULL: anywhere */
};

/* An array of them ends with a NULL name. */
struct scenario {
    const char *name;                   /* the claim: a sentence, in test_case_style */
    void (*begin)(void);                /* before the threads */
    void (*end)(void);                  /* after them, or NULL */
    struct explorer_bounds bounds;      /* for every day: some ten thousand runs */
    struct explorer_bounds long_bounds; /* by --long */
    struct explorer_thread threads[EXPLORER_MAX_THREADS];
    bool only_long; /* too much for every day, whatever its bounds */
};

/* ---- claims ---- */

/* Ends this run as failed. */
void explorer_fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
#define explorer_check(condition) \
    ((condition) ? (void)0 : explorer_fail("%s:%d: not so: %s", __FILE__, __LINE__, #condition))

/* ---- what threads wait for ---- */

/* An event counter like an eventfd's, by any number below EXPLORER_N_FDS; each begins at 0.
 * Writing is a step. */
#define EXPLORER_N_FDS 8
void explorer_fd_write(int fd);
/* Waits until the counter is not 0. may_time_out: or for no reason. */
void explorer_fd_wait(int fd, bool may_time_out);
/* The same, or until nothing else goes on. */
void explorer_fd_wait_or_idle(int fd);
/* Sets the counter to 0; false where it was. */
bool explorer_fd_read(int fd);

/* Wakes a thread that waits for this key, or the next one to come: a semaphore. What the waker did
 * before is seen by who was woken. */
void explorer_post(const void *key);
void explorer_wait(const void *key);

/* A mutex by this key. */
void explorer_lock(const void *key);
void explorer_unlock(const void *key);
/* Fails where somebody has it. */
void explorer_lock_end(const void *key);

/* As the system call. Whom a wake finds is a choice. */
int explorer_futex_wait(uint32_t *word, uint32_t value);
int explorer_futex_wake(uint32_t *word, int n);

/* Something wrong: wakes by threads that were woken themselves go nowhere. Called in begin(). */
void explorer_futex_lose_batons(void);

/* Waits until a thread has crashed, or those that may have ended: true where one crashed. */
bool explorer_wait_for_crash(void);
/* The same of one, by its place in the scenario's table. */
bool explorer_wait_for_crash_of(uint32_t thread);
/* Waits until that one has ended or crashed. */
void explorer_wait_for_end_of(uint32_t thread);
/* Whether the running thread, if its row says that it may crash, may do so from here on. */
void explorer_may_crash(bool may);

/* Nobody stores there in this scenario, so that a load is no step. Called in begin(). */
void explorer_constant(const void *address, size_t bytes);

/* The place of the running thread in its scenario's table. */
uint32_t explorer_self(void);

/* A step of its own: others may come in. */
void explorer_step(void);

/* Who stores there what stands there stores nothing: readers do not mind. Called in begin(). */
void explorer_stored_again(const void *address, size_t bytes);

/* A plain variable of which each thread has its own, as if it were thread-local. Called in
 * begin(). */
void explorer_thread_local(void *address, size_t bytes);

/* ---- memory ---- */

/* Zeroed. An access after explorer_free() fails the run. NULL is freed as well. */
void *explorer_alloc(size_t bytes);
void explorer_free(void *p);
/* The same of memory that came from elsewhere. */
void explorer_unmap(const void *p, size_t bytes);
void *explorer_copy(void *to, const void *from, size_t bytes);
