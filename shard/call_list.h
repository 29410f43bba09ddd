/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * call_list - calls in the order in which they came: a line at a slot, or those that are over
 *
 * Why:         a call is taken out of the middle, when it is cancelled, as cheaply as from the
 *              front.
 * Concurrency: owner loop.
 * Lifetime:    a call is in one list at a time, by its own links; a list of zero bytes is empty.
 */
#include <stddef.h>

#include "shard/mesh.h"

struct call_list {
    struct mesh_call *first, *last;
};

static inline void call_list_append(struct call_list *list, struct mesh_call *call)
{
    call->next = NULL;
    call->prev = list->last;
    if (list->last)
        list->last->next = call;
    else
        list->first = call;
    list->last = call;
}

static inline void call_list_prepend(struct call_list *list, struct mesh_call *call)
{
    call->prev = NULL;
    call->next = list->first;
    if (list->first)
        list->first->prev = call;
    else
        list->last = call;
    list->first = call;
}

static inline void call_list_remove(struct call_list *list, struct mesh_call *call)
{
    if (call->prev)
        call->prev->next = call->next;
    else
        list->first = call->next;
    if (call->next)
        call->next->prev = call->prev;
    else
        list->last = call->prev;
}
