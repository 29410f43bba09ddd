/* SPDX-License-Identifier: MIT */
/*
 * explore - the program: runs scenarios and mutants, and says what it found as TAP
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/explore/mutants.h"
#include "tests/explore/scenarios.h"
#include "tests/explore/search.h"

static const char usage[] =
    "usage: explore [OPTION]... [GROUP]...\n"
    "Runs the scenarios of these groups (all where none is named), and says as TAP how each went.\n"
    "  --list               name groups and scenarios, and end\n"
    "  --long               with the long bounds\n"
    "  --mutants FOLDER     instead: is each mutant of the sources in FOLDER noticed as its row "
    "says?\n"
    "                       With --long also: do those said to be harmless stay unnoticed?\n"
    "  --scenario NAME      this one alone\n"
    "  --preemptions N --stale N --crashes N\n"
    "                       other bounds\n"
    "  --random RUNS        so many runs at random, by --seed N\n"
    "  --replay CHOICES     the run that a failure names, with each step shown\n"
    "  --x86                with the memory of x86-64\n";

static struct {
    struct search_options search;
    bool longer;
    bool has_bounds;
    const char *scenario;
    const char *mutants;
    uint32_t n_cases;
    uint32_t n_failed;
} o;

static void say(bool ok, const char *name)
{
    printf("%sok %u - %s\n", ok ? "" : "not ", ++o.n_cases, name);
    o.n_failed += !ok;
}

static void tell_failure(const struct scenario *scenario, const struct search_report *report)
{
    printf("# %s\n# again, with each step: explore --scenario '%s' --preemptions %u --stale %u "
           "--crashes %u --replay '%s'\n",
        report->failure, scenario->name, report->failed_bounds.preemptions,
        report->failed_bounds.stale_loads, report->failed_bounds.crashes, report->choices);
}

static void run_scenario(const struct scenario *scenario)
{
    struct search_options options = o.search;
    struct search_report report;

    if (!o.has_bounds)
        options.bounds = o.longer ? scenario->long_bounds : scenario->bounds;
    search(scenario, &options, &report);
    /* What fails before a step proves nothing. */
    say(report.failed == scenario_is_wrong(scenario) && report.n_steps > 0, scenario->name);
    printf("# %" PRIu64 " runs, %" PRIu64 " of them cut short, %" PRIu64 " steps\n", report.n_runs,
        report.n_cut, report.n_steps);
    if (report.failed)
        tell_failure(scenario, &report);
}

static bool is_for_today(const struct scenario *scenario)
{
    return !scenario->only_long || o.longer;
}

static bool is_named(const char *group, char **names)
{
    if (!*names)
        return true;
    for (; *names; names++)
        if (strcmp(*names, group) == 0)
            return true;
    return false;
}

static void run_groups(char **names)
{
    for (size_t i = 0; i < scenario_n_groups; i++)
        for (const struct scenario *scenario = scenario_groups[i].scenarios; scenario->name;
             scenario++)
            if (o.scenario ? strcmp(o.scenario, scenario->name) == 0
                           : is_named(scenario_groups[i].name, names) && is_for_today(scenario))
                run_scenario(scenario);
}

static void list_all(void)
{
    for (size_t i = 0; i < scenario_n_groups; i++)
        for (const struct scenario *scenario = scenario_groups[i].scenarios; scenario->name;
             scenario++)
            printf("%s: %s\n", scenario_groups[i].name, scenario->name);
}

enum option_code {
    LIST,
    LONG,
    MUTANTS,
    SCENARIO,
    PREEMPTIONS,
    STALE,
    CRASHES,
    RANDOM,
    SEED,
    REPLAY,
    X86
};

static const struct option options[] = {
    {"list", no_argument, NULL, LIST},
    {"long", no_argument, NULL, LONG},
    {"mutants", required_argument, NULL, MUTANTS},
    {"scenario", required_argument, NULL, SCENARIO},
    {"preemptions", required_argument, NULL, PREEMPTIONS},
    {"stale", required_argument, NULL, STALE},
    {"crashes", required_argument, NULL, CRASHES},
    {"random", required_argument, NULL, RANDOM},
    {"seed", required_argument, NULL, SEED},
    {"replay", required_argument, NULL, REPLAY},
    {"x86", no_argument, NULL, X86},
    {NULL},
};

static void set_bound(uint32_t *bound)
{
    *bound = (uint32_t)strtoul(optarg, NULL, 10);
    o.has_bounds = true;
}

static void take_option(int option)
{
    switch (option) {
    case LIST:
        list_all();
        exit(0);
    case LONG:
        o.longer = true;
        break;
    case MUTANTS:
        o.mutants = optarg;
        break;
    case SCENARIO:
        o.scenario = optarg;
        break;
    case PREEMPTIONS:
        set_bound(&o.search.bounds.preemptions);
        break;
    case STALE:
        set_bound(&o.search.bounds.stale_loads);
        break;
    case CRASHES:
        set_bound(&o.search.bounds.crashes);
        break;
    case RANDOM:
        o.search.n_random_runs = strtoull(optarg, NULL, 10);
        break;
    case SEED:
        o.search.seed = strtoull(optarg, NULL, 10);
        break;
    case REPLAY:
        o.search.replay = optarg;
        break;
    case X86:
        o.search.x86 = true;
        break;
    default:
        fputs(usage, stderr);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    int option;

    setvbuf(stdout, NULL, _IOLBF, 0);
    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0)
        take_option(option);
    if (o.mutants)
        mutants_check(o.mutants, o.longer, say);
    else
        run_groups(argv + optind);
    printf("1..%u\n", o.n_cases);
    return o.n_failed > 0;
}
