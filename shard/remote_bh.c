/* SPDX-License-Identifier: MIT */
/*
 * The arguments of the call are the function's address and then the bytes that it gets. The address
 * is checked on both sides: here for an error at once, there because a peer wrote it.
 */
#include "shard/remote_bh.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shard/builtin.h"
#include "shard/mesh_inside.h"
#include "shard/serve.h"

/* One that was scheduled and has not ended. */
struct scheduled {
    struct mesh_call call; /* first: on_done() gets a pointer to it */
    shard_bh_done_fn *done;
    void *opaque;
    uint64_t fn;
    uint8_t bytes[]; /* right behind it: both are the call's arguments */
};

static_assert(offsetof(struct scheduled, bytes) == offsetof(struct scheduled, fn) + 8,
    "the arguments of the call lie together");

/* ---- in the target ---- */

int coroutine_fn remote_bh_serve(struct service_call *call)
{
    uint64_t fn;

    if (call->args_len < sizeof(fn))
        return -EPROTO;
    memcpy(&fn, call->args, sizeof(fn));
    if (!code_ranges_has(&call->mesh->code, (uintptr_t)fn))
        return -EPROTO;
    ((shard_bh_fn *)(uintptr_t)fn)(
        call->mesh, (const uint8_t *)call->args + sizeof(fn), call->args_len - sizeof(fn));
    return 0;
}

/* ---- in the scheduler ---- */

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct scheduled *scheduled = (struct scheduled *)call;

    if (scheduled->done)
        scheduled->done(scheduled->opaque, answer->end, answer->status);
    free(scheduled);
}

/* For this shard itself it is a bottom half. */
static void run_here(void *opaque)
{
    struct scheduled *scheduled = opaque;

    ((shard_bh_fn *)(uintptr_t)scheduled->fn)(
        scheduled->call.mesh, scheduled->bytes, scheduled->call.args_len - sizeof(scheduled->fn));
    scheduled->call.mesh->n_under_way--;
    on_done(&scheduled->call, &(struct mesh_answer){.end = CALL_END_DONE});
}

static int schedule_here(struct mesh *mesh, struct scheduled *scheduled)
{
    int r = aio_bh_schedule_oneshot(mesh->ctx, run_here, scheduled);

    if (r < 0)
        return r;
    scheduled->call.mesh = mesh;
    mesh->n_under_way++;
    return 0;
}

static struct scheduled *scheduled_new(const struct shard_bh *bh)
{
    struct scheduled *scheduled = malloc(sizeof(*scheduled) + bh->args_len);

    if (!scheduled)
        return NULL;
    *scheduled = (struct scheduled){.call = {.target = bh->target,
                                        .method = BUILTIN_BH,
                                        .args = &scheduled->fn,
                                        .args_len = sizeof(scheduled->fn) + bh->args_len,
                                        .deadline_ns = INT64_MAX,
                                        .depth = SEGMENT_DEPTH_BUILTIN,
                                        .lane = bh->lane,
                                        .done = on_done},
        .done = bh->done,
        .opaque = bh->opaque,
        .fn = (uintptr_t)bh->fn};
    if (bh->args_len)
        memcpy(scheduled->bytes, bh->args, bh->args_len);
    return scheduled;
}

int shard_bh_schedule(struct mesh *mesh, const struct shard_bh *bh)
{
    struct scheduled *scheduled;
    int r;

    if (bh->args_len > SHARD_BH_ARGS_MAX)
        return -EMSGSIZE;
    if (!code_ranges_has(&mesh->code, (uintptr_t)bh->fn))
        return -EINVAL;
    scheduled = scheduled_new(bh);
    if (!scheduled)
        return -ENOMEM;
    r = bh->target == mesh->self ? schedule_here(mesh, scheduled)
                                 : mesh_call_start(mesh, &scheduled->call);
    if (r < 0)
        free(scheduled);
    return r;
}
