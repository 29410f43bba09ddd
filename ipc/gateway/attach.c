/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/attach.h"
/*
 * The listener, connections, and their ends. Connections without a welcome are strangers: few, and
 * for a short time only; one more sends the oldest away.
 *
 * What a new gateway finds: rows, and what is kept. A client whose connection and memory are both
 * kept lives on. One that has a row without them was about to attach, and is ended: its connection
 * was the dead gateway's alone, and is closed. A key without a row that lives is dropped.
 *
 * Orderings     first               then            ordered by               if broken
 *   CUT     lane's state, reason    clients_cut     shard's store release,   a cut that nobody carries
 *                                                   acquire here             out
 *   UP: see shard/member.c; ROW, FAILED: see clients.c
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ipc/gateway/attach_inside.h"
#include "ipc/gateway/attach_memory.h"
#include "runtime/atomic.h"

#define MS             INT64_C(1000000)
#define STRANGERS_MOST 512u
#define STRANGER_NS    (5000 * MS)
#define ACCEPTS_A_TURN 64u
#define DEAF_NS        (100 * MS) /* without fds nobody is heard */
#define MAKERS         4u
#define COMPLAIN_NS    (1000 * MS)
#define REAP_FIRST_NS  (1 * MS)
#define REAP_MOST_NS   (64 * MS)
#define FEW_ENDING     64u

void attach_complain(struct attach *attach, const char *format, ...)
{
    int64_t now_ns = aio_clock_ns();
    char text[256];
    va_list args;

    if (now_ns < attach->next_complaint_ns) {
        attach->n_unsaid++;
        return;
    }
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (attach->n_unsaid)
        log_line(attach->config.log, LOG_LEVEL_WARNING, "%s; %llu such complaints before it", text,
            (unsigned long long)attach->n_unsaid);
    else
        log_line(attach->config.log, LOG_LEVEL_WARNING, "%s", text);
    attach->n_unsaid = 0;
    attach->next_complaint_ns = now_ns + COMPLAIN_NS;
}

/* ---- strangers ---- */

static void add_stranger(struct attach_link *link)
{
    struct attach *attach = link->attach;

    link->prev = attach->last;
    *(attach->last ? &attach->last->next : &attach->first) = link;
    attach->last = link;
    link->is_stranger = true;
    attach->n_strangers++;
}

static void remove_stranger(struct attach_link *link)
{
    struct attach *attach = link->attach;

    if (!link->is_stranger)
        return;
    *(link->prev ? &link->prev->next : &attach->first) = link->next;
    *(link->next ? &link->next->prev : &attach->last) = link->prev;
    link->prev = link->next = NULL;
    link->is_stranger = false;
    attach->n_strangers--;
}

static void on_stranger_timer(void *opaque)
{
    struct attach *attach = opaque;
    int64_t now_ns = aio_clock_ns();

    for (struct attach_link *link = attach->first, *next; link; link = next) {
        next = link->next;
        if (link->came_ns + STRANGER_NS > now_ns)
            break;
        if (!link->busy)
            attach_end(link, CUT_NONE, 0);
    }
    if (attach->first)
        timer_mod_ns(&attach->stranger_timer, now_ns + STRANGER_NS / 4);
}

static void send_oldest_away(struct attach *attach)
{
    struct attach_link *link = attach->first;

    while (link && link->busy)
        link = link->next;
    if (link)
        attach_end(link, CUT_NONE, 0);
}

/* ---- ends ---- */

/* Every shard that was to have something of it is told, whether or not that got there. As long as
 * the keeper can't be told, the number is not used again: what is kept under it would never go. */
static void tell_end(struct attach *attach, uint32_t client)
{
    const struct client_row *row = segment_client(attach->config.segment, client);

    attach->clients.held[client] = !keeper_drop(
        &attach->keeper, client, client_generation(row->word), row->opened, sizeof(row->opened));
}

/* Nobody has its memory any more. */
static void on_freed(uint32_t client, void *opaque)
{
    struct attach *attach = opaque;

    attach_memory_close(attach->last_fds[client], &attach->n_closing);
    attach->last_fds[client] = -1;
}

/* A shard rings when it has let go of a client. Where many end at once, as with a process that had
 * thousands, the timer alone has all of them looked at; and where a shard died before it rang. */
static void reap_few(struct attach *attach)
{
    if (attach->clients.n_ending > 0 && attach->clients.n_ending <= FEW_ENDING)
        clients_reap(&attach->clients, on_freed, attach);
}

