/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * rundir - where an instance lives: its runtime directory, lock, socket and link to the segment
 *
 * Why:         tools find an instance by name, two of one name cannot run, and what kill -9 of
 *              everything left is taken over.
 * Use:         daemon: rundir_claim(); rundir_announce() each time something becomes true that
 *              rundir_find() waits for
 *              tool: rundir_find(), rundir_list()
 * Concurrency: any process.
 * Not here:    the segment's file and the links to it (shard/segment_file.h)
 *
 *   $SHERD_RUNTIME_DIR/NAME, else $XDG_RUNTIME_DIR/sherd/NAME, else /run/sherd/NAME for root, else
 *   /tmp/sherd-UID/NAME: 0700, owner checked
 *     lock      locked by the instance, every child of it included: it is gone when the last of
 *               them is; holds the supervisor's pid; never removed
 *     segment   link to the file on tmpfs
 *     gateway   the gateway's ipc:// socket
 *     dead-letter-N: calls that are not run again (shard/dead_letter.h)
 *     crashed-N links to the segments of the last three that crashed, the newest is 1
 */
#include <stddef.h>
#include <sys/types.h>

#define RUNDIR_NAME_MAX 48u /* an instance's name: letters, digits, - _ . ; no . or - in front */

/* 0 with malloc'ed path of the instance's directory (which need not exist); -EINVAL: bad name;
 * -EACCES: the parent is somebody else's; -ENOMEM. Text in ret_error (may be NULL, free() it). */
int rundir_path(const char *instance, char **ret_path, char **ret_error);

/* Makes the directory and takes the lock; where the supervisor that had it is dead, its children
 * are waited for, which leave within 5 s. 0 with both; -EBUSY: it runs (the text names its pid
 * where known); as rundir_path(). The lock fd is inherited by children and never closed by them. */
int rundir_claim(const char *instance, char **ret_path, int *ret_lock_fd, char **ret_error);

/* As root, for who is to claim it as another user: makes the folders, and gives that user the last
 * one and those that were not there. Where nothing in the environment says where, that user has a
 * place of his own, and nothing is done. 0; -errno; as rundir_path(). */
int rundir_hand_over(const char *instance, uid_t uid, gid_t gid, char **ret_error);

/* Wakes those that wait in rundir_find(), to look again. Context: who claimed it. */
void rundir_announce(int lock_fd);

/* 1: a process of the instance is alive; 0: none; -errno. Disturbs nobody's claim. */
int rundir_is_live(const char *path);

/* Names of the instances that are live, sorted, NULL-terminated; free each and the array. 0 or
 * -errno. */
int rundir_list(char ***ret_names);

/* Waits up to wait_ns until the instance is there and its segment says the supervisor is ready
 * (wait_ready) or the segment exists (!wait_ready), by inotify, not by polling. 0 with the path;
 * -ENOENT: the text says which instances there are; -ENOLCK, at once: somebody has removed its lock
 * file; as rundir_path(). */
int rundir_find(
    const char *instance, long long wait_ns, int wait_ready, char **ret_path, char **ret_error);
