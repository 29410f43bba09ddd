/* SPDX-License-Identifier: MIT */
/* A pipeline between a connection and shards that are function calls: what it uses of a call is
 * here. */
#include "shard/pipeline.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_SHARDS = 4, SELF = 3, NOBODY = N_SHARDS };

struct service_call {
    uint32_t shard;
    uint32_t dead;  /* which shard answers with -EOWNERDEAD */
    const char *in; /* what comes, so much at a time */
    size_t in_len, piece;
    struct bytes out, methods; /* what was sent; by what others were asked */
    uint32_t n_sends, n_calls;
    int send_fails;
    const void *args; /* of one who is asked */
    size_t args_len;
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
    bytes_put(&call->out, data, len);
    return len > SERVICE_REPLY_MAX ? -EMSGSIZE : 0;
}

ssize_t coroutine_fn service_recv(struct service_call *call, void *buf, size_t len)
{
    size_t n = len < call->piece ? len : call->piece;

    n = n < call->in_len ? n : call->in_len;
    memcpy(buf, call->in, n);
    call->in += n;
    call->in_len -= n;
    return (ssize_t)n;
}

int coroutine_fn service_send(struct service_call *call, const void *data, size_t len)
{
    bytes_put(&call->out, data, len);
    call->n_sends++;
    return call->send_fails;
}

/* ---- requests: "SHARDS text\n", each shard a digit; it answers "[SHARD text]" ---- */

static ssize_t take(struct pipeline *p, const char *data, size_t len)
{
    const char *end = memchr(data, '\n', len), *at = data;

    assert_int_equal(pipeline_call(p)->shard, SELF);
    for (; at < data + len && *at >= '0' && *at < '0' + N_SHARDS; at++)
        pipeline_ask(p, (uint32_t)(*at - '0'));
    if (!end)
        return 0;
    if (*data == '#')
        return -EPROTO;
    if (memchr(data, '1', (size_t)(end - data)) && memchr(data, '!', (size_t)(end - data)))
        pipeline_once(p);
    if (memchr(data, '.', (size_t)(end - data)))
        pipeline_end(p);
    return end - data + 1;
}

static int answer(struct service_call *call, const void *request, size_t len, struct bytes *out)
{
    const char *text = memchr(request, ' ', len);

    bytes_printf(out, "[%u", call->shard);
    bytes_put(out, text, len - (size_t)(text - (const char *)request) - 1);
    bytes_put_text(out, "]");
    return 0;
}

static void join(struct bytes *out, size_t begin)
{
    bytes_printf(out, "<-%zu\n", out->len - begin);
}

static void say_failure(struct bytes *out, uint32_t shard, int error)
{
    if (shard == PIPELINE_NOBODY)
        bytes_printf(out, "(none: %d)", -error);
    else
        bytes_printf(out, "(%u: %d)", shard, -error);
}

static const struct pipeline_rules rules = {
    100 * 1000, take, answer, "test.run", "test.once", join, say_failure};

int coroutine_fn service_gather(struct service_call *call, const char *name,
    struct service_part *parts, size_t n, uint32_t flags)
{
    bytes_printf(&call->methods, "%s ", name);
    for (size_t i = 0; i < n; i++) {
        struct service_call other = {
            .shard = parts[i].shard, .args = parts[i].args, .args_len = parts[i].args_len};
        assert_int_not_equal(parts[i].shard, call->shard);
        parts[i].status =
            parts[i].shard == call->dead ? -EOWNERDEAD : pipeline_answer(&other, &rules);
        parts[i].data = other.out.data;
        parts[i].len = other.out.len;
        call->n_calls++;
    }
    return 0;
}

static struct service_call connection(const char *in, size_t piece)
{
    return (struct service_call){
        .shard = SELF, .dead = NOBODY, .in = in, .in_len = strlen(in), .piece = piece};
}

/* Serves it to its end. */
static void expect(struct service_call *call, int result, const char *sent)
{
    assert_int_equal(pipeline_serve(call, &rules), result);
    assert_int_equal(call->out.len, strlen(sent));
    assert_memory_equal(call->out.data, sent, call->out.len);
}

static void finish(struct service_call *call)
{
    bytes_deinit(&call->out);
    bytes_deinit(&call->methods);
}

static void requests_are_answered_in_order_by_one_call_to_each_shard(void **state)
{
    struct service_call call = connection("1 a\n3 b\n1 c\n2 d\n1 e\n", 1000);

    expect(&call, 0, "[1 a][3 b][1 c][2 d][1 e]");
    assert_int_equal(call.n_calls, 2);
    assert_int_equal(call.n_sends, 1);
    finish(&call);
}

