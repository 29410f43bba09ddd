/* SPDX-License-Identifier: MIT */
#include "runtime/fdmon.h"
/*
 * The loop waits on an array of its own, made anew from the context's list of handlers where that
 * has changed since: a thread that watches an fd and takes it off again has cost the loop nothing.
 * What is ready is reported in the order in which it was first watched.
 *
 * A wait goes on with the array it began with. An fd that was closed after it was taken off is held
 * by the kernel until then, so its number is not mistaken for another file; and a handler in the
 * array is freed by this thread alone, after which it makes the array anew before it waits.
 *
 * Room for what is to be watched is made by who asks for it, so that a wait never lacks memory.
 *
 * Where a process has lowered RLIMIT_NOFILE below the number of its fds, which keeps it from
 * opening more, ppoll() refuses the array. pselect() knows no such limit.
 *
 * At MANY fds epoll takes over, where it may. It stays, however few they become: it is as fast
 * then.
 *
 * Orderings        first         then         ordered by                  if broken
 *   COUNT  (nothing)     n_changes    none: a glance; the lock    a change waits for the next turn
 *                                     follows, and who changes
 *                                     it nudges a wait
 *   WHICH  (see fdmon.c)
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/select.h>
#include <time.h>

#include "runtime/atomic.h"
#include "runtime/context.h"

#define MANY           64
#define FIRST_CAPACITY 16
#define NS_PER_S       1000000000LL

/* Of what the array holds. */
struct watched {
    struct pollfd *fds;
    struct aio_handler **handlers;
    uint32_t capacity;
};

struct ppoll_monitor {
    /* The owner loop's. */
    struct watched now;
    uint32_t n;
    uint32_t n_changes_seen;
    uint32_t generation; /* of the fds, for an outer loop */
    bool may_grow;

    /* Written under handler_lock. */
    struct watched next; /* larger, to take the place of now; capacity 0: now is large enough */
    uint32_t capacity;   /* of the larger one */
    uint32_t n_changes;  /* also read without the lock */
};

static struct ppoll_monitor *monitor_of(const AioContext *ctx)
{
    return ctx->monitor_state;
}

static void free_watched(struct watched *watched)
{
    free(watched->fds);
    free(watched->handlers);
    *watched = (struct watched){0};
}

/* ---- any thread, under handler_lock ---- */

static int reserve(struct ppoll_monitor *monitor, uint32_t n)
{
    struct watched next = {.capacity = monitor->capacity ? monitor->capacity : FIRST_CAPACITY};

    if (n <= monitor->capacity)
        return 0;
    while (next.capacity < n)
        next.capacity *= 2;
    next.fds = calloc(next.capacity, sizeof *next.fds);
    next.handlers = calloc(next.capacity, sizeof(*next.handlers));
    if (!next.fds || !next.handlers) {
        free_watched(&next);
        return -ENOMEM;
    }
    free_watched(&monitor->next);
    monitor->next = next;
    monitor->capacity = next.capacity;
    return 0;
}

static void note_change(struct ppoll_monitor *monitor)
{
    atomic_store_relaxed(&monitor->n_changes, monitor->n_changes + 1); /* COUNT */
}

static int ppoll_update(AioContext *ctx, struct aio_handler *old, struct aio_handler *new_handler)
{
    struct ppoll_monitor *monitor = monitor_of(ctx);

    if (new_handler) {
        int r = fdmon_check_fd(new_handler->fd);
        if (r == 0)
            r = reserve(monitor, ctx->n_watched + 2); /* this one, the doorbell */
        if (r < 0)
            return r;
    }
    note_change(monitor);
    return 0;
}

/* ---- owner loop ---- */

static void remake_array(AioContext *ctx, struct ppoll_monitor *monitor)
{
    struct watched *now = &monitor->now;

    if (monitor->next.capacity > 0) {
        free_watched(now);
        *now = monitor->next;
        monitor->next = (struct watched){0};
    }
    monitor->n = 0;
    for (struct aio_handler *handler = ctx->watched; handler; handler = handler->next) {
        now->handlers[monitor->n] = handler;
        now->fds[monitor->n++] = (struct pollfd){
            .fd = handler->was_closed ? -1 : handler->fd, .events = (short)handler->events};
    }
    monitor->n_changes_seen = monitor->n_changes;
    monitor->generation++;
}

