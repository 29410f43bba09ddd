/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * random_machine - what test_random_loop.c knows of one context: its objects and the model of them
 *
 * Why:         the state that the operations of the test change and its callbacks check.
 * Lifetime:    one run
 * Not here:    what a turn must do (test_random_loop.c), dice and options (random_run.h)
 */
#include "runtime/coroutine.h"
#include "tests/unit/runtime/random_run.h"

enum { N_BHS = 12, N_TIMERS = 16, N_FDS = 6, N_COS = 8 };
enum { DEEPEST = 3, PATIENCE = 100 };

struct machine;

/* What a callback gets: which object, and which of those that had its place. Freed at the end, so
 * that one that is called too late is still there to tell. */
struct token {
    struct machine *m;
    uint32_t idx;
    uint32_t generation;
    struct token *next;
};

struct m_bh {
    BH *bh; /* NULL: free, or a oneshot */
    bool is_used, is_oneshot;
    bool pending, scheduled, urgent;
    uint64_t seq; /* its place in line while pending */
    uint32_t generation;
};

struct m_timer {
    AioTimer *timer;
    bool armed, due;
    int64_t expire_ns, latest_ns, slack_ns;
    uint64_t seq; /* order of arming; while due, its place among those */
    uint32_t generation;
};

struct m_fd {
    int fd;
    bool watched, readable;
    bool was_called; /* in this outermost turn, or has changed */
    uint32_t n_waited;
    uint32_t generation;
};

enum m_co_state { CO_NONE, CO_RUNS, CO_YIELDED, CO_WOKEN, CO_LOCKS };

struct m_co {
    Coroutine *co;
    enum m_co_state state;
    bool by_schedule;
    uint64_t seq; /* when it was scheduled, among bottom halves */
};

/* An aio_poll() or aio_bh_poll() on the stack. */
struct turn {
    uint64_t limit; /* bottom halves from here on wait */
    bool bhs_over, is_collected, progress;
    struct turn *outer;
};

struct machine {
    struct random_run *run;
    struct dice dice;
    AioContext *ctx;
    struct m_bh bhs[N_BHS];
    struct m_timer timers[N_TIMERS];
    struct m_fd fds[N_FDS];
    struct m_co cos[N_COS];
    struct turn *turn;
    uint32_t depth;      /* turns on the stack */
    uint32_t call_depth; /* callbacks on the stack */
    uint64_t n_seqs;
    bool co_bh_pending;
    uint64_t co_bh_seq;
    uint64_t n_deleted; /* when a bottom half was last deleted */
    uint64_t n_freed;   /* those deleted before are freed */
    int64_t now_ns;
    bool stopped;
    bool direct; /* aio_bh_call() is on */
    CoMutex mutex;
    uint32_t lock_line[N_COS], n_in_line; /* who wants the mutex, first come first */
    int holder;
    struct token *tokens;
};

#define CHECK(m, ...) random_check((m)->run, __VA_ARGS__)
