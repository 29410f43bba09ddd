/* SPDX-License-Identifier: MIT */
/*
 * The home's side: who holds stands in the segment, who waits in private memory, for waiters can
 * ask again. A record changes hands by one store: the new holder is written to the place that the
 * word does not name, then the word. So the replacement finds each lock held by exactly one, or
 * free, whenever its predecessor died.
 *
 * The lock is the holder's once its record says so; that it is told (LOCK_OP_GRANT) comes after,
 * and may be lost with this process: it then asks the replacement, which finds it as the holder. A
 * release is run again likewise, and one for a token that is not known is none. So a token that the
 * home knows is known to who asked, or on its way out, or its shard is dead.
 *
 * Orderings  first         then           ordered by                 if broken
 *   LOCK     holder, id    record's word  release store; read after  the replacement takes a
 *                                         the writer's death         stranger for the holder
 *   ALIVE    death reaped  incarnation    supervisor's release, our  a dead one stands in line
 *                                         acquire                    after it was judged
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/bug.h"
#include "runtime/tail_queue.h"
#include "shard/lock_inside.h"

/* Who stands in line; then, until it has been told that the lock is its own, the call for that. */
struct lock_waiter {
    struct mesh_call call;
    struct lock_args args; /* of the call */
    struct lock_home *home;
    struct lock_holder who;
    AioTimer retry;
    struct lock_waiter *next, **link; /* in line, or among those being told */
};

struct home_lock {
    uint32_t next; /* in its bucket, or among the free: index + 1; 0: the last */
    struct lock_waiter *first, **last;
};

struct lock_home {
    struct mesh *mesh;
    struct lock_record *records;
    struct home_lock locks[SEGMENT_LOCKS]; /* beside the records */
    uint32_t buckets[LOCK_BUCKETS];        /* index + 1; 0: empty */
    uint32_t free;                         /* index + 1; 0: none */
    uint32_t n_waiters;
    struct lock_waiter *first_told, **last_told; /* granted, and their shard does not know yet */
};

/* ---- records ---- */

static bool is_same(const struct lock_holder *a, const struct lock_holder *b)
{
    return a->peer == b->peer && a->incarnation == b->incarnation && a->token == b->token;
}

static struct lock_holder *holder_of(struct lock_record *record)
{
    return &record->holders[record->word & LOCK_SECOND ? 1 : 0];
}

static bool is_held_by(struct lock_record *record, const struct lock_holder *who)
{
    return record->word & LOCK_HELD && is_same(holder_of(record), who);
}

static bool is_marked(const struct lock_record *record)
{
    return record->word & LOCK_OWNER_DIED;
}

static void set_word(struct lock_record *record, uint64_t word)
{
    atomic_store_release(&record->word, word); /* LOCK */
}

static void set_holder(struct lock_record *record, const struct lock_holder *who)
{
    uint64_t second = ~record->word & LOCK_SECOND;
    struct lock_holder *holder = &record->holders[second ? 1 : 0];

    atomic_store_relaxed(&holder->peer, who->peer);               /* LOCK */
    atomic_store_relaxed(&holder->incarnation, who->incarnation); /* LOCK */
    atomic_store_relaxed(&holder->token, who->token);             /* LOCK */
    set_word(record, (record->word & LOCK_OWNER_DIED) | LOCK_USED | LOCK_HELD | second);
}

static uint32_t *bucket_of(struct lock_home *home, uint64_t id)
{
    return &home->buckets[(id ^ id >> 32) % LOCK_BUCKETS];
}

/* NULL: neither held nor marked. */
static struct lock_record *find_record(struct lock_home *home, uint64_t id)
{
    for (uint32_t at = *bucket_of(home, id); at; at = home->locks[at - 1].next)
        if (home->records[at - 1].id == id)
            return &home->records[at - 1];
    return NULL;
}

static void put_in_bucket(struct lock_home *home, uint32_t idx)
{
    uint32_t *bucket = bucket_of(home, home->records[idx].id);

    home->locks[idx].next = *bucket;
    *bucket = idx + 1;
}

static void put_free(struct lock_home *home, uint32_t idx)
{
    home->locks[idx].next = home->free;
    home->free = idx + 1;
}

static struct lock_record *take_record(struct lock_home *home, uint64_t id)
{
    uint32_t idx = home->free - 1;
    struct lock_record *record;

    if (!home->free)
        return NULL;
    home->free = home->locks[idx].next;
    record = &home->records[idx];
    atomic_store_relaxed(&record->id, id); /* LOCK */
    put_in_bucket(home, idx);
    return record;
}

static void drop_record(struct lock_home *home, struct lock_record *record)
{
    uint32_t idx = (uint32_t)(record - home->records);
    uint32_t *at = bucket_of(home, record->id);

    while (*at != idx + 1)
        at = &home->locks[*at - 1].next;
    *at = home->locks[idx].next;
    set_word(record, 0);
    put_free(home, idx);
}

