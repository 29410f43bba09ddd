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

#include "tools/clock.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/json.h"
#include "tools/look.h"
#include "tools/queue_entries.h"
#include "tools/queue_json.h"
#include "tools/queue_rates.h"
#include "tools/table.h"
#include "tools/text.h"

#define MATRIX_MAX_SHARDS 16u /* beyond it, a list */
#define LINE_WIDTH        100u
#define DEFAULT_WINDOW_NS (100 * NS_PER_MS)

struct values {
    const char *instance;
    int64_t wait_ns;
    int64_t watch_ns;  /* 0: not given */
    int64_t window_ns; /* negative: not given */
    uint32_t lane;
    bool list;
    bool entries;
    bool json;
};

static const char *parse_lane(const char *text, void *field)
{
    for (uint32_t lane = 0; lane < N_LANES; lane++) {
        if (!strcmp(text, mesh_lane_text(lane))) {
            *(uint32_t *)field = lane;
            return NULL;
        }
    }
    return "normal or urgent";
}

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    {"list", 0, NULL, "a line a pair instead of matrices", command_flag,
        offsetof(struct values, list)},
    {"watch", 0, "SECONDS", "again and again, with rates, until interrupted", command_seconds,
        offsetof(struct values, watch_ns)},
    {"window", 0, "SECONDS",
        "how long rates are measured; 0: not at all (default: 0.1, with --json 0)", command_seconds,
        offsetof(struct values, window_ns)},
    {"lane", 0, "LANE", "of one lane alone: normal or urgent (default: both)", parse_lane,
        offsetof(struct values, lane)},
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
    {"sherd queues --instance demo --watch 1", "again each second"},
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

/* X(member of struct pair_view, how it is written, title): the matrices, in their order */
#define MATRICES(X)                                   \
    X(depth, text_count, "WAITING NOW")               \
    X(oldest_ns, text_age, "OLDEST OF THESE")         \
    X(high_water, text_count, "MOST WAITING AT ONCE") \
    X(pushed, text_count, "MESSAGES SENT")            \
    X(per_second, text_count, "MESSAGES A SECOND")    \
    X(call_slots_free, text_count, "CALL SLOTS FREE") \
    X(rings_sent, text_count, "RINGS SENT")           \
    X(rings_saved, text_count, "RINGS SAVED")

typedef const char *figure_text_fn(uint64_t value, char buf[static TEXT_FIGURE]);

static const char *text_age(uint64_t ns, char buf[static TEXT_FIGURE])
{
    return ns ? text_duration(ns, buf) : "-";
}

/* What is shown: queues, how fast they are, and of which lane. */
struct queues {
    const struct queue_reader *reader;
    const struct queue_rates *rates; /* NULL: not measured */
    uint32_t lane;                   /* ALL_LANES: both */
};

static struct pair_view read_pair(const struct queues *q, uint32_t from, uint32_t to)
{
    struct pair_view view = queue_view_pair(q->reader, from, to, q->lane);
    view.per_second = q->rates && from != to ? queue_rates_of(q->rates, from, to) : 0;
    return view;
}

struct matrix {
    const char *title;
    figure_text_fn *text;
    size_t member; /* offset in struct pair_view */
    struct table table;
};

static uint64_t member_of(const struct pair_view *view, size_t member)
{
    return *(const uint64_t *)((const char *)view + member);
}

/* ---- for people ---- */

static void fill_head(const struct queues *q, struct matrix *matrix)
{
    table_cell(&matrix->table, "from \\ to");
    for (uint32_t n = 0; n < q->reader->n_peers; n++)
        if (n)
            table_cell(&matrix->table, "%u", look_listed_peer(q->reader->look, n));
        else
            table_cell(&matrix->table, "gw");
}

