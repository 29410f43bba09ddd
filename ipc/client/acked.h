/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * acked - which positions of ends have come, so that the gateway can be told up to where
 *
 * Why:         nng's threads may hand over two answers in another order than they came.
 * Use:         acked_note() for each answer with ends; acked.upto is what may be acknowledged
 * Concurrency: one thread
 */
#include <stdint.h>

#define ACKED_NEXTS_MAX 2u /* answers that may be on their way at once */

/* Ends that came before ones that lie lower. */
struct acked_range {
    uint64_t first, last;
};

struct acked {
    uint64_t upto; /* all up to here have come */
    struct acked_range ahead[ACKED_NEXTS_MAX + 2];
};

/* Positions first to last have come, maybe again. */
void acked_note(struct acked *acked, uint64_t first, uint64_t last);

/* On another connection the gateway begins again behind `upto`. */
void acked_begin_again(struct acked *acked);
