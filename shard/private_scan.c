/* SPDX-License-Identifier: MIT */
#include "shard/private_scan.h"
/*
 * Of the stack each word is looked at from where the switch left it, so saved registers are among
 * them. On the way up, the last return address seen tells which function a word belongs to. Of the
 * memory of shard_alloc() the blocks that are in use are looked at.
 *
 * The map of the process is read once, and again when a word looks like an address and is in no
 * mapping known: but not more often than each REREAD_NS, since not every such word is one.
 */
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "runtime/timer.h"
#include "shard/memory_map.h"
#include "shard/return_address.h"
#include "shard/shard_block.h"

#define REREAD_NS INT64_C(10000000)
#ifndef SCAN_MODE_DEFAULT
#define SCAN_MODE_DEFAULT SCAN_OFF
#endif
#define SMALLEST     UINT64_C(0x10000)   /* below it nothing is ever mapped */
#define LARGEST      (UINT64_C(1) << 48) /* nor above it */
#define CODE_BEFORE  16                  /* bytes that are read before a return address */
#define PLACES_MAX   64                  /* that are told apart */
#define REPORTS_EACH 4                   /* of one scan */

const enum scan_mode scan_mode_default = SCAN_MODE_DEFAULT;

static const char *const texts[] = {
#define X(name, text) [SCAN_##name] = text,
    SCAN_MODES(X)
#undef X
};

int scan_mode_parse(const char *text, enum scan_mode *ret_mode)
{
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        if (strcmp(texts[i], text) == 0) {
            *ret_mode = (enum scan_mode)i;
            return 0;
        }
    return -EINVAL;
}

struct private_scan {
    struct scan_config config;
    const struct segment *seg;
    struct memory_map map;
    int64_t read_ns;
    uint64_t places[PLACES_MAX]; /* reported before */
    uint32_t n_places;
};

int private_scan_new(
    const struct scan_config *config, const struct segment *seg, struct private_scan **ret_scan)
{
    struct private_scan *scan = calloc(1, sizeof(*scan));

    if (!scan)
        return -ENOMEM;
    scan->config = *config;
    scan->seg = seg;
    *ret_scan = scan;
    return 0;
}

void private_scan_free(struct private_scan *scan)
{
    if (!scan)
        return;
    memory_map_deinit(&scan->map);
    free(scan);
}

/* ---- one word ---- */

static const struct memory_range *range_of(struct private_scan *scan, uint64_t value)
{
    const struct memory_range *range = memory_map_find(&scan->map, value);
    int64_t now_ns;

    if (range)
        return range;
    now_ns = aio_clock_ns();
    if (scan->read_ns && now_ns - scan->read_ns < REREAD_NS)
        return NULL;
    scan->read_ns = now_ns;
    return memory_map_read(&scan->map) == 0 ? memory_map_find(&scan->map, value) : NULL;
}

static bool has(const void *const *list, uint32_t n, const void *value)
{
    for (uint32_t i = 0; i < n; i++)
        if (list[i] && list[i] == value)
            return true;
    return false;
}

/* Where the word is, as far as one place is told from another. */
struct place {
    const uint64_t *at;
    uint64_t value;
    uint64_t pc; /* in the function whose word it is; 0: in memory of shard_alloc() */
};

/* Of a stack, of which ASan allows what its functions use alone. */
__attribute__((no_sanitize("address"))) static uint64_t any_word(const uint64_t *at)
{
    return *at;
}

static bool is_new(struct private_scan *scan, uint64_t key)
{
    for (uint32_t i = 0; i < scan->n_places; i++)
        if (scan->places[i] == key)
            return false;
    if (scan->n_places < PLACES_MAX)
        scan->places[scan->n_places++] = key;
    return true;
}

/* "visit+0x1c (sherd+0x4b1c)", or without a name where the image has none for others to see. */
static void put_function(uint64_t pc, char *buf, size_t size)
{
    Dl_info info;
    const char *file;

    if (!dladdr((void *)(uintptr_t)pc, &info)) {
        snprintf(buf, size, "0x%" PRIx64, pc);
        return;
    }
    file = strrchr(info.dli_fname, '/') ? strrchr(info.dli_fname, '/') + 1 : info.dli_fname;
    uint64_t in_file = pc - (uint64_t)(uintptr_t)info.dli_fbase;

    if (info.dli_sname)
        snprintf(buf, size, "%s+0x%" PRIx64 " (%s+0x%" PRIx64 ")", info.dli_sname,
            pc - (uint64_t)(uintptr_t)info.dli_saddr, file, in_file);
    else
        snprintf(buf, size, "%s+0x%" PRIx64, file, in_file);
}