/* Whether epoll has taken over. Where it can't, it is not asked again: the reason (no memory, no
 * fd, a limit) would hold for each turn. */
static bool give_way(AioContext *ctx)
{
    struct ppoll_monitor *monitor = monitor_of(ctx);

    monitor->may_grow = false;
    if (fdmon_epoll_setup(ctx) < 0)
        return false;
    free_watched(&monitor->now);
    free_watched(&monitor->next);
    free(monitor);
    return true;
}

/* Takes over what has changed. False where there is another monitor now. */
static bool is_up_to_date(AioContext *ctx)
{
    struct ppoll_monitor *monitor = monitor_of(ctx);
    bool stays = true;

    if (atomic_load_relaxed(&monitor->n_changes) == monitor->n_changes_seen) /* COUNT */
        return true;
    pthread_mutex_lock(&ctx->handler_lock);
    if (monitor->may_grow && ctx->n_watched >= MANY)
        stays = !give_way(ctx);
    if (stays)
        remake_array(ctx, monitor);
    pthread_mutex_unlock(&ctx->handler_lock);
    return stays;
}

/* An fd that was closed while watched is told of once, as by the other monitors at most: its owner
 * may see, and the loop does not turn for it until it is watched anew. */
static void report(AioContext *ctx, struct ppoll_monitor *monitor, uint32_t i)
{
    uint32_t revents = (uint32_t)monitor->now.fds[i].revents;

    if (revents & POLLNVAL) {
        monitor->now.fds[i].fd = -1;
        monitor->now.handlers[i]->was_closed = true;
        monitor->generation++;
        revents = POLLERR;
    }
    fdmon_add_ready(ctx, monitor->now.handlers[i], revents);
}

/* ---- without ppoll() ---- */

#define BITS_A_WORD (8 * sizeof(unsigned long))

/* Sets for reading and writing, in one allocation. */
struct fd_bits {
    unsigned long *words[2];
    int n_fds; /* and one more than the highest */
};

static bool make_bits(const struct ppoll_monitor *monitor, struct fd_bits *bits)
{
    size_t n_words;

    bits->n_fds = 0;
    for (uint32_t i = 0; i < monitor->n; i++)
        if (monitor->now.fds[i].fd >= bits->n_fds)
            bits->n_fds = monitor->now.fds[i].fd + 1;
    n_words = (size_t)bits->n_fds / BITS_A_WORD + 1;
    bits->words[0] = calloc(2 * n_words, sizeof(unsigned long));
    if (!bits->words[0])
        return false;
    bits->words[1] = bits->words[0] + n_words;
    return true;
}

static void set_bits(struct fd_bits *bits, const struct pollfd *pollfd)
{
    unsigned fd = (unsigned)pollfd->fd;
    unsigned long bit = 1UL << fd % BITS_A_WORD;

    if (pollfd->fd < 0)
        return;
    if (pollfd->events & POLLIN)
        bits->words[0][fd / BITS_A_WORD] |= bit;
    if (pollfd->events & POLLOUT)
        bits->words[1][fd / BITS_A_WORD] |= bit;
}

static short revents_of(const struct fd_bits *bits, int fd)
{
    if (fd < 0)
        return 0;
    unsigned word = (unsigned)fd / BITS_A_WORD, bit = (unsigned)fd % BITS_A_WORD;

    return (short)((bits->words[0][word] >> bit & 1 ? POLLIN : 0) |
                   (bits->words[1][word] >> bit & 1 ? POLLOUT : 0));
}

/* pselect() fails as a whole where one fd is closed. */
static short revents_if_closed(const struct fd_bits *bits, int fd)
{
    return fd >= 0 && fcntl(fd, F_GETFD) < 0 ? POLLNVAL : 0;
}

