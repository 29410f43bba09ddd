/* SPDX-License-Identifier: MIT */
/*
 * A call's generation is written to the serve slot as started; then, after a full fence, the
 * caller's slot is looked at once more. Either the caller, which abandons a slot and only then
 * looks at the started word, sees that it runs, or we see that it was taken back and answer
 * `cancelled` without a step of the method run. The message is freed after the started word is
 * written: what this shard's death finds not started is in the ring still, what is started is the
 * caller's to judge (judge.c).
 *
 * A call's message says what stands in the caller's slot, and how many calls the caller had taken
 * back when it sent that. As long as it has taken back no other, the slot is as it was, and need
 * not be looked at: neither at first nor once more.
 *
 * Calls that wait one behind the other are marked together, with one fence for all of them: it
 * waits until the answers pushed before it have left this core. Only idempotent ones are: should
 * this shard die, they run again, while one that must not would be in doubt without having begun.
 *
 * Orderings    first                 then                   ordered by               if broken
 *   START    started word          look at caller's slot  full fence, both sides   a call both runs and is
 *                                                                                  given back
 *   TAKEN    slot given up         withdrawals            caller's release, acquire  a call is run that was
 *                                                                                 taken back long
 *                                                                                 ago
 *   SLOT     slot's fields, args   word = waiting         word release, acquire    half a call is run
 */
#include "shard/serve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/bug.h"
#include "runtime/context.h"
#include "shard/builtin.h"
#include "shard/call.h"
#include "shard/lock_inside.h"
#include "shard/mesh_inside.h"
#include "shard/portable_inside.h"
#include "shard/shard_alloc.h"

/* ---- running ---- */

static uint64_t whose(const struct service_call *call)
{
    return (uint64_t)call->from << 32 | call->slot;
}

int coroutine_fn serve_call_run(struct service_call *call)
{
    struct mesh *mesh = call->mesh;
    int status;

    counter_add(&mesh->links[call->from].stats->calls_started, 1);
    recorder_note_at(&mesh->instruments, context_note_ns(mesh->ctx), RECORDER_CALL_START,
        call->method_number, whose(call));
    status = call->method->run(call);
    call_room_free(&call->calling);
    if (call->nests)
        co_cancel_deinit(&call->unwanted);
    mesh = call->mesh; /* it may have moved */
    if (__builtin_expect(mesh->part->served_ns == 0, 0))
        counter_set(&mesh->part->served_ns, (uint64_t)aio_clock_ns());
    recorder_note_at(&mesh->instruments, context_note_ns(mesh->ctx), RECORDER_CALL_END,
        (uint64_t)(int64_t)status, whose(call));
    return status;
}

static void *state_of(const struct mesh *mesh, uint32_t method, uint32_t service)
{
    return mesh->states && !builtin_is(method) ? mesh->states[service] : NULL;
}

void serve_call_init(struct service_call *call, struct mesh *mesh, uint32_t method,
    const struct service_method *callee, uint32_t service)
{
    *call = (struct service_call){.mesh = mesh,
        .home = mesh->self,
        .method = callee,
        .method_number = method,
        .service = service,
        .state = state_of(mesh, method, service)};
}

/* ---- a call from another peer ---- */

/* Private copy of what the caller wrote. */
struct incoming {
    struct mesh *mesh;
    uint32_t peer;
    uint32_t slot;
    uint64_t generation;
    uint64_t args_off;
    uint32_t args_len;
    uint32_t method;
    uint32_t depth;
    uint32_t path;
    uint32_t withdrawals; /* the caller's, when it sent this */
    int64_t deadline_ns;
    arena_co co;         /* that serves it; 0: a local coroutine */
    const uint8_t *args; /* in the segment */
    void *args_copy;     /* of those that are not small; the serving coroutine's to free */
    const struct service_method *callee; /* NULL: there is no such method */
    uint32_t service;                    /* whose it is */
    enum call_end end; /* CALL_END_NONE: it is to be run; else how it ended at once */
    int status;
};

static void push_args_taken(struct mesh *mesh, uint32_t peer, uint32_t slot, uint64_t generation)
{
    mesh_push(mesh, peer,
        &(struct message){.kind = MESSAGE_ARGS_TAKEN, .slot = slot, .generation = generation});
}

