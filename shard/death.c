/* SPDX-License-Identifier: MIT */
/*
 * What the supervisor does when a child has died, in this order, waiting for nobody: reap it;
 * finish the transition that it had begun; end the coroutines that it ran; raise its incarnation,
 * from which moment its peers may judge what it left; make every living peer look; have the
 * replacement forked. The words of the segment that this goes through are estate.c's.
 *
 * Orderings      first                     then           ordered by              if broken
 *   GLANCE: see hang.c
 *   WHO    a death reaped                  its pid        store release, orphans' an orphan waits for
 *                                                         acquire (judge.c)       a process long gone
 */
#include "shard/supervisor_inside.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/bug.h"
#include "shard/blame.h"
#include "shard/cgroup.h"
#include "shard/estate.h"
#include "shard/firewall.h"

/* "killed by signal 9 (Killed)"; a description of what waitpid() told. */
static const char *describe(int status, char *buf, size_t size)
{
    if (WIFSIGNALED(status))
        snprintf(buf, size, "signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(buf, size, "exit with status %d", WEXITSTATUS(status));
    return buf;
}

static bool exited_in_order(int status)
{
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void child_tell_peers(const struct child *dead)
{
    struct supervisor *s = dead->supervisor;

    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++)
        if (s->children[peer].pid != 0)
            estate_tell(&s->segment, dead->peer, peer, s->bell_fds[peer]);
}

static void note_death(struct child *child, bool crash, uint64_t now_ns)
{
    struct peer_control *control = segment_control(&child->supervisor->segment, child->peer);

    atomic_store_release(&control->pid, 0); /* WHO */
    show(&control->died_ns, now_ns);
    show(&control->deaths, control->deaths + 1);
    if (crash)
        show(&control->crashes, control->crashes + 1);
}

/* Of the call, or, where a shard is its own caller, of the local client's request in its ledger. 0:
 * there is no such. */
static uint64_t running_generation(
    const struct segment *seg, uint32_t home, uint32_t caller, uint32_t slot)
{
    if (home == caller)
        return home < seg->geometry.n_shards && slot < seg->geometry.n_ledger
                   ? segment_ledger(seg, home, slot)->word >> 8
                   : 0;
    return home < seg->n_peers && caller < seg->n_peers &&
                   slot < segment_call_slots(seg, caller, home)
               ? segment_serve(seg, home, caller, slot)->started >> 24
               : 0;
}

/* Which call was on the CPU: its coroutine may have been that of another shard's call. */
static void note_culprit(const struct child *child)
{
    const struct segment *seg = &child->supervisor->segment;
    struct peer_control *control = segment_control(seg, child->peer);
    struct crash_record record;
    uint64_t running = segment_part(seg, child->peer)->running, generation = 0;
    uint32_t home = running >> 56, caller = running >> 48 & 0xff, slot = running >> 32 & 0xffff;
    bool recorded = crash_record_read(segment_crash(seg, child->peer), &record) == 0 &&
                    record.incarnation == control->incarnation;

    if (running && !(recorded && record.flags & CRASH_OTHER_THREAD)) {
        generation = running_generation(seg, home, caller, slot);
        if ((uint32_t)generation != (uint32_t)running)
            generation = 0;
    }
    show(&control->crashed_home, home);
    show(&control->crashed_peer, caller);
    show(&control->crashed_slot, slot);
    show(&control->crashed_generation, generation);
    show(&control->crashed_incarnation, control->incarnation);
}

/* Nobody else writes the part of the dead. Returns whether it died within a transition. */
static bool finish_redo(const struct child *child)
{
    const struct segment *seg = &child->supervisor->segment;
    int r = firewall_open(seg, child->peer);

    if (r < 0)
        bug("can't mend the part of %s: %s", child->process,
            strerror(-r)); /* calls would be lost */
    bool was_under_way = estate_mend(seg, child->peer);
    crash_record_void(segment_crash(seg, child->peer));

    firewall_close(seg, child->peer);
    return was_under_way;
}

/* The new incarnation exists from here on, though its process does not yet. */
static void settle_estate(struct child *child, enum peer_state state)
{
    const struct segment *seg = &child->supervisor->segment;
    struct supervisor_head *head = segment_supervisor(seg);

    if (finish_redo(child))
        show(&head->redo_finished, head->redo_finished + 1);
    if (state == PEER_FAILED)
        registry_set_listening(child->supervisor->config.registry, child->peer, false);
    estate_pass_on(seg, child->peer, state);
    quiet_note(child);
    child_tell_peers(child);
}

void child_fail(struct child *child)
{
    child->due_ns = NEVER;
    estate_give_up(&child->supervisor->segment, child->peer);
    registry_set_listening(child->supervisor->config.registry, child->peer, false);
    child_tell_peers(child);
    supervisor_show_state(child->supervisor);
}

bool child_is_failed(const struct child *child)
{
    return segment_control(&child->supervisor->segment, child->peer)->state == PEER_FAILED;
}

static void log_death(const struct child *child, int status, bool crash, uint64_t now_ns, pid_t pid)
{
    const struct peer_control *control = segment_control(&child->supervisor->segment, child->peer);
    char how[96], when[48] = "at once";
    uint64_t delay_ms = (child->due_ns - now_ns) / 1000000;

    if (delay_ms > 0)
        snprintf(when, sizeof(when), "in %llu ms", (unsigned long long)delay_ms);
    log_line(child->supervisor->config.log, crash ? LOG_LEVEL_ERROR : LOG_LEVEL_WARNING,
        "%s %s: %s, pid %d, incarnation %u, %llu ms after its start; replaced %s", child->process,
        crash ? "crashed" : "was killed", describe(status, how, sizeof(how)), (int)pid,
        control->incarnation, (unsigned long long)((now_ns - control->forked_ns) / 1000000), when);
}

/* What it had to say itself. */
static void log_last_words(const struct child *child)
{
    const struct segment *seg = &child->supervisor->segment;
    struct crash_record record;
    char line[320], buf[SEGMENT_OWNER_TEXT];
    const char *owner;

    if (crash_record_read(segment_crash(seg, child->peer), &record) < 0 ||
        record.incarnation != segment_control(seg, child->peer)->incarnation)
        return;
    crash_record_line(&record, line, sizeof line);
    owner = segment_owner_text(seg, record.fault_address, buf);
    log_line(child->supervisor->config.log, LOG_LEVEL_ERROR, "%s, pid %d, %s: %s%s%s",
        child->process, record.pid, crash_kind_text(record.kind), line, owner ? ", in " : "",
        owner ? owner : "");
}

static void log_failure(const struct child *child, int status)
{
    const struct restart_limits *limits = &child->supervisor->config.limits->restart;
    char how[96];

    log_line(child->supervisor->config.log, LOG_LEVEL_ERROR,
        "%s crashed: %s; that was crash %u within %.0f s, so it is given up and the instance goes "
        "on "
        "without it",
        child->process, describe(status, how, sizeof(how)), limits->crashes,
        (double)limits->window_ns / 1e9);
}

/* A kill that comes with one more in the cgroup's count was the kernel's, for want of memory. */
static bool memory_ran_out(struct supervisor *s, int status)
{
    uint64_t n_before = s->n_oom_kills;

    s->n_oom_kills = cgroup_oom_kills(s->config.cgroup_root);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL || s->n_oom_kills <= n_before)
        return false;
    log_line(s->config.log, LOG_LEVEL_ERROR,
        "the kernel killed it, because its cgroup had no memory left: raise memory.max, or run "
        "fewer shards");
    return true;
}

