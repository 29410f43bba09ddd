/* SPDX-License-Identifier: MIT */
#include "shard/store.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define BYTES ((size_t)32 * 1024)

/* Whose instructions are many times as many, and which has threads and handlers of its own. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED true
#elif defined(__has_feature)
#define IS_SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define IS_SANITIZED false
#endif

/* A region as a shard has it, in memory that a child shares. */
struct rig {
    uint8_t *memory; /* its word first */
    struct service_region region;
    struct store *store;
};

static struct service_region region_in(uint8_t *memory)
{
    uint64_t *word = (uint64_t *)memory;

    return (struct service_region){
        .data = memory + 64, .bytes = BYTES, .mark = *word, .word = word};
}

static void rig_init(struct rig *rig)
{
    rig->memory = mmap(NULL, BYTES + 64, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(rig->memory, MAP_FAILED);
    rig->region = region_in(rig->memory);
    assert_int_equal(store_open(&rig->region, &rig->store), 0);
}

static void rig_deinit(struct rig *rig)
{
    store_close(rig->store);
    munmap(rig->memory, BYTES + 64);
}

static int set(struct store *s, const char *key, const char *value)
{
    return store_set(s, key, strlen(key), value, strlen(value));
}

/* NULL: none. */
static const char *get(struct store *s, const char *key, size_t *ret_len)
{
    return store_get(s, key, strlen(key), ret_len);
}

static bool has(struct store *s, const char *key)
{
    size_t len;

    return get(s, key, &len) != NULL;
}

static bool delete (struct store *s, const char *key)
{
    return store_delete(s, key, strlen(key));
}

static void expect(struct store *s, const char *key, const char *value)
{
    size_t len = 0;
    const char *found = get(s, key, &len);

    assert_non_null(found);
    assert_int_equal(len, strlen(value));
    assert_memory_equal(found, value, len);
}

static void values_are_set_replaced_and_deleted(void **state)
{
    struct rig rig;

    rig_init(&rig);
    assert_false(has(rig.store, "a"));
    assert_int_equal(set(rig.store, "a", "one"), 0);
    assert_int_equal(set(rig.store, "b", ""), 0);
    assert_int_equal(set(rig.store, "a", "a longer one than before"), 0);
    expect(rig.store, "a", "a longer one than before");
    expect(rig.store, "b", "");
    assert_int_equal(store_n_keys(rig.store), 2);
    assert_true(delete (rig.store, "a"));
    assert_false(delete (rig.store, "a"));
    assert_false(has(rig.store, "a"));
    assert_int_equal(store_n_keys(rig.store), 1);
    assert_true(delete (rig.store, "b"));
    assert_int_equal(store_live_bytes(rig.store), 0);
    rig_deinit(&rig);
}

static void keys_of_any_bytes_and_lengths_are_told_apart(void **state)
{
    enum { LONGEST = 40 };
    static const uint8_t bytes[LONGEST + 1] = {[LONGEST] = 1};
    struct rig rig;
    size_t len;

    rig_init(&rig);
    for (uint8_t n = 0; n <= LONGEST; n++) /* zeros, and as many with a last byte of another */
        assert_true(store_set(rig.store, bytes, n, &n, 1) == 0 &&
                    store_set(rig.store, bytes + LONGEST - n, n + 1u, &n, 1) == 0);
    assert_int_equal(store_n_keys(rig.store), 2 * (LONGEST + 1));
    for (uint8_t n = 0; n <= LONGEST; n++) {
        store_prefetch(rig.store, bytes, n);
        store_prefetch(rig.store, "none such", 9);
        assert_memory_equal(store_get(rig.store, bytes, n, &len), &n, 1);
        assert_memory_equal(store_get(rig.store, bytes + LONGEST - n, n + 1u, &len), &n, 1);
    }
    assert_int_equal(store_n_keys(rig.store), 2 * (LONGEST + 1));
    rig_deinit(&rig);
}

static void numbers_are_added_to_as_they_are_written(void **state)
{
    static const char *const wrong[] = {"", "-", "+1", "01", "-0", " 1", "1 ", "1x", "0x1",
        "9223372036854775808", "-9223372036854775809", "99999999999999999999"};
    struct rig rig;
    int64_t n = 7;

    rig_init(&rig);
    assert_int_equal(store_add(rig.store, "n", 1, 5, &n), 0);
    assert_int_equal(n, 5);
    assert_int_equal(store_add(rig.store, "n", 1, -15, &n), 0);
    expect(rig.store, "n", "-10");
    assert_int_equal(set(rig.store, "n", "-9223372036854775808"), 0);
    assert_int_equal(store_add(rig.store, "n", 1, -1, &n), -ERANGE);
    assert_int_equal(store_add(rig.store, "n", 1, INT64_MAX, &n), 0);
    assert_int_equal(n, -1);
    assert_int_equal(set(rig.store, "n", "9223372036854775807"), 0);
    assert_int_equal(store_add(rig.store, "n", 1, 1, &n), -ERANGE);
    expect(rig.store, "n", "9223372036854775807");
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(set(rig.store, "n", wrong[i]), 0);
        assert_int_equal(store_add(rig.store, "n", 1, 1, &n), -EINVAL);
        expect(rig.store, "n", wrong[i]);
    }
    assert_int_equal(n, -1);
    rig_deinit(&rig);
}

