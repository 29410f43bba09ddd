/* SPDX-License-Identifier: MIT */
#include "tests/explore/inside.h"
/*
 * The source under test and the scenarios are compiled with -fsanitize=thread, and linked with the
 * functions below in place of that sanitizer's: the compiler calls them before each access that is
 * not atomic and whose address others may know.
 *
 * A granule of memory remembers when each thread last read or wrote it, plainly or atomically. An
 * access must come after all others that conflict with it, which is to say, its thread must have
 * learnt of them by acquiring what their threads released. That is so for all runs with the same
 * order of atomic accesses, so plain accesses need not be steps.
 *
 * Granules are of 4 bytes: two fields in one granule are taken for one. Cells of granules that lie
 * side by side do so too, for most memory is gone through in order; and what one thread alone has
 * touched, as it has most of its memory, conflicts with nobody.
 */
#include <errno.h>
#include <string.h>

#define GRANULE    4
#define SIDE_BY    16 /* granules whose cells are in one row */
#define N_ROWS     (1u << 11)
#define MAX_PROBE  32
#define BY_SEVERAL MAX_FIBERS

enum kind { PLAIN_READ, PLAIN_WRITE, ATOMIC_READ, ATOMIC_WRITE, N_KINDS };

struct cell {
    uintptr_t granule; /* valid in this run */
    uint32_t run;
    bool freed;
    bool dirty;
    uint8_t by;                         /* the one thread that touched it; SETUP: none has */
    uint16_t last[N_KINDS][MAX_FIBERS]; /* epoch of each one's last access */
};

static struct {
    struct cell cells[N_ROWS][SIDE_BY];
    uint32_t run;
    uintptr_t own; /* where threads have variables of their own */
    size_t own_bytes;
    uintptr_t again; /* where storing what stands there is no store */
    size_t again_bytes;
    const volatile int *own_errno;
} s;

void plain_reset(void)
{
    s.run++;
    s.own_bytes = s.again_bytes = 0;
    s.own_errno = &errno; /* of the one OS thread */
}

void plain_ignore(const void *p, size_t bytes)
{
    s.own = (uintptr_t)p;
    s.own_bytes = bytes;
}

void explorer_stored_again(const void *address, size_t bytes)
{
    s.again = (uintptr_t)address;
    s.again_bytes = bytes;
}

bool plain_stands_there(const volatile void *to, const void *from, size_t bytes)
{
    return (uintptr_t)to - s.again < s.again_bytes && memcmp((const void *)to, from, bytes) == 0;
}

static struct cell *cell_of(uintptr_t granule)
{
    size_t row = granule / SIDE_BY * 0x9e3779b97f4a7c15 >> 53;

    for (uint32_t n = 0; n < MAX_PROBE; n++, row = (row + 1) % N_ROWS) {
        struct cell *cell = &s.cells[row][granule % SIDE_BY];

        if (cell->run != s.run) {
            memset(cell, 0, sizeof *cell);
            cell->run = s.run;
            cell->granule = granule;
        }
        if (cell->granule == granule)
            return cell;
    }
    explorer_fail("the scenario touches too much memory");
}

/* As addr2line takes it. */
static unsigned long in_program(const void *pc)
{
    extern const char __executable_start[];

    return pc ? (unsigned long)((const char *)pc - __executable_start) : 0;
}

static const char *const kind_names[] = {"a read", "a write", "an atomic load", "an atomic store"};

/* Whom this access races with, or SETUP. */
static uint32_t racer(const struct cell *cell, enum kind kind)
{
    const struct knowledge *now = memory_knowledge(run_self());

    for (uint32_t f = 1; f < MAX_FIBERS; f++)
        if (cell->last[kind][f] > now->epochs[f])
            return f;
    return SETUP;
}

static void check_against(const struct cell *cell, enum kind kind, enum kind other, void *pc)
{
    uint32_t f = racer(cell, other);

    if (f != SETUP && f != run_self())
        explorer_fail("%s by %s races with %s by %s (at %p, code 0x%lx)", kind_names[kind],
            run_name(run_self()), kind_names[other], run_name(f), (void *)(cell->granule * GRANULE),
            in_program(pc));
}

static void check_conflicts(const struct cell *cell, enum kind kind, void *pc)
{
    bool writes = kind == PLAIN_WRITE || kind == ATOMIC_WRITE;
    bool atomic = kind == ATOMIC_READ || kind == ATOMIC_WRITE;

    check_against(cell, kind, PLAIN_WRITE, pc);
    if (writes)
        check_against(cell, kind, PLAIN_READ, pc);
    if (!atomic)
        check_against(cell, kind, ATOMIC_WRITE, pc);
    if (!atomic && writes)
        check_against(cell, kind, ATOMIC_READ, pc);
}

