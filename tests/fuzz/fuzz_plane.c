/* SPDX-License-Identifier: MIT */
/*
 * A client of the data plane that writes what it likes, when it likes, wherever it may: entries,
 * turns that are skipped and rewound, arguments while a method has them, completions, wake-up
 * words, its doorbell, in the urgent ring as in the other, with quotas for which its rings wait,
 * and to be run in another shard. It ends served or cut off; a method that does not ask for the
 * client's memory has arguments that stay as they were; and another client beside it gets its
 * answers, into its rooms alone, from here and from there.
 *
 * Input: a sequence of a byte that says what happens, and what that takes (happen()).
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "tests/fuzz/fuzz.h"
#include "tests/unit/plane/plane_rig.h"

#define ENTRIES    8u
#define DATA_BYTES (8u * PLANE_PAGE)
#define HOSTILE    2u /* numbers of clients */
#define GOOD       3u
#define SHARDS     2u
#define LEDGER     8u     /* slots: fewer than both clients may have in flight */
#define TURNS_MAX  100000 /* until something has ended */
#define PATTERN    0x5a

static struct rig rig;
static struct rig_end ends[SHARDS]; /* the plane is the first one's */
static struct plane *plane;
static uint64_t generation;

/* ---- what is called ---- */

enum { ECHO, HOLD, LOOK, ROOM, STAY, NAP, N_METHODS };

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    return service_reply(call, args, len);
}

/* What it has is its own: nobody changes it while it waits. */
static int coroutine_fn run_hold(struct service_call *call)
{
    size_t len;
    const uint8_t *args = service_args(call, &len);
    uint8_t *copy = malloc(len ? len : 1);

    assert(copy);
    if (len)
        memcpy(copy, args, len);
    service_sleep_ns(call, 1000);
    assert(len == 0 || memcmp(copy, args, len) == 0);
    free(copy);
    return 0;
}

/* Arguments where the client has them: there to be read, whatever they are by now. */
static int coroutine_fn run_look(struct service_call *call)
{
    size_t len;
    const volatile uint8_t *args = service_args(call, &len);
    uint8_t sum = 0;

    for (size_t i = 0; i < len; i++)
        sum = (uint8_t)(sum + args[i]);
    return service_reply(call, &sum, 1);
}

static int coroutine_fn run_room(struct service_call *call)
{
    size_t len;
    const uint8_t *args = service_args(call, &len);
    size_t wanted = len ? (size_t)args[0] * 100 + 1 : 1;
    void *room;
    int r = service_reply_room(call, wanted, &room);

    if (r < 0)
        return r;
    memset(room, PATTERN, wanted);
    service_sleep_ns(call, 1000);
    return service_reply_done(call, wanted);
}

/* Until it is cancelled, or its client is gone: so that others wait for sure. */
static int coroutine_fn run_nap(struct service_call *call)
{
    return service_sleep_ns(call, INT64_C(3600) * 1000000000);
}

/* By the first byte, to both shards. */
static int by_first_byte(uint32_t method, const void *args, size_t len, uint64_t *ret_hash)
{
    (void)method;
    if (!len)
        return -EINVAL;
    *ret_hash = *(const uint8_t *)args * UINT64_C(64);
    return 0;
}

static const struct service_method methods[] = {
    [ECHO] = {"echo", run_echo, SERVICE_IDEMPOTENT, ""},
    [HOLD] = {"hold", run_hold, 0, ""},
    [LOOK] = {"look", run_look, SERVICE_IN_PLACE, ""},
    [ROOM] = {"room", run_room, 0, ""},
    [STAY] = {"stay", run_look, SERVICE_IN_PLACE | SERVICE_STAYS, ""},
    [NAP] = {"nap", run_nap, 0, ""},
};
static const struct service service = {.abi = SERVICE_ABI,
    .name = "fuzz",
    .help = "",
    .methods = methods,
    .n_methods = N_METHODS,
    .hash = by_first_byte};

/* ---- the world ---- */

