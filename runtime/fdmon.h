/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fdmon - how a context waits: for fds, for the clock, and for whatever its disk engine completes
 *
 * Why:         io_uring waits for fds and disk in one call; epoll and ppoll see the disk engines
 *              through eventfds. With a few fds ppoll is as fast as epoll, and changes of what is
 *              watched cost it no system call; with many only epoll's turn costs what is ready.
 * Use:         aio_poll() calls wait() where the timeout is not 0 or need_wait() says so. Where
 *              somebody else's loop waits (gsource.c) it calls outer_prepare() before and
 *              outer_check() after.
 * Concurrency: update(): any thread, under the context's handler lock. The rest: owner loop.
 * Lifetime:    made with the context, destroyed with it.
 * Not here:    which fds are watched, and their callbacks (handler.c); looking busily (poll_mode.h)
 */
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/aio.h"
#include "runtime/atomic.h"
#include "runtime/poll_mode.h"

/* One registration of an fd. A change replaces the node, it never edits one in place. */
struct aio_handler {
    int fd;
    uint32_t events;  /* POLLIN and POLLOUT asked for */
    uint32_t revents; /* what was seen, while on the ready list */
    IOHandler *io_read;
    IOHandler *io_write;
    AioPollFn *io_poll;
    IOHandler *io_poll_ready;
    void *opaque;
    struct aio_handler *next;        /* the context's list of those watched, or of deleted ones */
    struct aio_handler **link;       /* what points to it in the former */
    struct aio_handler *next_ready;  /* ready list; see on_ready_list */
    struct aio_handler *next_submit; /* the io_uring monitor's: changes not yet submitted */
    uint32_t submit_flags;           /* the io_uring monitor's, atomic */
    uint32_t submit_place;           /* the io_uring monitor's: of its last entry */
    bool was_closed;                 /* the ppoll monitor's: its fd, while watched */
    bool deleted; /* atomic; not called any more, freed by the outermost dispatch */
    bool on_ready_list;
    struct polled poll; /* poll_mode.c's */
};

/* Whether it was taken off or replaced. Context: any thread that keeps it in memory. */
static inline bool handler_is_deleted(const struct aio_handler *handler)
{
    return atomic_load_acquire(&handler->deleted); /* GONE in handler.c */
}

/* What an outer loop waits for. */
struct fdmon_fds {
    const struct pollfd *fds; /* good until the next call */
    uint32_t n;
    uint32_t generation; /* changes with the fds */
};

struct fdmon_ops {
    enum aio_monitor monitor;
    const char *name;
    /* old is replaced by new_handler; either may be NULL. 0 or -errno; on an error nothing has
     * changed; taking off (no new_handler) never fails. old is freed by the outermost aio_poll(),
     * not before keeps_deleted() says that the monitor is done with it. */
    int (*update)(AioContext *ctx, struct aio_handler *old, struct aio_handler *new_handler);
    /* Waits up to timeout_ns (-1: for ever; 0: looks only), then hands each ready handler to
     * fdmon_add_ready(). Submits what was queued. EINTR just returns. 0 or -errno. */
    int (*wait)(AioContext *ctx, int64_t timeout_ns);
    /* Must wait() be called though the timeout is 0: there are fds whose readiness only a system
     * call tells, something was completed or is still to be submitted. No system call. */
    bool (*need_wait)(const AioContext *ctx);
    /* Whether a deleted handler may not be freed yet (a completion for it is to come). */
    bool (*keeps_deleted)(const AioContext *ctx, const struct aio_handler *handler);
    /* Makes the fds tell an outer loop of everything. 0, or -errno: -EBUSY where a ring that can't
     * is in use already. Once, before the next two. */
    int (*outer_setup)(AioContext *ctx);
    /* Does what wait() does before it waits. Ns that the outer loop may wait for these fds: 0 where
     * there is something to collect already, -1 for ever. */
    int64_t (*outer_prepare)(AioContext *ctx, struct fdmon_fds *ret_fds);
    /* Collects as wait() without a timeout does. is_ready: whether one of the fds is; false costs
     * no system call unless memory says that there is something. 0 or -errno. */
    int (*outer_check)(AioContext *ctx, bool is_ready);
    void (*destroy)(AioContext *ctx);
};

/* Notes that events were seen for handler; it is called in this turn, once. Context: owner loop. */
void fdmon_add_ready(AioContext *ctx, struct aio_handler *handler, uint32_t revents);

/* Whether there are fds that only a system call tells of: need_wait() of all but io_uring. */
bool fdmon_watches_fds(const AioContext *ctx);

/* 0, -EPERM where fd can't be waited for (it would be ready always), or -EBADF. */
int fdmon_check_fd(int fd);

/* Sets ctx->monitor and watches what there is to watch; the context's creator, or, under
 * handler_lock, the owner loop for another monitor, whose state it has kept. 0 or -errno, and then
 * nothing has changed. */
int fdmon_setup(AioContext *ctx, enum aio_monitor monitor); /* AUTO: what grows with its fds */
int fdmon_ppoll_setup(AioContext *ctx, bool may_grow);
int fdmon_epoll_setup(AioContext *ctx);
int fdmon_uring_setup(AioContext *ctx); /* in runtime/uring.c: also the disk engine's ring */
