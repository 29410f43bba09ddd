/* SPDX-License-Identifier: MIT */
#include "tests/unit/shard/mesh_rig.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "shard/geometry.h"
#include "shard/arena.h"
#include "shard/blame.h"

#define DEADLINE_NS   (INT64_C(60) * 1000000000)
#define SERVE_NS      (4 * DEADLINE_NS)
#define BALLAST_BYTES 4096

static void *map_shared(size_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert(base != MAP_FAILED);
    return base;
}

static int coroutine_fn run_nothing(struct service_call *call)
{
    (void)call;
    return 0;
}

static const struct service_method methods[] = {
    {.name = "nothing", .flags = SERVICE_IDEMPOTENT, .help = "does nothing", .run = run_nothing},
};
const struct service rig_nothing = {
    .abi = SERVICE_ABI, .name = "rig", .help = "for tests", .methods = methods, .n_methods = 1};

void rig_open(struct rig *rig, uint32_t n_shards, const struct service *service)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    memset(rig, 0, sizeof(*rig));
    assert(segment_geometry_plan(n_shards, 0, &geometry, &bytes) == 0);
    assert(segment_init(&rig->seg, map_shared(bytes), bytes, &geometry, "rig") == 0);
    assert(arena_guard(&rig->seg) == 0);
    rig->board = map_shared(sizeof(*rig->board));
    rig->registry = registry_new();
    assert(rig->registry && registry_add(rig->registry, service, NULL) == 0);
    for (uint32_t peer = 0; peer <= rig->seg.n_peers; peer++) {
        rig->bells[peer] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        assert(rig->bells[peer] >= 0);
    }
    for (uint32_t peer = 0; peer < rig->seg.n_peers; peer++) {
        segment_control(&rig->seg, peer)->incarnation = 1;
        segment_control(&rig->seg, peer)->state = PEER_UP;
    }
}

/* ---- an end ---- */

static void begin(struct rig_end *end)
{
    struct rig *rig = end->rig;
    struct doorbell bell = {&segment_bell(&rig->seg, end->peer)->words, rig->bells[end->peer]};
    struct aio_instruments instruments;
    struct mesh_config config = {.segment = &rig->seg,
        .peer = end->peer,
        .incarnation = segment_control(&rig->seg, end->peer)->incarnation,
        .bell_fds = rig->bells,
        .registry = rig->registry,
        .letters_dir = rig->letters_dir,
        .no_rebalance = rig->no_rebalance,
        .scan = rig->scan,
        .adopt = rig->adopt,
        .adopt_opaque = rig};

    segment_instruments(&rig->seg, end->peer, &instruments);
    assert(aio_context_new(
               &(struct aio_config){.engine = rig->engine ? rig->engine : AIO_ENGINE_THREADS,
                   .doorbell = &bell,
                   .instruments = &instruments},
               &end->ctx) == 0);
    aio_context_set_current(end->ctx);
    config.ctx = end->ctx;
    assert(mesh_new(&config, &end->mesh) == 0);
}

static void finish(struct rig_end *end)
{
    mesh_free(end->mesh);
    while (aio_poll(end->ctx, false))
        ;
    aio_context_set_current(NULL);
    aio_context_unref(end->ctx);
}

static void live(struct rig_end *end)
{
    begin(end);
    end->body(end);
    finish(end);
}

void rig_begin(struct rig *rig, uint32_t peer, struct rig_end *end)
{
    *end = (struct rig_end){.rig = rig, .peer = peer};
    begin(end);
    aio_context_set_current(NULL);
}

void rig_finish(struct rig_end *end)
{
    aio_context_set_current(end->ctx);
    finish(end);
}

static void *thread_main(void *opaque)
{
    live(opaque);
    return NULL;
}

static struct rig_end *end_at(struct rig *rig, uint32_t peer, rig_body_fn *body)
{
    struct rig_end *end = &rig->ends[peer];

    assert(!end->running);
    *end = (struct rig_end){.rig = rig, .peer = peer, .body = body, .running = true};
    return end;
}

