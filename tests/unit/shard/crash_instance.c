/* SPDX-License-Identifier: MIT */
#include "tests/unit/shard/crash_instance.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "shard/arena.h"
#include "shard/audit.h"
#include "shard/mesh_inside.h"
#include "shard/order.h"
#include "shard/rundir.h"
#include "shard/service_home.h"
#include "shard/supervisor_inside.h"
#include "tests/unit/shard/crash_rest.h"

#define DEADLINE_NS (INT64_C(60) * 1000000000)

/* Between two looks a millisecond apart: the machine, or who looks, did not run. */
#define STANDSTILL_NS INT64_C(100000000)
#define SLOW_NS       (INT64_C(1000000000)) /* is worth a word */

/* What the children's main functions know beside their environment. */
static struct crash_instance *instance_of_all;

/* ---- what fails ---- */

static void copy_log(const struct crash_instance *instance)
{
    char text[4096];
    off_t end = lseek(instance->log_fd, 0, SEEK_END), at = end > 16384 ? end - 16384 : 0;
    ssize_t n;

    while ((n = pread(instance->log_fd, text, sizeof(text), at)) > 0 &&
           write(STDERR_FILENO, text, (size_t)n) == n)
        at += n;
}

/* The instance ends with the one who waits for it. */
__attribute__((noreturn, format(printf, 3, 4))) static void fail(
    struct crash_instance *instance, const char *what, const char *format, ...)
{
    va_list args;

    fprintf(stderr, "--- log of instance %s ---\n", instance->name);
    copy_log(instance);
    fprintf(stderr, "--- %s: ", what);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "; %u went wrong%s%s\n", atomic_load(&instance->board->n_wrong),
        instance->board->wrong[0] ? ", first: " : "", instance->board->wrong);
    for (uint32_t peer = 0; instance->seg.base && peer < instance->seg.n_peers; peer++) {
        pid_t pid = segment_control(&instance->seg, peer)->pid;
        if (pid > 0)
            kill(pid, SIGKILL);
    }
    if (instance->supervisor > 0)
        kill(instance->supervisor, SIGKILL);
    _exit(1);
}

/* ---- processes ---- */

/* Begins what that process is there for. 0 or -errno. */
static int begin(struct crash_instance *instance, const struct child_env *env, struct mesh *mesh,
    struct load *load)
{
    if (instance->misbehave && env->peer == CRASH_DOOMED && env->incarnation == 1)
        instance->misbehave(env); /* which leaves its replacement what it made of its part */
    return load_start(load, mesh, env->peer, instance->board);
}

static int live(const struct child_env *env, const struct registry *registry, enum fuse_role role)
{
    struct crash_instance *instance = instance_of_all;
    struct member *member = NULL;
    void *states[1] = {NULL};
    struct service_home homes[1] = {0};
    struct load load = {0};
    int status = 1;

    prctl(PR_SET_PDEATHSIG, 0);
    if (role < N_FUSE_ROLES)
        fuse_watch(instance->fuse, role, env->segment);
    if (member_new(env, states, &member) == 0 &&
        (!registry || registry_start(registry, homes, states, NULL) == 0) &&
        (member_ready(member), begin(instance, env, member_mesh(member), &load)) == 0) {
        status = member_run(member);
        if (segment_control(env->segment, env->peer)->order != ORDER_RETURN)
            load_check_end(&load); /* else its replacement makes the round once more */
    }
    return status;
}

static int live_as_shard(const struct child_env *env)
{
    return live(env, env->registry, env->peer == CRASH_DOOMED ? FUSE_SHARD : N_FUSE_ROLES);
}

static int live_as_gateway(const struct child_env *env)
{
    return live(env, NULL, FUSE_GATEWAY);
}

