/* SPDX-License-Identifier: MIT */
/*
 * Random operations on one context in one thread, from outside and from within callbacks, nested
 * turns included, against a model that knows what a turn must call, and in which order:
 *
 *   bottom halves  first scheduled first; what is scheduled during a turn's bottom halves waits,
 *                  what is linked keeps its place; a nested turn begins with what is left
 *   fds            only registrations that stand; one that stays ready is called before long
 *   timers         of the virtual clock: exactly those that may fire, by latest moment and arming
 *   coroutines     each wake is one resume; the mutex goes to who waits longest
 *   a turn's value is whether something ran that counts; the timeout is what has to run
 */
#include "tests/unit/runtime/random_machine.h"

#include <sys/eventfd.h>
#include <unistd.h>

static void act(struct machine *m);

static struct token *token_new(struct machine *m, uint32_t idx, uint32_t generation)
{
    struct token *token = malloc(sizeof *token);

    CHECK(m, token, "no memory");
    *token = (struct token){.m = m, .idx = idx, .generation = generation, .next = m->tokens};
    m->tokens = token;
    return token;
}

/* What a callback does: mostly little. */
static void act_within(struct machine *m)
{
    m->call_depth++;
    for (uint32_t n = dice_below(&m->dice, 3); n > 0 && m->call_depth < 6; n--)
        act(m);
    m->call_depth--;
}

static void note_progress(struct machine *m, bool counts)
{
    CHECK(m, m->turn, "a callback outside a turn");
    m->turn->progress |= counts;
}

/* ---- bottom halves ---- */

static struct m_bh *any_bh(struct machine *m)
{
    return &m->bhs[dice_below(&m->dice, N_BHS)];
}

static void bh_link(struct machine *m, struct m_bh *b)
{
    if (!b->pending)
        b->seq = m->n_seqs++;
    b->pending = true;
}

/* All in line before seq have been passed: none of them may have been left out. */
static void bhs_passed(struct machine *m, uint64_t seq)
{
    for (uint32_t i = 0; i < N_BHS; i++) {
        struct m_bh *b = &m->bhs[i];

        if (!b->is_used || !b->pending || b->seq >= seq)
            continue;
        CHECK(m, !b->scheduled, "bottom half %u was passed over", i);
        b->pending = false;
    }
}

static void bhs_over(struct machine *m, struct turn *turn)
{
    if (turn->bhs_over)
        return;
    turn->bhs_over = true;
    m->n_freed = turn->limit;
    bhs_passed(m, turn->limit);
    for (uint32_t i = 0; i < N_COS; i++)
        CHECK(m,
            m->cos[i].state != CO_WOKEN || !m->cos[i].by_schedule || m->cos[i].seq >= turn->limit,
            "coroutine %u was scheduled and not entered", i);
}

static void on_bh(void *opaque)
{
    struct token *token = opaque;
    struct machine *m = token->m;
    struct m_bh *b = &m->bhs[token->idx];

    CHECK(m, b->is_used && b->generation == token->generation, "a deleted bottom half is called");
    if (m->direct) {
        m->direct = false;
        return;
    }
    CHECK(m, b->pending && b->scheduled, "bottom half %u is called unasked", token->idx);
    CHECK(m, m->turn && b->seq < m->turn->limit && !m->turn->bhs_over,
        "bottom half %u is called too early", token->idx);
    bhs_passed(m, b->seq);
    note_progress(m, b->urgent);
    b->pending = b->scheduled = b->urgent = false;
    if (b->is_oneshot)
        b->is_used = false;
    act_within(m);
}

static void bh_op_make(struct machine *m, struct m_bh *b)
{
    uint32_t idx = (uint32_t)(b - m->bhs);
    struct token *token = token_new(m, idx, ++b->generation);
    bool oneshot = dice_one_in(&m->dice, 3);

    b->is_used = true;
    b->is_oneshot = oneshot;
    b->pending = b->scheduled = b->urgent = false;
    b->bh = NULL;
    if (!oneshot) {
        b->bh = aio_bh_new(m->ctx, on_bh, token);
        CHECK(m, b->bh, "no memory");
        return;
    }
    bh_link(m, b);
    b->scheduled = b->urgent = true;
    CHECK(m, aio_bh_schedule_oneshot(m->ctx, on_bh, token) == 0, "no memory");
}

