/* SPDX-License-Identifier: MIT */
/*
 * How long a call takes to a shard that sleeps: against two bare rings and an eventfd; with the
 * CPUs kept from sleeping deeply (--wake-latency low); and, where the next call comes soon, to one
 * that looks for work for a while before it sleeps (--spin).
 *
 * Only the time from the sending to the answer counts, not that until the other side is asleep, as
 * the kernel says, and has been so for a while, so that its core rests as well.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/ring.h"
#include "shard/thread_look.h"
#include "shard/wake_latency.h"
#include "tests/bench/compare.h"
#include "tests/bench/two_cpus.h"
#include "tests/unit/shard/mesh_rig.h"

#define WAKES      300
#define ROUNDS     9
#define REST_NS    200000 /* of who sleeps, before it is woken */
#define RING_SLOTS 64

static void check(bool ok)
{
    if (!ok)
        abort();
}

static void rest(int64_t ns)
{
    int64_t end_ns = aio_clock_ns() + ns;

    while (aio_clock_ns() < end_ns)
        ;
}

static void wait_until_asleep(pid_t pid)
{
    struct thread_look look;

    do
        check(thread_look(pid, &look) == 0);
    while (look.state != 'S');
    rest(REST_NS);
}

/* ---- a shard that sleeps ---- */

static struct rig rig;
static struct rig_end caller;

enum board_word { BOARD_SPIN_NS };

static void serve(struct rig_end *end)
{
    uint64_t spin_ns = 0, wanted_ns;

    two_cpus_pin(1);
    while (!atomic_load(&end->rig->board->leave)) {
        wanted_ns = atomic_load(&end->rig->board->words[BOARD_SPIN_NS]);
        if (wanted_ns != spin_ns)
            aio_context_set_poll_params(end->ctx, (int64_t)wanted_ns, 0, 0);
        spin_ns = wanted_ns;
        aio_poll(end->ctx, true);
    }
}

static void on_call(struct mesh_call *call, const struct mesh_answer *answer)
{
    check(answer->end == CALL_END_DONE);
    call->target = UINT32_MAX;
}

static double call_ns(void)
{
    struct mesh_call call = {.target = 1, .deadline_ns = INT64_MAX, .done = on_call};
    int64_t begin_ns = aio_clock_ns();

    check(mesh_call_start(caller.mesh, &call) == 0);
    while (call.target == 1)
        aio_poll(caller.ctx, false);
    return (double)(aio_clock_ns() - begin_ns);
}

static double wake_shard(uint64_t repeats)
{
    double sum_ns = 0;

    for (uint64_t i = 0; i < repeats; i++) {
        wait_until_asleep(rig.ends[1].pid);
        sum_ns += call_ns();
    }
    return sum_ns / (double)repeats;
}

static double wake_shard_held(uint64_t repeats)
{
    int fd = wake_latency_hold("/dev/cpu_dma_latency");
    double ns = wake_shard(repeats);

    close(fd);
    return ns;
}

/* From an answer to the next call, and how long the other side may look for one. */
struct pace {
    int64_t rest_ns;
    uint64_t spin_ns;
};

static struct pace pace;

static double call_soon(uint64_t repeats, uint64_t spin_ns)
{
    double sum_ns = 0;

    atomic_store(&rig.board->words[BOARD_SPIN_NS], spin_ns);
    call_ns(); /* it takes that over after this one */
    for (uint64_t i = 0; i < repeats; i++) {
        rest(pace.rest_ns);
        sum_ns += call_ns();
    }
    return sum_ns / (double)repeats;
}

static double call_soon_spinning(uint64_t repeats)
{
    return call_soon(repeats, pace.spin_ns);
}

static double call_soon_asleep(uint64_t repeats)
{
    return call_soon(repeats, 0);
}

static void open_pair(void)
{
    rig_open(&rig, 2, &rig_nothing);
    two_cpus_anywhere();
    rig_fork(&rig, 1, serve);
    two_cpus_pin(0);
    rig_begin(&rig, 0, &caller);
    aio_context_set_current(caller.ctx);
}

static void close_pair(void)
{
    aio_context_set_current(NULL);
    rig_finish(&caller);
    rig_close(&rig);
}

/* ---- bare rings and an eventfd ---- */

