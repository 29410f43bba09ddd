/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * lock_inside - what the two sides of a lock share: lock.c (who asks), lock_home.c (the home)
 *
 * Concurrency: owner loop
 */
#include "shard/builtin.h"
#include "shard/lock.h"
#include "shard/mesh_inside.h"
#include "shard/serve.h"

#define LOCK_BUCKETS     64u
#define LOCK_WAITERS_MAX 65536u            /* in all lines of a home */
#define LOCK_RETRY_NS    INT64_C(10000000) /* where the other side had no memory */

enum lock_op {
    LOCK_OP_ACQUIRE,
    LOCK_OP_TRY,
    LOCK_OP_RELEASE,        /* by the holder, or by who stands in line and no longer wants it */
    LOCK_OP_RELEASE_WHOLE,  /* and what it guards is whole */
    LOCK_OP_RELEASE_BROKEN, /* and it is not: as if the owner had died */
    LOCK_OP_GRANT,          /* from the home: it is yours */
};

/* Arguments of the built-in method. incarnation is that of the shard which asked for the lock. */
struct lock_args {
    uint64_t id;
    uint64_t token; /* one for each lock() */
    uint32_t op;    /* enum lock_op */
    uint32_t incarnation;
    uint32_t died; /* LOCK_OP_GRANT: 1 where it is marked */
    uint32_t spare;
};

/* What comes back, as a uint32_t. */
enum lock_answer {
    LOCK_GRANTED,
    LOCK_GRANTED_MARKED, /* a holder before died with it */
    LOCK_IN_LINE,
    LOCK_RELEASED, /* or was not known */
    LOCK_TAKEN,    /* LOCK_OP_GRANT: the token is known here */
    LOCK_UNKNOWN,  /* LOCK_OP_GRANT: it is not */
};

/* ---- lock.c ---- */

struct lock_end;

/* 0 or -ENOMEM. What stands in the table of a predecessor is taken over. */
int lock_end_new(struct mesh *mesh, struct lock_end **ret_end);
void lock_end_free(struct lock_end *end);

/* A peer died, or was given up. */
void lock_judge_peer(struct mesh *mesh, uint32_t peer, uint32_t incarnation, bool failed);

/* The supervisor is gone: who stands in line is told -EHOSTDOWN. */
void lock_orphaned(struct mesh *mesh);

/* As shard_mutex_lock(), or as shard_mutex_trylock(). *ret_wait is there while it waits, for
 * lock_end_wait(). */
struct lock_wait;
int coroutine_fn lock_take(struct mesh *mesh, const struct shard_mutex *mutex, int64_t deadline_ns,
    enum lock_op op, struct lock_wait **ret_wait);

/* The wait ends with -ECANCELED. NULL: nothing. */
void lock_end_wait(struct lock_wait *wait);

/* Lets go what the running coroutine still holds, marked. */
void lock_drop_all(struct mesh *mesh, const Coroutine *co);

/* Whether the token is known here; if so its lock is held from now on. */
bool lock_on_grant(struct mesh *mesh, uint32_t home, const struct lock_args *args);

/* ---- lock_home.c ---- */

struct lock_home;

int lock_home_new(struct mesh *mesh, struct lock_home **ret_home);
void lock_home_free(struct lock_home *home);

/* One of enum lock_answer, or -EBUSY, -ENOSPC, -ENOMEM, -EINVAL. */
int lock_home_serve(struct lock_home *home, uint32_t from, const struct lock_args *args);
void lock_home_judge(struct lock_home *home, uint32_t peer, uint32_t incarnation, bool failed);
