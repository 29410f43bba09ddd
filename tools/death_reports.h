/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * death_reports - what the supervisor wrote about the deaths of an instance's processes
 *
 * Use:         json_t *deaths = death_reports_read(dir, incarnation, symbols);
 * Concurrency: files are replaced whole, so each is read as of one moment
 * Not here:    what stands in them (shard/death_report.h, docs/operations.md)
 */
#include <jansson.h>
#include <stdint.h>

#include "tools/symbols.h"

/* Those in the directory, the oldest first; of one incarnation, or of all where that is 0. Frames
 * get the names of their functions. dir NULL: none. */
json_t *death_reports_read(const char *dir, uint32_t incarnation, struct symbols *symbols);
