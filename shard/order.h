/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * order - what an operator has a running instance do: restart, drain, resume
 *
 * Why:         a tool maps the segment read-only, and the gateway may be dead; who may signal the
 *              supervisor may order it about, and the kernel checks that.
 * Use:         tool: a signal ORDER_SIGNAL with order_word() as its value (pidfd_send_word() in
 *              tools/pidfd.h), then order_find() until it has ended
 *              gateway, for a client: member_ask(), and the same
 *              supervisor: order_parse()
 * Concurrency: pure functions of their arguments, but where it is said.
 * Not here:    carrying it out (shard/operate.c)
 *
 *   word   63      56 55      48 47               24 23              0
 *          [ kind    | target   | limit, ms         | token          ]
 */
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#define ORDER_SIGNAL (SIGRTMIN + 1)

/* X(name, text) */
#define ORDER_KINDS(X)                                                               \
    X(RESTART, "restart") /* one shard, the gateway, or one shard after the other */ \
    X(DRAIN, "drain")     /* take nothing new, finish, stay */                       \
    X(RESUME, "resume")   /* take what is new again */

enum order_kind {
    ORDER_KIND_NONE,
#define X(name, text) ORDER_KIND_##name,
    ORDER_KINDS(X)
#undef X
        N_ORDER_KINDS
};

const char *order_kind_text(uint32_t kind);

/* X(name, text): where an order stands. Those from DONE on are ends. */
#define ORDER_STATES(X)                                                 \
    X(TAKEN, "under way")                                               \
    X(DONE, "done")                                                     \
    X(CUT, "done, but not all that was in flight was finished in time") \
    X(LIMIT, "not all that is in flight was finished in time")          \
    X(FAILED, "what was to be restarted did not come up")               \
    X(BUSY, "another order is being carried out")                       \
    X(LEAVING, "the instance is starting or stopping")                  \
    X(WRONG, "the supervisor does not know such an order")

enum order_state {
    ORDER_STATE_NONE,
#define X(name, text) ORDER_##name,
    ORDER_STATES(X)
#undef X
};

const char *order_state_text(uint32_t state);

#define ORDER_ALL_SHARDS   255u
#define ORDER_LIMIT_MAX_MS ((1u << 24) - 1)
#define ORDER_TOKEN_MASK   ((1u << 24) - 1)

struct order {
    enum order_kind kind;
    uint32_t target;   /* a peer, or ORDER_ALL_SHARDS */
    uint32_t limit_ms; /* 0: the instance's own drain limit */
    uint32_t token;    /* whatever tells it from others */
};

uint64_t order_word(const struct order *order);

struct order_end {
    enum order_state state;
    uint32_t peer;  /* where it is, or ended */
    uint64_t n_cut; /* calls in flight when a limit came */
};

struct segment;

/* What has become of that order. False: the supervisor has not taken it, or long ago. Context: any
 * process. */
bool order_find(const struct segment *seg, uint64_t word, struct order_end *ret_end);

/* False: the supervisor of an instance with n_peers peers can make nothing of it. */
bool order_parse(uint64_t word, uint32_t n_peers, struct order *ret);
