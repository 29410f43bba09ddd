/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/session.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "ipc/gateway/reply.h"
#include "ipc/client/token.h"

/*
 * The kept ends of a session, as one list:
 *
 *     ends (first_position)              unsent (unsent_position)
 *       |  sent, not acknowledged          |  not sent
 *       v                                  v
 *       o -> o -> o -> o -> o -> o  ->     o -> o -> o -> NULL
 *
 * Acknowledging frees from the left, a reply moves `unsent` to the right, a new connection moves it
 * back to `ends`. Ends of one phase of the loop go out together: the flush bottom half answers the
 * waiting nexts of all sessions that got some, the oldest next first.
 */

void ended_free(struct ended *ended)
{
    if (ended)
        free(ended->data);
    free(ended);
}

uint64_t ended_cost(const struct ended *ended)
{
    return sizeof(*ended) + ended->len;
}

void session_charge(struct session *session, int64_t bytes)
{
    session->answer_bytes += (uint64_t)bytes;
    session->sessions->answer_bytes += (uint64_t)bytes;
}

/* ---- waiting nexts ---- */

static struct exchange *unpark(struct waiting_next *waiting)
{
    struct exchange *exchange = waiting->exchange;

    timer_del(&waiting->timer);
    waiting->exchange = NULL;
    return exchange;
}

static struct waiting_next *oldest_waiting(struct session *session)
{
    struct waiting_next *oldest = NULL;

    for (uint32_t i = 0; i < LIMIT_NEXTS_SESSION; i++) {
        struct waiting_next *waiting = &session->nexts[i];
        if (waiting->exchange && (!oldest || waiting->order < oldest->order))
            oldest = waiting;
    }
    return oldest;
}

static struct waiting_next *free_waiting(struct session *session)
{
    for (uint32_t i = 0; i < LIMIT_NEXTS_SESSION; i++)
        if (!session->nexts[i].exchange)
            return &session->nexts[i];
    return NULL;
}

static void answer_next(struct session *session, struct exchange *exchange, uint32_t max_ends)
{
    struct ended *first;
    uint64_t position;
    uint32_t n = session_take(session, max_ends, &first, &position);

    reply_next(exchange, first, n, position);
}

static void answer_waiting(struct session *session)
{
    while (session->unsent) {
        struct waiting_next *waiting = oldest_waiting(session);
        if (!waiting)
            return;
        uint32_t max_ends = waiting->max_ends;
        answer_next(session, unpark(waiting), max_ends);
    }
}

static void on_waited(void *opaque)
{
    struct waiting_next *waiting = opaque;

    answer_next(waiting->session, unpark(waiting), waiting->max_ends);
}

static void on_flush(void *opaque)
{
    struct sessions *sessions = opaque;

    while (sessions->dirty) {
        struct session *session = sessions->dirty;
        sessions->dirty = session->next_dirty;
        session->dirty = false;
        answer_waiting(session);
    }
}

static void mark_dirty(struct session *session)
{
    struct sessions *sessions = session->sessions;

    if (session->dirty)
        return;
    session->dirty = true;
    session->next_dirty = sessions->dirty;
    sessions->dirty = session;
    bh_schedule(sessions->flush);
}

void session_next(
    struct session *session, struct exchange *exchange, uint32_t max_ends, uint32_t wait_ms)
{
    if (max_ends == 0 || max_ends > PROTOCOL_BATCH_MAX)
        max_ends = PROTOCOL_BATCH_MAX;
    if (wait_ms > PROTOCOL_WAIT_MS_MAX)
        wait_ms = PROTOCOL_WAIT_MS_MAX;
    if (session->unsent || wait_ms == 0) {
        answer_next(session, exchange, max_ends);
        return;
    }
    struct waiting_next *waiting = free_waiting(session);
    if (!waiting) {
        waiting = oldest_waiting(session);
        answer_next(session, unpark(waiting), waiting->max_ends);
    }
    timer_mod_ns(&waiting->timer, aio_clock_ns() + (int64_t)wait_ms * 1000000);
    waiting->exchange = exchange;
    waiting->max_ends = max_ends;
    waiting->order = session->sessions->next_order++;
}

/* ---- ends ---- */

void session_append(struct session *session, struct ended *ended)
{
    ended->next = NULL;
    *session->ends_last = ended;
    session->ends_last = &ended->next;
    if (!session->unsent)
        session->unsent = ended;
    session->n_ends++;
    session->sessions->n_ends++;
    session_charge(session, (int64_t)ended_cost(ended));
    mark_dirty(session);
}

static void drop_first_end(struct session *session)
{
    struct ended *ended = session->ends;

    if (session->unsent == ended) {
        session->unsent = ended->next;
        session->unsent_position++;
    }
    session->ends = ended->next;
    if (!session->ends)
        session->ends_last = &session->ends;
    session->first_position++;
    session->n_ends--;
    session->sessions->n_ends--;
    session_charge(session, -(int64_t)ended_cost(ended));
    ended_free(ended);
}

int session_ack(struct session *session, uint64_t position)
{
    /* What went out on an earlier connection may be acknowledged on this one. */
    if (position >= session->first_position + session->n_ends)
        return -EINVAL;
    if (position < session->first_position)
        return 0;
    while (session->first_position <= position)
        drop_first_end(session);
    session->sessions->config.room(session, session->sessions->config.opaque);
    return 0;
}

uint32_t session_take(
    struct session *session, uint32_t max_ends, struct ended **ret_first, uint64_t *ret_position)
{
    uint64_t bytes = 0;
    uint32_t n = 0;

    *ret_first = session->unsent;
    *ret_position = session->unsent_position;
    while (session->unsent && n < max_ends && bytes < LIMIT_REPLY_BYTES) {
        bytes += session->unsent->len;
        session->unsent = session->unsent->next;
        n++;
    }
    session->unsent_position += n;
    return n;
}

