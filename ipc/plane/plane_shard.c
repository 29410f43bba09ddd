/* SPDX-License-Identifier: MIT */
/*
 * What the shard has inherited is opened before it looks into any ring; what it is handed later
 * comes by its channel. A client that can't be opened is to be cut off: it would wait in vain.
 *
 * Orderings: OVER: see ipc/gateway/attach_closed.c; ROW: see ipc/gateway/clients.c
 */
#include "ipc/plane/plane_shard.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ipc/plane/plane.h"
#include "runtime/atomic.h"
#include "shard/fd_pass.h"

#define MESSAGES_A_TURN 64u

static_assert(sizeof(struct plane_grant) <= FD_KEEP_NOTE, "a grant is a note");

struct plane_shard {
    struct plane *plane;
    const struct child_env *env;
    AioContext *ctx;
};

static void complain(const struct plane_shard *self, uint32_t client, int error)
{
    log_line(self->env->log, LOG_LEVEL_WARNING, "client %u can't be served here: %s", client,
        strerror(-error));
}

/* Consumes both fds. */
static void open_client(struct plane_shard *self, uint32_t client, uint64_t generation,
    const uint8_t *note, int memory_fd, int bell_fd)
{
    struct plane_grant grant;
    int r;

    memcpy(&grant, note, sizeof(grant));
    if (grant.client != client || grant.generation != generation) {
        close(memory_fd);
        close(bell_fd);
        r = -EINVAL;
    } else {
        r = plane_open(self->plane, &grant, memory_fd, bell_fd);
    }
    if (r < 0) {
        complain(self, client, r);
        plane_refuse(self->plane, client, generation);
    }
}

/* ---- what comes by the channel ---- */

static void follow(struct plane_shard *self, const struct fd_keep_message *message, const int *fds)
{
    if (message->op == FD_KEEP_HAND && message->kind == PLANE_FD_BELL && fds[1] >= 0 &&
        fds[2] < 0) {
        open_client(self, message->key, message->generation, message->note, fds[0], fds[1]);
        return;
    }
    fd_pass_close(fds);
    if (message->op == FD_KEEP_DROP)
        plane_drop(self->plane, message->key, message->generation);
}

static void lack_fds(struct plane_shard *self, const struct fd_keep_message *message)
{
    complain(self, message->key, -EMFILE);
    plane_refuse(self->plane, message->key, message->generation);
}

static void on_channel(void *opaque)
{
    struct plane_shard *self = opaque;
    struct fd_keep_message message;
    int fds[FD_KEEP_FDS_MAX], r;

    for (uint32_t i = 0; i < MESSAGES_A_TURN; i++) {
        r = fd_keep_receive(self->env->keep.channel, &message, fds);
        if (r == 0 || r == -EAGAIN)
            return;
        if (r > 0)
            follow(self, &message, fds);
        else if (r == -EMFILE)
            lack_fds(self, &message);
        else
            return;
    }
}

/* ---- what was inherited ---- */

/* Its client has been told that this lane is over, and may be using its memory for the next. */
static bool is_closed(const struct plane_shard *self, const struct fd_kept *bell)
{
    const struct segment *seg = self->env->segment;
    const struct client_row *row;

    if (bell->key >= seg->geometry.n_clients)
        return false;
    row = segment_client(seg, bell->key);
    return client_generation(atomic_load_acquire(&row->word)) == bell->generation && /* ROW */
           atomic_load_acquire(&row->closed[self->env->peer / 64]) >> (self->env->peer % 64) &
               1; /* OVER */
}

/* The rows of one key stand together: its memory, and, where it has opened this shard, its bell. */
static void open_inherited(struct plane_shard *self)
{
    const struct fd_keep_heir *keep = &self->env->keep;

    for (uint32_t i = 0, end; i < keep->n_kept; i = end) {
        const struct fd_kept *memory = NULL, *bell = NULL;
        for (end = i; end < keep->n_kept && keep->kept[end].key == keep->kept[i].key; end++)
            if (keep->kept[end].kind == PLANE_FD_MEMORY)
                memory = &keep->kept[end];
            else if (keep->kept[end].kind == PLANE_FD_BELL)
                bell = &keep->kept[end];
        if (keep->kept[i].key == FD_KEEP_PROGRAM)
            continue;
        if (memory && bell && is_closed(self, bell)) {
            close(memory->fd);
            close(bell->fd);
        } else if (memory && bell)
            open_client(self, bell->key, bell->generation, bell->note, memory->fd, bell->fd);
        else if (memory)
            close(memory->fd);
    }
}

/* ---- life ---- */

static void plane_shard_stop(void *opaque)
{
    struct plane_shard *self = opaque;

    aio_set_fd_handler(self->ctx, self->env->keep.channel, NULL, NULL, NULL, NULL, NULL);
    plane_free(self->plane);
    free(self);
}

static int plane_shard_start(const struct child_env *env, struct member *member, void **ret_extra)
{
    struct plane_config config = {.mesh = member_mesh(member),
        .ctx = member_context(member),
        .segment = env->segment,
        .registry = env->registry,
        .bell_fds = env->bell_fds,
        .log = env->log,
        .shard = env->peer,
        .incarnation = env->incarnation};
    struct plane_shard *self = calloc(1, sizeof(*self));
    int r;

    if (!self)
        return -ENOMEM;
    self->env = env;
    self->ctx = config.ctx;
    r = plane_new(&config, &self->plane);
    if (r == 0)
        r = aio_set_fd_handler(self->ctx, env->keep.channel, on_channel, NULL, NULL, NULL, self);
    if (r < 0) {
        plane_free(self->plane);
        free(self);
        return r;
    }
    atomic_full_fence(); /* OVER */
    open_inherited(self);
    plane_recover(self->plane);
    *ret_extra = self;
    return 0;
}

static void plane_shard_drain(void *opaque, bool to_return)
{
    struct plane_shard *self = opaque;

    plane_drain(self->plane, to_return);
}

static void plane_shard_resume(void *opaque)
{
    struct plane_shard *self = opaque;

    plane_resume(self->plane);
}

static void plane_shard_leave(void *opaque)
{
    struct plane_shard *self = opaque;

    plane_close(self->plane);
}

const struct shard_extra plane_shard_extra = {.start = plane_shard_start,
    .drain = plane_shard_drain,
    .resume = plane_shard_resume,
    .leave = plane_shard_leave,
    .stop = plane_shard_stop};
