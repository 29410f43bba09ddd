/* SPDX-License-Identifier: MIT */
/*
 * bench_loop - what a turn, a bottom half and a wake-up cost
 *
 * Each line stands beside something bare that does as much as the machine asks for: a system call,
 * a cache line that goes to and fro, eventfd and epoll. Where two threads are needed the second is
 * the partner, on a core of its own; it plays our side and the bare side in turn, so that neither
 * disturbs the other.
 *
 * usage: bench_loop [PART]...     parts: turn, bh, threads, fds, idle; default: all
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "runtime/aio.h"
#include "runtime/atomic.h"
#include "runtime/coroutine.h"
#include "tests/bench/compare.h"

#define BATCH    32
#define MOST_BHS 128
#define POLL_NS  (20 * AIO_SCALE_MS) /* both awake: longer than any pause of the benchmark */
#define N_IDLE   1000
#define IDLE_NS  AIO_SCALE_S
#define FAR_NS   (3600 * AIO_SCALE_S)
#define N_CORES  2

static AioContext *here;  /* of the main thread */
static AioContext *there; /* of the partner */

static void die(const char *what, int error)
{
    fprintf(stderr, "bench_loop: %s: %s\n", what, strerror(error));
    exit(1);
}

static AioContext *new_context(enum aio_engine engine)
{
    struct aio_config config = {.engine = engine};
    AioContext *ctx;
    int r = aio_context_new(&config, &ctx);

    if (r < 0)
        die("context", -r);
    return ctx;
}

static void run_on_core(int core)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(core, &set);
    sched_setaffinity(0, sizeof set, &set); /* with one core only, the figures say so */
}

static void set_busy(bool busy)
{
    aio_context_set_poll_params(here, busy ? POLL_NS : 0, 0, 0);
    aio_context_set_poll_params(there, busy ? POLL_NS : 0, 0, 0);
}

/* ---- the partner ---- */

static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    void (*role)(void); /* what it does; NULL: nothing */
    bool leaves;
    bool stop; /* atomic: tells a role that has no other end */
} partner = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void *partner_run(void *opaque)
{
    run_on_core(1 % N_CORES);
    aio_context_set_current(there);
    pthread_mutex_lock(&partner.lock);
    while (!partner.leaves) {
        void (*role)(void) = partner.role;

        if (role) {
            pthread_mutex_unlock(&partner.lock);
            role();
            pthread_mutex_lock(&partner.lock);
            partner.role = NULL;
            pthread_cond_broadcast(&partner.changed);
        } else {
            pthread_cond_wait(&partner.changed, &partner.lock);
        }
    }
    pthread_mutex_unlock(&partner.lock);
    aio_context_set_current(NULL);
    return NULL;
}

static void partner_begin(void (*role)(void))
{
    pthread_mutex_lock(&partner.lock);
    atomic_store_release(&partner.stop, false);
    partner.role = role;
    pthread_cond_broadcast(&partner.changed);
    pthread_mutex_unlock(&partner.lock);
}

static void partner_end(void)
{
    pthread_mutex_lock(&partner.lock);
    while (partner.role)
        pthread_cond_wait(&partner.changed, &partner.lock);
    pthread_mutex_unlock(&partner.lock);
}

static void partner_leave(void)
{
    pthread_mutex_lock(&partner.lock);
    partner.leaves = true;
    pthread_cond_broadcast(&partner.changed);
    pthread_mutex_unlock(&partner.lock);
    pthread_join(partner.thread, NULL);
}

static void stop_partner(void *opaque)
{
    partner.stop = true;
}

static void role_loop(void)
{
    while (!partner.stop)
        aio_poll(there, true);
}

static void end_role_loop(void)
{
    aio_bh_schedule_oneshot(there, stop_partner, NULL);
    partner_end();
}

/* ---- a turn with nothing to do ---- */

static AioContext *epoll_ctx;
static AioContext *uring_ctx;
static int bare_epoll;

static void turn_epoll(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        aio_poll(epoll_ctx, false);
}

static void turn_uring(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        aio_poll(uring_ctx, false);
}

static void bare_epoll_wait(uint64_t n)
{
    struct epoll_event event;

    for (uint64_t i = 0; i < n; i++)
        epoll_wait(bare_epoll, &event, 1, 0);
}

static void ignore(void *opaque)
{
}