static void what_is_too_large_is_refused_and_changes_nothing(void **state)
{
    char value[BYTES];
    struct rig rig;

    rig_init(&rig);
    memset(value, 'v', sizeof(value));
    value[sizeof(value) - 1] = '\0';
    assert_int_equal(set(rig.store, "a", "old"), 0);
    assert_int_equal(set(rig.store, "a", value), -EMSGSIZE);
    expect(rig.store, "a", "old");
    rig_deinit(&rig);
}

static void a_key_too_long_is_refused_where_there_is_room_for_it(void **state)
{
    static uint64_t memory[(4u << 20) / sizeof(uint64_t)], word;
    static char key[STORE_KEY_MAX + 1];
    struct service_region region = {.data = memory, .bytes = sizeof(memory), .word = &word};
    struct store *store;
    size_t len;

    assert_int_equal(store_open(&region, &store), 0);
    assert_int_equal(store_set(store, key, sizeof(key), "v", 1), -EMSGSIZE);
    assert_null(store_get(store, key, sizeof(key), &len));
    assert_int_equal(store_set(store, key, sizeof(key) - 1, "v", 1), 0);
    assert_non_null(store_get(store, key, sizeof(key) - 1, &len));
    store_close(store);
}

static void a_pair_is_as_large_as_it_may_be_and_no_larger(void **state)
{
    static uint64_t memory[(32u << 20) / sizeof(uint64_t)], word;
    static char value[STORE_PAIR_MAX];
    struct service_region region = {.data = memory, .bytes = sizeof(memory), .word = &word};
    struct store *store;
    size_t len = 0;

    assert_int_equal(store_open(&region, &store), 0);
    assert_int_equal(store_set(store, "k", 1, value, sizeof(value) - 1), 0);
    assert_non_null(store_get(store, "k", 1, &len));
    assert_int_equal(len, sizeof(value) - 1);
    assert_int_equal(store_set(store, "k", 1, value, sizeof(value)), -EMSGSIZE);
    assert_int_equal(store_set(store, "k", 1, value, SIZE_MAX), -EMSGSIZE);
    assert_int_equal(store_set(store, "", 0, NULL, 0), 0);
    assert_non_null(store_get(store, "", 0, &len));
    assert_int_equal(len, 0);
    store_close(store);
}

static void regions_of_no_possible_size_are_refused(void **state)
{
    struct service_region region = {.bytes = STORE_BYTES_MIN - 1};
    struct store *store;

    assert_int_equal(store_open(&region, &store), -EINVAL);
    region.bytes = STORE_BYTES_MAX + 1;
    assert_int_equal(store_open(&region, &store), -EINVAL);
}

static void a_region_in_which_something_else_was_kept_is_refused_and_left_alone(void **state)
{
    static uint64_t memory[STORE_BYTES_MIN / sizeof(uint64_t)], word;
    struct service_region region = {.data = memory, .bytes = sizeof(memory), .word = &word};
    struct store *store;

    memory[0] = 7;
    assert_int_equal(store_open(&region, &store), -EINVAL);
    assert_int_equal(memory[0], 7);
    memory[0] = 0;
    assert_int_equal(store_open(&region, &store), 0);
    store_close(store);
    memory[1] = sizeof(memory) + 1; /* a head that cannot be */
    assert_int_equal(store_open(&region, &store), -EINVAL);
}

