/* SPDX-License-Identifier: MIT */
#include "shard/image.h"
/*
 * The superblock is constant after the first fork, and outlives any one process; so also a
 * supervisor that had been executed anew, with the segment of one before, would be told.
 *
 * Secrets are noted as fingerprints: the file can be read by tools, and is kept after a crash.
 */
#include <errno.h>
#include <gnu/libc-version.h>
#include <inttypes.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "runtime/build_id.h"
#include "shard/explain.h"
#include "shard/stack_guard.h"

static uint64_t fold(uint64_t sum, uint64_t value)
{
    sum = (sum ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    return sum ^ sum >> 29;
}

/* Half of the bits, from which the value can't be had again. */
static uint64_t fingerprint(uint64_t value)
{
    return fold(0, value) >> 32;
}

static uint64_t services(const struct registry *registry)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; registry && i < registry_n_services(registry); i++) {
        const struct service *service = registry_service(registry, i);
        sum = fold(sum, (uint64_t)(uintptr_t)service);
        sum = fold(sum, (uint64_t)(uintptr_t)service->methods[0].run);
    }
    return sum;
}

static void read_facts(
    const struct segment *seg, const struct registry *registry, struct segment_image *ret)
{
    *ret = (struct segment_image){
        .executable = build_id_image_base(),
        .code = (uint64_t)(uintptr_t)image_check,
        .data = (uint64_t)(uintptr_t)&environ,
        .c_library = (uint64_t)(uintptr_t)gnu_get_libc_version,
        .vdso = getauxval(AT_SYSINFO_EHDR),
        .services = services(registry),
        .thread_local_errno = (uint64_t)(uintptr_t)&errno,
        .thread_pointer = (uint64_t)(uintptr_t)__builtin_thread_pointer(),
        .stack_guard = fingerprint(stack_guard_read()),
        .pointer_guard = fingerprint(pointer_guard_read()),
        .segment = (uint64_t)(uintptr_t)seg->base,
        .page_bytes = (uint64_t)sysconf(_SC_PAGESIZE),
    };
}

void image_note(const struct segment *seg, const struct registry *registry)
{
    struct segment_super *super = (struct segment_super *)seg->base;

    read_facts(seg, registry, &super->image);
    build_id_read(super->build_id);
}

int image_check(const struct segment *seg, const struct registry *registry, char **ret_error)
{
    const struct segment_super *super = segment_super(seg);
    struct segment_image own;
    uint8_t build_id[BUILD_ID_BYTES];

    read_facts(seg, registry, &own);
#define DIFFERS(record, type, field, array, kind, what)                                           \
    if (own.field != super->image.field)                                                          \
        return explain(ret_error, -ENOEXEC,                                                       \
            what " is not what it is in the supervisor (0x%" PRIx64 ", there 0x%" PRIx64 "), so " \
                 "coroutines could not move here",                                                \
            own.field, super->image.field);
    IMAGE_FIELDS(DIFFERS, )
#undef DIFFERS
    build_id_read(build_id);
    if (memcmp(build_id, super->build_id, sizeof(build_id)) != 0)
        return explain(ret_error, -ENOEXEC, "the build id is not the supervisor's");
    return 0;
}
