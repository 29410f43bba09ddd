/* SPDX-License-Identifier: MIT */
/*
 * All that changes a coroutine's word is the table of steps below and change(), which reads the
 * word, asks the table whether the step may be taken from there, and swaps. A step that may not be
 * taken is a message that came twice, or for one that has ended, and is dropped: so telling an
 * owner twice of what is queued for it is harmless, and every death is mended by telling it once
 * more.
 *
 *                     CREATE            SUSPEND
 *            FREE ---------------> RUNNING -----> SUSPENDED
 *             ^         END           ^ |              |
 *             +-----------------------+ | MOVE         | WAKE
 *             |               ENTER,  | v              |
 *             |              BOUNCE   QUEUED <---------+
 *             +---- LOSE: from anywhere, by the supervisor
 *
 * A shard finds free slots by a private list, a hint rebuilt from the words; where that is empty it
 * takes one of another's. Either way the swap decides, so nobody need be asked, and slots go where
 * they are used.
 *
 * The generation grows when a coroutine ends. What names it (a call's record of who serves it,
 * chunks, a wake) then names nothing, before any of it is cleared.
 *
 * A chunk or stack of one that lives is touched by the shard that runs it alone; it passes on with
 * the word.
 *
 * Orderings  first                  then                ordered by         if broken
 *   HAND     last use of its stack  next shard's first  CAS of the word,   two run on one stack
 *                                                       acquire by CAS
 *   LIVES    end of a coroutine     a look at what it   CAS, load acquire  one that has answered
 *                                   did before                             is taken for lost
 */
#include "shard/arena.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>

#include "runtime/atomic.h"
#include "runtime/kernel.h"
#include "shard/bits.h"

#define GENERATION_MASK CALL_GENERATION_MASK

const char *arena_state_text(uint32_t state)
{
    static const char *const texts[] = {
#define X(name, text) [ARENA_##name] = text,
        ARENA_STATES(X)
#undef X
    };
    return state < sizeof(texts) / sizeof(texts[0]) ? texts[state] : "unknown";
}

/* ---- the word ---- */

static struct arena_word unpack(uint64_t word)
{
    return (struct arena_word){.generation = word >> 24 & GENERATION_MASK,
        .woken = word >> 23 & 1,
        .state = (enum arena_state)(word >> 16 & 0x7f),
        .owner = (uint32_t)(word >> 8 & 0xff),
        .by = (uint32_t)(word & 0xff)};
}

static uint64_t pack(const struct arena_word *w)
{
    return (w->generation & GENERATION_MASK) << 24 | (uint64_t)w->woken << 23 |
           (uint64_t)w->state << 16 | (uint64_t)w->owner << 8 | w->by;
}

static_assert(SEGMENT_MAX_PEERS <= 256, "a peer's number has 8 bits");

static arena_co name_of(uint32_t slot, uint64_t generation)
{
    return generation << 24 | (slot + 1);
}

struct arena_word arena_read(const struct segment *seg, uint32_t slot)
{
    return unpack(atomic_load_acquire(&segment_arena(seg, slot)->word)); /* LIVES */
}

/* ---- steps ---- */

#define IN(state) (1u << ARENA_##state)

enum whose { ANYBODYS, OWN, OWN_AIM, OWN_WORK };

/* X(name, from, to, whose it must be): OWN: self is its owner; OWN_AIM: self made it another's;
 * OWN_WORK: other is its owner, whom the supervisor buries. */
#define STEPS(X)                                             \
    X(CREATE, IN(FREE), RUNNING, ANYBODYS)                   \
    X(SUSPEND, IN(RUNNING), SUSPENDED, OWN)                  \
    X(MOVE, IN(RUNNING), QUEUED, OWN)                        \
    X(WAKE, IN(SUSPENDED), QUEUED, ANYBODYS)                 \
    X(KEEP_WAKE, IN(RUNNING) | IN(QUEUED), QUEUED, ANYBODYS) \
    X(ENTER, IN(QUEUED), RUNNING, OWN)                       \
    X(BOUNCE, IN(QUEUED), RUNNING, OWN_AIM)                  \
    X(END, IN(RUNNING), FREE, OWN)                           \
    X(LOSE, IN(RUNNING) | IN(SUSPENDED), FREE, OWN_WORK)     \
    X(LOSE_QUEUED, IN(QUEUED), FREE, OWN_WORK)

enum step {
#define X(name, from, to, whose) STEP_##name,
    STEPS(X)
#undef X
};

static const struct step_row {
    uint32_t from;
    enum arena_state to;
    enum whose whose;
} steps[] = {
#define X(name, from, to, whose) [STEP_##name] = {from, ARENA_##to, whose},
    STEPS(X)
#undef X
};

struct change {
    enum step step;
    uint32_t self;
    uint32_t other; /* who is its owner after MOVE and WAKE, or before BOUNCE, LOSE… */
};

