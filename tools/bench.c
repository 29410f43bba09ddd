/* SPDX-License-Identifier: MIT */
/*
 * sherd bench - load from clients of its own; how fast, and how each request ended
 *
 * The clients go on through the deaths of shards and of the gateway. A request that ended twice, or
 * never, makes the command fail: so it is a judge too, beside `sherd audit`.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/file.pb-c.h"
#include "tools/bench_report.h"
#include "tools/clock.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/instance.h"
#include "tools/path.h"
#include "tools/text.h"

#define CLIENTS_MAX 256u
#define DEPTH_MAX   65536u
#define RATE_MAX    1000000000u
#define BLOCK_BYTES 4096u
#define WRITE_SPAN  ((uint64_t)64 * 1024 * 1024)

#define NOT_GIVEN       UINT64_MAX
#define DEPTH_NOT_GIVEN UINT32_MAX

struct values {
    const char *instance;
    int64_t wait_ns;
    struct remote remote;
    uint32_t clients;
    uint32_t depth;
    int64_t seconds_ns;
    uint32_t rate;
    uint64_t size;
    const char *file;
    uint64_t span;
    bool is_sequential;
    bool is_direct;
    bool overwrites;
    const char *plane;
    uint32_t spin_us;
    const char *args;
    int64_t timeout_ns;
    bool refuses;
    bool json;
};

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    REMOTE_OPTIONS(struct values, remote),
    {"clients", 0, "N", "how many clients, each with a connection (default: 1)", command_u32,
        offsetof(struct values, clients)},
    {"depth", 0, "D", "most requests that each has in flight (default: 1; with --rate: 64)",
        command_u32, offsetof(struct values, depth)},
    {"seconds", 0, "T", "how long they submit (default: 5)", command_seconds,
        offsetof(struct values, seconds_ns)},
    {"rate", 0, "R",
        "submit R requests a second, all together, whether earlier ones have ended or "
        "not",
        command_u32, offsetof(struct values, rate)},
    {"size", 0, "BYTES",
        "how much a ping carries, a block has, or an answer may have (default: 0; 4 KiB)",
        command_bytes, offsetof(struct values, size)},
    {"file", 0, "PATH", "the file below a root that is read or written", command_text,
        offsetof(struct values, file)},
    {"span", 0, "BYTES", "use the first BYTES of it (default: all; file-write: 64 MiB)",
        command_bytes, offsetof(struct values, span)},
    {"sequential", 0, NULL, "one block after the other, not at random", command_flag,
        offsetof(struct values, is_sequential)},
    {"direct", 0, NULL, "file-read, file-write: past the kernel's cache", command_flag,
        offsetof(struct values, is_direct)},
    {"overwrite", 0, NULL, "file-write: the file may have content, which is lost", command_flag,
        offsetof(struct values, overwrites)},
    {"plane", 0, "WHICH", "data: shared memory; control: messages (default: what can be had)",
        command_text, offsetof(struct values, plane)},
    {"spin", 0, "US", "have clients look at shared memory so long before they sleep (default: 0)",
        command_u32, offsetof(struct values, spin_us)},
    {"args", 0, "TEXT", "what is sent to SERVICE.METHOD (default: nothing)", command_text,
        offsetof(struct values, args)},
    {"timeout", 0, "SECONDS", "how long each request may take (default: for ever)", command_seconds,
        offsetof(struct values, timeout_ns)},
    {"refuse", 0, NULL, "have a shard that is behind refuse, instead of waiting for it",
        command_flag, offsetof(struct values, refuses)},
    {"json", 0, NULL, "print JSON", command_flag, offsetof(struct values, json)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd bench ping --clients 4 --depth 64 --seconds 10", "round trips to all shards in turn"},
    {"sherd bench ping --rate 10000", "how long they take at 10,000 a second, stalls included"},
    {"sherd bench file-read --file /srv/data/1 --depth 32", "blocks of 4 KiB at random"},
    {"sherd bench file-write --file /srv/data/new --size 64K --sequential", "a new file, in order"},
    {"sherd bench mixed --depth 32 --file /srv/data/1", "calls, moves and reads as well"},
    {"sherd bench sys.echo --args hello --rate 1000 --timeout 0.01 --refuse",
        "any method, with a deadline of 10 ms"},
    {"sherd bench ping --json | jq .latency_ns.p99", "one figure of it"},
    {0},
};

static const struct command command = {
    .name = "bench",
    .operands = "ping|file-read|file-write|mixed|SERVICE.METHOD",
    .summary = "Loads an instance with requests and shows how fast they ended, and how.",
    .details =
        "ping: round trips to all shards in turn. file-read, file-write: blocks of a file. "
        "mixed: pings,\ncalls from all shards to all, coroutines that move round all shards, "
        "and, with --file, reads.\nIt goes on when shards or the gateway die. Exit status 1 "
        "says that a request did not end\nexactly once, or that not one was done.",
    .options = options,
    .examples = examples,
};

/* What is measured. X(text, the works that it is made of) */
#define KINDS(X)                       \
    X("ping", 1u << BENCH_ping)        \
    X("file-read", 1u << BENCH_read)   \
    X("file-write", 1u << BENCH_write) \
    X("mixed", 1u << BENCH_ping | 1u << BENCH_call | 1u << BENCH_move)

