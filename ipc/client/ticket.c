/* SPDX-License-Identifier: MIT */
#include "ipc/client/ticket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/client/transport.h"

#define BUCKETS_MIN 256u

/* Ids count up, so their low bits spread them evenly. */
static struct ticket **bucket_of(const struct ticket_table *table, uint64_t id)
{
    return &table->buckets[id & (table->n_buckets - 1)];
}

static int grow(struct ticket_table *table)
{
    struct ticket_table bigger = {
        .n_buckets = table->n_buckets ? table->n_buckets * 2 : BUCKETS_MIN};

    bigger.buckets = calloc(bigger.n_buckets, sizeof(struct ticket *));
    if (!bigger.buckets)
        return -ENOMEM;
    for (size_t i = 0; i < table->n_buckets; i++) {
        while (table->buckets[i]) {
            struct ticket *ticket = table->buckets[i];
            struct ticket **bucket = bucket_of(&bigger, ticket->id);
            table->buckets[i] = ticket->hash_next;
            ticket->hash_next = *bucket;
            *bucket = ticket;
        }
    }
    free(table->buckets);
    table->buckets = bigger.buckets;
    table->n_buckets = bigger.n_buckets;
    return 0;
}

/* before: NULL to be the first. */
static void insert(struct ticket_list *list, struct ticket *before, struct ticket *ticket)
{
    ticket->prev = before;
    ticket->next = before ? before->next : list->first;
    *(before ? &before->next : &list->first) = ticket;
    *(ticket->next ? &ticket->next->prev : &list->last) = ticket;
    list->n++;
}

static void take_out(struct ticket_list *list, struct ticket *ticket)
{
    if (ticket->prev)
        ticket->prev->next = ticket->next;
    else
        list->first = ticket->next;
    if (ticket->next)
        ticket->next->prev = ticket->prev;
    else
        list->last = ticket->prev;
    list->n--;
}

static void take_out_of_list(struct ticket_table *table, struct ticket *ticket)
{
    table->n_refuse -= ticket->state == TICKET_LINE && ticket->refuse;
    if (ticket == table->last_urgent)
        table->last_urgent = ticket->prev;
    take_out(ticket->state == TICKET_LINE ? &table->line : &table->out, ticket);
}

static void insert_in_line(struct ticket_table *table, struct ticket *before, struct ticket *ticket)
{
    if (ticket->urgent && before == table->last_urgent)
        table->last_urgent = ticket;
    table->n_refuse += ticket->refuse;
    insert(&table->line, before, ticket);
}

static void note_deadline(struct ticket_table *table, int64_t deadline_ns)
{
    if (table->line.n == 0 || deadline_ns < table->first_deadline_ns)
        table->first_deadline_ns = deadline_ns;
}

static struct ticket *copy_request(const struct sherd_request *request)
{
    size_t method_bytes = strlen(request->method) + 1;
    size_t key_len = request->key ? request->key_len : 0;
    struct ticket *ticket = malloc(sizeof(*ticket) + method_bytes + key_len + request->args_len);

    if (!ticket)
        return NULL;
    uint8_t *tail = (uint8_t *)(ticket + 1);
    *ticket = (struct ticket){
        .shard = request->flags & SHERD_TO_SHARD ? request->shard : SHERD_NO_SHARD,
        .urgent = request->flags & SHERD_URGENT,
        .refuse = request->flags & SHERD_REFUSE,
        .room = request->room,
        .room_len = request->room_len,
        .args_len = request->args_len,
        .key_len = key_len,
        .method = (const char *)tail,
        .key = tail + method_bytes,
        .args = tail + method_bytes + key_len,
    };
    memcpy(tail, request->method, method_bytes);
    if (key_len > 0)
        memcpy(tail + method_bytes, request->key, key_len);
    if (request->args_len > 0)
        memcpy(tail + method_bytes + key_len, request->args, request->args_len);
    return ticket;
}

int ticket_new(struct ticket_table *table, uint64_t id, const struct sherd_request *request,
    int64_t deadline_ns, struct ticket **ret_ticket)
{
    if (table->line.n + table->out.n >= table->n_buckets && grow(table) < 0)
        return -ENOMEM;
    struct ticket *ticket = copy_request(request);
    if (!ticket)
        return -ENOMEM;
    ticket->id = id;
    ticket->deadline_ns = deadline_ns;
    ticket->state = TICKET_LINE;
    ticket->hash_next = *bucket_of(table, id);
    *bucket_of(table, id) = ticket;
    note_deadline(table, deadline_ns);
    insert_in_line(table, ticket->urgent ? table->last_urgent : table->line.last, ticket);
    *ret_ticket = ticket;
    return 0;
}

struct ticket *ticket_find(const struct ticket_table *table, uint64_t id)
{
    struct ticket *ticket = table->n_buckets > 0 ? *bucket_of(table, id) : NULL;

    while (ticket && ticket->id != id)
        ticket = ticket->hash_next;
    return ticket;
}

void ticket_end_by(struct ticket_table *table, struct ticket *ticket, int64_t when_ns)
{
    if (when_ns < ticket->end_by_ns)
        ticket->end_by_ns = when_ns;
    if (when_ns < table->out_end_by_ns)
        table->out_end_by_ns = when_ns;
}

void ticket_out(struct ticket_table *table, struct ticket *ticket, enum ticket_state state)
{
    take_out_of_list(table, ticket);
    ticket->state = state;
    ticket->end_by_ns = INT64_MAX;
    if (table->out.n == 0)
        table->out_end_by_ns = INT64_MAX;
    if (ticket->deadline_ns < INT64_MAX - REQUEST_LATE_NS)
        ticket_end_by(table, ticket, ticket->deadline_ns + REQUEST_LATE_NS);
    insert(&table->out, table->out.last, ticket);
}

void ticket_back(struct ticket_table *table, struct ticket *ticket)
{
    take_out_of_list(table, ticket);
    ticket->state = TICKET_LINE;
    note_deadline(table, ticket->deadline_ns);
    insert_in_line(table, ticket->urgent ? NULL : table->last_urgent, ticket);
}

void ticket_remove(struct ticket_table *table, struct ticket *ticket)
{
    struct ticket **link = bucket_of(table, ticket->id);

    while (*link != ticket)
        link = &(*link)->hash_next;
    *link = ticket->hash_next;
    take_out_of_list(table, ticket);
}

void ticket_free(struct ticket_table *table, struct ticket *ticket)
{
    ticket_remove(table, ticket);
    free(ticket);
}

void ticket_table_deinit(struct ticket_table *table)
{
    while (table->line.first)
        ticket_free(table, table->line.first);
    while (table->out.first)
        ticket_free(table, table->out.first);
    free(table->buckets);
    *table = (struct ticket_table){};
}
