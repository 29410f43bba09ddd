/* SPDX-License-Identifier: MIT */
/*
 * Answers in shared buffers: filled and read in place, held by a reader, and out of use where I/O
 * of a dead process may still touch them. The ends are processes; the test's own plays supervisor
 * and, where it writes into a dead end's buffer, the kernel.
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

static struct wish wish_of(const struct service_call *call)
{
    struct wish wish;
    size_t len;
    const void *args = service_args(call, &len);

    memcpy(&wish, args, sizeof(wish));
    return wish;
}

static int coroutine_fn run_fill(struct service_call *call)
{
    struct wish wish = wish_of(call);
    void *room;
    int r = service_reply_room(call, wish.len, &room);

    if (r < 0)
        return r;
    memset(room, wish.fill, wish.len);
    return service_reply_done(call, wish.len);
}

static int coroutine_fn run_copy(struct service_call *call)
{
    struct wish wish = wish_of(call);
    void *bytes = malloc(wish.len);

    memset(bytes, wish.fill, wish.len);
    int r = service_reply(call, bytes, wish.len);

    free(bytes);
    return r;
}

/* Has a room, as with a disk read under way, and comes to no end. */
static int coroutine_fn run_stall(struct service_call *call)
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
static int coroutine_fn run_rules(struct service_call *call)
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
static int coroutine_fn run_look(struct service_call *call)
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
static int coroutine_fn run_keep(struct service_call *call)
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

static void open_rig(struct rig *rig, uint32_t n_shards)
{
    rig_open(rig, n_shards, &test_service);
    board = rig->board;
    segment = &rig->seg;
}

/* ---- in the caller's process ---- */

static bool may_go(void *opaque)
{
    return atomic_load(&board->words[WORD_GO]) >= *(uint64_t *)opaque;
}

/* Tells the test that step is done, and waits until it has done its part. */
static void done_with(struct rig_end *end, uint64_t step)
{
    atomic_store(&board->words[WORD_STEP], step);
    rig_poll_until(end, may_go, &step);
}

static void expect(bool right)
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

static void coroutine_fn ask_co(struct asking *asking)
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
static void coroutine_fn ask_entry(void *opaque)
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

static bool is_over(void *opaque)
{
    return ((struct asking *)opaque)->over;
}

static void begin(struct asking *asking)
{
    asking->over = false;
    coroutine_enter(coroutine_create(ask_entry, asking));
}

static void ask(struct rig_end *end, struct asking *asking)
{
    begin(asking);
    rig_poll_until(end, is_over, asking);
}

static bool is_filled(const uint8_t *bytes, size_t len, uint8_t fill)
{
    for (size_t i = 0; i < len; i++)
        if (bytes[i] != fill)
            return false;
    return true;
}

static bool is_answered(const struct asking *asking)
{
    return asking->status == 0 && asking->answer.end == CALL_END_DONE &&
           asking->answer.len == asking->wish.len &&
           is_filled(asking->answer.data, asking->wish.len, asking->wish.fill);
}

static bool lies_in_heap_of(const struct segment *seg, uint32_t peer, const void *data, size_t len)
{
    return segment_heap_at(seg, peer, (uint64_t)((const uint8_t *)data - seg->base), len) != NULL;
}

static struct asking new_asking(struct rig_end *end, uint32_t method, size_t len, bool in_place)
{
    return (struct asking){.mesh = end->mesh,
        .wish = {.len = (uint32_t)len, .fill = OLD_BYTE},
        .target = 1,
        .method = method,
        .in_place = in_place};
}

/* Asks once more, so that what was given back before has been taken back by then. */
static void ask_fill(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_FILL, LARGE, false);

    ask(end, &asking);
    expect(is_answered(&asking));
    call_answer_deinit(&asking.answer);
}

static void run_case(struct rig *rig, rig_body_fn *caller)
{
    open_rig(rig, 2);
    rig_fork(rig, 1, rig_serve);
    rig_fork(rig, 0, caller);
}

static void end_case(struct rig *rig)
{
    rig_join(rig, 0);
    assert_int_equal(atomic_load(&rig->board->words[WORD_WRONG]), 0);
    assert_true(rig_balances(rig));
    rig_close(rig);
}

static void let_go(struct rig *rig, uint64_t step)
{
    atomic_store(&rig->board->words[WORD_GO], step);
}

/* ---- no copies ---- */

