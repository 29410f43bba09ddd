/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * round - whose turn it is at one lane of a shard: lines of sessions, taken from one after the other
 *
 * Why:         sessions share a shard evenly, however many requests each has there.
 * Use:         line_join(), then round_enter(); round_turn() is the line to take its first place
 *              from, by line_leave(). A line that is held back leaves the round and keeps its
 *              places.
 * Concurrency: owner loop
 * Lifetime:    the round owns nothing: places are members of what waits, lines of their sessions.
 *              All of them of zero bytes are empty. A line without places is in no round.
 *
 *     round -> line of session A -> line of session C -> (round)
 *                   | a1 a2 a3           | c1
 */
#include <stdbool.h>
#include <stddef.h>

struct session;

/* Of one who waits. */
struct line_place {
    struct line_place *prev, *next;
};

struct line {
    struct session *session;
    struct line_place *first, *last;
    struct line *prev, *next; /* in the round; NULL: not in it */
};

struct round {
    struct line *turn; /* NULL: empty */
};

/* The line whose turn it is, and it is the next one's then. NULL: nobody is in the round. */
struct line *round_turn(struct round *round);

/* The line, which is not empty, is the last to have its turn; or has its place in the round. */
void round_enter(struct round *round, struct line *line);

/* Nothing where it is not in it. */
void round_leave(struct round *round, struct line *line);

/* As the last. */
void line_join(struct line *line, struct line_place *place);

/* From anywhere in it. With nobody left it leaves the round. */
void line_leave(struct round *round, struct line *line, struct line_place *place);