void rig_thread(struct rig *rig, uint32_t peer, rig_body_fn *body)
{
    struct rig_end *end = end_at(rig, peer, body);

    assert(pthread_create(&end->thread, NULL, thread_main, end) == 0);
}

void rig_fork(struct rig *rig, uint32_t peer, rig_body_fn *body)
{
    struct rig_end *end = end_at(rig, peer, body);
    struct commons_bell *bell = segment_bell(&rig->seg, peer);

    /* Ends that are threads may be ringing it. */
    atomic_store_relaxed(&bell->words.notify_me, 0);
    atomic_store_relaxed(&bell->words.notified, 1);
    fflush(NULL);
    end->pid = fork();
    assert(end->pid >= 0);
    if (end->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* should the test abort */
        end->ballast = malloc((peer + 1) * BALLAST_BYTES);
        live(end);
        _exit(0);
    }
    segment_control(&rig->seg, peer)->pid = end->pid;
}

void rig_join(struct rig *rig, uint32_t peer)
{
    struct rig_end *end = &rig->ends[peer];

    assert(end->running);
    end->running = false;
    if (end->pid)
        assert(waitpid(end->pid, NULL, 0) == end->pid);
    else
        assert(pthread_join(end->thread, NULL) == 0);
    end->pid = 0;
}

void rig_note_crash(struct rig *rig, uint32_t peer)
{
    struct peer_control *control = segment_control(&rig->seg, peer);
    uint64_t running = segment_part(&rig->seg, peer)->running;
    uint32_t home = running >> 56, caller = running >> 48 & 0xff, slot = running >> 32 & 0xffff;

    control->crashed_home = home;
    control->crashed_peer = caller;
    control->crashed_slot = slot;
    control->crashed_generation = !running ? 0
                                  : home == caller
                                      ? segment_ledger(&rig->seg, home, slot)->word >> 8
                                      : segment_serve(&rig->seg, home, caller, slot)->started >> 24;
    control->crashed_incarnation = control->incarnation;
    blame_note(&rig->seg, peer, aio_clock_ns());
}

static void tell(struct rig *rig, uint32_t about, uint32_t to)
{
    struct doorbell bell = {&segment_bell(&rig->seg, to)->words, rig->bells[to]};

    atomic_or_seq(&segment_bitmap(&rig->seg, to)->senders[about / 64], UINT64_C(1) << (about % 64));
    doorbell_knock(&bell);
}

void rig_quiet(struct rig *rig, uint32_t peer)
{
    struct peer_control *control = segment_control(&rig->seg, peer);

    atomic_store_release(&control->quiet_incarnation, control->incarnation - 1);
    for (uint32_t other = 0; other < rig->seg.n_peers; other++)
        tell(rig, peer, other);
}

void rig_bury(struct rig *rig, uint32_t peer, bool failed)
{
    struct peer_control *control = segment_control(&rig->seg, peer);

    mesh_finish_redo(&rig->seg, peer);
    arena_bury(&rig->seg, peer, failed);
    if (failed)
        atomic_store_release(&control->state, PEER_FAILED);
    atomic_store_release(&control->incarnation, control->incarnation + 1);
    for (uint32_t other = 0; other < rig->seg.n_peers; other++)
        if (other != peer)
            tell(rig, peer, other);
}

void rig_kill(struct rig *rig, uint32_t peer, bool failed)
{
    assert(rig->ends[peer].pid > 0 && kill(rig->ends[peer].pid, SIGKILL) == 0);
    rig_join(rig, peer);
    rig_bury(rig, peer, failed);
}

void rig_stop_all(struct rig *rig)
{
    atomic_store(&rig->board->leave, 1);
    for (uint32_t peer = 0; peer < rig->seg.n_peers; peer++) {
        struct doorbell bell = {&segment_bell(&rig->seg, peer)->words, rig->bells[peer]};
        if (!rig->ends[peer].running)
            continue;
        doorbell_knock(&bell);
        rig_join(rig, peer);
    }
}

