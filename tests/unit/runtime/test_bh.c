/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/loop_fixture.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/time.h>

#include "tests/unit/runtime/death.h"

#define N_ORDER 5

static void scheduled_bh_runs_once_and_is_progress(void **state)
{
    struct loop *loop = *state;
    int calls = 0;
    BH *bh = aio_bh_new(loop->ctx, count_call, &calls);

    bh_schedule(bh);
    bh_schedule(bh);
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(calls, 1);
    assert_int_equal(bh_flags(bh), 0);
    assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(calls, 1);
    bh_delete(bh);
}

static void oneshot_runs_once_and_frees_itself(void **state)
{
    struct loop *loop = *state;
    int calls = 0;

    assert_int_equal(aio_bh_schedule_oneshot(loop->ctx, count_call, &calls), 0);
    assert_true(aio_poll(loop->ctx, true));
    assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(calls, 1);
}

/* ---- order ---- */

struct order {
    int seen[2 * N_ORDER];
    int n;
    AioContext *ctx;
};

struct ordered {
    struct order *order;
    int number;
};

static void note_order(void *opaque)
{
    struct ordered *o = opaque;

    o->order->seen[o->order->n++] = o->number;
}

static void bhs_run_first_in_first_out(void **state)
{
    struct loop *loop = *state;
    struct order order = {.n = 0};
    struct ordered items[N_ORDER];

    for (int i = 0; i < N_ORDER; i++) {
        items[i] = (struct ordered){&order, i};
        aio_bh_schedule_oneshot(loop->ctx, note_order, &items[i]);
    }
    aio_poll(loop->ctx, true);
    assert_int_equal(order.n, N_ORDER);
    for (int i = 0; i < N_ORDER; i++)
        assert_int_equal(order.seen[i], i);
}

static void *schedule_one(void *opaque)
{
    struct ordered *item = opaque;

    aio_bh_schedule_oneshot(item->order->ctx, note_order, item);
    return NULL;
}

/* One thread after the other: the queue that the loop keeps for itself must not overtake. */
static void order_holds_between_threads_that_take_turns(void **state)
{
    struct loop *loop = *state;
    struct order order = {.ctx = loop->ctx};
    struct ordered items[N_ORDER];

    for (int i = 0; i < N_ORDER; i++) {
        items[i] = (struct ordered){&order, i};
        if (i % 2 == 0) {
            aio_bh_schedule_oneshot(loop->ctx, note_order, &items[i]);
        } else {
            pthread_t thread;

            assert_int_equal(pthread_create(&thread, NULL, schedule_one, &items[i]), 0);
            pthread_join(thread, NULL);
        }
    }
    aio_poll(loop->ctx, true);
    assert_int_equal(order.n, N_ORDER);
    for (int i = 0; i < N_ORDER; i++)
        assert_int_equal(order.seen[i], i);
}

struct rescheduler {
    BH *bh;
    int calls;
};

static void call_and_schedule_again(void *opaque)
{
    struct rescheduler *r = opaque;

    r->calls++;
    bh_schedule(r->bh);
}

static void what_is_scheduled_during_a_poll_waits_for_the_next(void **state)
{
    struct loop *loop = *state;
    struct rescheduler r = {.calls = 0};

    r.bh = aio_bh_new(loop->ctx, call_and_schedule_again, &r);
    bh_schedule(r.bh);
    for (int turn = 1; turn <= 3; turn++) {
        assert_true(aio_poll(loop->ctx, true));
        assert_int_equal(r.calls, turn);
    }
    bh_delete(r.bh);
}

struct nest {
    AioContext *ctx;
    struct ordered *late;
};

static void schedule_and_poll(void *opaque)
{
    struct nest *nest = opaque;

    aio_bh_schedule_oneshot(nest->ctx, note_order, nest->late);
    aio_poll(nest->ctx, true);
}

