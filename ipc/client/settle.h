/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * settle - how a request ends in the client: its callback, once, and what is decided here alone
 *
 * Why:         an end comes from the gateway, from a deadline, a cancel, a lost session or the
 *              close of the client; each request has one of these.
 * Concurrency: one thread, inside talk_step(). Callbacks may submit and cancel.
 */
#include "ipc/client/talk.h"

/* Runs the callback with result and frees the ticket. */
void settle_with(struct talk *talk, struct ticket *ticket, const struct sherd_result *result);

/* The same for an end that nobody else told; one that may have run before is not "not started", but
 * in doubt. text may be NULL. */
void settle(
    struct talk *talk, struct ticket *ticket, enum sherd_end end, int error, const char *text);

/* The gateway that had it, or may have, is gone with its memory: submitted again if it may run
 * twice, else in doubt. */
void settle_lost(struct talk *talk, struct ticket *ticket);

/* Submitted again under its id: the gateway knows what it has of it. */
void settle_again(struct talk *talk, struct ticket *ticket);

/* Refused, and not for want of room: not started, unless it may have been accepted before. */
void settle_refused(struct talk *talk, struct ticket *ticket, const Sherd__Wire__Refused *refused);

/* The end may lack what the user wants, because a gateway died: true if the request is submitted
 * again for that, which its method must allow. */
bool settle_lost_answer(struct talk *talk, struct ticket *ticket, const Sherd__Wire__End *end);

/* The session is there again (resumed), or a new one was made; another gateway than before has lost
 * what it had accepted and not begun. */
void settle_after_hello(struct talk *talk, bool resumed, bool same_gateway);

/* In line: those to be cancelled, and those whose deadline has passed. */
void settle_line(struct talk *talk, int64_t now_ns);

/* With the gateway, and past their time: it tells nothing, or too late. */
void settle_late(struct talk *talk, int64_t now_ns);

/* The gateway has gone, and said before that all that it took has ended. */
void settle_untaken(struct talk *talk);

/* The gateway cannot take it now, and it does not wait. retry_us 0: nobody has said when it may. */
void settle_behind(struct talk *talk, struct ticket *ticket, uint32_t retry_us);

/* In line, those that do not wait there. */
void settle_refuse(struct talk *talk);

/* Nobody answers any more: not started, or in doubt. */
void settle_all(struct talk *talk, int error);
