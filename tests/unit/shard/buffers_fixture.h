/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * buffers_fixture - shards whose methods fill, hold and keep shared buffers
 *
 * Use:  run_case(&rig, caller), with steps between them; end_case(&rig)
 *       the caller's process asks by new_asking() and ask(), and says by expect() what is wrong
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shard/mesh_inside.h"
#include "tests/unit/shard/mesh_rig.h"

enum { M_FILL, M_COPY, M_STALL, M_RULES, M_LOOK, M_KEEP };

/* Of the board: what ends tell the test, and the test them. */
enum {
    WORD_STEP,    /* how far the caller has got */
    WORD_GO,      /* how far it may go */
    WORD_WRONG,   /* answers that were not as they should be */
    WORD_STALLED, /* methods that hold a room for ever */
    WORD_ROOMS,   /* from here on: the offsets of their rooms */
};

#define LARGE     ((size_t)300 * 1000)
#define ALL_ROOMS 40
#define OLD_BYTE  0xaa
#define LATE_BYTE 0x55

struct wish {
    uint32_t len;
    uint8_t fill;
};

static struct rig_board *board; /* of the rig that is open */
static const struct segment *segment;

static inline struct wish wish_of(const struct service_call *call)
{
    struct wish wish;
    size_t len;
    const void *args = service_args(call, &len);

    memcpy(&wish, args, sizeof(wish));
    return wish;
}

static inline int coroutine_fn run_fill(struct service_call *call)
{
    struct wish wish = wish_of(call);
    void *room;
    int r = service_reply_room(call, wish.len, &room);

    if (r < 0)
        return r;
    memset(room, wish.fill, wish.len);
    return service_reply_done(call, wish.len);
}

static inline int coroutine_fn run_copy(struct service_call *call)
{
    struct wish wish = wish_of(call);
    void *bytes = malloc(wish.len);

    memset(bytes, wish.fill, wish.len);
    int r = service_reply(call, bytes, wish.len);

    free(bytes);
    return r;
}

/* Has a room, as with a disk read under way, and comes to no end. */
static inline int coroutine_fn run_stall(struct service_call *call)
{
    struct wish wish = wish_of(call);
    uint8_t *room;
    int r = service_reply_room(call, wish.len, (void **)&room);

    if (r < 0)
        return r;
    memset(room, wish.fill, wish.len);
    uint64_t n = atomic_load(&board->words[WORD_STALLED]);
    atomic_store(&board->words[WORD_ROOMS + n], (uint64_t)(room - segment->base));
    atomic_store(&board->words[WORD_STALLED], n + 1);
    return service_sleep_ns(call, INT64_MAX);
}

/* What a room must not be used for; the answer is the errors. */
static inline int coroutine_fn run_rules(struct service_call *call)
{
    int32_t errors[6], *room;
    void *reply;
    size_t len;

    errors[0] = service_reply_done(call, 0);
    errors[1] = service_reply_room(call, 0, (void **)&room);
    errors[2] = service_reply_room(call, SERVICE_REPLY_MAX + 1, (void **)&room);
    errors[3] = service_reply_room(call, sizeof(errors), (void **)&room);
    errors[4] = service_call_shard(call, 0, "test.rules", NULL, 0, &reply, &len);
    errors[5] = service_reply_done(call, sizeof(errors) + 1);
    memcpy(room, errors, sizeof(errors));
    if (service_reply(call, "twice", 5) != -EALREADY || (uintptr_t)room % SERVICE_ROOM_ALIGN != 0)
        return -EINVAL;
    return service_reply_done(call, sizeof(errors));
}

/* The arguments lie in the caller's heap, and while they do nothing else is taken. */
static inline int coroutine_fn run_look(struct service_call *call)
{
    size_t len;
    const uint8_t *args = service_args(call, &len);
    const void *there = segment_heap_at(segment, 0, (uint64_t)(args - segment->base), len);
    void *room, *reply;

    if (!there || service_reply_room(call, len, &room) != -EDEADLK ||
        service_reply(call, args, len) != -EDEADLK ||
        service_call_shard(call, 0, "test.rules", NULL, 0, &reply, &len) != -EDEADLK)
        return -EINVAL;
    return service_reply(call, args + sizeof(struct wish), 1);
}

/* Has its arguments in place for ever, as with a disk write under way. */
static inline int coroutine_fn run_keep(struct service_call *call)
{
    size_t len;
    const uint8_t *args = service_args(call, &len);

    atomic_store(&board->words[WORD_ROOMS], (uint64_t)(args - segment->base));
    atomic_store(&board->words[WORD_STALLED], 1);
    return service_sleep_ns(call, INT64_MAX);
}

