/* SPDX-License-Identifier: MIT */
/*
 * A shard that writes nonsense over all that it may write, while two others call each other and it:
 * they never crash, and serve again once it is gone.
 *
 * What it writes is hostile_noise.h's.
 *
 * SHERD_HOSTILE_SECONDS says how long, SHERD_HOSTILE_SEED which sequence; it is printed.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "shard/mesh_inside.h"
#include "tests/unit/shard/hostile_noise.h"
#include "tests/unit/shard/mesh_rig.h"

enum { M_ECHO, M_LARGE, M_ONCE, M_RELAY, M_SLEEP, N_METHODS };

#define N_HONEST     2
#define HOSTILE      2
#define N_IN_FLIGHT  24
#define LARGE        9000
#define DEADLINE_NS  100000000
#define KNOCK_NS     2000000
#define WORD_DONE    0 /* + peer: calls of that end that were done */
#define WORD_TOLD    8 /* + peer: whether its calls to the hostile one must all be over by now */
#define WORD_SETTLED 16

/* ---- methods ---- */

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    return service_reply(call, args, len);
}

static int coroutine_fn run_large(struct service_call *call)
{
    uint8_t bytes[LARGE];

    memset(bytes, 'l', sizeof(bytes));
    return service_reply(call, bytes, sizeof(bytes));
}

static int coroutine_fn run_sleep(struct service_call *call)
{
    return service_sleep_ns(call, 1000000);
}

/* A call within a call, to the other honest one. */
static int coroutine_fn run_relay(struct service_call *call)
{
    size_t len, answer_len;
    const void *args = service_args(call, &len);
    void *answer = NULL;
    int r = service_call_shard(
        call, service_shard(call) == 0, "hostile.echo", args, len, &answer, &answer_len);

    free(answer);
    return r;
}

static const struct service_method methods[N_METHODS] = {
    [M_ECHO] = {.name = "echo", .run = run_echo, .flags = SERVICE_IDEMPOTENT, .help = "args back"},
    [M_LARGE] = {.name = "large", .run = run_large, .flags = SERVICE_IDEMPOTENT, .help = "bytes"},
    [M_ONCE] = {.name = "once", .run = run_echo, .help = "args back, not to be run twice"},
    [M_RELAY] = {.name = "relay", .run = run_relay, .flags = SERVICE_IDEMPOTENT, .help = "calls"},
    [M_SLEEP] = {.name = "sleep", .run = run_sleep, .flags = SERVICE_IDEMPOTENT, .help = "1 ms"},
};

static const struct service service = {.abi = SERVICE_ABI,
    .name = "hostile",
    .help = "for tests",
    .methods = methods,
    .n_methods = N_METHODS};

static void be_hostile(struct rig_end *end)
{
    struct rig *rig = end->rig;
    struct noise noise = {.state = atomic_load(&rig->board->words[63]),
        .seg = &rig->seg,
        .self = HOSTILE,
        .n_methods = N_METHODS,
        .bell_fds = rig->bells};

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* it ends with the test, however that ends */
    for (;;)
        noise_make(&noise);
}

/* ---- the honest ---- */

struct honest {
    struct rig_end *end;
    struct noise noise;
    struct honest_call *calls;
    uint64_t n_to_hostile;
    uint64_t n_under_way;
    bool leaves;
};

struct honest_call {
    struct mesh_call call;
    struct honest *honest;
};

static uint8_t args[LARGE];

static void start(struct honest_call *one);

static void on_done(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct honest_call *one = (struct honest_call *)call;
    struct honest *honest = one->honest;

    honest->n_under_way--;
    if (call->target == HOSTILE)
        honest->n_to_hostile--;
    else if (answer->end == CALL_END_DONE)
        atomic_fetch_add(&honest->end->rig->board->words[WORD_DONE + honest->end->peer], 1);
    if (!honest->leaves)
        start(one);
}

static void start(struct honest_call *one)
{
    struct honest *honest = one->honest;
    bool told = atomic_load(&honest->end->rig->board->words[WORD_TOLD]) != 0;

    one->call = (struct mesh_call){
        .target = !told && noise_below(&honest->noise, 3) == 0 ? HOSTILE : !honest->end->peer,
        .method = (uint32_t)noise_below(&honest->noise, N_METHODS),
        .args = args,
        .args_len = noise_below(&honest->noise, 2)
                        ? noise_below(&honest->noise, SEGMENT_INLINE_BYTES + 1)
                        : noise_below(&honest->noise, LARGE),
        .deadline_ns = aio_clock_ns() + DEADLINE_NS,
        .done = on_done};
    honest->n_under_way++;
    honest->n_to_hostile += one->call.target == HOSTILE;
    assert_int_equal(mesh_call_start(honest->end->mesh, &one->call), 0);
}

static bool is_over(void *opaque)
{
    struct honest *honest = opaque;
    struct rig_board *board = honest->end->rig->board;

    if (atomic_load(&board->words[WORD_TOLD]) && honest->n_to_hostile == 0)
        atomic_store(&board->words[WORD_SETTLED + honest->end->peer], 1);
    honest->leaves = atomic_load(&board->leave) != 0;
    return honest->leaves && honest->n_under_way == 0;
}

static void be_honest(struct rig_end *end)
{
    struct honest honest = {.end = end, .noise = {.state = end->peer + 77}};

    honest.calls = calloc(N_IN_FLIGHT, sizeof(honest.calls[0]));
    for (uint32_t i = 0; i < N_IN_FLIGHT; i++) {
        honest.calls[i].honest = &honest;
        start(&honest.calls[i]);
    }
    rig_serve_until(end, is_over, &honest);
    free(honest.calls);
}

