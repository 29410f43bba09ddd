/* SPDX-License-Identifier: MIT */
#include "shard/stall.h"

#include <stddef.h>

#define DIES_WITHIN_NS (UINT64_C(2) * 1000000000)

const char *stall_state_text(uint32_t state)
{
    static const char *const texts[] = {
#define X(name, text) [STALL_##name] = text,
        STALL_STATES(X)
#undef X
    };
    return state < sizeof texts / sizeof *texts ? texts[state] : "unknown";
}

static bool goes_on(const struct stall *stall, const struct stall_look *look)
{
    return look->asleep || look->progress != stall->progress;
}

bool stall_needs_look(const struct stall *stall, const struct stall_look *look)
{
    return !look->stopped && (stall->killed_ns || !goes_on(stall, look));
}

/* A new callback, or none. */
static enum stall_verdict begin_anew(struct stall *stall, const struct stall_look *look)
{
    bool was_reported = stall->reported;

    *stall = (struct stall){.progress = look->progress};
    return was_reported ? STALL_OVER : STALL_GOES_ON;
}

static uint32_t state_of(const struct stall_look *look)
{
    return look->state == 'R' ? STALL_SPINNING : STALL_BLOCKED;
}

/* The time of this callback stands still, from the last look to the next. */
static enum stall_verdict hold(struct stall *stall, uint32_t state)
{
    stall->state = state;
    stall->seen_ns = 0;
    return STALL_GOES_ON;
}

static void count_time(
    struct stall *stall, const struct stall_look *look, const struct stall_limits *limits)
{
    uint64_t passed_ns = look->now_ns - stall->seen_ns;
    uint64_t queued_ns = look->queued_ns - stall->queued_ns;

    if (passed_ns > 2 * limits->look_ns)
        passed_ns = 2 * limits->look_ns;
    if (stall->seen_ns && passed_ns > queued_ns)
        stall->in_callback_ns += passed_ns - queued_ns;
    stall->seen_ns = look->now_ns;
    stall->queued_ns = look->queued_ns;
}

static enum stall_verdict judge_killed(struct stall *stall, const struct stall_look *look)
{
    if (stall->state == STALL_UNKILLABLE || look->now_ns - stall->killed_ns < DIES_WITHIN_NS)
        return STALL_GOES_ON;
    stall->state = STALL_UNKILLABLE;
    return STALL_WONT_DIE;
}

static bool is_dying(const struct stall_look *look)
{
    return look->state == 'Z' || look->state == 'X';
}

enum stall_verdict stall_judge(
    struct stall *stall, const struct stall_look *look, const struct stall_limits *limits)
{
    if (stall->killed_ns)
        return judge_killed(stall, look);
    if (look->stopped)
        return hold(stall, STALL_STOPPED);
    if (goes_on(stall, look))
        return begin_anew(stall, look);
    if (!look->seen)
        return STALL_GOES_ON;
    if (is_dying(look)) {
        stall->killed_ns = look->now_ns;
        return STALL_GOES_ON;
    }
    if (look->traced || look->state == 't')
        return hold(stall, STALL_TRACED);
    if (look->state == 'T')
        return hold(stall, STALL_STOPPED);
    count_time(stall, look, limits);
    stall->state = stall->reported ? state_of(look) : STALL_NONE;
    if (limits->replace_ns && stall->in_callback_ns >= limits->replace_ns) {
        stall->killed_ns = look->now_ns;
        return STALL_REPLACE;
    }
    if (limits->report_ns && stall->in_callback_ns >= limits->report_ns && !stall->reported) {
        stall->reported = true;
        stall->state = state_of(look);
        return STALL_REPORT;
    }
    return STALL_GOES_ON;
}