static void bh_op(struct machine *m)
{
    struct m_bh *b = any_bh(m);

    if (!b->is_used) {
        bh_op_make(m, b);
        return;
    }
    if (b->is_oneshot)
        return;
    switch (dice_below(&m->dice, 8)) {
    case 0: /* deleted: nobody's place in line from now on */
        bh_delete(b->bh);
        b->is_used = false;
        m->n_deleted = m->n_seqs++;
        break;
    case 1:
        bh_cancel(b->bh);
        b->scheduled = b->urgent = false;
        break;
    case 2:
        bh_link(m, b);
        b->scheduled = true;
        bh_schedule_idle(b->bh);
        break;
    case 3:
        m->direct = true;
        aio_bh_call(b->bh);
        CHECK(m, !m->direct, "aio_bh_call() did not call");
        break;
    default:
        bh_link(m, b);
        b->scheduled = b->urgent = true;
        bh_schedule(b->bh);
    }
}

/* ---- timers ---- */

static bool is_timer_before(const struct m_timer *a, const struct m_timer *b)
{
    return a->latest_ns != b->latest_ns ? a->latest_ns < b->latest_ns : a->seq < b->seq;
}

/* The first of those armed, or of those due. */
static struct m_timer *first_timer(struct machine *m, bool due)
{
    struct m_timer *first = NULL;

    for (uint32_t i = 0; i < N_TIMERS; i++) {
        struct m_timer *t = &m->timers[i];

        if (t->armed && t->due == due &&
            (!first || (due ? t->seq < first->seq : is_timer_before(t, first))))
            first = t;
    }
    return first;
}

static bool timers_must_run(struct machine *m)
{
    const struct m_timer *first = first_timer(m, false);

    return !m->stopped && (first_timer(m, true) || (first && first->latest_ns <= m->now_ns));
}

/* As a turn does when it comes to its timers. */
static void collect_timers(struct machine *m, struct turn *turn)
{
    if (turn->is_collected)
        return;
    turn->is_collected = true;
    if (!timers_must_run(m))
        return;
    for (struct m_timer *t; (t = first_timer(m, false)) != NULL && t->expire_ns <= m->now_ns;) {
        t->due = true;
        t->seq = m->n_seqs++;
    }
}

static void on_timer(void *opaque)
{
    struct token *token = opaque;
    struct machine *m = token->m;
    struct m_timer *t = &m->timers[token->idx];

    CHECK(m, t->generation == token->generation && t->armed, "timer %u fires unasked", token->idx);
    CHECK(m, m->turn, "timer %u fires outside a turn", token->idx);
    CHECK(m, !m->stopped, "timer %u fires though its clock is stopped", token->idx);
    bhs_over(m, m->turn);
    collect_timers(m, m->turn);
    CHECK(m, t->due, "timer %u for %lld fires at %lld", token->idx, (long long)t->expire_ns,
        (long long)m->now_ns);
    CHECK(m, first_timer(m, true) == t, "timer %u fires out of turn", token->idx);
    CHECK(m, !timer_pending(t->timer), "timer %u is armed in its callback", token->idx);
    t->armed = t->due = false;
    note_progress(m, true);
    act_within(m);
}

static void timer_make(struct machine *m, uint32_t idx)
{
    struct m_timer *t = &m->timers[idx];

    t->timer = aio_timer_new(
        m->ctx, AIO_CLOCK_VIRTUAL, AIO_SCALE_NS, on_timer, token_new(m, idx, ++t->generation));
    CHECK(m, t->timer, "no memory");
    t->slack_ns = dice_one_in(&m->dice, 3) ? dice_below(&m->dice, 50) : 0;
    aio_timer_set_slack_ns(t->timer, t->slack_ns);
}

static void timer_arm(struct machine *m, struct m_timer *t, bool anticipate)
{
    int64_t expire_ns = m->now_ns - 20 + dice_below(&m->dice, 60);

    if (anticipate)
        timer_mod_anticipate_ns(t->timer, expire_ns);
    else
        timer_mod_ns(t->timer, expire_ns);
    if (expire_ns < 0)
        expire_ns = 0;
    if (anticipate && t->armed && expire_ns >= t->expire_ns)
        return;
    t->armed = true;
    t->due = false;
    t->expire_ns = expire_ns;
    t->latest_ns = expire_ns + t->slack_ns;
    t->seq = m->n_seqs++;
}

