/* SPDX-License-Identifier: MIT */
/*
 * What timers cost with many armed, a timer, against what a program would write itself: a binary
 * heap of pointers (for 100,000), a sorted list (for 1,000).
 *
 * "arm + fire": all timers are armed at random times of the next second of the virtual clock, which
 * moves so that some BATCH of them are due in each turn; each callback arms its timer again, a
 * random part of a second on. The baselines do the same with a clock of their own, without a lock.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/aio.h"
#include "tests/bench/compare.h"

#define MANY     100000
#define FEW      1000
#define BATCH    32
#define SPAN_NS  INT64_C(1000000000)
#define SLACK_NS INT64_C(1000)

static AioContext *ctx;
static uint64_t random_state = 88172645463325252u;

static int64_t random_span_ns(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (int64_t)(random_state % (uint64_t)SPAN_NS);
}

/* ---- ours ---- */

struct timed {
    AioTimer timer;
    char payload[64]; /* what a timer is embedded in */
};

static struct timed *all;
static uint32_t n_all;
static int64_t now_ns;
static uint64_t n_fired;

static void arm_again(void *opaque)
{
    struct timed *t = opaque;

    n_fired++;
    timer_mod_ns(&t->timer, now_ns + random_span_ns());
}

static void ours_begin(uint32_t n, enum AioClock clock, int64_t slack_ns)
{
    all = calloc(n, sizeof *all);
    if (!all)
        abort();
    n_all = n;
    now_ns = aio_clock_get_ns(ctx, clock);
    for (uint32_t i = 0; i < n; i++) {
        aio_timer_init_full(ctx, &all[i].timer, clock, AIO_SCALE_NS, arm_again, &all[i]);
        aio_timer_set_slack_ns(&all[i].timer, slack_ns);
        timer_mod_ns(&all[i].timer, now_ns + random_span_ns());
    }
}

static void ours_end(void)
{
    for (uint32_t i = 0; i < n_all; i++)
        timer_del(&all[i].timer);
    free(all);
}

static void ours_arm_and_fire(uint64_t repeats)
{
    for (n_fired = 0; n_fired < repeats;) {
        now_ns += BATCH * SPAN_NS / 2 / n_all; /* a timer's mean wait is half a span */
        aio_virtual_clock_set_ns(ctx, now_ns);
        aio_poll(ctx, false);
    }
}

/* A timeout that is never reached: armed, disarmed, armed for the next request. */
static void ours_arm_and_disarm(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++) {
        AioTimer *timer = &all[(uint64_t)random_span_ns() % n_all].timer;

        timer_del(timer);
        timer_mod_ns(timer, now_ns + SPAN_NS + random_span_ns());
    }
}

/* ---- a binary heap of pointers ---- */

struct node {
    int64_t expire_ns;
    uint32_t idx;
    struct node *next; /* in the sorted list */
    char payload[64];
};

static struct node *nodes;
static struct node **heap;
static uint32_t n_heap;
static int64_t base_now_ns;

static void heap_set(uint32_t idx, struct node *node)
{
    heap[idx] = node;
    node->idx = idx;
}

static void heap_up(uint32_t idx)
{
    struct node *node = heap[idx];

    for (; idx > 0 && heap[(idx - 1) / 2]->expire_ns > node->expire_ns; idx = (idx - 1) / 2)
        heap_set(idx, heap[(idx - 1) / 2]);
    heap_set(idx, node);
}

static void heap_down(uint32_t idx)
{
    struct node *node = heap[idx];

    for (uint32_t child; (child = 2 * idx + 1) < n_heap; idx = child) {
        if (child + 1 < n_heap && heap[child + 1]->expire_ns < heap[child]->expire_ns)
            child++;
        if (heap[child]->expire_ns >= node->expire_ns)
            break;
        heap_set(idx, heap[child]);
    }
    heap_set(idx, node);
}

static void heap_add(struct node *node, int64_t expire_ns)
{
    node->expire_ns = expire_ns;
    heap_set(n_heap, node);
    heap_up(n_heap++);
}

static void heap_take(struct node *node)
{
    uint32_t idx = node->idx;
    struct node *last = heap[--n_heap];

    if (last == node)
        return;
    heap_set(idx, last);
    heap_up(idx);
    heap_down(last->idx);
}

