/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/reply.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "ipc/gateway/session.h"

void reply_send(struct exchange *exchange, const Sherd__Wire__Reply *reply)
{
    nng_msg *msg;

    if (nng_msg_alloc(&msg, sherd__wire__reply__get_packed_size(reply)) != 0) {
        connection_close(exchange->connection);
        exchange_drop(exchange);
        return;
    }
    sherd__wire__reply__pack(reply, nng_msg_body(msg));
    exchange_reply(exchange, msg);
}

void reply_error(struct exchange *exchange, int error, const char *format, ...)
{
    char text[4000];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    Sherd__Wire__Error body = SHERD__WIRE__ERROR__INIT;
    body.number = (uint32_t)-error;
    body.text = text;
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;
    reply.body_case = SHERD__WIRE__REPLY__BODY_ERROR;
    reply.error = &body;
    reply_send(exchange, &reply);
}

static void fill_end(Sherd__Wire__End *end, const struct ended *ended)
{
    sherd__wire__end__init(end);
    end->id = ended->id;
    end->kind = (Sherd__Wire__EndKind)ended->kind;
    end->error = (uint32_t)-ended->error;
    if (ended->shard != UINT32_MAX) {
        end->runner_case = SHERD__WIRE__END__RUNNER_SHARD;
        end->shard = ended->shard;
    }
    end->gone = ended->gone;
    end->data.data = ended->data;
    end->data.len = ended->len;
}

void reply_next(struct exchange *exchange, const struct ended *first, uint32_t n, uint64_t position)
{
    Sherd__Wire__End *ends = calloc(n ? n : 1, sizeof(*ends));
    Sherd__Wire__End **pointers = calloc(n ? n : 1, sizeof(*pointers));

    if (ends && pointers) {
        for (uint32_t i = 0; i < n; i++, first = first->next) {
            fill_end(&ends[i], first);
            pointers[i] = &ends[i];
        }
        Sherd__Wire__NextReply body = SHERD__WIRE__NEXT_REPLY__INIT;
        body.first = position;
        body.n_ends = n;
        body.ends = pointers;
        Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;
        reply.body_case = SHERD__WIRE__REPLY__BODY_NEXT;
        reply.next = &body;
        reply_send(exchange, &reply);
    } else {
        connection_close(exchange->connection);
        exchange_drop(exchange);
    }
    free(pointers);
    free(ends);
}
