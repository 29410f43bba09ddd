/* SPDX-License-Identifier: MIT */
/*
 * Arguments that the caller fills in place: whose the room is at each moment, and what deaths,
 * deadlines and second runs make of it; and peers that lie about where their buffers are. The
 * ends are processes; the test's own plays supervisor.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/co_sleep.h"
#include "shard/mesh_inside.h"
#include "tests/unit/shard/mesh_rig.h"

enum { M_SUM, M_SUM_IN_PLACE, M_HANG_ONCE, M_HANG_ONCE_IN_PLACE, M_RELAY, M_TRAVEL, N_METHODS };

/* Of the board: what ends tell the test, and the test them. */
enum { WORD_STEP, WORD_GO, WORD_WRONG, WORD_RUNS, WORD_ROOM };

#define LARGE ((size_t)300 * 1000)
#define FILL  0x5a

static struct rig_board *board; /* of the rig that is open */

static void expect(bool right)
{
    if (!right)
        atomic_fetch_add(&board->words[WORD_WRONG], 1);
}

/* ---- methods ---- */

/* Answers with the sum of its arguments. */
static int coroutine_fn run_sum(struct service_call *call)
{
    uint64_t sum = 0;
    size_t len;
    const uint8_t *args = service_args(call, &len);

    atomic_fetch_add(&board->words[WORD_RUNS], 1);
    for (size_t i = 0; i < len; i++)
        sum += args[i];
    return service_reply(call, &sum, sizeof(sum));
}

static int coroutine_fn run_hang_once(struct service_call *call)
{
    size_t len;
    const uint8_t *args = service_args(call, &len);

    if (atomic_load(&board->words[WORD_RUNS]) > 0)
        return run_sum(call);
    atomic_store(&board->words[WORD_ROOM], (uintptr_t)args);
    atomic_store(&board->words[WORD_RUNS], 1);
    return service_sleep_ns(call, INT64_MAX);
}

/* What may not be done with a room for a call, then the call, then one whose room it leaves. */
static int coroutine_fn run_relay(struct service_call *call)
{
    void *room, *other, *reply;
    size_t len;
    uint64_t sum;

    if (service_call_filled(call, 0, &reply, &len) != -EINVAL ||
        service_call_room(call, 0, "test.none", LARGE, &room) != -ENOENT ||
        service_call_room(call, 0, "test.sum", 0, &room) != -EMSGSIZE ||
        service_call_room(call, 99, "test.sum", LARGE, &room) != -ENODEV)
        return -EINVAL;
    int r = service_call_room(call, 0, "test.sum_in_place", LARGE, &room);
    if (r < 0)
        return r;
    if ((uintptr_t)room % SERVICE_ROOM_ALIGN != 0 ||
        service_call_room(call, 0, "test.sum", 1, &other) != -EDEADLK ||
        service_call_shard(call, 0, "test.sum", "", 1, &reply, &len) != -EDEADLK ||
        service_reply_room(call, LARGE, &other) != -EDEADLK ||
        service_reply(call, room, LARGE) != -EDEADLK ||
        service_call_filled(call, LARGE + 1, &reply, &len) != -EINVAL)
        return -EINVAL;
    memset(room, FILL, LARGE);
    r = service_call_filled(call, LARGE, &reply, &len);
    if (r < 0)
        return r;
    memcpy(&sum, reply, sizeof(sum));
    free(reply);
    r = service_call_room(call, service_shard(call), "test.sum", LARGE, &room); /* to itself */
    service_call_drop(call);
    if (r == 0)
        r = service_call_room(call, 0, "test.sum", LARGE, &room);
    return r < 0 ? r : service_reply(call, &sum, sizeof(sum)); /* which gives it back */
}

static const struct service_method methods[N_METHODS] = {
    {"sum", run_sum, SERVICE_IDEMPOTENT, ""},
    {"sum_in_place", run_sum, SERVICE_IDEMPOTENT | SERVICE_IN_PLACE, ""},
    {"hang_once", run_hang_once, SERVICE_IDEMPOTENT, ""},
    {"hang_once_in_place", run_hang_once, SERVICE_IDEMPOTENT | SERVICE_IN_PLACE, ""},
    {"relay", run_relay, SERVICE_IDEMPOTENT, ""},
    {"travel", run_sum, SERVICE_IDEMPOTENT | SERVICE_PORTABLE, ""},
};

static const struct service test_service = {
    .abi = SERVICE_ABI, .name = "test", .help = "", .methods = methods, .n_methods = N_METHODS};

/* ---- in the caller's process ---- */

