/* SPDX-License-Identifier: MIT */
/*
 * A turn is aio_poll() and a look at what the supervisor wants. Its words are read after each turn
 * and not before each wait: the supervisor knocks after it has stored an order, and a knock ends
 * the wait or does not let it begin.
 *
 * A shard that is to be restarted leaves at the end of the first turn after which it serves nothing
 * and waits for nothing. What its peers have published by then and it has not begun lies in their
 * rings, and is begun by its replacement; so no answer is owed to anybody, and no look at its peers
 * is needed.
 *
 * An orphan (its supervisor's pidfd is readable) has nobody who would replace the dead, so what
 * waits for one fails now. It stays while it has work, and a little longer, because a peer may
 * still be sending what it took in before; then it goes.
 *
 * Orderings     first                  then             ordered by              if broken
 *   UP     engine's name, ready_ns  part.incarnation  store release,          a peer that is up is
 *                                                     supervisor's acquire    shown without them
 *   ORDER  the supervisor's state   control.order     store release, this     an order is carried
 *                                                     acquire                 out before its reason
 *   DRAIN  counters of calls ended  part.drained      store release,          told to leave with
 *                                                     supervisor's acquire    calls in flight
 *   FOLLOW what an order changes    part.order        store release,          a client that was told
 *                                                     supervisor's acquire    "resumed" is refused
 *   ASK: see operate.c
 *   HERE   own pid                  a look whether   full fence; orphans     an orphan takes one
 *                                   the supervisor   look after its end      that serves for dead
 *                                   lives            (judge.c)
 *   LEVEL: see supervisor.c
 */
#include "shard/member.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "runtime/coroutine_overflow.h"
#include "runtime/doorbell.h"
#include "shard/crash_handler.h"

#define MS INT64_C(1000000)

/* "within 5 s", with time to get out. */
#define ORPHAN_LIMIT_NS (4500 * MS)
#define ORPHAN_LOOK_NS  (50 * MS)
#define ORPHAN_QUIET    10u /* looks at which nothing was under way */
#define LOG_FLUSH_NS    (1000 * MS)

struct member {
    const struct child_env *env;
    AioContext *ctx;
    struct mesh *mesh;
    struct part_head *part;
    const struct peer_control *control;
    const struct supervisor_head *head;
    struct aio_instruments instruments;
    struct member_hooks hooks;
    int supervisor_fd; /* pidfd; -1: none */
    bool draining, drained;
    bool orphaned, leaves;
    uint64_t spin_ns;
    uint32_t quiet_looks;
    int64_t orphan_ends_ns;
    AioTimer orphan_timer;
    AioTimer flush_timer;
};

/* ---- orders ---- */

static bool is_drained(const struct member *member)
{
    return member->hooks.is_drained ? member->hooks.is_drained(member->hooks.opaque)
                                    : mesh_is_idle(member->mesh);
}

static void begin_drain(struct member *member)
{
    if (member->draining)
        return;
    member->draining = true;
    recorder_note(&member->instruments, RECORDER_STATE, PEER_DRAINING, 0);
    if (member->hooks.drain)
        member->hooks.drain(member->hooks.opaque);
}

static void ring_supervisor(const struct member *member)
{
    const struct segment *seg = member->env->segment;
    struct doorbell bell = {.words = &segment_bell(seg, seg->n_peers)->words,
        .fd = member->env->bell_fds[seg->n_peers]};

    doorbell_ring(&bell);
}

static void end_drain(struct member *member)
{
    if (!member->draining)
        return;
    member->draining = false;
    member->drained = false;
    atomic_store_release(&member->part->drained, 0); /* DRAIN */
    recorder_note(&member->instruments, RECORDER_STATE, PEER_UP, 0);
    if (member->hooks.resume)
        member->hooks.resume(member->hooks.opaque);
}

static void note_drained(struct member *member)
{
    member->drained = true;
    atomic_store_release(&member->part->drained, 1); /* DRAIN */
    ring_supervisor(member);
}

static void change_order(struct member *member, uint32_t order)
{
    if (order == ORDER_LEAVE)
        member->leaves = true;
    else if (order == ORDER_DRAIN || order == ORDER_RETURN)
        begin_drain(member);
    else if (order == ORDER_RUN && !member->orphaned)
        end_drain(member);
    atomic_store_release(&member->part->order, order); /* FOLLOW */
    ring_supervisor(member);
}

static void follow_orders(struct member *member)
{
    uint32_t order = atomic_load_acquire(&member->control->order); /* ORDER */

    if (order != member->part->order)
        change_order(member, order);
    if (order == ORDER_RETURN && mesh_is_idle(member->mesh))
        member->leaves = true;
    if (member->draining && !member->drained && !member->orphaned && is_drained(member))
        note_drained(member);
}

/* ---- without a supervisor ---- */

