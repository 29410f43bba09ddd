/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * bells - the eventfds of an instance's doorbells
 *
 * Why:         a bell has one number in all processes, so all are made before the first fork; and
 *              they sit together above 512, out of the way of whatever closes "all but a few".
 * Use:         bells_open() in the supervisor; children inherit them and keep them open
 * Lifetime:    never closed while somebody may ring: by bells_close() after the last child's end
 */
#include <stdint.h>

#define BELLS_FIRST_FD 512

/* Makes n bells and *ret_fds, their array. Raises the soft limit on fds as far as it goes. 0;
 * -EMFILE: the hard limit leaves no room; -errno. */
int bells_open(uint32_t n, int **ret_fds, char **ret_error);

/* Closes and frees. NULL does nothing. */
void bells_close(int *fds, uint32_t n);
