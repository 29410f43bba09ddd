/* SPDX-License-Identifier: MIT */
#include "shard/fd_bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shard/bits.h"

void fd_bundle_close(struct fd_bundle *bundle)
{
    for (struct fd_item *item = bundle->items, *next; item; item = next) {
        next = item->next;
        close(item->fd);
        free(item);
    }
    bundle->items = NULL;
    bundle->n_items = bundle->n_for_all = 0;
}

struct fd_item *fd_bundle_find(const struct fd_bundle *bundle, uint32_t kind, uint32_t peer)
{
    struct fd_item *item = bundle->items;

    while (item && (item->kind != kind || item->peer != peer))
        item = item->next;
    return item;
}

/* Without an fd. NULL: no memory. */
static struct fd_item *append(struct fd_bundle *bundle, bool for_all)
{
    struct fd_item *item = calloc(1, sizeof(*item)), **link = &bundle->items;

    if (!item)
        return NULL;
    while (*link)
        link = &(*link)->next;
    *link = item;
    bundle->n_items++;
    bundle->n_for_all += for_all;
    return item;
}

int fd_bundle_add(struct fd_bundle *bundle, const struct fd_keep_message *what, bool owed, int fd)
{
    struct fd_item *item = fd_bundle_find(bundle, what->kind, what->peer);
    bool for_all = what->peer == FD_KEEP_ALL;

    if (!item && for_all && bundle->n_for_all >= FD_KEEP_FDS_MAX - 1) {
        close(fd);
        return -EINVAL;
    }
    if (item) {
        close(item->fd);
    } else if (!(item = append(bundle, for_all))) {
        close(fd);
        return -ENOMEM;
    }
    item->kind = what->kind;
    item->peer = what->peer;
    item->fd = fd;
    item->owed = owed;
    memcpy(item->note, what->note, sizeof(item->note));
    if (!for_all)
        bits_set(bundle->heirs, what->peer);
    return 0;
}

uint32_t fd_bundle_count_for(const struct fd_bundle *bundle, uint32_t peer)
{
    uint32_t n = 0;

    if (!bits_has(bundle->heirs, peer))
        return 0;
    for (const struct fd_item *item = bundle->items; item; item = item->next)
        n += item->peer == peer || item->peer == FD_KEEP_ALL;
    return n;
}

int fd_bundle_hand_down(
    const struct fd_bundle *bundle, uint32_t peer, bool copies, struct fd_keep_heir *heir)
{
    if (fd_bundle_count_for(bundle, peer) == 0)
        return 0;
    for (const struct fd_item *item = bundle->items; item; item = item->next) {
        if (item->peer != peer && item->peer != FD_KEEP_ALL)
            continue;
        struct fd_kept *kept = &heir->kept[heir->n_kept];
        *kept = (struct fd_kept){.key = bundle->key,
            .kind = item->kind,
            .peer = item->peer,
            .generation = bundle->generation,
            .fd = copies ? fcntl(item->fd, F_DUPFD_CLOEXEC, 0) : item->fd};
        if (kept->fd < 0)
            return -errno;
        memcpy(kept->note, item->note, sizeof(kept->note));
        heir->n_kept++;
    }
    return 0;
}