static struct bare {
    struct ring_slot there[RING_SLOTS], back[RING_SLOTS];
    uint64_t words[4 * 8]; /* tail and head of each, a cache line apart */
    uint32_t leave;
} * bare;
static int bare_bell;
static pid_t bare_pid;
static struct ring_tx bare_tx;
static struct ring_rx bare_rx;

static void bare_sleeper(void)
{
    struct pollfd fd = {.fd = bare_bell, .events = POLLIN};
    uint8_t payload[RING_PAYLOAD_BYTES];
    struct ring_tx tx;
    struct ring_rx rx;
    eventfd_t n;

    two_cpus_pin(1);
    ring_rx_init(&rx, bare->there, &bare->words[8], RING_SLOTS);
    ring_tx_init(&tx, bare->back, &bare->words[16], &bare->words[24], RING_SLOTS);
    while (!atomic_load_acquire(&bare->leave)) {
        poll(&fd, 1, -1);
        eventfd_read(bare_bell, &n);
        while (ring_pop(&rx, payload))
            ring_push(&tx, payload);
    }
    _exit(0);
}

static double wake_bare(uint64_t repeats)
{
    uint8_t payload[RING_PAYLOAD_BYTES] = {0};
    int64_t sum_ns = 0;

    for (uint64_t i = 0; i < repeats; i++) {
        wait_until_asleep(bare_pid);
        int64_t begin_ns = aio_clock_ns();

        ring_push(&bare_tx, payload);
        eventfd_write(bare_bell, 1);
        while (!ring_pop(&bare_rx, payload))
            ;
        sum_ns += aio_clock_ns() - begin_ns;
    }
    return (double)sum_ns / (double)repeats;
}

static void bare_start(void)
{
    bare = two_cpus_memory(sizeof *bare);
    bare_bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    ring_tx_init(&bare_tx, bare->there, &bare->words[0], &bare->words[8], RING_SLOTS);
    ring_rx_init(&bare_rx, bare->back, &bare->words[24], RING_SLOTS);
    two_cpus_anywhere();
    bare_pid = fork();
    check(bare_pid >= 0);
    if (bare_pid == 0)
        bare_sleeper();
    two_cpus_pin(0);
}

static void bare_stop(void)
{
    atomic_store_release(&bare->leave, 1);
    eventfd_write(bare_bell, 1);
    waitpid(bare_pid, NULL, 0);
    close(bare_bell);
}

/* ---- */

static void measure_soon(const char *what, struct pace at)
{
    pace = at;
    compare_row(&(struct compare){.what = what,
        .run_ns = call_soon_spinning,
        .baseline_name = "asleep at once",
        .baseline_ns = call_soon_asleep,
        .repeats = WAKES,
        .rounds = ROUNDS});
}

static void measure(void)
{
    struct compare sleeper = {.what = "a call to a shard that sleeps",
        .run_ns = wake_shard,
        .baseline_name = "rings and an eventfd",
        .baseline_ns = wake_bare,
        .repeats = WAKES,
        .rounds = ROUNDS,
        .goal = {.most_ratio = 1.1}};
    struct compare held = {.what = "the same, /dev/cpu_dma_latency held",
        .run_ns = wake_shard_held,
        .baseline_name = "not held",
        .baseline_ns = wake_shard,
        .repeats = WAKES,
        .rounds = ROUNDS};
    int fd = wake_latency_hold("/dev/cpu_dma_latency"); /* whether it can be */

    if (fd >= 0)
        close(fd);
    compare_row(&sleeper);
    if (fd >= 0)
        compare_row(&held);
    else
        printf("/dev/cpu_dma_latency: %s\n", strerror(-fd));
    measure_soon("the next after 2 us, spinning 20 us", (struct pace){2000, 20000});
    measure_soon("the next after 20 us, spinning 20 us", (struct pace){20000, 20000});
    measure_soon("the next after 20 us, spinning 50 us", (struct pace){20000, 50000});
    measure_soon("the next after 200 us, spinning 50 us", (struct pace){200000, 50000});
}

int main(void)
{
    two_cpus_begin();
    compare_head();
    bare_start();
    open_pair();
    measure();
    close_pair();
    bare_stop();
    return compare_end();
}
