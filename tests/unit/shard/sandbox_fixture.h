/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * sandbox_fixture - attempts, each made by a child of its own that has entered the sandbox of a role: it
 * ends with the errno it got, with 0 where it was let through, or by SIGSYS
 *
 * Use:         cmocka_run_group_tests(tests, set_up, tear_down); try_in(role, sockets, attempt)
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "shard/sandbox.h"

#define DIED_OF(signum) (1000 + (signum))

struct fixture {
    struct sandbox *sandbox;
    char *missing;
    char dir[64]; /* with "ro", "rw" and "out", a file in each */
};

static struct fixture fixture;

static inline const char *in_dir(const char *name)
{
    static char path[128];

    snprintf(path, sizeof(path), "%s/%s", fixture.dir, name);
    return path;
}

static inline void make_file(const char *name)
{
    int fd = open(in_dir(name), O_CREAT | O_WRONLY | O_CLOEXEC, 0666);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
}

static inline int set_up(void **state)
{
    static const char *const folders[] = {"ro", "rw", "out"};
    static const char *const files[] = {"ro/file", "rw/file", "out/file"};
    char *error = NULL;

    (void)state;
    strcpy(fixture.dir, "/tmp/test-sandbox-XXXXXX");
    assert_non_null(mkdtemp(fixture.dir));
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(mkdir(in_dir(folders[i]), 0700), 0);
    for (size_t i = 0; i < 3; i++)
        make_file(files[i]);
    assert_int_equal(sandbox_new(&fixture.sandbox, &fixture.missing, &error), 0);
    return 0;
}

static inline int tear_down(void **state)
{
    static const char *const paths[] = {
        "ro/file", "rw/file", "out/file", "rw/new", "ro", "rw", "out", ""};

    (void)state;
    sandbox_free(fixture.sandbox);
    free(fixture.missing);
    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++)
        remove(in_dir(paths[i]));
    return 0;
}

/* ---- attempts ---- */

typedef long attempt_fn(void); /* as a system call: negative, and errno */

static uint16_t port; /* 0: none that may be bound */

static inline void enter(enum sandbox_role role, bool sockets)
{
    struct sandbox_paths paths = {.needs_sockets = sockets, .binds_port = port != 0, .port = port};
    char *error = NULL;

    if (sandbox_paths_add(&paths, in_dir("ro"), false) < 0 ||
        sandbox_paths_add(&paths, in_dir("rw"), true) < 0 ||
        sandbox_paths_add(&paths, in_dir("is not there"), true) < 0 ||
        sandbox_enter(fixture.sandbox, role, &paths, &error) < 0) {
        fprintf(stderr, "%s\n", error ? error : "no memory");
        _exit(255);
    }
    sandbox_paths_deinit(&paths);
}

static inline int try_in(enum sandbox_role role, bool sockets, attempt_fn *attempt)
{
    const struct rlimit no_core = {0, 0};
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &no_core);
        for (int signum = 1; signum < SIGRTMIN; signum++)
            signal(signum, SIG_DFL); /* not cmocka's handlers */
        enter(role, sockets);
        _exit(attempt() < 0 ? errno : 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? DIED_OF(WTERMSIG(status)) : WEXITSTATUS(status);
}

static inline int try_as_shard(attempt_fn *attempt)
{
    return try_in(SANDBOX_SHARD, false, attempt);
}

#define NEEDS(what)                                           \
    do {                                                      \
        if (fixture.missing && strstr(fixture.missing, what)) \
            skip(); /* this kernel or container has none */   \
    } while (0)
