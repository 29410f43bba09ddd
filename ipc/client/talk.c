/* SPDX-License-Identifier: MIT */
#include "ipc/client/talk.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ipc/client/settle.h"
#include "ipc/client/submissions.h"
#include "ipc/client/talk_inside.h"
#include "ipc/client/transport.h"
#include "ipc/client/tls.h"

/*
 * Phases:  APART --hello--> HELLO --hello reply--> METHODS --list--> READY
 *            ^------- connection broke, or "no session" --------------+
 *
 * The link connects again by itself, or when it is reminded, so a broken connection shows only in
 * letters: -ECONNRESET for what was under way, or a reply that this connection has no session. Then
 * hello is said again with the old session. If the gateway still has it, what got no answer is
 * submitted again (it removes duplicates). If not, all that it had is judged by settle_lost().
 *
 * nng's threads may hand over two answers in another order than they came, even those of two
 * connections. So an answer counts for the session whose hello came by the same connection (nng's
 * pipe). One by a connection of which no hello is known yet waits until that has come.
 *
 * Ends have positions (acked.h). Only those of the present connection count: the gateway begins
 * again behind the last acknowledged one on each.
 */

#define NEXT_WAIT_MS 30000u
#define RETRY_NS     (INT64_C(50) * 1000000)

/* How long messages may wait for a connection before the link dials anew: first, and at most, which
 * is longer than nng gives a greeting (10 s), so that one to a slow gateway comes to its end. */
#define PATIENCE_MIN_NS (INT64_C(500) * 1000000)
#define PATIENCE_MAX_NS (INT64_C(16) * 1000000000)

int64_t talk_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

void talk_init(struct talk *talk)
{
    arena_init(&talk->arena, PROTOCOL_UNPACKED_MAX);
    talk->kept_last = &talk->kept;
    talk->patience_ns = PATIENCE_MIN_NS;
}

static void drop_letter(const struct letter *letter)
{
    nng_msg_free(letter->msg);
    if (letter->kind == LETTER_BATCH)
        submissions_drop(letter->opaque);
}

void talk_deinit(struct talk *talk)
{
    struct letter letter;
    struct ticket *kept;

    while ((kept = talk_take_kept(talk)))
        talk_free_kept(kept);
    if (talk->link)
        link_stop(talk->link);
    while (talk->link && link_take(talk->link, &letter))
        drop_letter(&letter);
    while (talk->n_early > 0)
        drop_letter(&talk->early[--talk->n_early]);
    link_close(talk->link);
    ticket_table_deinit(&talk->tickets);
    methods_deinit(&talk->methods);
    arena_deinit(&talk->arena);
    cancels_deinit(&talk->cancels);
    free(talk->error_text);
    free(talk->instance);
}

static bool has_work(const struct talk *talk)
{
    return talk->tickets.line.n + talk->tickets.out.n > 0 || talk->question || talk->eager;
}

/* ---- the connection ---- */

/* No gateway has seen that message. */
static void take_back(uint32_t kind, void *opaque, void *user)
{
    if (kind == LETTER_BATCH)
        submissions_take_back(user, opaque);
}

__attribute__((format(printf, 3, 4))) static void give_up(
    struct talk *talk, int error, const char *format, ...)
{
    va_list args;

    free(talk->error_text);
    va_start(args, format);
    if (vasprintf(&talk->error_text, format, args) < 0)
        talk->error_text = NULL;
    va_end(args);
    talk->error = error;
    talk->phase = TALK_APART;
    talk->give_up_ns = 0;
    talk->retry_ns = 0;
    if (talk->link)
        link_take_back(talk->link, take_back, talk);
    settle_all(talk, error);
    if (talk->question && !talk->question->answered)
        question_answer(talk->question, NULL, error);
}

static void part(struct talk *talk)
{
    if (talk->phase == TALK_APART)
        return;
    talk->phase = TALK_APART;
    talk->give_up_ns = 0;
}

static void say_hello(struct talk *talk, int64_t now_ns)
{
    if (talk->give_up_ns == 0)
        talk->give_up_ns = now_ns + talk->wait_ns;
    int64_t left_ms = (talk->give_up_ns - now_ns) / 1000000;
    nng_msg *msg =
        wire_hello(talk->name, talk->session, talk->session_len, talk->token, talk->token_len);
    if (!msg || link_send(talk->link, LETTER_HELLO, NULL, msg,
                    left_ms < 1 ? 1 : (left_ms > INT32_MAX ? INT32_MAX : (int32_t)left_ms)) < 0) {
        talk->retry_ns = now_ns + RETRY_NS;
        return;
    }
    talk->phase = TALK_HELLO;
    talk->connection_number++;
}