static int supervise(struct crash_instance *instance)
{
    struct supervisor *supervisor;
    struct topology topology;
    struct child_env env;
    child_main_fn *child_main;
    struct log log;
    char *error = NULL, *runtime_dir;
    int lock_fd, r;

    log_init(&log, instance->log_fd, LOG_LEVEL_NOTICE);
    log.journal = false;
    log_process(&log, "supervisor");
    r = rundir_claim(instance->name, &runtime_dir, &lock_fd, &error);
    if (r == 0)
        r = topology_read("", &topology);
    if (r == 0)
        r = supervisor_new(&(struct supervisor_config){.instance = instance->name,
                               .runtime_dir = runtime_dir,
                               .lock_fd = lock_fd,
                               .shm_dir = "/dev/shm",
                               .n_shards = LOAD_SHARDS,
                               .topology = &topology,
                               .engine = AIO_ENGINE_AUTO,
                               .registry = instance->registry,
                               .log = &log,
                               .limits = &instance->limits,
                               .cgroup_root = "",
                               .service_fds = &instance->log_fd,
                               .n_service_fds = 1,
                               .shard_main = live_as_shard,
                               .gateway_main = live_as_gateway},
            &supervisor, &error);
    if (r < 0) {
        log_line(&log, LOG_LEVEL_ERROR, "%s", error ? error : strerror(-r));
        return 1;
    }
    fuse_watch(instance->fuse, FUSE_SUPERVISOR, &supervisor->segment);
    r = supervisor_run(supervisor, &env, &child_main);
    if (r == SUPERVISOR_BECOME_CHILD)
        return child_main(&env);
    supervisor_free(supervisor);
    return r;
}

/* ---- life ---- */

static void *map_shared(size_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (base == MAP_FAILED)
        abort();
    return base;
}

static void write_file(const char *path)
{
    FILE *file = fopen(path, "we");

    for (size_t at = 0; file && at < LOAD_FILE_SIZE; at++)
        putc(load_byte(at), file);
    if (!file || fclose(file) != 0)
        abort();
}

void crash_instance_prepare(struct crash_instance *instance, const char *dir, const char *name)
{
    *instance = (struct crash_instance){.fuse = map_shared(sizeof(struct fuse)),
        .board = map_shared(sizeof(struct load_board)),
        .registry = registry_new(),
        .limits = {.drain_ns = 10000000000, .restart = RESTART_LIMITS_DEFAULT},
        .name = strdup(name),
        .log_fd = memfd_create("log", MFD_CLOEXEC)};
    snprintf(instance->board->file, sizeof(instance->board->file), "%s/%s.file", dir, name);
    write_file(instance->board->file);
    setenv("SHERD_RUNTIME_DIR", dir, 1);
    load_set_board(instance->board);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (registry_add(instance->registry, &load_service, NULL) < 0 ||
        rundir_path(name, &instance->runtime_dir, NULL) < 0 || instance->log_fd < 0)
        abort();
    instance_of_all = instance;
}

void crash_instance_discard(struct crash_instance *instance)
{
    close(instance->log_fd);
    registry_free(instance->registry);
    free(instance->name);
    free(instance->runtime_dir);
    munmap(instance->board, sizeof(*instance->board));
    munmap(instance->fuse, sizeof(*instance->fuse));
}

/* Who looks all the time takes the time of those that it waits for. */
static void pause_between_looks(void)
{
    poll(NULL, 0, 1);
}

/* Returns whether it is there by the deadline. */
static bool wait_for(
    struct crash_instance *instance, bool (*is_there)(struct crash_instance *instance))
{
    int64_t now_ns = aio_clock_ns(), deadline_ns = now_ns + DEADLINE_NS, before_ns;

    while (!is_there(instance)) {
        if (now_ns > deadline_ns || atomic_load(&instance->board->n_wrong) > 0)
            return false;
        pause_between_looks();
        before_ns = now_ns;
        now_ns = aio_clock_ns();
        if (now_ns - before_ns > STANDSTILL_NS)
            instance->stood_still_ns += now_ns - before_ns;
    }
    return true;
}

static bool is_ready(struct crash_instance *instance)
{
    const struct supervisor_head *head;
    const char *why;
    char path[512];

    snprintf(path, sizeof(path), "%s/segment", instance->runtime_dir);
    if (!instance->seg.base && segment_open(&instance->seg, path, &why) < 0) {
        instance->seg.base = NULL;
        return false;
    }
    head = segment_supervisor(&instance->seg);
    if (atomic_load_relaxed(&head->pid) != instance->supervisor) {
        segment_close(&instance->seg); /* that of the instance before */
        instance->seg.base = NULL;
        return false;
    }
    return atomic_load_acquire(&head->ready_ns) != 0;
}

static bool has_burnt(const struct crash_instance *instance)
{
    return atomic_load(&instance->fuse->fired);
}

static bool is_without_supervisor(const struct crash_instance *instance)
{
    return has_burnt(instance) && instance->fuse->role == FUSE_SUPERVISOR;
}

static bool is_ready_or_dead(struct crash_instance *instance)
{
    return is_without_supervisor(instance) || is_ready(instance);
}

