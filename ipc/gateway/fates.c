/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/fates.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "runtime/atomic.h"
#include "runtime/timer.h"

/*
 * In the segment stand the facts, each changed by one last store; the lists are in private memory,
 * and made anew by an heir.
 *
 *     free --> accepted --> ended, no place --> ended, with a place --> free
 *                 |                               ^  |
 *                 v  never begun                  +--+  told again at another place
 *               free
 *
 * What an heir finds, and makes of it:
 *
 *   accepted, and its call is in the mesh     it is under way: adopted with its call
 *   accepted, and there is no such call       it was in line, and has not run: forgotten, so that
 *                                             the client, who has it still, submits it again
 *   ended, with a place that is not           its end is told again, at that place
 *   acknowledged
 *   ended, without a place                    the same, at the next one that is free
 *   ended, acknowledged                       remembered
 *   free, or of no session that is there      free
 *
 * A call is in the mesh before its slot says so to anybody, and leaves it after its end is noted
 * (mesh_call.note): so what is neither has not run.
 *
 * Orderings  first                then         ordered by      if broken
 *   FATE     fate's fields        mark         mark release    half a fate is believed
 *   ROW      token, floor, acked  number       number release  a session of somebody else's
 *   FLOOR    floor                mark = free  store release   what is forgotten runs again
 *   ACK      acked                mark = free  store release   an end's place is given twice
 *   PLACE    position             the reply    one process     an heir tells the end at
 *                                                              another place
 */
struct fate_link {
    uint32_t row;
    uint32_t next_hash;  /* or the next free one */
    uint32_t prev, next; /* settled ones of the session, oldest first */
    bool settled;
    bool inherited;
    bool has_call; /* its call in the mesh was taken over */
};

struct fate_owner {
    uint32_t first, last; /* settled */
    uint32_t n_settled;
    uint32_t n_needed; /* others */
};

/* How many a session that remembers most forgets at once, so that it is not looked for each
 * time. */
#define FORGET_AT_ONCE 64u

#define NUMBER_MASK (UINT32_MAX >> 9) /* what an origin has room for */

static uint64_t low_id(uint64_t id)
{
    return id & ORIGIN_ID_MASK;
}

static uint32_t *bucket_of(const struct fates *fates, uint32_t number, uint64_t id)
{
    uint64_t hash = origin_of_session(number, id ^ id >> 32) * fates->hash_key;

    return &fates->buckets[(hash >> 32) & (fates->n_buckets - 1)];
}

static uint32_t number_of(const struct fates *fates, uint32_t row)
{
    return fates->rows[row].number;
}

static uint64_t bound(const struct fate_owner *owner)
{
    return owner->n_needed > SEGMENT_FATES_EACH ? owner->n_needed : SEGMENT_FATES_EACH;
}

/* ---- lists ---- */

static void need(struct fates *fates, uint32_t row, int more)
{
    struct fate_owner *owner = &fates->owners[row];

    fates->n_bound -= bound(owner);
    owner->n_needed += (uint32_t)more;
    fates->n_bound += bound(owner);
}

static void append_settled(struct fates *fates, uint32_t fate)
{
    struct fate_link *link = &fates->links[fate];
    struct fate_owner *owner = &fates->owners[link->row];

    link->settled = true;
    link->next = FATE_NONE;
    link->prev = owner->last;
    if (owner->last == FATE_NONE)
        owner->first = fate;
    else
        fates->links[owner->last].next = fate;
    owner->last = fate;
    owner->n_settled++;
}

static void remove_settled(struct fates *fates, uint32_t fate)
{
    struct fate_link *link = &fates->links[fate];
    struct fate_owner *owner = &fates->owners[link->row];

    if (link->prev == FATE_NONE)
        owner->first = link->next;
    else
        fates->links[link->prev].next = link->next;
    if (link->next == FATE_NONE)
        owner->last = link->prev;
    else
        fates->links[link->next].prev = link->prev;
    link->settled = false;
    owner->n_settled--;
}