/* As ppoll() on the array. */
static int wait_by_pselect(struct ppoll_monitor *monitor, const struct timespec *timeout)
{
    struct pollfd *fds = monitor->now.fds;
    struct fd_bits bits;

    if (!make_bits(monitor, &bits)) {
        errno = ENOMEM;
        return -1;
    }
    for (uint32_t i = 0; i < monitor->n; i++)
        set_bits(&bits, &fds[i]);
    int n =
        pselect(bits.n_fds, (fd_set *)bits.words[0], (fd_set *)bits.words[1], NULL, timeout, NULL);

    if (n >= 0 || errno == EBADF) {
        short (*revents)(const struct fd_bits *, int) = n >= 0 ? revents_of : revents_if_closed;

        n = 0;
        for (uint32_t i = 0; i < monitor->n; i++) {
            fds[i].revents = revents(&bits, fds[i].fd);
            n += fds[i].revents != 0;
        }
    }
    free(bits.words[0]);
    return n;
}

/* ---- the wait ---- */

static int ppoll_wait(AioContext *ctx, int64_t timeout_ns)
{
    if (!is_up_to_date(ctx))
        return ctx->monitor->wait(ctx, timeout_ns);
    struct ppoll_monitor *monitor = monitor_of(ctx);
    struct timespec timeout = {.tv_sec = timeout_ns / NS_PER_S, .tv_nsec = timeout_ns % NS_PER_S};
    const struct timespec *until = timeout_ns < 0 ? NULL : &timeout;
    int n = ppoll(monitor->now.fds, monitor->n, until, NULL);

    if (n < 0 && errno == EINVAL)
        n = wait_by_pselect(monitor, until);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    for (uint32_t i = 0; n > 0; i++) {
        if (monitor->now.fds[i].revents) {
            report(ctx, monitor, i);
            n--;
        }
    }
    return 0;
}

static bool ppoll_keeps_deleted(const AioContext *ctx, const struct aio_handler *handler)
{
    return false;
}

/* ---- in an outer loop ---- */

/* One fd for the outer loop is better than many. */
static int ppoll_outer_setup(AioContext *ctx)
{
    if (monitor_of(ctx)->may_grow) {
        pthread_mutex_lock(&ctx->handler_lock);
        give_way(ctx);
        pthread_mutex_unlock(&ctx->handler_lock);
    }
    return 0;
}

static int64_t ppoll_outer_prepare(AioContext *ctx, struct fdmon_fds *ret_fds)
{
    struct ppoll_monitor *monitor = monitor_of(ctx);

    if (!is_up_to_date(ctx))
        return ctx->monitor->outer_prepare(ctx, ret_fds);
    *ret_fds = (struct fdmon_fds){
        .fds = monitor->now.fds, .n = monitor->n, .generation = monitor->generation};
    return -1;
}

static int ppoll_outer_check(AioContext *ctx, bool is_ready)
{
    return is_ready ? ppoll_wait(ctx, 0) : 0;
}

static void ppoll_destroy(AioContext *ctx)
{
    struct ppoll_monitor *monitor = monitor_of(ctx);

    free_watched(&monitor->now);
    free_watched(&monitor->next);
    free(monitor);
    ctx->monitor_state = NULL;
}

static const struct fdmon_ops ppoll_ops = {
    .monitor = AIO_MONITOR_PPOLL,
    .name = "ppoll",
    .update = ppoll_update,
    .wait = ppoll_wait,
    .need_wait = fdmon_watches_fds,
    .keeps_deleted = ppoll_keeps_deleted,
    .outer_setup = ppoll_outer_setup,
    .outer_prepare = ppoll_outer_prepare,
    .outer_check = ppoll_outer_check,
    .destroy = ppoll_destroy,
};

int fdmon_ppoll_setup(AioContext *ctx, bool may_grow)
{
    struct ppoll_monitor *monitor = calloc(1, sizeof *monitor);

    if (!monitor)
        return -ENOMEM;
    monitor->may_grow = may_grow;
    atomic_store_relaxed(&ctx->monitor, &ppoll_ops); /* WHICH */
    ctx->monitor_state = monitor;
    return 0;
}
