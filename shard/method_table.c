/* SPDX-License-Identifier: MIT */
#include "shard/method_table.h"

#include <stdio.h>

#include "shard/builtin.h"

void method_table_write(const struct segment *seg, const struct registry *registry)
{
    struct method_name *at = segment_methods(seg), *end = at + SEGMENT_METHODS;
    const struct service_method *method;
    uint32_t service;

    for (uint32_t n = REGISTRY_METHODS_MAX; at < end && (method = builtin_method(n)); n++, at++) {
        *at = (struct method_name){.number = n, .flags = method->flags};
        snprintf(at->name, sizeof(at->name), "%s", method->name);
    }
    for (uint32_t n = 0; at < end && n < registry_n_methods(registry); n++) {
        method = registry_method(registry, n, &service);
        if (!method)
            continue;
        *at = (struct method_name){.number = n, .flags = method->flags};
        snprintf(at->name, sizeof(at->name), "%s.%s", registry_service(registry, service)->name,
            method->name);
        at++;
    }
}
