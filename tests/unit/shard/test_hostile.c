/* SPDX-License-Identifier: MIT */
/*
 * A shard that writes nonsense over all that it may write, while two others call each other and it:
 * they never crash, and serve again once it is gone.
 *
 * Its own part and the commons are what it may write (shard/firewall.h), but for the stacks of
 * portable coroutines, which whoever runs one has to trust. What it writes is half noise and half
 * plausible: words that others stored, moved by one; messages of each kind with true generations.
 *
 * SHERD_HOSTILE_SECONDS says how long, SHERD_HOSTILE_SEED which sequence; it is printed.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "shard/mesh_inside.h"
#include "tests/unit/shard/mesh_rig.h"

enum { M_ECHO, M_LARGE, M_ONCE, M_RELAY, M_SLEEP, N_METHODS };

#define N_HONEST     2
#define HOSTILE      2
#define N_IN_FLIGHT  24
#define LARGE        9000
#define DEADLINE_NS  30000000
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

/* ---- noise ---- */

struct noise {
    uint64_t state;
    const struct segment *seg;
    uint64_t n_written;
};

static uint64_t next(struct noise *noise)
{
    noise->state ^= noise->state << 13;
    noise->state ^= noise->state >> 7;
    noise->state ^= noise->state << 17;
    return noise->state;
}

static uint64_t below(struct noise *noise, uint64_t n)
{
    return n ? next(noise) % n : 0;
}

/* What a field may hold that is compared, counted with, or taken for an offset. */
static uint64_t any_value(struct noise *noise, uint64_t old)
{
    switch (below(noise, 8)) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX - below(noise, 4);
    case 2:
        return old + below(noise, 3) - 1;
    case 3:
        return old ^ UINT64_C(1) << below(noise, 64);
    case 4:
        return below(noise, 600);
    case 5:
        return below(noise, noise->seg->bytes);
    case 6:
        return segment_heap_off(noise->seg, HOSTILE) + below(noise, 4) * SEGMENT_PAGE;
    default:
        return next(noise);
    }
}

static void write_word(struct noise *noise, void *at, unsigned bytes)
{
    uint64_t old = 0;
    uint64_t value;

    memcpy(&old, at, bytes);
    value = any_value(noise, old);
    if (bytes == 8)
        atomic_store_relaxed((uint64_t *)at, value);
    else
        atomic_store_relaxed((uint32_t *)at, (uint32_t)value);
    noise->n_written++;
}

/* A word anywhere in [first, end). */
static void scribble(struct noise *noise, uint64_t first, uint64_t end)
{
    unsigned bytes = below(noise, 2) ? 8 : 4;
    uint64_t at = first + below(noise, (end - first) / bytes) * bytes;

    write_word(noise, noise->seg->base + at, bytes);
}

/* More often its bells and bitmaps than the arena behind them, of which it leaves the stacks out. */
static void scribble_commons(struct noise *noise)
{
    const struct segment *seg = noise->seg;
    uint64_t first = (uint64_t)((uint8_t *)segment_bell(seg, 0) - seg->base);
    uint64_t arena = (uint64_t)((uint8_t *)segment_arena(seg, 0) - seg->base);
    uint64_t stacks = (uint64_t)(segment_stack(seg, 0) - seg->base);

    scribble(noise, first, below(noise, 2) ? arena : stacks);
}

/* ---- what looks like the protocol ---- */

static uint32_t some_slot(struct noise *noise, uint32_t n)
{
    return below(noise, 50) == 0 ? (uint32_t)next(noise) : (uint32_t)below(noise, n + 1);
}

/* Its calls to an honest one: real methods, arguments anywhere. */
static uint64_t make_call(struct noise *noise, uint32_t to, uint32_t slot)
{
    const struct segment *seg = noise->seg;

    if (slot >= segment_call_slots(seg, HOSTILE, to))
        return next(noise);
    struct call_slot *call = segment_call(seg, HOSTILE, to, slot);
    uint64_t generation = word_generation(call->word) + below(noise, 2);

    call->deadline_ns = below(noise, 4) ? INT64_MAX : any_value(noise, 0);
    call->method = below(noise, 8) ? (uint32_t)below(noise, N_METHODS) : (uint32_t)next(noise);
    call->depth = below(noise, 8) ? (uint32_t)below(noise, 5) : (uint32_t)next(noise);
    call->args_len = (uint32_t)any_value(noise, 100);
    call->args_off = below(noise, 2) ? 0 : any_value(noise, 0);
    atomic_store_release(&call->word, call_word(generation, (enum call_state)below(noise, 5)));
    return generation;
}

/* The generation of a call of the honest one to it. */
static uint64_t generation_of_theirs(struct noise *noise, uint32_t to, uint32_t slot)
{
    const struct segment *seg = noise->seg;

    if (slot >= segment_call_slots(seg, to, HOSTILE))
        return next(noise);
    return word_generation(atomic_load_relaxed(&segment_call(seg, to, HOSTILE, slot)->word));
}

