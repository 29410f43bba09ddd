/* SPDX-License-Identifier: MIT */
#include "proto/arena.h"

#include <stdlib.h>

/*
 * Blocks are bumped from the front. A piece that does not fit opens a new block, so at most the
 * tail of each block is lost; the first block is of a usual message's size and stays. A piece of
 * more than that size has a block to itself, which can be taken out.
 */
#define BLOCK_BYTES ((size_t)64 * 1024)
#define ALIGNMENT   ((size_t)16)

struct arena_block {
    struct arena_block *older;
    size_t bytes; /* of data */
    size_t used;
    size_t spare;
    unsigned char data[];
};

static void *allocate(void *opaque, size_t bytes)
{
    return arena_alloc(opaque, bytes);
}

static void leave(void *opaque, void *pointer)
{
    (void)opaque;
    (void)pointer;
}

void arena_init(struct arena *arena, size_t limit)
{
    *arena = (struct arena){
        .allocator = {.alloc = allocate, .free = leave, .allocator_data = arena},
        .limit = limit,
    };
}

static void free_newer_than(struct arena *arena, const struct arena_block *oldest)
{
    while (arena->blocks != oldest) {
        struct arena_block *block = arena->blocks;
        arena->blocks = block->older;
        free(block);
    }
}

void arena_deinit(struct arena *arena)
{
    free_newer_than(arena, NULL);
    arena->used = 0;
}

void arena_reset(struct arena *arena)
{
    struct arena_block *oldest = arena->blocks;

    while (oldest && oldest->older)
        oldest = oldest->older;
    /* A first block made for one huge piece is no block of the usual size. */
    if (oldest && oldest->bytes > BLOCK_BYTES)
        oldest = NULL;
    free_newer_than(arena, oldest);
    if (oldest)
        oldest->used = 0;
    arena->used = 0;
}

void *arena_take(struct arena *arena, const void *piece)
{
    struct arena_block **link = &arena->blocks;

    while (*link && (*link)->data != piece)
        link = &(*link)->older;
    struct arena_block *block = *link;
    if (!block || block->bytes <= BLOCK_BYTES)
        return NULL;
    *link = block->older;
    return block;
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    if (bytes > arena->limit - arena->used)
        return NULL;
    bytes = (bytes + ALIGNMENT - 1) & ~(ALIGNMENT - 1);

    struct arena_block *block = arena->blocks;
    if (!block || block->bytes - block->used < bytes) {
        size_t data = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
        block = malloc(sizeof(*block) + data);
        if (!block)
            return NULL;
        *block = (struct arena_block){.older = arena->blocks, .bytes = data};
        arena->blocks = block;
    }
    void *piece = block->data + block->used;
    block->used += bytes;
    arena->used = arena->used + bytes < arena->limit ? arena->used + bytes : arena->limit;
    return piece;
}
