/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * json - what the tools' JSON output is made with, on top of jansson
 *
 * Concurrency: one thread
 * Lifetime:    as jansson's: a container takes over what is set into it. What there is no memory
 *              for is missing in the output.
 */
#include <jansson.h>
#include <stdint.h>

/* Figures beyond 2^63 - 1, which JSON integers here cannot hold, come out as that. */
void json_set_u64(json_t *object, const char *key, uint64_t n);

/* Text of any bytes: what is not UTF-8 is replaced by "?". */
void json_set_text(json_t *object, const char *key, const char *text);

/* Prints it, ends the line, and lets go of it. Returns the exit status; an error was printed. */
int json_print(json_t *value);
