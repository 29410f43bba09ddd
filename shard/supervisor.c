/* SPDX-License-Identifier: MIT */
#include "shard/geometry.h"
#include "shard/supervisor.h"
/*
 * supervisor_run() is a loop of: fork whoever is due; else one turn of the event loop, whose
 * callbacks only take notes; then act on the notes. So fork() happens in its frame and never in a
 * callback, and a child returns from it to main as if it had been the only thing there.
 *
 * The context is on epoll and is made before the first fork. A child closes its fd and forgets it:
 * nothing of it runs there.
 *
 * Orderings      first                  then            ordered by                 if broken
 *   READY  states of all, own pid   head.ready_ns   store release, acquire in  a tool finds an instance
 *                                                   rundir_find()              that is not up
 *   LEVEL  the log level            the doorbell    full barrier in the ring   a sleeping process keeps
 *                                                   and in the loop's wait     the old level
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/doorbell.h"
#include "shard/bells.h"
#include "shard/cgroup.h"
#include "shard/explain.h"
#include "shard/firewall.h"
#include "shard/io_depth.h"
#include "shard/method_table.h"
#include "shard/notify.h"
#include "shard/process.h"
#include "shard/rundir.h"
#include "shard/supervisor_inside.h"

#define MS UINT64_C(1000000)

static const struct stage_row {
    const char *text;
    bool replaces;
} stages[] = {
#define X(name, text, replaces) [STAGE_##name] = {text, replaces},
    STAGES(X)
#undef X
};

bool supervisor_replaces(enum stage stage)
{
    return stages[stage].replaces;
}

void supervisor_enter(struct supervisor *s, enum stage stage)
{
    assert(stage > s->stage);
    log_line(
        s->config.log, LOG_LEVEL_DEBUG, "%s, was %s", stages[stage].text, stages[s->stage].text);
    s->stage = stage;
}

/* ---- what children inherit ---- */

/* The segment is memory of the cgroup, and not all of it: half is left for everything else. */
static int plan_segment(struct supervisor *s, struct segment_geometry *ret_geometry,
    uint64_t *ret_bytes, char **ret_error)
{
    const struct supervisor_config *config = &s->config;
    uint64_t memory = cgroup_memory_bytes(config->cgroup_root), most = config->segment_bytes;
    uint64_t regions = registry_region_bytes(config->registry), all;
    int r;

    if (most > memory)
        return explain(ret_error, -ENOSPC,
            "a segment of %llu bytes does not fit the memory limit of this cgroup, %llu bytes",
            (unsigned long long)most, (unsigned long long)memory);
    r = segment_geometry_plan_fates(
        config->n_shards, most, config->fates_bytes, ret_geometry, ret_bytes);
    if (r == 0 && most == 0 && *ret_bytes > memory / 2) {
        most = memory / 2;
        r = segment_geometry_plan_fates(
            config->n_shards, most, config->fates_bytes, ret_geometry, ret_bytes);
        log_line(config->log, LOG_LEVEL_NOTICE,
            "the memory limit of this cgroup is %.1f MiB: the segment takes no more than half",
            (double)memory / (1024 * 1024));
    }
    if (r == -ENOSPC)
        return explain(ret_error, r,
            "a segment of %llu bytes is too small for %u shards; --segment-size has to be %llu "
            "at the least",
            (unsigned long long)most, config->n_shards, (unsigned long long)*ret_bytes);
    if (r == -ERANGE)
        return explain(ret_error, r,
            "--fates-memory: %llu bytes are not %zu, for the fates of %u requests, to 4 GiB",
            (unsigned long long)config->fates_bytes, SEGMENT_FATES_EACH * sizeof(struct fate),
            SEGMENT_FATES_EACH);
    if (r < 0)
        return explain(
            ret_error, r, "%u shards: 1 to %u are possible", config->n_shards, SEGMENT_MAX_SHARDS);
    all = segment_geometry_add(ret_geometry, regions);
    if (all > memory)
        return explain(ret_error, -ENOSPC,
            "services want %llu bytes of shared memory in each of %u shards; with the rest that "
            "does not fit the memory limit of this cgroup, %llu bytes",
            (unsigned long long)regions, config->n_shards, (unsigned long long)memory);
    *ret_bytes = all;
    return 0;
}

