/* SPDX-License-Identifier: MIT */
/*
 * Each place in the source that stores to the segment is a point to die at. Three ends call each
 * other, calls within calls among them; one dies at the k-th store of a point, is replaced, and
 * all goes on: each call ends once, the accounts balance, no slot and no buffer is left.
 *
 * A first run without a death finds the points. The k are the first, the middle and the last of the
 * hits seen then; SHERD_CRASH_POINTS=N tries N of them, spread evenly.
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/shard/mesh_rig.h"

enum { M_ECHO, M_ONCE, M_RELAY, N_METHODS };

#define N_ENDS       3
#define DOOMED       1
#define N_CALLS      12
#define LARGE        5000
#define N_POINTS_MAX 256
#define DEADLINE_NS  (INT64_C(60) * 1000000000)
#define WORD_OVER    0 /* + peer: its load is over */
#define WORD_WRONG   8

/* ---- the points, in memory that all ends share ---- */

struct point {
    const char *file;
    int line;
    uint64_t n_hits;
};

static struct points {
    uint32_t n;
    struct point all[N_POINTS_MAX];
} * points;

static struct {
    const uint8_t *base; /* NULL: not the one that is to die, or is watched */
    uint64_t bytes;
    bool counts;
    struct point dies_at;
    uint64_t left; /* hits of it to live through */
} fuse;

static void count_hit(const char *file, int line)
{
    for (uint32_t i = 0; i < points->n; i++)
        if (points->all[i].line == line && strcmp(points->all[i].file, file) == 0) {
            points->all[i].n_hits++;
            return;
        }
    if (points->n < N_POINTS_MAX)
        points->all[points->n++] = (struct point){.file = file, .line = line, .n_hits = 1};
}

void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    const uint8_t *at = (const uint8_t *)(uintptr_t)address;

    if (!fuse.base || at < fuse.base || at >= fuse.base + fuse.bytes ||
        (access != ATOMIC_STORE && access != ATOMIC_RMW))
        return;
    if (fuse.counts)
        count_hit(file, line);
    else if (line == fuse.dies_at.line && strcmp(file, fuse.dies_at.file) == 0 && --fuse.left == 0)
        kill(getpid(), SIGKILL);
}

/* ---- methods ---- */

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    return service_reply(call, args, len);
}

/* What the next one echoes. */
static int coroutine_fn run_relay(struct service_call *call)
{
    size_t len, answer_len = 0;
    const void *args = service_args(call, &len);
    uint32_t next = (service_shard(call) + 1) % service_n_shards(call);
    void *answer = NULL;
    int r = service_call_shard(call, next, "points.echo", args, len, &answer, &answer_len);

    if (r == 0)
        r = service_reply(call, answer, answer_len);
    free(answer);
    return r;
}

static const struct service_method methods[N_METHODS] = {
    [M_ECHO] = {.name = "echo", .run = run_echo, .flags = SERVICE_IDEMPOTENT, .help = "args back"},
    [M_ONCE] = {.name = "once", .run = run_echo, .help = "args back, not to be run twice"},
    [M_RELAY] = {.name = "relay", .run = run_relay, .flags = SERVICE_IDEMPOTENT, .help = "echo"},
};

static const struct service service = {.abi = SERVICE_ABI,
    .name = "points",
    .help = "for tests",
    .methods = methods,
    .n_methods = N_METHODS};

/* ---- the load of each end ---- */

struct load;

struct load_call {
    struct mesh_call call;
    struct load *load;
    uint32_t n_ended;
};

struct load {
    struct rig_end *end;
    struct load_call calls[N_CALLS];
    uint8_t args[LARGE];
    uint32_t n_ended;
};

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct load_call *one = (struct load_call *)call;
    struct load *load = one->load;
    bool done = answer->end == CALL_END_DONE && answer->len == call->args_len &&
                memcmp(answer->data, call->args, answer->len) == 0;
    bool in_doubt = answer->end == CALL_END_IN_DOUBT && call->method == M_ONCE;

    load->n_ended++;
    if (++one->n_ended != 1 || (!done && !in_doubt))
        atomic_fetch_add(&load->end->rig->board->words[WORD_WRONG], 1);
}

static bool load_is_over(void *opaque)
{
    return ((struct load *)opaque)->n_ended == N_CALLS;
}

