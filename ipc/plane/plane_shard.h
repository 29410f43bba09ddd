/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * plane_shard - the data plane in a shard's life
 *
 * Why:         shard/ knows nothing of clients; the program hands this to its shards.
 * Use:         supervisor_config.shard_extra = &plane_shard_extra
 * Concurrency: the shard's loop
 * Not here:    who keeps the fds (shard/fd_keep.h), and gives them out (ipc/gateway/)
 */
#include "shard/member.h"

/* What is kept of a client under its number: */
enum plane_fd {
    PLANE_FD_LISTENER,   /* the program's; the gateway's alone */
    PLANE_FD_MEMORY,     /* for all, and nothing else is */
    PLANE_FD_CONNECTION, /* the gateway's alone */
    PLANE_FD_BELL,       /* one shard's; with it a struct plane_grant as its note */
};

extern const struct shard_extra plane_shard_extra;
