/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * builtin - the mesh's own methods, which every instance has
 *
 * Why:         what the mesh asks of another shard is a call like any other: slot, started word,
 *              answer. So a death means for it what it means for all, and nothing new is judged.
 * Use:         a row in BUILTIN_METHODS; struct mesh_call with .method = BUILTIN_LOCK and
 *              .depth = SEGMENT_DEPTH_BUILTIN
 * Concurrency: constant
 * Not here:    methods of services (shard/registry.h), which have the numbers below
 *
 * A built-in method must not wait, for a slot, a lock or an answer: its calls have slots of their
 * own, which come back however many methods of services wait.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shard/registry.h"
#include "shard/service.h"

/* X(name, text, function, flags) */
#define BUILTIN_METHODS(X)                                                      \
    X(LOCK, "lock", lock_serve, SERVICE_IDEMPOTENT)                             \
    X(BH, "bottom-half", remote_bh_serve, 0)                                    \
    X(MOVE, "move", portable_serve_notice, SERVICE_IDEMPOTENT | BUILTIN_NOTICE) \
    X(WAKE, "wake", portable_serve_notice, SERVICE_IDEMPOTENT | BUILTIN_NOTICE)

/* Its caller learns only that it came: it is answered first, and then the function runs in the
 * loop, outside coroutines, with a call of which the arguments alone are there. */
#define BUILTIN_NOTICE (1u << 31)

enum builtin_method {
    BUILTIN_BEFORE_FIRST = REGISTRY_METHODS_MAX - 1,
#define X(name, text, function, flags) BUILTIN_##name,
    BUILTIN_METHODS(X)
#undef X
        BUILTIN_END
};

#define X(name, text, function, flags) int function(struct service_call *call); /* coroutine_fn */
BUILTIN_METHODS(X)
#undef X

/* Whether the number is one of the mesh's own, or beyond them. */
static inline bool builtin_is(uint32_t method)
{
    return method >= REGISTRY_METHODS_MAX;
}

/* NULL: no such method. */
const struct service_method *builtin_method(uint32_t method);
