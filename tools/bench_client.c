/* SPDX-License-Identifier: MIT */
#include "tools/bench_client.h"
/*
 * A place for each request in flight. What ends frees its place; new requests are submitted between
 * two looks for what has ended, never within one. A gateway that dies ends what it had, and the
 * next submission finds its replacement.
 *
 * Blocks of a file may be read and written twice: what a death left in doubt, or found with a file
 * that is open no more, is asked for again, and ends when that does. Its time goes on.
 *
 * At a fixed rate each request has a time at which it is due, whatever became of those before it.
 * Where no place is free then, it is submitted late, and its time counts from when it was due: so a
 * stall of a second shows in all the requests that a user would have sent during it, and not in one
 * (coordinated omission). What is due and not submitted at the end is counted as left.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/clock.h"

#define LOOK_NS     (100 * NS_PER_MS)
#define PATIENCE_NS (30 * NS_PER_S) /* for what is in flight at the end */

#define RESTARTS_MAX 16u /* of one request: each takes a death */

#define DATA_BESIDES ((uint64_t)8 * 1024) /* of a request, beside its block */
#define DATA_LEAST   ((uint64_t)1024 * 1024)

struct place {
    struct bench_run *run;
    enum bench_work work;
    int64_t begun_ns; /* or when it was due */
    uint64_t id;
    uint32_t shard;
    struct bench_spot spot;
    uint32_t n_restarts;
    struct place *next_again;
    uint8_t *room; /* of a block, in memory that the shards use in place; NULL: there is none */
    bool in_flight;
};

struct bench_run {
    const struct bench_plan *plan;
    struct bench_client *figures;
    pthread_t thread;
    struct sherd_client *client;
    struct bench_maker maker;
    struct place *places;
    struct place **free; /* a stack */
    uint32_t n_free;
    bool is_stale;       /* an open file is open no more */
    struct place *again; /* to be asked for once more */
    uint64_t n_submitted;
    int64_t due_ns; /* at a fixed rate: the next one */
};

/* ---- one request ---- */

static bool is_to_be_restarted(const struct place *place, const struct sherd_result *result)
{
    bool is_block = place->work == BENCH_read || place->work == BENCH_write;
    return is_block && place->n_restarts < RESTARTS_MAX &&
           (result->error == -ESTALE || result->end == SHERD_END_IN_DOUBT);
}

static void restart_later(struct place *place)
{
    struct bench_run *run = place->run;
    place->n_restarts++;
    place->next_again = run->again;
    run->again = place;
    run->figures->n_restarts++;
}

static void note_failure(struct bench_client *figures, const struct sherd_result *result)
{
    bool is_wrong = result->end == SHERD_END_FAILED || result->end == SHERD_END_NOT_STARTED;
    if (!is_wrong || result->error == -EAGAIN || figures->why_not)
        return;
    figures->why_not = result->len ? strndup((const char *)result->data, result->len)
                                   : strdup(strerror(-result->error));
}

