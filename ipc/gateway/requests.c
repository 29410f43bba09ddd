/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/requests.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "shard/pace.h"

/*
 * A request waits in its session's line for its shard, and is started when that has its turn
 * (round.h). Started are at most twice as many as the mesh has call slots: the second half is there
 * when the first comes back, without a turn of this loop in between. Urgent requests have lines,
 * rounds and slots of their own, few of them, so that they wait for each other alone.
 *
 * A session whose answers take too much room leaves the rounds (paused) until it has fetched some;
 * so does one whose connection is gone, until it is back, for its client may be dead. What a
 * started request will answer is not known; set aside for it is the longest of its method's late
 * answers, which each answer that is shorter brings down by 1/64, so that one long answer is
 * forgotten after some hundred short ones.
 *
 * Clients choose ids. Multiplied by a random number they can't be chosen to meet in one bucket.
 */
#define EXPECT_DECAY 64u
#define PACE_DECAY   16
#define RETRY_ENDS   64
#define RETRY_MIN_US 100u
#define RETRY_MAX_US 100000u

/* A lane of a shard. */
struct outlet {
    struct round round;
    uint32_t started;
    uint32_t quota;
};

enum request_state { REQUEST_IN_LINE, REQUEST_STARTED };

struct request {
    struct mesh_call call;
    struct requests *requests;
    struct session *session; /* NULL: abandoned */
    struct ended *ended;     /* made at the start, so that no end fails for want of memory */
    uint64_t id;
    uint32_t fate;
    uint32_t state;              /* enum request_state */
    int64_t aside;               /* bytes set aside for the answer */
    AioTimer timer;              /* its deadline, while in line */
    struct request *prev, *next; /* of the session */
    struct line_place place;     /* in line */
    struct request *hash_next;
    void *args_block; /* malloc: has the arguments, where they were not copied; else NULL */
    uint8_t args[];
};

/* ---- lists ---- */

/* Of a session's lines, and of the outlets. */
static uint32_t line_index(const struct mesh_call *call)
{
    return call->target * N_LANES + call->lane;
}

static struct outlet *outlet_of(const struct requests *requests, const struct mesh_call *call)
{
    return &requests->outlets[line_index(call)];
}

static struct request **bucket_of(
    struct requests *requests, const struct session *session, uint64_t id)
{
    uint64_t hash = (id ^ ((uintptr_t)session >> 6)) * requests->hash_key;

    return &requests->buckets[hash >> 50];
}

static void link_request(struct requests *requests, struct request *request)
{
    struct session *session = request->session;
    struct request **bucket = bucket_of(requests, session, request->id);

    request->hash_next = *bucket;
    *bucket = request;
    request->next = session->requests;
    if (request->next)
        request->next->prev = request;
    session->requests = request;
    session->n_requests++;
    requests->n++;
    requests->args_bytes += request->call.args_len;
}

static void unlink_request(struct requests *requests, struct request *request)
{
    struct session *session = request->session;
    struct request **link = bucket_of(requests, session, request->id);

    while (*link != request)
        link = &(*link)->hash_next;
    *link = request->hash_next;
    if (request->prev)
        request->prev->next = request->next;
    else
        session->requests = request->next;
    if (request->next)
        request->next->prev = request->prev;
    session->n_requests--;
    requests->n--;
    requests->args_bytes -= request->call.args_len;
}

static struct line *line_of(const struct request *request)
{
    return &request->session->lines[line_index(&request->call)];
}

static struct request *first_of(const struct line *line)
{
    return (struct request *)((char *)line->first - offsetof(struct request, place));
}

static void leave_line(struct request *request)
{
    line_leave(
        &outlet_of(request->requests, &request->call)->round, line_of(request), &request->place);
}

/* ---- ends ---- */

static void free_request(struct request *request)
{
    ended_free(request->ended);
    free(request->args_block);
    free(request);
}