static void pieces_of_requests_make_the_same_answers(void **state)
{
    for (size_t piece = 1; piece < 9; piece++) {
        struct service_call call = connection("1 a\n3 bcdef\n z\n23 c\n2 d\n1 half", piece);
        expect(&call, 0, "[1 a][3 bcdef][3 z][2 c][3 c]<-10\n[2 d]");
        finish(&call);
    }
}

static void what_several_shards_say_is_joined_and_each_says_it_once(void **state)
{
    struct service_call call = connection("1321311 a\n0 b\n", 1000);

    expect(&call, 0, "[1 a][3 a][2 a]<-15\n[0 b]");
    assert_int_equal(call.n_calls, 3);
    finish(&call);
}

static void a_shard_that_fails_fails_for_what_it_was_asked_alone(void **state)
{
    struct service_call call = connection("1 a\n2 b\n12 c\n1 d\n3 e\n", 1000);

    call.dead = 1;
    expect(&call, 0, "(1: 130)[2 b](1: 130)[2 c]<-13\n(1: 130)[3 e]");
    finish(&call);
}

static void what_must_not_run_twice_goes_by_a_method_of_its_own(void **state)
{
    struct service_call call = connection("1 a\n1 !\n", 4);

    expect(&call, 0, "[1 a][1 !]");
    assert_memory_equal(call.methods.data, "test.run test.once ", call.methods.len);
    finish(&call);
}

static void the_last_request_ends_the_connection_and_what_is_behind_it_runs_nowhere(void **state)
{
    struct service_call call = connection("1 a\n2 .\n0 b\n", 1000);

    expect(&call, 0, "[1 a][2 .]");
    assert_int_equal(call.n_calls, 2);
    finish(&call);
}

static void what_is_no_request_ends_it_after_those_before(void **state)
{
    struct service_call call = connection("1 a\n#\n1 b\n", 1000);

    expect(&call, -EPROTO, "[1 a](none: 71)");
    finish(&call);
}

static void a_request_without_end_ends_it_in_time(void **state)
{
    char *endless = malloc(rules.request_max + 2);

    memset(endless, 'x', rules.request_max + 1);
    endless[rules.request_max + 1] = '\0';
    struct service_call call = connection(endless, SIZE_MAX);
    expect(&call, -EMSGSIZE, "(none: 90)");
    finish(&call);
    free(endless);
}

static void one_who_takes_no_answers_ends_it(void **state)
{
    struct service_call call = connection("1 a\n", 1000);

    call.send_fails = -ETIMEDOUT;
    expect(&call, -ETIMEDOUT, "[1 a]");
    assert_int_equal(call.n_sends, 1);
    finish(&call);
}

/* More than are asked together, with more answers than are put off. */
static void however_many_requests_are_answered_and_not_all_are_put_off(void **state)
{
    enum { N = 3000, LINE = 64 };
    struct service_call call = {.shard = SELF, .dead = NOBODY, .piece = SIZE_MAX};
    struct bytes in = {0};
    char text[LINE];

    memset(text, 'x', sizeof(text));
    for (int n = 0; n < N; n++)
        bytes_printf(&in, "%d %.*s\n", n % N_SHARDS, LINE, text);
    call.in = in.data;
    call.in_len = in.len;
    assert_int_equal(pipeline_serve(&call, &rules), 0);
    assert_int_equal(call.out.len, N * (LINE + 4));
    for (int n = 0; n < N; n++)
        assert_int_equal(call.out.data[n * (LINE + 4) + 1], '0' + n % N_SHARDS);
    assert_in_range(call.n_sends, 2, 100);
    finish(&call);
    bytes_deinit(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_answered_in_order_by_one_call_to_each_shard),
        cmocka_unit_test(pieces_of_requests_make_the_same_answers),
        cmocka_unit_test(what_several_shards_say_is_joined_and_each_says_it_once),
        cmocka_unit_test(a_shard_that_fails_fails_for_what_it_was_asked_alone),
        cmocka_unit_test(what_must_not_run_twice_goes_by_a_method_of_its_own),
        cmocka_unit_test(the_last_request_ends_the_connection_and_what_is_behind_it_runs_nowhere),
        cmocka_unit_test(what_is_no_request_ends_it_after_those_before),
        cmocka_unit_test(a_request_without_end_ends_it_in_time),
        cmocka_unit_test(one_who_takes_no_answers_ends_it),
        cmocka_unit_test(however_many_requests_are_answered_and_not_all_are_put_off),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
