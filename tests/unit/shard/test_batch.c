/* SPDX-License-Identifier: MIT */
/* Both ends of batches, with shards that are function calls: service_gather() and what the ends use
 * of a call are here. */
#include "shard/batch.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_SHARDS = 4, NOBODY = N_SHARDS };

struct service_call {
    uint32_t shard;
    uint32_t dead; /* which shard answers with what */
    int death;
    uint32_t n_gathers, n_calls;
    batch_answer_fn *answer;
    const void *args; /* of one who is asked */
    size_t args_len;
    struct bytes reply;
};

uint32_t service_n_shards(const struct service_call *call)
{
    return N_SHARDS;
}

uint32_t service_shard(const struct service_call *call)
{
    return call->shard;
}

const void *service_args(const struct service_call *call, size_t *ret_len)
{
    *ret_len = call->args_len;
    return call->args;
}

int coroutine_fn service_reply(struct service_call *call, const void *data, size_t len)
{
    if (len > SERVICE_REPLY_MAX)
        return -EMSGSIZE;
    bytes_put(&call->reply, data, len);
    return 0;
}

static void call_one(struct service_call *call, struct service_part *part)
{
    struct service_call other = {
        .shard = part->shard, .args = part->args, .args_len = part->args_len};

    assert_true(part->args_len > 0 && part->args_len <= SERVICE_REPLY_MAX);
    part->status = part->shard == call->dead ? call->death : batch_serve(&other, call->answer);
    part->data = other.reply.data;
    part->len = other.reply.len;
    call->n_calls++;
}

int coroutine_fn service_gather(struct service_call *call, const char *name,
    struct service_part *parts, size_t n, uint32_t flags)
{
    assert_string_equal(name, "test.many");
    call->n_gathers++;
    for (size_t i = 0; i < n; i++)
        call_one(call, &parts[i]);
    return 0;
}

/* "SHARD:question" */
static int echo(struct service_call *call, const void *args, size_t len, struct bytes *answer)
{
    bytes_printf(answer, "%u:", call->shard);
    bytes_put(answer, args, len);
    return 0;
}

static struct batch *open_batch(struct service_call *call)
{
    struct batch *b;

    assert_int_equal(batch_open(call, call->answer, &b), 0);
    return b;
}

static void ask(struct batch *b, uint32_t shard, const char *question)
{
    assert_int_equal(batch_ask(b, shard, question, strlen(question)), 0);
}

static void expect(struct batch *b, uint32_t shard, const char *expected)
{
    const void *data;
    size_t len;

    assert_int_equal(batch_answer(b, shard, &data, &len), 0);
    assert_int_equal(len, strlen(expected));
    assert_memory_equal(data, expected, len);
}

static void expect_error(struct batch *b, uint32_t shard, int error)
{
    const void *data;
    size_t len;

    assert_int_equal(batch_answer(b, shard, &data, &len), error);
}

static void each_shard_is_called_once_and_answers_in_order(void **state)
{
    struct service_call call = {.shard = N_SHARDS - 1, .answer = echo, .dead = NOBODY};
    struct batch *b = open_batch(&call);

    ask(b, 2, "a");
    ask(b, 1, "b");
    ask(b, 2, "");
    ask(b, 2, "d");
    batch_run(b, "test.many");
    expect(b, 2, "2:a");
    expect(b, 1, "1:b");
    expect(b, 2, "2:");
    expect(b, 2, "2:d");
    assert_int_equal(call.n_gathers, 1);
    assert_int_equal(call.n_calls, 2);
    batch_close(b);
    batch_close(NULL);
}

static void its_own_shard_answers_without_a_call_when_it_is_its_turn(void **state)
{
    struct service_call call = {.shard = 3, .answer = echo, .dead = NOBODY};
    struct batch *b = open_batch(&call);

    ask(b, 3, "a");
    ask(b, 3, "b");
    ask(b, 0, "c");
    batch_run(b, "test.many");
    expect(b, 3, "3:a");
    expect(b, 0, "0:c");
    expect(b, 3, "3:b");
    expect_error(b, 3, -ENOENT);
    assert_int_equal(call.n_calls, 1);
    batch_close(b);
}

static void what_was_not_asked_has_no_answer(void **state)
{
    struct service_call call = {.shard = N_SHARDS - 1, .answer = echo, .dead = NOBODY};
    struct batch *b = open_batch(&call);

    batch_run(b, "test.many");
    assert_int_equal(call.n_gathers, 0);
    expect_error(b, 0, -ENOENT);
    expect_error(b, N_SHARDS, -ENOENT);
    assert_int_equal(batch_ask(b, N_SHARDS, "a", 1), -ENODEV);
    ask(b, 0, "a");
    batch_run(b, "test.many");
    expect(b, 0, "0:a");
    expect_error(b, 0, -ENOENT);
    batch_close(b);
}

static void it_serves_again_once_it_is_cleared_answers_taken_or_not(void **state)
{
    struct service_call call = {.shard = N_SHARDS - 1, .answer = echo, .dead = NOBODY};
    struct batch *b = open_batch(&call);

    ask(b, 0, "a");
    ask(b, 1, "not taken");
    batch_run(b, "test.many");
    expect(b, 0, "0:a");
    batch_clear(b);
    expect_error(b, 1, -ENOENT);
    ask(b, 1, "b");
    batch_run(b, "test.many");
    expect(b, 1, "1:b");
    batch_close(b);
}

