/* SPDX-License-Identifier: MIT */
#include "runtime/ring.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define N_SLOTS 16
#define N_WORDS (RING_PAYLOAD_BYTES / sizeof(uint64_t))
#define N_PASS  200000

/* A ring in memory that two processes may share, laid out by writer. */
struct memory {
    struct ring_slot slots[N_SLOTS];
    uint64_t tail __attribute__((aligned(64)));
    uint64_t head __attribute__((aligned(64)));
};

struct fixture {
    struct memory *m;
    struct ring_tx tx;
    struct ring_rx rx;
};

static void start_tx(struct fixture *f)
{
    ring_tx_init(&f->tx, f->m->slots, &f->m->tail, &f->m->head, N_SLOTS);
}

static void start_rx(struct fixture *f)
{
    ring_rx_init(&f->rx, f->m->slots, &f->m->head, N_SLOTS);
}

static int setup(void **state)
{
    static struct fixture fixture;

    fixture.m =
        mmap(NULL, sizeof *fixture.m, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(fixture.m, MAP_FAILED);
    start_tx(&fixture);
    start_rx(&fixture);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    munmap(f->m, sizeof *f->m);
    return 0;
}

/* A payload whose every word tells its number, so that half a slot shows. */
static bool push_number(struct ring_tx *tx, uint64_t number)
{
    uint64_t words[N_WORDS];

    for (size_t i = 0; i < N_WORDS; i++)
        words[i] = number + i;
    return ring_push(tx, words);
}

static uint64_t number_of(const uint64_t *words)
{
    for (size_t i = 0; i < N_WORDS; i++)
        assert_int_equal(words[i], words[0] + i);
    return words[0];
}

static void assert_pops(struct fixture *f, uint64_t number)
{
    uint64_t words[N_WORDS];

    assert_true(ring_pop(&f->rx, words));
    assert_int_equal(number_of(words), number);
}

static void assert_empty(struct fixture *f)
{
    uint64_t words[N_WORDS];

    assert_false(ring_pop(&f->rx, words));
}

static void fill(struct fixture *f, uint64_t from)
{
    for (uint64_t i = 0; i < N_SLOTS; i++)
        assert_true(push_number(&f->tx, from + i));
}

static void zero_bytes_are_the_empty_ring(void **state)
{
    struct fixture *f = *state;

    assert_empty(f);
    assert_int_equal(ring_depth(&f->m->tail, &f->m->head, N_SLOTS), 0);
}

static void slots_come_out_in_order_around_the_end(void **state)
{
    struct fixture *f = *state;

    for (uint64_t i = 0; i < 10 * N_SLOTS; i += 3) {
        for (uint64_t k = 0; k < 3; k++)
            assert_true(push_number(&f->tx, i + k));
        for (uint64_t k = 0; k < 3; k++)
            assert_pops(f, i + k);
        assert_empty(f);
    }
}

static void full_ring_refuses_push_and_keeps_old_slots(void **state)
{
    struct fixture *f = *state;

    fill(f, 100);
    assert_false(push_number(&f->tx, 999));
    assert_int_equal(ring_depth(&f->m->tail, &f->m->head, N_SLOTS), N_SLOTS);
    for (uint64_t i = 0; i < N_SLOTS; i++)
        assert_pops(f, 100 + i);
    assert_empty(f);
}

static void freed_slot_can_be_pushed_again(void **state)
{
    struct fixture *f = *state;

    fill(f, 0);
    assert_pops(f, 0);
    assert_true(push_number(&f->tx, N_SLOTS));
    assert_false(push_number(&f->tx, 999));
}

static void peek_leaves_the_slot_until_advance(void **state)
{
    struct fixture *f = *state;
    uint64_t words[N_WORDS];

    fill(f, 0);
    assert_true(ring_peek(&f->rx, words));
    assert_false(push_number(&f->tx, 999));
    assert_true(ring_peek(&f->rx, words));
    assert_int_equal(number_of(words), 0);
    ring_advance(&f->rx);
    assert_true(push_number(&f->tx, N_SLOTS));
    assert_pops(f, 1);
}

static void depth_makes_sense_whatever_the_words_hold(void **state)
{
    static const uint64_t values[] = {0, 1, N_SLOTS, N_SLOTS + 1, 1ULL << 63, UINT64_MAX};
    size_t n = sizeof values / sizeof values[0];

    for (size_t i = 0; i < n * n; i++)
        assert_in_range(ring_depth(&values[i / n], &values[i % n], N_SLOTS), 0, N_SLOTS);
}

static void producer_overwrites_nothing_for_a_head_that_makes_no_sense(void **state)
{
    struct fixture *f = *state;
    static const uint64_t heads[] = {N_SLOTS + 1, 1ULL << 40, UINT64_MAX};

    fill(f, 0);
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        f->m->head = heads[i];
        assert_false(push_number(&f->tx, 999));
    }
    f->m->head = 0;
    for (uint64_t i = 0; i < N_SLOTS; i++)
        assert_pops(f, i);
}

