/* SPDX-License-Identifier: MIT */
/*
 * CoChannel: what comes out, in which order and for whom.
 */
#include "tests/unit/runtime/co_actor.h"

#include <errno.h>

#include "runtime/co_channel.h"

static CoChannel *channel;

static void new_channel(size_t capacity)
{
    assert_int_equal(co_channel_new(capacity, sizeof(uint64_t), &channel), 0);
}

/* An actor's arg is what it sends, or has received. */
static int coroutine_fn send_arg(struct actor *actor)
{
    return co_channel_send(channel, &actor->arg);
}

static int coroutine_fn recv_arg(struct actor *actor)
{
    return co_channel_recv(channel, &actor->arg);
}

static void begin_send(struct actor *actor, uint64_t value)
{
    actor->arg = value;
    actor_do(actor, send_arg);
}

static void begin_recv(struct actor *actor)
{
    actor->arg = 0;
    actor_do(actor, recv_arg);
}

static uint64_t received(struct actor *actor)
{
    begin_recv(actor);
    assert_false(actor->is_busy);
    assert_int_equal(actor->result, 0);
    return actor->arg;
}

static void elements_come_out_in_the_order_they_went_in(void **state)
{
    struct actor a;

    new_channel(3);
    actor_start(&a);
    for (uint64_t round = 0; round < 5; round++) {
        for (uint64_t i = 1; i <= 3; i++)
            begin_send(&a, 10 * round + i);
        assert_int_equal(co_channel_length(channel), 3);
        for (uint64_t i = 1; i <= 3; i++)
            assert_int_equal(received(&a), 10 * round + i);
        begin_send(&a, 7); /* so that the ring turns */
        assert_int_equal(received(&a), 7);
    }
    actor_stop(&a);
    co_channel_free(channel);
}

static void a_full_channel_holds_senders_in_their_order(void **state)
{
    struct actor a[3];

    new_channel(1);
    actors_start(a, 3);
    begin_send(&a[0], 1);
    begin_send(&a[0], 2);
    begin_send(&a[1], 3);
    assert_true(a[0].is_busy && a[1].is_busy);
    assert_int_equal(received(&a[2]), 1);
    assert_true(!a[0].is_busy && a[1].is_busy);
    assert_int_equal(received(&a[2]), 2);
    assert_int_equal(received(&a[2]), 3);
    assert_false(a[1].is_busy);
    actors_stop(a, 3);
    co_channel_free(channel);
}

static void an_empty_channel_holds_receivers_in_their_order(void **state)
{
    struct actor a[3];

    new_channel(1);
    actors_start(a, 3);
    begin_recv(&a[0]);
    begin_recv(&a[1]);
    begin_send(&a[2], 5);
    assert_true(!a[0].is_busy && a[1].is_busy);
    assert_int_equal(a[0].arg, 5);
    begin_send(&a[2], 6);
    assert_int_equal(a[1].arg, 6);
    assert_int_equal(co_channel_length(channel), 0);
    actors_stop(a, 3);
    co_channel_free(channel);
}

static void without_room_a_sender_waits_for_its_receiver(void **state)
{
    struct actor a[2];
    uint64_t value = 9;

    new_channel(0);
    actors_start(a, 2);
    assert_int_equal(co_channel_try_send(channel, &value), -EAGAIN);
    begin_send(&a[0], 4);
    assert_true(a[0].is_busy);
    assert_int_equal(received(&a[1]), 4);
    assert_false(a[0].is_busy);
    begin_recv(&a[1]);
    assert_int_equal(co_channel_try_send(channel, &value), 0);
    settle();
    assert_int_equal(a[1].arg, 9);
    actors_stop(a, 2);
    co_channel_free(channel);
}