struct asking {
    struct mesh *mesh;
    struct call_request request;
    size_t sends; /* of the room; 0: it is dropped */
    struct call_room room;
    struct call_answer answer;
    int status;
    bool has_room, may_send, over;
};

static void coroutine_fn ask_entry(void *opaque)
{
    struct asking *asking = opaque;

    asking->status = shard_call_room(asking->mesh, &asking->request, &asking->room);
    if (asking->status == 0) {
        memset(asking->room.data, FILL, asking->room.len);
        asking->has_room = true;
        while (!asking->may_send)
            co_sleep_ns(1000000);
        if (asking->sends)
            asking->status = shard_call_filled(&asking->room, asking->sends, &asking->answer);
        else
            shard_call_room_drop(&asking->room);
    }
    asking->over = true;
}

static bool is_over(void *opaque)
{
    return ((struct asking *)opaque)->over;
}

static bool has_room(void *opaque)
{
    return ((struct asking *)opaque)->has_room;
}

static struct asking new_asking(struct rig_end *end, uint32_t method, size_t sends)
{
    return (struct asking){.mesh = end->mesh,
        .request = {.target = 1, .method = method, .args_len = LARGE, .deadline_ns = INT64_MAX},
        .sends = sends};
}

static void begin(struct asking *asking)
{
    coroutine_enter(coroutine_create(ask_entry, asking));
}

static void ask(struct rig_end *end, struct asking *asking)
{
    asking->may_send = true;
    begin(asking);
    rig_poll_until(end, is_over, asking);
}

static void expect_sum(struct asking *asking)
{
    uint64_t sum = 0;

    expect(asking->status == 0 && asking->answer.len == sizeof(sum));
    if (asking->answer.len == sizeof(sum))
        memcpy(&sum, asking->answer.data, sizeof(sum));
    expect(sum == asking->sends * FILL);
    call_answer_deinit(&asking->answer);
}

static bool may_go(void *opaque)
{
    return atomic_load(&board->words[WORD_GO]) >= *(uint64_t *)opaque;
}

static void done_with(struct rig_end *end, uint64_t step)
{
    atomic_store(&board->words[WORD_STEP], step);
    rig_poll_until(end, may_go, &step);
}

static void let_go(struct rig *rig, uint64_t step)
{
    atomic_store(&rig->board->words[WORD_GO], step);
}

static uint32_t heap_used(const struct rig_end *end)
{
    return end->mesh->heap.n_used;
}

/* A call more, so that what was given back before has been taken back by then. */
static void ask_sum(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_SUM, LARGE);

    ask(end, &asking);
    expect_sum(&asking);
}

static void open_case(struct rig *rig)
{
    rig_open(rig, 2, &test_service);
    board = rig->board;
}

static void end_case(struct rig *rig)
{
    rig_join(rig, 0);
    assert_int_equal(atomic_load(&rig->board->words[WORD_WRONG]), 0);
    assert_true(rig_balances(rig));
    assert_int_equal(rig_slots_in_use(rig), 0);
    rig_close(rig);
}

static void run_case(struct rig *rig, rig_body_fn *caller)
{
    open_case(rig);
    rig_fork(rig, 1, rig_serve);
    rig_fork(rig, 0, caller);
}

/* ---- no copies ---- */

static void caller_that_fills(struct rig_end *end)
{
    const struct part_head *own = end->mesh->part, *callee = segment_part(&end->rig->seg, 1);
    struct asking asking = new_asking(end, M_SUM_IN_PLACE, LARGE);

    ask(end, &asking);
    expect_sum(&asking);
    expect(own->payload_copied_bytes == 0 && callee->payload_copied_bytes == 0);
    expect(own->payload_in_place_bytes == LARGE && callee->payload_in_place_bytes == LARGE);
    expect(heap_used(end) == 0 && mesh_is_idle(end->mesh));
    ask_sum(end);
    expect(own->payload_copied_bytes == 0 && callee->payload_copied_bytes == LARGE);
    expect(heap_used(end) == 0);
}

static void what_is_filled_in_place_is_copied_by_nobody(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_fills);
    end_case(&rig);
}

static void caller_that_sends_less(struct rig_end *end)
{
    static const size_t lens[] = {1, SEGMENT_INLINE_BYTES, SEGMENT_INLINE_BYTES + 1, LARGE - 1, 0};

    for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
        struct asking asking = new_asking(end, i % 2 ? M_SUM : M_SUM_IN_PLACE, lens[i]);
        uint64_t submitted = end->mesh->links[1].stats->calls_submitted;

        ask(end, &asking);
        if (lens[i])
            expect_sum(&asking);
        expect(end->mesh->links[1].stats->calls_submitted == submitted + (lens[i] > 0));
        expect(heap_used(end) == 0 && mesh_is_idle(end->mesh));
    }
}

