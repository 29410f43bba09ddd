/* SPDX-License-Identifier: MIT */
/*
 * sherd status - an instance's processes, from its segment
 *
 * Load is measured: the time each loop was busy is read twice, a window apart. What is printed is
 * taken at the second reading.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "runtime/instruments.h"
#include "shard/stall.h"
#include "tools/build_config.h"
#include "tools/clock.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/json.h"
#include "tools/look.h"
#include "tools/queue_view.h"
#include "tools/table.h"
#include "tools/text.h"

#define DEFAULT_WINDOW_NS (100 * NS_PER_MS)

struct values {
    const char *instance;
    int64_t wait_ns;
    int64_t window_ns; /* negative: not given */
    bool json;
};

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    {"window", 0, "SECONDS",
        "how long load is measured; 0: not at all (default: 0.1, with --json 0)", command_seconds,
        offsetof(struct values, window_ns)},
    {"json", 0, NULL, "print JSON, with every counter", command_flag,
        offsetof(struct values, json)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd status --instance demo", "a line a process: supervisor, gateway, shards"},
    {"sherd status --instance demo --json | jq '.processes[].pid'", "the numbers of all processes"},
    {0},
};

static const struct command command = {
    .name = "status",
    .operands = "",
    .summary = "Shows an instance's processes: number, core, state, incarnation, age and load.",
    .details = "It reads shared memory and asks nobody, so it works when the gateway is dead.",
    .options = options,
    .examples = examples,
};

/* ---- what is read ---- */

enum role { ROLE_SUPERVISOR, ROLE_GATEWAY, ROLE_SHARD };

struct process_view {
    enum role role;
    uint32_t peer; /* in the segment: a shard's number; not the supervisor's */
    int32_t pid;
    const char *state;
    uint32_t incarnation;
    int32_t core; /* -1: not pinned */
    uint32_t deaths;
    uint32_t crashes;
    uint32_t restarts;
    uint32_t stall; /* enum stall_state */
    uint32_t stalls;
    uint64_t quiet_incarnation;
    uint64_t stall_ns;
    uint64_t uptime_ns;
    double busy;                  /* share of the window; negative: not measured */
    uint64_t calls_out, calls_in; /* under way */
    char engine[16];
    char engine_flags[160];
};

struct view {
    const struct look *look;
    bool is_orphaned;               /* the supervisor is dead */
    struct view_record super, head; /* of the segment, of the supervisor */
    uint32_t state;                 /* the supervisor's */
    bool is_drained;                /* by order, and that is carried out everywhere */
    struct process_view *processes; /* the supervisor, then by peer, the gateway first */
    size_t n_processes;
};

static uint64_t age_ns(uint64_t since_ns)
{
    uint64_t now_ns = (uint64_t)clock_now_ns();
    return since_ns && since_ns < now_ns ? now_ns - since_ns : 0;
}

static void read_supervisor(struct view *view)
{
    view->is_orphaned = !view->look->supervisor;
    view->state = (uint32_t)look_word(&view->head, "state");
    view->processes[0] = (struct process_view){
        .role = ROLE_SUPERVISOR,
        .pid = (int32_t)look_word(&view->head, "pid"),
        .state = view->is_orphaned ? "dead" : peer_state_text(view->state),
        .incarnation = 1,
        .core = -1,
        .uptime_ns = view->is_orphaned ? 0 : age_ns(look_word(&view->head, "started_ns")),
        .busy = -1,
        .engine = "epoll",
    };
}

static void count_calls(const struct queue_reader *reader, uint32_t peer, struct process_view *ret)
{
    for (uint32_t other = 0; other < reader->n_peers; other++) {
        if (other == peer)
            continue;
        if (other < reader->n_shards)
            ret->calls_out += queue_view_pair(reader, peer, other, ALL_LANES).calls_under_way;
        if (ret->role == ROLE_SHARD)
            ret->calls_in += queue_view_pair(reader, other, peer, ALL_LANES).calls_under_way;
    }
}

