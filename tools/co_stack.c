/* SPDX-License-Identifier: MIT */
#include "tools/co_stack.h"
/*
 * A coroutine that gave up the CPU has its registers on its stack, where
 * runtime/coroutine_switch_*.S put them, and its stack pointer in a word that its registry entry
 * leads to. The word is read, then the stack, then the word again: where it has changed, or is of
 * no stack, the coroutine runs.
 */
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#define STACK_MOST ((uint64_t)8 * 1024 * 1024) /* more in use is no stack */
#define LOOKS      3

/* ---- memory of the instance's processes ---- */

/* NULL: it is not the segment's. */
static const uint8_t *in_segment(const struct look *look, uint64_t address, uint64_t bytes)
{
    struct view_record super;
    if (!segment_view_at(&look->view, "super", 0, "super", 0, 0, &super))
        return NULL;
    uint64_t off = address - look_word(&super, "mapped_at");
    return off < look->view.bytes && bytes <= look->view.bytes - off ? look->view.base + off : NULL;
}

static int32_t pid_of(const struct look *look, uint32_t peer)
{
    struct view_record control;
    if (!look->supervisor ||
        !segment_view_at(&look->view, "control", 0, "peers", peer, 0, &control))
        return 0;
    return (int32_t)look_word(&control, "pid");
}

/* NULL, or why it cannot be read. */
static const char *read_memory(
    const struct look *look, const struct co_view *co, uint64_t address, void *to, size_t bytes)
{
    const uint8_t *shared = in_segment(look, address, bytes);
    int32_t pid = pid_of(look, co->peer);
    struct iovec local = {to, bytes}, remote = {(void *)(uintptr_t)address, bytes};
    if (shared) {
        memcpy(to, shared, bytes);
        return NULL;
    }
    if (pid <= 0)
        return "its process is gone, and its stack with it";
    if (process_vm_readv(pid, &local, 1, &remote, 1, 0) == (ssize_t)bytes)
        return NULL;
    return errno == EPERM ? "the memory of its process may not be read: ptrace is forbidden here"
                          : "the memory of its process cannot be read";
}

/* ---- where it left off ---- */

static const char *read_position(
    const struct look *look, const struct co_view *co, uint64_t *ret_position)
{
    const char *why = NULL;
    *ret_position = co->position;
    if (!co->position && co->position_at)
        why = read_memory(look, co, co->position_at, ret_position, sizeof *ret_position);
    if (why)
        return why;
    if (*ret_position % sizeof(uint64_t) || *ret_position >= co->stack_top ||
        co->stack_top - *ret_position > STACK_MOST)
        return "it has not left off anywhere";
    return NULL;
}

uint64_t co_stack_used(const struct look *look, const struct co_view *co)
{
    uint64_t position;
    bool is_at_rest = *co->waits_for || co->position;
    return is_at_rest && !read_position(look, co, &position) ? co->stack_top - position : 0;
}

static const char *read_once(
    const struct look *look, const struct co_view *co, struct co_stack *ret)
{
    uint64_t position, again;
    const char *why = read_position(look, co, &position);
    if (why)
        return why;
    *ret = (struct co_stack){.low = position, .bytes = (size_t)(co->stack_top - position)};
    ret->copy = malloc(ret->bytes);
    if (!ret->copy)
        return "there is no memory";
    why = read_memory(look, co, position, ret->copy, ret->bytes);
    if (!why)
        why = read_position(look, co, &again);
    return !why && again != position ? "it runs" : why;
}

const char *co_stack_read(const struct look *look, const struct co_view *co, struct co_stack *ret)
{
    const char *why = "it runs";
    *ret = (struct co_stack){0};
    if (!*co->waits_for && !co->position)
        return why;
    for (int looks = 0; looks < LOOKS; looks++) {
        why = read_once(look, co, ret);
        if (!why)
            return NULL;
        co_stack_free(ret);
    }
    return why;
}

void co_stack_free(struct co_stack *stack)
{
    free(stack->copy);
    *stack = (struct co_stack){0};
}

/* ---- registers ---- */

/* Places of words: in what a switch leaves on a stack, and in NT_PRSTATUS. */
struct saved_register {
    uint8_t at, place;
};

struct machine {
    uint32_t elf;
    uint32_t frame_words; /* that a switch leaves */
    uint32_t n_registers; /* of NT_PRSTATUS, as far as they matter */
    uint32_t resumes_at;  /* which of the words is where it goes on */
    uint32_t pc_place, sp_place;
    struct saved_register saved[13];
    uint32_t n_saved;
};

#if defined(__x86_64__)
static const struct machine machine = {.elf = EM_X86_64,
    .frame_words = 8,
    .n_registers = 20,
    .resumes_at = 7,
    .pc_place = 16,
    .sp_place = 19,
    .saved = {{1, 0}, {2, 1}, {3, 2}, {4, 3}, {5, 5}, {6, 4}}, /* r15 … r12, rbx, rbp */
    .n_saved = 6};
#elif defined(__aarch64__)
static const struct machine machine = {.elf = EM_AARCH64,
    .frame_words = 22,
    .n_registers = 33,
    .resumes_at = 11,
    .pc_place = 32,
    .sp_place = 31,
    .saved = {{0, 19}, {1, 20}, {2, 21}, {3, 22}, {4, 23}, {5, 24}, {6, 25}, {7, 26}, {8, 27},
        {9, 28}, {10, 29}, {11, 30}},
    .n_saved = 12};
#else
static const struct machine machine = {0};
#endif

static uint64_t word_at(const struct co_stack *stack, size_t nth)
{
    uint64_t word = 0;
    if ((nth + 1) * sizeof word <= stack->bytes)
        memcpy(&word, stack->copy + nth * sizeof word, sizeof word);
    return word;
}

/* As they will be once it goes on. */
static void restore(const struct co_stack *stack, uint64_t registers[static 33])
{
    for (uint32_t i = 0; i < machine.n_saved; i++)
        registers[machine.saved[i].place] = word_at(stack, machine.saved[i].at);
    registers[machine.pc_place] = word_at(stack, machine.resumes_at);
    registers[machine.sp_place] = stack->low + machine.frame_words * sizeof(uint64_t);
}

/* ---- walking ---- */

struct walk {
    const struct co_stack *stack;
    struct symbols *symbols;
    co_frame_fn *frame;
    void *opaque;
};

static bool read_stack(void *opaque, uint64_t address, uint64_t *ret_word)
{
    const struct co_stack *stack = ((struct walk *)opaque)->stack;
    uint64_t off = address - stack->low;
    if (address < stack->low || stack->bytes < sizeof *ret_word ||
        off > stack->bytes - sizeof *ret_word)
        return false;
    memcpy(ret_word, stack->copy + off, sizeof *ret_word);
    return true;
}

static void tell_frame(void *opaque, uint64_t pc)
{
    const struct walk *walk = opaque;
    char text[256];
    walk->frame(walk->opaque, symbols_name(walk->symbols, pc, text, sizeof text));
}

void co_stack_walk(
    const struct co_stack *stack, struct symbols *symbols, co_frame_fn *frame, void *opaque)
{
    struct walk walk = {stack, symbols, frame, opaque};
    uint64_t registers[33] = {0};
    if (!machine.frame_words)
        return;
    restore(stack, registers);
    if (!symbols_backtrace(
            symbols, machine.elf, registers, machine.n_registers, read_stack, tell_frame, &walk))
        tell_frame(&walk, registers[machine.pc_place]);
}