static void access_cell(struct cell *cell, enum kind kind, uint32_t self, void *pc)
{
    if (cell->freed)
        explorer_fail("%s by %s of memory that was freed (code 0x%lx)", kind_names[kind],
            run_name(self), in_program(pc));
    if (cell->by == SETUP)
        cell->by = (uint8_t)self;
    else if (cell->by != self)
        cell->by = BY_SEVERAL;
    if (cell->by == BY_SEVERAL)
        check_conflicts(cell, kind, pc);
    cell->last[kind][self] = memory_knowledge(self)->epochs[self];
    cell->dirty |= kind == PLAIN_WRITE;
}

static void access_memory(const volatile void *p, size_t bytes, enum kind kind, void *pc)
{
    uintptr_t first = (uintptr_t)p / GRANULE;
    uintptr_t last = ((uintptr_t)p + bytes - 1) / GRANULE;
    uint32_t self = run_self();

    if (p == s.own_errno || (uintptr_t)p - s.own < s.own_bytes) /* each thread has one */
        return;
    for (uintptr_t granule = first; bytes > 0 && granule <= last; granule++)
        access_cell(cell_of(granule), kind, self, pc);
}

void plain_free(const void *p, size_t bytes)
{
    access_memory(p, bytes, PLAIN_WRITE, NULL);
    for (size_t i = 0; i < bytes; i += GRANULE)
        cell_of(((uintptr_t)p + i) / GRANULE)->freed = true;
}

void plain_atomic(const volatile void *p, unsigned size, bool writes)
{
    access_memory(p, size, writes ? ATOMIC_WRITE : ATOMIC_READ, NULL);
}

bool plain_take_dirty(const volatile void *p)
{
    struct cell *cell = cell_of((uintptr_t)p / GRANULE);
    bool dirty = cell->dirty;

    cell->dirty = false;
    return dirty;
}

void *explorer_copy(void *to, const void *from, size_t bytes)
{
    access_memory(from, bytes, PLAIN_READ, __builtin_return_address(0));
    if (!plain_stands_there(to, from, bytes))
        access_memory(to, bytes, PLAIN_WRITE, __builtin_return_address(0));
    return memcpy(to, from, bytes);
}

/* ---- what the compiler calls ---- */

#define ACCESS(name, kind, bytes)                                   \
    void name(void *p);                                             \
    void name(void *p)                                              \
    {                                                               \
        access_memory(p, bytes, kind, __builtin_return_address(0)); \
    }
#define ACCESSES(bytes)                                     \
    ACCESS(__tsan_read##bytes, PLAIN_READ, bytes)           \
    ACCESS(__tsan_write##bytes, PLAIN_WRITE, bytes)         \
    ACCESS(__tsan_unaligned_read##bytes, PLAIN_READ, bytes) \
    ACCESS(__tsan_unaligned_write##bytes, PLAIN_WRITE, bytes)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

void __tsan_read_range(void *p, unsigned long bytes);
void __tsan_read_range(void *p, unsigned long bytes)
{
    access_memory(p, bytes, PLAIN_READ, __builtin_return_address(0));
}

void __tsan_write_range(void *p, unsigned long bytes);
void __tsan_write_range(void *p, unsigned long bytes)
{
    access_memory(p, bytes, PLAIN_WRITE, __builtin_return_address(0));
}

void __tsan_init(void);
void __tsan_init(void)
{
}

void __tsan_func_entry(void *pc);
void __tsan_func_entry(void *pc)
{
}

void __tsan_func_exit(void);
void __tsan_func_exit(void)
{
}

/* There are no signal handlers here. */
void __tsan_atomic_signal_fence(int order);
void __tsan_atomic_signal_fence(int order)
{
}

/* A coroutine is no thread here: it is watched as part of the one that runs it. */
void *__tsan_get_current_fiber(void);
void *__tsan_get_current_fiber(void)
{
    return NULL;
}

void *__tsan_create_fiber(unsigned flags);
void *__tsan_create_fiber(unsigned flags)
{
    return NULL;
}

void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_switch_to_fiber(void *fiber, unsigned flags)
{
}

void __tsan_destroy_fiber(void *fiber);
void __tsan_destroy_fiber(void *fiber)
{
}
