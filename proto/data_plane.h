/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * data_plane - the memory that a local client and the shards share, to the byte
 *
 * Why:         a submission reaches a shard, and its end the client, without a system call; and
 *              neither side has to believe anything that the other writes.
 * Use:         both sides lay it out by plane_layout() from the numbers that the attach agreed on
 *              (proto/attach.h), and never from what stands in the memory itself.
 * Concurrency: each ring has one writer and one reader; each word has one writer. One memfd belongs
 *              to one client: no two clients share a word.
 * Lifetime:    the memfd is sealed (no growing, no shrinking) and has all its pages from the attach
 *              on: reading it raises no SIGBUS.
 * Not here:    handshake and doorbells (proto/attach.h); what a method's arguments mean
 *
 *   +----------------+  0
 *   | lane of shard 0|  struct plane_words, n_entries submissions, n_entries completions,
 *   |  ...           |  PLANE_URGENT_ENTRIES submissions more: the urgent ring
 *   +----------------+  data_off, a multiple of PLANE_PAGE
 *   | data area      |  the client's own: it says in each entry which bytes are arguments, and
 *   |                |  which are room for the answer
 *   +----------------+  total_bytes
 *
 * All numbers are little-endian. An entry is valid when its `turn` is position + 1 (of 32 bits;
 * positions count from 0 and go on for ever; entry position % n_entries holds it): stored last,
 * with release. A client has at most n_entries requests of a lane in flight, counting those whose
 * completion it has not read: so neither ring can overflow, and no side needs the other's head.
 *
 * The urgent ring is for few: of those in it at most PLANE_URGENT_ENTRIES are in flight, and they
 * count among the n_entries. What is in it is taken before what is in the other. It is there where
 * attaching has agreed on ATTACH_URGENT; it lies in what is else the rest of a lane's last page.
 */
#include <stddef.h>
#include <stdint.h>

#define PLANE_PAGE           4096u
#define PLANE_ENTRIES_MIN    8u
#define PLANE_ENTRIES_MAX    4096u /* of a lane; a power of two */
#define PLANE_URGENT_ENTRIES 16u   /* likewise */
#define PLANE_INLINE_ARGS    16u   /* longest arguments within a submission */
#define PLANE_INLINE_ANSWER  32u   /* longest answer within a completion */
#define PLANE_PAYLOAD_MAX    (64u * 1024 * 1024)
#define PLANE_METHOD_TABLE   0xffffu /* sys.methods, by a number that nobody has to be told */

/* Where a submission is to run. */
enum plane_route {
    PLANE_ROUTE_HERE,   /* in the shard whose lane it is */
    PLANE_ROUTE_METHOD, /* as the method's own rule says; HERE where it has none, or where the
                           method may run anywhere and much of the data area is the request's */
    PLANE_ROUTE_KEY,    /* `route` is the hash of a key: in the shard that has its slot */
    PLANE_ROUTE_SHARD,  /* `route` is a shard */
    N_PLANE_ROUTES
};

enum plane_flags {
    PLANE_ARGS_INLINE = 1u << 0, /* arguments stand in `inline_args`; else in the data area */
    PLANE_URGENT = 1u << 1, /* what is in the urgent ring has it; in the other it counts where the
                               request is forwarded to another shard */
    PLANE_CANCEL = 1u << 2, /* no request: asks that request `id` of this ring end early, which was
                               pushed at position `route`; has no end of its own and counts as none
                               in flight, so at most as many of both as it has entries stand in a
                               ring: the client waits where there is no room */
    PLANE_REFUSE = 1u << 3, /* where the shard is behind: end at once with -EAGAIN, do not wait */
    PLANE_FLAGS_ALL = (1u << 4) - 1,
};

/* Written by the client: a line. */
struct plane_submission {
    uint64_t id;        /* the client's choice; comes back in the completion */
    uint16_t method;    /* number, as the table of methods says */
    uint8_t flags;      /* enum plane_flags; others: the client is cut off */
    uint8_t route_kind; /* enum plane_route */
    uint32_t turn;
    uint64_t route;
    uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0: none. A time, not a time left: an entry may wait in
                             the ring for as long as it likes */
    uint32_t args_len;
    uint32_t room_len; /* of the room for an answer; 0: only one that fits a completion */
    uint64_t room_off; /* from the start of the data area */
    union {
        uint64_t args_off; /* likewise */
        uint8_t inline_args[PLANE_INLINE_ARGS];
    };
};
_Static_assert(sizeof(struct plane_submission) == 64, "an entry is a line");