static void less_than_the_room_may_be_sent_or_nothing(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_sends_less);
    end_case(&rig);
}

static void caller_of_a_relay(struct rig_end *end)
{
    struct call_request request = {.target = 1, .method = M_RELAY, .deadline_ns = INT64_MAX};
    struct asking asking = {.mesh = end->mesh, .request = request, .sends = LARGE};
    const struct part_head *relay = segment_part(&end->rig->seg, 1);

    asking.request.args_len = 1;
    asking.sends = 1;
    ask(end, &asking);
    asking.sends = LARGE;
    expect_sum(&asking);
    ask_sum(end);
    expect(relay->heap_used_bytes == 0);
}

static void a_method_calls_others_with_what_it_filled_in_place(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_of_a_relay);
    end_case(&rig);
}

/* ---- ends before the answer ---- */

static void caller_whose_deadline_passes(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_SUM, LARGE);

    asking.request.deadline_ns = aio_clock_ns() + 20000000;
    begin(&asking);
    rig_poll_until(end, has_room, &asking);
    while (aio_clock_ns() < asking.request.deadline_ns)
        aio_poll(end->ctx, false);
    asking.may_send = true;
    rig_poll_until(end, is_over, &asking);
    expect(asking.status == -ETIMEDOUT && asking.answer.end == CALL_END_EXPIRED);
    expect(end->mesh->links[1].stats->calls_submitted == 0);
    expect(heap_used(end) == 0 && mesh_is_idle(end->mesh));
    ask_sum(end);
}

static void a_room_sent_after_its_deadline_is_given_back_and_nothing_runs(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_whose_deadline_passes);
    end_case(&rig);
}

/* The callee does not look into its ring, so the room is the slot's when the call has expired. */
static void caller_of_one_that_sleeps(struct rig_end *end)
{
    int64_t patience_ns = 20000000;
    struct asking asking;

    do { /* where it expired before it was filled in, with more */
        asking = new_asking(end, M_SUM, LARGE);
        asking.request.deadline_ns = aio_clock_ns() + patience_ns;
        ask(end, &asking);
        expect(asking.status == -ETIMEDOUT);
        patience_ns *= 4;
    } while (end->mesh->links[1].stats->calls_submitted == 0);
    expect(heap_used(end) > 0);
    done_with(end, 1);
    ask_sum(end);
    expect(heap_used(end) == 0);
    expect(atomic_load(&board->words[WORD_RUNS]) == 1);
}

static void serve_once_it_is_let_go(struct rig_end *end)
{
    while (atomic_load(&board->words[WORD_GO]) < 1)
        sched_yield();
    rig_serve(end);
}

static void a_room_that_the_callee_may_read_still_outlives_its_call(void **state)
{
    struct rig rig;

    (void)state;
    open_case(&rig);
    rig_fork(&rig, 1, serve_once_it_is_let_go);
    rig_fork(&rig, 0, caller_of_one_that_sleeps);
    rig_wait_word(&rig, WORD_STEP, 1);
    let_go(&rig, 1);
    end_case(&rig);
}

static void caller_of_one_given_up(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_SUM, LARGE);

    begin(&asking);
    rig_poll_until(end, has_room, &asking);
    done_with(end, 1); /* it is given up, and that is judged */
    asking.may_send = true;
    rig_poll_until(end, is_over, &asking);
    expect(asking.status == -EHOSTDOWN && asking.answer.end == CALL_END_NOT_STARTED);
    call_answer_deinit(&asking.answer);
    expect(heap_used(end) == 0 && mesh_is_idle(end->mesh));
}

static void a_room_for_a_shard_that_is_given_up_meanwhile_is_not_sent(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_of_one_given_up);
    rig_wait_word(&rig, WORD_STEP, 1);
    rig_kill(&rig, 1, true);
    let_go(&rig, 1);
    end_case(&rig);
}

/* ---- deaths ---- */

static void caller_that_is_run_again(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_HANG_ONCE, LARGE);

    ask(end, &asking); /* its shard dies */
    expect_sum(&asking);
    expect(end->mesh->links[1].stats->run_again == 1);
    expect(heap_used(end) == 0);
}

static void a_call_is_run_again_with_the_bytes_that_were_filled_in(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_is_run_again);
    rig_wait_word(&rig, WORD_RUNS, 1);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    end_case(&rig);
}

