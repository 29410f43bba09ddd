/* SPDX-License-Identifier: MIT */
/* Threads of one process have one address space: each may write all of it. */
#include "shard/firewall.h"

int firewall_raise(const struct segment *seg, uint32_t self)
{
    (void)seg;
    (void)self;
    return 0;
}

int firewall_open(const struct segment *seg, uint32_t peer)
{
    return firewall_raise(seg, peer);
}

int firewall_close(const struct segment *seg, uint32_t peer)
{
    return firewall_raise(seg, peer);
}
