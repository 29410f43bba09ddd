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

#include "runtime/atomic.h"
#include "shard/stall.h"
#include "tools/build_config.h"
#include "tools/clock.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/instance.h"
#include "tools/json.h"
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
    uint64_t stall_ns;
    uint64_t uptime_ns;
    double busy;                  /* share of the window; negative: not measured */
    uint64_t calls_out, calls_in; /* under way */
    char engine[16];
    char engine_flags[160];
};

struct view {
    const struct instance *in;
    bool is_orphaned; /* the supervisor is dead */
    struct supervisor_head head;
    struct process_view *processes; /* the supervisor, then by peer, the gateway first */
    size_t n_processes;
};

static uint64_t age_ns(uint64_t since_ns)
{
    uint64_t now_ns = (uint64_t)clock_now_ns();
    return since_ns && since_ns < now_ns ? now_ns - since_ns : 0;
}

/* A name in the segment, which its writer may be changing: cut at its room, and printable. */
static void read_name(const char *from, size_t bytes, char *ret)
{
    for (size_t i = 0; i < bytes; i++) {
        char c = i + 1 < bytes ? atomic_load_relaxed(&from[i]) : 0;
        ret[i] = c && (c < 32 || c == 127) ? '?' : c;
        if (!c)
            break;
    }
}

static void read_supervisor(struct view *view)
{
    const struct supervisor_head *head = segment_supervisor(&view->in->segment);
    view->head = (struct supervisor_head){
        .pid = atomic_load_relaxed(&head->pid),
        .state = atomic_load_relaxed(&head->state),
        .started_ns = atomic_load_relaxed(&head->started_ns),
        .ready_ns = atomic_load_relaxed(&head->ready_ns),
        .redo_finished = atomic_load_relaxed(&head->redo_finished),
        .knocks = atomic_load_relaxed(&head->knocks),
        .wake_latency_low = atomic_load_relaxed(&head->wake_latency_low),
        .spin_ns = atomic_load_relaxed(&head->spin_ns),
    };
    int fd = instance_open_supervisor(view->in);
    view->is_orphaned = fd == -ESRCH;
    if (fd >= 0)
        close(fd);
    view->processes[0] = (struct process_view){
        .role = ROLE_SUPERVISOR,
        .pid = view->head.pid,
        .state = view->is_orphaned ? "dead" : peer_state_text(view->head.state),
        .incarnation = 1,
        .core = -1,
        .uptime_ns = view->is_orphaned ? 0 : age_ns(view->head.started_ns),
        .busy = -1,
        .engine = "epoll",
    };
}

static void read_peer(const struct instance *in, uint32_t peer, struct process_view *ret)
{
    const struct segment *seg = &in->segment;
    const struct peer_control *control = segment_control(seg, peer);
    const struct part_head *part = segment_part(seg, peer);
    *ret = (struct process_view){
        .role = peer == segment_gateway(seg) ? ROLE_GATEWAY : ROLE_SHARD,
        .peer = peer,
        .pid = atomic_load_relaxed(&control->pid),
        .state = peer_state_text(atomic_load_relaxed(&control->state)),
        .incarnation = atomic_load_relaxed(&control->incarnation),
        .core = atomic_load_relaxed(&control->core),
        .deaths = atomic_load_relaxed(&control->deaths),
        .crashes = atomic_load_relaxed(&control->crashes),
        .restarts = atomic_load_relaxed(&control->restarts),
        .stall = atomic_load_relaxed(&control->stall),
        .stalls = atomic_load_relaxed(&control->stalls),
        .stall_ns = age_ns(atomic_load_relaxed(&control->stall_since_ns)),
        .uptime_ns = age_ns(atomic_load_relaxed(&control->forked_ns)),
        .busy = -1,
    };
    for (uint32_t other = 0; other < seg->n_peers; other++) {
        if (other == peer)
            continue;
        if (other != segment_gateway(seg))
            ret->calls_out += instance_calls_under_way(in, peer, other);
        if (ret->role == ROLE_SHARD)
            ret->calls_in += instance_calls_under_way(in, other, peer);
    }
    read_name(part->engine, sizeof ret->engine, ret->engine);
    read_name(part->engine_flags, sizeof ret->engine_flags, ret->engine_flags);
}

