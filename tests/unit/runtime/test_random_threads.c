/* SPDX-License-Identifier: MIT */
/*
 * Random operations of several threads on each other's contexts. Coroutines wander between the
 * loops, with and without locks held, sleep, send, receive, hand work to thread pools, end waits by
 * scopes, and set off bottom halves, timers and fds anywhere; the main thread does the latter too,
 * and changes handlers meanwhile. What must hold:
 *
 *   a coroutine is where it said it would go; one alone has a mutex or writes; readers see no half;
 *   never more in a semaphore than it admits; what was sent is received once, or still there;
 *   work that a scope took back did not run, all other did, once; a sleep is not too short;
 *   in the end each bottom half has run after it was last scheduled, each fd was read after it was
 *   last written, each timer armed has fired, and each oneshot ran once.
 *
 * A seed gives every thread the same dice; how they meet is up to the machine.
 */
#include "tests/unit/runtime/random_run.h"

#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/co_cancel.h"
#include "runtime/co_channel.h"
#include "runtime/co_rwlock.h"
#include "runtime/co_semaphore.h"
#include "runtime/coroutine.h"
#include "runtime/thread_pool.h"

enum { N_LOOPS = 3, N_WALKERS = 12, N_BHS = 4, N_TIMERS = 4, N_MUTEXES = 2, ADMITTED = 3 };

#define DEADLINE_NS (60 * AIO_SCALE_S)
#define POLL_NS     (20 * AIO_SCALE_US)

struct world;

struct shared_bh {
    BH *bh;
    uint64_t asked; /* before each schedule */
    uint64_t seen;  /* of asked, by the callback */
};

struct shared_timer {
    AioTimer timer;
    struct loop_of *loop;
    uint64_t n_fired;
};

struct loop_of {
    struct world *world;
    AioContext *ctx;
    pthread_t thread;
    bool stopped; /* the loop's own */
    struct shared_bh bhs[N_BHS];
    struct shared_timer timers[N_TIMERS];
    int fd;
    uint64_t n_written, n_read;
};

struct world {
    struct random_run *run;
    struct loop_of loops[N_LOOPS];
    CoMutex mutexes[N_MUTEXES];
    uint64_t in_mutex[N_MUTEXES]; /* plain: whoever has the mutex */
    CoRwlock rwlock;
    uint64_t left, right; /* equal, but for who writes */
    CoSemaphore semaphore;
    uint32_t n_admitted;
    CoChannel *channel;
    CoCancel token; /* cancelled half-way */
    uint64_t sent, received;
    uint64_t n_work_ok, n_work_ran;
    uint64_t n_oneshots, n_oneshots_run;
    uint64_t n_walkers_over;
    uint64_t n_steps;
};

struct walker {
    struct world *world;
    struct dice dice;
    uint32_t idx;
};

#define CHECK(world, ...) random_check((world)->run, __VA_ARGS__)

/* ---- what anyone may do to any loop ---- */

static struct loop_of *any_loop(struct world *world, struct dice *dice)
{
    return &world->loops[dice_below(dice, N_LOOPS)];
}

static struct loop_of *this_loop(struct world *world)
{
    for (uint32_t i = 0; i < N_LOOPS; i++)
        if (world->loops[i].ctx == aio_context_current())
            return &world->loops[i];
    CHECK(world, false, "a callback in a thread that is no loop");
    return NULL;
}

static void on_bh(void *opaque)
{
    struct shared_bh *b = opaque;

    atomic_store_release(&b->seen, atomic_load_acquire(&b->asked));
}

static void on_oneshot(void *opaque)
{
    struct world *world = opaque;

    atomic_add_seq(&world->n_oneshots_run, 1);
}

static void on_timer(void *opaque)
{
    struct shared_timer *t = opaque;

    CHECK(t->loop->world, this_loop(t->loop->world) == t->loop, "a timer fires in another loop");
    atomic_add_seq(&t->n_fired, 1);
}

