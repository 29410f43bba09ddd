/* SPDX-License-Identifier: MIT */
/*
 * The asking side. Each lock() is a struct lock_hold with a token of its own, which lives until the
 * home is known to have forgotten the token:
 *
 *              lock()         granted
 *      (new) --------> ASKING --------> HELD
 *                       |  ^   granted ^  |
 *               in line |  |           |  | unlock()
 *                       v  | home died |  |
 *                      IN_LINE --------+  v
 *                          |  given up  GOING --released--> (gone)
 *                          +--------------^
 *
 * All questions to the home are calls to its built-in method, answered at once, and run again by
 * themselves where the home dies; a place in line is no call, and is asked for again when its death
 * is judged. So nobody who waits for a lock holds a call slot that a holder needs to let go.
 */
#include "shard/lock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/bug.h"
#include "runtime/co_portable.h"
#include "runtime/co_wait.h"
#include "runtime/tail_queue.h"
#include "shard/keymap.h"
#include "shard/lock_inside.h"

enum hold_state {
    HOLD_ASKING,  /* the answer of the home is to come */
    HOLD_IN_LINE, /* it will tell */
    HOLD_HELD,
    HOLD_GOING, /* nobody's any more; the home is to be told, or is being told */
};

struct lock_wait;

struct lock_hold {
    struct mesh_call call; /* the question that is under way: only one at a time */
    struct lock_args args; /* of the call */
    struct lock_end *end;
    struct shard_mutex mutex;
    uint64_t token;
    Coroutine *co; /* whose it is */
    struct lock_wait *wait;
    enum hold_state state;
    enum lock_op ask;    /* LOCK_OP_ACQUIRE or LOCK_OP_TRY */
    enum lock_op let_go; /* how it will be released */
    bool out;            /* call is under way */
    bool marked;         /* its owner died, and it is not consistent yet */
    AioTimer retry;
    struct lock_hold *next, **link;
};

/* In the frame of the coroutine that waits. */
struct lock_wait {
    struct co_wait wait;
    struct lock_hold *hold;
    Coroutine *co;
    AioTimer deadline;
    bool sleeps, over;
    int result;
};

struct hold_list {
    struct lock_hold *first, **last; /* as they asked */
};

struct lock_end {
    struct mesh *mesh;
    struct lock_home *home;
    uint64_t last_token;
    uint64_t n_holds;
    struct hold_list buckets[LOCK_BUCKETS];
};

static struct hold_list *bucket_of(struct lock_end *end, uint64_t id)
{
    return &end->buckets[(id ^ id >> 32) % LOCK_BUCKETS];
}

/* ---- life of a hold ---- */

static void forget(struct lock_hold *hold)
{
    struct lock_end *end = hold->end;

    tail_queue_remove(bucket_of(end, hold->mutex.id)->last, hold);
    end->n_holds--;
    timer_del(&hold->retry);
    free(hold);
}

static void end_wait(struct lock_hold *hold, int result)
{
    struct lock_wait *wait = hold->wait;

    hold->wait = NULL;
    if (!wait)
        return;
    wait->over = true;
    wait->result = result;
    if (wait->sleeps)
        aio_co_schedule(hold->end->mesh->ctx, wait->co); /* not at once: lists are being walked */
}

/* It is not to be had. */
static void refuse(struct lock_hold *hold, int status)
{
    end_wait(hold, status);
    forget(hold);
}

static void now_held(struct lock_hold *hold, bool marked)
{
    hold->state = HOLD_HELD;
    hold->marked = marked;
    end_wait(hold, marked ? -EOWNERDEAD : 0);
}

/* ---- asking the home ---- */

static void on_answer(struct lock_hold *hold, int answer);

static void on_call_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct lock_hold *hold = (struct lock_hold *)call;
    uint32_t told;

    hold->out = false;
    if (answer->end != CALL_END_DONE) {
        on_answer(hold, answer->status);
        return;
    }
    if (answer->len != sizeof(told)) {
        on_answer(hold, -EPROTO);
        return;
    }
    memcpy(&told, answer->data, sizeof(told));
    on_answer(hold, told <= LOCK_UNKNOWN ? (int)told : -EPROTO);
}

