/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * tail_queue - a list that grows at its end, and that any element may leave, in constant time
 *
 * Why:         who waits, is due or is to be called comes last, and may be taken back.
 * Use:         struct queue { struct item *first; struct item **last; };
 *              struct item { struct item *next; struct item **link; … };
 *              tail_queue_append(queue->first, queue->last, item);
 *              tail_queue_remove(queue->last, item);
 *              tail_queue_concat(to->first, to->last, from->first, from->last) leaves from empty
 * Concurrency: none of its own
 * Lifetime:    a queue of zeros is empty: while first is NULL, last says nothing. Nor do next and
 *              link of an item that is in no queue.
 * Not here:    queues that others look at without a lock (co_queue.c), or walk (handler.c)
 *
 * Arguments are evaluated several times.
 */
#include <stddef.h>

#define tail_queue_append(first, last, item)        \
    do {                                            \
        (item)->next = NULL;                        \
        (item)->link = (first) ? (last) : &(first); \
        *(item)->link = (item);                     \
        (last) = &(item)->next;                     \
    } while (0)

#define tail_queue_remove(last, item)          \
    do {                                       \
        *(item)->link = (item)->next;          \
        if ((item)->next)                      \
            (item)->next->link = (item)->link; \
        else                                   \
            (last) = (item)->link;             \
    } while (0)

#define tail_queue_concat(to_first, to_last, from_first, from_last) \
    do {                                                            \
        if (!(from_first))                                          \
            break;                                                  \
        (from_first)->link = (to_first) ? (to_last) : &(to_first);  \
        *(from_first)->link = (from_first);                         \
        (to_last) = (from_last);                                    \
        (from_first) = NULL;                                        \
    } while (0)
