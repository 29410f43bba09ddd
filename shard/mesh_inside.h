/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * mesh_inside - what the files of the mesh share: mesh.c (rings, bitmap, bells), caller.c (calls to
 * others), serve.c (calls from others), judge.c (after a death). Nobody else includes it.
 *
 * Concurrency: owner loop, all of it.
 */
#include "runtime/source.h"
#include "shard/flight.h"
#include "shard/call_list.h"
#include "shard/code_ranges.h"
#include "shard/heap.h"
#include "shard/hot.h"
#include "shard/mesh.h"
#include "shard/pace.h"

struct call_request;

enum mesh_call_where {
    CALL_NOWHERE,
    CALL_IN_LINE,  /* waits for a slot */
    CALL_FOR_HEAP, /* has a slot, waits for a shared buffer */
    CALL_FILLING,  /* has both: its arguments are being filled in place */
    CALL_OUT,      /* published */
    CALL_OVER,     /* ended; done() is to come from the bottom half */
};

/* The private side of a call slot. */
struct out_slot {
    struct mesh_call *call;   /* NULL: free, or nobody waits any more */
    struct call_class *class; /* constant */
    struct args_buffer args;  /* that it names; the call's where that has a room */
    uint32_t next_free;       /* index + 1; 0: the last */
    enum call_end end;        /* of one whose answer is being read */
    bool told;                /* a predecessor has sent word that it is abandoned */
};

/* Calls of one lane and depth: the slots for them, and who waits for one. */
struct call_class {
    uint32_t free_slots; /* index + 1; 0: none */
    struct call_list line;
};

/* What this end keeps about another peer. */
struct link {
    struct ring_tx tx[N_LANES];
    struct ring_rx rx[N_LANES];
    struct pair_stats *stats;
    struct call_slot *calls;            /* ours to it */
    const struct serve_slot *served;    /* what it notes about those */
    const struct call_slot *peer_calls; /* its to us */
    uint64_t *withdrawals;              /* of ours */
    const uint64_t *peer_withdrawals;   /* of its */
    struct serve_slot *serves;          /* what we note about those */
    struct commons_bell *bell;
    const struct part_hot *hot; /* whose rings it looks into by itself */
    struct out_slot *out;
    struct service_call **in; /* by slot: the call that is served for it, or NULL */
    uint32_t n_out;
    uint32_t n_in;
    uint32_t known_incarnation; /* deaths before it are judged */
    bool failed;                /* given up for good, and judged */
    bool met;                   /* its rings were empty once */
    bool dirty;                 /* pushed to since the last flush */
    bool is_slow;               /* its messages are taken one by one, by the clock */
    struct call_class classes[N_LANES][SEGMENT_SLOT_CLASSES];
};

/* Of whose end a service is told (client_end.h). */
struct watched {
    uint64_t who; /* culprit_of() its origin */
    uint32_t service;
};

struct mesh {
    struct segment seg;
    uint32_t self;
    uint32_t incarnation;
    AioContext *ctx;
    const int *bell_fds;
    const struct registry *registry;
    void *const *states;
    struct service_home *homes; /* by service; NULL: none */
    struct watched *watched;
    uint32_t n_watched, watched_room;
    uint64_t over_seen; /* part_head.clients_over at the last look */
    struct part_head *part;
    struct aio_instruments instruments;
    struct aio_source source;
    struct heap heap;
    struct flights flights;
    struct call_answer *reading; /* answers that coroutines read in place */
    struct code_ranges code;     /* where what others ask to be run may lie */
    BH *over_bh;
    struct call_list over;
    uint64_t n_under_way;
    uint64_t n_served;
    struct pace pace;
    struct portable_end *portables; /* NULL in the gateway */
    bool stays;                     /* portable coroutines are not handed over to idle shards */
    struct private_scan *scan;      /* NULL: what leaves is not looked at */
    uint64_t n_held;                /* answers held in place */
    bool orphaned;
    struct lock_end *locks;                 /* shards only */
    struct commons_bell *bell;              /* our own */
    struct hot hot;                         /* those that need not tell us */
    uint64_t to_look[SEGMENT_BITMAP_WORDS]; /* peers whose rings may hold more than was taken */
    const char *letters_dir;
    mesh_adopt_fn *adopt; /* NULL: nobody */
    void *adopt_opaque;
    uint32_t n_dirty;
    uint32_t *dirty; /* peers pushed to since the last flush */
    struct link links[];
};

