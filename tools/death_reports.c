/* SPDX-License-Identifier: MIT */
#include "tools/death_reports.h"

#include <stdio.h>
#include <stdlib.h>

#include "shard/death_report.h"

/* A file that was cut short, or that somebody else put there, is passed over. */
static json_t *read_report(const char *dir, uint32_t nth)
{
    char *path;
    json_t *report = NULL;
    if (asprintf(&path, "%s/death-%u.json", dir, nth) < 0)
        return NULL;
    report = json_load_file(path, 0, NULL);
    free(path);
    if (json_is_object(report) && json_is_integer(json_object_get(report, "number")))
        return report;
    json_decref(report);
    return NULL;
}

static json_int_t number_of(const json_t *report, const char *key)
{
    return json_integer_value(json_object_get(report, key));
}

/* All but the innermost are addresses behind a call, which may be its function's last
 * instruction. */
static void name_frames(json_t *report, struct symbols *symbols)
{
    json_t *frames = json_object_get(json_object_get(report, "record"), "backtrace"), *frame;
    char text[256];
    size_t i;
    json_array_foreach(frames, i, frame)
    {
        const char *address = json_string_value(json_object_get(frame, "address"));
        uint64_t pc = address ? strtoull(address, NULL, 16) - (i > 0) : 0;
        if (address)
            json_object_set_new(
                frame, "function", json_string(symbols_name(symbols, pc, text, sizeof text)));
    }
}

/* Where it belongs by its number. */
static void insert(json_t *reports, json_t *report)
{
    size_t at = json_array_size(reports);
    while (at > 0 &&
           number_of(json_array_get(reports, at - 1), "number") > number_of(report, "number"))
        at--;
    json_array_insert_new(reports, at, report);
}

json_t *death_reports_read(const char *dir, uint32_t incarnation, struct symbols *symbols)
{
    json_t *reports = json_array();
    for (uint32_t nth = 0; dir && nth < DEATH_REPORTS; nth++) {
        json_t *report = read_report(dir, nth);
        if (!report)
            continue;
        if (incarnation && number_of(report, "incarnation") != incarnation) {
            json_decref(report);
            continue;
        }
        name_frames(report, symbols);
        insert(reports, report);
    }
    return reports;
}
