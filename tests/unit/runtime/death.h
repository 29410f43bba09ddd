/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * death - a child process that must abort, and what it must say
 *
 * Use:  assert_bug(enter_twice, "was entered while it runs");
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* The wait status of a child that calls fn; its standard error goes to said. */
static inline int run_in_child(void (*fn)(void), char *said, size_t said_bytes)
{
    int fds[2];
    int status;
    size_t used = 0;
    ssize_t n;

    assert_int_equal(pipe(fds), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        /* cmocka would take the signals for a failed test */
        signal(SIGABRT, SIG_DFL);
        signal(SIGSEGV, SIG_DFL);
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        fn();
        _exit(0);
    }
    close(fds[1]);
    while ((n = read(fds[0], said + used, said_bytes - 1 - used)) > 0)
        used += (size_t)n;
    said[used] = '\0';
    close(fds[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static inline void assert_bug_at(void (*fn)(void), const char *expected, const char *file, int line)
{
    char said[4096];
    int status = run_in_child(fn, said, sizeof said);

    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || !strstr(said, expected)) {
        print_error("status %#x, said: %s", (unsigned)status, said);
        _fail(file, line);
    }
}
#define assert_bug(fn, expected) assert_bug_at(fn, expected, __FILE__, __LINE__)
