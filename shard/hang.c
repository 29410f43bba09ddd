/* SPDX-License-Identifier: MIT */
/*
 * The supervisor's look at loops that may hang. It reads each child's counters, some words of
 * shared memory; /proc only of who was awake and made no progress since the look before. It looks
 * often while anybody is busy, else twice a second: a callback that begins while all sleep may have
 * run for half a second before its time begins to count.
 *
 * What is found is shown in the control words, recorded by a helper (stall_probe.h), logged, and in
 * the end killed. That is a crash, not a death: nobody but the process is to blame, and a request
 * that makes it hang must not be run again for ever.
 *
 * One that the kernel keeps (in a D state that SIGKILL does not end) still owns its part, so its
 * replacement waits, and so do its callers, each until its deadline. Its state says so. Who killed
 * it does not matter: a loop that sleeps though its bell was rung is looked at, too, and is a
 * zombie then of which other threads are left.
 *
 * Orderings    first     then     ordered by                  if broken
 *   GLANCE     nothing   nothing  nothing: looks, some time   none: a look too late
 *                                 apart, must agree
 */
#include "shard/supervisor_inside.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "runtime/atomic.h"
#include "shard/stall_probe.h"
#include "shard/thread_look.h"

#define LOOKS_UNTIL_REPORT 4u
#define LOOK_MIN_NS        (UINT64_C(10) * 1000 * 1000)
#define LOOK_MAX_NS        (UINT64_C(500) * 1000 * 1000)

static struct stall_limits limits_of(const struct supervisor *s)
{
    struct stall_limits limits = {.report_ns = s->config.limits->stall_report_ns,
        .replace_ns = s->config.limits->stall_replace_ns};
    uint64_t least_ns = limits.report_ns;

    if (!least_ns || (limits.replace_ns && limits.replace_ns < least_ns))
        least_ns = limits.replace_ns;
    limits.look_ns = least_ns / LOOKS_UNTIL_REPORT;
    if (limits.look_ns < LOOK_MIN_NS)
        limits.look_ns = LOOK_MIN_NS;
    if (limits.look_ns > LOOK_MAX_NS)
        limits.look_ns = LOOK_MAX_NS;
    return limits;
}

/* ---- looking ---- */

/* Whatever ends or begins a callback is in one of these. */
uint64_t hang_progress(const struct supervisor *s, uint32_t peer)
{
    const struct aio_counters *counters = segment_counters(&s->segment, peer);

    return atomic_load_relaxed(&counters->polls) +          /* GLANCE */
           atomic_load_relaxed(&counters->bh_run) +         /* GLANCE */
           atomic_load_relaxed(&counters->timers_fired) +   /* GLANCE */
           atomic_load_relaxed(&counters->fds_dispatched) + /* GLANCE */
           atomic_load_relaxed(&counters->co_switches);     /* GLANCE */
}

/* What the kernel tells a parent, which costs a system call and no look at /proc. */
static void note_stops(struct child *child)
{
    siginfo_t info = {0};

    while (waitid(P_PID, (id_t)child->pid, &info, WSTOPPED | WCONTINUED | WNOHANG) == 0 &&
           info.si_pid != 0) {
        child->stopped = info.si_code != CLD_CONTINUED;
        info.si_pid = 0;
    }
}

static void look_into_proc(const struct child *child, struct stall_look *look)
{
    struct thread_look thread;

    if (thread_look(child->pid, &thread) < 0)
        return;
    look->seen = true;
    look->state = thread.state;
    look->traced = thread.traced && child->helper == 0;
    look->queued_ns = thread.queued_ns;
}

static void look_at(struct child *child, struct stall_look *ret)
{
    const struct aio_counters *counters =
        segment_counters(&child->supervisor->segment, child->peer);

    note_stops(child);
    *ret = (struct stall_look){.now_ns = supervisor_now_ns(),
        .progress = hang_progress(child->supervisor, child->peer),
        .asleep = atomic_load_relaxed(&counters->asleep) != 0 && /* GLANCE */
                  !watch_is_rung(child),
        .stopped = child->stopped};
    if (stall_needs_look(&child->stall, ret))
        look_into_proc(child, ret);
}

/* ---- acting ---- */