static void read_peer(const struct look *look, const struct queue_reader *reader, uint32_t peer,
    struct process_view *ret)
{
    const struct segment_view *view = &look->view;
    struct view_record control, part;
    *ret = (struct process_view){.role = peer == view->n_shards ? ROLE_GATEWAY : ROLE_SHARD,
        .peer = peer,
        .state = "unknown",
        .core = -1,
        .busy = -1};
    count_calls(reader, peer, ret);
    if (segment_view_of_peer(view, peer, "head", 0, 0, &part)) {
        view_text(&part, "engine", ret->engine, sizeof ret->engine);
        view_text(&part, "engine_flags", ret->engine_flags, sizeof ret->engine_flags);
    }
    if (!segment_view_at(view, "control", 0, "peers", peer, 0, &control))
        return;
    ret->pid = (int32_t)look_word(&control, "pid");
    ret->state = peer_state_text((uint32_t)look_word(&control, "state"));
    ret->incarnation = (uint32_t)look_word(&control, "incarnation");
    ret->core = (int32_t)look_word(&control, "core");
    ret->deaths = (uint32_t)look_word(&control, "deaths");
    ret->crashes = (uint32_t)look_word(&control, "crashes");
    ret->restarts = (uint32_t)look_word(&control, "restarts");
    ret->stall = (uint32_t)look_word(&control, "stall");
    ret->stalls = (uint32_t)look_word(&control, "stalls");
    ret->stall_ns = age_ns(look_word(&control, "stall_since_ns"));
    ret->uptime_ns = age_ns(look_word(&control, "forked_ns"));
    ret->quiet_incarnation = look_word(&control, "quiet_incarnation");
}

static uint64_t busy_ns(const struct look *look, uint32_t peer)
{
    struct view_record counters;
    return segment_view_of_peer(&look->view, peer, "counters", 0, 0, &counters)
               ? look_word(&counters, "busy_ns")
               : 0;
}

/* As clients that watch are told: each process says so of itself. */
static bool find_drained(const struct view *view)
{
    const struct segment_view *seg = &view->look->view;
    struct view_record part;
    bool is_drained = view->state == PEER_DRAINING;

    for (uint32_t peer = 0; is_drained && peer <= seg->n_shards; peer++)
        is_drained = segment_view_of_peer(seg, peer, "head", 0, 0, &part) &&
                     look_word(&part, "drained") == 1;
    return is_drained;
}

/* What every instance has, whatever its version. */
static bool find_heads(struct view *view)
{
    return segment_view_at(&view->look->view, "super", 0, "super", 0, 0, &view->super) &&
           segment_view_at(&view->look->view, "control", 0, "supervisor", 0, 0, &view->head);
}

static int read_view(const struct look *look, int64_t window_ns, struct view *ret)
{
    uint32_t n_peers = look->view.n_shards + 1;
    uint64_t *busy_before = calloc(n_peers, sizeof *busy_before);
    struct queue_reader reader;
    ret->n_processes = n_peers + 1;
    ret->processes = calloc(ret->n_processes, sizeof *ret->processes);
    if (!busy_before || !ret->processes) {
        free(busy_before);
        free(ret->processes);
        return -ENOMEM;
    }
    for (uint32_t peer = 0; peer < n_peers; peer++)
        busy_before[peer] = busy_ns(look, peer);
    int64_t since_ns = clock_now_ns();
    if (window_ns) {
        struct timespec window = clock_timespec(window_ns);
        nanosleep(&window, NULL);
    }
    int64_t measured_ns = clock_now_ns() - since_ns;

    read_supervisor(ret);
    ret->is_drained = find_drained(ret);
    queue_reader_init(&reader, look);
    for (uint32_t n = 0; n < n_peers; n++) {
        uint32_t peer = look_listed_peer(look, n);
        struct process_view *process = &ret->processes[n + 1];
        read_peer(look, &reader, peer, process);
        double busy = (double)(busy_ns(look, peer) - busy_before[peer]) / (double)measured_ns;
        if (window_ns && measured_ns > 0)
            process->busy = busy < 1 ? busy : 1;
    }
    free(busy_before);
    return 0;
}

static const char *instance_state(const struct view *view)
{
    return view->is_orphaned ? "dead" : view->is_drained ? "drained" : peer_state_text(view->state);
}

/* ---- for people ---- */

static const char *summary_state(const struct view *view)
{
    if (view->is_orphaned)
        return "its supervisor is dead, its processes leave within 5 s";
    return instance_state(view);
}

