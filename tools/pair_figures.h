/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * pair_figures - what is told of each ordered pair of peers, for `sherd queues` and its manual
 *
 * A sender counts messages put into a ring and doorbells rung, its receiver what it found there; so
 * each figure stands in the struct pair_stats of one side.
 */

/* X(field of struct pair_stats, whose, text) */
#define PAIR_FIGURES(X)                                                                    \
    X(pushed, sender, "messages put into the ring")                                        \
    X(popped, receiver, "messages taken from it")                                          \
    X(high_water, receiver, "most messages found in it at once")                           \
    X(dropped, receiver, "messages taken and dropped: stale, double or malformed")         \
    X(rings_sent, sender, "rings that woke the receiver, a system call each")              \
    X(rings_saved, sender, "rings not needed, since the receiver was awake")               \
    X(calls_submitted, sender, "calls published: as many as have ended and are under way") \
    X(calls_started, receiver, "methods begun for the sender")                             \
    X(slot_waits, sender, "calls that waited until an earlier one gave back its slot")
