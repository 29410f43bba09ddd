/* SPDX-License-Identifier: MIT */
/*
 * A lane of a new client begins with a row of zeros; that of one that the dead incarnation knew
 * goes on where its row says. The row's generation is stored last, so that a row in half is one of
 * a client that was here before: the new one begins anew, as nothing of it has been taken then, and
 * nobody takes it for one that has let go already.
 *
 * What lies in the client's memory is written and never believed: need_wakeup and the completions
 * are copies of what this shard knows, client_sleeps decides only whether a byte is sent.
 *
 * Orderings  first              then          ordered by                if broken
 *   LANE     zeros, state       generation    store release, gateway's  a lane goes on where
 *                                             acquire; the heir         another client left
 *   GONE     memory unmapped    state = NONE  store release, gateway's  a number is used again
 *                                             acquire                   that still has a lane
 *   CUT      reason, state      clients_cut   store release, gateway's  a client that was cut off
 *                                             acquire                   stays attached
 *   CLOSED   last entry taken   `closed`      store release, client's   what was run counts there
 *                                             acquire                   as not begun
 *   SLEEPS, ASKED: see plane.c
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ipc/plane/plane_inside.h"
#include "runtime/atomic.h"
#include "runtime/doorbell.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

struct lane *lane_find(const struct plane *plane, uint32_t client, uint64_t generation)
{
    struct lane *lane = client < plane->seg.geometry.n_clients ? plane->lanes[client] : NULL;

    return lane && lane->grant.generation == generation ? lane : NULL;
}

/* ---- hot or not ---- */

void lane_heat(struct lane *lane)
{
    struct plane *plane = lane->plane;

    if (lane->is_hot || lane->state != CLIENT_LANE_OPEN)
        return;
    lane->is_hot = true;
    lane->n_quiet = 0;
    if (!plane->hot) {
        plane->hot = lane->next = lane->prev = lane;
    } else {
        lane->next = plane->hot;
        lane->prev = plane->hot->prev;
        lane->prev->next = lane->next->prev = lane;
    }
    plane->n_hot++;
    atomic_store_relaxed(&lane->words->need_wakeup, 0); /* ASKED */
}

void lane_cool(struct lane *lane)
{
    struct plane *plane = lane->plane;

    if (!lane->is_hot)
        return;
    lane->is_hot = false;
    plane->n_hot--;
    if (plane->hot == lane)
        plane->hot = plane->n_hot ? lane->next : NULL;
    lane->next->prev = lane->prev;
    lane->prev->next = lane->next;
}

/* ---- bells ---- */

static void stop_bell(struct lane *lane)
{
    if (lane->bell_fd < 0)
        return;
    aio_set_fd_handler(lane->plane->ctx, lane->bell_fd, NULL, NULL, NULL, NULL, NULL);
    close(lane->bell_fd);
    lane->bell_fd = -1;
}

/* What it sends is only that it has pushed; how many bytes, and which, is all the same. At its end
 * there is nothing more to hear: the gateway will tell. */
static void on_bell(void *opaque)
{
    struct lane *lane = opaque;
    uint8_t bytes[64];
    ssize_t n = recv(lane->bell_fd, bytes, sizeof(bytes), MSG_DONTWAIT);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        stop_bell(lane);
        return;
    }
    lane_heat(lane);
    /* What it has pushed is begun at once: a turn earlier than by a look. */
    if (!lane->is_hot || lane->plane->is_closed)
        return;
    intake_visit(lane, LANE_URGENT);
    intake_visit(lane, LANE_NORMAL);
    intake_end_turn(lane);
}

void lane_mark_dirty(struct lane *lane)
{
    if (lane->is_dirty)
        return;
    lane->is_dirty = true;
    lane->next_dirty = lane->plane->dirty;
    lane->plane->dirty = lane;
}

