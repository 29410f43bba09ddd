/* SPDX-License-Identifier: MIT */
/*
 * What the mesh adds to a turn in which nothing is queued, at 2 to 128 shards; and a bottom half in
 * another shard, both awake.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/instruments.h"
#include "shard/geometry.h"
#include "shard/remote_bh.h"
#include "tests/bench/compare.h"
#include "tests/bench/two_cpus.h"
#include "tests/unit/shard/mesh_rig.h"

#define EMPTY_TURNS 20000
#define BOTTOMS     20000

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

    check(registry && registry_add(registry, &rig_nothing, NULL) == 0);
    check(segment_geometry_plan(n_shards, 0, &geometry, &bytes) == 0);
    check(segment_init(&seg, two_cpus_memory(bytes), bytes, &geometry, "bench") == 0);
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
        .repeats = EMPTY_TURNS});

    printf("%-44s %10.1f   ", "  what the mesh adds, by the medians", r.ns - r.baseline_ns);
    compare_judge(&(struct compare_goal){.most_ns = 10}, r.ns - r.baseline_ns, 0);
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
    two_cpus_pin(1);
    while (!atomic_load(&end->rig->board->leave))
        aio_poll(end->ctx, false);
}

static void open_pair(rig_body_fn *body)
{
    rig_open(&rig, 2, &rig_nothing);
    two_cpus_anywhere();
    rig_fork(&rig, 1, body);
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

int main(void)
{
    static const uint32_t counts[] = {2, 16, 64, 128};

    two_cpus_begin();
    two_cpus_pin(0);
    compare_head();
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        measure_empty_turns(counts[i]);
    open_pair(serve_awake);
    compare_row(&(struct compare){
        .what = "a bottom half in another shard, told", .run = bottom_halves, .repeats = BOTTOMS});
    close_pair();
    return compare_end();
}
