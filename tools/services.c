/* SPDX-License-Identifier: MIT */
/*
 * sherd services - what services count, where they listen, and what they keep over deaths, from the
 * segment, live or after a crash
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "shard/service.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/json.h"
#include "tools/look.h"
#include "tools/look_command.h"
#include "tools/table.h"
#include "tools/text.h"

#define NAME_TEXT    128
#define ADDRESS_TEXT 256

static const struct command_example examples[] = {
    {"sherd services --instance demo", "what each shard's services count, and where they listen"},
    {"sherd services --instance demo --json", "the same, for programs"},
    {0},
};

static const struct command command = {
    .name = "services",
    .operands = "",
    .summary = "Shows what the services of an instance count in each shard, where they listen, and "
               "their regions.",
    .details = "Counters go on over the deaths of their shard. It reads shared memory and asks "
               "nobody.",
    .options = look_command_options,
    .examples = examples,
};

/* The nth row of a table of named records; false: there are no more. */
static bool named_row(const struct look *look, const char *area, uint32_t shard, const char *region,
    uint32_t nth, struct view_record *ret, char name[static NAME_TEXT])
{
    return segment_view_at(&look->view, area, shard, region, 0, nth, ret) &&
           view_text(ret, "name", name, NAME_TEXT) && name[0] != '\0';
}

/* ---- for people ---- */

static void print_listeners(const struct look *look)
{
    char name[NAME_TEXT], address[ADDRESS_TEXT];
    struct view_record row;
    struct table t;

    table_init(&t, "<<>>");
    table_cell(&t, "LISTENER");
    table_cell(&t, "ADDRESS");
    table_cell(&t, "SOCKETS");
    table_cell(&t, "MOST A SHARD");
    for (uint32_t n = 0; named_row(look, "control", 0, "listeners", n, &row, name); n++) {
        view_text(&row, "address", address, sizeof address);
        table_cell(&t, "%s", name);
        table_cell(&t, "%s", address);
        table_cell(&t, "%" PRIu64, look_word(&row, "n_sockets"));
        table_cell(&t, "%" PRIu64, look_word(&row, "connections_max"));
    }
    if (table_rows(&t) > 1) {
        table_print(&t, stdout);
        putchar('\n');
    }
    table_deinit(&t);
}

static void print_counters(const struct look *look)
{
    char name[NAME_TEXT];
    struct view_record row;
    struct table t;

    table_init(&t, "<<>");
    table_cell(&t, "SHARD");
    table_cell(&t, "COUNTER");
    table_cell(&t, "VALUE");
    for (uint32_t shard = 0; shard < look->view.n_shards; shard++)
        for (uint32_t n = 0; named_row(look, "shard", shard, "service_counters", n, &row, name);
             n++) {
            table_cell(&t, "%u", shard);
            table_cell(&t, "%s", name);
            table_cell(&t, "%" PRIu64, look_word(&row, "value"));
        }
    if (table_rows(&t) > 1)
        table_print(&t, stdout);
    else
        puts("no service counts anything");
    table_deinit(&t);
}

static void print_regions(const struct look *look)
{
    char name[NAME_TEXT], figure[TEXT_FIGURE];
    struct view_record row;
    struct table t;

    table_init(&t, "<<>><");
    table_cell(&t, "SHARD");
    table_cell(&t, "REGION");
    table_cell(&t, "SIZE");
    table_cell(&t, "INCARNATION");
    table_cell(&t, "CHANGE UNDER WAY");
    for (uint32_t shard = 0; shard < look->view.n_shards; shard++)
        for (uint32_t n = 0; named_row(look, "shard", shard, "service_regions", n, &row, name);
             n++) {
            uint64_t mark = look_word(&row, "mark");
            table_cell(&t, "%u", shard);
            table_cell(&t, "%s", name);
            table_cell(&t, "%s", text_bytes(look_word(&row, "bytes"), figure));
            table_cell(&t, "%" PRIu64, look_word(&row, "incarnation"));
            if (mark)
                table_cell(&t, "%" PRIu64, mark);
            else
                table_cell(&t, "none");
        }
    if (table_rows(&t) > 1) {
        putchar('\n');
        table_print(&t, stdout);
    }
    table_deinit(&t);
}

static int print_people(const struct look *look)
{
    print_listeners(look);
    print_counters(look);
    print_regions(look);
    return command_finish_output();
}

/* ---- for programs ---- */

static json_t *listeners_json(const struct look *look)
{
    char name[NAME_TEXT], address[ADDRESS_TEXT];
    struct view_record row;
    json_t *array = json_array();

    for (uint32_t n = 0; named_row(look, "control", 0, "listeners", n, &row, name); n++) {
        json_t *o = json_object();
        view_text(&row, "address", address, sizeof address);
        json_set_text(o, "name", name);
        json_set_text(o, "address", address);
        json_set_u64(o, "sockets", look_word(&row, "n_sockets"));
        json_set_u64(o, "connections_max", look_word(&row, "connections_max"));
        json_array_append_new(array, o);
    }
    return array;
}

static json_t *shard_json(const struct look *look, uint32_t shard)
{
    char name[NAME_TEXT];
    struct view_record row;
    json_t *o = json_object(), *counters = json_object(), *regions = json_array();

    for (uint32_t n = 0; named_row(look, "shard", shard, "service_counters", n, &row, name); n++)
        json_set_u64(counters, name, look_word(&row, "value"));
    for (uint32_t n = 0; named_row(look, "shard", shard, "service_regions", n, &row, name); n++) {
        json_t *region = json_object();
        json_set_text(region, "name", name);
        json_set_u64(region, "bytes", look_word(&row, "bytes"));
        json_set_u64(region, "incarnation", look_word(&row, "incarnation"));
        json_set_u64(region, "mark", look_word(&row, "mark"));
        json_array_append_new(regions, region);
    }
    json_object_set_new(o, "counters", counters);
    json_object_set_new(o, "regions", regions);
    return o;
}

static int print_json(const struct look *look)
{
    json_t *o = json_object(), *shards = json_array();

    json_set_text(o, "instance", look->name);
    json_object_set_new(o, "live", json_boolean(look->supervisor != 0));
    json_object_set_new(o, "listeners", listeners_json(look));
    for (uint32_t shard = 0; shard < look->view.n_shards; shard++)
        json_array_append_new(shards, shard_json(look, shard));
    json_object_set_new(o, "shards", shards);
    return json_print(o);
}

int services_command(int argc, char **argv)
{
    return look_command(&command, argc, argv, print_people, print_json);
}