static void enter_hash(struct fates *fates, uint32_t fate)
{
    struct fate_link *link = &fates->links[fate];
    uint32_t *bucket = bucket_of(fates, number_of(fates, link->row), fates->all[fate].id);

    link->next_hash = *bucket;
    *bucket = fate;
}

static void leave_hash(struct fates *fates, uint32_t fate)
{
    uint32_t *at = bucket_of(fates, fate_session(fates->all[fate].mark), fates->all[fate].id);

    while (*at != fate)
        at = &fates->links[*at].next_hash;
    *at = fates->links[fate].next_hash;
}

static void put_free(struct fates *fates, uint32_t fate)
{
    fates->links[fate].row = FATE_NONE;
    fates->links[fate].next_hash = fates->free;
    fates->free = fate;
}

/* ---- forgetting ---- */

static void let_go(struct fates *fates, uint32_t fate)
{
    leave_hash(fates, fate);
    atomic_store_release(&fates->all[fate].mark, 0); /* FATE, FLOOR, ACK */
    put_free(fates, fate);
}

static void forget_oldest(struct fates *fates, uint32_t row)
{
    uint32_t fate = fates->owners[row].first;
    uint64_t id = fates->all[fate].id;

    if (id > fates->rows[row].floor)
        atomic_store_release(&fates->rows[row].floor, id); /* FLOOR */
    remove_settled(fates, fate);
    let_go(fates, fate);
}

static void forget_some(struct fates *fates)
{
    uint32_t row = 0;

    for (uint32_t i = 1; i < fates->n_rows; i++)
        if (fates->owners[i].n_settled > fates->owners[row].n_settled)
            row = i;
    for (uint32_t n = 0; n < FORGET_AT_ONCE && fates->owners[row].n_settled > 0; n++)
        forget_oldest(fates, row);
}

void fates_forget(struct fates *fates, uint32_t fate)
{
    need(fates, fates->links[fate].row, -1);
    let_go(fates, fate);
}

/* ---- sessions ---- */

static uint32_t free_row(const struct fates *fates)
{
    for (uint32_t row = 0; row < fates->n_rows; row++)
        if (number_of(fates, row) == 0)
            return row;
    return FATE_NONE;
}

static bool is_taken(const struct fates *fates, uint32_t number)
{
    for (uint32_t row = 0; row < fates->n_rows; row++)
        if (number_of(fates, row) == number)
            return true;
    return false;
}

static uint32_t next_number(struct fates *fates)
{
    do
        fates->last_number =
            (fates->last_number & NUMBER_MASK) == NUMBER_MASK ? 1 : fates->last_number + 1;
    while (is_taken(fates, fates->last_number));
    return fates->last_number;
}

int fates_add_session(struct fates *fates, const uint8_t *token, uint32_t *ret_row)
{
    uint32_t row = free_row(fates);

    if (row == FATE_NONE || fates->n_bound + SEGMENT_FATES_EACH > fates->n_all)
        return -EAGAIN;
    struct session_row *at = &fates->rows[row];
    memcpy(at->token, token, sizeof(at->token));
    atomic_store_relaxed(&at->floor, 0); /* ROW */
    atomic_store_relaxed(&at->acked, 0); /* ROW */
    at->created_ns = (uint64_t)aio_clock_ns();
    atomic_store_release(&at->number, next_number(fates)); /* ROW */
    fates->owners[row] = (struct fate_owner){.first = FATE_NONE, .last = FATE_NONE};
    fates->n_bound += SEGMENT_FATES_EACH;
    fates->n_sessions++;
    *ret_row = row;
    return 0;
}

void fates_set_user(struct fates *fates, uint32_t row, uint32_t uid)
{
    atomic_store_relaxed(&fates->rows[row].uid, uid);
}

