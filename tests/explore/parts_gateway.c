/* SPDX-License-Identifier: MIT */
/*
 * The supervisor's table is told by what it was asked for, in order: who inherits goes through all
 * of it, and a shard has read it up to some place.
 *
 * What is asked of the kernel with one call is one step, in which nobody dies.
 */
#include "tests/explore/parts_gateway.h"

#include <errno.h>
#include <string.h>

#include "ipc/gateway/attach_inside.h"
#include "runtime/atomic.h"
#include "tests/explore/explorer.h"

#define N_ASKED   16
#define N_TIMERS  4
#define MAX_FIRED 3 /* times that nothing else goes on: then it goes on for ever */
#define KEPT_MOST (1 + 3 * PARTS_CONNECTIONS)

enum asked_op { ASKED_PUT, ASKED_BELL, ASKED_DROP };

struct asked {
    enum asked_op op;
    uint32_t client;
    uint32_t connection; /* of PUT */
    uint64_t generation;
    bool again;                 /* of BELL: not the one before, whose answer may have been lost */
    uint8_t note[FD_KEEP_NOTE]; /* of BELL; of DROP who is to be told in any case */
};

struct connection {
    uint32_t said, told; /* enum parts_said, parts_told */
    uint64_t taken;
    bool is_accepted;
};

/* Of a client, at some place of what was asked. */
struct holding {
    const struct asked *put, *bell; /* NULL: nothing is kept */
};

static struct {
    struct connection connections[PARTS_CONNECTIONS];
    struct asked asked[N_ASKED];
    uint32_t n_asked;
    uint32_t n_read; /* by the shard */
    struct fd_kept kept[2][KEPT_MOST];
    /* Of the gateway that lives. */
    struct {
        IOHandler *run;
        void *opaque;
    } handlers[PARTS_CONNECTIONS], listener;
    AioTimer *timers[N_TIMERS]; /* those that are armed */
    uint32_t n_fired;
} p;

void parts_gateway_reset(void)
{
    memset(&p, 0, sizeof p);
}

/* ---- connections ---- */

/* The newest value: a socket has what was written to it. */
static uint32_t newest(uint32_t *word)
{
    return atomic_or_seq(word, 0u);
}

void parts_connection_say(uint32_t connection, enum parts_said what)
{
    explorer_may_crash(false);
    atomic_or_seq(&p.connections[connection].said, (uint32_t)what);
    explorer_fd_write(PARTS_GATEWAY_FD);
    explorer_may_crash(true);
}

void parts_connection_tell(uint32_t connection, enum parts_told what)
{
    explorer_may_crash(false);
    atomic_or_seq(&p.connections[connection].told, (uint32_t)what);
    explorer_fd_write(PARTS_CLIENT_FD(connection));
    explorer_may_crash(true);
}

uint32_t parts_connection_told(uint32_t connection)
{
    return newest(&p.connections[connection].told);
}

uint64_t parts_connection_taken(uint32_t connection)
{
    return p.connections[connection].taken;
}

uint32_t parts_connection_wait(uint32_t connection, uint32_t what)
{
    uint32_t told;

    while (!((told = parts_connection_told(connection)) & what)) {
        explorer_fd_wait(PARTS_CLIENT_FD(connection), false);
        explorer_fd_read(PARTS_CLIENT_FD(connection));
    }
    return told;
}

uint32_t parts_connection_asks(uint32_t connection)
{
    struct connection *c = &p.connections[connection];
    uint32_t said = newest(&c->said), told = newest(&c->told);

    if (told & TOLD_OVER)
        return SAID_END; /* who shut it may have died before it did more */
    if (told & TOLD_OPENED)
        said &= ~(uint32_t)SAID_HELLO;
    if (told & (TOLD_OPENED_AGAIN | TOLD_REFUSED))
        said &= ~(uint32_t)SAID_OPEN;
    return said;
}

int parts_gateway_accept(int listener)
{
    for (uint32_t n = 0; n < PARTS_CONNECTIONS; n++) {
        struct connection *c = &p.connections[n];
        if (c->is_accepted || !(newest(&c->said) & SAID_HELLO))
            continue;
        c->is_accepted = true;
        return (int)n;
    }
    errno = EAGAIN;
    return -1;
}

int attach_send(int fd, const void *message, size_t len, int pass)
{
    const struct attach_closed *closed = message;

    if (parts_connection_told((uint32_t)fd) & TOLD_CLOSED)
        return 0; /* by a gateway that died: the same */
    p.connections[fd].taken = closed->taken;
    parts_connection_tell((uint32_t)fd, TOLD_CLOSED);
    return 0;
}

int attach_refuse(int fd, uint64_t serial, int error, uint32_t retry_ms, const char *format, ...)
{
    return 0;
}

