/* SPDX-License-Identifier: MIT */
/*
 * One connection's requests, one after the other, in a coroutine that ends when there are no more.
 *
 * A request stays in the socket until it has been answered: so where a gateway dies in between, its
 * replacement finds it there and answers it, perhaps for the second time. All that is kept for a
 * request can be made and kept again: a hello that is asked again gets the same memory, an open a
 * new doorbell in the place of the one before.
 *
 * Each request costs PRICE_NS of time that a connection has saved up, at most SAVED_NS. Who has
 * none waits. A client that does not read its answers is cut off.
 */
#include "ipc/gateway/attach_inside.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ipc/gateway/attach_memory.h"
#include "ipc/plane/plane.h"
#include "runtime/atomic.h"
#include "shard/blame.h"

#define MS             INT64_C(1000000)
#define PRICE_NS       (4 * MS)
#define SAVED_NS       (1024 * MS) /* 256 requests */
#define UNREAD_MOST    (16u * 1024)
#define RETRY_MS       1000u
#define REOPEN_MS      10u
#define MAX_DATA_BYTES (UINT64_C(1) << 40)
#define BELL_SNDBUF    1 /* the kernel makes the least of it that there is */

static struct attach_head answer_to(const struct attach_head *asked, enum attach_kind kind)
{
    return (struct attach_head){
        .magic = ATTACH_MAGIC, .version = ATTACH_VERSION, .kind = kind, .serial = asked->serial};
}

static struct client_row *row_of(const struct attach_link *link)
{
    return segment_client(link->attach->config.segment, link->client);
}

/* ---- hello ---- */

static uint32_t round_entries(uint32_t n)
{
    uint32_t entries = PLANE_ENTRIES_MIN;

    while (entries < n)
        entries *= 2;
    return entries;
}

static int send_welcome(struct attach_link *link, const struct attach_hello *hello)
{
    const struct attach *attach = link->attach;
    const struct segment *seg = attach->config.segment;
    const struct client_row *row = row_of(link);
    struct attach_welcome welcome = {.head = answer_to(&hello->head, ATTACH_WELCOME),
        .features = hello->features & ATTACH_FEATURES_ALL,
        .data_bytes = row->data_bytes,
        .total_bytes = row->total_bytes,
        .n_entries = row->n_entries,
        .n_shards = seg->geometry.n_shards,
        .client = link->client,
        .max_in_flight = row->max_in_flight * seg->geometry.n_shards,
        .max_bytes = row->max_bytes,
        .max_rate = row->max_rate,
        .keymap = 1,
        .generation = segment_super(seg)->created_ns};

    snprintf(welcome.instance, sizeof(welcome.instance), "%s", attach->config.instance);
    return attach_send(link->fd, &welcome, sizeof(welcome), link->memory_fd);
}

static int refuse_number(struct attach_link *link, const struct attach_hello *hello)
{
    if (hello->n_entries == 0 || hello->n_entries > PLANE_ENTRIES_MAX)
        return attach_refuse(link->fd, hello->head.serial, -EINVAL, 0,
            "rings of %u entries: 1 to %u are possible", hello->n_entries, PLANE_ENTRIES_MAX);
    return attach_refuse(link->fd, hello->head.serial, -ENOMEM, 0,
        "a data area of %llu bytes is more than any client may have",
        (unsigned long long)hello->data_bytes);
}

/* Why there is no row for it: what is used up, and by whom. */
static int refuse_share(struct attach_link *link, uint64_t serial, int error)
{
    const struct attach *attach = link->attach;
    const struct clients *clients = &attach->clients;

    if (error == -EMFILE)
        return attach_refuse(link->fd, serial, error, RETRY_MS,
            "%u clients are attached, and there is no room for more",
            attach->config.segment->geometry.n_clients);
    if (error == -EDQUOT)
        return attach_refuse(link->fd, serial, error, RETRY_MS,
            "user %u has a %uth of all that there is for clients, and may have no more",
            (unsigned)link->uid, CLIENTS_USER_SHARE);
    return attach_refuse(link->fd, serial, -ENOMEM, RETRY_MS,
        "%llu of %llu bytes of memory for clients are given out: ask for less, or raise sherd run "
        "--client-memory",
        (unsigned long long)clients->bytes, (unsigned long long)clients->max_bytes);
}

