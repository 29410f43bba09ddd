/* SPDX-License-Identifier: MIT */
#include "shard/audit.h"
/*
 * A slot's state and the counter that goes with it are two stores, noted in the writer's redo
 * record in between (caller.c); a writer that stands still there, or has died there, is counted as
 * if it had gone on.
 *
 * Orderings    first             then              ordered by                if broken
 *   WINDOW   counters, slots   slots, counters   acquire loads, in the     a range too narrow, and an
 *                                                order that they stand in  account wrongly called wrong
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "runtime/atomic.h"

#define LOOKS            3
#define BETWEEN_LOOKS_NS 2000000

const char *audit_expected_text(enum audit_account account)
{
    static const char *const texts[] = {
#define X(name, expected, found) expected,
        AUDIT_ACCOUNTS(X)
#undef X
    };
    return texts[account];
}

const char *audit_found_text(enum audit_account account)
{
    static const char *const texts[] = {
#define X(name, expected, found) found,
        AUDIT_ACCOUNTS(X)
#undef X
    };
    return texts[account];
}

struct audit {
    const struct segment *seg;
    audit_finding_fn *on_finding;
    void *opaque;
    struct audit_result *result;
};

static void find(const struct audit *audit, const struct audit_finding *finding)
{
    audit->result->n_findings++;
    audit->on_finding(audit->opaque, finding);
}

static void pause_between_looks(void)
{
    nanosleep(&(struct timespec){.tv_nsec = BETWEEN_LOOKS_NS}, NULL);
}

/* ---- calls of one pair ---- */

/* What the counters say, with a transition under way taken as done. */
struct counted {
    uint64_t submitted;
    uint64_t ends[N_CALL_ENDS];
    uint64_t ended; /* their sum */
};

/* Of no one moment where it changes meanwhile, like all that is read here. */
static struct redo_record read_redo(const struct segment *seg, uint32_t peer)
{
    const struct redo_record *redo = &segment_part(seg, peer)->redo;

    return (struct redo_record){
        .kind = atomic_load_acquire(&redo->kind), /* WINDOW */
        .pair = atomic_load_relaxed(&redo->pair), /* WINDOW: so is each below */
        .slot = atomic_load_relaxed(&redo->slot),
        .word = atomic_load_relaxed(&redo->word),
        .value = atomic_load_relaxed(&redo->value),
        .end = atomic_load_relaxed(&redo->end),
    };
}

static void apply(
    struct counted *c, const struct redo_record *redo, const struct segment *seg, uint32_t from)
{
    if (redo->kind == REDO_END && redo->end < N_CALL_ENDS && redo->value > c->ends[redo->end])
        c->ends[redo->end] = redo->value;
    if (redo->kind == REDO_SUBMIT && redo->slot < segment_call_slots(seg, from, redo->pair) &&
        redo->value > c->submitted &&
        atomic_load_acquire(&segment_call(seg, from, redo->pair, redo->slot)->word) == /* WINDOW */
            redo->word)
        c->submitted = redo->value;
}

static struct counted read_counters(const struct segment *seg, uint32_t from, uint32_t to)
{
    const struct pair_stats *stats = segment_pair(seg, from, to);
    struct counted c = {.submitted = atomic_load_acquire(&stats->calls_submitted)}; /* WINDOW */

    for (int end = 0; end < N_CALL_ENDS; end++)
        c.ends[end] = atomic_load_acquire(&stats->ends[end]); /* WINDOW */
    struct redo_record redo = read_redo(seg, from);

    if (redo.pair == to)
        apply(&c, &redo, seg, from);
    for (int i = 0; i < N_CALL_ENDS; i++)
        c.ended += c.ends[i];
    return c;
}

static bool holds_slot(
    const struct segment *seg, uint32_t from, uint32_t to, uint32_t slot, uint64_t word)
{
    struct redo_record redo;

    if ((word & 0xff) == CALL_FREE)
        return false;
    redo = read_redo(seg, from);
    return !(redo.kind == REDO_END && redo.pair == to && redo.slot == slot);
}

/* Between n_held and n_held + n_changing slots were held at any moment of the count. */
struct slots_held {
    uint64_t n_held, n_changing;
};

static struct slots_held count_slots(
    const struct segment *seg, uint32_t from, uint32_t to, uint64_t *words)
{
    uint32_t n = segment_call_slots(seg, from, to);
    struct slots_held held = {0};

    for (uint32_t slot = 0; slot < n; slot++)
        words[slot] = atomic_load_acquire(&segment_call(seg, from, to, slot)->word); /* WINDOW */
    for (uint32_t slot = 0; slot < n; slot++)
        if (atomic_load_acquire(&segment_call(seg, from, to, slot)->word) !=
            words[slot]) /* WINDOW */
            held.n_changing++;
        else if (holds_slot(seg, from, to, slot, words[slot]))
            held.n_held++;
    return held;
}

