/* SPDX-License-Identifier: MIT */
#include "shard/shard_alloc.h"
/*
 * Small blocks are cut from a page by powers of two, and kept in a list for each when they are
 * free; larger ones are a run of pages. A page has a tag in the arena: the coroutine that it
 * belongs to. One whose coroutine has ended is free, whatever its tag says, so nothing has to be
 * cleared in time.
 *
 * Orderings    first                     then                ordered by       if broken
 *   TAG      last use of the page by     its next use        CAS of the tag   two own one page
 *            one that has ended
 */
#include <assert.h>
#include <stdint.h>

#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "shard/portable_inside.h"
#include "shard/shard_block.h"

struct free_block {
    struct shard_block header;
    struct free_block *next;
};

static_assert(sizeof(struct shard_block) == 16, "blocks are at multiples of 16");
static_assert(
    (UINT32_C(1) << (SHARD_BLOCK_MIN_SHIFT + SHARD_BLOCK_LISTS - 1)) == ARENA_CHUNK_BYTES / 2,
    "then pages");

/* ---- pages ---- */

static bool take_chunk(const struct segment *seg, uint32_t chunk, arena_co co)
{
    uint64_t tag = atomic_load_acquire(segment_chunk_tag(seg, chunk)); /* TAG */
    uint32_t shard;

    if (tag != 0 && arena_co_lives(seg, tag, &shard))
        return false;
    return atomic_cas_seq(segment_chunk_tag(seg, chunk), &tag, co); /* TAG */
}

static void give_chunks(const struct segment *seg, uint32_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        atomic_store_release(segment_chunk_tag(seg, first + i), (uint64_t)0); /* TAG */
}

/* How many from first on, n at most, are the coroutine's now. */
static uint32_t take_run(const struct segment *seg, uint32_t first, uint32_t n, arena_co co)
{
    uint32_t taken = 0;

    while (taken < n && take_chunk(seg, first + taken, co))
        taken++;
    return taken;
}

/* NULL: there are not so many in a row. Each shard looks in a range of its own first. */
static uint8_t *take_chunks(const struct portable *self, uint32_t n)
{
    const struct segment *seg = &self->mesh->seg;
    uint32_t n_chunks = segment_n_chunks(seg);
    uint32_t begin = n_chunks / seg->geometry.n_shards * self->mesh->self;

    for (uint32_t i = 0; i < n_chunks; i++) {
        uint32_t first = (begin + i) % n_chunks;
        if (first + n > n_chunks)
            continue;
        uint32_t taken = take_run(seg, first, n, self->co);
        if (taken == n)
            return segment_chunk(seg, first);
        give_chunks(seg, first, taken);
    }
    return NULL;
}

/* ---- blocks ---- */

static void *begin_block(const struct portable *self, void *at, uint32_t kind, uint32_t n_chunks)
{
    struct shard_block *header = at;

    ((struct portable *)(uintptr_t)self)->has_memory = true;
    *header = (struct shard_block){.co = self->co, .kind = kind, .n_chunks = n_chunks};
    return header + 1;
}

static void *alloc_large(struct portable *self, size_t whole)
{
    uint32_t n = (uint32_t)((whole + ARENA_CHUNK_BYTES - 1) / ARENA_CHUNK_BYTES);
    void *at = n <= SHARD_BLOCK_MAX_CHUNKS ? take_chunks(self, n) : NULL;

    return at ? begin_block(self, at, SHARD_BLOCK_LARGE, n) : NULL;
}

/* The rest of a page that is left is too small for this one, and lost until the end. */
static bool begin_page(struct portable *self)
{
    uint8_t *page = take_chunks(self, 1);

    if (!page)
        return false;
    self->page = page;
    self->page_left = ARENA_CHUNK_BYTES;
    return true;
}

static void *alloc_small(struct portable *self, uint32_t list)
{
    struct free_block *block = self->free_blocks[list];
    uint32_t bytes = UINT32_C(1) << (SHARD_BLOCK_MIN_SHIFT + list);

    if (block) {
        self->free_blocks[list] = block->next;
        return begin_block(self, block, list, 0);
    }
    if (self->page_left < bytes && !begin_page(self))
        return NULL;
    uint8_t *at = self->page;

    self->page += bytes;
    self->page_left -= bytes;
    return begin_block(self, at, list, 0);
}

void *shard_alloc(size_t bytes)
{
    struct portable *self = portable_self();
    size_t whole = bytes + sizeof(struct shard_block);

    if (!self || bytes == 0 || bytes > SHARD_ALLOC_MAX)
        return NULL;
    for (uint32_t list = 0; list < SHARD_BLOCK_LISTS; list++)
        if (whole <= (size_t)1 << (SHARD_BLOCK_MIN_SHIFT + list))
            return alloc_small(self, list);
    return alloc_large(self, whole);
}

void shard_free(void *memory)
{
    struct portable *self = portable_self();
    struct free_block *block;

    if (!memory)
        return;
    block = (struct free_block *)((struct shard_block *)memory - 1);
    if (!self || block->header.co != self->co)
        bug("shard_free() of memory that is not the running coroutine's");
    const struct segment *seg = &self->mesh->seg;
    if (block->header.kind == SHARD_BLOCK_LARGE) {
        uint32_t first = (uint32_t)(((uint8_t *)block - segment_chunk(seg, 0)) / ARENA_CHUNK_BYTES);
        uint32_t n = block->header.n_chunks;

        block->header.co = 0;
        give_chunks(seg, first, n);
        return;
    }
    block->header.co = 0; /* a second time would be told */
    block->next = self->free_blocks[block->header.kind];
    self->free_blocks[block->header.kind] = block;
}
