/* SPDX-License-Identifier: MIT */
#include "ipc/client/acked.h"

#include <stddef.h>
#include <string.h>

#define N_AHEAD (sizeof(((struct acked *)0)->ahead) / sizeof(struct acked_range))

/* Ranges that touch are one: so there are never more than answers still on their way, each of which
 * leaves one gap, and all have room. */
static void note_ahead(struct acked *acked, uint64_t first, uint64_t last)
{
    struct acked_range *spare = NULL;

    for (size_t i = 0; i < N_AHEAD; i++) {
        struct acked_range *range = &acked->ahead[i];
        if (range->first != 0 && range->first <= last + 1 && first <= range->last + 1) {
            first = range->first < first ? range->first : first;
            last = range->last > last ? range->last : last;
            *range = (struct acked_range){};
        }
        if (range->first == 0)
            spare = range;
    }
    if (spare)
        *spare = (struct acked_range){first, last};
}

void acked_note(struct acked *acked, uint64_t first, uint64_t last)
{
    if (first > acked->upto + 1) {
        note_ahead(acked, first, last);
        return;
    }
    if (last > acked->upto)
        acked->upto = last;
    for (size_t i = 0; i < N_AHEAD; i++) {
        struct acked_range *range = &acked->ahead[i];
        if (range->first != 0 && range->first <= acked->upto + 1) {
            struct acked_range reached = *range;
            *range = (struct acked_range){};
            acked_note(acked, reached.first, reached.last);
        }
    }
}

void acked_begin_again(struct acked *acked)
{
    memset(acked->ahead, 0, sizeof(acked->ahead));
}
