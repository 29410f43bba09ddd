/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "shard/geometry.h"
#include "ipc/gateway/requests.h"
#include "ipc/gateway/session.h"

struct fixture {
    AioContext *ctx;
    struct segment segment;
    struct fates fates;
    struct sessions sessions;
    uint32_t n_abandoned;
    uint32_t n_room;
    struct connection first, second; /* outlive the sessions */
};

static void on_abandon(struct session *session, void *opaque)
{
    ((struct fixture *)opaque)->n_abandoned++;
}

static void on_room(struct session *session, void *opaque)
{
    ((struct fixture *)opaque)->n_room++;
}

static void open_fates(struct fixture *f)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    assert_int_equal(segment_geometry_plan(1, 0, &geometry, &bytes), 0);
    void *base = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(base, MAP_FAILED);
    assert_int_equal(segment_init(&f->segment, base, bytes, &geometry, "test"), 0);
    assert_int_equal(fates_open(&f->fates, &f->segment), 0);
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    open_fates(f);
    struct aio_config config = {.engine = AIO_ENGINE_THREADS};

    assert_int_equal(aio_context_new(&config, &f->ctx), 0);
    aio_context_set_current(f->ctx);
    struct sessions_config sessions = {
        .ctx = f->ctx,
        .fates = &f->fates,
        .n_lines = 2,
        .abandon = on_abandon,
        .room = on_room,
        .opaque = f,
    };
    assert_int_equal(sessions_init(&f->sessions, &sessions), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    sessions_deinit(&f->sessions);
    fates_close(&f->fates);
    munmap(f->segment.base, f->segment.bytes);
    aio_context_set_current(NULL);
    aio_context_unref(f->ctx);
    free(f);
    return 0;
}

static struct session *add(struct fixture *f)
{
    struct session *session = NULL;

    assert_int_equal(sessions_add(&f->sessions, &session), 0);
    return session;
}

static void append_ends(struct session *session, uint64_t first_id, uint32_t n, size_t len)
{
    for (uint32_t i = 0; i < n; i++) {
        struct fates *fates = session->sessions->config.fates;
        struct ended *ended = calloc(1, sizeof(*ended));
        ended->id = first_id + i;
        assert_int_equal(fates_accept(fates, session->row, ended->id, 0, &ended->fate), 0);
        fates_end(fates, ended->fate, &(struct mesh_answer){.end = CALL_END_DONE});
        ended->len = len;
        ended->data = len ? calloc(1, len) : NULL;
        session_append(session, ended);
    }
}

static uint32_t take(
    struct session *session, uint32_t max, uint64_t *ret_id, uint64_t *ret_position)
{
    struct ended *first;
    uint32_t n = session_take(session, max, &first, ret_position);

    *ret_id = first ? first->id : 0;
    return n;
}

static void a_session_is_found_by_its_token_alone(void **state)
{
    struct fixture *f = *state;
    struct session *a = add(f), *b = add(f);
    uint8_t token[PROTOCOL_SESSION_LEN];

    assert_ptr_equal(sessions_find(&f->sessions, a->token, sizeof(a->token)), a);
    assert_ptr_equal(sessions_find(&f->sessions, b->token, sizeof(b->token)), b);
    assert_null(sessions_find(&f->sessions, a->token, sizeof(a->token) - 1));
    assert_null(sessions_find(&f->sessions, NULL, 0));
    memcpy(token, a->token, sizeof(token));
    token[15] ^= 1;
    assert_null(sessions_find(&f->sessions, token, sizeof(token)));
}

static void ends_come_in_order_with_positions_from_1(void **state)
{
    struct fixture *f = *state;
    struct session *session = add(f);
    uint64_t id, position;

    append_ends(session, 100, 5, 0);
    assert_int_equal(take(session, 2, &id, &position), 2);
    assert_int_equal(id, 100);
    assert_int_equal(position, 1);
    assert_int_equal(take(session, 10, &id, &position), 3);
    assert_int_equal(id, 102);
    assert_int_equal(position, 3);
    assert_int_equal(take(session, 10, &id, &position), 0);
}