static void a_region_whose_chains_lead_out_of_it_or_to_no_end_is_refused_after_a_death(void **state)
{
    static uint64_t memory[STORE_BYTES_MIN / sizeof(uint64_t)], word;
    struct service_region region = {.data = memory, .bytes = sizeof(memory), .word = &word};
    uint32_t *bucket = (uint32_t *)memory + 16, first;
    struct store *store;

    assert_int_equal(store_open(&region, &store), 0);
    assert_int_equal(set(store, "k", "value"), 0);
    store_close(store);
    while (!*bucket)
        bucket++;
    first = *bucket;
    region.mark = 1;
    assert_int_equal(store_open(&region, &store), 0);
    store_close(store);
    for (uint32_t ref = UINT32_MAX; ref > sizeof(memory) / 16; ref -= UINT32_MAX / 16) {
        *bucket = ref;
        assert_int_equal(store_open(&region, &store), -EINVAL);
    }
    *bucket = first; /* the first record, at the log's begin: its next is itself */
    bucket[256 - (bucket - ((uint32_t *)memory + 16))] = first;
    assert_int_equal(store_open(&region, &store), -EINVAL);
}

static void what_was_stored_is_there_when_it_is_opened_again(void **state)
{
    struct rig rig;

    rig_init(&rig);
    assert_int_equal(set(rig.store, "a", "kept"), 0);
    store_close(rig.store);
    rig.region = region_in(rig.memory);
    assert_int_equal(store_open(&rig.region, &rig.store), 0);
    expect(rig.store, "a", "kept");
    assert_int_equal(store_n_keys(rig.store), 1);
    rig_deinit(&rig);
    store_close(NULL);
}

/* One key is written over and over; those that stand still are carried round with it. */
static void what_is_half_full_evicts_nothing_however_often_it_is_written(void **state)
{
    struct rig rig;
    char key[16], value[64];

    rig_init(&rig);
    for (int n = 0; n < 200; n++) {
        snprintf(key, sizeof(key), "key-%d", n);
        assert_int_equal(set(rig.store, key, key), 0);
    }
    for (int n = 0; n < 20000; n++) {
        snprintf(value, sizeof(value), "%0*d", 1 + n % 50, n);
        assert_int_equal(set(rig.store, "busy", value), 0);
    }
    expect(rig.store, "busy", value);
    for (int n = 0; n < 200; n++) {
        snprintf(key, sizeof(key), "key-%d", n);
        expect(rig.store, key, key);
    }
    assert_int_equal(store_n_evicted(rig.store), 0);
    assert_int_equal(store_n_keys(rig.store), 201);
    rig_deinit(&rig);
}

static void a_full_one_evicts_what_was_not_read_for_longest(void **state)
{
    struct rig rig;
    char key[16];

    rig_init(&rig);
    for (int n = 0; n < 5000; n++) {
        snprintf(key, sizeof(key), "key-%d", n);
        assert_int_equal(set(rig.store, key, key), 0);
        if (n >= 5)
            expect(rig.store, "key-5", "key-5"); /* read all the time */
    }
    expect(rig.store, "key-4999", "key-4999");
    assert_false(has(rig.store, "key-6"));
    assert_true(store_n_evicted(rig.store) > 4000);
    assert_int_equal(store_n_keys(rig.store) + store_n_evicted(rig.store), 5000);
    rig_deinit(&rig);
}

/* ---- death at any instruction ---- */

#define KEYS  40
#define STILL 160 /* keys that are written once, and moved along */

/* The values of key n over time; of two that follow one another some have the same length. */
static void value_of(char *to, size_t size, int n, int turn)
{
    snprintf(to, size, "%d:%0*d", n, 4 + (turn / KEYS % 3 ? turn * 11 : n * 5) % 60, turn);
}

/* A change; every seventh deletes. */
static void change(struct store *s, int step)
{
    char key[16], value[128];
    int n = step % KEYS;

    snprintf(key, sizeof(key), "k%d", n);
    value_of(value, sizeof(value), n, step);
    if (step % 7 == 6)
        delete (s, key);
    else
        set(s, key, value);
}

/* What the key's record has to be once so many changes were made; false: none. */
static bool expected(int n, int steps, char *value, size_t size)
{
    int last = steps - 1;

    while (last >= 0 && last % KEYS != n)
        last--;
    if (last < 0 || last % 7 == 6)
        return false;
    value_of(value, size, n, last);
    return true;
}

static bool is_as_after(struct store *s, int n, int steps)
{
    char key[16], value[128];
    const char *found;
    size_t len = 0;

    snprintf(key, sizeof(key), "k%d", n);
    found = get(s, key, &len);
    if (!expected(n, steps, value, sizeof(value)))
        return !found;
    return found && len == strlen(value) && memcmp(found, value, len) == 0;
}