static void caller_that_is_run_again_in_place(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_HANG_ONCE_IN_PLACE, LARGE);

    ask(end, &asking); /* its shard dies, maybe writing the room to a disk */
    expect_sum(&asking);
    expect(end->mesh->flights.n_quarantined * SEGMENT_PAGE >= LARGE);
    for (int i = 0; i < 6; i++) {
        asking = new_asking(end, M_SUM, LARGE);
        ask(end, &asking);
        expect((uintptr_t)asking.answer.data != 0);
        expect_sum(&asking);
    }
    const uint8_t *old = (const uint8_t *)atomic_load(&board->words[WORD_ROOM]);
    expect(old[0] == FILL && old[LARGE - 1] == FILL);
    done_with(end, 1);
    ask_sum(end);
    expect(end->mesh->flights.n_quarantined == 0 && heap_used(end) == 0);
}

static void a_room_that_a_dead_shard_read_in_place_is_kept_until_that_is_quiet(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_is_run_again_in_place);
    rig_wait_word(&rig, WORD_RUNS, 1);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    rig_wait_word(&rig, WORD_STEP, 1);
    rig_quiet(&rig, 1);
    let_go(&rig, 1);
    end_case(&rig);
}

static void caller_that_dies_filling(struct rig_end *end)
{
    struct asking asking = new_asking(end, M_SUM, LARGE);

    begin(&asking);
    rig_poll_until(end, has_room, &asking);
    atomic_store(&board->words[WORD_ROOM], (uintptr_t)asking.room.data);
    done_with(end, 1);
}

static void caller_after_one_that_died_filling(struct rig_end *end)
{
    uint8_t *old = (uint8_t *)atomic_load(&board->words[WORD_ROOM]);

    expect(end->mesh->flights.n_quarantined * SEGMENT_PAGE >= LARGE);
    memset(old, 1, LARGE); /* as a disk read of the dead one's might */
    for (int i = 0; i < 6; i++)
        ask_sum(end);
    expect(old[0] == 1 && old[LARGE - 1] == 1);
    done_with(end, 2);
    ask_sum(end);
    expect(end->mesh->flights.n_quarantined == 0 && heap_used(end) == 0);
}

static void a_room_that_is_being_filled_at_death_is_not_used_before_that_is_quiet(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_dies_filling);
    rig_wait_word(&rig, WORD_STEP, 1);
    rig_kill(&rig, 0, false);
    rig_fork(&rig, 0, caller_after_one_that_died_filling);
    rig_wait_word(&rig, WORD_STEP, 2);
    rig_quiet(&rig, 0);
    let_go(&rig, 2);
    end_case(&rig);
}

/* ---- lies ---- */

/* X(offset, length): no buffer of heap, which is that of peer; next is another one's. */
#define LIES(X)                                              \
    X(heap, 10)                                              \
    X(heap, SEGMENT_PAYLOAD_MAX + 1)                         \
    X(heap, UINT32_MAX)                                      \
    X(heap - 1, LARGE)                                       \
    X(heap + seg->geometry.heap_bytes - SEGMENT_PAGE, LARGE) \
    X(segment_heap_off(seg, 2), LARGE)                       \
    X(UINT64_MAX, LARGE)                                     \
    X(UINT64_MAX - LARGE + 1, LARGE)                         \
    X(0, SEGMENT_INLINE_BYTES + 1)

struct lie {
    uint64_t off;
    uint32_t len;
};

#define X(off, len) +1
enum { N_LIES = LIES(X) };
#undef X

static void lies_of(const struct segment *seg, uint32_t peer, struct lie ret[N_LIES])
{
    uint64_t heap = segment_heap_off(seg, peer);
    const struct lie lies[] = {
#define X(off, len) {off, (uint32_t)(len)},
        LIES(X)
#undef X
    };

    memcpy(ret, lies, sizeof(lies));
}

static bool is_free(void *opaque)
{
    return word_state(((struct call_slot *)opaque)->word) == CALL_FREE;
}

/* A call as mesh_call_start() makes it, but for where it says that its arguments are. */
static void send_lie(struct rig_end *end, const struct lie *lie, uint32_t method)
{
    struct link *link = &end->mesh->links[1];
    struct call_slot *slot = &link->calls[0];
    uint64_t generation = word_generation(slot->word) + 1;

    slot->args_off = lie->off;
    slot->args_len = lie->len;
    slot->method = method;
    slot->deadline_ns = INT64_MAX;
    atomic_store_release(&slot->word, call_word(generation, CALL_WAITING));
    link->stats->calls_submitted++;
    mesh_push(end->mesh, 1,
        &(struct message){.kind = MESSAGE_CALL,
            .generation = generation,
            .method = method,
            .off = lie->off,
            .len = lie->len,
            .deadline_ns = INT64_MAX});
    rig_poll_until(end, is_free, slot);
}

