/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * limits - what the gateway takes at most, so that its memory is bounded whatever clients do
 *
 * Reaching a limit is a refusal with a number, never a loss: see docs/limits.md, which lists them
 * for people, with the tests that reach them. Together: 64 MiB of arguments and 128 MiB of answers
 * for all clients, 16 MiB for the message being unpacked, and a few hundred bytes for each request,
 * connection and session. On top, a connection may have sent a part of a message: up to 4 MiB each,
 * 64 MiB for all who have not shown the token.
 */
#include <stdint.h>

#define LIMIT_LOCAL           2048u /* connections by the Unix socket */
#define LIMIT_REMOTE          1024u /* connections by tcp */
#define LIMIT_STRANGERS       16u   /* of those, without a welcome; one more ends the oldest */
#define LIMIT_HANDSHAKES      256u  /* and before nng tells of one; one more ends the oldest */
#define LIMIT_SESSIONS        1024u
#define LIMIT_ARGS_BYTES      (UINT64_C(64) << 20)  /* of requests that have not ended */
#define LIMIT_ANSWERS_SESSION (UINT64_C(8) << 20)   /* beyond it no request of it is started */
#define LIMIT_ANSWERS_BYTES   (UINT64_C(128) << 20) /* beyond it, of none that holds more than: */
#define LIMIT_ANSWERS_SMALL   (UINT64_C(64) << 10)
#define LIMIT_NEXTS_SESSION   4u /* `next` messages that wait; one more sends the oldest back */
#define LIMIT_REPLY_BYTES     (1024u * 1024) /* ends in one reply, the last of them apart */
#define LIMIT_ID_RANGES       4096u

#define SESSION_KEEP_NS  (INT64_C(60) * 1000000000) /* after its connection is gone */
#define SESSION_DRAIN_NS (INT64_C(2) * 1000000000)  /* for clients to fetch the last ends */
#define STRANGER_NS      (INT64_C(5) * 1000000000)  /* for a remote connection to be welcome */
#define HANDSHAKE_NS     (INT64_C(10) * 1000000000) /* as long as nng means to give it */
#define ANSWER_TAKE_MS   5000 /* an answer not taken in this time closes its connection */

#define EXCHANGES_SPARE 64u   /* contexts that are ready to receive */
#define EXCHANGES_MAX   8192u /* all sessions' waiting `next`, and more */
#define MESSAGES_A_TURN 32u