static int make_segment(struct supervisor *s, char **ret_error)
{
    const struct supervisor_config *config = &s->config;
    struct segment_geometry geometry;
    uint64_t bytes;
    int r;

    r = plan_segment(s, &geometry, &bytes, ret_error);
    if (r < 0)
        return r;
    r = segment_file_take_over(config->shm_dir, config->runtime_dir, bytes, ret_error);
    if (r < 0)
        return r;
    if (r == 1)
        log_line(config->log, LOG_LEVEL_WARNING,
            "the instance before died; its segment is kept as %s/crashed-1", config->runtime_dir);
    r = segment_file_create(config->shm_dir, config->runtime_dir, bytes, &s->file, ret_error);
    if (r < 0)
        return r;
    r = segment_init(&s->segment, s->file.base, bytes, &geometry, config->instance);
    if (r < 0)
        return explain(ret_error, r, "segment: %s", strerror(-r));
    method_table_write(&s->segment, config->registry);
    registry_write_plans(config->registry, &s->segment);
    return 0;
}

static int fill_head(struct supervisor *s, char **ret_error)
{
    struct supervisor_head *head = segment_supervisor(&s->segment);
    uint64_t ticks;
    int r = process_start_ticks(getpid(), &ticks);

    if (r < 0)
        return explain(ret_error, r, "/proc/self/stat: %s", strerror(-r));
    show(&head->pid, (int32_t)getpid());
    show(&head->state, (uint32_t)PEER_STARTING);
    show(&head->pid_start_ticks, ticks);
    show(&head->started_ns, s->began_ns);
    atomic_store_relaxed(&head->log_level, (uint32_t)s->config.log->level); /* LEVEL */
    show(&head->wake_latency_low, s->config.wake_latency_low ? 1u : 0u);
    return 0;
}

static int list_kept_fds(struct supervisor *s, char **ret_error)
{
    uint32_t n_bells = s->segment.n_peers + 1;

    s->n_keep_fds = n_bells + 1 + s->config.n_service_fds;
    s->keep_fds = calloc(s->n_keep_fds, sizeof(*s->keep_fds));
    if (!s->keep_fds)
        return explain(ret_error, -ENOMEM, "%s", strerror(ENOMEM));
    memcpy(s->keep_fds, s->bell_fds, n_bells * sizeof(*s->keep_fds));
    s->keep_fds[n_bells] = s->config.lock_fd;
    if (s->config.n_service_fds)
        memcpy(s->keep_fds + n_bells + 1, s->config.service_fds,
            s->config.n_service_fds * sizeof(*s->keep_fds));
    return 0;
}

/* *fd: 0: there is none; taken over. */
static int keep_for_gateway(struct supervisor *s, uint32_t kind, int *fd)
{
    int r = *fd ? fd_keep_add(s->keep, kind, segment_gateway(&s->segment), *fd) : 0;

    *fd = 0;
    return r;
}

static void close_given(const struct supervisor_config *config)
{
    if (config->listener_fd)
        close(config->listener_fd);
    if (config->secret_fd)
        close(config->secret_fd);
}

/* Who attached lives on with the supervisor, whatever dies below it. */
static int make_keep(struct supervisor *s, char **ret_error)
{
    int r = fd_keep_new(s->segment.n_peers, segment_gateway(&s->segment),
        s->segment.geometry.n_clients, s->config.log, &s->keep, ret_error);

    if (r < 0)
        return r;
    r = keep_for_gateway(s, 0, &s->config.listener_fd);
    if (r == 0)
        r = keep_for_gateway(s, 1, &s->config.secret_fd);
    return r < 0 ? explain(ret_error, r, "%s", strerror(-r)) : 0;
}

static int make_children(struct supervisor *s, char **ret_error)
{
    s->children = calloc(s->segment.n_peers, sizeof(*s->children));
    if (!s->children)
        return explain(ret_error, -ENOMEM, "%s", strerror(ENOMEM));
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++) {
        struct child *child = &s->children[peer];
        *child = (struct child){.supervisor = s, .peer = peer, .pidfd = -1};
        if (peer == segment_gateway(&s->segment))
            snprintf(child->process, sizeof(child->process), "gateway");
        else
            snprintf(child->process, sizeof(child->process), "shard %u", peer);
        segment_control(&s->segment, peer)->incarnation = 1;
    }
    return 0;
}