static void trying_never_waits(void **state)
{
    uint64_t value = 1;

    new_channel(1);
    assert_int_equal(co_channel_try_recv(channel, &value), -EAGAIN);
    assert_int_equal(co_channel_try_send(channel, &value), 0);
    assert_int_equal(co_channel_try_send(channel, &value), -EAGAIN);
    value = 0;
    assert_int_equal(co_channel_try_recv(channel, &value), 0);
    assert_int_equal(value, 1);
    co_channel_free(channel);
}

static void closing_ends_waits_and_leaves_what_is_in_it(void **state)
{
    struct actor a[3];
    uint64_t value = 3;

    new_channel(1);
    actors_start(a, 3);
    begin_send(&a[0], 1);
    begin_send(&a[1], 2);
    assert_true(a[1].is_busy);
    co_channel_close(channel);
    co_channel_close(channel);
    settle();
    assert_int_equal(a[1].result, -EPIPE);
    assert_int_equal(co_channel_try_send(channel, &value), -EPIPE);
    assert_int_equal(received(&a[2]), 1);
    begin_recv(&a[2]);
    assert_int_equal(a[2].result, -EPIPE);
    co_channel_free(channel);

    new_channel(1);
    begin_recv(&a[0]);
    co_channel_close(channel);
    settle();
    assert_int_equal(a[0].result, -EPIPE);
    actors_stop(a, 3);
    co_channel_free(channel);
}

static void who_gives_up_has_sent_and_received_nothing(void **state)
{
    struct actor a[3];

    new_channel(1);
    actors_start(a, 3);
    begin_send(&a[0], 1);
    begin_send(&a[0], 2);
    begin_send(&a[1], 3);
    actor_cancel(&a[0]);
    assert_int_equal(a[0].result, -ECANCELED);
    assert_int_equal(received(&a[2]), 1);
    assert_int_equal(received(&a[2]), 3);

    begin_recv(&a[0]);
    actor_cancel(&a[0]);
    assert_int_equal(a[0].result, -ECANCELED);
    begin_send(&a[1], 4);
    assert_int_equal(received(&a[2]), 4);
    actors_stop(a, 3);
    co_channel_free(channel);
}

static void what_was_handed_over_before_the_cancel_came_is_kept(void **state)
{
    struct actor a;
    uint64_t value = 8;

    new_channel(1);
    actor_start(&a);
    begin_recv(&a);
    co_cancel(&a.token);
    assert_int_equal(co_channel_try_send(channel, &value), 0);
    actor_cancel(&a);
    assert_int_equal(a.result, 0);
    assert_int_equal(a.arg, 8);
    actor_stop(&a);
    co_channel_free(channel);
}

static void what_cannot_be_made_is_refused(void **state)
{
    assert_int_equal(co_channel_new(1, 0, &channel), -EINVAL);
    assert_int_equal(co_channel_new(SIZE_MAX / 2, 4, &channel), -ENOMEM);
    assert_int_equal(co_channel_new(SIZE_MAX, 1, &channel), -ENOMEM);
    co_channel_free(NULL);
}

/* ---- against a reference ---- */

#define N_ACTORS 5
#define N_STEPS  400
#define MOST     16

/* Values in the channel, then those of the senders that wait; and the receivers that wait. */
struct model {
    size_t capacity;
    uint64_t values[MOST];
    int senders[MOST]; /* who waits with it, -1 nobody */
    int n_values;
    int receivers[N_ACTORS];
    int n_receivers;
    bool waits[N_ACTORS];
    uint64_t got[N_ACTORS];
};

static int take_out(int *array, int *n, int place)
{
    int taken = array[place];

    --*n;
    memmove(&array[place], &array[place + 1], sizeof(int) * (size_t)(*n - place));
    return taken;
}

static uint64_t take_value(struct model *m, int place)
{
    uint64_t value = m->values[place];
    int n = m->n_values;

    memmove(&m->values[place], &m->values[place + 1], sizeof *m->values * (size_t)(n - 1 - place));
    take_out(m->senders, &m->n_values, place);
    return value;
}

