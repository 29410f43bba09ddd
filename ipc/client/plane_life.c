/* SPDX-License-Identifier: MIT */
/*
 * Phases:  APART --connected--> HELLO --welcome, memory mapped--> METHODS --table--> READY
 *            ^------------------ the connection ended -------------------------------+
 *
 * The connection is the client: it outlives gateways and shards, and where it ends, the instance is
 * gone, or has cut this client off. What stands in the rings by then has ended; the rest of what was
 * pushed is in doubt, as nobody can say how far a shard got; what was in line stays there, for the
 * next attach.
 *
 * A new attach brings other memory. The data area's is mapped to where the old one was, behind a
 * copy of what is in use: so buffers, and all that points into them, go on.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ipc/client/instance.h"
#include "ipc/client/plane.h"
#include "proto/keys.h"

#define ENTRIES_DEFAULT 256u /* requests with a shard at once; the rings have twice as many */
#define DATA_DEFAULT    (UINT64_C(1) << 20)
#define DATA_MIN        (UINT64_C(64) << 10)
#define DATA_MAX        (UINT64_C(1) << 40)
#define SHARDS_MAX      4096u
#define RETRY_NS        (INT64_C(10) * 1000000)
#define ANSWER_WAIT_NS  (INT64_C(5) * 1000000000) /* for one that is there to answer */
#define TABLE_BYTES     ((size_t)16 * 1024)

/* ---- ends of the whole ---- */

static void close_lane(struct plane *plane, uint32_t shard)
{
    struct lane *lane = &plane->lanes[shard];

    if (lane->bell_fd >= 0)
        close(lane->bell_fd);
    lane->bell_fd = -1;
    lane->state = LANE_CLOSED;
    lane->cancels = SLOT_LIST_INIT;
    while (lane->line.n > 0) {
        uint32_t at = lane->line.first;
        plane_leave_line(plane, at);
        slot_at(&plane->slots, at)->lane = UINT32_MAX;
        slot_list_insert(&plane->slots, &plane->unplaced, plane->unplaced.last, at);
    }
}

static void close_connection(struct plane *plane)
{
    attach_close(&plane->attach);
    plane->phase = PLANE_APART;
    plane->attach_ready = plane->is_distrusted = plane->is_armed = false;
    plane->n_wanted = 0;
    plane->open_ns = 0;
}

static void drop_table_request(struct plane *plane, uint32_t at)
{
    struct slot *slot = slot_at(&plane->slots, at);

    if (slot->state == SLOT_LINE)
        plane_leave_line(plane, at);
    free(slot->parked);
    slot->parked = NULL;
    plane->slots.n_open--;
    plane_release(plane, at);
}

static void drop_table(struct plane *plane)
{
    if (plane->table_id != 0)
        drop_table_request(plane, (uint32_t)plane->table_id);
    plane->table_id = 0;
    if (plane->table_room)
        area_free(&plane->area, plane->table_room);
    plane->table_room = NULL;
}

/* Everything that is out is in doubt, everything in line waits for the next attach. */
static void lose(struct plane *plane)
{
    plane->phase = PLANE_APART; /* what callbacks submit waits for the next attach */
    if (!plane->is_distrusted)
        plane_take_completions(plane);
    drop_table(plane);
    for (uint32_t at = 0; plane->n_out > 0 && at < plane->slots.n; at++) {
        struct slot *slot = slot_at(&plane->slots, at);
        if (slot->state != SLOT_OUT)
            continue;
        slot->cancel_waits = false;
        plane_end_here(plane, at, SHERD_END_IN_DOUBT, -EOWNERDEAD,
            "the instance is gone, and with it whether it was done");
        plane->n_out--;
    }
    plane->n_out = 0;
    plane->n_cancel_waits = 0;
    for (uint32_t shard = 0; shard < plane->layout.n_shards; shard++)
        close_lane(plane, shard);
    plane->n_open = 0;
    methods_forget(&plane->base.methods);
    close_connection(plane);
}

/* Nobody is there, or nobody lets us in: what waits ends. */
static void fail(struct plane *plane, int error, const char *text)
{
    lose(plane);
    while (plane->unplaced.n > 0) {
        uint32_t at = plane->unplaced.first;
        slot_list_remove(&plane->slots, &plane->unplaced, at);
        plane_end_here(plane, at, SHERD_END_NOT_STARTED, error, "the instance is gone");
    }
    free(plane->base.error_text);
    plane->base.error_text = strdup(text);
    plane->base.error = error;
    plane->give_up_ns = plane->retry_ns = 0;
}