static void print_header(const struct view *view)
{
    uint32_t n_shards = view->look->view.n_shards;
    char bytes[TEXT_FIGURE], age[TEXT_FIGURE], started[64] = "";
    time_t created = (time_t)(look_word(&view->super, "created_ns") / NS_PER_S);
    struct tm local;
    if (localtime_r(&created, &local))
        strftime(started, sizeof started, "%Y-%m-%d %H:%M:%S", &local);
    printf("instance %s: %s; %u shard%s, segment %s, started %s (%s ago), sherd %s\n\n",
        view->look->name, summary_state(view), n_shards, n_shards == 1 ? "" : "s",
        text_bytes(view->look->view.bytes, bytes), started,
        text_duration(age_ns(look_word(&view->head, "started_ns")), age), SHERD_VERSION);
}

static void print_row(struct table *t, const struct process_view *p)
{
    static const char *const roles[] = {"supervisor", "gateway", "shard"};
    char figure[TEXT_FIGURE];
    if (p->role == ROLE_SHARD)
        table_cell(t, "shard %u", p->peer);
    else
        table_cell(t, "%s", roles[p->role]);
    table_cell(t, "%d", p->pid);
    if (p->core < 0)
        table_cell(t, "-");
    else
        table_cell(t, "%d", p->core);
    if (p->stall)
        table_cell(t, "%s, %s", p->state, stall_state_text(p->stall));
    else
        table_cell(t, "%s", p->state);
    table_cell(t, "%u", p->incarnation);
    table_cell(t, "%u", p->deaths);
    table_cell(t, "%s", text_duration(p->uptime_ns, figure));
    if (p->busy < 0)
        table_cell(t, "-");
    else
        table_cell(t, "%.0f%%", p->busy * 100);
    table_cell(t, "%" PRIu64, p->calls_in);
    table_cell(t, "%" PRIu64, p->calls_out);
    table_cell(t, "%s%s%s", p->engine, *p->engine_flags ? ": " : "", p->engine_flags);
}

static void print_people(const struct view *view)
{
    static const char *const headers[] = {"PROCESS", "PID", "CORE", "STATE", "INC", "DEATHS",
        "UPTIME", "BUSY", "IN", "OUT", "ENGINE"};
    struct table t;
    print_header(view);
    table_init(&t, "<>><>>>>>><");
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        table_cell(&t, "%s", headers[i]);
    for (size_t i = 0; i < view->n_processes; i++)
        print_row(&t, &view->processes[i]);
    table_print(&t, stdout);
    table_deinit(&t);
}

/* ---- for programs ---- */

static json_t *counters_json(const struct look *look, uint32_t peer)
{
    struct view_record counters;
    json_t *o = json_object();
    if (!segment_view_of_peer(&look->view, peer, "counters", 0, 0, &counters))
        return o;
#define X(name, kind, unit, help) json_set_u64(o, #name, look_word(&counters, #name));
    AIO_COUNTERS(X)
#undef X
    return o;
}

/* X(key, field of a part's head) */
#define HEAP_FIGURES(X)                          \
    X(used_bytes, heap_used_bytes)               \
    X(high_bytes, heap_high_bytes)               \
    X(waits, heap_waits)                         \
    X(quarantined_bytes, heap_quarantined_bytes) \
    X(copied_bytes, payload_copied_bytes)        \
    X(in_place_bytes, payload_in_place_bytes)

#define REQUEST_FIGURES(X)                    \
    X(requests_in_flight, requests_in_flight) \
    X(requests_accepted, requests_accepted)   \
    X(requests_ended, requests_ended)

#define SET_FIGURE(key, field) json_set_u64(o, #key, look_word(part, #field));

static json_t *heap_json(const struct view_record *part)
{
    json_t *o = json_object();
    HEAP_FIGURES(SET_FIGURE)
    return o;
}

static json_t *clients_json(const struct view_record *part, enum role role)
{
    json_t *o = json_object();
    if (role == ROLE_GATEWAY)
        json_set_u64(o, "sessions", look_word(part, "sessions"));
    REQUEST_FIGURES(SET_FIGURE)
    return o;
}