/* ---- reports ---- */

#define REPORT_LOOK_NS (UINT64_C(20) * 1000000)

static void end_report(struct child *child)
{
    death_report_free(child->report);
    child->report = NULL;
}

/* Once with what is known soon, and again when the replacement has served somebody. */
static void write_report(struct child *child)
{
    struct supervisor *s = child->supervisor;
    const struct part_head *part = segment_part(&s->segment, child->peer);
    struct death_outcome *outcome = &child->outcome;
    int r;

    if (!child->reported) {
        outcome->number = s->n_reports++;
        outcome->redo_finished =
            segment_supervisor(&s->segment)->redo_finished != child->redo_before;
        outcome->up_ns = child->up ? part->ready_ns : 0;
    }
    outcome->served_ns = child->up ? atomic_load_relaxed(&part->served_ns) : 0; /* GLANCE */
    r = death_report_write(child->report, s->config.runtime_dir, s->config.instance, outcome);
    if (r < 0)
        log_line(s->config.log, LOG_LEVEL_WARNING, "no report of the death of %s: %s",
            child->process, strerror(-r));
    child->reported = true;
    if (r < 0 || outcome->served_ns || child_is_failed(child))
        end_report(child);
}

/* It may be idle for long; nobody waits for this. */
static bool has_served(const struct child *child)
{
    const struct part_head *part = segment_part(&child->supervisor->segment, child->peer);

    return child->up && atomic_load_relaxed(&part->served_ns) != 0; /* GLANCE */
}

static bool report_is_due(const struct child *child, uint64_t now_ns)
{
    bool settled = child->up || child_is_failed(child);

    return child->reported ? has_served(child)
                           : death_report_is_due(child->report, now_ns, settled);
}

