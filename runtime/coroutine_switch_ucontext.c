/* SPDX-License-Identifier: MIT */
#include "runtime/coroutine_switch.h"
/*
 * coroutine_switch.h for any machine, by swapcontext()
 *
 * A position is the address of a ucontext_t that lies in the stack that it describes: a local
 * variable of co_switch(), or for a stack that has not begun, its top. swapcontext() also exchanges
 * the signal mask, by a system call; nobody here relies on that.
 */
#include <stdint.h>
#include <ucontext.h>

#include "runtime/bug.h"

/* makecontext() passes ints alone. */
union split_pointers {
    struct {
        void (*entry)(void *opaque);
        void *opaque;
    };
    uint32_t words[4];
};

static void begin(uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    union split_pointers start = {.words = {a, b, c, d}};

    start.entry(start.opaque);
    bug("a coroutine's first function returned");
}

void *co_switch_prepare(void *low, size_t bytes, void (*entry)(void *opaque), void *opaque)
{
    union split_pointers start = {.words = {0}};
    ucontext_t *top = (void *)(((uintptr_t)low + bytes - sizeof *top) & ~(uintptr_t)15);

    start.entry = entry;
    start.opaque = opaque;
    if (getcontext(top) != 0)
        bug("getcontext failed");
    top->uc_link = NULL;
    top->uc_stack.ss_sp = low;
    top->uc_stack.ss_size = (size_t)((char *)top - (char *)low);
    makecontext(top, (void (*)(void))begin, 4, start.words[0], start.words[1], start.words[2],
        start.words[3]);
    return top;
}

void co_switch(void **ret_from, void *to)
{
    ucontext_t here;

    *ret_from = &here;
    if (swapcontext(&here, to) != 0)
        bug("swapcontext failed");
}

void co_switch_last(void *to)
{
    setcontext(to);
    bug("setcontext failed");
}

void co_switch_return(void)
{
}