static json_t *process_json(const struct view *view, const struct process_view *p)
{
    static const char *const roles[] = {"supervisor", "gateway", "shard"};
    struct view_record part;
    json_t *o = json_object();
    json_set_text(o, "role", roles[p->role]);
    if (p->role == ROLE_SHARD)
        json_set_u64(o, "shard", p->peer);
    json_set_u64(o, "pid", (uint64_t)p->pid);
    json_set_text(o, "state", p->state);
    json_set_u64(o, "incarnation", p->incarnation);
    json_object_set_new(o, "core", p->core < 0 ? json_null() : json_integer(p->core));
    json_set_text(o, "engine", p->engine);
    json_set_text(o, "engine_flags", p->engine_flags);
    json_object_set_new(o, "uptime_s", json_real((double)p->uptime_ns / 1e9));
    if (p->role == ROLE_SUPERVISOR)
        return o;
    json_object_set_new(o, "busy", p->busy < 0 ? json_null() : json_real(p->busy));
    json_set_u64(o, "deaths", p->deaths);
    json_set_u64(o, "crashes", p->crashes);
    json_set_u64(o, "restarts", p->restarts);
    json_set_u64(o, "quiet_incarnation", p->quiet_incarnation);
    json_object_set_new(
        o, "stall", p->stall ? json_string(stall_state_text(p->stall)) : json_null());
    json_object_set_new(
        o, "stall_s", p->stall ? json_real((double)p->stall_ns / NS_PER_S) : json_null());
    json_set_u64(o, "stalls", p->stalls);
    json_set_u64(o, "calls_in", p->calls_in);
    json_set_u64(o, "calls_out", p->calls_out);
    json_object_set_new(o, "counters", counters_json(view->look, p->peer));
    if (!segment_view_of_peer(&view->look->view, p->peer, "head", 0, 0, &part))
        return o;
    json_object_set_new(o, "heap", heap_json(&part));
    json_object_set_new(o, "clients", clients_json(&part, p->role));
    return o;
}

static json_t *view_json(const struct view *view)
{
    const struct look *look = view->look;
    json_t *o = json_object();
    json_set_text(o, "instance", look->name);
    json_set_text(o, "version", SHERD_VERSION);
    json_set_text(o, "state", instance_state(view));
    json_set_u64(o, "shards", look->view.n_shards);
    json_set_u64(o, "segment_bytes", look->view.bytes);
    json_set_text(o, "directory", look->dir ? look->dir : "");
    json_object_set_new(
        o, "started_unix_s", json_real((double)look_word(&view->super, "created_ns") / 1e9));
    json_object_set_new(
        o, "uptime_s", json_real((double)age_ns(look_word(&view->head, "started_ns")) / 1e9));
    json_object_set_new(o, "ready", json_boolean(look_word(&view->head, "ready_ns") != 0));
    json_set_u64(o, "redo_finished", look_word(&view->head, "redo_finished"));
    json_set_u64(o, "knocks", look_word(&view->head, "knocks"));
    json_set_text(
        o, "wake_latency", look_word(&view->head, "wake_latency_low") ? "low" : "default");
    json_set_u64(o, "spin_ns", look_word(&view->head, "spin_ns"));
    json_t *processes = json_array();
    for (size_t i = 0; i < view->n_processes; i++)
        json_array_append_new(processes, process_json(view, &view->processes[i]));
    json_object_set_new(o, "processes", processes);
    return o;
}

/* For scripts: what an operator has to look after is no success. */
static bool is_whole(const struct view *view)
{
    return !view->is_orphaned && view->state != PEER_DEGRADED;
}

int status_command(int argc, char **argv)
{
    struct values values = {.wait_ns = COMMAND_WAIT_NS, .window_ns = -1};
    struct look look;
    struct view view = {.look = &look};
    char **operands;
    int n = command_parse(&command, argc, argv, &values, &operands);
    if (n < 0)
        return command_exit_status(n);
    if (look_open(values.instance, values.wait_ns, LOOK_READY, &look))
        return EXIT_WORK_FAILED;
    int status = EXIT_DONE, worst = EXIT_DONE;
    if (values.window_ns < 0)
        values.window_ns = values.json ? 0 : DEFAULT_WINDOW_NS;
    if (!find_heads(&view)) {
        status = look_refuse(&look, "its description lacks what every instance has");
    } else if (read_view(&look, values.window_ns, &view)) {
        status = command_error("status: no memory");
    } else {
        worst = is_whole(&view) ? EXIT_DONE : EXIT_WORK_FAILED;
        if (values.json)
            status = json_print(view_json(&view));
        else
            print_people(&view);
        free(view.processes);
    }
    look_close(&look);
    if (!status)
        status = command_finish_output();
    return status ? status : worst;
}