static void caller_that_copies_nothing(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_FILL, LARGE, true);
    const struct part_head *own = segment_part(&end->rig->seg, 0);
    const struct part_head *callee = segment_part(&end->rig->seg, 1);

    ask(end, &asking);
    expect(is_answered(&asking));
    expect(lies_in_heap_of(&end->rig->seg, 1, asking.answer.data, LARGE));
    expect(!mesh_is_idle(end->mesh));
    coroutine_enter(asking.co); /* gives it back */
    expect(mesh_is_idle(end->mesh));
    expect(own->payload_copied_bytes == 0 && callee->payload_copied_bytes == 0);
    expect(own->payload_in_place_bytes == LARGE && callee->payload_in_place_bytes == LARGE);
}

static void what_is_filled_and_read_in_place_is_copied_by_nobody(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_copies_nothing);
    end_case(&rig);
}

static void caller_that_copies(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_COPY, LARGE, false);
    const struct part_head *own = segment_part(&end->rig->seg, 0);
    const struct part_head *callee = segment_part(&end->rig->seg, 1);

    ask(end, &asking);
    expect(is_answered(&asking));
    expect(!lies_in_heap_of(&end->rig->seg, 1, asking.answer.data, LARGE));
    call_answer_deinit(&asking.answer);
    expect(own->payload_copied_bytes == LARGE && callee->payload_copied_bytes == LARGE);
}

static void copies_are_counted_where_they_are_made(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_copies);
    end_case(&rig);
}

static void check_rules(struct rig_end *end, uint32_t target)
{
    static const int32_t expected[] = {-EINVAL, -EMSGSIZE, -EMSGSIZE, 0, -EDEADLK, -EINVAL};
    struct asking asking = new_asking(end, M_RULES, 1, false);

    asking.target = target;
    ask(end, &asking);
    expect(asking.status == 0 && asking.answer.len == sizeof(expected) &&
           memcmp(asking.answer.data, expected, sizeof(expected)) == 0);
    call_answer_deinit(&asking.answer);
}

static void caller_of_rules(struct rig_end *end)
{
    check_rules(end, 0);
    check_rules(end, 1);
}

static void room_is_for_one_answer_and_whoever_has_it_calls_nobody(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_of_rules);
    end_case(&rig);
}

static void coroutine_fn call_while_reading(void *opaque)
{
    struct asking *asking = opaque;
    struct asking second = *asking;

    ask_co(asking);
    ask_co(&second);
    expect(is_answered(asking));
    expect(second.status == -EDEADLK && second.answer.end == CALL_END_NOT_STARTED);
    call_answer_deinit(&second.answer);
    call_answer_deinit(&asking->answer);
    ask_co(&second);
    expect(is_answered(&second));
    call_answer_deinit(&second.answer);
    asking->status = 1;
}

static bool is_at_its_end(void *opaque)
{
    return ((struct asking *)opaque)->status == 1;
}

static void caller_that_reads_and_calls(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_FILL, LARGE, true);

    coroutine_enter(coroutine_create(call_while_reading, &asking));
    rig_poll_until(end, is_at_its_end, &asking);
}

static void who_reads_in_place_calls_nobody_until_it_has_given_back(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_reads_and_calls);
    end_case(&rig);
}

static void caller_with_large_arguments(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_LOOK, 1, false);
    const struct part_head *callee = segment_part(&end->rig->seg, 1);
    uint8_t *large = malloc(LARGE);

    memset(large, OLD_BYTE, LARGE);
    asking.large = large;
    ask(end, &asking);
    expect(is_answered(&asking));
    call_answer_deinit(&asking.answer);
    expect(callee->payload_copied_bytes == 0 && callee->payload_in_place_bytes == LARGE);
    ask_fill(end);
    expect(segment_part(&end->rig->seg, 0)->heap_used_bytes == 0);
    free(large);
}

static void arguments_are_read_in_place_and_given_back(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_with_large_arguments);
    end_case(&rig);
}

/* ---- deaths ---- */

static void caller_that_reads_on(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_FILL, LARGE, true);

    ask(end, &asking);
    expect(is_answered(&asking));
    done_with(end, 1);
    /* The replacement has served others from the same heap by now. */
    for (int i = 0; i < 12; i++) {
        struct asking other = new_asking(end, M_FILL, LARGE, false);
        other.wish.fill = (uint8_t)i;
        ask(end, &other);
        expect(is_answered(&other));
        call_answer_deinit(&other.answer);
    }
    expect(is_answered(&asking));
    coroutine_enter(asking.co); /* gives it back */
    ask_fill(end);
    ask_fill(end);
    expect(segment_part(&end->rig->seg, 1)->heap_used_bytes <= 2 * (LARGE + SEGMENT_PAGE));
}

