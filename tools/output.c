/* SPDX-License-Identifier: MIT */
#include "tools/output.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* 0: fd takes a piece, or has an error to tell; -EINTR: stop_fd is readable. */
static int wait_writable(const struct output *out)
{
    struct pollfd fds[] = {
        {.fd = out->stop_fd, .events = POLLIN},
        {.fd = out->fd, .events = POLLOUT},
    };
    for (;;) {
        if (poll(fds, 2, -1) < 0) {
            if (errno != EINTR)
                return -errno;
            continue;
        }
        return fds[0].revents ? -EINTR : 0;
    }
}

static int write_all(const struct output *out, const char *bytes, size_t len)
{
    while (len) {
        int r = wait_writable(out);
        if (r)
            return r;
        ssize_t n = write(out->fd, bytes, len < out->piece ? len : out->piece);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        if (n > 0) {
            bytes += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

/* The stream's write. After an error nothing is written any more: what came behind a gap would be
 * taken for what should have stood in it. */
static ssize_t stream_write(void *cookie, const char *bytes, size_t len)
{
    struct output *out = cookie;
    if (!out->error)
        out->error = write_all(out, bytes, len);
    if (!out->error)
        return (ssize_t)len;
    errno = -out->error;
    return 0;
}

int output_open(struct output *out, int fd, int stop_fd)
{
    struct stat st;
    bool is_regular = !fstat(fd, &st) && S_ISREG(st.st_mode);
    *out = (struct output){
        .fd = fd,
        .stop_fd = stop_fd,
        .piece = is_regular ? SIZE_MAX : PIPE_BUF,
        .buffer = malloc(OUTPUT_BUFFER),
    };
    out->stream = fopencookie(out, "w", (cookie_io_functions_t){.write = stream_write});
    if (!out->stream || !out->buffer) {
        output_close(out);
        return -ENOMEM;
    }
    setvbuf(out->stream, out->buffer, _IOFBF, OUTPUT_BUFFER);
    return 0;
}

void output_close(struct output *out)
{
    if (!out->error)
        out->error = -ECANCELED; /* fclose() writes what is left */
    if (out->stream)
        fclose(out->stream);
    free(out->buffer);
}

int output_flush(struct output *out)
{
    fflush(out->stream);
    return out->error;
}
