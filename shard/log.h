/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * log - the daemon's one line an event, on standard error
 *
 * Why:         operators read a log, not return values.
 * Use:         log_init() in the supervisor; log_process() first thing in each child; log_line()
 * Concurrency: owner loop of each process; a line is one write(2), so processes do not mix. The
 * state is a struct that the process's main function owns; there is no global.
 *
 * Form: time (ISO 8601, UTC, milliseconds), process ("supervisor", "gateway", "shard 1"), level,
 * text. Under systemd (JOURNAL_STREAM names standard error) the time is left out and the level is a
 * <N> prefix. A line like the one before it is counted, and the count printed with the next
 * different line or after a second at the latest by log_flush().
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level {
    LOG_LEVEL_ERROR,
    LOG_LEVEL_WARNING,
    LOG_LEVEL_NOTICE,
    LOG_LEVEL_INFO,
    LOG_LEVEL_DEBUG
};

struct log {
    int fd;
    enum log_level level; /* lines above it are left out */
    bool journal;
    char process[24];
    char last[512]; /* the line before, where it is short enough; "": none */
    enum log_level last_level;
    uint64_t repeats;
    uint64_t dropped; /* lines that could not be written without waiting */
};

/* "error", "warning", "notice", "info", "debug". The other way: -EINVAL where it is none of
 * them. */
const char *log_level_text(enum log_level level);
int log_level_parse(const char *text, enum log_level *ret_level);

void log_init(struct log *log, int fd, enum log_level level);
void log_process(struct log *log, const char *process);
void log_line(struct log *log, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A line in one write(2), without the time, which can't be told there. Context: signal handler. */
void log_from_signal(const struct log *log, enum log_level level, const char *text);

/* Writes how often the last line was repeated. Whoever logs in a loop calls it within a second of
 * repeats growing. */
void log_flush(struct log *log);