static void a_reply_ends_with_the_answer_that_reaches_its_size(void **state)
{
    struct fixture *f = *state;
    struct session *session = add(f);
    uint64_t id, position;

    append_ends(session, 1, 4, LIMIT_REPLY_BYTES / 2 + 1);
    assert_int_equal(take(session, 100, &id, &position), 2);
    assert_int_equal(take(session, 100, &id, &position), 2);
}

static void ends_stay_until_acknowledged_and_come_again_on_a_new_connection(void **state)
{
    struct fixture *f = *state;
    struct session *session = add(f);
    uint64_t id, position;

    session_attach(session, &f->first);
    append_ends(session, 1, 4, 8);
    assert_int_equal(take(session, 3, &id, &position), 3);
    assert_int_equal(session_ack(session, 1), 0);
    assert_int_equal(session->n_ends, 3);
    session_attach(session, &f->second);
    assert_null(f->first.session);
    assert_int_equal(take(session, 10, &id, &position), 3);
    assert_int_equal(id, 2);
    assert_int_equal(position, 2);
}

static void an_ack_of_what_an_older_connection_brought_is_taken(void **state)
{
    struct fixture *f = *state;
    struct session *session = add(f);
    uint64_t id, position;

    session_attach(session, &f->first);
    append_ends(session, 1, 4, 8);
    assert_int_equal(take(session, 3, &id, &position), 3);
    session_attach(session, &f->second);
    assert_int_equal(session_ack(session, 3), 0);
    assert_int_equal(take(session, 10, &id, &position), 1);
    assert_int_equal(id, 4);
    assert_int_equal(position, 4);
}

static void an_ack_beyond_the_last_end_is_refused_and_an_old_one_ignored(void **state)
{
    struct fixture *f = *state;
    struct session *session = add(f);
    uint64_t id, position;

    append_ends(session, 1, 3, 0);
    take(session, 3, &id, &position);
    assert_int_equal(session_ack(session, 4), -EINVAL);
    assert_int_equal(session_ack(session, UINT64_MAX), -EINVAL);
    assert_int_equal(session->n_ends, 3);
    assert_int_equal(session_ack(session, 3), 0);
    assert_int_equal(session_ack(session, 1), 0);
    assert_int_equal(session_ack(session, 0), 0);
    assert_int_equal(session->n_ends, 0);
}

static void acknowledging_gives_room_back(void **state)
{
    struct fixture *f = *state;
    struct session *session = add(f);
    uint64_t id, position;

    append_ends(session, 1, 2, 1000);
    assert_true(session->answer_bytes >= 2000);
    assert_int_equal(f->sessions.answer_bytes, session->answer_bytes);
    take(session, 2, &id, &position);
    assert_int_equal(session_ack(session, 2), 0);
    assert_int_equal(session->answer_bytes, 0);
    assert_int_equal(f->sessions.answer_bytes, 0);
    assert_int_equal(f->sessions.n_ends, 0);
    assert_int_equal(f->n_room, 1);
}

static void a_connection_has_one_session(void **state)
{
    struct fixture *f = *state;
    struct session *a = add(f), *b = add(f);

    session_attach(a, &f->first);
    session_attach(b, &f->first);
    assert_null(a->connection);
    assert_ptr_equal(f->first.session, b);
    assert_int_equal(f->sessions.n_attached, 1);
}

static void at_the_limit_the_one_longest_without_connection_makes_room(void **state)
{
    struct fixture *f = *state;
    static struct connection connections[LIMIT_SESSIONS];
    struct session *all[LIMIT_SESSIONS], *session;
    uint8_t victim[PROTOCOL_SESSION_LEN];

    for (uint32_t i = 0; i < LIMIT_SESSIONS; i++) {
        all[i] = add(f);
        connections[i] = (struct connection){.pipe = i + 1};
        session_attach(all[i], &connections[i]);
    }
    assert_int_equal(sessions_add(&f->sessions, &session), -EAGAIN);
    session_detach(all[7]);
    session_detach(all[3]);
    all[7]->gone_ns = all[3]->gone_ns - 1;
    memcpy(victim, all[7]->token, sizeof(victim));
    assert_int_equal(sessions_add(&f->sessions, &session), 0);
    assert_null(sessions_find(&f->sessions, victim, sizeof(victim)));
    assert_int_equal(f->n_abandoned, 1);
}

