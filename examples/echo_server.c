/* SPDX-License-Identifier: MIT */
/* echo_server PATH IDLE_MS - a Unix socket that sends back what it is sent, until SIGINT or
 * SIGTERM */
#include <err.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>

#include <sherd/co_cancel.h>
#include <sherd/co_socket.h>

#define SERVERS 256 /* coroutines; each has one client, and who comes when all are busy waits */

static CoFd listener;
static CoCancel stop;
static BH *stop_bh;
static int64_t idle_ns;
static int n_running;

static void coroutine_fn echo(CoFd *client)
{
    char buf[16 * 1024];
    for (ssize_t n = 1; n > 0;) {
        CoScope scope; /* what waits in it ends at its time, or as the scope around it does */
        co_scope_begin(&scope, NULL, aio_clock_ns() + idle_ns);
        n = co_recv(client, buf, sizeof(buf), 0);
        n = n > 0 ? co_send_all(client, buf, (size_t)n) : n;
        co_scope_end(&scope);
    }
    co_fd_close(client);
}

static void coroutine_fn serve(void *opaque)
{
    CoScope scope;
    CoFd client;
    co_scope_begin(&scope, &stop, CO_NO_DEADLINE);
    while (co_scope_status() == 0)
        if (co_fd_init(&client, co_accept(&listener, NULL, NULL)) == 0)
            echo(&client);
        else
            co_sleep_ns(100 * AIO_SCALE_MS); /* no fd is left, perhaps: not again at once */
    co_scope_end(&scope);
    n_running--;
}

static void on_signal(int signum)
{
    bh_schedule(stop_bh);
}

static void on_stop(void *opaque)
{
    co_cancel(&stop);
}

int main(int argc, char **argv)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    AioContext *ctx;
    if (argc != 3 || snprintf(at.sun_path, sizeof(at.sun_path), "%s", argv[1]) >= 108 ||
        co_fd_init(&listener, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0 ||
        bind(listener.fd, (void *)&at, sizeof(at)) < 0 || listen(listener.fd, SERVERS) < 0 ||
        aio_context_new(NULL, &ctx) < 0 || !(stop_bh = aio_bh_new(ctx, on_stop, NULL)))
        err(1, "echo_server PATH IDLE_MS");
    idle_ns = atoi(argv[2]) * AIO_SCALE_MS;
    aio_context_set_current(ctx);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    for (Coroutine *co; n_running < SERVERS && (co = coroutine_create(serve, NULL)); n_running++)
        coroutine_enter(co); /* runs until it waits */
    while (n_running > 0)
        aio_poll(ctx, true);
    co_fd_close(&listener);
    bh_delete(stop_bh);
    aio_context_unref(ctx);
    return remove(argv[1]) == 0 ? 0 : 1;
}
