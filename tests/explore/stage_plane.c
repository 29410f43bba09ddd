/* SPDX-License-Identifier: MIT */
#include "tests/explore/stage_plane.h"

#include <string.h>

#include "runtime/atomic.h"
#include "shard/geometry.h"
#include "tests/explore/explorer.h"

#define SHARD         0
#define SEGMENT_BYTES (512 * 1024)
#define MEMORY_BYTES  (PLANE_PAGE + PLANE_STAGE_DATA)
#define GENERATION    7u

/* fresh: a segment as segment_init() makes it, which takes system calls, by a plan. */
static uint8_t memory[SEGMENT_BYTES] __attribute__((aligned(4096)));
static uint8_t fresh[SEGMENT_BYTES];
static struct segment fresh_segment;
static uint8_t clients[PLANE_STAGE_CLIENTS][MEMORY_BYTES] __attribute__((aligned(4096)));

const int plane_stage_bell_fds[] = {PARTS_SHARD_EVENTS, PARTS_GATEWAY_FD};

/* ---- the segment ---- */

static void make_fresh(const struct plane_stage_plan *plan)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    explorer_check(segment_geometry_plan(1, 0, &geometry, &bytes) == 0);
    geometry.slots_shard = SEGMENT_MIN_SLOTS;
    geometry.slots_gateway = 1;
    geometry.n_events = 1;
    geometry.n_coroutines = geometry.n_portable = 0;
    geometry.n_clients = plan->n_clients;
    geometry.n_ledger = plan->n_ledger;
    geometry.n_fates = 0;
    geometry.heap_bytes = SEGMENT_PAGE;
    geometry.service_bytes = 0;
    memset(memory, 0, sizeof(memory));
    explorer_check(
        segment_init(&fresh_segment, memory, sizeof(memory), &geometry, "explored") == 0);
    segment_control(&fresh_segment, SHARD)->incarnation = 1;
    segment_control(&fresh_segment, SHARD)->state = PEER_UP;
    for (uint32_t client = 0; client < plan->n_clients; client++)
        *segment_client(&fresh_segment, client) = (struct client_row){
            .word = client_word(GENERATION, CLIENT_ATTACHED), .opened = {1u << SHARD}};
    __builtin_memcpy(fresh, memory, fresh_segment.bytes);
}

static bool is_fresh(const struct plane_stage_plan *plan)
{
    return fresh_segment.bytes && fresh_segment.geometry.n_clients == plan->n_clients &&
           fresh_segment.geometry.n_ledger == plan->n_ledger;
}

struct client_lane *plane_stage_row(const struct plane_stage *stage, uint32_t client)
{
    return segment_client_lane(&stage->seg, SHARD, client);
}

uint8_t *plane_stage_data(const struct plane_stage *stage, uint32_t client)
{
    return clients[client] + stage->layout.data_off;
}

/* As if so many requests had come and gone: each entry has the turn of its last lap. */
static void set_position(struct plane_stage *stage, uint32_t client)
{
    uint64_t position = stage->plan.position;
    struct client_lane *row = plane_stage_row(stage, client);

    if (!position)
        return;
    for (uint64_t at = position; at < position + PLANE_STAGE_ENTRIES; at++) {
        uint32_t turn = (uint32_t)(at + 1 - PLANE_STAGE_ENTRIES);
        plane_submission_at(&stage->layout, clients[client], SHARD, at)->turn = turn;
        plane_completion_at(&stage->layout, clients[client], SHARD, at)->turn = turn;
    }
    *row = (struct client_lane){.generation = GENERATION,
        .state = CLIENT_LANE_OPEN,
        .head = position,
        .requests = position,
        .tail = position};
}

