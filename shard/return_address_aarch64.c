/* SPDX-License-Identifier: MIT */
#include "shard/return_address.h"

#include <string.h>

/* A function stores the address it returns to below its own words. */
const unsigned return_address_skips = 1;

bool return_address_is(const uint8_t *code)
{
    uint32_t instruction;

    memcpy(&instruction, code - sizeof(instruction), sizeof(instruction));
    return (instruction & 0xfc000000) == 0x94000000 || /* bl */
           (instruction & 0xfffffc1f) == 0xd63f0000;   /* blr */
}
