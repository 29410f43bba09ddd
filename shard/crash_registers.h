/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * crash_registers - a thread's registers, in the order of NT_PRSTATUS (struct user_regs_struct)
 *
 * Why:         a signal handler and ptrace() show them in different orders, and a record has one,
 *              that of core files, which unwinders know.
 * Use:         n = crash_registers_of_signal(machine, registers);
 *              pc = registers[CRASH_PC];
 * Concurrency: signal handler
 * Not here:    machines without a file of their own: there n is 0
 */
#include <stdint.h>

extern const uint32_t crash_registers_machine; /* e_machine of ELF; 0: unknown here */
extern const uint32_t crash_registers_pc;      /* which of them */
extern const uint32_t crash_registers_sp;

/* From a handler's third argument. Returns how many there are, at most CRASH_REGISTERS_MAX. */
uint32_t crash_registers_of_signal(const void *context, uint64_t *ret);
