/* SPDX-License-Identifier: MIT */
#include "tests/explore/scenarios.h"

#include <string.h>

const struct scenario_group scenario_groups[] = {
#define X(name) {#name, name##_scenarios},
    SCENARIO_GROUPS(X)
#undef X
};
const size_t scenario_n_groups = sizeof scenario_groups / sizeof scenario_groups[0];

bool scenario_is_wrong(const struct scenario *scenario)
{
    return strncmp(scenario->name, "wrong: ", 7) == 0;
}

const struct scenario *scenario_find(const char *name)
{
    for (size_t i = 0; i < scenario_n_groups; i++)
        for (const struct scenario *s = scenario_groups[i].scenarios; s->name; s++)
            if (strcmp(name, s->name) == 0)
                return s;
    return NULL;
}