static bool stays_in_place(const struct incoming *in)
{
    return in->args_off && in->callee->flags & SERVICE_IN_PLACE;
}

static void answer_at_once(
    struct mesh *mesh, const struct incoming *in, enum call_end end, int status)
{
    serve_push_answer(mesh, in->peer,
        &(struct message){
            .slot = in->slot, .generation = in->generation, .status = status, .end = end});
}

/* Those that are not small come along with a portable coroutine in its own memory; where there is
 * none left they are this shard's, and hold it here. False: there is no memory. */
static bool coroutine_fn take_args_along(struct service_call *call, const struct incoming *in)
{
    void *copy = shard_alloc(in->args_len);

    if (!copy) {
        copy = call->args_copy = malloc(in->args_len);
        if (!copy)
            return false;
        co_pin("its arguments lie in memory of this shard");
    }
    call->args = memcpy(copy, in->args, in->args_len);
    mesh_count_payload(in->mesh, true, in->args_len);
    push_args_taken(in->mesh, in->peer, in->slot, in->generation);
    return true;
}

/* Where it is in call, private to it. small: room that lasts as long. False: there is no memory. */
static bool coroutine_fn keep_args(
    struct service_call *call, const struct incoming *in, uint8_t *small)
{
    call->args_len = in->args_len;
    call->args_in_place = stays_in_place(in);
    if (call->args_in_place) {
        call->args = in->args;
        return true;
    }
    if (in->args_len <= SEGMENT_INLINE_BYTES && !in->args_off) {
        call->args = memcpy(small, in->args, in->args_len);
        return true;
    }
    if (in->co)
        return take_args_along(call, in);
    call->args = call->args_copy = in->args_copy;
    return true;
}

/* The coroutine of one call. What in points to is gone once this has yielded. */
static void coroutine_fn serve_entry(void *opaque)
{
    const struct incoming *in = opaque;
    struct mesh *mesh = in->mesh;
    bool is_portable = in->co != 0;
    uint8_t small[SEGMENT_INLINE_BYTES];
    struct service_call call;

    serve_call_init(&call, mesh, in->method, in->callee, in->service);
    call.from = in->peer;
    call.slot = in->slot;
    call.generation = in->generation;
    call.deadline_ns = in->deadline_ns;
    call.depth = in->depth;
    call.path = in->path;
    if (!keep_args(&call, in, small)) {
        answer_at_once(mesh, in, CALL_END_NOT_STARTED, -ENOMEM);
        return;
    }
    serve_note_home(&call, true);
    coroutine_set_work(running_word(mesh->self, call.from, call.slot, call.generation));

    int status = serve_call_run(&call);

    if (is_portable && call.args_copy)
        co_unpin();
    lock_drop_all(call.mesh, coroutine_self()); /* before it moves: with a lock it can't */
    if (!serve_come_home(&call))
        return;
    mesh = call.mesh;
    mesh->links[call.from].in[call.slot] = NULL;
    if (call.args_in_place)
        push_args_taken(mesh, call.from, call.slot, call.generation);
    serve_answer(&call, status);
    mesh->n_served--;
    free(call.error_text);
    free(call.args_copy);
}

static void read_slot(const struct call_slot *shared, struct incoming *in)
{
    in->args_off = shared->args_off;
    in->args_len = shared->args_len;
    in->method = shared->method;
    in->depth = shared->depth;
    in->path = shared->path;
    in->deadline_ns = (int64_t)shared->deadline_ns;
}

static void read_message(const struct message *message, struct incoming *in)
{
    in->args_off = message->off;
    in->args_len = message->len;
    in->method = message->method;
    in->depth = message->depth;
    in->path = message->path;
    in->deadline_ns = (int64_t)message->deadline_ns;
}

/* Finds the method and the arguments. False where what was read makes no sense. */
static bool make_sense(const struct mesh *mesh, struct incoming *in)
{
    in->callee = mesh_method(mesh, in->method, &in->service);
    if (in->args_off)
        in->args = in->args_len > SEGMENT_INLINE_BYTES && in->args_len <= SEGMENT_PAYLOAD_MAX
                       ? segment_heap_at(&mesh->seg, in->peer, in->args_off, in->args_len)
                       : NULL;
    else
        in->args = in->args_len <= SEGMENT_INLINE_BYTES
                       ? mesh->links[in->peer].peer_calls[in->slot].inline_args
                       : NULL;
    return in->args && in->depth < SEGMENT_SLOT_CLASSES;
}

