/* SPDX-License-Identifier: MIT */
/*
 * ipc/gateway/attach.c, clients.c and ipc/plane/lane.c, plane_shard.c: a client that is cut off, or
 * dies, with requests in flight. Its number and what it had are used again when nobody touches them
 * any more, and not before; nothing of it runs twice; and no other client notices.
 *
 * It comes again, under the number of the one before, for there is no other.
 */
#include <string.h>

#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"
#include "tests/explore/stage_gateway.h"

#define N_IDS 5 /* requests, from 1 on */

enum { M_AGAIN, M_ONCE, M_NAP, N_METHODS };

static struct {
    struct plane_stage stage;
    struct plane_end ends[2];
    struct gateway_end gateways[2];
    struct plane_client clients[PARTS_CONNECTIONS];
    uint32_t runs[N_IDS];
    uint32_t n_ends[N_IDS];
} s;

/* ---- methods ---- */

static int coroutine_fn run_once(struct service_call *call)
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

static const struct service_method methods[N_METHODS] = {
    [M_AGAIN] = {.name = "again", .run = run_once, .flags = SERVICE_IDEMPOTENT, .help = ""},
    [M_ONCE] = {.name = "once", .run = run_once, .help = ""},
    [M_NAP] = {.name = "nap", .run = run_nap, .help = ""},
};

/* ---- the stage ---- */

static void begin_with(uint32_t n_clients)
{
    const struct plane_stage_plan plan = {
        .methods = methods, .n_methods = N_METHODS, .n_clients = n_clients, .n_ledger = 4};

    memset(&s, 0, sizeof s);
    gateway_stage_begin(&s.stage, &plan);
    plane_stage_open(&s.stage, &s.ends[0]);
    gateway_stage_open(&s.stage, &s.gateways[0]);
    for (uint32_t n = 0; n < n_clients; n++)
        gateway_stage_attach(&s.stage, &s.ends[0], &s.clients[n], n);
    s.stage.n_to_end = 1;
}

static void begin_one(void)
{
    begin_with(1);
}

static void begin_two(void)
{
    begin_with(2);
    s.stage.n_to_end = 2;
}

/* ---- clients ---- */

static void check_end(const struct plane_completion *completion, uint32_t method)
{
    uint64_t id = completion->id;

    explorer_check(id > 0 && id < N_IDS && s.n_ends[id]++ == 0);
    if (method == M_AGAIN)
        explorer_check(completion->end == CALL_END_DONE && completion->inline_answer[0] == id);
}

/* No flag that there is. */
static void push_nonsense(struct plane_client *client)
{
    plane_client_fill(&client->lane.ring, 0, M_AGAIN, (uint8_t)~PLANE_FLAGS_ALL);
    local_lane_push(&client->lane, &client->lane.ring);
}

static void await_cut(struct plane_client *client)
{
    struct plane_completion completion;

    while (gateway_client_await(client, TOLD_OVER, &completion))
        check_end(&completion, M_ONCE);
    gateway_client_leave(client);
}

/* The last one's request is done, and nothing else is told it. */
static void call_as_the_next(void)
{
    struct plane_client *client = &s.clients[1];
    struct plane_completion completion;

    gateway_client_attach(&s.stage, client, 1);
    plane_client_push(client, 3, M_AGAIN);
    plane_client_flush(client);
    explorer_check(gateway_client_await(client, TOLD_OVER, &completion) && completion.id == 3);
    check_end(&completion, M_AGAIN);
    explorer_check(!local_lane_has(&client->lane));
    plane_stage_is_over(&s.stage);
}

static void misbehave(void)
{
    plane_client_push(&s.clients[0], 1, M_NAP);
    push_nonsense(&s.clients[0]);
    plane_client_flush(&s.clients[0]);
}

static void misbehave_and_come_again(void)
{
    misbehave();
    await_cut(&s.clients[0]);
    call_as_the_next();
}

static void misbehave_and_go(void)
{
    misbehave();
    await_cut(&s.clients[0]);
    plane_stage_is_over(&s.stage);
}

static void call_without_an_end(void)
{
    plane_client_push(&s.clients[0], 1, M_ONCE);
    plane_client_push(&s.clients[0], 2, M_NAP);
    plane_client_flush(&s.clients[0]);
}

/* The kernel closes what the dead one had. */
static void come_after_it(void)
{
    explorer_wait_for_end_of(0);
    gateway_client_leave(&s.clients[0]);
    call_as_the_next();
}

static void call_beside_it(void)
{
    struct plane_client *client = &s.clients[1];

    for (uint64_t id = 3; id <= 4; id++) {
        struct plane_completion completion;
        plane_client_push(client, id, M_AGAIN);
        plane_client_flush(client);
        explorer_check(gateway_client_await(client, TOLD_OVER, &completion) && completion.id == id);
        check_end(&completion, M_AGAIN);
    }
    plane_stage_is_over(&s.stage);
}

/* ---- shards and gateways ---- */

static void serve(void)
{
    plane_stage_serve(&s.stage, &s.ends[0]);
}

