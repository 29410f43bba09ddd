/* SPDX-License-Identifier: MIT */
#ifndef SHERD_AIO_H
#define SHERD_AIO_H
/*
 * aio - AioContext: an event loop with bottom halves, timers, fd handlers and disk I/O
 *
 * Why:         one thread serves many requests; other threads hand it work without locks.
 * Use:         AioContext *ctx;
 *              int r = aio_context_new(NULL, &ctx);
 *              aio_context_set_current(ctx);
 *              aio_set_fd_handler(ctx, fd, on_readable, NULL, NULL, NULL, opaque);
 *              while (!done) aio_poll(ctx, true);
 *              aio_context_set_current(NULL);
 *              aio_context_unref(ctx);
 * Concurrency: a context has one home thread: the first that makes it current, or polls it. Only
 *              that one may call aio_poll(). What may be called from elsewhere says so.
 * Lifetime:    reference-counted; whoever created it holds the first reference.
 * Not here:    coroutines (sherd/coroutine.h), disk I/O for coroutines (sherd/disk.h), timers
 *              (sherd/timer.h), waiting for another loop outside a coroutine (sherd/aio_wait.h)
 *
 * Errors are negative errno values. Times are nanoseconds of CLOCK_MONOTONIC.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "runtime/timer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct BH BH;

typedef void BHFunc(void *opaque);
typedef void IOHandler(void *opaque);
typedef bool AioPollFn(void *opaque);

struct doorbell;
struct aio_instruments;

/* ---- the context ---- */

enum aio_engine {
    AIO_ENGINE_AUTO,      /* the best that works: io_uring, else linux-aio, else threads */
    AIO_ENGINE_IO_URING,  /* one ring for fds and disk together */
    AIO_ENGINE_LINUX_AIO, /* linux-aio for reads and writes, the thread pool for the rest */
    AIO_ENGINE_THREADS,   /* the thread pool for all disk I/O */
};

/* How a context waits for its fds. */
enum aio_monitor {
    AIO_MONITOR_AUTO,     /* the engine's ring; else ppoll, and epoll from when there are 64 fds */
    AIO_MONITOR_PPOLL,    /* a turn costs by what is watched, a change nothing */
    AIO_MONITOR_EPOLL,    /* a turn costs by what is ready, a change a system call */
    AIO_MONITOR_IO_URING, /* a turn costs by what is ready, or no system call where nothing is; a
                             change an entry of the ring, taking off one that has not fired in
                             this turn two system calls */
};

/* All zero is a fine default. */
struct aio_config {
    enum aio_engine engine;
    enum aio_monitor
        monitor;          /* AIO_ENGINE_IO_URING has its own, and no other with PPOLL or EPOLL */
    uint32_t io_depth;    /* most disk requests in flight; 0: 256. Sizes the linux-aio context. */
    uint32_t max_threads; /* of the thread pool; 0: 16 */
    const struct doorbell *doorbell; /* a shard's; NULL: words and an eventfd of its own */
    const struct aio_instruments *instruments; /* sherd/instruments.h; NULL: private memory */
    /* An fd, consumed in any case, of which no copy is left when the context is gone, or its
     * process, and the kernel writes no more to memory for it: as the write end of a pipe, it is
     * the proof of that for who reads the other. 0: none. With it a context has room for
     * AIO_MOST_GUARDED_FILES registered files (sherd/aio_register.h). */
    int life_fd;
    bool restricted;       /* an io_uring takes what loop and engine need, and what can be done with
                              fds that are there, and nothing else, for good: other entries of
                              aio_add_sqe() end with -EACCES */
    uint32_t lesser_flags; /* for tests: how many of the sets of flags of io_uring's, from the best
                              on, are passed over */
};

/*
 * Makes a context. No thread, ring or epoll set is shared with a parent process: call it after
 * fork. Returns 0, or -errno: -ENOMEM, -EMFILE; with an engine named, what the kernel said of it
 * (-ENOSYS, -EPERM: io_uring is forbidden here; -EAGAIN: fs.aio-max-nr is used up); -EINVAL: the
 * monitor does not go with the engine. AIO_ENGINE_AUTO falls back. Context: any thread.
 */
int aio_context_new(const struct aio_config *config, AioContext **ret_ctx);

/* Context: any thread. The last unref frees, and aborts naming what should not be left: a bottom
 * half still queued and not deleted, an armed timer. In the thread whose current context it is it
 * takes that back; another thread's must have been taken back before. */
AioContext *aio_context_ref(AioContext *ctx);
void aio_context_unref(AioContext *ctx);

