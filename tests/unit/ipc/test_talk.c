/* SPDX-License-Identifier: MIT */
/*
 * A conversation over a link that this test plays: it sees each message that is sent, and hands
 * over answers by the connection (nng's pipe) and in the order that it likes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ipc/client/talk.h"

/* ---- the link ---- */

struct sent {
    Sherd__Wire__Request *request; /* NULL: taken back */
    uint32_t kind;
    void *opaque;
    bool waits; /* there was no connection */
};

struct link {
    struct sent sent[64];
    size_t n_sent, n_answered;
    struct letter letters[64];
    size_t first_letter, last_letter;
    unsigned n_redials;
    bool broken; /* there is no connection that would take a message */
    uint64_t n_gone;
};

uint32_t link_room(const struct link *link)
{
    return LINK_EXCHANGES - (uint32_t)(link->n_sent - link->n_answered);
}

int link_send(struct link *link, uint32_t kind, void *opaque, nng_msg *msg, int32_t timeout_ms)
{
    assert_true(link_room(link) > 0 && link->n_sent < 64);
    link->sent[link->n_sent++] = (struct sent){
        .request = sherd__wire__request__unpack(NULL, nng_msg_len(msg), nng_msg_body(msg)),
        .kind = kind,
        .opaque = opaque,
        .waits = link->broken,
    };
    nng_msg_free(msg);
    return 0;
}

bool link_take(struct link *link, struct letter *ret_letter)
{
    if (link->first_letter == link->last_letter)
        return false;
    *ret_letter = link->letters[link->first_letter++];
    return true;
}

uint32_t link_waiting(struct link *link, uint64_t *ret_n_gone)
{
    *ret_n_gone = link->n_gone;
    return link->broken;
}

void link_take_back(struct link *link, link_unsent_fn *fn, void *user)
{
    for (size_t i = 0; i < link->n_sent; i++)
        if (link->sent[i].request && link->sent[i].waits)
            fn(link->sent[i].kind, link->sent[i].opaque, user);
}

void link_redial(struct link *link)
{
    link->n_redials++;
}

int link_trouble(const struct link *link)
{
    (void)link;
    return 0;
}

/* What has no answer never gets one. */
void link_stop(struct link *link)
{
    for (size_t i = 0; i < link->n_sent; i++) {
        if (!link->sent[i].request)
            continue;
        link->letters[link->last_letter++] = (struct letter){
            .kind = link->sent[i].kind, .opaque = link->sent[i].opaque, .result = -ECANCELED};
        sherd__wire__request__free_unpacked(link->sent[i].request, NULL);
        link->sent[i].request = NULL;
    }
}

void link_close(struct link *link)
{
    free(link);
}

/* The oldest message of that kind without an answer; it must be there. */
static struct sent *find_sent(struct link *link, int body)
{
    for (size_t i = 0; i < link->n_sent; i++)
        if (link->sent[i].request && (int)link->sent[i].request->body_case == body)
            return &link->sent[i];
    fail_msg("no message of kind %d was sent", body);
    return NULL;
}

static bool has_sent(const struct link *link, int body)
{
    for (size_t i = 0; i < link->n_sent; i++)
        if (link->sent[i].request && (int)link->sent[i].request->body_case == body)
            return true;
    return false;
}

/* Its answer comes by way of this alone. */
static struct sent put_aside(struct link *link, int body)
{
    struct sent *sent = find_sent(link, body);
    struct sent aside = *sent;

    sent->request = NULL;
    return aside;
}

static void hand_over(struct link *link, struct sent *sent, int result, nng_msg *msg)
{
    assert_true(link->last_letter < 64);
    link->letters[link->last_letter++] =
        (struct letter){.kind = sent->kind, .opaque = sent->opaque, .result = result, .msg = msg};
    sherd__wire__request__free_unpacked(sent->request, NULL);
    sent->request = NULL;
    link->n_answered++;
}

static void answer(struct link *link, struct sent *sent, uint32_t pipe, Sherd__Wire__Reply *reply)
{
    nng_msg *msg;

    assert_int_equal(nng_msg_alloc(&msg, sherd__wire__reply__get_packed_size(reply)), 0);
    sherd__wire__reply__pack(reply, nng_msg_body(msg));
    nng_msg_set_pipe(msg, (nng_pipe){.id = pipe});
    hand_over(link, sent, 0, msg);
}

static void break_off(struct link *link, int body)
{
    hand_over(link, find_sent(link, body), -ECONNRESET, NULL);
}