/* 0: no such kind. */
static uint32_t works_of(const char *kind)
{
#define X(text, works)       \
    if (!strcmp(kind, text)) \
        return works;
    KINDS(X)
#undef X
    return strchr(kind, '.') ? 1u << BENCH_method : 0;
}

/* X(text, plane) */
#define PLANES(X)               \
    X("data", SHERD_PLANE_DATA) \
    X("control", SHERD_PLANE_CONTROL)

/* N_PLANES: no such plane. */
#define N_PLANES 3u

static uint32_t plane_of(const char *name)
{
    if (!name)
        return SHERD_PLANE_AUTO;
#define X(text, plane)       \
    if (!strcmp(name, text)) \
        return plane;
    PLANES(X)
#undef X
    return N_PLANES;
}

/* ---- the command ---- */

/* Starts them all and waits for them; an error of any is printed. Returns the exit status. */
static int run_clients(const struct bench_plan *plan, uint32_t n, struct bench_totals *ret)
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
        bench_totals_add(ret, clients[i]);
        if (clients[i]->error)
            status = command_error("bench: client %u: %s", i, clients[i]->error);
        bench_client_free(clients[i]);
    }
    ret->ran_ns = clock_now_ns() - begun_ns;
    return status;
}

/* An error is printed. Returns the exit status. */
static int open_client(const struct values *values, struct sherd_client **ret_client)
{
    struct sherd_client_options where = {.instance = values->instance, .wait_ns = values->wait_ns};
    char *error = NULL;
    remote_apply(&values->remote, &where);
    int r = sherd_client_open(&where, ret_client, &error);
    return r ? command_error_text(error, "the gateway", r) : EXIT_DONE;
}

static int count_shards_there(const struct values *values, uint32_t *ret_n)
{
    struct sherd_client *client;
    int status = open_client(values, &client);
    if (status)
        return status;
    *ret_n = sherd_client_n_shards(client);
    sherd_client_close(client);
    return EXIT_DONE;
}

static int count_shards(const struct values *values, uint32_t *ret_n)
{
    struct instance in;
    if (values->remote.url)
        return count_shards_there(values, ret_n);
    int r = instance_open(values->instance, values->wait_ns, INSTANCE_READY, &in);
    if (r)
        return r;
    *ret_n = in.segment.geometry.n_shards;
    instance_close(&in);
    return 0;
}

