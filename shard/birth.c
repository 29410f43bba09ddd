/* SPDX-License-Identifier: MIT */
/*
 * How a process of the instance begins: its words in the commons are set as if it had been away and
 * missed everything; it is forked; it settles in; and once its own part says so, it is up.
 *
 * Orderings     first                      then          ordered by                if broken
 *   UP     the child's part, its ready_ns  incarnation   the child's store release, a peer that is up
 *                                                        this load acquire          is shown without
 *                                                                                   its engine
 *   FORK: see estate.c
 *   WHO, FAILED: see death.c; ORDER: see member.c
 */
#include "shard/supervisor_inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "shard/estate.h"

/* ---- forking ---- */

/* What it is to do as soon as it lives: the one before may have been told something else. */
static enum peer_order first_order(const struct child *child)
{
    const struct supervisor *s = child->supervisor;

    return s->drained || s->stage == STAGE_DRAINING ? ORDER_DRAIN : ORDER_RUN;
}

static void prepare_control(struct child *child)
{
    struct supervisor *s = child->supervisor;
    struct peer_control *control = segment_control(&s->segment, child->peer);
    const struct topology_core *core = placement_core_of(s, child->peer);

    show(&control->core, core ? core->first_cpu : -1);
    show(&control->forked_ns, supervisor_now_ns());
    atomic_store_release(&control->order, (uint32_t)first_order(child)); /* ORDER */
    atomic_store_release(&control->state, (uint32_t)PEER_STARTING);      /* FAILED */
    estate_prepare(&s->segment, child->peer);
}

static int end_at_once(const struct child_env *env)
{
    (void)env;
    return 1;
}

/* All that it keeps: what every child has, its own life_fd, and what is kept for it. NULL: no
 * memory. */
static int *list_fds(const struct child *child, const struct fd_keep_heir *keep, uint32_t *ret_n)
{
    const struct supervisor *s = child->supervisor;
    int *fds = calloc(s->n_keep_fds + keep->n_kept + 2, sizeof(*fds));
    uint32_t n = s->n_keep_fds;

    if (!fds)
        return NULL;
    memcpy(fds, s->keep_fds, n * sizeof(*fds));
    fds[n++] = child->life_fd;
    fds[n++] = keep->channel;
    for (uint32_t i = 0; i < keep->n_kept; i++)
        fds[n++] = keep->kept[i].fd;
    *ret_n = n;
    return fds;
}

int birth_describe(const struct child *child, bool copies, char *comm, struct spawn *ret_spawn,
    struct child_env *ret_env, child_main_fn **ret_main)
{
    const struct supervisor *s = child->supervisor;
    bool is_gateway = child->peer == segment_gateway(&s->segment);

    if (is_gateway)
        snprintf(comm, COMM_BYTES, "sherd-gateway");
    else
        snprintf(comm, COMM_BYTES, "sherd-shard-%u", child->peer % 1000);
    *ret_spawn = (struct spawn){
        .process = child->process,
        .comm = comm,
        .core = placement_core_of(s, child->peer),
        .registry = s->config.registry,
        .segment = &s->segment,
        .peer = child->peer,
    };

    *ret_env = (struct child_env){
        .segment = &s->segment,
        .registry = s->config.registry,
        .log = s->config.log,
        .bell_fds = s->bell_fds,
        .runtime_dir = s->config.runtime_dir,
        .instance = s->config.instance,
        .peer = child->peer,
        .incarnation = segment_control(&s->segment, child->peer)->incarnation,
        .supervisor_pid = segment_supervisor(&s->segment)->pid,
        .engine = s->config.engine,
        .io_depth = s->io_depth,
        .scan_mode = s->config.scan_mode,
        .no_rebalance = s->config.no_rebalance,
        .life_fd = child->life_fd,
        .client_bytes = s->config.client_bytes,
        .client_rate = s->config.client_rate,
        .listen_url = s->config.listen_url,
        .token_file = s->config.token_file,
        .operator_token_file = s->config.operator_token_file,
        .extra = s->config.shard_extra,
        .sandbox = s->config.sandbox,
    };
    *ret_main = is_gateway ? s->config.gateway_main : s->config.shard_main;
    return fd_keep_inherit(s->keep, child->peer, copies, &ret_env->keep);
}