static bool is_allowed(const struct change *change, const struct arena_word *w)
{
    const struct step_row *row = &steps[change->step];

    /* All may write the commons, so a word may say anything. */
    if (w->state > ARENA_QUEUED || !(row->from & 1u << w->state))
        return false;
    switch (row->whose) {
    case OWN:
        return w->owner == change->self;
    case OWN_AIM:
        return w->owner == change->other && w->by == change->self;
    case OWN_WORK:
        return w->owner == change->other;
    case ANYBODYS:
        break;
    }
    return true;
}

static struct arena_word after(const struct change *change, struct arena_word w)
{
    enum step step = change->step;
    bool woken_before = step == STEP_SUSPEND && w.woken;

    if (step == STEP_KEEP_WAKE) {
        w.woken = true;
        return w;
    }
    if (step == STEP_SUSPEND || step == STEP_CREATE)
        w.woken = false;
    if (woken_before)
        return w;
    w.state = steps[step].to;
    w.by = change->self;
    if (step == STEP_MOVE || (step == STEP_WAKE && change->other != ARENA_WHERE_IT_IS))
        w.owner = change->other;
    else if (step == STEP_CREATE || step == STEP_BOUNCE)
        w.owner = change->self;
    if (w.state == ARENA_FREE) {
        w.generation = (w.generation + 1) & GENERATION_MASK;
        w.woken = false;
        w.by = w.owner;
    }
    return w;
}

/* Takes one step, if co is still that coroutine and the step is allowed from where it is. The word
 * after it, or, where it was not taken, as it is. */
static bool change_co(
    const struct segment *seg, arena_co co, const struct change *change, struct arena_word *ret)
{
    uint32_t slot = arena_slot_of(co);
    uint64_t word;

    if (slot >= seg->geometry.n_portable)
        return false;
    word = atomic_load_relaxed(&segment_arena(seg, slot)->word); /* HAND: the CAS below decides */
    for (;;) {
        struct arena_word w = unpack(word);
        *ret = w;
        if (w.generation != arena_generation_of(co) || !is_allowed(change, &w))
            return false;
        w = after(change, w);
        if (atomic_cas_seq(&segment_arena(seg, slot)->word, &word, pack(&w))) { /* HAND, LIVES */
            *ret = w;
            return true;
        }
    }
}

/* ---- in a shard ---- */

static arena_co create_in(const struct segment *seg, uint32_t self, uint32_t slot)
{
    struct change change = {.step = STEP_CREATE, .self = self};
    struct arena_word w = arena_read(seg, slot);
    arena_co co = name_of(slot, w.generation);

    return w.state == ARENA_FREE && change_co(seg, co, &change, &w) ? co : 0;
}

arena_co arena_create(const struct segment *seg, uint32_t self, uint32_t free_slot)
{
    uint32_t n = seg->geometry.n_portable;
    arena_co co = free_slot < n ? create_in(seg, self, free_slot) : 0;
    uint32_t first = self * (n / seg->geometry.n_shards); /* shards begin to look apart */

    for (uint32_t i = 0; i < n && !co; i++)
        co = create_in(seg, self, (first + i) % n);
    return co;
}

bool arena_suspend(const struct segment *seg, arena_co co, uint32_t self)
{
    struct arena_word w;

    return change_co(seg, co, &(struct change){.step = STEP_SUSPEND, .self = self}, &w) &&
           w.state == ARENA_SUSPENDED;
}

bool arena_move(const struct segment *seg, arena_co co, uint32_t self, uint32_t target)
{
    struct arena_word w;

    return change_co(
        seg, co, &(struct change){.step = STEP_MOVE, .self = self, .other = target}, &w);
}

enum arena_woken arena_wake(
    const struct segment *seg, arena_co co, uint32_t self, uint32_t target, uint32_t *ret_owner)
{
    struct arena_word w;

    do {
        if (change_co(
                seg, co, &(struct change){.step = STEP_WAKE, .self = self, .other = target}, &w)) {
            *ret_owner = w.owner;
            return ARENA_IS_DUE;
        }
        if (change_co(seg, co, &(struct change){.step = STEP_KEEP_WAKE, .self = self}, &w))
            return ARENA_KEPT;
    } while (arena_co_lives(seg, co, &w.owner)); /* it began to wait between the two */
    return ARENA_GONE;
}

bool arena_enter(const struct segment *seg, arena_co co, uint32_t self)
{
    struct arena_word w;

    return change_co(seg, co, &(struct change){.step = STEP_ENTER, .self = self}, &w);
}

bool arena_bounce(const struct segment *seg, arena_co co, uint32_t self, uint32_t target)
{
    struct arena_word w;

    return change_co(
        seg, co, &(struct change){.step = STEP_BOUNCE, .self = self, .other = target}, &w);
}

