/* SPDX-License-Identifier: MIT */
/*
 * sherd clients - local clients, what each was granted and what it has done in each shard, from the
 * segment, live or after a crash
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

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
    .details =
        "It reads shared memory and asks nobody. Below are users whose requests crashed shards, of "
        "whom nothing is begun until their wait is over, and sessions of the control plane that "
        "did.",
    .options = look_command_options,
    .examples = examples,
};

/* CLOCK_MONOTONIC. */
static uint64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

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

/* A user whose requests crashed shards. */
struct user {
    uint32_t uid;
    uint64_t crashes, wait_ms;
    uint64_t left_ns; /* of its wait */
};

/* The nth; false: there are no more. *ret_used: its row is. */
static bool user_at(const struct look *look, uint32_t n, struct user *ret, bool *ret_used)
{
    struct view_record row;
    uint64_t now_ns = look->supervisor ? now() : UINT64_MAX, until_ns;

    if (!segment_view_at(&look->view, "control", 0, "client_users", 0, n, &row))
        return false;
    until_ns = look_word(&row, "until_ns");
    *ret_used = look_word(&row, "used") != 0;
    *ret = (struct user){.uid = (uint32_t)look_word(&row, "uid"),
        .crashes = look_word(&row, "crashes"),
        .wait_ms = look_word(&row, "wait_ms"),
        .left_ns = until_ns > now_ns ? until_ns - now_ns : 0};
    return true;
}

static uint64_t left_of(const struct look *look, uint64_t uid)
{
    struct user user;
    bool is_used;

    for (uint32_t n = 0; user_at(look, n, &user, &is_used); n++)
        if (is_used && user.uid == uid)
            return user.left_ns;
    return 0;
}

/* The nth session of the gateway with crashes, likewise. */
static bool session_at(
    const struct look *look, uint32_t n, struct view_record *ret, uint32_t *ret_number)
{
    uint64_t who;

    if (!segment_view_at(&look->view, "control", 0, "culprits", 0, n, ret))
        return false;
    who = look_word(ret, "who");
    *ret_number = who & ORIGIN_CLIENT ? 0 : origin_session(who);
    return true;
}

/* Read at different moments, so never below 0. */
static uint64_t in_flight(uint64_t requests, uint64_t ended)
{
    return requests > ended ? requests - ended : 0;
}

/* ---- for people ---- */

/* A head for each column. */
static void begin_table(struct table *t, const char *alignment, const char *const *heads)
{
    table_init(t, alignment);
    for (size_t i = 0; alignment[i]; i++)
        table_cell(t, "%s", heads[i]);
}

static const char *text_wait(uint64_t ns, char figure[static TEXT_FIGURE])
{
    return ns ? text_duration(ns, figure) : "-";
}

static void print_uid(struct table *t, uint32_t uid)
{
    if (uid == CLIENT_USER_REMOTE)
        table_cell(t, "by tcp");
    else
        table_cell(t, "%u", uid);
}

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
    table_cell(t, "%s", text_wait(left_of(look, look_word(row, "uid")), figure));
    table_cell(t, "%s", name);
}

/* A blank line before it, unless it is empty. */
static void print_below(struct table *t)
{
    if (table_rows(t) > 1) {
        putchar('\n');
        table_print(t, stdout);
    }
    table_deinit(t);
}

static void print_users(const struct look *look)
{
    char figure[TEXT_FIGURE];
    struct user user;
    struct table t;
    bool is_used;

    begin_table(&t, ">>>>", (const char *const[]){"USER", "CRASHES", "WAIT", "LEFT"});
    for (uint32_t n = 0; user_at(look, n, &user, &is_used); n++) {
        if (!is_used)
            continue;
        print_uid(&t, user.uid);
        table_cell(&t, "%" PRIu64, user.crashes);
        table_cell(&t, "%s", text_duration(user.wait_ms * 1000000, figure));
        table_cell(&t, "%s", text_wait(user.left_ns, figure));
    }
    print_below(&t);
}

static void print_sessions(const struct look *look)
{
    struct view_record row;
    struct table t;
    uint32_t number;

    begin_table(&t, ">>>", (const char *const[]){"SESSION", "USER", "CRASHES"});
    for (uint32_t n = 0; session_at(look, n, &row, &number); n++) {
        if (!number)
            continue;
        table_cell(&t, "%u", number);
        print_uid(&t, (uint32_t)look_word(&row, "uid"));
        table_cell(&t, "%" PRIu64, look_word(&row, "crashes"));
    }
    print_below(&t);
}

/* Clients that were cut off, since the instance began. */
static uint64_t n_cut_off(const struct look *look)
{
    struct view_record part;

    return segment_view_of_peer(&look->view, look->view.n_shards, "head", 0, 0, &part)
               ? look_word(&part, "clients_cut")
               : 0;
}

static void print_cut_off(const struct look *look)
{
    uint64_t n = n_cut_off(look);

    if (n > 0)
        printf("\n%" PRIu64 " cut off since the start; the log says why\n", n);
}

static int print_people(const struct look *look)
{
    static const char *const heads[] = {"CLIENT", "STATE", "UID", "PID", "MEMORY", "SHARDS",
        "IN FLIGHT", "ENDED", "REFUSED", "CRASHES", "WAIT", "NAME"};
    struct view_record row;
    enum client_state state;
    struct table t;

    begin_table(&t, "><>>>>>>>>><", heads);
    for (uint32_t n = 0; client_row(look, n, &row, &state); n++)
        if (state != CLIENT_FREE)
            print_client(look, &t, n, &row);
    if (table_rows(&t) > 1)
        table_print(&t, stdout);
    else
        puts("no local client is attached");
    table_deinit(&t);
    print_users(look);
    print_sessions(look);
    print_cut_off(look);
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
    json_set_u64(o, "wait_left_ns", left_of(look, look_word(row, "uid")));
    json_set_text(o, "cut_off", cut_reason_text((uint32_t)look_word(row, "reason")));
    json_object_set_new(o, "lanes", lanes_json(look, n, client_generation(word)));
    return o;
}

static json_t *uid_json(uint32_t uid)
{
    return uid == CLIENT_USER_REMOTE ? json_null() : json_integer(uid);
}

static json_t *users_json(const struct look *look)
{
    json_t *array = json_array();
    struct user user;
    bool is_used;

    for (uint32_t n = 0; user_at(look, n, &user, &is_used); n++) {
        if (!is_used)
            continue;
        json_t *o = json_object();
        json_object_set_new(o, "uid", uid_json(user.uid));
        json_set_u64(o, "crashes", user.crashes);
        json_set_u64(o, "wait_ms", user.wait_ms);
        json_set_u64(o, "wait_left_ns", user.left_ns);
        json_array_append_new(array, o);
    }
    return array;
}

static json_t *sessions_json(const struct look *look)
{
    json_t *array = json_array();
    struct view_record row;
    uint32_t number;

    for (uint32_t n = 0; session_at(look, n, &row, &number); n++) {
        if (!number)
            continue;
        json_t *o = json_object();
        json_set_u64(o, "session", number);
        json_object_set_new(o, "uid", uid_json((uint32_t)look_word(&row, "uid")));
        json_set_u64(o, "crashes", look_word(&row, "crashes"));
        json_array_append_new(array, o);
    }
    return array;
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
    json_set_u64(o, "cut_off", n_cut_off(look));
    json_object_set_new(o, "users", users_json(look));
    json_object_set_new(o, "sessions", sessions_json(look));
    return json_print(o);
}

int clients_command(int argc, char **argv)
{
    return look_command(&command, argc, argv, print_people, print_json);
}