static void caller_that_lies(struct rig_end *end)
{
    static const uint32_t asked[] = {M_SUM, M_SUM_IN_PLACE, M_TRAVEL};
    struct lie lies[N_LIES];

    lies_of(&end->rig->seg, 0, lies);
    end->mesh->links[1].classes[LANE_NORMAL][0].free_slots =
        end->mesh->links[1].out[0].next_free; /* slot 0 is ours */
    for (size_t i = 0; i < N_LIES; i++)
        for (size_t j = 0; j < sizeof(asked) / sizeof(asked[0]); j++)
            send_lie(end, &lies[i], asked[j]);
    expect(atomic_load(&board->words[WORD_RUNS]) == 0);
    ask_sum(end);
}

static void a_caller_that_lies_about_its_arguments_is_refused(void **state)
{
    struct rig rig;

    (void)state;
    run_case(&rig, caller_that_lies);
    end_case(&rig);
}

/* Answers the first call that it finds each time with the next lie, and serves none. */
static void answer_with_lies(struct rig_end *end)
{
    const struct segment *seg = &end->rig->seg;
    struct doorbell bell = {&segment_bell(seg, 0)->words, end->rig->bells[0]};
    struct lie lies[N_LIES];

    lies_of(seg, 1, lies);
    for (uint32_t i = 0; i < N_LIES; i++) {
        uint64_t word = 0;
        uint32_t slot = 0;

        for (slot = 0; word_state(word) != CALL_WAITING;
             slot = (slot + 1) % end->mesh->links[0].n_in)
            word = atomic_load_acquire(&end->mesh->links[0].peer_calls[slot].word);
        slot = (slot + end->mesh->links[0].n_in - 1) % end->mesh->links[0].n_in;
        mesh_push(end->mesh, 0,
            &(struct message){.kind = MESSAGE_ANSWER,
                .slot = slot,
                .generation = word_generation(word),
                .end = CALL_END_DONE,
                .off = lies[i].off,
                .len = lies[i].len});
        while (atomic_load_acquire(&end->mesh->links[0].peer_calls[slot].word) == word) {
            atomic_or_seq(&segment_bitmap(seg, 0)->senders[0], UINT64_C(1) << 1);
            doorbell_knock(&bell);
            sched_yield();
        }
    }
    while (true)
        pause();
}

static void caller_of_a_liar(struct rig_end *end)
{
    for (uint32_t i = 0; i < N_LIES; i++) {
        struct asking asking = new_asking(end, M_SUM, LARGE);

        ask(end, &asking);
        /* What lies in the liar's heap is its answer, however short. */
        expect(i == 0 ? asking.status == 0 && asking.answer.len == 10
                      : asking.status == -EPROTO && asking.answer.end == CALL_END_FAILED);
        call_answer_deinit(&asking.answer);
    }
    expect(heap_used(end) == 0);
    done_with(end, 2);
    ask_sum(end);
}

static void a_callee_that_lies_about_its_answers_is_found_out(void **state)
{
    struct rig rig;

    (void)state;
    open_case(&rig);
    rig_fork(&rig, 1, answer_with_lies);
    rig_fork(&rig, 0, caller_of_a_liar);
    rig_wait_word(&rig, WORD_STEP, 2);
    rig_kill(&rig, 1, false);
    rig_fork(&rig, 1, rig_serve);
    let_go(&rig, 2);
    end_case(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_filled_in_place_is_copied_by_nobody),
        cmocka_unit_test(less_than_the_room_may_be_sent_or_nothing),
        cmocka_unit_test(a_method_calls_others_with_what_it_filled_in_place),
        cmocka_unit_test(a_room_sent_after_its_deadline_is_given_back_and_nothing_runs),
        cmocka_unit_test(a_room_that_the_callee_may_read_still_outlives_its_call),
        cmocka_unit_test(a_room_for_a_shard_that_is_given_up_meanwhile_is_not_sent),
        cmocka_unit_test(a_call_is_run_again_with_the_bytes_that_were_filled_in),
        cmocka_unit_test(a_room_that_a_dead_shard_read_in_place_is_kept_until_that_is_quiet),
        cmocka_unit_test(a_room_that_is_being_filled_at_death_is_not_used_before_that_is_quiet),
        cmocka_unit_test(a_caller_that_lies_about_its_arguments_is_refused),
        cmocka_unit_test(a_callee_that_lies_about_its_answers_is_found_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