static void nested_poll_runs_what_the_outer_one_left_then_its_own(void **state)
{
    struct loop *loop = *state;
    struct order order = {.n = 0};
    struct ordered left[2] = {{&order, 1}, {&order, 2}};
    struct ordered late = {&order, 3};
    struct nest nest = {loop->ctx, &late};

    aio_bh_schedule_oneshot(loop->ctx, schedule_and_poll, &nest);
    aio_bh_schedule_oneshot(loop->ctx, note_order, &left[0]);
    aio_bh_schedule_oneshot(loop->ctx, note_order, &left[1]);
    aio_poll(loop->ctx, true);
    assert_int_equal(order.n, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(order.seen[i], i + 1);
}

/* ---- cancel, delete ---- */

/* Each sequence of four operations, outside and inside of the callback: what the last words of it
 * ask for happens, once, and nothing else. */
enum op { OP_SCHEDULE, OP_IDLE, OP_CANCEL, OP_DELETE, N_OPS };

enum place { OUTSIDE, INSIDE, INSIDE_THEN_NESTED, N_PLACES };

struct script {
    AioContext *ctx;
    BH *bh;
    enum op ops[4];
    enum place place;
    int calls;
    int calls_inside; /* of the nested poll */
};

static void play(struct script *script)
{
    for (int i = 0; i < 4; i++) {
        switch (script->ops[i]) {
        case OP_SCHEDULE:
            bh_schedule(script->bh);
            break;
        case OP_IDLE:
            bh_schedule_idle(script->bh);
            break;
        case OP_CANCEL:
            bh_cancel(script->bh);
            break;
        default:
            bh_delete(script->bh);
        }
    }
}

static void run_script(void *opaque)
{
    struct script *script = opaque;

    script->calls++;
    if (script->place == OUTSIDE)
        return;
    bool nests = script->place == INSIDE_THEN_NESTED;

    script->place = OUTSIDE;
    script->calls = 0;
    play(script);
    if (nests)
        aio_poll(script->ctx, false); /* frees it, where it is deleted, in its own callback */
    script->calls_inside = script->calls;
}

static bool script_deletes(const struct script *script)
{
    for (int i = 0; i < 4; i++)
        if (script->ops[i] == OP_DELETE)
            return true;
    return false;
}

static int calls_expected(const struct script *script)
{
    bool wants = false;

    for (int i = 0; i < 4; i++) {
        wants = script->ops[i] == OP_SCHEDULE || script->ops[i] == OP_IDLE ||
                (wants && script->ops[i] != OP_CANCEL);
    }
    return wants && !script_deletes(script);
}

static void check_script(AioContext *ctx, unsigned code, enum place place)
{
    struct script script = {.ctx = ctx, .place = place};

    for (int i = 0; i < 4; i++, code /= N_OPS)
        script.ops[i] = (enum op)(code % N_OPS);
    script.bh = aio_bh_new(ctx, run_script, &script);
    if (place == OUTSIDE) {
        play(&script);
    } else {
        bh_schedule(script.bh);
        aio_poll(ctx, false);
        assert_int_equal(
            script.calls_inside, place == INSIDE_THEN_NESTED ? calls_expected(&script) : 0);
    }
    for (int turn = 0; turn < 2; turn++) {
        aio_poll(ctx, false);
        assert_int_equal(script.calls, calls_expected(&script));
    }
    if (!script_deletes(&script))
        bh_delete(script.bh);
}

static void each_sequence_of_operations_ends_as_its_last_words_say(void **state)
{
    struct loop *loop = *state;

    for (unsigned code = 0; code < N_OPS * N_OPS * N_OPS * N_OPS; code++)
        for (enum place place = 0; place < N_PLACES; place++)
            check_script(loop->ctx, code, place);
}

static void flags_tell_what_a_bh_is_asked_for(void **state)
{
    struct loop *loop = *state;
    int calls = 0;
    BH *bh = aio_bh_new(loop->ctx, count_call, &calls);

    assert_int_equal(bh_flags(bh), 0);
    bh_schedule_idle(bh);
    assert_int_equal(bh_flags(bh), BH_PENDING | BH_IDLE);
    bh_schedule(bh);
    assert_int_equal(bh_flags(bh), BH_PENDING | BH_IDLE | BH_SCHEDULED);
    bh_cancel(bh);
    assert_int_equal(bh_flags(bh), BH_PENDING);
    assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(bh_flags(bh), 0);
    bh_delete(bh);
    assert_int_equal(bh_flags(bh), BH_PENDING | BH_DELETED);
}

static void call_runs_it_at_once_and_leaves_it_scheduled(void **state)
{
    struct loop *loop = *state;
    int calls = 0;
    BH *bh = aio_bh_new(loop->ctx, count_call, &calls);

    bh_schedule(bh);
    aio_bh_call(bh);
    assert_int_equal(calls, 1);
    assert_true(aio_bh_poll(loop->ctx));
    assert_int_equal(calls, 2);
    assert_false(aio_bh_poll(loop->ctx));
    bh_delete(bh);
}

static void delete_of_null_does_nothing(void **state)
{
    bh_delete(NULL);
}

static void abandon_bh(void)
{
    AioContext *ctx;

    if (aio_context_new(NULL, &ctx) == 0) {
        aio_bh_schedule_oneshot_full(ctx, count_call, NULL, "the_abandoned_one");
        aio_context_unref(ctx);
    }
}

static void context_that_ends_with_a_queued_bh_aborts_and_names_it(void **state)
{
    assert_bug(abandon_bh, "bottom half the_abandoned_one");
}

static void forget_bh(void)
{
    AioContext *ctx;

    if (aio_context_new(NULL, &ctx) == 0) {
        aio_bh_new_full(ctx, count_call, NULL, "the_forgotten_one");
        aio_context_unref(ctx);
    }
}

static void context_that_ends_with_a_bh_never_scheduled_nor_deleted_aborts_too(void **state)
{
    assert_bug(forget_bh, "bottom half the_forgotten_one");
}

static void context_that_ends_with_a_deleted_bh_frees_it(void **state)
{
    struct loop *loop = *state;
    AioContext *ctx = new_context(loop->engine);
    int calls = 0;
    BH *bh = aio_bh_new(ctx, count_call, &calls);

    bh_schedule(bh);
    bh_delete(bh);
    aio_context_unref(ctx);
    assert_int_equal(calls, 0);
}

/* ---- idle ---- */

struct idler {
    BH *bh;
    int calls;
};

static void idle_again(void *opaque)
{
    struct idler *idler = opaque;

    idler->calls++;
    bh_schedule_idle(idler->bh);
}

static void idle_bh_is_no_progress(void **state)
{
    struct loop *loop = *state;
    int calls = 0;
    BH *bh = aio_bh_new(loop->ctx, count_call, &calls);

    bh_schedule_idle(bh);
    assert_false(aio_poll(loop->ctx, false));
    assert_int_equal(calls, 1);
    bh_delete(bh);
}

static void idle_bh_that_schedules_itself_lets_the_loop_sleep(void **state)
{
    struct loop *loop = *state;
    struct idler idler = {.calls = 0};
    int64_t begin_ns = aio_clock_ns();

    idler.bh = aio_bh_new(loop->ctx, idle_again, &idler);
    bh_schedule_idle(idler.bh);
    while (idler.calls < 10)
        assert_false(aio_poll(loop->ctx, true));
    /* Waits of 10 ms, of which a signal may cut some short, and no turn beside them. */
    assert_true(aio_clock_ns() - begin_ns >= 5 * 10 * LOOP_MS);
    assert_int_equal(
        loop->ctx->instruments.counters->sleeps, loop->ctx->instruments.counters->polls);
    bh_delete(idler.bh);
}

static void schedule_on_top_of_idle_is_urgent_and_progress(void **state)
{
    struct loop *loop = *state;
    int calls = 0;
    BH *bh = aio_bh_new(loop->ctx, count_call, &calls);

    bh_schedule_idle(bh);
    bh_schedule(bh);
    bh_schedule_idle(bh);
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(loop->ctx->instruments.counters->sleeps, 0);
    bh_delete(bh);
}

struct idle_there {
    AioContext *ctx;
    BH *bh;
};

static void *schedule_idle_when_asleep(void *opaque)
{
    struct idle_there *there = opaque;

    wait_for_sleep(there->ctx);
    bh_schedule_idle(there->bh);
    return NULL;
}

static void idle_bh_of_another_thread_wakes_a_sleeping_loop(void **state)
{
    struct loop *loop = *state;
    bool ran = false;
    BH *bh = aio_bh_new(loop->ctx, set_flag, &ran);
    struct idle_there there = {loop->ctx, bh};
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, schedule_idle_when_asleep, &there), 0);
    loop_until(loop, &ran);
    pthread_join(thread, NULL);
    bh_delete(bh);
}

