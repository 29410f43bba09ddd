/* SPDX-License-Identifier: MIT */
#include "tests/explore/inside.h"
/*
 * A location keeps every store made to it, in the order in which they were made, each with what its
 * writer knew when it released it. A thread knows, for each location, the oldest store that it may
 * still see. A load picks any store from that one to the newest: a newer one may stand in its
 * writer's store buffer still, or the load may have been made early. An acquire load then learns
 * what the store's writer released. A fence learns what all fences before it knew.
 *
 * A read-modify-write sees the newest store, and what it stores releases also what that one did.
 * The memory itself always holds the newest value.
 *
 * Each store carries a hash of all that led to it, which whoever sees it takes into its own: two
 * runs with the same hashes differ only in the order of steps that do not concern each other.
 */
#include <string.h>

#include "tests/explore/mutant.h"

#define MAX_STORES    8192
#define N_BUCKETS     1024 /* a power of two, well above MAX_LOCATIONS */
#define NO_LOCATION   UINT32_MAX
#define MAX_CONSTANTS 64
#define N_SITES       1024

enum order { RELAXED = 0, ACQUIRE = 1, RELEASE = 2, BOTH = 3 };

struct store {
    struct knowledge released;
    uint64_t value;
    uint64_t hash;
    uint32_t older; /* index of the one before */
    uint32_t position;
};

struct location {
    uintptr_t address;
    unsigned size;
    uint32_t newest;
    uint64_t hash; /* of its whole history */
};

struct held_store {
    const struct atomic_site *site;
    volatile void *p;
    unsigned size;
    uint64_t value;
    enum order order;
};

struct range {
    uintptr_t address;
    size_t bytes;
};

struct fiber_memory {
    struct knowledge now;
    struct knowledge by_fence;   /* what a fence would add: seen by relaxed loads */
    struct knowledge last_fence; /* what relaxed stores release */
    struct held_store held;      /* site NULL: none */
};

static struct {
    struct store stores[MAX_STORES];
    uint32_t n_stores;
    struct location locations[MAX_LOCATIONS];
    uint32_t n_locations;
    uint16_t buckets[N_BUCKETS]; /* index + 1 */
    struct fiber_memory fibers[MAX_FIBERS];
    struct knowledge fences;
    uint64_t fences_hash;
    bool x86;
    struct range constants[MAX_CONSTANTS];
    uint32_t n_constants;
} m;

static void know_nothing(struct knowledge *k)
{
    k->n = 0;
    memset(k->epochs, 0, sizeof k->epochs);
}

static void forget(struct fiber_memory *f)
{
    know_nothing(&f->now);
    know_nothing(&f->by_fence);
    know_nothing(&f->last_fence);
    f->held.site = NULL;
}

void memory_reset(bool x86)
{
    m.n_stores = m.n_locations = 0;
    memset(m.buckets, 0, sizeof m.buckets);
    for (uint32_t f = 0; f < MAX_FIBERS; f++)
        forget(&m.fibers[f]);
    know_nothing(&m.fences);
    m.fences_hash = 0;
    m.x86 = x86;
    m.n_constants = 0;
    m.fibers[SETUP].now.epochs[SETUP] = 1;
}

void explorer_constant(const void *address, size_t bytes)
{
    if (m.n_constants == MAX_CONSTANTS)
        explorer_fail("more than %d constants", MAX_CONSTANTS);
    m.constants[m.n_constants++] = (struct range){(uintptr_t)address, bytes};
}

static bool is_constant(const volatile void *p)
{
    for (uint32_t i = 0; i < m.n_constants; i++)
        if ((uintptr_t)p - m.constants[i].address < m.constants[i].bytes)
            return true;
    return false;
}

static struct fiber_memory *self(void)
{
    return &m.fibers[run_self()];
}

struct knowledge *memory_knowledge(uint32_t fiber)
{
    return &m.fibers[fiber].now;
}

void memory_begin_fiber(uint32_t fiber)
{
    know_the_same(&m.fibers[fiber].now, &m.fibers[SETUP].now);
    m.fibers[fiber].now.epochs[fiber] = 1;
}

void memory_end_fiber(uint32_t fiber)
{
    learn(&m.fibers[SETUP].now, &m.fibers[fiber].now);
}

static void next_epoch(void)
{
    self()->now.epochs[run_self()]++;
}