static void on_orphan_look(void *opaque)
{
    struct member *member = opaque;
    int64_t now_ns = aio_clock_ns();
    bool quiet;

    mesh_orphaned(member->mesh); /* others may die now, and nobody else tells of it */
    quiet = mesh_is_idle(member->mesh) && is_drained(member);
    member->quiet_looks = quiet ? member->quiet_looks + 1 : 0;
    if (member->quiet_looks >= ORPHAN_QUIET || now_ns >= member->orphan_ends_ns)
        member->leaves = true;
    else
        timer_mod_ns(&member->orphan_timer, now_ns + ORPHAN_LOOK_NS);
}

static void become_orphan(struct member *member)
{
    if (member->orphaned)
        return;
    member->orphaned = true;
    member->orphan_ends_ns = aio_clock_ns() + ORPHAN_LIMIT_NS;
    log_line(member->env->log, LOG_LEVEL_ERROR,
        "the supervisor is gone: finishing what is under way, then leaving");
    begin_drain(member);
    on_orphan_look(member);
}

static void on_supervisor_exit(void *opaque)
{
    struct member *member = opaque;

    aio_set_fd_handler(member->ctx, member->supervisor_fd, NULL, NULL, NULL, NULL, NULL);
    become_orphan(member);
}

/* A pid may have been used again by the time it is opened, but not while it is our parent's. One
 * that comes too late has nobody who would tell its peers that it lives, so it does not begin. */
static int watch_supervisor(struct member *member)
{
    int fd;

    if (member->env->supervisor_pid == getpid()) /* a thread of it, which ends with it */
        return 0;
    fd = pidfd_open(member->env->supervisor_pid, 0);
    if (fd < 0 && errno != ESRCH)
        return -errno;
    if (fd < 0 || getppid() != member->env->supervisor_pid) {
        if (fd >= 0)
            close(fd);
        return -ESRCH;
    }
    member->supervisor_fd = fd;
    return aio_set_fd_handler(member->ctx, fd, on_supervisor_exit, NULL, NULL, NULL, member);
}

/* ---- the log ---- */

static void on_flush(void *opaque)
{
    struct member *member = opaque;

    log_flush(member->env->log);
}

/* The gateway shares its core with others, so it never spins. */
static void keep_spin(struct member *member)
{
    uint64_t spin_ns = atomic_load_relaxed(&member->head->spin_ns); /* LEVEL */

    if (spin_ns == member->spin_ns || member->env->peer == segment_gateway(member->env->segment))
        return;
    member->spin_ns = spin_ns;
    aio_context_set_poll_params(member->ctx, (int64_t)spin_ns, 0, 0);
}

static void keep_log(struct member *member)
{
    struct log *log = member->env->log;

    log->level = (enum log_level)atomic_load_relaxed(&member->head->log_level); /* LEVEL */
    if (log->repeats > 0 && !timer_pending(&member->flush_timer))
        timer_mod_ns(&member->flush_timer, aio_clock_ns() + LOG_FLUSH_NS);
}

/* ---- last words ---- */

/* Context: signal handler. */
static void report_overflow(const CoroutineOverflow *overflow, void *opaque)
{
    log_from_signal(opaque, LOG_LEVEL_ERROR, overflow->text);
    crash_handler_note_overflow();
}

/* The second hands on to the first. */
static void watch_for_crashes(struct member *member)
{
    const struct child_env *env = member->env;
    struct crash_handler handler = {.record = segment_crash(env->segment, env->peer),
        .running = &member->part->running,
        .incarnation = env->incarnation};

    if (crash_handler_install(&handler) < 0 ||
        coroutine_overflow_watch(report_overflow, env->log) < 0)
        log_line(env->log, LOG_LEVEL_WARNING, "a crash will leave no record: no memory");
    /* The supervisor's helper may look at it when it hangs, which some kernels allow to its
     * ancestors alone; others do not know this call, and need none. */
    prctl(PR_SET_PTRACER, (unsigned long)env->supervisor_pid);
}

/* ---- life ---- */

static int make_context(struct member *member)
{
    const struct child_env *env = member->env;
    struct doorbell bell = {
        .words = &segment_bell(env->segment, env->peer)->words, .fd = env->bell_fds[env->peer]};
    struct aio_config config = {.engine = env->engine,
        .io_depth = env->io_depth,
        .doorbell = &bell,
        .life_fd = env->life_fd,
        .instruments = &member->instruments,
        .restricted = env->sandbox != NULL};
    int r;

    segment_instruments(env->segment, env->peer, &member->instruments);
    r = aio_context_new(&config, &member->ctx);
    if (r < 0) {
        log_line(env->log, LOG_LEVEL_ERROR,
            "engine %s does not work here: %s; choose another --engine, or none",
            aio_engine_name(env->engine), strerror(-r));
        return r;
    }
    aio_context_set_current(member->ctx);
    aio_timer_init(member->ctx, &member->orphan_timer, on_orphan_look, member);
    aio_timer_init(member->ctx, &member->flush_timer, on_flush, member);
    return 0;
}

