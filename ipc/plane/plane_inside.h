/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * plane_inside - what the files of the data plane's server share: plane.c (turns), lane.c (one
 * client), intake.c (out of the ring), ledger.c (what is under way, and its end), run.c (methods),
 * heir.c (what a dead shard left), park.c (what becomes of one that it crashed over),
 * charge.c (what crashes mean for clients). Nobody else includes it.
 *
 * Concurrency: owner loop, all of it. What clients write is read once, by intake.c.
 * Lifetime:    a lane's: from the client's first use of the shard to its end; a request's: from its
 *              slot in the ledger to its completion
 */
#include "ipc/plane/plane.h"
#include "proto/data_plane.h"
#include "runtime/co_cancel.h"
#include "runtime/instruments_inside.h"
#include "runtime/source.h"
#include "shard/serve_local.h"

#define NO_REQUEST  UINT32_MAX
#define BUDGET      32u                        /* entries of a lane at a time */
#define WRITE_BATCH 8u                         /* completions of a lane, likewise */
#define COPIES_MAX  ((size_t)16 * 1024 * 1024) /* bytes of arguments, of all clients of a shard */

struct lane;

/* The private side of a ledger slot; same index. */
struct request {
    struct lane *lane;         /* NULL: free, or its client is gone */
    struct service_call *call; /* while its method runs */
    CoCancel *forward;         /* while another shard serves it */
    uint32_t next, prev;       /* of its lane, or of the free ones */
    bool is_inherited;         /* a dead incarnation's, not judged yet */
    uint64_t bytes;            /* that it counts for in the client's quota */
};

/* Why nothing is taken from a ring for now. */
enum lane_wait {
    WAIT_NONE,
    WAIT_OWN,  /* for an end of its own: its quotas are used up */
    WAIT_SLOT, /* for any end: the ledger is full, or there are too many copies of arguments */
    WAIT_RATE, /* for time */
    WAIT_USER, /* for the end of its user's wait: requests of that have crashed shards */
    WAIT_END,  /* for what is under way to end: then it is cut off */
};

/* The ring of entries of a lane, or its urgent one. */
struct intake {
    const struct plane_submission *entries;
    uint64_t *row_head;
    uint64_t head;        /* that of the row */
    uint64_t looked;      /* where cancels are looked for next, while it waits */
    uint64_t *cancelled;  /* a bit an entry: a cancel of it was found ahead */
    uint64_t ns_an_entry; /* how long one has taken lately, while some waited */
    int64_t
        left_ns; /* when it was last left with entries in it; 0: it was empty, or not looked at */
    uint32_t n_entries;
    uint32_t n_cancelled; /* of these bits are set */
    uint8_t wait;         /* enum lane_wait */
};

/* A client that has opened this shard. */
struct lane {
    /* ---- what each look and each request touches ---- */
    struct intake intakes[N_LANES];
    struct plane_completion *completions;
    struct plane_words *words;
    struct client_lane *row;
    uint64_t tail; /* that of the row */
    uint32_t n_entries;
    uint32_t n_in_flight;
    uint32_t n_taken; /* entries in this turn, of either ring */
    uint8_t state;    /* enum client_lane_state */
    bool is_hot;
    bool is_dirty; /* has completions that it has not been rung for */
    uint32_t n_quiet;
    uint32_t n_unwritten;
    uint32_t unwritten[WRITE_BATCH]; /* requests whose completions are noted, in order */
    uint32_t first;                  /* of its requests, the newest */
    uint64_t bytes_in_flight;
    uint64_t copied_bytes; /* of arguments, as the plane's */
    uint32_t n_parked;     /* requests that are being kept as dead letters */
    uint64_t blame_seen;   /* as of when the next is known */
    int64_t barred_ns;     /* nothing of its user's is begun before; 0: nothing keeps it */

    /* ---- the rest ---- */
    struct plane *plane;
    struct plane_grant grant;
    struct plane_layout layout;
    uint8_t *base;
    uint8_t *data;
    int bell_fd;              /* -1: none any more */
    struct lane *next, *prev; /* hot ones, in a circle */
    struct lane *next_dirty;
    double tokens;     /* requests that its rate allows now */
    int64_t tokens_ns; /* when they were counted; at first 0, so there is a whole burst */
    int64_t spent_ns;  /* of this turn */
    AioTimer wait_timer;
    uint64_t cancelled[]; /* of its intakes, one after the other */
};