static int refuse_made(struct attach_link *link, uint64_t serial, int error)
{
    return attach_refuse(link->fd, serial, error, RETRY_MS, "memory for this client: %s%s",
        strerror(-error),
        error == -EMFILE ? "; raise the limit on open files (ulimit -Hn, LimitNOFILE=)" : "");
}

/* 0: it is let in; 1: it was refused; -errno. */
static int admit(struct attach_link *link, const struct attach_hello *hello)
{
    struct attach *attach = link->attach;
    uint64_t serial = hello->head.serial;
    int64_t wait_ns = blame_until_ns(attach->config.segment, link->uid) - aio_clock_ns();
    int r = 0;

    if (hello->head.version == 0)
        r = attach_refuse(
            link->fd, serial, -EPROTONOSUPPORT, 0, "version 0: %u is spoken here", ATTACH_VERSION);
    else if (attach->draining)
        r = attach_refuse(
            link->fd, serial, -ESHUTDOWN, 0, "instance %s is draining", attach->config.instance);
    else if (wait_ns > 0)
        r = attach_refuse(link->fd, serial, -EAGAIN, (uint32_t)(wait_ns / MS) + 1,
            "requests of user %u have crashed shards: not before %.1f s from now",
            (unsigned)link->uid, (double)wait_ns / 1e9);
    else if (hello->n_entries == 0 || hello->n_entries > PLANE_ENTRIES_MAX ||
             hello->data_bytes > MAX_DATA_BYTES)
        r = refuse_number(link, hello);
    else
        return 0;
    return r < 0 ? r : 1;
}

/* The message that has something of a client kept. */
static struct fd_keep_message keep_of(
    const struct attach_link *link, uint32_t client, uint32_t kind, uint32_t peer)
{
    const struct clients *clients = &link->attach->clients;

    return (struct fd_keep_message){.op = FD_KEEP_PUT,
        .kind = kind,
        .key = client,
        .peer = peer,
        .generation = client_generation(clients_word(clients, client)),
        .n_fds = 1};
}

/* A piece of it at a time, so that large ones keep nobody waiting for long, and who has gone gets
 * no more of it. */
static int coroutine_fn make_memory(struct attach_link *link, struct attach_memory *memory)
{
    struct attach *attach = link->attach;
    int r;

    do {
        r = co_semaphore_acquire(&attach->makers, 1);
        if (r < 0)
            break;
        attach->n_making++;
        r = attach->stopping           ? -ECANCELED
            : attach_is_over(link->fd) ? -ECONNRESET
                                       : attach_memory_grow(memory);
        attach->n_making--;
        co_semaphore_release(&attach->makers, 1);
    } while (r > 0);
    return r;
}

/* From its return on the client lives on whoever dies. */
static int coroutine_fn make_and_keep(struct attach_link *link, uint32_t client, int *ret_memory_fd)
{
    struct attach *attach = link->attach;
    struct fd_keep_message connection =
        keep_of(link, client, PLANE_FD_CONNECTION, segment_gateway(attach->config.segment));
    struct fd_keep_message what = keep_of(link, client, PLANE_FD_MEMORY, FD_KEEP_ALL);
    struct attach_memory memory =
        ATTACH_MEMORY_INIT(segment_client(attach->config.segment, client)->total_bytes);
    int r = make_memory(link, &memory);

    if (r == 0)
        r = keeper_put(&attach->keeper, &what, memory.fd);
    if (r == 0)
        r = keeper_put(&attach->keeper, &connection, link->fd);
    if (r == 0)
        *ret_memory_fd = memory.fd;
    else
        attach_memory_close(memory.fd, &attach->n_closing);
    return r;
}

