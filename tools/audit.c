/* SPDX-License-Identifier: MIT */
/*
 * sherd audit - counts again whether everything submitted has ended or is under way
 *
 * With --count it does so again and again, which is how tests watch an instance under load.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "shard/audit.h"
#include "tools/audit_json.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/json.h"
#include "tools/look.h"
#include "tools/text.h"

struct values {
    const char *instance;
    int64_t wait_ns;
    uint32_t count;
    bool json;
};

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    {"count", 0, "N", "do it N times, until something is wrong (default: 1)", command_u32,
        offsetof(struct values, count)},
    {"json", 0, NULL, "print JSON", command_flag, offsetof(struct values, json)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd audit --instance demo", "whether the accounts balance"},
    {"sherd audit --instance demo --count 1000", "a thousand times, under load"},
    {"sherd audit --instance demo --json", "the same, for programs"},
    {0},
};

static const struct command command = {
    .name = "audit",
    .operands = "",
    .summary = "Recomputes an instance's accounts: what was submitted has ended or is under way.",
    .details = "Exit status 1 says that an account is wrong, and a line for each says which.\n"
               "It reads shared memory and asks nobody.",
    .options = options,
    .examples = examples,
};

/* ---- what is wrong ---- */

struct report {
    const struct look *look;
    json_t *findings; /* NULL: for people */
};

static void print_finding(const struct look *look, const struct audit_finding *f)
{
    char from[LOOK_NAME], to[LOOK_NAME], who[2 * LOOK_NAME + 8];

    look_peer_name(look, f->from, from);
    look_peer_name(look, f->to, to);
    snprintf(who, sizeof who, f->from == f->to ? "%s" : "%s to %s", from, to);
    printf("%s: %" PRIu64 " %s, but %" PRIu64 " %s\n", who, f->expected,
        audit_expected_text(f->account), f->found, audit_found_text(f->account));
}

static void on_finding(void *opaque, const struct audit_finding *finding)
{
    const struct report *report = opaque;

    if (report->findings)
        json_array_append_new(report->findings, audit_finding_json(report->look, finding));
    else
        print_finding(report->look, finding);
}

/* ---- what was counted ---- */

static uint64_t sum_of_ends(const struct audit_result *result)
{
    uint64_t sum = 0;

    for (int end = 0; end < N_CALL_ENDS; end++)
        sum += result->ended[end];
    return sum;
}

static void print_counted(const struct audit_result *result)
{
    char figure[TEXT_FIGURE];

    printf("calls: %s submitted, ", text_exact(result->submitted, figure));
    printf("%s ended, ", text_exact(sum_of_ends(result), figure));
    printf("%s under way\n", text_exact(result->under_way, figure));
    printf("requests of clients: %s accepted, ", text_exact(result->requests_accepted, figure));
    printf("%s ended, ", text_exact(result->requests_ended, figure));
    printf("%s under way\n", text_exact(result->requests_in_flight, figure));
    if (result->lanes > 0) {
        printf("requests of local clients: %s taken, ", text_exact(result->lane_requests, figure));
        printf("%s under way\n", text_exact(result->lane_requests_under_way, figure));
    }
    printf("portable coroutines: %" PRIu64 ", with %" PRIu64 " pages; locks: %" PRIu64
           "; buffers that I/O may touch: %" PRIu64 "\n",
        result->portable, result->chunks, result->locks, result->flights);
    puts(result->n_findings ? "The accounts do not balance." : "The accounts balance.");
}

static int print_json(const struct look *look, const struct audit_result *result, json_t *findings)
{
    json_t *o = audit_result_json(result, findings);
    json_set_text(o, "instance", look->name);
    return json_print(o);
}

/* ---- the command ---- */

/* One audit after another until one finds something; the last one's result. */
static void audit_often(
    struct audit *audit, struct report *report, uint32_t count, struct audit_result *ret_result)
{
    do
        audit_run(audit, on_finding, report, ret_result);
    while (ret_result->n_findings == 0 && --count > 0);
}

static int audit_instance(const struct look *look, struct audit *audit, const struct values *values)
{
    struct report report = {.look = look, .findings = values->json ? json_array() : NULL};
    struct audit_result result;
    int status = EXIT_DONE;

    audit_often(audit, &report, values->count, &result);
    if (values->json)
        status = print_json(look, &result, report.findings);
    else
        print_counted(&result);
    if (status == EXIT_DONE)
        status = command_finish_output();
    return result.n_findings ? EXIT_WORK_FAILED : status;
}

int audit_command(int argc, char **argv)
{
    struct values values = {.wait_ns = COMMAND_WAIT_NS, .count = 1};
    struct audit *audit;
    struct look look;
    const char *why;
    char **operands;
    int n = command_parse(&command, argc, argv, &values, &operands), status;

    if (n < 0)
        return command_exit_status(n);
    if (values.count == 0)
        return command_usage(&command, "--count must be at least 1");
    if (look_open(values.instance, values.wait_ns, LOOK_THERE_OR_DEAD, &look))
        return EXIT_WORK_FAILED;
    if (audit_new(&look.view, &audit, &why) == 0) {
        status = audit_instance(&look, audit, &values);
        audit_free(audit);
    } else {
        status = look_refuse(&look, why);
    }
    look_close(&look);
    return status;
}
