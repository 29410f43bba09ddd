/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * protocol - the numbers that both ends of the control plane must agree on
 *
 * Why:         sherd.proto says what fields there are, not how long and how many.
 * Not here:    what only one end decides (ipc/gateway/limits.h)
 */
#include <stddef.h>

#define PROTOCOL_VERSION 1u
#define PROTOCOL_PAYLOAD_MAX \
    ((size_t)1024 * 1024)          /* arguments of a request; of a batch; an answer */
#define PROTOCOL_BATCH_MAX   1024u /* submissions in a message, ends in a message */
#define PROTOCOL_KEY_MAX     ((size_t)4096)
#define PROTOCOL_TOKEN_MAX   ((size_t)4096) /* the secret of a token file */
#define PROTOCOL_SESSION_LEN ((size_t)16)
#define PROTOCOL_WAIT_MS_MAX 60000u

/*
 * Longest message. What carries the most is a batch: payload, and for each submission a method
 * name, some 40 bytes of other fields and a key; keys count as payload. Or a `next`: payload, one
 * more answer, and 40 bytes an end.
 */
#define PROTOCOL_MESSAGE_MAX ((size_t)4 * 1024 * 1024)

/* What unpacking one message may take: a submission of two bytes becomes a struct of a hundred. */
#define PROTOCOL_UNPACKED_MAX ((size_t)16 * 1024 * 1024)

#define PROTOCOL_SOCKET "gateway" /* in the runtime directory of an instance */
