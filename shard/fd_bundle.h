/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fd_bundle - what is kept under one key: fds that are for all its heirs, and fds that are each for
 * one
 *
 * Why:         what is there to be handed down is one thing; telling whom, and when there is room,
 *              another (shard/fd_keep.c).
 * Use:         fd_bundle_add(); then for a child fd_bundle_count_for() and fd_bundle_hand_down()
 * Concurrency: the supervisor's loop
 * Lifetime:    its keeper's; fd_bundle_close() before it goes
 */
#include "shard/fd_keep.h"
#include "shard/segment.h"

struct fd_item {
    struct fd_item *next;
    uint32_t kind;
    uint32_t peer; /* FD_KEEP_ALL: for all */
    int fd;
    bool owed; /* its peer has not been told */
    uint8_t note[FD_KEEP_NOTE];
};

struct fd_bundle {
    uint32_t key;
    bool dropped;
    uint64_t generation;
    struct fd_item *items; /* in the order in which they came */
    uint32_t n_items, n_for_all;
    uint64_t heirs[SEGMENT_BITMAP_WORDS];    /* peers that an item is for, or was */
    uint64_t owed_end[SEGMENT_BITMAP_WORDS]; /* of these, those not yet told that it is dropped */
};

/* All of its fds. */
void fd_bundle_close(struct fd_bundle *bundle);

/* NULL: there is none. */
struct fd_item *fd_bundle_find(const struct fd_bundle *bundle, uint32_t kind, uint32_t peer);

/* In the place of one of the same kind and peer, if there is one. Consumes fd. 0; -EINVAL: too many
 * are for all; -ENOMEM. */
int fd_bundle_add(struct fd_bundle *bundle, const struct fd_keep_message *what, bool owed, int fd);

/* How many rows peer inherits of it. */
uint32_t fd_bundle_count_for(const struct fd_bundle *bundle, uint32_t peer);

/* Appends these to heir->kept, which has room for them. 0 or -errno. */
int fd_bundle_hand_down(
    const struct fd_bundle *bundle, uint32_t peer, bool copies, struct fd_keep_heir *heir);
