/* SPDX-License-Identifier: MIT */
#include "runtime/lockcnt.h"
/*
 * The word is the count times 4, plus the state of the lock: free, locked, or contended, which is
 * locked while some may sleep. Every change is one compare-and-swap of the whole, so that a visit
 * can begin only where the lock allows it, and the last one turns into the lock in one step.
 *
 * Who unlocks a contended lock frees it and wakes one sleeper, which has the baton then: the lock
 * shows free, so no later unlock would wake the others. It either takes the lock as contended, or
 * goes without it (a visitor that found the count raised) and wakes the next one. Nobody who has
 * slept may do neither. The price is a wake for nobody now and then.
 *
 * The futex is not a private one, so that the word works in memory shared between processes.
 *
 * Orderings        first               then             ordered by               if broken
 *   GUESS  any change of the   the cas that     none: the cas checks it  -
 *          word                builds on it
 *   LAST   what visitors did   a count of 0     rmw in dec, acquire in   the holder frees what a
 *                                               count                    visitor still reads
 */
#include <assert.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/atomic.h"

#define FREE      0u
#define LOCKED    1u
#define CONTENDED 2u
#define STATE     3u
#define VISITOR   4u

static void wake_one(LockCnt *cnt)
{
    syscall(SYS_futex, &cnt->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static bool is_visited(uint32_t word)
{
    return word >= VISITOR;
}

static bool is_free(uint32_t word)
{
    return (word & STATE) == FREE;
}

/* Sleeps until the word, which was locked, has changed; returns it. The baton may be the caller's
 * from here on. */
static uint32_t sleep_on(LockCnt *cnt, uint32_t word, bool *has_baton)
{
    if ((word & STATE) == LOCKED) {
        uint32_t contended = (word & ~STATE) | CONTENDED;

        if (!atomic_cas_seq(&cnt->word, &word, contended))
            return word;
        word = contended;
    }
    *has_baton = true; /* an interrupted sleep is taken for a wake */
    syscall(SYS_futex, &cnt->word, FUTEX_WAIT, word, NULL, NULL, 0);
    return atomic_load_relaxed(&cnt->word); /* GUESS */
}

/* The state in which one who has it must take the lock. */
static uint32_t taken(bool has_baton)
{
    return has_baton ? CONTENDED : LOCKED;
}

static void pass_baton(LockCnt *cnt, bool has_baton)
{
    if (has_baton)
        wake_one(cnt);
}

void lockcnt_init(LockCnt *cnt)
{
    *cnt = (LockCnt){.word = 0};
}

void lockcnt_destroy(LockCnt *cnt)
{
    assert(cnt->word == 0);
}

/* ---- visitors ---- */

void lockcnt_inc(LockCnt *cnt)
{
    uint32_t word = atomic_load_relaxed(&cnt->word); /* GUESS */
    bool has_baton = false;

    do {
        while (!is_visited(word) && !is_free(word))
            word = sleep_on(cnt, word, &has_baton);
        assert(word < UINT32_MAX - VISITOR);
    } while (!atomic_cas_seq(&cnt->word, &word, word + VISITOR));
    pass_baton(cnt, has_baton);
}

void lockcnt_dec(LockCnt *cnt)
{
    uint32_t before = atomic_add_seq(&cnt->word, -VISITOR); /* LAST */

    assert(is_visited(before));
}

/* Counts the only visitor out into the lock. False where it is not the only one, with *ret_word
 * what the word is then. */
static bool dec_last(LockCnt *cnt, uint32_t *ret_word)
{
    uint32_t word = atomic_load_relaxed(&cnt->word); /* GUESS */
    bool has_baton = false;

    for (;;) {
        assert(is_visited(word));
        if (is_visited(word - VISITOR))
            break;
        if (!is_free(word))
            word = sleep_on(cnt, word, &has_baton);
        else if (atomic_cas_seq(&cnt->word, &word, taken(has_baton)))
            return true;
    }
    pass_baton(cnt, has_baton);
    *ret_word = word;
    return false;
}

bool lockcnt_dec_and_lock(LockCnt *cnt)
{
    uint32_t word;

    while (!dec_last(cnt, &word))
        while (is_visited(word - VISITOR))
            if (atomic_cas_seq(&cnt->word, &word, word - VISITOR))
                return false;
    return true;
}

bool lockcnt_dec_if_lock(LockCnt *cnt)
{
    uint32_t word;

    return dec_last(cnt, &word);
}

/* ---- the lock ---- */

void lockcnt_lock(LockCnt *cnt)
{
    uint32_t word = atomic_load_relaxed(&cnt->word); /* GUESS */
    bool has_baton = false;

    do {
        while (!is_free(word))
            word = sleep_on(cnt, word, &has_baton);
    } while (!atomic_cas_seq(&cnt->word, &word, word | taken(has_baton)));
}

void lockcnt_inc_and_unlock(LockCnt *cnt)
{
    uint32_t word = atomic_load_relaxed(&cnt->word); /* GUESS */

    do {
        assert(!is_free(word) && word < UINT32_MAX - VISITOR);
    } while (!atomic_cas_seq(&cnt->word, &word, (word & ~STATE) + VISITOR));
    pass_baton(cnt, (word & STATE) == CONTENDED);
}

void lockcnt_unlock(LockCnt *cnt)
{
    uint32_t before = atomic_and_seq(&cnt->word, ~STATE);

    assert(!is_free(before));
    pass_baton(cnt, (before & STATE) == CONTENDED);
}

uint32_t lockcnt_count(const LockCnt *cnt)
{
    return atomic_load_acquire(&cnt->word) / VISITOR; /* LAST */
}
