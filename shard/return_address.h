/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * return_address - whether a word of a stack is where a call returns to
 *
 * Why:         a stack is read without unwind tables: in the process itself, at any moment.
 * Use:         for each word upwards that points to code: if (return_address_is(word)) …
 * Concurrency: any thread
 * Not here:    names for it (shard/private_scan.h)
 */
#include <stdbool.h>
#include <stdint.h>

/* Whether the instruction before `code`, which is readable from 16 bytes before, calls. */
bool return_address_is(const uint8_t *code);

/* A function's own words lie above the return address into it, of the call that it is in (0); or
 * above the one of its caller too (1). */
extern const unsigned return_address_skips;
