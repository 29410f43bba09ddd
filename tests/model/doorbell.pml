/* SPDX-License-Identifier: MIT */
/*
 * doorbell - the notify protocol of runtime/doorbell.h, with senders that die or stop at any step
 *
 * Each sender publishes messages and rings; the sleeper sleeps when nothing has rung. A sender may
 * crash at every step: the supervisor sees that it is gone and knocks. Or it may stop for ever (a
 * debugger, SIGSTOP), which nobody sees: then nothing is promised for its own messages, and all for
 * those of the others.
 *
 * Claim: when nothing moves any more, the sleeper has looked since the last message of each sender
 * that is through or was knocked for.
 *
 * Memory is as x86 has it: a store waits in its processor's buffer, in order, and reaches memory at
 * any later time; a load looks into memory; a full barrier waits until the buffer is empty. That is
 * the reordering that hurts here (store, then load). Weaker machines also reorder stores, and loads;
 * the protocol orders those by its release store and its two barriers, which this model grants. A
 * system call on the eventfd takes its lock, and so empties the buffer too.
 *
 * The sleeper looks at `notified` alone before it sleeps. A loop that also looks at its queues, as
 * an AioContext may, sees more than this one and loses no more.
 *
 * Known-wrong twins, each of which must fail:
 *   WITHOUT_SENDER_BARRIER   between notified = 1 and the look at notify_me
 *   WITHOUT_SLEEPER_BARRIER  between raising notify_me and the look at notified
 *   WITHOUT_ACCEPT_BARRIER   between notified = 0 and the look for work
 *   ONE_RING_FOR_ALL         the eventfd is written only by who found notified at 0
 *   WITHOUT_KNOCK            the supervisor does nothing for the dead
 */
#define SENDERS  2
#define MESSAGES 2

/* Who stores: senders are 0 and 1. */
#define SLEEPER    2
#define SUPERVISOR 3
#define WRITERS    4

/* What is stored where. */
#define NOTIFY_ME 0
#define NOTIFIED  1
#define TAIL      2 /* of sender s: TAIL + s; counts its messages */
#define WORDS     4

byte memory[WORDS];
chan buffer[WRITERS] = [4] of { byte, byte }; /* address, value */
bool eventfd;                                 /* readable */

bool through[SENDERS]; /* published and rang for all it has */
bool dead[SENDERS];    /* crashed; what it stored has reached memory */
bool knocked[SENDERS]; /* the supervisor is done with its death */
byte taken[SENDERS];   /* the sleeper's last look: this many messages */

inline store(where, value)
{
    buffer[me] ! where, value
}

/* Nobody here loads what stands in its own buffer, so a load need not look there. */
inline load(where, into)
{
    atomic {
        assert(!(buffer[me] ?? [eval(where), _]));
        into = memory[where]
    }
}

inline full_barrier()
{
    empty(buffer[me])
}

inline write_eventfd()
{
    atomic {
        empty(buffer[me]) -> eventfd = true
    }
}

proctype store_buffer(byte me)
{
    byte where, value;
end:
    do
    :: atomic { buffer[me] ? where, value -> memory[where] = value }
    od
}

inline may_be_gone()
{
    if
    :: true
    :: goto gone
    fi
}

proctype sender(byte me)
{
    byte sent, asleep, before;

    do
    :: sent == MESSAGES -> break
    :: else ->
        may_be_gone();
        sent++;
        store(TAIL + me, sent);
        may_be_gone();
#ifdef ONE_RING_FOR_ALL
        atomic {
            empty(buffer[me]) -> before = memory[NOTIFIED];
            memory[NOTIFIED] = 1
        }
#else
        store(NOTIFIED, 1);
#endif
        may_be_gone();
#ifndef WITHOUT_SENDER_BARRIER
        full_barrier();
#endif
        may_be_gone();
        load(NOTIFY_ME, asleep);
        may_be_gone();
        if
        :: asleep && !before -> write_eventfd()
        :: else
        fi
    od;
    through[me] = true;
    goto end;
gone:
    if
    :: empty(buffer[me]) -> dead[me] = true
    :: true
    fi;
end:
    skip
}

inline knock_for(who)
{
#ifndef WITHOUT_KNOCK
    store(NOTIFIED, 1);
    write_eventfd();
#endif
    knocked[who] = true
}

proctype supervisor()
{
    byte me = SUPERVISOR;
end:
    do
    :: dead[0] && !knocked[0] -> knock_for(0)
    :: dead[1] && !knocked[1] -> knock_for(1)
    od
}

inline look_for_work()
{
    load(TAIL + 0, taken[0]);
    load(TAIL + 1, taken[1])
}

proctype sleeper()
{
    byte me = SLEEPER, rung;

    do
    :: store(NOTIFY_ME, 1);
#ifndef WITHOUT_SLEEPER_BARRIER
        full_barrier();
#endif
        load(NOTIFIED, rung);
        if
        :: rung
        :: else ->
end_asleep:
            eventfd
        fi;
        store(NOTIFY_ME, 0);
        /* The eventfd is emptied at some time before the next sleep: tried at both ends. */
        if
        :: eventfd = false
        :: true
        fi;
        store(NOTIFIED, 0);
#ifndef WITHOUT_ACCEPT_BARRIER
        full_barrier();
#endif
        look_for_work();
        eventfd = false
    od
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
        assert(!(through[who] || knocked[who]) || taken[who] == memory[TAIL + who]);
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
        run sleeper();
        run supervisor();
        run judge()
    }
}