static void an_answer_that_is_read_outlives_its_shard(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_reads_on);
    rig_wait_word(&rig, WORD_STEP, 1);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    let_go(&rig, 1);
    end_case(&rig);
}

static void caller_that_dies_reading(struct rig_end *end)
{
    struct asking askings[4];

    for (int i = 0; i < 4; i++) {
        askings[i] = new_asking(end, M_FILL, LARGE, true);
        ask(end, &askings[i]);
        expect(is_answered(&askings[i]));
    }
    done_with(end, 1);
}

static void caller_that_takes_over(struct rig_end *end)
{
    ask_fill(end);
    ask_fill(end);
    expect(segment_part(&end->rig->seg, 1)->heap_used_bytes <= 2 * (LARGE + SEGMENT_PAGE));
}

static void a_reader_that_dies_leaves_neither_slot_nor_buffer_taken(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_dies_reading);
    rig_wait_word(&rig, WORD_STEP, 1);
    assert_int_equal(rig_slots_in_use(&rig), 4);
    rig_kill(&rig, 0, false);
    rig_fork(&rig, 0, caller_that_takes_over);
    end_case(&rig);
}

/* ---- I/O after death ---- */

static void caller_of_the_stalled(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_STALL, LARGE, false);

    begin(&asking);
    rig_poll_until(end, is_over, &asking); /* its shard dies */
    expect(asking.answer.end == CALL_END_IN_DOUBT);
    call_answer_deinit(&asking.answer);
    for (int i = 0; i < 12; i++)
        ask_fill(end);
    done_with(end, 1);
    ask_fill(end);
    expect(segment_part(&end->rig->seg, 1)->heap_quarantined_bytes == 0);
}

/* The test writes to the room for as long as the kernel might: whoever used it again would see. */
static void a_buffer_in_flight_is_not_used_again_before_it_is_quiet(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_of_the_stalled);
    rig_wait_word(&rig, WORD_STALLED, 1);
    uint8_t *room = rig.seg.base + atomic_load(&rig.board->words[WORD_ROOMS]);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    while (atomic_load(&rig.board->words[WORD_STEP]) < 1)
        memset(room, LATE_BYTE, LARGE);
    assert_true(is_filled(room, LARGE, LATE_BYTE));
    assert_true(segment_part(&rig.seg, 1)->heap_quarantined_bytes >= LARGE);
    rig_quiet(&rig, 1);
    let_go(&rig, 1);
    end_case(&rig);
}

static void caller_of_a_keeper(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_KEEP, 1, false);
    const struct part_head *own = segment_part(&end->rig->seg, 0);
    uint8_t *large = malloc(LARGE);

    memset(large, OLD_BYTE, LARGE);
    asking.large = large;
    ask(end, &asking); /* its shard dies */
    expect(asking.answer.end == CALL_END_IN_DOUBT);
    call_answer_deinit(&asking.answer);
    /* What is sent now must not lie where the kernel may still read the old. */
    memset(large, LATE_BYTE, LARGE);
    asking = new_asking(end, M_LOOK, 1, false);
    asking.large = large;
    asking.wish.fill = LATE_BYTE;
    ask(end, &asking);
    expect(is_answered(&asking));
    call_answer_deinit(&asking.answer);
    ask_fill(end);
    expect(own->heap_quarantined_bytes >= LARGE);
    expect(is_filled(end->rig->seg.base + atomic_load(&board->words[WORD_ROOMS]), LARGE, OLD_BYTE));
    done_with(end, 1);
    ask_fill(end);
    expect(own->heap_quarantined_bytes == 0 && own->heap_used_bytes == 0);
    free(large);
}

static void arguments_that_a_dead_shard_may_be_writing_to_disk_stay_as_they_were(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_of_a_keeper);
    rig_wait_word(&rig, WORD_STALLED, 1);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    rig_wait_word(&rig, WORD_STEP, 1);
    rig_quiet(&rig, 1);
    let_go(&rig, 1);
    end_case(&rig);
}