static uint64_t busy_ns(const struct segment *seg, uint32_t peer)
{
    return atomic_load_relaxed(&segment_counters(seg, peer)->busy_ns);
}

static int read_view(const struct instance *in, int64_t window_ns, struct view *ret)
{
    const struct segment *seg = &in->segment;
    uint64_t *busy_before = calloc(seg->n_peers, sizeof *busy_before);
    ret->in = in;
    ret->n_processes = seg->n_peers + 1;
    ret->processes = calloc(ret->n_processes, sizeof *ret->processes);
    if (!busy_before || !ret->processes) {
        free(busy_before);
        free(ret->processes);
        return -ENOMEM;
    }
    for (uint32_t peer = 0; peer < seg->n_peers; peer++)
        busy_before[peer] = busy_ns(seg, peer);
    int64_t since_ns = clock_now_ns();
    if (window_ns) {
        struct timespec window = clock_timespec(window_ns);
        nanosleep(&window, NULL);
    }
    int64_t measured_ns = clock_now_ns() - since_ns;

    read_supervisor(ret);
    for (uint32_t n = 0; n < seg->n_peers; n++) {
        uint32_t peer = instance_listed_peer(in, n);
        struct process_view *process = &ret->processes[n + 1];
        read_peer(in, peer, process);
        double busy = (double)(busy_ns(seg, peer) - busy_before[peer]) / (double)measured_ns;
        if (window_ns && measured_ns > 0)
            process->busy = busy < 1 ? busy : 1;
    }
    free(busy_before);
    return 0;
}

/* ---- for people ---- */

static const char *summary_state(const struct view *view)
{
    if (view->is_orphaned)
        return "its supervisor is dead, its processes leave within 5 s";
    return peer_state_text(view->head.state);
}

