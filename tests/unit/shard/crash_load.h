/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * crash_load - a load of everything that crosses between processes, judged by who asked for it
 *
 * Why:         a death is survived where each request ends exactly once, and as it may.
 * Use:         in each shard and the gateway, once it is ready: load_start(); in the test: raise
 *              board->round, wait until board->over of all peers is there; and, once nothing
 *              is under way, board->at_rest, until board->checked is there. Each process makes its
 *              share of a round once, its replacement once more where it had not got to its end.
 * Concurrency: the owner loop of its process; the board is shared by all
 * Not here:    processes (crash_instance.h)
 *
 * Calls, small, large, nested, not to be run twice, with a deadline, answered in place from a file,
 * with arguments read in place; methods that move; gathers; bottom halves; portable coroutines
 * that move, wait and are woken, with memory of their own; locks. All of them at the same time.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "runtime/co_wait_group.h"
#include "shard/mesh.h"
#include "shard/service.h"

#define LOAD_SHARDS    3
#define LOAD_PEERS     (LOAD_SHARDS + 1)
#define LOAD_IDS       (1u << 16)
#define LOAD_FILE_SIZE 20000u
#define LOAD_METHODS   6u  /* that do not move, from number 0 on */
#define LOAD_LOCK      77u /* one of that id in each shard */

/* In memory that all processes share. */
struct load_board {
    _Atomic uint32_t round;               /* that is to be run */
    _Atomic uint32_t over[LOAD_PEERS];    /* the last one that peer has run to its end */
    _Atomic uint32_t at_rest;             /* the round after which nothing is under way: */
    _Atomic uint32_t checked[LOAD_PEERS]; /* that peer has looked at its lists since */
    _Atomic bool hostile; /* a peer is: nobody moves, locks may not be had, no runs are counted */
    _Atomic uint32_t shunned;    /* peer that nobody calls, + 1; 0: none */
    _Atomic bool may_die;        /* in this round: some ends are as they may be then */
    _Atomic bool may_be_orphans; /* and others where the supervisor is to die */
    _Atomic uint32_t n_wrong;
    char wrong[256]; /* the first */
    _Atomic uint32_t n_ids;
    _Atomic uint8_t n_runs[LOAD_IDS];                     /* of the request with that number */
    _Atomic uint32_t owners[LOAD_SHARDS];                 /* who holds that lock: peer + 1 */
    _Atomic uint64_t travellers[LOAD_PEERS][LOAD_SHARDS]; /* of that peer, to that shard first */
    char file[256]; /* LOAD_FILE_SIZE bytes, as load_byte() has them */
};

struct load {
    struct mesh *mesh;
    uint32_t peer;
    struct load_board *board;
    uint32_t round; /* whose share is run, or was */
    CoWaitGroup tasks;
    struct load_task *first; /* that have not ended */
};

extern const struct service load_service;

/* Before the first fork: the methods find the board by it. */
void load_set_board(struct load_board *board);

static inline uint8_t load_byte(size_t at)
{
    return (uint8_t)(at * 7 + at / 251);
}

/* Notes that something went wrong, and what, where it is the first. */
void load_wrong(struct load_board *board, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Begins to run rounds. 0 or -ENOMEM. */
int load_start(struct load *load, struct mesh *mesh, uint32_t peer, struct load_board *board);

/* The process leaves: nothing that it had asked for is still waited for. */
void load_check_end(const struct load *load);