void lane_ring(struct lane *lane)
{
    static const uint8_t byte = 0;

    if (lane->bell_fd < 0 || lane->state != CLIENT_LANE_OPEN ||
        !atomic_load_relaxed(&lane->words->client_sleeps)) /* SLEEPS */
        return;
    counter_add(&lane->row->rings, 1);
    /* A full socket has bytes that the client has not read: it will find it readable. */
    if (send(lane->bell_fd, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno == EPIPE)
        stop_bell(lane);
}

/* ---- ends ---- */

/* A cancel may end requests, this one and others, and free those that have ended before: after that
 * the walk begins anew, over those that know already. */
static void cancel_all(struct lane *lane)
{
    struct plane *plane = lane->plane;
    uint32_t n = lane->first;

    while (n != NO_REQUEST) {
        uint32_t n_before = lane->n_in_flight;
        ledger_cancel(plane, &plane->requests[n]);
        n = lane->n_in_flight == n_before ? plane->requests[n].next : lane->first;
    }
}

static void stop(struct lane *lane, enum client_lane_state state)
{
    intake_halt(lane, WAIT_NONE);
    timer_del(&lane->wait_timer);
    lane_cool(lane);
    lane->state = (uint8_t)state;
    cancel_all(lane);
}

void lane_ring_gateway(const struct plane *plane)
{
    uint32_t gateway = segment_gateway(&plane->seg);
    struct doorbell bell = {
        .words = &segment_bell(&plane->seg, gateway)->words, .fd = plane->bell_fds[gateway]};

    doorbell_ring(&bell);
}

static void tell_gateway(struct plane *plane)
{
    atomic_store_release(&plane->part->clients_cut, plane->part->clients_cut + 1); /* CUT */
    lane_ring_gateway(plane);
}

void lane_cut(struct lane *lane, enum cut_reason reason)
{
    struct plane *plane = lane->plane;

    if (lane->state != CLIENT_LANE_OPEN)
        return;
    stop(lane, CLIENT_LANE_CUT);
    atomic_store_relaxed(&lane->row->reason, (uint32_t)reason);         /* CUT */
    atomic_store_release(&lane->row->state, (uint32_t)CLIENT_LANE_CUT); /* CUT */
    tell_gateway(plane);
    if (plane->log)
        log_line(plane->log, LOG_LEVEL_WARNING, "client %u is cut off: %s, at entry %llu",
            lane->grant.client, cut_reason_text(reason),
            (unsigned long long)lane->intakes[LANE_NORMAL].head);
}

/* All but whose it is, and its state: the gateway may be reading these. */
static void clear_row(struct client_lane *row)
{
    atomic_store_relaxed(&row->reason, 0u);
    counter_set(&row->head, 0);
    counter_set(&row->urgent_head, 0);
    counter_set(&row->requests, 0);
    counter_set(&row->tail, 0);
    counter_set(&row->refused, 0);
    counter_set(&row->rings, 0);
}

void lane_let_go(struct plane *plane, uint32_t client, uint64_t generation)
{
    struct client_lane *row = &plane->rows[client];

    if (plane->lanes[client] || row->generation > generation)
        return;
    atomic_store_release(&row->state, (uint32_t)CLIENT_LANE_NONE); /* GONE */
    if (row->generation < generation) {
        clear_row(row);
        atomic_store_release(&row->generation, generation); /* GONE */
    }
}

void plane_refuse(struct plane *plane, uint32_t client, uint64_t generation)
{
    struct client_lane *row;

    if (client >= plane->seg.geometry.n_clients || plane->lanes[client])
        return;
    row = &plane->rows[client];
    lane_let_go(plane, client, generation);
    if (row->generation != generation)
        return;
    atomic_store_relaxed(&row->reason, (uint32_t)CUT_MEMORY);     /* CUT */
    atomic_store_release(&row->state, (uint32_t)CLIENT_LANE_CUT); /* CUT */
    tell_gateway(plane);
}

void plane_drop(struct plane *plane, uint32_t client, uint64_t generation)
{
    struct lane *lane = lane_find(plane, client, generation);

    if (client >= plane->seg.geometry.n_clients)
        return;
    if (!lane) {
        lane_let_go(plane, client, generation);
        lane_ring_gateway(plane);
        return;
    }
    if (lane->state == CLIENT_LANE_ENDING)
        return;
    stop(lane, CLIENT_LANE_ENDING);
    atomic_store_release(&lane->row->state, (uint32_t)CLIENT_LANE_ENDING); /* GONE */
    lane_settle(lane);
}

void lane_say_closed(struct lane *lane)
{
    ledger_write(lane);
    if (lane->state != CLIENT_LANE_OPEN)
        return;
    atomic_store_relaxed(
        &lane->words->urgent_closed, lane->intakes[LANE_URGENT].head + 1);           /* CLOSED */
    atomic_store_release(&lane->words->closed, lane->intakes[LANE_NORMAL].head + 1); /* CLOSED */
}

static void unlink_lane(struct lane *lane)
{
    struct plane *plane = lane->plane;

    for (struct lane **link = &plane->dirty; *link; link = &(*link)->next_dirty)
        if (*link == lane) {
            *link = lane->next_dirty;
            break;
        }
    plane->lanes[lane->grant.client] = NULL;
}

void lane_free(struct lane *lane)
{
    if (!lane)
        return;
    lane_cool(lane);
    timer_del(&lane->wait_timer);
    stop_bell(lane);
    unlink_lane(lane);
    munmap(lane->base, lane->layout.total_bytes);
    free(lane);
}

bool lane_settle(struct lane *lane)
{
    const struct plane *plane = lane->plane;
    struct client_lane *row = lane->row;

    if (lane->state != CLIENT_LANE_ENDING || lane->n_in_flight > 0)
        return false;
    lane_free(lane);
    atomic_store_release(&row->state, (uint32_t)CLIENT_LANE_NONE); /* GONE */
    lane_ring_gateway(plane);
    return true;
}

/* ---- beginning ---- */

static bool grant_is_sane(const struct plane *plane, const struct plane_grant *grant)
{
    uint32_t n = grant->n_entries;

    return grant->client < plane->seg.geometry.n_clients && grant->generation != 0 &&
           n >= PLANE_ENTRIES_MIN && n <= PLANE_ENTRIES_MAX && (n & (n - 1)) == 0 &&
           grant->data_bytes % PLANE_PAGE == 0 && grant->data_bytes <= UINT64_C(1) << 40;
}

/* Only what can neither shrink nor grow is mapped: no access to it raises SIGBUS. */
static int map_memory(struct lane *lane, int fd)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    void *base;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (seals < 0 || (seals & SEALS) != SEALS || (uint64_t)st.st_size != lane->layout.total_bytes)
        return -EINVAL;
    base = mmap(NULL, lane->layout.total_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    lane->base = base;
    lane->data = lane->base + lane->layout.data_off;
    lane->words = plane_words_of(&lane->layout, base, lane->plane->shard);
    lane->intakes[LANE_NORMAL].entries =
        plane_submission_at(&lane->layout, base, lane->plane->shard, 0);
    lane->intakes[LANE_URGENT].entries =
        plane_urgent_at(&lane->layout, base, lane->plane->shard, 0);
    lane->completions = plane_completion_at(&lane->layout, base, lane->plane->shard, 0);
    return 0;
}

static void begin_row(struct lane *lane)
{
    struct client_lane *row = lane->row;

    if (row->generation == lane->grant.generation && row->state != CLIENT_LANE_NONE) {
        lane->state = (uint8_t)row->state;
        lane->intakes[LANE_NORMAL].head = row->head;
        lane->intakes[LANE_URGENT].head = row->urgent_head;
        lane->tail = row->tail;
        return;
    }
    clear_row(row);
    atomic_store_relaxed(&row->state, (uint32_t)CLIENT_LANE_OPEN);  /* LANE */
    atomic_store_release(&row->generation, lane->grant.generation); /* LANE */
    lane->state = CLIENT_LANE_OPEN;
}

static void on_waited(void *opaque)
{
    struct lane *lane = opaque;

    if (lane_is_ending(lane)) {
        charge_on_time(lane);
        return;
    }
    intake_go_on(lane, WAIT_RATE);
    intake_go_on(lane, WAIT_USER);
}

static int begin(struct lane *lane, int memory_fd)
{
    struct plane *plane = lane->plane;
    int r = map_memory(lane, memory_fd);

    if (r == 0)
        r = aio_set_fd_handler(plane->ctx, lane->bell_fd, on_bell, NULL, NULL, NULL, lane);
    if (r < 0) {
        if (lane->base)
            munmap(lane->base, lane->layout.total_bytes);
        return r;
    }
    aio_timer_init(plane->ctx, &lane->wait_timer, on_waited, lane);
    begin_row(lane);
    plane->lanes[lane->grant.client] = lane;
    atomic_store_relaxed(&lane->words->closed, UINT64_C(0)); /* CLOSED */
    lane_heat(lane);
    return 0;
}

static uint32_t words_for(uint32_t n_entries)
{
    return (n_entries + 63) / 64;
}

static void init_intakes(struct lane *lane)
{
    struct intake *normal = &lane->intakes[LANE_NORMAL], *urgent = &lane->intakes[LANE_URGENT];

    normal->n_entries = lane->n_entries;
    normal->row_head = &lane->row->head;
    normal->cancelled = lane->cancelled;
    urgent->n_entries = PLANE_URGENT_ENTRIES;
    urgent->row_head = &lane->row->urgent_head;
    urgent->cancelled = lane->cancelled + words_for(lane->n_entries);
}

/* An older client of the same number is gone: its end has been told, or was lost with a death. */
static int make_lane(
    struct plane *plane, const struct plane_grant *grant, int bell_fd, struct lane **ret_lane)
{
    struct lane *old, *lane;

    if (!grant_is_sane(plane, grant))
        return -EINVAL;
    old = plane->lanes[grant->client];
    if (old) {
        plane_drop(plane, grant->client, old->grant.generation);
        if (plane->lanes[grant->client])
            return -EBUSY;
    }
    lane = calloc(
        1, sizeof(*lane) + sizeof(lane->cancelled[0]) *
                               (words_for(grant->n_entries) + words_for(PLANE_URGENT_ENTRIES)));
    if (!lane)
        return -ENOMEM;
    lane->plane = plane;
    lane->grant = *grant;
    lane->layout = plane_layout(plane->seg.geometry.n_shards, grant->n_entries, grant->data_bytes);
    lane->n_entries = grant->n_entries;
    lane->row = &plane->rows[grant->client];
    init_intakes(lane);
    lane->first = NO_REQUEST;
    lane->bell_fd = bell_fd;
    *ret_lane = lane;
    return 0;
}

/* It asked for its doorbell once more: the one before may never have got to it. */
static int take_bell(struct lane *lane, int bell_fd)
{
    int r = aio_set_fd_handler(lane->plane->ctx, bell_fd, on_bell, NULL, NULL, NULL, lane);

    if (r < 0) {
        close(bell_fd);
        return r;
    }
    stop_bell(lane);
    lane->bell_fd = bell_fd;
    lane_heat(lane);
    lane_ring(lane);
    return 0;
}

int plane_open(struct plane *plane, const struct plane_grant *grant, int memory_fd, int bell_fd)
{
    struct lane *lane = lane_find(plane, grant->client, grant->generation);
    int r;

    if (lane) {
        close(memory_fd);
        return take_bell(lane, bell_fd);
    }
    r = make_lane(plane, grant, bell_fd, &lane);
    if (r == 0)
        r = begin(lane, memory_fd);
    close(memory_fd);
    if (r < 0) {
        close(bell_fd);
        free(lane);
    }
    return r;
}
