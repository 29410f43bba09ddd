/* SPDX-License-Identifier: MIT */
/*
 * ipc/plane/ledger.c, heir.c, run.c, lane.c: each request of a client ends once, and with an end
 * that is true, whenever its shard dies; and nothing of a client is touched once it is gone.
 *
 * The supervisor is a thread that waits for the death and goes on as the replacement. A disk is a
 * thread of its own: it goes on with what a dead shard asked for, and so does it tell when that is
 * over.
 */
#include <errno.h>
#include <string.h>

#include "runtime/atomic.h"
#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"
#include "tests/explore/stage_plane.h"

#define N_IDS       3 /* requests, from 1 on */
#define N_LIVES     3 /* of the shard: incarnations from 1 on */
#define ROOM_BYTES  64
#define DISK_BYTE   0xdd
#define CLIENT_BYTE 0xcc

enum { M_AGAIN, M_ONCE, M_NAP, M_DISK, N_METHODS };

/* Asked for by an incarnation, whose number is its place in s.io. */
struct io {
    uint8_t *room;
    uint32_t asked, written;
};

static struct {
    struct plane_stage stage;
    struct plane_end ends[N_LIVES];
    struct plane_client client;
    uint32_t n_requests;
    uint32_t methods[N_IDS]; /* of each */
    uint32_t runs[N_IDS];
    uint32_t n_ends[N_IDS];
    uint32_t life; /* the newest incarnation */
    Coroutine *waits;
    struct io io[N_LIVES];
    uint32_t dead[N_LIVES];
    uint32_t disk_ends;
    bool proves_early; /* that a dead one's I/O is over: wrong */
} s;

static void wake_who_waits(void);

/* ---- methods ---- */

static int coroutine_fn run_again(struct service_call *call)
{
    s.runs[call->args[0]]++;
    return call->outside->reply(call, call->args, call->args_len);
}

static int coroutine_fn run_nap(struct service_call *call)
{
    s.runs[call->args[0]]++;
    call->sleeper = coroutine_self();
    if (!call->abandoned)
        coroutine_yield_at("a cancel");
    return -ECANCELED;
}

/* The disk writes to the client's memory, whatever becomes of this process. */
static int coroutine_fn run_disk(struct service_call *call)
{
    struct io *io = &s.io[s.life - 1];
    void *room;
    int r = call->outside->take_room(call, ROOM_BYTES, &room);

    if (r < 0)
        return r;
    s.runs[call->args[0]]++;
    io->room = room;
    s.waits = coroutine_self();
    atomic_store_release(&io->asked, 1);
    explorer_post(&s.io);
    atomic_load_relaxed(&io->asked); /* a place to die at */
    coroutine_yield_at("the disk");
    return call->outside->put_room(call, ROOM_BYTES);
}

static const struct service_method methods[N_METHODS] = {
    [M_AGAIN] = {.name = "again", .run = run_again, .flags = SERVICE_IDEMPOTENT, .help = ""},
    [M_ONCE] = {.name = "once", .run = run_again, .help = ""},
    [M_NAP] = {.name = "nap", .run = run_nap, .help = ""},
    [M_DISK] = {.name = "disk", .run = run_disk, .help = ""},
};

/* ---- the stage ---- */

static void begin_with(uint32_t first, uint32_t second)
{
    const struct plane_stage_plan plan = {.methods = methods,
        .n_methods = N_METHODS,
        .n_clients = 1,
        .n_ledger = 4,
        .woken = wake_who_waits};

    memset(&s, 0, sizeof s);
    plane_stage_begin(&s.stage, &plan);
    s.life = 1;
    s.methods[1] = first;
    s.methods[2] = second;
    s.n_requests = second == N_METHODS ? 1 : 2;
    plane_stage_open(&s.stage, &s.ends[0]);
    plane_client_begin(&s.stage, &s.client, 0);
}

static void begin_again(void)
{
    begin_with(M_AGAIN, N_METHODS);
}

static void begin_once(void)
{
    begin_with(M_ONCE, N_METHODS);
}

static void begin_both(void)
{
    begin_with(M_ONCE, M_AGAIN);
}

