/* SPDX-License-Identifier: MIT */
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