static void on_fd(void *opaque)
{
    struct loop_of *loop = opaque;
    eventfd_t value;

    CHECK(loop->world, this_loop(loop->world) == loop, "an fd is called in another loop");
    if (eventfd_read(loop->fd, &value) == 0)
        atomic_add_seq(&loop->n_read, value);
}

/* What a busy-polling loop asks. It may come before the fd is written, and is asked again then. */
static bool poll_fd(void *opaque)
{
    struct loop_of *loop = opaque;

    return atomic_load_acquire(&loop->n_read) != atomic_load_acquire(&loop->n_written);
}

static void watch_fd(struct loop_of *loop, bool with_poll)
{
    int r = with_poll ? aio_set_fd_handler(loop->ctx, loop->fd, on_fd, NULL, poll_fd, on_fd, loop)
                      : aio_set_fd_handler(loop->ctx, loop->fd, on_fd, NULL, NULL, NULL, loop);

    CHECK(loop->world, r == 0, "fd can't be watched: %d", r);
}

static void schedule_bh(struct loop_of *loop, struct dice *dice)
{
    struct shared_bh *b = &loop->bhs[dice_below(dice, N_BHS)];

    atomic_add_seq(&b->asked, 1);
    if (dice_one_in(dice, 4))
        bh_schedule_idle(b->bh);
    else
        bh_schedule(b->bh);
}

static void change_timer(struct loop_of *loop, struct dice *dice)
{
    AioTimer *timer = &loop->timers[dice_below(dice, N_TIMERS)].timer;
    int64_t expire_ns = aio_clock_get_ns(loop->ctx, timer->clock) + dice_below(dice, 200000);

    if (dice_one_in(dice, 4))
        timer_del(timer);
    else if (dice_one_in(dice, 3))
        timer_mod_anticipate_ns(timer, expire_ns);
    else
        timer_mod_ns(timer, expire_ns);
}

static void write_fd(struct loop_of *loop)
{
    atomic_add_seq(&loop->n_written, 1);
    eventfd_write(loop->fd, 1);
}

static void schedule_oneshot(struct world *world, struct loop_of *loop)
{
    atomic_add_seq(&world->n_oneshots, 1);
    CHECK(world, aio_bh_schedule_oneshot(loop->ctx, on_oneshot, world) == 0, "no memory");
}

static void act_on_a_loop(struct world *world, struct dice *dice)
{
    struct loop_of *loop = any_loop(world, dice);

    switch (dice_below(dice, 5)) {
    case 0:
        change_timer(loop, dice);
        break;
    case 1:
        write_fd(loop);
        break;
    case 2:
        schedule_oneshot(world, loop);
        break;
    case 3:
        aio_notify(loop->ctx);
        break;
    default:
        schedule_bh(loop, dice);
    }
}

/* ---- what a coroutine does ---- */

static void coroutine_fn hop(struct walker *w)
{
    const struct loop_of *loop = any_loop(w->world, &w->dice);

    aio_co_reschedule_self(loop->ctx);
    CHECK(w->world, aio_context_current() == loop->ctx, "walker %u is elsewhere", w->idx);
}

/* Something that may yield, while a lock is held. */
static void coroutine_fn dawdle(struct walker *w)
{
    switch (dice_below(&w->dice, 4)) {
    case 0:
        hop(w);
        break;
    case 1:
        co_sleep_ns(dice_below(&w->dice, 20000));
        break;
    default:
        act_on_a_loop(w->world, &w->dice);
    }
}

static void coroutine_fn use_mutex(struct walker *w)
{
    struct world *world = w->world;
    uint32_t i = dice_below(&w->dice, N_MUTEXES);

    if (!dice_one_in(&w->dice, 4))
        co_mutex_lock(&world->mutexes[i]);
    else if (!co_mutex_trylock(&world->mutexes[i]))
        return;
    CHECK(world, world->in_mutex[i]++ == 0, "two have mutex %u", i);
    dawdle(w);
    CHECK(world, world->in_mutex[i]-- == 1, "two had mutex %u", i);
    co_mutex_unlock(&world->mutexes[i]);
}

