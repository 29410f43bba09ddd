/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * gateway - the process in which clients' messages end: nng on one side, the mesh on the other
 *
 * Why:         nng has threads and survives no fork, and what strangers send is parsed: neither is
 *              to be in a shard.
 * Use:         it is the child_main_fn of the peer after the last shard
 * Concurrency: one loop, and nng's threads, which only fill its inbox
 * Lifetime:    a process's; what a client must not lose lies in the segment (ipc/gateway/fates.h)
 * Not here:    the messages (proto/sherd.proto, docs/protocol.md), limits (ipc/gateway/limits.h)
 */
#include "shard/member.h"

/* Runs the gateway's life and returns its exit status. */
int gateway_main(const struct child_env *env);
