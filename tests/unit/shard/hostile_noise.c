/* SPDX-License-Identifier: MIT */
#include "tests/unit/shard/hostile_noise.h"

#include <sched.h>
#include <string.h>

#include "shard/builtin.h"
#include "shard/lock_inside.h"
#include "shard/mesh_inside.h"
#include "tests/unit/shard/crash_load.h"

uint64_t noise_next(struct noise *noise)
{
    noise->state ^= noise->state << 13;
    noise->state ^= noise->state >> 7;
    noise->state ^= noise->state << 17;
    return noise->state;
}

uint64_t noise_below(struct noise *noise, uint64_t n)
{
    return n ? noise_next(noise) % n : 0;
}

/* What a field may hold that is compared, counted with, or taken for an offset. */
static uint64_t any_value(struct noise *noise, uint64_t old)
{
    switch (noise_below(noise, 8)) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX - noise_below(noise, 4);
    case 2:
        return old + noise_below(noise, 3) - 1;
    case 3:
        return old ^ UINT64_C(1) << noise_below(noise, 64);
    case 4:
        return noise_below(noise, 600);
    case 5:
        return noise_below(noise, noise->seg->bytes);
    case 6:
        return segment_heap_off(noise->seg, noise->self) + noise_below(noise, 4) * SEGMENT_PAGE;
    default:
        return noise_next(noise);
    }
}

static void write_word(struct noise *noise, void *at, unsigned bytes)
{
    uint64_t old = 0;
    uint64_t value;

    memcpy(&old, at, bytes);
    value = any_value(noise, old);
    if (bytes == 8)
        atomic_store_relaxed((uint64_t *)at, value);
    else
        atomic_store_relaxed((uint32_t *)at, (uint32_t)value);
    noise->n_written++;
}

/* A word anywhere in [first, end). */
static void scribble(struct noise *noise, uint64_t first, uint64_t end)
{
    unsigned bytes = noise_below(noise, 2) ? 8 : 4;
    uint64_t at = first + noise_below(noise, (end - first) / bytes) * bytes;

    write_word(noise, noise->seg->base + at, bytes);
}

/* More often its bells and bitmaps than the arena behind them, of which it leaves the stacks
 * out. */
static void scribble_commons(struct noise *noise)
{
    const struct segment *seg = noise->seg;
    uint64_t first = (uint64_t)((uint8_t *)segment_bell(seg, 0) - seg->base);
    uint64_t arena = (uint64_t)((uint8_t *)segment_arena(seg, 0) - seg->base);
    uint64_t stacks = (uint64_t)(segment_stack(seg, 0) - seg->base);

    scribble(noise, first, noise_below(noise, 2) ? arena : stacks);
}

/* ---- what looks like the protocol ---- */

static uint32_t some_slot(struct noise *noise, uint32_t n)
{
    return noise_below(noise, 50) == 0 ? (uint32_t)noise_next(noise)
                                       : (uint32_t)noise_below(noise, n + 1);
}

/* For a lock of the load's, or any: taken, let go, as itself or as its heir. */
static void ask_for_lock(struct noise *noise, struct call_slot *call)
{
    const struct lock_args args = {.id = noise_below(noise, 2) ? LOAD_LOCK : noise_next(noise),
        .token = noise_below(noise, 8),
        .incarnation = (uint32_t)noise_below(noise, 3),
        .op = (uint32_t)noise_below(noise, LOCK_OP_GRANT + 2)};

    call->method = BUILTIN_LOCK;
    call->depth = SEGMENT_DEPTH_BUILTIN;
    call->args_len = sizeof(args);
    call->args_off = 0;
    memcpy(call->inline_args, &args, sizeof(args));
}

/* Where no code is. */
static void ask_for_bottom_half(struct noise *noise, struct call_slot *call)
{
    call->method = BUILTIN_BH;
    call->depth = SEGMENT_DEPTH_BUILTIN;
    call->args_len = (uint32_t)noise_below(noise, SEGMENT_INLINE_BYTES);
    call->args_off = 0;
    for (size_t at = 0; at < SEGMENT_INLINE_BYTES; at += 8)
        memset(call->inline_args + at, (int)noise_below(noise, 256), 8);
}

