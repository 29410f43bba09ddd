/* SPDX-License-Identifier: MIT */
#include "tests/explore/stage_gateway.h"

#include "ipc/gateway/attach_inside.h"
#include "ipc/gateway/attach_memory.h"
#include "runtime/atomic.h"
#include "shard/estate.h"
#include "tests/explore/explorer.h"

#define SHARD 0

static struct {
    struct plane_stage *stage;
    uint32_t holders[PARTS_CONNECTIONS]; /* of a memory: its client and the gateway */
} g;

/* ---- the shard ---- */

struct mesh *member_mesh(const struct member *member)
{
    return ((const struct plane_end *)member)->mesh;
}

AioContext *member_context(const struct member *member)
{
    return (AioContext *)&((const struct plane_end *)member)->loop;
}

static void start_shard(struct plane_stage *stage, struct plane_end *end, uint32_t incarnation)
{
    const struct child_env env = {.segment = &stage->seg,
        .bell_fds = plane_stage_bell_fds,
        .peer = SHARD,
        .incarnation = incarnation,
        .keep = parts_keep_inherit()};
    void *extra;

    end->env = env;
    explorer_check(plane_shard_extra.start(&end->env, (struct member *)end, &extra) == 0);
    end->plane = end->loop.source->opaque;
    atomic_store_release(&segment_part(&stage->seg, SHARD)->incarnation, incarnation);
}

/* ---- the gateway ---- */

static struct doorbell bell_of_gateway(const struct plane_stage *stage)
{
    return (struct doorbell){
        .words = &segment_bell(&stage->seg, segment_gateway(&stage->seg))->words,
        .fd = PARTS_GATEWAY_FD};
}

void gateway_stage_begin(struct plane_stage *stage, const struct plane_stage_plan *plan)
{
    struct plane_stage_plan mine = *plan;

    mine.start = start_shard;
    plane_stage_begin(stage, &mine);
    parts_gateway_reset();
    g.stage = stage;
    for (uint32_t n = 0; n < PARTS_CONNECTIONS; n++)
        g.holders[n] = 2;
    for (uint32_t client = 0; client < plan->n_clients; client++)
        *segment_client(&stage->seg, client) = (struct client_row){0};
}

void gateway_stage_open(struct plane_stage *stage, struct gateway_end *end)
{
    struct attach_config config = {
        .segment = &stage->seg, .keep = &end->keep, .client_bytes = UINT64_C(1) << 32};

    end->keep = parts_gateway_inherit();
    explorer_check(attach_start(&config, &end->attach) == 0 && end->attach);
}

void gateway_stage_serve(struct plane_stage *stage, struct gateway_end *end)
{
    const struct doorbell bell = bell_of_gateway(stage);

    while (!plane_stage_has_ended(stage)) {
        attach_turn(end->attach);
        parts_gateway_hear();
        parts_gateway_sleep(&bell);
    }
    explorer_may_crash(false);
}

static void open_lane(struct attach_link *link, bool again)
{
    const struct client_row *row = segment_client(link->attach->config.segment, link->client);
    const struct plane_grant grant = {.client = link->client,
        .n_entries = row->n_entries,
        .generation = client_generation(row->word),
        .data_bytes = row->data_bytes,
        .max_bytes = row->max_bytes,
        .max_in_flight = row->max_in_flight};

    clients_opened(&link->attach->clients, link->client, SHARD);
    parts_keep_bell(&grant, again);
}

/* False: there is no place for it yet. */
static bool welcome(struct attach_link *link)
{
    static const struct client_wish wish = {
        .n_entries = PLANE_STAGE_ENTRIES, .data_bytes = PLANE_STAGE_DATA, .name = "explored"};
    struct clients *clients = &link->attach->clients;
    uint32_t client;

    if (clients_take(clients, &wish, 0, &client) < 0)
        return false;
    parts_keep_put(client, client_generation(clients_word(clients, client)), (uint32_t)link->fd);
    attach_welcome_link(link, client, link->fd);
    return true;
}

