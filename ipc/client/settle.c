/* SPDX-License-Identifier: MIT */
#include "ipc/client/settle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BEHIND_RETRY_US 10000u

/* For who fetches it. Where there is no memory the answer is lost, and it says so. */
static void keep(struct talk *talk, struct ticket *ticket, const struct sherd_result *result)
{
    ticket->result = *result;
    if (result->len > 0 && result->data != ticket->room) {
        ticket->result.data = malloc(result->len);
        if (ticket->result.data)
            memcpy(ticket->result.data, result->data, result->len);
    }
    if (result->len > 0 && !ticket->result.data) {
        ticket->result.len = 0;
        ticket->result.end = SHERD_END_FAILED;
        ticket->result.error = -ENOMEM;
    }
    ticket->next = NULL;
    *talk->kept_last = ticket;
    talk->kept_last = &ticket->next;
}

/* The answer goes where the user wants it. */
static void fill_room(const struct ticket *ticket, struct sherd_result *result)
{
    if (!ticket->room || result->end != SHERD_END_DONE)
        return;
    if (result->len <= ticket->room_len) {
        if (result->len > 0)
            memcpy(ticket->room, result->data, result->len);
        result->data = ticket->room;
        return;
    }
    result->end = SHERD_END_FAILED;
    result->error = -ENOBUFS;
    result->data = NULL;
    result->len = 0;
}

void settle_with(struct talk *talk, struct ticket *ticket, const struct sherd_result *result)
{
    struct sherd_result filled = *result;

    ticket_remove(&talk->tickets, ticket);
    talk->n_ended++;
    filled.opaque = ticket->opaque;
    fill_room(ticket, &filled);
    if (!ticket->done) {
        keep(talk, ticket, &filled);
        return;
    }
    ticket->done(&filled, filled.opaque);
    free(ticket);
}

void settle(
    struct talk *talk, struct ticket *ticket, enum sherd_end end, int error, const char *text)
{
    bool in_doubt = end == SHERD_END_NOT_STARTED && ticket->again;

    settle_with(talk, ticket,
        &(struct sherd_result){
            .id = ticket->id,
            .end = in_doubt ? SHERD_END_IN_DOUBT : end,
            .error = in_doubt ? -EOWNERDEAD : error,
            .shard = SHERD_NO_SHARD,
            .data = (uint8_t *)text,
            .len = text ? strlen(text) : 0,
        });
}

void settle_lost(struct talk *talk, struct ticket *ticket)
{
    if (methods_may_repeat(&talk->methods, ticket->method))
        settle_again(talk, ticket);
    else
        settle(talk, ticket, SHERD_END_IN_DOUBT, -EOWNERDEAD,
            "the gateway died and took along whether it was done");
}

void settle_again(struct talk *talk, struct ticket *ticket)
{
    ticket->again = true;
    ticket_back(&talk->tickets, ticket);
}

void settle_refused(struct talk *talk, struct ticket *ticket, const Sherd__Wire__Refused *refused)
{
    settle(talk, ticket, SHERD_END_NOT_STARTED, -(int)(refused->number & 0xfff), refused->text);
}

bool settle_lost_answer(struct talk *talk, struct ticket *ticket, const Sherd__Wire__End *end)
{
    bool lost = end->gone || end->kind == SHERD__WIRE__END_KIND__IN_DOUBT;

    if (!lost || ticket->repeated || ticket->state == TICKET_LINE ||
        !methods_may_repeat(&talk->methods, ticket->method))
        return false;
    ticket->repeated = true;
    settle_again(talk, ticket);
    return true;
}

/*
 * Callbacks may submit, which adds to the line alone: so what is out of line is walked from its
 * last, each step of which takes one off or leaves it for good.
 */
void settle_after_hello(struct talk *talk, bool resumed, bool same_gateway)
{
    struct ticket *ticket = talk->tickets.out.last;

    while (ticket) {
        struct ticket *before = ticket->prev;
        bool unsure = ticket->state == TICKET_UNSURE, had = ticket->state == TICKET_ACCEPTED;
        if (resumed && (unsure || (had && !same_gateway)))
            settle_again(talk, ticket);
        else if (!resumed && (unsure || had))
            settle_lost(talk, ticket);
        ticket = before;
    }
}

