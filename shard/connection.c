/* SPDX-License-Identifier: MIT */
/*
 * A door is one listener in one shard: a coroutine that accepts, as long as fewer are open than may
 * be and there are fds left. Else it stops, and who comes waits in the backlog, which costs nothing
 * here. A connection counts as a call that is served, so a shard that is to leave waits for it.
 *
 * Closing a door ends its CoFd, which ends the coroutine's wait; the socket stays open, for the
 * supervisor and all shards have it.
 */
#include "shard/connection.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/co_cancel.h"
#include "runtime/co_socket.h"
#include "shard/crowd.h"
#include "shard/mesh_inside.h"
#include "shard/serve_local.h"

#define PAUSE_NS INT64_C(50000000) /* where there are no fds left */

struct door {
    struct doors *doors;
    const struct planned_listener *planned;
    uint32_t service;
    CoFd listener;
    int fd;
    uint32_t n_open;
    bool closed;
    bool accepts;        /* its coroutine runs */
    Coroutine *awaiting; /* it, where it waits for one to leave; or NULL */
};

struct connection {
    struct service_call call;
    CoFd peer;
    struct crowd_member member;
    CoCancel leave;
    struct door *door;
    struct connection *next;
    struct connection **link;
};

struct doors {
    struct mesh *mesh;
    struct service_home *homes;
    struct crowd crowd; /* open as long as there is a door */
    struct connection *connections;
    uint32_t n_doors;
    struct door doors[];
};

/* The counters of a door are spread over records. */
static void count(const struct door *door, enum listener_counter which, int64_t n)
{
    uint64_t *word = service_home_count(
        &door->doors->homes[door->service], door->planned->first_counter + which);

    atomic_store_relaxed(word, *word + (uint64_t)n);
}

/* ---- one connection ---- */

/* Consumes fd. */
static int connection_new(struct door *door, int fd, struct connection **ret_c)
{
    struct connection *c = calloc(1, sizeof(*c));
    struct doors *doors = door->doors;
    int r = c ? co_fd_init(&c->peer, fd) : -ENOMEM;

    if (r < 0) {
        close(fd);
        free(c);
        return r;
    }
    r = crowd_add(&doors->crowd, &c->member, fd);
    if (r < 0) {
        co_fd_close(&c->peer);
        free(c);
        return r;
    }
    c->door = door;
    co_cancel_init(&c->leave);
    serve_connection_begin(&c->call, doors->mesh, door->service, c);
    c->next = doors->connections;
    c->link = &doors->connections;
    if (c->next)
        c->next->link = &c->next;
    doors->connections = c;
    door->n_open++;
    count(door, LISTENER_open, 1);
    count(door, LISTENER_accepted, 1);
    *ret_c = c;
    return 0;
}

static void wake_door(struct door *door)
{
    Coroutine *co = door->awaiting;

    door->awaiting = NULL;
    if (co)
        aio_co_wake(co);
}

static void connection_free(struct connection *c)
{
    struct door *door = c->door;

    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    serve_connection_end(&c->call);
    crowd_remove(&door->doors->crowd, &c->member);
    co_fd_close(&c->peer);
    co_cancel_deinit(&c->leave);
    free(c);
    door->n_open--;
    count(door, LISTENER_open, -1);
    wake_door(door);
}

static void coroutine_fn run_connection(void *opaque)
{
    struct connection *c = opaque;

    c->door->planned->what.serve(&c->call);
    connection_free(c);
}

/* Consumes fd. */
static int begin_connection(struct door *door, int fd)
{
    struct connection *c;
    int r = connection_new(door, fd, &c);
    Coroutine *co;

    if (r < 0)
        return r;
    co = coroutine_create_full(run_connection, c, door->planned->name, 0);
    if (!co) {
        connection_free(c); /* and fd */
        return -ENOMEM;
    }
    coroutine_enter(co);
    return 0;
}

/* ---- a door ---- */

static void coroutine_fn wait_for_one_to_leave(struct door *door)
{
    count(door, LISTENER_paused, 1);
    door->awaiting = coroutine_self();
    coroutine_yield_at("a connection to end");
}

/* The connection stays in the backlog, or is lost; in both cases there is nothing left to take it
 * with, for now. */
static void coroutine_fn wait_for_means(struct door *door)
{
    count(door, LISTENER_paused, 1);
    co_fd_pause(&door->listener, PAUSE_NS);
}

static bool is_want_of_means(int r)
{
    return r == -EMFILE || r == -ENFILE || r == -ENOBUFS || r == -ENOMEM ||
           r == -ENOSPC; /* of epoll's watches: fs.epoll.max_user_watches */
}

static void coroutine_fn accept_all(void *opaque)
{
    struct door *door = opaque;

    while (!door->closed) {
        int r = 0;
        if (door->n_open >= door->planned->what.connections_max)
            wait_for_one_to_leave(door);
        else
            r = co_accept(&door->listener, NULL, NULL);
        if (r > 0)
            r = begin_connection(door, r);
        if (is_want_of_means(r))
            wait_for_means(door);
    }
    door->accepts = false;
}