static void timer_op(struct machine *m)
{
    uint32_t idx = dice_below(&m->dice, N_TIMERS);
    struct m_timer *t = &m->timers[idx];

    switch (dice_below(&m->dice, 8)) {
    case 0:
        timer_del(t->timer);
        t->armed = t->due = false;
        break;
    case 1:
        aio_timer_free(t->timer);
        t->armed = t->due = false;
        timer_make(m, idx);
        break;
    case 2:
        timer_arm(m, t, true);
        break;
    default:
        timer_arm(m, t, false);
    }
    CHECK(m, timer_pending(t->timer) == t->armed, "timer %u is not as it should be", idx);
    CHECK(m, !t->armed || timer_expire_time_ns(t->timer) == t->expire_ns, "timer %u", idx);
}

static void clock_op(struct machine *m)
{
    if (dice_one_in(&m->dice, 6)) {
        m->stopped = !m->stopped;
        aio_clock_enable(m->ctx, AIO_CLOCK_VIRTUAL, !m->stopped);
        return;
    }
    int64_t delta_ns = dice_below(&m->dice, 30);

    aio_virtual_clock_advance_ns(m->ctx, delta_ns);
    m->now_ns += delta_ns;
    CHECK(m, aio_clock_get_ns(m->ctx, AIO_CLOCK_VIRTUAL) == m->now_ns, "another time");
}

/* ---- fds ---- */

static void fd_clear(struct m_fd *f)
{
    eventfd_t value;

    eventfd_read(f->fd, &value);
    f->readable = false;
}

static void on_fd(void *opaque)
{
    struct token *token = opaque;
    struct machine *m = token->m;
    struct m_fd *f = &m->fds[token->idx];

    CHECK(m, f->watched && f->generation == token->generation,
        "fd %u is called though it was taken off", token->idx);
    CHECK(m, m->turn, "fd %u is called outside a turn", token->idx);
    bhs_over(m, m->turn);
    note_progress(m, true);
    f->was_called = true;
    if (!dice_one_in(&m->dice, 4))
        fd_clear(f);
    act_within(m);
}

static void fd_op(struct machine *m)
{
    uint32_t idx = dice_below(&m->dice, N_FDS);
    struct m_fd *f = &m->fds[idx];

    switch (dice_below(&m->dice, 5)) {
    case 0:
        CHECK(m, aio_set_fd_handler(m->ctx, f->fd, NULL, NULL, NULL, NULL, NULL) == 0, "fd");
        f->watched = false;
        f->was_called = true;
        break;
    case 1: /* a new one, or in the place of the one that is there */
        CHECK(m,
            aio_set_fd_handler(
                m->ctx, f->fd, on_fd, NULL, NULL, NULL, token_new(m, idx, ++f->generation)) == 0,
            "fd");
        f->watched = f->was_called = true;
        break;
    case 2:
        fd_clear(f);
        f->was_called = true;
        break;
    default:
        eventfd_write(f->fd, 1);
        f->was_called |= !f->readable;
        f->readable = true;
    }
}

/* After an outermost turn: one that was ready all the while is called some time. */
static void fds_waited(struct machine *m)
{
    for (uint32_t i = 0; i < N_FDS; i++) {
        struct m_fd *f = &m->fds[i];

        f->n_waited = f->watched && f->readable && !f->was_called ? f->n_waited + 1 : 0;
        f->was_called = false;
        CHECK(m, f->n_waited < PATIENCE, "fd %u is ready and is not called", i);
    }
}

/* ---- coroutines ---- */

/* Those scheduled are entered by a bottom half of the context, which has its place in line too. */
static void co_bh_link(struct machine *m)
{
    if (!m->co_bh_pending)
        m->co_bh_seq = m->n_seqs++;
    m->co_bh_pending = true;
}

static void co_bh_runs(struct machine *m, const struct m_co *c)
{
    if (!m->co_bh_pending || c->seq < m->co_bh_seq)
        return; /* the next of those entered together */
    m->co_bh_pending = false;
    bhs_passed(m, m->co_bh_seq);
}

static void co_resumed(struct machine *m, struct m_co *c)
{
    CHECK(m, c->state == CO_WOKEN, "a coroutine goes on unasked");
    CHECK(m, coroutine_self() == c->co, "it is another one");
    if (c->by_schedule) {
        note_progress(m, true);
        co_bh_runs(m, c);
    }
    c->state = CO_RUNS;
}

