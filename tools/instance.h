/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * instance - a running instance as a tool sees it: its runtime directory and its segment, read-only
 *
 * Why:         what a tool shows comes from shared memory, with no message to anybody: it works
 *              when the gateway is dead, and costs the instance nothing.
 * Use:         struct instance in;
 *              if (instance_open(name, wait_ns, INSTANCE_READY, &in))
 *                  return EXIT_WORK_FAILED;      // the error was printed
 *              …
 *              instance_close(&in);
 * Concurrency: the segment's writers go on while it is read: figures are stale and never torn, and
 *              two of them need not belong to one moment.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shard/segment.h"

struct instance {
    char *name;
    char *path; /* of its runtime directory */
    struct segment segment;
};

enum instance_wait {
    INSTANCE_THERE, /* it exists, and may be starting */
    INSTANCE_READY, /* it is ready for work; where it exists and does not get ready in time, it is
                       opened all the same */
};

/* NULL: the instance called default. 0, or -errno after an error was printed. */
int instance_open(const char *name, int64_t wait_ns, enum instance_wait wait, struct instance *ret);
void instance_close(struct instance *in);

/* A pidfd of the supervisor. -ESRCH: it is dead. */
int instance_open_supervisor(const struct instance *in);

/* ---- figures that several writers' words make up ---- */

/* "gateway", "shard 3" */
#define INSTANCE_PEER_NAME 24u
const char *instance_peer_name(
    const struct instance *in, uint32_t peer, char buf[static INSTANCE_PEER_NAME]);

/* Which peer stands in the n-th place where all are listed: the gateway in the first, then
 * shards. */
static inline uint32_t instance_listed_peer(const struct instance *in, uint32_t n)
{
    return n ? n - 1 : segment_gateway(&in->segment);
}

/* Slots of the rings of all lanes from `from` to `to`. */
uint64_t instance_ring_slots(const struct instance *in, uint32_t from, uint32_t to);

/* Messages that `from` has put into its rings to `to` and `to` has not taken: of one lane, of all. */
uint64_t instance_lane_depth(
    const struct instance *in, uint32_t from, uint32_t to, enum mesh_lane lane);
uint64_t instance_depth(const struct instance *in, uint32_t from, uint32_t to);

/* Calls of `from` to `to` that have not ended. */
uint64_t instance_calls_under_way(const struct instance *in, uint32_t from, uint32_t to);
