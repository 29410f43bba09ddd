/* SPDX-License-Identifier: MIT */
/* The linker puts the id into a note, which dl_iterate_phdr() finds in the first object: the
 * executable. */
#include "runtime/build_id.h"

#include <link.h>
#include <string.h>

static uint64_t note_align(uint64_t bytes)
{
    return (bytes + 3) & ~UINT64_C(3);
}

static void read_notes(const uint8_t *at, uint64_t bytes, uint8_t ret[BUILD_ID_BYTES])
{
    ElfW(Nhdr) note;

    while (bytes >= sizeof(note)) {
        memcpy(&note, at, sizeof(note));
        uint64_t name_bytes = note_align(note.n_namesz);
        uint64_t whole = sizeof(note) + name_bytes + note_align(note.n_descsz);
        if (whole > bytes)
            return;
        const uint8_t *name = at + sizeof(note);
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && memcmp(name, "GNU", 4) == 0) {
            memcpy(ret, name + name_bytes,
                note.n_descsz < BUILD_ID_BYTES ? note.n_descsz : BUILD_ID_BYTES);
            return;
        }
        at += whole;
        bytes -= whole;
    }
}

static int read_executable(struct dl_phdr_info *info, size_t size, void *opaque)
{
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_NOTE)
            read_notes((const uint8_t *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr),
                info->dlpi_phdr[i].p_memsz, opaque);
    return 1;
}

void build_id_read(uint8_t ret[BUILD_ID_BYTES])
{
    memset(ret, 0, BUILD_ID_BYTES);
    dl_iterate_phdr(read_executable, ret);
}

static int take_base(struct dl_phdr_info *info, size_t size, void *opaque)
{
    (void)size;
    *(uint64_t *)opaque = info->dlpi_addr;
    return 1; /* the executable comes first */
}

uint64_t build_id_image_base(void)
{
    uint64_t base = 0;

    dl_iterate_phdr(take_base, &base);
    return base;
}
