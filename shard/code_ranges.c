/* SPDX-License-Identifier: MIT */
/*
 * An object of the image is one that holds this very function, or the table of a service: its
 * executable segments are taken, all others left out.
 */
#include "shard/code_ranges.h"

#include <errno.h>
#include <link.h>
#include <stdlib.h>

struct search {
    struct code_ranges *found;
    const struct registry *registry;
    int r;
};

static bool segment_holds(const struct dl_phdr_info *object, int i, uintptr_t address)
{
    uintptr_t begin = object->dlpi_addr + object->dlpi_phdr[i].p_vaddr;

    return object->dlpi_phdr[i].p_type == PT_LOAD && address - begin < object->dlpi_phdr[i].p_memsz;
}

static bool object_holds(const struct dl_phdr_info *object, uintptr_t address)
{
    for (int i = 0; i < object->dlpi_phnum; i++)
        if (segment_holds(object, i, address))
            return true;
    return false;
}

static bool is_of_image(const struct dl_phdr_info *object, const struct registry *registry)
{
    if (object_holds(object, (uintptr_t)&code_ranges_init))
        return true;
    for (uint32_t i = 0; i < registry_n_services(registry); i++)
        if (object_holds(object, (uintptr_t)registry_service(registry, i)))
            return true;
    return false;
}

static int add(struct code_ranges *found, uintptr_t begin, uintptr_t end)
{
    struct code_range *grown = reallocarray(found->ranges, found->n + 1, sizeof(*grown));

    if (!grown)
        return -ENOMEM;
    found->ranges = grown;
    found->ranges[found->n++] = (struct code_range){begin, end};
    return 0;
}

static int on_object(struct dl_phdr_info *object, size_t size, void *opaque)
{
    struct search *search = opaque;

    (void)size;
    if (!is_of_image(object, search->registry))
        return 0;
    for (int i = 0; search->r == 0 && i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *phdr = &object->dlpi_phdr[i];
        uintptr_t begin = object->dlpi_addr + phdr->p_vaddr;

        if (phdr->p_type == PT_LOAD && phdr->p_flags & PF_X)
            search->r = add(search->found, begin, begin + phdr->p_memsz);
    }
    return search->r;
}

int code_ranges_init(struct code_ranges *ranges, const struct registry *registry)
{
    struct search search = {.found = ranges, .registry = registry};

    *ranges = (struct code_ranges){0};
    dl_iterate_phdr(on_object, &search);
    if (search.r < 0)
        code_ranges_deinit(ranges);
    return search.r;
}

void code_ranges_deinit(struct code_ranges *ranges)
{
    free(ranges->ranges);
    *ranges = (struct code_ranges){0};
}

bool code_ranges_has(const struct code_ranges *ranges, uintptr_t address)
{
    for (size_t i = 0; i < ranges->n; i++)
        if (address >= ranges->ranges[i].begin && address < ranges->ranges[i].end)
            return true;
    return false;
}