static void begin_nap(void)
{
    begin_with(M_NAP, N_METHODS);
}

static void begin_disk(void)
{
    begin_with(M_DISK, N_METHODS);
}

static void begin_dropped(void)
{
    begin_both();
    s.stage.drops = true;
    parts_plane_last_to_unmap();
}

static void begin_nap_dropped(void)
{
    begin_nap();
    s.stage.drops = true;
    parts_plane_last_to_unmap();
}

static void begin_disk_dropped(void)
{
    begin_disk();
    s.stage.drops = true;
    parts_plane_last_to_unmap();
}

static void begin_losing_the_row(void)
{
    begin_both();
    s.stage.loses_row = true;
}

static void begin_with_one_incarnation(void)
{
    begin_disk();
    s.stage.same_incarnation = true;
}

static void begin_with_an_early_proof(void)
{
    begin_disk();
    s.proves_early = true;
}

/* ---- the client ---- */

static uint8_t *room(void)
{
    return plane_stage_data(&s.stage, 0);
}

static void push(uint8_t id)
{
    struct local_ring *ring = &s.client.lane.ring;
    struct plane_submission *entry = plane_client_fill(ring, id, s.methods[id], 0);

    entry->room_off = 0;
    entry->room_len = s.methods[id] == M_DISK ? ROOM_BYTES : 0;
    local_lane_push(&s.client.lane, ring);
}

/* What it says of how often the method ran is true of all that nobody can see it run twice of. */
static void check_end(const struct plane_completion *completion)
{
    uint32_t id = (uint32_t)completion->id;

    switch (s.methods[id]) {
    case M_AGAIN:
        explorer_check(completion->end == CALL_END_DONE && completion->inline_answer[0] == id);
        break;
    case M_ONCE:
        explorer_check(completion->end == CALL_END_DONE || completion->end == CALL_END_IN_DOUBT);
        break;
    case M_NAP:
        explorer_check(
            completion->end == CALL_END_CANCELLED || completion->end == CALL_END_IN_DOUBT);
        break;
    default:
        if (completion->end == CALL_END_IN_DOUBT)
            return;
        explorer_check(completion->end == CALL_END_DONE && completion->len == ROOM_BYTES);
        for (uint32_t i = 0; i < ROOM_BYTES; i++)
            explorer_check(room()[i] == DISK_BYTE);
    }
}

static void take(void)
{
    struct plane_completion completion = plane_client_await(&s.client);

    explorer_check(completion.id >= 1 && completion.id <= s.n_requests);
    explorer_check(s.n_ends[completion.id]++ == 0);
    check_end(&completion);
}

/* From here on the room is the client's again. */
static void use_room(void)
{
    static const uint8_t bytes[ROOM_BYTES] = {CLIENT_BYTE};

    memcpy(room(), bytes, ROOM_BYTES);
}

static void leave(void)
{
    plane_stage_is_over(&s.stage);
    atomic_store_release(&s.disk_ends, 1);
    explorer_post(&s.io);
}

static void call(void)
{
    for (uint8_t id = 1; id <= s.n_requests; id++)
        push(id);
    plane_client_flush(&s.client);
    for (uint32_t i = 0; i < s.n_requests; i++)
        take();
    use_room();
    explorer_check(!local_lane_has(&s.client.lane));
    leave();
}

static void call_in_turn(void)
{
    for (uint8_t id = 1; id <= s.n_requests; id++) {
        push(id);
        plane_client_flush(&s.client);
        take();
    }
    leave();
}

static void call_and_cancel(void)
{
    push(1);
    plane_client_cancel(&s.client, 1, 0);
    plane_client_flush(&s.client);
    take();
    leave();
}

/* One that does not wait for what it has asked for. */
static void call_and_end(void)
{
    for (uint8_t id = 1; id <= s.n_requests; id++)
        push(id);
    plane_client_flush(&s.client);
}

/* ---- the shard, and who comes after it ---- */

static void live(uint32_t life)
{
    plane_stage_serve(&s.stage, &s.ends[life - 1]);
}

static void serve(void)
{
    live(1);
}