static uint64_t read_number(const char *path)
{
    unsigned long long value = 0;
    FILE *file = fopen(path, "re");

    if (!file)
        return 0;
    if (fscanf(file, "%llu", &value) != 1)
        value = 0;
    fclose(file);
    return value;
}

/* linux-aio contexts are sized to what is left of the machine's limit. */
static uint32_t plan_io_depth(uint32_t n_peers)
{
    return io_depth_plan(
        read_number("/proc/sys/fs/aio-max-nr"), read_number("/proc/sys/fs/aio-nr"), n_peers);
}

/* ---- its own loop ---- */

static void on_signal(void *opaque)
{
    struct supervisor *s = opaque;
    struct signalfd_siginfo info;

    while (read(s->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        if (info.ssi_signo == SIGHUP)
            s->reload = true;
        else if (info.ssi_signo == (uint32_t)ORDER_SIGNAL)
            operate_take(s, info.ssi_ptr);
        else
            s->n_stop_signals++;
}

static int watch_signals(struct supervisor *s, char **ret_error)
{
    sigset_t mask;

    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGHUP);
    sigaddset(&mask, ORDER_SIGNAL);
    if (sigprocmask(SIG_BLOCK, &mask, &s->old_mask) < 0)
        return explain(ret_error, -errno, "signals: %m");
    s->signal_fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0)
        return explain(ret_error, -errno, "signalfd: %m");
    return 0;
}

/* The timer only ends a wait; what is due is looked at after each turn. */
static void on_wake(void *opaque)
{
    (void)opaque;
}

static int make_loop(struct supervisor *s, char **ret_error)
{
    uint32_t own = s->segment.n_peers;
    struct doorbell bell = {
        .words = &segment_bell(&s->segment, own)->words, .fd = s->bell_fds[own]};
    struct aio_config config = {
        .engine = AIO_ENGINE_THREADS, .monitor = AIO_MONITOR_EPOLL, .doorbell = &bell};
    int r;

    r = watch_signals(s, ret_error);
    if (r < 0)
        return r;
    r = aio_context_new(&config, &s->ctx);
    if (r < 0)
        return explain(ret_error, r, "event loop: %s", strerror(-r));
    aio_timer_init(s->ctx, &s->wake, on_wake, s);
    r = aio_set_fd_handler(s->ctx, s->signal_fd, on_signal, NULL, NULL, NULL, s);
    if (r < 0)
        return explain(ret_error, r, "signalfd: %s", strerror(-r));
    r = fd_keep_start(s->keep, s->ctx);
    return r < 0 ? explain(ret_error, r, "kept fds: %s", strerror(-r)) : 0;
}

int supervisor_new(
    const struct supervisor_config *config, struct supervisor **ret_supervisor, char **ret_error)
{
    struct supervisor *s = calloc(1, sizeof(*s));
    int r;

    if (!s) {
        close(config->lock_fd);
        close_given(config);
        return explain(ret_error, -ENOMEM, "%s", strerror(ENOMEM));
    }
    *s = (struct supervisor){.config = *config,
        .file = {.fd = -1},
        .signal_fd = -1,
        .began_ns = supervisor_now_ns(),
        .stage_ends_ns = NEVER,
        .flush_ns = NEVER};
    s->alive_ns = notify_watchdog_ns() ? s->began_ns : NEVER;
    signal(SIGXFSZ,
        SIG_IGN); /* a limit on the size of files is an error of fallocate(), not a death */
    r = make_segment(s, ret_error);
    if (r == 0)
        r = bells_open(s->segment.n_peers + 1, &s->bell_fds, ret_error);
    if (r == 0)
        r = make_keep(s, ret_error);
    if (r == 0)
        r = list_kept_fds(s, ret_error);
    if (r == 0)
        r = fill_head(s, ret_error);
    if (r == 0)
        r = placement_begin(s, ret_error);
    if (r == 0)
        r = make_children(s, ret_error);
    if (r == 0)
        r = make_loop(s, ret_error);
    if (r == 0) {
        image_note(&s->segment, config->registry);
        r = segment_file_publish(&s->file, ret_error);
    }
    if (r < 0) {
        supervisor_free(s);
        return r;
    }
    r = firewall_raise(&s->segment, s->segment.n_peers);
    if (r < 0) {
        supervisor_free(s);
        return explain(ret_error, r, "can't protect the segment: %s", strerror(-r));
    }
    s->n_oom_kills = cgroup_oom_kills(config->cgroup_root);
    s->io_depth = plan_io_depth(s->segment.n_peers);
    rundir_announce(config->lock_fd);
    *ret_supervisor = s;
    return 0;
}

