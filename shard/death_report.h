/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * death_report - what a death did, and to whom, as a JSON file in the instance's directory
 *
 * Why:         who looks for a cause next day wants it in one place: where it stood, what it ran,
 *              who was told what, how long all were without it.
 * Use:         report = death_report_new(&facts);   once reaped, before the incarnation is raised
 *              at each turn: if (death_report_is_due(report, now_ns, is_up))
 *                  death_report_write(report, ...), and again once a first request was served
 * Concurrency: the supervisor's only thread
 * Lifetime:    holds no pointer into the segment but the segment's own
 * Not here:    nothing relies on these files; symbols (the tool's)
 *
 * The files are death-0.json to death-15.json, of which the newest replaces the oldest; `number` in
 * them grows. None is longer than DEATH_REPORT_BYTES, and DEATH_REPORT_TOLD calls at most are named
 * in it. docs/operations.md has the fields.
 */
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "shard/registry.h"
#include "shard/segment.h"

#define DEATH_REPORTS      16u
#define DEATH_REPORT_TOLD  256u
#define DEATH_REPORT_BYTES (256u * 1024)

struct death_facts {
    const struct segment *segment;
    const struct registry *registry;
    uint32_t peer;
    const char *process; /* "shard 1" */
    const char *how;     /* "signal 11 (Segmentation fault)" */
    pid_t pid;
    bool crash;
    bool hung;          /* killed for it */
    bool out_of_memory; /* killed by the kernel for want of it */
    uint64_t died_ns;
};

struct death_report;

/* Takes stock. NULL: no memory, and there will be no report. */
struct death_report *death_report_new(const struct death_facts *facts);
void death_report_free(struct death_report *report);

/* Whether all who were to judge have, and the replacement is up or there will be none; or that has
 * lasted too long. */
bool death_report_is_due(const struct death_report *report, uint64_t now_ns, bool settled);

/* What is known when it is written. */
struct death_outcome {
    uint64_t number;    /* of the report */
    uint64_t up_ns;     /* when the replacement was up; 0: it is not */
    uint64_t served_ns; /* when it had served its first request; 0: it has not yet */
    bool redo_finished;
};

/* A second time with the same number it replaces what was written before. 0 or -errno. */
int death_report_write(const struct death_report *report, const char *folder, const char *instance,
    const struct death_outcome *outcome);
