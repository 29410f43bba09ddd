/* SPDX-License-Identifier: MIT */
#include "runtime/co_registry.h"
/*
 * Free entries are a stack of slots, private to the home loop. Other threads never touch an entry:
 * they push the slot of a coroutine that they took away onto `left`, a list linked by slot that the
 * home loop takes whole (so there is no ABA), or count in `left_unlisted` one that had no slot.
 *
 * `refs` decides who frees: OPEN minus those that others took away and that are not collected yet.
 * Closing replaces OPEN by the number still here; each that leaves later takes 1, and whoever
 * reaches 0 frees.
 *
 * Orderings  first                  then                   ordered by             if broken
 *   LIST     rest of an entry       its id not 0           release, acquire       shows half an entry
 *   LEFT     link of a slot         slot on the left list  push CAS, take xchg    list runs astray
 *   HINT     anything left?         look, or look later    none                   -
 *   WAIT     why a coroutine waits  -                      none: shown to people  -
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/coroutine_inside.h"

#define OPEN    ((uint32_t)1 << 31)
#define NO_SLOT UINT32_MAX

struct co_registry {
    /* Any thread. */
    uint32_t refs;
    uint32_t left; /* slot + 1 of the last that left, 0: none */
    uint32_t left_unlisted;

    /* The home loop. */
    uint64_t last_id;
    uint64_t n_alive; /* here, or left and not collected yet */
    uint32_t n_free;
    uint32_t *slots; /* the first n_free are free */
    uint32_t
        *links; /* of the left list, by slot: slot + 1 of the one before, written by who pushes */
    struct aio_instruments instruments;
};

static void free_registry(struct co_registry *registry)
{
    free(registry->slots);
    free(registry->links);
    free(registry);
}

/* Who had the entries before may have died with some in use. */
static void forget_predecessor(const struct aio_instruments *instruments)
{
    for (uint32_t i = 0; i < instruments->n_coroutines; i++)
        if (instruments->coroutines[i].id != 0)
            atomic_store_release(&instruments->coroutines[i].id, (uint64_t)0); /* LIST */
    counter_set(&instruments->counters->co_alive, 0);
}

struct co_registry *co_registry_new(const struct aio_instruments *instruments)
{
    uint32_t n = instruments->n_coroutines;
    struct co_registry *registry = calloc(1, sizeof *registry);

    if (!registry)
        return NULL;
    *registry = (struct co_registry){.refs = OPEN,
        .n_free = n,
        .slots = calloc((size_t)n + 1, sizeof *registry->slots),
        .links = calloc((size_t)n + 1, sizeof *registry->links),
        .instruments = *instruments};
    if (!registry->slots || !registry->links) {
        free_registry(registry);
        return NULL;
    }
    for (uint32_t i = 0; i < n; i++)
        registry->slots[i] = n - 1 - i;
    forget_predecessor(instruments);
    return registry;
}

/* ---- the home loop's side ---- */

static void free_slot(struct co_registry *registry, uint32_t slot)
{
    if (slot == NO_SLOT)
        return;
    atomic_store_release(&registry->instruments.coroutines[slot].id, (uint64_t)0); /* LIST */
    registry->slots[registry->n_free++] = slot;
}

static void one_less(struct co_registry *registry, uint64_t n)
{
    registry->n_alive -= n;
    counter_set(&registry->instruments.counters->co_alive, registry->n_alive);
}

__attribute__((noinline, cold)) static void collect_left(struct co_registry *registry)
{
    uint32_t left = atomic_xchg_seq(&registry->left, 0); /* LEFT */
    uint32_t n = atomic_xchg_seq(&registry->left_unlisted, 0);

    while (left != 0) {
        uint32_t slot = left - 1;

        left = registry->links[slot];
        free_slot(registry, slot);
        n++;
    }
    atomic_add_seq(&registry->refs, n);
    one_less(registry, n);
}

/* Frees the slots of those that others took away. */
static inline void collect(struct co_registry *registry)
{
    if (atomic_load_relaxed(&registry->left) != 0 ||        /* HINT */
        atomic_load_relaxed(&registry->left_unlisted) != 0) /* HINT */
        collect_left(registry);
}

