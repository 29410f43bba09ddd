/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * user - gives up root's rights for those of a user, for good
 *
 * Why:         what opens a device or makes a directory as root need not serve clients as root.
 * Use:         struct user user;
 *              r = user_find(name, &user, &error);
 *              … what only root may do for that user …
 *              r = user_become(name, &user, &error);
 * Concurrency: the process's only thread, before the first fork: every child inherits it
 */
#include <sys/types.h>

struct user {
    uid_t uid;
    gid_t gid;
};

/* 0; -ENOENT: there is none of that name; -EPERM: not root, and not that user; with a text. */
int user_find(const char *name, struct user *ret_user, char **ret_error);

/* Supplementary groups, group, user, in this order; and then the process may be looked into by its
 * own user again (/proc/self, core dumps), which the kernel takes from it on the way. 0 or -errno,
 * with a text. */
int user_become(const char *name, const struct user *user, char **ret_error);
