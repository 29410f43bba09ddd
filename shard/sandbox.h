/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * sandbox - what a child of the supervisor gives up, for good, before it serves anybody
 *
 * Why:         who finds a mistake in a shard or the gateway by what it submits must not thereby
 *              have the machine, or what other instances and users keep on it.
 * Use:         supervisor: sandbox_new(&sandbox, &missing, &error) before the first fork
 *              child, still one thread: sandbox_enter() before its context is made;
 *              sandbox_close_rings() once it is
 * Concurrency: made by one thread, constant after; any process.
 * Lifetime:    of the process: no way leads back
 * Not here:    the list of system calls (sandbox_calls.h), which operations its io_uring takes
 *              (runtime/uring_ops.h), another user's rights (user.h)
 *
 * In this order: no new privileges by exec; all capabilities, those that exec could give back too;
 * by Landlock all files but those named, TCP but for the port named, signals to, abstract sockets
 * and tracing of whoever is outside; by seccomp all system calls but those of its role. What the
 * kernel lacks, or a container forbids, is left out, and said once.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sandbox_role { SANDBOX_SHARD, SANDBOX_GATEWAY, N_SANDBOX_ROLES };

struct sandbox;

/* Files and folders, with all below them, that may be opened from then on. */
struct sandbox_paths {
    struct sandbox_path {
        char *path;
        bool writable; /* made and removed, too */
    } * all;
    size_t n;
    bool needs_sockets; /* a service's: new ones may be made, connected, bound */
    bool binds_port;    /* the gateway's: to this one of TCP, and it connects to none */
    uint16_t port;      /* 0: any */
};

/* path may be gone, or NULL, which is no path. 0 or -ENOMEM. */
int sandbox_paths_add(struct sandbox_paths *paths, const char *path, bool writable);
void sandbox_paths_deinit(struct sandbox_paths *paths);

/* Makes the filters and asks the kernel what it has. *ret_missing (free() it) says for people what
 * is missing and what that means; NULL: nothing. 0 or -errno, with a text. Where sandboxes are left
 * out of the build (sanitizers), *ret_sandbox is NULL, and so is *ret_missing. */
int sandbox_new(struct sandbox **ret_sandbox, char **ret_missing, char **ret_error);
void sandbox_free(struct sandbox *sandbox);

/* NULL is no sandbox: 0. -errno, with a text: what the kernel has did not work, and the process
 * must not go on. */
int sandbox_enter(const struct sandbox *sandbox, enum sandbox_role role,
    const struct sandbox_paths *paths, char **ret_error);

/* No thread of the process makes another io_uring, for a fresh one would take all operations, which
 * seccomp does not see. 0 or -errno. */
int sandbox_close_rings(const struct sandbox *sandbox);

/* The name of a system call, for free(); NULL: unknown. */
char *sandbox_call_name(int64_t number);
