/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/attach_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/thread_pool.h"

#define PIECE_BYTES (UINT64_C(4) << 20)

static int fill(struct attach_memory *memory)
{
    uint64_t left = memory->bytes - memory->done, n = left < PIECE_BYTES ? left : PIECE_BYTES;
    int r;

    do
        r = fallocate(memory->fd, 0, (off_t)memory->done, (off_t)n) < 0 ? -errno : 0;
    while (r == -EINTR);
    if (r == 0)
        memory->done += n;
    return r;
}

static int seal(const struct attach_memory *memory)
{
    return fcntl(memory->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ? -errno
                                                                                         : 0;
}

static int grow_piece(struct attach_memory *memory)
{
    int r;

    if (memory->fd < 0)
        memory->fd = memfd_create("sherd-client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory->fd < 0)
        return -errno;
    r = fill(memory);
    if (r == 0 && memory->done < memory->bytes)
        return 1;
    return r == 0 ? seal(memory) : r;
}

/* Context: a worker thread. */
static int grow(void *opaque)
{
    struct attach_memory *memory = opaque;
    int r = grow_piece(memory);

    if (r < 0 && memory->fd >= 0) {
        close(memory->fd);
        memory->fd = -1;
    }
    return r;
}

int coroutine_fn attach_memory_grow(struct attach_memory *memory)
{
    return thread_pool_submit_co(grow, memory);
}

/* Context: a worker thread. */
static int close_fd(void *opaque)
{
    return close((int)(intptr_t)opaque);
}

static void on_closed(void *opaque, int ret)
{
    uint32_t *n_closing = opaque;

    (void)ret;
    (*n_closing)--;
}

void attach_memory_close(int fd, uint32_t *n_closing)
{
    if (fd < 0)
        return;
    if (thread_pool_submit_aio(close_fd, (void *)(intptr_t)fd, on_closed, n_closing, NULL) == 0)
        (*n_closing)++;
    else
        close(fd);
}
