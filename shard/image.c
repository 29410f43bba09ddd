/* SPDX-License-Identifier: MIT */
#include "shard/image.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "shard/segment.h"
#include "shard/stack_guard.h"

void image_read(const struct segment *segment, struct image *ret)
{
    *ret = (struct image){
        .code = (uint64_t)(uintptr_t)image_read,
        .data = (uint64_t)(uintptr_t)&environ,
        .thread_local_errno = (uint64_t)(uintptr_t)&errno,
        .stack_guard = stack_guard_read(),
        .segment = (uint64_t)(uintptr_t)segment->base,
    };
    build_id_read(ret->build_id);
}

const char *image_difference(const struct image *a, const struct image *b)
{
#define X(field, what)        \
    if (a->field != b->field) \
        return what;
    IMAGE_FACTS(X)
#undef X
    return memcmp(a->build_id, b->build_id, sizeof(a->build_id)) == 0 ? NULL : "the build id";
}
