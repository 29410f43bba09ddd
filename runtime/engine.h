/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * engine - how a context does disk I/O: io_uring, linux-aio or worker threads
 *
 * Why:         coroutines call runtime/disk.h and need not know which kernel interface serves them.
 * Use:         runtime/disk.c fills a disk_request on the coroutine's stack, calls submit(), and
 * yields once unless the request is done already. An engine takes a request whole or refuses it: a
 *              refused one is never left in a queue.
 * Concurrency: owner loop. A worker thread's completion comes in through a bottom half.
 * Lifetime:    a request belongs to the engine from submit() until disk_complete(), which comes
 * exactly once. Not here:    continuing short reads and writes (runtime/disk.c)
 *
 * No user code runs inside a harvest: disk_complete() puts the request on the context's completed
 * list, which aio_poll() runs (disk_dispatch_completed) before the bottom halves; a nested
 * aio_poll() goes on where the outer one stopped.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "runtime/coroutine.h"

/* X(name, whether linux-aio can do it) */
#define DISK_OPS(X)     \
    X(READ, true)       \
    X(WRITE, true)      \
    X(READV, true)      \
    X(WRITEV, true)     \
    X(FSYNC, true)      \
    X(FDATASYNC, true)  \
    X(FALLOCATE, false) \
    X(OPENAT2, false)   \
    X(CLOSE, false)     \
    X(STATX, false)

enum disk_op {
#define X(name, in_linux_aio) DISK_##name,
    DISK_OPS(X)
#undef X
};

struct disk_request {
    enum disk_op op;
    int fd; /* or dirfd */
    uint64_t offset;
    union {
        struct {
            void *buf;
            size_t len;
        };
        struct {
            const struct iovec *iov;
            int n_iov;
        };
        struct {
            const char *path;
            const struct open_how *how;
        };
        struct {
            const char *statx_path;
            struct statx *statx;
            int statx_flags;
            unsigned statx_mask;
        };
        struct {
            uint64_t fallocate_len;
            int fallocate_mode;
        };
    };
    ssize_t result; /* count, 0 or -errno, once done */
    bool done;
    Coroutine *co; /* who waits; woken by disk_dispatch_completed() unless it is entered */
    struct disk_request *next; /* engine's queue, then the completed list */
    void *engine_private;
};

struct engine_ops {
    enum aio_engine engine;
    /* Takes request. Submission may be deferred to flush(). */
    void (*submit)(AioContext *ctx, struct disk_request *request);
    /* Hands to the kernel what was deferred: after each phase of a turn and before a wait that may
     * block. */
    void (*flush)(AioContext *ctx);
    void (*destroy)(AioContext *ctx);
};

/* Collects a finished request. Context: owner loop. */
void disk_complete(AioContext *ctx, struct disk_request *request, ssize_t result);

/* Wakes whom completed requests belong to. Returns progress. Context: owner loop. */
bool disk_dispatch_completed(AioContext *ctx);

/* Sets ctx->engine. 0 or -errno. io_uring's comes with its monitor. */
int engine_linux_aio_setup(AioContext *ctx, uint32_t io_depth);
int engine_threads_setup(AioContext *ctx);
