/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * reach - what the gateway may still open and bind once it is in its sandbox
 *
 * Why:         it is who hears the network: nothing it does not need is to be had through it.
 * Use:         gateway_reach(env, &paths), then sandbox_enter() with them
 * Concurrency: while the process is one thread
 * Lifetime:    of the paths: sandbox_paths_deinit()
 * Not here:    entering (shard/sandbox.h), what a shard's services reach (shard/registry.h)
 */
#include "shard/member.h"
#include "shard/sandbox.h"

/* Adds to paths. 0 or -ENOMEM. */
int gateway_reach(const struct child_env *env, struct sandbox_paths *paths);
