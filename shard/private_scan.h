/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * private_scan - looks for pointers into this process's own memory in what is about to leave it
 *
 * Why:         such a pointer means other bytes in another shard: the bug shows there, and later.
 * Use:         portable.c does it before each move and each wait; docs/portable.md says how to read
 *              a report, and how to mark a word that is harmless.
 * Concurrency: owner loop, on its own stack
 * Lifetime:    the mesh's
 * Not here:    when to scan, and what becomes of the coroutine (portable.c)
 *
 * It goes by values: a word that is no pointer, but looks like one, is reported; and so is one in a
 * part of a living frame that the function has not written to, which holds what some call before
 * left there. What lies below the stack pointer is not looked at.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shard/arena.h"

/* X(name, text) */
#define SCAN_MODES(X)                                                           \
    X(OFF, "off")                                                               \
    X(REPORT, "report") /* each place once; it moves all the same */            \
    X(REFUSE, "refuse") /* the same, and the move or wait fails with -EFAULT */ \
    X(ABORT, "abort")   /* the same, and the process dies where it can be looked at */

enum scan_mode {
#define X(name, text) SCAN_##name,
    SCAN_MODES(X)
#undef X
};

/* 0 with the mode of that text; -EINVAL. */
int scan_mode_parse(const char *text, enum scan_mode *ret_mode);

/* In builds for debugging REPORT, else OFF; and where a sanitizer keeps words of its own in
 * frames. */
extern const enum scan_mode scan_mode_default;

struct scan_config {
    enum scan_mode mode;
    void (*report)(const char *text, void *opaque);
    void *opaque;
};

struct private_scan;

int private_scan_new(const struct scan_config *config, const struct segment *seg,
    struct private_scan **ret_scan); /* 0 or -ENOMEM */
void private_scan_free(struct private_scan *scan);

/* A coroutine at rest. */
struct scan_of {
    arena_co co;
    const char *name;
    const uint64_t *low, *end;   /* what of its stack is alive */
    const void *const *known;    /* values of the mesh's own; NULL ones are skipped */
    const void *own[2];          /* memory of the mesh's, into which its frames point */
    const void *const *harmless; /* addresses of words that its program has marked; likewise */
    const void *const *states;   /* values, of services */
    uint64_t own_bytes;          /* of each */
    uint32_t n_known, n_harmless, n_states;
    bool has_memory; /* of shard_alloc() */
};

/* Whether it may leave. What is found is reported. */
bool private_scan_passes(struct private_scan *scan, const struct scan_of *of);
