/* SPDX-License-Identifier: MIT */
#include "ipc/client/wire.h"

#include <errno.h>

static nng_msg *pack(const Sherd__Wire__Request *request)
{
    nng_msg *msg;

    if (nng_msg_alloc(&msg, sherd__wire__request__get_packed_size(request)) != 0)
        return NULL;
    sherd__wire__request__pack(request, nng_msg_body(msg));
    return msg;
}

nng_msg *wire_hello(const char *name, const uint8_t *session, size_t session_len,
    const uint8_t *token, size_t token_len)
{
    Sherd__Wire__Hello body = SHERD__WIRE__HELLO__INIT;
    body.version = PROTOCOL_VERSION;
    body.client = name ? (char *)name : program_invocation_short_name;
    body.session = (ProtobufCBinaryData){session_len, (uint8_t *)session};
    body.token = (ProtobufCBinaryData){token_len, (uint8_t *)token};
    Sherd__Wire__Request request = SHERD__WIRE__REQUEST__INIT;
    request.body_case = SHERD__WIRE__REQUEST__BODY_HELLO;
    request.hello = &body;
    return pack(&request);
}

nng_msg *wire_methods(void)
{
    Sherd__Wire__Methods body = SHERD__WIRE__METHODS__INIT;
    Sherd__Wire__Request request = SHERD__WIRE__REQUEST__INIT;
    request.body_case = SHERD__WIRE__REQUEST__BODY_METHODS;
    request.methods = &body;
    return pack(&request);
}

nng_msg *wire_next(const uint8_t *session, uint64_t ack, uint32_t wait_ms)
{
    Sherd__Wire__Next body = SHERD__WIRE__NEXT__INIT;
    body.session = (ProtobufCBinaryData){PROTOCOL_SESSION_LEN, (uint8_t *)session};
    body.ack = ack;
    body.wait_ms = wait_ms;
    Sherd__Wire__Request request = SHERD__WIRE__REQUEST__INIT;
    request.body_case = SHERD__WIRE__REQUEST__BODY_NEXT;
    request.next = &body;
    return pack(&request);
}

nng_msg *wire_cancel(uint64_t *ids, size_t n)
{
    Sherd__Wire__Cancel body = SHERD__WIRE__CANCEL__INIT;
    body.ids = ids;
    body.n_ids = n;
    Sherd__Wire__Request request = SHERD__WIRE__REQUEST__INIT;
    request.body_case = SHERD__WIRE__REQUEST__BODY_CANCEL;
    request.cancel = &body;
    return pack(&request);
}

void wire_batch_start(struct wire_batch *batch)
{
    batch->n = 0;
    batch->bytes = 0;
}

static uint64_t time_left(const struct ticket *ticket, int64_t now_ns)
{
    if (ticket->deadline_ns == INT64_MAX)
        return 0;
    return ticket->deadline_ns > now_ns ? (uint64_t)(ticket->deadline_ns - now_ns) : 1;
}

bool wire_batch_add(struct wire_batch *batch, const struct ticket *ticket, int64_t now_ns)
{
    size_t bytes = ticket->args_len + ticket->key_len;

    if (batch->n == PROTOCOL_BATCH_MAX ||
        (batch->n > 0 && batch->bytes + bytes > PROTOCOL_PAYLOAD_MAX))
        return false;
    Sherd__Wire__Submission *submission = &batch->submissions[batch->n];
    sherd__wire__submission__init(submission);
    submission->id = ticket->id;
    submission->method = (char *)ticket->method;
    submission->args = (ProtobufCBinaryData){ticket->args_len, (uint8_t *)ticket->args};
    submission->key = (ProtobufCBinaryData){ticket->key_len, (uint8_t *)ticket->key};
    submission->timeout_ns = time_left(ticket, now_ns);
    submission->urgent = ticket->urgent;
    submission->refuse = ticket->refuse;
    if (ticket->shard != SHERD_NO_SHARD) {
        submission->placement_case = SHERD__WIRE__SUBMISSION__PLACEMENT_SHARD;
        submission->shard = ticket->shard;
    }
    batch->pointers[batch->n++] = submission;
    batch->bytes += bytes;
    return true;
}

nng_msg *wire_batch_pack(struct wire_batch *batch)
{
    Sherd__Wire__SubmitMany body = SHERD__WIRE__SUBMIT_MANY__INIT;
    body.n_submissions = batch->n;
    body.submissions = batch->pointers;
    Sherd__Wire__Request request = SHERD__WIRE__REQUEST__INIT;
    request.body_case = SHERD__WIRE__REQUEST__BODY_SUBMIT_MANY;
    request.submit_many = &body;
    return pack(&request);
}