static void work(struct rig_end *end)
{
    struct load *load = calloc(1, sizeof(*load));

    load->end = end;
    for (size_t at = 0; at < LARGE; at++)
        load->args[at] = (uint8_t)(at * 11 + end->peer);
    for (uint32_t i = 0; i < N_CALLS; i++) {
        struct load_call *one = &load->calls[i];
        one->load = load;
        one->call = (struct mesh_call){.target = (end->peer + 1 + i % 2) % N_ENDS,
            .method = i % N_METHODS,
            .args = load->args,
            .args_len = i < N_CALLS / 2 ? 30 + i : LARGE - i,
            .deadline_ns = INT64_MAX,
            .done = on_done};
        assert_int_equal(mesh_call_start(end->mesh, &one->call), 0);
    }
    rig_poll_until(end, load_is_over, load);
    free(load);
    atomic_store(&end->rig->board->words[WORD_OVER + end->peer], 1);
    rig_serve(end);
}

static void work_on_a_fuse(struct rig_end *end)
{
    fuse.base = end->rig->seg.base;
    fuse.bytes = end->rig->seg.bytes;
    work(end);
}

/* ---- the supervisor ---- */

static bool has_died(const struct rig *rig)
{
    siginfo_t info = {0};

    assert_int_equal(
        waitid(P_PID, (id_t)rig->ends[DOOMED].pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info.si_pid != 0;
}

static bool all_is_over(const struct rig *rig)
{
    for (uint32_t peer = 0; peer < N_ENDS; peer++)
        if (atomic_load(&rig->board->words[WORD_OVER + peer]) == 0 ||
            atomic_load_relaxed(&segment_part(&rig->seg, peer)->heap_used_bytes) != 0)
            return false;
    return rig_slots_in_use(rig) == 0;
}

static void replace(struct rig *rig)
{
    rig_join(rig, DOOMED);
    rig_bury(rig, DOOMED, false);
    atomic_store(&rig->board->words[WORD_OVER + DOOMED], 0);
    fuse.base = NULL;
    rig_fork(rig, DOOMED, work);
}

/* Returns whether it died. */
static bool watch(struct rig *rig, const char *what)
{
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;
    bool died = false;

    while (!all_is_over(rig)) {
        if (!died && has_died(rig)) {
            died = true;
            replace(rig);
        }
        if (aio_clock_ns() > deadline_ns)
            fail_msg(
                "%s: after a minute %llu slots are in use, and buffers of %llu, %llu, %llu bytes",
                what, (unsigned long long)rig_slots_in_use(rig),
                (unsigned long long)segment_part(&rig->seg, 0)->heap_used_bytes,
                (unsigned long long)segment_part(&rig->seg, 1)->heap_used_bytes,
                (unsigned long long)segment_part(&rig->seg, 2)->heap_used_bytes);
        sched_yield();
    }
    return died;
}

static bool run(const char *what)
{
    struct rig rig;
    bool died;

    rig_open(&rig, N_ENDS, &service);
    rig_fork(&rig, DOOMED, work_on_a_fuse);
    rig_fork(&rig, 0, work);
    rig_fork(&rig, 2, work);
    died = watch(&rig, what);
    if (!rig_balances(&rig) || atomic_load(&rig.board->words[WORD_WRONG]) != 0)
        fail_msg("%s: the accounts do not balance, or a call ended wrongly", what);
    rig_close(&rig);
    return died;
}

static void find_points(void)
{
    fuse.counts = true;
    run("no death");
    fuse.counts = false;
    assert_true(points->n > 20 && points->n < N_POINTS_MAX);
}

/* Returns how many of the deaths came to be: which hits there are differs from run to run. */
static uint32_t die_at(const struct point *point, uint32_t n_samples)
{
    uint32_t n_died = 0;
    uint64_t last = 0;

    for (uint32_t i = 0; i < n_samples; i++) {
        uint64_t hit = n_samples < 2 ? 1 : 1 + (point->n_hits - 1) * i / (n_samples - 1);
        char what[256];

        if (hit == last)
            continue;
        snprintf(what, sizeof(what), "hit %llu of %s:%d", (unsigned long long)hit, point->file,
            point->line);
        fuse.dies_at = *point;
        fuse.left = last = hit;
        n_died += run(what);
    }
    return n_died;
}

static void who_dies_at_any_store_loses_nothing_and_leaves_nothing(void **state)
{
    const char *samples = getenv("SHERD_CRASH_POINTS");
    uint32_t n_died = 0, n_met = 0;

    (void)state;
    points = mmap(NULL, sizeof(*points), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(points != MAP_FAILED);
    find_points();
    for (uint32_t i = 0; i < points->n; i++) {
        uint32_t n = die_at(&points->all[i], samples ? (uint32_t)atoi(samples) : 3);
        n_died += n;
        n_met += n > 0;
    }
    print_message("%u points, %u of them met again, %u deaths\n", points->n, n_met, n_died);
    assert_true(n_met > points->n / 2);
    munmap(points, sizeof(*points));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_dies_at_any_store_loses_nothing_and_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