static void coroutine_fn co_lock_and_unlock(struct machine *m, struct m_co *c)
{
    uint32_t idx = (uint32_t)(c - m->cos);

    m->lock_line[m->n_in_line++] = idx;
    c->state = CO_LOCKS;
    co_mutex_lock(&m->mutex);
    c->state = CO_RUNS;
    CHECK(m, m->holder < 0, "%d and %u hold the mutex", m->holder, idx);
    CHECK(m, m->lock_line[0] == idx, "coroutine %u gets the mutex out of turn", idx);
    memmove(m->lock_line, m->lock_line + 1, --m->n_in_line * sizeof *m->lock_line);
    m->holder = (int)idx;
    for (uint32_t n = dice_below(&m->dice, 3); n > 0; n--) {
        act_within(m);
        c->state = CO_YIELDED;
        coroutine_yield();
        co_resumed(m, c);
    }
    m->holder = -1;
    co_mutex_unlock(&m->mutex);
}

static void coroutine_fn co_main(void *opaque)
{
    struct token *token = opaque;
    struct machine *m = token->m;
    struct m_co *c = &m->cos[token->idx];

    do {
        act_within(m);
        if (dice_one_in(&m->dice, 3)) {
            co_lock_and_unlock(m, c);
            continue;
        }
        c->state = CO_YIELDED;
        coroutine_yield();
        co_resumed(m, c);
    } while (!dice_one_in(&m->dice, 10));
    c->state = CO_NONE;
    c->co = NULL;
}

static void co_op(struct machine *m)
{
    uint32_t idx = dice_below(&m->dice, N_COS);
    struct m_co *c = &m->cos[idx];

    if (c->state == CO_NONE && m->call_depth < 4) {
        c->co = coroutine_create(co_main, token_new(m, idx, 0));
        CHECK(m, c->co, "no memory");
        c->state = CO_RUNS;
        coroutine_enter(c->co);
        CHECK(m, c->state != CO_RUNS, "coroutine %u came back running", idx);
    } else if (c->state == CO_YIELDED) {
        c->state = CO_WOKEN;
        c->by_schedule = dice_one_in(&m->dice, 2);
        if (c->by_schedule)
            co_bh_link(m);
        c->seq = m->n_seqs++;
        if (c->by_schedule)
            aio_co_schedule(m->ctx, c->co);
        else
            aio_co_wake(c->co);
        /* outside a coroutine it runs at once, in one after that has yielded */
        CHECK(m, c->by_schedule || in_coroutine() || c->state != CO_WOKEN,
            "coroutine %u was woken and did not run", idx);
    }
}

/* ---- turns ---- */

static void turn_begin(struct machine *m, struct turn *turn)
{
    *turn = (struct turn){.limit = m->n_seqs, .outer = m->turn};
    m->turn = turn;
    m->depth++;
}

static void turn_end(struct machine *m, struct turn *turn, bool progress)
{
    bhs_over(m, turn);
    m->turn = turn->outer;
    m->depth--;
    CHECK(
        m, progress == turn->progress, "a turn says %s progress", progress ? "that it made" : "no");
}

static bool bh_is_runnable(const struct m_bh *b)
{
    return b->is_used && b->scheduled;
}

/* Whether a turn of the outermost loop will find something that counts. */
static bool has_work(struct machine *m)
{
    for (uint32_t i = 0; i < N_BHS; i++)
        if (bh_is_runnable(&m->bhs[i]) && m->bhs[i].urgent)
            return true;
    for (uint32_t i = 0; i < N_COS; i++)
        if (m->cos[i].state == CO_WOKEN && m->cos[i].by_schedule)
            return true;
    return timers_must_run(m);
}

static bool has_idle_bh(struct machine *m)
{
    for (uint32_t i = 0; i < N_BHS; i++)
        if (bh_is_runnable(&m->bhs[i]))
            return true;
    return false;
}

