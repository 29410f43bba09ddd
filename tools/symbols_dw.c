/* SPDX-License-Identifier: MIT */
/*
 * With libdw, which reads the files that the process has mapped.
 */
#include "tools/symbols.h"

#include <elfutils/libdwfl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The walk under way. */
struct walk {
    const uint64_t *registers; /* by DWARF's numbers */
    uint32_t n_registers;
    uint64_t pc;
    symbols_read_fn *read;
    symbols_frame_fn *frame;
    void *opaque;
    uint32_t n_frames;
};

struct symbols {
    Dwfl *dwfl;
    Dwfl_Callbacks callbacks;
    char *debuginfo_path;
    bool is_attached;
    struct walk walk;
};

static struct symbols *begin(
    int (*find_elf)(Dwfl_Module *, void **, const char *, Dwarf_Addr, char **, Elf **))
{
    struct symbols *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->callbacks = (Dwfl_Callbacks){.find_elf = find_elf,
        .find_debuginfo = dwfl_standard_find_debuginfo,
        .debuginfo_path = &s->debuginfo_path};
    s->dwfl = dwfl_begin(&s->callbacks);
    return s;
}

struct symbols *symbols_of_process(pid_t pid)
{
    struct symbols *s = begin(dwfl_linux_proc_find_elf);
    if (s && s->dwfl && dwfl_linux_proc_report(s->dwfl, pid) == 0 &&
        dwfl_report_end(s->dwfl, NULL, NULL) == 0)
        return s;
    symbols_free(s);
    return NULL;
}

static bool is_build(Dwfl_Module *module, const uint8_t *build_id, size_t n_id)
{
    const unsigned char *bits;
    GElf_Addr bias, where;
    int n = module && dwfl_module_getelf(module, &bias)
                ? dwfl_module_build_id(module, &bits, &where)
                : 0;
    return n > 0 && memcmp(bits, build_id, (size_t)n < n_id ? (size_t)n : n_id) == 0;
}

struct symbols *symbols_of_file(
    const char *path, uint64_t base, const uint8_t *build_id, size_t n_id)
{
    struct symbols *s = begin(dwfl_build_id_find_elf);
    Dwfl_Module *module =
        s && s->dwfl ? dwfl_report_elf(s->dwfl, path, path, -1, base, false) : NULL;
    if (module && dwfl_report_end(s->dwfl, NULL, NULL) == 0 && is_build(module, build_id, n_id))
        return s;
    symbols_free(s);
    return NULL;
}