void settle_line(struct talk *talk, int64_t now_ns)
{
    struct ticket_table *tickets = &talk->tickets;
    struct ticket *ticket = tickets->line.first;
    int64_t first_ns = INT64_MAX;

    if (!ticket || (!talk->cancels_in_line && now_ns < tickets->first_deadline_ns))
        return;
    talk->cancels_in_line = false;
    tickets->first_deadline_ns = INT64_MAX; /* what a callback submits lowers it */
    while (ticket) {
        struct ticket *next = ticket->next;
        int64_t deadline_ns = ticket->deadline_ns;
        if (ticket->cancel)
            settle(talk, ticket, SHERD_END_CANCELLED, -ECANCELED, NULL);
        else if (deadline_ns <= now_ns)
            settle(talk, ticket, SHERD_END_EXPIRED, -ETIMEDOUT,
                "its deadline passed before it was sent");
        else if (deadline_ns < first_ns)
            first_ns = deadline_ns;
        ticket = next;
    }
    if (first_ns < tickets->first_deadline_ns)
        tickets->first_deadline_ns = first_ns;
}

void settle_late(struct talk *talk, int64_t now_ns)
{
    struct ticket_table *tickets = &talk->tickets;
    int64_t first_ns = INT64_MAX;

    if (tickets->out.n == 0 || now_ns < tickets->out_end_by_ns)
        return;
    tickets->out_end_by_ns = INT64_MAX; /* what a callback cancels lowers it */
    for (struct ticket *ticket = tickets->out.first, *next; ticket; ticket = next) {
        next = ticket->next;
        talk->ended_unheard |= ticket->end_by_ns <= now_ns && ticket->state == TICKET_SENT;
        if (ticket->end_by_ns > now_ns)
            first_ns = ticket->end_by_ns < first_ns ? ticket->end_by_ns : first_ns;
        else if (ticket->deadline_ns <= now_ns)
            settle(talk, ticket, SHERD_END_EXPIRED, -ETIMEDOUT,
                "its deadline passed, and the gateway has said nothing of it");
        else
            settle(talk, ticket, SHERD_END_CANCELLED, -ECANCELED,
                "it was cancelled, and the gateway has said nothing of it");
    }
    if (first_ns < tickets->out_end_by_ns)
        tickets->out_end_by_ns = first_ns;
}

void settle_untaken(struct talk *talk)
{
    struct ticket *ticket = talk->tickets.out.last;

    while (ticket) {
        struct ticket *before = ticket->prev;
        if (ticket->state == TICKET_SENT)
            ticket_back(&talk->tickets, ticket);
        ticket = before;
    }
}

void settle_behind(struct talk *talk, struct ticket *ticket, uint32_t retry_us)
{
    settle_with(talk, ticket,
        &(struct sherd_result){
            .id = ticket->id,
            .end = SHERD_END_NOT_STARTED,
            .error = -EAGAIN,
            .shard = SHERD_NO_SHARD,
            .retry_us = retry_us > 0 ? retry_us : BEHIND_RETRY_US,
        });
}

void settle_refuse(struct talk *talk)
{
    struct ticket *ticket = talk->tickets.line.first;
    uint64_t last_id = talk->last_id; /* not what callbacks submit now */

    while (ticket && talk->tickets.n_refuse > 0) {
        struct ticket *next = ticket->next;
        if (ticket->refuse && ticket->id <= last_id)
            settle_behind(talk, ticket, 0);
        ticket = next;
    }
}

void settle_all(struct talk *talk, int error)
{
    struct ticket_table *tickets = &talk->tickets;
    uint64_t last_id = talk->last_id; /* not what callbacks submit now */

    while (tickets->out.first)
        settle(talk, tickets->out.first, SHERD_END_IN_DOUBT, -EOWNERDEAD,
            "the gateway is gone, and with it whether it was done");
    for (struct ticket *ticket = tickets->line.first, *next; ticket; ticket = next) {
        next = ticket->next;
        if (ticket->id <= last_id)
            settle(talk, ticket, SHERD_END_NOT_STARTED, error, "the gateway is gone");
    }
}

/* ---- kept for who fetches them ---- */

struct ticket *talk_take_kept(struct talk *talk)
{
    struct ticket *ticket = talk->kept;

    if (!ticket)
        return NULL;
    talk->kept = ticket->next;
    if (!talk->kept)
        talk->kept_last = &talk->kept;
    return ticket;
}

void talk_free_kept(struct ticket *ticket)
{
    if (ticket->result.data != ticket->room)
        free(ticket->result.data);
    free(ticket);
}
