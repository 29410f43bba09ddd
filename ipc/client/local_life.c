/* SPDX-License-Identifier: MIT */
/*
 * Phases:  APART --connected--> HELLO --welcome, memory mapped--> METHODS --table--> READY
 *            ^------------------ the connection ended -------------------------------+
 *
 * The connection is the client: it outlives gateways and shards, and where it ends, the instance is
 * gone, or has cut this client off. What stands in the rings by then has ended, the rest of what
 * was pushed is judged (local_loss.c), and what was in line stays there, for the next attach.
 *
 * A new attach brings other memory. The data area's is mapped to where the old one was, behind a
 * copy of what is in use: so buffers, and all that points into them, go on. Until then they lie in
 * memory of our own, for whom we have lost may live on for a while, and a disk write for the dead:
 * what ends here is the user's at once, and no room of a request any more.
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
#include "ipc/client/local.h"
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

static void close_connection(struct local *local)
{
    attachment_close(&local->attach);
    local->phase = LOCAL_APART;
    local->attach_ready = local->is_distrusted = local->is_cut_off = local->is_armed = false;
    local->n_wanted = 0;
    local->open_ns = 0;
}

static void drop_table_request(struct local *local, uint32_t at)
{
    struct slot *slot = slot_at(&local->slots, at);

    if (slot->state == SLOT_LINE)
        local_leave_line(local, at);
    else if (slot->is_out)
        local_come_back(local, at);
    local->slots.n_open--;
    local_release(local, at);
}

static void drop_table(struct local *local)
{
    if (local->table_id != 0)
        drop_table_request(local, (uint32_t)local->table_id);
    local->table_id = 0;
    if (local->table_room)
        area_free(&local->area, local->table_room);
    local->table_room = NULL;
}

/* The data area goes on behind a copy, in `data`: over the old one in one go, or all is as it
 * was. */
static int move_data(struct local *local, void *data)
{
    size_t bytes = local->data_bytes;

    area_copy(&local->area, data);
    if (mremap(data, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, local->data) != MAP_FAILED)
        return 0;
    int r = -errno;
    munmap(data, bytes);
    return r;
}

/* Where there is no memory for that, it stays as it is until the next attach. */
static void take_data_away(struct local *local)
{
    if (!local->shares_data)
        return;
    void *data = mmap(NULL, local->data_bytes, PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data != MAP_FAILED && move_data(local, data) == 0)
        local->shares_data = false;
}

static void lose(struct local *local)
{
    local->phase = LOCAL_APART; /* what callbacks submit waits for the next attach */
    if (!local->is_distrusted)
        local_take_completions(local);
    take_data_away(local); /* before anything of it goes to another */
    drop_table(local);
    local_lose_all(local);
    methods_forget(&local->base.methods);
    close_connection(local);
}

/* Nobody is there, or nobody lets us in: what waits ends. */
static void fail(struct local *local, int error, const char *text)
{
    lose(local);
    while (local->unplaced.n > 0) {
        uint32_t at = local->unplaced.first;
        slot_list_remove(&local->slots, &local->unplaced, at);
        local_end_unsent(local, at, error, "the instance is gone");
    }
    free(local->base.error_text);
    local->base.error_text = strdup(text);
    local->base.error = error;
    local->give_up_ns = local->retry_ns = 0;
}

void local_distrust(struct local *local)
{
    local->is_distrusted = true;
}

/* ---- attaching ---- */

static void say_hello(struct local *local, int64_t now_ns)
{
    int r = waiter_watch(&local->base.waiter, local->attach.fd, LOCAL_TAG_ATTACH);

    if (r == 0)
        r = attach_hello(&local->attach, local->name ? local->name : program_invocation_short_name,
            local->data ? local->data_bytes : local->wanted_bytes, local->wanted_entries);
    if (r < 0) {
        attachment_close(&local->attach);
        local->retry_ns = now_ns + RETRY_NS;
        return;
    }
    local->phase = LOCAL_HELLO;
}