void attach_shut(int fd)
{
    parts_connection_tell((uint32_t)fd, TOLD_OVER);
}

/* ---- the gateway's loop ---- */

int aio_set_fd_handler(AioContext *ctx, int fd, IOHandler *io_read, IOHandler *io_write,
    AioPollFn *io_poll, IOHandler *io_poll_ready, void *opaque)
{
    if (fd == PARTS_LISTENER_FD) {
        p.listener.run = io_read;
        p.listener.opaque = opaque;
    } else {
        p.handlers[fd].run = io_read;
        p.handlers[fd].opaque = opaque;
    }
    return 0;
}

void parts_gateway_hear(void)
{
    p.listener.run(p.listener.opaque);
    for (uint32_t n = 0; n < PARTS_CONNECTIONS; n++)
        if (p.handlers[n].run && parts_connection_asks(n))
            p.handlers[n].run(p.handlers[n].opaque);
}

void aio_timer_init(AioContext *ctx, AioTimer *timer, AioTimerFunc *cb, void *opaque)
{
    timer->cb = cb;
    timer->opaque = opaque;
}

bool timer_pending(const AioTimer *timer)
{
    for (uint32_t i = 0; i < N_TIMERS; i++)
        if (p.timers[i] == timer)
            return true;
    return false;
}

void timer_mod_ns(AioTimer *timer, int64_t expire_ns)
{
    uint32_t i = 0;

    if (timer_pending(timer))
        return;
    while (p.timers[i])
        i++;
    p.timers[i] = timer;
}

void timer_mod_anticipate_ns(AioTimer *timer, int64_t expire_ns)
{
    timer_mod_ns(timer, expire_ns);
}

void timer_del(AioTimer *timer)
{
    for (uint32_t i = 0; i < N_TIMERS; i++)
        if (p.timers[i] == timer)
            p.timers[i] = NULL;
}

static bool is_any_armed(void)
{
    for (uint32_t i = 0; i < N_TIMERS; i++)
        if (p.timers[i])
            return true;
    return false;
}

static void fire_timers(void)
{
    p.n_fired++;
    for (uint32_t i = 0; i < N_TIMERS; i++) {
        AioTimer *timer = p.timers[i];
        p.timers[i] = NULL;
        if (timer)
            timer->cb(timer->opaque);
    }
}

void parts_gateway_sleep(const struct doorbell *bell)
{
    bool is_rung = true;

    if (doorbell_prepare_sleep(bell)) {
        if (is_any_armed() && p.n_fired < MAX_FIRED)
            explorer_fd_wait_or_idle(bell->fd);
        else
            explorer_fd_wait(bell->fd, false);
        is_rung = explorer_fd_read(bell->fd);
    }
    doorbell_end_sleep(bell);
    doorbell_accept(bell);
    if (!is_rung)
        fire_timers();
}

/* ---- the supervisor ---- */

static struct asked *next_asked(enum asked_op op, uint32_t client, uint64_t generation)
{
    uint32_t n = newest(&p.n_asked);
    struct asked *asked = &p.asked[n];

    if (n == N_ASKED)
        explorer_fail("more than %d things are asked of the supervisor", N_ASKED);
    *asked = (struct asked){.op = op, .client = client, .generation = generation};
    return asked;
}

static void was_asked(void)
{
    explorer_may_crash(false);
    atomic_add_seq(&p.n_asked, 1u);
    parts_plane_knock();
    explorer_may_crash(true);
}

void parts_keep_put(uint32_t client, uint64_t generation, uint32_t connection)
{
    next_asked(ASKED_PUT, client, generation)->connection = connection;
    was_asked();
}

void parts_keep_bell(const struct plane_grant *grant, bool again)
{
    struct asked *asked = next_asked(ASKED_BELL, grant->client, grant->generation);

    asked->again = again;
    memcpy(asked->note, grant, sizeof(*grant));
    was_asked();
}

bool keeper_drop(
    struct keeper *keeper, uint32_t key, uint64_t generation, const uint64_t *peers, size_t n)
{
    struct asked *asked = next_asked(ASKED_DROP, key, generation);

    if (n)
        memcpy(asked->note, peers, n);
    was_asked();
    return true;
}

int keeper_init(struct keeper *keeper, AioContext *ctx, int channel)
{
    return 0;
}

void keeper_stop(struct keeper *keeper)
{
}

void keeper_deinit(struct keeper *keeper)
{
}

/* As of the first n that it was asked for. */
static struct holding holding_of(uint32_t client, uint32_t n)
{
    struct holding holding = {NULL, NULL};

