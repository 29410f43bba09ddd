/* SPDX-License-Identifier: MIT */
#include "tools/bench_work.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/file.pb-c.h"

#define ARGS_BESIDES 128u /* of a request, beside its path and its block */

const char *bench_work_name(enum bench_work work)
{
    static const char *const names[] = {
#define X(name, what) #name,
        BENCH_WORK(X)
#undef X
    };
    return names[work];
}

int bench_maker_init(struct bench_maker *m, const struct bench_plan *plan, uint32_t number)
{
    *m = (struct bench_maker){
        .plan = plan,
        .number = number,
        .random = (number + 1) * UINT64_C(0x9e3779b97f4a7c15),
        .block = malloc(plan->size + 1),
        .handles = calloc(plan->n_shards, sizeof(uint64_t)),
        .args = malloc(ARGS_BESIDES + (plan->path ? strlen(plan->path) : 0) + plan->size),
    };
    for (int work = 0; work < N_BENCH_WORK; work++)
        m->turn[work] = number;
    if (!m->block || !m->args || !m->handles) {
        bench_maker_deinit(m);
        return -ENOMEM;
    }
    for (size_t i = 0; i < plan->size; i++)
        m->block[i] = (uint8_t)('a' + i % 26);
    return 0;
}

void bench_maker_deinit(struct bench_maker *m)
{
    free(m->block);
    free(m->args);
    free(m->handles);
    m->block = m->args = NULL;
    m->handles = NULL;
}

/* xorshift64*: even enough for offsets, and the same in each run. */
static uint64_t next_random(struct bench_maker *m)
{
    m->random ^= m->random >> 12;
    m->random ^= m->random << 25;
    m->random ^= m->random >> 27;
    return m->random * UINT64_C(2685821657736338717);
}

/* Clients that go through a file begin at places of their own, spread over it. */
static uint64_t next_block(struct bench_maker *m, uint64_t turn)
{
    const struct bench_plan *plan = m->plan;
    uint64_t begin = plan->n_blocks / plan->n_clients * m->number;
    if (!plan->is_sequential)
        return next_random(m) % plan->n_blocks;
    return (begin + turn - m->number) % plan->n_blocks;
}

static void set_file(
    struct bench_maker *m, uint64_t block, bool is_write, struct sherd_request *request)
{
    const struct bench_plan *plan = m->plan;
    Sherd__File__Request message = SHERD__FILE__REQUEST__INIT;
    message.path.data = (uint8_t *)plan->path;
    message.path.len = strlen(plan->path);
    message.offset = block * plan->size;
    if (is_write)
        message.data = (ProtobufCBinaryData){.data = m->block, .len = plan->size};
    else
        message.length = plan->size;
    request->method = is_write ? "file.write" : "file.read";
    request->args = m->args;
    request->args_len = sherd__file__request__pack(&message, m->args);
}

/* ---- files that stay open ---- */

static int open_in(struct bench_maker *m, struct sherd_client *client, uint32_t shard)
{
    const struct bench_plan *plan = m->plan;
    Sherd__File__Request message = SHERD__FILE__REQUEST__INIT;
    Sherd__File__OpenReply *reply = NULL;
    struct sherd_request request = {
        .method = "file.open", .args = m->args, .shard = shard, .flags = SHERD_TO_SHARD};
    struct sherd_result result;
    message.path.data = (uint8_t *)plan->path;
    message.path.len = strlen(plan->path);
    message.writable = plan->does[BENCH_write];
    message.direct = plan->is_direct;
    request.args_len = sherd__file__request__pack(&message, m->args);
    int r = sherd_client_call(client, &request, &result);
    if (r < 0)
        return r;
    if (result.end == SHERD_END_DONE)
        reply = sherd__file__open_reply__unpack(NULL, result.len, result.data);
    m->handles[shard] = reply ? reply->handle : 0;
    r = reply ? 0 : result.error ? result.error : -EIO;
    if (reply)
        sherd__file__open_reply__free_unpacked(reply, NULL);
    sherd_result_deinit(&result);
    return r;
}

int bench_maker_open(struct bench_maker *m, struct sherd_client *client)
{
    int r = 0;
    for (uint32_t shard = 0; r == 0 && shard < m->plan->n_shards; shard++)
        if (!m->handles[shard])
            r = open_in(m, client, shard);
    return r;
}

void bench_maker_forget(struct bench_maker *m, uint32_t shard)
{
    if (shard < m->plan->n_shards)
        m->handles[shard] = 0;
}

static void put_span(struct bench_maker *m, uint32_t shard, uint64_t offset, uint8_t *to)
{
    uint64_t numbers[] = {htole64(m->handles[shard]), htole64(offset), htole64(m->plan->size)};
    _Static_assert(sizeof numbers == BENCH_SPAN_BYTES, "as file.pread takes it");
    memcpy(to, numbers, sizeof numbers);
}

static void set_block(struct bench_maker *m, uint64_t block, bool is_write, uint8_t *room,
    struct sherd_request *request)
{
    size_t size = m->plan->size;
    put_span(m, request->shard, block * size, is_write ? room + size : m->args);
    request->method = is_write ? "file.pwrite" : "file.pread";
    request->args = is_write ? room : m->args;
    request->args_len = is_write ? size + BENCH_SPAN_BYTES : BENCH_SPAN_BYTES;
}

/* ---- requests ---- */

static void set_ping(struct bench_maker *m, struct sherd_request *request)
{
    request->method = m->plan->size ? "sys.echo" : "sys.ping";
    request->args = m->block;
    request->args_len = m->plan->size;
}

/* All shards in turn, and all pairs of them; each client begins at a number of its own. */
struct sherd_request bench_maker_again(
    struct bench_maker *m, enum bench_work work, uint8_t *room, const struct bench_spot *spot)
{
    uint32_t n = m->plan->n_shards;
    uint64_t turn = spot->turn;
    struct sherd_request request = {
        .shard = (uint32_t)(turn % n),
        .flags = SHERD_TO_SHARD | m->plan->flags,
        .timeout_ns = m->plan->timeout_ns,
        .answer_max = m->plan->size ? (uint32_t)m->plan->size : SHERD_ANSWER_SMALL,
    };
    switch (work) {
    case BENCH_ping:
        set_ping(m, &request);
        break;
    case BENCH_call:
        request.method = "sys.relay";
        request.args = m->args;
        request.args_len = (size_t)snprintf(
            (char *)m->args, ARGS_BESIDES, "%u %" PRIu64, (uint32_t)(turn / n % n), turn);
        break;
    case BENCH_move:
        request.method = "sys.wander";
        break;
    case BENCH_method:
        request.flags &= ~(uint32_t)SHERD_TO_SHARD;
        request.method = m->plan->method;
        request.args = m->plan->text;
        request.args_len = m->plan->text ? strlen(m->plan->text) : 0;
        break;
    default:
        if (m->plan->by_handle)
            set_block(m, spot->block, work == BENCH_write, room, &request);
        else
            set_file(m, spot->block, work == BENCH_write, &request);
    }
    return request;
}

struct sherd_request bench_maker_next(
    struct bench_maker *m, enum bench_work work, uint8_t *room, struct bench_spot *ret_spot)
{
    uint64_t turn = m->turn[work]++;
    bool has_block = work == BENCH_read || work == BENCH_write;
    *ret_spot = (struct bench_spot){turn, has_block ? next_block(m, turn) : 0};
    return bench_maker_again(m, work, room, ret_spot);
}
