/* SPDX-License-Identifier: MIT */
#include "runtime/co_fd.h"
/*
 * A CoFd is one handler in its context, with a queue of waiters a direction. Watching is
 * level-triggered, which decides the rest:
 *   - An event wakes one waiter. Where that leaves something over (it took only part, or was ended
 *     by a scope before it ran), the next turn says so again and wakes the next.
 *   - A waiter that leaves does not stop the watching: it will be back, and most often before
 *     anything comes, so a wait costs no change of the monitor. Only an event that finds nobody
 *     stops its direction, once; else it would come again each turn.
 *   - A call is tried before it waits, but after a stream gave less than it was asked for, where
 *     trying would only fetch EAGAIN: what came meanwhile, the watching reports.
 *   - What is ready and yet says EAGAIN (an eventfd with less room than the value, a datagram for a
 *     receiver that is full) has no event to wait for: it is tried again after pauses.
 *
 * All of it happens in the thread of the context. Waking a coroutine from a handler runs it at
 * once, and it may free its CoFd: nothing touches one after a wake. A waiter lies on its
 * coroutine's stack and brings its result with it, so who was told -EBADF does not look at the CoFd
 * either.
 *
 * co_wait_fd() makes a CoFd for as long as somebody waits: who is first registers it, who comes
 * later finds it in the context's table of handlers, who is last frees it.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/bug.h"
#include "runtime/co_wait.h"
#include "runtime/context.h"
#include "runtime/coroutine_inside.h"
#include "runtime/tail_queue.h"

#define CALLS_IN_A_ROW 64
#define FIRST_PAUSE_NS INT64_C(1000000)
#define LAST_PAUSE_NS  INT64_C(50000000)

struct co_fd_waiter {
    struct co_wait wait;
    Coroutine *co;
    struct co_fd_queue *queue; /* NULL: woken */
    struct co_fd_waiter *next;
    struct co_fd_waiter **link; /* what points to it */
    bool is_scheduled;          /* to run again anyway */
    int result;
};

/* ---- queues ---- */

static void queue_append(struct co_fd_queue *queue, struct co_fd_waiter *waiter)
{
    waiter->queue = queue;
    tail_queue_append(queue->first, queue->last, waiter);
}

static void queue_remove(struct co_fd_waiter *waiter)
{
    tail_queue_remove(waiter->queue->last, waiter);
    waiter->queue = NULL;
}

/* Those of from are the last of to. */
static void queue_move(struct co_fd_queue *to, struct co_fd_queue *from)
{
    while (from->first) {
        struct co_fd_waiter *waiter = from->first;

        queue_remove(waiter);
        queue_append(to, waiter);
    }
}

/* Whether there was one. What it runs may free the queue. */
static bool wake_first(struct co_fd_queue *queue, int result)
{
    struct co_fd_waiter *waiter = queue->first;

    if (!waiter)
        return false;
    queue_remove(waiter);
    waiter->result = result;
    if (!waiter->is_scheduled)
        aio_co_wake(waiter->co);
    return true;
}

static struct co_fd_queue *queue_of(CoFd *f, uint32_t event)
{
    return event == POLLIN ? &f->readers : &f->writers;
}

/* ---- watching ---- */

static void on_readable(void *opaque);
static void on_writable(void *opaque);

static int watch(CoFd *f, uint32_t events)
{
    int r = handler_set_own(f->ctx, f->fd, events & POLLIN ? on_readable : NULL,
        events & POLLOUT ? on_writable : NULL, f);

    if (r == 0)
        f->watched = events;
    return r;
}

/* Where nobody waits it would come again each turn. It does so where the change fails for want of
 * memory, and is tried again. */
static void on_event(CoFd *f, uint32_t event)
{
    f->used_up &= ~event;
    if (!wake_first(queue_of(f, event), 0))
        watch(f, f->watched & ~event);
}

static void on_readable(void *opaque)
{
    on_event(opaque, POLLIN);
}

static void on_writable(void *opaque)
{
    on_event(opaque, POLLOUT);
}

/* ---- the object ---- */

static int set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
        return -errno;
    return 0;
}

