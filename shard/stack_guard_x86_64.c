/* SPDX-License-Identifier: MIT */
#include "shard/stack_guard.h"

uint64_t stack_guard_read(void)
{
    uint64_t value;

    /* Where the ABI has it, at a fixed place behind the thread pointer. */
    __asm__("movq %%fs:0x28, %0" : "=r"(value));
    return value;
}

uint64_t pointer_guard_read(void)
{
    uint64_t value;

    /* Where glibc has it, likewise. */
    __asm__("movq %%fs:0x30, %0" : "=r"(value));
    return value;
}