/* Its fates are nobody's as soon as its number is gone. */
void fates_drop_session(struct fates *fates, uint32_t row)
{
    atomic_store_release(&fates->rows[row].number, 0); /* ROW */
    for (uint32_t fate = 0; fate < fates->n_all && fates->owners[row].n_needed > 0; fate++)
        if (fates->links[fate].row == row && !fates->links[fate].settled)
            fates_forget(fates, fate);
    while (fates->owners[row].n_settled > 0) {
        uint32_t fate = fates->owners[row].first;
        remove_settled(fates, fate);
        let_go(fates, fate);
    }
    fates->n_bound -= SEGMENT_FATES_EACH;
    fates->n_sessions--;
}

/* ---- requests ---- */

uint32_t fates_find(const struct fates *fates, uint32_t row, uint64_t id)
{
    uint32_t fate = *bucket_of(fates, number_of(fates, row), id);

    while (fate != FATE_NONE && (fates->links[fate].row != row || fates->all[fate].id != id))
        fate = fates->links[fate].next_hash;
    return fate;
}

/* Whether one more may be needed, with the promise to all sessions kept. */
static bool has_room(const struct fates *fates, const struct fate_owner *owner)
{
    if (owner->n_needed >= FATES_SESSION)
        return false;
    return owner->n_needed < SEGMENT_FATES_EACH || fates->n_bound < fates->n_all;
}

int fates_accept(
    struct fates *fates, uint32_t row, uint64_t id, uint32_t method, uint32_t *ret_fate)
{
    const struct fate_owner *owner = &fates->owners[row];

    if (!has_room(fates, owner))
        return -EAGAIN;
    if (owner->n_needed + owner->n_settled >= FATES_SESSION)
        forget_oldest(fates, row);
    if (fates->free == FATE_NONE)
        forget_some(fates);
    uint32_t at = fates->free;
    struct fate *fate = &fates->all[at];
    fates->free = fates->links[at].next_hash;
    fate->id = id;
    fate->position = 0;
    fate->method = method;
    fate->row = row;
    atomic_store_release(&fate->mark, fate_mark(number_of(fates, row), FATE_ACCEPTED)); /* FATE */
    fates->links[at] = (struct fate_link){.row = row};
    enter_hash(fates, at);
    need(fates, row, 1);
    *ret_fate = at;
    return 0;
}

void fates_end(struct fates *fates, uint32_t at, const struct mesh_answer *answer)
{
    struct fate *fate = &fates->all[at];

    if (fate_state(fate->mark) == FATE_ENDED)
        return; /* noted before its slot was let go */
    fate->ended_ns = (uint64_t)aio_clock_ns();
    fate->end = answer->end;
    fate->error = answer->end == CALL_END_DONE ? 0 : answer->status;
    fate->shard = answer->shard;
    fate->len = (uint32_t)answer->len;
    if (answer->end != CALL_END_DONE && fate->len > FATE_ANSWER_BYTES)
        fate->len = FATE_ANSWER_BYTES; /* a text is of use in part, too */
    if (fate->len > 0 && fate->len <= FATE_ANSWER_BYTES)
        memcpy(fate->answer, answer->data, fate->len);
    atomic_store_release(&fate->mark, fate_mark(fate_session(fate->mark), FATE_ENDED)); /* FATE */
}

void fates_place(struct fates *fates, uint32_t fate, uint64_t position)
{
    atomic_store_release(&fates->all[fate].position, position); /* PLACE */
}

void fates_ack(struct fates *fates, uint32_t row, uint64_t position)
{
    atomic_store_release(&fates->rows[row].acked, position); /* ACK */
}

void fates_settle(struct fates *fates, uint32_t fate)
{
    need(fates, fates->links[fate].row, -1);
    append_settled(fates, fate);
}

int fates_unsettle(struct fates *fates, uint32_t fate)
{
    uint32_t row = fates->links[fate].row;

    if (!has_room(fates, &fates->owners[row]))
        return -EAGAIN;
    remove_settled(fates, fate);
    need(fates, row, 1);
    return 0;
}

bool fates_has_all(const struct fates *fates, uint32_t fate)
{
    const struct fate_link *link = &fates->links[fate];

    return fates->all[fate].len <= FATE_ANSWER_BYTES || !(link->settled || link->inherited);
}