static inline uint64_t call_word(uint64_t generation, enum call_state state)
{
    return (generation & CALL_GENERATION_MASK) << 8 | state;
}

static inline uint64_t word_generation(uint64_t word)
{
    return word >> 8 & CALL_GENERATION_MASK;
}

static inline enum call_state word_state(uint64_t word)
{
    return (enum call_state)(word & 0xff);
}

static inline uint64_t started_word(uint64_t generation, uint32_t incarnation)
{
    return generation << 24 | (incarnation & CALL_INCARNATION_MASK);
}

static inline uint64_t started_generation(uint64_t started)
{
    return started >> 24;
}

/* Whether `started` was written by incarnation `at_least` or a later one. Incarnations wrap at 24
 * bits. */
static inline bool started_since(uint64_t started, uint32_t at_least)
{
    uint32_t age = ((uint32_t)started - at_least) & CALL_INCARNATION_MASK;

    return age < (CALL_INCARNATION_MASK + 1) / 2;
}

/* Whether a is b or was given to the same slot after it; of 40 bits, so that they wrap. */
static inline bool generation_reaches(uint64_t a, uint64_t b)
{
    return ((a - b) & CALL_GENERATION_MASK) <= CALL_GENERATION_MASK / 2;
}

/* The path of a call made by shard `self` within a call of `depth` that came by `path`. */
static inline uint32_t path_within(uint32_t path, uint32_t depth, uint32_t self)
{
    return depth < SEGMENT_MAX_DEPTH ? path | (self + 1) << 8 * depth : path;
}

static inline bool path_has(uint32_t path, uint32_t shard)
{
    for (; path; path >>= 8)
        if ((path & 0xff) == shard + 1)
            return true;
    return false;
}

/* ---- mesh.c ---- */

/* Publishes a message in its slot's lane; the bell is rung at the next flush. False where the
 * peer's head makes no sense, and its ring looks full. */
bool mesh_push(struct mesh *mesh, uint32_t peer, const struct message *message);

/* Counts bytes of a call or answer that is not small. */
static inline void mesh_count_payload(struct mesh *mesh, bool copied, uint64_t bytes)
{
    counter_add(
        copied ? &mesh->part->payload_copied_bytes : &mesh->part->payload_in_place_bytes, bytes);
}

/* Takes all that peer has sent up to now. */
void mesh_drain(struct mesh *mesh, uint32_t peer);

/* The method of a number: a service's, or the mesh's own. NULL as in registry_method(). */
const struct service_method *mesh_method(
    const struct mesh *mesh, uint32_t method, uint32_t *ret_service);

/* ---- caller.c ---- */

int caller_init(struct mesh *mesh, uint32_t peer);
void caller_deinit(struct mesh *mesh, uint32_t peer);

/* caller_heir.c: takes over the predecessor's slots for one peer: what it waited for is adopted or
 * abandoned, what it never published is over. */
void caller_recover(struct mesh *mesh, uint32_t peer);

/* Once its rings are empty, so that there is room for its answers: tells it what is abandoned. */
void caller_tell_what_is_abandoned(struct mesh *mesh, uint32_t peer);

static inline struct call_slot *caller_slot(const struct mesh *mesh, uint32_t peer, uint32_t slot)
{
    return &mesh->links[peer].calls[slot];
}

/* A slot that nothing is under way in may be taken. */
void caller_put_free(struct mesh *mesh, uint32_t peer, uint32_t slot);

/* Frees a slot whose answer lay in the callee's heap, and gives that buffer back. */
void caller_free_read_slot(struct mesh *mesh, uint32_t peer, uint32_t slot, enum call_end end);

/* Nobody waits for the call in the slot any more; and the callee is told, so that a method that
 * runs for long need not go on for nobody. */
void caller_abandon(struct mesh *mesh, uint32_t peer, uint32_t slot);

/* why: -ECANCELED, or -EOWNERDEAD where an heir says so, which has read all answers before. */
void caller_push_abandoned(struct mesh *mesh, uint32_t peer, uint32_t slot, int32_t why);

/* A call's timer. */
void caller_on_deadline(void *opaque);

/* Tells who asked for it how a published call ends, before its slot is let go. */
void caller_note_end(struct mesh_call *call, const struct mesh_answer *answer);

/* The message at the head of rx, a ring from peer, which this advances. */
void caller_on_answer(
    struct mesh *mesh, uint32_t peer, struct ring_rx *rx, const struct message *message);

/* Each time after a call to peer is taken back whose message may not have been seen: until it knows
 * of it, the callee looks at no slot. */