/* ---- the gateway's answers ---- */

#define HELLO   SHERD__WIRE__REQUEST__BODY_HELLO
#define METHODS SHERD__WIRE__REQUEST__BODY_METHODS
#define SUBMIT  SHERD__WIRE__REQUEST__BODY_SUBMIT_MANY
#define NEXT    SHERD__WIRE__REQUEST__BODY_NEXT

static void welcome(struct link *link, uint32_t pipe, uint8_t name, bool resumed)
{
    uint8_t session[PROTOCOL_SESSION_LEN];
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;
    Sherd__Wire__HelloReply hello = SHERD__WIRE__HELLO_REPLY__INIT;

    memset(session, name, sizeof(session));
    hello.version = PROTOCOL_VERSION;
    hello.session = (ProtobufCBinaryData){sizeof(session), session};
    hello.resumed = resumed;
    hello.max_in_flight = 100;
    reply.body_case = SHERD__WIRE__REPLY__BODY_HELLO;
    reply.hello = &hello;
    answer(link, find_sent(link, HELLO), pipe, &reply);
}

/* "t.again" may run again, nothing else. */
static void tell_methods(struct link *link, uint32_t pipe)
{
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;
    Sherd__Wire__MethodsReply body = SHERD__WIRE__METHODS_REPLY__INIT;
    Sherd__Wire__Method again = SHERD__WIRE__METHOD__INIT;
    Sherd__Wire__Method *methods[] = {&again};

    again.name = "t.again";
    again.idempotent = true;
    body.methods = methods;
    body.n_methods = 1;
    reply.body_case = SHERD__WIRE__REPLY__BODY_METHODS;
    reply.methods = &body;
    answer(link, find_sent(link, METHODS), pipe, &reply);
}

static void accept_batch(struct link *link, struct sent *batch, uint32_t pipe)
{
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;
    Sherd__Wire__SubmitReply body = SHERD__WIRE__SUBMIT_REPLY__INIT;

    body.accepted = (uint32_t)batch->request->submit_many->n_submissions;
    reply.body_case = SHERD__WIRE__REPLY__BODY_SUBMIT;
    reply.submit = &body;
    answer(link, batch, pipe, &reply);
}

static void tell_end(struct link *link, struct sent *next, uint32_t pipe, uint64_t at, uint64_t id)
{
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;
    Sherd__Wire__NextReply body = SHERD__WIRE__NEXT_REPLY__INIT;
    Sherd__Wire__End end = SHERD__WIRE__END__INIT;
    Sherd__Wire__End *ends[] = {&end};

    end.id = id;
    end.kind = SHERD__WIRE__END_KIND__DONE;
    body.first = at;
    body.ends = ends;
    body.n_ends = 1;
    reply.body_case = SHERD__WIRE__REPLY__BODY_NEXT;
    reply.next = &body;
    answer(link, next, pipe, &reply);
}

static void refuse_sent(struct link *link, struct sent *sent, uint32_t pipe, int error)
{
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;
    Sherd__Wire__Error why = SHERD__WIRE__ERROR__INIT;

    why.number = (uint32_t)error;
    why.text = "for a reason";
    reply.body_case = SHERD__WIRE__REPLY__BODY_ERROR;
    reply.error = &why;
    answer(link, sent, pipe, &reply);
}

static void refuse(struct link *link, int body, uint32_t pipe, int error)
{
    refuse_sent(link, find_sent(link, body), pipe, error);
}

/* ---- fixture ---- */

struct fixture {
    struct talk talk;
    struct link *link;
    unsigned n_ended;
    enum sherd_end last_end;
    unsigned ends[SHERD_END_IN_DOUBT + 1];
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->link = calloc(1, sizeof(*f->link));
    talk_init(&f->talk);
    f->talk.link = f->link;
    f->talk.wait_ns = INT64_C(3600) * 1000000000;
    f->talk.window = 100;
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    talk_deinit(&f->talk);
    free(f);
    return 0;
}

static void on_done(const struct sherd_result *result, void *opaque)
{
    struct fixture *f = opaque;

    f->n_ended++;
    f->last_end = result->end;
    f->ends[result->end]++;
}

static uint64_t submit(struct fixture *f, const char *method)
{
    struct sherd_request request = {.method = method};
    struct ticket *ticket;

    assert_int_equal(
        ticket_new(&f->talk.tickets, ++f->talk.last_id, &request, INT64_MAX, &ticket), 0);
    ticket->done = on_done;
    ticket->opaque = f;
    talk_step(&f->talk);
    return f->talk.last_id;
}