/* Of all shards, the plane's last: its context stays the current one. */
static void turn(void)
{
    for (uint32_t shard = SHARDS; shard-- > 0;) {
        aio_context_set_current(NULL);
        aio_context_set_current(ends[shard].ctx);
        aio_poll(ends[shard].ctx, false);
    }
}

/* quota: 0, none but what there has to be; else three bits of how many may be in flight, two of how
 * few bytes, and one of a rate that allows a burst and no more. */
static void open_client(struct client *client, uint32_t number, uint8_t quota)
{
    client_make(client, &rig, 0, number, ENTRIES, DATA_BYTES);
    client->grant.generation = ++generation;
    if (quota) {
        client->grant.max_in_flight = quota % ENTRIES + 1;
        client->grant.max_bytes = DATA_BYTES >> quota / 8 % 4;
        client->grant.max_rate = quota / 32 % 2;
    }
    assert(client_open(client, plane) == 0);
}

static void close_client(struct client *client)
{
    plane_drop(plane, client->grant.client, client->grant.generation);
    for (int turns = 0; segment_client_lane(&rig.seg, 0, client->grant.client)->generation ==
                            client->grant.generation &&
                        segment_client_lane(&rig.seg, 0, client->grant.client)->state;
         turns++) {
        assert(turns < TURNS_MAX);
        turn();
    }
    client_free(client);
}

static void close_world(void)
{
    plane_free(plane);
    aio_context_set_current(NULL);
    for (uint32_t shard = 0; shard < SHARDS; shard++)
        rig_finish(&ends[shard]);
    rig_close(&rig);
}

static void open_world(void)
{
    rig_open(&rig, SHARDS, &service);
    rig.seg.geometry.n_ledger = LEDGER; /* the rest is left alone */
    for (uint32_t shard = 0; shard < SHARDS; shard++)
        rig_begin(&rig, shard, &ends[shard]);
    aio_context_set_current(ends[0].ctx);
    plane = plane_rig_new(&ends[0]);
    plane_recover(plane);
    atexit(close_world);
}

static bool is_idle(void)
{
    bool idle = plane_is_idle(plane);

    for (uint32_t shard = 0; shard < SHARDS; shard++)
        idle = idle && mesh_is_idle(ends[shard].mesh);
    return idle;
}

/* ---- what happens ---- */

/* The good client has one request answered, with whatever is under way beside it. */
static void ask_well(struct client *good, uint8_t n)
{
    struct plane_submission *entry = client_next(good);
    struct plane_completion completion;
    uint8_t *args = client_data(good, 0), *room = client_data(good, PLANE_PAGE);
    uint32_t len = n % 200u + 1;

    memset(args, n, PLANE_PAGE);
    memset(room, 0, DATA_BYTES - PLANE_PAGE);
    entry->method = ECHO;
    entry->route_kind = PLANE_ROUTE_SHARD;
    entry->route = n % SHARDS;
    entry->args_len = len;
    entry->room_off = PLANE_PAGE;
    entry->room_len = len;
    client_push(good);
    for (int turns = 0; !client_pop(good, &completion); turns++) {
        assert(turns < TURNS_MAX);
        turn();
    }
    assert(completion.id == good->popped - 1 && completion.error == 0 && completion.len == len);
    assert(completion.shard == n % SHARDS);
    const uint8_t *answer = len <= PLANE_INLINE_ANSWER ? completion.inline_answer : room;
    for (uint32_t i = 0; i < len; i++)
        assert(answer[i] == n);
    for (uint32_t i = len; i < DATA_BYTES - PLANE_PAGE; i++)
        assert(room[i] == 0);
}

static void push(struct client *hostile, struct fuzz_bytes *bytes, bool urgent)
{
    struct plane_submission *entry = urgent ? client_next_urgent(hostile) : client_next(hostile);
    uint32_t turn_word = entry->turn;
    struct fuzz_bytes raw = fuzz_take(bytes, sizeof(*entry));

    memcpy(entry, raw.at, raw.len);
    entry->turn = turn_word;
    urgent ? client_push_urgent(hostile) : client_push(hostile);
}