void death_turn(struct supervisor *s, uint64_t now_ns, bool all)
{
    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++) {
        struct child *child = &s->children[peer];
        if (child->report && ((all && !child->reported) || report_is_due(child, now_ns)))
            write_report(child);
        if (all && child->report)
            end_report(child);
    }
}

uint64_t death_next_look_ns(const struct supervisor *s)
{
    uint64_t now_ns = supervisor_now_ns(), next_ns = NEVER;

    for (uint32_t peer = 0; peer < s->segment.n_peers; peer++)
        if (s->children[peer].report && !s->children[peer].reported)
            return now_ns + REPORT_LOOK_NS;
        else if (s->children[peer].report)
            next_ns = supervisor_next_second(now_ns);
    return next_ns;
}

static void begin_report(struct child *child, const struct death_facts *facts)
{
    struct supervisor *s = child->supervisor;

    if (child->report && !child->reported)
        write_report(child); /* as far as it is known */
    if (child->report)
        end_report(child);
    child->reported = false;
    child->redo_before = segment_supervisor(&s->segment)->redo_finished;
    child->report = death_report_new(facts);
}

/* One that should live has died. */
static void bury_and_replace(struct child *child, int status, pid_t pid)
{
    struct supervisor *s = child->supervisor;
    uint64_t due_ns, now_ns = supervisor_now_ns();
    bool out_of_memory = memory_ran_out(s, status);
    bool crash = restart_is_crash(status, out_of_memory) || child->hung;
    bool goes_on =
        restart_died(&child->restart, &s->config.limits->restart, crash, now_ns, &due_ns);
    char how[96];
    struct death_facts facts = {.segment = &s->segment,
        .registry = s->config.registry,
        .peer = child->peer,
        .process = child->process,
        .how = describe(status, how, sizeof(how)),
        .pid = pid,
        .crash = crash,
        .hung = child->hung,
        .out_of_memory = out_of_memory,
        .died_ns = now_ns};

    child->hung = false;
    note_death(child, crash, now_ns);
    if (crash)
        note_culprit(child);
    if (crash)
        blame_note(&s->segment, child->peer, (int64_t)now_ns);
    log_last_words(child);
    begin_report(child, &facts);
    if (s->stage == STAGE_STARTING && crash) {
        log_line(s->config.log, LOG_LEVEL_ERROR, "%s could not start: %s", child->process,
            describe(status, how, sizeof(how)));
        settle_estate(child, PEER_FAILED);
        leave_at_start(s);
    } else if (goes_on) {
        child->due_ns = due_ns;
        log_death(child, status, crash, now_ns, pid);
        settle_estate(child, PEER_DYING);
    } else {
        log_failure(child, status);
        settle_estate(child, PEER_FAILED);
        supervisor_show_state(s);
    }
}

/* It left by order, and comes back. Nothing is left of its crashes. */
static void replace_returned(struct child *child, pid_t pid)
{
    struct supervisor *s = child->supervisor;
    struct peer_control *control = segment_control(&s->segment, child->peer);

    atomic_store_release(&control->pid, 0); /* WHO */
    show(&control->died_ns, supervisor_now_ns());
    show(&control->restarts, control->restarts + 1);
    log_line(s->config.log, LOG_LEVEL_NOTICE, "%s left to be restarted: pid %d, incarnation %u",
        child->process, (int)pid, control->incarnation);
    child->restart = (struct restart){0};
    child->due_ns = supervisor_now_ns();
    settle_estate(child, PEER_DYING);
}

/* One that was told to leave has gone, or was not quick enough. */
static void note_leaving(struct child *child, int status)
{
    struct supervisor *s = child->supervisor;
    char how[96];

    note_death(child, false, supervisor_now_ns());
    if (s->stage == STAGE_LEAVING && !exited_in_order(status))
        log_line(s->config.log, LOG_LEVEL_WARNING, "%s did not leave in order: %s", child->process,
            describe(status, how, sizeof(how)));
    finish_redo(child);
}

void child_on_exit(void *opaque)
{
    struct child *child = opaque;
    struct supervisor *s = child->supervisor;
    bool returns = child->returns;
    pid_t pid = child->pid;
    int status;

    if (pid == 0 || !child_reap(child, false, &status))
        return;
    aio_set_fd_handler(s->ctx, child->pidfd, NULL, NULL, NULL, NULL, NULL);
    close(child->pidfd);
    child->pidfd = -1;
    child->pid = 0;
    child->up = false;
    child->returns = false;
    hang_forget(child);
    child->due_ns = NEVER;
    if (s->stage == STAGE_LEAVING || s->stage == STAGE_KILLING)
        note_leaving(child, status);
    else if (returns && exited_in_order(status))
        replace_returned(child, pid);
    else
        bury_and_replace(child, status, pid);
}