static void report(struct private_scan *scan, const struct scan_of *of, const struct place *place,
    const struct memory_range *into)
{
    char function[160], text[512];

    if (place->pc)
        put_function(place->pc, function, sizeof(function));
    else
        snprintf(function, sizeof(function), "its memory of shard_alloc()");
    snprintf(text, sizeof(text),
        "portable coroutine %s (%u) leaves with a pointer into this process: the word at 0x%" PRIx64
        ", of %s, is 0x%" PRIx64 ", in %s",
        of->name, arena_slot_of(of->co), (uint64_t)(uintptr_t)place->at, function, place->value,
        into->name[0] ? into->name : "memory without a name");
    if (scan->config.report)
        scan->config.report(text, scan->config.opaque);
    if (scan->config.mode == SCAN_ABORT)
        bug("%s", text);
}

/* 1 where it is one that must not leave. */
static uint32_t look_at(
    struct private_scan *scan, const struct scan_of *of, const struct place *place)
{
    uint64_t value = place->value;
    uint8_t *base = scan->seg->base;
    const struct memory_range *range;

    if (value < SMALLEST || value >= LARGEST ||
        value - (uint64_t)(uintptr_t)base < scan->seg->bytes)
        return 0;
    range = range_of(scan, value);
    if (!range || range->kind != MEMORY_PRIVATE ||
        value - (uint64_t)(uintptr_t)of->own[0] < of->own_bytes ||
        value - (uint64_t)(uintptr_t)of->own[1] < of->own_bytes ||
        has(of->known, of->n_known, (const void *)(uintptr_t)value) ||
        has(of->states, of->n_states, (const void *)(uintptr_t)value) ||
        has(of->harmless, of->n_harmless, place->at))
        return 0;
    uint64_t key = place->pc ? place->pc << 16 ^
                                   (uint64_t)((const uint8_t *)of->end - (const uint8_t *)place->at)
                             : (uint64_t)(uintptr_t)place->at;

    if (is_new(scan, key) || scan->config.mode == SCAN_ABORT)
        report(scan, of, place, range);
    return 1;
}

/* ---- all of one coroutine ---- */

static bool is_return_address(struct private_scan *scan, uint64_t value)
{
    const struct memory_range *range;

    if (value < SMALLEST || value >= LARGEST)
        return false;
    range = range_of(scan, value);
    return range && range->kind == MEMORY_CODE && value - range->begin >= CODE_BEFORE &&
           return_address_is((const uint8_t *)(uintptr_t)value);
}

static uint32_t look_at_stack(struct private_scan *scan, const struct scan_of *of)
{
    uint64_t inner = 0, pc = 0;
    uint32_t n = 0;

    for (const uint64_t *at = of->low; at < of->end; at++) {
        uint64_t value = any_word(at);
        if (is_return_address(scan, value)) {
            pc = return_address_skips && inner ? inner : value;
            inner = value;
            continue;
        }
        n += look_at(scan, of, &(struct place){.at = at, .value = value, .pc = pc});
    }
    return n;
}

static uint32_t look_at_block(
    struct private_scan *scan, const struct scan_of *of, const struct shard_block *block)
{
    const uint64_t *at = (const uint64_t *)(block + 1);
    const uint64_t *end = at + (shard_block_bytes(block) - sizeof(*block)) / sizeof(*at);
    uint32_t n = 0;

    for (; at < end; at++)
        n += look_at(scan, of, &(struct place){.at = at, .value = *at});
    return n;
}

/* The blocks of one page, or the one of a run of pages. */
static uint32_t look_at_chunk(
    struct private_scan *scan, const struct scan_of *of, const uint8_t *chunk)
{
    const uint8_t *end = chunk + ARENA_CHUNK_BYTES;
    uint32_t n = 0;

    while (chunk < end) {
        const struct shard_block *block = (const struct shard_block *)chunk;
        uint64_t bytes = shard_block_bytes(block);
        if (bytes == 0 || (block->co != of->co && block->co != 0))
            break; /* the rest was never used, or is the inside of a large one */
        if (block->co == of->co)
            n += look_at_block(scan, of, block);
        chunk += bytes;
    }
    return n;
}

static uint32_t look_at_memory(struct private_scan *scan, const struct scan_of *of)
{
    uint32_t n = 0;

    for (uint32_t chunk = 0; chunk < segment_n_chunks(scan->seg); chunk++)
        if (atomic_load_relaxed(segment_chunk_tag(scan->seg, chunk)) == of->co) /* its own */
            n += look_at_chunk(scan, of, segment_chunk(scan->seg, chunk));
    return n;
}

bool private_scan_passes(struct private_scan *scan, const struct scan_of *of)
{
    uint32_t n = look_at_stack(scan, of);

    if (of->has_memory)
        n += look_at_memory(scan, of);
    return n == 0 || scan->config.mode == SCAN_REPORT;
}