static void on_reap_timer(void *opaque)
{
    struct attach *attach = opaque;
    struct clients *clients = &attach->clients;

    for (uint32_t i = 0; i < clients->n_ending; i++) {
        uint32_t client = clients->ending[i];
        if (clients->held[client])
            tell_end(attach, client);
    }
    uint32_t n_before = clients->n_ending;
    uint32_t n = clients_reap(clients, on_freed, attach);
    if (n == 0)
        return;
    if (n < n_before)
        attach->reap_ns = REAP_FIRST_NS; /* the others are on their way, too */
    else
        attach->reap_ns = attach->reap_ns * 2 < REAP_MOST_NS ? attach->reap_ns * 2 : REAP_MOST_NS;
    timer_mod_ns(&attach->reap_timer, aio_clock_ns() + attach->reap_ns);
}

static void reap_soon(struct attach *attach)
{
    attach->reap_ns = REAP_FIRST_NS;
    timer_mod_anticipate_ns(&attach->reap_timer, aio_clock_ns() + attach->reap_ns);
}

/* A row that was in use, ATTACHING or ATTACHED, ends. */
static void end_client(struct attach *attach, uint32_t client, enum cut_reason reason, uint32_t by)
{
    if (reason != CUT_NONE) {
        struct part_head *head =
            segment_part(attach->config.segment, segment_gateway(attach->config.segment));
        counter_add(&head->clients_cut, 1);
    }
    clients_end(&attach->clients, client, reason, by);
    tell_end(attach, client);
    reap_soon(attach);
}

void attach_give_up(struct attach *attach, uint32_t client)
{
    end_client(attach, client, CUT_NONE, 0);
}

static void close_link(struct attach_link *link)
{
    aio_set_fd_handler(link->attach->config.ctx, link->fd, NULL, NULL, NULL, NULL, NULL);
    close(link->fd);
    if (link->memory_fd >= 0)
        close(link->memory_fd);
    co_sleep_deinit(&link->sleep);
    free(link);
}

/* Of many pages it takes long to be the last who has them: neither the supervisor nor a shard shall
 * be that, but a thread of this process. */
static void hold_memory(struct attach_link *link)
{
    link->attach->last_fds[link->client] = link->memory_fd;
    link->memory_fd = -1;
}

/* Others hold the connection too, so it is shut, not just closed. */
void attach_end(struct attach_link *link, enum cut_reason reason, uint32_t by)
{
    struct attach *attach = link->attach;

    attach_shut(link->fd);
    if (link->client != CLIENTS_NONE && !link->over) {
        hold_memory(link);
        end_client(attach, link->client, reason, by);
    }
    link->over = true;
    if (link->busy) {
        co_sleep_wake(&link->sleep);
        return;
    }
    remove_stranger(link);
    if (link->client != CLIENTS_NONE)
        attach->links[link->client] = NULL;
    close_link(link);
}

void attach_welcome_link(struct attach_link *link, uint32_t client, int memory_fd)
{
    struct attach *attach = link->attach;

    remove_stranger(link);
    link->client = client;
    link->memory_fd = memory_fd;
    attach->links[client] = link;
    clients_attached(&attach->clients, client);
}

/* ---- what shards ask for ---- */

/* A cut of itself is a fault; one for a shard's sake is none of the client's. */
static int error_of(uint32_t reason)
{
    return reason == CUT_SHARD ? -EHOSTDOWN : -EPROTO;
}

void attach_cut_off(struct attach_link *link, uint32_t shard, uint32_t reason)
{
    const struct attach *attach = link->attach;
    const struct client_row *row = segment_client(attach->config.segment, link->client);

    if (link->over)
        return;
    log_line(attach->config.log, LOG_LEVEL_WARNING,
        "client %u (%s, pid %d, user %u) is cut off, for shard %u: %s", link->client, row->name,
        row->pid, row->uid, shard, cut_reason_text(reason));
    attach_refuse(link->fd, 0, error_of(reason), 0, "cut off: %s", cut_reason_text(reason));
    attach_end(link, reason < N_CUT_REASONS ? (enum cut_reason)reason : CUT_MESSAGE, shard);
}

