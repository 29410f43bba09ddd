/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * capabilities - root's rights, one by one, given up
 *
 * Why:         whoever takes over a shard that serves for root shall not have root's rights.
 * Use:         capabilities_bound() while root, before becoming another user;
 *              capabilities_drop() in each child
 * Concurrency: the calling thread, which is the process's only one
 */

/* No exec gives any back from now on. 0, also for who is not root and so need not be kept from it;
 * -errno. */
int capabilities_bound(void);

/* All of this process's are gone, and so is what capabilities_bound() takes. 0 or -errno. */
int capabilities_drop(void);
