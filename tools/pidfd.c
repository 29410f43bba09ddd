/* SPDX-License-Identifier: MIT */
#include "tools/pidfd.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "shard/process.h"
#include "tools/clock.h"

/* The pidfd comes first: had it been opened for a process before the right one, the right one could
 * not have the number afterwards, since it started earlier. */
int pidfd_open_started(pid_t pid, uint64_t start_ticks)
{
    if (pid <= 0)
        return -ESRCH;
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (fd < 0)
        return -errno;
    uint64_t ticks;
    int r = process_start_ticks(pid, &ticks);
    if (!r && ticks != start_ticks)
        r = -ESRCH;
    if (r) {
        close(fd);
        return r;
    }
    return fd;
}

int pidfd_signal(int pidfd, int signal)
{
    return syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0) ? -errno : 0;
}

int pidfd_wait(int pidfd, int64_t timeout_ns)
{
    int64_t deadline_ns = clock_now_ns() + timeout_ns;
    for (;;) {
        struct timespec left = clock_left(deadline_ns);
        struct pollfd end = {.fd = pidfd, .events = POLLIN};
        int n = ppoll(&end, 1, &left, NULL);
        if (n > 0)
            return 0;
        if (n == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

int pidfd_send_word(int pidfd, int signal, uint64_t word)
{
    siginfo_t info = {.si_signo = signal, .si_code = SI_QUEUE};

    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_ptr = (void *)(uintptr_t)word;
    return syscall(SYS_pidfd_send_signal, pidfd, signal, &info, 0) ? -errno : 0;
}