void rig_close(struct rig *rig)
{
    atomic_store(&rig->board->leave, 1);
    for (uint32_t peer = 0; peer < rig->seg.n_peers; peer++) {
        struct doorbell bell = {&segment_bell(&rig->seg, peer)->words, rig->bells[peer]};
        if (!rig->ends[peer].running)
            continue;
        doorbell_knock(&bell);
        if (rig->ends[peer].pid)
            kill(rig->ends[peer].pid, SIGKILL);
        rig_join(rig, peer);
    }
    for (uint32_t peer = 0; peer <= rig->seg.n_peers; peer++)
        close(rig->bells[peer]);
    registry_free(rig->registry);
    munmap(rig->board, sizeof(*rig->board));
    munmap(rig->seg.base, rig->seg.bytes);
}

/* ---- waiting ---- */

static void on_tick(void *opaque)
{
    AioTimer *tick = opaque;

    timer_mod_ns(tick, aio_clock_ns() + 2000000);
}

/* The condition may be about words that no doorbell announces, so a timer makes the loop look. */
static void poll_until(
    struct rig_end *end, bool (*cond)(void *opaque), void *opaque, int64_t deadline_ns)
{
    AioTimer tick;

    aio_timer_init(end->ctx, &tick, on_tick, &tick);
    timer_mod_ns(&tick, aio_clock_ns() + 2000000);
    while (!cond(opaque)) {
        assert(aio_clock_ns() < deadline_ns);
        aio_poll(end->ctx, true);
    }
    timer_del(&tick);
}

void rig_poll_until(struct rig_end *end, bool (*cond)(void *opaque), void *opaque)
{
    poll_until(end, cond, opaque, aio_clock_ns() + DEADLINE_NS);
}

void rig_serve_until(struct rig_end *end, bool (*cond)(void *opaque), void *opaque)
{
    poll_until(end, cond, opaque, aio_clock_ns() + SERVE_NS);
}

static bool is_told_to_leave(void *opaque)
{
    struct rig_end *end = opaque;

    return atomic_load(&end->rig->board->leave) != 0;
}

void rig_serve(struct rig_end *end)
{
    rig_serve_until(end, is_told_to_leave, end);
}

void rig_wait_word(struct rig *rig, unsigned word, uint64_t value)
{
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;

    while (atomic_load(&rig->board->words[word]) < value) {
        assert(aio_clock_ns() < deadline_ns);
        sched_yield();
    }
}

/* ---- accounts ---- */

static uint64_t pair_in_use(const struct rig *rig, uint32_t caller, uint32_t callee)
{
    uint64_t n = 0;

    for (uint32_t slot = 0; slot < segment_call_slots(&rig->seg, caller, callee); slot++) {
        uint64_t word = atomic_load_acquire(&segment_call(&rig->seg, caller, callee, slot)->word);
        n += (word & 0xff) != CALL_FREE;
    }
    return n;
}

uint64_t rig_slots_in_use(const struct rig *rig)
{
    uint64_t n = 0;

    for (uint32_t caller = 0; caller < rig->seg.n_peers; caller++)
        for (uint32_t callee = 0; callee < rig->seg.n_peers; callee++)
            n += pair_in_use(rig, caller, callee);
    return n;
}

bool rig_balances(const struct rig *rig)
{
    for (uint32_t caller = 0; caller < rig->seg.n_peers; caller++)
        for (uint32_t callee = 0; callee < rig->seg.n_peers; callee++) {
            const struct pair_stats *stats = segment_pair(&rig->seg, caller, callee);
            uint64_t ended = 0;
            if (caller == callee)
                continue;
            for (int end = 0; end < N_CALL_ENDS; end++)
                ended += stats->ends[end];
            if (stats->calls_submitted != ended + pair_in_use(rig, caller, callee)) {
                fprintf(stderr, "pair %u to %u: %llu submitted, %llu ended, %llu under way\n",
                    caller, callee, (unsigned long long)stats->calls_submitted,
                    (unsigned long long)ended,
                    (unsigned long long)pair_in_use(rig, caller, callee));
                return false;
            }
        }
    return true;
}
