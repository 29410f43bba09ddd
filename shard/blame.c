/* SPDX-License-Identifier: MIT */
/*
 * The word in which a process says what it runs names a call's slot in its caller's part, or one of
 * its own ledger, and that has the origin. So nothing of the dead one's private memory is needed,
 * and what is read has been checked: it is of fixed size, its indices lie within the tables, and
 * the slot is still that call's. A ledger's is, for its shard hears of the death after this.
 *
 * The supervisor reaps each death once, so each crash is charged once, whoever dies meanwhile.
 *
 * Orderings    first              then              ordered by               if broken
 *   BLAME    a row's fields     its who, used;    store release, acquire   a crash is not seen, or
 *                               n_blamed          by who looks             another's is
 *   ROW      see ipc/gateway/clients.c
 */
#include "shard/blame.h"

#include <stddef.h>

#include "runtime/atomic.h"
#include "shard/mesh_inside.h"

#define MS        INT64_C(1000000)
#define FORGET_NS (INT64_C(24) * 60 * 60 * 1000 * MS)

/* ---- who it was ---- */

static uint64_t origin_of_crash(const struct segment *seg, const struct peer_control *control)
{
    uint32_t home = control->crashed_home, caller = control->crashed_peer;
    uint32_t slot = control->crashed_slot;
    const struct ledger_slot *request;
    const struct call_slot *call;

    if (control->crashed_generation == 0) /* else the three make sense: death.c */
        return 0;
    if (home == caller) {
        request = segment_ledger(seg, home, slot);
        return request->word >> 8 == control->crashed_generation
                   ? origin_of_client(home, request->client, request->client_generation)
                   : 0;
    }
    call = segment_call(seg, caller, home, slot);
    return word_generation(call->word) == control->crashed_generation ? call->origin : 0;
}

static bool find_client_user(const struct segment *seg, uint64_t origin, uint32_t *ret_uid)
{
    uint32_t client = origin_client(origin);
    const struct client_row *row;
    uint64_t generation;

    if (client >= seg->geometry.n_clients)
        return false;
    row = segment_client(seg, client);
    generation = client_generation(atomic_load_acquire(&row->word)); /* ROW */
    *ret_uid = row->uid;
    return (generation & ORIGIN_ID_MASK) == (origin & ORIGIN_ID_MASK);
}

static bool find_session_user(const struct segment *seg, uint64_t origin, uint32_t *ret_uid)
{
    uint32_t n = segment_sessions_of(seg->geometry.n_fates);

    for (uint32_t i = 0; i < n; i++) {
        const struct session_row *row = segment_session(seg, i);
        if (atomic_load_acquire(&row->number) != origin_session(origin)) /* ROW */
            continue;
        *ret_uid = row->uid;
        return true;
    }
    return false;
}

/* ---- users ---- */

static struct client_user *find_user(const struct segment *seg, uint32_t uid)
{
    struct client_user *users = segment_client_users(seg);

    for (uint32_t i = 0; i < SEGMENT_CLIENT_USERS; i++)
        if (atomic_load_acquire(&users[i].used) && /* BLAME */
            atomic_load_relaxed(&users[i].uid) == uid)
            return &users[i];
    return NULL;
}

/* A free row, or the one whose wait is over first. */
static struct client_user *take_user(const struct segment *seg)
{
    struct client_user *users = segment_client_users(seg), *room = users;

    for (uint32_t i = 0; i < SEGMENT_CLIENT_USERS; i++) {
        if (!users[i].used)
            return &users[i];
        if (users[i].until_ns < room->until_ns)
            room = &users[i];
    }
    return room;
}

static uint32_t doubled(uint32_t wait_ms)
{
    if (wait_ms == 0)
        return BLAME_WAIT_FIRST_MS;
    return wait_ms < BLAME_WAIT_MOST_MS / 2 ? wait_ms * 2 : BLAME_WAIT_MOST_MS;
}

