/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * submissions - requests on their way to the gateway, in batches, and what it says of each
 *
 * Why:         a ticket in state SENT is in one message under way, and leaves that state by what
 *              becomes of the message.
 * Use:         submissions_send() in phase READY; the letter of each batch goes to
 *              submissions_answered() or, at the talk's end, to submissions_drop(): they free it
 * Concurrency: one thread, inside talk_step()
 * Not here:    ends (settle.h), the wire (wire.h)
 */
#include "ipc/client/talk.h"

struct sent_batch;

/* What is in line goes to the gateway, as far as that, the window and the link have room. */
void submissions_send(struct talk *talk, int64_t now_ns);

/* letter: of kind LETTER_BATCH. reply: NULL: there is none, and the gateway may have the batch. */
void submissions_answered(
    struct talk *talk, const struct letter *letter, const Sherd__Wire__Reply *reply);

/* No gateway has seen it: in line again. Its letter comes yet. */
void submissions_take_back(struct talk *talk, struct sent_batch *batch);

/* The talk ends, and its tickets with it. */
void submissions_drop(struct sent_batch *batch);