static void bench_turn(void)
{
    int fds[2];

    if (pipe(fds) < 0 || (bare_epoll = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("pipe", errno);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(bare_epoll, EPOLL_CTL_ADD, fds[0], &event);
    epoll_ctx = new_context(AIO_ENGINE_THREADS);
    compare_row(&(struct compare){.what = "aio_poll, nothing to do, own notifier",
        .run = turn_epoll,
        .baseline_name = "epoll_wait(0)",
        .baseline = bare_epoll_wait,
        .repeats = 200000,
        .goal = {.most_ns = 20}});
    uring_ctx = new_context(AIO_ENGINE_AUTO);
    if (aio_context_engine(uring_ctx) == AIO_ENGINE_IO_URING) {
        aio_set_fd_handler(uring_ctx, fds[0], ignore, NULL, NULL, NULL, NULL);
        compare_row(&(struct compare){.what = "aio_poll, nothing to do, io_uring with an fd",
            .run = turn_uring,
            .baseline_name = "epoll_wait(0)",
            .baseline = bare_epoll_wait,
            .repeats = 200000,
            .goal = {.most_ns = 20}});
        aio_set_fd_handler(uring_ctx, fds[0], NULL, NULL, NULL, NULL, NULL);
    }
    aio_context_unref(uring_ctx);
    aio_context_unref(epoll_ctx);
    close(bare_epoll);
    close(fds[0]);
    close(fds[1]);
}

/* ---- bottom halves of the own loop ---- */

static uint64_t n_calls;
static BH *bhs[MOST_BHS];

static void count(void *opaque)
{
    n_calls++;
}

static void bh_one(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        bh_schedule(bhs[0]);
        aio_bh_poll(here);
    }
}

static void bh_one_turn(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        bh_schedule(bhs[0]);
        aio_poll(here, false);
    }
}

static void bh_batch(uint64_t n)
{
    for (uint64_t i = 0; i < n; i += BATCH) {
        for (unsigned k = 0; k < BATCH; k++)
            bh_schedule(bhs[k]);
        aio_poll(here, false);
    }
}

static void oneshot_one_turn(uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        aio_bh_schedule_oneshot(here, count, NULL);
        aio_poll(here, false);
    }
}

static void oneshot_batch(uint64_t n)
{
    for (uint64_t i = 0; i < n; i += BATCH) {
        for (unsigned k = 0; k < BATCH; k++)
            aio_bh_schedule_oneshot(here, count, NULL);
        aio_poll(here, false);
    }
}

/* The least that may be asked of something that any thread may schedule. */
static void two_locked(uint64_t n)
{
    static uint32_t flags;

    for (uint64_t i = 0; i < n; i++) {
        atomic_or_seq(&flags, 1u);
        atomic_and_seq(&flags, 0u);
    }
}