void symbols_free(struct symbols *s)
{
    if (!s)
        return;
    if (s->dwfl)
        dwfl_end(s->dwfl);
    free(s);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

const char *symbols_name(struct symbols *s, uint64_t address, char *buf, size_t size)
{
    Dwfl_Module *module = s ? dwfl_addrmodule(s->dwfl, address) : NULL;
    GElf_Off offset = 0;
    GElf_Sym symbol;
    const char *name =
        module ? dwfl_module_addrinfo(module, address, &offset, &symbol, NULL, NULL, NULL) : NULL;
    Dwfl_Line *line = name ? dwfl_module_getsrc(module, address) : NULL;
    int number = 0;
    const char *file = line ? dwfl_lineinfo(line, NULL, &number, NULL, NULL, NULL) : NULL;
    if (file)
        snprintf(buf, size, "%s (%s:%d)", name, base_name(file), number);
    else if (name && offset)
        snprintf(buf, size, "%s+0x%" PRIx64, name, (uint64_t)offset);
    else if (name)
        snprintf(buf, size, "%s", name);
    else
        snprintf(buf, size, "0x%" PRIx64, address);
    return buf;
}

/* ---- constants ---- */

/* The bytes at an address of a section that the file has; NULL: none. */
static const char *bytes_at(Elf *elf, uint64_t address, size_t *ret_left)
{
    Elf_Scn *section = NULL;
    GElf_Shdr header;
    while ((section = elf_nextscn(elf, section))) {
        if (!gelf_getshdr(section, &header) || header.sh_type != SHT_PROGBITS ||
            !(header.sh_flags & SHF_ALLOC) || header.sh_flags & SHF_WRITE ||
            address < header.sh_addr || address - header.sh_addr >= header.sh_size)
            continue;
        Elf_Data *data = elf_rawdata(section, NULL);
        uint64_t off = address - header.sh_addr;
        if (!data || !data->d_buf || off >= data->d_size)
            return NULL;
        *ret_left = data->d_size - off;
        return (const char *)data->d_buf + off;
    }
    return NULL;
}

bool symbols_string(struct symbols *s, uint64_t address, char *ret_text, size_t size)
{
    Dwfl_Module *module = s && address ? dwfl_addrmodule(s->dwfl, address) : NULL;
    GElf_Addr bias = 0;
    Elf *elf = module ? dwfl_module_getelf(module, &bias) : NULL;
    size_t left = 0, n = 0;
    const char *from = elf ? bytes_at(elf, address - bias, &left) : NULL;
    for (; from && n < left && n + 1 < size && from[n]; n++)
        ret_text[n] = from[n] >= 32 && from[n] < 127 ? from[n] : '?';
    ret_text[n] = '\0';
    return n > 0;
}

/* ---- backtraces ---- */

#define FRAMES_MAX 64u /* what goes on and on is no stack */

/* DWARF's numbers of the registers, as places in NT_PRSTATUS. */
static const uint8_t x86_64_registers[] = {
    10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0, 16};
#define X86_64_PC      16u
#define X86_64_ALL     20u
#define AARCH64_WITHIN 32u /* x0 to x30 and sp stand in DWARF's order */
#define AARCH64_PC     32u

static pid_t next_thread(Dwfl *dwfl, void *opaque, void **thread)
{
    (void)dwfl;
    if (*thread)
        return 0;
    *thread = opaque;
    return 1;
}

static bool read_memory(Dwfl *dwfl, Dwarf_Addr address, Dwarf_Word *result, void *opaque)
{
    struct walk *walk = opaque;
    (void)dwfl;
    return walk->read(walk->opaque, address, result);
}

static bool set_registers(Dwfl_Thread *thread, void *opaque)
{
    struct walk *walk = opaque;
    if (!dwfl_thread_state_registers(thread, 0, walk->n_registers, walk->registers))
        return false;
    dwfl_thread_state_register_pc(thread, walk->pc);
    return true;
}

/* A return address is behind the call, which may be the last instruction of its function. */
static int on_frame(Dwfl_Frame *state, void *opaque)
{
    struct walk *walk = opaque;
    Dwarf_Addr pc;
    bool is_exact;
    if (walk->n_frames == FRAMES_MAX || !dwfl_frame_pc(state, &pc, &is_exact))
        return DWARF_CB_ABORT;
    walk->n_frames++;
    walk->frame(walk->opaque, is_exact ? pc : pc - 1);
    return DWARF_CB_OK;
}

/* Puts them into DWARF's order, in room for 32. False: the machine is not known. */
static bool order_registers(
    struct walk *walk, uint32_t machine, const uint64_t *from, uint32_t n, uint64_t room[32])
{
    if (machine == EM_X86_64 && n >= X86_64_ALL) {
        walk->n_registers = sizeof x86_64_registers;
        walk->pc = from[X86_64_PC];
        for (uint32_t i = 0; i < walk->n_registers; i++)
            room[i] = from[x86_64_registers[i]];
    } else if (machine == EM_AARCH64 && n > AARCH64_PC) {
        walk->n_registers = AARCH64_WITHIN;
        walk->pc = from[AARCH64_PC];
        memcpy(room, from, AARCH64_WITHIN * sizeof *room);
    } else {
        return false;
    }
    walk->registers = room;
    return true;
}

/* A Dwfl is attached to one state for good; what is asked again is walked by the first one's
 * callbacks, so the walk lies where they look. */
uint32_t symbols_backtrace(struct symbols *s, uint32_t machine, const uint64_t *registers,
    uint32_t n_registers, symbols_read_fn *read, symbols_frame_fn *frame, void *opaque)
{
    static const Dwfl_Thread_Callbacks callbacks = {.next_thread = next_thread,
        .memory_read = read_memory,
        .set_initial_registers = set_registers};
    uint64_t room[32];
    struct walk walk = {.read = read, .frame = frame, .opaque = opaque};
    if (!s || !order_registers(&walk, machine, registers, n_registers, room))
        return 0;
    s->walk = walk;
    if (!s->is_attached && !dwfl_attach_state(s->dwfl, NULL, 1, &callbacks, &s->walk))
        return 0;
    s->is_attached = true;
    dwfl_getthread_frames(s->dwfl, 1, on_frame, &s->walk);
    s->walk.registers = NULL;
    return s->walk.n_frames;
}