static void what_two_dead_had_in_flight_is_kept_until_each_is_quiet(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 2);
    uint64_t *words = segment_flights(&rig.seg, 1);
    struct heap heap;
    struct flights flights;
    AioContext *ctx;

    assert_int_equal(aio_context_new(&(struct aio_config){.engine = AIO_ENGINE_THREADS}, &ctx), 0);
    words[0] = flight_word(1, 1, 2);
    words[5] = flight_word(2, 1, 1);
    words[6] = flight_word(2, 99, 1); /* no such peer */
    words[7] = flight_word(2, 1, 0xffff);
    assert_int_equal(heap_init(&heap, ctx, segment_heap_off(&rig.seg, 1), 16 * SEGMENT_PAGE, 3), 0);
    flights_init(&flights, &rig.seg, &heap, 1, 3);
    assert_int_equal(flights.n_quarantined, 3);
    assert_int_equal(heap.n_used, 3);
    assert_int_equal(words[6] | words[7], 0);
    assert_false(flights_look(&flights));
    segment_control(&rig.seg, 1)->quiet_incarnation = 1;
    assert_true(flights_look(&flights));
    assert_int_equal(flights.n_quarantined, 1);
    assert_int_equal(words[0], 0);
    segment_control(&rig.seg, 1)->quiet_incarnation = 2;
    assert_true(flights_look(&flights));
    assert_int_equal(heap.n_used, 0);
    heap_deinit(&heap);
    aio_context_unref(ctx);
    rig_close(&rig);
}

/* As many rooms of SEGMENT_PAYLOAD_MAX as one caller may have of a heap: two thirds, or one. */
static unsigned most_rooms(const struct segment *seg)
{
    uint64_t n = seg->geometry.heap_bytes * 2 / 3 / SEGMENT_PAYLOAD_MAX;

    return n ? (unsigned)n : 1;
}

static void caller_of_a_full_heap(struct rig_end *end)
{
    struct asking askings[ALL_ROOMS];
    unsigned n = most_rooms(&end->rig->seg);

    for (unsigned i = 0; i < n; i++) {
        askings[i] = new_asking(end, M_STALL, SEGMENT_PAYLOAD_MAX, false);
        begin(&askings[i]);
    }
    rig_poll_until(end, is_over, &askings[0]);
    for (unsigned i = 0; i < n; i++)
        rig_poll_until(end, is_over, &askings[i]);

    /* One fits beside what is in quarantine, and is answered; with two of them one waits. */
    struct asking last[3];

    for (unsigned i = 0; i < 3; i++) {
        last[i] = new_asking(end, M_FILL, SEGMENT_PAYLOAD_MAX, false);
        begin(&last[i]);
    }
    done_with(end, 1); /* returns once the test has seen one wait */
    for (unsigned i = 0; i < 3; i++) {
        rig_poll_until(end, is_over, &last[i]);
        expect(is_answered(&last[i]));
        call_answer_deinit(&last[i].answer);
    }
    for (unsigned i = 0; i < n; i++)
        call_answer_deinit(&askings[i].answer);
}

/* Waits are published at the end of a turn, so another call to the callee brings them out. */
static void a_heap_full_of_quarantine_makes_calls_wait_and_fails_none(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_of_a_full_heap);
    uint64_t n = most_rooms(&rig.seg);
    assert_in_range(n, 1, ALL_ROOMS);
    rig_wait_word(&rig, WORD_STALLED, n);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    rig_wait_word(&rig, WORD_STEP, 1);
    while (atomic_load_acquire(&segment_part(&rig.seg, 1)->heap_waits) == 0)
        sched_yield();
    assert_int_equal(segment_part(&rig.seg, 1)->heap_quarantined_bytes, n * SEGMENT_PAYLOAD_MAX);
    rig_quiet(&rig, 1);
    let_go(&rig, 1);
    end_case(&rig);
}

/* ---- a receiver that is stopped ---- */

#define MANY 24

/* Asks for more than its share, and does not look into its ring until it is told. The last one has
 * a deadline, which passes while it stands in line there. */
static void caller_that_stops(struct rig_end *end)
{
    struct asking askings[MANY];

    for (unsigned i = 0; i < MANY; i++) {
        askings[i] = new_asking(end, M_FILL, LARGE, false);
        askings[i].timeout_ns = i == MANY - 1 ? HEAP_PATIENCE_NS : 0;
        begin(&askings[i]);
    }
    int64_t deadline_ns = aio_clock_ns() + HEAP_PATIENCE_NS;
    aio_poll(end->ctx, false); /* they are out */
    atomic_store(&board->words[WORD_STEP], 1);
    while (atomic_load(&board->words[WORD_GO]) < 1 || aio_clock_ns() < deadline_ns)
        sched_yield();
    for (unsigned i = 0; i < MANY; i++) {
        rig_poll_until(end, is_over, &askings[i]);
        if (i < MANY - 1)
            expect(is_answered(&askings[i]));
        else
            expect(askings[i].status == -ETIMEDOUT && askings[i].answer.end == CALL_END_EXPIRED);
        call_answer_deinit(&askings[i].answer);
    }
}