static int door_open(struct door *door)
{
    Coroutine *co = NULL;
    int r = co_fd_init(&door->listener, door->fd);

    if (r < 0)
        return r;
    door->closed = false;
    if (door->accepts)
        return 0; /* it has not seen yet that it was closed */
    co = coroutine_create_full(accept_all, door, door->planned->name, 0);
    if (!co)
        return -ENOMEM;
    door->accepts = true;
    coroutine_enter(co);
    return 0;
}

static void door_close(struct door *door)
{
    if (door->closed)
        return;
    door->closed = true;
    co_fd_deinit(&door->listener);
    wake_door(door);
}

/* ---- all of a shard ---- */

static uint32_t count_listeners(const struct registry *registry)
{
    uint32_t n = 0;

    for (uint32_t service = 0; service < registry_n_services(registry); service++) {
        const struct service_plan *plan = registry_plan(registry, service);
        n += plan ? plan->n_listeners : 0;
    }
    return n;
}

static void add_doors(struct doors *doors, uint32_t service, const struct service_plan *plan)
{
    for (uint32_t i = 0; plan && i < plan->n_listeners; i++) {
        const struct planned_listener *planned = &plan->listeners[i];
        doors->doors[doors->n_doors++] = (struct door){.doors = doors,
            .planned = planned,
            .service = service,
            .fd = planned->fds[planned->n_fds == 1 ? 0 : doors->mesh->self],
            .closed = true};
    }
}

int doors_open(struct mesh *mesh, const struct registry *registry, struct service_home *homes,
    struct doors **ret)
{
    uint32_t n = count_listeners(registry);
    struct doors *doors = calloc(1, sizeof(*doors) + n * sizeof(doors->doors[0]));
    int r = 0;

    if (!doors)
        return -ENOMEM;
    doors->mesh = mesh;
    doors->homes = homes;
    for (uint32_t service = 0; service < registry_n_services(registry); service++)
        add_doors(doors, service, registry_plan(registry, service));
    doors->crowd.fd = -1;
    if (n)
        r = crowd_open(&doors->crowd, mesh->ctx);
    *ret = doors; /* also where not all are open: it is closed and freed as ever */
    for (uint32_t i = 0; r == 0 && i < n; i++)
        r = door_open(&doors->doors[i]);
    return r;
}

void doors_close(struct doors *doors)
{
    for (uint32_t i = 0; i < doors->n_doors; i++)
        door_close(&doors->doors[i]);
    for (struct connection *c = doors->connections; c; c = c->next)
        co_cancel(&c->leave);
}

void doors_reopen(struct doors *doors)
{
    for (uint32_t i = 0; i < doors->n_doors; i++)
        if (doors->doors[i].closed)
            door_open(&doors->doors[i]);
}

bool doors_are_left(const struct doors *doors)
{
    for (uint32_t i = 0; i < doors->n_doors; i++)
        if (doors->doors[i].accepts)
            return false;
    return !doors->connections;
}

void doors_free(struct doors *doors)
{
    if (doors)
        crowd_close(&doors->crowd);
    free(doors);
}

/* ---- in serve() ---- */

CoFd *service_connection(const struct service_call *call)
{
    return call->connection ? &call->connection->peer : NULL;
}

static int64_t limit_from_now(int64_t ns)
{
    int64_t now_ns = ns == INT64_MAX ? 0 : aio_clock_ns();

    return ns < INT64_MAX - now_ns ? now_ns + ns : CO_NO_DEADLINE;
}

static ssize_t told(struct connection *c, ssize_t r)
{
    if (r == -ETIMEDOUT)
        count(c->door, LISTENER_slow, 1);
    return r;
}

ssize_t coroutine_fn service_recv(struct service_call *call, void *buf, size_t len)
{
    struct connection *c = call->connection;
    CoScope scope;
    ssize_t n;

    if (!c)
        return -ENOTCONN;
    co_scope_begin(&scope, &c->leave, limit_from_now(c->door->planned->what.idle_limit_ns));
    n = crowd_recv(&c->member, buf, len);
    co_scope_end(&scope);
    return told(c, n);
}

/* One piece, for which it waits as long as it may. */
static ssize_t coroutine_fn send_some(struct connection *c, const void *data, size_t len)
{
    ssize_t n = co_send(&c->peer, data, len, MSG_DONTWAIT);
    CoScope scope;

    if (n != -EAGAIN)
        return n;
    co_scope_begin(&scope, NULL, limit_from_now(c->door->planned->what.send_limit_ns));
    n = co_send(&c->peer, data, len, 0);
    co_scope_end(&scope);
    return n;
}

int coroutine_fn service_send(struct service_call *call, const void *data, size_t len)
{
    struct connection *c = call->connection;
    const char *at = data;

    if (!c)
        return -ENOTCONN;
    while (len > 0) {
        ssize_t n = send_some(c, at, len);
        if (n < 0)
            return (int)told(c, n);
        at += n;
        len -= (size_t)n;
    }
    return 0;
}
