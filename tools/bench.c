/* SPDX-License-Identifier: MIT */
/*
 * sherd bench - load from clients of its own, through the gateway; how fast, and how each request
 * ended
 *
 * The clients go on through the deaths of shards and of the gateway. A request that ended twice, or
 * never, makes the command fail: so it is a judge too, beside `sherd audit`.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/file.pb-c.h"
#include "tools/bench_client.h"
#include "tools/clock.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/instance.h"
#include "tools/json.h"
#include "tools/path.h"
#include "tools/table.h"
#include "tools/text.h"

#define CLIENTS_MAX 256u
#define DEPTH_MAX   65536u
#define READ_BYTES  4096u

struct values {
    const char *instance;
    int64_t wait_ns;
    uint32_t clients;
    uint32_t depth;
    int64_t seconds_ns;
    const char *file;
    bool json;
};

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    {"clients", 0, "N", "how many clients, each with a connection (default: 1)", command_u32,
        offsetof(struct values, clients)},
    {"depth", 0, "D", "requests that each keeps in flight (default: 1)", command_u32,
        offsetof(struct values, depth)},
    {"seconds", 0, "T", "how long they submit (default: 5)", command_seconds,
        offsetof(struct values, seconds_ns)},
    {"file", 0, "PATH", "mixed: a file below a root, of which 4 KiB are read", command_text,
        offsetof(struct values, file)},
    {"json", 0, NULL, "print JSON", command_flag, offsetof(struct values, json)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd bench ping --clients 4 --depth 64 --seconds 10", "round trips to all shards in turn"},
    {"sherd bench mixed --depth 32 --file /srv/data/1", "calls, moves and reads as well"},
    {"sherd bench ping --json | jq .latency_ns.p99", "one figure of it"},
    {0},
};

static const struct command command = {
    .name = "bench",
    .operands = "ping|mixed",
    .summary = "Loads an instance with requests and shows how fast they ended, and how.",
    .details = "ping: sys.ping to all shards in turn. mixed: besides, calls from all shards to "
               "all,\ncoroutines that move round all shards, and reads of a file.\nIt goes on when "
               "shards or the gateway die. Exit status "
               "1 says that a request did not end exactly once.",
    .options = options,
    .examples = examples,
};

/* ---- what they did, together ---- */

struct totals {
    struct histogram took; /* of all */
    struct histogram took_each[N_BENCH_WORK];
    uint64_t submitted[N_BENCH_WORK];
    uint64_t ended[N_BENCH_WORK][BENCH_END_MAX];
    uint64_t n_twice, n_lost;
    int64_t ran_ns;
};

static void add_client(struct totals *t, const struct bench_client *client)
{
    for (int work = 0; work < N_BENCH_WORK; work++) {
        histogram_merge(&t->took, &client->took[work]);
        histogram_merge(&t->took_each[work], &client->took[work]);
        t->submitted[work] += client->submitted[work];
        for (uint32_t end = 0; end < BENCH_END_MAX; end++)
            t->ended[work][end] += client->ended[work][end];
    }
    t->n_twice += client->n_twice;
    t->n_lost += client->n_lost;
}

static uint64_t all_submitted(const struct totals *t)
{
    uint64_t n = 0;
    for (int work = 0; work < N_BENCH_WORK; work++)
        n += t->submitted[work];
    return n;
}

static uint64_t all_ended(const struct totals *t, uint32_t end)
{
    uint64_t n = 0;
    for (int work = 0; work < N_BENCH_WORK; work++)
        n += t->ended[work][end];
    return n;
}

static double per_second(uint64_t n, const struct totals *t)
{
    return t->ran_ns > 0 ? (double)n * 1e9 / (double)t->ran_ns : 0;
}

/* X(percent, its text) */
#define PERCENTILES(X) \
    X(50, "p50")       \
    X(90, "p90")       \
    X(99, "p99")       \
    X(99.9, "p99.9")   \
    X(99.99, "p99.99")

/* ---- for people ---- */

