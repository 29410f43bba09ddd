/* SPDX-License-Identifier: MIT */
#include "shard/geometry.h"
#include "tests/unit/ipc/attach_rig.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ipc/gateway/attach_inside.h"
#include "ipc/gateway/attach_socket.h"
#include "ipc/plane/plane_shard.h"
#include "runtime/atomic.h"

#define LIMIT_NS (INT64_C(60) * 1000 * 1000 * 1000)

static void make_segment(struct attach_rig *rig, uint32_t n_shards)
{
    struct segment_geometry geometry;
    uint64_t bytes;
    void *base;

    assert(segment_geometry_plan(n_shards, 0, &geometry, &bytes) == 0);
    base = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert(base != MAP_FAILED);
    assert(segment_init(&rig->seg, base, bytes, &geometry, "rig") == 0);
}

static void open_listener(struct attach_rig *rig)
{
    const struct attach_access access = {.mode = 0600};
    int fd;

    snprintf(rig->dir, sizeof(rig->dir), "/tmp/sherd-attach-XXXXXX");
    assert(mkdtemp(rig->dir));
    assert(attach_socket_open(rig->dir, &access, &fd, NULL) == 0);
    assert(fd_keep_add(rig->keep, PLANE_FD_LISTENER, segment_gateway(&rig->seg), fd) == 0);
}

static void start_gateway(struct attach_rig *rig)
{
    struct attach_config config = {.ctx = rig->ctx,
        .segment = &rig->seg,
        .log = &rig->log,
        .keep = &rig->heir,
        .instance = "rig",
        .client_bytes = rig->client_bytes,
        .owner = geteuid()};

    fd_keep_prepare(rig->keep, segment_gateway(&rig->seg));
    assert(fd_keep_inherit(rig->keep, segment_gateway(&rig->seg), true, &rig->heir) == 0);
    assert(attach_start(&config, &rig->attach) == 0);
    assert(rig->attach);
}

static void stop_gateway(struct attach_rig *rig)
{
    attach_stop(rig->attach);
    fd_keep_disinherit(&rig->heir, false);
}

void rig_make(struct attach_rig *rig, uint32_t n_shards, uint64_t client_bytes)
{
    struct aio_config config = {.engine = AIO_ENGINE_THREADS, .monitor = AIO_MONITOR_EPOLL};
    char *error = NULL;

    *rig = (struct attach_rig){.client_bytes = client_bytes};
    log_init(&rig->log, -1, LOG_LEVEL_ERROR);
    assert(aio_context_new(&config, &rig->ctx) == 0);
    aio_context_set_current(rig->ctx);
    make_segment(rig, n_shards);
    assert(fd_keep_new(rig->seg.n_peers, segment_gateway(&rig->seg), rig->seg.geometry.n_clients,
               &rig->log, &rig->keep, &error) == 0);
    assert(fd_keep_start(rig->keep, rig->ctx) == 0);
    open_listener(rig);
    start_gateway(rig);
}

void rig_discard(struct attach_rig *rig)
{
    char path[sizeof(rig->dir) + 16];

    stop_gateway(rig);
    fd_keep_free(rig->keep);
    snprintf(path, sizeof(path), "%s/" ATTACH_SOCKET, rig->dir);
    unlink(path);
    rmdir(rig->dir);
    munmap(rig->seg.base, rig->seg.bytes);
    aio_context_set_current(NULL);
    aio_context_unref(rig->ctx);
}

void rig_replace_gateway(struct attach_rig *rig)
{
    stop_gateway(rig);
    start_gateway(rig);
}

bool rig_is_making(const struct attach_rig *rig)
{
    return rig->attach->n_making > 0;
}

static bool worker_is_at_it(const struct attach_rig *rig)
{
    return rig_is_making(rig) || rig->attach->n_closing > 0;
}

void rig_settle(struct attach_rig *rig)
{
    /* A worker's end comes by the doorbell, for which a turn may wait. */
    while (aio_poll(rig->ctx, worker_is_at_it(rig)) || worker_is_at_it(rig))
        ;
    attach_turn(rig->attach);
}

void rig_turn(struct attach_rig *rig)
{
    aio_poll(rig->ctx, worker_is_at_it(rig));
    for (uint32_t shard = 0; shard < rig->seg.geometry.n_shards; shard++)
        rig_shard_turn(rig, shard);
}

int rig_connect(const struct attach_rig *rig)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    assert(fd >= 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/" ATTACH_SOCKET, rig->dir);
    assert(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

struct attach_hello rig_hello(uint64_t serial)
{
    return (struct attach_hello){.head = {.magic = ATTACH_MAGIC,
                                     .version = ATTACH_VERSION,
                                     .kind = ATTACH_HELLO,
                                     .serial = serial},
        .n_entries = 8,
        .client = "rig"};
}

struct attach_open rig_open(uint64_t serial, uint32_t shard)
{
    return (struct attach_open){.head = {.magic = ATTACH_MAGIC,
                                    .version = ATTACH_VERSION,
                                    .kind = ATTACH_OPEN,
                                    .serial = serial},
        .shard = shard};
}

int rig_receive(int fd, void *buf, size_t size, int *ret_fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } space;
    struct iovec iov = {.iov_base = buf, .iov_len = size};
    struct msghdr msg = {.msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = space.bytes,
        .msg_controllen = sizeof(space.bytes)};
    ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;

    *ret_fd = -1;
    if (n <= 0)
        return n < 0 && errno == EAGAIN ? 0 : -1;
    assert(!(msg.msg_flags & (MSG_CTRUNC | MSG_TRUNC)));
    if (header)
        memcpy(ret_fd, CMSG_DATA(header), sizeof(int));
    return (int)n;
}

uint32_t rig_shard_turn(struct attach_rig *rig, uint32_t shard)
{
    struct fd_keep_message message;
    struct fd_keep_heir heir;
    uint32_t n_handed = 0;
    int r, fds[FD_KEEP_FDS_MAX];

    assert(fd_keep_inherit(rig->keep, shard, false, &heir) == 0);
    while ((r = fd_keep_receive(heir.channel, &message, fds)) != 0) {
        assert(r == 1);
        for (uint32_t i = 0; i < FD_KEEP_FDS_MAX; i++)
            if (fds[i] >= 0)
                close(fds[i]);
        n_handed += message.op == FD_KEEP_HAND;
        struct client_lane *lane = segment_client_lane(&rig->seg, shard, message.key);
        atomic_store_release(&lane->state,
            (uint32_t)(message.op == FD_KEEP_HAND ? CLIENT_LANE_OPEN : CLIENT_LANE_NONE));
        atomic_store_release(&lane->generation, message.generation);
    }
    fd_keep_disinherit(&heir, false);
    return n_handed;
}

uint32_t rig_n_rows(const struct attach_rig *rig)
{
    uint32_t n = 0;

    for (uint32_t client = 0; client < rig->seg.geometry.n_clients; client++)
        n += client_state(segment_client(&rig->seg, client)->word) != CLIENT_FREE;
    return n;
}

void rig_wait_for_none(struct attach_rig *rig)
{
    int64_t until_ns = aio_clock_ns() + LIMIT_NS;

    while (rig_n_rows(rig) > 0) {
        assert(aio_clock_ns() < until_ns);
        for (uint32_t shard = 0; shard < rig->seg.geometry.n_shards; shard++)
            rig_shard_turn(rig, shard);
        aio_poll(rig->ctx, true);
    }
}