/* A session with one accepted request, for whose end two nexts wait. */
static uint64_t under_way(struct fixture *f, const char *method)
{
    uint64_t id = submit(f, method);

    welcome(f->link, 1, 'a', false);
    talk_step(&f->talk);
    tell_methods(f->link, 1);
    talk_step(&f->talk);
    accept_batch(f->link, find_sent(f->link, SUBMIT), 1);
    talk_step(&f->talk);
    assert_int_equal(f->talk.phase, TALK_READY);
    assert_int_equal(f->talk.n_nexts, TALK_NEXTS_MAX);
    return id;
}

/* The gateway is gone: one of the nexts says so, and hello is said to its replacement. */
static void lose_gateway(struct fixture *f)
{
    break_off(f->link, NEXT);
    talk_step(&f->talk);
    assert_int_equal(f->talk.phase, TALK_HELLO);
}

static void find_replacement(struct fixture *f)
{
    welcome(f->link, 2, 'b', false);
    talk_step(&f->talk);
    tell_methods(f->link, 2);
    talk_step(&f->talk);
    assert_int_equal(f->talk.phase, TALK_READY);
}

/* ---- cases ---- */

#define PATIENCE_RATIO_MAX 32 /* the longest of the client's patience to the first */

static void a_request_is_submitted_after_hello_and_its_end_told_once(void **state)
{
    struct fixture *f = *state;
    uint64_t id = under_way(f, "t.once");

    tell_end(f->link, find_sent(f->link, NEXT), 1, 1, id);
    tell_end(f->link, find_sent(f->link, NEXT), 1, 1, id);
    talk_step(&f->talk);
    assert_int_equal(f->n_ended, 1);
    assert_int_equal(f->last_end, SHERD_END_DONE);
    assert_int_equal(f->talk.acked.upto, 1);
}

static void positions_of_a_gateway_that_is_gone_acknowledge_nothing_at_the_next(void **state)
{
    struct fixture *f = *state;

    under_way(f, "t.again");
    struct sent late = put_aside(f->link, NEXT);
    lose_gateway(f);
    find_replacement(f);
    tell_end(f->link, &late, 1, 1, 77);
    talk_step(&f->talk);
    assert_int_equal(f->talk.acked.upto, 0);
    assert_int_equal(find_sent(f->link, NEXT)->request->next->ack, 0);
}

static void an_answer_that_overtakes_that_of_hello_counts_for_the_new_session(void **state)
{
    struct fixture *f = *state;

    under_way(f, "t.again");
    submit(f, "t.once"); /* nng has it until there is a connection */
    lose_gateway(f);
    accept_batch(f->link, find_sent(f->link, SUBMIT), 2);
    talk_step(&f->talk);
    find_replacement(f);
    assert_int_equal(f->n_ended, 0); /* neither lost nor in doubt */
    tell_end(f->link, find_sent(f->link, NEXT), 2, 1, 2);
    talk_step(&f->talk);
    assert_int_equal(f->n_ended, 1);
    assert_int_equal(f->last_end, SHERD_END_DONE);
    assert_int_equal(f->talk.acked.upto, 1);
}

static void positions_that_overtake_the_answer_of_hello_are_acknowledged(void **state)
{
    struct fixture *f = *state;

    under_way(f, "t.again");
    submit(f, "t.once");
    lose_gateway(f);
    accept_batch(f->link, find_sent(f->link, SUBMIT), 2);
    tell_end(f->link, find_sent(f->link, NEXT), 2, 1, 2);
    talk_step(&f->talk);
    find_replacement(f);
    assert_int_equal(f->n_ended, 1);
    assert_int_equal(f->last_end, SHERD_END_DONE);
    assert_int_equal(f->talk.acked.upto, 1);
}

static void a_late_end_counts_for_what_stands_in_line_again(void **state)
{
    struct fixture *f = *state;
    uint64_t id = under_way(f, "t.again");

    f->talk.hold_ns = INT64_MAX; /* it stays in line */
    struct sent late = put_aside(f->link, NEXT);
    lose_gateway(f);
    find_replacement(f);
    assert_int_equal(f->talk.tickets.line.n, 1);
    tell_end(f->link, &late, 1, 1, id);
    talk_step(&f->talk);
    assert_int_equal(f->n_ended, 1);
    assert_int_equal(f->last_end, SHERD_END_DONE);
    assert_false(has_sent(f->link, SUBMIT));
}