/* ---- locations ---- */

static uint64_t read_memory(const volatile void *p, unsigned size)
{
    uint64_t value = 0;

    memcpy(&value, (const void *)p, size);
    return value;
}

static struct store *add_store(struct location *at, uint64_t value)
{
    if (m.n_stores == MAX_STORES)
        explorer_fail("more than %u stores in one run", MAX_STORES);
    struct store *store = &m.stores[m.n_stores];

    store->value = value;
    store->hash = 0;
    store->older = at->newest;
    store->position = at->newest < MAX_STORES ? m.stores[at->newest].position + 1 : 1;
    know_nothing(&store->released);
    at->newest = m.n_stores++;
    return store;
}

static uint32_t new_location(uint16_t *bucket, uintptr_t address, unsigned size)
{
    if (m.n_locations == MAX_LOCATIONS)
        explorer_fail("more than %u atomic variables in one run", MAX_LOCATIONS);
    struct location *at = &m.locations[m.n_locations];

    *at = (struct location){.address = address, .size = size, .newest = MAX_STORES};
    add_store(at, read_memory((const void *)address, size));
    *bucket = (uint16_t)++m.n_locations;
    return m.n_locations - 1;
}

static uint32_t find_location(const volatile void *p, unsigned size)
{
    uintptr_t address = (uintptr_t)p;
    size_t i = (address >> 2) * 0x9e3779b1u % N_BUCKETS;

    for (;; i = (i + 1) % N_BUCKETS) {
        if (m.buckets[i] == 0)
            return new_location(&m.buckets[i], address, size);
        const struct location *at = &m.locations[m.buckets[i] - 1];

        if (at->address == address && at->size == size)
            return m.buckets[i] - 1u;
    }
}

/* What was stored there by plain stores since counts as a store that whoever comes now has made:
 * plain.c has proved that no other thread could be at it. */
static uint32_t locate(const volatile void *p, unsigned size, bool writes)
{
    plain_atomic(p, size, writes);
    uint32_t l = find_location(p, size);
    struct location *at = &m.locations[l];

    if (plain_take_dirty(p) && m.stores[at->newest].value != read_memory(p, size)) {
        struct store *store = add_store(at, read_memory(p, size));

        know(&self()->now, l, store->position);
        know_the_same(&store->released, &self()->now);
    }
    return l;
}

/* ---- the three kinds of access ---- */

/* Each step adds to its thread's history, be it that the thread has gone on by one. */
static void note_history(struct location *at, uint64_t hash)
{
    uint64_t before = at->hash;

    at->hash = mix(mix(before, hash), at->address);
    run_note_global(before ^ at->hash);
}

static void see(uint32_t l, const struct store *store, enum order order)
{
    struct fiber_memory *f = self();

    know(&f->now, l, store->position);
    if (order & ACQUIRE)
        learn(&f->now, &store->released);
    else
        learn(&f->by_fence, &store->released);
}

static uint64_t do_load(const volatile void *p, unsigned size, enum order order, uint32_t *ret_age)
{
    uint32_t l = locate(p, size, false);
    const struct store *store = &m.stores[m.locations[l].newest];
    uint32_t oldest = knows(&self()->now, l);
    uint32_t n = store->position - oldest + (oldest > 0);

    *ret_age = run_self() != SETUP && n > 1 && run_may_be_stale() ? search_choose(n) : 0;
    for (uint32_t i = 0; i < *ret_age; i++)
        store = &m.stores[store->older];
    if (*ret_age > 0)
        run_spend_stale();
    see(l, store, order);
    run_note(store->hash);
    run_note(store->value);
    next_epoch();
    return store->value;
}

static void write_newest(uint32_t l, uint64_t value, enum order order, const struct store *chained)
{
    struct location *at = &m.locations[l];

    if (is_constant((const void *)at->address))
        explorer_fail("a store to what the scenario says is constant");
    struct store *store = add_store(at, value);
    struct fiber_memory *f = self();

    know(&f->now, l, store->position);
    know_the_same(&store->released, order & RELEASE ? &f->now : &f->last_fence);
    if (chained)
        learn(&store->released, &chained->released);
    store->hash = run_note(mix(value, at->address));
    note_history(at, store->hash);
    memcpy((void *)at->address, &value, at->size);
    next_epoch();
}

