/* SPDX-License-Identifier: MIT */
/*
 * Landlock takes away what it is told to handle, and gives it back below the paths named. It looks
 * when a file is opened: what was opened before, the segment, bells, the lock, stays as it is; and
 * what is only looked up (O_PATH) is never its business, so that links can be followed through
 * folders that may not be read.
 *
 * Core files are written by the kernel in the dying process's name. Where they are wanted (a limit
 * above 0) and go to the working directory, that one may be written to, unless it is "/".
 */
#include "shard/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/kernel.h"
#include "shard/capabilities.h"
#include "shard/explain.h"
#include "shard/sandbox_calls.h"

struct sandbox {
    int landlock_abi; /* 0: there is none */
    bool has_calls;
    struct sandbox_program programs[N_SANDBOX_LISTS];
};

/* ---- Landlock ---- */

#define READ_RIGHTS (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define WRITE_RIGHTS                                                                               \
    (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE |                              \
        LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |                              \
        LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_MAKE_SOCK | \
        LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_REFER | KERNEL_LANDLOCK_FS_TRUNCATE)
#define OTHER_RIGHTS                                                                             \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK | \
        KERNEL_LANDLOCK_FS_IOCTL_DEV)
/* Of a file; the rest is of folders alone. */
#define FILE_RIGHTS                                                                              \
    (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_EXECUTE | \
        KERNEL_LANDLOCK_FS_TRUNCATE)

static int probe_landlock(void)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

    return abi < 0 ? 0 : (int)abi;
}

/* What this kernel can take away, of all that should be. */
static struct kernel_landlock_ruleset rights_of(int abi, bool any_socket)
{
    struct kernel_landlock_ruleset all = {
        .handled_access_fs = READ_RIGHTS | WRITE_RIGHTS | OTHER_RIGHTS};

    if (abi < 2)
        all.handled_access_fs &= ~(uint64_t)LANDLOCK_ACCESS_FS_REFER;
    if (abi < 3)
        all.handled_access_fs &= ~KERNEL_LANDLOCK_FS_TRUNCATE;
    if (abi < 5)
        all.handled_access_fs &= ~KERNEL_LANDLOCK_FS_IOCTL_DEV;
    if (abi >= 4 && !any_socket)
        all.handled_access_net = KERNEL_LANDLOCK_NET_BIND_TCP | KERNEL_LANDLOCK_NET_CONNECT_TCP;
    if (abi >= 6)
        all.scoped =
            KERNEL_LANDLOCK_SCOPE_SIGNAL | (any_socket ? 0 : KERNEL_LANDLOCK_SCOPE_ABSTRACT_UNIX);
    return all;
}

/* A kernel that knows less of the struct refuses more of it. */
static size_t ruleset_bytes(int abi)
{
    return abi >= 6   ? sizeof(struct kernel_landlock_ruleset)
           : abi >= 4 ? offsetof(struct kernel_landlock_ruleset, scoped)
                      : offsetof(struct kernel_landlock_ruleset, handled_access_net);
}