/* What fd is: 0 or -errno. */
static int look_at(int fd, bool *ret_is_stream)
{
    struct stat st;
    int type;
    socklen_t len = sizeof type;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0) {
        *ret_is_stream = type == SOCK_STREAM;
        return 0;
    }
    if (fstat(fd, &st) < 0)
        return -errno;
    *ret_is_stream = S_ISFIFO(st.st_mode);
    return *ret_is_stream ? 0 : fdmon_check_fd(fd);
}

int co_fd_init(CoFd *f, int fd)
{
    bool is_stream;
    int r = look_at(fd, &is_stream);

    if (r == 0)
        r = set_nonblocking(fd);
    *f = (CoFd){.fd = r < 0 ? -1 : fd, .is_stream = r == 0 && is_stream};
    return r;
}

void co_fd_detach(CoFd *f)
{
    if (f->readers.first || f->writers.first || f->resting.first)
        bug("%s while a coroutine waits for fd %d", __func__, f->fd);
    if (f->watched)
        watch(f, 0);
    f->ctx = NULL;
}

void co_fd_deinit(CoFd *f)
{
    struct co_fd_queue told = {.first = NULL}; /* f may be gone once the first of them has run */

    if (f->watched)
        watch(f, 0);
    f->fd = -1;
    f->ctx = NULL;
    queue_move(&told, &f->readers);
    queue_move(&told, &f->writers);
    queue_move(&told, &f->resting);
    while (wake_first(&told, -EBADF))
        continue;
}

void co_fd_close(CoFd *f)
{
    int fd = f->fd;

    co_fd_deinit(f);
    if (fd >= 0)
        close(fd);
}

/* ---- waiting ---- */

static bool withdraw(struct co_wait *wait)
{
    struct co_fd_waiter *waiter = (void *)wait;

    if (!waiter->queue)
        return false;
    queue_remove(waiter);
    return true;
}

/* Watches f in the context of the running coroutine. */
static int attach(CoFd *f, AioContext *here, uint32_t event)
{
    if (f->fd < 0)
        return -EBADF;
    if (!f->watched && !f->readers.first && !f->writers.first)
        f->ctx = here;
    if (f->ctx != here)
        bug("fd %d is waited for in two contexts", f->fd);
    return f->watched & event ? 0 : watch(f, f->watched | event);
}

int coroutine_fn co_fd_wait(CoFd *f, uint32_t event)
{
    struct co_fd_waiter waiter = {.wait.withdraw = withdraw, .co = co_wait_self(__func__)};

    assert(event == POLLIN || event == POLLOUT);
    int r = attach(f, waiter.co->ctx, event);
    if (r < 0)
        return r;
    f->in_a_row = 0;
    queue_append(queue_of(f, event), &waiter);
    r = co_wait(&waiter.wait, __func__);
    return r < 0 ? r : waiter.result;
}

static int64_t after_ns(int64_t ns)
{
    int64_t now_ns = aio_clock_ns();

    return ns < CO_NO_DEADLINE - now_ns ? now_ns + ns : CO_NO_DEADLINE;
}

int coroutine_fn co_fd_pause(CoFd *f, int64_t ns)
{
    struct co_fd_waiter waiter = {.wait.withdraw = withdraw, .co = co_wait_self(__func__)};
    CoScope scope;

    if (f->fd < 0)
        return -EBADF;
    queue_append(&f->resting, &waiter);
    co_scope_begin(&scope, NULL, after_ns(ns));
    int r = co_wait(&waiter.wait, __func__);
    co_scope_end(&scope);
    if (r == -ETIMEDOUT)
        return co_scope_status(); /* the pause's own end is none */
    return r < 0 ? r : waiter.result;
}

int coroutine_fn co_fd_back_off(CoFd *f, uint32_t n_before)
{
    return co_fd_pause(f, n_before < 6 ? FIRST_PAUSE_NS << n_before : LAST_PAUSE_NS);
}

/* The CoFd of those who wait for fd already, or a new one: one more uses it. */
static int share(AioContext *ctx, int fd, CoFd **ret_f)
{
    CoFd *f = handler_owner(ctx, fd, on_readable, on_writable);

    if (f && f->n_users == 0)
        return -EBUSY;
    if (!f) {
        f = malloc(sizeof *f);
        if (!f)
            return -ENOMEM;
        *f = (CoFd){.fd = fd};
    }
    f->n_users++;
    *ret_f = f;
    return 0;
}

