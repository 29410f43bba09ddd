/* SPDX-License-Identifier: MIT */
/* Whose request a call is, and that services learn when that one has ended. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/atomic.h"
#include "shard/call.h"
#include "shard/client_end.h"
#include "tests/unit/shard/mesh_rig.h"

enum { WHO, KEEP, NEST };

enum word { WORD_GONE, WORD_ID, WORD_KIND, WORD_NUMBER };

static struct rig_board *board; /* one test at a time */

/* ---- the service, in shards 0 and 1 ---- */

static int coroutine_fn run_who(struct service_call *call)
{
    struct service_caller caller;

    service_caller(call, &caller);
    return service_reply(call, &caller, sizeof(caller));
}

static int coroutine_fn run_keep(struct service_call *call)
{
    return service_watch_caller(call);
}

/* Who asks in shard 0 for what this one was asked for. */
static int coroutine_fn run_nest(struct service_call *call)
{
    void *data = NULL;
    size_t len = 0;
    int r = service_call_shard(call, 0, "test.who", NULL, 0, &data, &len);

    if (r == 0)
        r = service_reply(call, data, len);
    free(data);
    return r;
}

static void on_gone(void *state, const struct service_caller *caller)
{
    (void)state;
    atomic_store(&board->words[WORD_ID], caller->id);
    atomic_store(&board->words[WORD_KIND], caller->kind);
    atomic_store(&board->words[WORD_NUMBER], caller->number);
    atomic_fetch_add(&board->words[WORD_GONE], 1);
}

static const struct service_method methods[] = {
    [WHO] = {.name = "who", .run = run_who, .help = "the caller"},
    [KEEP] = {.name = "keep", .run = run_keep, .help = "watches it"},
    [NEST] = {.name = "nest", .run = run_nest, .help = "the caller, as shard 0 sees it"},
};
static const struct service service = {.abi = SERVICE_ABI,
    .name = "test",
    .help = "",
    .methods = methods,
    .n_methods = 3,
    .gone = on_gone};

/* ---- the gateway is this thread ---- */

struct bench {
    struct rig rig;
    struct rig_end gateway;
};

static int set_up(void **state)
{
    struct bench *b = calloc(1, sizeof(*b));

    rig_open(&b->rig, 2, &service);
    board = b->rig.board;
    rig_thread(&b->rig, 0, rig_serve);
    rig_thread(&b->rig, 1, rig_serve);
    rig_begin(&b->rig, 2, &b->gateway);
    aio_context_set_current(b->gateway.ctx);
    *state = b;
    return 0;
}

static bool is_idle(void *mesh)
{
    return mesh_is_idle(mesh);
}

static int tear_down(void **state)
{
    struct bench *b = *state;

    rig_poll_until(&b->gateway, is_idle, b->gateway.mesh);
    aio_context_set_current(NULL);
    rig_finish(&b->gateway);
    rig_stop_all(&b->rig);
    rig_close(&b->rig);
    free(b);
    return 0;
}

static void attach(struct bench *b, uint32_t client, uint64_t generation)
{
    atomic_store_release(
        &segment_client(&b->rig.seg, client)->word, client_word(generation, CLIENT_ATTACHED));
}

static void end(struct bench *b, uint32_t client, uint64_t generation)
{
    atomic_store_release(
        &segment_client(&b->rig.seg, client)->word, client_word(generation, CLIENT_ENDING));
}

struct asked {
    struct mesh_call call;
    bool is_over;
    int status;
    struct service_caller caller;
};

static void on_answer(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct asked *asked = (struct asked *)call;

    asked->is_over = true;
    asked->status = answer->end == CALL_END_DONE ? 0 : answer->status;
    if (answer->len == sizeof(asked->caller))
        memcpy(&asked->caller, answer->data, answer->len);
}

static bool is_over(void *opaque)
{
    return ((struct asked *)opaque)->is_over;
}

static struct asked ask(struct bench *b, uint32_t shard, uint32_t method, uint64_t origin)
{
    struct asked asked = {.call = {.target = shard,
                              .method = method,
                              .deadline_ns = INT64_MAX,
                              .origin = origin,
                              .done = on_answer}};

    assert_int_equal(mesh_call_start(b->gateway.mesh, &asked.call), 0);
    rig_poll_until(&b->gateway, is_over, &asked);
    return asked;
}

static bool has_gone(void *opaque)
{
    return atomic_load(&board->words[WORD_GONE]) >= *(uint64_t *)opaque;
}

static void await_gone(struct bench *b, uint64_t n)
{
    rig_poll_until(&b->gateway, has_gone, &n);
}

/* ---- cases ---- */

