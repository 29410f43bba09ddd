/* SPDX-License-Identifier: MIT */
/* file_copy FROM TO - copies a file, with several reads and writes under way at once */
#include <err.h>
#include <errno.h>
#include <unistd.h>

#include <sherd/disk.h>

#define COPIERS     8 /* coroutines, each with one piece under way */
#define PIECE_BYTES ((size_t)64 * 1024)

static int from, to, result, n_left = COPIERS;
static off_t next_offset, file_bytes;

/* A read is short at the end of the file alone; a write is whole, or an error. */
static ssize_t coroutine_fn copy_piece(char *buf)
{
    off_t offset = next_offset;
    next_offset += PIECE_BYTES; /* before it waits: the others take what follows */
    ssize_t n = co_pread(from, buf, PIECE_BYTES, (uint64_t)offset);
    if (n > 0 && offset + n > file_bytes)
        file_bytes = offset + n;
    return n > 0 ? co_pwrite(to, buf, (size_t)n, (uint64_t)offset) : n;
}

static void coroutine_fn copy(void *opaque)
{
    char buf[PIECE_BYTES]; /* a quarter of the stack */
    ssize_t n = 1;
    while (n > 0 && result == 0)
        n = copy_piece(buf);
    result = n < 0 ? (int)n : result;
    if (n_left == 1 && result == 0) /* the last sees to the end */
        result = ftruncate(to, file_bytes) < 0 ? -errno : co_fsync(to);
    n_left--;
}

int main(int argc, char **argv)
{
    AioContext *ctx;
    if (argc != 3 || (from = open(argv[1], O_RDONLY | O_CLOEXEC)) < 0 ||
        (to = open(argv[2], O_WRONLY | O_CREAT | O_CLOEXEC, 0666)) < 0 ||
        aio_context_new(NULL, &ctx) < 0)
        err(1, "file_copy FROM TO");
    aio_context_set_current(ctx);
    for (int i = 0; i < COPIERS; i++) {
        Coroutine *co = coroutine_create(copy, NULL);
        if (!co)
            err(1, "coroutine_create");
        coroutine_enter(co); /* runs until it waits */
    }
    while (n_left > 0)
        aio_poll(ctx, true);
    aio_context_unref(ctx);
    errno = -result;
    if (result < 0)
        err(1, "%s to %s", argv[1], argv[2]);
    return 0;
}