void caller_note_withdrawal(struct mesh *mesh, uint32_t peer);

/* Makes slot free again, counted as `end` (CALL_END_NONE: nobody was told an end). */
void caller_free_slot(struct mesh *mesh, uint32_t peer, uint32_t slot, enum call_end end);

/* No deadline of it comes any more. */
void caller_stop_timer(struct mesh_call *call);

/* Tells the caller of a published call how it ended. */
void caller_finish(struct mesh *mesh, struct mesh_call *call, const struct mesh_answer *answer);

/* Puts a published call whose slot was freed back to the front of its line. */
void caller_run_again(struct mesh *mesh, struct mesh_call *call);

/* Ends what waits in line for peer. */
void caller_end_line(struct mesh *mesh, uint32_t peer, enum call_end end, int status);

/* Starts who waits in line for peer, as far as there are slots. */
void caller_pump(struct mesh *mesh, uint32_t peer);

/* Calls to peer fail, unless they were begun: it is given up for good, or the supervisor is
 * gone. */
bool caller_is_given_up(const struct mesh *mesh, uint32_t peer);

/* Sends a call that has a slot, or waits for a buffer for its arguments first. */
void caller_with_slot(struct mesh *mesh, struct mesh_call *call);

/* Gives back a slot that nothing was sent by, to whom it serves next. */
void caller_leave_slot(struct mesh *mesh, const struct mesh_call *call);

/* Ends a call that is in nobody's list, from the bottom half. */
void caller_end_later(struct mesh *mesh, struct mesh_call *call, enum call_end end, int status);

/* ---- caller_args.c ---- */

void caller_on_args_taken(struct mesh *mesh, uint32_t peer, const struct message *message);

/* Whether the method that the slot asks for leaves arguments that are not small where they lie. */
bool caller_args_in_place(const struct mesh *mesh, uint32_t peer, uint32_t slot);

/* The slot names no buffer any more; its own, if it has one, is given back. */
void caller_give_back_args(struct mesh *mesh, uint32_t peer, uint32_t slot);

/* The slot's call was started by an incarnation of peer that has died since. Where its arguments
 * lay in our heap for the method to read, and so maybe for a disk, they will be out of use, once
 * they are given back, until that one is quiet. */
void caller_leave_args(struct mesh *mesh, uint32_t peer, uint32_t slot);

/* The call, which is out, ends without an answer: its room, if it has one, is the slot's where the
 * callee may read it still, else it is given back. */
void caller_inherit_room(struct mesh *mesh, struct mesh_call *call);

/* Gives back the room of a call that nobody reads any more, if it has one. */
void caller_drop_room(struct mesh *mesh, struct mesh_call *call);

/* ---- serve.c, serve_answer.c ---- */

int serve_init(struct mesh *mesh, uint32_t peer);
void serve_deinit(struct mesh *mesh, uint32_t peer);

/* Marks in the heap the answers that peer has not yet taken from the predecessor. */
void serve_recover(struct mesh *mesh, uint32_t peer);

#define SERVE_BATCH 16 /* calls that are begun together */

/* The n messages at the head of rx, a ring from peer, all of them calls. Returns how many it took,
 * one at least: by so many it has advanced rx. */
uint32_t serve_on_calls(struct mesh *mesh, uint32_t peer, struct ring_rx *rx,
    const struct message *messages, uint32_t n);

/* Peer's rings are empty: serves what it has asked for by a message that was lost, because a
 * predecessor's head or started words were damaged. */
void serve_what_was_lost(struct mesh *mesh, uint32_t peer);

/* Sends answer, which its kind becomes. */
void serve_push_answer(struct mesh *mesh, uint32_t peer, const struct message *answer);

/* Sends what the method of a call from another peer has replied, or why it failed. */
void coroutine_fn serve_answer(struct service_call *call, int status);

/* Gives back the buffer of the answer that the slot's former call had. */
void serve_release_answer(struct mesh *mesh, struct serve_slot *serve);

void serve_on_answer_taken(struct mesh *mesh, uint32_t peer, const struct message *message);
void serve_on_abandoned(struct mesh *mesh, uint32_t peer, const struct message *message);

/* Gives back the answers' buffers whose calls peer has freed since. */
void serve_reclaim(struct mesh *mesh, uint32_t peer);

/* ---- judge.c ---- */

/* After peer's rings were drained to their ends: what its deaths up to `incarnation` mean for this
 * end. */
void judge_peer(struct mesh *mesh, uint32_t peer, uint32_t incarnation, bool failed);
