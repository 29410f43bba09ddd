/* SPDX-License-Identifier: MIT */
/*
 * What the mesh adds to a turn in which nothing is queued, at 2 to 128 shards; a bottom half in
 * another shard, both awake; and the wake-up of a shard that sleeps, against shared memory and an
 * eventfd.
 *
 * Of a wake-up only the time from the sending to the answer counts, not that until the other side
 * sleeps again.
 */
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/instruments.h"
#include "runtime/ring.h"
#include "shard/remote_bh.h"
#include "tests/bench/compare.h"
#include "tests/unit/shard/mesh_rig.h"

#define EMPTY_TURNS 20000
#define BOTTOMS     20000
#define WAKES       300
#define RING_SLOTS  64

static int coroutine_fn run_nothing(struct service_call *call)
{
    (void)call;
    return 0;
}

static const struct service_method methods[] = {
    {.name = "nothing", .flags = SERVICE_IDEMPOTENT, .help = "does nothing", .run = run_nothing},
};
static const struct service bench_service = {.abi = SERVICE_ABI,
    .name = "bench",
    .help = "for a benchmark",
    .methods = methods,
    .n_methods = 1};

static cpu_set_t all; /* that this process may use, at its start */

static void pin_to(uint32_t which)
{
    cpu_set_t one;

    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && which-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            sched_setaffinity(0, sizeof one, &one);
            return;
        }
}

static void *map_shared(size_t bytes)
{
    void *base = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return base == MAP_FAILED ? abort(), NULL : base;
}

static void check(bool ok)
{
    if (!ok)
        abort();
}

/* ---- an empty turn ---- */

static AioContext *with_mesh, *without;

static void empty_turns(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++)
        aio_poll(with_mesh, false);
}

static void bare_turns(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++)
        aio_poll(without, false);
}

static AioContext *new_context(void)
{
    AioContext *ctx;

    check(aio_context_new(&(struct aio_config){.engine = AIO_ENGINE_THREADS}, &ctx) == 0);
    return ctx;
}

static void measure_empty_turns(uint32_t n_shards)
{
    int bells[SEGMENT_MAX_PEERS + 1];
    struct registry *registry = registry_new();
    struct segment_geometry geometry;
    struct segment seg;
    struct mesh *mesh;
    uint64_t bytes;
    char what[64];

    check(registry && registry_add(registry, &bench_service, NULL) == 0);
    check(segment_geometry_plan(n_shards, 0, &geometry, &bytes) == 0);
    check(segment_init(&seg, map_shared(bytes), bytes, &geometry, "bench") == 0);
    bells[0] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    for (uint32_t i = 1; i <= seg.n_peers; i++)
        bells[i] = bells[0];
    with_mesh = new_context();
    without = new_context();
    check(mesh_new(&(struct mesh_config){.segment = &seg,
                       .incarnation = 1,
                       .ctx = with_mesh,
                       .bell_fds = bells,
                       .registry = registry},
              &mesh) == 0);
    empty_turns(2);
    snprintf(what, sizeof(what), "an empty turn, %u shards", n_shards);
    struct compare_result r = compare_row(&(struct compare){.what = what,
        .run = empty_turns,
        .baseline_name = "without a mesh",
        .baseline = bare_turns,
        .repeats = EMPTY_TURNS,
        .goal = "10 ns more"});

    printf("%-44s %10.1f\n", "  the mesh adds, by the medians", r.ns - r.baseline_ns);
    mesh_free(mesh);
    aio_context_unref(with_mesh);
    aio_context_unref(without);
    registry_free(registry);
    close(bells[0]);
    munmap(seg.base, bytes);
}

/* ---- another shard ---- */

static struct rig rig;
static struct rig_end caller;

static void serve_awake(struct rig_end *end)
{
    pin_to(1);
    while (!atomic_load(&end->rig->board->leave))
        aio_poll(end->ctx, false);
}

static void serve_asleep(struct rig_end *end)
{
    pin_to(1);
    while (!atomic_load(&end->rig->board->leave))
        aio_poll(end->ctx, true);
}

/* A child is born where it may run elsewhere than its parent, which is going to spin. */
static void open_pair(rig_body_fn *body)
{
    rig_open(&rig, 2, &bench_service);
    sched_setaffinity(0, sizeof all, &all);
    rig_fork(&rig, 1, body);
    pin_to(0);
    rig_begin(&rig, 0, &caller);
    aio_context_set_current(caller.ctx);
}

static void close_pair(void)
{
    aio_context_set_current(NULL);
    rig_finish(&caller);
    rig_close(&rig);
}

static void do_nothing(struct mesh *mesh, const void *args, size_t len)
{
    (void)mesh;
    (void)args;
    (void)len;
}