static void do_store(volatile void *p, unsigned size, uint64_t value, enum order order)
{
    write_newest(locate(p, size, !plain_stands_there(p, &value, size)), value, order, NULL);
}

static uint64_t changed(enum atomic_op op, uint64_t old, uint64_t operand)
{
    switch (op) {
    case ATOMIC_OP_add_seq:
        return old + operand;
    case ATOMIC_OP_or_seq:
        return old | operand;
    case ATOMIC_OP_and_seq:
        return old & operand;
    default:
        return operand;
    }
}

static uint64_t cut(uint64_t value, unsigned size)
{
    return size == 8 ? value : value & ((UINT64_C(1) << size * 8) - 1);
}

static uint64_t do_rmw(
    enum atomic_op op, volatile void *p, unsigned size, uint64_t operand, enum order order)
{
    uint32_t l = locate(p, size, true);
    uint32_t newest = m.locations[l].newest;
    uint64_t old = m.stores[newest].value;

    run_note(m.stores[newest].hash);
    see(l, &m.stores[newest], order);
    write_newest(l, cut(changed(op, old, operand), size), order, &m.stores[newest]);
    return old;
}

static void do_fence(void)
{
    struct fiber_memory *f = self();

    learn(&f->now, &f->by_fence);
    learn_stores(&f->now, &m.fences);
    know_the_same(&m.fences, &f->now);
    know_the_same(&f->last_fence, &f->now);
    run_note(m.fences_hash);
    uint64_t hash = run_note(1);

    run_note_global(m.fences_hash ^ hash);
    m.fences_hash = hash;
    next_epoch();
}

/* ---- mutants ---- */

void memory_settle(void)
{
    struct held_store held = self()->held;

    if (!held.site)
        return;
    self()->held.site = NULL;
    run_point();
    do_store(held.p, held.size, held.value, held.order);
    trace_access(held.site, held.value, "late");
}

/* The order of an access as the mutant and the processor have it. */
static enum order order_of(enum mutation mutation, enum order order, enum order on_x86)
{
    return m.x86 ? on_x86 : mutation == MUTATION_relax ? RELAXED : order;
}

/* A store held back comes after this access, unless it is to the same place. */
static void before_access(const struct atomic_site *site, const volatile void *p)
{
    if (self()->held.site && self()->held.p == p)
        memory_settle();
    run_point_at(site);
}

/* ---- what the macros of atomic.h call ---- */

/* What only one thread of any scenario touches (counters, what a loop without fds and timers asks)
 * need not be a step. */
static bool names_no_interest(const struct atomic_site *site)
{
    static const char *const words[] = {"counters->", "polls", "poll.max_ns", "deleted_handlers",
        "timers.first_ns",
        /* What the mesh counts, but for calls and their ends, which must add up. */
        "->pushed", "->dropped", "->rings_", "->popped", "->high_water", "->slot_waits",
        "->calls_started", "part->heap_", "part->payload_", "part->served_ns",
        "instruments.running",
        /* What the plane counts, but for the requests of a lane. */
        "part->requests_", "row->refused", "row->rings",
        /* And the gateway. */
        "head->clients_cut", "row->opens", "row->cut_by"};

    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strstr(site->address, words[i]))
            return true;
    return false;
}

/* By site, so that its text is read once: it is asked at each access. */
static bool is_of_no_interest(const struct atomic_site *site)
{
    static struct {
        const struct atomic_site *site;
        bool answer;
    } known[N_SITES];
    size_t i = ((uintptr_t)site >> 3) * 0x9e3779b1u % N_SITES;

    if (known[i].site != site) {
        known[i].site = site;
        known[i].answer = names_no_interest(site);
    }
    return known[i].answer;
}

uint64_t atomic_shim_load(const struct atomic_site *site, const volatile void *p, unsigned size)
{
    enum order order = site->op == ATOMIC_OP_load_acquire ? ACQUIRE : RELAXED;
    uint32_t age;

    if (is_of_no_interest(site) || is_constant(p))
        return read_memory(p, size);
    before_access(site, p);
    uint64_t value = do_load(p, size, order_of(mutant_at(site), order, ACQUIRE), &age);

    trace_access(site, value, age > 0 ? "%u stores ago" : NULL, age);
    memory_settle();
    return value;
}