static void ask(struct lock_hold *hold, enum lock_op op)
{
    struct mesh *mesh = hold->end->mesh;
    int r;

    hold->args = (struct lock_args){
        .id = hold->mutex.id, .token = hold->token, .op = op, .incarnation = mesh->incarnation};
    if (hold->mutex.home == mesh->self) {
        on_answer(hold, lock_home_serve(hold->end->home, mesh->self, &hold->args));
        return;
    }
    hold->call = (struct mesh_call){.target = hold->mutex.home,
        .method = BUILTIN_LOCK,
        .args = &hold->args,
        .args_len = sizeof(hold->args),
        .deadline_ns = INT64_MAX,
        .depth = SEGMENT_DEPTH_BUILTIN,
        .done = on_call_done};
    r = mesh_call_start(mesh, &hold->call);
    if (r < 0)
        bug("lock: shard %u can't be called: %s", hold->mutex.home, strerrorname_np(-r));
    hold->out = true;
}

static void ask_for_lock(struct lock_hold *hold)
{
    hold->state = HOLD_ASKING;
    ask(hold, hold->ask);
}

/* Nobody's any more. */
static void let_go(struct lock_hold *hold)
{
    hold->state = HOLD_GOING;
    hold->co = NULL;
    if (!hold->out)
        ask(hold, hold->let_go);
}

static void retry_release(void *opaque)
{
    struct lock_hold *hold = opaque;

    ask(hold, hold->let_go);
}

static void on_asked(struct lock_hold *hold, int answer)
{
    if (answer == LOCK_GRANTED || answer == LOCK_GRANTED_MARKED)
        now_held(hold, answer == LOCK_GRANTED_MARKED);
    else if (answer == LOCK_IN_LINE)
        hold->state = HOLD_IN_LINE;
    else
        refuse(hold, answer < 0 ? answer : -EPROTO);
}

/* What it was asked while nobody wanted it any more, or before, is answered. */
static void on_gone(struct lock_hold *hold, int answer)
{
    bool was_release = hold->args.op >= LOCK_OP_RELEASE;

    if (answer == -EHOSTDOWN || (was_release && answer == LOCK_RELEASED))
        forget(hold);
    else if (was_release)
        timer_mod_ns(&hold->retry, aio_clock_ns() + LOCK_RETRY_NS); /* it had no memory */
    else
        ask(hold, hold->let_go);
}

static void on_answer(struct lock_hold *hold, int answer)
{
    if (hold->state == HOLD_ASKING)
        on_asked(hold, answer);
    else if (hold->state == HOLD_GOING)
        on_gone(hold, answer);
    /* HOLD_HELD: the home's word that it is ours was quicker. */
}

bool lock_on_grant(struct mesh *mesh, uint32_t home, const struct lock_args *args)
{
    struct lock_hold *hold;

    if (args->incarnation != mesh->incarnation)
        return false;
    hold = bucket_of(mesh->locks, args->id)->first;
    while (hold &&
           (hold->token != args->token || hold->mutex.id != args->id || hold->mutex.home != home))
        hold = hold->next;
    if (!hold)
        return false;
    if (hold->state == HOLD_ASKING || hold->state == HOLD_IN_LINE)
        now_held(hold, args->died);
    return true;
}

/* ---- locking ---- */

struct shard_mutex shard_mutex_named(const struct mesh *mesh, const void *name, size_t len)
{
    uint64_t hash = keymap_hash(name, len);

    return (struct shard_mutex){
        .id = hash, .home = keymap_shard(keymap_slot(hash), mesh->seg.geometry.n_shards)};
}

/* What co holds or waits for. */
static struct lock_hold *find_hold(
    const struct mesh *mesh, const struct shard_mutex *mutex, const Coroutine *co)
{
    struct lock_hold *hold = mesh->locks ? bucket_of(mesh->locks, mutex->id)->first : NULL;

    while (
        hold && (hold->co != co || hold->mutex.id != mutex->id || hold->mutex.home != mutex->home))
        hold = hold->next;
    return hold;
}

