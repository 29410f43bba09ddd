/* SPDX-License-Identifier: MIT */
/*
 * The probes are notes in the program's own file: this reads those of the test, which links all of
 * the runtime that they stand in.
 */
#include "runtime/probe.h"

#include <elf.h>
#include <link.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/disk.h"

#ifdef SHERD_PROBES
#define WITH_PROBES true
#else
#define WITH_PROBES false
#endif
#define ALIGN4(n) (((n) + 3) & ~(size_t)3)

/* So that the linker takes all that bears probes. */
extern const void *const bearers[];
const void *const bearers[] = {(const void *)aio_poll, (const void *)co_pread};

struct file_bytes {
    char *bytes;
    size_t n;
};

static struct file_bytes read_own_program(void)
{
    struct file_bytes own = {.bytes = NULL};
    FILE *file = fopen("/proc/self/exe", "r");

    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    own.n = (size_t)ftell(file);
    rewind(file);
    own.bytes = malloc(own.n);
    assert_non_null(own.bytes);
    assert_int_equal(fread(own.bytes, 1, own.n, file), own.n);
    fclose(file);
    return own;
}

/* The section of the probes' notes, empty where there is none. */
static struct file_bytes find_notes(const struct file_bytes *own)
{
    const ElfW(Ehdr) *head = (const void *)own->bytes;
    const ElfW(Shdr) *sections = (const void *)(own->bytes + head->e_shoff);
    const char *names = own->bytes + sections[head->e_shstrndx].sh_offset;

    for (int i = 0; i < head->e_shnum; i++)
        if (!strcmp(names + sections[i].sh_name, ".note.stapsdt"))
            return (struct file_bytes){own->bytes + sections[i].sh_offset, sections[i].sh_size};
    return (struct file_bytes){.bytes = NULL};
}

/* A note holds three addresses, then provider, name and arguments as strings. */
static bool has_probe(const struct file_bytes *notes, const char *wanted)
{
    for (size_t at = 0; at < notes->n;) {
        const ElfW(Nhdr) *note = (const void *)(notes->bytes + at);
        const char *provider =
            (const char *)(note + 1) + ALIGN4(note->n_namesz) + 3 * sizeof(ElfW(Addr));

        if (!strcmp(provider, "sherd") && !strcmp(provider + strlen(provider) + 1, wanted))
            return true;
        at += sizeof *note + ALIGN4(note->n_namesz) + ALIGN4(note->n_descsz);
    }
    return false;
}

static void each_probe_of_the_table_stands_in_the_program(void **state)
{
    static const char *const names[] = {
#define X(name, arguments, when) #name,
        PROBES(X)
#undef X
    };
    struct file_bytes own = read_own_program();
    struct file_bytes notes = find_notes(&own);

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (has_probe(&notes, names[i]) != WITH_PROBES)
            fail_msg("probe %s is in the table alone", names[i]);
    assert_false(has_probe(&notes, "no_such_probe"));
    free(own.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_probe_of_the_table_stands_in_the_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
