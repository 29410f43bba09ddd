/* SPDX-License-Identifier: MIT */
#include "shard/return_address.h"

/* A call pushes the address, so it lies below all of who called. */
const unsigned return_address_skips = 0;

#define CALL_REL32  0xe8
#define CALL_OTHER  0xff /* with 2 in the middle of the byte behind: call *r/m64 */
#define OPCODE_MASK 0x38
#define OPCODE_CALL 0x10

bool return_address_is(const uint8_t *code)
{
    if (code[-5] == CALL_REL32)
        return true;
    for (int bytes = 2; bytes <= 7; bytes++)
        if (code[-bytes] == CALL_OTHER && (code[-bytes + 1] & OPCODE_MASK) == OPCODE_CALL)
            return true;
    return false;
}