static void caller_beside_it(struct rig_end *end)
{
    for (int i = 0; i < 20; i++)
        ask_fill(end);
    atomic_store(&board->words[WORD_STEP], 2);
}

static void who_is_stopped_with_its_share_of_answers_stops_nobody_else(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 3);
    rig_fork(&rig, 1, rig_serve);
    rig_fork(&rig, 0, caller_that_stops);
    rig_wait_word(&rig, WORD_STEP, 1);
    uint64_t most = rig.seg.geometry.heap_bytes * 2 / 3;
    while (atomic_load_acquire(&segment_part(&rig.seg, 1)->heap_used_bytes) + LARGE < most)
        sched_yield();
    rig_fork(&rig, 2, caller_beside_it);
    rig_wait_word(&rig, WORD_STEP, 2); /* all it asked for was answered meanwhile */
    assert_true(segment_part(&rig.seg, 1)->heap_waits > 0);
    let_go(&rig, 1);
    rig_join(&rig, 2);
    end_case(&rig);
}

/* A callee that does not look into its ring holds the arguments; a call to another one goes on. */
static void caller_of_one_that_stops(struct rig_end *end)
{
    struct asking askings[MANY], other = new_asking(end, M_LOOK, 1, false);
    uint8_t *large = malloc(LARGE);

    memset(large, OLD_BYTE, LARGE);
    for (unsigned i = 0; i < MANY; i++) {
        askings[i] = new_asking(end, M_LOOK, 1, false);
        askings[i].large = large;
        askings[i].timeout_ns = i < MANY / 2 ? 0 : HEAP_PATIENCE_NS;
        begin(&askings[i]);
    }
    other.large = large;
    other.target = 2;
    for (int i = 0; i < 20; i++) {
        ask(end, &other);
        expect(is_answered(&other));
        call_answer_deinit(&other.answer);
    }
    for (unsigned i = MANY / 2; i < MANY; i++) {
        rig_poll_until(end, is_over, &askings[i]);
        expect(askings[i].status == -ETIMEDOUT && askings[i].answer.end == CALL_END_EXPIRED);
    }
    atomic_store(&board->words[WORD_STEP], 1);
    for (unsigned i = 0; i < MANY / 2; i++) {
        rig_poll_until(end, is_over, &askings[i]);
        expect(is_answered(&askings[i]));
        call_answer_deinit(&askings[i].answer);
    }
    free(large);
}

static void serve_once_it_is_let_go(struct rig_end *end)
{
    while (atomic_load(&board->words[WORD_GO]) < 1)
        sched_yield();
    rig_serve(end);
}

static void who_is_stopped_with_its_share_of_arguments_stops_nobody_else(void **state)
{
    struct rig rig;

    (void)state;
    open_rig(&rig, 3);
    rig_fork(&rig, 1, serve_once_it_is_let_go);
    rig_fork(&rig, 2, rig_serve);
    rig_fork(&rig, 0, caller_of_one_that_stops);
    rig_wait_word(&rig, WORD_STEP, 1);
    let_go(&rig, 1);
    end_case(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_filled_and_read_in_place_is_copied_by_nobody),
        cmocka_unit_test(copies_are_counted_where_they_are_made),
        cmocka_unit_test(room_is_for_one_answer_and_whoever_has_it_calls_nobody),
        cmocka_unit_test(who_reads_in_place_calls_nobody_until_it_has_given_back),
        cmocka_unit_test(arguments_are_read_in_place_and_given_back),
        cmocka_unit_test(an_answer_that_is_read_outlives_its_shard),
        cmocka_unit_test(a_reader_that_dies_leaves_neither_slot_nor_buffer_taken),
        cmocka_unit_test(a_buffer_in_flight_is_not_used_again_before_it_is_quiet),
        cmocka_unit_test(arguments_that_a_dead_shard_may_be_writing_to_disk_stay_as_they_were),
        cmocka_unit_test(what_two_dead_had_in_flight_is_kept_until_each_is_quiet),
        cmocka_unit_test(a_heap_full_of_quarantine_makes_calls_wait_and_fails_none),
        cmocka_unit_test(who_is_stopped_with_its_share_of_answers_stops_nobody_else),
        cmocka_unit_test(who_is_stopped_with_its_share_of_arguments_stops_nobody_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