void crash_instance_start(struct crash_instance *instance)
{
    for (uint32_t i = 0; i < LOAD_SHARDS; i++)
        atomic_store(&instance->board->owners[i], 0); /* of the locks of the one before */
    fflush(NULL);
    instance->supervisor = fork();
    if (instance->supervisor == 0)
        _exit(supervise(instance));
    if (!wait_for(instance, is_ready_or_dead))
        fail(instance, "start", "it does not come up");
}

static void let_go(struct crash_instance *instance)
{
    if (instance->seg.base)
        segment_close(&instance->seg);
    instance->seg.base = NULL;
    instance->supervisor = 0;
}

void crash_instance_stop(struct crash_instance *instance)
{
    int status;

    kill(instance->supervisor, SIGTERM);
    if (waitpid(instance->supervisor, &status, 0) != instance->supervisor || status != 0)
        fail(instance, "stop", "the supervisor ended with status %d", status);
    let_go(instance);
}

void crash_instance_kill(struct crash_instance *instance, uint32_t peer)
{
    pid_t pid = segment_control(&instance->seg, peer)->pid;

    if (pid <= 0 || kill(pid, SIGKILL) < 0)
        fail(instance, "kill", "peer %u has pid %d", peer, (int)pid);
    atomic_store(&instance->fuse->victim, pid);
}

/* ---- rounds ---- */

void crash_instance_begin_round(struct crash_instance *instance)
{
    atomic_fetch_add(&instance->board->round, 1);
    if (instance->stir)
        instance->stir(instance);
}

void crash_instance_kill_doomed(struct crash_instance *instance)
{
    if (!is_without_supervisor(instance))
        crash_instance_kill(instance, CRASH_DOOMED);
}

/* ORDER_TAKEN while it is under way. */
static uint32_t state_of_order(struct crash_instance *instance)
{
    const struct order_note *notes = segment_supervisor(&instance->seg)->orders;

    for (uint32_t i = 0; i < SEGMENT_ORDER_NOTES; i++) {
        uint32_t state = atomic_load_acquire(&notes[i].state);
        if (state && atomic_load_relaxed(&notes[i].word) == instance->order)
            return state;
    }
    return ORDER_TAKEN;
}

static bool order_has_ended(struct crash_instance *instance)
{
    return is_without_supervisor(instance) || state_of_order(instance) >= ORDER_DONE;
}

static void give_order(struct crash_instance *instance, enum order_kind kind, uint32_t target)
{
    bool may_burn = atomic_load(&instance->fuse->armed) || has_burnt(instance);
    union sigval value;

    instance->order =
        order_word(&(struct order){.kind = kind, .target = target, .token = ++instance->n_orders});
    value.sival_ptr = (void *)(uintptr_t)instance->order;
    if (sigqueue(instance->supervisor, ORDER_SIGNAL, value) < 0 ||
        !wait_for(instance, order_has_ended))
        fail(instance, order_kind_text(kind), "the order is not carried out");
    if (!may_burn && state_of_order(instance) != ORDER_DONE)
        fail(instance, order_kind_text(kind), "%s", order_state_text(state_of_order(instance)));
}

void crash_instance_give_orders(struct crash_instance *instance)
{
    if (is_without_supervisor(instance))
        return;
    kill(instance->supervisor, SIGHUP);
    give_order(instance, ORDER_KIND_RESTART, CRASH_DOOMED);
    give_order(instance, ORDER_KIND_DRAIN, segment_gateway(&instance->seg));
    give_order(instance, ORDER_KIND_RESUME, segment_gateway(&instance->seg));
}

static bool is_over(struct crash_instance *instance)
{
    uint32_t round = atomic_load(&instance->board->round);

    for (uint32_t peer = 0; peer < LOAD_PEERS; peer++)
        if (peer + 1 != atomic_load(&instance->board->shunned) &&
            atomic_load(&instance->board->over[peer]) != round)
            return false;
    return true;
}

/* Who is to die may have done so without anybody having seen it yet. */
static bool are_all_up(struct crash_instance *instance)
{
    for (uint32_t peer = 0; peer < instance->seg.n_peers; peer++) {
        const struct peer_control *control = segment_control(&instance->seg, peer);
        if (atomic_load_relaxed(&control->pid) == atomic_load(&instance->fuse->victim) ||
            atomic_load_acquire(&control->state) != PEER_UP)
            return false;
    }
    return true;
}

/* The kernel is known to have let go of all that the dead had in flight. */
static bool is_quiet(struct crash_instance *instance)
{
    for (uint32_t peer = 0; peer < instance->seg.n_peers; peer++) {
        const struct peer_control *control = segment_control(&instance->seg, peer);
        if (atomic_load_relaxed(&control->quiet_incarnation) + 1 <
            atomic_load_relaxed(&control->incarnation))
            return false;
    }
    return true;
}