static struct lock_hold *hold_new(
    struct mesh *mesh, const struct shard_mutex *mutex, enum lock_op op)
{
    struct lock_end *end = mesh->locks;
    struct hold_list *bucket = bucket_of(end, mutex->id);
    struct lock_hold *hold = calloc(1, sizeof(*hold));

    if (!hold)
        return NULL;
    hold->end = end;
    hold->mutex = *mutex;
    hold->token = ++end->last_token;
    hold->co = coroutine_self();
    hold->ask = op;
    hold->let_go = LOCK_OP_RELEASE;
    aio_timer_init(mesh->ctx, &hold->retry, retry_release, hold);
    tail_queue_append(bucket->first, bucket->last, hold);
    end->n_holds++;
    return hold;
}

/* By its coroutine, which knows why. */
static bool withdraw(struct co_wait *co_wait)
{
    struct lock_wait *wait = (struct lock_wait *)co_wait;

    if (wait->over)
        return false;
    wait->over = true;
    wait->hold->wait = NULL;
    let_go(wait->hold);
    return true;
}

static void give_up(struct lock_wait *wait, int result)
{
    struct lock_hold *hold = wait->hold;

    if (wait->over)
        return;
    end_wait(hold, result);
    let_go(hold);
}

static void on_deadline(void *opaque)
{
    give_up(opaque, -ETIMEDOUT);
}

static int coroutine_fn wait_for_lock(struct lock_wait *wait, AioContext *ctx, int64_t deadline_ns)
{
    int r;

    if (wait->over)
        return wait->result;
    aio_timer_init(ctx, &wait->deadline, on_deadline, wait);
    if (deadline_ns != INT64_MAX)
        timer_mod_ns(&wait->deadline, deadline_ns);
    wait->sleeps = true;
    r = co_wait(&wait->wait, "lock between shards");
    timer_del(&wait->deadline);
    return r < 0 ? r : wait->result;
}

int coroutine_fn lock_take(struct mesh *mesh, const struct shard_mutex *mutex, int64_t deadline_ns,
    enum lock_op op, struct lock_wait **ret_wait)
{
    struct lock_wait wait = {.wait.withdraw = withdraw, .co = coroutine_self()};
    int r;

    if (!mesh->locks || mutex->home >= mesh->seg.geometry.n_shards)
        return -ENODEV;
    if (find_hold(mesh, mutex, wait.co))
        return -EDEADLK;
    wait.hold = hold_new(mesh, mutex, op);
    if (!wait.hold)
        return -ENOMEM;
    wait.hold->wait = &wait;
    *ret_wait = &wait;
    co_pin("a lock between shards"); /* the books of this process have its address */
    ask_for_lock(wait.hold);
    r = wait_for_lock(&wait, mesh->ctx, deadline_ns);
    if (r < 0 && r != -EOWNERDEAD)
        co_unpin();
    *ret_wait = NULL;
    return r;
}

void lock_end_wait(struct lock_wait *wait)
{
    if (wait)
        give_up(wait, -ECANCELED);
}

int coroutine_fn shard_mutex_lock(
    struct mesh *mesh, const struct shard_mutex *mutex, int64_t deadline_ns)
{
    struct lock_wait *wait;

    return lock_take(mesh, mutex, deadline_ns, LOCK_OP_ACQUIRE, &wait);
}

int coroutine_fn shard_mutex_trylock(
    struct mesh *mesh, const struct shard_mutex *mutex, int64_t deadline_ns)
{
    struct lock_wait *wait;

    return lock_take(mesh, mutex, deadline_ns, LOCK_OP_TRY, &wait);
}

int shard_mutex_unlock(struct mesh *mesh, const struct shard_mutex *mutex)
{
    struct lock_hold *hold = find_hold(mesh, mutex, coroutine_self());

    if (!hold || hold->state != HOLD_HELD)
        return -EPERM;
    let_go(hold);
    co_unpin();
    return 0;
}

