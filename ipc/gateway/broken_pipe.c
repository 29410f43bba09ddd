/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/broken_pipe.h"

#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/*
 * The way of the error in nng 1.5.2, whose symbols are bound when it is loaded, the program's
 * first:
 *
 *     sendmsg() of the 8 bytes of greeting: EPIPE
 *       -> NNG_ECLOSED               (its table of errors)
 *       -> the accept under way      (ipc and tcp: a failed greeting ends it with the same error)
 *       -> accepting ends for ever   (NNG_ECLOSED there means: the listener was closed)
 *
 * After ECONNRESET it accepts the next at once. Later nngs change the error on that way themselves.
 * The two say the same to whoever sends: the other side is gone. Nobody gets SIGPIPE: nng asks for
 * none, and no other part of this program sends messages.
 */
ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    ssize_t n = syscall(SYS_sendmsg, fd, message, flags);

    if (n < 0 && errno == EPIPE)
        errno = ECONNRESET;
    return n;
}

bool broken_pipe_stands(void)
{
    return dlsym(RTLD_DEFAULT, "sendmsg") == (void *)sendmsg;
}