/* What must be said before a step is run: CALL_END_NONE, go on; else how it ended. */
static enum call_end refuse(const struct incoming *in, bool sane, uint64_t word, int *ret_status)
{
    if (!sane || !in->callee) {
        *ret_status = -EPROTO;
        return CALL_END_NOT_STARTED;
    }
    if (pace_is_late(&in->mesh->pace, in->method, in->deadline_ns)) {
        *ret_status = -ETIMEDOUT;
        return CALL_END_EXPIRED;
    }
    if (word_state(word) == CALL_ABANDONED) {
        *ret_status = -ECANCELED;
        return CALL_END_CANCELLED;
    }
    return CALL_END_NONE;
}

/* Small ones are copied by the coroutine. False where there is no memory. */
static bool take_args(struct incoming *in)
{
    if (stays_in_place(in)) {
        mesh_count_payload(in->mesh, false, in->args_len);
        return true;
    }
    if (in->args_len <= SEGMENT_INLINE_BYTES && !in->args_off)
        return true;
    in->args_copy = malloc(in->args_len);
    if (!in->args_copy)
        return false;
    memcpy(in->args_copy, in->args, in->args_len);
    mesh_count_payload(in->mesh, true, in->args_len);
    return true;
}

/* One of the mesh's own whose caller wants its slot back and no more. */
static void run_notice(struct mesh *mesh, const struct incoming *in)
{
    uint8_t args[SEGMENT_INLINE_BYTES];
    struct service_call call;

    if (in->args_len > sizeof(args)) {
        answer_at_once(mesh, in, CALL_END_NOT_STARTED, -EPROTO);
        return;
    }
    serve_call_init(&call, mesh, in->method, in->callee, in->service);
    call.from = in->peer;
    call.args = memcpy(args, in->args, in->args_len);
    call.args_len = in->args_len;
    answer_at_once(mesh, in, CALL_END_DONE, 0);
    in->callee->run(&call);
}

static void coroutine_fn serve_portable(struct mesh *mesh, void *opaque)
{
    (void)mesh; /* it is in->mesh */
    serve_entry(opaque);
}

/* Before it is marked as started: who will serve it. */
static void choose_coroutine(struct mesh *mesh, struct incoming *in)
{
    bool travels = in->end == CALL_END_NONE && in->callee->flags & SERVICE_PORTABLE &&
                   in->args_len <= SHARD_ALLOC_MAX && !stays_in_place(in);

    in->co = travels ? portable_take(mesh) : 0;
}

static void begin(struct mesh *mesh, struct incoming *in)
{
    if (in->callee->flags & BUILTIN_NOTICE) {
        run_notice(mesh, in);
        return;
    }
    if (in->co) {
        portable_run(mesh, in->co, serve_portable, in, state_of(mesh, in->method, in->service),
            in->callee->name);
        return;
    }
    Coroutine *co =
        take_args(in) ? coroutine_create_full(serve_entry, in, in->callee->name, 0) : NULL;

    if (!co) {
        free(in->args_copy);
        answer_at_once(mesh, in, CALL_END_NOT_STARTED, -ENOMEM);
        return;
    }
    if (in->args_off && !stays_in_place(in))
        push_args_taken(mesh, in->peer, in->slot, in->generation);
    coroutine_enter(co);
}

/* Whether the caller has taken back no call since it sent this one. */
static bool is_as_sent(const struct link *link, uint32_t withdrawals)
{
    return (uint32_t)atomic_load_acquire(link->peer_withdrawals) == withdrawals; /* TAKEN, START */
}

/* The word of the caller's slot. */
static uint64_t word_of(const struct link *link, const struct incoming *in, bool as_sent)
{
    return as_sent ? call_word(in->generation, CALL_WAITING)
                   : atomic_load_acquire(&link->peer_calls[in->slot].word); /* SLOT, START */
}

static bool is_for(uint64_t word, const struct incoming *in)
{
    return word_generation(word) == in->generation && word_state(word) != CALL_FREE;
}

/* Copies a call and decides on it. False where its message is stale, double or makes no sense. */
static bool read_call(
    struct mesh *mesh, uint32_t peer, const struct message *message, struct incoming *ret)
{
    const struct link *link = &mesh->links[peer];