void plane_distrust(struct plane *plane)
{
    plane->is_distrusted = true;
}

/* ---- attaching ---- */

static void say_hello(struct plane *plane, int64_t now_ns)
{
    int r = waiter_watch(&plane->base.waiter, plane->attach.fd, PLANE_TAG_ATTACH);

    if (r == 0)
        r = attach_hello(&plane->attach, plane->name ? plane->name : program_invocation_short_name,
            plane->data ? plane->data_bytes : plane->wanted_bytes, plane->wanted_entries);
    if (r < 0) {
        attach_close(&plane->attach);
        plane->retry_ns = now_ns + RETRY_NS;
        return;
    }
    plane->phase = PLANE_HELLO;
}

static void try_connecting(struct plane *plane, int64_t now_ns)
{
    int r = attach_connect(&plane->attach, plane->path);
    bool is_away = r == -ENOENT || r == -ECONNREFUSED;
    char text[160];

    if (plane->give_up_ns == 0)
        plane->give_up_ns = now_ns + plane->wait_ns;
    if (r == 0) {
        /* One that is there has some time to answer, whatever the user waits for another. */
        plane->answer_ns = plane->give_up_ns;
        if (plane->answer_ns < now_ns + ANSWER_WAIT_NS)
            plane->answer_ns = now_ns + ANSWER_WAIT_NS;
        say_hello(plane, now_ns);
        return;
    }
    if ((is_away || r == -EAGAIN) && now_ns + RETRY_NS < plane->give_up_ns) {
        plane->retry_ns = now_ns + RETRY_NS;
        return;
    }
    snprintf(text, sizeof(text), "connecting to %.100s: %s", plane->path, strerror(-r));
    fail(plane, is_away && plane->eager ? -ENOENT : is_away || r == -EAGAIN ? -ENOTCONN : r, text);
}

static bool is_sane(const struct attach_welcome *welcome, int fd, struct plane_layout *ret_layout)
{
    uint32_t n = welcome->n_entries;
    struct stat st;

    if (n < PLANE_ENTRIES_MIN || n > PLANE_ENTRIES_MAX || (n & (n - 1)) != 0 ||
        welcome->n_shards == 0 || welcome->n_shards > SHARDS_MAX || welcome->data_bytes == 0 ||
        welcome->data_bytes > DATA_MAX || welcome->data_bytes % PLANE_PAGE != 0)
        return false;
    *ret_layout = plane_layout(welcome->n_shards, n, welcome->data_bytes);
    return welcome->total_bytes == ret_layout->total_bytes && fstat(fd, &st) == 0 &&
           (uint64_t)st.st_size == ret_layout->total_bytes;
}

static int map_data(struct plane *plane, const struct plane_layout *layout, int fd)
{
    size_t bytes = plane->data ? plane->data_bytes : layout->data_bytes;
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)layout->data_off);

    if (data == MAP_FAILED)
        return -errno;
    if (plane->data) {
        area_copy(&plane->area, data);
        /* Moves over the old one in one go, or fails and leaves all as it was. */
        if (mremap(data, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, plane->data) == MAP_FAILED) {
            int r = -errno;
            munmap(data, bytes);
            return r;
        }
        return 0;
    }
    int r = area_init(&plane->area, data, bytes);
    if (r < 0) {
        munmap(data, bytes);
        return r;
    }
    plane->data = data;
    plane->data_bytes = bytes;
    return 0;
}

static void unmap_lanes(struct plane *plane)
{
    if (plane->lanes_base)
        munmap(plane->lanes_base, plane->layout.data_off);
    free(plane->lanes);
    free(plane->open);
    plane->lanes_base = NULL;
    plane->lanes = NULL;
    plane->open = NULL;
    plane->n_open = 0;
    plane->layout.n_shards = 0;
}