static void print_row(struct table *t, const char *name, const struct histogram *h, double rate)
{
    char figure[TEXT_FIGURE];
    table_cell(t, "%s", name);
    table_cell(t, "%s", text_exact(h->n, figure));
    table_cell(t, "%s", text_count((uint64_t)rate, figure));
#define X(percent, text) \
    table_cell(t, "%s", text_duration(histogram_percentile(h, percent), figure));
    PERCENTILES(X)
#undef X
    table_cell(t, "%s", text_duration(h->most, figure));
}

static void print_people(const struct totals *totals)
{
    static const char *const headers[] = {"WORK", "DONE", "A SECOND",
#define X(percent, text) text,
        PERCENTILES(X)
#undef X
            "MOST"};
    char figure[TEXT_FIGURE];
    struct table t;
    table_init(&t, "<>>>>>>>>");
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        table_cell(&t, "%s", headers[i]);
    for (int work = 0; work < N_BENCH_WORK; work++)
        if (totals->submitted[work])
            print_row(&t, bench_work_name((enum bench_work)work), &totals->took_each[work],
                per_second(totals->took_each[work].n, totals));
    print_row(&t, "all", &totals->took, per_second(totals->took.n, totals));
    table_print(&t, stdout);
    table_deinit(&t);
    printf("\n%s submitted", text_exact(all_submitted(totals), figure));
#define X(name, number, text)      \
    if (all_ended(totals, number)) \
        printf(", %s " text, text_exact(all_ended(totals, number), figure));
    SHERD_ENDS(X)
#undef X
    printf("; %" PRIu64 " ended twice, %" PRIu64 " never\n", totals->n_twice, totals->n_lost);
}

/* ---- for programs ---- */

static json_t *latency_json(const struct histogram *h)
{
    json_t *o = json_object();
#define X(percent, text) json_set_u64(o, text, histogram_percentile(h, percent));
    PERCENTILES(X)
#undef X
    json_set_u64(o, "mean", histogram_mean(h));
    json_set_u64(o, "max", h->most);
    return o;
}

static json_t *work_json(const struct totals *t, int work)
{
    json_t *o = json_object(), *ends = json_object();
    json_set_u64(o, "submitted", t->submitted[work]);
#define X(name, number, text) json_set_u64(ends, text, t->ended[work][number]);
    SHERD_ENDS(X)
#undef X
    json_object_set_new(o, "ends", ends);
    json_object_set_new(o, "latency_ns", latency_json(&t->took_each[work]));
    return o;
}

static json_t *totals_json(const struct values *v, const char *kind, const struct totals *t)
{
    json_t *o = json_object(), *ends = json_object(), *each = json_object();
    json_set_text(o, "kind", kind);
    json_set_u64(o, "clients", v->clients);
    json_set_u64(o, "depth", v->depth);
    json_object_set_new(o, "seconds", json_real((double)t->ran_ns / 1e9));
    json_set_u64(o, "submitted", all_submitted(t));
#define X(name, number, text) json_set_u64(ends, text, all_ended(t, number));
    SHERD_ENDS(X)
#undef X
    json_object_set_new(o, "ends", ends);
    json_set_u64(o, "ended_twice", t->n_twice);
    json_set_u64(o, "never_ended", t->n_lost);
    json_object_set_new(o, "done_per_s", json_real(per_second(t->took.n, t)));
    json_object_set_new(o, "latency_ns", latency_json(&t->took));
    for (int work = 0; work < N_BENCH_WORK; work++)
        if (t->submitted[work])
            json_object_set_new(each, bench_work_name((enum bench_work)work), work_json(t, work));
    json_object_set_new(o, "work", each);
    return o;
}

/* ---- the command ---- */