struct plane {
    struct mesh *mesh;
    AioContext *ctx;
    struct segment seg;
    const struct registry *registry;
    const int *bell_fds;
    struct log *log;
    struct part_head *part;
    struct client_lane *rows;
    struct ledger_slot *ledger;
    struct request *requests;
    const struct peer_control *control; /* this shard's */
    uint32_t shard;
    uint32_t incarnation;
    uint32_t table_method; /* what PLANE_METHOD_TABLE stands for */
    uint32_t n_ledger;
    uint32_t first_free; /* of the ledger */
    uint32_t n_free;
    uint32_t n_under_way;
    uint32_t n_slot_waits; /* rings that wait for a slot */
    uint32_t n_inherited;  /* requests that wait for a dead one's I/O */
    uint32_t n_hot;
    bool is_draining; /* what comes is refused */
    bool is_closed;   /* nothing is taken any more */
    bool unblocked;   /* a ring has stopped waiting */
    uint64_t n_accepted, n_ended;
    uint64_t copied_bytes; /* of arguments of what is under way */
    uint64_t blame_seen;   /* crashes that were charged to somebody, as of the last look */
    struct lane *hot;      /* the next to look at; NULL: none */
    struct lane *dirty;    /* those to ring */
    struct lane **lanes;   /* by client */
    AioTimer heir_timer;   /* when a request that was inherited may be begun */
    struct aio_source source;
};

static inline uint64_t ledger_word(uint64_t generation, enum ledger_state state)
{
    return generation << 8 | state;
}

static inline uint64_t ledger_generation(uint64_t word)
{
    return word >> 8;
}

static inline enum ledger_state ledger_state(uint64_t word)
{
    return (enum ledger_state)(word & 0xff);
}

static inline struct ledger_slot *slot_of(const struct plane *plane, const struct request *request)
{
    return &plane->ledger[request - plane->requests];
}

static inline const struct plane_submission *entry_of(const struct ledger_slot *slot)
{
    return (const struct plane_submission *)slot->entry;
}

/* Of the data area, that the request has while it is under way. */
static inline uint64_t entry_bytes(const struct plane_submission *entry)
{
    return (entry->flags & PLANE_ARGS_INLINE ? 0 : (uint64_t)entry->args_len) + entry->room_len;
}

/* CLOCK_MONOTONIC; INT64_MAX: none. */
static inline int64_t deadline_of(const struct plane_submission *entry)
{
    return entry->deadline_ns && entry->deadline_ns < INT64_MAX ? (int64_t)entry->deadline_ns
                                                                : INT64_MAX;
}

static inline struct plane_completion *completion_of(struct ledger_slot *slot)
{
    return (struct plane_completion *)slot->completion;
}

static inline const struct plane_submission *intake_at(const struct intake *in, uint64_t position)
{
    return &in->entries[position & (in->n_entries - 1)];
}

/* What stands in the turn of the next entry until it is valid: that of the lap before. */
static inline uint32_t stale_turn(const struct intake *in)
{
    return in->head < in->n_entries ? 0 : (uint32_t)(in->head + 1 - in->n_entries);
}

/* What its requests, and all calls within them, have for an origin. */
static inline uint64_t lane_origin(const struct lane *lane)
{
    return origin_of_client(lane->plane->shard, lane->grant.client, lane->grant.generation);
}

/* The next entry has come, or something that is none. */
static inline bool intake_has_entry(const struct intake *in)
{
    return atomic_load_acquire(&intake_at(in, in->head)->turn) != stale_turn(in); /* ENTRY */
}

/* Behind the entry that waits has come one that was not looked at. */
static inline bool intake_has_ahead(const struct intake *in)
{
    uint64_t position = in->looked > in->head ? in->looked : in->head + 1;

    return position < in->head + in->n_entries &&
           atomic_load_acquire(&intake_at(in, position)->turn) == /* ENTRY */
               (uint32_t)(position + 1);
}

static inline bool intake_is_due(const struct intake *in)
{
    return in->wait ? intake_has_ahead(in) : intake_has_entry(in);
}

static inline bool lane_is_due(const struct lane *lane)
{
    return intake_is_due(&lane->intakes[LANE_NORMAL]) || intake_is_due(&lane->intakes[LANE_URGENT]);
}

static inline bool lane_waits(const struct lane *lane)
{
    return lane->intakes[LANE_NORMAL].wait || lane->intakes[LANE_URGENT].wait;
}

/* It is cut off when what is under way has ended. */
static inline bool lane_is_ending(const struct lane *lane)
{
    return lane->intakes[LANE_NORMAL].wait == WAIT_END;
}

/* The lane of a request's ring. */
static inline enum mesh_lane intake_of(const struct ledger_slot *slot)
{
    return slot->flags & LEDGER_URGENT ? LANE_URGENT : LANE_NORMAL;
}

/* ---- lane.c ---- */

struct lane *lane_find(const struct plane *plane, uint32_t client, uint64_t generation);

/* Says in the row of a client without a lane that nothing is left of that generation. */
void lane_let_go(struct plane *plane, uint32_t client, uint64_t generation);

/* It is looked at in each turn. */
void lane_heat(struct lane *lane);

/* It is not, any more; before that the client has been told to ring. */
void lane_cool(struct lane *lane);

/* Cut off, with a line in the log: its client is to end. */
void lane_cut(struct lane *lane, enum cut_reason reason);