static void look_at_lane(struct attach *attach, uint32_t shard, uint32_t client)
{
    const struct segment *seg = attach->config.segment;
    const struct client_row *row = segment_client(seg, client);
    const struct client_lane *lane = segment_client_lane(seg, shard, client);

    if (atomic_load_acquire(&lane->generation) != client_generation(row->word)) /* LET_GO */
        return;
    if (atomic_load_acquire(&lane->state) == CLIENT_LANE_CUT && attach->links[client])    /* CUT */
        attach_cut_off(attach->links[client], shard, atomic_load_relaxed(&lane->reason)); /* CUT */
}

static void look_at_shard(struct attach *attach, uint32_t shard)
{
    for (uint32_t client = 0; client < attach->config.segment->geometry.n_clients; client++)
        if (client_state(clients_word(&attach->clients, client)) != CLIENT_FREE)
            look_at_lane(attach, shard, client);
}

void attach_turn(struct attach *attach)
{
    const struct segment *seg = attach->config.segment;

    for (uint32_t shard = 0; shard < seg->geometry.n_shards; shard++) {
        attach_look_at_given_up(attach, shard);
        const struct part_head *part = segment_part(seg, shard);
        uint64_t cuts = atomic_load_acquire(&part->clients_cut);        /* CUT */
        uint32_t incarnation = atomic_load_acquire(&part->incarnation); /* UP */
        if (cuts == attach->seen_cuts[shard] && incarnation == attach->seen_incarnation[shard])
            continue;
        attach->seen_cuts[shard] = cuts;
        attach->seen_incarnation[shard] = incarnation;
        look_at_shard(attach, shard);
    }
    reap_few(attach);
}

uint64_t attach_n_over(const struct attach *attach)
{
    return attach->clients.n_over;
}

/* ---- connections ---- */

static void on_request(void *opaque)
{
    attach_serve(opaque);
}

int attach_watch(struct attach_link *link)
{
    return aio_set_fd_handler(
        link->attach->config.ctx, link->fd, on_request, NULL, NULL, NULL, link);
}

static struct attach_link *make_link(struct attach *attach, int fd)
{
    struct attach_link *link = calloc(1, sizeof(*link));

    if (!link)
        return NULL;
    link->attach = attach;
    link->fd = fd;
    link->memory_fd = -1;
    link->client = CLIENTS_NONE;
    link->came_ns = aio_clock_ns();
    co_sleep_init(&link->sleep);
    return link;
}

/* Consumes fd. */
static void greet(struct attach *attach, int fd)
{
    struct ucred who;
    socklen_t len = sizeof(who);
    struct attach_link *link;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 ||
        !(link = make_link(attach, fd))) {
        close(fd);
        return;
    }
    link->uid = who.uid;
    link->pid = who.pid;
    if (attach->n_strangers >= STRANGERS_MOST)
        send_oldest_away(attach);
    add_stranger(link);
    if (!timer_pending(&attach->stranger_timer))
        timer_mod_ns(&attach->stranger_timer, link->came_ns + STRANGER_NS);
    if (attach_watch(link) < 0)
        attach_end(link, CUT_NONE, 0);
}

