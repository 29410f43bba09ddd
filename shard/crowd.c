/* SPDX-License-Identifier: MIT */
/*
 * Edge-triggered: a member is told once of what comes, and is ready until a receive finds less than
 * it had room for. What comes after that is told again. The end of a stream may have been told
 * together with what came before it; so who was told of it stays ready.
 *
 * Events are fetched many at a time, and whom the first of them wakes may end another's connection:
 * so a member that leaves is taken out of those that are not looked at yet, too.
 */
#include "shard/crowd.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/coroutine.h"

#define EVENTS   64
#define IN_A_ROW 16u /* receives that need not wait, before others have a turn */

/* Events that were fetched; those before `at` were looked at. */
struct crowd_batch {
    struct epoll_event events[EVENTS];
    int n, at;
    struct crowd_batch *outer; /* whose turn this one interrupts; or NULL */
};

static void on_event(struct crowd_member *member, uint32_t events)
{
    Coroutine *co = member->reader;

    member->is_ready = true;
    member->is_ended |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    member->reader = NULL;
    if (co)
        aio_co_wake(co); /* the member may be gone when this returns */
}

/* The rest, where there are more, comes in the next turn. */
static void on_events(void *opaque)
{
    struct crowd *crowd = opaque;
    struct crowd_batch batch;

    batch.n = epoll_wait(crowd->fd, batch.events, EVENTS, 0);
    batch.at = 0;
    batch.outer = crowd->batch;
    crowd->batch = &batch;
    while (batch.at < batch.n) {
        const struct epoll_event *event = &batch.events[batch.at++];
        if (event->data.ptr)
            on_event(event->data.ptr, event->events);
    }
    crowd->batch = batch.outer;
}

int crowd_open(struct crowd *crowd, AioContext *ctx)
{
    int r;

    *crowd = (struct crowd){.ctx = ctx, .fd = epoll_create1(EPOLL_CLOEXEC)};
    if (crowd->fd < 0)
        return -errno;
    r = aio_set_fd_handler(ctx, crowd->fd, on_events, NULL, NULL, NULL, crowd);
    if (r < 0) {
        close(crowd->fd);
        crowd->fd = -1;
    }
    return r;
}

void crowd_close(struct crowd *crowd)
{
    if (crowd->fd < 0)
        return;
    aio_set_fd_handler(crowd->ctx, crowd->fd, NULL, NULL, NULL, NULL, NULL);
    close(crowd->fd);
    crowd->fd = -1;
}

int crowd_add(struct crowd *crowd, struct crowd_member *member, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = member};

    *member = (struct crowd_member){.fd = fd, .is_ready = true};
    return epoll_ctl(crowd->fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

void crowd_remove(struct crowd *crowd, struct crowd_member *member)
{
    epoll_ctl(crowd->fd, EPOLL_CTL_DEL, member->fd, NULL);
    for (struct crowd_batch *batch = crowd->batch; batch; batch = batch->outer)
        for (int i = batch->at; i < batch->n; i++)
            if (batch->events[i].data.ptr == member)
                batch->events[i].data.ptr = NULL;
}

/* ---- receiving ---- */

static bool withdraw(struct co_wait *wait)
{
    struct crowd_member *member = (struct crowd_member *)wait;
    bool waits = member->reader;

    member->reader = NULL;
    return waits;
}

static int coroutine_fn wait_until_ready(struct crowd_member *member)
{
    member->in_a_row = 0;
    member->wait = (struct co_wait){.withdraw = withdraw};
    member->reader = coroutine_self();
    return co_wait(&member->wait, "a connection's data");
}

static void coroutine_fn let_others(struct crowd_member *member)
{
    Coroutine *self = coroutine_self();

    member->in_a_row = 0;
    aio_co_schedule(coroutine_get_aio_context(self), self);
    coroutine_yield_at("the turn of others");
}

ssize_t coroutine_fn crowd_recv(struct crowd_member *member, void *buf, size_t len)
{
    for (;;) {
        int r = member->is_ready ? 0 : wait_until_ready(member);
        if (r < 0)
            return r;
        if (member->in_a_row >= IN_A_ROW)
            let_others(member);
        ssize_t n = recv(member->fd, buf, len, MSG_DONTWAIT);
        if (n >= 0) {
            member->is_ready = member->is_ended || (size_t)n == len;
            member->in_a_row++;
            return n;
        }
        if (errno == EAGAIN)
            member->is_ready = false;
        else if (errno != EINTR)
            return -errno;
    }
}