/* ---- other threads, signals ---- */

#define N_POSTERS 4
#define N_POSTS   5000

struct post {
    BH *bh;
    uint64_t posted[N_POSTERS];
    uint64_t seen[N_POSTERS];
    bool all_seen;
};

struct poster {
    struct post *post;
    int number;
};

static void look_at_posts(void *opaque)
{
    struct post *post = opaque;
    uint64_t sum = 0;

    for (int i = 0; i < N_POSTERS; i++) {
        post->seen[i] = atomic_load_relaxed(&post->posted[i]);
        sum += post->seen[i];
    }
    post->all_seen = sum == N_POSTERS * N_POSTS;
    if (sum % 3 == 0 && !post->all_seen)
        bh_schedule(post->bh);
}

static void *post_thread(void *opaque)
{
    struct poster *poster = opaque;

    for (uint64_t i = 1; i <= N_POSTS; i++) {
        /* Relaxed: what orders it is the bottom half. */
        atomic_store_relaxed(&poster->post->posted[poster->number], i);
        bh_schedule(poster->post->bh);
    }
    return NULL;
}

static void no_schedule_of_any_thread_is_lost(void **state)
{
    struct loop *loop = *state;
    struct post post = {.all_seen = false};
    struct poster posters[N_POSTERS];
    pthread_t threads[N_POSTERS];

    post.bh = aio_bh_new(loop->ctx, look_at_posts, &post);
    for (int i = 0; i < N_POSTERS; i++) {
        posters[i] = (struct poster){&post, i};
        assert_int_equal(pthread_create(&threads[i], NULL, post_thread, &posters[i]), 0);
    }
    loop_until(loop, &post.all_seen);
    for (int i = 0; i < N_POSTERS; i++)
        pthread_join(threads[i], NULL);
    bh_delete(post.bh);
}

