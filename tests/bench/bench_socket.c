/* SPDX-License-Identifier: MIT */
/*
 * What coroutines add to sockets: MESSAGE_BYTES there and back, ns a round trip, against a bare
 * epoll loop that does the same with the same sockets. Both ends run in this one thread, a
 * coroutine each, so the figure is CPU time and no wake-up of another thread is in it.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/aio.h"
#include "runtime/co_fd.h"
#include "runtime/co_socket.h"
#include "tests/bench/compare.h"

#define MESSAGE_BYTES 64
#define MOST_PAIRS    64
#define REPEATS       4000

/* One connection: the client's end and the server's. */
struct pair {
    CoFd ends[2];
    uint64_t left; /* round trips that the client is still to begin */
};

static AioContext *ctx;
static int epoll_fd;
static struct pair pairs[MOST_PAIRS];
static uint32_t n_pairs;
static uint32_t n_done;

static void must(int r, const char *what)
{
    if (r >= 0)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(r == -1 ? errno : -r));
    exit(1);
}

/* ---- connections ---- */

static void open_tcp(int fds[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    int on = 1;

    must(bind(listener, (struct sockaddr *)&address, len), "bind");
    must(listen(listener, 1), "listen");
    must(getsockname(listener, (struct sockaddr *)&address, &len), "getsockname");
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    must(connect(fds[0], (struct sockaddr *)&address, len), "connect");
    fds[1] = accept(listener, NULL, NULL);
    for (int i = 0; i < 2; i++)
        must(setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "TCP_NODELAY");
    close(listener);
}

static void open_pair(struct pair *pair, bool is_tcp)
{
    int fds[2];

    if (is_tcp)
        open_tcp(fds);
    else
        must(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), "socketpair");
    for (int i = 0; i < 2; i++)
        must(co_fd_init(&pair->ends[i], fds[i]), "co_fd_init");
}

/* ---- coroutines ---- */

static void coroutine_fn serve(void *opaque)
{
    CoFd *end = opaque;
    char buf[4 * MESSAGE_BYTES];
    ssize_t n;

    while ((n = co_recv(end, buf, sizeof buf, 0)) > 0 && co_send_all(end, buf, (size_t)n) > 0)
        continue;
}

static void coroutine_fn ask(void *opaque)
{
    struct pair *pair = opaque;
    char buf[4 * MESSAGE_BYTES] = "";

    for (; pair->left > 0; pair->left--) {
        must((int)co_send_all(&pair->ends[0], buf, MESSAGE_BYTES), "co_send_all");
        must((int)co_recv(&pair->ends[0], buf, sizeof buf, 0), "co_recv");
    }
    n_done++;
}

static void run_coroutines(uint64_t repeats)
{
    n_done = 0;
    for (uint32_t i = 0; i < n_pairs; i++) {
        pairs[i].left = repeats / n_pairs;
        coroutine_enter(coroutine_create(serve, &pairs[i].ends[1]));
        coroutine_enter(coroutine_create(ask, &pairs[i]));
    }
    while (n_done < n_pairs)
        aio_poll(ctx, true);
    /* Those who serve end, and the baseline finds the fds unwatched. */
    for (uint32_t i = 0; i < n_pairs; i++) {
        for (int end = 0; end < 2; end++) {
            int fd = pairs[i].ends[end].fd;

            co_fd_deinit(&pairs[i].ends[end]);
            must(co_fd_init(&pairs[i].ends[end], fd), "co_fd_init");
        }
    }
    while (aio_poll(ctx, false))
        continue;
}

/* ---- a bare epoll loop ---- */

/* The lowest bit of what comes back says which end it is. */
static void watch(struct pair *pair, uint64_t end)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)(uintptr_t)pair | end};

    must(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, pair->ends[end].fd, &event), "epoll_ctl");
}

static void begin_trip(struct pair *pair)
{
    static const char message[MESSAGE_BYTES];

    if (pair->left == 0) {
        n_done++;
        return;
    }
    pair->left--;
    must((int)send(pair->ends[0].fd, message, sizeof message, MSG_NOSIGNAL), "send");
}

static void on_event(struct epoll_event event)
{
    struct pair *pair = (void *)(uintptr_t)(event.data.u64 & ~UINT64_C(1));
    bool is_server = event.data.u64 & 1;
    char buf[4 * MESSAGE_BYTES];
    int fd = pair->ends[is_server].fd;
    ssize_t n = recv(fd, buf, sizeof buf, MSG_DONTWAIT);

    must((int)n, "recv");
    if (is_server)
        must((int)send(fd, buf, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL), "send");
    else
        begin_trip(pair);
}

static void run_epoll(uint64_t repeats)
{
    struct epoll_event events[2 * MOST_PAIRS];

    n_done = 0;
    epoll_fd = epoll_create1(0);
    for (uint32_t i = 0; i < n_pairs; i++) {
        watch(&pairs[i], 0);
        watch(&pairs[i], 1);
        pairs[i].left = repeats / n_pairs;
        begin_trip(&pairs[i]);
    }
    while (n_done < n_pairs) {
        int n = epoll_wait(epoll_fd, events, 2 * MOST_PAIRS, -1);

        for (int i = 0; i < n; i++)
            on_event(events[i]);
    }
    close(epoll_fd);
}

/* ---- the table ---- */

static void rows(enum aio_monitor monitor, bool is_tcp, uint32_t connections)
{
    const struct aio_config config = {.monitor = monitor,
        .engine = monitor == AIO_MONITOR_IO_URING ? AIO_ENGINE_IO_URING : AIO_ENGINE_THREADS};
    char what[80];

    if (aio_context_new(&config, &ctx) < 0)
        return; /* io_uring may be forbidden here */
    aio_context_set_current(ctx);
    n_pairs = connections;
    for (uint32_t i = 0; i < n_pairs; i++)
        open_pair(&pairs[i], is_tcp);
    snprintf(what, sizeof what, "%s, %u of %s", aio_monitor_name(monitor), connections,
        is_tcp ? "TCP" : "Unix");
    compare_row(&(struct compare){.what = what,
        .run = run_coroutines,
        .baseline_name = "bare epoll",
        .baseline = run_epoll,
        .repeats = REPEATS,
        .goal = {.most_ratio = connections == 1 ? 1.4 : 1.2}});
    for (uint32_t i = 0; i < n_pairs; i++) {
        co_fd_close(&pairs[i].ends[0]);
        co_fd_close(&pairs[i].ends[1]);
    }
    while (aio_poll(ctx, false))
        continue;
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
}

int main(void)
{
    static const enum aio_monitor monitors[] = {AIO_MONITOR_EPOLL, AIO_MONITOR_IO_URING};

    compare_head();
    for (int m = 0; m < 2; m++) {
        for (int is_tcp = 0; is_tcp < 2; is_tcp++) {
            rows(monitors[m], is_tcp, 1);
            rows(monitors[m], is_tcp, MOST_PAIRS);
        }
    }
    return compare_end();
}
