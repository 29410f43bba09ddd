/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * talk_inside - what talk.c and the parts of a conversation know of each other: submissions.c,
 *               cancels.c, talk_question.c
 *
 * Concurrency: one thread
 */
#include "ipc/client/talk.h"

enum letter_kind {
    LETTER_HELLO,
    LETTER_METHODS,
    LETTER_BATCH,
    LETTER_NEXT,
    LETTER_CANCEL,
    LETTER_ASK
};

/* The reply says that its connection has no session. NULL: it does not. */
bool talk_is_stale(const Sherd__Wire__Reply *reply);

/* A letter says that its connection is no longer good. */
void talk_broken(struct talk *talk, uint64_t connection_number);

/* It came by the connection of the latest hello that was answered. */
bool talk_is_of_this_connection(const struct talk *talk, const struct letter *letter);

/* Sends the question, where there is one that was not sent. Only in phase READY. */
void talk_send_question(struct talk *talk);

/* reply: NULL: there is none. */
void talk_take_answer(
    struct talk *talk, const struct letter *letter, const Sherd__Wire__Reply *reply);