/* Written by the shard: a line. */
struct plane_completion {
    uint64_t id;
    uint32_t len;  /* of the answer, or of the text where end is not done: inline where it is at
                       most PLANE_INLINE_ANSWER, else at room_off of its submission. An answer
                       longer than the room is FAILED with -ENOBUFS; a text is cut to what fits. */
    int32_t error; /* 0 or -errno */
    uint8_t end;   /* enum sherd_end */
    uint8_t spare[3];
    uint32_t shard;    /* who ran it; UINT32_MAX: nobody */
    uint32_t retry_us; /* with -EAGAIN: when it may be worth while; 0: unknown */
    uint8_t inline_answer[PLANE_INLINE_ANSWER];
    uint32_t turn;
};
_Static_assert(sizeof(struct plane_completion) == 64, "an entry is a line");

/* A line a writer. */
struct plane_words {
    /* Written by the shard: the client rings after a push while it is not 0. Never read back. */
    uint32_t need_wakeup;
    uint32_t server_spare0;
    /* Written by a shard that leaves in order: 1 + the position of the first submission that it has
     * not taken and will not take; 0 again by its replacement. The urgent ring's stands before the
     * other's is stored. */
    uint64_t closed;
    uint64_t urgent_closed;
    uint32_t server_spare[10];
    /* Written by the client: 0 while it looks at its ring. Else, as it is about to sleep, a number
     * other than the one of the sleep before: after a completion the shard rings, at least once for
     * each such number. A hint. */
    uint32_t client_sleeps;
    uint32_t client_spare[15];
};
_Static_assert(sizeof(struct plane_words) == 128, "two lines");

struct plane_layout {
    uint32_t n_shards;
    uint32_t n_entries;
    uint64_t lane_bytes; /* whole pages */
    uint64_t data_off;
    uint64_t data_bytes;
    uint64_t total_bytes;
};

/* n_entries is a power of two within the limits above, data_bytes a multiple of PLANE_PAGE. */
static inline struct plane_layout plane_layout(
    uint32_t n_shards, uint32_t n_entries, uint64_t data_bytes)
{
    struct plane_layout l = {
        .n_shards = n_shards, .n_entries = n_entries, .data_bytes = data_bytes};
    uint64_t lane =
        sizeof(struct plane_words) +
        (uint64_t)n_entries * (sizeof(struct plane_submission) + sizeof(struct plane_completion)) +
        PLANE_URGENT_ENTRIES * sizeof(struct plane_submission);

    l.lane_bytes = (lane + PLANE_PAGE - 1) / PLANE_PAGE * PLANE_PAGE;
    l.data_off = l.lane_bytes * n_shards;
    l.total_bytes = l.data_off + data_bytes;
    return l;
}

static inline struct plane_words *plane_words_of(
    const struct plane_layout *l, void *base, uint32_t shard)
{
    return (struct plane_words *)((uint8_t *)base + l->lane_bytes * shard);
}

static inline struct plane_submission *plane_submission_at(
    const struct plane_layout *l, void *base, uint32_t shard, uint64_t position)
{
    struct plane_submission *ring = (struct plane_submission *)(plane_words_of(l, base, shard) + 1);

    return &ring[position & (l->n_entries - 1)];
}

static inline struct plane_submission *plane_urgent_at(
    const struct plane_layout *l, void *base, uint32_t shard, uint64_t position)
{
    struct plane_submission *past = plane_submission_at(l, base, shard, 0) + 2 * l->n_entries;

    return &past[position % PLANE_URGENT_ENTRIES];
}

static inline struct plane_completion *plane_completion_at(
    const struct plane_layout *l, void *base, uint32_t shard, uint64_t position)
{
    struct plane_submission *past = plane_submission_at(l, base, shard, 0) + l->n_entries;

    return &((struct plane_completion *)past)[position & (l->n_entries - 1)];
}
