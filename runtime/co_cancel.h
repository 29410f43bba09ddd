/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CO_CANCEL_H
#define SHERD_CO_CANCEL_H
/*
 * co_cancel - ends what a coroutine waits for, by a token or at a time
 *
 * Why:         a request whose client is gone, or whose time is over, must not go on waiting for a
 *              disk, a peer or a lock; and each function it calls should not need a timeout of its
 *              own for that.
 * Use:         CoScope scope;
 *              co_scope_begin(&scope, &server->shutdown, aio_clock_ns() + 5 * SECOND_NS);
 *              r = fetch(url);             -ECANCELED, -ETIMEDOUT or what fetch() says by itself
 *              co_scope_end(&scope);
 *              and elsewhere, in any thread: co_cancel(&server->shutdown);
 *              What waits inside hands the error on like any other and cleans up on the way out.
 *              Where that needs waits of its own, they stand in co_scope_begin_shielded().
 * Concurrency: a token is anybody's; a scope belongs to the coroutine that began it.
 * Lifetime:    a token outlives the scopes that name it and the calls of co_cancel(). A scope lies
 *              on the coroutine's stack; scopes end in the reverse order of their begin, and before
 *              the coroutine does.
 * Not here:    which function can be ended so: each that waits says it. All of the runtime can, but
 *              for co_mutex_lock(). How to write one: sherd/co_wait.h
 *
 * Only waiting ends. A function that need not wait succeeds in a scope that is over, and code that
 * computes for long asks co_scope_status(). Coroutines made inside a scope are not in it.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/aio.h"
#include "runtime/coroutine.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Embed it; the fields are its own. Zero bytes are a token that nobody has cancelled. */
typedef struct CoCancel {
    pthread_mutex_t lock;
    uint32_t cancelled;
    struct CoScope *waiting; /* scopes whose coroutine waits now, in order */
    struct CoScope **waiting_last;
} CoCancel;

/* Context: any thread. */
void co_cancel_init(CoCancel *token);

/* Aborts where a coroutine still waits in a scope of it. Context: any thread. */
void co_cancel_deinit(CoCancel *token);

/* Ends each wait in a scope of this token with -ECANCELED, soon and in its own thread; those that
 * begin later end at once. A second call does nothing. Context: any thread. */
void co_cancel(CoCancel *token);

/* Whether co_cancel() was called. Context: any thread. */
bool co_cancelled(const CoCancel *token);

/* Embed it in the coroutine's frame; the fields are its own. */
typedef struct CoScope {
    struct CoScope *outer;
    CoCancel *token;
    int64_t deadline_ns; /* the earliest of its own and those around it */
    bool is_shield;
    uint8_t place;   /* on which list it is, while its coroutine waits */
    AioContext *ctx; /* where it waits */
    void *wait;      /* what it waits for */
    struct CoScope *next;
    struct CoScope **link;
} CoScope;

#define CO_NO_DEADLINE INT64_MAX

/*
 * From here to co_scope_end() a wait of this coroutine ends with -ECANCELED when token is cancelled
 * (NULL: by no token) and with -ETIMEDOUT at deadline_ns, a time of aio_clock_ns(), or
 * CO_NO_DEADLINE; or by a scope around this one.
 */
void coroutine_fn co_scope_begin(CoScope *scope, CoCancel *token, int64_t deadline_ns);

/* The same, but the scopes around this one have no power in it: for cleaning up. */
void coroutine_fn co_scope_begin_shielded(CoScope *scope, CoCancel *token, int64_t deadline_ns);

/* Aborts where scope is not the innermost one. */
void coroutine_fn co_scope_end(CoScope *scope);

/* Whether the running coroutine's scopes are over: 0, -ECANCELED or -ETIMEDOUT; 0 outside any. */
int coroutine_fn co_scope_status(void);

#ifdef __cplusplus
}
#endif
#endif