static void fill_matrix(const struct queues *q, struct matrix *matrix)
{
    const struct look *look = q->reader->look;
    char name[LOOK_NAME], figure[TEXT_FIGURE];
    fill_head(q, matrix);
    for (uint32_t row = 0; row < q->reader->n_peers; row++) {
        uint32_t from = look_listed_peer(look, row);
        table_cell(&matrix->table, "%s", look_peer_name(look, from, name));
        for (uint32_t column = 0; column < q->reader->n_peers; column++) {
            uint32_t to = look_listed_peer(look, column);
            struct pair_view view = read_pair(q, from, to);
            if (from == to)
                table_cell(&matrix->table, "-");
            else
                table_cell(
                    &matrix->table, "%s", matrix->text(member_of(&view, matrix->member), figure));
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

static void print_matrices(const struct queues *q)
{
    struct matrix matrices[] = {
#define X(name, text_, title_) \
    {.title = title_, .text = text_, .member = offsetof(struct pair_view, name)},
        MATRICES(X)
#undef X
    };
    size_t n = sizeof matrices / sizeof *matrices;
    char alignment[MATRIX_MAX_SHARDS + 3] = "<";
    memset(alignment + 1, '>', q->reader->n_peers);
    for (size_t i = 0; i < n; i++) {
        table_init(&matrices[i].table, alignment);
        fill_matrix(q, &matrices[i]);
    }
    for (size_t i = 0; i < n;)
        i += print_band(&matrices[i], n - i);
    for (size_t i = 0; i < n; i++)
        table_deinit(&matrices[i].table);
}

static void add_pair(const struct queues *q, struct table *t, uint32_t from, uint32_t to)
{
    struct pair_view view = read_pair(q, from, to);
    char name[LOOK_NAME], figure[TEXT_FIGURE];
    if (from == to || (!view.pushed && !view.popped))
        return;
    table_cell(t, "%s", look_peer_name(q->reader->look, from, name));
    table_cell(t, "%s", look_peer_name(q->reader->look, to, name));
    table_cell(t, "%" PRIu64, view.depth);
    table_cell(t, "%s", text_age(view.oldest_ns, figure));
    table_cell(t, "%" PRIu64, view.high_water);
    table_cell(t, "%" PRIu64, view.pushed);
    table_cell(t, "%" PRIu64, view.per_second);
    table_cell(t, "%" PRIu64, view.call_slots_free);
    table_cell(t, "%" PRIu64, view.rings_sent);
    table_cell(t, "%" PRIu64, view.rings_saved);
}

static void print_list(const struct queues *q)
{
    static const char *const headers[] = {"FROM", "TO", "WAITING", "OLDEST", "MOST", "MESSAGES",
        "A SECOND", "SLOTS FREE", "RINGS SENT", "SAVED"};
    struct table t;
    table_init(&t, "<<>>>>>>>>");
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        table_cell(&t, "%s", headers[i]);
    for (uint32_t from = 0; from < q->reader->n_peers; from++)
        for (uint32_t to = 0; to < q->reader->n_peers; to++)
            add_pair(q, &t, from, to);
    table_print(&t, stdout);
    putchar('\n');
    table_deinit(&t);
}

/* ---- who did how much ---- */

static void print_shards(const struct queue_reader *reader)
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
    for (uint32_t shard = 0; shard < reader->n_shards; shard++) {
        struct shard_view view = queue_view_shard(reader, shard);
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

/* ---- the command ---- */

static json_t *queues_json(const struct queues *q, bool entries)
{
    json_t *o = json_object();
    json_set_text(o, "instance", q->reader->look->name);
    json_object_set_new(o, "live", json_boolean(q->reader->look->supervisor != 0));
    if (entries) {
        json_object_set_new(o, "entries", queue_entries_json(q->reader));
        return o;
    }
    json_object_set_new(o, "pairs", queue_pairs_json(q->reader, q->rates));
    json_object_set_new(o, "shards", queue_shards_json(q->reader));
    return o;
}

static void print_people(const struct queues *q, const struct values *values)
{
    if (values->entries) {
        queue_entries_print(q->reader);
        return;
    }
    if (values->list || q->reader->n_shards > MATRIX_MAX_SHARDS)
        print_list(q);
    else
        print_matrices(q);
    print_shards(q->reader);
}

static int print_once(const struct queues *q, const struct values *values)
{
    if (values->json)
        return json_print(queues_json(q, values->entries));
    print_people(q, values);
    return command_finish_output();
}

static void pass(int64_t ns)
{
    struct timespec pause = clock_timespec(ns);
    nanosleep(&pause, NULL);
}

/* Until the instance ends, or nobody reads any more. */
static int watch(struct queues *q, struct queue_rates *rates, const struct values *values)
{
    int status = EXIT_DONE;
    while (status == EXIT_DONE && !ferror(stdout) && look_is_alive(q->reader->look)) {
        struct queue_reader reader;
        pass(values->watch_ns);
        queue_reader_init(&reader, q->reader->look);
        queue_rates_look(rates, &reader);
        if (isatty(STDOUT_FILENO))
            fputs("\033[H\033[2J", stdout);
        print_people(&(struct queues){&reader, rates, q->lane}, values);
        putchar('\n');
        status = command_finish_output();
    }
    return status;
}

/* What is dead has no rates. */
static int show(const struct look *look, const struct values *values)
{
    int64_t window_ns = values->window_ns >= 0 ? values->window_ns
                        : values->json         ? 0
                                               : DEFAULT_WINDOW_NS;
    struct queue_reader reader;
    queue_reader_init(&reader, look);
    struct queue_rates *rates = queue_rates_new(&reader);
    struct queues q = {.reader = &reader, .lane = values->lane};
    int status;
    if (!rates)
        return command_error("queues: no memory");
    if (values->watch_ns) {
        status = watch(&q, rates, values);
    } else {
        if (window_ns && look->supervisor && !values->entries) {
            pass(window_ns);
            queue_rates_look(rates, &reader);
            q.rates = rates;
        }
        queue_reader_init(&reader, look);
        status = print_once(&q, values);
    }
    queue_rates_free(rates);
    return status;
}

int queues_command(int argc, char **argv)
{
    struct values values = {.wait_ns = COMMAND_WAIT_NS, .window_ns = -1, .lane = ALL_LANES};
    struct look look;
    char **operands;
    int n = command_parse(&command, argc, argv, &values, &operands);
    if (n < 0)
        return command_exit_status(n);
    if (values.watch_ns && values.json)
        return command_usage(&command, "--watch and --json exclude each other");
    if (look_open(values.instance, values.wait_ns, LOOK_THERE_OR_DEAD, &look))
        return EXIT_WORK_FAILED;
    int status = show(&look, &values);
    look_close(&look);
    return status;
}