static void print_header(const struct view *view)
{
    const struct segment_super *super = segment_super(&view->in->segment);
    char bytes[TEXT_FIGURE], age[TEXT_FIGURE], started[64] = "";
    time_t created = (time_t)(super->created_ns / NS_PER_S);
    struct tm local;
    if (localtime_r(&created, &local))
        strftime(started, sizeof started, "%Y-%m-%d %H:%M:%S", &local);
    printf("instance %s: %s; %u shard%s, segment %s, started %s (%s ago), sherd %s\n\n",
        view->in->name, summary_state(view), view->in->segment.geometry.n_shards,
        view->in->segment.geometry.n_shards == 1 ? "" : "s",
        text_bytes(view->in->segment.bytes, bytes), started,
        text_duration(age_ns(view->head.started_ns), age), SHERD_VERSION);
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

static json_t *counters_json(const struct aio_counters *counters)
{
    json_t *o = json_object();
#define X(name, kind, unit, help) json_set_u64(o, #name, atomic_load_relaxed(&counters->name));
    AIO_COUNTERS(X)
#undef X
    return o;
}

static json_t *heap_json(const struct part_head *part)
{
    json_t *o = json_object();
    json_set_u64(o, "used_bytes", atomic_load_relaxed(&part->heap_used_bytes));
    json_set_u64(o, "high_bytes", atomic_load_relaxed(&part->heap_high_bytes));
    json_set_u64(o, "waits", atomic_load_relaxed(&part->heap_waits));
    json_set_u64(o, "quarantined_bytes", atomic_load_relaxed(&part->heap_quarantined_bytes));
    json_set_u64(o, "copied_bytes", atomic_load_relaxed(&part->payload_copied_bytes));
    json_set_u64(o, "in_place_bytes", atomic_load_relaxed(&part->payload_in_place_bytes));
    return o;
}

static json_t *clients_json(const struct part_head *part)
{
    json_t *o = json_object();
    json_set_u64(o, "sessions", atomic_load_relaxed(&part->sessions));
    json_set_u64(o, "requests_in_flight", atomic_load_relaxed(&part->requests_in_flight));
    json_set_u64(o, "requests_accepted", atomic_load_relaxed(&part->requests_accepted));
    json_set_u64(o, "requests_ended", atomic_load_relaxed(&part->requests_ended));
    return o;
}

static json_t *process_json(const struct view *view, const struct process_view *p)
{
    static const char *const roles[] = {"supervisor", "gateway", "shard"};
    const struct segment *seg = &view->in->segment;
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
    json_set_u64(o, "quiet_incarnation",
        atomic_load_relaxed(&segment_control(seg, p->peer)->quiet_incarnation));
    json_object_set_new(
        o, "stall", p->stall ? json_string(stall_state_text(p->stall)) : json_null());
    json_object_set_new(
        o, "stall_s", p->stall ? json_real((double)p->stall_ns / NS_PER_S) : json_null());
    json_set_u64(o, "stalls", p->stalls);
    json_set_u64(o, "calls_in", p->calls_in);
    json_set_u64(o, "calls_out", p->calls_out);
    json_object_set_new(o, "counters", counters_json(segment_counters(seg, p->peer)));
    json_object_set_new(o, "heap", heap_json(segment_part(seg, p->peer)));
    if (p->role == ROLE_GATEWAY)
        json_object_set_new(o, "clients", clients_json(segment_part(seg, p->peer)));
    return o;
}

static json_t *view_json(const struct view *view)
{
    const struct segment_super *super = segment_super(&view->in->segment);
    json_t *o = json_object();
    json_set_text(o, "instance", view->in->name);
    json_set_text(o, "version", SHERD_VERSION);
    json_set_text(o, "state", view->processes[0].state);
    json_set_u64(o, "shards", view->in->segment.geometry.n_shards);
    json_set_u64(o, "segment_bytes", view->in->segment.bytes);
    json_set_text(o, "directory", view->in->path);
    json_object_set_new(o, "started_unix_s", json_real((double)super->created_ns / 1e9));
    json_object_set_new(o, "uptime_s", json_real((double)age_ns(view->head.started_ns) / 1e9));
    json_object_set_new(o, "ready", json_boolean(view->head.ready_ns != 0));
    json_set_u64(o, "redo_finished", view->head.redo_finished);
    json_set_u64(o, "knocks", view->head.knocks);
    json_set_text(o, "wake_latency", view->head.wake_latency_low ? "low" : "default");
    json_set_u64(o, "spin_ns", view->head.spin_ns);
    json_t *processes = json_array();
    for (size_t i = 0; i < view->n_processes; i++)
        json_array_append_new(processes, process_json(view, &view->processes[i]));
    json_object_set_new(o, "processes", processes);
    return o;
}

/* For scripts: what an operator has to look after is no success. */
static bool is_whole(const struct view *view)
{
    return !view->is_orphaned && view->head.state != PEER_DEGRADED;
}

int status_command(int argc, char **argv)
{
    struct values values = {.wait_ns = COMMAND_WAIT_NS, .window_ns = -1};
    struct instance in;
    struct view view;
    char **operands;
    int n = command_parse(&command, argc, argv, &values, &operands);
    if (n < 0)
        return command_exit_status(n);
    if (instance_open(values.instance, values.wait_ns, INSTANCE_READY, &in))
        return EXIT_WORK_FAILED;
    int status = EXIT_DONE, worst = EXIT_DONE;
    if (values.window_ns < 0)
        values.window_ns = values.json ? 0 : DEFAULT_WINDOW_NS;
    if (read_view(&in, values.window_ns, &view)) {
        status = command_error("status: no memory");
    } else {
        worst = is_whole(&view) ? EXIT_DONE : EXIT_WORK_FAILED;
        if (values.json)
            status = json_print(view_json(&view));
        else
            print_people(&view);
        free(view.processes);
    }
    instance_close(&in);
    if (!status)
        status = command_finish_output();
    return status ? status : worst;
}
