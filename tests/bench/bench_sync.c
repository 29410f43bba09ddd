/* SPDX-License-Identifier: MIT */
/*
 * bench_sync - what coroutines wait for each other with, beside what threads use for the same
 *
 * The first lines are of one thread and without contention. Then a channel between two coroutines,
 * and between two threads; the latter beside a ring under a mutex with two condition variables.
 * Last, what a scope adds to a wait.
 */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/aio.h"
#include "runtime/atomic.h"
#include "runtime/co_cancel.h"
#include "runtime/co_channel.h"
#include "runtime/co_mutex.h"
#include "runtime/co_rwlock.h"
#include "runtime/co_semaphore.h"
#include "runtime/co_wait.h"
#include "tests/bench/compare.h"

#define REPEATS  200000
#define CAPACITY 256

static AioContext *ctx;

static void check(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "bench_sync: %s\n", what);
    exit(1);
}

/* ---- one coroutine ---- */

struct job {
    void (*run)(uint64_t repeats); /* coroutine_fn */
    uint64_t repeats;
};

static void coroutine_fn run_job(void *opaque)
{
    const struct job *job = opaque;

    job->run(job->repeats);
}

static void in_coroutine_do(void (*run)(uint64_t repeats), uint64_t repeats)
{
    struct job job = {.run = run, .repeats = repeats};
    Coroutine *co = coroutine_create(run_job, &job);

    check(co, "no coroutine");
    coroutine_enter(co);
}

static CoMutex co_mutex;
static CoSemaphore co_sem;
static CoRwlock co_rwlock;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static sem_t sem;

static void coroutine_fn lock_co_mutex(uint64_t n)
{
    while (n-- > 0) {
        co_mutex_lock(&co_mutex);
        co_mutex_unlock(&co_mutex);
    }
}

static void coroutine_fn take_co_semaphore(uint64_t n)
{
    while (n-- > 0) {
        co_semaphore_acquire(&co_sem, 1);
        co_semaphore_release(&co_sem, 1);
    }
}

static void coroutine_fn read_co_rwlock(uint64_t n)
{
    while (n-- > 0) {
        co_rwlock_rdlock(&co_rwlock);
        co_rwlock_unlock(&co_rwlock);
    }
}

static void bench_co_mutex(uint64_t n)
{
    in_coroutine_do(lock_co_mutex, n);
}

static void bench_co_semaphore(uint64_t n)
{
    in_coroutine_do(take_co_semaphore, n);
}

static void bench_co_rwlock(uint64_t n)
{
    in_coroutine_do(read_co_rwlock, n);
}

static void base_mutex(uint64_t n)
{
    while (n-- > 0) {
        pthread_mutex_lock(&mutex);
        pthread_mutex_unlock(&mutex);
    }
}

static void base_semaphore(uint64_t n)
{
    while (n-- > 0) {
        sem_wait(&sem);
        sem_post(&sem);
    }
}

static void base_rwlock(uint64_t n)
{
    while (n-- > 0) {
        pthread_rwlock_rdlock(&rwlock);
        pthread_rwlock_unlock(&rwlock);
    }
}

/* ---- the bare ring ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t not_full;
    pthread_cond_t not_empty;
    uint64_t values[CAPACITY];
    uint64_t head;
    uint64_t tail;
} ring = {.lock = PTHREAD_MUTEX_INITIALIZER,
    .not_full = PTHREAD_COND_INITIALIZER,
    .not_empty = PTHREAD_COND_INITIALIZER};

static void ring_put(uint64_t value)
{
    pthread_mutex_lock(&ring.lock);
    while (ring.tail - ring.head == CAPACITY)
        pthread_cond_wait(&ring.not_full, &ring.lock);
    ring.values[ring.tail++ % CAPACITY] = value;
    pthread_mutex_unlock(&ring.lock);
    pthread_cond_signal(&ring.not_empty);
}

static uint64_t ring_take(void)
{
    pthread_mutex_lock(&ring.lock);
    while (ring.tail == ring.head)
        pthread_cond_wait(&ring.not_empty, &ring.lock);
    uint64_t value = ring.values[ring.head++ % CAPACITY];
    pthread_mutex_unlock(&ring.lock);
    pthread_cond_signal(&ring.not_full);
    return value;
}

static void base_ring(uint64_t n)
{
    while (n > 0) {
        ring_put(n--);
        ring_take();
    }
}

static void *take_from_ring(void *opaque)
{
    for (uint64_t n = *(const uint64_t *)opaque; n > 0; n--)
        check(ring_take() == n, "the ring's order");
    return NULL;
}

static void base_ring_two_threads(uint64_t n)
{
    uint64_t n_to_take = n;
    pthread_t thread;

    check(pthread_create(&thread, NULL, take_from_ring, &n_to_take) == 0, "no thread");
    while (n > 0)
        ring_put(n--);
    pthread_join(thread, NULL);
}

/* ---- the channel ---- */

static CoChannel *channel;
static uint64_t n_to_recv;
static bool is_received;

static void coroutine_fn send_and_recv(uint64_t n)
{
    uint64_t value;

    while (n > 0) {
        co_channel_send(channel, &n);
        co_channel_recv(channel, &value);
        n--;
    }
}

static void bench_channel(uint64_t n)
{
    in_coroutine_do(send_and_recv, n);
}