static bool has_heir_to_come(uint32_t thread)
{
    explorer_may_crash(false); /* as the supervisor */
    if (!explorer_wait_for_crash_of(thread))
        return false;
    s.waits = NULL;
    plane_stage_bury(&s.stage);
    atomic_store_release(&s.dead[s.life - 1], 1);
    s.life++;
    explorer_post(&s.io);
    explorer_may_crash(true);
    return true;
}

static void replace_of(uint32_t thread)
{
    if (!has_heir_to_come(thread))
        return;
    uint32_t life = s.life;

    plane_stage_open(&s.stage, &s.ends[life - 1]);
    live(life);
}

static void replace(void)
{
    replace_of(1);
}

static void replace_again(void)
{
    replace_of(2);
}

/* ---- the disk, and the supervisor's proof that it is over with a dead one's requests ---- */

static void write_room(struct io *io)
{
    uint8_t bytes[ROOM_BYTES];

    if (!atomic_load_acquire(&io->asked) || atomic_load_relaxed(&io->written))
        return;
    memset(bytes, DISK_BYTE, sizeof(bytes));
    memcpy(io->room, bytes, sizeof(bytes));
    atomic_store_release(&io->written, 1);
    parts_plane_knock();
}

static void prove(uint32_t *n_quiet)
{
    while (*n_quiet < N_LIVES && atomic_load_acquire(&s.dead[*n_quiet]))
        plane_stage_is_quiet(&s.stage, ++*n_quiet);
}

static void disk(void)
{
    uint32_t n_quiet = 0;

    do {
        explorer_wait(&s.io);
        if (s.proves_early)
            prove(&n_quiet);
        for (uint32_t i = 0; i < N_LIVES; i++)
            write_room(&s.io[i]);
        prove(&n_quiet);
    } while (!atomic_load_acquire(&s.disk_ends));
}

/* In the shard, after each sleep. */
static void wake_who_waits(void)
{
    Coroutine *co = s.waits;

    if (!co || !atomic_or_seq(&s.io[s.life - 1].written, 0))
        return;
    s.waits = NULL;
    aio_co_wake(co);
}

/* ---- the gateway: a client has ended ---- */

static void drop_client(void)
{
    struct client_lane *row = plane_stage_row(&s.stage, 0);

    explorer_wait_for_end_of(0);
    plane_stage_drop(&s.stage, 0);
    while (atomic_load_acquire(&row->state) != CLIENT_LANE_NONE)
        atomic_pause();
    for (uint32_t slot = 0; slot < s.stage.plan.n_ledger; slot++)
        explorer_check(ledger_state(segment_ledger(&s.stage.seg, 0, slot)->word) == LEDGER_FREE);
    leave();
}

/* ---- what holds in the end ---- */

static void end(void)
{
    plane_stage_check(&s.stage, 0, s.n_requests);
    for (uint32_t id = 1; id <= s.n_requests; id++)
        explorer_check(s.n_ends[id] == 1);
}

/* What it has asked for ran once at most, but for what may run again. */
static void end_dropped(void)
{
    explorer_check(plane_stage_row(&s.stage, 0)->state == CLIENT_LANE_NONE);
    for (uint32_t id = 1; id <= s.n_requests; id++)
        explorer_check(s.methods[id] == M_AGAIN || s.runs[id] <= 1);
}

static void end_once(void)
{
    end();
    explorer_check(s.runs[1] <= 1);
}

#define BOUNDS(p, s, c)                                        \
    {                                                          \
        .preemptions = (p), .stale_loads = (s), .crashes = (c) \
    }

/* The first one dies at rest, its heir when the disk has been asked. */
#define DISK_AND_TWO_DEATHS                                                             \
    {                                                                                   \
        {"client", call},                                                               \
            {"shard", serve, .may_crash = true, .crashes_in = "plane_stage_has_ended"}, \
            {"heir", replace, .may_crash = true, .crashes_in = "run_disk"},             \
            {"second heir", replace_again},                                             \
        {                                                                               \
            "disk", disk                                                                \
        }                                                                               \
    }

