/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * wire - the client's messages, packed
 *
 * Why:         the wire's format is known here alone; a message is packed once, into nng's memory.
 * Use:         wire_batch_start(); while wire_batch_add(); msg = wire_batch_pack()
 * Concurrency: one thread
 *
 * Each function returns a message to send, or NULL where there is no memory.
 */
#include <stdbool.h>
#include <stdint.h>
#include <nng/nng.h>

#include "ipc/client/ticket.h"
#include "proto/protocol.h"
#include "proto/sherd.pb-c.h"

nng_msg *wire_hello(const char *name, const uint8_t *session, size_t session_len,
    const uint8_t *token, size_t token_len);
nng_msg *wire_methods(void);
nng_msg *wire_next(const uint8_t *session, uint64_t ack, uint32_t wait_ms);
nng_msg *wire_cancel(uint64_t *ids, size_t n);

/* A submit_many in the making; it points into the tickets. */
struct wire_batch {
    size_t n;
    size_t bytes;
    Sherd__Wire__Submission submissions[PROTOCOL_BATCH_MAX];
    Sherd__Wire__Submission *pointers[PROTOCOL_BATCH_MAX];
};

void wire_batch_start(struct wire_batch *batch);

/* False: it is full, and the ticket begins the next one. */
bool wire_batch_add(struct wire_batch *batch, const struct ticket *ticket, int64_t now_ns);
nng_msg *wire_batch_pack(struct wire_batch *batch);
