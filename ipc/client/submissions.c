/* SPDX-License-Identifier: MIT */
#include "ipc/client/submissions.h"

#include <errno.h>
#include <stdlib.h>

#include "ipc/client/settle.h"
#include "ipc/client/talk_inside.h"

/*
 * A batch is noted beside its message: which tickets went, and to whom. Its answer may come when
 * the session, the connection or the gateway are others already, and means for a ticket that is
 * still as it was sent what it would have meant then. Tickets go back in line from the last to the
 * first, for each goes to the head of its kind.
 */

#define HOLD_NS (INT64_C(10) * 1000000) /* a gateway that is full is not asked again before */

/* What a message of submissions carried, and when. */
struct sent_batch {
    uint64_t session_number;
    uint64_t connection_number;
    uint32_t gateway;
    size_t n;
    uint64_t ids[];
};

/* ---- what the gateway says ---- */

static void on_refused(struct talk *talk, const Sherd__Wire__Refused *refused)
{
    struct ticket *ticket = ticket_find(&talk->tickets, refused->id);

    if (!ticket || ticket->state != TICKET_SENT)
        return;
    if (refused->number == EAGAIN && ticket->refuse) {
        settle_behind(talk, ticket, refused->retry_us);
    } else if (refused->number == EAGAIN) {
        ticket_back(&talk->tickets, ticket);
        talk->hold_ns = talk_now_ns() + HOLD_NS;
    } else {
        settle_refused(talk, ticket, refused);
    }
}

static void on_accepted(struct talk *talk, struct ticket *ticket)
{
    ticket->state = TICKET_ACCEPTED;
    if (ticket->cancel)
        cancels_note(&talk->cancels, ticket->id);
}

static void on_taken(struct talk *talk, const struct sent_batch *batch, const struct letter *letter,
    const Sherd__Wire__SubmitReply *taken)
{
    /* From the last to the first: each goes to the head of its kind. */
    for (size_t i = taken->n_refused; i > 0; i--)
        on_refused(talk, taken->refused[i - 1]);
    /* By a gateway that is gone: what it took and had not begun went with it. */
    bool past = batch->gateway != talk->gateway && !talk_is_of_this_connection(talk, letter);
    for (size_t i = 0; i < batch->n; i++) {
        struct ticket *ticket = ticket_find(&talk->tickets, batch->ids[i]);
        if (!ticket && talk->ended_unheard)
            cancels_note(&talk->cancels, batch->ids[i]); /* nobody waits for it */
        if (!ticket || ticket->state != TICKET_SENT)
            continue;
        if (past && batch->session_number != talk->session_number)
            settle_lost(talk, ticket);
        else if (past)
            settle_again(talk, ticket);
        else
            on_accepted(talk, ticket);
    }
}

/* All of a batch, which is in state SENT, gets one fate. */
static void on_batch_failed(
    struct talk *talk, const struct sent_batch *batch, const Sherd__Wire__Error *error)
{
    bool settled = batch->connection_number != talk->connection_number &&
                   (talk->phase == TALK_METHODS || talk->phase == TALK_READY);

    for (size_t i = batch->n; i > 0; i--) {
        struct ticket *ticket = ticket_find(&talk->tickets, batch->ids[i - 1]);
        if (!ticket || ticket->state != TICKET_SENT)
            continue;
        if (error && (error->number == ESTALE || error->number == EAGAIN))
            ticket_back(&talk->tickets, ticket); /* not taken, that is certain */
        else if (error)
            settle(talk, ticket, SHERD_END_NOT_STARTED, -(int)(error->number & 0xfff), error->text);
        else if (!settled)
            ticket->state = TICKET_UNSURE;
        else if (batch->session_number == talk->session_number)
            settle_again(talk, ticket);
        else
            settle_lost(talk, ticket);
    }
}

void submissions_answered(
    struct talk *talk, const struct letter *letter, const Sherd__Wire__Reply *reply)
{
    struct sent_batch *batch = letter->opaque;

    talk->n_batches--;
    if (!reply || talk_is_stale(reply))
        talk_broken(talk, batch->connection_number);
    if (reply && reply->body_case == SHERD__WIRE__REPLY__BODY_SUBMIT)
        on_taken(talk, batch, letter, reply->submit);
    else
        on_batch_failed(talk, batch,
            reply && reply->body_case == SHERD__WIRE__REPLY__BODY_ERROR ? reply->error : NULL);
    talk->ended_unheard &= talk->n_batches > 0;
    free(batch);
}

/* ---- out ---- */

/* Whether a ticket in line may go to the gateway, with n others. */
static bool may_go(const struct talk *talk, const struct ticket *ticket, size_t n)
{
    uint64_t most;

    if (!ticket)
        return false;
    most = (uint64_t)talk->window + (ticket->urgent ? TALK_URGENT_MORE : 0);
    return talk->tickets.out.n + n < (most < talk->max_in_flight ? most : talk->max_in_flight);
}

static bool send_batch(struct talk *talk, int64_t now_ns)
{
    struct wire_batch *wire = &talk->batch;
    struct ticket *ticket = talk->tickets.line.first;

    wire_batch_start(wire);
    while (may_go(talk, ticket, wire->n) && wire_batch_add(wire, ticket, now_ns))
        ticket = ticket->next;
    struct sent_batch *batch = malloc(sizeof(*batch) + wire->n * sizeof(batch->ids[0]));
    nng_msg *msg = batch ? wire_batch_pack(wire) : NULL;
    if (!msg) {
        free(batch);
        talk->hold_ns = now_ns + HOLD_NS;
        return false;
    }
    *batch =
        (struct sent_batch){talk->session_number, talk->connection_number, talk->gateway, wire->n};
    for (size_t i = 0; i < batch->n; i++) {
        batch->ids[i] = wire->submissions[i].id;
        ticket_out(&talk->tickets, talk->tickets.line.first, TICKET_SENT);
    }
    /* There is room: the caller has looked. */
    link_send(talk->link, LETTER_BATCH, batch, msg, -1);
    talk->n_batches++;
    return true;
}

void submissions_send(struct talk *talk, int64_t now_ns)
{
    if (talk->hold_ns > now_ns)
        return;
    talk->hold_ns = 0;
    while (may_go(talk, talk->tickets.line.first, 0) && talk->n_batches < TALK_BATCHES_MAX &&
           link_room(talk->link) > 0)
        if (!send_batch(talk, now_ns))
            return;
}

/* ---- no answer ---- */

void submissions_take_back(struct talk *talk, struct sent_batch *batch)
{
    for (size_t i = batch->n; i > 0; i--) {
        struct ticket *ticket = ticket_find(&talk->tickets, batch->ids[i - 1]);
        if (ticket && ticket->state == TICKET_SENT)
            ticket_back(&talk->tickets, ticket);
    }
}

void submissions_drop(struct sent_batch *batch)
{
    free(batch);
}
