/* SPDX-License-Identifier: MIT */
#include "tests/explore/mutants.h"

#include <stdio.h>
#include <string.h>

#include "tests/explore/mutant.h"
#include "tests/explore/scenarios.h"
#include "tests/explore/search.h"
#include "tests/explore/site.h"

static const char *const mutation_names[] = {[MUTATION_none] = "none",
#define X(name, help) [MUTATION_##name] = #name,
    MUTATIONS(X)
#undef X
};

#define N_MUTATIONS (sizeof mutation_names / sizeof mutation_names[0])

/* group: whose scenarios alone come to it in earnest; NULL: any of those that no other file
 * names. */
static const struct file {
    const char *folder;
    const char *file;
    const char *group;
} files[] = {
    {"runtime", "aio_wait.c", NULL},
    {"runtime", "bh.c", NULL},
    {"runtime", "co_mutex.c", NULL},
    {"runtime", "co_queue.c", NULL},
    {"runtime", "co_rwlock.c", NULL},
    {"runtime", "co_schedule.c", NULL},
    {"runtime", "co_semaphore.c", NULL},
    {"runtime", "coroutine.c", NULL},
    {"runtime", "doorbell.c", NULL},
    {"runtime", "doorbell.h", NULL},
    {"runtime", "lockcnt.c", NULL},
    {"runtime", "ring.c", NULL},
    {"client", "local_lane.h", "plane"},
    {"gateway", "attach.c", "cut"},
    {"gateway", "attach_closed.c", "leave"},
    {"gateway", "clients.c", "cut"},
    {"plane", "heir.c", "ledger"},
    {"plane", "intake.c", "ledger"},
    {"plane", "lane.c", "cut"},
    {"plane", "ledger.c", "ledger"},
    {"plane", "plane.c", "plane"},
    {"plane", "plane_inside.h", "plane"},
    {"plane", "plane_shard.c", "leave"},
    {"plane", "run.c", "ledger"},
    {"shard", "arena.c", "move"},
    {"shard", "caller.c", "mesh"},
    {"shard", "caller_heir.c", "mesh"},
    {"shard", "estate.c", "mesh"},
    {"shard", "hot.c", "mesh"},
    {"shard", "judge.c", "mesh"},
    {"shard", "lock_home.c", "lock"},
    {"shard", "mesh.c", "mesh"},
    {"shard", "serve.c", "mesh"},
    {"shard", "serve_answer.c", "mesh"},
};
#define N_FILES (sizeof files / sizeof files[0])

static const struct file *find_file(const char *name)
{
    for (size_t i = 0; i < N_FILES; i++)
        if (strcmp(files[i].file, name) == 0)
            return &files[i];
    return NULL;
}

static bool is_in(const char *name, const char *folder)
{
    const struct file *file = find_file(name);

    return file && strcmp(file->folder, folder) == 0;
}

