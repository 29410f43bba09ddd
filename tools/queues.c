/* SPDX-License-Identifier: MIT */
/*
 * sherd queues - who queued how much for whom, from the segment
 *
 * Each ordered pair of peers has a ring. What is told of it comes from both of its ends; which
 * figure from which, pair_figures.h says.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "tools/clock.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/instance.h"
#include "tools/json.h"
#include "tools/pair_figures.h"
#include "tools/queue_entries.h"
#include "tools/queue_rates.h"
#include "tools/table.h"
#include "tools/text.h"

#define MATRIX_MAX_SHARDS 16u /* beyond it, a list */
#define LINE_WIDTH        100u

struct values {
    const char *instance;
    int64_t wait_ns;
    int64_t watch_ns; /* 0: not given */
    bool list;
    bool entries;
    bool json;
};

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    {"list", 0, NULL, "a line a pair instead of matrices", command_flag,
        offsetof(struct values, list)},
    {"watch", 0, "SECONDS", "again and again, with rates, until interrupted", command_seconds,
        offsetof(struct values, watch_ns)},
    {"entries", 0, NULL, "each message that waits now, instead", command_flag,
        offsetof(struct values, entries)},
    {"json", 0, NULL, "print JSON, with every counter of every pair", command_flag,
        offsetof(struct values, json)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd queues --instance demo", "what waits now, and what passed since the start"},
    {"sherd queues --instance demo --list", "the same, a line for each pair that ever spoke"},
    {"sherd queues --instance demo --entries", "what waits now, message by message"},
    {"sherd queues --instance demo --watch 1", "each second, and how much passed in it"},
    {"sherd queues --instance demo --json", "every counter, for programs"},
    {0},
};

static const struct command command = {
    .name = "queues",
    .operands = "",
    .summary = "Shows the queues between an instance's processes: senders by receivers.",
    .details =
        "Messages are counted since the start of the instance. A ring is the write that wakes "
        "a sleeping\nreceiver; it is saved where the receiver is awake anyway. Below stands "
        "what each shard did.\nIt reads shared memory and asks nobody.",
    .options = options,
    .examples = examples,
};

/* ---- a pair ---- */

struct pair_view {
    uint64_t depth;
    uint64_t calls_under_way;
#define X(name, side, text) uint64_t name;
    PAIR_FIGURES(X)
#undef X
    uint64_t ends[N_CALL_ENDS];
};

static uint64_t all_lanes(const uint64_t *figures, size_t bytes)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes / sizeof(*figures); i++)
        sum += atomic_load_relaxed(&figures[i]);
    return sum;
}

/* A figure of a pair, or the sum of one that is counted for each lane. */
#define FIGURE(field) all_lanes((const uint64_t *)&(field), sizeof(field))

static struct pair_view read_pair(const struct instance *in, uint32_t from, uint32_t to)
{
    const struct pair_stats *sender = segment_pair(&in->segment, from, to);
    const struct pair_stats *receiver = segment_pair(&in->segment, to, from);
    struct pair_view view = {.depth = instance_depth(in, from, to),
        .calls_under_way = instance_calls_under_way(in, from, to),
#define X(name, side, text) .name = FIGURE(side->name),
        PAIR_FIGURES(X)
#undef X
    };
    for (int end = 0; end < N_CALL_ENDS; end++)
        view.ends[end] = atomic_load_relaxed(&sender->ends[end]);
    return view;
}

/* X(member of struct pair_view, title): the matrices, in their order */
#define MATRICES(X)                       \
    X(depth, "WAITING NOW")               \
    X(high_water, "MOST WAITING AT ONCE") \
    X(pushed, "MESSAGES SENT")            \
    X(rings_sent, "RINGS SENT")           \
    X(rings_saved, "RINGS SAVED")

struct matrix {
    const char *title;
    size_t member; /* offset in struct pair_view */
    struct table table;
};

static uint64_t member_of(const struct pair_view *view, size_t member)
{
    return *(const uint64_t *)((const char *)view + member);
}

