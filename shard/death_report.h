/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * death_report - what a death did, and to whom, as a JSON file in the instance's directory
 *
 * Why:         who looks for a cause next day wants it in one place: where it stood, what it ran,
 *              who was told what, how long all were without it.
 * Use:         report = death_report_new(&facts);   once reaped, before the incarnation is raised
 *              at each turn: if (death_report_is_due(report, now_ns, is_up))
 *                  death_report_write(report, ...), death_report_free(report)
 * Concurrency: the supervisor's only thread
 * Lifetime:    holds no pointer into the segment but the segment's own
 * Not here:    nothing relies on these files; symbols (the tool's)
 *
 * The files are death-0.json to death-15.json, of which the newest replaces the oldest; `number` in
 * them grows. docs/operations.md has the fields.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shard/registry.h"
#include "shard/segment.h"

#define DEATH_REPORTS 16u

struct death_facts {
    const struct segment *segment;
    const struct registry *registry;
    uint32_t peer;
    const char *process; /* "shard 1" */
    const char *how;     /* "signal 11 (Segmentation fault)" */
    pid_t pid;
    bool crash;
    bool hung; /* killed for it */
    uint64_t died_ns;
};

struct death_report;

/* Takes stock. NULL: no memory, and there will be no report. */
struct death_report *death_report_new(const struct death_facts *facts);
void death_report_free(struct death_report *report);

/* Whether all who were to judge have, and the replacement is up or there will be none; or that has
 * lasted too long. */
bool death_report_is_due(const struct death_report *report, uint64_t now_ns, bool settled);

/* up_ns: when the replacement was up; 0: it is not. 0 or -errno. */
int death_report_write(const struct death_report *report, const char *folder, const char *instance,
    uint64_t number, uint64_t up_ns, bool redo_finished);