void plane_stage_begin(struct plane_stage *stage, const struct plane_stage_plan *plan)
{
    if (!is_fresh(plan))
        make_fresh(plan);
    *stage = (struct plane_stage){.seg = fresh_segment, .plan = *plan};
    stage->layout = plane_layout(1, PLANE_STAGE_ENTRIES, PLANE_STAGE_DATA);
    explorer_check(stage->layout.total_bytes == MEMORY_BYTES);
    __builtin_memcpy(memory, fresh, fresh_segment.bytes);
    __builtin_memset(clients, 0, sizeof(clients));
    parts_mesh_reset(plan->methods, plan->n_methods);
    parts_plane_reset();
    stage->n_to_end = plan->n_clients;
    for (uint32_t client = 0; client < plan->n_clients; client++)
        set_position(stage, client);
    for (int memory_fd = 0; memory_fd < PLANE_STAGE_CLIENTS; memory_fd++)
        parts_plane_memory(memory_fd, clients[memory_fd], MEMORY_BYTES);
    /* An heir writes once more what the dead one may have written. */
    explorer_stored_again(clients, sizeof(clients));
}

/* ---- the shard ---- */

/* As much of the mesh as runs a method. */
static struct mesh *make_mesh(struct plane_stage *stage, struct plane_end *end)
{
    static struct pair_stats stats;
    struct mesh *mesh = explorer_alloc(sizeof(*mesh) + sizeof(mesh->links[0]));

    mesh->seg = stage->seg;
    mesh->ctx = (AioContext *)&end->loop;
    mesh->part = segment_part(&stage->seg, SHARD);
    mesh->links[0].stats = &stats;
    return mesh;
}

static void open_client(struct plane_stage *stage, struct plane_end *end, uint32_t client)
{
    const struct plane_grant grant = {.client = client,
        .n_entries = PLANE_STAGE_ENTRIES,
        .generation = GENERATION,
        .data_bytes = PLANE_STAGE_DATA,
        .max_bytes = PLANE_STAGE_DATA,
        .max_in_flight = PLANE_STAGE_ENTRIES};

    if (stage->drops && atomic_load_acquire(&stage->ended) >> client & 1)
        return;
    parts_plane_inherit(PARTS_SHARD_FD(client));
    explorer_check(plane_open(end->plane, &grant, (int)client, PARTS_SHARD_FD(client)) == 0);
}

static void open_all(struct plane_stage *stage, struct plane_end *end, uint32_t incarnation)
{
    const struct plane_config config = {.mesh = end->mesh,
        .ctx = (AioContext *)&end->loop,
        .segment = &stage->seg,
        .bell_fds = plane_stage_bell_fds,
        .shard = SHARD,
        .incarnation = incarnation};

    explorer_check(plane_new(&config, &end->plane) == 0);
    for (uint32_t client = 0; client < stage->plan.n_clients; client++)
        open_client(stage, end, client);
    plane_recover(end->plane);
}

void plane_stage_open(struct plane_stage *stage, struct plane_end *end)
{
    const struct doorbell bell = {.fd = PARTS_SHARD_EVENTS};
    uint32_t incarnation =
        stage->same_incarnation ? 1 : segment_control(&stage->seg, SHARD)->incarnation;

    parts_mesh_loop_init(&end->loop, &bell);
    end->mesh = make_mesh(stage, end);
    if (stage->plan.start)
        stage->plan.start(stage, end, incarnation);
    else
        open_all(stage, end, incarnation);
}

static void follow_gateway(struct plane_stage *stage, struct plane_end *end)
{
    uint32_t ended = atomic_or_seq(&stage->ended, 0);

    for (uint32_t client = 0; client < stage->plan.n_clients; client++)
        if (ended >> client & 1)
            plane_drop(end->plane, client, GENERATION);
}

/* The newest value: whoever wrote it has woken us, and there is no fence in between. */
bool plane_stage_has_ended(struct plane_stage *stage)
{
    return atomic_or_seq(&stage->over, 0);
}

uint8_t *plane_stage_memory(uint32_t client)
{
    return clients[client];
}

void plane_stage_serve(struct plane_stage *stage, struct plane_end *end)
{
    while (!plane_stage_has_ended(stage)) {
        if (stage->drops)
            follow_gateway(stage, end);
        while (!parts_plane_turn(&end->loop))
            ;
        if (stage->plan.woken)
            stage->plan.woken();
    }
    explorer_may_crash(false);
    parts_plane_last_turn(&end->loop);
    explorer_check(plane_is_idle(end->plane));
}

