/* SPDX-License-Identifier: MIT */
#ifndef SHERD_LOCKCNT_H
#define SHERD_LOCKCNT_H
/*
 * lockcnt - a count of visitors and a mutex in one word
 *
 * Why:         a list that many threads walk and few change. Who walks it is a visitor: it counts
 *              itself in and out, which waits for nobody as long as there is another visitor. Who
 *              changes it takes the lock; what it takes off may be freed only where nobody visits.
 * Use:         visitor:  lockcnt_inc(&list->cnt);
 *                        … walk, with atomic loads of the links …
 *                        if (lockcnt_dec_and_lock(&list->cnt)) {
 *                            … the last one: free what is marked as taken off …
 *                            lockcnt_unlock(&list->cnt);
 *                        }
 *              changer:  lockcnt_lock(&list->cnt);
 *                        … add with a release store; or mark, and where lockcnt_count() is 0, take
 *                        off and free …
 *                        lockcnt_unlock(&list->cnt);
 *              The rule: free only with the lock held and a count of 0. No visit begins then.
 * Concurrency: any thread, by all functions but init and destroy. Not from a signal handler that
 *              may have interrupted a holder. Blocks the thread, so coroutines must not hold it
 *              over a yield.
 * Lifetime:    the caller embeds it. It holds nothing, and may lie in memory shared between
 *              processes; but a process that dies while it visits leaves the count raised for ever.
 * Not here:    the event loop's own fd handlers, which need none of this: only the home thread of a
 *              context walks and frees them. It is here for programs that have such a list.
 *
 * At most 2^30 - 1 visitors at a time.
 */
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The field is its own. Zero bytes are a free lock without visitors. */
typedef struct LockCnt {
    uint32_t word;
} LockCnt;

/* Context: before and after all others use it. destroy aborts where somebody visits or holds it. */
void lockcnt_init(LockCnt *cnt);
void lockcnt_destroy(LockCnt *cnt);

/* Counts a visitor in. Waits only where there is none yet and the lock is held. Context: any
 * thread. */
void lockcnt_inc(LockCnt *cnt);

/* Counts one out, whoever may be the last. Context: any thread. */
void lockcnt_dec(LockCnt *cnt);

/* Counts one out. The last one comes away with the lock, which it may have to wait for: true.
 * Context: any thread. */
bool lockcnt_dec_and_lock(LockCnt *cnt);

/* The same where the caller is the only visitor; else it does nothing at all: false, and the visit
 * goes on. Context: any thread. */
bool lockcnt_dec_if_lock(LockCnt *cnt);

/* Takes the lock; visitors may be there and more may come, if there is one. Context: any thread. */
void lockcnt_lock(LockCnt *cnt);

/* Context: the holder. The first also counts a visitor in, before anybody else can take the
 * lock. */
void lockcnt_inc_and_unlock(LockCnt *cnt);
void lockcnt_unlock(LockCnt *cnt);

/* Visitors now. With the lock held, 0 stays 0, and all that those before did is seen. Context: any
 * thread. */
uint32_t lockcnt_count(const LockCnt *cnt);

#ifdef __cplusplus
}
#endif
#endif
