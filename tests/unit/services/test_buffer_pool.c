/* SPDX-License-Identifier: MIT */
#include "services/buffer_pool.h"

#include "tests/unit/services/services_fixture.h"

enum { N = 8 };

struct taker {
    struct buffer_pool *pool;
    void *buffer;
    uint32_t *n_taken;
    uint32_t turn; /* when it got its buffer */
};

static void take(void *opaque)
{
    struct taker *taker = opaque;
    taker->buffer = buffer_pool_take_co(taker->pool);
    taker->turn = ++*taker->n_taken;
}

static void enter_takers(struct taker *takers, int n, struct buffer_pool *pool, uint32_t *n_taken)
{
    for (int i = 0; i < n; i++) {
        takers[i] = (struct taker){.pool = pool, .n_taken = n_taken};
        coroutine_enter(coroutine_create(take, &takers[i]));
    }
}

static void poll_until(struct fixture *f, const uint32_t *value, uint32_t wanted)
{
    int64_t deadline_ns = aio_clock_ns() + FIXTURE_DEADLINE_NS;
    while (*value < wanted) {
        assert_true(aio_clock_ns() < deadline_ns);
        aio_poll(f->ctx, false);
    }
}

static void no_more_than_the_limit_are_out_and_the_rest_wait_in_line(void **state)
{
    struct taker takers[N];
    struct buffer_pool pool;
    uint32_t n_taken = 0;
    buffer_pool_init(&pool, 4096, 3);
    enter_takers(takers, N, &pool, &n_taken);
    assert_int_equal(n_taken, 3);
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(takers[i].turn, i + 1);
        buffer_pool_put(&pool, takers[i].buffer);
        poll_until(*state, &n_taken, i + 4 < N ? i + 4 : N);
    }
    buffer_pool_deinit(&pool);
}

static void who_comes_later_does_not_overtake_who_was_woken(void **state)
{
    struct taker first;
    struct taker waiting;
    struct taker late;
    struct buffer_pool pool;
    uint32_t n_taken = 0;
    buffer_pool_init(&pool, 4096, 1);
    enter_takers(&first, 1, &pool, &n_taken);
    enter_takers(&waiting, 1, &pool, &n_taken);
    buffer_pool_put(&pool, first.buffer); /* wakes the waiting one, which has not run yet */
    enter_takers(&late, 1, &pool, &n_taken);
    poll_until(*state, &n_taken, 2);
    assert_int_equal(waiting.turn, 2);
    buffer_pool_put(&pool, waiting.buffer);
    poll_until(*state, &n_taken, 3);
    buffer_pool_put(&pool, late.buffer);
    buffer_pool_deinit(&pool);
}

static void buffer_put_back_last_is_taken_first(void **state)
{
    struct taker takers[3];
    struct buffer_pool pool;
    uint32_t n_taken = 0;
    buffer_pool_init(&pool, 4096, 4);
    enter_takers(takers, 2, &pool, &n_taken);
    buffer_pool_put(&pool, takers[0].buffer);
    buffer_pool_put(&pool, takers[1].buffer);
    enter_takers(&takers[2], 1, &pool, &n_taken);
    assert_ptr_equal(takers[2].buffer, takers[1].buffer);
    buffer_pool_put(&pool, takers[2].buffer);
    buffer_pool_put(&pool, NULL);
    buffer_pool_deinit(&pool);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        FIXTURE_CASE(no_more_than_the_limit_are_out_and_the_rest_wait_in_line),
        FIXTURE_CASE(who_comes_later_does_not_overtake_who_was_woken),
        FIXTURE_CASE(buffer_put_back_last_is_taken_first),
    };
    return FIXTURE_RUN(cases);
}
