/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * attach_rig - the keeper and the gateway's part of attaching, in one loop, with no process around
 *
 * Use:         rig_make(); clients connect with rig_connect() and send what they like; rig_settle()
 *              turns the loop until nothing happens; shards' ends of the keeper's channels are the
 *              test's; rig_discard()
 * Concurrency: one thread
 */
#include "ipc/gateway/attach.h"
#include "proto/attach.h"

struct attach_rig {
    struct log log;
    AioContext *ctx;
    struct segment seg;
    struct fd_keep *keep;
    struct fd_keep_heir heir;
    struct attach *attach;
    uint64_t client_bytes;
    char dir[64];
};

void rig_make(struct attach_rig *rig, uint32_t n_shards, uint64_t client_bytes);
void rig_discard(struct attach_rig *rig);

/* The gateway dies, and its replacement begins. */
void rig_replace_gateway(struct attach_rig *rig);

/* Until nothing happens any more, worker threads included; but not what waits for time. */
void rig_settle(struct attach_rig *rig);

/* One turn, which waits for workers alone; and all shards follow what they are told. */
void rig_turn(struct attach_rig *rig);

/* A worker makes some client's memory. */
bool rig_is_making(const struct attach_rig *rig);

/* A connection, not yet accepted. */
int rig_connect(const struct attach_rig *rig);

/* A hello that can be granted. */
struct attach_hello rig_hello(uint64_t serial);
struct attach_open rig_open(uint64_t serial, uint32_t shard);

/* What came: its size, and the fd that came with it (-1: none); 0: nothing now; -1: the end. */
int rig_receive(int fd, void *buf, size_t size, int *ret_fd);

/* The shard's part: follows what it is told, as far as letting go. Returns how many HANDs came. */
uint32_t rig_shard_turn(struct attach_rig *rig, uint32_t shard);

/* Rows that are not free. */
uint32_t rig_n_rows(const struct attach_rig *rig);

/* Waits until every row is free, with all shards following. */
void rig_wait_for_none(struct attach_rig *rig);