static void a_shard_that_fails_fails_alone_with_all_that_it_was_asked(void **state)
{
    struct service_call call = {
        .shard = N_SHARDS - 1, .answer = echo, .dead = 2, .death = -EOWNERDEAD};
    struct batch *b = open_batch(&call);

    ask(b, 2, "a");
    ask(b, 0, "b");
    ask(b, 2, "c");
    batch_run(b, "test.many");
    expect_error(b, 2, -EOWNERDEAD);
    expect(b, 0, "0:b");
    expect_error(b, 2, -EOWNERDEAD);
    expect_error(b, 2, -ENOENT);
    assert_int_equal(call.n_calls, 2);
    batch_close(b);
}

static uint32_t n_answered;

/* As many bytes as the question says. */
static int answer_at_length(
    struct service_call *call, const void *args, size_t len, struct bytes *answer)
{
    char *large = calloc(1, 2 * SERVICE_REPLY_MAX);

    assert_true(len <= 16); /* with its NUL */
    bytes_put(answer, large, strtoul(args, NULL, 10));
    free(large);
    n_answered++;
    return 0;
}

static void answers_that_do_not_fit_into_a_message_are_asked_for_and_none_twice(void **state)
{
    struct service_call call = {.shard = N_SHARDS - 1, .answer = answer_at_length, .dead = NOBODY};
    struct batch *b = open_batch(&call);
    char question[16];
    const void *data;
    size_t len;

    n_answered = 0;
    snprintf(question, sizeof(question), "%zu", BATCH_ANSWER_MAX);
    for (int n = 0; n < 5; n++)
        assert_int_equal(batch_ask(b, 1, question, sizeof(question)), 0);
    batch_run(b, "test.many");
    for (int n = 0; n < 5; n++) {
        assert_int_equal(batch_answer(b, 1, &data, &len), 0);
        assert_int_equal(len, BATCH_ANSWER_MAX);
    }
    assert_int_equal(n_answered, 5);
    assert_true(call.n_calls > 1);
    batch_close(b);
}

static void questions_that_do_not_fit_into_a_message_go_into_the_next(void **state)
{
    struct service_call call = {.shard = N_SHARDS - 1, .answer = echo, .dead = NOBODY};
    struct batch *b = open_batch(&call);
    char *question = calloc(1, BATCH_ASK_MAX + 1);
    const void *data;
    size_t len;

    assert_int_equal(batch_ask(b, 1, question, BATCH_ASK_MAX + 1), -EMSGSIZE);
    for (char n = 'a'; n < 'f'; n++) {
        question[0] = n;
        assert_int_equal(batch_ask(b, 1, question, 400 * 1024), 0);
    }
    batch_run(b, "test.many");
    for (char n = 'a'; n < 'f'; n++) {
        assert_int_equal(batch_answer(b, 1, &data, &len), 0);
        assert_int_equal(len, 2 + 400 * 1024);
        assert_int_equal(((const char *)data)[2], n);
    }
    free(question);
    batch_close(b);
}

static int refuse(struct service_call *call, const void *args, size_t len, struct bytes *answer)
{
    return len ? -EINVAL : 0;
}

static void what_is_refused_or_too_long_fails_the_call(void **state)
{
    struct service_call call = {.shard = N_SHARDS - 1, .answer = refuse, .dead = NOBODY};
    struct batch *b = open_batch(&call);
    char question[16];

    ask(b, 0, "");
    ask(b, 0, "bad");
    batch_run(b, "test.many");
    expect_error(b, 0, -EINVAL);
    batch_clear(b);
    ask(b, N_SHARDS - 1, "bad");
    ask(b, N_SHARDS - 1, "");
    batch_run(b, "test.many");
    expect_error(b, N_SHARDS - 1, -EINVAL); /* its own: that one alone */
    expect(b, N_SHARDS - 1, "");
    batch_clear(b);
    call.answer = answer_at_length;
    snprintf(question, sizeof(question), "%zu", BATCH_ANSWER_MAX + 1);
    assert_int_equal(batch_ask(b, 0, question, sizeof(question)), 0);
    batch_run(b, "test.many");
    expect_error(b, 0, -EMSGSIZE);
    batch_close(b);
}

static void what_is_no_batch_is_refused(void **state)
{
    static const char *const wrong[] = {"", "abc", "\4\0\0", "\377\377\377\377", "\2\0\0\0a"};
    static const size_t lens[] = {0, 3, 3, 4, 5};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        char *exact = malloc(lens[i] ? lens[i] : 1); /* for a sanitizer to see a byte too many */
        struct service_call call = {.args = exact, .args_len = lens[i]};
        memcpy(exact, wrong[i], lens[i]);
        assert_int_equal(batch_serve(&call, echo), -EBADMSG);
        assert_int_equal(call.reply.len, 0);
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_shard_is_called_once_and_answers_in_order),
        cmocka_unit_test(its_own_shard_answers_without_a_call_when_it_is_its_turn),
        cmocka_unit_test(what_was_not_asked_has_no_answer),
        cmocka_unit_test(it_serves_again_once_it_is_cleared_answers_taken_or_not),
        cmocka_unit_test(a_shard_that_fails_fails_alone_with_all_that_it_was_asked),
        cmocka_unit_test(answers_that_do_not_fit_into_a_message_are_asked_for_and_none_twice),
        cmocka_unit_test(questions_that_do_not_fit_into_a_message_go_into_the_next),
        cmocka_unit_test(what_is_refused_or_too_long_fails_the_call),
        cmocka_unit_test(what_is_no_batch_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