/* A request that is valid, so that these get far: what, a method, a route and how long arguments
 * are. */
static void ask(struct client *hostile, struct fuzz_bytes *bytes, bool urgent)
{
    struct plane_submission *entry = urgent ? client_next_urgent(hostile) : client_next(hostile);

    entry->method = (uint16_t)(fuzz_number(bytes, 1) % N_METHODS);
    entry->flags = urgent ? PLANE_URGENT : 0;
    entry->route_kind = (uint8_t)(fuzz_number(bytes, 1) % N_PLANE_ROUTES);
    entry->route =
        fuzz_number(bytes, 2) % (entry->route_kind == PLANE_ROUTE_SHARD ? SHARDS : 16384);
    entry->args_len = (uint32_t)(fuzz_number(bytes, 2) % (DATA_BYTES / 2));
    entry->room_off = DATA_BYTES / 2;
    entry->room_len = PLANE_PAGE;
    urgent ? client_push_urgent(hostile) : client_push(hostile);
}

/* Of one that was pushed so many before, or was about to be. */
static void cancel(struct client *hostile, struct fuzz_bytes *bytes, bool urgent)
{
    uint64_t position = urgent ? hostile->urgent_pushed : hostile->pushed;
    struct plane_submission *entry = urgent ? client_next_urgent(hostile) : client_next(hostile);

    entry->flags = PLANE_CANCEL;
    entry->route = position - fuzz_number(bytes, 1) % 16;
    entry->id -= position - entry->route;
    urgent ? client_push_urgent(hostile) : client_push(hostile);
}

static void write_anywhere(struct client *hostile, struct fuzz_bytes *bytes)
{
    uint64_t off = fuzz_number(bytes, 2) % hostile->layout.total_bytes;
    struct fuzz_bytes raw = fuzz_take(bytes, fuzz_number(bytes, 1) % 64);

    if (raw.len <= hostile->layout.total_bytes - off)
        memcpy(hostile->base + off, raw.at, raw.len);
}

static void open_anew(struct client *hostile, uint8_t quota)
{
    close_client(hostile);
    open_client(hostile, HOSTILE, quota);
}

static void happen(struct client *hostile, struct client *good, struct fuzz_bytes *bytes)
{
    struct plane_completion completion;
    uint8_t what = (uint8_t)(fuzz_number(bytes, 1) % 16);

    switch (what) {
    case 0:
    case 1:
    case 8:
        push(hostile, bytes, what == 8);
        return;
    case 2:
        write_anywhere(hostile, bytes);
        return;
    case 3:
        hostile->pushed += (uint64_t)(int64_t)(int8_t)fuzz_number(bytes, 1);
        return;
    case 4:
        send(hostile->bells[0], bytes->at, bytes->len < 100 ? bytes->len : 100,
            MSG_DONTWAIT | MSG_NOSIGNAL);
        return;
    case 5:
        ask_well(good, (uint8_t)fuzz_number(bytes, 1));
        return;
    case 6:
        client_pop(hostile, &completion);
        turn();
        return;
    case 9:
    case 10:
        ask(hostile, bytes, what == 10);
        return;
    case 11:
    case 12:
        cancel(hostile, bytes, what == 12);
        return;
    case 13:
        hostile->urgent_pushed += (uint64_t)(int64_t)(int8_t)fuzz_number(bytes, 1);
        return;
    case 14:
        open_anew(hostile, (uint8_t)fuzz_number(bytes, 1));
        return;
    default:
        open_anew(hostile, 0);
    }
}

void fuzz_one(const uint8_t *data, size_t len)
{
    struct fuzz_bytes bytes = {data, len};
    struct client hostile, good;

    if (!plane)
        open_world();
    open_client(&hostile, HOSTILE, 0);
    open_client(&good, GOOD, 0);
    while (bytes.len > 0)
        happen(&hostile, &good, &bytes);
    ask_well(&good, 1);
    close_client(&hostile);
    close_client(&good);
    for (int turns = 0; !is_idle(); turns++) {
        assert(turns < TURNS_MAX);
        turn();
    }
}
