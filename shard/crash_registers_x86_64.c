/* SPDX-License-Identifier: MIT */
#include "shard/crash_registers.h"

#include <elf.h>
#include <stddef.h>
#include <ucontext.h>

const uint32_t crash_registers_machine = EM_X86_64;
const uint32_t crash_registers_pc = 16;
const uint32_t crash_registers_sp = 19;

uint32_t crash_registers_of_signal(const void *context, uint64_t *ret)
{
    /* orig_rax is unknown; of the segments a handler is told one word. */
    static const int order[] = {REG_R15, REG_R14, REG_R13, REG_R12, REG_RBP, REG_RBX, REG_R11,
        REG_R10, REG_R9, REG_R8, REG_RAX, REG_RCX, REG_RDX, REG_RSI, REG_RDI, -1, REG_RIP, -1,
        REG_EFL, REG_RSP};
    enum { N = sizeof order / sizeof *order };
    const ucontext_t *machine = context;

    for (size_t i = 0; i < N; i++)
        ret[i] = order[i] < 0 ? 0 : (uint64_t)machine->uc_mcontext.gregs[order[i]];
    return N;
}
