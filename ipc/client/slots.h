/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * slots - requests of the data plane: a table by index, and lists through it
 *
 * Why:         millions of requests a second need one without malloc(), found by its id at once.
 * Use:         slot_take() → an id to hand out; slot_find() by that id; slot_put()
 * Concurrency: one thread
 * Lifetime:    a slot stays where it is until slots_deinit()
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/client/client.h"
#include "proto/data_plane.h"

#define SLOT_NONE UINT32_MAX

/*
 *            lost, and may be submitted again
 *              +---------+
 *              v         |
 *   FREE --> LINE --> OUT --> ENDED ----> FREE
 *              |               ^   |        ^
 *              +---------------+   +-> KEPT-+
 */
enum slot_state {
    SLOT_FREE,
    SLOT_LINE,  /* waits here */
    SLOT_OUT,   /* in a ring, or with the shard */
    SLOT_ENDED, /* its end has to be told or fetched */
    SLOT_KEPT,  /* it has been, but the shard may still use its memory (`is_out`) */
};

/* What is to be submitted. */
struct slot_work {
    uint32_t handle; /* of the method */
    uint32_t flags;  /* enum sherd_request_flags */
    uint8_t route_kind;
    uint64_t route;
    int64_t deadline_ns; /* INT64_MAX: none */
    const void *args;    /* once it is in line or out: in the slot, or where they stay */
    size_t args_len;
    void *room; /* the user's; NULL: ours, of room_len */
    size_t room_len;
};

struct slot {
    uint32_t generation;
    uint32_t next, prev; /* in the one list it is in */
    uint32_t lane;
    uint8_t state;     /* enum slot_state */
    bool is_out;       /* its completion is to come: OUT, or ended before that */
    bool may_have_run; /* it was out before, and lost */
    bool cancel;       /* was asked for */
    bool in_urgent;    /* the ring that it is out in */
    bool has_room;     /* `room` is ours, in the area */
    sherd_done_fn *done;
    void *opaque;
    uint64_t position; /* of its submission */
    int64_t end_by_ns; /* when it ends here, whatever the shard says; INT64_MAX: never */
    struct slot_work work;
    void *copy; /* of its arguments, in line; NULL: none */
    void *args; /* ours, in the area; NULL: none */
    uint8_t *room;
    uint8_t *user_room; /* outside of the area: gets a copy; NULL: none */
    uint32_t room_len;
    /* Once it has ended. */
    uint32_t len;
    int32_t error;
    uint32_t end;
    uint32_t shard;
    uint32_t retry_us;
    const uint8_t *data;
    uint8_t small[PLANE_INLINE_ANSWER]; /* the answer; while it is out, short arguments */
};

struct slot_list {
    uint32_t first, last;
    size_t n;
};

#define SLOTS_CHUNK 1024u

struct slot_table {
    struct slot **chunks;
    uint32_t n_chunks;
    uint32_t n;    /* slots that were ever taken */
    uint32_t free; /* first of those that came back */
    size_t n_open; /* LINE, OUT, and those ENDED whose end has not been told */
};

#define SLOT_LIST_INIT ((struct slot_list){SLOT_NONE, SLOT_NONE, 0})

void slots_init(struct slot_table *table);

/* With copies of arguments. */
void slots_deinit(struct slot_table *table);

/* A slot of a new generation. 0 or -ENOMEM. */
int slot_take(struct slot_table *table, uint32_t *ret_slot);
void slot_put(struct slot_table *table, uint32_t slot);

static inline struct slot *slot_at(const struct slot_table *table, uint32_t slot)
{
    return &table->chunks[slot / SLOTS_CHUNK][slot % SLOTS_CHUNK];
}

static inline uint64_t slot_id(const struct slot_table *table, uint32_t slot)
{
    return (uint64_t)slot_at(table, slot)->generation << 32 | slot;
}

/* SLOT_NONE: no request that is open has that id. */
static inline uint32_t slot_find(const struct slot_table *table, uint64_t id)
{
    uint32_t slot = (uint32_t)id;

    return slot < table->n && slot_at(table, slot)->generation == id >> 32 &&
                   slot_at(table, slot)->state != SLOT_FREE
               ? slot
               : SLOT_NONE;
}

/* before SLOT_NONE: as the first. */
void slot_list_insert(
    struct slot_table *table, struct slot_list *list, uint32_t before, uint32_t slot);
void slot_list_remove(struct slot_table *table, struct slot_list *list, uint32_t slot);
