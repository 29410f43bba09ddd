/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * attach - how a local client gets at the shards' memory rings, to the byte
 *
 * Why:         who may attach is decided once, by the kernel's word (SO_PEERCRED); from then on no
 *              message is needed.
 * Use:         connect to RUNTIME/attach (SOCK_SEQPACKET); send a hello, get an answer with the
 *              memfd. Before the first use of a shard send an open, get an answer with the
 *              doorbell: one end of a socket pair, for a byte each way, sent with MSG_DONTWAIT.
 * Concurrency: one request at a time on a connection; answers come in order.
 * Lifetime:    the connection is the client: its end is the client's end. The supervisor keeps its
 *              other end, so a gateway's death does not end it: an answer that does not come after
 *              a gateway's death is asked for again with the same message (`serial`); where two
 *              come the later one counts.
 * Not here:    the memory (proto/data_plane.h)
 *
 * All numbers are little-endian; every message has a fixed size and begins with struct attach_head.
 * Anything else ends the connection, from either side: a client that does not know a message
 * attaches anew.
 */
#include <stdint.h>

#define ATTACH_SOCKET  "attach"    /* below the instance's directory */
#define ATTACH_MAGIC   0x48435441u /* "ATCH" */
#define ATTACH_VERSION 1u
#define ATTACH_TEXT    160u

/* What is agreed on in hello and welcome. */
enum attach_features {
    ATTACH_URGENT = 1u << 0, /* the shards take from urgent rings (proto/data_plane.h) */
    ATTACH_FEATURES_ALL = (1u << 1) - 1,
};

enum attach_kind {
    ATTACH_HELLO = 1,
    ATTACH_WELCOME, /* to a hello; with the memfd */
    ATTACH_OPEN,
    ATTACH_OPENED,  /* to an open; with the doorbell */
    ATTACH_REFUSED, /* to either */
    ATTACH_CLOSED,  /* to none: a lane is over, and the others are not; its serial is 0 */
};

struct attach_head {
    uint32_t magic;
    uint16_t version; /* the newest that the sender speaks; the answer has the one to be used */
    uint16_t kind;    /* enum attach_kind */
    uint64_t serial;  /* of the request; the answer has the same */
};

struct attach_hello {
    struct attach_head head;
    uint64_t features;   /* enum attach_features, those that the client knows */
    uint64_t data_bytes; /* of its data area; rounded up to a page */
    uint32_t n_entries;  /* of each ring; rounded up to a power of two */
    uint32_t spare;
    char client[64]; /* a name for logs, with its NUL */
};

struct attach_welcome {
    struct attach_head head;
    uint64_t features; /* those of the client's that will be used */
    uint64_t data_bytes;
    uint64_t total_bytes; /* of the memfd: as plane_layout() has it */
    uint32_t n_entries;
    uint32_t n_shards;
    uint32_t client;        /* its number, as tools show it */
    uint32_t max_in_flight; /* in all lanes together; in each at most 1 / n_shards of it */
    uint64_t max_bytes;     /* of arguments and rooms in flight together, in each shard */
    uint64_t max_rate;      /* requests a second, in each shard; 0: no limit */
    uint64_t keymap;        /* how keys go to shards: 1 as docs/protocol.md has it */
    uint64_t generation; /* of the instance's segment: another one knows nothing of this client */
    char instance[64];
};

struct attach_open {
    struct attach_head head;
    uint32_t shard;
    uint32_t spare;
};

struct attach_opened {
    struct attach_head head;
    uint32_t shard;
    uint32_t spare;
};

/* The shard is given up. Nobody takes from the lane's ring any more, completes anything, or writes
 * to the client's memory for it. To use that shard again the client clears the lane's bytes and
 * sends an open, as before the first use: its positions begin at 0. */
struct attach_closed {
    struct attach_head head;
    uint32_t shard;
    int32_t error;  /* -EHOSTDOWN */
    uint64_t taken; /* submissions from this position on were never taken; of the urgent ring any
                       may have been */
};

struct attach_refused {
    struct attach_head head;
    int32_t error; /* -errno: EAGAIN with retry_ms: requests of this user crashed shards; EMFILE,
                      ENOMEM: what is for all clients is used up; EDQUOT: this user's share of it;
                      ESHUTDOWN: draining; EINVAL, EPROTONOSUPPORT: a hello; ENODEV: an open; EPROTO
                      with serial 0: it is cut off */
    uint32_t retry_ms;
    char text[ATTACH_TEXT]; /* for people, with its NUL: what failed, on what, why, what to do */
};
