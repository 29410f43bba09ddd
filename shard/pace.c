/* SPDX-License-Identifier: MIT */
#include "shard/pace.h"

#include <errno.h>
#include <stdlib.h>

#define WEIGHT 8  /* of what was, against one more */
#define DECAY  16 /* a late one takes away such a part */

/* Of the margin: how it grows and shrinks. */
#define GROWTH     2
#define SHRINKAGE  64
#define MARGIN_MAX (PACE_BEHIND_NS / 4)

int pace_init(struct pace *pace, uint32_t n_methods)
{
    *pace = (struct pace){.n = n_methods, .held_ns = calloc(n_methods, sizeof(int64_t))};
    return pace->held_ns || !n_methods ? 0 : -ENOMEM;
}

void pace_deinit(struct pace *pace)
{
    free(pace->held_ns);
}

static bool is_behind(const struct pace *pace, int64_t now_ns)
{
    return pace->late_ns && now_ns - pace->late_ns < PACE_BEHIND_NS;
}

bool pace_is_late_by(struct pace *pace, uint32_t method, int64_t deadline_ns)
{
    int64_t now_ns = aio_clock_ns();
    int64_t *held_ns;

    if (deadline_ns <= now_ns) {
        pace->late_ns = now_ns;
        return true;
    }
    if (method >= pace->n || !is_behind(pace, now_ns))
        return false;
    held_ns = &pace->held_ns[method];
    if (deadline_ns - now_ns >= *held_ns + pace->margin_ns)
        return false;
    *held_ns -= *held_ns / DECAY + 1;
    return true;
}

int64_t pace_begin(const struct pace *pace)
{
    int64_t now_ns;

    if (!pace->late_ns)
        return 0;
    now_ns = aio_clock_ns();
    return is_behind(pace, now_ns) ? now_ns : 0;
}

/* An answer has its way to go, too: as if that took a part of what the method does. */
static void learn_margin(struct pace *pace, int64_t held_ns, int64_t left_ns)
{
    if (left_ns < held_ns / 4)
        pace->margin_ns += pace->margin_ns / GROWTH + held_ns / 4;
    else
        pace->margin_ns -= pace->margin_ns / SHRINKAGE;
    if (pace->margin_ns > MARGIN_MAX)
        pace->margin_ns = MARGIN_MAX;
}

void pace_end(struct pace *pace, uint32_t method, int64_t begun_ns, int64_t deadline_ns)
{
    int64_t now_ns, *held_ns;

    if (!begun_ns || method >= pace->n)
        return;
    now_ns = aio_clock_ns();
    held_ns = &pace->held_ns[method];
    *held_ns += (now_ns - begun_ns - *held_ns) / WEIGHT;
    if (deadline_ns != INT64_MAX)
        learn_margin(pace, *held_ns, deadline_ns - now_ns);
}
