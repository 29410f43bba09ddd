/* SPDX-License-Identifier: MIT */
#include "shard/crash_registers.h"

#include <elf.h>
#include <ucontext.h>

const uint32_t crash_registers_machine = EM_AARCH64;
const uint32_t crash_registers_pc = 32;
const uint32_t crash_registers_sp = 31;

uint32_t crash_registers_of_signal(const void *context, uint64_t *ret)
{
    const ucontext_t *machine = context;

    for (uint32_t i = 0; i < 31; i++)
        ret[i] = machine->uc_mcontext.regs[i];
    ret[31] = machine->uc_mcontext.sp;
    ret[32] = machine->uc_mcontext.pc;
    ret[33] = machine->uc_mcontext.pstate;
    return 34;
}
