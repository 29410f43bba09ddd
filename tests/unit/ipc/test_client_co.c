/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "ipc/client/client_co.h"
#include "tests/unit/ipc/fake_plane.h"

#define COROUTINES 100u
#define ROUNDS     20u

struct caller {
    struct sherd_client_co *client;
    uint32_t number;
    uint32_t *n_left;
};

static void coroutine_fn call_again_and_again(void *opaque)
{
    struct caller *caller = opaque;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t sent[20] = {caller->number, i};
        struct sherd_request request = {
            .method = "t.echo", .args = sent, .args_len = i % 2 ? sizeof(sent) : 8};
        struct sherd_result result;
        assert_int_equal(sherd_client_co_call(caller->client, &request, &result), 0);
        assert_int_equal(result.end, SHERD_END_DONE);
        assert_int_equal(result.len, request.args_len);
        assert_memory_equal(result.data, sent, result.len);
        sherd_result_deinit(&result);
    }
    --*caller->n_left;
}

static void calls_of_many_coroutines_suspend_them_and_not_the_loop(void **state)
{
    struct fake_plane *fake = *state;
    struct sherd_client_options options = {
        .instance = "fake", .plane = SHERD_PLANE_DATA, .window = 16};
    struct sherd_client *client;
    struct sherd_client_co co;
    struct caller callers[COROUTINES];
    uint32_t n_left = COROUTINES;
    AioContext *ctx;

    fake_plane_start(fake);
    assert_int_equal(sherd_client_open(&options, &client, NULL), 0);
    assert_int_equal(aio_context_new(NULL, &ctx), 0);
    aio_context_set_current(ctx);
    assert_int_equal(sherd_client_co_attach(&co, client, ctx), 0);
    for (uint32_t i = 0; i < COROUTINES; i++) {
        callers[i] = (struct caller){&co, i, &n_left};
        aio_co_schedule(ctx, coroutine_create(call_again_and_again, &callers[i]));
    }
    while (n_left > 0)
        aio_poll(ctx, true);
    sherd_client_co_detach(&co);
    sherd_client_close(client);
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    fake_plane_stop(fake);
}

int main(void)
{
    static struct fake_plane fake;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(calls_of_many_coroutines_suspend_them_and_not_the_loop, &fake),
    };

    alarm(60);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
