/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * methods - names of methods: a number of ours for each, and what the instance says of it
 *
 * Why:         a handle is found once and then an index; and what an instance says of a method is
 *              forgotten with it, while the handle stays.
 * Use:         methods_add() for a handle; after each hello: methods_learn(), or methods_read()
 * Concurrency: one thread. Zero bytes are an empty table.
 */
#include <stdbool.h>
#include <stdint.h>

#include "proto/sherd.pb-c.h"

#define METHOD_NAME_MAX 256u

struct method {
    char *name;
    uint64_t hash;
    bool is_known; /* the instance has it; only then: */
    bool idempotent;
    uint16_t number; /* on the data plane */
};

struct method_table {
    struct method *methods;
    uint32_t n, capacity;
    uint32_t *buckets; /* index + 1, 0: empty; open addressing */
    uint32_t n_buckets;
};

/* The index of a name, or -ENOENT. */
int64_t methods_find(const struct method_table *table, const char *name);

/* The same, adding it where it is missing: else -ENOMEM; -EINVAL: empty or too long. */
int64_t methods_add(struct method_table *table, const char *name);

/* No instance says anything of any. */
void methods_forget(struct method_table *table);

/* Forgets, and takes what the gateway tells. 0; -errno: then it knows of none, and nothing is run
 * again. */
int methods_learn(struct method_table *table, const Sherd__Wire__MethodsReply *reply);

/* The same from the answer of sys.methods: a line a method, fields with tabs between them. */
int methods_read(struct method_table *table, const char *text, size_t len);

bool methods_may_repeat(const struct method_table *table, const char *name);
void methods_deinit(struct method_table *table);
