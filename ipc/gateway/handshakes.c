/* SPDX-License-Identifier: MIT */
/*
 * nng's symbols are bound when it is loaded, the program's first, so the accept() here is what it
 * calls. A connection is kept as an fd of our own beside nng's: shutdown() of it ends the
 * connection for nng, and no other, whatever has become of nng's fd. One more than there may be
 * ends the oldest: who means it is through in some milliseconds.
 */
#include "ipc/gateway/handshakes.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ipc/gateway/limits.h"
#include "runtime/aio.h"

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
};

struct handshake {
    int fd; /* ours */
    int64_t since_ns;
    union address from;
};

struct handshakes {
    pthread_mutex_t lock; /* all below */
    void (*begun)(void *opaque);
    void *opaque;
    struct handshake all[LIMIT_HANDSHAKES]; /* oldest first */
    uint32_t n;
};

static struct handshakes table = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* The caller holds the lock. */
static void forget(uint32_t i)
{
    close(table.all[i].fd);
    table.n--;
    memmove(&table.all[i], &table.all[i + 1], (table.n - i) * sizeof(table.all[0]));
}

/* The caller holds the lock. */
static void end(uint32_t i)
{
    shutdown(table.all[i].fd, SHUT_RDWR);
    forget(i);
}

/* The caller holds the lock. */
static void note(int fd, const union address *from)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (own < 0) { /* no fds are left: none for it either */
        shutdown(fd, SHUT_RDWR);
        return;
    }
    if (table.n == LIMIT_HANDSHAKES)
        end(0);
    table.all[table.n++] = (struct handshake){.fd = own, .since_ns = aio_clock_ns(), .from = *from};
    table.begun(table.opaque);
}

/* For nng. */
int accept(int listener, struct sockaddr *address, socklen_t *len)
{
    union address from = {};
    socklen_t from_len = sizeof(from);
    int fd = (int)syscall(SYS_accept4, listener, address, len, 0);

    if (fd < 0 || getpeername(fd, &from.any, &from_len) < 0 ||
        (from.any.sa_family != AF_INET && from.any.sa_family != AF_INET6))
        return fd;
    pthread_mutex_lock(&table.lock);
    if (table.begun)
        note(fd, &from);
    pthread_mutex_unlock(&table.lock);
    return fd;
}

bool handshakes_stand(void)
{
    return dlsym(RTLD_DEFAULT, "accept") == (void *)accept;
}

void handshakes_start(void (*begun)(void *opaque), void *opaque)
{
    pthread_mutex_lock(&table.lock);
    table.begun = begun;
    table.opaque = opaque;
    pthread_mutex_unlock(&table.lock);
}

void handshakes_stop(void)
{
    pthread_mutex_lock(&table.lock);
    table.begun = NULL;
    while (table.n > 0)
        forget(table.n - 1);
    pthread_mutex_unlock(&table.lock);
}

static bool is_from(const union address *a, const nng_sockaddr *b)
{
    if (a->any.sa_family == AF_INET)
        return b->s_family == NNG_AF_INET && b->s_in.sa_port == a->in.sin_port &&
               b->s_in.sa_addr == a->in.sin_addr.s_addr;
    return b->s_family == NNG_AF_INET6 && b->s_in6.sa_port == a->in6.sin6_port &&
           memcmp(b->s_in6.sa_addr, &a->in6.sin6_addr, sizeof(a->in6.sin6_addr)) == 0;
}

void handshakes_over(const nng_sockaddr *from)
{
    pthread_mutex_lock(&table.lock);
    for (uint32_t i = table.n; i > 0; i--)
        if (is_from(&table.all[i - 1].from, from)) {
            forget(i - 1);
            break; /* the newest, and older ones of that address are long gone */
        }
    pthread_mutex_unlock(&table.lock);
}

/* nng has not closed it yet. */
static bool is_open(int fd)
{
    struct tcp_info info = {};
    socklen_t len = sizeof(info);

    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
           (info.tcpi_state == TCP_ESTABLISHED || info.tcpi_state == TCP_CLOSE_WAIT);
}

int64_t handshakes_expire(int64_t now_ns)
{
    pthread_mutex_lock(&table.lock);
    for (uint32_t i = table.n; i > 0; i--)
        if (table.all[i - 1].since_ns + HANDSHAKE_NS <= now_ns)
            end(i - 1);
        else if (!is_open(table.all[i - 1].fd))
            forget(i - 1);
    int64_t next_ns = table.n > 0 ? now_ns + HANDSHAKE_LOOK_NS : INT64_MAX;
    pthread_mutex_unlock(&table.lock);
    return next_ns;
}
