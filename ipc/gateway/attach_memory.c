/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/attach_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/thread_pool.h"

struct making {
    uint64_t bytes;
    int fd;
};

static int fill_and_seal(const struct making *making)
{
    int r;

    do
        r = fallocate(making->fd, 0, 0, (off_t)making->bytes) < 0 ? -errno : 0;
    while (r == -EINTR);
    if (r == 0 && fcntl(making->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        r = -errno;
    return r;
}

/* Context: a worker thread. */
static int make(void *opaque)
{
    struct making *making = opaque;
    int r;

    making->fd = memfd_create("sherd-client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (making->fd < 0)
        return -errno;
    r = fill_and_seal(making);
    if (r < 0) {
        close(making->fd);
        making->fd = -1;
    }
    return r;
}

int coroutine_fn attach_memory_make(uint64_t bytes, int *ret_fd)
{
    struct making making = {.bytes = bytes, .fd = -1};
    int r = thread_pool_submit_co(make, &making);

    if (r == 0)
        *ret_fd = making.fd;
    return r;
}