static int coroutine_fn serve_first_hello(
    struct attach_link *link, const struct attach_hello *hello)
{
    struct attach *attach = link->attach;
    struct client_wish wish = {.uid = link->uid,
        .pid = link->pid,
        .max_rate = attach->config.client_rate,
        .serial = hello->head.serial,
        .name = hello->client};
    int r = admit(link, hello), memory_fd = -1;
    uint32_t client = CLIENTS_NONE;

    if (r != 0)
        return r < 0 ? r : 0;
    wish.n_entries = round_entries(hello->n_entries);
    wish.data_bytes = (hello->data_bytes + PLANE_PAGE - 1) / PLANE_PAGE * PLANE_PAGE;
    r = clients_take(&attach->clients, &wish, aio_clock_ns(), &client);
    if (r < 0)
        return refuse_share(link, hello->head.serial, r);
    r = make_and_keep(link, client, &memory_fd);
    if (r < 0) {
        attach_give_up(attach, client);
        return r == -ECANCELED || r == -ECONNRESET ? r : refuse_made(link, hello->head.serial, r);
    }
    attach_welcome_link(link, client, memory_fd);
    log_line(attach->config.log, LOG_LEVEL_DEBUG, "client %u attached: %s, pid %d, user %u", client,
        row_of(link)->name, (int)link->pid, (unsigned)link->uid);
    return send_welcome(link, hello);
}

/* One that has been answered is asked again: the same; another one makes no sense. */
static int coroutine_fn serve_hello(struct attach_link *link, const struct attach_hello *hello)
{
    if (link->client == CLIENTS_NONE)
        return serve_first_hello(link, hello);
    return row_of(link)->serial == hello->head.serial ? send_welcome(link, hello) : -EPROTO;
}

/* ---- open ---- */

static int make_bell(int ret_ends[2])
{
    int least = BELL_SNDBUF;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ret_ends) < 0)
        return -errno;
    for (int i = 0; i < 2; i++)
        setsockopt(ret_ends[i], SOL_SOCKET, SO_SNDBUF, &least, sizeof(least));
    return 0;
}

static int coroutine_fn keep_bell(struct attach_link *link, uint32_t shard, int fd)
{
    const struct client_row *row = row_of(link);
    struct fd_keep_message what = keep_of(link, link->client, PLANE_FD_BELL, shard);
    const struct plane_grant grant = {.client = link->client,
        .n_entries = row->n_entries,
        .generation = what.generation,
        .data_bytes = row->data_bytes,
        .max_bytes = row->max_bytes,
        .max_rate = row->max_rate,
        .max_in_flight = row->max_in_flight};

    _Static_assert(sizeof(grant) <= sizeof(what.note), "a grant travels in a note");
    memcpy(what.note, &grant, sizeof(grant));
    clients_opened(&link->attach->clients, link->client, shard);
    return keeper_put(&link->attach->keeper, &what, fd);
}

static int send_opened(struct attach_link *link, const struct attach_open *open, int fd)
{
    struct attach_opened opened = {
        .head = answer_to(&open->head, ATTACH_OPENED), .shard = open->shard};

    return attach_send(link->fd, &opened, sizeof(opened), fd);
}