static void bench_bh(void)
{
    static const struct {
        const char *what;
        void (*run)(uint64_t n);
        double most_ns;
    } rows[] = {
        {"bh_schedule + aio_bh_poll, own loop", bh_one, 25},
        {"bh_schedule + aio_poll, own loop", bh_one_turn, 0},
        {"the same, 32 a turn, each", bh_batch, 16},
        {"oneshot + aio_poll, own loop", oneshot_one_turn, 0},
        {"the same, 32 a turn, each", oneshot_batch, 16},
    };

    for (unsigned i = 0; i < BATCH; i++)
        bhs[i] = aio_bh_new(here, count, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        compare_row(&(struct compare){.what = rows[i].what,
            .run = rows[i].run,
            .baseline_name = "two locked operations",
            .baseline = two_locked,
            .repeats = 320000,
            .goal = {.most_ns = rows[i].most_ns}});
    for (unsigned i = 0; i < BATCH; i++)
        bh_delete(bhs[i]);
    aio_poll(here, false);
}

/* ---- bottom halves between two threads ---- */

static BH *requests[MOST_BHS]; /* of there */
static BH *replies[MOST_BHS];  /* of here */
static uint64_t n_replies;
static uint64_t n_wanted; /* requests still to be sent */

static void on_request(void *opaque)
{
    bh_schedule(replies[(uintptr_t)opaque]);
}

static void on_reply(void *opaque)
{
    n_replies++;
    if (n_wanted > 0) {
        n_wanted--;
        bh_schedule(requests[(uintptr_t)opaque]);
    }
}

static void exchange(uint64_t n, unsigned n_in_flight)
{
    partner_begin(role_loop);
    n_replies = 0;
    n_wanted = n;
    for (unsigned i = 0; i < n_in_flight && n_wanted > 0; i++, n_wanted--)
        bh_schedule(requests[i]);
    while (n_replies < n)
        aio_poll(here, true);
    end_role_loop();
}

static void exchange_1(uint64_t n)
{
    exchange(n, 1);
}

static void exchange_32(uint64_t n)
{
    exchange(n, 32);
}

static void exchange_128(uint64_t n)
{
    exchange(n, 128);
}

/* A line for each direction. */
static struct {
    uint64_t ball __attribute__((aligned(64)));
    uint64_t back __attribute__((aligned(64)));
    uint64_t target;
} table;

static void role_line(void)
{
    for (uint64_t i = 1; i <= table.target; i++) {
        while (atomic_load_acquire(&table.ball) < i)
            atomic_pause();
        atomic_store_release(&table.back, i);
    }
}

static void lines(uint64_t n)
{
    table.ball = table.back = 0;
    table.target = n;
    partner_begin(role_line);
    for (uint64_t i = 1; i <= n; i++) {
        atomic_store_release(&table.ball, i);
        while (atomic_load_acquire(&table.back) < i)
            atomic_pause();
    }
    partner_end();
}

static uint64_t n_hops;
static bool hopped;

static void coroutine_fn hop(void *opaque)
{
    for (uint64_t i = 0; i < n_hops; i += 2) {
        aio_co_reschedule_self(there);
        aio_co_reschedule_self(here);
    }
    hopped = true;
}

static void hops(uint64_t n)
{
    n_hops = n;
    hopped = false;
    partner_begin(role_loop);
    coroutine_enter(coroutine_create(hop, NULL));
    while (!hopped)
        aio_poll(here, true);
    end_role_loop();
}

/* One way is half of a round trip. */
static void lines_one_way(uint64_t n)
{
    lines(n / 2);
}

static void bench_threads(void)
{
    for (uintptr_t i = 0; i < MOST_BHS; i++) {
        requests[i] = aio_bh_new(there, on_request, (void *)i);
        replies[i] = aio_bh_new(here, on_reply, (void *)i);
    }
    set_busy(true);
    static const struct {
        const char *what;
        void (*run)(uint64_t n);
        void (*baseline)(uint64_t n);
        const char *baseline_name;
        double most_ns;
    } rows[] = {
        {"BH there and back, both awake, 1 in flight", exchange_1, lines,
            "two lines, there and back", 420},
        {"the same, 32 in flight, each", exchange_32, lines, "two lines, there and back", 0},
        {"the same, 128 in flight, each", exchange_128, lines, "two lines, there and back",
            111 /* 9 M/s */},
        {"aio_co_reschedule_self, both awake, one way", hops, lines_one_way, "two lines, one way",
            500},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        compare_row(&(struct compare){.what = rows[i].what,
            .run = rows[i].run,
            .baseline_name = rows[i].baseline_name,
            .baseline = rows[i].baseline,
            .repeats = 2000, /* short rounds: some go undisturbed */
            .rounds = 99,
            .goal = {.most_ns = rows[i].most_ns}});
    set_busy(false);
    for (unsigned i = 0; i < MOST_BHS; i++) {
        bh_delete(requests[i]);
        bh_delete(replies[i]);
    }
    partner_begin(role_loop);
    aio_poll(here, false);
    end_role_loop();
}

/* ---- fds between two threads ---- */

static int ping_fd; /* readable there */
static int pong_fd; /* readable here */
static uint64_t n_pongs;
static uint64_t n_volleys;

static void take(int fd)
{
    uint64_t value;

    if (read(fd, &value, sizeof value) < 0 && errno != EAGAIN)
        die("read", errno);
}

static void put(int fd)
{
    const uint64_t one = 1;

    if (write(fd, &one, sizeof one) < 0)
        die("write", errno);
}

static void on_ping(void *opaque)
{
    take(ping_fd);
    put(pong_fd);
}

static void on_pong(void *opaque)
{
    take(pong_fd);
    if (++n_pongs < n_volleys)
        put(ping_fd);
}

static void loop_volleys(uint64_t n)
{
    partner_begin(role_loop);
    aio_set_fd_handler(there, ping_fd, on_ping, NULL, NULL, NULL, NULL);
    aio_set_fd_handler(here, pong_fd, on_pong, NULL, NULL, NULL, NULL);
    n_pongs = 0;
    n_volleys = n;
    put(ping_fd);
    while (n_pongs < n)
        aio_poll(here, true);
    aio_set_fd_handler(here, pong_fd, NULL, NULL, NULL, NULL, NULL);
    aio_set_fd_handler(there, ping_fd, NULL, NULL, NULL, NULL, NULL);
    end_role_loop();
}

/* Waits for fd in set; -1: asleep, 0: awake. */
static int bare_timeout;

static void bare_take(int set, int fd)
{
    struct epoll_event event;

    while (epoll_wait(set, &event, 1, bare_timeout) == 0)
        ;
    take(fd);
}

static int bare_set(int fd)
{
    struct epoll_event event = {.events = EPOLLIN};
    int set = epoll_create1(EPOLL_CLOEXEC);

    if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0)
        die("epoll", errno);
    return set;
}

static void role_bare(void)
{
    int set = bare_set(ping_fd);

    for (uint64_t i = 0; i < n_volleys; i++) {
        bare_take(set, ping_fd);
        put(pong_fd);
    }
    close(set);
}

static void bare_volleys(uint64_t n)
{
    int set = bare_set(pong_fd);

    n_volleys = n;
    partner_begin(role_bare);
    for (uint64_t i = 0; i < n; i++) {
        put(ping_fd);
        bare_take(set, pong_fd);
    }
    partner_end();
    close(set);
}

static void bench_fds_on(const char *name)
{
    char asleep[64], awake[64];

    snprintf(asleep, sizeof asleep, "fd there and back, asleep, %s", name);
    snprintf(awake, sizeof awake, "fd there and back, polling, %s", name);
    bare_timeout = -1;
    compare_row(&(struct compare){.what = asleep,
        .run = loop_volleys,
        .baseline_name = "eventfd + epoll",
        .baseline = bare_volleys,
        .repeats = 200,
        .goal = {.most_ratio = 1.1}});
    set_busy(true);
    bare_timeout = 0;
    compare_row(&(struct compare){.what = awake,
        .run = loop_volleys,
        .baseline_name = "eventfd + busy epoll",
        .baseline = bare_volleys,
        .repeats = 500,
        .rounds = 31,
        .goal = {.most_ratio = 1.0}});
    set_busy(false);
}

static void bench_fds(enum aio_engine engine)
{
    ping_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    pong_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (ping_fd < 0 || pong_fd < 0)
        die("eventfd", errno);
    bench_fds_on(aio_engine_name(engine));
    close(ping_fd);
    close(pong_fd);
}

/* ---- idle ---- */

static void set_flag(void *opaque)
{
    *(bool *)opaque = true;
}

static int64_t own_cpu_ns(void)
{
    struct timespec time;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * AIO_SCALE_S + time.tv_nsec;
}

static void bench_idle(void)
{
    static AioTimer timers[N_IDLE], end;
    static int fds[N_IDLE];
    bool over = false;

    for (int i = 0; i < N_IDLE; i++) {
        fds[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (fds[i] < 0)
            die("eventfd", errno);
        aio_set_fd_handler(here, fds[i], ignore, NULL, NULL, NULL, NULL);
        aio_timer_init(here, &timers[i], ignore, NULL);
        timer_mod_ns(&timers[i], aio_clock_ns() + FAR_NS + i);
    }
    aio_poll(here, false);
    aio_timer_init(here, &end, set_flag, &over);
    timer_mod_ns(&end, aio_clock_ns() + IDLE_NS);
    int64_t begin_ns = own_cpu_ns();
    while (!over)
        aio_poll(here, true);
    printf("%d idle fds and far timers (%s): %.1f us of CPU in %.0f s\n", N_IDLE,
        aio_engine_name(aio_context_engine(here)), (double)(own_cpu_ns() - begin_ns) / 1e3,
        (double)IDLE_NS / 1e9);
    fflush(stdout);
    for (int i = 0; i < N_IDLE; i++) {
        timer_del(&timers[i]);
        aio_set_fd_handler(here, fds[i], NULL, NULL, NULL, NULL, NULL);
        close(fds[i]);
    }
}

/* ---- all ---- */

static bool is_asked(int n, char **parts, const char *part)
{
    for (int i = 1; i < n; i++)
        if (strcmp(parts[i], part) == 0)
            return true;
    return n == 1;
}

static void bench_on(enum aio_engine engine, int argc, char **argv)
{
    here = new_context(engine);
    there = new_context(engine);
    printf("\n%s, %s\n", aio_engine_name(engine), aio_context_engine_flags(here));
    compare_head();
    aio_context_set_current(here);
    partner.leaves = false;
    if (pthread_create(&partner.thread, NULL, partner_run, NULL) != 0)
        die("thread", EAGAIN);
    if (is_asked(argc, argv, "bh"))
        bench_bh();
    if (is_asked(argc, argv, "threads"))
        bench_threads();
    if (is_asked(argc, argv, "fds"))
        bench_fds(engine);
    if (is_asked(argc, argv, "idle"))
        bench_idle();
    partner_leave();
    aio_context_set_current(NULL);
    aio_context_unref(here);
    aio_context_unref(there);
}

int main(int argc, char **argv)
{
    AioContext *probe;

    run_on_core(0);
    if (is_asked(argc, argv, "turn")) {
        compare_head();
        bench_turn();
    }
    bench_on(AIO_ENGINE_THREADS, argc, argv);
    probe = new_context(AIO_ENGINE_AUTO);
    bool has_uring = aio_context_engine(probe) == AIO_ENGINE_IO_URING;
    aio_context_unref(probe);
    if (has_uring)
        bench_on(AIO_ENGINE_IO_URING, argc, argv);
    return compare_end();
}
