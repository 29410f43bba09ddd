/* SPDX-License-Identifier: MIT */
/*
 * What a local client says before it has anything: messages of the handshake, of any size, with or
 * without fds. What is taken for a request is one, to its last byte; the same bytes are judged the
 * same by a look at the socket and by themselves; and no fd of the client's becomes ours.
 *
 * Input: messages, each a byte (odd: with an fd), two bytes of length, and its bytes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ipc/gateway/attach_wire.h"
#include "tests/fuzz/fuzz.h"

static void check_request(const union attach_request *request, size_t len)
{
    assert(request->head.magic == ATTACH_MAGIC);
    if (request->head.kind == ATTACH_HELLO) {
        assert(len == sizeof(request->hello) && request->hello.spare == 0);
        assert(memchr(request->hello.client, 0, sizeof(request->hello.client)));
    } else {
        assert(request->head.kind == ATTACH_OPEN && len == sizeof(request->open));
        assert(request->open.spare == 0);
    }
}

/* A copy of its own size, so that a sanitizer sees a byte too far. */
static int check(struct fuzz_bytes message, union attach_request *ret_request)
{
    uint8_t *copy = malloc(message.len ? message.len : 1);
    const char *why = NULL;

    assert(copy);
    memcpy(copy, message.at, message.len);
    int r = attach_check(copy, message.len, ret_request, &why);
    free(copy);
    assert(r == 0 || (r == -EPROTO && why));
    if (r == 0)
        check_request(ret_request, message.len);
    return r;
}

/* The lowest number that is free: the same as before, where nothing was opened. */
static int next_fd(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

    assert(fd >= 0);
    close(fd);
    return fd;
}

static void send_and_look(const int fds[2], bool with_fd, struct fuzz_bytes message)
{
    union attach_request asked, seen;
    const char *why = NULL;
    int free_fd = next_fd(), r = check(message, &asked);

    assert(attach_send(fds[0], message.at, message.len, with_fd ? fds[0] : -1) == 0);
    int looked = attach_peek(fds[1], &seen, &why);
    assert(next_fd() == free_fd);
    if (with_fd)
        assert(looked == -EPROTO && why);
    else if (message.len == 0)
        assert(looked == -ECONNRESET); /* a message of no bytes is none */
    else
        assert(looked == (r == 0 ? 1 : -EPROTO));
    if (looked == 1)
        assert(memcmp(&asked, &seen, message.len) == 0);
    attach_consume(fds[1]);
    assert(attach_peek(fds[1], &seen, &why) == 0); /* it was one, and it is gone */
}

void fuzz_one(const uint8_t *data, size_t len)
{
    struct fuzz_bytes bytes = {data, len};
    int fds[2];

    assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0);
    while (bytes.len > 0) {
        bool with_fd = fuzz_number(&bytes, 1) & 1;
        send_and_look(fds, with_fd, fuzz_take(&bytes, (size_t)fuzz_number(&bytes, 2)));
    }
    close(fds[0]);
    close(fds[1]);
}
