/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fd_keep - fds that the supervisor keeps for others, so that they outlive who opened them
 *
 * Why:         what belongs to a client has to outlive the process that serves it: the replacement
 *              of a dead one inherits it by the fork, and nobody at the other end notices.
 * Use:         supervisor: fd_keep_new() before the first fork, fd_keep_start() once it has a loop,
 *              fd_keep_drain() before each fork; in a child, fd_keep_inherit()
 *              gateway: fd_keep_send(PUT with an fd), and wait for KEPT or REFUSED of the same key,
 *              kind and peer; fd_keep_send(DROP) at the end
 *              shard: open what it has inherited, then follow HAND and DROP
 * Concurrency: one socket pair (SOCK_SEQPACKET) a child, made before the first fork and there for
 *              all its incarnations. Only the gateway may ask for anything, and what it may is
 *              bounded; from what is kept nothing is ever read.
 * Lifetime:    an fd is kept until it is dropped, whoever dies meanwhile. Each message may come
 *              twice, or to an heir that has inherited the same: the second is to no effect, and
 *              its fds are to be closed. What is for one heir comes in the order in which it was
 *              asked for, but that HANDs after which a DROP came may be left out.
 * Not here:    what the fds are (ipc/plane/, ipc/gateway/)
 */
#include <stdbool.h>
#include <stdint.h>

#include "runtime/aio.h"
#include "shard/log.h"

#define FD_KEEP_NOTE     64u
#define FD_KEEP_ALL      UINT32_MAX
#define FD_KEEP_PROGRAM  UINT32_MAX /* key of what was opened before the first fork */
#define FD_KEEP_FDS_MAX  4u         /* of a key that are for all, with the one that they go with */
#define FD_KEEP_RESERVED 64u        /* fds that the supervisor has left for itself at any time */

enum fd_keep_op {
    FD_KEEP_PUT = 1, /* gateway to supervisor, with one fd: keep it. In the place of one of the same
                        key, generation, kind and peer, if there is one */
    FD_KEEP_KEPT,    /* supervisor to gateway: done */
    FD_KEEP_REFUSED, /* likewise: not done, `error` says why: -EMFILE; -ENOSPC: as many keys as are
                        kept at the most; -ENOMEM; -EINVAL; -ESTALE: the key was dropped */
    FD_KEEP_DROP,    /* gateway to supervisor, and on to each peer that has one of the key: all of
                        the key is over */
    FD_KEEP_HAND,    /* supervisor to a peer, with n_fds: those of the key that are for all, in the
                        order in which they came, then the one that is for it alone */
};

struct fd_keep_message {
    uint32_t op;         /* enum fd_keep_op */
    uint32_t kind;       /* of the fd that it is about, as its users number them */
    uint32_t key;        /* whose it is */
    uint32_t peer;       /* for whom; FD_KEEP_ALL: whoever has one of this key */
    uint64_t generation; /* of the key: one that is used again is another */
    uint32_t n_fds;
    int32_t error;              /* of REFUSED; else 0 */
    uint8_t note[FD_KEEP_NOTE]; /* passed on as it came */
};

/* ---- for whoever has an end of a channel ---- */

/* fd < 0: none goes with it. 0; -EAGAIN: there is no room now; -errno. Keeps fd open. */
int fd_keep_send(int channel, const struct fd_keep_message *message, int fd);

/*
 * 1 with a message and the fds that came with it, which are the caller's: the others are -1. 0:
 * there is none now. -EMFILE: fds did not all arrive, those that did are closed, and the message
 * is filled in; -EPROTO: not a message, and fds closed; -errno.
 */
int fd_keep_receive(int channel, struct fd_keep_message *ret_message, int ret_fds[FD_KEEP_FDS_MAX]);

/* ---- for a child ---- */

/* An fd that it has inherited; its own, to use or close. */
struct fd_kept {
    uint32_t key;
    uint32_t kind;
    uint32_t peer; /* itself, or FD_KEEP_ALL */
    int fd;
    uint64_t generation;
    uint8_t note[FD_KEEP_NOTE];
};

/* What a child has of it. A key's rows stand together, in the order in which they came. */
struct fd_keep_heir {
    int channel; /* non-blocking; never to be closed by the child: its replacement goes on with it */
    struct fd_kept *kept;
    uint32_t n_kept;
};

/* ---- for the supervisor ---- */

struct fd_keep;

/* Channels for n_peers children, of which `giver` alone may ask. max_keys: at most so many are kept
 * at a time. 0 or -errno, with a text. */
int fd_keep_new(uint32_t n_peers, uint32_t giver, uint32_t max_keys, struct log *log,
    struct fd_keep **ret_keep, char **ret_error);

/* Closes all that is kept. NULL does nothing. */
void fd_keep_free(struct fd_keep *keep);

/* An fd of the program's own for a peer, before the first fork: under FD_KEEP_PROGRAM, generation
 * 0. Consumes fd. 0 or -errno. */
int fd_keep_add(struct fd_keep *keep, uint32_t kind, uint32_t peer, int fd);

/* Follows what is asked for in that loop, until fd_keep_free(). 0 or -errno. */
int fd_keep_start(struct fd_keep *keep, AioContext *ctx);

/* Before a fork: does what its predecessor has asked for and nobody has looked at yet. */
void fd_keep_drain(struct fd_keep *keep);

/* The fds that a child inherits, its channel among them: *ret_n of them, free() it. NULL: no
 * memory. */
int *fd_keep_list(const struct fd_keep *keep, uint32_t peer, uint32_t *ret_n);

/* What a child has of it. dup: it is a thread, and has copies of its own. 0 or -errno. kept is
 * malloc'ed. */
int fd_keep_inherit(
    const struct fd_keep *keep, uint32_t peer, bool dup, struct fd_keep_heir *ret_heir);

/* Fds kept now. */
uint32_t fd_keep_count(const struct fd_keep *keep);