/* ---- for people ---- */

static void fill_matrix(const struct instance *in, struct matrix *matrix)
{
    char name[INSTANCE_PEER_NAME], figure[TEXT_FIGURE];
    uint32_t n_peers = in->segment.n_peers;
    table_cell(&matrix->table, "from \\ to");
    for (uint32_t n = 0; n < n_peers; n++)
        if (n)
            table_cell(&matrix->table, "%u", instance_listed_peer(in, n));
        else
            table_cell(&matrix->table, "gw");
    for (uint32_t row = 0; row < n_peers; row++) {
        uint32_t from = instance_listed_peer(in, row);
        table_cell(&matrix->table, "%s", instance_peer_name(in, from, name));
        for (uint32_t column = 0; column < n_peers; column++) {
            uint32_t to = instance_listed_peer(in, column);
            struct pair_view view = read_pair(in, from, to);
            uint64_t value = member_of(&view, matrix->member);
            if (from == to)
                table_cell(&matrix->table, "-");
            else
                table_cell(&matrix->table, "%s", text_count(value, figure));
        }
    }
}

/* How wide a matrix stands: its title may be wider than its table. */
static size_t matrix_width(const struct matrix *m)
{
    size_t table = table_width(&m->table), title = strlen(m->title);
    return table > title ? table : title;
}

/* As many matrices side by side as a line holds, at least one. */
static size_t print_band(const struct matrix *m, size_t n)
{
    size_t width = matrix_width(&m[0]), in_band = 1;
    while (in_band < n && width + 4 + matrix_width(&m[in_band]) <= LINE_WIDTH)
        width += 4 + matrix_width(&m[in_band++]);
    for (size_t i = 0; i < in_band; i++)
        printf("%-*s%s", i + 1 < in_band ? (int)matrix_width(&m[i]) + 4 : 0, m[i].title,
            i + 1 < in_band ? "" : "\n");
    for (size_t row = 0; row < table_rows(&m[0].table); row++) {
        for (size_t i = 0; i < in_band; i++) {
            table_line(&m[i].table, row, stdout);
            size_t fill = matrix_width(&m[i]) - table_width(&m[i].table) + 4;
            printf("%*s", i + 1 < in_band ? (int)fill : 0, "");
        }
        putchar('\n');
    }
    putchar('\n');
    return in_band;
}

static void print_matrices(const struct instance *in)
{
    struct matrix matrices[] = {
#define X(name, text) {.title = text, .member = offsetof(struct pair_view, name)},
        MATRICES(X)
#undef X
    };
    size_t n = sizeof matrices / sizeof *matrices;
    char alignment[MATRIX_MAX_SHARDS + 3] = "<";
    memset(alignment + 1, '>', in->segment.n_peers);
    for (size_t i = 0; i < n; i++) {
        table_init(&matrices[i].table, alignment);
        fill_matrix(in, &matrices[i]);
    }
    for (size_t i = 0; i < n;)
        i += print_band(&matrices[i], n - i);
    for (size_t i = 0; i < n; i++)
        table_deinit(&matrices[i].table);
}

static void print_list(const struct instance *in)
{
    struct table t;
    char name[INSTANCE_PEER_NAME];
    table_init(&t, "<<>>>>>");
    static const char *const headers[] = {
        "FROM", "TO", "WAITING", "MOST", "MESSAGES", "RINGS SENT", "SAVED"};
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        table_cell(&t, "%s", headers[i]);
    for (uint32_t from = 0; from < in->segment.n_peers; from++) {
        for (uint32_t to = 0; to < in->segment.n_peers; to++) {
            struct pair_view view = read_pair(in, from, to);
            if (from == to || (!view.pushed && !view.popped))
                continue;
            table_cell(&t, "%s", instance_peer_name(in, from, name));
            table_cell(&t, "%s", instance_peer_name(in, to, name));
            table_cell(&t, "%" PRIu64, view.depth);
            table_cell(&t, "%" PRIu64, view.high_water);
            table_cell(&t, "%" PRIu64, view.pushed);
            table_cell(&t, "%" PRIu64, view.rings_sent);
            table_cell(&t, "%" PRIu64, view.rings_saved);
        }
    }
    table_print(&t, stdout);
    putchar('\n');
    table_deinit(&t);
}