#define NAME_WORDS (sizeof(((struct co_entry *)0)->name) / 8)

/* The 8 characters from name on, as they lie in memory, with zeros behind its end. Put together in
 * a register: a word that is loaded from bytes stored a moment ago waits until they have left the
 * core, which took half of the time that a coroutine is made in. */
static uint64_t name_word(const char *name, size_t n, bool *ret_ends)
{
    uint64_t word = 0;

    *ret_ends = true;
    for (size_t i = 0; i < n; i++) {
        if (!name[i])
            return word;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        word |= (uint64_t)(uint8_t)name[i] << 8 * i;
#else
        word |= (uint64_t)(uint8_t)name[i] << 8 * (7 - i);
#endif
    }
    *ret_ends = n < 8;
    return word;
}

static void fill_name(struct co_entry *entry, const char *name)
{
    bool ends = false;

    for (size_t i = 0; i < NAME_WORDS; i++) {
        uint64_t word = ends ? 0 : name_word(name + 8 * i, i < NAME_WORDS - 1 ? 8 : 7, &ends);
        atomic_store_relaxed((uint64_t *)entry->name + i, word);
    }
}

/* Who looks may find it half filled, and knows that by its id. */
static void fill_entry(struct co_entry *entry, const Coroutine *co)
{
    atomic_store_relaxed(&entry->entry, (uint64_t)(uintptr_t)co->begins_in);
    atomic_store_relaxed(&entry->created_ns, co->created_ns);
    atomic_store_relaxed(&entry->position_at, (uint64_t)(uintptr_t)&co->inside);
    atomic_store_relaxed(&entry->wait_site, (uint64_t)0); /* WAIT */
    fill_name(entry, co->name);
    atomic_store_release(&entry->id, co->registry_id); /* LIST */
}

void co_registry_add(struct co_registry *registry, Coroutine *co)
{
    struct aio_counters *counters = registry->instruments.counters;

    collect(registry);
    co->registry = registry;
    co->registry_id = ++registry->last_id;
    co->registry_slot = NO_SLOT;
    co->listed = NULL;
    if (registry->n_free > 0) {
        co->registry_slot = registry->slots[--registry->n_free];
        co->listed = &registry->instruments.coroutines[co->registry_slot];
        fill_entry(co->listed, co);
    } else {
        counter_add(&counters->co_unlisted, 1);
    }
    counter_set(&counters->co_alive, ++registry->n_alive);
    if (registry->n_alive > counters->co_alive_high)
        counter_set(&counters->co_alive_high, registry->n_alive);
}

/* From then on co is as one that was never listed. */
static struct co_registry *forget(Coroutine *co)
{
    struct co_registry *registry = co->registry;

    co->registry = NULL;
    co->listed = NULL;
    return registry;
}

void co_registry_remove(Coroutine *co)
{
    struct co_registry *registry = forget(co);

    collect(registry);
    free_slot(registry, co->registry_slot);
    one_less(registry, 1);
}

void co_registry_leave_for(AioContext *to, Coroutine *co)
{
    AioContext *here = aio_context_current();

    if (here && here != to && co->registry == here->co_registry)
        co_registry_remove(co);
}

/* ---- from other threads, and the end ---- */

void co_registry_remove_from_afar(Coroutine *co)
{
    struct co_registry *registry = forget(co);
    uint32_t slot = co->registry_slot;

    if (slot == NO_SLOT) {
        atomic_add_seq(&registry->left_unlisted, 1);
    } else {
        uint32_t before = 0;

        do {
            registry->links[slot] = before;
        } while (!atomic_cas_seq(&registry->left, &before, slot + 1)); /* LEFT */
    }
    if (atomic_add_seq(&registry->refs, -1) == 1)
        free_registry(registry);
}

void co_registry_close(struct co_registry *registry)
{
    if (!registry)
        return;
    collect(registry);
    for (uint32_t i = 0; i < registry->instruments.n_coroutines; i++)
        atomic_store_release(&registry->instruments.coroutines[i].id, (uint64_t)0); /* LIST */
    uint32_t n_here = (uint32_t)registry->n_alive;
    if (atomic_add_seq(&registry->refs, n_here - OPEN) == OPEN - n_here)
        free_registry(registry);
}
