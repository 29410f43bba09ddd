/* SPDX-License-Identifier: MIT */
/*
 * A lock stands in its home's table as long as it is held or marked, once. A holder whose death its
 * home has judged has given it up: if it stands there still, whoever waits does so for ever.
 */
#include "shard/audit_inside.h"

#define LOCKS_MAX 4096u /* of a home: each is compared with each, and more is no table */

static uint32_t n_locks(const struct audit *a, uint32_t home)
{
    uint32_t n = home == a->gateway ? 0 : view_column_n_inner(&a->lock, home);

    return n < LOCKS_MAX ? n : LOCKS_MAX;
}

static uint64_t word_of(const struct audit *a, uint32_t home, uint32_t record)
{
    return AUDIT_LOAD(a, lock, home, 0, record, 0);
}

/* ---- one record a lock ---- */

static bool is_twin(const struct audit *a, uint32_t home, uint32_t one, uint32_t other)
{
    return word_of(a, home, one) & LOCK_USED && word_of(a, home, other) & LOCK_USED &&
           AUDIT_LOAD(a, lock_id, home, 0, one, 0) == AUDIT_LOAD(a, lock_id, home, 0, other, 0);
}

static bool each_has_one_record(struct audit *a, struct audit_subject of, struct audit_finding *ret)
{
    *ret = (struct audit_finding){
        .account = AUDIT_LOCK, .from = of.peer, .to = of.peer, .expected = 1, .found = 2};
    for (uint32_t one = 0; one < n_locks(a, of.peer); one++)
        for (uint32_t other = one + 1;
             word_of(a, of.peer, one) & LOCK_USED && other < n_locks(a, of.peer); other++)
            if (is_twin(a, of.peer, one, other))
                return false;
    return true;
}

/* ---- holders ---- */

/* The home's own predecessor is dead once the home is up, any other once its death is judged. */
static uint64_t first_alive(const struct audit *a, uint32_t home, uint32_t peer)
{
    return peer == home ? AUDIT_OF(a, own_incarnation, home)
                        : AUDIT_LOAD(a, judged, home, peer, 0, 0);
}

static bool holder_is_right(
    const struct audit *a, uint32_t home, uint32_t record, uint64_t word, struct audit_finding *ret)
{
    uint32_t nth = word & LOCK_SECOND ? 1 : 0;
    uint32_t peer = (uint32_t)AUDIT_LOAD(a, lock_peer, home, 0, record, nth);
    uint64_t incarnation = AUDIT_LOAD(a, lock_incarnation, home, 0, record, nth);
    uint64_t newest = peer < a->gateway ? AUDIT_CONTROL(a, incarnation, peer) : 0;

    *ret = (struct audit_finding){.account = AUDIT_LOCK_HOLDER,
        .from = home,
        .to = peer < a->gateway ? peer : home,
        .expected = newest,
        .found = incarnation};
    return peer < a->gateway && incarnation <= newest && incarnation >= first_alive(a, home, peer);
}

static bool holders_are_right(struct audit *a, struct audit_subject of, struct audit_finding *ret)
{
    for (uint32_t record = 0; audit_is_up(a, of.peer) && record < n_locks(a, of.peer); record++) {
        uint64_t word = word_of(a, of.peer, record);
        if (word & LOCK_USED && word & LOCK_HELD &&
            !holder_is_right(a, of.peer, record, word, ret) && word_of(a, of.peer, record) == word)
            return false;
    }
    return true;
}

void audit_locks(struct audit *a, uint32_t home)
{
    audit_look(a, (struct audit_subject){home, home}, each_has_one_record);
    audit_look(a, (struct audit_subject){home, home}, holders_are_right);
    for (uint32_t record = 0; record < n_locks(a, home); record++)
        a->result->locks += (word_of(a, home, record) & LOCK_USED) != 0;
}