/* ---- supervisor and gateway ---- */

void plane_stage_bury(struct plane_stage *stage)
{
    segment_control(&stage->seg, SHARD)->incarnation++;
    if (stage->loses_row)
        *plane_stage_row(stage, 0) = (struct client_lane){.generation = GENERATION};
}

void plane_stage_is_quiet(struct plane_stage *stage, uint32_t incarnation)
{
    atomic_store_release(&segment_control(&stage->seg, SHARD)->quiet_incarnation, incarnation);
    parts_plane_knock();
}

void plane_stage_drop(struct plane_stage *stage, uint32_t client)
{
    atomic_store_release(
        &segment_client(&stage->seg, client)->word, client_word(GENERATION, CLIENT_ENDING));
    atomic_store_release(&stage->ended, 1u << client);
    parts_plane_knock();
}

void plane_stage_is_over(struct plane_stage *stage)
{
    explorer_may_crash(false);
    if (atomic_add_seq(&stage->n_to_end, (uint32_t)-1) > 1)
        return;
    atomic_store_release(&stage->over, 1);
    parts_plane_knock();
    if (stage->plan.start)
        explorer_fd_write(PARTS_GATEWAY_FD);
}

/* ---- what holds in the end ---- */

void plane_stage_check(const struct plane_stage *stage, uint32_t client, uint64_t n)
{
    const struct client_lane *row = plane_stage_row(stage, client);

    for (uint32_t slot = 0; slot < stage->plan.n_ledger; slot++)
        explorer_check(ledger_state(segment_ledger(&stage->seg, SHARD, slot)->word) == LEDGER_FREE);
    explorer_check(row->state == CLIENT_LANE_OPEN);
    explorer_check(row->requests == stage->plan.position + n);
    explorer_check(row->tail == stage->plan.position + n);
}

/* ---- clients ---- */

void plane_client_begin(struct plane_stage *stage, struct plane_client *client, uint32_t number)
{
    *client = (struct plane_client){.stage = stage, .number = number};
    local_lane_map(&client->lane, &stage->layout, clients[number], SHARD, true);
    client->lane.bell_fd = PARTS_CLIENT_FD(number);
    client->lane.done = client->lane.ring.tail = client->lane.ring.consumed = stage->plan.position;
}

struct plane_submission *plane_client_fill(
    struct local_ring *ring, uint64_t id, uint32_t method, uint8_t flags)
{
    struct plane_submission *entry = local_ring_next(ring);

    explorer_check(local_ring_has_room(ring));
    entry->id = id;
    entry->method = (uint16_t)method;
    entry->flags = PLANE_ARGS_INLINE | flags;
    entry->route_kind = PLANE_ROUTE_HERE;
    entry->route = 0;
    entry->deadline_ns = 0;
    entry->args_len = 1;
    entry->room_len = 0;
    entry->inline_args[0] = (uint8_t)id;
    return entry;
}

void plane_client_push(struct plane_client *client, uint64_t id, uint32_t method)
{
    plane_client_fill(&client->lane.ring, id, method, 0);
    local_lane_push(&client->lane, &client->lane.ring);
}

void plane_client_cancel(struct plane_client *client, uint64_t id, uint64_t position)
{
    plane_client_fill(&client->lane.ring, id, 0, PLANE_CANCEL)->route = position;
    local_lane_push(&client->lane, &client->lane.ring);
}

void plane_client_flush(struct plane_client *client)
{
    local_lane_fence();
    if (local_lane_wants_bell(&client->lane))
        local_lane_ring(&client->lane);
}

/* As ipc/client/local.c does. */
struct plane_completion plane_client_await(struct plane_client *client)
{
    struct local_lane *lane = &client->lane;
    struct plane_completion completion;

    while (!local_lane_pop(lane, &completion)) {
        local_lane_arm(lane);
        local_lane_fence();
        if (!local_lane_has(lane)) {
            explorer_fd_wait(lane->bell_fd, false);
            local_lane_drain_bell(lane);
        }
        local_lane_disarm(lane);
    }
    lane->ring.consumed++; /* of these none overtakes another that would fill the ring */
    return completion;
}