void atomic_shim_store(
    const struct atomic_site *site, volatile void *p, unsigned size, uint64_t value)
{
    enum order order = site->op == ATOMIC_OP_store_release ? RELEASE : RELAXED;
    enum mutation mutation = is_of_no_interest(site) ? MUTATION_none : mutant_at(site);

    value = cut(value, size);
    if (is_of_no_interest(site)) {
        memcpy((void *)p, &value, size);
        return;
    }
    before_access(site, p);
    order = order_of(mutation, order, RELEASE);
    if (mutation == MUTATION_drop) {
        run_note(0);
        trace_access(site, value, "left out");
    } else if (mutation == MUTATION_swap) {
        memory_settle();
        run_note(0);
        self()->held = (struct held_store){site, p, size, value, order};
        return;
    } else {
        do_store(p, size, value, order);
        trace_access(site, value, NULL);
    }
    memory_settle();
}

static uint64_t split_rmw(
    const struct atomic_site *site, volatile void *p, unsigned size, uint64_t operand)
{
    uint32_t age;
    uint64_t old = do_load(p, size, ACQUIRE, &age);

    trace_access(site, old, "first half");
    run_point();
    do_store(p, size, cut(changed(site->op, old, operand), size), RELEASE);
    trace_access(site, cut(changed(site->op, old, operand), size), "second half");
    return old;
}

uint64_t atomic_shim_rmw(
    const struct atomic_site *site, volatile void *p, unsigned size, uint64_t operand)
{
    enum mutation mutation = mutant_at(site);
    uint64_t old;

    before_access(site, p);
    if (mutation == MUTATION_split) {
        old = split_rmw(site, p, size, operand);
    } else {
        if (m.x86)
            do_fence();
        old = do_rmw(site->op, p, size, operand, order_of(mutation, BOTH, BOTH));
        trace_access(site, cut(changed(site->op, old, operand), size), "was 0x%llx",
            (unsigned long long)old);
    }
    memory_settle();
    return old;
}

/* It fails only where the newest value differs. */
static bool cas_fails(volatile void *p, unsigned size, void *expected, enum order order)
{
    uint32_t l = locate(p, size, true);
    const struct store *newest = &m.stores[m.locations[l].newest];
    bool fails = newest->value != read_memory(expected, size);

    run_note(newest->hash);
    if (fails) {
        see(l, newest, order & ACQUIRE);
        memcpy(expected, &newest->value, size);
        next_epoch();
    }
    return fails;
}

bool atomic_shim_cas(const struct atomic_site *site, volatile void *p, unsigned size,
    void *expected, uint64_t desired)
{
    enum mutation mutation = mutant_at(site);
    enum order order = order_of(mutation, BOTH, BOTH);

    before_access(site, p);
    if (m.x86)
        do_fence();
    bool fails = cas_fails(p, size, expected, order);

    if (fails) {
        trace_access(site, read_memory(expected, size), "fails");
    } else if (mutation == MUTATION_split) {
        trace_access(site, read_memory(expected, size), "first half");
        run_point();
        do_store(p, size, cut(desired, size), RELEASE);
        trace_access(site, cut(desired, size), "second half");
    } else {
        do_rmw(ATOMIC_OP_xchg_seq, p, size, cut(desired, size), order);
        trace_access(site, cut(desired, size), "succeeds");
    }
    memory_settle();
    return !fails;
}

void atomic_shim_fence(const struct atomic_site *site)
{
    run_point_at(site);
    if (mutant_at(site) == MUTATION_drop) {
        run_note(0);
        trace_access(site, 0, "left out");
    } else {
        do_fence();
        trace_access(site, 0, NULL);
    }
    memory_settle();
}

void atomic_shim_pause(const struct atomic_site *site)
{
    memory_settle();
    run_pause();
}

/* ---- the kernel's ---- */

uint64_t memory_kernel_add(uint64_t *word, uint64_t n, bool synchronises)
{
    return do_rmw(ATOMIC_OP_add_seq, word, sizeof *word, n, synchronises ? BOTH : RELAXED);
}

void memory_kernel_fence(void)
{
    do_fence();
}

uint64_t memory_kernel_load(uint32_t *word)
{
    uint32_t l = locate(word, sizeof *word, false);
    const struct store *newest = &m.stores[m.locations[l].newest];

    run_note(newest->hash);
    see(l, newest, RELAXED);
    next_epoch();
    return newest->value;
}
