/* SPDX-License-Identifier: MIT */
/*
 * Of the loop's doorbell a word is left: its fences would stand where the plane needs its own.
 * A handler is called where its fd may be readable: after each sleep, whoever ended it.
 */
#include "tests/explore/parts_plane.h"

#include <errno.h>
#include <string.h>

#include "ipc/plane/plane_inside.h"
#include "runtime/atomic.h"
#include "runtime/co_cancel.h"
#include "shard/call.h"
#include "shard/registry.h"
#include "tests/explore/explorer.h"

static struct {
    struct {
        void *base;
        size_t bytes;
    } memories[PARTS_PLANE_CLIENTS];
    bool last_to_unmap;
    uint32_t notified;
} p;

void parts_plane_reset(void)
{
    memset(&p, 0, sizeof p);
}

void parts_plane_memory(int fd, void *base, size_t bytes)
{
    p.memories[fd].base = base;
    p.memories[fd].bytes = bytes;
}

void parts_plane_last_to_unmap(void)
{
    p.last_to_unmap = true;
}

/* ---- a client's memory ---- */

int parts_plane_stat(int fd, struct stat *ret)
{
    *ret = (struct stat){.st_size = (off_t)p.memories[fd].bytes};
    return 0;
}

void *parts_plane_map(int fd)
{
    return p.memories[fd].base;
}

void parts_plane_unmap(void *base, size_t bytes)
{
    if (p.last_to_unmap)
        explorer_unmap(base, bytes);
}

/* ---- socket pairs ---- */

long parts_plane_send(int fd, const void *bytes, size_t n)
{
    explorer_fd_write(fd ^ 1);
    if ((fd & 1) == 0)
        explorer_fd_write(PARTS_SHARD_EVENTS);
    return 1;
}

long parts_plane_recv(int fd, void *bytes, size_t n)
{
    if (explorer_fd_read(fd))
        return 1;
    errno = EAGAIN;
    return -1;
}

void parts_plane_knock(void)
{
    atomic_or_seq(&p.notified, 1);
    explorer_fd_write(PARTS_SHARD_EVENTS);
}

void parts_plane_inherit(int bell_fd)
{
    if (explorer_fd_read(bell_fd))
        parts_plane_send(bell_fd ^ 1, NULL, 1);
}

/* ---- the loop ---- */

int aio_set_fd_handler(AioContext *ctx, int fd, IOHandler *io_read, IOHandler *io_write,
    AioPollFn *io_poll, IOHandler *io_poll_ready, void *opaque)
{
    struct parts_mesh_loop *loop = (struct parts_mesh_loop *)ctx;
    uint32_t n = (uint32_t)fd / 2;

    explorer_check(n < PARTS_MESH_HANDLERS);
    loop->handlers[n].run = io_read;
    loop->handlers[n].opaque = opaque;
    return 0;
}

static void run_handlers(struct parts_mesh_loop *loop)
{
    for (uint32_t i = 0; i < PARTS_MESH_HANDLERS; i++)
        if (loop->handlers[i].run)
            loop->handlers[i].run(loop->handlers[i].opaque);
    loop->source->flush(loop->source->opaque);
}

static void dispatch(const struct aio_source *source)
{
    if (source->dispatch(source->opaque))
        source->flush(source->opaque);
}

bool parts_plane_turn(struct parts_mesh_loop *loop)
{
    const struct aio_source *source = loop->source;
    bool slept = false;

    source->flush(source->opaque);
    if (!source->pending(source->opaque) && !source->prepare(source->opaque)) {
        explorer_fd_wait(PARTS_SHARD_EVENTS, false);
        explorer_fd_read(PARTS_SHARD_EVENTS);
        atomic_xchg_seq(&p.notified, 0);
        slept = true;
    }
    dispatch(source);
    if (slept)
        run_handlers(loop);
    return slept;
}

void parts_plane_last_turn(struct parts_mesh_loop *loop)
{
    dispatch(loop->source);
    loop->source->flush(loop->source->opaque);
}

/* ---- what no scenario has ---- */

void log_line(struct log *log, enum log_level level, const char *format, ...)
{
}

/* A table of methods. */
int registry_find(
    const struct registry *registry, const char *name, size_t len, uint32_t *ret_method)
{
    return -ENOENT;
}

/* Crashes: who dies was killed. */
void park_note(struct plane *plane, struct request *request)
{
}

bool park_is_due(const struct plane *plane, const struct request *request)
{
    return false;
}

void park_begin(struct plane *plane, struct request *request)
{
    explorer_fail("a dead letter");
}

/* A user that has to wait. */
void timer_mod_anticipate_ns(AioTimer *timer, int64_t expire_ns)
{
    explorer_fail("a deadline");
}

/* Another shard. */
int coroutine_fn shard_call(
    struct mesh *mesh, const struct call_request *request, struct call_answer *ret_answer)
{
    explorer_fail("a call");
}

void co_cancel_init(CoCancel *token)
{
}

void co_scope_begin(CoScope *scope, CoCancel *token, int64_t deadline_ns)
{
}

void co_scope_end(CoScope *scope)
{
}