static void what_a_lost_gateway_had_is_submitted_again_or_in_doubt(void **state)
{
    struct fixture *f = *state;

    under_way(f, "t.again");
    submit(f, "t.once");
    accept_batch(f->link, find_sent(f->link, SUBMIT), 1);
    talk_step(&f->talk);
    lose_gateway(f);
    find_replacement(f);
    assert_int_equal(f->n_ended, 1);
    assert_int_equal(f->last_end, SHERD_END_IN_DOUBT);
    assert_int_equal(find_sent(f->link, SUBMIT)->request->submit_many->n_submissions, 1);
}

static void a_next_that_is_refused_ends_the_conversation_instead_of_being_asked_for_ever(
    void **state)
{
    struct fixture *f = *state;

    under_way(f, "t.once");
    refuse(f->link, NEXT, 1, EINVAL);
    talk_step(&f->talk);
    assert_int_equal(f->talk.error, -EINVAL);
    assert_string_equal(f->talk.error_text, "for a reason");
    assert_int_equal(f->n_ended, 1);
    assert_int_equal(f->last_end, SHERD_END_IN_DOUBT);
}

static void a_next_for_a_gateway_that_is_gone_which_its_successor_refuses_ends_nothing(void **state)
{
    struct fixture *f = *state;

    under_way(f, "t.again");
    struct sent late = put_aside(f->link, NEXT); /* nng has it until there is a connection */
    lose_gateway(f);
    find_replacement(f);
    refuse_sent(f->link, &late, 2, EINVAL);
    talk_step(&f->talk);
    assert_int_equal(f->talk.error, 0);
    assert_int_equal(f->n_ended, 0);
    assert_int_equal(f->talk.phase, TALK_READY);
}

/* The time to look whether the link takes messages comes, so many times. */
static void assert_redials(struct fixture *f, unsigned n_times)
{
    int64_t patience_ns = f->talk.patience_ns;
    unsigned before = f->link->n_redials;

    talk_step(&f->talk);
    assert_int_equal(f->link->n_redials, before);
    assert_int_equal(talk_next_ns(&f->talk), f->talk.redial_ns);
    for (unsigned n = 1; n <= n_times; n++) {
        f->talk.redial_ns = 1;
        talk_step(&f->talk);
        talk_step(&f->talk);
        assert_int_equal(f->link->n_redials, before + n);
        assert_true(f->talk.redial_ns > talk_now_ns());
    }
    assert_true(f->talk.patience_ns > patience_ns);
}

static void what_no_connection_takes_has_the_link_dial_anew_whatever_it_is(void **state)
{
    struct fixture *f = *state;

    under_way(f, "t.again");
    f->link->broken = true; /* under nothing that would tell */
    submit(f, "t.again");
    assert_int_equal(f->talk.phase, TALK_READY);
    assert_redials(f, 3);
}

static void a_link_that_takes_messages_is_left_alone_however_many_wait(void **state)
{
    struct fixture *f = *state;

    under_way(f, "t.again");
    f->link->broken = true;
    for (unsigned n = 1; n <= 3; n++) {
        f->link->n_gone++;
        f->talk.redial_ns = n > 1;
        submit(f, "t.again");
        assert_true(f->talk.redial_ns > talk_now_ns());
    }
    assert_int_equal(f->link->n_redials, 0);
}

static void a_hello_without_an_answer_has_the_link_dial_anew_ever_more_seldom(void **state)
{
    struct fixture *f = *state;

    under_way(f, "t.again");
    int64_t patience_ns = f->talk.patience_ns;
    f->link->broken = true;
    lose_gateway(f);
    assert_redials(f, 10);
    assert_true(f->talk.patience_ns <= PATIENCE_RATIO_MAX * patience_ns);
    f->link->broken = false;
    f->talk.redial_ns = 1;
    find_replacement(f);
    assert_int_equal(f->talk.patience_ns, patience_ns);
    assert_true(talk_next_ns(&f->talk) > talk_now_ns());
}

/* ---- ends that nobody tells ---- */