/* A dialer that is new knows of no trouble yet, and what the one before had is as true. */
static void note_trouble(struct talk *talk)
{
    int trouble = link_trouble(talk->link);

    if (trouble < 0)
        talk->trouble = trouble;
}

/* For people: why there was no connection. */
static const char *text_of(const struct talk *talk)
{
    switch (talk->trouble) {
    case -ECONNRESET:
        return ": " TLS_TEXT_HUNG_UP;
    case -ECONNREFUSED:
        return ": nobody listens there";
    case -EADDRNOTAVAIL:
        return ": there is no such host or port, or it hangs up (it may want tls+tcp://)";
    case -EPROTO:
        return ": what listens there is no gateway";
    default:
        return "";
    }
}

/* The wait for a gateway is over, without one. */
static void give_up_waiting(struct talk *talk)
{
    note_trouble(talk);
    if (talk->trouble == -EKEYREJECTED)
        give_up(talk, -EKEYREJECTED, "the gateway: %s", TLS_TEXT_REJECTED);
    else
        give_up(talk, -ENOTCONN, "the gateway did not answer in time%s", text_of(talk));
}

/* Who is not believed at the opening will not be by waiting. One that was before may get its right
 * certificate back, and has the whole time for it. */
static void look_for_trouble(struct talk *talk)
{
    note_trouble(talk);
    if (talk->eager && talk->trouble == -EKEYREJECTED)
        give_up_waiting(talk);
}

/* Messages that no connection takes wait for one that nng may have given up, and that in any phase:
 * the latest may have broken with none under way to tell. Whether one goes is looked at when
 * redial_ns has come, not at each step, so that a client with much to say arms no timer each
 * time. */
static void watch_sending(struct talk *talk, int64_t now_ns)
{
    uint64_t n_gone;
    bool waits = link_waiting(talk->link, &n_gone) > 0;

    if (talk->redial_ns > now_ns)
        return;
    if (waits && talk->redial_ns != 0 && n_gone == talk->n_gone) {
        look_for_trouble(talk);
        link_redial(talk->link);
        talk->patience_ns *= 2;
        if (talk->patience_ns > PATIENCE_MAX_NS)
            talk->patience_ns = PATIENCE_MAX_NS;
    }
    talk->n_gone = n_gone;
    talk->redial_ns = waits ? now_ns + talk->patience_ns : 0;
}

static void ask_methods(struct talk *talk)
{
    nng_msg *msg = wire_methods();

    if (!msg || link_send(talk->link, LETTER_METHODS, (void *)(uintptr_t)talk->connection_number,
                    msg, -1) < 0)
        part(talk);
    else
        talk->phase = TALK_METHODS;
}

static void on_welcome(struct talk *talk, const Sherd__Wire__HelloReply *hello)
{
    if (hello->session.len != PROTOCOL_SESSION_LEN || hello->version != PROTOCOL_VERSION) {
        give_up(talk, -EPROTO, "the gateway speaks version %u of the protocol, this client %u",
            hello->version, PROTOCOL_VERSION);
        return;
    }
    bool resumed = hello->resumed && talk->session_len > 0;
    memcpy(talk->session, hello->session.data, PROTOCOL_SESSION_LEN);
    talk->session_len = PROTOCOL_SESSION_LEN;
    talk->max_in_flight = hello->max_in_flight > 0 ? hello->max_in_flight : 1;
    talk->n_shards = hello->shards;
    free(talk->instance);
    talk->instance = strdup(hello->instance);
    talk->give_up_ns = 0;
    talk->trouble = 0;
    talk->patience_ns = PATIENCE_MIN_NS;
    acked_begin_again(&talk->acked);
    if (!resumed) {
        talk->session_number++;
        talk->acked.upto = 0;
    }
    bool same_gateway = hello->gateway == talk->gateway;
    talk->gateway = hello->gateway;
    settle_after_hello(talk, resumed, same_gateway);
    ask_methods(talk);
}

/* The answer to hello, or none. */
static void on_hello(
    struct talk *talk, const struct letter *letter, const Sherd__Wire__Reply *reply)
{
    int64_t now_ns = talk_now_ns();