static void on_bottom_half(void *opaque, enum call_end end, int status)
{
    (void)status;
    check(end == CALL_END_DONE);
    *(bool *)opaque = true;
}

static void bottom_halves(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++) {
        bool done = false;

        check(
            shard_bh_schedule(caller.mesh,
                &(struct shard_bh){
                    .target = 1, .fn = do_nothing, .done = on_bottom_half, .opaque = &done}) == 0);
        while (!done)
            aio_poll(caller.ctx, false);
    }
}

/* ---- a sleeper ---- */

static void on_call(struct mesh_call *call, const struct mesh_answer *answer)
{
    check(answer->end == CALL_END_DONE);
    call->target = UINT32_MAX;
}

static void wait_until_asleep(void)
{
    const struct doorbell_words *words = &segment_bell(&rig.seg, 1)->words;
    const struct aio_counters *counters = segment_counters(&rig.seg, 1);

    while (!atomic_load_acquire(&words->notify_me) || !atomic_load_acquire(&counters->asleep))
        aio_poll(caller.ctx, false);
    usleep(200); /* into the kernel, and the core to rest */
}

static double wake_shard(uint64_t repeats)
{
    int64_t sum_ns = 0;

    for (uint64_t i = 0; i < repeats; i++) {
        struct mesh_call call = {.target = 1, .deadline_ns = INT64_MAX, .done = on_call};

        wait_until_asleep();
        int64_t begin_ns = aio_clock_ns();

        check(mesh_call_start(caller.mesh, &call) == 0);
        while (call.target == 1)
            aio_poll(caller.ctx, false);
        sum_ns += aio_clock_ns() - begin_ns;
    }
    return (double)sum_ns / (double)repeats;
}

static struct bare {
    struct ring_slot there[RING_SLOTS], back[RING_SLOTS];
    uint64_t words[4 * 8]; /* tail and head of each, a cache line apart */
    uint32_t leave, asleep;
} * bare;
static int bare_bell;
static struct ring_tx bare_tx;
static struct ring_rx bare_rx;

static void bare_sleeper(void)
{
    struct pollfd fd = {.fd = bare_bell, .events = POLLIN};
    uint8_t payload[RING_PAYLOAD_BYTES];
    struct ring_tx tx;
    struct ring_rx rx;
    eventfd_t n;

    pin_to(1);
    ring_rx_init(&rx, bare->there, &bare->words[8], RING_SLOTS);
    ring_tx_init(&tx, bare->back, &bare->words[16], &bare->words[24], RING_SLOTS);
    while (!atomic_load_acquire(&bare->leave)) {
        atomic_store_release(&bare->asleep, 1);
        poll(&fd, 1, -1);
        atomic_store_release(&bare->asleep, 0);
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
        while (!atomic_load_acquire(&bare->asleep))
            ;
        usleep(200);
        int64_t begin_ns = aio_clock_ns();

        ring_push(&bare_tx, payload);
        eventfd_write(bare_bell, 1);
        while (!ring_pop(&bare_rx, payload))
            ;
        sum_ns += aio_clock_ns() - begin_ns;
    }
    return (double)sum_ns / (double)repeats;
}

static pid_t bare_start(void)
{
    bare = map_shared(sizeof *bare);
    bare_bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    ring_tx_init(&bare_tx, bare->there, &bare->words[0], &bare->words[8], RING_SLOTS);
    ring_rx_init(&bare_rx, bare->back, &bare->words[24], RING_SLOTS);
    sched_setaffinity(0, sizeof all, &all);
    pid_t pid = fork();

    if (pid == 0)
        bare_sleeper();
    pin_to(0);
    return pid;
}

static void bare_stop(pid_t pid)
{
    atomic_store_release(&bare->leave, 1);
    eventfd_write(bare_bell, 1);
    waitpid(pid, NULL, 0);
}

int main(void)
{
    static const uint32_t counts[] = {2, 16, 64, 128};

    sched_getaffinity(0, sizeof all, &all);
    pin_to(0);
    compare_head();
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        measure_empty_turns(counts[i]);
    open_pair(serve_awake);
    compare_row(&(struct compare){
        .what = "a bottom half in another shard, told", .run = bottom_halves, .repeats = BOTTOMS});
    close_pair();
    pid_t pid = bare_start();

    open_pair(serve_asleep);
    compare_row(&(struct compare){.what = "a call to a shard that sleeps",
        .run_ns = wake_shard,
        .baseline_name = "rings and an eventfd",
        .baseline_ns = wake_bare,
        .repeats = WAKES,
        .rounds = 9,
        .goal = "at most 1.1"});
    close_pair();
    bare_stop(pid);
    return 0;
}