static void what_no_connection_took_is_not_started_where_the_gateway_is_gone(void **state)
{
    struct fixture *f = *state;

    under_way(f, "t.once");
    submit(f, "t.once"); /* heard by nobody knows whom */
    f->link->broken = true;
    submit(f, "t.once");
    submit(f, "t.once");
    lose_gateway(f);
    refuse(f->link, HELLO, 2, EPERM);
    talk_step(&f->talk);
    assert_int_equal(f->ends[SHERD_END_IN_DOUBT], 2);
    assert_int_equal(f->ends[SHERD_END_NOT_STARTED], 2);
}

static void a_gateway_that_says_farewell_has_taken_nothing_that_it_has_not_answered(void **state)
{
    struct fixture *f = *state;
    uint64_t id = under_way(f, "t.once");

    submit(f, "t.once");
    tell_end(f->link, find_sent(f->link, NEXT), 1, 1, id);
    talk_step(&f->talk);
    assert_int_equal(f->ends[SHERD_END_DONE], 1);
    refuse(f->link, NEXT, 1, ESHUTDOWN);
    talk_step(&f->talk);
    assert_int_equal(f->talk.phase, TALK_HELLO); /* of the next one */
    assert_int_equal(f->n_ended, 1);
    break_off(f->link, SUBMIT);
    refuse(f->link, HELLO, 2, EPERM);
    talk_step(&f->talk);
    assert_int_equal(f->n_ended, 2);
    assert_int_equal(f->ends[SHERD_END_NOT_STARTED], 1);
}

static void what_was_submitted_again_and_is_never_sent_is_in_doubt(void **state)
{
    struct fixture *f = *state;

    under_way(f, "t.again");
    lose_gateway(f);
    welcome(f->link, 2, 'b', false);
    talk_step(&f->talk);
    assert_int_equal(f->n_ended, 0);
    break_off(f->link, METHODS);
    talk_step(&f->talk);
    refuse(f->link, HELLO, 2, EPERM);
    talk_step(&f->talk);
    assert_int_equal(f->ends[SHERD_END_IN_DOUBT], 1);
}

static void a_deadline_and_a_cancellation_hold_where_the_gateway_stands_still(void **state)
{
    struct fixture *f = *state;
    uint64_t id = under_way(f, "t.once");
    struct ticket *ticket = ticket_find(&f->talk.tickets, id);
    uint64_t other = submit(f, "t.once");

    ticket_end_by(&f->talk.tickets, ticket, talk_now_ns() + 1000000);
    ticket->deadline_ns = talk_now_ns();
    assert_true(talk_next_ns(&f->talk) < talk_now_ns() + 1000000000);
    while (f->n_ended == 0)
        talk_step(&f->talk);
    assert_int_equal(f->last_end, SHERD_END_EXPIRED);
    assert_int_equal(talk_cancel(&f->talk, other), 0);
    while (f->n_ended == 1)
        talk_step(&f->talk);
    assert_int_equal(f->last_end, SHERD_END_CANCELLED);
    /* What is told of it later is no news, but is acknowledged. */
    submit(f, "t.once");
    tell_end(f->link, find_sent(f->link, NEXT), 1, 1, id);
    talk_step(&f->talk);
    assert_int_equal(f->n_ended, 2);
    assert_int_equal(f->talk.acked.upto, 1);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(a_request_is_submitted_after_hello_and_its_end_told_once),
        CASE(positions_of_a_gateway_that_is_gone_acknowledge_nothing_at_the_next),
        CASE(an_answer_that_overtakes_that_of_hello_counts_for_the_new_session),
        CASE(positions_that_overtake_the_answer_of_hello_are_acknowledged),
        CASE(a_late_end_counts_for_what_stands_in_line_again),
        CASE(what_a_lost_gateway_had_is_submitted_again_or_in_doubt),
        CASE(a_next_for_a_gateway_that_is_gone_which_its_successor_refuses_ends_nothing),
        CASE(what_no_connection_takes_has_the_link_dial_anew_whatever_it_is),
        CASE(a_link_that_takes_messages_is_left_alone_however_many_wait),
        CASE(what_no_connection_took_is_not_started_where_the_gateway_is_gone),
        CASE(a_gateway_that_says_farewell_has_taken_nothing_that_it_has_not_answered),
        CASE(what_was_submitted_again_and_is_never_sent_is_in_doubt),
        CASE(a_deadline_and_a_cancellation_hold_where_the_gateway_stands_still),
        CASE(a_hello_without_an_answer_has_the_link_dial_anew_ever_more_seldom),
        CASE(a_next_that_is_refused_ends_the_conversation_instead_of_being_asked_for_ever),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
