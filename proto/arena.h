/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * arena - memory for one unpacked message, given back all at once
 *
 * Why:         protobuf-c allocates for each field, and what a short hostile message unpacks to has
 *              no bound; here it costs a pointer increment and ends at a limit.
 * Use:         struct arena arena; arena_init(&arena, limit);
 *              m = sherd__wire__request__unpack(&arena.allocator, len, bytes);
 *              …                          m is never freed by itself
 *              arena_reset(&arena);       before the next message
 *              What is long and must live on leaves by arena_take() instead of a copy.
 * Concurrency: one thread
 * Lifetime:    the arena must not move: protobuf-c keeps its address while it unpacks
 */
#include <stddef.h>
#include <protobuf-c/protobuf-c.h>

struct arena_block;

struct arena {
    ProtobufCAllocator allocator;
    struct arena_block *blocks; /* newest first; the oldest is kept by arena_reset() */
    size_t used;                /* bytes handed out */
    size_t limit;
};

void arena_init(struct arena *arena, size_t limit);
void arena_deinit(struct arena *arena);

/* Aligned for anything. NULL: no memory, or beyond the limit. */
void *arena_alloc(struct arena *arena, size_t bytes);

/* Takes a piece of more than 64 KiB out of the arena: it lives until free() of what this returns.
 * NULL: it shares its memory with others, and stays the arena's. */
void *arena_take(struct arena *arena, const void *piece);

/* Everything handed out is gone, but for what was taken. */
void arena_reset(struct arena *arena);
