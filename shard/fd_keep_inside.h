/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fd_keep_inside - what fd_keep.c and fd_keep_message.c share
 */
#include "shard/fd_keep.h"

/* As fd_keep_send(), with up to FD_KEEP_FDS_MAX fds. */
int fd_keep_send_fds(
    int channel, const struct fd_keep_message *message, const int *fds, uint32_t n_fds);