/* Has the gateway look at clients that end: of one of them nothing is left here. */
void lane_ring_gateway(const struct plane *plane);

/* One that is over and of which nothing is under way is freed. Whether it was. */
bool lane_settle(struct lane *lane);

void lane_free(struct lane *lane);

/* Tells the client that this process takes no further entries. */
void lane_say_closed(struct lane *lane);

/* It is rung at the end of this phase of the loop. */
void lane_mark_dirty(struct lane *lane);

/* Sends the byte that wakes the client, if it sleeps. */
void lane_ring(struct lane *lane);

/* ---- intake.c ---- */

/* Takes what the lane's share of this turn allows; looks for cancels where the ring waits. Whether
 * it found anything. */
bool intake_visit(struct lane *lane, enum mesh_lane which);

/* The next visit is one of another turn. */
static inline void intake_end_turn(struct lane *lane)
{
    lane->n_taken = 0;
    lane->spent_ns = 0;
}

/* Its head is past the entry that it is at. */
void intake_pass(struct intake *in);

/* Both rings wait for that, whatever they waited for. */
void intake_halt(struct lane *lane, enum lane_wait wait);

/* A ring that waits for that waits no longer. */
void intake_go_on(struct lane *lane, enum lane_wait wait);

/* ---- ledger.c ---- */

void ledger_init(struct plane *plane);

/* The slot that the next request will have: to be written to, and free until ledger_commit(). */
struct ledger_slot *ledger_next(struct plane *plane);

/* One that a dead incarnation left becomes the lane's; or, where it has none, its slot free. */
void ledger_adopt(struct lane *lane, struct request *request);
void ledger_void(struct plane *plane, struct request *request);

/* The entry in ledger_next(), from that ring of the lane, is taken: whatever happens, it ends
 * once. */
struct request *ledger_commit(struct lane *lane, enum mesh_lane which, uint64_t bytes);

/* It is begun by this incarnation. */
void ledger_start(struct plane *plane, struct request *request);

/* How a request ended; the answer stands in its completion or in its client's memory. */
struct outcome {
    enum call_end end;
    int error; /* 0 or -errno */
    uint32_t len;
    uint32_t shard;
    uint32_t retry_us;
};

/* Ends it: noted, written to its client, and its slot free again. */
void ledger_end(struct plane *plane, struct request *request, const struct outcome *outcome);

/* The same for one whose end is noted already. */
void ledger_publish(struct plane *plane, struct request *request);

/* Writes what is noted to the client's memory. */
void ledger_write(struct lane *lane);

/* The same for one that nobody ran, with a text for people. */
void ledger_refuse(struct plane *plane, struct request *request, enum call_end end, int error,
    const char *text, uint32_t retry_us);

/* The same where it, or one before it, would wait so long. */
void ledger_refuse_behind(struct plane *plane, struct request *request, int64_t delay_ns);

/* Refuses it as one that comes in a drain. It counts as never accepted: else a client that goes on
 * asking would keep the instance from ever being quiet. */
void ledger_turn_away(struct plane *plane, struct request *request);

/* Writes a text to where the client finds it; returns how much of it. */
uint32_t ledger_put_text(struct plane *plane, struct request *request, const char *text);

/* Room for the answer in the client's memory; NULL: there is none of that size. */
uint8_t *ledger_room(struct plane *plane, struct request *request, size_t len);

/* Asks that it ends early. */
void ledger_cancel(struct plane *plane, struct request *request);

/* ---- run.c ---- */

/* Begins it in a coroutine of its own. */
void run_begin(struct plane *plane, struct request *request);

/* Bytes of arguments that may be copied for as long as it is under way; 0: none of any size. */
uint32_t run_copies(const struct plane *plane, const struct plane_submission *entry);

/* ---- heir.c ---- */

/* Takes over what a dead incarnation left in the ledger. */
void heir_take_over(struct plane *plane);

/* Ends or begins those whose I/O, or their user's wait, is over. Whether there were any. */
bool heir_look(struct plane *plane);

/* plane->heir_timer's. */
void heir_on_timer(void *opaque);

/* ---- park.c ---- */

/* Counts a crash of the dead incarnation for a request that it had begun and that may be run again,
 * if that was on the CPU. */
void park_note(struct plane *plane, struct request *request);

/* Whether it has been so too often. */
bool park_is_due(const struct plane *plane, const struct request *request);

/* Has it kept as a dead letter; then it ends. */
void park_begin(struct plane *plane, struct request *request);

/* ---- charge.c ---- */

/* Whether anybody was charged with a crash since the last look: then who has had too many of them
 * is about to be cut off. */
bool charge_look(struct plane *plane);

/* Whether nothing of its user's is to be begun now: until lane->barred_ns. */
bool charge_bars(struct lane *lane);

/* One that is to be cut off has had its time. */
void charge_on_time(struct lane *lane);