static void try_connecting(struct local *local, int64_t now_ns)
{
    int r = attachment_connect(&local->attach, local->path);
    bool is_away = r == -ENOENT || r == -ECONNREFUSED;
    char text[160];

    if (local->give_up_ns == 0)
        local->give_up_ns = now_ns + local->wait_ns;
    if (r == 0) {
        /* One that is there has some time to answer, whatever the user waits for another. */
        local->answer_ns = local->give_up_ns;
        if (local->answer_ns < now_ns + ANSWER_WAIT_NS)
            local->answer_ns = now_ns + ANSWER_WAIT_NS;
        say_hello(local, now_ns);
        return;
    }
    if ((is_away || r == -EAGAIN) && now_ns + RETRY_NS < local->give_up_ns) {
        local->retry_ns = now_ns + RETRY_NS;
        return;
    }
    snprintf(text, sizeof(text), "connecting to %.100s: %s", local->path, strerror(-r));
    fail(local, is_away && local->eager ? -ENOENT : is_away || r == -EAGAIN ? -ENOTCONN : r, text);
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

static int begin_data(struct local *local, void *data, size_t bytes)
{
    int r = area_init(&local->area, data, bytes);

    if (r < 0) {
        munmap(data, bytes);
        return r;
    }
    local->data = data;
    local->data_bytes = bytes;
    return 0;
}

static int map_data(struct local *local, const struct plane_layout *layout, int fd)
{
    size_t bytes = local->data ? local->data_bytes : layout->data_bytes;
    void *data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)layout->data_off);

    if (data == MAP_FAILED)
        return -errno;
    int r = local->data ? move_data(local, data) : begin_data(local, data, bytes);
    if (r == 0)
        local->shares_data = true;
    return r;
}

static void unmap_lanes(struct local *local)
{
    if (local->lanes_base)
        munmap(local->lanes_base, local->layout.data_off);
    free(local->lanes);
    free(local->open);
    local->lanes_base = NULL;
    local->lanes = NULL;
    local->open = NULL;
    local->n_open = 0;
    local->layout.n_shards = 0;
}