struct letter {
    uint64_t *sum; /* the loop's own */
    bool *all_came;
    uint64_t worth;
};

static void read_letter(void *opaque)
{
    struct letter *letter = opaque;

    *letter->sum += letter->worth;
    if (*letter->sum == N_POSTERS * (uint64_t)N_POSTS)
        set_flag(letter->all_came);
    free(letter);
}

struct writer {
    AioContext *ctx;
    uint64_t *sum;
    bool *all_came;
};

static void *write_letters(void *opaque)
{
    const struct writer *writer = opaque;

    for (int i = 0; i < N_POSTS; i++) {
        struct letter *letter = malloc(sizeof *letter);

        *letter = (struct letter){writer->sum, writer->all_came, 1};
        assert_int_equal(aio_bh_schedule_oneshot(writer->ctx, read_letter, letter), 0);
    }
    return NULL;
}

/* Each may have run, and be gone, before the call that scheduled it returns. */
static void oneshots_of_other_threads_each_run_once(void **state)
{
    struct loop *loop = *state;
    uint64_t sum = 0;
    bool all_came = false;
    struct writer writer = {loop->ctx, &sum, &all_came};
    pthread_t threads[N_POSTERS];

    for (int i = 0; i < N_POSTERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_letters, &writer), 0);
    loop_until(loop, &all_came);
    for (int i = 0; i < N_POSTERS; i++)
        pthread_join(threads[i], NULL);
    aio_poll(loop->ctx, false);
    assert_int_equal(sum, N_POSTERS * N_POSTS);
}

static bool is_eventfd_written(const AioContext *ctx)
{
    struct pollfd pfd = {.fd = ctx->bell.fd, .events = POLLIN};

    return poll(&pfd, 1, 0) == 1;
}

static void bh_of_the_loop_itself_costs_no_ring_and_no_empty_turn(void **state)
{
    struct loop *loop = *state;
    int calls = 0;
    BH *bh = aio_bh_new(loop->ctx, count_call, &calls);

    bh_schedule(bh);
    aio_bh_schedule_oneshot(loop->ctx, count_call, &calls);
    bh_schedule_idle(bh);
    assert_false(doorbell_is_rung(&loop->ctx->bell));
    assert_false(is_eventfd_written(loop->ctx));
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(calls, 2);
    bh_delete(bh);
    aio_poll(loop->ctx, false);
    /* Nothing is left that would keep the loop from sleeping. */
    assert_true(aio_compute_timeout(loop->ctx) != 0);
    assert_false(doorbell_is_rung(&loop->ctx->bell));
}

