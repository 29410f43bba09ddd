/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * handshakes - connections by TCP that nng has accepted, and not told anybody of yet
 *
 * Why:         nng tells of a connection when its greeting is over, and until then nobody can close
 *              it. In nng 1.5.2 a TLS handshake in which the other side falls silent never ends:
 *              its limit of 10 s cancels a write that is not under way. Each takes an fd and 33 KiB
 *              and more, and there would be no limit to them.
 * Use:         handshakes_start() before nng listens; handshakes_over() for each connection that
 *              nng tells of; handshakes_expire() when it says
 * Concurrency: any thread
 * Lifetime:    of the process: one table, for accept() is called by nng's threads, which know of
 *              none. That makes it the one variable of its kind here.
 */
#include <stdbool.h>
#include <stdint.h>
#include <nng/nng.h>

#define HANDSHAKE_LOOK_NS (INT64_C(1) * 1000000000) /* from one handshakes_expire() to the next */

/* begun: some handshake has, and handshakes_expire() is to be called in a while. Context: any
 * thread. */
void handshakes_start(void (*begun)(void *opaque), void *opaque);

/* Forgets them all; begun() is not called any more. */
void handshakes_stop(void);

/* That one is a connection now. */
void handshakes_over(const nng_sockaddr *from);

/* Ends those that take longer than HANDSHAKE_NS. When to call it again; INT64_MAX: when there is
 * one. */
int64_t handshakes_expire(int64_t now_ns);

/* Whether nng calls the accept() of this file. */
bool handshakes_stand(void);