static void coroutine_fn send_all(void *opaque)
{
    for (uint64_t n = *(const uint64_t *)opaque; n > 0; n--)
        co_channel_send(channel, &n);
}

static void coroutine_fn recv_all(void *opaque)
{
    AioContext *waits = opaque;
    uint64_t value;

    for (uint64_t n = n_to_recv; n > 0; n--) {
        co_channel_recv(channel, &value);
        check(value == n, "the channel's order");
    }
    atomic_store_release(&is_received, true);
    aio_notify(waits);
}

static void pass_through_channel(AioContext *receiver, uint64_t n)
{
    Coroutine *receive = coroutine_create(recv_all, ctx);
    Coroutine *send = coroutine_create(send_all, &n);

    check(receive && send, "no coroutine");
    n_to_recv = n;
    atomic_store_release(&is_received, false);
    aio_co_enter(receiver, receive);
    coroutine_enter(send);
    while (!atomic_load_acquire(&is_received))
        aio_poll(ctx, true);
}

static void bench_channel_two_coroutines(uint64_t n)
{
    pass_through_channel(ctx, n);
}

static AioContext *other;
static bool other_stops;

static void stop_other(void *opaque)
{
    other_stops = true;
}

static void *run_other(void *opaque)
{
    aio_context_set_current(other);
    while (!other_stops)
        aio_poll(other, true);
    aio_context_set_current(NULL);
    return NULL;
}

static void bench_channel_two_threads(uint64_t n)
{
    pass_through_channel(other, n);
}

/* First of all: a process of one thread has cheaper mutexes, which is no fair baseline. */
static pthread_t start_other(void)
{
    pthread_t thread;

    check(aio_context_new(NULL, &other) == 0, "no context");
    check(pthread_create(&thread, NULL, run_other, NULL) == 0, "no thread");
    return thread;
}

static void end_other(pthread_t thread)
{
    check(aio_bh_schedule_oneshot(other, stop_other, NULL) == 0, "no memory");
    pthread_join(thread, NULL);
    aio_context_unref(other);
}

/* ---- scopes ---- */

static CoCancel token;
static bool uses_token;
static bool uses_deadline;
static bool is_scoped;

static bool withdraw(struct co_wait *wait)
{
    return true;
}

static void coroutine_fn wait_forever(void *opaque)
{
    struct co_wait wait = {.withdraw = withdraw};
    CoScope scope;
    int64_t deadline_ns = uses_deadline ? aio_clock_ns() + 3600 * AIO_SCALE_S : CO_NO_DEADLINE;
    int r = 0;

    if (is_scoped)
        co_scope_begin(&scope, uses_token ? &token : NULL, deadline_ns);
    while (r == 0)
        r = co_wait(&wait, "bench");
    if (is_scoped)
        co_scope_end(&scope);
}

static void coroutine_fn yield_forever(void *opaque)
{
    const bool *stop = opaque;

    while (!*stop)
        coroutine_yield();
}

static Coroutine *waiter;
static Coroutine *yielder;

static void bench_wait(uint64_t n)
{
    while (n-- > 0)
        coroutine_enter(waiter);
}

static void base_yield(uint64_t n)
{
    while (n-- > 0)
        coroutine_enter(yielder);
}

static void measure_wait(const char *what, bool scoped, bool with_token, bool with_deadline)
{
    bool stop = false;

    is_scoped = scoped;
    uses_token = with_token;
    uses_deadline = with_deadline;
    waiter = coroutine_create(wait_forever, NULL);
    yielder = coroutine_create(yield_forever, &stop);
    check(waiter && yielder, "no coroutine");
    base_yield(1);
    bench_wait(1);
    compare_row(&(struct compare){.what = what,
        .run = bench_wait,
        .baseline_name = "enter + yield",
        .baseline = base_yield,
        .repeats = REPEATS});
    stop = true;
    coroutine_enter(yielder);
}

int main(void)
{
    const struct compare rows[] = {
        {"CoMutex lock + unlock", bench_co_mutex, "pthread_mutex", base_mutex, REPEATS},
        {"CoSemaphore acquire + release", bench_co_semaphore, "sem_t", base_semaphore, REPEATS},
        {"CoRwlock rdlock + unlock", bench_co_rwlock, "pthread_rwlock", base_rwlock, REPEATS},
        {"channel send + recv, one coroutine", bench_channel, "ring, mutex, 2 conditions",
            base_ring, REPEATS},
        {"channel, two coroutines", bench_channel_two_coroutines, "ring, mutex, 2 conditions",
            base_ring, REPEATS},
        {"channel, two threads", bench_channel_two_threads, "ring, mutex, 2 conditions",
            base_ring_two_threads, REPEATS},
    };

    check(aio_context_new(NULL, &ctx) == 0, "no context");
    aio_context_set_current(ctx);
    check(sem_init(&sem, 0, 1) == 0, "no semaphore");
    check(co_channel_new(CAPACITY, sizeof(uint64_t), &channel) == 0, "no channel");
    co_semaphore_init(&co_sem, 1);
    co_rwlock_init(&co_rwlock);

    pthread_t thread = start_other();
    compare_head();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        compare_row(&rows[i]);
    measure_wait("co_wait, no scope", false, false, false);
    measure_wait("co_wait, a token", true, true, false);
    measure_wait("co_wait, a deadline", true, false, true);
    end_other(thread);
    co_channel_free(channel);
    return 0;
}
