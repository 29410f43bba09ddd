/* SPDX-License-Identifier: MIT */
#include "ipc/client/cancels.h"

#include <stdlib.h>

#include "ipc/client/talk_inside.h"
#include "ipc/client/wire.h"

#define CANCEL_BATCH 1024u /* the newest first */

void cancels_deinit(struct cancels *cancels)
{
    free(cancels->ids);
}

void cancels_note(struct cancels *cancels, uint64_t id)
{
    if (cancels->n == cancels->capacity) {
        size_t capacity = cancels->capacity ? cancels->capacity * 2 : 64;
        uint64_t *ids = realloc(cancels->ids, capacity * sizeof(*ids));
        if (!ids)
            return;
        cancels->ids = ids;
        cancels->capacity = capacity;
    }
    cancels->ids[cancels->n++] = id;
}

void cancels_send(struct cancels *cancels, struct link *link, uint64_t connection_number)
{
    while (cancels->n > 0 && cancels->n_under_way == 0 && link_room(link) > 0) {
        size_t n = cancels->n < CANCEL_BATCH ? cancels->n : CANCEL_BATCH;
        nng_msg *msg = wire_cancel(&cancels->ids[cancels->n - n], n);
        if (!msg)
            return;
        cancels->n -= n;
        link_send(link, LETTER_CANCEL, (void *)(uintptr_t)connection_number, msg, -1);
        cancels->n_under_way++;
    }
}

void cancels_answered(struct cancels *cancels)
{
    cancels->n_under_way--;
}