static void coroutine_fn read_both(struct walker *w)
{
    uint64_t left = w->world->left;

    dawdle(w);
    CHECK(w->world, left == w->world->right && left == w->world->left, "a reader sees a half");
}

static void coroutine_fn write_both(struct walker *w)
{
    w->world->left++;
    dawdle(w);
    w->world->right++;
}

static void coroutine_fn use_rwlock(struct walker *w)
{
    CoRwlock *lock = &w->world->rwlock;

    if (dice_one_in(&w->dice, 3)) {
        if (co_rwlock_wrlock(lock) < 0)
            return;
        write_both(w);
        if (dice_one_in(&w->dice, 2)) {
            co_rwlock_downgrade(lock);
            read_both(w);
        }
    } else {
        if (co_rwlock_rdlock(lock) < 0)
            return;
        read_both(w);
        if (dice_one_in(&w->dice, 4)) {
            if (co_rwlock_upgrade(lock) < 0)
                return; /* a scope ended: it is not even read any more */
            write_both(w);
        }
    }
    co_rwlock_unlock(lock);
}

static void coroutine_fn use_semaphore(struct walker *w)
{
    struct world *world = w->world;
    uint32_t n = 1 + dice_below(&w->dice, ADMITTED);

    if (co_semaphore_acquire(&world->semaphore, n) < 0)
        return;
    CHECK(world, atomic_add_seq(&world->n_admitted, n) + n <= ADMITTED, "too many are in");
    dawdle(w);
    atomic_add_seq(&world->n_admitted, -n);
    co_semaphore_release(&world->semaphore, n);
}

static void coroutine_fn use_channel(struct walker *w)
{
    struct world *world = w->world;
    uint64_t n = dice_below(&w->dice, 1000);

    if (dice_one_in(&w->dice, 2)) {
        if (co_channel_send(world->channel, &n) == 0)
            atomic_add_seq(&world->sent, n);
    } else if (co_channel_recv(world->channel, &n) == 0) {
        atomic_add_seq(&world->received, n);
    }
}

static int count_work(void *opaque)
{
    struct world *world = opaque;

    return (int)(atomic_add_seq(&world->n_work_ran, 1) & 1) + 1000;
}

static void coroutine_fn use_thread_pool(struct walker *w)
{
    int r = thread_pool_submit_co(count_work, w->world);

    if (r >= 0) {
        CHECK(w->world, r == 1000 || r == 1001, "work returned %d", r);
        atomic_add_seq(&w->world->n_work_ok, 1);
    }
}

static void coroutine_fn sleep_some(struct walker *w)
{
    int64_t ns = dice_below(&w->dice, 50000);
    int64_t begin_ns = aio_clock_ns();

    CHECK(w->world, co_sleep_ns(ns) < 0 || aio_clock_ns() - begin_ns >= ns, "a sleep too short");
}

static void coroutine_fn step(struct walker *w)
{
    switch (dice_below(&w->dice, 9)) {
    case 0:
        use_mutex(w);
        break;
    case 1:
        use_rwlock(w);
        break;
    case 2:
        use_semaphore(w);
        break;
    case 3:
        use_channel(w);
        break;
    case 4:
        use_thread_pool(w);
        break;
    case 5:
        sleep_some(w);
        break;
    case 6:
        hop(w);
        break;
    default:
        act_on_a_loop(w->world, &w->dice);
    }
}

/* Within a scope, always: a channel waits for somebody who may be over. */
static void coroutine_fn walk(void *opaque)
{
    struct walker *w = opaque;
    struct world *world = w->world;

    for (uint64_t n = 0; n < world->n_steps; n++) {
        bool by_token = dice_one_in(&w->dice, 4);
        CoScope scope;

        co_scope_begin(&scope, by_token ? &world->token : NULL,
            aio_clock_ns() + 1000 + dice_below(&w->dice, 100000));
        step(w);
        co_scope_end(&scope);
        if (w->idx == 0 && n == world->n_steps / 2)
            co_cancel(&world->token);
    }
    atomic_add_seq(&world->n_walkers_over, 1);
}

