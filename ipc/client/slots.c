/* SPDX-License-Identifier: MIT */
#include "ipc/client/slots.h"

#include <errno.h>
#include <stdlib.h>

#define SLOTS_MAX (1u << 30)

void slots_init(struct slot_table *table)
{
    *table = (struct slot_table){.free = SLOT_NONE};
}

void slots_deinit(struct slot_table *table)
{
    for (uint32_t i = 0; i < table->n; i++)
        free(slot_at(table, i)->copy);
    for (uint32_t i = 0; i < table->n_chunks; i++)
        free(table->chunks[i]);
    free(table->chunks);
    slots_init(table);
}

static int grow(struct slot_table *table)
{
    if (table->n >= SLOTS_MAX)
        return -ENOMEM;
    struct slot **chunks = reallocarray(table->chunks, table->n_chunks + 1, sizeof(*table->chunks));
    if (!chunks)
        return -ENOMEM;
    table->chunks = chunks;
    chunks[table->n_chunks] = calloc(SLOTS_CHUNK, sizeof(struct slot));
    if (!chunks[table->n_chunks])
        return -ENOMEM;
    table->n_chunks++;
    return 0;
}

int slot_take(struct slot_table *table, uint32_t *ret_slot)
{
    uint32_t at = table->free;

    if (at == SLOT_NONE) {
        if (table->n == table->n_chunks * SLOTS_CHUNK && grow(table) < 0)
            return -ENOMEM;
        at = table->n++;
    } else {
        table->free = slot_at(table, at)->next;
    }
    struct slot *slot = slot_at(table, at);
    if (++slot->generation == 0) /* no id is 0 */
        slot->generation = 1;
    table->n_open++;
    *ret_slot = at;
    return 0;
}

void slot_put(struct slot_table *table, uint32_t slot)
{
    slot_at(table, slot)->state = SLOT_FREE;
    slot_at(table, slot)->next = table->free;
    table->free = slot;
}

void slot_list_insert(
    struct slot_table *table, struct slot_list *list, uint32_t before, uint32_t slot)
{
    uint32_t next = before == SLOT_NONE ? list->first : slot_at(table, before)->next;

    slot_at(table, slot)->prev = before;
    slot_at(table, slot)->next = next;
    *(before == SLOT_NONE ? &list->first : &slot_at(table, before)->next) = slot;
    *(next == SLOT_NONE ? &list->last : &slot_at(table, next)->prev) = slot;
    list->n++;
}

void slot_list_remove(struct slot_table *table, struct slot_list *list, uint32_t slot)
{
    uint32_t prev = slot_at(table, slot)->prev, next = slot_at(table, slot)->next;

    *(prev == SLOT_NONE ? &list->first : &slot_at(table, prev)->next) = next;
    *(next == SLOT_NONE ? &list->last : &slot_at(table, next)->prev) = prev;
    list->n--;
}
