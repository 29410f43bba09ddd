/* SPDX-License-Identifier: MIT */
#include "tools/bench_report.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "tools/json.h"
#include "tools/table.h"
#include "tools/text.h"

void bench_totals_add(struct bench_totals *t, struct bench_client *client)
{
    for (int work = 0; work < N_BENCH_WORK; work++) {
        histogram_merge(&t->took, &client->took[work]);
        histogram_merge(&t->took_each[work], &client->took[work]);
        t->submitted[work] += client->submitted[work];
        for (uint32_t end = 0; end < BENCH_END_MAX; end++)
            t->ended[work][end] += client->ended[work][end];
    }
    t->n_twice += client->n_twice;
    t->n_lost += client->n_lost;
    t->n_left += client->n_left;
    t->n_behind += client->n_behind;
    t->n_restarts += client->n_restarts;
    t->plane = client->plane;
    if (!t->why_not) {
        t->why_not = client->why_not;
        client->why_not = NULL;
    }
}

static uint64_t all_submitted(const struct bench_totals *t)
{
    uint64_t n = 0;
    for (int work = 0; work < N_BENCH_WORK; work++)
        n += t->submitted[work];
    return n;
}

static uint64_t all_ended(const struct bench_totals *t, uint32_t end)
{
    uint64_t n = 0;
    for (int work = 0; work < N_BENCH_WORK; work++)
        n += t->ended[work][end];
    return n;
}

static double per_second(uint64_t n, const struct bench_totals *t)
{
    return t->ran_ns > 0 ? (double)n * 1e9 / (double)t->ran_ns : 0;
}

static const char *plane_text(enum sherd_plane plane)
{
    return plane == SHERD_PLANE_DATA ? "data" : "control";
}

/* What was read from the file and written to it. */
static double bytes_per_second(const struct bench_plan *plan, const struct bench_totals *t)
{
    uint64_t blocks = t->took_each[BENCH_read].n + t->took_each[BENCH_write].n;
    return per_second(blocks * plan->size, t);
}

/* X(percent, its text) */
#define PERCENTILES(X) \
    X(50, "p50")       \
    X(90, "p90")       \
    X(99, "p99")       \
    X(99.9, "p99.9")   \
    X(99.99, "p99.99")

/* ---- for people ---- */

static void print_row(struct table *t, const char *name, const struct histogram *h, double rate)
{
    char figure[TEXT_FIGURE];
    table_cell(t, "%s", name);
    table_cell(t, "%s", text_exact(h->n, figure));
    table_cell(t, "%s", text_count((uint64_t)rate, figure));
#define X(percent, text) \
    table_cell(t, "%s", text_duration(histogram_percentile(h, percent), figure));
    PERCENTILES(X)
#undef X
    table_cell(t, "%s", text_duration(h->most, figure));
}

void bench_print_people(const struct bench_plan *plan, const struct bench_totals *totals)
{
    static const char *const headers[] = {"WORK", "DONE", "A SECOND",
#define X(percent, text) text,
        PERCENTILES(X)
#undef X
            "MOST"};
    char figure[TEXT_FIGURE];
    struct table t;
    table_init(&t, "<>>>>>>>>");
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++)
        table_cell(&t, "%s", headers[i]);
    for (int work = 0; work < N_BENCH_WORK; work++)
        if (totals->submitted[work])
            print_row(&t, bench_work_name((enum bench_work)work), &totals->took_each[work],
                per_second(totals->took_each[work].n, totals));
    print_row(&t, "all", &totals->took, per_second(totals->took.n, totals));
    table_print(&t, stdout);
    table_deinit(&t);
    printf("\n%s submitted", text_exact(all_submitted(totals), figure));
#define X(name, number, text)      \
    if (all_ended(totals, number)) \
        printf(", %s " text, text_exact(all_ended(totals, number), figure));
    SHERD_ENDS(X)
#undef X
    if (bytes_per_second(plan, totals) > 0)
        printf(", %s/s", text_bytes((uint64_t)bytes_per_second(plan, totals), figure));
    printf("; %" PRIu64 " ended twice, %" PRIu64 " never; %s plane\n", totals->n_twice,
        totals->n_lost, plane_text(totals->plane));
    if (totals->n_behind)
        printf(
            "%s were refused by shards that were behind\n", text_exact(totals->n_behind, figure));
    if (totals->n_restarts)
        printf("%s were asked for again after a death\n", text_exact(totals->n_restarts, figure));
    if (totals->n_left)
        printf("%s were due and could not be submitted: at this rate it does not keep up\n",
            text_exact(totals->n_left, figure));
}

/* ---- for programs ---- */

static json_t *latency_json(const struct histogram *h)
{
    json_t *o = json_object();
#define X(percent, text) json_set_u64(o, text, histogram_percentile(h, percent));
    PERCENTILES(X)
#undef X
    json_set_u64(o, "mean", histogram_mean(h));
    json_set_u64(o, "max", h->most);
    return o;
}

static json_t *work_json(const struct bench_totals *t, int work)
{
    json_t *o = json_object(), *ends = json_object();
    json_set_u64(o, "submitted", t->submitted[work]);
#define X(name, number, text) json_set_u64(ends, text, t->ended[work][number]);
    SHERD_ENDS(X)
#undef X
    json_object_set_new(o, "ends", ends);
    json_object_set_new(o, "latency_ns", latency_json(&t->took_each[work]));
    return o;
}

static json_t *totals_json(
    const char *kind, const struct bench_plan *plan, const struct bench_totals *t)
{
    json_t *o = json_object(), *ends = json_object(), *each = json_object();
    json_set_text(o, "kind", kind);
    json_set_text(o, "plane", plane_text(t->plane));
    json_set_u64(o, "clients", plan->n_clients);
    json_set_u64(o, "depth", plan->depth);
    json_set_u64(o, "size", plan->size);
    if (plan->every_ns) {
        json_set_u64(o, "rate", (uint64_t)(1e9 * plan->n_clients / (double)plan->every_ns + 0.5));
        json_set_u64(o, "never_submitted", t->n_left);
    }
    json_object_set_new(o, "seconds", json_real((double)t->ran_ns / 1e9));
    json_set_u64(o, "submitted", all_submitted(t));
#define X(name, number, text) json_set_u64(ends, text, all_ended(t, number));
    SHERD_ENDS(X)
#undef X
    json_object_set_new(o, "ends", ends);
    json_set_u64(o, "refused_behind", t->n_behind);
    json_set_u64(o, "restarts", t->n_restarts);
    json_set_u64(o, "ended_twice", t->n_twice);
    json_set_u64(o, "never_ended", t->n_lost);
    json_object_set_new(o, "done_per_s", json_real(per_second(t->took.n, t)));
    json_object_set_new(o, "bytes_per_s", json_real(bytes_per_second(plan, t)));
    json_object_set_new(o, "latency_ns", latency_json(&t->took));
    for (int work = 0; work < N_BENCH_WORK; work++)
        if (t->submitted[work])
            json_object_set_new(each, bench_work_name((enum bench_work)work), work_json(t, work));
    json_object_set_new(o, "work", each);
    return o;
}

void bench_print_json(
    const char *kind, const struct bench_plan *plan, const struct bench_totals *totals)
{
    json_print(totals_json(kind, plan, totals));
}
