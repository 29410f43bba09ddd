/* SPDX-License-Identifier: MIT */
/*
 * Figures made of words with different writers are differences of words read at different moments,
 * so each is clamped to what it can be.
 *
 * Orderings: none. Every word read here is a figure for people, valid by itself; relaxed loads keep
 * it from being torn.
 */
#include "tools/instance.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/atomic.h"
#include "shard/rundir.h"
#include "tools/command.h"
#include "tools/pidfd.h"

static int find(const char *name, int64_t wait_ns, enum instance_wait wait, char **ret_path)
{
    char *error = NULL;
    int r = rundir_find(name, wait_ns, wait == INSTANCE_READY, ret_path, &error);
    if (r && wait == INSTANCE_READY) {
        char *ignored = NULL;
        int there = rundir_find(name, 0, 0, ret_path, &ignored);
        free(ignored);
        if (!there) {
            free(error);
            return 0;
        }
    }
    if (r)
        command_error_text(error, name, r);
    return r;
}

int instance_open(const char *name, int64_t wait_ns, enum instance_wait wait, struct instance *ret)
{
    struct instance in = {.name = strdup(name ? name : "default")};
    char *file = NULL;
    int r = in.name ? find(in.name, wait_ns, wait, &in.path) : -ENOMEM;
    if (r) {
        free(in.name);
        return r;
    }
    const char *why = NULL;
    if (asprintf(&file, "%s/segment", in.path) < 0)
        file = NULL;
    r = file ? segment_open(&in.segment, file, &why) : -ENOMEM;
    if (r) {
        command_error("instance %s: its segment (%s) cannot be read: %s", in.name,
            file ? file : "segment", why ? why : strerror(-r));
        free(in.name);
        free(in.path);
    }
    free(file);
    if (!r)
        *ret = in;
    return r;
}

void instance_close(struct instance *in)
{
    segment_close(&in->segment);
    free(in->path);
    free(in->name);
}

int instance_open_supervisor(const struct instance *in)
{
    const struct supervisor_head *head = segment_supervisor(&in->segment);
    return pidfd_open_started(
        atomic_load_relaxed(&head->pid), atomic_load_relaxed(&head->pid_start_ticks));
}

const char *instance_peer_name(
    const struct instance *in, uint32_t peer, char buf[static INSTANCE_PEER_NAME])
{
    if (peer == segment_gateway(&in->segment))
        snprintf(buf, INSTANCE_PEER_NAME, "gateway");
    else
        snprintf(buf, INSTANCE_PEER_NAME, "shard %u", peer);
    return buf;
}

uint64_t instance_ring_slots(const struct instance *in, uint32_t from, uint32_t to)
{
    uint64_t slots = 0;
    for (enum mesh_lane lane = 0; lane < N_LANES; lane++)
        slots += segment_ring_slots(&in->segment, from, to, lane);
    return slots;
}

uint64_t instance_lane_depth(
    const struct instance *in, uint32_t from, uint32_t to, enum mesh_lane lane)
{
    const struct segment *seg = &in->segment;
    uint64_t slots = segment_ring_slots(seg, from, to, lane);
    if (!slots)
        return 0;
    uint64_t head = atomic_load_relaxed(segment_head(seg, from, to, lane));
    uint64_t tail = atomic_load_relaxed(segment_tail(seg, from, to, lane));
    uint64_t depth = tail > head ? tail - head : 0;
    return depth < slots ? depth : slots;
}

uint64_t instance_depth(const struct instance *in, uint32_t from, uint32_t to)
{
    uint64_t depth = 0;
    for (enum mesh_lane lane = 0; lane < N_LANES; lane++)
        depth += instance_lane_depth(in, from, to, lane);
    return depth;
}

uint64_t instance_calls_under_way(const struct instance *in, uint32_t from, uint32_t to)
{
    const struct pair_stats *pair = segment_pair(&in->segment, from, to);
    uint64_t ended = 0;
    for (int end = 0; end < N_CALL_ENDS; end++)
        ended += atomic_load_relaxed(&pair->ends[end]);
    uint64_t submitted = atomic_load_relaxed(&pair->calls_submitted);
    return submitted > ended ? submitted - ended : 0;
}