/* Looks once. Whether submitted = ended + held can be true. */
static bool calls_can_balance(const struct segment *seg, uint32_t from, uint32_t to,
    uint64_t *words, struct audit_finding *ret, struct counted *ret_counted, uint64_t *ret_held)
{
    struct counted before = read_counters(seg, from, to);
    struct slots_held held = count_slots(seg, from, to, words);
    struct counted after = read_counters(seg, from, to);
    uint64_t least = before.ended + held.n_held;
    uint64_t most = after.ended + held.n_held + held.n_changing;

    *ret = (struct audit_finding){.account = AUDIT_CALLS,
        .from = from,
        .to = to,
        .expected = least,
        .found = after.submitted};
    *ret_counted = after;
    *ret_held = held.n_held;
    return after.submitted >= least && before.submitted <= most;
}

static void audit_calls(const struct audit *audit, uint32_t from, uint32_t to, uint64_t *words)
{
    struct audit_finding finding;
    struct counted counted;
    uint64_t held;
    int looks = 1;

    while (!calls_can_balance(audit->seg, from, to, words, &finding, &counted, &held)) {
        if (looks++ == LOOKS) {
            find(audit, &finding);
            break;
        }
        pause_between_looks();
    }
    audit->result->submitted += counted.submitted;
    audit->result->under_way += held;
    for (int end = 0; end < N_CALL_ENDS; end++)
        audit->result->ended[end] += counted.ends[end];
}

/* The callee's count first: whatever it has begun was submitted by then. */
static void audit_started(const struct audit *audit, uint32_t from, uint32_t to)
{
    uint64_t started = atomic_load_acquire(&segment_pair(audit->seg, to, from)->calls_started);
    uint64_t submitted = read_counters(audit->seg, from, to).submitted; /* WINDOW */

    if (started > submitted)
        find(audit, &(struct audit_finding){.account = AUDIT_STARTED,
                        .from = from,
                        .to = to,
                        .expected = submitted,
                        .found = started});
}

/* The tail first: what it counts stays in the ring until the head passes it. */
static void audit_ring(const struct audit *audit, uint32_t from, uint32_t to, enum mesh_lane lane)
{
    const struct segment *seg = audit->seg;
    uint64_t n_slots = segment_ring_slots(seg, from, to, lane);
    uint64_t tail = atomic_load_acquire(segment_tail(seg, from, to, lane)); /* WINDOW */
    uint64_t head = atomic_load_acquire(segment_head(seg, from, to, lane)); /* WINDOW */

    if (tail > head && tail - head > n_slots)
        find(audit, &(struct audit_finding){.account = AUDIT_RING,
                        .from = from,
                        .to = to,
                        .expected = n_slots,
                        .found = tail - head});
}

/* ---- buffers of one peer ---- */

/* A buffer that a slot in peer's part names, where the slot is in use. */
struct buffer {
    uint64_t off, len;
    uint32_t to;
    const uint64_t *word; /* says whether it still is what it was */
    uint64_t word_was;
};

struct buffers {
    struct buffer *items;
    size_t n;
};

static void add_buffer(struct buffers *buffers, const struct buffer *buffer)
{
    if (buffer->off)
        buffers->items[buffers->n++] = *buffer;
}

/* A call's arguments are its caller's until the callee has started it. */
static void add_arguments(
    const struct segment *seg, struct buffers *buffers, uint32_t peer, uint32_t to, uint32_t slot)
{
    const struct call_slot *call = segment_call(seg, peer, to, slot);
    uint64_t word = atomic_load_acquire(&call->word); /* WINDOW */
    uint64_t started = atomic_load_acquire(&segment_serve(seg, to, peer, slot)->started);

    if ((word & 0xff) != CALL_FREE && started >> 24 != (word >> 8 & CALL_GENERATION_MASK))
        add_buffer(buffers, &(struct buffer){atomic_load_relaxed(&call->args_off),
                                atomic_load_relaxed(&call->args_len), to, &call->word, word});
}

static void add_answer(
    const struct segment *seg, struct buffers *buffers, uint32_t peer, uint32_t to, uint32_t slot)
{
    const struct serve_slot *serve = segment_serve(seg, peer, to, slot);
    uint64_t generation = atomic_load_acquire(&serve->answer_generation); /* WINDOW */

    if (generation)
        add_buffer(buffers, &(struct buffer){atomic_load_relaxed(&serve->answer_off),
                                atomic_load_relaxed(&serve->answer_len), to,
                                &serve->answer_generation, generation});
}