static void replace(uint32_t shard)
{
    if (!explorer_wait_for_crash_of(shard))
        return;
    gateway_stage_bury_shard(&s.stage, PEER_STARTING);
    plane_stage_open(&s.stage, &s.ends[1]);
    plane_stage_serve(&s.stage, &s.ends[1]);
}

static void replace_1(void)
{
    replace(1);
}

static void replace_2(void)
{
    replace(2);
}

static void admit(void)
{
    gateway_stage_serve(&s.stage, &s.gateways[0]);
}

static void admit_after(uint32_t gateway)
{
    if (!explorer_wait_for_crash_of(gateway))
        return;
    gateway_stage_bury(&s.stage);
    gateway_stage_open(&s.stage, &s.gateways[1]);
    gateway_stage_serve(&s.stage, &s.gateways[1]);
}

static void admit_after_2(void)
{
    admit_after(2);
}

static void admit_after_3(void)
{
    admit_after(3);
}

/* ---- what holds in the end ---- */

static void check_runs(void)
{
    for (uint32_t id = 1; id <= 2; id++)
        explorer_check(s.runs[id] <= 1 && s.n_ends[id] <= 1);
}

static void end(void)
{
    check_runs();
    explorer_check(s.n_ends[3] == 1);
    plane_stage_check(&s.stage, 0, 1);
    explorer_check(client_state(segment_client(&s.stage.seg, 0)->word) == CLIENT_ATTACHED);
}

/* The other one is still there. */
static void end_beside(void)
{
    check_runs();
    explorer_check(s.n_ends[3] == 1 && s.n_ends[4] == 1);
    plane_stage_check(&s.stage, 1, 2);
}

#define BOUNDS(p, s, c)                                        \
    {                                                          \
        .preemptions = (p), .stale_loads = (s), .crashes = (c) \
    }

/* Where it has to do with a client's end; elsewhere the ledger's scenarios have it die. */
#define SHARD_DIES   .may_crash = true, .crashes_in = "lane.c"
#define GATEWAY_DIES .may_crash = true, .crashes_in = "clients.c"

const struct scenario cut_scenarios[] = {
    {"who_is_cut_off_comes_again_under_its_number", begin_one, end, BOUNDS(1, 0, 0),
        BOUNDS(2, 1, 0),
        {{"client", misbehave_and_come_again}, {"shard", serve}, {"gateway", admit}}},
    {"and_so_it_does_where_its_shard_dies", begin_one, end, BOUNDS(0, 0, 1), BOUNDS(1, 0, 1),
        {{"client", misbehave_and_come_again}, {"shard", serve, SHARD_DIES}, {"gateway", admit},
            {"heir", replace_1}}},
    {"and_where_the_gateway_dies", begin_one, end, BOUNDS(0, 0, 1), BOUNDS(1, 0, 1),
        {{"client", misbehave_and_come_again}, {"shard", serve}, {"gateway", admit, GATEWAY_DIES},
            {"next gateway", admit_after_2}}},
    {"and_where_both_die", begin_one, end, BOUNDS(0, 0, 2), BOUNDS(0, 0, 2),
        {{"client", misbehave_and_come_again},
            {"shard", serve, .may_crash = true, .crashes_in = "tell_gateway"},
            {"gateway", admit, .may_crash = true, .crashes_in = "set_state"},
            {"next gateway", admit_after_2}, {"heir", replace_1}}},
    {"the_number_of_one_that_dies_is_used_again", begin_one, end, BOUNDS(0, 1, 1), BOUNDS(1, 0, 1),
        {{"client", call_without_an_end, .may_crash = true}, {"next client", come_after_it},
            {"shard", serve}, {"gateway", admit}}},
    {"and_so_it_is_where_its_shard_dies_too", begin_one, end, BOUNDS(0, 0, 1), BOUNDS(1, 0, 2),
        {{"client", call_without_an_end}, {"next client", come_after_it},
            {"shard", serve, SHARD_DIES}, {"gateway", admit}, {"heir", replace_2}}},
    {"and_where_the_gateway_dies_too", begin_one, end, BOUNDS(0, 0, 1), BOUNDS(1, 0, 1),
        {{"client", call_without_an_end}, {"next client", come_after_it}, {"shard", serve},
            {"gateway", admit, GATEWAY_DIES}, {"next gateway", admit_after_3}}},
    {"no_other_client_notices", begin_two, end_beside, BOUNDS(0, 0, 0), BOUNDS(1, 0, 0),
        {{"client", misbehave_and_go}, {"other client", call_beside_it}, {"shard", serve},
            {"gateway", admit}}},

    {"they_may_die_at_any_of_these_places", begin_one, end, BOUNDS(0, 0, 2), BOUNDS(0, 0, 2),
        {{"client", misbehave_and_come_again}, {"shard", serve, SHARD_DIES},
            {"gateway", admit, GATEWAY_DIES}, {"next gateway", admit_after_2}, {"heir", replace_1}},
        .only_long = true},
    {"nor_does_it_where_their_shard_dies", begin_two, end_beside, BOUNDS(0, 0, 1), BOUNDS(0, 0, 1),
        {{"client", misbehave_and_go}, {"other client", call_beside_it},
            {"shard", serve, SHARD_DIES}, {"gateway", admit}, {"heir", replace_2}},
        .only_long = true},
    {NULL},
};