/* The context that this thread turns, innermost first; between turns the one that it has set, or
 * NULL. A thread sets one, NULL takes that back; another thread may then become the home of one
 * that has never turned and whose io_uring was not used (aio_register.h, aio_sqe.h and disk
 * requests do). Aborts where another thread is ctx's home. */
AioContext *aio_context_current(void);
void aio_context_set_current(AioContext *ctx);

/*
 * A recursive lock that belongs to the context and means what its users agree on. The loop never
 * takes it, and no function of the runtime needs it. Whoever holds several must have an order for
 * them. Context: any thread.
 */
void aio_context_acquire(AioContext *ctx);
void aio_context_release(AioContext *ctx);

/* The engine in use, never AIO_ENGINE_AUTO; its name ("io_uring"); its flags in words, as
 * "single-issuer defer-taskrun", and why better ones were not taken ("io_uring: Operation not
 * permitted"). The strings live as long as the context. Context: any thread. */
enum aio_engine aio_context_engine(const AioContext *ctx);
const char *aio_engine_name(enum aio_engine engine);
const char *aio_context_engine_flags(const AioContext *ctx);

/* The monitor in use now, never AIO_MONITOR_AUTO; its name ("epoll"). Context: any thread. */
enum aio_monitor aio_context_monitor(const AioContext *ctx);
const char *aio_monitor_name(enum aio_monitor monitor);

/*
 * Disk requests, and entries of aio_add_sqe(), are gathered and handed to the kernel together: at
 * the end of a phase of the turn, or when as many as the batch have gathered (io_uring: a few,
 * while the disk has others that take their time). max_batch is the most that shall gather, 0
 * whatever is best; the second tells what holds, which is never more than io_depth. Context: owner
 * loop.
 */
void aio_context_set_aio_params(AioContext *ctx, uint32_t max_batch);
uint32_t aio_context_aio_batch(const AioContext *ctx);

/*
 * One turn of the loop: waits where blocking is true and nothing is ready, then runs what disk
 * requests and entries of the ring have completed, bottom halves, fd callbacks and timers, in this
 * order. Returns whether there was progress: a bottom half that is not idle, an fd callback other
 * than the context's own doorbell, a disk completion, or a timer ran. A blocking call may return
 * false after any notification, so loop on a condition. May be nested in a callback, not in a
 * coroutine. Context: owner loop.
 */
bool aio_poll(AioContext *ctx, bool blocking);

/* A blocking aio_poll() returns or does not begin to wait. It is no message: to stop a loop, run a
 * bottom half in it. Context: any thread, signal handler. */
void aio_notify(AioContext *ctx);

/* Ns until something of the loop's own must run: 0 where a bottom half is scheduled or a timer is
 * due, at most 10 ms where an idle bottom half is, -1 for ever. What fds, disk and other threads
 * bring is not told; nor are timers to come of AIO_CLOCK_REALTIME and AIO_CLOCK_BOOTTIME, which are
 * waited for by an fd of the loop's (an outer loop has sherd/gsource.h). Context: owner loop. */
int64_t aio_compute_timeout(AioContext *ctx);

/*
 * Adaptive polling: before a blocking aio_poll() sleeps it looks for a while, without system calls
 * where it can, whether something comes: bottom halves, sources, completions, io_poll callbacks.
 * That saves the sleep and the wake-up, and costs a core while it lasts. max_ns is the longest
 * while; 0, the default, switches it off. Each handler has a while of its own, and the longest
 * counts: it begins with 4,000 ns when an event that came later would have come within max_ns,
 * is multiplied by grow (0: 2) while that happens again, and divided by shrink (0: back to none)
 * when a wait has lasted longer than max_ns. Returns 0, or -EINVAL: one is negative. Context: any
 * thread; takes effect with the next turn.
 */
int aio_context_set_poll_params(AioContext *ctx, int64_t max_ns, int64_t grow, int64_t shrink);

/* ---- bottom halves: callbacks run by the loop, first in first out ---- */

/* What a bottom half is asked for, and in what state it is. */
enum bh_flags {
    BH_PENDING = 1 << 0,   /* linked: the loop will look at it */
    BH_SCHEDULED = 1 << 1, /* to be run */
    BH_IDLE = 1 << 2,      /* to be run, but not urgent and no progress */
    BH_DELETED = 1 << 3,   /* to be freed and not run */
    BH_ONESHOT = 1 << 4,   /* to be freed once run */
};

/* Not scheduled yet. The name is kept as a pointer. NULL: no memory. It must be deleted before the
 * context ends, which else aborts naming it. Context: any thread. */
