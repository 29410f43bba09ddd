/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * ticket - a request in the client: its copy, where it is on its way, and the tables that hold all
 *
 * Why:         a request outlives the call that submitted it, and is submitted again after a break.
 * Concurrency: one thread
 * Lifetime:    from sherd_client_submit() to its end
 */
#include <stdbool.h>
#include <stdint.h>

#include "ipc/client/client.h"

/*
 *            line ---> sent ---> accepted --> (ended)
 *             ^         | ^                      ^
 *    refused  +---------+ |                      |
 *    for now  |         v  (connection broke)    |
 *             +------ unsure --------------------+ in doubt
 */
enum ticket_state {
    TICKET_LINE,     /* waits here */
    TICKET_SENT,     /* its message has no answer yet */
    TICKET_UNSURE,   /* its message's connection broke */
    TICKET_ACCEPTED, /* the gateway has it */
};

struct ticket {
    uint64_t id;
    uint32_t state; /* enum ticket_state */
    uint32_t shard;
    bool cancel; /* its cancellation is wanted */
    bool urgent;
    bool refuse;         /* does not wait in line */
    bool again;          /* a gateway may have accepted it before */
    bool repeated;       /* it has ended without what was wanted, and was submitted once more */
    int64_t deadline_ns; /* CLOCK_MONOTONIC; INT64_MAX: none */
    int64_t end_by_ns;   /* out of line: when it ends here, whatever anybody says; likewise */
    sherd_done_fn *done;
    void *opaque;
    struct ticket *hash_next;
    struct ticket *prev, *next; /* all, in line first to last, or out of it */
    size_t args_len;
    size_t key_len;
    const char *method; /* these three lie behind the struct */
    const uint8_t *key;
    const uint8_t *args;
    uint8_t *room; /* the user's, for the answer; NULL: none */
    size_t room_len;
    struct sherd_result result; /* once it is out of the table, and kept for who fetches it */
};

struct ticket_list {
    struct ticket *first;
    struct ticket *last;
    size_t n;
};

/* Zero bytes are an empty table. */
struct ticket_table {
    struct ticket **buckets;
    size_t n_buckets;           /* a power of two */
    struct ticket_list line;    /* state TICKET_LINE */
    struct ticket_list out;     /* all other states */
    size_t n_refuse;            /* in line, those that do not wait there */
    struct ticket *last_urgent; /* in line, where all urgent ones stand first; NULL: none does */
    int64_t first_deadline_ns;  /* no ticket in line has an earlier one; INT64_MAX: none has one */
    int64_t out_end_by_ns;      /* no ticket out of line is to end here before; likewise */
};

/* A copy of request, in line as the last of its kind, urgent or not. 0 or -ENOMEM. */
int ticket_new(struct ticket_table *table, uint64_t id, const struct sherd_request *request,
    int64_t deadline_ns, struct ticket **ret_ticket);

struct ticket *ticket_find(const struct ticket_table *table, uint64_t id);

/* Out of line with a new state. */
void ticket_out(struct ticket_table *table, struct ticket *ticket, enum ticket_state state);

/* One that is out of line ends here at that time, or before. */
void ticket_end_by(struct ticket_table *table, struct ticket *ticket, int64_t when_ns);

/* Back to the head of the line, or of those in it that are not urgent. */
void ticket_back(struct ticket_table *table, struct ticket *ticket);

/* Takes it out of the table: it is the caller's to free(). */
void ticket_remove(struct ticket_table *table, struct ticket *ticket);

/* The same, and frees it. */
void ticket_free(struct ticket_table *table, struct ticket *ticket);

/* Frees all. */
void ticket_table_deinit(struct ticket_table *table);