/* Starts them all and waits for them; an error of any is printed. Returns the exit status. */
static int run_clients(const struct bench_plan *plan, uint32_t n, struct totals *ret)
{
    struct bench_client *clients[CLIENTS_MAX] = {0};
    uint32_t n_started = 0;
    int status = EXIT_DONE, r = 0;
    int64_t begun_ns = clock_now_ns();
    while (n_started < n && r == 0) {
        r = bench_client_start(plan, n_started, &clients[n_started]);
        n_started += r == 0;
    }
    if (r < 0)
        status = command_error("bench: client %u: %s", n_started, strerror(-r));
    for (uint32_t i = 0; i < n_started; i++) {
        bench_client_join(clients[i]);
        add_client(ret, clients[i]);
        if (clients[i]->error)
            status = command_error("bench: client %u: %s", i, clients[i]->error);
        bench_client_free(clients[i]);
    }
    ret->ran_ns = clock_now_ns() - begun_ns;
    return status;
}

/* What file.read gets for the first bytes of a file; for free(). NULL: no memory. */
static void *pack_read(const char *path, size_t *ret_len)
{
    Sherd__File__Request message = SHERD__FILE__REQUEST__INIT;
    char *absolute = path_absolute(path);
    void *args = NULL;
    if (!absolute)
        return NULL;
    message.path.data = (uint8_t *)absolute;
    message.path.len = strlen(absolute);
    message.length = READ_BYTES;
    *ret_len = sherd__file__request__get_packed_size(&message);
    args = malloc(*ret_len + 1);
    if (args)
        sherd__file__request__pack(&message, args);
    free(absolute);
    return args;
}

static int count_shards(const struct values *values, uint32_t *ret_n)
{
    struct instance in;
    int r = instance_open(values->instance, values->wait_ns, INSTANCE_READY, &in);
    if (r)
        return r;
    *ret_n = in.segment.geometry.n_shards;
    instance_close(&in);
    return 0;
}

static int bench(const struct values *values, const char *kind, struct bench_plan *plan)
{
    struct totals *totals = calloc(1, sizeof *totals);
    if (!totals)
        return command_error("bench: no memory");
    plan->until_ns = clock_now_ns() + values->seconds_ns;
    int status = run_clients(plan, values->clients, totals);
    if (values->json)
        json_print(totals_json(values, kind, totals));
    else
        print_people(totals);
    if (totals->n_twice || totals->n_lost)
        status = EXIT_WORK_FAILED;
    free(totals);
    int written = command_finish_output();
    return status ? status : written;
}

static const char *misuse(const struct values *values, const char *kind)
{
    if (strcmp(kind, "ping") != 0 && strcmp(kind, "mixed") != 0)
        return "what is measured is ping or mixed";
    if (values->clients < 1 || values->clients > CLIENTS_MAX)
        return "--clients must be 1 to 256";
    if (values->depth < 1 || values->depth > DEPTH_MAX)
        return "--depth must be 1 to 65536";
    if (values->file && strcmp(kind, "mixed") != 0)
        return "--file is for mixed";
    return NULL;
}

int bench_command(int argc, char **argv)
{
    struct values values = {
        .wait_ns = COMMAND_WAIT_NS, .clients = 1, .depth = 1, .seconds_ns = 5 * NS_PER_S};
    char **operands;
    int n = command_parse(&command, argc, argv, &values, &operands);
    if (n < 0)
        return command_exit_status(n);
    const char *wrong =
        n == 1 ? misuse(&values, operands[0]) : "it takes one operand: ping or mixed";
    if (wrong)
        return command_usage(&command, "%s", wrong);
    struct bench_plan plan = {.instance = values.instance,
        .wait_ns = values.wait_ns,
        .depth = values.depth,
        .does = {[BENCH_ping] = true,
            [BENCH_call] = strcmp(operands[0], "mixed") == 0,
            [BENCH_move] = strcmp(operands[0], "mixed") == 0,
            [BENCH_read] = values.file != NULL}};
    void *read_args = values.file ? pack_read(values.file, &plan.read_args_len) : NULL;
    if (values.file && !read_args)
        return command_error("bench: no memory");
    plan.read_args = read_args;
    int status = EXIT_WORK_FAILED;
    if (count_shards(&values, &plan.n_shards) == 0)
        status = bench(&values, operands[0], &plan);
    free(read_args);
    return status;
}