static void on_end(const struct sherd_result *result, void *opaque)
{
    struct place *place = opaque;
    struct bench_run *run = place->run;
    struct bench_client *figures = run->figures;
    if (!place->in_flight || place->id != result->id) {
        figures->n_twice++;
        return;
    }
    place->in_flight = false;
    if (result->error == -ESTALE) {
        bench_maker_forget(&run->maker, place->shard);
        run->is_stale = true;
    }
    if (is_to_be_restarted(place, result)) {
        restart_later(place);
        return;
    }
    run->free[run->n_free++] = place;
    figures->ended[place->work][(uint32_t)result->end % BENCH_END_MAX]++;
    figures->n_behind += result->error == -EAGAIN;
    note_failure(figures, result);
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

/* One that ends before this returns, as no callback does, would end twice. */
static int submit(struct place *place, struct sherd_request *request)
{
    struct bench_run *run = place->run;
    place->in_flight = true;
    place->shard = request->shard;
    if (place->work == BENCH_read && place->room) {
        request->room = place->room;
        request->room_len = run->plan->size;
    }
    int r = sherd_client_submit(run->client, request, on_end, place, &place->id);
    place->in_flight = r == 0;
    return r;
}

static int submit_one(struct bench_run *run, int64_t begun_ns)
{
    enum bench_work work = next_work(run);
    struct place *place = run->free[run->n_free - 1];
    struct sherd_request request = bench_maker_next(&run->maker, work, place->room, &place->spot);
    place->run = run;
    place->work = work;
    place->begun_ns = begun_ns;
    place->n_restarts = 0;
    int r = submit(place, &request);
    if (r == 0) {
        run->n_free--;
        run->figures->submitted[work]++;
    }
    return r;
}

/* What has to be asked for once more, with files that are open again. */
static int restart(struct bench_run *run)
{
    int r = 0;
    if (run->is_stale) {
        run->is_stale = false;
        r = bench_maker_open(&run->maker, run->client);
    }
    while (r == 0 && run->again && !run->is_stale) {
        struct place *place = run->again;
        struct sherd_request request =
            bench_maker_again(&run->maker, place->work, place->room, &place->spot);
        r = submit(place, &request);
        if (r == 0)
            run->again = place->next_again;
    }
    return r;
}

/* ---- many ---- */

/* Without a gateway every request has ended, and there may be one again. With nothing in flight
 * there is nothing that could end the wait early. */
static int look(struct bench_run *run, int64_t timeout_ns)
{
    if (sherd_client_in_flight(run->client) == 0 && run->plan->every_ns) {
        struct timespec pause = {timeout_ns / NS_PER_S, timeout_ns % NS_PER_S};
        nanosleep(&pause, NULL);
        return 0;
    }
    int r = sherd_client_process(run->client, timeout_ns);
    return r >= 0 || r == -ENOTCONN || r == -EINTR ? 0 : r;
}

/* What is due now, as far as there are places. Returns how long there is nothing to do in
 * *ret_pause_ns. */
static int submit_due(struct bench_run *run, int64_t *ret_pause_ns)
{
    const struct bench_plan *plan = run->plan;
    int64_t now_ns = clock_now_ns();
    int r = 0;
    *ret_pause_ns = LOOK_NS;
    while (r == 0 && run->n_free > 0 && now_ns < plan->until_ns) {
        if (plan->every_ns && run->due_ns > now_ns) {
            *ret_pause_ns = run->due_ns - now_ns < LOOK_NS ? run->due_ns - now_ns : LOOK_NS;
            break;
        }
        r = submit_one(run, plan->every_ns ? run->due_ns : now_ns);
        run->due_ns += plan->every_ns;
        now_ns = clock_now_ns();
    }
    return r;
}

static int keep_busy(struct bench_run *run)
{
    const struct bench_plan *plan = run->plan;
    int64_t pause_ns;
    int r = 0;
    while (r == 0 && clock_now_ns() < plan->until_ns) {
        r = restart(run);
        if (r == 0)
            r = submit_due(run, &pause_ns);
        if (r == 0)
            r = look(run, pause_ns);
    }
    if (plan->every_ns && run->due_ns < plan->until_ns)
        run->figures->n_left =
            (uint64_t)((plan->until_ns - run->due_ns + plan->every_ns - 1) / plan->every_ns);
    return r;
}

static int finish(struct bench_run *run)
{
    int64_t give_up_ns = clock_now_ns() + PATIENCE_NS;
    int r = restart(run);
    while (r == 0 && sherd_client_in_flight(run->client) > 0 && clock_now_ns() < give_up_ns) {
        r = look(run, LOOK_NS);
        if (r == 0)
            r = restart(run);
    }
    for (uint32_t i = 0; i < run->plan->depth; i++)
        run->figures->n_lost += run->places[i].in_flight;
    for (const struct place *place = run->again; place; place = place->next_again)
        run->figures->n_lost++;
    return r;
}

/* Blocks are read to where they stay, and written from there: no two of them at the same place. */
static int make_rooms(struct bench_run *run)
{
    const struct bench_plan *plan = run->plan;
    if (!plan->does[BENCH_read] && !plan->does[BENCH_write])
        return 0;
    for (uint32_t i = 0; i < plan->depth; i++) {
        uint8_t *room = sherd_buffer_alloc(run->client, plan->size + BENCH_SPAN_BYTES);
        if (!room)
            return -errno;
        memcpy(room, run->maker.block, plan->size);
        run->places[i].room = room;
    }
    return plan->by_handle ? bench_maker_open(&run->maker, run->client) : 0;
}

/* But for those that never ended, which the shards may write to still. */
static void free_rooms(struct bench_run *run)
{
    for (uint32_t i = 0; i < run->plan->depth; i++)
        if (!run->places[i].in_flight)
            sherd_buffer_free(run->client, run->places[i].room);
}

/* What all requests in flight take of the data area, each with its arguments. */
static uint64_t data_bytes(const struct bench_plan *plan)
{
    uint64_t each = 2 * ((uint64_t)plan->size + DATA_BESIDES);
    return (each * plan->depth + DATA_LEAST) / DATA_LEAST * DATA_LEAST;
}

static void *run_client(void *opaque)
{
    struct bench_run *run = opaque;
    struct sherd_client_options options = {.instance = run->plan->instance,
        .plane = run->plan->plane,
        .spin_ns = run->plan->spin_ns,
        .wait_ns = run->plan->wait_ns,
        .data_bytes = data_bytes(run->plan),
        .window = run->plan->depth < 1024 ? run->plan->depth : 1024};
    remote_apply(run->plan->remote, &options);
    int r = sherd_client_open(&options, &run->client, &run->figures->error);
    if (r == 0) {
        run->figures->plane = sherd_client_plane(run->client);
        r = make_rooms(run);
        if (r == 0)
            r = keep_busy(run);
        int finished = finish(run);
        r = r ? r : finished;
        free_rooms(run);
        sherd_client_close(run->client);
    }
    if (r < 0 && !run->figures->error)
        run->figures->error = strdup(strerror(-r));
    return NULL;
}

/* ---- life ---- */

static void run_free(struct bench_run *run)
{
    bench_maker_deinit(&run->maker);
    free(run->free);
    free(run->places);
    free(run);
}

static int run_new(const struct bench_plan *plan, uint32_t number, struct bench_run **ret_run)
{
    struct bench_run *run = calloc(1, sizeof *run);
    if (!run)
        return -ENOMEM;
    run->plan = plan;
    /* Evenly spread over the time between two of one client. */
    run->due_ns = plan->begin_ns + plan->every_ns * number / plan->n_clients;
    run->places = calloc(plan->depth, sizeof *run->places);
    run->free = calloc(plan->depth, sizeof *run->free);
    int r = bench_maker_init(&run->maker, plan, number);
    if (r == 0 && (!run->places || !run->free))
        r = -ENOMEM;
    if (r < 0) {
        run_free(run);
        return r;
    }
    for (uint32_t i = plan->depth; i > 0; i--)
        run->free[run->n_free++] = &run->places[i - 1];
    *ret_run = run;
    return 0;
}

int bench_client_start(
    const struct bench_plan *plan, uint32_t number, struct bench_client **ret_client)
{
    struct bench_client *client = calloc(1, sizeof *client);
    int r = client ? run_new(plan, number, &client->run) : -ENOMEM;
    if (r == 0) {
        client->run->figures = client;
        r = -pthread_create(&client->run->thread, NULL, run_client, client->run);
        if (r < 0)
            run_free(client->run);
    }
    if (r < 0) {
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
    run_free(client->run);
    free(client->error);
    free(client->why_not);
    free(client);
}
