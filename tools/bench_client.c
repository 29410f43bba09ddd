/* SPDX-License-Identifier: MIT */
#include "tools/bench_client.h"
/*
 * A place for each request in flight. What ends frees its place; new requests are submitted between
 * two looks for what has ended, never within one. A gateway that dies ends what it had, and the
 * next submission finds its replacement.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/clock.h"

#define LOOK_NS     (100 * NS_PER_MS)
#define PATIENCE_NS (30 * NS_PER_S) /* for what is in flight at the end */
#define CALL_ARGS   64u

struct place {
    struct bench_run *run;
    enum bench_work work;
    int64_t begun_ns;
    bool in_flight;
};

struct bench_run {
    const struct bench_plan *plan;
    struct bench_client *figures;
    pthread_t thread;
    struct sherd_client *client;
    struct place *places;
    uint64_t n_submitted;
    uint64_t pair[N_BENCH_WORK]; /* which shards are next */
};

const char *bench_work_name(enum bench_work work)
{
    static const char *const names[] = {
#define X(name, what) #name,
        BENCH_WORK(X)
#undef X
    };
    return names[work];
}

/* ---- one request ---- */

static void on_end(const struct sherd_result *result, void *opaque)
{
    struct place *place = opaque;
    struct bench_client *figures = place->run->figures;
    if (!place->in_flight) {
        figures->n_twice++;
        return;
    }
    place->in_flight = false;
    figures->ended[place->work][(uint32_t)result->end % BENCH_END_MAX]++;
    if (result->end == SHERD_END_DONE)
        histogram_add(&figures->took[place->work], (uint64_t)(clock_now_ns() - place->begun_ns));
}

static enum bench_work next_work(struct bench_run *run)
{
    enum bench_work work;
    do
        work = (enum bench_work)(run->n_submitted++ % N_BENCH_WORK);
    while (!run->plan->does[work]);
    return work;
}

/* All pairs of shards in turn; args have room for CALL_ARGS. */
static struct sherd_request request_for(struct bench_run *run, enum bench_work work, char *args)
{
    uint32_t n = run->plan->n_shards;
    struct sherd_request request = {.method = "sys.ping", .shard = (uint32_t)(run->pair[work] % n)};
    uint64_t pair = run->pair[work]++;
    uint32_t other = (uint32_t)(pair / n % n);
    if (work == BENCH_call) {
        request.method = "sys.relay";
        request.args = args;
        request.args_len = (size_t)snprintf(args, CALL_ARGS, "%u %" PRIu64, other, pair);
    } else if (work == BENCH_move) {
        request.method = "sys.wander";
    } else if (work == BENCH_read) {
        request.method = "file.read";
        request.args = run->plan->read_args;
        request.args_len = run->plan->read_args_len;
    }
    return request;
}

static int submit_at(struct bench_run *run, struct place *place)
{
    char args[CALL_ARGS];
    uint64_t id;
    enum bench_work work = next_work(run);
    struct sherd_request request = request_for(run, work, args);
    *place =
        (struct place){.run = run, .work = work, .begun_ns = clock_now_ns(), .in_flight = true};
    int r = sherd_client_submit(run->client, &request, on_end, place, &id);
    if (r < 0)
        place->in_flight = false;
    else
        run->figures->submitted[work]++;
    return r;
}

/* ---- many ---- */

/* Without a gateway every request has ended, and there may be one again. */
static int look(struct bench_run *run, int64_t timeout_ns)
{
    int r = sherd_client_process(run->client, timeout_ns);
    return r >= 0 || r == -ENOTCONN || r == -EINTR ? 0 : r;
}

static int keep_busy(struct bench_run *run)
{
    int r = 0;
    while (r == 0 && clock_now_ns() < run->plan->until_ns) {
        for (uint32_t i = 0; r == 0 && i < run->plan->depth; i++)
            if (!run->places[i].in_flight)
                r = submit_at(run, &run->places[i]);
        if (r == 0)
            r = look(run, LOOK_NS);
    }
    return r;
}

static int finish(struct bench_run *run)
{
    int64_t give_up_ns = clock_now_ns() + PATIENCE_NS;
    int r = 0;
    while (r == 0 && sherd_client_in_flight(run->client) > 0 && clock_now_ns() < give_up_ns)
        r = look(run, LOOK_NS);
    for (uint32_t i = 0; i < run->plan->depth; i++)
        run->figures->n_lost += run->places[i].in_flight;
    return r;
}

static void *run_client(void *opaque)
{
    struct bench_run *run = opaque;
    struct sherd_client_options options = {.instance = run->plan->instance,
        .wait_ns = run->plan->wait_ns,
        .window = run->plan->depth < 1024 ? run->plan->depth : 1024};
    int r = sherd_client_open(&options, &run->client, &run->figures->error);
    if (r == 0) {
        r = keep_busy(run);
        int finished = finish(run);
        r = r ? r : finished;
        sherd_client_close(run->client);
    }
    if (r < 0 && !run->figures->error)
        run->figures->error = strdup(strerror(-r));
    return NULL;
}

/* ---- life ---- */

int bench_client_start(
    const struct bench_plan *plan, uint32_t number, struct bench_client **ret_client)
{
    struct bench_client *client = calloc(1, sizeof *client);
    struct bench_run *run = calloc(1, sizeof *run);
    struct place *places = calloc(plan->depth, sizeof *places);
    int r = client && run && places ? 0 : -ENOMEM;
    if (r == 0) {
        *run = (struct bench_run){.plan = plan, .figures = client, .places = places};
        for (int work = 0; work < N_BENCH_WORK; work++)
            run->pair[work] = number;
        client->run = run;
        r = -pthread_create(&run->thread, NULL, run_client, run);
    }
    if (r < 0) {
        free(places);
        free(run);
        free(client);
        return r;
    }
    *ret_client = client;
    return 0;
}

void bench_client_join(struct bench_client *client)
{
    pthread_join(client->run->thread, NULL);
}

void bench_client_free(struct bench_client *client)
{
    if (!client)
        return;
    free(client->run->places);
    free(client->run);
    free(client->error);
    free(client);
}
