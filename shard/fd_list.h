/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fd_list - which fds this process has open
 *
 * Why:         what a child inherits is a list, not whatever happens to be open.
 * Concurrency: any thread, while no other opens or closes
 */
#include <stdbool.h>
#include <stdint.h>

struct fd_list {
    int *fds; /* ascending; free() it */
    uint32_t n;
};

/* All that are open, standard input, output and error included. 0 or -errno. */
int fd_list_read(struct fd_list *ret);

bool fd_list_has(const struct fd_list *list, int fd);

/* Keeps those that other has not. */
void fd_list_subtract(struct fd_list *list, const struct fd_list *other);