static void send(struct noise *noise, uint32_t to, enum mesh_lane lane, uint64_t *next_position)
{
    const struct segment *seg = noise->seg;
    uint32_t n = segment_ring_slots(seg, HOSTILE, to, lane);
    struct ring_slot *slot = &segment_ring(seg, HOSTILE, to, lane)[*next_position % n];
    struct message message = {.kind = (uint8_t)below(noise, 8),
        .slot = some_slot(noise, segment_call_slots(seg, to, HOSTILE)),
        .withdrawals = (uint32_t)below(noise, 3),
        .depth = (uint8_t)below(noise, 7),
        .method = (uint32_t)below(noise, 12),
        .path = (uint32_t)any_value(noise, 0),
        .deadline_ns = below(noise, 2) ? INT64_MAX : any_value(noise, 0),
        .status = (int32_t)any_value(noise, 0),
        .end = (uint8_t)below(noise, 9),
        .len = (uint32_t)any_value(noise, 100),
        .off = below(noise, 2) ? 0 : any_value(noise, 0)};

    message.generation = message.kind == MESSAGE_CALL || below(noise, 4) == 0
                             ? make_call(noise, to, message.slot)
                             : generation_of_theirs(noise, to, message.slot);
    memcpy(slot->payload, &message, sizeof(message));
    atomic_store_release(&slot->seq, *next_position + 1);
    *next_position += 1;
    noise->n_written++;
}

/* As many as the ring may hold, from where the receiver stands; and it is told. */
static void send_some(struct noise *noise, struct rig *rig)
{
    const struct segment *seg = noise->seg;
    uint32_t to = (uint32_t)below(noise, N_HONEST);
    enum mesh_lane lane = (enum mesh_lane)below(noise, N_LANES);
    uint64_t position = atomic_load_relaxed(segment_head(seg, HOSTILE, to, lane));
    struct doorbell bell = {&segment_bell(seg, to)->words, rig->bells[to]};

    for (uint64_t n = below(noise, 20); n > 0; n--)
        send(noise, to, lane, &position);
    atomic_or_seq(&segment_bitmap(seg, to)->senders[0], UINT64_C(1) << HOSTILE);
    doorbell_ring(&bell);
}

static void be_hostile(struct rig_end *end)
{
    struct rig *rig = end->rig;
    const struct segment *seg = &rig->seg;
    struct noise noise = {.state = atomic_load(&rig->board->words[63]), .seg = seg};
    uint64_t first = segment_part_off(seg, HOSTILE);

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* it ends with the test, however that ends */
    for (;;)
        switch (below(&noise, 4)) {
        case 0:
            scribble_commons(&noise);
            break;
        case 1:
            scribble(&noise, first, segment_heap_off(seg, HOSTILE));
            break;
        case 2:
            send_some(&noise, rig);
            break;
        default:
            if (below(&noise, 50) == 0)
                sched_yield();
        }
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
        .target = !told && below(&honest->noise, 3) == 0 ? HOSTILE : !honest->end->peer,
        .method = (uint32_t)below(&honest->noise, N_METHODS),
        .args = args,
        .args_len = below(&honest->noise, 2) ? below(&honest->noise, SEGMENT_INLINE_BYTES + 1)
                                             : below(&honest->noise, LARGE),
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
    rig_poll_until(end, is_over, &honest);
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

static void watch_for_ns(struct rig *rig, int64_t ns, uint64_t seed)
{
    int64_t end_ns = aio_clock_ns() + ns;

    while (aio_clock_ns() < end_ns) {
        const struct timespec pause = {.tv_nsec = KNOCK_NS};
        nanosleep(&pause, NULL);
        knock_all(rig);
        for (uint32_t peer = 0; peer < N_HONEST; peer++)
            fail_if_dead(rig, peer, seed);
    }
}

static void watch_until(struct rig *rig, unsigned word, uint64_t value, uint64_t seed)
{
    int64_t deadline_ns = aio_clock_ns() + INT64_C(20) * 1000000000;

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
static void tell(const struct rig *rig)
{
    const struct pair_stats *from = segment_pair(&rig->seg, 0, HOSTILE);
    uint64_t popped = from->popped[LANE_NORMAL] + from->popped[LANE_URGENT];

    print_message("  shard 0 took %" PRIu64 " messages of it, dropped %" PRIu64 ", began %" PRIu64
                  " of its calls; %" PRIu64 " calls of its own were done\n",
        popped, from->dropped, from->calls_started,
        (uint64_t)atomic_load(&rig->board->words[WORD_DONE]));
    assert_true(popped > 0 && from->dropped > 0 && from->calls_started > 0);
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