/* ---- loops ---- */

static void stop(void *opaque)
{
    struct loop_of *loop = opaque;

    loop->stopped = true;
}

static void *loop_main(void *opaque)
{
    struct loop_of *loop = opaque;

    aio_context_set_current(loop->ctx);
    while (!loop->stopped)
        aio_poll(loop->ctx, true);
    aio_context_set_current(NULL);
    return NULL;
}

static void loop_begin(struct world *world, struct loop_of *loop)
{
    *loop = (struct loop_of){.world = world};
    CHECK(world, aio_context_new(&world->run->config, &loop->ctx) == 0, "no context");
    aio_context_set_thread_pool_idle_ns(loop->ctx, 20000);
    loop->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(world, loop->fd >= 0, "no fd");
    for (uint32_t i = 0; i < N_BHS; i++) {
        loop->bhs[i].bh = aio_bh_new(loop->ctx, on_bh, &loop->bhs[i]);
        CHECK(world, loop->bhs[i].bh, "no memory");
    }
    for (uint32_t i = 0; i < N_TIMERS; i++) {
        struct shared_timer *t = &loop->timers[i];

        t->loop = loop;
        aio_timer_init_full(loop->ctx, &t->timer, i == 0 ? AIO_CLOCK_REALTIME : AIO_CLOCK_MONOTONIC,
            AIO_SCALE_NS, on_timer, t);
        aio_timer_set_slack_ns(&t->timer, i == 1 ? 20000 : 0);
    }
    watch_fd(loop, true);
    CHECK(world, pthread_create(&loop->thread, NULL, loop_main, loop) == 0, "no thread");
}

static void loop_end(struct loop_of *loop)
{
    for (uint32_t i = 0; i < N_TIMERS; i++)
        timer_del(&loop->timers[i].timer);
    CHECK(loop->world, aio_bh_schedule_oneshot(loop->ctx, stop, loop) == 0, "no memory");
    pthread_join(loop->thread, NULL);
}

/* Once no loop runs: a coroutine on one may have woken another on the next. */
static void loop_free(struct loop_of *loop)
{
    for (uint32_t i = 0; i < N_BHS; i++)
        bh_delete(loop->bhs[i].bh);
    aio_set_fd_handler(loop->ctx, loop->fd, NULL, NULL, NULL, NULL, NULL);
    aio_context_unref(loop->ctx);
    close(loop->fd);
}

/* ---- the end ---- */

static void wait_until(struct world *world, bool (*holds)(struct world *world), const char *what)
{
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;

    while (!holds(world)) {
        CHECK(world, aio_clock_ns() < deadline_ns, "%s", what);
        sched_yield();
    }
}

static bool bhs_have_run(struct world *world)
{
    for (uint32_t l = 0; l < N_LOOPS; l++)
        for (uint32_t i = 0; i < N_BHS; i++) {
            const struct shared_bh *b = &world->loops[l].bhs[i];

            if (atomic_load_acquire(&b->seen) != atomic_load_acquire(&b->asked))
                return false;
        }
    return true;
}

static bool fds_were_read(struct world *world)
{
    for (uint32_t l = 0; l < N_LOOPS; l++)
        if (atomic_load_acquire(&world->loops[l].n_read) !=
            atomic_load_acquire(&world->loops[l].n_written))
            return false;
    return true;
}

static bool timers_have_fired(struct world *world)
{
    for (uint32_t l = 0; l < N_LOOPS; l++)
        for (uint32_t i = 0; i < N_TIMERS; i++)
            if (timer_pending(&world->loops[l].timers[i].timer))
                return false;
    return true;
}

static bool oneshots_have_run(struct world *world)
{
    return atomic_load_acquire(&world->n_oneshots_run) == atomic_load_acquire(&world->n_oneshots);
}

