/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * attach_wire - messages of the handshake, checked to the byte
 *
 * Why:         all that a client sends before it has anything comes through here.
 * Use:         attach_peek(), serve it, then attach_consume(): a request that nobody has answered
 *              lies in the socket still, and is the next gateway's.
 * Concurrency: owner loop; attach_check() is a pure function
 * Lifetime:    messages are the caller's; fds that come with one are closed
 * Not here:    what is granted (ipc/gateway/clients.h), the messages (proto/attach.h)
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/attach.h"

union attach_request {
    struct attach_head head;
    struct attach_hello hello;
    struct attach_open open;
};

/* Whether these bytes are a request; a copy of it, with a client's name that ends. 0; -EPROTO, and
 * *ret_why, a constant, says what is wrong. */
int attach_check(
    const void *bytes, size_t len, union attach_request *ret_request, const char **ret_why);

/* Looks at the next request. 1; 0: there is none; -EPROTO with *ret_why; -ECONNRESET: the
 * connection is over; -errno. */
int attach_peek(int fd, union attach_request *ret_request, const char **ret_why);

/* Takes it off. */
void attach_consume(int fd);

/* The other side has gone, whatever it had sent before. */
bool attach_is_over(int fd);

/* Ends the connection for all that hold it. What it had sent and nobody has read is thrown away:
 * else the other side would get an error in the place of the last answers. */
void attach_shut(int fd);

/* Bytes of answers that the other side has not read, as the kernel counts them. */
uint32_t attach_unread(int fd);

/* pass < 0: no fd goes with it. 0 or -errno. */
int attach_send(int fd, const void *message, size_t len, int pass);

/* What is to be said; the text is cut to its room. */
int attach_refuse(int fd, uint64_t serial, int error, uint32_t retry_ms, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