/* Names are cut where the segment has no more room for them. */
static void show_engine(struct member *member)
{
    enum aio_engine engine = aio_context_engine(member->ctx);
    const char *name = aio_engine_name(engine), *flags = aio_context_engine_flags(member->ctx);
    bool fell_back = member->env->engine == AIO_ENGINE_AUTO && engine != AIO_ENGINE_IO_URING;

    snprintf(member->part->engine, sizeof(member->part->engine), "%s", name);
    snprintf(member->part->engine_flags, sizeof(member->part->engine_flags), "%s", flags);
    if (fell_back)
        log_line(member->env->log, LOG_LEVEL_NOTICE, "engine %s, not the best there is: %s", name,
            flags);
    else
        log_line(member->env->log, LOG_LEVEL_DEBUG, "engine %s: %s", name, flags);
}

static void report_scan(const char *text, void *opaque)
{
    log_line(opaque, LOG_LEVEL_WARNING, "%s", text);
}

static int begin(
    struct member *member, void *const *states, mesh_adopt_fn *adopt, void *adopt_opaque)
{
    const struct child_env *env = member->env;
    struct mesh_config config = {.segment = env->segment,
        .peer = env->peer,
        .incarnation = env->incarnation,
        .bell_fds = env->bell_fds,
        .registry = env->registry,
        .states = states,
        .letters_dir = env->runtime_dir,
        .no_rebalance = env->no_rebalance,
        .scan = {.mode = env->scan_mode, .report = report_scan, .opaque = env->log},
        .adopt = adopt,
        .adopt_opaque = adopt_opaque};
    int r;

    r = make_context(member);
    if (r < 0)
        return r;
    show_engine(member);
    config.ctx = member->ctx;
    r = mesh_new(&config, &member->mesh);
    if (r == 0)
        r = watch_supervisor(member);
    if (r == -ESRCH)
        log_line(env->log, LOG_LEVEL_ERROR, "can't begin: the supervisor is gone");
    else if (r < 0)
        log_line(env->log, LOG_LEVEL_ERROR, "can't begin: %s", strerror(-r));
    return r;
}

int member_new(const struct child_env *env, void *const *states, struct member **ret_member)
{
    return member_new_heir(env, states, NULL, NULL, ret_member);
}

int member_new_heir(const struct child_env *env, void *const *states, mesh_adopt_fn *adopt,
    void *adopt_opaque, struct member **ret_member)
{
    struct member *member = calloc(1, sizeof(*member));
    int r;

    if (!member) {
        log_line(env->log, LOG_LEVEL_ERROR, "can't begin: %s", strerror(ENOMEM));
        return -ENOMEM;
    }
    member->env = env;
    member->supervisor_fd = -1;
    member->part = segment_part(env->segment, env->peer);
    member->control = segment_control(env->segment, env->peer);
    atomic_store_release(
        &member->part->order, (uint32_t)ORDER_RUN);              /* FOLLOW: not its predecessor's */
    atomic_store_release(&member->part->pid, (int32_t)getpid()); /* HERE */
    atomic_full_fence();                                         /* HERE */
    member->head = segment_supervisor(env->segment);
    watch_for_crashes(member);
    r = begin(member, states, adopt, adopt_opaque);
    if (r < 0) {
        member_free(member);
        return r;
    }
    *ret_member = member;
    return 0;
}

void member_free(struct member *member)
{
    if (!member)
        return;
    if (member->ctx) {
        timer_del(&member->orphan_timer);
        timer_del(&member->flush_timer);
    }
    if (member->supervisor_fd >= 0) {
        aio_set_fd_handler(member->ctx, member->supervisor_fd, NULL, NULL, NULL, NULL, NULL);
        close(member->supervisor_fd);
    }
    /* What was under way when it had to leave holds on to both, and ends with the process. */
    if (!member->mesh || mesh_is_idle(member->mesh)) {
        mesh_free(member->mesh);
        if (member->ctx) {
            aio_context_set_current(NULL);
            aio_context_unref(member->ctx);
        }
    }
    coroutine_overflow_unwatch();
    free(member);
}

AioContext *member_context(const struct member *member)
{
    return member->ctx;
}

struct mesh *member_mesh(const struct member *member)
{
    return member->mesh;
}

void member_set_hooks(struct member *member, const struct member_hooks *hooks)
{
    member->hooks = *hooks;
    if (member->draining && hooks->drain)
        hooks->drain(hooks->opaque);
}

void member_ready(struct member *member)
{
    recorder_note(&member->instruments, RECORDER_STATE, PEER_UP, 0);
    atomic_store_release(&member->part->ready_ns, (uint64_t)aio_clock_ns());    /* UP */
    atomic_store_release(&member->part->incarnation, member->env->incarnation); /* UP */
    ring_supervisor(member);
}

void member_ask(struct member *member, uint64_t word)
{
    atomic_store_release(&member->part->asked, word); /* ASK */
    ring_supervisor(member);
}

int member_run(struct member *member)
{
    follow_orders(member);
    keep_spin(member);
    while (!member->leaves) {
        aio_poll(member->ctx, true);
        counter_add(&member->part->heartbeat, 1);
        if (member->hooks.turn)
            member->hooks.turn(member->hooks.opaque);
        follow_orders(member);
        keep_log(member);
        keep_spin(member);
    }
    log_flush(member->env->log);
    return 0;
}