/* A thread's own signal handler between the last look and the wait. */
static void bh_scheduled_while_notify_me_is_up_rings_at_home_too(void **state)
{
    struct loop *loop = *state;
    int calls = 0;
    BH *bh = aio_bh_new(loop->ctx, count_call, &calls);

    assert_true(doorbell_prepare_sleep(&loop->ctx->bell));
    bh_schedule(bh);
    assert_true(is_eventfd_written(loop->ctx));
    doorbell_end_sleep(&loop->ctx->bell);
    assert_true(aio_poll(loop->ctx, true));
    bh_delete(bh);
}

/* A signal handler that interrupts a change of the loop's own queue takes the other list. */
static void bh_scheduled_within_a_change_of_the_loops_queue_is_run(void **state)
{
    struct loop *loop = *state;
    struct order order = {.ctx = loop->ctx};
    struct ordered items[3];

    for (int i = 0; i < 3; i++) {
        items[i] = (struct ordered){&order, i};
        loop->ctx->bh_own_busy = i == 1;
        aio_bh_schedule_oneshot(loop->ctx, note_order, &items[i]);
        assert_int_equal(loop->ctx->bh_list != NULL, i >= 1);
        loop->ctx->bh_own_busy = false;
    }
    assert_true(aio_poll(loop->ctx, true));
    assert_int_equal(order.n, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(order.seen[i], i);
}

static BH *signalled_bh; /* a handler is given nothing else */

static void on_alarm(int signal_number)
{
    bh_schedule(signalled_bh);
}

static void bh_scheduled_by_a_signal_handler_ends_the_wait(void **state)
{
    struct loop *loop = *state;
    struct sigaction old, action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct itimerval soon = {.it_value.tv_usec = 2000};

    for (int i = 0; i < 20; i++) {
        bool ran = false;

        signalled_bh = aio_bh_new(loop->ctx, set_flag, &ran);
        sigaction(SIGALRM, &action, &old);
        setitimer(ITIMER_REAL, &soon, NULL);
        loop_until(loop, &ran);
        sigaction(SIGALRM, &old, NULL);
        bh_delete(signalled_bh);
    }
}

int main(void)
{
    static const struct CMUnitTest bh[] = {
        LOOP_CASE(scheduled_bh_runs_once_and_is_progress),
        LOOP_CASE(oneshot_runs_once_and_frees_itself),
        LOOP_CASE(bhs_run_first_in_first_out),
        LOOP_CASE(order_holds_between_threads_that_take_turns),
        LOOP_CASE(what_is_scheduled_during_a_poll_waits_for_the_next),
        LOOP_CASE(nested_poll_runs_what_the_outer_one_left_then_its_own),
        LOOP_CASE(each_sequence_of_operations_ends_as_its_last_words_say),
        LOOP_CASE(flags_tell_what_a_bh_is_asked_for),
        LOOP_CASE(call_runs_it_at_once_and_leaves_it_scheduled),
        LOOP_CASE(delete_of_null_does_nothing),
        LOOP_CASE(context_that_ends_with_a_queued_bh_aborts_and_names_it),
        LOOP_CASE(context_that_ends_with_a_bh_never_scheduled_nor_deleted_aborts_too),
        LOOP_CASE(context_that_ends_with_a_deleted_bh_frees_it),
        LOOP_CASE(idle_bh_is_no_progress),
        LOOP_CASE(idle_bh_that_schedules_itself_lets_the_loop_sleep),
        LOOP_CASE(schedule_on_top_of_idle_is_urgent_and_progress),
        LOOP_CASE(idle_bh_of_another_thread_wakes_a_sleeping_loop),
        LOOP_CASE(no_schedule_of_any_thread_is_lost),
        LOOP_CASE(oneshots_of_other_threads_each_run_once),
        LOOP_CASE(bh_of_the_loop_itself_costs_no_ring_and_no_empty_turn),
        LOOP_CASE(bh_scheduled_while_notify_me_is_up_rings_at_home_too),
        LOOP_CASE(bh_scheduled_within_a_change_of_the_loops_queue_is_run),
        LOOP_CASE(bh_scheduled_by_a_signal_handler_ends_the_wait),
    };

    return LOOP_RUN(bh);
}
