/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * symbols - what an address in a process is called
 *
 * Why:         the instance stores addresses, which cost nothing; names are found here, when
 *              somebody looks.
 * Use:         struct symbols *s = symbols_of_process(pid);   // NULL is a fine one: no names
 *              puts(symbols_name(s, address, buf, sizeof buf));
 *              symbols_free(s);
 * Concurrency: one thread
 * Lifetime:    the process may end: its files are opened when it is looked at first
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct symbols;

/* NULL: nothing can be said about it. */
struct symbols *symbols_of_process(pid_t pid);
void symbols_free(struct symbols *s);

/* "serve_run (serve.c:120)", "serve_run+0x12", or "0x55…" where it has no name. Returns buf. */
const char *symbols_name(struct symbols *s, uint64_t address, char *buf, size_t size);