static void a_method_knows_whose_request_it_serves_however_deep(void **state)
{
    struct bench *b = *state;
    uint64_t local = origin_of_client(1, 7, 3), other_home = origin_of_client(0, 7, 3);

    for (uint32_t method = WHO; method <= NEST; method += NEST) {
        struct asked asked = ask(b, 1, method, local);
        assert_int_equal(asked.caller.kind, SERVICE_CALLER_LOCAL);
        assert_int_equal(asked.caller.number, 7);
        assert_true(asked.caller.id == ask(b, 1, method, other_home).caller.id);
        asked = ask(b, 1, method, origin_of_session(9, 1));
        assert_int_equal(asked.caller.kind, SERVICE_CALLER_SESSION);
        assert_int_equal(asked.caller.number, 9);
        assert_true(asked.caller.id == ask(b, 1, method, origin_of_session(9, 2)).caller.id);
        assert_true(asked.caller.id != ask(b, 1, method, origin_of_session(10, 1)).caller.id);
        asked = ask(b, 1, method, 0);
        assert_int_equal(asked.caller.kind, SERVICE_CALLER_NONE);
        assert_int_equal(asked.caller.id, 0);
    }
}

static void a_service_is_told_once_in_each_shard_that_its_caller_has_ended(void **state)
{
    struct bench *b = *state;

    attach(b, 7, 3);
    attach(b, 8, 3);
    for (int i = 0; i < 3; i++)
        for (uint32_t shard = 0; shard < 2; shard++)
            for (uint32_t client = 7; client <= 8; client++)
                assert_int_equal(ask(b, shard, KEEP, origin_of_client(shard, client, 3)).status, 0);
    client_end_tell(b->gateway.mesh); /* of nobody */
    end(b, 7, 3);
    client_end_tell(b->gateway.mesh);
    await_gone(b, 2);
    assert_int_equal(atomic_load(&board->words[WORD_NUMBER]), 7);
    assert_int_equal(atomic_load(&board->words[WORD_KIND]), SERVICE_CALLER_LOCAL);
    assert_true(atomic_load(&board->words[WORD_ID]) == culprit_of(origin_of_client(0, 7, 3)));
    attach(b, 7, 4); /* the number's next */
    end(b, 8, 3);
    client_end_tell(b->gateway.mesh);
    await_gone(b, 4);
    assert_int_equal(atomic_load(&board->words[WORD_NUMBER]), 8);
    assert_int_equal(segment_part(&b->rig.seg, 0)->clients_watched, 0);
    assert_int_equal(segment_part(&b->rig.seg, 1)->clients_watched, 0);
}

static void nothing_is_kept_for_who_has_ended_or_is_nobody(void **state)
{
    struct bench *b = *state;

    assert_int_equal(ask(b, 0, KEEP, 0).status, -ENOENT);
    assert_int_equal(ask(b, 0, KEEP, origin_of_client(0, 7, 3)).status, -ECANCELED);
    attach(b, 7, 4);
    assert_int_equal(ask(b, 0, KEEP, origin_of_client(0, 7, 3)).status, -ECANCELED);
    assert_int_equal(ask(b, 0, KEEP, origin_of_client(0, UINT16_MAX, 3)).status, -ECANCELED);
    assert_int_equal(ask(b, 0, KEEP, origin_of_session(5, 1)).status, -ECANCELED);
    assert_int_equal(segment_part(&b->rig.seg, 0)->clients_watched, 0);
    assert_int_equal(ask(b, 0, KEEP, origin_of_client(0, 7, 4)).status, 0);
    end(b, 7, 4);
    assert_int_equal(ask(b, 0, KEEP, origin_of_client(0, 7, 4)).status, -ECANCELED);
    client_end_tell(b->gateway.mesh);
    await_gone(b, 1);
}

static void the_end_of_a_session_is_told_too(void **state)
{
    struct bench *b = *state;
    uint32_t *number = &segment_session(&b->rig.seg, 3)->number;

    atomic_store_release(number, 5u);
    assert_int_equal(ask(b, 1, KEEP, origin_of_session(5, 1)).status, 0);
    atomic_store_release(number, 0u);
    client_end_tell(b->gateway.mesh);
    await_gone(b, 1);
    assert_int_equal(atomic_load(&board->words[WORD_KIND]), SERVICE_CALLER_SESSION);
    assert_int_equal(atomic_load(&board->words[WORD_NUMBER]), 5);
}

static void each_of_many_ends_is_told(void **state)
{
    struct bench *b = *state;

    for (uint32_t client = 1; client <= 40; client++) {
        attach(b, client, 1);
        assert_int_equal(ask(b, client % 2, KEEP, origin_of_client(0, client, 1)).status, 0);
    }
    for (uint32_t client = 1; client <= 40; client++) {
        end(b, client, 1);
        client_end_tell(b->gateway.mesh);
    }
    await_gone(b, 40);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_method_knows_whose_request_it_serves_however_deep),
        CASE(a_service_is_told_once_in_each_shard_that_its_caller_has_ended),
        CASE(nothing_is_kept_for_who_has_ended_or_is_nobody),
        CASE(the_end_of_a_session_is_told_too),
        CASE(each_of_many_ends_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