/* ---- the supervisor ---- */

static void fail_if_dead(struct rig *rig, uint32_t peer, uint64_t seed)
{
    siginfo_t info = {0};

    assert_int_equal(
        waitid(P_PID, (id_t)rig->ends[peer].pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    if (info.si_pid)
        fail_msg("SHERD_HOSTILE_SEED=%" PRIu64 ": shard %u died of %d", seed, peer, info.si_status);
}

/* Lost wake-ups are made good, as by a supervisor that looks for them. */
static void knock_all(struct rig *rig)
{
    for (uint32_t peer = 0; peer < N_HONEST; peer++) {
        struct doorbell bell = {&segment_bell(&rig->seg, peer)->words, rig->bells[peer]};
        atomic_or_seq(&segment_bitmap(&rig->seg, peer)->senders[0], UINT64_C(7));
        doorbell_knock(&bell);
    }
}

/* Until one of the honest has died, or for so long. */
static void wait_for_death(const struct rig *rig, int64_t ns)
{
    struct pollfd fds[N_HONEST];

    for (uint32_t peer = 0; peer < N_HONEST; peer++)
        fds[peer] = (struct pollfd){.fd = pidfd_open(rig->ends[peer].pid, 0), .events = POLLIN};
    assert_true(ppoll(fds, N_HONEST, &(struct timespec){.tv_nsec = ns}, NULL) >= 0);
    for (uint32_t peer = 0; peer < N_HONEST; peer++)
        close(fds[peer].fd);
}

static void watch_for_ns(struct rig *rig, int64_t ns, uint64_t seed)
{
    int64_t end_ns = aio_clock_ns() + ns;

    while (aio_clock_ns() < end_ns) {
        wait_for_death(rig, KNOCK_NS);
        knock_all(rig);
        for (uint32_t peer = 0; peer < N_HONEST; peer++)
            fail_if_dead(rig, peer, seed);
    }
}

static void watch_until(struct rig *rig, unsigned word, uint64_t value, uint64_t seed)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(60) * 1000000000;

    while (atomic_load(&rig->board->words[word]) < value) {
        if (aio_clock_ns() > deadline_ns)
            fail_msg("SHERD_HOSTILE_SEED=%" PRIu64 ": word %u stays at %" PRIu64, seed, word,
                (uint64_t)atomic_load(&rig->board->words[word]));
        watch_for_ns(rig, KNOCK_NS, seed);
    }
}

/* What each wants of the other is served again, and nothing of the dead one is waited for; whether
 * it is given up, or a replacement takes over what it made of its part. */
static void check_recovery(struct rig *rig, uint64_t seed)
{
    bool replaced = seed & 2;

    atomic_store(&rig->board->words[WORD_TOLD], 1);
    rig_kill(rig, HOSTILE, !replaced);
    if (replaced)
        rig_fork(rig, HOSTILE, rig_serve);
    for (uint32_t peer = 0; peer < N_HONEST; peer++) {
        watch_until(rig, WORD_SETTLED + peer, 1, seed);
        watch_until(
            rig, WORD_DONE + peer, atomic_load(&rig->board->words[WORD_DONE + peer]) + 100, seed);
    }
    if (replaced)
        fail_if_dead(rig, HOSTILE, seed);
}

static uint64_t from_environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text ? strtoull(text, NULL, 10) : otherwise;
}

/* Noise that nobody hears would prove nothing. */
static bool is_heard(const struct pair_stats *from)
{
    return atomic_load_relaxed(&from->popped[LANE_NORMAL]) > 0 &&
           atomic_load_relaxed(&from->dropped) > 0 && atomic_load_relaxed(&from->calls_started) > 0;
}

static void watch_until_heard(struct rig *rig, uint64_t seed)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(60) * 1000000000;

    while (!is_heard(segment_pair(&rig->seg, 0, HOSTILE))) {
        if (aio_clock_ns() > deadline_ns)
            fail_msg("SHERD_HOSTILE_SEED=%" PRIu64 ": shard 0 began no call of it", seed);
        watch_for_ns(rig, KNOCK_NS, seed);
    }
}

static void tell(const struct rig *rig)
{
    const struct pair_stats *from = segment_pair(&rig->seg, 0, HOSTILE);
    uint64_t popped = from->popped[LANE_NORMAL] + from->popped[LANE_URGENT];

    print_message("  shard 0 took %" PRIu64 " messages of it, dropped %" PRIu64 ", began %" PRIu64
                  " of its calls; %" PRIu64 " calls of its own were done\n",
        popped, from->dropped, from->calls_started,
        (uint64_t)atomic_load(&rig->board->words[WORD_DONE]));
}

static void others_survive_a_shard_that_writes_nonsense(void **state)
{
    uint64_t seed = from_environment("SHERD_HOSTILE_SEED", (uint64_t)aio_clock_ns() | 1);
    int64_t left_ns = (int64_t)from_environment("SHERD_HOSTILE_SECONDS", 2) * 1000000000;
    struct rig rig;

    (void)state;
    for (; left_ns > 0; left_ns -= 500000000, seed += 2) {
        print_message("SHERD_HOSTILE_SEED=%" PRIu64 "\n", seed);
        rig_open(&rig, N_HONEST + 1, &service);
        atomic_store(&rig.board->words[63], seed);
        for (uint32_t peer = 0; peer < N_HONEST; peer++)
            rig_fork(&rig, peer, be_honest);
        rig_fork(&rig, HOSTILE, be_hostile);
        watch_for_ns(&rig, 500000000, seed);
        watch_until_heard(&rig, seed);
        tell(&rig);
        check_recovery(&rig, seed);
        rig_close(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(others_survive_a_shard_that_writes_nonsense),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