static void check_timeout(struct machine *m)
{
    int64_t timeout_ns = aio_compute_timeout(m->ctx);

    if (m->depth > 0)
        return; /* an outer turn may have collected more */
    if (m->n_deleted >= m->n_freed)
        return; /* to be freed soon, which is no work */
    if (has_work(m))
        CHECK(m, timeout_ns == 0, "timeout %lld with work", (long long)timeout_ns);
    else if (has_idle_bh(m))
        CHECK(m, timeout_ns >= 0 && timeout_ns <= 10 * AIO_SCALE_MS, "timeout %lld, idle",
            (long long)timeout_ns);
    else
        CHECK(m, timeout_ns == -1, "timeout %lld without work", (long long)timeout_ns);
}

static void turn_op(struct machine *m)
{
    struct turn turn;
    bool blocking = m->depth == 0 && has_work(m) && dice_one_in(&m->dice, 4);

    if (in_coroutine() || m->depth >= DEEPEST)
        return;
    check_timeout(m);
    turn_begin(m, &turn);
    if (m->depth > 1 && dice_one_in(&m->dice, 4)) {
        turn_end(m, &turn, aio_bh_poll(m->ctx));
        return;
    }
    bool progress = aio_poll(m->ctx, blocking);

    bhs_over(m, &turn);
    collect_timers(m, &turn);
    CHECK(m, m->stopped || !first_timer(m, true), "a timer that was due did not fire");
    turn_end(m, &turn, progress);
    if (m->depth == 0)
        fds_waited(m);
}

static void act(struct machine *m)
{
    m->run->step++;
    switch (dice_below(&m->dice, 12)) {
    case 0:
    case 1:
    case 2:
        bh_op(m);
        break;
    case 3:
    case 4:
        timer_op(m);
        break;
    case 5:
        clock_op(m);
        break;
    case 6:
    case 7:
        fd_op(m);
        break;
    case 8:
    case 9:
        co_op(m);
        break;
    default:
        turn_op(m);
    }
}

/* ---- a run ---- */

static void machine_begin(struct machine *m, struct random_run *run)
{
    *m = (struct machine){.run = run, .dice = {run->seed}, .holder = -1, .n_seqs = 1};
    CHECK(m, aio_context_new(&run->config, &m->ctx) == 0, "no context");
    aio_context_set_current(m->ctx);
    co_mutex_init(&m->mutex);
    for (uint32_t i = 0; i < N_TIMERS; i++)
        timer_make(m, i);
    for (uint32_t i = 0; i < N_FDS; i++) {
        m->fds[i].fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        CHECK(m, m->fds[i].fd >= 0, "no fd");
    }
}

/* Random steps go on until every coroutine has come to its end; no new ones are made. */
static void end_coroutines(struct machine *m)
{
    for (bool left = true; left;) {
        left = false;
        for (uint32_t i = 0; i < N_COS; i++) {
            struct m_co *c = &m->cos[i];

            left |= c->state != CO_NONE;
            if (c->state != CO_YIELDED)
                continue;
            c->state = CO_WOKEN;
            c->by_schedule = false;
            aio_co_wake(c->co);
        }
        turn_op(m);
    }
}

static void machine_end(struct machine *m)
{
    m->call_depth = 6; /* callbacks do nothing more */
    end_coroutines(m);
    for (uint32_t i = 0; i < N_TIMERS; i++)
        aio_timer_free(m->timers[i].timer);
    for (uint32_t i = 0; i < N_FDS; i++) {
        aio_set_fd_handler(m->ctx, m->fds[i].fd, NULL, NULL, NULL, NULL, NULL);
        close(m->fds[i].fd);
    }
    for (uint32_t i = 0; i < N_BHS; i++)
        if (m->bhs[i].is_used && m->bhs[i].bh)
            bh_delete(m->bhs[i].bh);
    while (aio_poll(m->ctx, false))
        continue; /* oneshots */
    aio_context_set_current(NULL);
    aio_context_unref(m->ctx);
    while (m->tokens) {
        struct token *token = m->tokens;

        m->tokens = token->next;
        free(token);
    }
}

static void run_once(struct random_run *run)
{
    struct machine *m = malloc(sizeof *m);

    random_check(run, m, "no memory");
    machine_begin(m, run);
    while (run->step < run->n_steps) {
        act(m);
        if (m->depth == 0)
            turn_op(m);
    }
    machine_end(m);
    free(m);
}

int main(int argc, char **argv)
{
    static const struct random_program program = {
        .once = run_once, .short_runs = 20, .short_steps = 5000};

    return random_main(argc, argv, &program);
}