void birth_become(struct child *child, struct child_env *ret_env, child_main_fn **ret_main)
{
    struct log *log = child->supervisor->config.log;
    char comm[COMM_BYTES], *error = NULL;
    struct spawn spawn;

    int *fds = NULL, r = birth_describe(child, false, comm, &spawn, ret_env, ret_main);

    if (r == 0)
        spawn.keep_fds = fds = list_fds(child, &ret_env->keep, &spawn.n_keep_fds);
    r = fds ? spawn_settle(&spawn, log, &error) : -ENOMEM;
    if (r < 0) {
        log_line(log, LOG_LEVEL_ERROR, "can't begin: %s", error ? error : "no memory");
        *ret_main = end_at_once;
    }
    free(fds);
    free(error);
}

/* It can't be forked now: given up where it never will be, else tried again later. */
static void put_off(struct child *child, int error, const char *why)
{
    struct supervisor *s = child->supervisor;

    log_line(s->config.log, LOG_LEVEL_ERROR, "can't fork %s: %s", child->process,
        why ? why : strerror(-error));
    if (s->stage == STAGE_STARTING) {
        child_fail(child);
        leave_at_start(s);
    } else if (error == -EBUSY) {
        child_fail(child);
    } else {
        child->due_ns = supervisor_now_ns() + RESTART_DELAY_MAX_NS;
    }
}

/* In the parent. A child whose death would not be seen is ended, and tried again. */
static int watch(struct child *child, pid_t pid)
{
    struct supervisor *s = child->supervisor;
    int status,
        r = aio_set_fd_handler(s->ctx, child->pidfd, child_on_exit, NULL, NULL, NULL, child);

    if (r < 0) {
        child->pid = pid;
        child_kill(child);
        child_reap(child, true, &status);
        close(child->pidfd);
        child->pidfd = -1;
        child->pid = 0;
        return r;
    }
    child->pid = pid;
    atomic_store_release(&segment_control(&s->segment, child->peer)->pid, (int32_t)pid); /* WHO */
    return 0;
}

bool birth_fork(struct child *child)
{
    char *error = NULL;
    pid_t pid = 0;
    int r;

    prepare_control(child);
    fd_keep_prepare(child->supervisor->keep, child->peer);
    restart_began(&child->restart, supervisor_now_ns());
    child->due_ns = NEVER;
    r = quiet_open(child, &error);
    if (r == 0)
        r = child_begin(child, &pid, &error);
    if (r == 1)
        return true;
    quiet_close_own_end(child);
    if (r == 0)
        r = watch(child, pid);
    if (r < 0)
        put_off(child, r, error);
    free(error);
    return false;
}

struct child *birth_next_due(const struct supervisor *s)
{
    uint64_t now_ns = supervisor_now_ns();

    if (!supervisor_replaces(s->stage))
        return NULL;
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++)
        if (s->children[peer].due_ns <= now_ns)
            return &s->children[peer];
    return NULL;
}

/* ---- being up ---- */

static bool is_ready(const struct child *child)
{
    const struct segment *seg = &child->supervisor->segment;

    return atomic_load_acquire(&segment_part(seg, child->peer)->incarnation) == /* UP */
           segment_control(seg, child->peer)->incarnation;
}

/* The core was promised at the fork, and may have been gone by then. */
static void note_core(const struct child *child, struct peer_control *control)
{
    const struct topology_core *core = placement_core_of(child->supervisor, child->peer);
    cpu_set_t cpus;

    if (core && sched_getaffinity(child->pid, sizeof(cpus), &cpus) == 0 &&
        !CPU_EQUAL(&cpus, &core->cpus))
        show(&control->core, -1);
}

static void note_up(struct child *child)
{
    struct supervisor *s = child->supervisor;
    struct peer_control *control = segment_control(&s->segment, child->peer);
    bool drains = child->peer == segment_gateway(&s->segment) && control->order == ORDER_DRAIN;

    child->up = true;
    note_core(child, control);
    atomic_store_release(
        &control->state, (uint32_t)(drains ? PEER_DRAINING : PEER_UP)); /* FAILED */
    supervisor_show_state(s);
    if (control->died_ns)
        log_line(s->config.log, LOG_LEVEL_NOTICE,
            "%s is up again: pid %d, incarnation %u, %.1f ms after the end of the one before",
            child->process, control->pid, control->incarnation,
            (double)(supervisor_now_ns() - control->died_ns) / 1e6);
}

bool birth_note_up(struct supervisor *s)
{
    uint32_t n_up = 0;

    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++) {
        struct child *child = &s->children[peer];
        if (child->pid > 0 && !child->up && is_ready(child))
            note_up(child);
        n_up += child->up;
    }
    return n_up == s->segment.n_peers;
}