bool fates_is_settled(const struct fates *fates, uint32_t fate)
{
    return fates->links[fate].settled;
}

/* ---- what a predecessor left ---- */

uint32_t fates_row_of(const struct fates *fates, uint32_t fate)
{
    return fates->links[fate].row;
}

/* An origin alone does not tell ids apart that are alike in their low bits. */
uint32_t fates_take_call(struct fates *fates, uint64_t origin, uint32_t at)
{
    uint32_t number = origin_session(origin);

    if (at >= fates->n_all || fates->all[at].mark != fate_mark(number, FATE_ACCEPTED) ||
        low_id(fates->all[at].id) != low_id(origin) || fates->links[at].has_call)
        return FATE_NONE;
    fates->links[at].has_call = true;
    return at;
}

bool fates_has_call(const struct fates *fates, uint32_t fate)
{
    return fates->links[fate].has_call;
}

static void recover_rows(struct fates *fates)
{
    for (uint32_t row = 0; row < fates->n_rows; row++) {
        uint32_t number = number_of(fates, row);
        fates->owners[row] = (struct fate_owner){.first = FATE_NONE, .last = FATE_NONE};
        if (number == 0)
            continue;
        if (number > NUMBER_MASK) {
            atomic_store_release(&fates->rows[row].number, 0); /* ROW */
            continue;
        }
        if (number > fates->last_number)
            fates->last_number = number;
        fates->n_bound += SEGMENT_FATES_EACH;
        fates->n_sessions++;
    }
}

static bool makes_sense(const struct fate *fate)
{
    if (fate_state(fate->mark) == FATE_ACCEPTED)
        return true;
    return fate_state(fate->mark) == FATE_ENDED && fate->end > CALL_END_NONE &&
           fate->end < N_CALL_ENDS &&
           (fate->len <= FATE_ANSWER_BYTES || fate->end == CALL_END_DONE);
}

/* All are needed until the session has looked at them. */
static void recover_fate(struct fates *fates, uint32_t at)
{
    struct fate *fate = &fates->all[at];
    uint32_t number = fate_session(fate->mark), row = fate->row;

    if (number == 0 || row >= fates->n_rows || number_of(fates, row) != number ||
        !makes_sense(fate) || fates->owners[row].n_needed >= FATES_SESSION) {
        if (fate->mark)
            atomic_store_release(&fate->mark, 0); /* FATE */
        put_free(fates, at);
        return;
    }
    fates->links[at] = (struct fate_link){.row = row, .inherited = true};
    enter_hash(fates, at);
    need(fates, row, 1);
}

int fates_open(struct fates *fates, const struct segment *segment)
{
    uint32_t n = segment->geometry.n_fates;

    *fates = (struct fates){.segment = segment,
        .rows = segment_session(segment, 0),
        .all = segment_fate(segment, 0),
        .n_rows = segment_sessions_of(n),
        .n_all = n,
        .n_buckets = 1,
        .free = FATE_NONE};
    while (fates->n_buckets < n)
        fates->n_buckets *= 2;
    fates->links = calloc(n, sizeof(*fates->links));
    fates->owners = calloc(fates->n_rows, sizeof(*fates->owners));
    fates->buckets = malloc(fates->n_buckets * sizeof(*fates->buckets));
    if (!fates->links || !fates->owners || !fates->buckets) {
        fates_close(fates);
        return -ENOMEM;
    }
    memset(fates->buckets, 0xff, fates->n_buckets * sizeof(*fates->buckets)); /* FATE_NONE */
    if (getrandom(&fates->hash_key, sizeof(fates->hash_key), 0) < 0)
        fates->hash_key = (uint64_t)aio_clock_ns(); /* never for so few bytes */
    fates->hash_key |= 1;
    recover_rows(fates);
    for (uint32_t fate = n; fate-- > 0;)
        recover_fate(fates, fate);
    return 0;
}

void fates_close(struct fates *fates)
{
    free(fates->links);
    free(fates->owners);
    free(fates->buckets);
    *fates = (struct fates){};
}