/* Who had to wait for room and has it now is free. */
static void model_free_senders(struct model *m)
{
    for (int i = 0; i < m->n_values && (size_t)i < m->capacity; i++) {
        if (m->senders[i] >= 0)
            m->waits[m->senders[i]] = false;
        m->senders[i] = -1;
    }
}

static void model_send(struct model *m, int id, uint64_t value)
{
    if (m->n_receivers > 0) {
        int receiver = take_out(m->receivers, &m->n_receivers, 0);

        m->got[receiver] = value;
        m->waits[receiver] = false;
        return;
    }
    m->waits[id] = true;
    m->senders[m->n_values] = id;
    m->values[m->n_values++] = value;
    model_free_senders(m);
}

static void model_recv(struct model *m, int id)
{
    m->got[id] = 0;
    if (m->n_values > 0) {
        if (m->senders[0] >= 0)
            m->waits[m->senders[0]] = false;
        m->got[id] = take_value(m, 0);
        model_free_senders(m);
    } else {
        m->waits[id] = true;
        m->receivers[m->n_receivers++] = id;
    }
}

static void model_cancel(struct model *m, int id)
{
    m->waits[id] = false;
    for (int i = 0; i < m->n_values; i++)
        if (m->senders[i] == id)
            take_value(m, i);
    for (int i = 0; i < m->n_receivers; i++)
        if (m->receivers[i] == id)
            take_out(m->receivers, &m->n_receivers, i);
}

static void step(struct chance *chance, struct model *m, struct actor *actor, uint64_t value)
{
    uint64_t die = chance_below(chance, 8);

    if (m->waits[actor->id]) {
        if (die < 6)
            return;
        model_cancel(m, actor->id);
        actor_cancel(actor);
        assert_model(*chance, actor->result == -ECANCELED);
    } else if (die < 4) {
        m->got[actor->id] = value;
        model_send(m, actor->id, value);
        begin_send(actor, value);
    } else {
        model_recv(m, actor->id);
        begin_recv(actor);
    }
}

static void check(const struct chance *chance, const struct model *m, const struct actor *actors)
{
    size_t n = (size_t)m->n_values;

    for (int i = 0; i < N_ACTORS; i++) {
        assert_model(*chance, actors[i].is_busy == m->waits[i]);
        assert_model(*chance, actors[i].arg == m->got[i]);
    }
    assert_model(*chance, co_channel_length(channel) == (n < m->capacity ? n : m->capacity));
}

static void random_steps_end_as_the_reference_says(void **state)
{
    struct actor actors[N_ACTORS];

    for_seeds(chance, 40)
    {
        struct model m = {.capacity = chance.seed % 4};

        new_channel(m.capacity);
        for (int i = 0; i < N_ACTORS; i++)
            actors[i].arg = 0;
        actors_start(actors, N_ACTORS);
        for (uint64_t i = 0; i < N_STEPS; i++) {
            step(&chance, &m, &actors[chance_below(&chance, N_ACTORS)], i + 1);
            check(&chance, &m, actors);
        }
        co_channel_close(channel);
        settle();
        actors_stop(actors, N_ACTORS);
        co_channel_free(channel);
    }
}

/* ---- between threads ---- */

#define N_VALUES 400 /* by each sender */
#define N_ALL    (N_THREADS * N_COROUTINES * N_VALUES)

static uint8_t n_times[N_ALL]; /* each value was received */
static int n_sent;
static int n_senders;
static int n_disordered;

static void coroutine_fn send_all(uint64_t sender, struct chance *chance)
{
    for (uint64_t i = 0; i < N_VALUES;) {
        uint64_t value = sender * N_VALUES + i;
        CoScope scope;

        co_scope_begin(&scope, NULL, aio_clock_ns() + (int64_t)chance_below(chance, 200000));
        int r = co_channel_send(channel, &value);
        co_scope_end(&scope);
        if (r == 0)
            atomic_add_seq(&n_sent, 1);
        i += r == 0;
    }
    if (atomic_add_seq(&n_senders, -1) == 1)
        co_channel_close(channel);
}

