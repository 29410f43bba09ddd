/* SPDX-License-Identifier: MIT */
/*
 * A child is a process: what every instance runs. Its fd is a pidfd.
 */
#include <signal.h>
#include <sys/wait.h>

#include "shard/supervisor_inside.h"

int child_begin(struct child *child, pid_t *ret_pid, char **ret_error)
{
    pid_t pid = spawn_fork(&child->pidfd, ret_error);

    if (pid == 0)
        return 1;
    quiet_close_own_end(child); /* the last, where it was not forked */
    if (pid < 0)
        return (int)pid;
    *ret_pid = pid;
    return 0;
}

bool child_reap(struct child *child, bool wait, int *ret_status)
{
    return waitpid(child->pid, ret_status, wait ? 0 : WNOHANG) == child->pid;
}

void child_kill(const struct child *child)
{
    kill(child->pid, SIGKILL);
}
