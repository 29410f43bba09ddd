/* SPDX-License-Identifier: MIT */
/*
 * sherd clients - local clients, what each was granted and what it has done in each shard, from the
 * segment, live or after a crash
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "shard/segment.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/json.h"
#include "tools/look.h"
#include "tools/look_command.h"
#include "tools/table.h"
#include "tools/text.h"

#define NAME_TEXT 128

static const struct command_example examples[] = {
    {"sherd clients --instance demo", "who is attached"},
    {"sherd clients --instance demo --json", "the same with each lane, for programs"},
    {0},
};

static const struct command command = {
    .name = "clients",
    .operands = "",
    .summary =
        "Shows the local clients of an instance: who they are, their memory, their requests.",
    .details = "It reads shared memory and asks nobody.",
    .options = look_command_options,
    .examples = examples,
};

/* What it has in all shards together. */
struct sums {
    uint32_t lanes;
    uint64_t requests, ended, refused;
};

/* The nth client; false: there are no more rows. *ret_state: CLIENT_FREE is nobody. */
static bool client_row(
    const struct look *look, uint32_t n, struct view_record *ret, enum client_state *ret_state)
{
    if (!segment_view_at(&look->view, "gateway", 0, "clients", 0, n, ret))
        return false;
    *ret_state = client_state(look_word(ret, "word"));
    return true;
}

/* Its lane in a shard, if that has one of this generation. */
static bool lane_of(const struct look *look, uint32_t shard, uint32_t n, uint64_t generation,
    struct view_record *ret)
{
    return segment_view_at(&look->view, "shard", shard, "client_lanes", 0, n, ret) &&
           look_word(ret, "generation") == generation && look_word(ret, "state") != 0;
}

static struct sums sums_of(const struct look *look, uint32_t n, uint64_t generation)
{
    struct sums sums = {0};
    struct view_record lane;

    for (uint32_t shard = 0; shard < look->view.n_shards; shard++) {
        if (!lane_of(look, shard, n, generation, &lane))
            continue;
        sums.lanes++;
        sums.requests += look_word(&lane, "requests");
        sums.ended += look_word(&lane, "tail");
        sums.refused += look_word(&lane, "refused");
    }
    return sums;
}

/* In how many crashes a request of it was on the CPU. */
static uint64_t crashes_of(const struct look *look, uint32_t n, uint64_t generation)
{
    uint64_t who = culprit_of(origin_of_client(0, n, generation));
    struct view_record culprit;

    for (uint32_t i = 0; segment_view_at(&look->view, "control", 0, "culprits", 0, i, &culprit);
         i++)
        if (look_word(&culprit, "who") == who)
            return look_word(&culprit, "crashes");
    return 0;
}

/* Read at different moments, so never below 0. */
static uint64_t in_flight(uint64_t requests, uint64_t ended)
{
    return requests > ended ? requests - ended : 0;
}

/* ---- for people ---- */

static void print_client(
    const struct look *look, struct table *t, uint32_t n, const struct view_record *row)
{
    uint64_t word = look_word(row, "word");
    struct sums sums = sums_of(look, n, client_generation(word));
    char name[NAME_TEXT], figure[TEXT_FIGURE];

    view_text(row, "name", name, sizeof(name));
    table_cell(t, "%u", n);
    table_cell(t, "%s", client_state_text(client_state(word)));
    table_cell(t, "%" PRIu64, look_word(row, "uid"));
    table_cell(t, "%" PRIu64, look_word(row, "pid"));
    table_cell(t, "%s", text_bytes(look_word(row, "total_bytes"), figure));
    table_cell(t, "%u", sums.lanes);
    table_cell(t, "%" PRIu64, in_flight(sums.requests, sums.ended));
    table_cell(t, "%" PRIu64, sums.ended);
    table_cell(t, "%" PRIu64, sums.refused);
    table_cell(t, "%" PRIu64, crashes_of(look, n, client_generation(word)));
    table_cell(t, "%s", name);
}

static int print_people(const struct look *look)
{
    static const char *const heads[] = {"CLIENT", "STATE", "UID", "PID", "MEMORY", "SHARDS",
        "IN FLIGHT", "ENDED", "REFUSED", "CRASHES", "NAME"};
    struct view_record row;
    enum client_state state;
    struct table t;

    table_init(&t, "><>>>>>>>><");
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++)
        table_cell(&t, "%s", heads[i]);
    for (uint32_t n = 0; client_row(look, n, &row, &state); n++)
        if (state != CLIENT_FREE)
            print_client(look, &t, n, &row);
    if (table_rows(&t) > 1)
        table_print(&t, stdout);
    else
        puts("no local client is attached");
    table_deinit(&t);
    return command_finish_output();
}

/* ---- for programs ---- */

static json_t *lanes_json(const struct look *look, uint32_t n, uint64_t generation)
{
    static const char *const figures[] = {
        "head", "urgent_head", "requests", "tail", "refused", "rings"};
    json_t *array = json_array();
    struct view_record lane;

    for (uint32_t shard = 0; shard < look->view.n_shards; shard++) {
        if (!lane_of(look, shard, n, generation, &lane))
            continue;
        json_t *o = json_object();
        json_set_u64(o, "shard", shard);
        for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++)
            json_set_u64(o, figures[i], look_word(&lane, figures[i]));
        json_array_append_new(array, o);
    }
    return array;
}

static json_t *client_json(const struct look *look, uint32_t n, const struct view_record *row)
{
    static const char *const figures[] = {"uid", "pid", "n_entries", "data_bytes", "total_bytes",
        "max_in_flight", "max_bytes", "max_rate", "opens", "attached_ns"};
    uint64_t word = look_word(row, "word");
    char name[NAME_TEXT];
    json_t *o = json_object();

    view_text(row, "name", name, sizeof(name));
    json_set_u64(o, "client", n);
    json_set_u64(o, "generation", client_generation(word));
    json_set_text(o, "state", client_state_text(client_state(word)));
    json_set_text(o, "name", name);
    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++)
        json_set_u64(o, figures[i], look_word(row, figures[i]));
    json_set_u64(o, "crashes", crashes_of(look, n, client_generation(word)));
    json_set_text(o, "cut_off", cut_reason_text((uint32_t)look_word(row, "reason")));
    json_object_set_new(o, "lanes", lanes_json(look, n, client_generation(word)));
    return o;
}

static int print_json(const struct look *look)
{
    json_t *o = json_object(), *clients = json_array();
    struct view_record row;
    enum client_state state;

    json_set_text(o, "instance", look->name);
    json_object_set_new(o, "live", json_boolean(look->supervisor != 0));
    for (uint32_t n = 0; client_row(look, n, &row, &state); n++)
        if (state != CLIENT_FREE)
            json_array_append_new(clients, client_json(look, n, &row));
    json_object_set_new(o, "clients", clients);
    return json_print(o);
}

int clients_command(int argc, char **argv)
{
    return look_command(&command, argc, argv, print_people, print_json);
}