/* Copies the answer, or says in its place that it is lost. */
static void fill_data(struct ended *ended, const void *data, size_t len)
{
    static const char lost[] = "the answer is lost: the gateway has no memory for it";

    if (len == 0)
        return;
    ended->data = malloc(len);
    if (ended->data) {
        memcpy(ended->data, data, len);
        ended->len = len;
        return;
    }
    ended->kind = CALL_END_FAILED;
    ended->error = -ENOMEM;
    ended->data = (uint8_t *)strdup(lost);
    ended->len = ended->data ? sizeof(lost) - 1 : 0;
}

static void note_pace(struct requests *requests, int64_t now_ns)
{
    requests->end_every_ns +=
        (now_ns - requests->last_end_ns - requests->end_every_ns) / PACE_DECAY;
    requests->last_end_ns = now_ns;
}

/* After ns, within reason. */
static uint32_t retry_us(int64_t ns)
{
    int64_t us = ns / 1000;

    return us < RETRY_MIN_US ? RETRY_MIN_US : us > RETRY_MAX_US ? RETRY_MAX_US : (uint32_t)us;
}

/* When there may be room: after as long as some dozens of ends took of late. */
static uint32_t until_room_us(const struct requests *requests)
{
    return retry_us(requests->end_every_ns * RETRY_ENDS);
}

/* The request is out of its line and of the mesh. */
static void finish(struct request *request, const struct mesh_answer *answer)
{
    struct requests *requests = request->requests;
    struct session *session = request->session;
    struct ended *ended = request->ended;

    fates_end(requests->config.fates, request->fate, answer);
    note_pace(requests, (int64_t)fates_at(requests->config.fates, request->fate)->ended_ns);
    ended->id = request->id;
    ended->fate = request->fate;
    ended->kind = answer->end;
    ended->error = answer->end == CALL_END_DONE ? 0 : answer->status;
    ended->shard = answer->shard;
    fill_data(ended, answer->data, answer->len);
    request->ended = NULL;
    unlink_request(requests, request);
    session_charge(session, -request->aside);
    requests->config.ended(requests->config.opaque);
    session_append(session, ended);
    free_request(request);
}

static void finish_unserved(
    struct request *request, enum call_end end, int status, const char *text)
{
    finish(request,
        &(struct mesh_answer){
            .end = end, .status = status, .data = text, .len = strlen(text), .shard = UINT32_MAX});
}

/* ---- starting ---- */

static bool has_room(
    const struct requests *requests, const struct session *session, uint32_t method)
{
    uint64_t expected = requests->expected_answer[method];

    if (session->barred_ns && !requests->draining)
        return false;
    if (!session->connection && !requests->draining)
        return false;
    if (session->answer_bytes == 0)
        return true;
    if (session->answer_bytes + expected > LIMIT_ANSWERS_SESSION)
        return false;
    return session->sessions->answer_bytes + expected <= LIMIT_ANSWERS_BYTES ||
           session->answer_bytes < LIMIT_ANSWERS_SMALL;
}

static void start(struct requests *requests, struct outlet *outlet, struct request *request)
{
    timer_del(&request->timer);
    request->state = REQUEST_STARTED;
    outlet->started++;
    request->aside = requests->expected_answer[request->call.method];
    session_charge(request->session, request->aside);
    int r = mesh_call_start(requests->config.mesh, &request->call);
    if (r < 0) {
        outlet->started--;
        finish_unserved(request, CALL_END_NOT_STARTED, r, strerror(-r));
    }
}

static void pump(struct requests *requests, struct outlet *outlet)
{
    struct line *line;

    while (outlet->started < outlet->quota && (line = round_turn(&outlet->round))) {
        struct request *request = first_of(line);
        if (!has_room(requests, line->session, request->call.method)) {
            round_leave(&outlet->round, line);
            line->session->paused = true;
            continue;
        }
        leave_line(request);
        start(requests, outlet, request);
    }
}

