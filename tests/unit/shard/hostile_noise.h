/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * hostile_noise - a peer that writes nonsense over all that it may write
 *
 * Why:         what one process may write, a wild pointer of it may have written; the others must
 *              neither crash nor hang.
 * Use:         struct noise noise = {.state = seed, .seg = &segment, .self = 2, …};
 *              for (;;)
 *                  noise_make(&noise);
 * Concurrency: the process of that peer
 *
 * Its own part and the commons are what it may write (shard/firewall.h), but for the stacks of
 * portable coroutines, which whoever runs one has to trust. What it writes is half noise and half
 * plausible: words that others stored, moved by one; messages of each kind with true generations.
 */
#include "shard/segment.h"

struct noise {
    uint64_t state; /* not 0 */
    const struct segment *seg;
    uint32_t self;
    uint32_t n_methods; /* that it calls, from number 0 on */
    const int *bell_fds;
    uint64_t n_written;
};

uint64_t noise_next(struct noise *noise);

/* 0 where n is 0. */
uint64_t noise_below(struct noise *noise, uint64_t n);

/* Some words, or some messages. */
void noise_make(struct noise *noise);