void crash_instance_wait_until_quiet(struct crash_instance *instance)
{
    if (!wait_for(instance, is_quiet))
        fail(instance, "quiet", "the kernel has not let go of what the dead had in flight");
}

/* What was asked; the kernel may still write to buffers of the dead. */
static bool all_has_ended(struct crash_instance *instance)
{
    return is_over(instance) && rest_n_under_way(&instance->seg) == 0;
}

static bool is_at_rest(struct crash_instance *instance)
{
    const struct segment *seg = &instance->seg;

    return are_all_up(instance) && all_has_ended(instance) && rest_heaps_are_empty(seg) &&
           rest_arena_is_empty(seg) && rest_no_lock_is_held(seg);
}

static bool lists_are_checked(struct crash_instance *instance)
{
    for (uint32_t peer = 0; peer < LOAD_PEERS; peer++)
        if (atomic_load(&instance->board->checked[peer]) != atomic_load(&instance->board->at_rest))
            return false;
    return true;
}

static void on_finding(void *opaque, const struct audit_finding *finding)
{
    load_wrong(opaque, "audit: %u to %u: %llu %s, but %llu %s", finding->from, finding->to,
        (unsigned long long)finding->expected, audit_expected_text(finding->account),
        (unsigned long long)finding->found, audit_found_text(finding->account));
}

static void check_wrong(struct crash_instance *instance, const char *what)
{
    if (atomic_load(&instance->board->n_wrong) > 0)
        fail(instance, what, "%s, and %u more", instance->board->wrong,
            atomic_load(&instance->board->n_wrong) - 1);
}

static void run_audit(struct crash_instance *instance, const char *what)
{
    struct audit_result result;
    struct segment_view view;
    struct audit *audit;
    const char *why;

    if (segment_view_on(instance->seg.base, instance->seg.bytes, &view, &why) < 0 ||
        audit_new(&view, &audit, &why) < 0)
        fail(instance, what, "no audit: %s", why);
    audit_run(audit, on_finding, instance->board, &result);
    audit_free(audit);
    segment_view_close(&view);
    if (result.under_way + result.portable + result.flights + result.heap_pages > 0)
        fail(instance, what, "the audit finds something under way");
}

static void check_counts(struct crash_instance *instance, const char *what)
{
    const struct segment *seg = &instance->seg;

    run_audit(instance, what);
    for (uint32_t peer = 0; peer < seg->n_peers; peer++)
        if (segment_control(seg, peer)->crashes > 0)
            fail(instance, what, "peer %u crashed", peer);
    if (segment_supervisor(seg)->knocks > 0)
        fail(instance, what, "a wake-up was lost");
    check_wrong(instance, what);
}

__attribute__((noreturn)) static void fail_unrest(struct crash_instance *instance, const char *what)
{
    const struct segment *seg = &instance->seg;

    check_wrong(instance, what);
    rest_tell(seg);
    fail(instance, what,
        "not at rest after a minute: all up: %d, load over: %d, %llu calls under way, heaps empty: "
        "%d, arena empty: %d, locks free: %d",
        are_all_up(instance), is_over(instance), (unsigned long long)rest_n_under_way(seg),
        rest_heaps_are_empty(seg), rest_arena_is_empty(seg), rest_no_lock_is_held(seg));
}

/* Since the machine was started, in which somebody waited for that; -1: that is not counted. */
static int64_t pressure_ns(const char *path)
{
    FILE *file = fopen(path, "re");
    long long us = -1;

    if (!file)
        return -1;
    if (fscanf(file, "some avg10=%*f avg60=%*f avg300=%*f total=%lld", &us) != 1)
        us = -1;
    fclose(file);
    return us < 0 ? -1 : us * 1000;
}

/* Since then, in which another machine had our processors. */
static int64_t stolen_ns(void)
{
    FILE *file = fopen("/proc/stat", "re");
    long long ticks = 0;

    if (!file)
        return 0;
    if (fscanf(file, "cpu %*u %*u %*u %*u %*u %*u %*u %lld", &ticks) != 1)
        ticks = 0;
    fclose(file);
    return ticks * 1000000000 / sysconf(_SC_CLK_TCK);
}

/* Since then, in which the machine kept somebody waiting; -1: that is not counted. The kernel gives
 * a mean over the processors: where one alone was wanted that counts for its share, so it is taken
 * for as much as it may have been. */
