/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * submit - what the methods' own command lines have in common
 *
 * Why:         some methods take paths or bytes from standard input and answer with something that
 *              is printed in a form of its own; all others take bytes and answer with bytes. Each
 *              of these is a struct submit_method; submit.c has the table.
 * Concurrency: one thread
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ipc/client/client.h"
#include "tools/progress.h"
#include "tools/pump.h"
#include "tools/remote.h"

#define SUBMIT_NOT_GIVEN UINT64_MAX

/* The options. */
struct submit_values {
    const char *instance;
    int64_t wait_ns;
    uint32_t shard; /* SHERD_NO_SHARD: not given */
    const char *key;
    int64_t timeout_ns; /* 0: none */
    bool is_urgent;
    struct remote remote;
    bool is_zero; /* -0 */
    bool is_unordered;
    bool is_json;
    uint64_t count;  /* SUBMIT_NOT_GIVEN */
    uint32_t window; /* 0: PUMP_WINDOW */
    uint64_t offset; /* SUBMIT_NOT_GIVEN */
    uint64_t length; /* SUBMIT_NOT_GIVEN */
};

struct submit {
    const struct submit_values *values;
    const char *method;
    char **operands;
    size_t n_operands;
    struct pump pump;
    struct progress progress;
};

/* What of the options a method has a use for. */
enum submit_use {
    SUBMIT_USES_OFFSET = 1 << 0,
    SUBMIT_USES_LENGTH = 1 << 1,
    SUBMIT_USES_JSON = 1 << 2,
};

struct submit_method {
    const char *name; /* NULL: any other */
    unsigned uses;    /* enum submit_use */
    size_t min_operands, max_operands;
    const char *expects;               /* the operands, in words */
    int (*run)(struct submit *submit); /* returns the exit status */
};

int submit_sha256(struct submit *submit);
int submit_stat(struct submit *submit);
int submit_read(struct submit *submit);
int submit_write(struct submit *submit);
int submit_ping(struct submit *submit);
int submit_methods(struct submit *submit);
int submit_raw(struct submit *submit);

/* A request as the options want it, without arguments. */
struct sherd_request submit_request(const struct submit *submit);

/* Runs a job over the operands: fills in names, progress and order, reports what went wrong as a
 * whole. Returns the exit status. noun: what is counted, "files". */
int submit_run(struct submit *submit, struct pump_job *job, const char *noun);

/* Prints why a request did not end well. subject: what it worked on, NULL or empty: nothing in
 * particular; wire_path: how the shards call that, NULL: the same. Returns false. */
bool submit_failed(struct submit *submit, const char *subject, const char *wire_path,
    const struct sherd_result *result);

/* Prints why pump_call() failed. Returns the exit status. */
int submit_broken(struct submit *submit, int error);
