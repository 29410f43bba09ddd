/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * run_options - what `sherd run` is told, by its command line and a configuration file
 *
 * Why:         both know the same keys, because both are read by one table.
 * Use:         struct run_options options;
 *              int r = run_options_parse(argc, argv, &options);
 *              if (r < 0)
 *                  return command_exit_status(r);
 * Concurrency: one thread
 * Lifetime:    texts point into argv or are the options' own; children inherit both.
 *
 * The file: KEY = VALUE lines, KEY being an option without its dashes; options that may be given
 * again and again have a line each time, flags have yes or no; they stand at the top, or below
 * [sherd]. Lines below [SERVICE] are settings of that service, as --set SERVICE.KEY=VALUE. The
 * command line comes after the file: it overrides single values and adds to lists.
 */
#include <stdbool.h>
#include <stdint.h>

#include "ipc/gateway/certificate.h"
#include "runtime/aio.h"
#include "shard/private_scan.h"
#include "shard/log.h"
#include "tools/command.h"

struct run_options {
    const char *instance;
    uint32_t shards; /* 0: as many as there are cores to use */
    struct command_list services;
    struct command_list settings; /* "SERVICE.KEY=VALUE" */
    struct command_list roots;    /* "DIR" or "DIR:rw" */
    const char *config;           /* NULL: none */
    enum aio_engine engine;
    enum scan_mode scan_mode;
    bool no_rebalance;
    const char *listen; /* NULL: none */
    const char *token_file;
    const char *operator_token_file;
    struct certificate_files tls; /* for a listen of tls+tcp:// */
    uint64_t segment_bytes;       /* 0: the default */
    uint64_t client_bytes;        /* of all local clients together; 0: the default */
    uint32_t client_rate;         /* requests a second of each in a shard; 0: no limit */
    const char *attach_group;     /* NULL: none */
    const char *attach_mode;      /* NULL: the default */
    uint64_t fates_bytes;         /* likewise */
    bool enable_test_methods;
    int64_t drain_limit_ns;
    uint32_t crash_limit;
    int64_t crash_window_ns;
    const char *user; /* NULL: who started it */
    bool wake_latency_low;
    uint32_t spin_us;
    int64_t stall_report_ns;
    int64_t stall_limit_ns;
    bool no_pin;
    bool no_sandbox;
    enum log_level log_level;
    int argc; /* for run_options_reload() */
    char **argv;
    struct command_list kept; /* texts of the file, which fields above point to */
    bool owns_roots;          /* roots.items are copies */
};

/* 0, or negative for command_exit_status(): help or an error was printed. */
int run_options_parse(int argc, char **argv, struct run_options *ret);

void run_options_deinit(struct run_options *options);

/* Where the roots are others than before: 0, or -errno with a text, and they stay. */
typedef int run_options_roots_fn(void *opaque, const struct command_list *roots, char **ret_error);

/* Reads the file again for what may change while the instance runs: the log level, limits, roots.
 * *ret_refused (free() it; NULL: none) names what else is different there. False, and nothing is
 * changed, where the file has an error, or the roots are refused; ret_error (free() it) says
 * which. */
bool run_options_reload(struct run_options *options, run_options_roots_fn *change_roots,
    void *opaque, char **ret_refused, char **ret_error);