void requests_room(struct requests *requests, struct session *session)
{
    if (!session->paused)
        return;
    session->paused = false;
    for (uint32_t i = 0; i < requests_n_lines(requests->config.segment); i++) {
        if (!session->lines[i].first)
            continue;
        round_enter(&requests->outlets[i].round, &session->lines[i]);
        pump(requests, &requests->outlets[i]);
    }
}

uint32_t requests_expect(uint32_t expected, size_t len)
{
    uint32_t less = expected - expected / EXPECT_DECAY;

    return len > less ? (uint32_t)len : less;
}

void requests_drain(struct requests *requests)
{
    requests->draining = true;
}

void requests_resume(struct requests *requests)
{
    requests->draining = false;
}

/* Before the mesh lets go of it, so that a gateway that dies in between has either. */
static void on_note(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct request *request = (struct request *)call; /* its first member */

    if (request->session)
        fates_end(request->requests->config.fates, request->fate, answer);
}

static void on_answer(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct request *request = (struct request *)call; /* its first member */
    struct requests *requests = request->requests;
    struct session *session = request->session;
    struct outlet *outlet = outlet_of(requests, call);
    uint32_t *expected = &requests->expected_answer[call->method];

    outlet->started--;
    *expected = requests_expect(*expected, answer->len);
    if (session) {
        finish(request, answer);
        requests_room(requests, session);
    } else {
        requests->n_abandoned--;
        free_request(request);
    }
    pump(requests, outlet);
}

static void on_deadline(void *opaque)
{
    struct request *request = opaque;

    leave_line(request);
    finish_unserved(
        request, CALL_END_EXPIRED, -ETIMEDOUT, "its deadline passed while it waited for a shard");
}

/* ---- submitting, cancelling ---- */

static struct request *new_request(
    struct requests *requests, struct session *session, const struct request_spec *spec)
{
    void *args_block = arena_take(spec->arena, spec->args);
    size_t n_copied = args_block ? 0 : spec->args_len;
    struct request *request = malloc(sizeof(*request) + n_copied);
    struct ended *ended = calloc(1, sizeof(*ended));

    if (!request || !ended) {
        free(args_block);
        free(request);
        free(ended);
        return NULL;
    }
    *request = (struct request){
        .call = {.target = spec->shard,
            .method = spec->method,
            .args = args_block ? spec->args : request->args,
            .args_len = spec->args_len,
            .deadline_ns = spec->deadline_ns,
            .lane = spec->lane,
            .origin = origin_of_session(session->number, spec->id),
            .note = on_note,
            .done = on_answer},
        .requests = requests,
        .session = session,
        .ended = ended,
        .id = spec->id,
        .state = REQUEST_IN_LINE,
        .args_block = args_block,
    };
    if (n_copied > 0)
        memcpy(request->args, spec->args, n_copied);
    aio_timer_init(requests->config.ctx, &request->timer, on_deadline, request);
    return request;
}

/* The fates see to it that not too many are under way, or not acknowledged. Those of nobody, whose
 * calls are not back, are no more than have been started. */
static bool is_full(const struct requests *requests, size_t args_len)
{
    return requests->args_bytes + args_len > LIMIT_ARGS_BYTES;
}

/* Whether a request that has ended may be run once more under its id: its client lacks the answer,
 * for that went with a gateway, or in doubt with a gateway and a shard. */
static bool may_run_again(const struct requests *requests, uint32_t at)
{
    const struct fates *fates = requests->config.fates;
    const struct fate *fate = fates_at(fates, at);
    const struct service_method *method =
        registry_method(requests->config.registry, fate->method, NULL);

    return fate_state(fate->mark) == FATE_ENDED && method && method->flags & SERVICE_IDEMPOTENT &&
           (!fates_has_all(fates, at) || fate->end == CALL_END_IN_DOUBT);
}

