/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * coroutine_layout - where it stands in memory which coroutine a thread runs, and what it is called
 *
 * Why:         who looks at a process that is dying or hangs may follow no pointer of it that
 *              could be damaged: it copies bytes, and needs to know which.
 * Use:         struct coroutine_layout layout;
 *              coroutine_layout(&layout);
 *              copy the address at layout.self; where that is not 0, what lies at it + layout.name
 *              and + layout.id
 * Concurrency: any thread; signal handler
 * Lifetime:    `self` is the calling thread's, and that of the main thread of each process forked
 *              from here
 * Not here:    copying (shard/crash_record.h)
 */
#include <stddef.h>

struct coroutine_layout {
    const void *self; /* a word: address of the running coroutine; 0: none runs */
    size_t name;      /* in it: a word, the address of its name */
    size_t id;        /* in it: its number in the registry, 64 bits */
    size_t begins_in; /* in it: a word, the address of its first function */
};

void coroutine_layout(struct coroutine_layout *ret);