static void answer_hello(struct attach_link *link)
{
    if (link->client == CLIENTS_NONE && !welcome(link))
        return;
    open_lane(link, false);
    parts_connection_tell((uint32_t)link->fd, TOLD_OPENED);
}

/* As serve_open() in attach_serve.c. */
static void answer_open(struct attach_link *link)
{
    const struct peer_control *control = segment_control(link->attach->config.segment, SHARD);

    if (atomic_load_acquire(&control->state) == PEER_FAILED) {
        parts_connection_tell((uint32_t)link->fd, TOLD_REFUSED);
        return;
    }
    if (!attach_reopen(link, SHARD))
        return; /* not yet */
    open_lane(link, true);
    parts_connection_tell(
        (uint32_t)link->fd, attach_is_closed(link, SHARD) ? TOLD_REFUSED : TOLD_OPENED_AGAIN);
}

void attach_serve(struct attach_link *link)
{
    uint32_t asks = parts_connection_asks((uint32_t)link->fd);

    if (asks & SAID_END)
        attach_end(link, CUT_NONE, 0);
    else if (asks & SAID_HELLO)
        answer_hello(link);
    else if (asks & SAID_OPEN)
        answer_open(link);
}

/* ---- the supervisor ---- */

void gateway_stage_bury(struct plane_stage *stage)
{
    estate_prepare(&stage->seg, segment_gateway(&stage->seg));
}

void gateway_stage_bury_shard(struct plane_stage *stage, enum peer_state state)
{
    struct peer_control *control = segment_control(&stage->seg, SHARD);
    const struct doorbell bell = bell_of_gateway(stage);

    atomic_store_release(&control->state, (uint32_t)state);
    atomic_store_release(&control->incarnation, control->incarnation + 1);
    doorbell_knock(&bell);
}

/* ---- memory ---- */

static void let_go(uint32_t memory)
{
    if (atomic_add_seq(&g.holders[memory], (uint32_t)-1) == 1)
        explorer_unmap(plane_stage_memory(memory), g.stage->layout.total_bytes);
}

void attach_memory_close(int fd, uint32_t *n_closing)
{
    if (fd >= 0)
        let_go((uint32_t)fd);
}

/* ---- clients ---- */

uint32_t gateway_stage_client(const struct plane_stage *stage, const struct plane_client *client)
{
    return stage->plan.n_clients == 1 ? 0 : client->number;
}

void gateway_stage_attach(struct plane_stage *stage, struct plane_end *shard,
    struct plane_client *client, uint32_t connection)
{
    const struct doorbell bell = bell_of_gateway(stage);
    const int fds[] = {PARTS_CLIENT_FD(connection), PARTS_SHARD_EVENTS, PARTS_GATEWAY_FD};

    parts_connection_say(connection, SAID_HELLO);
    parts_gateway_hear();
    explorer_check(parts_connection_told(connection) == TOLD_OPENED);
    shard->loop.handlers[PARTS_CHANNEL / 2].run(shard->loop.handlers[PARTS_CHANNEL / 2].opaque);
    plane_client_begin(stage, client, connection);
    doorbell_accept(&bell);
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        explorer_fd_read(fds[i]);
}

void gateway_client_attach(
    struct plane_stage *stage, struct plane_client *client, uint32_t connection)
{
    parts_connection_say(connection, SAID_HELLO);
    parts_connection_wait(connection, TOLD_OPENED);
    plane_client_begin(stage, client, connection);
}

bool gateway_client_await(
    struct plane_client *client, uint32_t what, struct plane_completion *ret_completion)
{
    struct local_lane *lane = &client->lane;

    while (!local_lane_pop(lane, ret_completion)) {
        if (parts_connection_told(client->number) & what)
            return false;
        local_lane_arm(lane);
        local_lane_fence();
        if (!local_lane_has(lane)) {
            explorer_fd_wait(lane->bell_fd, false);
            local_lane_drain_bell(lane);
        }
        local_lane_disarm(lane);
    }
    lane->ring.consumed++;
    return true;
}

void gateway_client_leave(struct plane_client *client)
{
    parts_connection_say(client->number, SAID_END);
    let_go(client->number);
}