static struct home_lock *lock_of(struct lock_home *home, const struct lock_record *record)
{
    return &home->locks[record - home->records];
}

/* ---- the next one ---- */

static void leave_line(struct lock_home *home, struct home_lock *lock, struct lock_waiter *waiter)
{
    tail_queue_remove(lock->last, waiter);
    home->n_waiters--;
}

static void release(
    struct lock_home *home, uint64_t id, const struct lock_holder *who, enum lock_op op);

static void stop_telling(struct lock_waiter *waiter)
{
    tail_queue_remove(waiter->home->last_told, waiter);
    timer_del(&waiter->retry);
    free(waiter);
}

static void was_told(struct lock_waiter *waiter, bool known)
{
    if (!known)
        release(waiter->home, waiter->args.id, &waiter->who, LOCK_OP_RELEASE);
    stop_telling(waiter);
}

static void on_told(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct lock_waiter *waiter = (struct lock_waiter *)call;
    uint32_t known = LOCK_UNKNOWN;

    if (answer->end != CALL_END_DONE && answer->status != -EHOSTDOWN) {
        timer_mod_ns(&waiter->retry, aio_clock_ns() + LOCK_RETRY_NS);
        return;
    }
    if (answer->end == CALL_END_DONE && answer->len == sizeof(known))
        memcpy(&known, answer->data, sizeof(known));
    was_told(waiter, known == LOCK_TAKEN);
}

/* That the lock is theirs, which stands in the table already. */
static void tell(void *opaque)
{
    struct lock_waiter *waiter = opaque;
    struct mesh *mesh = waiter->home->mesh;

    if (waiter->who.peer == mesh->self) {
        was_told(waiter, lock_on_grant(mesh, mesh->self, &waiter->args));
        return;
    }
    waiter->call = (struct mesh_call){.target = waiter->who.peer,
        .method = BUILTIN_LOCK,
        .args = &waiter->args,
        .args_len = sizeof(waiter->args),
        .deadline_ns = INT64_MAX,
        .depth = SEGMENT_DEPTH_BUILTIN,
        .done = on_told};
    if (mesh_call_start(mesh, &waiter->call) < 0)
        bug("lock: peer %u can't be called", waiter->who.peer);
}

static void grant(struct lock_home *home, struct lock_record *record, struct lock_waiter *waiter)
{
    set_holder(record, &waiter->who);
    waiter->args = (struct lock_args){.id = record->id,
        .token = waiter->who.token,
        .op = LOCK_OP_GRANT,
        .incarnation = waiter->who.incarnation,
        .died = is_marked(record)};
    tail_queue_append(home->first_told, home->last_told, waiter);
    tell(waiter);
}

/* The lock is nobody's now. */
static void pass_on(struct lock_home *home, struct lock_record *record)
{
    struct home_lock *lock = lock_of(home, record);
    struct lock_waiter *waiter = lock->first;

    if (waiter) {
        leave_line(home, lock, waiter);
        grant(home, record, waiter);
    } else if (is_marked(record)) {
        set_word(record, LOCK_USED | LOCK_OWNER_DIED | (record->word & LOCK_SECOND));
    } else {
        drop_record(home, record);
    }
}

/* ---- asking and letting go ---- */

static struct lock_waiter *find_waiter(struct home_lock *lock, const struct lock_holder *who)
{
    for (struct lock_waiter *waiter = lock->first; waiter; waiter = waiter->next)
        if (is_same(&waiter->who, who))
            return waiter;
    return NULL;
}

static int stand_in_line(
    struct lock_home *home, struct home_lock *lock, const struct lock_holder *who)
{
    struct lock_waiter *waiter;

    if (home->n_waiters == LOCK_WAITERS_MAX)
        return -ENOSPC;
    waiter = calloc(1, sizeof(*waiter));
    if (!waiter)
        return -ENOMEM;
    waiter->home = home;
    waiter->who = *who;
    aio_timer_init(home->mesh->ctx, &waiter->retry, tell, waiter);
    tail_queue_append(lock->first, lock->last, waiter);
    home->n_waiters++;
    return LOCK_IN_LINE;
}

static int acquire(struct lock_home *home, uint64_t id, const struct lock_holder *who, bool try_it)
{
    struct lock_record *record = find_record(home, id);

    if (!record)
        record = take_record(home, id);
    if (!record)
        return -ENOSPC;
    if (!(record->word & LOCK_HELD))
        set_holder(record, who);
    if (is_held_by(record, who))
        return is_marked(record) ? LOCK_GRANTED_MARKED : LOCK_GRANTED;
    if (try_it)
        return -EBUSY;
    if (find_waiter(lock_of(home, record), who))
        return LOCK_IN_LINE;
    return stand_in_line(home, lock_of(home, record), who);
}

