/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * doorbell - wakes a sleeping event loop, in another thread or another process
 *
 * Why:         a sender must not pay a system call while the receiver is awake, and a receiver must
 *              not sleep while there is work for it.
 * Use:         sender:   publish the work; doorbell_ring()
 *              sleeper:  doorbell_prepare_sleep(); if it says no, or there is work after all, do
 *                        not sleep; else sleep until the fd is readable;
 *                        doorbell_end_sleep(); doorbell_accept(); look for work
 * Concurrency: ring, nudge, knock: any thread, any process, signal handler. The rest: owner loop.
 * Lifetime:    the words outlive every sender: private memory for a plain context, the segment's
 *              commons for a shard's. The eventfd is never closed while somebody may still ring.
 * Not here:    what the work is; who may send (bitmap and rings: shard/mesh.h)
 */
#include <stdbool.h>
#include <stdint.h>

#include "runtime/atomic.h"

/* Both words stand in one cache line that both sides write: the exception to one writer a line. */
struct doorbell_words {
    uint32_t notify_me; /* written by the sleeper: how deep it is between prepare and end, in steps
                           of 2; bit 0: a GLib source between prepare and check */
    uint32_t notified;  /* set by senders, cleared by the sleeper */
};

struct doorbell {
    struct doorbell_words *words;
    int fd; /* an eventfd, non-blocking, close-on-exec */
};

/*
 * Whoever published work before this call: a blocking wait of the receiver returns or does not
 * begin, and its next look sees the work. Returns true where it paid the system call. Context: any
 * thread, any process, signal handler.
 */
bool doorbell_ring(const struct doorbell *bell);

/*
 * As doorbell_ring(), but leaves no notification behind, so that a receiver that is awake goes on
 * as it would have: for what the sleeper looks at by itself between doorbell_prepare_sleep() and
 * its wait (timers, idle bottom halves, changes of the wait set). Returns true where it paid the
 * system call. Context: any thread, signal handler.
 */
bool doorbell_nudge(const struct doorbell *bell);

/* As doorbell_nudge(), without its fence: a thread sees its own notify_me. Context: the sleeper's
 * thread, its signal handlers. */
bool doorbell_nudge_home(const struct doorbell *bell);

/* As doorbell_ring(), but writes the eventfd whatever notify_me says: for a supervisor's knock
 * after a death, when the words may be half written. Context: any process. */
void doorbell_knock(const struct doorbell *bell);

/* Raises notify_me and looks at notified once more: false where a notification came in between, so
 * that the wait must not block. Always paired with doorbell_end_sleep(). Context: owner loop. */
bool doorbell_prepare_sleep(const struct doorbell *bell);
void doorbell_end_sleep(const struct doorbell *bell);

/* The same for a wait in somebody else's loop (gsource.h), where a second prepare may come without
 * an end in between. Context: owner loop. */
bool doorbell_prepare_outer(const struct doorbell *bell);
void doorbell_end_outer(const struct doorbell *bell);

/* Takes the notification, so that what is published from now on rings again. Call before looking
 * for work, never after. Returns whether there was one. Context: owner loop. */
bool doorbell_accept(const struct doorbell *bell);

/* Whether a notification waits: what a busy-polling loop looks at. Context: owner loop. */
static inline bool doorbell_is_rung(const struct doorbell *bell)
{
    return atomic_load_acquire(&bell->words->notified) != 0; /* PUB, SLEEP in doorbell.c */
}

/* Empties the eventfd's counter: the fd handler of the owner loop. */
void doorbell_drain_fd(const struct doorbell *bell);