static int map_lanes(struct plane *plane, const struct plane_layout *layout, int fd)
{
    unmap_lanes(plane);
    plane->lanes = calloc(layout->n_shards, sizeof(*plane->lanes));
    plane->open = calloc(layout->n_shards, sizeof(*plane->open));
    if (!plane->lanes || !plane->open)
        return -ENOMEM;
    void *base = mmap(NULL, layout->data_off, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    plane->lanes_base = base;
    plane->layout = *layout;
    for (uint32_t shard = 0; shard < layout->n_shards; shard++) {
        plane->lanes[shard].line = SLOT_LIST_INIT;
        plane->lanes[shard].last_urgent = SLOT_NONE;
        lane_map(&plane->lanes[shard], layout, base, shard);
    }
    return 0;
}

/* ---- the table of methods ---- */

static void ask_table(struct plane *plane, size_t bytes)
{
    uint32_t at;

    plane->table_room = area_alloc(&plane->area, bytes);
    plane->table_bytes = bytes;
    struct slot_work work = {.handle = UINT32_MAX,
        .route_kind = PLANE_ROUTE_SHARD,
        .route = plane->home,
        .deadline_ns = INT64_MAX,
        .room = plane->table_room,
        .room_len = bytes};
    int r = plane->table_room ? slot_take(&plane->slots, &at) : -ENOBUFS;
    if (r < 0) {
        fail(plane, r, "no room in the data area for the table of methods");
        return;
    }
    plane->table_id = slot_id(&plane->slots, at);
    slot_at(&plane->slots, at)->done = NULL;
    r = plane_enter(plane, at, &work);
    if (r < 0)
        fail(plane, r, "no memory");
}

void plane_take_table(struct plane *plane, enum sherd_end end, int error, size_t len)
{
    size_t bytes = plane->table_bytes;
    int r = end == SHERD_END_DONE ? 0 : error < 0 ? error : -EPROTO;

    plane->table_id = 0;
    if (plane->phase == PLANE_METHODS && r == 0)
        r = methods_read(&plane->base.methods, (const char *)plane->table_room, len);
    drop_table(plane);
    if (plane->phase != PLANE_METHODS)
        return;
    if (end == SHERD_END_FAILED && r == -ENOBUFS && bytes * 2 <= plane->data_bytes) {
        ask_table(plane, bytes * 2);
        return;
    }
    if (r < 0) {
        plane->table_error = r; /* whoever looks at rings now may not lose them */
        return;
    }
    plane->phase = PLANE_READY;
    plane->give_up_ns = 0;
    plane_drain_unplaced(plane);
}

/* ---- answers ---- */

static void on_welcome(struct plane *plane, const struct attach_answer *answer)
{
    const struct attach_welcome *welcome = &answer->welcome;
    struct plane_layout layout;
    int r = 0;

    if (welcome->head.version != ATTACH_VERSION || welcome->keymap != KEYS_MAP)
        r = -EPROTONOSUPPORT;
    else if (!is_sane(welcome, answer->fd, &layout))
        r = -EPROTO;
    else if (plane->data && layout.data_bytes < plane->data_bytes)
        r = -ENOMEM;
    if (r == 0)
        r = map_lanes(plane, &layout, answer->fd);
    if (r == 0)
        r = map_data(plane, &layout, answer->fd);
    close(answer->fd);
    if (r < 0) {
        fail(plane, r, "the instance's welcome makes no sense to this client");
        return;
    }
    plane->base.n_shards = layout.n_shards;
    plane->client_number = welcome->client;
    plane->home = welcome->client % layout.n_shards;
    plane->n_homes = 0;
    plane->phase = PLANE_METHODS;
    ask_table(plane, TABLE_BYTES);
}

static void on_opened(struct plane *plane, const struct attach_answer *answer)
{
    uint32_t shard = answer->opened.shard;
    struct lane *lane =
        plane->lanes && shard < plane->layout.n_shards ? &plane->lanes[shard] : NULL;

    if (!lane || lane->state != LANE_WANTED) {
        close(answer->fd);
        return;
    }
    lane->bell_fd = answer->fd;
    lane->state = LANE_OPEN;
    plane->n_wanted--;
    plane->open[plane->n_open++] = shard;
    int r = waiter_watch(&plane->base.waiter, lane->bell_fd, PLANE_TAG_LANE + shard);
    if (r < 0)
        fail(plane, r, "watching a doorbell");
}

/* A shard that nobody may use: what waits for it ends. */
static void give_lane_up(struct plane *plane, uint32_t shard, int error)
{
    struct lane *lane = &plane->lanes[shard];

    lane->state = LANE_CLOSED;
    plane->n_wanted--;
    while (lane->line.n > 0) {
        uint32_t at = lane->line.first;
        plane_leave_line(plane, at);
        plane_end_here(plane, at, SHERD_END_NOT_STARTED, error, "the shard takes no clients");
    }
}

/* One that is given up is no home. */
static bool try_next_home(struct plane *plane, int error)
{
    if (plane->phase != PLANE_METHODS || error == -EAGAIN ||
        plane->n_homes + 1 >= plane->layout.n_shards)
        return false;
    drop_table(plane);
    give_lane_up(plane, plane->home, error);
    plane->n_homes++;
    plane->home = (plane->home + 1) % plane->layout.n_shards;
    ask_table(plane, TABLE_BYTES);
    return true;
}

static void on_refused(struct plane *plane, const struct attach_refused *refused, int64_t now_ns)
{
    bool is_later = refused->error == -EAGAIN;
    int64_t later_ns =
        now_ns + (refused->retry_ms > 0 ? refused->retry_ms * INT64_C(1000000) : RETRY_NS);

    if (plane->phase == PLANE_HELLO && is_later && later_ns < plane->give_up_ns) {
        attach_close(&plane->attach);
        plane->phase = PLANE_APART;
        plane->retry_ns = later_ns;
    } else if (try_next_home(plane, refused->error)) {
        return;
    } else if (plane->phase == PLANE_HELLO || plane->phase == PLANE_METHODS) {
        fail(plane, refused->error, refused->text);
    } else if (is_later) {
        plane->open_ns = later_ns;
    } else {
        give_lane_up(plane, plane->attach.message.open.shard, refused->error);
    }
}

static void receive(struct plane *plane, int64_t now_ns)
{
    struct attach_answer answer;
    int r = 0;

    plane->attach_ready = false;
    while (plane->attach.fd >= 0 && (r = attach_receive(&plane->attach, &answer)) > 0)
        if (answer.head.kind == ATTACH_WELCOME)
            on_welcome(plane, &answer);
        else if (answer.head.kind == ATTACH_OPENED)
            on_opened(plane, &answer);
        else
            on_refused(plane, &answer.refused, now_ns);
    if (r == -EPROTO)
        fail(plane, r, "what answers there is no Sherd of this version");
    else if (r < 0)
        lose(plane);
}

/* ---- lanes ---- */

void plane_want(struct plane *plane, uint32_t shard)
{
    plane->lanes[shard].state = LANE_WANTED;
    plane->n_wanted++;
}

static void ask_lane(struct plane *plane, int64_t now_ns)
{
    uint32_t shard = 0;

    if (plane->n_wanted == 0 || plane->attach.waits || plane->open_ns > now_ns)
        return;
    while (plane->lanes[shard].state != LANE_WANTED)
        shard++;
    plane->open_ns = 0;
    int r = attach_open(&plane->attach, shard);
    if (r == -EAGAIN)
        plane->open_ns = now_ns + RETRY_NS;
    else if (r < 0)
        lose(plane);
}

/* ---- steps ---- */

static bool wants_attach(const struct plane *plane)
{
    return plane->phase == PLANE_APART && (plane->eager || plane->unplaced.n > 0);
}

static bool is_under_way(const struct plane *plane)
{
    return plane->phase == PLANE_HELLO || plane->phase == PLANE_METHODS;
}

void plane_live(struct plane *plane)
{
    if (plane->phase == PLANE_READY && plane->n_wanted == 0 && !plane->attach_ready &&
        !plane->is_distrusted)
        return;
    if (plane->phase == PLANE_APART && !wants_attach(plane))
        return;
    int64_t now_ns = waiter_now_ns();
    if (plane->attach_ready)
        receive(plane, now_ns);
    if (plane->is_distrusted)
        fail(plane, -EPROTO, "the instance wrote what makes no sense");
    if (plane->table_error < 0 && plane->phase == PLANE_METHODS)
        fail(plane, plane->table_error, "the instance does not tell its methods");
    plane->table_error = 0;
    if (wants_attach(plane) && plane->base.error == 0 && plane->retry_ns <= now_ns)
        try_connecting(plane, now_ns);
    if (is_under_way(plane) && plane->answer_ns <= now_ns)
        fail(plane, -ENOTCONN, "the instance did not answer in time");
    if (plane->attach.fd >= 0 && attach_next_ns(&plane->attach) <= now_ns &&
        attach_remind(&plane->attach, now_ns) < 0)
        lose(plane);
    if (plane->phase >= PLANE_METHODS)
        ask_lane(plane, now_ns);
}

int64_t plane_live_next_ns(const struct plane *plane)
{
    int64_t next_ns = attach_next_ns(&plane->attach);

    if (plane->phase == PLANE_READY && plane->n_wanted == 0)
        return next_ns;
    if (wants_attach(plane))
        next_ns = plane->retry_ns;
    if (is_under_way(plane) && plane->answer_ns < next_ns)
        next_ns = plane->answer_ns;
    if (plane->n_wanted > 0 && plane->open_ns != 0 && plane->open_ns < next_ns)
        next_ns = plane->open_ns;
    return next_ns;
}

/* ---- life ---- */

void plane_free(struct transport *transport)
{
    struct plane *plane = plane_of(transport);

    for (uint32_t shard = 0; shard < plane->layout.n_shards; shard++)
        if (plane->lanes[shard].bell_fd >= 0)
            close(plane->lanes[shard].bell_fd);
    unmap_lanes(plane);
    attach_close(&plane->attach);
    if (plane->data)
        munmap(plane->data, plane->data_bytes);
    area_deinit(&plane->area);
    slots_deinit(&plane->slots);
    methods_deinit(&transport->methods);
    waiter_deinit(&transport->waiter);
    free(transport->error_text);
    free(plane->path);
    free(plane->name);
    free(plane);
}

static uint32_t power_of_two(uint32_t n)
{
    uint32_t power = PLANE_ENTRIES_MIN;

    while (power < n && power < PLANE_ENTRIES_MAX)
        power *= 2;
    return power;
}

static int set_up(struct plane *plane, const struct sherd_client_options *wanted)
{
    uint64_t bytes = wanted->data_bytes > 0 ? wanted->data_bytes : DATA_DEFAULT;

    if (bytes > DATA_MAX)
        return -EINVAL;
    bytes = bytes < DATA_MIN ? DATA_MIN : bytes;
    plane->wanted_bytes = (bytes + PLANE_PAGE - 1) / PLANE_PAGE * PLANE_PAGE;
    uint32_t window = wanted->window > 0 ? wanted->window : ENTRIES_DEFAULT;
    plane->wanted_entries =
        power_of_two(window < PLANE_ENTRIES_MAX / 2 ? window * 2 : PLANE_ENTRIES_MAX);
    plane->spin_ns = wanted->spin_ns;
    if (wanted->name && !(plane->name = strdup(wanted->name)))
        return -ENOMEM;
    int r = instance_socket_path(wanted->instance, ATTACH_SOCKET, &plane->path);
    return r < 0 ? r : waiter_init(&plane->base.waiter);
}

/* Until it is READY, or not to be had. */
static int get_ready(struct plane *plane)
{
    struct transport *transport = &plane->base;

    plane->eager = true;
    for (;;) {
        plane_ops.step(transport);
        if (plane->phase == PLANE_READY || transport->error < 0)
            break;
        int r = plane_ops.wait(transport, INT64_MAX);
        if (r < 0 && r != -EINTR)
            return r;
    }
    plane->eager = false;
    int r = transport->error;
    transport->error = 0;
    return r == -ENOTCONN ? -ETIMEDOUT : r;
}

int plane_open(const struct transport_options *options, struct transport **ret_transport)
{
    struct plane *plane = calloc(1, sizeof(*plane));

    if (!plane)
        return transport_explain(options->ret_error, -ENOMEM, "no memory");
    plane->base.ops = &plane_ops;
    plane->base.waiter =
        (struct waiter){.epoll_fd = -1, .event_fd = -1, .timer_fd = -1, .armed_ns = INT64_MAX};
    plane->attach.fd = -1;
    plane->line_deadline_ns = INT64_MAX;
    plane->unplaced = plane->ended = plane->ready = plane->handed = SLOT_LIST_INIT;
    slots_init(&plane->slots);
    int r = set_up(plane, options->options);
    plane->wait_ns = options->wait_ns;
    if (r == 0)
        r = get_ready(plane);
    plane->wait_ns = options->options->wait_ns;
    if (r < 0) {
        const char *text = plane->base.error_text;
        transport_explain(options->ret_error, r, "attaching: %s", text ? text : strerror(-r));
        plane_free(&plane->base);
        return r;
    }
    *ret_transport = &plane->base;
    return 0;
}