static void release(
    struct lock_home *home, uint64_t id, const struct lock_holder *who, enum lock_op op)
{
    struct lock_record *record = find_record(home, id);
    struct lock_waiter *waiter;

    if (!record)
        return;
    if (!is_held_by(record, who)) {
        waiter = find_waiter(lock_of(home, record), who);
        if (waiter) {
            leave_line(home, lock_of(home, record), waiter);
            free(waiter);
        }
        return;
    }
    if (op == LOCK_OP_RELEASE_WHOLE)
        set_word(record, record->word & ~(uint64_t)LOCK_OWNER_DIED);
    if (op == LOCK_OP_RELEASE_BROKEN)
        set_word(record, record->word | LOCK_OWNER_DIED);
    pass_on(home, record);
}

static bool is_alive(const struct lock_home *home, const struct lock_holder *who)
{
    const struct peer_control *control = segment_control(&home->mesh->seg, who->peer);

    return atomic_load_acquire(&control->incarnation) == who->incarnation; /* ALIVE */
}

int lock_home_serve(struct lock_home *home, uint32_t from, const struct lock_args *args)
{
    struct lock_holder who = {.peer = from, .incarnation = args->incarnation, .token = args->token};

    switch (args->op) {
    case LOCK_OP_ACQUIRE:
    case LOCK_OP_TRY:
        if (!is_alive(home, &who))
            return -ECANCELED;
        return acquire(home, args->id, &who, args->op == LOCK_OP_TRY);
    case LOCK_OP_RELEASE:
    case LOCK_OP_RELEASE_WHOLE:
    case LOCK_OP_RELEASE_BROKEN:
        release(home, args->id, &who, (enum lock_op)args->op);
        return LOCK_RELEASED;
    default:
        return -EINVAL;
    }
}

/* ---- deaths ---- */

struct dead {
    uint32_t peer;
    uint32_t incarnation; /* that lived when the death was seen, or failed then */
    bool failed;
};

/* A later incarnation than that may have asked since: the rings are drained before they are
 * judged. */
static bool is_dead(const struct lock_holder *who, const struct dead *dead)
{
    int32_t older = (int32_t)(dead->incarnation - who->incarnation);

    return who->peer == dead->peer && (dead->failed ? older >= 0 : older > 0);
}

static void judge_lock(struct lock_home *home, struct lock_record *record, const struct dead *dead)
{
    struct home_lock *lock = lock_of(home, record);

    for (struct lock_waiter *waiter = lock->first, *next; waiter; waiter = next) {
        next = waiter->next;
        if (!is_dead(&waiter->who, dead))
            continue;
        leave_line(home, lock, waiter);
        free(waiter);
    }
    if (!(record->word & LOCK_HELD) || !is_dead(holder_of(record), dead))
        return;
    set_word(record, record->word | LOCK_OWNER_DIED);
    pass_on(home, record);
}

void lock_home_judge(struct lock_home *home, uint32_t peer, uint32_t incarnation, bool failed)
{
    struct dead dead = {.peer = peer, .incarnation = incarnation, .failed = failed};

    for (uint32_t idx = 0; idx < SEGMENT_LOCKS; idx++)
        if (home->records[idx].word & LOCK_USED)
            judge_lock(home, &home->records[idx], &dead);
}

/* ---- life ---- */

/* What makes no sense is taken for held by one who died, or, where the lock is there twice, for
 * nothing: then it was never written by us. */
static void take_over(struct lock_home *home, uint32_t idx)
{
    struct lock_record *record = &home->records[idx];
    bool twice = record->word & LOCK_USED && find_record(home, record->id);

    if (!(record->word & LOCK_USED) || twice) {
        if (record->word)
            set_word(record, 0);
        put_free(home, idx);
        return;
    }
    put_in_bucket(home, idx);
    if (!(record->word & LOCK_HELD))
        return;
    if (holder_of(record)->peer >= home->mesh->seg.geometry.n_shards ||
        holder_of(record)->peer == home->mesh->self) {
        set_word(record, record->word | LOCK_OWNER_DIED);
        pass_on(home, record);
    }
}

int lock_home_new(struct mesh *mesh, struct lock_home **ret_home)
{
    struct lock_home *home = calloc(1, sizeof(*home));

    if (!home)
        return -ENOMEM;
    home->mesh = mesh;
    home->records = segment_locks(&mesh->seg, mesh->self);
    for (uint32_t idx = SEGMENT_LOCKS; idx-- > 0;)
        take_over(home, idx);
    *ret_home = home;
    return 0;
}

void lock_home_free(struct lock_home *home)
{
    if (!home)
        return;
    for (uint32_t idx = 0; idx < SEGMENT_LOCKS; idx++)
        while (home->locks[idx].first) {
            struct lock_waiter *waiter = home->locks[idx].first;
            leave_line(home, &home->locks[idx], waiter);
            free(waiter);
        }
    while (home->first_told)
        stop_telling(home->first_told);
    free(home);
}