/* What is gone can't be opened either. */
static int allow_path(int ruleset, uint64_t handled, const char *path, uint64_t rights)
{
    struct landlock_path_beneath_attr rule = {.allowed_access = rights & handled};
    struct stat st;
    int r = 0;

    rule.parent_fd = open(path, O_PATH | O_CLOEXEC);
    if (rule.parent_fd < 0)
        return 0;
    if (fstat(rule.parent_fd, &st) < 0)
        r = -errno;
    if (r == 0 && !S_ISDIR(st.st_mode))
        rule.allowed_access &= FILE_RIGHTS;
    if (r == 0 && syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
        r = -errno;
    close(rule.parent_fd);
    return r;
}

/* What every process looks at in its life. */
static int allow_own(int ruleset, uint64_t handled)
{
    static const char *const paths[] = {
        "/proc/self",                 /* threads, mappings: looks for pointers in what moves */
        "/proc/sys/vm/max_map_count", /* how many stacks may have guards */
        "/usr/lib/ssl", "/etc/ssl",   /* libcrypto's settings */
    };
    int r = 0;

    for (size_t i = 0; r == 0 && i < sizeof(paths) / sizeof(paths[0]); i++)
        r = allow_path(ruleset, handled, paths[i], READ_RIGHTS);
    return r;
}

static bool core_goes_to_folder(void)
{
    char first = '|';
    FILE *pattern = fopen("/proc/sys/kernel/core_pattern", "re");

    if (pattern) {
        first = (char)fgetc(pattern);
        fclose(pattern);
    }
    return first != '|' && first != '/' && first != '@';
}

static int allow_core(int ruleset, uint64_t handled)
{
    struct rlimit limit;
    char *folder;
    int r = 0;

    if (getrlimit(RLIMIT_CORE, &limit) < 0 || limit.rlim_cur == 0 || !core_goes_to_folder())
        return 0;
    folder = getcwd(NULL, 0);
    if (folder && strcmp(folder, "/") != 0)
        r = allow_path(ruleset, handled, folder,
            LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG |
                LANDLOCK_ACCESS_FS_REMOVE_FILE | KERNEL_LANDLOCK_FS_TRUNCATE);
    free(folder);
    return r;
}

/* A kernel without TCP takes no rule of it, and binds nothing. */
static int allow_port(int ruleset, uint64_t handled, const struct sandbox_paths *paths)
{
    struct kernel_landlock_port rule = {
        .allowed_access = KERNEL_LANDLOCK_NET_BIND_TCP & handled, .port = paths->port};

    if (!paths->binds_port || !rule.allowed_access)
        return 0;
    if (syscall(SYS_landlock_add_rule, ruleset, KERNEL_LANDLOCK_RULE_NET_PORT, &rule, 0) < 0 &&
        errno != EAFNOSUPPORT)
        return -errno;
    return 0;
}

static int fill_ruleset(int ruleset, uint64_t handled, const struct sandbox_paths *paths)
{
    int r = allow_own(ruleset, handled);

    if (r == 0)
        r = allow_core(ruleset, handled);
    for (size_t i = 0; r == 0 && i < paths->n; i++)
        r = allow_path(ruleset, handled, paths->all[i].path,
            paths->all[i].writable ? READ_RIGHTS | WRITE_RIGHTS : READ_RIGHTS);
    return r;
}

static int close_files_and_ports(int abi, const struct sandbox_paths *paths)
{
    struct kernel_landlock_ruleset all = rights_of(abi, paths->needs_sockets);
    int r, ruleset = (int)syscall(SYS_landlock_create_ruleset, &all, ruleset_bytes(abi), 0);

    if (ruleset < 0)
        return -errno;
    r = fill_ruleset(ruleset, all.handled_access_fs, paths);
    if (r == 0)
        r = allow_port(ruleset, all.handled_access_net, paths);
    if (r == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
        r = -errno;
    close(ruleset);
    return r;
}

/* ---- all of it ---- */

static void append(char **text, const char *more)
{
    char *longer;

    if (asprintf(&longer, "%s%s%s", *text ? *text : "", *text ? "; " : "", more) < 0)
        return;
    free(*text);
    *text = longer;
}

int sandbox_new(struct sandbox **ret_sandbox, char **ret_missing, char **ret_error)
{
    struct sandbox *sandbox = calloc(1, sizeof(*sandbox));
    char *missing = NULL;
    int r = sandbox ? 0 : -ENOMEM;

    for (int list = 0; r == 0 && list < N_SANDBOX_LISTS; list++)
        r = sandbox_calls_make((enum sandbox_list)list, &sandbox->programs[list]);
    if (r < 0) {
        sandbox_free(sandbox);
        return explain(ret_error, r, "the list of system calls: %s", strerror(-r));
    }
    sandbox->landlock_abi = probe_landlock();
    sandbox->has_calls = sandbox_calls_probe() == 0;
    if (!sandbox->landlock_abi)
        append(&missing, "without Landlock, services may open all files that their user may");
    if (!sandbox->has_calls)
        append(&missing, "without seccomp, services may make all system calls");
    *ret_sandbox = sandbox;
    *ret_missing = missing;
    return 0;
}

void sandbox_free(struct sandbox *sandbox)
{
    if (!sandbox)
        return;
    for (int list = 0; list < N_SANDBOX_LISTS; list++)
        sandbox_calls_free(&sandbox->programs[list]);
    free(sandbox);
}

static int close_calls(const struct sandbox_program *of_role)
{
    int r = sandbox_calls_own_signals();

    return r < 0 ? r : sandbox_calls_load(of_role);
}

int sandbox_enter(const struct sandbox *sandbox, enum sandbox_role role,
    const struct sandbox_paths *paths, char **ret_error)
{
    enum sandbox_list list = role == SANDBOX_GATEWAY ? SANDBOX_LIST_GATEWAY
                             : paths->needs_sockets  ? SANDBOX_LIST_SHARD_SOCKETS
                                                     : SANDBOX_LIST_SHARD;
    const char *what = "no new privileges";
    int r;

    if (!sandbox)
        return 0;
    r = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
    if (r == 0) {
        what = "capabilities";
        r = capabilities_drop();
    }
    if (r == 0 && sandbox->landlock_abi) {
        what = "Landlock";
        r = close_files_and_ports(sandbox->landlock_abi, paths);
    }
    if (r == 0 && sandbox->has_calls) {
        what = "seccomp";
        r = close_calls(&sandbox->programs[list]);
    }
    if (r < 0)
        return explain(ret_error, r, "sandbox: %s: %s; `sherd run --sandbox off` goes without",
            what, strerror(-r));
    return 0;
}

int sandbox_close_rings(const struct sandbox *sandbox)
{
    if (!sandbox || !sandbox->has_calls)
        return 0;
    return sandbox_calls_load(&sandbox->programs[SANDBOX_LIST_NO_RINGS]);
}