static void head_that_goes_back_takes_no_room_away(void **state)
{
    struct fixture *f = *state;

    fill(f, 0);
    for (uint64_t i = 0; i < N_SLOTS; i++)
        assert_pops(f, i);
    fill(f, N_SLOTS);
    f->m->head = 3; /* N_SLOTS, as known by now */
    assert_false(push_number(&f->tx, 999));
    f->m->head = N_SLOTS;
    assert_pops(f, N_SLOTS);
}

static void replacement_counts_a_slot_published_past_a_stale_tail(void **state)
{
    struct fixture *f = *state;

    push_number(&f->tx, 0);
    push_number(&f->tx, 1);
    f->m->tail = 1; /* died between slot and tail */
    start_tx(f);
    assert_int_equal(f->m->tail, 2);
    assert_true(push_number(&f->tx, 2));
    for (uint64_t i = 0; i < 3; i++)
        assert_pops(f, i);
    assert_empty(f);
}

static void replacement_finds_a_consumer_ahead_of_the_stale_tail(void **state)
{
    struct fixture *f = *state;

    push_number(&f->tx, 0);
    f->m->tail = 0;
    assert_pops(f, 0);
    start_tx(f);
    fill(f, 1);
    assert_false(push_number(&f->tx, 999));
    assert_pops(f, 1);
}

static void replacement_writes_over_half_a_slot(void **state)
{
    struct fixture *f = *state;

    push_number(&f->tx, 0);
    memset(f->m->slots[1].payload, 0xee, RING_PAYLOAD_BYTES / 2);
    start_tx(f);
    assert_pops(f, 0);
    assert_empty(f);
    assert_true(push_number(&f->tx, 1));
    assert_pops(f, 1);
}

static void replacement_of_a_full_ring_s_producer_finds_it_full(void **state)
{
    struct fixture *f = *state;

    fill(f, 0);
    f->m->tail--;
    start_tx(f);
    assert_false(push_number(&f->tx, 999));
    f->m->head = 1ULL << 50;
    start_tx(f);
    assert_false(push_number(&f->tx, 999));
}

/* Hit by a stray pointer of its own. */
static void replacement_of_a_producer_whose_tail_makes_no_sense_goes_on_behind_what_is_there(
    void **state)
{
    static const uint64_t tails[] = {0, 1, 5, 7, 40, UINT64_C(1) << 63, UINT64_MAX};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
        for (uint64_t n = 0; n < 37; n++) {
            assert_true(push_number(&f->tx, n));
            assert_pops(f, n);
        }
        assert_true(push_number(&f->tx, 100));
        assert_true(push_number(&f->tx, 101));
        f->m->tail = tails[i];
        start_tx(f);
        assert_true(push_number(&f->tx, 102));
        for (uint64_t n = 100; n < 103; n++)
            assert_pops(f, n);
        assert_empty(f);
    }
}

static void replacement_of_a_producer_voids_what_was_never_published(void **state)
{
    struct fixture *f = *state;

    for (uint64_t n = 0; n < 3; n++)
        assert_true(push_number(&f->tx, n));
    f->m->slots[5].seq = 6; /* and a tail to match */
    f->m->tail = 9;
    start_tx(f);
    for (uint64_t n = 0; n < 3; n++)
        assert_pops(f, n);
    assert_true(push_number(&f->tx, 3));
    assert_true(push_number(&f->tx, 4));
    assert_pops(f, 3);
    assert_pops(f, 4);
    assert_empty(f);
}