static void coroutine_fn recv_all(struct chance *chance)
{
    uint64_t last[N_THREADS * N_COROUTINES] = {0};

    for (;;) {
        uint64_t value;
        CoScope scope;

        co_scope_begin(&scope, NULL, aio_clock_ns() + (int64_t)chance_below(chance, 200000));
        int r = co_channel_recv(channel, &value);
        co_scope_end(&scope);
        if (r == -EPIPE)
            return;
        if (r < 0)
            continue;
        atomic_add_seq(&n_times[value], 1);
        if (value + 1 <= last[value / N_VALUES])
            atomic_add_seq(&n_disordered, 1);
        last[value / N_VALUES] = value + 1;
    }
}

static void coroutine_fn send_or_receive(void *opaque)
{
    int n = number();
    struct chance chance = {.state = (uint64_t)n + 1};

    if (n % 2)
        recv_all(&chance);
    else
        send_all((uint64_t)n, &chance);
    thread_done();
}

static void between_threads_each_element_arrives_once_and_in_order(void **state)
{
    memset(n_times, 0, sizeof n_times);
    n_sent = n_disordered = 0;
    n_senders = N_THREADS * N_COROUTINES / 2;
    new_channel(4);
    run_in_threads(send_or_receive, NULL);
    int n_received = 0;
    for (int i = 0; i < N_ALL; i++) {
        assert_in_range(n_times[i], 0, 1);
        n_received += n_times[i];
    }
    assert_int_equal(n_received, n_sent);
    assert_int_equal(n_sent, N_THREADS * N_COROUTINES / 2 * N_VALUES);
    assert_int_equal(n_disordered, 0);
    co_channel_free(channel);
}

static void *send_from_a_plain_thread(void *opaque)
{
    for (uint64_t i = 0; i < 1000;)
        i += co_channel_try_send(channel, &i) == 0;
    co_channel_close(channel);
    return NULL;
}

static void coroutine_fn receive_in_order(void *opaque)
{
    uint64_t value;
    uint64_t *n = opaque;

    while (co_channel_recv(channel, &value) == 0)
        *n += value == *n;
    thread_done();
}

static void a_thread_without_a_loop_can_send(void **state)
{
    pthread_t thread;
    uint64_t n = 0;

    n_ended = 0;
    new_channel(16);
    start(receive_in_order, &n);
    assert_int_equal(pthread_create(&thread, NULL, send_from_a_plain_thread, NULL), 0);
    assert_true(poll_until(ctx, &n_ended, 1));
    pthread_join(thread, NULL);
    assert_int_equal(n, 1000);
    co_channel_free(channel);
}

static void free_one_in_use(void)
{
    struct actor a;

    new_channel(0);
    actor_start(&a);
    begin_recv(&a);
    co_channel_free(channel);
}

static void freeing_one_in_use_aborts(void **state)
{
    assert_bug(free_one_in_use, "a CoChannel ends while coroutine test waits in it");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest cases[] = {
        CASE(elements_come_out_in_the_order_they_went_in),
        CASE(a_full_channel_holds_senders_in_their_order),
        CASE(an_empty_channel_holds_receivers_in_their_order),
        CASE(without_room_a_sender_waits_for_its_receiver),
        CASE(trying_never_waits),
        CASE(closing_ends_waits_and_leaves_what_is_in_it),
        CASE(who_gives_up_has_sent_and_received_nothing),
        CASE(what_was_handed_over_before_the_cancel_came_is_kept),
        CASE(what_cannot_be_made_is_refused),
        CASE(random_steps_end_as_the_reference_says),
        CASE(between_threads_each_element_arrives_once_and_in_order),
        CASE(a_thread_without_a_loop_can_send),
        CASE(freeing_one_in_use_aborts),
    };

    take_arguments(argc, argv);
    return cmocka_run_group_tests(cases, NULL, NULL);
}