    if (message->slot >= link->n_in ||
        generation_reaches(
            started_generation(link->serves[message->slot].started), message->generation))
        return false;
    *ret = (struct incoming){.mesh = mesh,
        .peer = peer,
        .slot = message->slot,
        .generation = message->generation,
        .withdrawals = message->withdrawals};
    bool as_sent = is_as_sent(link, message->withdrawals);
    uint64_t word = word_of(link, ret, as_sent);

    if (!is_for(word, ret))
        return false;
    if (as_sent)
        read_message(message, ret);
    else
        read_slot(&link->peer_calls[message->slot], ret);
    bool sane = make_sense(mesh, ret);

    ret->end = refuse(ret, sane, word, &ret->status);
    return true;
}

static void mark_started(struct mesh *mesh, const struct incoming *in)
{
    struct serve_slot *serve = &mesh->links[in->peer].serves[in->slot];

    serve_release_answer(mesh, serve);
    if (serve->co != in->co)
        atomic_store_relaxed(
            &serve->co, in->co); /* START: that of the call before is none of this */
    atomic_store_release(
        &serve->started, started_word(in->generation, mesh->incarnation)); /* START */
}

/* One that is marked, after the fence; now user code may run. */
static void run_started(struct mesh *mesh, struct incoming *in)
{
    struct link *link = &mesh->links[in->peer];
    uint64_t word = word_of(link, in, is_as_sent(link, in->withdrawals)); /* START */

    if (!is_for(word, in)) {
        /* It was freed meanwhile, by a caller that took us for dead. */
        counter_add(&link->stats->dropped, 1);
        portable_give(mesh, in->co);
        return;
    }
    if (in->end == CALL_END_NONE && word_state(word) == CALL_ABANDONED) {
        in->end = CALL_END_CANCELLED;
        in->status = -ECANCELED;
    }
    if (in->end == CALL_END_NONE && pace_is_late(&mesh->pace, in->method, in->deadline_ns)) {
        in->end = CALL_END_EXPIRED; /* by those of its batch */
        in->status = -ETIMEDOUT;
    }
    if (in->end == CALL_END_NONE) {
        int64_t begun_ns = pace_begin(&mesh->pace);
        begin(mesh, in);
        pace_end(&mesh->pace, in->method, begun_ns, in->deadline_ns);
        return;
    }
    portable_give(mesh, in->co);
    answer_at_once(mesh, in, in->end, in->status);
}

static bool runs_again(const struct incoming *in)
{
    return in->callee && in->callee->flags & SERVICE_IDEMPOTENT;
}

uint32_t serve_on_calls(struct mesh *mesh, uint32_t peer, struct ring_rx *rx,
    const struct message *messages, uint32_t n)
{
    struct incoming batch[SERVE_BATCH];
    uint32_t n_taken = 0, n_marked = 0;
    bool alone = false;

    for (; n_taken < n && n_marked < SERVE_BATCH && !alone; n_taken++) {
        struct incoming *in = &batch[n_marked];

        if (!read_call(mesh, peer, &messages[n_taken], in)) {
            counter_add(&mesh->links[peer].stats->dropped, 1);
            continue;
        }
        alone = !runs_again(in);
        if (alone && n_marked > 0)
            break;
        choose_coroutine(mesh, in);
        mark_started(mesh, in);
        n_marked++;
    }
    atomic_full_fence(); /* START */
    ring_advance_by(rx, n_taken);
    for (uint32_t i = 0; i < n_marked; i++)
        run_started(mesh, &batch[i]);
    return n_taken;
}

/* ---- what the dead have lost ---- */

/* Its message is out of the ring, and it was not begun. */
static bool is_lost(const struct mesh *mesh, uint32_t peer, uint32_t slot, uint64_t word)
{
    const struct link *link = &mesh->links[peer];
    const struct call_slot *shared = &link->peer_calls[slot];
    uint64_t position = atomic_load_acquire(&shared->position); /* SLOT: before the word, again */

    if ((word_state(word) != CALL_WAITING && word_state(word) != CALL_ABANDONED) ||
        position >= link->rx[segment_slot_lane(link->n_in, slot)].next)
        return false;
    return atomic_load_acquire(&shared->word) == word; /* SLOT */
}