static void heap_begin(void)
{
    nodes = calloc(MANY, sizeof *nodes);
    heap = calloc(MANY, sizeof(struct node *));
    if (!nodes || !heap)
        abort();
    for (uint32_t i = 0; i < MANY; i++)
        heap_add(&nodes[i], random_span_ns());
}

static void heap_arm_and_fire(uint64_t repeats)
{
    for (uint64_t n = 0; n < repeats;) {
        base_now_ns += BATCH * SPAN_NS / 2 / MANY;
        for (; heap[0]->expire_ns <= base_now_ns; n++) {
            struct node *node = heap[0];

            heap_take(node);
            heap_add(node, base_now_ns + random_span_ns());
        }
    }
}

static void heap_arm_and_disarm(uint64_t repeats)
{
    for (uint64_t i = 0; i < repeats; i++) {
        struct node *node = &nodes[random_span_ns() % MANY];

        heap_take(node);
        heap_add(node, base_now_ns + SPAN_NS + random_span_ns());
    }
}

/* ---- a sorted list ---- */

static struct node *list;

static void list_add(struct node *node, int64_t expire_ns)
{
    struct node **link = &list;

    while (*link && (*link)->expire_ns <= expire_ns)
        link = &(*link)->next;
    node->expire_ns = expire_ns;
    node->next = *link;
    *link = node;
}

static void list_arm_and_fire(uint64_t repeats)
{
    for (uint64_t n = 0; n < repeats;) {
        base_now_ns += BATCH * SPAN_NS / 2 / FEW;
        for (; list->expire_ns <= base_now_ns; n++) {
            struct node *node = list;

            list = node->next;
            list_add(node, base_now_ns + random_span_ns());
        }
    }
}

/* ---- the table ---- */

static void measure_many(void)
{
    ours_begin(MANY, AIO_CLOCK_VIRTUAL, 0);
    heap_begin();
    compare_row(&(struct compare){.what = "arm + fire, 100,000 armed",
        .run = ours_arm_and_fire,
        .baseline_name = "binary heap of pointers",
        .baseline = heap_arm_and_fire,
        .repeats = 200000,
        .goal = {.most_ns = 150}});
    compare_row(&(struct compare){.what = "disarm + arm, 100,000 armed",
        .run = ours_arm_and_disarm,
        .baseline_name = "binary heap of pointers",
        .baseline = heap_arm_and_disarm,
        .repeats = 200000});
    ours_end();
    free(nodes);
    free(heap);
}

static void measure_few(void)
{
    ours_begin(FEW, AIO_CLOCK_VIRTUAL, 0);
    nodes = calloc(FEW, sizeof *nodes);
    if (!nodes)
        abort();
    for (uint32_t i = 0; i < FEW; i++)
        list_add(&nodes[i], base_now_ns + random_span_ns());
    compare_row(&(struct compare){.what = "arm + fire, 1,000 armed",
        .run = ours_arm_and_fire,
        .baseline_name = "sorted list",
        .baseline = list_arm_and_fire,
        .repeats = 200000,
        .baseline_repeats = 20000});
    ours_end();
    free(nodes);
}

/* How often a loop with FEW timers a second sleeps for each that fires. */
static void count_sleeps(int64_t slack_ns)
{
    uint64_t n_sleeps = 0;

    ours_begin(FEW, AIO_CLOCK_VIRTUAL, slack_ns);
    for (n_fired = 0; n_fired < MANY; n_sleeps++) {
        now_ns += aio_clock_deadline_ns(ctx, AIO_CLOCK_VIRTUAL);
        aio_virtual_clock_set_ns(ctx, now_ns);
        aio_poll(ctx, false);
    }
    ours_end();
    printf("wake-ups a timer, 1,000 armed in a second, slack %7lld ns: %.2f\n", (long long)slack_ns,
        (double)n_sleeps / (double)n_fired);
}

int main(void)
{
    if (aio_context_new(NULL, &ctx) != 0)
        return 1;
    aio_context_set_current(ctx);
    compare_head();
    measure_many();
    measure_few();
    count_sleeps(0);
    count_sleeps(SLACK_NS * 1000);
    count_sleeps(SLACK_NS * 10000);
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    return compare_end();
}