static void collect_buffers(const struct segment *seg, uint32_t peer, struct buffers *buffers)
{
    buffers->n = 0;
    for (uint32_t to = 0; to < seg->n_peers; to++) {
        if (to == peer)
            continue;
        for (uint32_t slot = 0; slot < segment_call_slots(seg, peer, to); slot++)
            add_arguments(seg, buffers, peer, to, slot);
        for (uint32_t slot = 0; slot < segment_call_slots(seg, to, peer); slot++)
            add_answer(seg, buffers, peer, to, slot);
    }
}

static int by_offset(const void *a, const void *b)
{
    const struct buffer *x = a, *y = b;

    return (x->off > y->off) - (x->off < y->off);
}

static bool is_unchanged(const struct buffer *b)
{
    return atomic_load_acquire(b->word) == b->word_was; /* WINDOW */
}

/* Looks once at all of peer's buffers, which are sorted. True where none is wrong. */
static bool buffers_are_right(const struct segment *seg, uint32_t peer,
    const struct buffers *buffers, struct audit_finding *ret)
{
    for (size_t i = 0; i < buffers->n; i++) {
        const struct buffer *b = &buffers->items[i], *next = b + 1;

        if (!segment_heap_at(seg, peer, b->off, b->len) && is_unchanged(b)) {
            *ret = (struct audit_finding){.account = AUDIT_BUFFER,
                .from = peer,
                .to = b->to,
                .expected = seg->geometry.heap_bytes,
                .found = b->off - segment_heap_off(seg, peer) + b->len};
            return false;
        }
        if (i + 1 < buffers->n && b->off + b->len > next->off && is_unchanged(b) &&
            is_unchanged(next)) {
            *ret = (struct audit_finding){.account = AUDIT_SHARED_BUFFER,
                .from = peer,
                .to = b->to,
                .expected = 1,
                .found = 2};
            return false;
        }
    }
    return true;
}

static void audit_buffers(const struct audit *audit, uint32_t peer, struct buffers *buffers)
{
    struct audit_finding finding;

    for (int look = 1;; look++) {
        collect_buffers(audit->seg, peer, buffers);
        qsort(buffers->items, buffers->n, sizeof(buffers->items[0]), by_offset);
        if (buffers_are_right(audit->seg, peer, buffers, &finding))
            return;
        if (look == LOOKS) {
            find(audit, &finding);
            return;
        }
        pause_between_looks();
    }
}

/* ---- clients' requests ---- */

/* One writer, three words: all of a moment where the first two have not changed. */
static void audit_requests(const struct audit *audit)
{
    uint32_t gateway = segment_gateway(audit->seg);
    const struct part_head *part = segment_part(audit->seg, gateway);
    struct audit_result *result = audit->result;

    for (int look = 1;; look++) {
        result->requests_ended = atomic_load_acquire(&part->requests_ended);         /* WINDOW */
        result->requests_in_flight = atomic_load_acquire(&part->requests_in_flight); /* WINDOW */
        result->requests_accepted = atomic_load_acquire(&part->requests_accepted);   /* WINDOW */
        uint64_t known = result->requests_ended + result->requests_in_flight;

        if (result->requests_accepted == known ||
            atomic_load_acquire(&part->requests_ended) != result->requests_ended) /* WINDOW */
            return;
        if (look == LOOKS) {
            find(audit, &(struct audit_finding){.account = AUDIT_REQUESTS,
                            .from = gateway,
                            .to = gateway,
                            .expected = known,
                            .found = result->requests_accepted});
            return;
        }
        pause_between_looks();
    }
}

/* ---- all of it ---- */

/* Most slots that any one peer's part names buffers in. */
static size_t most_buffers(const struct segment *seg)
{
    uint64_t each = seg->geometry.slots_shard;

    if (each < seg->geometry.slots_gateway)
        each = seg->geometry.slots_gateway;
    return seg->n_peers * (each + SEGMENT_URGENT_SLOTS) * 2;
}

int audit_run(const struct segment *seg, audit_finding_fn *on_finding, void *opaque,
    struct audit_result *ret_result)
{
    struct audit audit = {
        .seg = seg, .on_finding = on_finding, .opaque = opaque, .result = ret_result};
    struct buffers buffers = {.items = calloc(most_buffers(seg), sizeof(buffers.items[0]))};
    uint64_t *words = calloc(most_buffers(seg), sizeof(words[0]));
    int r = buffers.items && words ? 0 : -ENOMEM;

    *ret_result = (struct audit_result){0};
    for (uint32_t from = 0; r == 0 && from < seg->n_peers; from++) {
        for (uint32_t to = 0; to < seg->n_peers; to++) {
            if (from == to)
                continue;
            audit_started(&audit, from, to);
            for (enum mesh_lane lane = 0; lane < N_LANES; lane++)
                audit_ring(&audit, from, to, lane);
            audit_calls(&audit, from, to, words);
        }
        audit_buffers(&audit, from, &buffers);
    }
    if (r == 0)
        audit_requests(&audit);
    free(buffers.items);
    free(words);
    return r;
}
