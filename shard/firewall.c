/* SPDX-License-Identifier: MIT */
#include "shard/firewall.h"

#include <errno.h>
#include <sys/mman.h>

#include "shard/arena.h"

static int protect(const struct segment *seg, uint64_t begin, uint64_t end, int protection)
{
    if (begin == end)
        return 0;
    return mprotect(seg->base + begin, end - begin, protection) < 0 ? -errno : 0;
}

static int protect_part(const struct segment *seg, uint32_t peer, int protection)
{
    uint64_t begin = segment_part_off(seg, peer);

    return protect(seg, begin, segment_part_off(seg, peer + 1), protection);
}

int firewall_raise(const struct segment *seg, uint32_t self)
{
    bool is_supervisor = self == seg->n_peers;
    int r = protect(seg, 0, seg->bytes, PROT_READ);

    if (r == 0)
        r = protect(seg, seg->commons_off, seg->parts_off, PROT_READ | PROT_WRITE);
    if (r == 0)
        r = arena_guard(seg); /* which that has opened, where they are made by protection */
    if (r == 0 && is_supervisor)
        return protect(seg, seg->control_off, seg->commons_off, PROT_READ | PROT_WRITE);
    return r < 0 ? r : firewall_open(seg, self);
}

int firewall_open(const struct segment *seg, uint32_t peer)
{
    return protect_part(seg, peer, PROT_READ | PROT_WRITE);
}

int firewall_close(const struct segment *seg, uint32_t peer)
{
    return protect_part(seg, peer, PROT_READ);
}