static int map_lanes(struct local *local, const struct plane_layout *layout, int fd)
{
    unmap_lanes(local);
    local->lanes = calloc(layout->n_shards, sizeof(*local->lanes));
    local->open = calloc(layout->n_shards, sizeof(*local->open));
    if (!local->lanes || !local->open)
        return -ENOMEM;
    void *base = mmap(NULL, layout->data_off, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    local->lanes_base = base;
    local->layout = *layout;
    for (uint32_t shard = 0; shard < layout->n_shards; shard++) {
        local->lanes[shard].line = SLOT_LIST_INIT;
        local->lanes[shard].last_urgent = SLOT_NONE;
        local_lane_map(&local->lanes[shard], layout, base, shard, local->has_urgent);
    }
    return 0;
}

/* ---- the table of methods ---- */

static void ask_table(struct local *local, size_t bytes)
{
    uint32_t at;

    local->table_room = area_alloc(&local->area, bytes);
    local->table_bytes = bytes;
    struct slot_work work = {.handle = UINT32_MAX,
        .route_kind = PLANE_ROUTE_SHARD,
        .route = local->home,
        .deadline_ns = INT64_MAX,
        .room = local->table_room,
        .room_len = bytes};
    int r = local->table_room ? slot_take(&local->slots, &at) : -ENOBUFS;
    if (r < 0) {
        fail(local, r, "no room in the data area for the table of methods");
        return;
    }
    local->table_id = slot_id(&local->slots, at);
    slot_at(&local->slots, at)->done = NULL;
    r = local_enter(local, at, &work);
    if (r < 0)
        fail(local, r, "no memory");
}

void local_take_table(struct local *local, enum sherd_end end, int error, size_t len)
{
    size_t bytes = local->table_bytes;
    int r = end == SHERD_END_DONE ? 0 : error < 0 ? error : -EPROTO;

    local->table_id = 0;
    if (local->phase == LOCAL_METHODS && r == 0)
        r = methods_read(&local->base.methods, (const char *)local->table_room, len);
    drop_table(local);
    if (local->phase != LOCAL_METHODS)
        return;
    if (end == SHERD_END_FAILED && r == -ENOBUFS && bytes * 2 <= local->data_bytes) {
        ask_table(local, bytes * 2);
        return;
    }
    if (r < 0) {
        local->table_error = r; /* whoever looks at rings now may not lose them */
        return;
    }
    local->phase = LOCAL_READY;
    local->give_up_ns = 0;
    local_drain_unplaced(local);
}

/* ---- answers ---- */

static void on_welcome(struct local *local, const struct attachment_answer *answer)
{
    const struct attach_welcome *welcome = &answer->welcome;
    struct plane_layout layout;
    int r = 0;

    if (welcome->head.version != ATTACH_VERSION || welcome->keymap != KEYS_MAP)
        r = -EPROTONOSUPPORT;
    else if (!is_sane(welcome, answer->fd, &layout))
        r = -EPROTO;
    else if (local->data && layout.data_bytes < local->data_bytes)
        r = -ENOMEM;
    local->has_urgent = welcome->features & ATTACH_URGENT;
    if (r == 0)
        r = map_lanes(local, &layout, answer->fd);
    if (r == 0)
        r = map_data(local, &layout, answer->fd);
    close(answer->fd);
    if (r < 0) {
        fail(local, r, "the instance's welcome makes no sense to this client");
        return;
    }
    local->base.n_shards = layout.n_shards;
    local->client_number = welcome->client;
    local->home = welcome->client % layout.n_shards;
    local->phase = LOCAL_METHODS;
    ask_table(local, TABLE_BYTES);
}

static void on_opened(struct local *local, const struct attachment_answer *answer)
{
    uint32_t shard = answer->opened.shard;
    struct local_lane *lane =
        local->lanes && shard < local->layout.n_shards ? &local->lanes[shard] : NULL;

    if (!lane || lane->state != LOCAL_LANE_WANTED) {
        close(answer->fd);
        return;
    }
    lane->bell_fd = answer->fd;
    lane->state = LOCAL_LANE_OPEN;
    lane->is_down = false;
    local->n_wanted--;
    local->open[local->n_open++] = shard;
    int r = waiter_watch(&local->base.waiter, lane->bell_fd, LOCAL_TAG_LANE + shard);
    if (r < 0)
        fail(local, r, "watching a doorbell");
}

/* A shard that nobody may use is no home. False: none is left. */
static bool find_home(struct local *local)
{
    for (uint32_t i = 0; i < local->layout.n_shards; i++) {
        uint32_t shard = (local->home + i) % local->layout.n_shards;
        if (local->lanes[shard].is_down)
            continue;
        local->home = shard;
        return true;
    }
    return false;
}

/* What asked it for the table of methods asks another. */
static void shard_is_down(struct local *local, uint32_t shard, int error, const char *text)
{
    bool asks_table = local->phase == LOCAL_METHODS && shard == local->home;

    if (asks_table)
        drop_table(local);
    local->lanes[shard].is_down = true;
    if (!find_home(local) && asks_table) {
        fail(local, error, text);
        return;
    }
    local_empty_line(local, shard, error);
    if (local->lanes[shard].state == LOCAL_LANE_WANTED)
        local->n_wanted--;
    local->lanes[shard].state = LOCAL_LANE_CLOSED;
    if (asks_table)
        ask_table(local, TABLE_BYTES);
}

static void on_open_refused(
    struct local *local, const struct attach_refused *refused, int64_t later_ns)
{
    uint32_t shard = local->attach.message.open.shard;

    if (refused->error == -EAGAIN && local->phase == LOCAL_READY) {
        local->open_ns = later_ns;
        return;
    }
    if (refused->error == -EAGAIN) {
        fail(local, refused->error, refused->text);
        return;
    }
    shard_is_down(local, shard, refused->error, refused->text);
}

static void on_refused(struct local *local, const struct attach_refused *refused, int64_t now_ns)
{
    int64_t later_ns =
        now_ns + (refused->retry_ms > 0 ? refused->retry_ms * INT64_C(1000000) : RETRY_NS);

    if (refused->head.serial == 0) {
        local->is_cut_off = refused->error == -EPROTO; /* its end follows */
    } else if (local->phase != LOCAL_HELLO) {
        on_open_refused(local, refused, later_ns);
    } else if (refused->error == -EAGAIN && later_ns < local->give_up_ns) {
        attachment_close(&local->attach);
        local->phase = LOCAL_APART;
        local->retry_ns = later_ns;
    } else {
        fail(local, refused->error, refused->text);
    }
}

/* It is as it was before it was opened, and so is its memory: nobody else writes there any more. */
static void on_closed(struct local *local, const struct attach_closed *closed)
{
    uint32_t shard = closed->shard;

    if (local->phase < LOCAL_METHODS || shard >= local->layout.n_shards ||
        local->lanes[shard].state != LOCAL_LANE_OPEN)
        return; /* one that is told twice, by a gateway and its replacement */
    if (local->phase == LOCAL_METHODS && shard == local->home)
        drop_table(local);
    local_lose_lane(
        local, shard, &(struct local_untaken){.normal = closed->taken, .urgent = LOCAL_ALL_TAKEN});
    memset(plane_words_of(&local->layout, local->lanes_base, shard), 0, local->layout.lane_bytes);
    local_lane_map(
        &local->lanes[shard], &local->layout, local->lanes_base, shard, local->has_urgent);
    shard_is_down(local, shard, closed->error, "every shard is given up");
}

static void receive(struct local *local, int64_t now_ns)
{
    struct attachment_answer answer;
    int r = 0;

    local->attach_ready = false;
    while (local->attach.fd >= 0 && (r = attachment_receive(&local->attach, &answer)) > 0)
        if (answer.head.kind == ATTACH_WELCOME)
            on_welcome(local, &answer);
        else if (answer.head.kind == ATTACH_OPENED)
            on_opened(local, &answer);
        else if (answer.head.kind == ATTACH_CLOSED)
            on_closed(local, &answer.closed);
        else
            on_refused(local, &answer.refused, now_ns);
    if (r == -EPROTO)
        fail(local, r, "what answers there is no Sherd of this version");
    else if (r < 0)
        lose(local);
}

/* ---- lanes ---- */

void local_want(struct local *local, uint32_t shard)
{
    local->lanes[shard].state = LOCAL_LANE_WANTED;
    local->n_wanted++;
}

static void ask_lane(struct local *local, int64_t now_ns)
{
    uint32_t shard = 0;

    if (local->n_wanted == 0 || local->attach.waits || local->open_ns > now_ns)
        return;
    while (local->lanes[shard].state != LOCAL_LANE_WANTED)
        shard++;
    local->open_ns = 0;
    int r = attachment_open(&local->attach, shard);
    if (r == -EAGAIN)
        local->open_ns = now_ns + RETRY_NS;
    else if (r < 0)
        lose(local);
}

/* ---- steps ---- */

static bool wants_attach(const struct local *local)
{
    return local->phase == LOCAL_APART && (local->eager || local->unplaced.n > 0);
}

static bool is_under_way(const struct local *local)
{
    return local->phase == LOCAL_HELLO || local->phase == LOCAL_METHODS;
}

void local_live(struct local *local)
{
    if (local->phase == LOCAL_READY && local->n_wanted == 0 && !local->attach_ready &&
        !local->is_distrusted)
        return;
    if (local->phase == LOCAL_APART && !wants_attach(local))
        return;
    int64_t now_ns = waiter_now_ns();
    if (local->attach_ready)
        receive(local, now_ns);
    if (local->is_distrusted)
        fail(local, -EPROTO, "the instance wrote what makes no sense");
    if (local->table_error < 0 && local->phase == LOCAL_METHODS)
        fail(local, local->table_error, "the instance does not tell its methods");
    local->table_error = 0;
    if (wants_attach(local) && local->base.error == 0 && local->retry_ns <= now_ns)
        try_connecting(local, now_ns);
    if (is_under_way(local) && local->answer_ns <= now_ns)
        fail(local, -ENOTCONN, "the instance did not answer in time");
    if (local->attach.fd >= 0 && attachment_next_ns(&local->attach) <= now_ns &&
        attachment_remind(&local->attach, now_ns) < 0)
        lose(local);
    if (local->phase >= LOCAL_METHODS)
        ask_lane(local, now_ns);
}

int64_t local_live_next_ns(const struct local *local)
{
    int64_t next_ns = attachment_next_ns(&local->attach);

    if (local->phase == LOCAL_READY && local->n_wanted == 0)
        return next_ns;
    if (wants_attach(local))
        next_ns = local->retry_ns;
    if (is_under_way(local) && local->answer_ns < next_ns)
        next_ns = local->answer_ns;
    if (local->n_wanted > 0 && local->open_ns != 0 && local->open_ns < next_ns)
        next_ns = local->open_ns;
    return next_ns;
}

/* ---- life ---- */

void local_free(struct transport *transport)
{
    struct local *local = local_of(transport);

    for (uint32_t shard = 0; shard < local->layout.n_shards; shard++)
        if (local->lanes[shard].bell_fd >= 0)
            close(local->lanes[shard].bell_fd);
    unmap_lanes(local);
    attachment_close(&local->attach);
    if (local->data)
        munmap(local->data, local->data_bytes);
    area_deinit(&local->area);
    slots_deinit(&local->slots);
    free(local->held);
    methods_deinit(&transport->methods);
    waiter_deinit(&transport->waiter);
    free(transport->error_text);
    free(local->path);
    free(local->name);
    free(local);
}

static uint32_t power_of_two(uint32_t n)
{
    uint32_t power = PLANE_ENTRIES_MIN;

    while (power < n && power < PLANE_ENTRIES_MAX)
        power *= 2;
    return power;
}

static int set_up(struct local *local, const struct sherd_client_options *wanted)
{
    uint64_t bytes = wanted->data_bytes > 0 ? wanted->data_bytes : DATA_DEFAULT;

    if (bytes > DATA_MAX)
        return -EINVAL;
    bytes = bytes < DATA_MIN ? DATA_MIN : bytes;
    local->wanted_bytes = (bytes + PLANE_PAGE - 1) / PLANE_PAGE * PLANE_PAGE;
    uint32_t window = wanted->window > 0 ? wanted->window : ENTRIES_DEFAULT;
    local->wanted_entries =
        power_of_two(window < PLANE_ENTRIES_MAX / 2 ? window * 2 : PLANE_ENTRIES_MAX);
    local->spin_ns = wanted->spin_ns;
    if (wanted->name && !(local->name = strdup(wanted->name)))
        return -ENOMEM;
    int r = instance_socket_path(wanted->instance, ATTACH_SOCKET, &local->path);
    return r < 0 ? r : waiter_init(&local->base.waiter);
}

/* Until it is READY, or not to be had. */
static int get_ready(struct local *local)
{
    struct transport *transport = &local->base;

    local->eager = true;
    for (;;) {
        local_ops.step(transport);
        if (local->phase == LOCAL_READY || transport->error < 0)
            break;
        int r = local_ops.wait(transport, INT64_MAX);
        if (r < 0 && r != -EINTR)
            return r;
    }
    local->eager = false;
    int r = transport->error;
    transport->error = 0;
    return r == -ENOTCONN ? -ETIMEDOUT : r;
}

int local_open(const struct transport_options *options, struct transport **ret_transport)
{
    struct local *local = calloc(1, sizeof(*local));

    if (!local)
        return transport_explain(options->ret_error, -ENOMEM, "no memory");
    local->base.ops = &local_ops;
    local->base.waiter =
        (struct waiter){.epoll_fd = -1, .event_fd = -1, .timer_fd = -1, .armed_ns = INT64_MAX};
    local->attach.fd = -1;
    local->line_deadline_ns = local->out_end_by_ns = INT64_MAX;
    local->unplaced = local->ended = local->ready = local->handed = SLOT_LIST_INIT;
    slots_init(&local->slots);
    int r = set_up(local, options->options);
    local->wait_ns = options->wait_ns;
    if (r == 0)
        r = get_ready(local);
    local->wait_ns = options->options->wait_ns;
    if (r < 0) {
        const char *text = local->base.error_text;
        transport_explain(options->ret_error, r, "attaching: %s", text ? text : strerror(-r));
        local_free(&local->base);
        return r;
    }
    *ret_transport = &local->base;
    return 0;
}
