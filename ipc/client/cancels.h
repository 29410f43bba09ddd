/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * cancels - accepted requests that are to be cancelled, on their way to the gateway
 *
 * Why:         a user may cancel thousands in a callback: they go in few messages, one at a time.
 * Use:         cancels_note(); cancels_send() when the link may have room; cancels_answered() when
 *              its letter has come, whatever that says: a cancellation is a wish
 * Concurrency: one thread
 * Lifetime:    one of zero bytes is empty; cancels_deinit() before its memory goes
 */
#include <stddef.h>
#include <stdint.h>

#include "ipc/client/link.h"

struct cancels {
    uint64_t *ids; /* not sent */
    size_t n, capacity;
    uint32_t n_under_way; /* messages: 0 or 1 */
};

void cancels_deinit(struct cancels *cancels);

/* Forgets it where there is no memory. */
void cancels_note(struct cancels *cancels, uint64_t id);

/* Letters of kind LETTER_CANCEL, whose opaque is connection_number. */
void cancels_send(struct cancels *cancels, struct link *link, uint64_t connection_number);
void cancels_answered(struct cancels *cancels);
