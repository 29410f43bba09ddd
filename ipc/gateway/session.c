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

/* While it is kept. */
static uint64_t cost_of(const struct ended *ended)
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

static void say_farewell(struct exchange *exchange)
{
    reply_error(exchange, -ESHUTDOWN,
        "this gateway leaves: what it has not answered it has not taken, and will not");
}

static bool owes_nothing(const struct session *session)
{
    return !session->ends && session->n_requests == 0;
}

void sessions_farewell(struct sessions *sessions)
{
    struct waiting_next *waiting;

    sessions->leaving = true;
    for (uint32_t i = 0; i < sessions->n; i++)
        while (owes_nothing(sessions->all[i]) && (waiting = oldest_waiting(sessions->all[i])))
            say_farewell(unpark(waiting));
}

void session_next(
    struct session *session, struct exchange *exchange, uint32_t max_ends, uint32_t wait_ms)
{
    if (session->sessions->leaving && owes_nothing(session)) {
        say_farewell(exchange);
        return;
    }
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
    fates_place(
        session->sessions->config.fates, ended->fate, session->first_position + session->n_ends);
    ended->next = NULL;
    *session->ends_last = ended;
    session->ends_last = &ended->next;
    if (!session->unsent)
        session->unsent = ended;
    session->n_ends++;
    session->sessions->n_ends++;
    session_charge(session, (int64_t)cost_of(ended));
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
    session_charge(session, -(int64_t)cost_of(ended));
    ended_free(ended);
}

