/* SPDX-License-Identifier: MIT */
/*
 * The proof that the kernel writes no more to memory for a dead process. Before each fork the
 * supervisor makes a pipe. The child alone gets the write end, and hands it to its context
 * (aio_config.life_fd), whose io_uring holds it as a registered file until the last request has
 * ended; where there is no ring it is closed as the process's last fd, after linux-aio and every
 * worker thread are done. So end of file means that nothing of that incarnation is under way. Only
 * then are the buffers that its in-flight table names used again (flight.c); nobody waits for it
 * otherwise, and the replacement has long been at work.
 *
 * Incarnations may become quiet out of order. What peers are told is the last before the first that
 * is not; one that is yet to be forked is not.
 *
 * Orderings  first                then               ordered by               if broken
 *   QUIET    kernel's last write  quiet_incarnation  end of file, then our    a reused buffer is
 *                                                    release, peers' acquire  written over by the
 *                                                    (flight.c)               kernel
 */
#include "shard/supervisor_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "shard/explain.h"

/* Of one incarnation; its child's list is in order of birth. */
struct lifeline {
    struct lifeline *next;
    struct child *child;
    uint32_t incarnation;
    int fd; /* the end that is read */
};

bool quiet_note(struct child *child)
{
    struct peer_control *control = segment_control(&child->supervisor->segment, child->peer);
    uint32_t first = child->lifelines ? child->lifelines->incarnation : control->incarnation;

    if (control->quiet_incarnation == first - 1)
        return false;
    atomic_store_release(&control->quiet_incarnation, first - 1); /* QUIET */
    return true;
}

static void drop(struct lifeline *lifeline)
{
    struct lifeline **link = &lifeline->child->lifelines;

    while (*link != lifeline)
        link = &(*link)->next;
    *link = lifeline->next;
    aio_set_fd_handler(
        lifeline->child->supervisor->ctx, lifeline->fd, NULL, NULL, NULL, NULL, NULL);
    close(lifeline->fd);
    free(lifeline);
}

static void on_end(void *opaque)
{
    struct lifeline *lifeline = opaque;
    struct child *child = lifeline->child;
    char nothing;

    if (read(lifeline->fd, &nothing, 1) != 0)
        return; /* a byte that nobody should have written, or none yet */
    drop(lifeline);
    if (quiet_note(child))
        child_tell_peers(child);
}

static void append(struct child *child, struct lifeline *lifeline)
{
    struct lifeline **link = &child->lifelines;

    while (*link)
        link = &(*link)->next;
    *link = lifeline;
}

int quiet_open(struct child *child, char **ret_error)
{
    const struct supervisor *s = child->supervisor;
    struct lifeline *lifeline = calloc(1, sizeof(*lifeline));
    int r, ends[2];

    if (!lifeline)
        return explain(ret_error, -ENOMEM, "%s", strerror(ENOMEM));
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) {
        free(lifeline);
        return explain(ret_error, -errno, "pipe: %m");
    }
    *lifeline = (struct lifeline){.child = child,
        .incarnation = segment_control(&s->segment, child->peer)->incarnation,
        .fd = ends[0]};
    r = aio_set_fd_handler(s->ctx, ends[0], on_end, NULL, NULL, NULL, lifeline);
    if (r < 0) {
        close(ends[0]);
        close(ends[1]);
        free(lifeline);
        return explain(ret_error, r, "pipe: %s", strerror(-r));
    }
    append(child, lifeline);
    child->life_fd = ends[1];
    return 0;
}

void quiet_close_own_end(struct child *child)
{
    if (child->life_fd)
        close(child->life_fd);
    child->life_fd = 0;
}

void quiet_forget(struct child *child)
{
    quiet_close_own_end(child);
    while (child->lifelines)
        drop(child->lifelines);
}