int coroutine_fn co_wait_fd(int fd, uint32_t event)
{
    AioContext *ctx = co_wait_self(__func__)->ctx;
    CoFd *f;
    int r = fd < 0 ? -EBADF : share(ctx, fd, &f);

    if (r < 0)
        return r;
    r = co_fd_wait(f, event);
    if (--f->n_users == 0) {
        co_fd_deinit(f);
        free(f);
    }
    return r;
}

/* ---- calls ---- */

/* Lets the rest of the loop run. Not by waiting for an event: an fd that takes more need not be as
 * empty as "writable" means. */
static int coroutine_fn rest(CoFd *f)
{
    struct co_fd_waiter waiter = {.co = co_wait_self("co_fd_call"), .is_scheduled = true};

    f->in_a_row = 0;
    queue_append(&f->resting, &waiter);
    aio_co_schedule(waiter.co->ctx, waiter.co);
    coroutine_yield_at("co_fd_call");
    if (!waiter.queue)
        return waiter.result;
    queue_remove(&waiter);
    return co_scope_status();
}

/* What must be waited for before a try. */
static int coroutine_fn before_try(CoFd *f, uint32_t event)
{
    if (f->used_up & event)
        return co_fd_wait(f, event);
    if (f->in_a_row >= CALLS_IN_A_ROW)
        return rest(f);
    return 0;
}

/* A call would block, though f was waited for. Where f is ready all the same, to wait for it again
 * would spin: tries again after a pause. */
static int coroutine_fn pause_if_ready(CoFd *f, uint32_t event, uint32_t *n_pauses)
{
    struct pollfd now = {.fd = f->fd, .events = (short)event};

    if (poll(&now, 1, 0) <= 0) {
        *n_pauses = 0;
        return 0;
    }
    f->used_up &= ~event;
    return co_fd_back_off(f, (*n_pauses)++);
}

ssize_t coroutine_fn co_fd_call(CoFd *f, uint32_t event, CoFdCall *call, void *opaque)
{
    uint32_t n_pauses = 0;
    bool has_waited = false;

    for (;;) {
        int r = before_try(f, event);

        if (r < 0)
            return r;
        ssize_t n = f->fd < 0 ? -EBADF : call(f->fd, opaque);
        if (n == -EAGAIN) {
            f->used_up |= event;
            r = has_waited ? pause_if_ready(f, event, &n_pauses) : 0;
            if (r < 0)
                return r;
            has_waited = true;
        } else if (n != -EINTR) {
            f->in_a_row++;
            return n;
        }
    }
}

void co_fd_note(CoFd *f, uint32_t event, ssize_t got, size_t wanted)
{
    if (got > 0 && (size_t)got < wanted && f->is_stream)
        f->used_up |= event;
}

struct transfer {
    void *buf;
    size_t len;
};

static ssize_t call_read(int fd, void *opaque)
{
    const struct transfer *t = opaque;
    ssize_t n = read(fd, t->buf, t->len);

    return n < 0 ? -errno : n;
}

static ssize_t call_write(int fd, void *opaque)
{
    const struct transfer *t = opaque;
    ssize_t n = write(fd, t->buf, t->len);

    return n < 0 ? -errno : n;
}

ssize_t coroutine_fn co_read(CoFd *f, void *buf, size_t len)
{
    struct transfer t = {.buf = buf, .len = len};
    ssize_t n = co_fd_call(f, POLLIN, call_read, &t);

    co_fd_note(f, POLLIN, n, len);
    return n;
}

ssize_t coroutine_fn co_write(CoFd *f, const void *buf, size_t len)
{
    struct transfer t = {.buf = (void *)buf, .len = len};

    ssize_t n = co_fd_call(f, POLLOUT, call_write, &t);

    co_fd_note(f, POLLOUT, n, len);
    return n;
}

ssize_t coroutine_fn co_read_all(CoFd *f, void *buf, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = co_read(f, (char *)buf + done, len - done);

        if (n < 0)
            return n;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

ssize_t coroutine_fn co_write_all(CoFd *f, const void *buf, size_t len)
{
    size_t done = 0;

    while (done < len) {
        ssize_t n = co_write(f, (const char *)buf + done, len - done);

        if (n < 0)
            return n;
        done += (size_t)n;
    }
    return (ssize_t)done;
}