static bool work_has_ended(struct world *world)
{
    return atomic_load_acquire(&world->n_work_ran) == atomic_load_acquire(&world->n_work_ok);
}

static void check_end(struct world *world)
{
    uint64_t n;

    wait_until(world, bhs_have_run, "a bottom half was scheduled and did not run");
    wait_until(world, fds_were_read, "an fd was written and not read");
    wait_until(world, timers_have_fired, "a timer was armed and did not fire");
    wait_until(world, oneshots_have_run, "a oneshot did not run, or twice");
    wait_until(world, work_has_ended, "work ran that was taken back, or the other way round");
    while (co_channel_try_recv(world->channel, &n) == 0)
        world->received += n;
    CHECK(world, world->sent == world->received, "%llu were sent, %llu received",
        (unsigned long long)world->sent, (unsigned long long)world->received);
    CHECK(world, world->left == world->right, "a write is half done");
}

/* ---- a run ---- */

static void world_begin(struct world *world, struct random_run *run)
{
    *world = (struct world){.run = run, .n_steps = run->n_steps};
    for (uint32_t i = 0; i < N_MUTEXES; i++)
        co_mutex_init(&world->mutexes[i]);
    co_rwlock_init(&world->rwlock);
    co_semaphore_init(&world->semaphore, ADMITTED);
    co_cancel_init(&world->token);
    CHECK(world, co_channel_new(2, sizeof(uint64_t), &world->channel) == 0, "no memory");
    for (uint32_t i = 0; i < N_LOOPS; i++)
        loop_begin(world, &world->loops[i]);
}

static void world_end(struct world *world)
{
    for (uint32_t i = 0; i < N_LOOPS; i++)
        loop_end(&world->loops[i]);
    for (uint32_t i = 0; i < N_LOOPS; i++)
        loop_free(&world->loops[i]);
    co_channel_free(world->channel);
    co_cancel_deinit(&world->token);
    co_semaphore_deinit(&world->semaphore);
    co_rwlock_deinit(&world->rwlock);
}

static void send_out(struct world *world, struct walker *walkers)
{
    for (uint32_t i = 0; i < N_WALKERS; i++) {
        walkers[i] =
            (struct walker){.world = world, .dice = {world->run->seed * N_WALKERS + i}, .idx = i};
        Coroutine *co = coroutine_create(walk, &walkers[i]);

        CHECK(world, co, "no memory");
        aio_co_schedule(world->loops[i % N_LOOPS].ctx, co);
    }
}

/* The main thread's part. */
static void meddle(struct world *world)
{
    struct dice dice = {~world->run->seed};
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;

    while (atomic_load_acquire(&world->n_walkers_over) < N_WALKERS) {
        struct loop_of *loop = any_loop(world, &dice);

        CHECK(world, aio_clock_ns() < deadline_ns, "walkers do not come to an end");
        if (dice_one_in(&dice, 8)) {
            if (dice_one_in(&dice, 2))
                aio_set_fd_handler(loop->ctx, loop->fd, NULL, NULL, NULL, NULL, NULL);
            watch_fd(loop, dice_one_in(&dice, 2));
        }
        if (dice_one_in(&dice, 16))
            aio_context_set_poll_params(loop->ctx, dice_below(&dice, 2) * POLL_NS, 0, 0);
        act_on_a_loop(world, &dice);
        sched_yield();
    }
}

static void run_once(struct random_run *run)
{
    struct world *world = malloc(sizeof *world);
    struct walker *walkers = malloc(N_WALKERS * sizeof *walkers);

    random_check(run, world && walkers, "no memory");
    world_begin(world, run);
    send_out(world, walkers);
    meddle(world);
    check_end(world);
    world_end(world);
    free(walkers);
    free(world);
}

int main(int argc, char **argv)
{
    static const struct random_program program = {
        .once = run_once, .short_runs = 2, .short_steps = 300};

    return random_main(argc, argv, &program);
}
