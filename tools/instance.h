/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * instance - a running instance as a tool sees it: its runtime directory and its segment, read-only
 *
 * Why:         who gives an instance's supervisor an order needs words of this version's, and its
 *              pid.
 * Use:         struct instance in;
 *              if (instance_open(name, wait_ns, INSTANCE_READY, &in))
 *                  return EXIT_WORK_FAILED;      // the error was printed
 *              …
 *              instance_close(&in);
 * Concurrency: one thread; the segment's writers go on
 * Not here:    looking, at one of any version, live or dead (look.h)
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

/* "gateway", "shard 3" */
#define INSTANCE_PEER_NAME 24u
const char *instance_peer_name(
    const struct instance *in, uint32_t peer, char buf[static INSTANCE_PEER_NAME]);