BH *aio_bh_new_full(AioContext *ctx, BHFunc *cb, void *opaque, const char *name);
#define aio_bh_new(ctx, cb, opaque) aio_bh_new_full(ctx, cb, opaque, #cb)

/* cb runs once, then the bottom half frees itself. It cannot be cancelled. 0 or -ENOMEM.
 * Context: any thread. */
int aio_bh_schedule_oneshot_full(AioContext *ctx, BHFunc *cb, void *opaque, const char *name);
#define aio_bh_schedule_oneshot(ctx, cb, opaque) aio_bh_schedule_oneshot_full(ctx, cb, opaque, #cb)

/* cb runs at least once after this call; calls before it has begun count as one. What is scheduled
 * during a turn's bottom halves waits for the next turn. Order: first in, first out, where one
 * schedule happens before the other; what is linked already keeps its place. Context: any thread,
 * signal handler. */
void bh_schedule(BH *bh);

/*
 * As bh_schedule(), but is no progress and does not keep the loop from waiting: runs in the next
 * turn, which begins within 10 ms. One that schedules itself so again costs an idle loop 100 turns
 * a second. bh_schedule() on top of it wins. Context: any thread, signal handler.
 */
void bh_schedule_idle(BH *bh);

/* Not to be run, unless it has begun. Context: any thread; of use in the owner loop alone. */
void bh_cancel(BH *bh);

/* Not to be run unless it has begun; freed by the loop. The pointer is gone. NULL does nothing.
 * Context: any thread. */
void bh_delete(BH *bh);

/* Of enum bh_flags, those that are set: in another thread, those that were a moment ago. Context:
 * any thread. */
uint32_t bh_flags(const BH *bh);

/* Calls its callback now, whatever it is scheduled for, and leaves that as it is. Context: owner
 * loop. */
void aio_bh_call(BH *bh);

/*
 * Runs what is queued, as the turn does; in a callback, first what the polls around it have taken
 * and not yet run. What is scheduled meanwhile waits for the next call. Returns progress. Context:
 * owner loop.
 */
bool aio_bh_poll(AioContext *ctx);

/* ---- fd handlers ---- */

/*
 * Watches fd, level-triggered, replacing what was there; io_read and io_write both NULL takes it
 * off. io_read runs on readable, hang-up and error, io_write on writable and error, and on hang-up
 * where there is no io_read; both must bear a call with nothing to do, so fd is non-blocking.
 *
 * io_poll looks, without a system call, whether there is what fd is readable for; a busy-polling
 * loop asks it (see aio_context_set_poll_params()) from when fd was first seen ready, and where it
 * says yes calls io_poll_ready in the place of io_read. One without the other is dropped. A nested
 * loop does not call io_poll_ready while it runs.
 *
 * A turn calls each that is ready once: with ppoll in the order in which the fds were first
 * watched, with epoll and io_uring as they became ready; epoll tells of 128 a turn, and of the rest
 * first in the next, io_uring of 1024 or more. What a nested turn finds ready comes behind what the
 * outer one has left.
 *
 * A handler that was taken off is not called again, also when a callback of the same turn took it
 * off (in another thread, one that runs already goes on to its end). Take fd off before closing it:
 * then its file is gone once it is closed, as long as ctx is current in the thread that does so;
 * the io_uring of another thread's may hold it until that one's next turn, which has been told. The
 * handler's memory is given back at the end of the outermost turn.
 *
 * Returns 0, -ENOMEM, -ENOSPC (fs.epoll.max_user_watches), -EBADF, or -EPERM: fd can't be waited
 * for (a regular file, /dev/null); poll(2) would call it ready always, and so the loop would never
 * sleep: read it with sherd/disk.h; -EMFILE: that takes an fd to find out. On an error what was
 * there stays. Taking off returns 0. Context: any thread.
 */
int aio_set_fd_handler(AioContext *ctx, int fd, IOHandler *io_read, IOHandler *io_write,
    AioPollFn *io_poll, IOHandler *io_poll_ready, void *opaque);

/*
 * What fd's handler, which has an io_poll, wants to be told: io_poll_begin when the loop begins to
 * ask it, so that what signals fd may leave that off, and io_poll_end before the loop next sleeps,
 * so that it signals again; after that io_poll is asked once more, for what came in between. They
 * come in turn, begin first. A handler that is taken off or replaced is told nothing any more.
 * Either may be NULL. Call it right after aio_set_fd_handler(). Returns 0, or -ENOENT: fd has no
 * handler, or one without io_poll. Context: any thread.
 */
int aio_set_fd_poll(AioContext *ctx, int fd, IOHandler *io_poll_begin, IOHandler *io_poll_end);

#ifdef __cplusplus
}
#endif
#endif
