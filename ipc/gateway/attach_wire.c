/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/attach_wire.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "shard/fd_pass.h"

static int wrong(const char *why, const char **ret_why)
{
    *ret_why = why;
    return -EPROTO;
}

static int check_hello(const struct attach_hello *hello, const char **ret_why)
{
    if (hello->spare != 0)
        return wrong("spare bytes of a hello that are not 0", ret_why);
    if (!memchr(hello->client, 0, sizeof(hello->client)))
        return wrong("a name without its end", ret_why);
    return 0;
}

int attach_check(
    const void *bytes, size_t len, union attach_request *ret_request, const char **ret_why)
{
    union attach_request request = {0};
    int r = 0;

    if (len < sizeof(request.head) || len > sizeof(request))
        return wrong("a message of another size", ret_why);
    memcpy(&request, bytes, len);
    if (request.head.magic != ATTACH_MAGIC)
        return wrong("a message without the magic number", ret_why);
    if (request.head.kind == ATTACH_HELLO && len == sizeof(request.hello))
        r = check_hello(&request.hello, ret_why);
    else if (request.head.kind == ATTACH_OPEN && len == sizeof(request.open))
        r = request.open.spare ? wrong("spare bytes of an open that are not 0", ret_why) : 0;
    else
        r = wrong("neither a hello nor an open", ret_why);
    if (r == 0)
        *ret_request = request;
    return r;
}

/* No room for control data, so that the kernel makes no fd for us out of what a client sends. */
int attach_peek(int fd, union attach_request *ret_request, const char **ret_why)
{
    uint8_t bytes[sizeof(*ret_request) + 1];
    struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    do
        n = recvmsg(fd, &msg, MSG_PEEK | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
    if (n == 0 && !(msg.msg_flags & MSG_CTRUNC))
        return -ECONNRESET;
    if (msg.msg_flags & MSG_CTRUNC)
        return wrong("fds, which nobody asked for", ret_why);
    int r = attach_check(bytes, (size_t)n, ret_request, ret_why);
    return r < 0 ? r : 1;
}

void attach_consume(int fd)
{
    char nothing;

    while (recv(fd, &nothing, 0, MSG_DONTWAIT | MSG_TRUNC) < 0 && errno == EINTR)
        ;
}

bool attach_is_over(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLRDHUP};

    return poll(&poll_fd, 1, 0) > 0;
}

void attach_shut(int fd)
{
    char nothing;

    shutdown(fd, SHUT_RDWR);
    while (recv(fd, &nothing, sizeof(nothing), MSG_DONTWAIT | MSG_TRUNC) > 0)
        ;
}

uint32_t attach_unread(int fd)
{
    int bytes = 0;

    return ioctl(fd, SIOCOUTQ, &bytes) < 0 || bytes < 0 ? 0 : (uint32_t)bytes;
}

int attach_send(int fd, const void *message, size_t len, int pass)
{
    return fd_pass_send(fd, message, len, &pass, pass >= 0);
}

int attach_refuse(int fd, uint64_t serial, int error, uint32_t retry_ms, const char *format, ...)
{
    struct attach_refused refused = {.head = {.magic = ATTACH_MAGIC,
                                         .version = ATTACH_VERSION,
                                         .kind = ATTACH_REFUSED,
                                         .serial = serial},
        .error = error,
        .retry_ms = retry_ms};
    va_list args;

    va_start(args, format);
    vsnprintf(refused.text, sizeof(refused.text), format, args);
    va_end(args);
    return attach_send(fd, &refused, sizeof(refused), -1);
}