static const struct mutant_row {
    const char *file;
    const char *function;
    enum atomic_op op;
    unsigned nth;
    enum mutation mutation;
    const char *noticed_by; /* a scenario, or NULL */
    const char *why_not;    /* what makes it no mistake, or NULL */
} rows[] = {
#define NOTICED(file, function, op, nth, mutation, scenario) \
    {file, #function, ATOMIC_OP_##op, nth, MUTATION_##mutation, scenario, NULL},
#define HARMLESS(file, function, op, nth, mutation, reason) \
    {file, #function, ATOMIC_OP_##op, nth, MUTATION_##mutation, NULL, reason},
#include "tests/explore/mutant_rows.h"
#undef NOTICED
#undef HARMLESS
};
#define N_ROWS (sizeof rows / sizeof rows[0])

/* Of the mesh and the plane the table has what is noticed; --long tells what it leaves out. */
static bool needs_rows(const char *name)
{
    return !find_file(name)->group;
}

/* Ways in which this operation can be done wrong, a bit each. A store that only who takes over will
 * miss can be left out as well. */
static unsigned mutations_of(const char *file, enum atomic_op op)
{
    unsigned left_out = needs_rows(file) ? 0 : 1u << MUTATION_drop;

    switch (op) {
    case ATOMIC_OP_full_fence:
        return 1u << MUTATION_drop;
    case ATOMIC_OP_load_acquire:
        return 1u << MUTATION_relax;
    case ATOMIC_OP_store_relaxed:
        return 1u << MUTATION_swap | left_out;
    case ATOMIC_OP_store_release:
        return 1u << MUTATION_relax | 1u << MUTATION_swap | left_out;
    case ATOMIC_OP_load_relaxed:
    case ATOMIC_OP_pause:
        return 0;
    default:
        return 1u << MUTATION_relax | 1u << MUTATION_split;
    }
}

static bool row_was_used[N_ROWS];

static const struct mutant_row *find_row(
    const char *file, const struct site *site, enum mutation mutation)
{
    for (size_t i = 0; i < N_ROWS; i++) {
        if (strcmp(rows[i].file, file) == 0 && strcmp(rows[i].function, site->function) == 0 &&
            rows[i].op == site->op && rows[i].nth == site->nth && rows[i].mutation == mutation) {
            row_was_used[i] = true;
            return &rows[i];
        }
    }
    return NULL;
}

static bool may_meet(const char *group, const char *name)
{
    const struct file *file = find_file(name);

    if (file->group)
        return strcmp(group, file->group) == 0;
    for (size_t i = 0; i < N_FILES; i++)
        if (files[i].group && strcmp(group, files[i].group) == 0)
            return false;
    return strcmp(group, "circle") != 0; /* the mesh as well */
}

#define RUNS_TO_SUGGEST 1000 /* of a scenario, to find out who may notice */

/* Whether the scenario fails with the mutant that is set. max_runs: 0: all of them. */
static bool notices(const struct scenario *scenario, uint64_t max_runs)
{
    struct search_report report;

    search(scenario, &(struct search_options){.bounds = scenario->bounds, .max_runs = max_runs},
        &report);
    return report.failed;
}

/* The first that does, or NULL. */
static const char *who_notices(const char *file, uint64_t max_runs)
{
    for (size_t i = 0; i < scenario_n_groups; i++)
        for (const struct scenario *s = scenario_groups[i].scenarios; s->name; s++)
            if (may_meet(scenario_groups[i].name, file) && !scenario_is_wrong(s) && !s->only_long &&
                notices(s, max_runs))
                return s->name;
    return NULL;
}

static void name_row(const char *file, const struct site *site, enum mutation mutation,
    const char *verdict, char *ret, size_t bytes)
{
    snprintf(ret, bytes, "%s: %s: %s %u (%s), %s: %s", file, site->function, site_op_name(site->op),
        site->nth, site->ordering[0] ? site->ordering : "-", mutation_names[mutation], verdict);
}

/* The row that is missing. */
static void suggest(const char *file, const struct site *site, enum mutation mutation)
{
    const char *scenario = who_notices(file, RUNS_TO_SUGGEST);

    printf("# %s(\"%s\", %s, %s, %u, %s, \"%s\")\n", scenario ? "NOTICED" : "HARMLESS", file,
        site->function, site_op_name(site->op), site->nth, mutation_names[mutation],
        scenario           ? scenario
        : mutant_was_met() ? "..."
                           : "never met");
}

static bool row_is_right(const struct mutant_row *row, bool thorough)
{
    if (row->noticed_by) {
        const struct scenario *scenario = scenario_find(row->noticed_by);

        return scenario && notices(scenario, 0);
    }
    return !thorough || !who_notices(row->file, 0);
}

static void check_mutation(const char *file, const struct site *site, enum mutation mutation,
    bool thorough, void (*say)(bool ok, const char *name))
{
    const struct mutant mutant = {.mutation = mutation,
        .file = file,
        .op = site->op,
        .first_line = site->first_line,
        .last_line = site->last_line};
    const struct mutant_row *row = find_row(file, site, mutation);
    char name[512];

    if (!row && !thorough && !needs_rows(file))
        return;
    mutant_set(&mutant);
    name_row(file, site, mutation,
        !row              ? "has no row"
        : row->noticed_by ? row->noticed_by
                          : row->why_not,
        name, sizeof name);
    say(row && row_is_right(row, thorough), name);
    if (!row)
        suggest(file, site, mutation);
    mutant_set(NULL);
}

static void check_file(
    const char *folder, const char *file, bool thorough, void (*say)(bool ok, const char *name))
{
    struct sites sites;
    char path[4096];

    snprintf(path, sizeof path, "%s/%s", folder, file);
    if (sites_read(path, &sites) < 0) {
        say(false, path);
        return;
    }
    for (size_t i = 0; i < sites.n; i++)
        for (unsigned m = 1; m < N_MUTATIONS; m++)
            if (mutations_of(file, sites.all[i].op) & 1u << m)
                check_mutation(file, &sites.all[i], (enum mutation)m, thorough, say);
    sites_free(&sites);
}

void mutants_check(const char *folder, bool thorough, void (*say)(bool ok, const char *name))
{
    const char *slash = strrchr(folder, '/');
    const char *layer = slash ? slash + 1 : folder;

    for (size_t i = 0; i < N_FILES; i++)
        if (strcmp(files[i].folder, layer) == 0)
            check_file(folder, files[i].file, thorough, say);
    for (size_t i = 0; i < N_ROWS; i++)
        if (!row_was_used[i] && is_in(rows[i].file, layer)) {
            char name[256];

            snprintf(name, sizeof name, "%s: %s: %s %u: the row has no access", rows[i].file,
                rows[i].function, site_op_name(rows[i].op), rows[i].nth);
            say(false, name);
        }
}
