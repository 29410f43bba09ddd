/* SPDX-License-Identifier: MIT */
/* What comes from the other side: numbers that both ends share, and bytes that are no message. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ipc/client/client.h"
#include "proto/arena.h"
#include "proto/data_plane.h"
#include "proto/keys.h"
#include "proto/protocol.h"
#include "proto/sherd.pb-c.h"
#include "shard/segment.h"

/* One numbering of ends: client.h, segment.h, sherd.proto. */
#define X(name, number, text)                                                                  \
    static_assert((int)SHERD_END_##name == (int)CALL_END_##name, "client.h and segment.h");    \
    static_assert((int)SHERD_END_##name == (int)SHERD__WIRE__END_KIND__##name, "sherd.proto"); \
    static_assert((int)SHERD_END_##name == (number), "fixed for ever");
CALL_ENDS(X)
#undef X
static_assert(SHERD_PAYLOAD_MAX == SEGMENT_PAYLOAD_MAX, "what a client may send, a shard takes");
static_assert(SHERD_PAYLOAD_MAX == PROTOCOL_PAYLOAD_MAX, "client.h and protocol.h");

/* As docs/protocol.md has them: X(struct, field, at). */
#define PLANE_PLACES(X)                    \
    X(plane_words, need_wakeup, 0)         \
    X(plane_words, client_sleeps, 64)      \
    X(plane_submission, id, 0)             \
    X(plane_submission, method, 8)         \
    X(plane_submission, flags, 10)         \
    X(plane_submission, route_kind, 11)    \
    X(plane_submission, turn, 12)          \
    X(plane_submission, route, 16)         \
    X(plane_submission, deadline_ns, 24)   \
    X(plane_submission, args_len, 32)      \
    X(plane_submission, room_len, 36)      \
    X(plane_submission, room_off, 40)      \
    X(plane_submission, args_off, 48)      \
    X(plane_submission, inline_args, 48)   \
    X(plane_completion, id, 0)             \
    X(plane_completion, len, 8)            \
    X(plane_completion, error, 12)         \
    X(plane_completion, end, 16)           \
    X(plane_completion, shard, 20)         \
    X(plane_completion, retry_us, 24)      \
    X(plane_completion, inline_answer, 28) \
    X(plane_completion, turn, 60)
#define X(type, field, at) \
    static_assert(offsetof(struct type, field) == (at), "docs/protocol.md: The data plane");
PLANE_PLACES(X)
#undef X

static void the_memory_of_a_client_lies_as_the_manual_says(void **state)
{
    struct plane_layout layout = plane_layout(3, 256, 8192);
    uint8_t *base = NULL;

    assert_int_equal(layout.lane_bytes, 36864);
    assert_int_equal(layout.data_off, 3 * 36864);
    assert_int_equal(layout.total_bytes, 3 * 36864 + 8192);
    assert_int_equal((uintptr_t)plane_submission_at(&layout, base, 1, 257), 36864 + 128 + 64);
    assert_int_equal((uintptr_t)plane_completion_at(&layout, base, 0, 2), 128 + 64 * 256 + 128);
}

static void an_urgent_ring_lies_in_the_rest_of_a_lanes_last_page(void **state)
{
    (void)state;
    for (uint32_t n = PLANE_ENTRIES_MIN; n <= PLANE_ENTRIES_MAX; n *= 2) {
        struct plane_layout layout = plane_layout(2, n, 0);
        uintptr_t urgent = (uintptr_t)plane_urgent_at(&layout, NULL, 1, 17);
        uint64_t without = (128 + 128 * (uint64_t)n + PLANE_PAGE - 1) / PLANE_PAGE * PLANE_PAGE;
        assert_int_equal(layout.lane_bytes, without);
        assert_int_equal(urgent, without + 128 + 128 * (uint64_t)n + 64);
        assert_true(urgent + 15 * 64 <= layout.total_bytes);
    }
}

static void keys_go_to_the_shards_that_the_manual_names(void **state)
{
    static const struct {
        const char *key;
        uint64_t hash;
        uint32_t slot, of_2, of_5;
    } examples[] = {
        {"", UINT64_C(0xecba3df2c3383c52), 15442, 1, 4},
        {"a", UINT64_C(0xed8170de1919a24d), 8781, 1, 2},
        {"user:1000", UINT64_C(0xa4966ae49fa0beac), 16044, 1, 4},
    };

    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        uint64_t hash = keys_hash(examples[i].key, strlen(examples[i].key));
        assert_int_equal(hash, examples[i].hash);
        assert_int_equal(keys_slot(hash), examples[i].slot);
        assert_int_equal(keys_shard(keys_slot(hash), 2), examples[i].of_2);
        assert_int_equal(keys_shard(keys_slot(hash), 5), examples[i].of_5);
    }
}

static void ends_have_the_same_words_on_both_sides(void **state)
{
#define X(name, number, text) \
    assert_string_equal(sherd_end_text(SHERD_END_##name), call_end_text(CALL_END_##name));
    CALL_ENDS(X)
#undef X
    assert_string_equal(sherd_end_text((enum sherd_end)99), "unknown");
}

static size_t pack_batch(uint8_t *bytes, uint32_t n)
{
    Sherd__Wire__Submission submissions[8], *pointers[8];
    Sherd__Wire__SubmitMany many = SHERD__WIRE__SUBMIT_MANY__INIT;
    Sherd__Wire__Request request = SHERD__WIRE__REQUEST__INIT;

    for (uint32_t i = 0; i < n; i++) {
        sherd__wire__submission__init(&submissions[i]);
        submissions[i].id = i + 1;
        submissions[i].method = (char *)"sys.echo";
        submissions[i].args = (ProtobufCBinaryData){7, (uint8_t *)"payload"};
        submissions[i].placement_case = SHERD__WIRE__SUBMISSION__PLACEMENT_SHARD;
        submissions[i].shard = i;
        pointers[i] = &submissions[i];
    }
    many.n_submissions = n;
    many.submissions = pointers;
    request.body_case = SHERD__WIRE__REQUEST__BODY_SUBMIT_MANY;
    request.submit_many = &many;
    return sherd__wire__request__pack(&request, bytes);
}

/* Reads each byte that the message says it has: a sanitizer would see one that is not there. */
static uint32_t read_all(const Sherd__Wire__Request *request)
{
    uint32_t sum = 0;

    if (request->body_case != SHERD__WIRE__REQUEST__BODY_SUBMIT_MANY)
        return sum;
    for (size_t i = 0; i < request->submit_many->n_submissions; i++) {
        const Sherd__Wire__Submission *submission = request->submit_many->submissions[i];
        sum += (uint32_t)strlen(submission->method);
        for (size_t at = 0; at < submission->args.len; at++)
            sum += submission->args.data[at];
    }
    return sum;
}

static void damaged_messages_are_refused_or_read_within_their_bytes(void **state)
{
    uint8_t whole[512];
    size_t len = pack_batch(whole, 8);
    struct arena arena;
    uint32_t seed = 1, n_refused = 0;

    arena_init(&arena, PROTOCOL_UNPACKED_MAX);
    for (int i = 0; i < 20000; i++) {
        /* An exact copy, so that a byte too far is seen. */
        seed = seed * 1664525 + 1013904223;
        size_t cut = (seed >> 8) % 4 == 0 ? (seed >> 16) % (len + 1) : len;
        uint8_t *bytes = malloc(cut ? cut : 1);
        memcpy(bytes, whole, cut);
        for (uint32_t flips = (seed >> 4) % 4; flips > 0 && cut > 0; flips--) {
            seed = seed * 1664525 + 1013904223;
            bytes[(seed >> 8) % cut] = (uint8_t)seed;
        }
        arena_reset(&arena);
        Sherd__Wire__Request *request = sherd__wire__request__unpack(&arena.allocator, cut, bytes);
        if (request)
            read_all(request);
        else
            n_refused++;
        free(bytes);
    }
    assert_true(n_refused > 0 && n_refused < 20000);
    arena_deinit(&arena);
}

static void a_short_message_that_unpacks_to_much_is_refused(void **state)
{
    /* submit_many of empty submissions: two bytes each on the wire. */
    const size_t n = 1000000;
    uint8_t *bytes = malloc(2 * n + 16);
    size_t len = 0;
    struct arena arena;

    bytes[len++] = 0x1a;
    for (size_t left = 2 * n; left > 0; left >>= 7)
        bytes[len++] = (uint8_t)((left & 0x7f) | (left > 0x7f ? 0x80 : 0));
    for (size_t i = 0; i < n; i++) {
        bytes[len++] = 0x0a;
        bytes[len++] = 0x00;
    }
    arena_init(&arena, PROTOCOL_UNPACKED_MAX);
    assert_null(sherd__wire__request__unpack(&arena.allocator, len, bytes));
    assert_true(arena.used <= PROTOCOL_UNPACKED_MAX);
    arena_deinit(&arena);
    free(bytes);
}

static void an_arena_ends_at_its_limit_and_begins_again_after_a_reset(void **state)
{
    struct arena arena;

    arena_init(&arena, 100000);
    assert_non_null(arena_alloc(&arena, 60000));
    assert_null(arena_alloc(&arena, 60000));
    assert_null(arena_alloc(&arena, SIZE_MAX));
    assert_non_null(arena_alloc(&arena, 30000));
    arena_reset(&arena);
    assert_non_null(arena_alloc(&arena, 99000));
    arena_deinit(&arena);
}

static void pieces_of_an_arena_are_aligned_and_apart(void **state)
{
    struct arena arena;
    uint8_t *pieces[100];

    arena_init(&arena, 1 << 20);
    for (size_t i = 0; i < 100; i++) {
        pieces[i] = arena_alloc(&arena, i * 37 + 1);
        assert_int_equal((uintptr_t)pieces[i] % 16, 0);
        memset(pieces[i], (int)i, i * 37 + 1);
    }
    for (size_t i = 0; i < 100; i++)
        assert_int_equal(pieces[i][i * 37], i);
    arena_deinit(&arena);
}

static void a_long_piece_leaves_its_arena_alone_and_whole(void **state)
{
    struct arena arena;
    const size_t long_bytes = (64 << 10) + 1;

    arena_init(&arena, 1 << 20);
    uint8_t *before = arena_alloc(&arena, 100);
    uint8_t *taken = arena_alloc(&arena, long_bytes);
    uint8_t *after = arena_alloc(&arena, 100);
    memset(before, 1, 100);
    memset(taken, 2, long_bytes);
    memset(after, 3, 100);
    void *block = arena_take(&arena, taken);
    assert_non_null(block);
    assert_null(arena_take(&arena, taken));
    assert_null(arena_take(&arena, before));
    assert_null(arena_take(&arena, after));
    assert_null(arena_take(&arena, NULL));
    assert_int_equal(before[99], 1);
    assert_int_equal(after[0], 3);
    arena_reset(&arena);
    assert_non_null(arena_alloc(&arena, (1 << 20) - 100));
    arena_deinit(&arena);
    assert_int_equal(taken[0] + taken[long_bytes - 1], 4);
    free(block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ends_have_the_same_words_on_both_sides),
        cmocka_unit_test(the_memory_of_a_client_lies_as_the_manual_says),
        cmocka_unit_test(an_urgent_ring_lies_in_the_rest_of_a_lanes_last_page),
        cmocka_unit_test(keys_go_to_the_shards_that_the_manual_names),
        cmocka_unit_test(damaged_messages_are_refused_or_read_within_their_bytes),
        cmocka_unit_test(a_short_message_that_unpacks_to_much_is_refused),
        cmocka_unit_test(an_arena_ends_at_its_limit_and_begins_again_after_a_reset),
        cmocka_unit_test(a_long_piece_leaves_its_arena_alone_and_whole),
        cmocka_unit_test(pieces_of_an_arena_are_aligned_and_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