const struct scenario ledger_scenarios[] = {
    {"what_may_run_twice_is_done_whenever_its_shard_dies", begin_again, end, BOUNDS(1, 1, 1),
        BOUNDS(2, 2, 1),
        {{"client", call}, {"shard", serve, .may_crash = true}, {"heir", replace}}},
    {"what_may_not_runs_once_at_most", begin_once, end_once, BOUNDS(1, 1, 1), BOUNDS(2, 2, 1),
        {{"client", call}, {"shard", serve, .may_crash = true}, {"heir", replace}}},
    {"each_of_two_ends_once", begin_both, end_once, BOUNDS(1, 0, 1), BOUNDS(2, 1, 1),
        {{"client", call}, {"shard", serve, .may_crash = true}, {"heir", replace}}},
    {"the_next_one_goes_to_the_heir", begin_both, end_once, BOUNDS(1, 0, 1), BOUNDS(2, 1, 1),
        {{"client", call_in_turn}, {"shard", serve, .may_crash = true}, {"heir", replace}}},
    {"the_heir_may_die_too", begin_once, end_once, BOUNDS(0, 0, 2), BOUNDS(1, 0, 2),
        {{"client", call}, {"shard", serve, .may_crash = true},
            {"heir", replace, .may_crash = true}, {"second heir", replace_again}}},
    {"a_cancel_is_not_lost_with_the_shard", begin_nap, end_once, BOUNDS(1, 0, 1), BOUNDS(2, 1, 1),
        {{"client", call_and_cancel}, {"shard", serve, .may_crash = true}, {"heir", replace}}},
    {"no_disk_writes_where_the_client_has_its_memory_back", begin_disk, end, BOUNDS(0, 1, 1),
        BOUNDS(1, 0, 1),
        {{"client", call}, {"shard", serve, .may_crash = true}, {"heir", replace}, {"disk", disk}}},

    {"nor_does_the_disk_of_an_heir_that_died_too", begin_disk, end, BOUNDS(0, 0, 2),
        BOUNDS(1, 0, 2), DISK_AND_TWO_DEATHS},

    {"nothing_is_left_of_a_client_that_ends", begin_dropped, end_dropped, BOUNDS(1, 1, 1),
        BOUNDS(2, 1, 1),
        {{"client", call_and_end, .may_crash = true}, {"shard", serve}, {"gateway", drop_client}}},
    {"what_its_client_waits_for_no_more_is_cancelled", begin_nap_dropped, end_dropped,
        BOUNDS(1, 1, 1), BOUNDS(2, 1, 1),
        {{"client", call_and_end, .may_crash = true}, {"shard", serve}, {"gateway", drop_client}}},
    {"its_memory_stays_until_the_disk_is_done_with_it", begin_disk_dropped, end_dropped,
        BOUNDS(1, 0, 1), BOUNDS(2, 1, 1),
        {{"client", call_and_end, .may_crash = true}, {"shard", serve}, {"gateway", drop_client},
            {"disk", disk}}},
    {"a_client_may_end_while_its_shard_dies", begin_dropped, end_dropped, BOUNDS(0, 1, 1),
        BOUNDS(1, 0, 1),
        {{"client", call_and_end}, {"shard", serve, .may_crash = true}, {"gateway", drop_client},
            {"heir", replace}}},

    {"wrong: an heir begins where no row says", begin_losing_the_row, end_once, BOUNDS(0, 0, 1),
        BOUNDS(1, 0, 1),
        {{"client", call}, {"shard", serve, .may_crash = true}, {"heir", replace}}},
    {"wrong: an heir begins requests in its predecessor's name", begin_with_one_incarnation, end,
        BOUNDS(0, 0, 2), BOUNDS(1, 0, 2), DISK_AND_TWO_DEATHS},
    {"wrong: a dead one's requests to the disk are said to be over", begin_with_an_early_proof, end,
        BOUNDS(1, 0, 1), BOUNDS(1, 0, 1),
        {{"client", call}, {"shard", serve, .may_crash = true, .crashes_in = "run_disk"},
            {"heir", replace}, {"disk", disk}}},
    {NULL},
};
