/* SPDX-License-Identifier: MIT */
/*
 * Fds are closed by ranges between those that are kept, and then /proc/self/fd is compared with the
 * list: an fd too many would be a listener or a pipe kept open for ever, one too few a bell that
 * cannot be rung.
 */
#include "shard/spawn.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shard/explain.h"
#include "shard/fd_list.h"
#include "shard/firewall.h"
#include "shard/image.h"
#include "shard/orphan_alarm.h"
#include "shard/process.h"

pid_t spawn_fork(int *ret_pidfd, char **ret_error)
{
    char *names;
    int pidfd, r = process_is_single_threaded(&names);
    pid_t pid;

    if (r < 0)
        return explain(ret_error, r, "can't count threads in /proc/self/task: %s", strerror(-r));
    if (r == 0) {
        explain(ret_error, -EBUSY,
            "a library or service started a thread (%s), which no process forked from here would "
            "have; load it without, or leave it out",
            names ? names : "unknown");
        free(names);
        return -EBUSY;
    }
    pid = fork();
    if (pid < 0)
        return explain(ret_error, -errno, "fork: %m");
    if (pid == 0)
        return 0;
    pidfd = pidfd_open(pid, 0);
    if (pidfd < 0) {
        r = explain(ret_error, -errno, "pidfd of process %d: %m", (int)pid);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        return r;
    }
    *ret_pidfd = pidfd;
    return pid;
}

/* ---- in the child ---- */

static int reset_signals(void)
{
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ};
    sigset_t none;

    for (int signum = 1; signum < NSIG; signum++)
        if (signum != SIGKILL && signum != SIGSTOP)
            signal(signum, SIG_DFL); /* refused for the two that libc keeps to itself */
    for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
        signal(ignored[i], SIG_IGN);
    sigemptyset(&none);
    return sigprocmask(SIG_SETMASK, &none, NULL) < 0 ? -errno : 0;
}

static int compare_ints(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;

    return (x > y) - (x < y);
}

/* Closes what lies between the sorted fds. */
static int close_between(const int *sorted, uint32_t n)
{
    unsigned next = STDERR_FILENO + 1;

    for (uint32_t i = 0; i < n; i++) {
        unsigned fd = (unsigned)sorted[i];
        if (fd > next && close_range(next, fd - 1, 0) < 0)
            return -errno;
        if (fd >= next)
            next = fd + 1;
    }
    return close_range(next, UINT_MAX, 0) < 0 ? -errno : 0;
}

static int check_fds(const int *sorted, uint32_t n, char **ret_error)
{
    struct fd_list open;
    uint32_t i = 0;
    int stray = -1, r = fd_list_read(&open);

    if (r < 0)
        return explain(ret_error, r, "/proc/self/fd: %s", strerror(-r));
    for (uint32_t k = 0; k < open.n; k++) {
        if (open.fds[k] <= STDERR_FILENO)
            continue;
        if (i < n && open.fds[k] == sorted[i])
            i++;
        else
            stray = open.fds[k];
    }
    free(open.fds);
    if (stray >= 0)
        return explain(ret_error, -EBADF, "fd %d is open, which it should not be", stray);
    if (i != n)
        return explain(ret_error, -EBADF, "of %u inherited fds fd %d is closed", n, sorted[i]);
    return 0;
}

static int keep_fds(const struct spawn *spawn, char **ret_error)
{
    uint32_t n = spawn->n_keep_fds;
    int r, *sorted = malloc((n + 1) * sizeof(*sorted));

    if (!sorted)
        return explain(ret_error, -ENOMEM, "%s", strerror(ENOMEM));
    memcpy(sorted, spawn->keep_fds, n * sizeof(*sorted));
    qsort(sorted, n, sizeof(*sorted), compare_ints);
    r = close_between(sorted, n);
    if (r < 0)
        explain(ret_error, r, "can't close inherited fds: %s", strerror(-r));
    else
        r = check_fds(sorted, n, ret_error);
    free(sorted);
    return r;
}

/* A core may have been taken from the instance since it started; it goes on without. */
static void pin(const struct spawn *spawn, struct log *log)
{
    if (spawn->core && sched_setaffinity(0, sizeof(spawn->core->cpus), &spawn->core->cpus) < 0)
        log_line(log, LOG_LEVEL_WARNING, "can't be pinned to core %d: %s; runs where it may",
            spawn->core->first_cpu, strerror(errno));
}

int spawn_settle(const struct spawn *spawn, struct log *log, char **ret_error)
{
    int r;

    log_process(log, spawn->process);
    prctl(PR_SET_NAME, spawn->comm);
    prctl(PR_SET_TIMERSLACK, 1); /* else the kernel ends a sleep up to 50 us late */
    r = reset_signals();
    if (r < 0)
        return explain(ret_error, r, "can't reset signals: %s", strerror(-r));
    r = orphan_alarm_set();
    if (r < 0)
        return explain(ret_error, r, "can't be told of the supervisor's death: %s", strerror(-r));
    r = keep_fds(spawn, ret_error);
    if (r < 0)
        return r;
    pin(spawn, log);
    r = image_check(spawn->segment, spawn->registry, ret_error);
    if (r < 0)
        return r;
    r = firewall_raise(spawn->segment, spawn->peer);
    if (r < 0)
        return explain(ret_error, r, "can't protect the segment: %s", strerror(-r));
    return 0;
}