int session_ack(struct session *session, uint64_t position)
{
    /* What went out on an earlier connection may be acknowledged on this one. */
    if (position >= session->first_position + session->n_ends)
        return -EINVAL;
    if (position < session->first_position)
        return 0;
    fates_ack(session->sessions->config.fates, session->row, position);
    while (session->first_position <= position) {
        fates_settle(session->sessions->config.fates, session->ends->fate);
        drop_first_end(session);
    }
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
    session->uid = connection->uid;
    fates_set_user(session->sessions->config.fates, session->row, connection->uid);
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

static void free_session(struct session *session)
{
    idset_deinit(&session->ids);
    free(session->lines);
    free(session);
}

/* Out of this process: what the fates say of it stays. */
static void remove_session(struct sessions *sessions, uint32_t at)
{
    struct session *session = sessions->all[at];

    session_detach(session);
    sessions->config.abandon(session, sessions->config.opaque);
    while (session->ends)
        drop_first_end(session);
    if (session->dirty)
        take_off_dirty(session);
    sessions->by_row[session->row] = NULL;
    sessions->all[at] = sessions->all[--sessions->n];
    free_session(session);
}

static void end_session(struct sessions *sessions, uint32_t at)
{
    uint32_t row = sessions->all[at]->row;

    remove_session(sessions, at);
    fates_drop_session(sessions->config.fates, row);
    sessions->n_over++;
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
    if (!session->lines) {
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

static void enter(struct sessions *sessions, struct session *session, uint32_t row)
{
    const struct session_row *at = fates_row(sessions->config.fates, row);

    session->row = row;
    session->number = at->number;
    session->uid = at->uid;
    memcpy(session->token, at->token, sizeof(session->token));
    sessions->by_row[row] = session;
    sessions->all[sessions->n++] = session;
}

static int make_row(struct sessions *sessions, uint32_t *ret_row)
{
    uint8_t token[PROTOCOL_SESSION_LEN];

    if (getrandom(token, sizeof(token), 0) != (ssize_t)sizeof(token))
        return -ENOMEM;
    int r = fates_add_session(sessions->config.fates, token, ret_row);
    while (r == -EAGAIN && evict(sessions))
        r = fates_add_session(sessions->config.fates, token, ret_row);
    return r;
}

int sessions_add(struct sessions *sessions, struct session **ret_session)
{
    struct session *session = new_session(sessions);
    uint32_t row;

    if (!session)
        return -ENOMEM;
    int r = make_row(sessions, &row);
    if (r < 0) {
        free_session(session);
        return r;
    }
    enter(sessions, session, row);
    *ret_session = session;
    return 0;
}

/* ---- what a predecessor left ---- */

static struct ended *remembered_end(const struct fate *fate, uint32_t at)
{
    struct ended *ended = calloc(1, sizeof(*ended));

    if (!ended)
        return NULL;
    *ended = (struct ended){.id = fate->id,
        .kind = fate->end,
        .error = fate->error,
        .shard = fate->shard,
        .fate = at,
        .gone = fate->len > FATE_ANSWER_BYTES};
    if (fate->len == 0 || ended->gone)
        return ended;
    ended->data = malloc(fate->len);
    if (!ended->data) {
        free(ended);
        return NULL;
    }
    memcpy(ended->data, fate->answer, fate->len);
    ended->len = fate->len;
    return ended;
}

int session_tell_again(struct session *session, uint32_t fate)
{
    struct fates *fates = session->sessions->config.fates;
    struct ended *ended = remembered_end(fates_at(fates, fate), fate);

    if (!ended)
        return -ENOMEM;
    int r = fates_unsettle(fates, fate);
    if (r < 0)
        ended_free(ended);
    else
        session_append(session, ended);
    return r;
}

/* By session, and there in the order in which their ends were told; those that were not come
 * last. */
struct place {
    uint32_t row, fate;
    uint64_t position;
};

static int compare_places(const void *one, const void *other)
{
    const struct place *a = one, *b = other;

    if (a->row != b->row)
        return a->row < b->row ? -1 : 1;
    if (a->position != b->position)
        return a->position < b->position ? -1 : 1;
    return a->fate < b->fate ? -1 : a->fate > b->fate;
}

static size_t list_places(const struct fates *fates, struct place *ret_places)
{
    size_t n = 0;

    for (uint32_t at = 0; at < fates->n_all; at++) {
        const struct fate *fate = fates_at(fates, at);
        if (fates_row_of(fates, at) == FATE_NONE || fate_state(fate->mark) != FATE_ENDED)
            continue;
        ret_places[n++] = (struct place){.row = fates_row_of(fates, at),
            .fate = at,
            .position = fate->position ? fate->position : UINT64_MAX};
    }
    qsort(ret_places, n, sizeof(*ret_places), compare_places);
    return n;
}

static int inherit_end(struct session *session, const struct place *place)
{
    struct fates *fates = session->sessions->config.fates;
    const struct fate *fate = fates_at(fates, place->fate);

    if (idset_add(&session->ids, fate->id) < 0)
        return -ENOMEM;
    if (place->position < session->first_position) {
        fates_settle(fates, place->fate);
        return 0;
    }
    struct ended *ended = remembered_end(fate, place->fate);
    if (!ended)
        return -ENOMEM;
    session_append(session, ended);
    return 0;
}

static int inherit_rows(struct sessions *sessions)
{
    const struct fates *fates = sessions->config.fates;

    for (uint32_t row = 0; row < fates->n_rows; row++) {
        const struct session_row *at = fates_row(fates, row);
        if (at->number == 0)
            continue;
        struct session *session = new_session(sessions);
        if (!session)
            return -ENOMEM;
        enter(sessions, session, row);
        idset_raise(&session->ids, at->floor);
        session->first_position = session->unsent_position = at->acked + 1;
    }
    rearm_expiry(sessions);
    return 0;
}

int sessions_inherit(struct sessions *sessions)
{
    const struct fates *fates = sessions->config.fates;
    struct place *places = calloc(fates->n_all, sizeof(*places));
    int r = places ? inherit_rows(sessions) : -ENOMEM;
    size_t n = r == 0 ? list_places(fates, places) : 0;

    for (size_t i = 0; r == 0 && i < n; i++)
        r = inherit_end(sessions->by_row[places[i].row], &places[i]);
    free(places);
    return r;
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
    sessions->by_row = calloc(config->fates->n_rows, sizeof(struct session *));
    sessions->flush = aio_bh_new(config->ctx, on_flush, sessions);
    if (sessions->flush && sessions->by_row)
        return 0;
    sessions_deinit(sessions);
    return -ENOMEM;
}

void sessions_deinit(struct sessions *sessions)
{
    while (sessions->n > 0)
        remove_session(sessions, sessions->n - 1);
    timer_del(&sessions->expiry);
    bh_delete(sessions->flush);
    sessions->flush = NULL;
    free(sessions->by_row);
    sessions->by_row = NULL;
}