/* Its calls to an honest one: real methods, arguments anywhere. */
static uint64_t make_call(struct noise *noise, uint32_t to, uint32_t slot)
{
    const struct segment *seg = noise->seg;

    if (slot >= segment_call_slots(seg, noise->self, to))
        return noise_next(noise);
    struct call_slot *call = segment_call(seg, noise->self, to, slot);
    uint64_t generation = word_generation(call->word) + noise_below(noise, 2);

    call->deadline_ns = noise_below(noise, 4) ? INT64_MAX : any_value(noise, 0);
    call->method = noise_below(noise, 8) ? (uint32_t)noise_below(noise, noise->n_methods)
                                         : (uint32_t)noise_next(noise);
    call->depth =
        noise_below(noise, 8) ? (uint32_t)noise_below(noise, 5) : (uint32_t)noise_next(noise);
    call->args_len = (uint32_t)any_value(noise, 100);
    call->args_off = noise_below(noise, 2) ? 0 : any_value(noise, 0);
    if (noise_below(noise, 8) == 0)
        ask_for_lock(noise, call);
    else if (noise_below(noise, 8) == 0)
        ask_for_bottom_half(noise, call);
    atomic_store_release(
        &call->word, call_word(generation, (enum call_state)noise_below(noise, 5)));
    return generation;
}

/* The generation of a call of the honest one to it. */
static uint64_t generation_of_theirs(struct noise *noise, uint32_t to, uint32_t slot)
{
    const struct segment *seg = noise->seg;

    if (slot >= segment_call_slots(seg, to, noise->self))
        return noise_next(noise);
    return word_generation(atomic_load_relaxed(&segment_call(seg, to, noise->self, slot)->word));
}

static void send(struct noise *noise, uint32_t to, enum mesh_lane lane, uint64_t *next_position)
{
    const struct segment *seg = noise->seg;
    uint32_t n = segment_ring_slots(seg, noise->self, to, lane);
    struct ring_slot *slot = &segment_ring(seg, noise->self, to, lane)[*next_position % n];
    struct message message = {.kind = (uint8_t)noise_below(noise, 8),
        .slot = some_slot(noise, segment_call_slots(seg, to, noise->self)),
        .withdrawals = (uint32_t)noise_below(noise, 3),
        .depth = (uint8_t)noise_below(noise, 7),
        .method = (uint32_t)noise_below(noise, noise->n_methods),
        .path = (uint32_t)any_value(noise, 0),
        .deadline_ns = noise_below(noise, 2) ? INT64_MAX : any_value(noise, 0),
        .status = (int32_t)any_value(noise, 0),
        .end = (uint8_t)noise_below(noise, 9),
        .len = (uint32_t)any_value(noise, 100),
        .off = noise_below(noise, 2) ? 0 : any_value(noise, 0)};

    message.generation = message.kind == MESSAGE_CALL || noise_below(noise, 4) == 0
                             ? make_call(noise, to, message.slot)
                             : generation_of_theirs(noise, to, message.slot);
    if (message.kind == MESSAGE_CALL && message.slot < segment_call_slots(seg, noise->self, to) &&
        noise_below(noise, 2)) {
        const struct call_slot *call = segment_call(seg, noise->self, to, message.slot);
        message.method = call->method;
        message.depth = (uint8_t)call->depth;
        message.len = call->args_len;
    }
    memcpy(slot->payload, &message, sizeof(message));
    atomic_store_release(&slot->seq, *next_position + 1);
    *next_position += 1;
    noise->n_written++;
}

/* As many as the ring may hold, from where the receiver stands; and it is told. */
static void send_some(struct noise *noise)
{
    const struct segment *seg = noise->seg;
    uint32_t n = seg->geometry.n_shards;
    uint32_t to = (noise->self + 1 + (uint32_t)noise_below(noise, n - 1)) % n;
    enum mesh_lane lane = (enum mesh_lane)noise_below(noise, N_LANES);
    uint64_t position = atomic_load_relaxed(segment_head(seg, noise->self, to, lane));
    struct doorbell bell = {&segment_bell(seg, to)->words, noise->bell_fds[to]};

    for (uint64_t left = noise_below(noise, 20); left > 0; left--)
        send(noise, to, lane, &position);
    atomic_or_seq(&segment_bitmap(seg, to)->senders[0], UINT64_C(1) << noise->self);
    doorbell_ring(&bell);
}

void noise_make(struct noise *noise)
{
    const struct segment *seg = noise->seg;

    switch (noise_below(noise, 4)) {
    case 0:
        scribble_commons(noise);
        break;
    case 1:
        scribble(noise, segment_part_off(seg, noise->self), segment_heap_off(seg, noise->self));
        break;
    case 2:
        send_some(noise);
        break;
    default:
        if (noise_below(noise, 50) == 0)
            sched_yield();
    }
}
