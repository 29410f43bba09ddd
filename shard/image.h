/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * image - what has to be the same in every process of an instance, and is compared
 *
 * Why:         addresses of code, data and thread-local variables travel between shards inside
 *              coroutines; they mean the same only in processes forked from one image. A guard that
 *              differed would end the first that returns through a frame made elsewhere.
 * Use:         supervisor, before the first fork: image_note(); each child, replacements included,
 *              at its start: image_check()
 * Concurrency: main thread
 * Not here:    the facts themselves (IMAGE_FIELDS in segment.h)
 */
#include "shard/registry.h"
#include "shard/segment.h"

/* Writes them to the superblock. */
void image_note(const struct segment *seg, const struct registry *registry);

/* Whether this process is the same. 0; -ENOEXEC with a text that says what differs. */
int image_check(const struct segment *seg, const struct registry *registry, char **ret_error);