void supervisor_free(struct supervisor *s)
{
    if (!s)
        return;
    for (uint32_t peer = 0; s->children && peer < s->segment.n_peers; peer++)
        quiet_forget(&s->children[peer]);
    fd_keep_free(s->keep);
    close_given(&s->config);
    if (s->ctx) {
        timer_del(&s->wake);
        aio_set_fd_handler(s->ctx, s->signal_fd, NULL, NULL, NULL, NULL, NULL);
        aio_context_unref(s->ctx);
    }
    if (s->signal_fd >= 0) {
        close(s->signal_fd);
        sigprocmask(SIG_SETMASK, &s->old_mask, NULL);
    }
    bells_close(s->bell_fds, s->segment.n_peers + 1);
    segment_file_remove(&s->file);
    segment_file_close(&s->file);
    placement_end(s);
    free(s->keep_fds);
    for (uint32_t peer = 0; s->children && peer < s->segment.n_peers; peer++)
        death_report_free(s->children[peer].report);
    free(s->children);
    close(s->config.lock_fd);
    free(s);
}

/* ---- turns ---- */

static void log_ready(const struct supervisor *s, uint64_t now_ns)
{
    const struct part_head *part = segment_part(&s->segment, 0);
    const struct segment_geometry *geometry = &s->segment.geometry;

    log_line(s->config.log, LOG_LEVEL_NOTICE,
        "ready in %.1f ms: instance %s, %u %s, engine %s, segment %.1f MiB with %u call slots "
        "a pair of shards and %u a shard for the gateway, fates of %u requests of at "
        "most %u sessions in %.1f MiB",
        (double)(now_ns - s->began_ns) / 1e6, s->config.instance, geometry->n_shards,
        geometry->n_shards == 1 ? "shard" : "shards", part->engine,
        (double)s->segment.bytes / (1024 * 1024), geometry->slots_shard, geometry->slots_gateway,
        geometry->n_fates, segment_sessions_of(geometry->n_fates),
        (double)geometry->n_fates * sizeof(struct fate) / (1024 * 1024));
}

/* "degraded: shard 3 given up", as far as there is room. */
static void describe_failed(const struct supervisor *s, char *text, size_t size)
{
    size_t len = (size_t)snprintf(text, size, "degraded, given up:");

    for (uint32_t peer = 0; peer < s->segment.n_peers && len < size; peer++)
        if (child_is_failed(&s->children[peer]))
            len += (size_t)snprintf(text + len, size - len, " %s;", s->children[peer].process);
}

static bool is_degraded(const struct supervisor *s)
{
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++)
        if (child_is_failed(&s->children[peer]) ||
            s->children[peer].stall.state == STALL_UNKILLABLE)
            return true;
    return false;
}

static enum peer_state state_of(const struct supervisor *s)
{
    if (s->stage == STAGE_STARTING)
        return PEER_STARTING;
    if (s->stage >= STAGE_DRAINING || s->drained)
        return PEER_DRAINING;
    return is_degraded(s) ? PEER_DEGRADED : PEER_UP;
}