void serve_what_was_lost(struct mesh *mesh, uint32_t peer)
{
    const struct link *link = &mesh->links[peer];

    for (uint32_t slot = 0; slot < link->n_in; slot++) {
        uint64_t word = atomic_load_acquire(&link->peer_calls[slot].word); /* SLOT */
        uint32_t not_as_sent =
            (uint32_t)atomic_load_relaxed(link->peer_withdrawals) - 1; /* TAKEN: the slot is read */
        struct message message = {
            .slot = slot, .generation = word_generation(word), .withdrawals = not_as_sent};
        struct incoming in;

        if (!is_lost(mesh, peer, slot, word) || !read_call(mesh, peer, &message, &in))
            continue;
        choose_coroutine(mesh, &in);
        mark_started(mesh, &in);
        atomic_full_fence(); /* START */
        run_started(mesh, &in);
    }
}

/* ---- what nobody waits for any more ---- */

int serve_init(struct mesh *mesh, uint32_t peer)
{
    struct link *link = &mesh->links[peer];

    link->n_in = segment_call_slots(&mesh->seg, peer, mesh->self);
    if (!link->n_in)
        return 0;
    link->peer_calls = segment_call(&mesh->seg, peer, mesh->self, 0);
    link->peer_withdrawals = segment_withdrawals(&mesh->seg, peer, mesh->self);
    link->serves = segment_serve(&mesh->seg, mesh->self, peer, 0);
    link->in = calloc(link->n_in, sizeof(link->in[0]));
    return link->in ? 0 : -ENOMEM;
}

void serve_deinit(struct mesh *mesh, uint32_t peer)
{
    free(mesh->links[peer].in);
}

struct pace *serve_pace(struct mesh *mesh)
{
    return &mesh->pace;
}

void serve_wake_sleeper(struct service_call *call)
{
    Coroutine *co = call->sleeper;

    call->sleeper = NULL;
    if (co)
        aio_co_wake(co); /* it may end before this returns, and the call with it */
    else
        lock_end_wait(call->lock_wait);
}

/* Whether it runs in another shard, from which it comes home to answer. */
static bool is_away(const struct mesh *mesh, const struct serve_slot *serve)
{
    uint32_t shard;

    return serve->co && arena_co_lives(&mesh->seg, serve->co, &shard);
}

/*
 * It does not run here: its answer is under way, or it is in another shard. But one whose part was
 * damaged has a slot for a call that it never made, or has lost the message; and its heir, which
 * has read what there was, has lost the answer. A slot comes back with an answer alone.
 */
static void answer_what_is_not_here(struct mesh *mesh, uint32_t peer, const struct message *message)
{
    const struct link *link = &mesh->links[peer];
    uint64_t word = atomic_load_acquire(&link->peer_calls[message->slot].word); /* SLOT */
    const struct serve_slot *serve = &link->serves[message->slot];
    bool begun = started_generation(serve->started) == message->generation;
    bool is_lost = !begun || (message->status == -EOWNERDEAD && !is_away(mesh, serve));

    if (is_lost && word == call_word(message->generation, CALL_ABANDONED))
        answer_at_once(mesh,
            &(struct incoming){
                .peer = peer, .slot = message->slot, .generation = message->generation},
            CALL_END_CANCELLED, -ECANCELED);
}

void serve_abandon(struct service_call *call)
{
    call->abandoned = true;
    if (call->nests)
        co_cancel(&call->unwanted); /* in a moment: what it has asked others for ends as well */
    serve_wake_sleeper(call);
}

void serve_on_abandoned(struct mesh *mesh, uint32_t peer, const struct message *message)
{
    struct service_call *call;

    if (message->slot >= mesh->links[peer].n_in) {
        counter_add(&mesh->links[peer].stats->dropped, 1);
        return;
    }
    call = mesh->links[peer].in[message->slot];
    if (!call || call->generation != message->generation) {
        answer_what_is_not_here(mesh, peer, message);
        return;
    }
    serve_abandon(call);
}

/* The caller's slot is this call's until it is answered, so it is read when it is asked for, which
 * is seldom. */
uint64_t serve_origin(const struct service_call *call)
{
    const struct call_slot *shared;

    if (call->local)
        return call->origin;
    shared = segment_call(&call->mesh->seg, call->from, call->home, call->slot);
    return word_generation(atomic_load_acquire(&shared->word)) == call->generation /* SLOT */
               ? shared->origin
               : 0;
}
