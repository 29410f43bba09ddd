/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/attach_keeper.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define REPLIES_A_TURN 64u
#define LOOK_NS        (INT64_C(1) * 1000 * 1000) /* until there may be room again */

/* A coroutine that has asked. */
struct keeper_wait {
    struct keeper_wait *next;
    const struct fd_keep_message *what;
    CoSleep sleep;
    bool done;
    int result;
};

static bool is_about(const struct fd_keep_message *reply, const struct fd_keep_message *what)
{
    return reply->key == what->key && reply->generation == what->generation &&
           reply->kind == what->kind && reply->peer == what->peer;
}

/* The oldest that it is for: replies come in the order of requests. */
static void deliver(struct keeper *keeper, const struct fd_keep_message *reply)
{
    struct keeper_wait *wait = keeper->waits;

    while (wait && (wait->done || !is_about(reply, wait->what)))
        wait = wait->next;
    if (!wait)
        return;
    wait->result = reply->op == FD_KEEP_KEPT ? 0 : reply->error < 0 ? reply->error : -EIO;
    wait->done = true;
    co_sleep_wake(&wait->sleep);
}

static void on_reply(void *opaque)
{
    struct keeper *keeper = opaque;
    struct fd_keep_message reply;
    int fds[FD_KEEP_FDS_MAX];

    for (uint32_t i = 0; i < REPLIES_A_TURN; i++) {
        int r = fd_keep_receive(keeper->channel, &reply, fds);
        if (r == 0)
            return;
        for (uint32_t k = 0; r > 0 && k < FD_KEEP_FDS_MAX; k++)
            if (fds[k] >= 0)
                close(fds[k]); /* no reply has any */
        if (r > 0)
            deliver(keeper, &reply);
    }
}

int keeper_init(struct keeper *keeper, AioContext *ctx, int channel)
{
    *keeper = (struct keeper){.ctx = ctx, .channel = channel};
    return aio_set_fd_handler(ctx, channel, on_reply, NULL, NULL, NULL, keeper);
}

void keeper_stop(struct keeper *keeper)
{
    keeper->stopping = true;
    for (struct keeper_wait *wait = keeper->waits; wait; wait = wait->next)
        co_sleep_wake(&wait->sleep);
}

void keeper_deinit(struct keeper *keeper)
{
    aio_set_fd_handler(keeper->ctx, keeper->channel, NULL, NULL, NULL, NULL, NULL);
}

static void append(struct keeper *keeper, struct keeper_wait *wait)
{
    struct keeper_wait **link = &keeper->waits;

    while (*link)
        link = &(*link)->next;
    *link = wait;
}

static void leave(struct keeper *keeper, struct keeper_wait *wait)
{
    struct keeper_wait **link = &keeper->waits;

    while (*link != wait)
        link = &(*link)->next;
    *link = wait->next;
}

/* -ETOOMANYREFS: too many fds are on their way in the kernel, of all of this user's. */
static bool is_for_now(int error)
{
    return error == -EAGAIN || error == -ENOBUFS || error == -ETOOMANYREFS;
}

int coroutine_fn keeper_put(struct keeper *keeper, const struct fd_keep_message *what, int fd)
{
    struct keeper_wait wait = {.what = what};
    int r;

    append(keeper, &wait);
    while (is_for_now(r = fd_keep_send(keeper->channel, what, fd)) && !keeper->stopping)
        co_sleep_ns_wakeable(&wait.sleep, AIO_CLOCK_MONOTONIC, LOOK_NS);
    while (r == 0 && !wait.done && !keeper->stopping)
        co_sleep(&wait.sleep);
    leave(keeper, &wait);
    co_sleep_deinit(&wait.sleep);
    if (r == 0)
        r = wait.done ? wait.result : -ECANCELED;
    return r;
}

bool keeper_drop(
    struct keeper *keeper, uint32_t key, uint64_t generation, const uint64_t *peers, size_t n)
{
    struct fd_keep_message message = {
        .op = FD_KEEP_DROP, .key = key, .peer = FD_KEEP_ALL, .generation = generation};

    if (n)
        memcpy(message.note, peers, n);
    return fd_keep_send(keeper->channel, &message, -1) == 0;
}
