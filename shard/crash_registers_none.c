/* SPDX-License-Identifier: MIT */
#include "shard/crash_registers.h"

const uint32_t crash_registers_machine = 0;
const uint32_t crash_registers_pc = 0;
const uint32_t crash_registers_sp = 0;

uint32_t crash_registers_of_signal(const void *context, uint64_t *ret)
{
    (void)context;
    (void)ret;
    return 0;
}