static void replacement_of_a_consumer_whose_head_makes_no_sense_hears_what_comes_later(void **state)
{
    static const uint64_t heads[] = {1, 39, 70, UINT64_C(1) << 63};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        for (uint64_t n = 0; n < 37; n++) {
            assert_true(push_number(&f->tx, n));
            assert_pops(f, n);
        }
        f->m->head = heads[i] + f->rx.next;
        start_rx(f);
        for (uint64_t n = 0; n < 2 * N_SLOTS; n++) {
            assert_true(push_number(&f->tx, n));
            assert_pops(f, n);
        }
    }
}

static void replacement_of_the_consumer_reads_again_what_was_not_freed(void **state)
{
    struct fixture *f = *state;
    uint64_t words[N_WORDS];

    push_number(&f->tx, 0);
    push_number(&f->tx, 1);
    assert_pops(f, 0);
    assert_true(ring_peek(&f->rx, words));
    start_rx(f);
    assert_pops(f, 1);
    assert_empty(f);
}

static void push_until(struct ring_tx *tx, uint64_t end)
{
    while (tx->next < end)
        if (!push_number(tx, tx->next))
            sched_yield();
}

static void *produce_thread(void *opaque)
{
    struct fixture *f = opaque;

    push_until(&f->tx, N_PASS);
    return NULL;
}

static void two_threads_pass_every_slot_whole_and_in_order(void **state)
{
    struct fixture *f = *state;
    uint64_t words[N_WORDS];
    pthread_t producer;

    assert_int_equal(pthread_create(&producer, NULL, produce_thread, f), 0);
    for (uint64_t i = 0; i < N_PASS;)
        if (ring_pop(&f->rx, words))
            assert_int_equal(number_of(words), i++);
        else
            sched_yield();
    pthread_join(producer, NULL);
    assert_empty(f);
}

/* A producer that goes on from wherever the one before was killed. */
static pid_t fork_producer(struct fixture *f)
{
    pid_t pid = fork();

    if (pid == 0) {
        start_tx(f);
        push_until(&f->tx, UINT64_MAX);
        _exit(0);
    }
    assert_true(pid > 0);
    return pid;
}

static void producers_killed_one_after_the_other_lose_and_double_nothing(void **state)
{
    struct fixture *f = *state;
    uint64_t words[N_WORDS];
    uint64_t expected = 0;

    for (int life = 0; life < 50; life++) {
        pid_t pid = fork_producer(f);
        uint64_t end = expected + 100 + (uint64_t)life * 37;

        while (expected < end)
            if (ring_pop(&f->rx, words))
                assert_int_equal(number_of(words), expected++);
            else
                sched_yield();
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
    }
    while (ring_pop(&f->rx, words))
        assert_int_equal(number_of(words), expected++);
    start_tx(f);
    assert_int_equal(f->tx.next, expected);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest cases[] = {
        CASE(zero_bytes_are_the_empty_ring),
        CASE(slots_come_out_in_order_around_the_end),
        CASE(full_ring_refuses_push_and_keeps_old_slots),
        CASE(freed_slot_can_be_pushed_again),
        CASE(peek_leaves_the_slot_until_advance),
        CASE(depth_makes_sense_whatever_the_words_hold),
        CASE(producer_overwrites_nothing_for_a_head_that_makes_no_sense),
        CASE(head_that_goes_back_takes_no_room_away),
        CASE(replacement_counts_a_slot_published_past_a_stale_tail),
        CASE(replacement_finds_a_consumer_ahead_of_the_stale_tail),
        CASE(replacement_writes_over_half_a_slot),
        CASE(replacement_of_a_full_ring_s_producer_finds_it_full),
        CASE(replacement_of_a_producer_whose_tail_makes_no_sense_goes_on_behind_what_is_there),
        CASE(replacement_of_a_producer_voids_what_was_never_published),
        CASE(replacement_of_a_consumer_whose_head_makes_no_sense_hears_what_comes_later),
        CASE(replacement_of_the_consumer_reads_again_what_was_not_freed),
        CASE(two_threads_pass_every_slot_whole_and_in_order),
        CASE(producers_killed_one_after_the_other_lose_and_double_nothing),
    };

    return cmocka_run_group_tests(cases, NULL, NULL);
}
