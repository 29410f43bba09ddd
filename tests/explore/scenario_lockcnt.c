/* SPDX-License-Identifier: MIT */
/*
 * runtime/lockcnt.c: nothing is freed under a visitor, and whoever waits is woken.
 *
 * A list of one node. Visitors read it; a changer takes it off, and frees it unless somebody
 * visits; then the last visitor does.
 */
#include <string.h>

#include "runtime/atomic.h"
#include "runtime/lockcnt.h"
#include "tests/explore/explorer.h"
#include "tests/explore/scenarios.h"

struct node {
    uint32_t value;
};

static struct {
    LockCnt cnt;
    struct node *head;    /* written with the lock held, read by visitors */
    struct node *removed; /* under the lock */
    uint32_t n_freed;     /* likewise */
    uint32_t n_inside;    /* likewise */
} s;

static void begin(void)
{
    memset(&s, 0, sizeof s);
    lockcnt_init(&s.cnt);
    s.head = explorer_alloc(sizeof *s.head);
    s.head->value = 1;
}

static void begin_locked(void)
{
    begin();
    lockcnt_lock(&s.cnt);
}

static void begin_locked_without_batons(void)
{
    begin_locked();
    explorer_futex_lose_batons();
}

static void begin_with_a_visitor(void)
{
    begin();
    lockcnt_inc(&s.cnt);
}

static void end(void)
{
    lockcnt_destroy(&s.cnt);
}

static void end_freed(void)
{
    end();
    explorer_check(s.n_freed == 1);
}

static void free_removed(void)
{
    if (!s.removed)
        return;
    explorer_free(s.removed);
    s.removed = NULL;
    s.n_freed++;
}

static void look(void)
{
    const struct node *node = atomic_load_acquire(&s.head);

    if (node)
        explorer_check(node->value == 1);
}

static void leave(void)
{
    if (!lockcnt_dec_and_lock(&s.cnt))
        return;
    free_removed();
    lockcnt_unlock(&s.cnt);
}

static void visit(void)
{
    lockcnt_inc(&s.cnt);
    look();
    leave();
}

static void visit_and_go(void)
{
    lockcnt_inc(&s.cnt);
    look();
    lockcnt_dec(&s.cnt);
}

static void change(void)
{
    lockcnt_lock(&s.cnt);
    s.removed = s.head;
    atomic_store_release(&s.head, (struct node *)NULL);
    if (lockcnt_count(&s.cnt) == 0)
        free_removed();
    lockcnt_unlock(&s.cnt);
}

static void unlock(void)
{
    lockcnt_unlock(&s.cnt);
}

static void come_and_go(void)
{
    lockcnt_inc(&s.cnt);
    lockcnt_dec(&s.cnt);
}

static void work_alone(void)
{
    explorer_check(s.n_inside++ == 0);
    s.n_inside--;
}

static void work_locked(void)
{
    lockcnt_lock(&s.cnt);
    work_alone();
    lockcnt_unlock(&s.cnt);
}

/* A visitor that changes something where it is the only one, and goes on visiting. */
static void work_where_alone(void)
{
    lockcnt_inc(&s.cnt);
    if (lockcnt_dec_if_lock(&s.cnt)) {
        work_alone();
        lockcnt_inc_and_unlock(&s.cnt);
    }
    lockcnt_dec(&s.cnt);
}

#define DAILY                              \
    {                                      \
        .preemptions = 2, .stale_loads = 1 \
    }
#define LONG                               \
    {                                      \
        .preemptions = 4, .stale_loads = 2 \
    }

const struct scenario lockcnt_scenarios[] = {
    {"nothing_is_freed_under_a_visitor_and_all_in_the_end", begin, end_freed, DAILY, LONG,
        {{"visitor", visit}, {"other visitor", visit}, {"changer", change}}},
    {"the_last_visitor_frees_what_was_taken_off_meanwhile", begin_with_a_visitor, end_freed, DAILY,
        LONG, {{"visitor", leave}, {"changer", change}}},
    {"who_changes_frees_only_where_nobody_visits", begin, end, DAILY, LONG,
        {{"visitor", visit_and_go}, {"changer", change}}},
    {"a_visitor_that_needs_no_lock_passes_its_wake_on", begin_locked, end,
        {.preemptions = 1, .stale_loads = 1}, LONG,
        {{"visitor", come_and_go}, {"other visitor", come_and_go}, {"third visitor", come_and_go},
            {"holder", unlock}}},
    {"the_lock_is_one_threads_alone", begin, end, DAILY, LONG,
        {{"changer", work_locked}, {"other changer", work_locked}, {"visitor", work_where_alone}}},

    {"wrong: who was woken wakes nobody", begin_locked_without_batons, end, DAILY, LONG,
        {{"visitor", come_and_go}, {"other visitor", come_and_go}, {"holder", unlock}}},
    {NULL},
};