static int64_t busy_ns(void)
{
    static const char *const paths[] = {
        "/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory"};
    int64_t total_ns = 0;

    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        int64_t ns = pressure_ns(paths[i]);
        if (ns < 0)
            return -1;
        total_ns += ns;
    }
    return total_ns * sysconf(_SC_NPROCESSORS_ONLN) + stolen_ns();
}

/* Of a time in which the machine was busy nothing is known but that it passed. */
static void note_round(
    struct crash_instance *instance, const char *what, int64_t begin_ns, int64_t busy_before_ns)
{
    int64_t took_ns = aio_clock_ns() - begin_ns;

    if (took_ns > instance->longest_ns)
        instance->longest_ns = took_ns;
    if (busy_before_ns >= 0)
        took_ns -= busy_ns() - busy_before_ns + instance->stood_still_ns;
    if (busy_before_ns >= 0 && took_ns > SLOW_NS)
        fprintf(stderr, "--- %s: took %.1f ms while processors were free\n", what,
            (double)took_ns / 1e6);
    if (busy_before_ns >= 0 && took_ns > instance->longest_idle_ns)
        instance->longest_idle_ns = took_ns;
}

bool crash_instance_round(struct crash_instance *instance, const char *what, bool may_die)
{
    int64_t begin_ns = aio_clock_ns(), busy_before_ns = busy_ns();
    bool died;

    atomic_store(&instance->board->may_die, may_die);
    instance->stood_still_ns = 0;
    crash_instance_begin_round(instance);
    if (!wait_for(instance, is_over))
        fail_unrest(instance, what);
    died = fuse_disarm(instance->fuse);
    if (!wait_for(instance, all_has_ended))
        fail_unrest(instance, what);
    if (may_die)
        note_round(instance, what, begin_ns, busy_before_ns);
    if (!wait_for(instance, is_at_rest))
        fail_unrest(instance, what);
    atomic_fetch_add(&instance->board->at_rest, 1);
    if (!wait_for(instance, lists_are_checked))
        fail_unrest(instance, what);
    check_counts(instance, what);
    return died;
}

void crash_instance_serve(struct crash_instance *instance, const char *what)
{
    int status;

    crash_instance_begin_round(instance);
    if (!wait_for(instance, is_over) || !wait_for(instance, are_all_up)) {
        check_wrong(instance, what);
        fail(instance, what, "it does not serve: all up: %d, load over: %d", are_all_up(instance),
            is_over(instance));
    }
    if (waitpid(instance->supervisor, &status, WNOHANG) != 0)
        fail(instance, what, "the supervisor ended with status %d", status);
    for (uint32_t peer = 0; peer < instance->seg.n_peers; peer++)
        if (segment_control(&instance->seg, peer)->crashes > 0)
            fail(instance, what, "peer %u crashed", peer);
}

void crash_instance_destroy(struct crash_instance *instance)
{
    kill(instance->supervisor, SIGKILL); /* first, or it would replace the others */
    waitpid(instance->supervisor, NULL, 0);
    for (uint32_t peer = 0; peer < instance->seg.n_peers; peer++)
        if (segment_control(&instance->seg, peer)->pid > 0)
            kill(segment_control(&instance->seg, peer)->pid, SIGKILL);
    while (waitpid(-1, NULL, 0) > 0)
        ;
    let_go(instance);
}

/* ---- without a supervisor ---- */

/* In order; killed; or too late to begin. */
static bool may_end_so(int status)
{
    return WIFSIGNALED(status) ? WTERMSIG(status) == SIGKILL : WEXITSTATUS(status) <= 1;
}

bool crash_instance_wait_for_death(struct crash_instance *instance)
{
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;

    while (!has_burnt(instance)) {
        if (are_all_up(instance) && is_over(instance) && is_quiet(instance))
            break;
        if (aio_clock_ns() > deadline_ns)
            fail_unrest(instance, "the death of a shard");
        pause_between_looks();
    }
    return fuse_disarm(instance->fuse);
}

void crash_instance_wait_for_orphans(struct crash_instance *instance, const char *what)
{
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;
    pid_t pid;
    int status;

    while ((pid = waitpid(-1, &status, WNOHANG)) >= 0) {
        if (pid > 0 && !may_end_so(status))
            fail(instance, what, "an orphan ended with status %d", status);
        if (aio_clock_ns() > deadline_ns)
            fail(instance, what, "orphans do not leave");
        if (pid == 0)
            pause_between_looks();
    }
    check_wrong(instance, what);
    let_go(instance);
}