    if (talk->phase != TALK_HELLO)
        return;
    talk->phase = TALK_APART;
    if (letter->result < 0) {
        if (letter->result != -ETIMEDOUT && now_ns < talk->give_up_ns)
            talk->retry_ns = now_ns + RETRY_NS;
        else
            give_up_waiting(talk);
    } else if (reply->body_case == SHERD__WIRE__REPLY__BODY_HELLO) {
        talk->pipe = (uint32_t)nng_pipe_id(nng_msg_get_pipe(letter->msg));
        on_welcome(talk, reply->hello);
    } else if (reply->body_case != SHERD__WIRE__REPLY__BODY_ERROR) {
        give_up(talk, -EPROTO, "what answers there is no Sherd of this version");
    } else if (reply->error->number == EAGAIN && now_ns < talk->give_up_ns) {
        talk->retry_ns = now_ns + RETRY_NS;
    } else {
        give_up(talk, -(int)(reply->error->number & 0xfff), "%s", reply->error->text);
    }
}

bool talk_is_stale(const Sherd__Wire__Reply *reply)
{
    return reply && reply->body_case == SHERD__WIRE__REPLY__BODY_ERROR &&
           reply->error->number == ESTALE;
}

void talk_broken(struct talk *talk, uint64_t connection_number)
{
    if (connection_number == talk->connection_number && talk->phase != TALK_HELLO)
        part(talk);
}

bool talk_is_of_this_connection(const struct talk *talk, const struct letter *letter)
{
    return (uint32_t)nng_pipe_id(nng_msg_get_pipe(letter->msg)) == talk->pipe;
}

static void on_methods(struct talk *talk, const Sherd__Wire__Reply *reply)
{
    if (talk->phase != TALK_METHODS)
        return;
    if (reply->body_case != SHERD__WIRE__REPLY__BODY_METHODS ||
        methods_learn(&talk->methods, reply->methods) < 0)
        methods_forget(&talk->methods);
    talk->phase = TALK_READY;
}

/* ---- ends ---- */

static int end_error(const Sherd__Wire__End *end)
{
    if (end->kind == SHERD__WIRE__END_KIND__DONE)
        return end->gone ? -ENODATA : 0;
    return -(int)(end->error & 0xfff);
}

static void on_end(struct talk *talk, const Sherd__Wire__End *end)
{
    struct ticket *ticket = ticket_find(&talk->tickets, end->id);

    /* Ended already: it came a second time, over a new connection. One that stands in line to be
     * submitted again is as good as any: it has ended. */
    if (!ticket || settle_lost_answer(talk, ticket, end))
        return;
    settle_with(talk, ticket,
        &(struct sherd_result){
            .id = end->id,
            .end = (enum sherd_end)end->kind,
            .error = end_error(end),
            .shard =
                end->runner_case == SHERD__WIRE__END__RUNNER_SHARD ? end->shard : SHERD_NO_SHARD,
            .data = end->data.data,
            .len = end->data.len,
        });
}

/* ESHUTDOWN is its last word. */
static void on_next_error(struct talk *talk, const Sherd__Wire__Error *error)
{
    if (error->number != ESHUTDOWN) {
        give_up(talk, -(int)(error->number & 0xfff), "%s", error->text);
        return;
    }
    settle_untaken(talk);
    part(talk);
}

static void on_next(struct talk *talk, const struct letter *letter, const Sherd__Wire__Reply *reply)
{
    talk->n_nexts--;
    if (!reply || talk_is_stale(reply)) {
        talk_broken(talk, (uintptr_t)letter->opaque);
        return;
    }
    /* One said before hello may be heard after it, and acknowledges what the new session never
     * had. */
    if (reply->body_case == SHERD__WIRE__REPLY__BODY_ERROR &&
        talk_is_of_this_connection(talk, letter) &&
        (uintptr_t)letter->opaque == talk->connection_number)
        on_next_error(talk, reply->error);
    if (reply->body_case != SHERD__WIRE__REPLY__BODY_NEXT || reply->next->n_ends == 0)
        return;
    uint64_t first = reply->next->first;
    if (talk_is_of_this_connection(talk, letter))
        acked_note(&talk->acked, first, first + reply->next->n_ends - 1);
    talk->hold_ns = 0;
    for (size_t i = 0; i < reply->next->n_ends; i++)
        on_end(talk, reply->next->ends[i]);
}

static void send_nexts(struct talk *talk)
{
    while (talk->tickets.out.n > 0 && talk->n_nexts < TALK_NEXTS_MAX && link_room(talk->link) > 0) {
        nng_msg *msg = wire_next(talk->session, talk->acked.upto, NEXT_WAIT_MS);
        if (!msg)
            return;
        link_send(talk->link, LETTER_NEXT, (void *)(uintptr_t)talk->connection_number, msg, -1);
        talk->n_nexts++;
    }
}