/* ---- connections ---- */

static void rearm_expiry(struct sessions *sessions)
{
    int64_t first = INT64_MAX;

    for (uint32_t i = 0; i < sessions->n; i++) {
        const struct session *session = sessions->all[i];
        if (!session->connection && session->gone_ns + SESSION_KEEP_NS < first)
            first = session->gone_ns + SESSION_KEEP_NS;
    }
    if (first == INT64_MAX)
        timer_del(&sessions->expiry);
    else
        timer_mod_ns(&sessions->expiry, first);
}

void session_detach(struct session *session)
{
    if (!session->connection)
        return;
    for (uint32_t i = 0; i < LIMIT_NEXTS_SESSION; i++)
        if (session->nexts[i].exchange)
            exchange_drop(unpark(&session->nexts[i]));
    session->connection->session = NULL;
    session->connection = NULL;
    session->gone_ns = aio_clock_ns();
    session->unsent = session->ends;
    session->unsent_position = session->first_position;
    session->sessions->n_attached--;
    if (!timer_pending(&session->sessions->expiry))
        rearm_expiry(session->sessions);
}

void session_attach(struct session *session, struct connection *connection)
{
    struct session *other = connection->session;

    if (other)
        session_detach(other);
    session_detach(session);
    session->connection = connection;
    connection->session = session;
    session->sessions->n_attached++;
    session->sessions->config.room(session, session->sessions->config.opaque);
}

/* ---- the table ---- */

static void take_off_dirty(struct session *session)
{
    struct session **link = &session->sessions->dirty;

    while (*link && *link != session)
        link = &(*link)->next_dirty;
    if (*link)
        *link = session->next_dirty;
}

static void end_session(struct sessions *sessions, uint32_t at)
{
    struct session *session = sessions->all[at];

    session_detach(session);
    sessions->config.abandon(session, sessions->config.opaque);
    while (session->ends)
        drop_first_end(session);
    if (session->dirty)
        take_off_dirty(session);
    sessions->all[at] = sessions->all[--sessions->n];
    idset_deinit(&session->ids);
    free(session->lines);
    free(session);
}

static void on_expiry(void *opaque)
{
    struct sessions *sessions = opaque;
    int64_t now = aio_clock_ns();

    for (uint32_t i = sessions->n; i > 0; i--) {
        const struct session *session = sessions->all[i - 1];
        if (!session->connection && session->gone_ns + SESSION_KEEP_NS <= now)
            end_session(sessions, i - 1);
    }
    rearm_expiry(sessions);
}

/* Makes room for one more. */
static bool evict(struct sessions *sessions)
{
    uint32_t victim = UINT32_MAX;

    for (uint32_t i = 0; i < sessions->n; i++) {
        const struct session *session = sessions->all[i];
        if (session->connection || session->n_requests > 0)
            continue;
        if (victim == UINT32_MAX || session->gone_ns < sessions->all[victim]->gone_ns)
            victim = i;
    }
    if (victim == UINT32_MAX)
        return false;
    end_session(sessions, victim);
    return true;
}

static struct session *new_session(struct sessions *sessions)
{
    struct session *session = calloc(1, sizeof(*session));

    if (!session)
        return NULL;
    session->lines = calloc(sessions->config.n_lines, sizeof(struct line));
    if (!session->lines ||
        getrandom(session->token, sizeof(session->token), 0) != (ssize_t)sizeof(session->token)) {
        free(session->lines);
        free(session);
        return NULL;
    }
    session->sessions = sessions;
    session->gone_ns = aio_clock_ns();
    session->ends_last = &session->ends;
    session->first_position = session->unsent_position = 1;
    for (uint32_t i = 0; i < sessions->config.n_lines; i++)
        session->lines[i].session = session;
    for (uint32_t i = 0; i < LIMIT_NEXTS_SESSION; i++) {
        session->nexts[i].session = session;
        aio_timer_init(
            sessions->config.ctx, &session->nexts[i].timer, on_waited, &session->nexts[i]);
    }
    return session;
}

int sessions_add(struct sessions *sessions, struct session **ret_session)
{
    if (sessions->n == LIMIT_SESSIONS && !evict(sessions))
        return -EAGAIN;
    struct session *session = new_session(sessions);
    if (!session)
        return -ENOMEM;
    session->number = ++sessions->n_made;
    sessions->all[sessions->n++] = session;
    *ret_session = session;
    return 0;
}

struct session *sessions_find(struct sessions *sessions, const uint8_t *token, size_t len)
{
    struct session *found = NULL;

    if (len != PROTOCOL_SESSION_LEN)
        return NULL;
    for (uint32_t i = 0; i < sessions->n; i++)
        if (token_equal(sessions->all[i]->token, len, token, len))
            found = sessions->all[i];
    return found;
}

bool sessions_owe(const struct sessions *sessions)
{
    for (uint32_t i = 0; i < sessions->n; i++)
        if (sessions->all[i]->connection && sessions->all[i]->ends)
            return true;
    return false;
}

int sessions_init(struct sessions *sessions, const struct sessions_config *config)
{
    *sessions = (struct sessions){.config = *config};
    aio_timer_init(config->ctx, &sessions->expiry, on_expiry, sessions);
    sessions->flush = aio_bh_new(config->ctx, on_flush, sessions);
    return sessions->flush ? 0 : -ENOMEM;
}

void sessions_deinit(struct sessions *sessions)
{
    while (sessions->n > 0)
        end_session(sessions, sessions->n - 1);
    timer_del(&sessions->expiry);
    bh_delete(sessions->flush);
    sessions->flush = NULL;
}