static void charge_user(const struct segment *seg, uint32_t uid, int64_t now_ns)
{
    struct client_user *user = find_user(seg, uid);

    if (!user || (int64_t)user->until_ns + FORGET_NS < now_ns) {
        user = user ? user : take_user(seg);
        atomic_store_release(&user->used, 0u); /* BLAME */
        atomic_store_relaxed(&user->uid, uid);
        atomic_store_relaxed(&user->crashes, 0u);
        atomic_store_relaxed(&user->wait_ms, 0u);
    }
    atomic_store_relaxed(&user->crashes, user->crashes + 1);
    atomic_store_relaxed(&user->wait_ms, doubled(user->wait_ms));
    atomic_store_relaxed(&user->until_ns, (uint64_t)(now_ns + user->wait_ms * MS));
    atomic_store_release(&user->used, 1u); /* BLAME */
}

int64_t blame_until_ns(const struct segment *seg, uint32_t uid)
{
    const struct client_user *user = find_user(seg, uid);

    return user ? (int64_t)atomic_load_relaxed(&user->until_ns) : 0;
}

/* ---- clients and sessions ---- */

static struct culprit *find_culprit(const struct segment *seg, uint64_t who)
{
    struct culprit *culprits = segment_culprits(seg);

    for (uint32_t i = 0; who != 0 && i < SEGMENT_CULPRITS; i++)
        if (atomic_load_acquire(&culprits[i].who) == who) /* BLAME */
            return &culprits[i];
    return NULL;
}

/* A free row, or the one of which nothing was heard for longest. */
static struct culprit *take_culprit(const struct segment *seg)
{
    struct culprit *culprits = segment_culprits(seg), *room = culprits;

    for (uint32_t i = 0; i < SEGMENT_CULPRITS; i++) {
        if (!culprits[i].who)
            return &culprits[i];
        if (culprits[i].last_ns < room->last_ns)
            room = &culprits[i];
    }
    return room;
}

static void charge_culprit(
    const struct segment *seg, uint64_t origin, uint32_t dead, uint32_t uid, int64_t now_ns)
{
    uint64_t who = culprit_of(origin);
    struct culprit *culprit = find_culprit(seg, who);
    uint32_t home = origin & ORIGIN_CLIENT ? origin_home(origin) : segment_gateway(seg);

    if (!culprit) {
        culprit = take_culprit(seg);
        atomic_store_release(&culprit->who, UINT64_C(0)); /* BLAME */
        atomic_store_relaxed(&culprit->crashes, 0u);
    }
    atomic_store_relaxed(&culprit->last_ns, (uint64_t)now_ns);
    atomic_store_relaxed(&culprit->crashes, culprit->crashes + 1);
    atomic_store_relaxed(&culprit->home, home);
    atomic_store_relaxed(&culprit->shard, dead);
    atomic_store_relaxed(&culprit->uid, uid);
    atomic_store_release(&culprit->who, who); /* BLAME */
}

uint32_t blame_crashes(const struct segment *seg, uint64_t origin)
{
    const struct culprit *culprit = find_culprit(seg, culprit_of(origin));

    return culprit ? atomic_load_relaxed(&culprit->crashes) : 0;
}

bool blame_is_settled(const struct segment *seg, uint64_t origin)
{
    const struct culprit *culprit = find_culprit(seg, culprit_of(origin));
    const struct peer_control *control;

    if (!culprit)
        return true;
    control = segment_control(seg, atomic_load_relaxed(&culprit->shard));
    return atomic_load_relaxed(&control->incarnation) !=
           atomic_load_relaxed(&control->crashed_incarnation);
}

/* ---- a crash ---- */

void blame_note(const struct segment *seg, uint32_t dead, int64_t now_ns)
{
    uint64_t *n_blamed = &segment_supervisor(seg)->n_blamed;
    uint64_t origin = origin_of_crash(seg, segment_control(seg, dead));
    uint32_t uid;

    /* One of whom nothing is left, not even whose it was, cannot be charged. */
    if (!origin || !(origin & ORIGIN_CLIENT ? find_client_user(seg, origin, &uid)
                                            : find_session_user(seg, origin, &uid)))
        return;
    charge_culprit(seg, origin, dead, uid, now_ns);
    charge_user(seg, uid, now_ns);
    atomic_store_release(n_blamed, *n_blamed + 1); /* BLAME */
}

uint64_t blame_seen(const struct segment *seg)
{
    return atomic_load_acquire(&segment_supervisor(seg)->n_blamed); /* BLAME */
}
