/* SPDX-License-Identifier: MIT */
#include "shard/wake_latency.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

int wake_latency_hold(const char *device)
{
    const int32_t us = 0;
    int fd = open(device, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    if (write(fd, &us, sizeof(us)) != (ssize_t)sizeof(us)) {
        int r = errno ? -errno : -EIO;
        close(fd);
        return r;
    }
    return fd;
}
