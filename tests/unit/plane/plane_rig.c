/* SPDX-License-Identifier: MIT */
#include "tests/unit/plane/plane_rig.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/atomic.h"

#define DEADLINE_NS (INT64_C(60) * 1000000000)

struct plane_bench *plane_bench_new(const struct service *service, uint32_t n_ledger)
{
    struct plane_bench *bench = calloc(1, sizeof(*bench));

    rig_open(&bench->rig, 2, service);
    if (n_ledger)
        bench->rig.seg.geometry.n_ledger = n_ledger; /* the rest is left alone */
    rig_thread(&bench->rig, 1, rig_serve);
    rig_begin(&bench->rig, 0, &bench->end);
    aio_context_set_current(bench->end.ctx);
    bench->plane = plane_rig_new(&bench->end);
    client_make(&bench->client, &bench->rig, 0, 3, 16, 64u * 1024);
    assert(client_open(&bench->client, bench->plane) == 0);
    plane_recover(bench->plane);
    return bench;
}

int plane_bench_tear_down(void **state)
{
    struct plane_bench *bench = *state;

    plane_drop(bench->plane, 3, bench->client.grant.generation);
    while (!plane_is_idle(bench->plane))
        aio_poll(bench->end.ctx, false);
    aio_poll(bench->end.ctx, false);
    plane_free(bench->plane);
    aio_context_set_current(NULL);
    rig_finish(&bench->end);
    rig_stop_all(&bench->rig);
    rig_close(&bench->rig);
    client_free(&bench->client);
    free(bench);
    return 0;
}

struct client_lane *plane_bench_row(struct plane_bench *bench, const struct client *client)
{
    return segment_client_lane(&bench->rig.seg, 0, client->grant.client);
}

struct plane_completion plane_bench_await(struct plane_bench *bench, struct client *client)
{
    int64_t until_ns = aio_clock_ns() + DEADLINE_NS;
    struct plane_completion completion;

    while (!client_pop(client, &completion)) {
        assert(aio_clock_ns() < until_ns);
        aio_poll(bench->end.ctx, false);
    }
    return completion;
}

void plane_bench_turn(struct plane_bench *bench, int n)
{
    while (n-- > 0)
        aio_poll(bench->end.ctx, false);
}

struct plane *plane_rig_new(struct rig_end *end)
{
    struct rig *rig = end->rig;
    struct plane *plane;
    struct plane_config config = {.mesh = end->mesh,
        .ctx = end->ctx,
        .segment = &rig->seg,
        .registry = rig->registry,
        .bell_fds = rig->bells,
        .shard = end->peer,
        .incarnation = segment_control(&rig->seg, end->peer)->incarnation};

    assert(plane_new(&config, &plane) == 0);
    return plane;
}

void client_make(struct client *client, struct rig *rig, uint32_t shard, uint32_t number,
    uint32_t n_entries, uint64_t data_bytes)
{
    uint32_t n_shards = rig->seg.geometry.n_shards;

    *client = (struct client){.shard = shard,
        .layout = plane_layout(n_shards, n_entries, data_bytes),
        .grant = {.client = number,
            .generation = 1,
            .n_entries = n_entries,
            .data_bytes = data_bytes,
            .max_bytes = data_bytes ? data_bytes : 1,
            .max_in_flight = n_entries}};
    client->memory_fd = memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert(client->memory_fd >= 0);
    assert(ftruncate(client->memory_fd, (off_t)client->layout.total_bytes) == 0);
    assert(fcntl(client->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
    client->base = mmap(
        NULL, client->layout.total_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, client->memory_fd, 0);
    assert(client->base != MAP_FAILED);
    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, client->bells) == 0);
    *segment_client(&rig->seg, number) = (struct client_row){
        .word = client_word(client->grant.generation, CLIENT_ATTACHED), .uid = number};
}

void client_free(struct client *client)
{
    munmap(client->base, client->layout.total_bytes);
    close(client->memory_fd);
    close(client->bells[0]);
    close(client->bells[1]);
}

int client_open(struct client *client, struct plane *plane)
{
    return plane_open(plane, &client->grant, fcntl(client->memory_fd, F_DUPFD_CLOEXEC, 0),
        fcntl(client->bells[1], F_DUPFD_CLOEXEC, 0));
}

static struct plane_submission *clear(struct plane_submission *entry, uint64_t id)
{
    memset(entry, 0, offsetof(struct plane_submission, turn));
    memset(&entry->route, 0, sizeof(*entry) - offsetof(struct plane_submission, route));
    entry->id = id;
    return entry;
}

struct plane_submission *client_next(struct client *client)
{
    return clear(plane_submission_at(&client->layout, client->base, client->shard, client->pushed),
        client->pushed);
}

struct plane_submission *client_next_urgent(struct client *client)
{
    return clear(
        plane_urgent_at(&client->layout, client->base, client->shard, client->urgent_pushed),
        1000 + client->urgent_pushed);
}

static bool publish(struct client *client, struct plane_submission *entry, uint64_t position)
{
    struct plane_words *words = plane_words_of(&client->layout, client->base, client->shard);

    atomic_store_release(&entry->turn, (uint32_t)(position + 1));
    atomic_full_fence();
    if (!atomic_load_relaxed(&words->need_wakeup))
        return false;
    send(client->bells[0], "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    return true;
}

bool client_push(struct client *client)
{
    uint64_t position = client->pushed++;

    return publish(client,
        plane_submission_at(&client->layout, client->base, client->shard, position), position);
}

bool client_push_urgent(struct client *client)
{
    uint64_t position = client->urgent_pushed++;

    return publish(
        client, plane_urgent_at(&client->layout, client->base, client->shard, position), position);
}

uint64_t client_call(struct client *client, uint32_t method)
{
    struct plane_submission *entry = client_next(client);
    uint64_t id = entry->id;

    entry->method = (uint16_t)method;
    entry->flags = PLANE_ARGS_INLINE;
    client_push(client);
    return id;
}

bool client_pop(struct client *client, struct plane_completion *ret)
{
    struct plane_completion *from =
        plane_completion_at(&client->layout, client->base, client->shard, client->popped);

    if (atomic_load_acquire(&from->turn) != (uint32_t)(client->popped + 1))
        return false;
    *ret = *from;
    client->popped++;
    return true;
}

uint8_t *client_data(const struct client *client, uint64_t off)
{
    return client->base + client->layout.data_off + off;
}
