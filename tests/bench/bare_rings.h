/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * bare_rings - requests and replies over two rings and nothing else: what two cores can do
 *
 * Use:         rings = bare_rings_new(), before the fork. The one end:
 *              bare_rings_start(rings); wake the other, where it may sleep;
 *              bare_rings_run(rings, n, in_flight); bare_rings_stop(rings);
 *              The other, whenever it may have been asked to: bare_rings_echo(rings)
 * Concurrency: a process or thread at each end, both busy meanwhile
 * Lifetime:    memory shared with what is forked afterwards, never freed
 */
#include <stdbool.h>
#include <stdint.h>

struct bare_rings;

struct bare_rings *bare_rings_new(void);

/* Has the other end echo; and has it stop, and waits until it has. */
void bare_rings_start(struct bare_rings *rings);
void bare_rings_stop(struct bare_rings *rings);

/* n round trips. */
void bare_rings_run(struct bare_rings *rings, uint64_t n, uint32_t in_flight);

/* Between start and stop: echoes until it is told to stop. Else nothing, at once. */
void bare_rings_echo(struct bare_rings *rings);
