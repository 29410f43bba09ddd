/* SPDX-License-Identifier: MIT */
#include "shard/stack_guard.h"

uint64_t stack_guard_read(void)
{
    return 0;
}

uint64_t pointer_guard_read(void)
{
    return 0;
}