/* The size of a file, as a shard sees it; an error is printed. Returns the exit status. */
static int find_size(
    const struct values *values, const char *path, bool may_be_absent, uint64_t *ret_size)
{
    Sherd__File__Request message = SHERD__FILE__REQUEST__INIT;
    Sherd__File__StatReply *told = NULL;
    struct sherd_client *client = NULL;
    struct sherd_result result = {0};
    message.path.data = (uint8_t *)path;
    message.path.len = strlen(path);
    uint8_t *args = malloc(sherd__file__request__get_packed_size(&message));
    if (!args)
        return command_error("bench: no memory");
    struct sherd_request request = {.method = "file.stat", .args = args};
    request.args_len = sherd__file__request__pack(&message, args);
    int status = open_client(values, &client), r = status ? -ENOTCONN : 0;
    if (!r && (r = sherd_client_call(client, &request, &result)) < 0)
        status = command_error("bench: file.stat: %s", strerror(-r));
    if (!r && result.end == SHERD_END_DONE)
        told = sherd__file__stat_reply__unpack(NULL, result.len, result.data);
    else if (!r && !(may_be_absent && result.error == -ENOENT))
        status = command_error("bench: %.*s", (int)result.len, (const char *)result.data);
    *ret_size = told ? told->size : 0;
    if (told)
        sherd__file__stat_reply__free_unpacked(told, NULL);
    sherd_result_deinit(&result);
    sherd_client_close(client);
    free(args);
    return status;
}

/* How many blocks of the file there are to read or write. Returns the exit status. */
static int plan_file(const struct values *values, const char *kind, struct bench_plan *plan)
{
    uint64_t size = 0, span = values->span;
    bool is_write = plan->does[BENCH_write];
    int status = find_size(values, plan->path, is_write, &size);
    if (status)
        return status;
    if (is_write && size > 0 && !values->overwrites)
        return command_error("bench: %s has content; --overwrite says that it may go", plan->path);
    if (span == NOT_GIVEN)
        span = is_write ? WRITE_SPAN : size;
    if (!is_write && span > size)
        span = size;
    plan->n_blocks = span / plan->size;
    if (strcmp(kind, "mixed") == 0 && plan->n_blocks == 0)
        plan->n_blocks = 1; /* and its block is a short one */
    if (plan->n_blocks == 0)
        return command_error(
            "bench: %s: --size is larger than the %" PRIu64 " bytes to be used", plan->path, span);
    return EXIT_DONE;
}

/* What was asked for, as far as nothing has to be looked up. */
static struct bench_plan plan_of(const struct values *values, const char *kind)
{
    uint32_t works = works_of(kind);
    bool has_file = values->file != NULL;
    bool is_plain = works == 1u << BENCH_ping || works == 1u << BENCH_method;
    struct bench_plan plan = {
        .instance = values->instance,
        .remote = &values->remote,
        .wait_ns = values->wait_ns,
        .depth = values->depth != DEPTH_NOT_GIVEN ? values->depth
                 : values->rate                   ? 64
                                                  : 1,
        .n_clients = values->clients,
        .size = values->size != NOT_GIVEN ? (size_t)values->size
                : is_plain                ? 0
                                          : BLOCK_BYTES,
        .n_blocks = 1,
        .is_sequential = values->is_sequential,
        .is_direct = values->is_direct,
        .by_handle = works & (1u << BENCH_read | 1u << BENCH_write),
        .plane = plane_of(values->plane),
        .spin_ns = (int64_t)values->spin_us * NS_PER_US,
        .flags = values->refuses ? SHERD_REFUSE : 0,
        .timeout_ns = values->timeout_ns,
        .method = kind,
        .text = values->args,
        .every_ns = values->rate ? (int64_t)values->clients * NS_PER_S / values->rate : 0,
    };
    for (int work = 0; work < N_BENCH_WORK; work++)
        plan.does[work] = works >> work & 1;
    plan.does[BENCH_read] |= has_file && strcmp(kind, "mixed") == 0;
    return plan;
}