/* Of an id that was heard before; 0: it was not. */
static int known(const struct requests *requests, struct session *session, uint64_t id)
{
    uint32_t fate = fates_find(requests->config.fates, session->row, id);

    if (fate == FATE_NONE)
        return idset_has(&session->ids, id) ? -ESTALE : 0;
    if (may_run_again(requests, fate))
        return 0;
    if (!fates_is_settled(requests->config.fates, fate))
        return -EALREADY;
    return session_tell_again(session, fate) < 0 ? -EAGAIN : -EALREADY;
}

/* Notes the request where it outlives us. */
static int take_down(struct requests *requests, struct request *request)
{
    struct session *session = request->session;
    int r = fates_accept(
        requests->config.fates, session->row, request->id, request->call.method, &request->fate);

    if (r == 0 && idset_add(&session->ids, request->id) < 0) {
        fates_forget(requests->config.fates, request->fate);
        r = -EAGAIN;
    }
    request->call.origin_at = request->fate;
    return r;
}

/* An hour at most. */
static uint32_t until_us(int64_t ns)
{
    int64_t us = (ns - aio_clock_ns()) / 1000;

    return us < RETRY_MIN_US ? RETRY_MIN_US : us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

/* Whether it would not be begun at once: in how many microseconds it may be worth while, else 0.
 * The mesh has slots for half of the quota. */
static uint32_t would_wait_us(
    struct requests *requests, const struct session *session, const struct request_spec *spec)
{
    uint32_t line = spec->shard * N_LANES + spec->lane;
    const struct outlet *outlet = &requests->outlets[line];
    int64_t waits_ns;

    if (session->barred_ns)
        return until_us(session->barred_ns);
    if (session->lines[line].first || outlet->started >= outlet->quota / 2 ||
        !has_room(requests, session, spec->method))
        return until_room_us(requests);
    waits_ns = mesh_waits_ns(requests->config.mesh, spec->shard, spec->lane);
    return waits_ns > PACE_WAIT_NS ? retry_us(waits_ns) : 0;
}

int requests_submit(struct requests *requests, struct session *session,
    const struct request_spec *spec, uint32_t *ret_retry_us)
{
    int r = known(requests, session, spec->id);

    *ret_retry_us = r == 0 && spec->refuse ? would_wait_us(requests, session, spec) : 0;
    if (*ret_retry_us)
        return -EAGAIN;
    *ret_retry_us = until_room_us(requests);
    if (r < 0)
        return r;
    if (is_full(requests, spec->args_len))
        return -EAGAIN;
    struct request *request = new_request(requests, session, spec);
    if (!request)
        return -EAGAIN;
    r = take_down(requests, request);
    if (r < 0) {
        free_request(request);
        return r;
    }
    if (spec->deadline_ns != INT64_MAX)
        timer_mod_ns(&request->timer, spec->deadline_ns);
    link_request(requests, request);
    line_join(line_of(request), &request->place);
    round_enter(&outlet_of(requests, &request->call)->round, line_of(request));
    pump(requests, outlet_of(requests, &request->call));
    return 0;
}

static void cancel(struct requests *requests, struct request *request)
{
    if (request->state == REQUEST_STARTED) {
        mesh_call_cancel(requests->config.mesh, &request->call);
        return;
    }
    timer_del(&request->timer);
    leave_line(request);
    finish_unserved(request, CALL_END_CANCELLED, -ECANCELED, "");
}

bool requests_cancel(struct requests *requests, struct session *session, uint64_t id)
{
    struct request *request = *bucket_of(requests, session, id);

    while (request && (request->session != session || request->id != id))
        request = request->hash_next;
    if (!request)
        return false;
    cancel(requests, request);
    return true;
}

void requests_cancel_all(struct requests *requests, struct session *session)
{
    struct request *next;

    for (struct request *request = session->requests; request; request = next) {
        next = request->next;
        cancel(requests, request);
    }
}

static void abandon(struct requests *requests, struct request *request)
{
    session_charge(request->session, -request->aside);
    timer_del(&request->timer);
    if (request->state == REQUEST_IN_LINE)
        leave_line(request);
    unlink_request(requests, request);
    request->session = NULL;
    requests->config.ended(requests->config.opaque);
    if (request->state == REQUEST_IN_LINE) {
        free_request(request);
    } else {
        requests->n_abandoned++;
        mesh_call_cancel(requests->config.mesh, &request->call);
    }
}

void requests_abandon(struct requests *requests, struct session *session)
{
    while (session->requests)
        abandon(requests, session->requests);
}

/* ---- what a predecessor left ---- */

struct mesh_call *requests_adopt(
    struct request **list, struct fates *fates, const struct mesh_asked *left)
{
    uint32_t fate = fates_take_call(fates, left->origin, left->origin_at);
    size_t n_copied = left->args ? left->args_len : 0;

    if (fate == FATE_NONE)
        return NULL;
    struct request *request = calloc(1, sizeof(*request) + n_copied);
    struct ended *ended = calloc(1, sizeof(*ended));
    if (!request || !ended) {
        free(request);
        free(ended);
        return NULL;
    }
    *request = (struct request){
        .call = {.args = left->args ? request->args : NULL, .note = on_note, .done = on_answer},
        .ended = ended,
        .id = fates_at(fates, fate)->id,
        .fate = fate,
        .state = REQUEST_STARTED,
        .next = *list,
    };
    if (n_copied > 0)
        memcpy(request->args, left->args, n_copied);
    *list = request;
    return &request->call;
}

static void go_on_with(struct requests *requests, struct session *session, struct request *request)
{
    request->requests = requests;
    request->session = session;
    request->next = NULL;
    aio_timer_init(requests->config.ctx, &request->timer, on_deadline, request);
    idset_add(&session->ids, request->id); /* without memory: its fate knows the id, too */
    link_request(requests, request);
    outlet_of(requests, &request->call)->started++;
    request->aside = requests->expected_answer[request->call.method];
    session_charge(session, request->aside);
}

void requests_inherit(struct requests *requests, struct sessions *sessions, struct request *list)
{
    struct fates *fates = requests->config.fates;

    while (list) {
        struct request *request = list;
        list = request->next;
        go_on_with(requests, sessions->by_row[fates_row_of(fates, request->fate)], request);
    }
    for (uint32_t fate = 0; fate < fates->n_all; fate++)
        if (fate_state(fates_at(fates, fate)->mark) == FATE_ACCEPTED &&
            !fates_has_call(fates, fate))
            fates_forget(fates, fate);
}

bool requests_is_idle(const struct requests *requests)
{
    return requests->n == 0 && requests->n_abandoned == 0;
}

int requests_init(struct requests *requests, const struct requests_config *config)
{
    const struct segment *segment = config->segment;
    uint32_t n_shards = segment->geometry.n_shards;

    *requests = (struct requests){.config = *config, .last_end_ns = aio_clock_ns()};
    requests->outlets = calloc(requests_n_lines(segment), sizeof(struct outlet));
    requests->expected_answer =
        calloc(registry_n_methods(config->registry) + 1, sizeof(*requests->expected_answer));
    if (getrandom(&requests->hash_key, sizeof(requests->hash_key), 0) < 0)
        requests->hash_key = (uint64_t)aio_clock_ns(); /* never for so few bytes */
    requests->hash_key |= 1;
    if (!requests->outlets || !requests->expected_answer) {
        requests_deinit(requests);
        return -ENOMEM;
    }
    for (uint32_t shard = 0; shard < n_shards; shard++) {
        struct outlet *outlets = &requests->outlets[shard * N_LANES];
        uint32_t n_slots = segment_call_slots(segment, segment_gateway(segment), shard);
        outlets[LANE_URGENT].quota = 2 * SEGMENT_URGENT_SLOTS;
        outlets[LANE_NORMAL].quota = 2 * (n_slots - SEGMENT_URGENT_SLOTS);
    }
    return 0;
}

void requests_deinit(struct requests *requests)
{
    free(requests->outlets);
    free(requests->expected_answer);
    requests->outlets = NULL;
    requests->expected_answer = NULL;
}
