/* SPDX-License-Identifier: MIT */
/*
 * The kernel sends SIGALRM when the parent ends (PR_SET_PDEATHSIG). The first one only starts the
 * clock, whatever the loop is doing; the second, the clock's, finds no handler and ends the
 * process. One that somebody else sends while the supervisor lives does nothing.
 */
#include "shard/orphan_alarm.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <unistd.h>

static _Thread_local pid_t supervisor; /* 0: another thread took what somebody sent */

static void on_alarm(int signum)
{
    static const struct itimerval limit = {.it_value.tv_sec = ORPHAN_ALARM_S};
    int saved_errno = errno;

    if (supervisor && getppid() != supervisor) {
        signal(signum, SIG_DFL);
        setitimer(ITIMER_REAL, &limit, NULL);
    }
    errno = saved_errno;
}

int orphan_alarm_set(void)
{
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART | SA_ONSTACK};

    supervisor = getppid();
    if (sigaction(SIGALRM, &action, NULL) < 0)
        return -errno;
    return prctl(PR_SET_PDEATHSIG, SIGALRM) < 0 ? -errno : 0;
}
