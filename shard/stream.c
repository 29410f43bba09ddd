/* SPDX-License-Identifier: MIT */
#include "shard/stream.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define USUAL_BYTES ((size_t)16 * 1024) /* of what comes, and is kept room for */

struct stream {
    struct service_call *call;
    size_t in_max;
    char *in;
    size_t at, end, capacity; /* in `in`: unread is from at to end */
    struct bytes out;
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* For n unread bytes, and no more than usual where that will do. What is unread goes to the
 * front. */
static int make_room(struct stream *s, size_t n)
{
    size_t capacity = USUAL_BYTES, max = larger(s->in_max, USUAL_BYTES);

    while (capacity < n)
        capacity = capacity > max / 2 ? max : capacity * 2;
    if (s->at < s->end)
        memmove(s->in, s->in + s->at, s->end - s->at);
    s->end -= s->at;
    s->at = 0;
    if (capacity == s->capacity)
        return 0;
    char *in = realloc(s->in, capacity);
    if (!in)
        return -ENOMEM;
    s->in = in;
    s->capacity = capacity;
    return 0;
}

int stream_open(struct service_call *call, size_t in_max, struct stream **ret)
{
    struct stream *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    s->call = call;
    s->in_max = in_max;
    if (make_room(s, 0) < 0) {
        free(s);
        return -ENOMEM;
    }
    *ret = s;
    return 0;
}

void stream_close(struct stream *s)
{
    if (!s)
        return;
    bytes_deinit(&s->out);
    free(s->in);
    free(s);
}

int coroutine_fn stream_fill(struct stream *s, size_t n)
{
    int r = 0;

    if (s->end - s->at >= n)
        return 1;
    if (n > s->in_max)
        return -EMSGSIZE;
    r = stream_flush(s);
    if (r == 0)
        r = make_room(s, n);
    while (r == 0 && s->end < n) {
        ssize_t got = service_recv(s->call, s->in + s->end, s->capacity - s->end);
        if (got <= 0)
            return (int)got;
        s->end += (size_t)got;
    }
    return r < 0 ? r : 1;
}

const char *stream_in(const struct stream *s, size_t *ret_len)
{
    *ret_len = s->end - s->at;
    return s->in + s->at;
}

void stream_take(struct stream *s, size_t n)
{
    assert(n <= s->end - s->at);
    s->at += n;
}

struct bytes *stream_out(struct stream *s)
{
    return &s->out;
}

int coroutine_fn stream_flush(struct stream *s)
{
    int r = s->out.failed ? -ENOMEM : 0;

    if (r == 0 && s->out.len)
        r = service_send(s->call, s->out.data, s->out.len);
    bytes_clear(&s->out);
    return r;
}
