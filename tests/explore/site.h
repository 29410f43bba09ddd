/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * site - every access through runtime/atomic.h in a source file
 *
 * Why:         the table of mutants must name each of them, also those that no scenario comes to.
 * Use:         struct sites sites; sites_read("runtime/bh.c", &sites); … sites_free(&sites);
 * Concurrency: any thread
 * Not here:    what is done to them (mutant.h, mutants.h)
 */
#include <stddef.h>

#include "runtime/atomic_shim.h"

struct site {
    char function[64];
    char ordering[16]; /* the name in the comment behind it, or "" */
    enum atomic_op op;
    unsigned nth; /* of this operation in this function, from 1 */
    int first_line;
    int last_line; /* of the call */
};

struct sites {
    struct site *all;
    size_t n;
};

/* 0 or -errno. */
int sites_read(const char *path, struct sites *ret);
void sites_free(struct sites *sites);

const char *site_op_name(enum atomic_op op);