static const struct service_method methods[] = {
    {"fill", run_fill, SERVICE_IDEMPOTENT, ""},
    {"copy", run_copy, SERVICE_IDEMPOTENT, ""},
    {"stall", run_stall, 0, ""},
    {"rules", run_rules, SERVICE_IDEMPOTENT, ""},
    {"look", run_look, SERVICE_IDEMPOTENT | SERVICE_IN_PLACE, ""},
    {"keep", run_keep, SERVICE_IN_PLACE, ""},
};

static const struct service test_service = {
    .abi = SERVICE_ABI, .name = "test", .help = "", .methods = methods, .n_methods = 6};

static inline void open_rig(struct rig *rig, uint32_t n_shards)
{
    rig_open(rig, n_shards, &test_service);
    board = rig->board;
    segment = &rig->seg;
}

/* ---- in the caller's process ---- */

static inline bool may_go(void *opaque)
{
    return atomic_load(&board->words[WORD_GO]) >= *(uint64_t *)opaque;
}

/* Tells the test that step is done, and waits until it has done its part. */
static inline void done_with(struct rig_end *end, uint64_t step)
{
    atomic_store(&board->words[WORD_STEP], step);
    rig_poll_until(end, may_go, &step);
}

static inline void expect(bool right)
{
    if (!right)
        atomic_fetch_add(&board->words[WORD_WRONG], 1);
}

struct asking {
    struct mesh *mesh;
    struct wish wish;
    uint32_t target;
    uint32_t method;
    bool in_place;
    const uint8_t *large; /* arguments of LARGE bytes; NULL: the wish */
    int64_t timeout_ns;   /* 0: none */
    struct call_answer answer;
    int status;
    bool over;
    Coroutine *co;
};

static inline void coroutine_fn ask_co(struct asking *asking)
{
    struct call_request request = {.target = asking->target,
        .method = asking->method,
        .args = asking->large ? asking->large : (const void *)&asking->wish,
        .args_len = asking->large ? LARGE : sizeof(asking->wish),
        .deadline_ns = asking->timeout_ns ? aio_clock_ns() + asking->timeout_ns : INT64_MAX,
        .in_place = asking->in_place};

    asking->status = shard_call(asking->mesh, &request, &asking->answer);
}

/* Who reads in place keeps the answer until it is entered again. */
static inline void coroutine_fn ask_entry(void *opaque)
{
    struct asking *asking = opaque;

    asking->co = coroutine_self();
    ask_co(asking);
    asking->over = true;
    if (!asking->in_place)
        return;
    coroutine_yield();
    call_answer_deinit(&asking->answer);
}

static inline bool is_over(void *opaque)
{
    return ((struct asking *)opaque)->over;
}

static inline void begin(struct asking *asking)
{
    asking->over = false;
    coroutine_enter(coroutine_create(ask_entry, asking));
}

static inline void ask(struct rig_end *end, struct asking *asking)
{
    begin(asking);
    rig_poll_until(end, is_over, asking);
}

static inline bool is_filled(const uint8_t *bytes, size_t len, uint8_t fill)
{
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != fill)
            return false;
    return true;
}

static inline bool is_answered(const struct asking *asking)
{
    return asking->status == 0 && asking->answer.end == CALL_END_DONE &&
           asking->answer.len == asking->wish.len &&
           is_filled(asking->answer.data, asking->wish.len, asking->wish.fill);
}

static inline bool lies_in_heap_of(
    const struct segment *seg, uint32_t peer, const void *data, size_t len)
{
    return segment_heap_at(seg, peer, (uint64_t)((const uint8_t *)data - seg->base), len) != NULL;
}

static inline struct asking new_asking(
    struct rig_end *end, uint32_t method, size_t len, bool in_place)
{
    return (struct asking){.mesh = end->mesh,
        .wish = {.len = (uint32_t)len, .fill = OLD_BYTE},
        .target = 1,
        .method = method,
        .in_place = in_place};
}

/* Asks once more, so that what was given back before has been taken back by then. */
static inline void ask_fill(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_FILL, LARGE, false);

    ask(end, &asking);
    expect(is_answered(&asking));
    call_answer_deinit(&asking.answer);
}

static inline void run_case(struct rig *rig, rig_body_fn *caller)
{
    open_rig(rig, 2);
    rig_fork(rig, 1, rig_serve);
    rig_fork(rig, 0, caller);
}

static inline void end_case(struct rig *rig)
{
    rig_join(rig, 0);
    assert_int_equal(atomic_load(&rig->board->words[WORD_WRONG]), 0);
    assert_true(rig_balances(rig));
    rig_close(rig);
}

static inline void let_go(struct rig *rig, uint64_t step)
{
    atomic_store(&rig->board->words[WORD_GO], step);
}
