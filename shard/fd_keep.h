/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fd_keep - fds that the supervisor keeps for others, so that they outlive who opened them
 *
 * Why:         what belongs to a client has to outlive the process that serves it: the replacement
 *              of a dead one inherits it by the fork, and nobody at the other end notices.
 * Use:         supervisor: fd_keep_new() before the first fork, fd_keep_start() once it has a loop,
 *              fd_keep_prepare() before each fork; for the child, fd_keep_inherit()
 *              gateway: fd_keep_send(PUT with an fd), and wait for KEPT or REFUSED of the same key,
 *              kind and peer; fd_keep_send(DROP) at the end
 *              shard: open what it has inherited, then follow HAND and DROP
 * Concurrency: one socket pair (SOCK_SEQPACKET) a child, made before the first fork and there for
 *              all its incarnations. Only the gateway may ask for anything, and what it may is
 *              bounded; from what is kept nothing is ever read.
 * Lifetime:    an fd is kept until it is dropped, whoever dies meanwhile. A child begins with what
 *              it has inherited; what is asked for after that comes as HAND and DROP, those of a
 *              key in order, but that HANDs after which a DROP came may be left out. Asking or
 *              telling twice does nothing the second time.
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
    FD_KEEP_REFUSED, /* likewise: not done, `error` says why: -EMFILE; -ENOMEM; -EINVAL; -EBUSY: of
                        that key another generation is kept, or its end is still being told;
                        -ESTALE: the key was dropped */
    FD_KEEP_DROP,    /* gateway to supervisor, and on to each peer that has one of the key, and to
                        those that the note names (a bit a peer, SEGMENT_BITMAP_WORDS words): all
                        of the key is over */
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

/* Channels for n_peers children, of which `giver` alone may ask. Keys are numbers below max_keys. 0
 * or -errno, with a text. */
int fd_keep_new(uint32_t n_peers, uint32_t giver, uint32_t max_keys, struct log *log,
    struct fd_keep **ret_keep, char **ret_error);

/* Closes all that is kept. NULL does nothing. */
void fd_keep_free(struct fd_keep *keep);

/* An fd of the program's own for a peer, before the first fork: under FD_KEEP_PROGRAM, generation
 * 0. Consumes fd. 0 or -errno. */
int fd_keep_add(struct fd_keep *keep, uint32_t kind, uint32_t peer, int fd);

/* Follows what is asked for in that loop, until fd_keep_free(). 0 or -errno. */
int fd_keep_start(struct fd_keep *keep, AioContext *ctx);

/* Before a child is forked, its predecessor being gone: what that one asked for and nobody has
 * looked at yet is done, and what it was told and has not read is taken back, for its replacement
 * inherits all of that. */
void fd_keep_prepare(struct fd_keep *keep, uint32_t peer);

/* What a child has of it. copies: it is a thread, and has fds of its own. 0 or -errno. */
int fd_keep_inherit(
    const struct fd_keep *keep, uint32_t peer, bool copies, struct fd_keep_heir *ret_heir);

/* Frees the table, and where `copies` is set closes what is in it. */
void fd_keep_disinherit(struct fd_keep_heir *heir, bool copies);

/* Fds kept now. */
uint32_t fd_keep_count(const struct fd_keep *keep);