/* ---- who did how much ---- */

struct shard_view {
    uint64_t started, under_way, read_bytes, write_bytes;
    uint64_t ends[N_CALL_ENDS];
};

/* What a shard did for everybody: ends are counted by those who called. */
static struct shard_view read_shard(const struct instance *in, uint32_t shard)
{
    const struct aio_counters *counters = segment_counters(&in->segment, shard);
    struct shard_view view = {
        .read_bytes = atomic_load_relaxed(&counters->io_read_bytes),
        .write_bytes = atomic_load_relaxed(&counters->io_write_bytes),
    };
    for (uint32_t caller = 0; caller < in->segment.n_peers; caller++) {
        struct pair_view pair = read_pair(in, caller, shard);
        if (caller == shard)
            continue;
        view.started += pair.calls_started;
        view.under_way += pair.calls_under_way;
        for (int end = 0; end < N_CALL_ENDS; end++)
            view.ends[end] += pair.ends[end];
    }
    return view;
}

static void print_shards(const struct instance *in)
{
    char figure[TEXT_FIGURE];
    struct table t;
    table_init(&t, "<>>>>>>>>>>");
    static const char *const headers[] = {"CALLS OF", "begun",
#define X(name, number, text) text,
        CALL_ENDS(X)
#undef X
            "under way",
        "read", "written"};
    static_assert(sizeof headers / sizeof *headers == 11, "a column for each header");
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        table_cell(&t, "%s", headers[i]);
    for (uint32_t shard = 0; shard < in->segment.geometry.n_shards; shard++) {
        struct shard_view view = read_shard(in, shard);
        table_cell(&t, "shard %u", shard);
        table_cell(&t, "%" PRIu64, view.started);
#define X(name, number, text) table_cell(&t, "%" PRIu64, view.ends[CALL_END_##name]);
        CALL_ENDS(X)
#undef X
        table_cell(&t, "%" PRIu64, view.under_way);
        table_cell(&t, "%s", text_bytes(view.read_bytes, figure));
        table_cell(&t, "%s", text_bytes(view.write_bytes, figure));
    }
    table_print(&t, stdout);
    table_deinit(&t);
}

/* ---- for programs ---- */

static json_t *ends_json(const uint64_t ends[N_CALL_ENDS])
{
    json_t *o = json_object();
#define X(name, number, text) json_set_u64(o, text, ends[CALL_END_##name]);
    CALL_ENDS(X)
#undef X
    json_set_u64(o, "abandoned", ends[CALL_END_NONE]);
    return o;
}

/* What is counted for each lane. */
static json_t *lane_json(const struct instance *in, uint32_t from, uint32_t to, enum mesh_lane lane)
{
    const struct pair_stats *sender = segment_pair(&in->segment, from, to);
    const struct pair_stats *receiver = segment_pair(&in->segment, to, from);
    json_t *o = json_object();
    json_set_u64(o, "slots", segment_ring_slots(&in->segment, from, to, lane));
    json_set_u64(o, "depth", instance_lane_depth(in, from, to, lane));
    json_set_u64(o, "pushed", atomic_load_relaxed(&sender->pushed[lane]));
    json_set_u64(o, "popped", atomic_load_relaxed(&receiver->popped[lane]));
    json_set_u64(o, "high_water", atomic_load_relaxed(&receiver->high_water[lane]));
    return o;
}

