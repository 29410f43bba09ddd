/* SPDX-License-Identifier: MIT */
/*
 * bitmap - rings with a bitmap of senders, when senders and the receiver die at any step
 *
 * A sender publishes in its ring, sets its bit in the receiver's bitmap, rings. The receiver takes
 * a bit away and then empties that ring. After a sender's death the supervisor sets its bit and
 * rings; after the receiver's, a replacement begins with all bits set. A ring of the doorbell is
 * taken as reliable here: that is doorbell.pml's claim.
 *
 * Claim: when nothing moves any more, all that was published has been taken, whoever has died.
 *
 * Memory is as in doorbell.pml: stores wait in a buffer, read-modify-writes empty it first.
 *
 * Known-wrong twins, each of which must fail:
 *   BIT_BEFORE_TAIL          the sender sets its bit, then publishes
 *   TAIL_BEFORE_BIT_TAKEN    the receiver looks at the tail, then takes the bit away
 *   PLAIN_BIT                bits change by load and store instead of read-modify-write
 *   KNOCK_WITHOUT_BIT        the supervisor rings for the dead, and sets no bit
 *   START_WITHOUT_BITS       a replacement begins with the bits that its predecessor left
 */
#define SENDERS  2
#define MESSAGES 2
#define DEATHS   2 /* of the receiver; a sender dies once */

/* Who stores: senders are 0 and 1. */
#define RECEIVER 2
#define WRITERS  3

/* What is stored where. */
#define BITMAP 0
#define TAIL   1 /* of sender s: TAIL + s; counts its messages */
#define WORDS  3

byte memory[WORDS];
chan buffer[WRITERS] = [4] of { byte, byte }; /* address, value */
bool rung;

bool through[SENDERS]; /* published and rang for all it has */
bool dead[SENDERS];    /* crashed; what it stored has reached memory */
bool knocked[SENDERS]; /* the supervisor is done with its death */
byte taken[SENDERS];   /* this many messages; the receiver's head, which outlives it */

inline store(where, value)
{
    buffer[me] ! where, value
}

inline load(where, into)
{
    atomic {
        assert(!(buffer[me] ?? [eval(where), _]));
        into = memory[where]
    }
}

inline set_bit(who)
{
#ifdef PLAIN_BIT
    load(BITMAP, bits);
    store(BITMAP, bits | (1 << who));
    empty(buffer[me])
#else
    atomic {
        empty(buffer[me]) -> memory[BITMAP] = memory[BITMAP] | (1 << who)
    }
#endif
}

inline clear_bit(who)
{
#ifdef PLAIN_BIT
    load(BITMAP, bits);
    store(BITMAP, bits & ~(1 << who));
    empty(buffer[me])
#else
    atomic {
        empty(buffer[me]) -> memory[BITMAP] = memory[BITMAP] & ~(1 << who)
    }
#endif
}

proctype store_buffer(byte me)
{
    byte where, value;
end:
    do
    :: atomic { buffer[me] ? where, value -> memory[where] = value }
    od
}

inline may_die()
{
    if
    :: true
    :: deaths < DEATHS -> deaths++; goto died
    fi
}

proctype sender(byte me)
{
    byte sent, bits, deaths;

    do
    :: sent == MESSAGES -> break
    :: else ->
        may_die();
        sent++;
#ifdef BIT_BEFORE_TAIL
        set_bit(me);
        may_die();
        store(TAIL + me, sent);
#else
        store(TAIL + me, sent);
        may_die();
        set_bit(me);
#endif
        may_die();
        rung = true
    od;
    through[me] = true;
    goto end;
died:
    empty(buffer[me]);
    dead[me] = true;
end:
    skip
}

inline knock_for(who)
{
#ifndef KNOCK_WITHOUT_BIT
    atomic { memory[BITMAP] = memory[BITMAP] | (1 << who) };
#endif
    rung = true;
    knocked[who] = true
}

proctype supervisor()
{
end:
    do
    :: dead[0] && !knocked[0] -> knock_for(0)
    :: dead[1] && !knocked[1] -> knock_for(1)
    od
}

inline empty_ring_of(who)
{
    load(BITMAP, seen);
    if
    :: seen & (1 << who) ->
#ifdef TAIL_BEFORE_BIT_TAKEN
        load(TAIL + who, tail);
        may_die();
        clear_bit(who);
#else
        clear_bit(who);
        may_die();
        load(TAIL + who, tail);
#endif
        may_die();
        taken[who] = tail
    :: else
    fi
}

proctype receiver()
{
    byte me = RECEIVER, bits, seen, tail, deaths;

end_asleep:
    do
    :: atomic { rung -> rung = false };
        empty_ring_of(0);
        empty_ring_of(1)
    od;
died:
    empty(buffer[me]);
#ifndef START_WITHOUT_BITS
    atomic { memory[BITMAP] = 3 };
#endif
    rung = true;
    goto end_asleep
}

/* Runs when nothing else can. */
proctype judge()
{
    byte who;

end:
    timeout;
    do
    :: who == SENDERS -> break
    :: else ->
        assert(through[who] || knocked[who]);
        assert(taken[who] == memory[TAIL + who]);
        who++
    od
}

init
{
    byte who;

    atomic {
        do
        :: who == WRITERS -> break
        :: else -> run store_buffer(who); who++
        od;
        run sender(0);
        run sender(1);
        run receiver();
        run supervisor();
        run judge()
    }
}
