/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * idset - which request ids a session has used, in little memory
 *
 * Why:         a request that comes twice must be served once, also long after its end. Clients
 *              count their ids up, so what was used is a few ranges.
 * Use:         struct idset set = {}; r = idset_add(&set, id); … idset_deinit(&set);
 * Concurrency: owner loop
 * Lifetime:    the caller's; idset_deinit() frees its ranges
 *
 * Beyond the limit the lowest range goes below the floor, with the ids that were left out there:
 * those count as used although they are not, and nothing that was used is ever taken for new.
 */
#include <stdbool.h>
#include <stdint.h>

struct id_range {
    uint64_t first, last;
};

/* Zero bytes are an empty set. */
struct idset {
    uint64_t floor;          /* ids up to it are used */
    struct id_range *ranges; /* ascending, with gaps between them */
    uint32_t n;
    uint32_t capacity;
};

/* All ids up to floor count as used. */
void idset_raise(struct idset *set, uint64_t floor);

/* 1: it was not there and is now; 0: it was there; -ENOMEM. */
int idset_add(struct idset *set, uint64_t id);

bool idset_has(const struct idset *set, uint64_t id);

void idset_deinit(struct idset *set);