static int accept_one(const struct attach *attach)
{
    int fd;

    do
        fd = accept4(attach->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    return fd < 0 ? -errno : fd;
}

static void on_connect(void *opaque);

static int listen_again(struct attach *attach)
{
    return aio_set_fd_handler(
        attach->config.ctx, attach->listener, on_connect, NULL, NULL, NULL, attach);
}

static void on_deaf_timer(void *opaque)
{
    struct attach *attach = opaque;

    if (listen_again(attach) < 0)
        timer_mod_ns(&attach->deaf_timer, aio_clock_ns() + DEAF_NS);
}

/* There are no more fds: with the one that was saved for this the newcomer is told so, and then
 * nobody is heard for a while. */
static void refuse_for_fds(struct attach *attach, int error)
{
    int fd;

    if (attach->spare_fd >= 0) {
        close(attach->spare_fd);
        fd = accept_one(attach);
        if (fd >= 0) {
            attach_refuse(fd, 0, error, 1000,
                "the gateway has no fd left; raise the limit on open files (ulimit -Hn, "
                "LimitNOFILE=)");
            close(fd);
        }
        attach->spare_fd = eventfd(0, EFD_CLOEXEC);
    }
    log_line(attach->config.log, LOG_LEVEL_WARNING, "a client is refused: %s", strerror(-error));
    aio_set_fd_handler(attach->config.ctx, attach->listener, NULL, NULL, NULL, NULL, NULL);
    timer_mod_ns(&attach->deaf_timer, aio_clock_ns() + DEAF_NS);
}

static void on_connect(void *opaque)
{
    struct attach *attach = opaque;

    for (uint32_t i = 0; i < ACCEPTS_A_TURN; i++) {
        int fd = accept_one(attach);
        if (fd == -EAGAIN || fd == -EWOULDBLOCK)
            return;
        if (fd < 0) {
            refuse_for_fds(attach, fd);
            return;
        }
        greet(attach, fd);
    }
}

/* ---- taking over ---- */

/* Whether a key that is kept is a client that lives. */
static bool lives(const struct attach *attach, const struct fd_kept *kept)
{
    uint64_t word;

    if (kept->key >= attach->config.segment->geometry.n_clients)
        return false;
    word = clients_word(&attach->clients, kept->key);
    return client_generation(word) == kept->generation &&
           (client_state(word) == CLIENT_ATTACHING || client_state(word) == CLIENT_ATTACHED);
}

static int take_over_client(struct attach *attach, const struct fd_kept *connection, int memory_fd)
{
    const struct client_row *row = segment_client(attach->config.segment, connection->key);
    struct attach_link *link = make_link(attach, connection->fd);

    if (!link)
        return -ENOMEM;
    link->uid = row->uid;
    link->pid = row->pid;
    attach_welcome_link(link, connection->key, memory_fd);
    return attach_watch(link);
}

/* No client lives under that key. Its row's shards are owed its end, also one that nothing was kept
 * for yet: the supervisor tells it now or never. */
static void drop_key(struct attach *attach, uint32_t key, uint64_t generation)
{
    const struct segment *seg = attach->config.segment;
    const struct client_row *row = key < seg->geometry.n_clients ? segment_client(seg, key) : NULL;

    if (row && client_generation(row->word) == generation)
        keeper_drop(&attach->keeper, key, generation, row->opened, sizeof(row->opened));
    else
        keeper_drop(&attach->keeper, key, generation, NULL, 0);
}

/* The rows of one key: its connection, and its memory. Fds that nobody takes are closed. */
static int take_over_key(struct attach *attach, const struct fd_kept *rows, uint32_t n)
{
    const struct fd_kept *connection = NULL;
    int memory_fd = -1;

    for (uint32_t i = 0; i < n; i++)
        if (rows[i].kind == PLANE_FD_CONNECTION)
            connection = &rows[i];
        else if (rows[i].kind == PLANE_FD_MEMORY)
            memory_fd = rows[i].fd;
    if (connection && memory_fd >= 0 && lives(attach, connection))
        return take_over_client(attach, connection, memory_fd);
    for (uint32_t i = 0; i < n; i++) {
        shutdown(rows[i].fd, SHUT_RDWR); /* of a memfd: nothing */
        close(rows[i].fd);
    }
    drop_key(attach, rows[0].key, rows[0].generation);
    return 0;
}

/* Those that were about to attach, or whose connection is gone. */
static void end_the_unkept(struct attach *attach)
{
    for (uint32_t client = 0; client < attach->config.segment->geometry.n_clients; client++) {
        enum client_state state = client_state(clients_word(&attach->clients, client));
        if ((state == CLIENT_ATTACHING || state == CLIENT_ATTACHED) && !attach->links[client])
            end_client(attach, client, CUT_NONE, 0);
        attach->clients.held[client] |= state == CLIENT_ENDING;
    }
    if (attach->clients.n_ending)
        reap_soon(attach);
}

static int take_over(struct attach *attach)
{
    const struct fd_keep_heir *keep = attach->config.keep;
    int r = 0;

    for (uint32_t i = 0, n; i < keep->n_kept && r == 0; i += n) {
        const struct fd_kept *rows = &keep->kept[i];
        for (n = 1; i + n < keep->n_kept && rows[n].key == rows[0].key; n++)
            ;
        if (rows[0].key != FD_KEEP_PROGRAM)
            r = take_over_key(attach, rows, n);
    }
    if (r == 0)
        end_the_unkept(attach);
    return r;
}

/* ---- life ---- */

static int find_listener(const struct fd_keep_heir *keep)
{
    for (uint32_t i = 0; i < keep->n_kept; i++)
        if (keep->kept[i].key == FD_KEEP_PROGRAM && keep->kept[i].kind == PLANE_FD_LISTENER)
            return keep->kept[i].fd;
    return -1;
}

static int make_tables(struct attach *attach)
{
    const struct segment *seg = attach->config.segment;
    uint32_t n_clients = seg->geometry.n_clients, n_shards = seg->geometry.n_shards;

    attach->links = calloc(n_clients + 1, sizeof(struct attach_link *));
    attach->last_fds = malloc((n_clients + 1) * sizeof(*attach->last_fds));
    attach->seen_cuts = calloc(n_shards, sizeof(*attach->seen_cuts));
    attach->seen_incarnation = calloc(n_shards, sizeof(*attach->seen_incarnation));
    attach->given_up = calloc(n_shards, sizeof(*attach->given_up));
    if (!attach->links || !attach->last_fds || !attach->seen_cuts || !attach->seen_incarnation ||
        !attach->given_up)
        return -ENOMEM;
    for (uint32_t client = 0; client < n_clients; client++)
        attach->last_fds[client] = -1;
    return clients_init(&attach->clients, seg, attach->config.client_bytes, attach->config.owner);
}

static void free_tables(struct attach *attach)
{
    clients_deinit(&attach->clients);
    free(attach->links);
    free(attach->last_fds);
    free(attach->seen_cuts);
    free(attach->seen_incarnation);
    free(attach->given_up);
}

static int begin(struct attach *attach)
{
    AioContext *ctx = attach->config.ctx;
    int r = keeper_init(&attach->keeper, ctx, attach->config.keep->channel);

    if (r < 0)
        return r;
    aio_timer_init(ctx, &attach->stranger_timer, on_stranger_timer, attach);
    aio_timer_init(ctx, &attach->deaf_timer, on_deaf_timer, attach);
    aio_timer_init(ctx, &attach->reap_timer, on_reap_timer, attach);
    co_semaphore_init(&attach->makers, MAKERS);
    r = take_over(attach);
    if (r == 0)
        r = listen_again(attach);
    if (r < 0)
        attach_stop(attach);
    return r;
}

int attach_start(const struct attach_config *config, struct attach **ret_attach)
{
    int r = 0, listener = find_listener(config->keep);
    struct attach *attach;

    *ret_attach = NULL;
    if (listener < 0)
        return 0;
    attach = calloc(1, sizeof(*attach));
    if (attach) {
        attach->config = *config;
        attach->listener = listener;
        attach->spare_fd = eventfd(0, EFD_CLOEXEC);
        r = make_tables(attach);
    }
    if (!attach || r < 0) {
        if (attach)
            free_tables(attach);
        free(attach);
        r = -ENOMEM;
    } else {
        r = begin(attach);
    }
    if (r < 0)
        log_line(config->log, LOG_LEVEL_ERROR, "local clients can't attach: %s", strerror(-r));
    else
        *ret_attach = attach;
    return r;
}

void attach_set_draining(struct attach *attach, bool draining)
{
    attach->draining = draining;
}

static void stop_serving(struct attach *attach)
{
    attach->stopping = true;
    keeper_stop(&attach->keeper);
    for (struct attach_link *link = attach->first; link; link = link->next)
        co_sleep_wake(&link->sleep);
    for (uint32_t client = 0; client < attach->config.segment->geometry.n_clients; client++)
        if (attach->links[client])
            co_sleep_wake(&attach->links[client]->sleep);
    while (attach->n_busy > 0 || attach->n_closing > 0)
        aio_poll(attach->config.ctx, true);
}

static void close_client(struct attach *attach, uint32_t client)
{
    if (attach->links[client])
        close_link(attach->links[client]);
    if (attach->last_fds[client] >= 0)
        close(attach->last_fds[client]);
}

void attach_stop(struct attach *attach)
{
    if (!attach)
        return;
    aio_set_fd_handler(attach->config.ctx, attach->listener, NULL, NULL, NULL, NULL, NULL);
    stop_serving(attach);
    timer_del(&attach->stranger_timer);
    timer_del(&attach->deaf_timer);
    timer_del(&attach->reap_timer);
    while (attach->first) {
        struct attach_link *link = attach->first;
        remove_stranger(link);
        close_link(link);
    }
    for (uint32_t client = 0; client < attach->config.segment->geometry.n_clients; client++)
        close_client(attach, client);
    keeper_deinit(&attach->keeper);
    co_semaphore_deinit(&attach->makers);
    close(attach->listener);
    if (attach->spare_fd >= 0)
        close(attach->spare_fd);
    free_tables(attach);
    free(attach);
}
