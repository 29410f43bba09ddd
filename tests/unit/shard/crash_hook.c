/* SPDX-License-Identifier: MIT */
/*
 * Each access to shared memory, in a program whose sources were built with SHERD_ATOMIC_HOOK.
 */
#include "runtime/atomic.h"
#include "tests/unit/shard/crash_fuse.h"

void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    if (access == ATOMIC_STORE || access == ATOMIC_RMW)
        fuse_store(address, file, line);
}
