/* SPDX-License-Identifier: MIT */
/*
 * What is left of a dead process, but for what was written for recovery, is filled with rubbish
 * before anybody mends anything: all ends as it would have without.
 */
#include "shard/regions.h"
#include "tests/unit/shard/recovery_fixture.h"

/* ---- what recovery may not read ---- */

static uint64_t seed = 88172645463325252u;

static void scribble(void *from, void *to)
{
    for (uint8_t *at = from; at < (uint8_t *)to; at++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        *at = (uint8_t)(seed >> 24);
    }
}

static uint8_t *region_at(const struct segment *seg, enum region region)
{
    return seg->base + segment_part_off(seg, DOOMED) + seg->shard_regions[region];
}

/* What is there for tools alone, and what of the head is. */
static void scribble_figures(const struct segment *seg)
{
    static const enum region figures[] = {REGION_HOT, REGION_COUNTERS, REGION_RECORDED,
        REGION_EVENTS, REGION_COROUTINES, REGION_CRASH, REGION_VERDICTS};
    struct part_head *head = segment_part(seg, DOOMED);

    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++)
        scribble(region_at(seg, figures[i]), region_at(seg, figures[i] + 1));
    scribble(&head->drained, &head->running);
    scribble(&head->order, &head->redo);
    scribble(&head->redo + 1, head + 1);
}

/* All of a slot that is free but its word, and where nobody can be reading it the inline answer. */
static void scribble_free_slots(const struct segment *seg, uint32_t other)
{
    for (uint32_t i = 0; i < segment_call_slots(seg, DOOMED, other); i++) {
        struct call_slot *call = segment_call(seg, DOOMED, other, i);
        if ((call->word & 0xff) != CALL_FREE)
            continue;
        scribble(call, &call->word);
        scribble(&call->word + 1, call + 1);
    }
}

static void keep_pages(const struct segment *seg, bool *kept, uint64_t off, uint64_t len)
{
    uint64_t first = (off - segment_heap_off(seg, DOOMED)) / SEGMENT_PAGE;

    for (uint64_t page = 0; off && page * SEGMENT_PAGE < len; page++)
        kept[first + page] = true;
}

/* Buffers that no slot of the dead one's names, and that nothing says is in flight. */
static void scribble_heap(const struct segment *seg)
{
    uint64_t n_pages = seg->geometry.heap_bytes / SEGMENT_PAGE;
    bool *kept = calloc(n_pages, sizeof(*kept));
    uint8_t *heap = seg->base + segment_heap_off(seg, DOOMED);

    for (uint32_t other = 0; other < seg->n_peers; other++) {
        for (uint32_t i = 0; i < segment_call_slots(seg, DOOMED, other); i++) {
            const struct call_slot *call = segment_call(seg, DOOMED, other, i);
            if ((call->word & 0xff) != CALL_FREE)
                keep_pages(seg, kept, call->args_off, call->args_len);
        }
        for (uint32_t i = 0; i < segment_call_slots(seg, other, DOOMED); i++) {
            const struct serve_slot *serve = segment_serve(seg, DOOMED, other, i);
            if (serve->answer_generation)
                keep_pages(seg, kept, serve->answer_off, serve->answer_len);
        }
    }
    for (uint64_t page = 0; page < n_pages; page++)
        if (!kept[page] && !segment_flights(seg, DOOMED)[page])
            scribble(heap + page * SEGMENT_PAGE, heap + (page + 1) * SEGMENT_PAGE);
    free(kept);
}

/* Stacks of coroutines that end with it. */
static void scribble_stacks(const struct segment *seg)
{
    for (uint32_t slot = 0; slot < seg->geometry.n_portable; slot++) {
        struct arena_word w = arena_read(seg, slot);
        uint8_t *low;
        if (w.owner != DOOMED || (w.state != ARENA_RUNNING && w.state != ARENA_SUSPENDED))
            continue;
        uint64_t bytes = arena_stack(seg, arena_co_at(seg, slot), &low);
        scribble(low, low + bytes);
    }
}

static void scribble_what_is_not_for_recovery(const struct segment *seg)
{
    scribble_figures(seg);
    for (uint32_t other = 0; other < N_ENDS; other++)
        if (other != DOOMED)
            scribble_free_slots(seg, other);
    scribble_heap(seg);
    scribble_stacks(seg);
}

static void dies_and_leaves_rubbish(uint64_t stores)
{
    int64_t deadline_ns = aio_clock_ns() + DEADLINE_NS;
    bool died = false;
    struct rig rig;
    char what[64];

    snprintf(what, sizeof(what), "rubbish after store %llu", (unsigned long long)stores);
    open_rig(&rig);
    start_all(&rig, stores);
    rig_fork(&rig, WITNESS, work);
    while (!died || !all_is_over(&rig)) {
        if (!died && has_died(&rig, DOOMED)) {
            died = true;
            rig_join(&rig, DOOMED);
            scribble_what_is_not_for_recovery(&rig.seg);
            rig_bury(&rig, DOOMED, false);
            atomic_store(&rig.board->words[WORD_OVER + DOOMED], 0);
            rig_fork(&rig, DOOMED, work);
        }
        if (aio_clock_ns() > deadline_ns)
            complain(&rig, what);
        sched_yield();
    }
    check_and_close(&rig, what);
}

static void recovery_reads_only_what_is_made_for_it(void **state)
{
    uint32_t n_samples = samples_wanted();

    (void)state;
    for (uint32_t i = 0; i < n_samples; i++)
        dies_and_leaves_rubbish(1 + 440 * i / n_samples);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recovery_reads_only_what_is_made_for_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