/* A change before the trace begins: those that stay lie scattered among the others. */
static void warm_up(struct store *s, int step)
{
    char key[24];

    change(s, step);
    if (step % 3 == 0 && step / 3 < STILL) {
        snprintf(key, sizeof(key), "still-%d", step / 3);
        assert_int_equal(set(s, key, key), 0);
    }
}

static void expect_still(struct store *s)
{
    char key[16];

    for (int n = 0; n < STILL; n++) {
        snprintf(key, sizeof(key), "still-%d", n);
        expect(s, key, key);
    }
}

/* What a replacement makes of the region as it is now: each key as before the change under way, or
 * as after it, and the figures right. It then serves on. */
static void check_replacement(const uint8_t *memory, int steps, uint8_t *copy)
{
    struct service_region region;
    struct store *s;
    uint64_t n_keys = 0;

    memcpy(copy, memory, BYTES + 64);
    region = region_in(copy);
    assert_int_equal(store_open(&region, &s), 0);
    for (int n = 0; n < KEYS; n++) {
        assert_true(is_as_after(s, n, steps) || is_as_after(s, n, steps + 1));
        if (n != steps % KEYS)
            assert_true(is_as_after(s, n, steps));
        char key[16];
        snprintf(key, sizeof(key), "k%d", n);
        n_keys += has(s, key);
    }
    assert_int_equal(store_n_keys(s), n_keys + STILL);
    expect_still(s);
    for (int more = 0; more < 40; more++)
        change(s, steps + 1 + more);
    for (int n = 0; n < KEYS; n++)
        assert_true(is_as_after(s, n, steps + 41));
    store_close(s);
}

/* In the child: changes from `from` on, each after the parent has let it. */
static void be_traced(struct rig *rig, int from, int n)
{
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        _exit(2);
    raise(SIGSTOP);
    for (int step = from; step < from + n; step++) {
        *(volatile int *)(rig->memory + 8) = step;
        change(rig->store, step);
    }
    _exit(0);
}

/* The change with which the log begins anew for the second time: what counts is moved along by
 * then. */
static int find_second_round(void)
{
    struct rig rig;
    int step = 0;

    rig_init(&rig);
    while (((const uint64_t *)rig.region.data)[1] < 2 * BYTES) /* its head */
        warm_up(rig.store, step++);
    rig_deinit(&rig);
    return step - 1;
}

static void one_that_dies_at_any_instruction_leaves_each_key_as_before_or_after(void **state)
{
    enum { STEPS = 16, EACH = 4 };
    int from = find_second_round() - STEPS / 2;
    struct rig rig;
    uint64_t n_checked = 0;
    int status = 0;

    if (IS_SANITIZED)
        skip();
    uint8_t *copy = malloc(BYTES + 64);
    rig_init(&rig);
    for (int step = 0; step < from; step++)
        warm_up(rig.store, step);
    *(int *)(rig.memory + 8) = from;
    pid_t pid = fork();
    if (pid == 0)
        be_traced(&rig, from, STEPS);
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
    if (!WIFSTOPPED(status)) {
        free(copy);
        rig_deinit(&rig);
        print_message("no process may be traced here\n");
        skip();
    }
    for (uint64_t n = 0; WIFSTOPPED(status); n++) {
        if (n % EACH == 0) {
            check_replacement(rig.memory, *(int *)(rig.memory + 8), copy);
            n_checked++;
        }
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) < 0)
            break;
        assert_int_equal(waitpid(pid, &status, 0), pid);
    }
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_true(n_checked > 100);
    free(copy);
    rig_deinit(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_set_replaced_and_deleted),
        cmocka_unit_test(keys_of_any_bytes_and_lengths_are_told_apart),
        cmocka_unit_test(numbers_are_added_to_as_they_are_written),
        cmocka_unit_test(what_is_too_large_is_refused_and_changes_nothing),
        cmocka_unit_test(a_key_too_long_is_refused_where_there_is_room_for_it),
        cmocka_unit_test(a_pair_is_as_large_as_it_may_be_and_no_larger),
        cmocka_unit_test(regions_of_no_possible_size_are_refused),
        cmocka_unit_test(a_region_in_which_something_else_was_kept_is_refused_and_left_alone),
        cmocka_unit_test(
            a_region_whose_chains_lead_out_of_it_or_to_no_end_is_refused_after_a_death),
        cmocka_unit_test(what_was_stored_is_there_when_it_is_opened_again),
        cmocka_unit_test(what_is_half_full_evicts_nothing_however_often_it_is_written),
        cmocka_unit_test(a_full_one_evicts_what_was_not_read_for_longest),
        cmocka_unit_test(one_that_dies_at_any_instruction_leaves_each_key_as_before_or_after),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
