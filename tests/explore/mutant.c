/* SPDX-License-Identifier: MIT */
#include "tests/explore/mutant.h"

#include <string.h>

static const struct mutant *set;
static bool met;

void mutant_set(const struct mutant *mutant)
{
    set = mutant;
    met = false;
}

static bool is_in_file(const struct atomic_site *site, const char *file)
{
    const char *slash = strrchr(site->file, '/');

    return strcmp(slash ? slash + 1 : site->file, file) == 0;
}

enum mutation mutant_at(const struct atomic_site *site)
{
    if (!set || set->op != site->op || site->line < set->first_line ||
        site->line > set->last_line || !is_in_file(site, set->file))
        return MUTATION_none;
    met = true;
    return set->mutation;
}

bool mutant_was_met(void)
{
    return met;
}
