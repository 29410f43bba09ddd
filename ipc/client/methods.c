/* SPDX-License-Identifier: MIT */
#include "ipc/client/methods.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int methods_learn(struct method_set *set, const Sherd__Wire__MethodsReply *reply)
{
    methods_deinit(set);
    set->names = calloc(reply->n_methods + 1, sizeof(*set->names));
    for (size_t i = 0; set->names && i < reply->n_methods; i++) {
        if (!reply->methods[i]->idempotent)
            continue;
        set->names[set->n] = strdup(reply->methods[i]->name);
        if (!set->names[set->n]) {
            methods_deinit(set);
            return -ENOMEM;
        }
        set->n++;
    }
    if (!set->names)
        return -ENOMEM;
    qsort(set->names, set->n, sizeof(*set->names), compare);
    return 0;
}

bool methods_may_repeat(const struct method_set *set, const char *name)
{
    return set->n > 0 && bsearch(&name, set->names, set->n, sizeof(*set->names), compare);
}

void methods_deinit(struct method_set *set)
{
    for (size_t i = 0; i < set->n; i++)
        free(set->names[i]);
    free(set->names);
    *set = (struct method_set){};
}
