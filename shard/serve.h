/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * serve - the inside of a call that this shard serves; methods see it through shard/service.h
 *
 * Concurrency: owner loop and its coroutines.
 */
#include "shard/mesh.h"
#include "shard/service.h"

struct service_call {
    struct mesh *mesh;
    const struct service_method *method;
    void *state; /* what the service's start() made */
    int64_t deadline_ns;
    uint32_t depth;
    uint32_t method_number;

    /* Who asked: a slot of another peer's, or a coroutine of this shard (local). */
    bool local;
    uint32_t from;
    uint32_t slot;
    uint64_t generation;

    /* The answer so far. */
    bool replied;
    uint64_t reply_off; /* in the heap; 0: inline in the serve slot */
    size_t reply_len;
    void *local_reply;
    char *error_text;

    size_t args_len;
    uint8_t args[];
};
