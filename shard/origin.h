/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * origin - a word that says whose request a call is, or is made for, however deep within it
 *
 * Why:         who is told of a call's end when the caller has died, and who is charged for a
 *              crash, is known from the segment alone.
 * Concurrency: pure functions
 *
 *     63   62 ... 56        55 ... 40             39 ... 0
 *     0    number of the gateway's session        low bits of the request's id, as it came
 *     1    shard whose      local client's        low bits of that one's generation
 *          ring it came by  number
 */
#include <stdint.h>

#define ORIGIN_ID_BITS 40

#define ORIGIN_ID_MASK ((UINT64_C(1) << ORIGIN_ID_BITS) - 1)
#define ORIGIN_CLIENT  (UINT64_C(1) << 63)
#define ORIGIN_HOME    (UINT64_C(0x7f) << 56)

static inline uint64_t origin_of_session(uint32_t number, uint64_t id)
{
    return (uint64_t)number << ORIGIN_ID_BITS | (id & ORIGIN_ID_MASK);
}

static inline uint64_t origin_of_client(uint32_t shard, uint32_t client, uint64_t generation)
{
    return ORIGIN_CLIENT | (uint64_t)shard << 56 | (uint64_t)(client & 0xffff) << ORIGIN_ID_BITS |
           (generation & ORIGIN_ID_MASK);
}

static inline uint32_t origin_session(uint64_t origin)
{
    return (uint32_t)(origin >> ORIGIN_ID_BITS) & 0x7fffff;
}

static inline uint32_t origin_client(uint64_t origin)
{
    return (uint32_t)(origin >> ORIGIN_ID_BITS) & 0xffff;
}

static inline uint32_t origin_home(uint64_t origin)
{
    return (uint32_t)((origin & ORIGIN_HOME) >> 56);
}

/* Who is charged for what has this origin: a client wherever its request came in, or a session
 * whatever the request. 0: nobody. */
static inline uint64_t culprit_of(uint64_t origin)
{
    return origin & (origin & ORIGIN_CLIENT ? ~ORIGIN_HOME : ~ORIGIN_ID_MASK);
}