    for (const struct asked *asked = p.asked; asked < p.asked + n; asked++) {
        if (asked->client != client)
            continue;
        if (asked->op == ASKED_PUT)
            holding.put = asked;
        else if (!holding.put || asked->generation != holding.put->generation)
            continue; /* of one that was dropped */
        else if (asked->op == ASKED_BELL)
            holding.bell = asked;
        else
            holding = (struct holding){NULL, NULL};
    }
    return holding;
}

static struct fd_kept kept_of(const struct asked *asked, enum plane_fd kind, uint32_t fd)
{
    struct fd_kept kept = {
        .key = asked->client, .kind = kind, .fd = (int)fd, .generation = asked->generation};

    memcpy(kept.note, asked->note, sizeof(kept.note));
    return kept;
}

struct fd_keep_heir parts_gateway_inherit(void)
{
    struct fd_kept *kept = p.kept[0];
    uint32_t n_asked = newest(&p.n_asked), n = 0;

    memset(p.handlers, 0, sizeof p.handlers);
    memset(p.timers, 0, sizeof p.timers);
    p.n_fired = 0;
    for (uint32_t c = 0; c < PARTS_CONNECTIONS; c++)
        p.connections[c].is_accepted = false; /* who is not kept comes again */
    kept[n++] = (struct fd_kept){
        .key = FD_KEEP_PROGRAM, .kind = PLANE_FD_LISTENER, .fd = PARTS_LISTENER_FD};
    for (uint32_t client = 0; client < PARTS_CONNECTIONS; client++) {
        struct holding holding = holding_of(client, n_asked);
        if (!holding.put)
            continue;
        uint32_t connection = holding.put->connection;
        kept[n++] = kept_of(holding.put, PLANE_FD_MEMORY, connection);
        kept[n++] = kept_of(holding.put, PLANE_FD_CONNECTION, connection);
        p.connections[connection].is_accepted = true;
    }
    return (struct fd_keep_heir){.kept = kept, .n_kept = n};
}

struct fd_keep_heir parts_keep_inherit(void)
{
    struct fd_kept *kept = p.kept[1];
    uint32_t n = 0;

    p.n_read = newest(&p.n_asked);
    for (uint32_t client = 0; client < PARTS_CONNECTIONS; client++) {
        struct holding holding = holding_of(client, p.n_read);
        if (!holding.put)
            continue;
        uint32_t connection = holding.put->connection;
        kept[n++] = kept_of(holding.put, PLANE_FD_MEMORY, connection);
        if (!holding.bell)
            continue;
        kept[n++] = kept_of(holding.bell, PLANE_FD_BELL, (uint32_t)PARTS_SHARD_FD(connection));
        parts_plane_inherit(PARTS_SHARD_FD(connection));
    }
    return (struct fd_keep_heir){.channel = PARTS_CHANNEL, .kept = kept, .n_kept = n};
}

/* Nothing is told twice; an end is told to who was handed something, or is named. */
static bool is_for_shard(uint32_t at)
{
    const struct asked *asked = &p.asked[at];
    struct holding before = holding_of(asked->client, at);

    if (asked->op == ASKED_PUT || !before.put || before.put->generation != asked->generation)
        return false;
    return asked->op == ASKED_BELL ? !before.bell || asked->again
                                   : before.bell || asked->note[0] & 1;
}

static void tell_shard(
    const struct asked *asked, struct fd_keep_message *message, int fds[FD_KEEP_FDS_MAX])
{
    *message = (struct fd_keep_message){.op = FD_KEEP_DROP,
        .kind = PLANE_FD_BELL,
        .key = asked->client,
        .generation = asked->generation};
    for (uint32_t i = 0; i < FD_KEEP_FDS_MAX; i++)
        fds[i] = -1;
    if (asked->op == ASKED_DROP)
        return;
    uint32_t connection = holding_of(asked->client, (uint32_t)(asked - p.asked)).put->connection;

    message->op = FD_KEEP_HAND;
    memcpy(message->note, asked->note, sizeof(message->note));
    fds[0] = (int)connection;
    fds[1] = PARTS_SHARD_FD(connection);
}

int fd_keep_receive(int channel, struct fd_keep_message *ret_message, int ret_fds[FD_KEEP_FDS_MAX])
{
    uint32_t n_asked = newest(&p.n_asked);

    while (p.n_read < n_asked) {
        uint32_t at = p.n_read++;
        if (!is_for_shard(at))
            continue;
        tell_shard(&p.asked[at], ret_message, ret_fds);
        return 1;
    }
    return 0;
}

/* ---- what no scenario has ---- */

/* A request that waits. */
void co_sleep_init(CoSleep *sleep)
{
}

void co_sleep_deinit(CoSleep *sleep)
{
}

void co_sleep_wake(CoSleep *sleep)
{
}

void log_line(struct log *log, enum log_level level, const char *format, ...)
{
}

bool aio_poll(AioContext *ctx, bool blocking)
{
    explorer_fail("a gateway leaves");
}
