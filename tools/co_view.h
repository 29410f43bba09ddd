/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * co_view - the coroutines of an instance, live or dead: what stands in registries and arena
 *
 * Why:         one that is portable stands in the arena, and in the registry of a shard too while
 *              that has it in its hands; who shows coroutines shows each once.
 * Use:         struct co_reader *reader = co_reader_new(&look);         // NULL: no memory
 *              co_reader_visit(reader, visit, opaque);
 *              co_reader_free(reader);
 * Concurrency: the loops go on; one that ends while it is read is left out
 * Lifetime:    the look outlives the reader
 * Not here:    their stacks (co_stack.h), printing (co.c)
 */
#include <jansson.h>

#include "tools/look.h"

#define CO_TEXT 64u

struct co_view {
    uint32_t peer; /* where it is */
    uint64_t id;   /* in its registry; a portable one's slot */
    bool is_portable;
    char name[CO_TEXT];
    const char *state;
    char waits_for[CO_TEXT]; /* "": it runs, or is about to */
    uint64_t entry;
    uint64_t created_ns;
    uint64_t position_at; /* where its process keeps the position below; 0: nowhere */
    uint64_t position;    /* stack pointer where it left off, as far as the segment tells; 0 */
    uint64_t stack_top;   /* address behind its stack; 0: not known */
    /* Portable ones alone. */
    uint64_t generation, n_moves;
    uint32_t sent_by; /* on its way: from where; else where it is */
};

typedef void co_view_fn(void *opaque, const struct co_view *co);

struct co_reader;

struct co_reader *co_reader_new(const struct look *look);
void co_reader_free(struct co_reader *reader);
void co_reader_visit(struct co_reader *reader, co_view_fn *visit, void *opaque);

/* Names of functions; NULL: none. */
struct symbols *co_reader_symbols(const struct co_reader *reader);

/* Each as sherd-co(1) has it. with_stacks: with backtraces. */
json_t *co_reader_json(struct co_reader *reader, bool with_stacks);
