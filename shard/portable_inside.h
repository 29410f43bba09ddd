/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * portable_inside - what lies above a portable coroutine's stack, and what a mesh keeps for them
 *
 * Concurrency: struct portable: the shard that runs the coroutine. struct portable_end: owner loop.
 */
#include "runtime/co_portable.h"
#include "shard/mesh_inside.h"
#include "shard/portable.h"
#include "shard/shard_block.h"

struct free_block;

/* Values of the mesh's own that its frames hold, and that are others in each process. */
enum portable_own {
    OWN_MESH,
    OWN_CONTEXT,
    OWN_END,
    OWN_REGISTRY,
    OWN_STATES,
    OWN_STATE,
    PORTABLE_OWN
};

/* At the top of the slot's memory: in shared memory, and read by its coroutine's shard alone. */
struct portable {
    arena_co co;
    Coroutine *coroutine;
    struct mesh *mesh; /* where it is: set by who enters it */
    const void
        *began[PORTABLE_OWN]; /* where it began: the frames there may still have it, unused */
    portable_fn *run;
    void *opaque;          /* valid until it first waits */
    struct notice *notice; /* with a move under way: of the shard it leaves */
    uint32_t target;
    int32_t status;                       /* what the move or wait that has ended returns */
    int64_t rebalanced_ns;                /* when it last went to where there was less to do */
    bool unseen;                          /* this move is not scanned */
    bool has_memory;                      /* shard_alloc.c's: any was ever given to it */
    const void *harmless[PORTABLE_MARKS]; /* NULL: free */

    /* shard_alloc.c's */
    uint8_t *page; /* what is left of the newest */
    uint32_t page_left;
    struct free_block *free_blocks[SHARD_BLOCK_LISTS];
};

struct portable_end;

int portable_end_new(struct mesh *mesh, struct portable_end **ret_end);
void portable_end_free(struct portable_end *end);

/* portable_start() in two steps: one that is this shard's, 0: none is free; and its begin, with
 * that, or its end, without. state: its service's here, or NULL. give: 0 does nothing. */
arena_co portable_take(struct mesh *mesh);
void portable_run(struct mesh *mesh, arena_co co, portable_fn *entry, void *opaque,
    const void *state, const char *name);
void portable_give(struct mesh *mesh, arena_co co);

/* Coroutines that would end with this shard: those that it runs, or that wait in it. One on its way
 * here goes on in the replacement as well. */
uint32_t portable_n_here(const struct mesh *mesh);

/* Peer's deaths are judged, or this shard begins: enters what is queued here and nobody may tell of
 * any more, and takes back what can't arrive. */
void portable_judge(struct mesh *mesh, uint32_t peer, bool failed);

enum portable_move_flags {
    PORTABLE_AT_END = 1u << 0,  /* nothing but the mesh's own frames is left of the coroutine */
    PORTABLE_AWAITED = 1u << 1, /* target waits for its end, also before it is restarted */
};

/* As shard_co_move(). */
int coroutine_fn portable_move(struct mesh **mesh, uint32_t target, unsigned flags);

/* shard_co_yield() in two steps: others run; and the shard to go on in, which may be this one. */
void coroutine_fn portable_take_turn(struct mesh *mesh);
uint32_t portable_choose_shard(struct mesh *mesh);

/* The one that runs; NULL: what runs is none. */
struct portable *portable_self(void);