int shard_mutex_consistent(struct mesh *mesh, const struct shard_mutex *mutex)
{
    struct lock_hold *hold = find_hold(mesh, mutex, coroutine_self());

    if (!hold || hold->state != HOLD_HELD)
        return -EPERM;
    if (!hold->marked)
        return -EINVAL;
    hold->marked = false;
    hold->let_go = LOCK_OP_RELEASE_WHOLE;
    return 0;
}

/* ---- coroutines ---- */

static struct lock_hold *first_of(const struct lock_end *end, const Coroutine *co)
{
    for (uint32_t bucket = 0; end && end->n_holds && bucket < LOCK_BUCKETS; bucket++)
        for (struct lock_hold *hold = end->buckets[bucket].first; hold; hold = hold->next)
            if (hold->co == co)
                return hold;
    return NULL;
}

bool shard_mutex_is_held_by(const struct mesh *mesh, const Coroutine *co)
{
    return first_of(mesh->locks, co) != NULL;
}

void lock_drop_all(struct mesh *mesh, const Coroutine *co)
{
    struct lock_hold *hold;

    while ((hold = first_of(mesh->locks, co))) {
        hold->let_go = LOCK_OP_RELEASE_BROKEN;
        let_go(hold);
        co_unpin();
    }
}

/* ---- the built-in method ---- */

int coroutine_fn lock_serve(struct service_call *call)
{
    struct mesh *mesh = call->mesh;
    struct lock_args args;
    uint32_t answer;
    int r;

    if (!mesh->locks || call->from >= mesh->seg.geometry.n_shards || call->args_len != sizeof(args))
        return -EINVAL;
    memcpy(&args, call->args, sizeof(args));
    if (args.op == LOCK_OP_GRANT)
        r = lock_on_grant(mesh, call->from, &args) ? LOCK_TAKEN : LOCK_UNKNOWN;
    else
        r = lock_home_serve(mesh->locks->home, call->from, &args);
    if (r < 0)
        return r;
    answer = (uint32_t)r;
    return service_reply(call, &answer, sizeof(answer));
}

/* ---- deaths and life ---- */

static void on_home_died(struct lock_hold *hold, bool failed)
{
    if (hold->state != HOLD_IN_LINE)
        return; /* a call that is under way is judged itself */
    if (failed)
        refuse(hold, -EHOSTDOWN);
    else
        ask_for_lock(hold);
}

void lock_judge_peer(struct mesh *mesh, uint32_t peer, uint32_t incarnation, bool failed)
{
    struct lock_end *end = mesh->locks;

    if (!end)
        return;
    lock_home_judge(end->home, peer, incarnation, failed);
    for (uint32_t bucket = 0; end->n_holds && bucket < LOCK_BUCKETS; bucket++)
        for (struct lock_hold *hold = end->buckets[bucket].first, *next; hold; hold = next) {
            next = hold->next;
            if (hold->mutex.home == peer)
                on_home_died(hold, failed);
        }
}

/* Orphans make no calls any more, so nobody hears of a release. */
void lock_orphaned(struct mesh *mesh)
{
    struct lock_end *end = mesh->locks;

    for (uint32_t bucket = 0; end && end->n_holds && bucket < LOCK_BUCKETS; bucket++)
        for (struct lock_hold *hold = end->buckets[bucket].first, *next; hold; hold = next) {
            next = hold->next;
            if (hold->state == HOLD_IN_LINE)
                refuse(hold, -EHOSTDOWN);
        }
}

int lock_end_new(struct mesh *mesh, struct lock_end **ret_end)
{
    struct lock_end *end = calloc(1, sizeof(*end));
    int r = end ? 0 : -ENOMEM;

    if (end)
        end->mesh = mesh;
    if (r == 0)
        r = lock_home_new(mesh, &end->home);
    if (r < 0) {
        free(end);
        return r;
    }
    *ret_end = end;
    return 0;
}

void lock_end_free(struct lock_end *end)
{
    if (!end)
        return;
    for (uint32_t bucket = 0; bucket < LOCK_BUCKETS; bucket++)
        while (end->buckets[bucket].first)
            forget(end->buckets[bucket].first);
    lock_home_free(end->home);
    free(end);
}