void supervisor_show_state(struct supervisor *s)
{
    struct supervisor_head *head = segment_supervisor(&s->segment);
    enum peer_state before = (enum peer_state)head->state, state = state_of(s);
    char text[128];

    show(&head->state, (uint32_t)state);
    if (s->stage != STAGE_RUNNING)
        return;
    if (state == PEER_DEGRADED) {
        describe_failed(s, text, sizeof(text));
        notify_status(text);
    } else if (state != before && before != PEER_STARTING) {
        notify_status(peer_state_text(state));
    }
    if (state != before && (state == PEER_DEGRADED || before == PEER_DEGRADED))
        log_line(s->config.log, state == PEER_DEGRADED ? LOG_LEVEL_ERROR : LOG_LEVEL_NOTICE,
            "the instance is %s", state == PEER_DEGRADED ? text : "whole again");
}

static void note_all_up(struct supervisor *s)
{
    struct supervisor_head *head = segment_supervisor(&s->segment);
    uint64_t now_ns = supervisor_now_ns();
    char status[64];

    supervisor_enter(s, STAGE_RUNNING);
    supervisor_show_state(s);
    atomic_store_release(&head->ready_ns, now_ns); /* READY */
    rundir_announce(s->config.lock_fd);
    snprintf(status, sizeof(status), "%u shards", s->config.n_shards);
    notify_ready(status);
    log_ready(s, now_ns);
}

static void reload(struct supervisor *s)
{
    struct supervisor_head *head = segment_supervisor(&s->segment);

    notify_reloading();
    if (s->config.reload && s->config.reload(s->config.opaque))
        operate_renew(s);
    atomic_store_relaxed(&head->log_level, (uint32_t)s->config.log->level); /* LEVEL */
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++) {
        struct doorbell bell = {
            .words = &segment_bell(&s->segment, peer)->words, .fd = s->bell_fds[peer]};
        doorbell_ring(&bell);
    }
    log_line(s->config.log, LOG_LEVEL_NOTICE, "reloaded: log level is %s",
        log_level_text(s->config.log->level));
    notify_ready("reloaded");
}

static void keep_house(struct supervisor *s, uint64_t now_ns)
{
    struct log *log = s->config.log;

    if (s->alive_ns <= now_ns) {
        notify_alive();
        s->alive_ns = now_ns + notify_watchdog_ns() / 2;
    }
    if (s->flush_ns <= now_ns)
        log_flush(log);
    if (log->repeats == 0)
        s->flush_ns = NEVER;
    else if (s->flush_ns == NEVER)
        s->flush_ns = now_ns + 1000 * MS;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void arm_wake(struct supervisor *s)
{
    uint64_t at_ns = earlier(earlier(s->watch_ns, s->hang_ns), earlier(s->alive_ns, s->flush_ns));

    at_ns = earlier(at_ns, earlier(leave_next_look_ns(s), operate_next_look_ns(s)));
    at_ns = earlier(at_ns, death_next_look_ns(s));
    if (supervisor_replaces(s->stage))
        for (uint32_t peer = 0; peer < s->segment.n_peers; peer++)
            at_ns = earlier(at_ns, s->children[peer].due_ns);
    timer_mod_ns(&s->wake, (int64_t)at_ns);
}

static void take_turn(struct supervisor *s)
{
    arm_wake(s);
    aio_poll(s->ctx, true);
    if (birth_note_up(s) && s->stage == STAGE_STARTING)
        note_all_up(s);
    if (s->reload) {
        s->reload = false;
        reload(s);
    }
    leave_turn(s);
    operate_turn(s);
    watch_turn(s, supervisor_now_ns());
    placement_turn(s, supervisor_now_ns());
    hang_turn(s, supervisor_now_ns());
    death_turn(s, supervisor_now_ns(), s->stage >= STAGE_LEAVING);
    keep_house(s, supervisor_now_ns());
}

int supervisor_run(struct supervisor *s, struct child_env *ret_env, child_main_fn **ret_main)
{
    while (s->stage != STAGE_GONE) {
        struct child *child = birth_next_due(s);
        if (!child) {
            take_turn(s);
        } else if (birth_fork(child)) {
            birth_become(child, ret_env, ret_main);
            return SUPERVISOR_BECOME_CHILD;
        }
    }
    log_flush(s->config.log);
    if (s->exit_status == 0)
        log_line(s->config.log, LOG_LEVEL_NOTICE, "stopped: instance %s", s->config.instance);
    return s->exit_status;
}
