/* SPDX-License-Identifier: MIT */
#include "shard/bells.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "shard/explain.h"

/* Fds beside the bells that a process of an instance may need at the same time, at the least. */
#define ROOM_ABOVE 64u

static int raise_limit(uint32_t n, char **ret_error)
{
    rlim_t needed = BELLS_FIRST_FD + n + ROOM_ABOVE;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return explain(ret_error, -errno, "limit on open files: %m");
    if (limit.rlim_max < needed)
        return explain(ret_error, -EMFILE,
            "the limit on open files is %llu, and %llu are needed; raise it (ulimit -Hn, or "
            "LimitNOFILE= in the systemd unit)",
            (unsigned long long)limit.rlim_max, (unsigned long long)needed);
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        return explain(ret_error, -errno, "limit on open files: %m");
    return 0;
}

/* An eventfd at the lowest free number from BELLS_FIRST_FD on. */
static int open_bell(void)
{
    int moved, fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        return -errno;
    moved = fcntl(fd, F_DUPFD_CLOEXEC, BELLS_FIRST_FD);
    if (moved < 0)
        moved = -errno;
    close(fd);
    return moved;
}

int bells_open(uint32_t n, int **ret_fds, char **ret_error)
{
    int r, *fds;

    r = raise_limit(n, ret_error);
    if (r < 0)
        return r;
    fds = calloc(n, sizeof(*fds));
    if (!fds)
        return explain(ret_error, -ENOMEM, "doorbells: %s", strerror(ENOMEM));
    for (uint32_t i = 0; i < n; i++) {
        fds[i] = open_bell();
        if (fds[i] < 0) {
            r = fds[i];
            bells_close(fds, i);
            return explain(ret_error, r, "doorbells: %s", strerror(-r));
        }
    }
    *ret_fds = fds;
    return 0;
}

void bells_close(int *fds, uint32_t n)
{
    for (uint32_t i = 0; fds && i < n; i++)
        close(fds[i]);
    free(fds);
}
