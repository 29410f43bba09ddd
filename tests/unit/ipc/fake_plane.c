/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/ipc/fake_plane.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "runtime/atomic.h"

#define TABLE                             \
    "t.ping\tidempotent\t0\tanswers\n"    \
    "t.echo\tidempotent\t1\tanswers so\n" \
    "t.hold\tonce\t2\tanswers one day\n"

/* ---- ends ---- */

static void complete(struct fake_plane *fake, uint32_t shard, const struct plane_submission *entry,
    uint32_t end, int error, const void *data, uint32_t len)
{
    struct fake_client *c = &fake->client;
    struct plane_completion *to = plane_completion_at(&c->layout, c->base, shard, c->tail[shard]);
    uint32_t mode = atomic_load_relaxed(&fake->mode);
    bool is_table = entry->method == PLANE_METHOD_TABLE;

    to->id = entry->id + (mode == FAKE_END_UNKNOWN && !is_table ? 77 : 0);
    to->end = (uint8_t)(mode == FAKE_END_KIND && !is_table ? 99 : end);
    to->error = error;
    to->shard = shard;
    to->len = mode == FAKE_END_LONG && !is_table ? 1u << 30 : len;
    to->retry_us = 0;
    if (len > 0 && len <= PLANE_INLINE_ANSWER)
        memcpy(to->inline_answer, data, len);
    else if (len > 0)
        memcpy(c->base + c->layout.data_off + entry->room_off, data, len);
    c->tail[shard]++;
    atomic_store_release(&to->turn, (uint32_t)c->tail[shard]);
    atomic_full_fence();
    uint32_t sleeps =
        atomic_load_relaxed(&plane_words_of(&c->layout, c->base, shard)->client_sleeps);
    if (sleeps != 0 && sleeps != c->rung[shard]) {
        send(c->bells[shard], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        atomic_add_seq(&fake->n_woken, 1);
    }
    c->rung[shard] = sleeps;
    atomic_add_seq(&fake->n_served, 1);
}

static void serve(struct fake_plane *fake, uint32_t shard, const struct plane_submission *entry)
{
    const void *args = entry->flags & PLANE_ARGS_INLINE
                           ? (const void *)entry->inline_args
                           : fake->client.base + fake->client.layout.data_off + entry->args_off;

    if (entry->method == PLANE_METHOD_TABLE) {
        complete(fake, shard, entry, 1, 0, TABLE, sizeof(TABLE) - 1);
    } else if (entry->method == 0) {
        complete(fake, shard, entry, 1, 0, NULL, 0);
        if (atomic_load_relaxed(&fake->mode) == FAKE_END_TWICE)
            complete(fake, shard, entry, 1, 0, NULL, 0);
    } else if (entry->method == 1 && entry->args_len > PLANE_INLINE_ANSWER &&
               entry->args_len > entry->room_len) {
        complete(fake, shard, entry, 2, -ENOBUFS, "too long", 8);
    } else if (entry->method == 1) {
        complete(fake, shard, entry, 1, 0, args, entry->args_len);
    } else if (fake->n_held < FAKE_HELD) {
        fake->held[fake->n_held++] = (struct fake_held){*entry, shard, true, false};
        atomic_add_seq(&fake->n_taken, 1);
    }
}

static void release_held(struct fake_plane *fake)
{
    for (uint32_t i = 0; i < fake->n_held; i++) {
        struct fake_held *held = &fake->held[i];
        if (!held->is_held || (!held->is_cancelled && atomic_load_relaxed(&fake->hold)))
            continue;
        held->is_held = false;
        complete(fake, held->shard, &held->entry, held->is_cancelled ? 3 : 1,
            held->is_cancelled ? -ECANCELED : 0, NULL, 0);
    }
    while (fake->n_held > 0 && !fake->held[fake->n_held - 1].is_held)
        fake->n_held--;
}

/* The next entry of a ring, if there is one. */
static bool take_one(
    struct fake_plane *fake, uint32_t shard, struct plane_submission *from, uint64_t *head)
{
    struct plane_submission entry;

    if (atomic_load_acquire(&from->turn) != (uint32_t)(*head + 1))
        return false;
    entry = *from;
    (*head)++;
    if (head == &fake->client.urgent_head[shard])
        atomic_add_seq(&fake->n_urgent, 1);
    if (!(entry.flags & PLANE_CANCEL)) {
        serve(fake, shard, &entry);
        return true;
    }
    for (uint32_t i = 0; i < fake->n_held; i++)
        if (fake->held[i].is_held && fake->held[i].entry.id == entry.id)
            fake->held[i].is_cancelled = true;
    return true;
}

static void take(struct fake_plane *fake, uint32_t shard)
{
    struct fake_client *c = &fake->client;
    uint64_t *head = &c->head[shard], *urgent = &c->urgent_head[shard];

    do {
        while (take_one(fake, shard, plane_urgent_at(&c->layout, c->base, shard, *urgent), urgent))
            ;
    } while (take_one(fake, shard, plane_submission_at(&c->layout, c->base, shard, *head), head));
}

/* ---- attaching ---- */

static void drop(struct fake_plane *fake)
{
    struct fake_client *c = &fake->client;

    if (c->fd >= 0)
        close(c->fd);
    for (uint32_t shard = 0; shard < FAKE_SHARDS; shard++)
        if (c->bells[shard] >= 0)
            close(c->bells[shard]);
    if (c->base && !atomic_load_relaxed(&fake->lingers))
        munmap(c->base, c->layout.total_bytes);
    *c = (struct fake_client){.fd = -1, .bells = {-1, -1}};
    fake->n_held = 0;
}

static void answer(struct fake_plane *fake, const void *message, size_t len, int fd)
{
    union {
        struct cmsghdr head;
        uint8_t bytes[CMSG_SPACE(sizeof(int))];
    } control = {
        .head = {
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec iov = {(void *)message, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control);
    }
    sendmsg(fake->client.fd, &msg, MSG_NOSIGNAL);
    if (fd >= 0)
        close(fd);
}

static struct attach_head head_of(const struct attach_head *request, enum attach_kind kind)
{
    return (struct attach_head){ATTACH_MAGIC, ATTACH_VERSION, (uint16_t)kind, request->serial};
}

static void on_hello(struct fake_plane *fake, const struct attach_hello *hello)
{
    struct fake_client *c = &fake->client;
    uint32_t mode = atomic_load_relaxed(&fake->mode);
    struct attach_refused refused = {
        .head = head_of(&hello->head, ATTACH_REFUSED), .text = "not you", .retry_ms = 1};

    atomic_add_seq(&fake->n_hellos, 1);
    if (mode == FAKE_REFUSE_BUSY || mode == FAKE_REFUSE_USER) {
        refused.error = mode == FAKE_REFUSE_BUSY ? -EAGAIN : -EPERM;
        answer(fake, &refused, sizeof(refused), -1);
        return;
    }
    c->layout = plane_layout(FAKE_SHARDS, hello->n_entries, hello->data_bytes);
    int fd = memfd_create("fake", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)c->layout.total_bytes), 0);
    c->base = mmap(NULL, c->layout.total_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    struct attach_welcome welcome = {.head = head_of(&hello->head, ATTACH_WELCOME),
        .features = mode == FAKE_WELCOME_PLAIN ? 0 : hello->features,
        .data_bytes = hello->data_bytes,
        .total_bytes = c->layout.total_bytes + (mode == FAKE_WELCOME_TOTAL ? PLANE_PAGE : 0),
        .n_entries = mode == FAKE_WELCOME_ENTRIES ? 7 : hello->n_entries,
        .n_shards = FAKE_SHARDS,
        .client = 4,
        .max_in_flight = 1000,
        .keymap = 1,
        .generation = 1,
        .instance = "fake"};
    if (mode == FAKE_WELCOME_NO_FD) {
        close(fd);
        fd = -1;
    }
    answer(fake, &welcome, mode == FAKE_WELCOME_SHORT ? sizeof(welcome) / 2 : sizeof(welcome), fd);
}

static void on_open(struct fake_plane *fake, const struct attach_open *open)
{
    struct attach_opened opened = {
        .head = head_of(&open->head, ATTACH_OPENED), .shard = open->shard};
    struct attach_refused refused = {
        .head = head_of(&open->head, ATTACH_REFUSED), .error = -EHOSTDOWN, .text = "given up"};
    int pair[2];

    if (atomic_load_relaxed(&fake->down) >> open->shard & 1) {
        answer(fake, &refused, sizeof(refused), -1);
        return;
    }
    if (atomic_add_seq(&fake->n_opens, 1) == 0 &&
        atomic_load_relaxed(&fake->mode) == FAKE_DEAF_OPEN)
        return;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    if (fake->client.bells[open->shard] >= 0)
        close(fake->client.bells[open->shard]);
    fake->client.bells[open->shard] = pair[0];
    atomic_store_relaxed(
        &plane_words_of(&fake->client.layout, fake->client.base, open->shard)->need_wakeup,
        atomic_load_relaxed(&fake->sleeps));
    answer(fake, &opened, sizeof(opened), pair[1]);
}

static void on_message(struct fake_plane *fake)
{
    union {
        struct attach_head head;
        struct attach_hello hello;
        struct attach_open open;
    } message;
    ssize_t n = recv(fake->client.fd, &message, sizeof(message), MSG_DONTWAIT);

    if (n == 0 || (n < 0 && errno != EAGAIN))
        drop(fake);
    else if (n == sizeof(struct attach_hello) && message.head.kind == ATTACH_HELLO)
        on_hello(fake, &message.hello);
    else if (n == sizeof(struct attach_open) && message.head.kind == ATTACH_OPEN)
        on_open(fake, &message.open);
}

/* ---- shards that are over ---- */

static void close_lane(struct fake_plane *fake, uint32_t shard)
{
    struct fake_client *c = &fake->client;
    struct attach_closed closed = {
        .head = {ATTACH_MAGIC, ATTACH_VERSION, ATTACH_CLOSED, 0},
        .shard = shard,
        .error = -EHOSTDOWN,
        .taken = c->head[shard],
    };

    for (uint32_t i = 0; i < fake->n_held; i++)
        fake->held[i].is_held &= fake->held[i].shard != shard;
    close(c->bells[shard]);
    c->bells[shard] = -1;
    c->head[shard] = c->tail[shard] = 0;
    c->rung[shard] = 0;
    answer(fake, &closed, sizeof(closed), -1);
    atomic_add_seq(&fake->n_closed, 1);
}

static void part(struct fake_plane *fake)
{
    struct fake_client *c = &fake->client;
    const struct attach_refused cut = {.head = {ATTACH_MAGIC, ATTACH_VERSION, ATTACH_REFUSED, 0},
        .error = -EPROTO,
        .text = "cut off"};

    for (uint32_t shard = 0; atomic_load_relaxed(&fake->leaves) && shard < FAKE_SHARDS; shard++) {
        struct plane_words *words = plane_words_of(&c->layout, c->base, shard);
        atomic_store_relaxed(&words->urgent_closed, c->urgent_head[shard] + 1);
        atomic_store_release(&words->closed, c->head[shard] + 1);
    }
    if (atomic_load_relaxed(&fake->cuts))
        answer(fake, &cut, sizeof(cut), -1);
    drop(fake);
}

/* ---- the thread ---- */

static void turn(struct fake_plane *fake)
{
    struct fake_client *c = &fake->client;
    bool stalled = atomic_load_relaxed(&fake->stalled);

    atomic_store_release(&fake->is_stalled, stalled);
    for (uint32_t shard = 0; c->base && shard < FAKE_SHARDS; shard++) {
        uint8_t bytes[16];
        if (c->bells[shard] >= 0 && atomic_load_relaxed(&fake->down) >> shard & 1)
            close_lane(fake, shard);
        ssize_t n = c->bells[shard] < 0 ? 0 : recv(c->bells[shard], bytes, 16, MSG_DONTWAIT);
        if (n > 0)
            atomic_add_seq(&fake->n_rung, (uint32_t)n);
        bool awake = n > 0 || !atomic_load_relaxed(&fake->sleeps);
        if (c->bells[shard] >= 0 && awake && !stalled)
            take(fake, shard);
    }
    if (c->base)
        release_held(fake);
}

static void *run(void *opaque)
{
    struct fake_plane *fake = opaque;

    for (;;) {
        struct pollfd fds[] = {{.fd = fake->stop_fd, .events = POLLIN},
            {.fd = fake->client.fd < 0 ? fake->listen_fd : fake->client.fd, .events = POLLIN}};
        poll(fds, 2, fake->client.base ? 0 : 50);
        if (fds[0].revents)
            return NULL;
        if (atomic_xchg_seq(&fake->hang_up, 0))
            part(fake);
        else if (fds[1].revents && fake->client.fd < 0)
            fake->client.fd = accept4(fake->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        else if (fds[1].revents)
            on_message(fake);
        turn(fake);
    }
}

void fake_plane_start(struct fake_plane *fake)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    memset(fake, 0, sizeof(*fake));
    fake->client = (struct fake_client){.fd = -1, .bells = {-1, -1}};
    strcpy(fake->dir, "/tmp/sherd-fake-XXXXXX");
    assert_non_null(mkdtemp(fake->dir));
    setenv("SHERD_RUNTIME_DIR", fake->dir, 1);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/fake", fake->dir);
    assert_int_equal(mkdir(address.sun_path, 0700), 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/fake/attach", fake->dir);
    fake->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fake->listen_fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fake->listen_fd, 8), 0);
    fake->stop_fd = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(pthread_create(&fake->thread, NULL, run, fake), 0);
}

void fake_plane_stop(struct fake_plane *fake)
{
    char path[96];

    eventfd_write(fake->stop_fd, 1);
    pthread_join(fake->thread, NULL);
    drop(fake);
    close(fake->listen_fd);
    close(fake->stop_fd);
    snprintf(path, sizeof(path), "%s/fake/attach", fake->dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/fake", fake->dir);
    rmdir(path);
    rmdir(fake->dir);
}
