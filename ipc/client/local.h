/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * local - the data plane as a transport: requests in rings, and what becomes of them
 *
 * Why:         a request costs two cache lines and no system call.
 * Use:         local_open() (transport.h); the rest is for local*.c
 * Concurrency: one thread
 * Not here:    rings (local_lane.h), the data area (area.h), messages of the attach (attachment.h)
 *
 *   local.c       submitting, ends, waiting: what a client does all the time
 *   local_push.c  a request into its ring, or into line, and out of it again
 *   local_life.c  attaching, lanes that are opened, the table of methods, loss
 */
#include "ipc/client/area.h"
#include "ipc/client/attachment.h"
#include "ipc/client/local_lane.h"
#include "ipc/client/slots.h"
#include "ipc/client/transport.h"

enum local_phase {
    LOCAL_APART,   /* not connected */
    LOCAL_HELLO,   /* said hello */
    LOCAL_METHODS, /* attached; asked for the table of methods */
    LOCAL_READY,
};

/* Tags of the waiter's events: a lane is 2 and its shard. */
#define LOCAL_TAG_ATTACH 1u
#define LOCAL_TAG_LANE   2u

struct local {
    struct transport base;
    struct slot_table slots;
    struct local_lane *lanes;
    uint32_t *open; /* the shards whose lanes are open, n_open of them */
    uint32_t n_open;
    uint32_t home;             /* where a request goes that belongs nowhere */
    uint32_t n_homes;          /* that have been tried since the welcome */
    uint32_t phase;            /* enum local_phase */
    size_t n_line;             /* requests in lanes' lines */
    size_t n_cancel_waits;     /* cancellations that wait for room in a ring */
    struct slot_list unplaced; /* requests in line while there is no READY */
    struct slot_list ended;    /* their callbacks are still to run */
    struct slot_list ready;    /* ended, to be fetched */
    struct slot_list handed;   /* fetched, their data still good */
    int64_t line_deadline_ns;  /* no request in line has an earlier one */
    uint32_t n_out;
    uint32_t n_idle;    /* steps without anything, since the fds were looked at */
    bool inside;        /* a step is on the stack */
    bool is_armed;      /* some lane is */
    bool attach_ready;  /* the connection has something to say */
    bool is_distrusted; /* what the other side wrote makes no sense */
    uint32_t n_wanted;  /* lanes to be opened */
    int64_t spin_ns;

    struct area area;
    uint8_t *data;
    size_t data_bytes;
    uint8_t *lanes_base;
    struct plane_layout layout;

    struct attachment attach;
    char *path, *name;
    uint64_t wanted_bytes;
    uint32_t wanted_entries;
    uint32_t client_number;
    int64_t open_ns;   /* not to ask for a lane before */
    uint64_t table_id; /* of the request for the table of methods; 0: none */
    uint8_t *table_room;
    size_t table_bytes;
    int table_error; /* -errno: it was not to be had */
    int64_t wait_ns;
    int64_t give_up_ns; /* when to stop trying to attach; 0: not trying */
    int64_t answer_ns;  /* when to stop waiting for who is there */
    int64_t retry_ns;   /* not to try before */
    bool eager;         /* attach also without a request */
};

static inline struct local *local_of(struct transport *transport)
{
    return (struct local *)transport;
}

/* ---- local_push.c ---- */

/* What the user wants, with its lane; args and room are still the user's. */
struct slot_work local_work_of(
    struct local *local, const struct sherd_request *request, uint32_t handle);

/* A slot in state FREE goes into its ring, or into line with a copy of the arguments; or ends, where
 * there is no such shard or method. 0 or -ENOMEM: nothing has happened. */
int local_enter(struct local *local, uint32_t slot, const struct slot_work *work);

/* What waits in line, as far as there is room. */
void local_drain_lines(struct local *local);
void local_drain_unplaced(struct local *local);

/* Out of whatever line it stands in. */
void local_leave_line(struct local *local, uint32_t slot);

/* Entries since the last flush: their shards are rung for where they sleep. */
void local_flush_lanes(struct local *local);

void local_push_cancel(struct local *local, uint32_t slot);

/* ---- local.c ---- */

extern const struct transport_ops local_ops;

/* An end that no shard told. It is told at the next step. text is constant. */
void local_end_here(
    struct local *local, uint32_t slot, enum sherd_end end, int error, const char *text);

/* Lets go of its memory. */
void local_release(struct local *local, uint32_t slot);

void local_take_completions(struct local *local);

/* ---- local_life.c ---- */

void local_free(struct transport *transport);

/* All that is due in attaching, opening and losing; callbacks may run. */
void local_live(struct local *local);

/* When local_live() has something to do though no fd says so. */
int64_t local_live_next_ns(const struct local *local);

/* The answer to the request for the table of methods. */
void local_take_table(struct local *local, enum sherd_end end, int error, size_t len);

/* That lane is wanted. */
void local_want(struct local *local, uint32_t shard);

/* Not what the protocol allows: nothing more is believed. */
void local_distrust(struct local *local);