static int bench(const struct values *values, const char *kind, struct bench_plan *plan)
{
    struct bench_totals *totals = calloc(1, sizeof *totals);
    if (!totals)
        return command_error("bench: no memory");
    plan->begin_ns = clock_now_ns();
    plan->until_ns = plan->begin_ns + values->seconds_ns;
    int status = run_clients(plan, values->clients, totals);
    if (values->json)
        bench_print_json(kind, plan, totals);
    else
        bench_print_people(plan, totals);
    if (totals->n_twice || totals->n_lost)
        status = EXIT_WORK_FAILED;
    if (totals->took.n == 0 && totals->why_not)
        status = command_error("bench: not one was done: %s", totals->why_not);
    free(totals->why_not);
    free(totals);
    int written = command_finish_output();
    return status ? status : written;
}

static const char *misuse(const struct values *values, const char *kind)
{
    uint32_t works = works_of(kind);
    bool is_file = works & (1u << BENCH_read | 1u << BENCH_write);
    bool is_mixed = strcmp(kind, "mixed") == 0, has_file = values->file != NULL;
    if (!works)
        return "what is measured is ping, file-read, file-write, mixed or a SERVICE.METHOD";
    if (values->clients < 1 || values->clients > CLIENTS_MAX)
        return "--clients must be 1 to 256";
    if (values->depth < 1 || (values->depth > DEPTH_MAX && values->depth != DEPTH_NOT_GIVEN))
        return "--depth must be 1 to 65536";
    if (values->rate > RATE_MAX)
        return "--rate must be 1 to 1000000000";
    if (plane_of(values->plane) == N_PLANES)
        return "--plane is data or control";
    if (values->remote.url && plane_of(values->plane) == SHERD_PLANE_DATA)
        return "--plane data is for an instance here: it has no URL";
    if (values->args && !(works & 1u << BENCH_method))
        return "--args is for a SERVICE.METHOD";
    if (is_file && !has_file)
        return "which --file?";
    if (has_file && !is_file && !is_mixed)
        return "--file is for file-read, file-write and mixed";
    if (!has_file && (values->span != NOT_GIVEN || values->is_sequential))
        return "--span and --sequential are for a --file";
    if (values->is_direct && !is_file)
        return "--direct is for file-read and file-write";
    if (values->overwrites && !(works & 1u << BENCH_write))
        return "--overwrite is for file-write";
    if (values->size != NOT_GIVEN &&
        (values->size > SHERD_PAYLOAD_MAX || (is_file && !values->size)))
        return "--size is at most 1M, and of a block at least 1";
    return NULL;
}

/* Returns the exit status. */
static int prepare_and_run(const struct values *values, const char *kind)
{
    struct bench_plan plan = plan_of(values, kind);
    char *path = values->file ? path_absolute(values->file) : NULL;
    int status = EXIT_DONE;
    if (values->file && !path)
        return command_error("bench: %s: %s", values->file, strerror(errno));
    plan.path = path;
    if (count_shards(values, &plan.n_shards) != 0)
        status = EXIT_WORK_FAILED;
    if (!status && path)
        status = plan_file(values, kind, &plan);
    if (!status)
        status = bench(values, kind, &plan);
    free(path);
    return status;
}

int bench_command(int argc, char **argv)
{
    struct values values = {
        .wait_ns = COMMAND_WAIT_NS,
        .clients = 1,
        .depth = DEPTH_NOT_GIVEN,
        .seconds_ns = 5 * NS_PER_S,
        .size = NOT_GIVEN,
        .span = NOT_GIVEN,
    };
    char **operands;
    int n = command_parse(&command, argc, argv, &values, &operands);
    if (n < 0)
        return command_exit_status(n);
    const char *wrong =
        n == 1 ? misuse(&values, operands[0])
               : "it takes one operand: ping, file-read, file-write, mixed or a SERVICE.METHOD";
    if (wrong)
        return command_usage(&command, "%s", wrong);
    int status = remote_check(&values.remote, &command, values.instance);
    if (status)
        return status;
    return prepare_and_run(&values, operands[0]);
}