static void one_with_requests_under_way_is_not_made_room_of(void **state)
{
    struct fixture *f = *state;
    struct session *session;

    for (uint32_t i = 0; i < LIMIT_SESSIONS; i++)
        add(f)->n_requests = 1;
    assert_int_equal(sessions_add(&f->sessions, &session), -EAGAIN);
}

static void a_session_ends_a_while_after_its_connection(void **state)
{
    struct fixture *f = *state;
    struct session *session = add(f);

    session_attach(session, &f->first);
    append_ends(session, 1, 3, 10);
    session_detach(session);
    assert_true(timer_pending(&f->sessions.expiry));
    session->gone_ns -= SESSION_KEEP_NS;
    timer_mod_ns(&f->sessions.expiry, aio_clock_ns());
    while (f->sessions.n > 0)
        aio_poll(f->ctx, true);
    assert_int_equal(f->n_abandoned, 1);
    assert_int_equal(f->sessions.answer_bytes, 0);
}

static void only_a_client_that_is_there_is_waited_for(void **state)
{
    struct fixture *f = *state;
    struct session *session = add(f);

    session_attach(session, &f->first);
    assert_false(sessions_owe(&f->sessions));
    append_ends(session, 1, 1, 0);
    assert_true(sessions_owe(&f->sessions));
    session_detach(session);
    assert_false(sessions_owe(&f->sessions));
}

static void a_next_waits_as_long_as_it_may_and_no_longer(void **state)
{
    struct fixture *f = *state;
    struct session *session = add(f);
    struct waiting_next *waiting = &session->nexts[0];
    struct exchange exchange = {0};
    int64_t most_ns = (int64_t)PROTOCOL_WAIT_MS_MAX * AIO_SCALE_MS, begin_ns = aio_clock_ns();

    session_next(session, &exchange, 1, UINT32_MAX);
    assert_ptr_equal(waiting->exchange, &exchange);
    assert_true(timer_expire_time_ns(&waiting->timer) >= begin_ns + most_ns);
    assert_true(timer_expire_time_ns(&waiting->timer) <= aio_clock_ns() + most_ns);
    timer_del(&waiting->timer);
    waiting->exchange = NULL;
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static void one_long_answer_is_forgotten_after_some_hundred_short_ones(void **state)
{
    uint32_t expected = requests_expect(0, 1 << 20);

    assert_int_equal(expected, 1 << 20);
    assert_true(requests_expect(expected, 3) > 1000 * 1000);
    for (uint32_t i = 0; i < 1000; i++)
        expected = requests_expect(expected, 3);
    assert_true(expected < 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(one_long_answer_is_forgotten_after_some_hundred_short_ones),
        CASE(a_session_is_found_by_its_token_alone),
        CASE(ends_come_in_order_with_positions_from_1),
        CASE(a_reply_ends_with_the_answer_that_reaches_its_size),
        CASE(ends_stay_until_acknowledged_and_come_again_on_a_new_connection),
        CASE(an_ack_of_what_an_older_connection_brought_is_taken),
        CASE(an_ack_beyond_the_last_end_is_refused_and_an_old_one_ignored),
        CASE(acknowledging_gives_room_back),
        CASE(a_connection_has_one_session),
        CASE(at_the_limit_the_one_longest_without_connection_makes_room),
        CASE(one_with_requests_under_way_is_not_made_room_of),
        CASE(a_session_ends_a_while_after_its_connection),
        CASE(only_a_client_that_is_there_is_waited_for),
        CASE(a_next_waits_as_long_as_it_may_and_no_longer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
