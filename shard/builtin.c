/* SPDX-License-Identifier: MIT */
#include "shard/builtin.h"

const struct service_method *builtin_method(uint32_t method)
{
    static const struct service_method methods[] = {
#define X(id, text, function, bits) {.name = text, .run = function, .flags = bits},
        BUILTIN_METHODS(X)
#undef X
    };

    return builtin_is(method) && method < BUILTIN_END ? &methods[method - REGISTRY_METHODS_MAX]
                                                      : NULL;
}
