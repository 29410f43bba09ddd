/* SPDX-License-Identifier: MIT */
#include "tests/explore/search.h"
/*
 * A run is told by the list of its choices. The next one makes the same choices but for the last
 * one that has an alternative left: depth first. Bounds on preemptions grow one by one, so that the
 * first failure found is one with few of them.
 *
 * A state that a run has been in with the same budget leads to nothing new, so a run that comes to
 * one is cut short: it need not be the same order of steps, only the same outcome of each.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/explore/inside.h"

#define FIRST_STATES (1u << 13)

struct choice {
    uint8_t n;
    uint8_t taken;
};

struct known_state {
    uint64_t state; /* 0: none */
    uint8_t budget; /* the greatest that a run had here, plus 1 */
};

static struct {
    struct choice choices[SEARCH_MAX_CHOICES];
    uint32_t n_given; /* the run repeats these, then goes its own way */
    uint32_t n_made;
    bool random;
    uint64_t random_state;
    struct known_state *states;
    uint32_t states_capacity; /* a power of two */
    uint32_t n_states;
} s;

/* ---- states seen ---- */

static struct known_state *find_state(uint64_t state)
{
    uint32_t i = (uint32_t)(state >> 20) & (s.states_capacity - 1);

    while (s.states[i].state != 0 && s.states[i].state != state)
        i = (i + 1) & (s.states_capacity - 1);
    return &s.states[i];
}

static void forget_states(void)
{
    free(s.states);
    s.states_capacity = FIRST_STATES;
    s.n_states = 0;
    s.states = calloc(s.states_capacity, sizeof *s.states);
    if (!s.states)
        abort();
}

static void grow_states(void)
{
    struct known_state *old = s.states;
    uint32_t n_old = s.states_capacity;

    s.states_capacity *= 2;
    s.states = calloc(s.states_capacity, sizeof *s.states);
    if (!s.states)
        abort();
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i].state != 0)
            *find_state(old[i].state) = old[i];
    free(old);
}

bool search_was_here(uint64_t state, uint32_t budget)
{
    if (s.random || s.n_made < s.n_given || trace_enabled())
        return false;
    struct known_state *known = find_state(state ? state : 1);

    if (known->state != 0 && known->budget > budget)
        return true;
    if (known->state == 0 && ++s.n_states > s.states_capacity / 2) {
        grow_states();
        known = find_state(state ? state : 1);
    }
    *known = (struct known_state){state ? state : 1, (uint8_t)(budget + 1)};
    return false;
}

/* ---- choices ---- */

static uint64_t next_random(void)
{
    uint64_t x = s.random_state;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return s.random_state = x;
}

uint32_t search_choose(uint32_t n)
{
    struct choice *choice = &s.choices[s.n_made];

    if (s.n_made == SEARCH_MAX_CHOICES)
        explorer_fail("more than %d choices in one run", SEARCH_MAX_CHOICES);
    if (s.n_made >= s.n_given) {
        choice->n = (uint8_t)n;
        choice->taken = s.random ? (uint8_t)(next_random() % n) : 0;
    } else if (choice->taken >= n) {
        explorer_fail("choice %u does not fit this scenario", s.n_made);
    }
    choice->n = (uint8_t)n;
    s.n_made++;
    return choice->taken;
}

/* Makes the choices of the next run; false where there is none. */
static bool backtrack(void)
{
    s.n_given = s.n_made;
    while (s.n_given > 0 && s.choices[s.n_given - 1].taken + 1 >= s.choices[s.n_given - 1].n)
        s.n_given--;
    if (s.n_given == 0)
        return false;
    s.choices[s.n_given - 1].taken++;
    return true;
}

/* One letter a choice: a is the first. */
static void write_choices(char *ret)
{
    uint32_t n = s.n_made;

    while (n > 0 && s.choices[n - 1].taken == 0)
        n--;
    for (uint32_t i = 0; i < n; i++)
        ret[i] = (char)('a' + s.choices[i].taken);
    ret[n] = '\0';
}

static void read_choices(const char *text)
{
    s.n_given = 0;
    for (; *text && s.n_given < SEARCH_MAX_CHOICES; text++)
        s.choices[s.n_given++] = (struct choice){.taken = (uint8_t)(*text - 'a')};
}

/* ---- searches ---- */

/* False: it failed. */
static bool run(const struct scenario *scenario, const struct explorer_bounds *bounds, bool x86,
    struct search_report *report)
{
    s.n_made = 0;
    memory_reset(x86);
    enum run_result result = run_once(scenario, bounds);

    report->n_runs++;
    report->n_cut += result == RUN_CUT;
    report->n_steps += run_steps();
    if (result != RUN_FAILED)
        return true;
    report->failed = true;
    report->failed_bounds = *bounds;
    snprintf(report->failure, sizeof report->failure, "%s", run_failure());
    write_choices(report->choices);
    return false;
}

static void search_all(const struct scenario *scenario, const struct search_options *options,
    struct search_report *report)
{
    struct explorer_bounds bounds = options->bounds;

    for (bounds.preemptions = 0; bounds.preemptions <= options->bounds.preemptions;
         bounds.preemptions++) {
        forget_states();
        s.n_given = 0;
        do {
            if (!run(scenario, &bounds, options->x86, report) ||
                report->n_runs == options->max_runs)
                return;
        } while (backtrack());
    }
}

static void search_at_random(const struct scenario *scenario, const struct search_options *options,
    struct search_report *report)
{
    s.random = true;
    s.random_state = mix(options->seed, 1) | 1;
    for (uint64_t i = 0; i < options->n_random_runs; i++) {
        s.n_given = 0;
        if (!run(scenario, &options->bounds, options->x86, report))
            break;
    }
    s.random = false;
}

void search(const struct scenario *scenario, const struct search_options *options,
    struct search_report *ret_report)
{
    *ret_report = (struct search_report){.n_runs = 0};
    run_catch_faults();
    if (options->replay) {
        read_choices(options->replay);
        trace_enable(true);
        run(scenario, &options->bounds, options->x86, ret_report);
        trace_enable(false);
    } else if (options->n_random_runs > 0) {
        search_at_random(scenario, options, ret_report);
    } else {
        search_all(scenario, options, ret_report);
    }
    free(s.states);
    s.states = NULL;
}
