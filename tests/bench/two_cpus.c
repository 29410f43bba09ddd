/* SPDX-License-Identifier: MIT */
#include "tests/bench/two_cpus.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

static cpu_set_t all;

void two_cpus_begin(void)
{
    if (sched_getaffinity(0, sizeof all, &all) < 0)
        abort();
}

void two_cpus_pin(uint32_t nth)
{
    cpu_set_t one;

    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && nth-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            sched_setaffinity(0, sizeof one, &one);
            return;
        }
}

void two_cpus_anywhere(void)
{
    sched_setaffinity(0, sizeof all, &all);
}

void *two_cpus_memory(size_t bytes)
{
    void *base = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return base == MAP_FAILED ? abort(), NULL : base;
}
