/* SPDX-License-Identifier: MIT */
#include "shard/io_depth.h"

uint32_t io_depth_plan(uint64_t max, uint64_t used, uint32_t n_processes)
{
    uint64_t depth = max > used ? (max - used) / ((uint64_t)n_processes + 1) : 0;

    if (depth > IO_DEPTH_MAX)
        return IO_DEPTH_MAX;
    return depth < IO_DEPTH_MIN ? IO_DEPTH_MIN : (uint32_t)depth;
}
