/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * firewall - which pages of the segment this process may write
 *
 * Why:         the segment is laid out by writer, and the processor can hold each process to that:
 *              a wild write into another's part faults in the culprit, at the instruction that did
 *              it.
 * Use:         firewall_raise() once in each process, after the fork; in the supervisor before the
 *              first one. The supervisor mends a dead one's part between firewall_open() and
 *              firewall_close().
 * Concurrency: any thread; what is allowed holds for the whole process
 * Lifetime:    as long as the mapping, and inherited by fork
 * Not here:    the commons, which all may write: what stands there is checked by who reads it
 *
 * Of children that are threads of one process, which have one address space, the guards of
 * portable stacks are all that is raised.
 */
#include "shard/segment.h"

/* From here on this process may write its own part and the commons, and nothing else. self may be
 * n_peers: the supervisor, whose own is the control. 0 or -errno: -ENOMEM, where vm.max_map_count
 * is reached. */
int firewall_raise(const struct segment *seg, uint32_t self);

/* Nobody runs who writes peer's part: this process may, until firewall_close(). 0 or -errno. */
int firewall_open(const struct segment *seg, uint32_t peer);
int firewall_close(const struct segment *seg, uint32_t peer);