static int coroutine_fn serve_open(struct attach_link *link, const struct attach_open *open)
{
    const struct segment *seg = link->attach->config.segment;
    uint64_t serial = open->head.serial;
    int r, ends[2];

    if (link->client == CLIENTS_NONE)
        return -EPROTO;
    if (open->shard >= seg->geometry.n_shards)
        return attach_refuse(link->fd, serial, -ENODEV, 0, "shard %u: there are %u", open->shard,
            seg->geometry.n_shards);
    if (atomic_load_acquire(&segment_control(seg, open->shard)->state) == PEER_FAILED) /* FAILED */
        return attach_refuse(link->fd, serial, -EHOSTDOWN, 0,
            "shard %u is given up: an operator may start it again (sherd restart)", open->shard);
    if (!attach_reopen(link, open->shard))
        return attach_refuse(
            link->fd, serial, -EAGAIN, REOPEN_MS, "shard %u begins just now", open->shard);
    r = make_bell(ends);
    if (r < 0)
        return attach_refuse(
            link->fd, serial, r, RETRY_MS, "doorbell of shard %u: %s", open->shard, strerror(-r));
    r = keep_bell(link, open->shard, ends[1]);
    close(ends[1]);
    if (r == 0 && attach_is_closed(link, open->shard)) /* meanwhile */
        r = -EHOSTDOWN;
    if (r == 0)
        r = send_opened(link, open, ends[0]);
    else if (r != -ECANCELED && !link->over)
        r = attach_refuse(
            link->fd, serial, r, RETRY_MS, "doorbell of shard %u: %s", open->shard, strerror(-r));
    close(ends[0]);
    return r;
}

/* ---- one after the other ---- */

/* Waits until the next request is paid for. */
static int coroutine_fn pay(struct attach_link *link)
{
    int64_t now_ns = aio_clock_ns();

    if (link->paid_ns < now_ns - SAVED_NS)
        link->paid_ns = now_ns - SAVED_NS;
    link->paid_ns += PRICE_NS;
    while (link->paid_ns > now_ns && !link->attach->stopping && !link->over) {
        co_sleep_ns_wakeable(&link->sleep, AIO_CLOCK_MONOTONIC, link->paid_ns - now_ns);
        now_ns = aio_clock_ns();
    }
    return link->attach->stopping || link->over ? -ECANCELED : 0;
}

static int coroutine_fn serve_one(struct attach_link *link, const union attach_request *request)
{
    int r = pay(link);

    if (r < 0)
        return r;
    if (attach_unread(link->fd) > UNREAD_MOST)
        return -EAGAIN;
    if (request->head.kind == ATTACH_HELLO)
        r = serve_hello(link, &request->hello);
    else
        r = serve_open(link, &request->open);
    if (r == 0 && link->client != CLIENTS_NONE)
        clients_answered(&link->attach->clients, link->client, request->head.serial);
    if (r == 0)
        attach_consume(link->fd);
    return r;
}

/* Tells it why, as far as it listens, and ends it. */
static void break_off(struct attach_link *link, const char *why)
{
    attach_refuse(link->fd, 0, -EPROTO, 0, "cut off: %s", why);
    attach_complain(link->attach, "a client is cut off (pid %d, user %u): %s", (int)link->pid,
        (unsigned)link->uid, why);
    attach_end(link, CUT_MESSAGE, segment_gateway(link->attach->config.segment));
}

static void finish(struct attach_link *link, int error, const char *why)
{
    link->busy = false;
    link->attach->n_busy--;
    if (link->attach->stopping)
        return;
    if (link->over)
        attach_end(link, CUT_NONE, 0);
    else if (error == -EPROTO || error == -EAGAIN)
        break_off(link, error == -EAGAIN ? "it does not read its answers" : why);
    else if (error < 0 || attach_watch(link) < 0)
        attach_end(link, CUT_NONE, 0);
}

static void coroutine_fn serve(void *opaque)
{
    struct attach_link *link = opaque;
    union attach_request request;
    const char *why = "a request that makes no sense now";
    int r;

    do {
        r = attach_peek(link->fd, &request, &why);
        if (r > 0) {
            int served = serve_one(link, &request);
            r = served < 0 ? served : 1;
        }
    } while (r > 0 && !link->over && !link->attach->stopping);
    finish(link, r, why);
}

void attach_serve(struct attach_link *link)
{
    Coroutine *co = coroutine_create(serve, link);

    if (!co) {
        attach_end(link, CUT_NONE, 0);
        return;
    }
    aio_set_fd_handler(link->attach->config.ctx, link->fd, NULL, NULL, NULL, NULL, NULL);
    link->busy = true;
    link->attach->n_busy++;
    coroutine_enter(co);
}