/* They are nobody's already: its name is one that lives no more, so another may have taken one. */
static void free_chunks(const struct segment *seg, arena_co co)
{
    for (uint32_t chunk = 0; chunk < segment_n_chunks(seg); chunk++) {
        uint64_t tag =
            atomic_load_relaxed(segment_chunk_tag(seg, chunk)); /* HAND: the CAS decides */
        if (tag == co)
            atomic_cas_seq(segment_chunk_tag(seg, chunk), &tag, (uint64_t)0); /* HAND */
    }
}

void arena_end(const struct segment *seg, arena_co co, uint32_t self)
{
    struct arena_word w;

    if (change_co(seg, co, &(struct change){.step = STEP_END, .self = self}, &w))
        free_chunks(seg, co);
}

/* ---- anywhere ---- */

bool arena_co_lives(const struct segment *seg, arena_co co, uint32_t *ret_shard)
{
    uint32_t slot = arena_slot_of(co);

    if (slot >= seg->geometry.n_portable)
        return false;
    struct arena_word w = arena_read(seg, slot);
    if (w.generation != arena_generation_of(co) || w.state == ARENA_FREE)
        return false;
    *ret_shard = w.owner;
    return true;
}

arena_co arena_co_at(const struct segment *seg, uint32_t slot)
{
    if (slot >= seg->geometry.n_portable)
        return 0;
    struct arena_word w = arena_read(seg, slot);
    return w.state == ARENA_FREE ? 0 : name_of(slot, w.generation);
}

uint64_t arena_stack(const struct segment *seg, arena_co co, uint8_t **ret_low)
{
    *ret_low = segment_stack(seg, arena_slot_of(co)) + SEGMENT_PAGE;
    return seg->geometry.stack_bytes - SEGMENT_PAGE;
}

/* ---- the supervisor ---- */

/* Whether nobody will take shard's place. A word may name anybody. */
static bool is_gone(
    const struct segment *seg, const uint64_t gone[SEGMENT_BITMAP_WORDS], uint32_t shard)
{
    return shard >= seg->geometry.n_shards || bits_has(gone, shard);
}

static bool lose(const struct segment *seg, arena_co co, enum step step, uint32_t owner)
{
    struct arena_word w;

    if (!change_co(seg, co, &(struct change){.step = step, .self = owner, .other = owner}, &w))
        return false;
    free_chunks(seg, co);
    return true;
}

/* What neither its sender nor anybody else will enter. */
static bool is_stranded(const struct segment *seg, const struct arena_word *w,
    const uint64_t gone[SEGMENT_BITMAP_WORDS])
{
    return w->state == ARENA_QUEUED && is_gone(seg, gone, w->owner) &&
           (w->by == w->owner || is_gone(seg, gone, w->by));
}

static uint32_t bury(
    const struct segment *seg, uint32_t dead, const uint64_t gone[SEGMENT_BITMAP_WORDS])
{
    uint32_t n_ended = 0;

    for (uint32_t slot = 0; slot < seg->geometry.n_portable; slot++) {
        struct arena_word w = arena_read(seg, slot);
        arena_co co = name_of(slot, w.generation);

        if (is_stranded(seg, &w, gone))
            n_ended += lose(seg, co, STEP_LOSE_QUEUED, w.owner);
        else
            n_ended += lose(seg, co, STEP_LOSE, dead);
    }
    return n_ended;
}

uint32_t arena_bury(const struct segment *seg, uint32_t dead, bool failed)
{
    uint64_t gone[SEGMENT_BITMAP_WORDS] = {0};

    for (uint32_t shard = 0; shard < seg->geometry.n_shards; shard++)
        if ((shard == dead && failed) ||
            atomic_load_acquire(&segment_control(seg, shard)->state) == PEER_FAILED) /* LIVES */
            bits_set(gone, shard);
    return bury(seg, dead, gone);
}

uint32_t arena_bury_gone(const struct segment *seg, const uint64_t gone[SEGMENT_BITMAP_WORDS])
{
    uint32_t n_ended = 0;

    for (uint32_t shard = 0; shard < seg->geometry.n_shards; shard++)
        if (is_gone(seg, gone, shard))
            n_ended += bury(seg, shard, gone);
    return n_ended;
}

/* ---- guards ---- */

static bool guard_works(void *page)
{
    return madvise(page, SEGMENT_PAGE, MADV_POPULATE_READ) != 0;
}

int arena_guard(const struct segment *seg)
{
    bool marker = true;

    for (uint32_t slot = 0; slot < seg->geometry.n_portable; slot++) {
        uint8_t *page = segment_stack(seg, slot);

        if (marker)
            marker = madvise(page, SEGMENT_PAGE, MADV_GUARD_INSTALL) == 0;
        if (marker && slot == 0)
            marker = guard_works(page); /* an emulator may accept advice that it does not know */
        if (!marker && mprotect(page, SEGMENT_PAGE, PROT_NONE) < 0)
            return -errno;
    }
    return 0;
}
