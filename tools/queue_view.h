/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * queue_view - what is between two processes of an instance: rings, call slots, and what passed
 *
 * Why:         a ring is told of by both its ends, each in words of its own; who shows it wants one
 *              row.
 * Use:         struct queue_reader reader;
 *              queue_reader_init(&reader, &look);
 *              struct pair_view pair = queue_view_pair(&reader, from, to, ALL_LANES);
 * Concurrency: the segment's writers go on: two figures need not be of one moment, and those made
 *              of several words are clamped to what they can be
 * Lifetime:    the look outlives the reader
 * Not here:    printing (queues.c), messages one by one (queue_entries.c)
 *
 * What the segment's version does not have is 0.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shard/segment.h"
#include "shard/view_column.h"
#include "tools/look.h"
#include "tools/pair_figures.h"

#define ALL_LANES N_LANES

struct queue_reader {
    const struct look *look;
    uint32_t n_shards, n_peers;
    uint64_t now_ns;
#define X(name, side, text) struct view_column name;
    PAIR_FIGURES(X)
#undef X
    struct view_column ends, tails, heads, call;
    struct view_column rings_to_shards[N_LANES], rings_to_gateway[N_LANES];
    struct view_column read_bytes, write_bytes;
};

/* Also the moment that ages are counted to. */
void queue_reader_init(struct queue_reader *reader, const struct look *look);

struct pair_view {
    uint64_t slots;     /* of the ring */
    uint64_t depth;     /* messages in it now */
    uint64_t oldest_ns; /* age of the first of them; 0: there is none, or it bears no time */
    uint64_t call_slots, call_slots_free;
    uint64_t calls_under_way;
    uint64_t per_second; /* messages; the caller's to fill in */
#define X(name, side, text) uint64_t name;
    PAIR_FIGURES(X)
#undef X
    uint64_t ends[N_CALL_ENDS];
};

/* Of one lane, or of both: what is not counted by lane is in both the same. */
struct pair_view queue_view_pair(
    const struct queue_reader *reader, uint32_t from, uint32_t to, uint32_t lane);

/* Messages that from has put into its rings to `to`. */
uint64_t queue_view_pushed(const struct queue_reader *reader, uint32_t from, uint32_t to);

struct shard_view {
    uint64_t started, under_way, read_bytes, write_bytes;
    uint64_t ends[N_CALL_ENDS];
};

/* What a shard did for everybody: ends are counted by those who called. */
struct shard_view queue_view_shard(const struct queue_reader *reader, uint32_t shard);

/* The record of a ring's place for a position. False: there is no such ring. */
bool queue_view_slot(const struct queue_reader *reader, uint32_t from, uint32_t to, uint32_t lane,
    uint64_t position, struct view_record *ret);

/* How long ago a message was sent, to some milliseconds; 0: it bears no time. */
uint64_t queue_view_age_ns(const struct queue_reader *reader, const struct view_record *message);
