/* SPDX-License-Identifier: MIT */
/*
 * Shards are pinned to cores of their own as long as there are enough. Which CPUs are allowed may
 * change while the instance runs: somebody writes to the cpuset of its cgroup, or takes a CPU off
 * line. The kernel then moves whoever may not stay, to anywhere, and tells nobody; so once a
 * second, when the supervisor is awake for its other look anyway, it compares its own mask, which
 * is never narrowed by itself, with what it was.
 *
 * Spinning before a sleep is worth it only where nobody else needs the core meanwhile.
 *
 * Orderings: LEVEL, see supervisor.c: a word that each process reads once a turn.
 */
#include "shard/supervisor_inside.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/atomic.h"
#include "shard/explain.h"

const struct topology_core *placement_core_of(const struct supervisor *s, uint32_t peer)
{
    if (!s->config.pin || peer == segment_gateway(&s->segment))
        return NULL;
    return topology_core_of(&s->topology, peer, s->config.n_shards);
}

static void decide_spin(struct supervisor *s)
{
    uint32_t n_cores = s->topology.n_cores;

    if (s->topology.quota_cores && s->topology.quota_cores < n_cores)
        n_cores = s->topology.quota_cores;
    atomic_store_relaxed(&segment_supervisor(&s->segment)->spin_ns,
        s->config.n_shards <= n_cores ? s->config.spin_ns : 0); /* LEVEL */
}

int placement_begin(struct supervisor *s, char **ret_error)
{
    if (sched_getaffinity(0, sizeof(s->allowed), &s->allowed) < 0)
        return explain(ret_error, -errno, "can't tell which CPUs are allowed: %m");
    s->topology = *s->config.topology;
    *s->config.topology = (struct topology){0};
    s->placed_ns = supervisor_next_second(supervisor_now_ns());
    decide_spin(s);
    return 0;
}

void placement_end(struct supervisor *s)
{
    topology_deinit(&s->topology);
}

/* Each thread of a process has a mask of its own. */
static int pin_threads(pid_t pid, const cpu_set_t *cpus)
{
    char path[48];
    int r = 0;
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    dir = opendir(path);
    if (!dir)
        return -errno;
    for (struct dirent *entry; (entry = readdir(dir));) {
        pid_t tid = atoi(entry->d_name);
        if (tid > 0 && sched_setaffinity(tid, sizeof(*cpus), cpus) < 0 && errno != ESRCH)
            r = -errno;
    }
    closedir(dir);
    return r;
}

/* One that is being forked just now has read the new topology already. */
static void place(struct child *child)
{
    struct supervisor *s = child->supervisor;
    const struct topology_core *core = placement_core_of(s, child->peer);
    struct peer_control *control = segment_control(&s->segment, child->peer);
    const cpu_set_t *cpus;
    int r;

    if (!s->config.pin || child->pid <= 0 || child->peer == segment_gateway(&s->segment))
        return;
    cpus = core ? &core->cpus : &s->allowed;
    if (child->thread)
        r = sched_setaffinity(child->pid, sizeof(*cpus), cpus) < 0 ? -errno : 0;
    else
        r = pin_threads(child->pid, cpus);
    if (r < 0)
        log_line(s->config.log, LOG_LEVEL_WARNING, "can't pin %s anew: %s", child->process,
            strerror(-r));
    show(&control->core, core && r == 0 ? core->first_cpu : -1);
}

static void place_all(struct supervisor *s, const struct topology *topology)
{
    topology_deinit(&s->topology);
    s->topology = *topology;
    decide_spin(s);
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++)
        place(&s->children[peer]);
    log_line(s->config.log, LOG_LEVEL_NOTICE,
        "the CPUs that are allowed have changed: %u %s for %u %s", s->topology.n_cores,
        s->topology.n_cores == 1 ? "core" : "cores", s->config.n_shards,
        s->config.n_shards == 1 ? "shard" : "shards");
}

void placement_turn(struct supervisor *s, uint64_t now_ns)
{
    struct topology topology;
    cpu_set_t allowed;

    if (now_ns < s->placed_ns)
        return;
    s->placed_ns = supervisor_next_second(now_ns);
    if (sched_getaffinity(0, sizeof(allowed), &allowed) < 0 || CPU_EQUAL(&allowed, &s->allowed))
        return;
    s->allowed = allowed;
    if (topology_read(s->config.cgroup_root, &topology) == 0)
        place_all(s, &topology);
}