static json_t *pair_json(const struct instance *in, uint32_t from, uint32_t to)
{
    struct pair_view view = read_pair(in, from, to);
    char name[INSTANCE_PEER_NAME];
    json_t *o = json_object();
    json_set_text(o, "from", instance_peer_name(in, from, name));
    json_set_text(o, "to", instance_peer_name(in, to, name));
    json_set_u64(o, "slots", instance_ring_slots(in, from, to));
    json_set_u64(o, "depth", view.depth);
#define X(name, side, text) json_set_u64(o, #name, view.name);
    PAIR_FIGURES(X)
#undef X
    json_set_u64(o, "calls_under_way", view.calls_under_way);
    json_object_set_new(o, "ends", ends_json(view.ends));
    for (enum mesh_lane lane = 0; lane < N_LANES; lane++)
        json_object_set_new(o, mesh_lane_text(lane), lane_json(in, from, to, lane));
    return o;
}

static json_t *shard_json(const struct instance *in, uint32_t shard)
{
    struct shard_view view = read_shard(in, shard);
    json_t *o = json_object();
    json_set_u64(o, "shard", shard);
    json_set_u64(o, "calls_started", view.started);
    json_set_u64(o, "calls_under_way", view.under_way);
    json_set_u64(o, "read_bytes", view.read_bytes);
    json_set_u64(o, "write_bytes", view.write_bytes);
    json_object_set_new(o, "ends", ends_json(view.ends));
    return o;
}

static json_t *entries_json(const struct instance *in)
{
    json_t *o = json_object();
    json_set_text(o, "instance", in->name);
    json_object_set_new(o, "entries", queue_entries_json(in));
    return o;
}

static json_t *queues_json(const struct instance *in)
{
    json_t *o = json_object(), *pairs = json_array(), *shards = json_array();
    json_set_text(o, "instance", in->name);
    for (uint32_t from = 0; from < in->segment.n_peers; from++)
        for (uint32_t to = 0; to < in->segment.n_peers; to++)
            if (from != to)
                json_array_append_new(pairs, pair_json(in, from, to));
    for (uint32_t shard = 0; shard < in->segment.geometry.n_shards; shard++)
        json_array_append_new(shards, shard_json(in, shard));
    json_object_set_new(o, "pairs", pairs);
    json_object_set_new(o, "shards", shards);
    return o;
}

static void print_people(const struct instance *in, const struct values *values)
{
    if (values->entries) {
        queue_entries_print(in);
        return;
    }
    if (values->list || in->segment.geometry.n_shards > MATRIX_MAX_SHARDS)
        print_list(in);
    else
        print_matrices(in);
    print_shards(in);
}

static bool supervisor_lives(const struct instance *in)
{
    int fd = instance_open_supervisor(in);
    if (fd >= 0)
        close(fd);
    return fd != -ESRCH;
}

/* Until the instance ends, or nobody reads any more. */
static int watch(const struct instance *in, const struct values *values)
{
    struct queue_rates *rates = queue_rates_new(in);
    struct timespec pause = clock_timespec(values->watch_ns);
    int status = EXIT_DONE;
    if (!rates)
        return command_error("queues: no memory");
    while (status == EXIT_DONE && !ferror(stdout) && supervisor_lives(in)) {
        if (isatty(STDOUT_FILENO))
            fputs("\033[H\033[2J", stdout);
        print_people(in, values);
        putchar('\n');
        queue_rates_print(rates, in);
        putchar('\n');
        status = command_finish_output();
        nanosleep(&pause, NULL);
    }
    queue_rates_free(rates);
    return status;
}

int queues_command(int argc, char **argv)
{
    struct values values = {.wait_ns = COMMAND_WAIT_NS};
    struct instance in;
    char **operands;
    int n = command_parse(&command, argc, argv, &values, &operands);
    if (n < 0)
        return command_exit_status(n);
    if (values.watch_ns && values.json)
        return command_usage(&command, "--watch and --json exclude each other");
    if (instance_open(values.instance, values.wait_ns, INSTANCE_READY, &in))
        return EXIT_WORK_FAILED;
    int status = EXIT_DONE;
    if (values.json)
        status = json_print(values.entries ? entries_json(&in) : queues_json(&in));
    else if (values.watch_ns)
        status = watch(&in, &values);
    else
        print_people(&in, &values);
    instance_close(&in);
    return status ? status : command_finish_output();
}
