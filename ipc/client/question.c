/* SPDX-License-Identifier: MIT */
#include "ipc/client/question.h"

#include <errno.h>
#include <string.h>

nng_msg *question_pack(const struct question *question, const char *instance)
{
    Sherd__Wire__Watch watch = SHERD__WIRE__WATCH__INIT;
    Sherd__Wire__Drain drain = SHERD__WIRE__DRAIN__INIT;
    Sherd__Wire__Request request = SHERD__WIRE__REQUEST__INIT;
    nng_msg *msg;

    if (question->kind == QUESTION_WATCH) {
        watch.seen = question->seen;
        watch.wait_ms = question->wait_ms;
        request.body_case = SHERD__WIRE__REQUEST__BODY_WATCH;
        request.watch = &watch;
    } else {
        drain.instance = (char *)instance;
        drain.off = question->off;
        drain.limit_ms = question->wait_ms;
        request.body_case = SHERD__WIRE__REQUEST__BODY_DRAIN;
        request.drain = &drain;
    }
    if (nng_msg_alloc(&msg, sherd__wire__request__get_packed_size(&request)) != 0)
        return NULL;
    sherd__wire__request__pack(&request, nng_msg_body(msg));
    return msg;
}

static void take_status(struct sherd_status *status, const Sherd__Wire__StatusReply *told)
{
    *status = (struct sherd_status){.change = told->change,
        .uptime_ns = told->uptime_ns,
        .sessions = told->sessions,
        .requests_in_flight = told->requests_in_flight,
        .requests_accepted = told->requests_accepted,
        .requests_ended = told->requests_ended,
        .drain = (uint32_t)told->drain,
        .n_shards = told->shards};
    for (size_t i = 0; i < told->n_processes; i++) {
        const Sherd__Wire__Process *process = told->processes[i];
        status->deaths += process->deaths;
        status->n_shards_up += process->number_case == SHERD__WIRE__PROCESS__NUMBER_SHARD &&
                               strcmp(process->state, "up") == 0;
    }
}

void question_answer(struct question *question, const Sherd__Wire__Reply *reply, int error)
{
    bool is_watch = question->kind == QUESTION_WATCH;

    question->answered = true;
    question->error = error;
    if (!reply)
        return;
    if (reply->body_case == SHERD__WIRE__REPLY__BODY_ERROR) {
        question->error = -(int)(reply->error->number & 0xfff);
        question->text = strdup(reply->error->text);
    } else if (is_watch && reply->body_case == SHERD__WIRE__REPLY__BODY_STATUS) {
        take_status(&question->status, reply->status);
    } else if (is_watch || reply->body_case != SHERD__WIRE__REPLY__BODY_DRAIN) {
        question->error = -EPROTO;
    }
}
