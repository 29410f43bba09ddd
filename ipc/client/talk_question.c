/* SPDX-License-Identifier: MIT */
/*
 * A question goes by the conversation's connection beside requests, one at a time. The answer to
 * one that was taken back, or asked again, is known by its number.
 */
#include <errno.h>

#include "ipc/client/talk_inside.h"

/* For an answer to a question, beyond the time that it is to wait there. */
#define QUESTION_MS 10000

void talk_ask(struct talk *talk, struct question *question)
{
    talk->question = question;
}

static bool is_asked(const struct talk *talk)
{
    return talk->question && talk->question->sent && !talk->question->answered;
}

void talk_send_question(struct talk *talk)
{
    struct question *question = talk->question;

    if (!question || question->sent || link_room(talk->link) == 0)
        return;
    nng_msg *msg = question_pack(question, talk->instance ? talk->instance : "");
    if (!msg) {
        question_answer(question, NULL, -ENOMEM);
        return;
    }
    question->sent = true;
    talk->question_connection = talk->connection_number;
    link_send(talk->link, LETTER_ASK, (void *)(uintptr_t)++talk->n_questions, msg,
        (int32_t)(question->kind == QUESTION_WATCH ? question->wait_ms : 0) + QUESTION_MS);
}

/* One whose connection broke is asked again. */
void talk_take_answer(
    struct talk *talk, const struct letter *letter, const Sherd__Wire__Reply *reply)
{
    bool is_late = (uintptr_t)letter->opaque != talk->n_questions || !is_asked(talk);

    if (is_late)
        return;
    if (reply && !talk_is_stale(reply)) {
        question_answer(talk->question, reply, 0);
    } else if (letter->result == -ETIMEDOUT) {
        question_answer(talk->question, NULL, -ETIMEDOUT);
    } else {
        talk->question->sent = false;
        talk_broken(talk, talk->question_connection);
    }
}