/* ---- cancelling ---- */

int talk_cancel(struct talk *talk, uint64_t id)
{
    struct ticket *ticket = ticket_find(&talk->tickets, id);

    if (!ticket)
        return -ENOENT;
    if (ticket->cancel)
        return 0;
    ticket->cancel = true;
    if (ticket->state == TICKET_LINE)
        talk->cancels_in_line = true;
    else
        ticket_end_by(&talk->tickets, ticket, talk_now_ns() + REQUEST_CANCEL_NS);
    if (ticket->state == TICKET_ACCEPTED)
        cancels_note(&talk->cancels, id);
    return 0;
}

/* ---- a step ---- */

static void on_letter(struct talk *talk, const struct letter *letter)
{
    const Sherd__Wire__Reply *reply = NULL;

    arena_reset(&talk->arena);
    if (letter->result == 0) {
        reply = sherd__wire__reply__unpack(
            &talk->arena.allocator, nng_msg_len(letter->msg), nng_msg_body(letter->msg));
        if (!reply)
            give_up(talk, -EPROTO, "what answers there is no Sherd of this version");
    }
    switch (letter->kind) {
    case LETTER_HELLO:
        if (reply || letter->result < 0)
            on_hello(talk, letter, reply);
        break;
    case LETTER_METHODS:
        if (reply && !talk_is_stale(reply))
            on_methods(talk, reply);
        else
            talk_broken(talk, (uintptr_t)letter->opaque);
        break;
    case LETTER_BATCH:
        submissions_answered(talk, letter, reply);
        break;
    case LETTER_NEXT:
        on_next(talk, letter, reply);
        break;
    case LETTER_CANCEL:
        cancels_answered(&talk->cancels);
        if (!reply || talk_is_stale(reply))
            talk_broken(talk, (uintptr_t)letter->opaque);
        break;
    case LETTER_ASK:
        talk_take_answer(talk, letter, reply);
        break;
    }
    nng_msg_free(letter->msg);
}

/* By a connection of which no hello has been answered; that may be on its way. */
static bool is_early(const struct talk *talk, const struct letter *letter)
{
    return (talk->phase == TALK_APART || talk->phase == TALK_HELLO) && talk->error == 0 &&
           letter->kind != LETTER_HELLO && letter->result == 0 &&
           !talk_is_of_this_connection(talk, letter);
}

static void take_letter(struct talk *talk, const struct letter *letter)
{
    if (is_early(talk, letter))
        talk->early[talk->n_early++] = *letter; /* all that can be under way has room */
    else
        on_letter(talk, letter);
}

static void take_letters(struct talk *talk)
{
    struct letter letter;

    while (link_take(talk->link, &letter))
        take_letter(talk, &letter);
    /* Those that go on waiting move to the front. */
    uint32_t n = talk->n_early;
    talk->n_early = 0;
    for (uint32_t i = 0; i < n; i++) {
        letter = talk->early[i];
        take_letter(talk, &letter);
    }
}

void talk_step(struct talk *talk)
{
    take_letters(talk);
    settle_line(talk, talk_now_ns());
    settle_late(talk, talk_now_ns());
    if (!has_work(talk))
        return;
    int64_t now_ns = talk_now_ns();
    if (talk->phase == TALK_APART && talk->error == 0 && talk->retry_ns <= now_ns)
        say_hello(talk, now_ns);
    if (talk->phase == TALK_READY) {
        submissions_send(talk, now_ns);
        settle_refuse(talk);
        send_nexts(talk);
        cancels_send(&talk->cancels, talk->link, talk->connection_number);
        talk_send_question(talk);
    }
    watch_sending(talk, now_ns);
}

int64_t talk_next_ns(const struct talk *talk)
{
    int64_t next_ns = INT64_MAX;

    if (!has_work(talk))
        return next_ns;
    if (talk->tickets.line.n > 0)
        next_ns = talk->tickets.first_deadline_ns;
    if (talk->tickets.out.n > 0 && talk->tickets.out_end_by_ns < next_ns)
        next_ns = talk->tickets.out_end_by_ns;
    if (talk->phase == TALK_APART && talk->retry_ns < next_ns)
        next_ns = talk->retry_ns;
    if (talk->redial_ns != 0 && talk->redial_ns < next_ns)
        next_ns = talk->redial_ns;
    if (talk->hold_ns != 0 && talk->tickets.line.n > 0 && talk->hold_ns < next_ns)
        next_ns = talk->hold_ns;
    return next_ns;
}
