/* SPDX-License-Identifier: MIT */
#include "shard/return_address.h"

const unsigned return_address_skips = 0;

bool return_address_is(const uint8_t *code)
{
    (void)code;
    return true;
}
