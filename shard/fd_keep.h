/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fd_keep - fds that the supervisor keeps for others, so that they outlive who opened them
 *
 * Why:         what belongs to a client has to outlive the process that serves it: the replacement of
 *              a dead shard inherits it by the fork, and nobody at the other end notices.
 * Use:         messages of one size over a socket pair for each child, made before the first fork:
 *              the gateway says keep (with the fd) and drop; the supervisor hands over to the shard
 *              that an fd is for what of that key is kept for all, and then that one (SCM_RIGHTS, in
 *              this order); and tells shards of what is dropped.
 * Concurrency: one supervisor; each socket pair has one user at either end.
 * Lifetime:    an fd is kept until it is dropped, whoever dies meanwhile. Each message may come
 *              twice, the second time to no effect.
 * Not here:    what the fds are (ipc/plane/, ipc/gateway/)
 */
#include <stdint.h>

#define FD_KEEP_NOTE 64u
#define FD_KEEP_ALL  UINT32_MAX

enum fd_keep_op {
    FD_KEEP_PUT = 1, /* gateway to supervisor, with one fd: keep it */
    FD_KEEP_DROP,    /* gateway to supervisor, and on to each shard: all of the key is over */
    FD_KEEP_HAND,    /* supervisor to a shard, with n_fds */
};

struct fd_keep_message {
    uint32_t op;         /* enum fd_keep_op */
    uint32_t kind;       /* of the fd that it is about, as its users number them */
    uint32_t key;        /* whose it is */
    uint32_t peer;       /* for whom; FD_KEEP_ALL: whoever has one of this key */
    uint64_t generation; /* of the key: one that is used again is another */
    uint32_t n_fds;
    uint32_t spare;
    uint8_t note[FD_KEEP_NOTE]; /* passed on as it came */
};
