/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * reply - answers to clients, packed
 *
 * Why:         what answers look like on the wire is known here alone.
 * Use:         each function ends the exchange. Where there is no memory for an answer, the
 *              connection is closed: the client starts again with what it knows.
 * Concurrency: owner loop
 */
#include <stdint.h>

#include "ipc/gateway/port.h"
#include "proto/sherd.pb-c.h"

struct ended;

void reply_send(struct exchange *exchange, const Sherd__Wire__Reply *reply);

/* error: -errno. The text is cut at 4,000 bytes. */
void reply_error(struct exchange *exchange, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* n ends, the first of them at `position`; follow ended->next. */
void reply_next(
    struct exchange *exchange, const struct ended *first, uint32_t n, uint64_t position);