static void begin_probe(struct child *child)
{
    struct supervisor *s = child->supervisor;
    struct stall_target target = {.segment = &s->segment,
        .peer = child->peer,
        .pid = child->pid,
        .callback_ns = child->stall.in_callback_ns};
    pid_t helper = child->helper == 0 ? stall_probe_begin(&target) : 0;

    if (helper < 0)
        log_line(s->config.log, LOG_LEVEL_ERROR, "can't look at %s, which hangs: %s",
            child->process, strerror(-helper));
    else if (helper > 0)
        child->helper = helper;
}

static void log_stall(const struct child *child)
{
    struct log *log = child->supervisor->config.log;
    struct crash_record record;
    char line[320];

    if (crash_record_read(segment_crash(&child->supervisor->segment, child->peer), &record) < 0 ||
        record.kind != CRASH_OF_STALL || record.pid != child->pid)
        return;
    crash_record_line(&record, line, sizeof line);
    log_line(log, LOG_LEVEL_WARNING, "%s, pid %d, hangs in one callback for %.1f s: %s",
        child->process, record.pid, (double)record.callback_ns / 1e9, line);
    if (record.flags & CRASH_NO_REGISTERS)
        log_line(log, LOG_LEVEL_DEBUG, "%s: its registers were not taken", child->process);
    else
        log_line(log, LOG_LEVEL_DEBUG, "%s was stopped for %.3f ms to look at it", child->process,
            (double)record.stopped_ns / 1e6);
}

static void end_probe(struct child *child)
{
    if (child->helper == 0 || stall_probe_ended(child->helper) == 0)
        return;
    child->helper = 0;
    log_stall(child);
}

static void replace(struct child *child)
{
    log_line(child->supervisor->config.log, LOG_LEVEL_ERROR,
        "%s, pid %d, is %s in one callback for %.1f s: killed", child->process, (int)child->pid,
        stall_state_text(child->stall.state ? child->stall.state : (uint32_t)STALL_BLOCKED),
        (double)child->stall.in_callback_ns / 1e9);
    child->hung = true;
    child_kill(child);
}

static void act(struct child *child, enum stall_verdict verdict)
{
    struct supervisor *s = child->supervisor;
    struct peer_control *control = segment_control(&s->segment, child->peer);

    switch (verdict) {
    case STALL_GOES_ON:
        break;
    case STALL_REPORT:
        show(&control->stalls, control->stalls + 1);
        begin_probe(child);
        break;
    case STALL_OVER:
        log_line(s->config.log, LOG_LEVEL_NOTICE, "%s, pid %d, goes on", child->process,
            (int)child->pid);
        break;
    case STALL_REPLACE:
        replace(child);
        break;
    case STALL_WONT_DIE:
        log_line(s->config.log, LOG_LEVEL_ERROR,
            "%s, pid %d, was killed, but the kernel keeps it: its replacement waits until it is "
            "gone",
            child->process, (int)child->pid);
        supervisor_show_state(s);
        break;
    }
}

/* Whether it has to be looked at again soon. */
static bool attend(struct child *child, const struct stall_limits *limits)
{
    struct peer_control *control = segment_control(&child->supervisor->segment, child->peer);
    uint64_t progress = child->stall.progress;
    struct stall_look look;

    end_probe(child);
    look_at(child, &look);
    act(child, stall_judge(&child->stall, &look, limits));
    if (control->stall != child->stall.state) {
        show(&control->stall_since_ns, look.now_ns - child->stall.in_callback_ns);
        show(&control->stall, child->stall.state);
    }
    return !look.asleep || look.progress != progress || child->helper != 0;
}

void hang_turn(struct supervisor *s, uint64_t now_ns)
{
    struct stall_limits limits = limits_of(s);
    bool busy = false;

    if (now_ns < s->hang_ns)
        return;
    if (supervisor_replaces(s->stage))
        for (uint32_t peer = 0; peer < s->segment.n_peers; peer++)
            if (s->children[peer].up && !s->children[peer].thread)
                busy |= attend(&s->children[peer], &limits);
    s->hang_ns = busy ? now_ns + limits.look_ns : supervisor_next_second(now_ns);
}

void hang_forget(struct child *child)
{
    const struct segment *seg = &child->supervisor->segment;

    if (child->helper) { /* what it looks at is gone; what it has half written is made void */
        kill(child->helper, SIGKILL);
        waitpid(child->helper, NULL, 0);
    }
    child->helper = 0;
    child->stopped = false;
    child->stall = (struct stall){0};
    show(&segment_control(seg, child->peer)->stall, (uint32_t)STALL_NONE);
}
