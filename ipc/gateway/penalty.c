/* SPDX-License-Identifier: MIT */
/*
 * Who is charged with a crash, and how long its user waits, is the supervisor's word; it knocks at
 * each death, so this loop has turned by the time that a replacement lives.
 *
 * A session that is to end takes nothing more. What it has under way may end within GRACE_NS, which
 * begin when its last crash may be judged, for else that would be told as a cancel, and is
 * cancelled then; its connection is closed when its client has acknowledged all ends, after
 * SESSION_DRAIN_NS at the latest. Its token is refused as long as it is known: for SESSION_KEEP_NS.
 */
#include <errno.h>

#include "ipc/gateway/core.h"
#include "shard/blame.h"

#define GRACE_NS INT64_C(200000000)
#define LOOK_NS  INT64_C(50000000)

static void condemn(struct gateway *gateway, struct session *session, int64_t now_ns)
{
    session->condemned_ns = now_ns;
    log_line(gateway->env->log, LOG_LEVEL_WARNING, PENALTY_TEXT, session->number);
}

/* Returns when there is more to do. */
static int64_t end(struct gateway *gateway, struct session *session, int64_t now_ns)
{
    bool is_told = session->n_requests == 0 && !session->ends;

    if (now_ns >= session->condemned_ns + GRACE_NS)
        requests_cancel_all(&gateway->requests, session);
    else if (!is_told)
        return now_ns + LOOK_NS;
    if (!session->connection)
        return session->n_requests ? now_ns + LOOK_NS : INT64_MAX;
    if (!is_told && now_ns < session->condemned_ns + SESSION_DRAIN_NS)
        return now_ns + LOOK_NS;
    connection_close(session->connection);
    return INT64_MAX;
}

static int64_t look_at(struct gateway *gateway, struct session *session, int64_t now_ns)
{
    const struct segment *seg = gateway->env->segment;
    int64_t until_ns = blame_until_ns(seg, session->uid), next_ns = INT64_MAX;
    uint64_t origin = origin_of_session(session->number, 0);
    bool was_barred = session->barred_ns != 0;

    session->barred_ns = until_ns > now_ns ? until_ns : 0;
    if (session->barred_ns)
        next_ns = until_ns;
    else if (was_barred)
        requests_room(&gateway->requests, session);
    if (!session->condemned_ns && blame_crashes(seg, origin) >= BLAME_CRASHES_MAX) {
        if (!blame_is_settled(seg, origin))
            return now_ns + LOOK_NS;
        condemn(gateway, session, now_ns);
    }
    if (session->condemned_ns) {
        int64_t end_ns = end(gateway, session, now_ns);
        next_ns = end_ns < next_ns ? end_ns : next_ns;
    }
    return next_ns;
}

void penalty_turn(struct gateway *gateway)
{
    uint64_t n = blame_seen(gateway->env->segment);
    int64_t next_ns = INT64_MAX;

    if (n == gateway->blame_seen && !gateway->penalty_due)
        return;
    gateway->blame_seen = n;
    gateway->penalty_due = false;
    for (uint32_t i = 0; i < gateway->sessions.n; i++) {
        int64_t ns = look_at(gateway, gateway->sessions.all[i], aio_clock_ns());
        next_ns = ns < next_ns ? ns : next_ns;
    }
    if (next_ns != INT64_MAX)
        timer_mod_ns(&gateway->penalty_timer, next_ns);
}

void penalty_meet(struct gateway *gateway, struct session *session)
{
    int64_t next_ns = look_at(gateway, session, aio_clock_ns());

    if (next_ns != INT64_MAX)
        timer_mod_anticipate_ns(&gateway->penalty_timer, next_ns);
}

static void on_timer(void *opaque)
{
    struct gateway *gateway = opaque;

    gateway->penalty_due = true; /* the loop turns, and penalty_turn() follows */
}

void penalty_start(struct gateway *gateway)
{
    aio_timer_init(gateway->ctx, &gateway->penalty_timer, on_timer, gateway);
}

void penalty_stop(struct gateway *gateway)
{
    timer_del(&gateway->penalty_timer);
}
