/* SPDX-License-Identifier: MIT */
/* A stream on a connection that does as it is told: service_recv() and service_send() are here. */
#include "shard/stream.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LONGEST ((size_t)100 * 1000)

struct service_call {
    const char *in; /* what comes */
    size_t in_len, piece;
    int in_end; /* then: 0 or -errno */
    size_t largest_room;
    char out[64]; /* what was sent: its beginning */
    size_t out_len, n_sends;
    int out_end; /* what a send gives */
};

ssize_t coroutine_fn service_recv(struct service_call *call, void *buf, size_t len)
{
    size_t n = len < call->piece ? len : call->piece;

    call->largest_room = len > call->largest_room ? len : call->largest_room;
    n = n < call->in_len ? n : call->in_len;
    if (n == 0)
        return call->in_end;
    memcpy(buf, call->in, n);
    call->in += n;
    call->in_len -= n;
    return (ssize_t)n;
}

int coroutine_fn service_send(struct service_call *call, const void *data, size_t len)
{
    size_t room = sizeof(call->out) - call->out_len, n = len < room ? len : room;

    memcpy(call->out + call->out_len, data, n);
    call->out_len += n;
    call->n_sends++;
    return call->out_end;
}

static struct stream *open_stream(struct service_call *call)
{
    struct stream *s;

    assert_int_equal(stream_open(call, LONGEST, &s), 0);
    return s;
}

static void expect_in(const struct stream *s, const char *text)
{
    size_t len;
    const char *in = stream_in(s, &len);

    assert_int_equal(len, strlen(text));
    assert_memory_equal(in, text, len);
}

static void what_comes_in_pieces_is_there_as_a_whole(void **state)
{
    struct service_call call = {.in = "one two three", .in_len = 13, .piece = 2};
    struct stream *s = open_stream(&call);

    expect_in(s, "");
    assert_int_equal(stream_fill(s, 3), 1);
    expect_in(s, "one ");
    stream_take(s, 4);
    expect_in(s, "");
    assert_int_equal(stream_fill(s, 1), 1);
    expect_in(s, "tw");
    assert_int_equal(stream_fill(s, 9), 1);
    expect_in(s, "two three");
    stream_close(s);
}

static void the_end_leaves_what_is_unread(void **state)
{
    struct service_call call = {.in = "half", .in_len = 4, .piece = 9};
    struct stream *s = open_stream(&call);

    assert_int_equal(stream_fill(s, 5), 0);
    expect_in(s, "half");
    assert_int_equal(stream_fill(s, 4), 1);
    call.in_end = -ECONNRESET;
    assert_int_equal(stream_fill(s, 5), -ECONNRESET);
    expect_in(s, "half");
    stream_close(s);
    stream_close(NULL);
}

static void more_than_was_agreed_is_not_waited_for(void **state)
{
    char *large = calloc(1, LONGEST + 1);
    struct service_call call = {.in = large, .in_len = LONGEST + 1, .piece = SIZE_MAX};
    struct stream *s = open_stream(&call);
    size_t len = 0;
    int r = 0;

    while ((r = stream_fill(s, len + 1)) > 0)
        stream_in(s, &len);
    assert_int_equal(r, -EMSGSIZE);
    assert_int_equal(len, LONGEST);
    assert_int_equal(call.in_len, 1);
    free(large);
    stream_close(s);
}

static void memory_of_a_large_request_is_given_back_with_it(void **state)
{
    char *large = calloc(1, LONGEST);
    struct service_call call = {.in = large, .in_len = LONGEST, .piece = SIZE_MAX};
    struct stream *s = open_stream(&call);
    size_t len;

    assert_int_equal(stream_fill(s, LONGEST), 1);
    stream_take(s, LONGEST - 2);
    call.largest_room = 0;
    assert_int_equal(stream_fill(s, 3), 0);
    assert_in_range(call.largest_room, 1, 20000);
    stream_in(s, &len);
    assert_int_equal(len, 2);
    free(large);
    stream_close(s);
}

static void what_was_put_is_sent_in_one_piece_before_anything_is_waited_for(void **state)
{
    struct service_call call = {.in = "ab", .in_len = 2, .piece = 9};
    struct stream *s = open_stream(&call);

    assert_int_equal(stream_fill(s, 1), 1);
    bytes_put(stream_out(s), "one ", 4);
    bytes_printf(stream_out(s), "%s", "two");
    assert_int_equal(stream_fill(s, 2), 1);
    assert_int_equal(call.n_sends, 0);
    assert_int_equal(stream_fill(s, 3), 0);
    assert_int_equal(call.n_sends, 1);
    assert_memory_equal(call.out, "one two", 7);
    assert_int_equal(stream_flush(s), 0);
    assert_int_equal(call.n_sends, 1);
    stream_close(s);
}

static void who_takes_nothing_is_waited_for_no_more(void **state)
{
    struct service_call call = {.in = "ab", .in_len = 2, .piece = 9, .out_end = -ETIMEDOUT};
    struct stream *s = open_stream(&call);

    bytes_put(stream_out(s), "a", 1);
    assert_int_equal(stream_fill(s, 1), -ETIMEDOUT);
    assert_int_equal(call.in_len, 2);
    stream_close(s);
}

static void what_there_was_no_memory_for_is_an_error_and_sends_no_half(void **state)
{
    struct service_call call = {.in = "ab", .in_len = 2, .piece = 9};
    struct stream *s = open_stream(&call);

    bytes_put(stream_out(s), "a", 1);
    bytes_put(stream_out(s), "", SIZE_MAX);
    assert_int_equal(stream_fill(s, 1), -ENOMEM);
    assert_int_equal(call.n_sends, 0);
    assert_int_equal(stream_fill(s, 1), 1);
    stream_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_comes_in_pieces_is_there_as_a_whole),
        cmocka_unit_test(the_end_leaves_what_is_unread),
        cmocka_unit_test(more_than_was_agreed_is_not_waited_for),
        cmocka_unit_test(memory_of_a_large_request_is_given_back_with_it),
        cmocka_unit_test(what_was_put_is_sent_in_one_piece_before_anything_is_waited_for),
        cmocka_unit_test(who_takes_nothing_is_waited_for_no_more),
        cmocka_unit_test(what_there_was_no_memory_for_is_an_error_and_sends_no_half),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
