/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * progress - one line on a terminal that says how far a long command is
 *
 * Use:         progress_init(&p, "files"); … progress_add_bytes(&p, n); progress_update(&p, …);
 *              before standard error gets a line: progress_hide(&p), before standard output does:
 *              progress_make_way(&p)
 *              at the end: progress_finish(&p, …)
 *              Where standard error is no terminal all of them do nothing.
 * Concurrency: one thread
 */
#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *noun;
    bool is_enabled;
    bool is_drawn;      /* the line is on the screen */
    bool shares_screen; /* standard output is a terminal too */
    int64_t begun_ns, drawn_ns;
    uint64_t bytes;
};

void progress_init(struct progress *p, const char *noun);
bool progress_is_shown(const struct progress *p);
void progress_add_bytes(struct progress *p, uint64_t bytes);

/* Draws, at most ten times a second. fraction: 0 to 1, negative where it is not known. */
void progress_update(struct progress *p, uint64_t n_done, uint64_t n_failed, double fraction);
void progress_hide(struct progress *p);
void progress_make_way(struct progress *p);

/* Leaves a last line, if any was ever drawn. */
void progress_finish(struct progress *p, uint64_t n_done, uint64_t n_failed);
