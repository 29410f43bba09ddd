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
 *   local_late.c  those whose time is over though their shard says nothing
 *   local_loss.c  those of which no shard will say anything any more
 *   local_life.c  attaching, lanes that are opened, the table of methods
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
    uint32_t phase;            /* enum local_phase */
    size_t n_line;             /* requests in lanes' lines */
    struct slot_list unplaced; /* requests in line while there is no READY */
    struct slot_list ended;    /* their callbacks are still to run */
    struct slot_list ready;    /* ended, to be fetched */
    struct slot_list handed;   /* fetched, their data still good */
    int64_t line_deadline_ns;  /* no request in line has an earlier one */
    int64_t out_end_by_ns;     /* no request that is out is to end here before */
    uint32_t n_out;
    uint32_t n_late; /* of these, those that have ended here */
    void **held;     /* buffers of such, to be freed */
    uint32_t n_held, held_capacity;
    uint32_t n_idle;    /* steps without anything, since the fds were looked at */
    bool inside;        /* a step is on the stack */
    bool is_armed;      /* some lane is */
    bool attach_ready;  /* the connection has something to say */
    bool is_distrusted; /* what the other side wrote makes no sense */
    bool is_cut_off;    /* it says so of us */
    uint32_t n_wanted;  /* lanes to be opened */
    int64_t spin_ns;

    struct area area;
    uint8_t *data;
    size_t data_bytes;
    bool shares_data; /* with the instance: else `data` is ours alone */
    uint8_t *lanes_base;
    struct plane_layout layout;
    bool has_urgent; /* lanes have urgent rings */

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

/* A slot in state FREE goes into its ring, or into line with a copy of the arguments; or ends,
 * where there is no such shard or method. 0 or -ENOMEM: nothing has happened. */
int local_enter(struct local *local, uint32_t slot, const struct slot_work *work);

/* One that is out no longer, and has not ended, is submitted once more. */
void local_back_in_line(struct local *local, uint32_t slot);

/* One that stands in no line, into that of the lane where it belongs; or it ends. */
void local_place(struct local *local, uint32_t slot);

/* In line until somebody knows shards and methods. */
void local_await_attach(struct local *local, uint32_t slot);

/* What waits in line, as far as there is room. */
void local_drain_lines(struct local *local);
void local_drain_unplaced(struct local *local);

/* Out of whatever line it stands in. */
void local_leave_line(struct local *local, uint32_t slot);

/* Entries since the last flush: their shards are rung for where they sleep. */
void local_flush_lanes(struct local *local);

/* Of one that is out, once. */
void local_push_cancel(struct local *local, uint32_t slot);

/* ---- local.c ---- */

extern const struct transport_ops local_ops;

/* An end that no shard told. It is told at the next step. text is constant. */
void local_end_here(
    struct local *local, uint32_t slot, enum sherd_end end, int error, const char *text);

/* Likewise of one in line: not started, or, where it was out before, in doubt. */
void local_end_unsent(struct local *local, uint32_t slot, int error, const char *text);

/* Lets go of its memory, as soon as no shard may use it. */
void local_release(struct local *local, uint32_t slot);

/* It is out no longer. False: it had ended before. */
bool local_come_back(struct local *local, uint32_t slot);

/* Of all lanes that are open; of one that was. */
void local_take_completions(struct local *local);
void local_take_last(struct local *local, uint32_t shard);

/* ---- local_late.c ---- */

/* It is about to be out. */
void local_note_deadline(struct local *local, struct slot *slot);

/* Its cancellation was asked for: who does not answer to that has some time for it. */
void local_note_cancel(struct local *local, struct slot *slot);

/* Ends what is past its time, in line and out. */
void local_expire(struct local *local);

/* When it has something to do. */
static inline int64_t local_expire_next_ns(const struct local *local)
{
    return local->line_deadline_ns < local->out_end_by_ns ? local->line_deadline_ns
                                                          : local->out_end_by_ns;
}

/* One that had ended here is out no longer. Returns false. */
bool local_come_back_late(struct local *local, uint32_t slot);

/* Whether a buffer that it names may still be used by one that has ended here. */
bool local_is_held(const struct local *local, const struct slot_work *work);

/* A buffer is freed, or will be when nobody uses it. */
void local_free_buffer(struct local *local, void *buffer);

/* ---- local_loss.c ---- */

/* The connection has ended: what is out ends or goes back into line, what is in line waits for the
 * next attach. */
void local_lose_all(struct local *local);

/* Of each ring of a lane the position from which on nothing was taken. */
struct local_untaken {
    uint64_t normal, urgent;
};

#define LOCAL_ALL_TAKEN UINT64_MAX

/* A lane is over; from `untaken` on no submission has left its rings. What was out ends, or waits
 * in line: here where it belongs here, else at home. */
void local_lose_lane(struct local *local, uint32_t shard, const struct local_untaken *untaken);

/* Nobody may use that shard: what waits for it ends with error, or goes to another home. */
void local_empty_line(struct local *local, uint32_t shard, int error);

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
