/* SPDX-License-Identifier: MIT */
#ifndef SHERD_STREAM_H
#define SHERD_STREAM_H
/*
 * stream - what a connection sends and is sent, buffered
 *
 * Why:         requests come in pieces, or many at a time, and their answers leave best in one
 *              piece.
 * Use:         in a listener's serve():
 *              struct stream *s;
 *              size_t len = 0;
 *              int r = stream_open(call, LONGEST, &s);
 *              if (r < 0)
 *                  return r;
 *              while ((r = stream_fill(s, len + 1)) > 0) {  sends what was put, then waits
 *                  const char *in = stream_in(s, &len);
 *                  … for each whole request: bytes_put(stream_out(s), …), stream_take(s, its
 *                  length)
 *                  stream_in(s, &len);                      the beginning of one that is left
 *              }
 *              stream_close(s);
 *              return r;
 * Concurrency: the connection's coroutine
 * Lifetime:    stream_open() to stream_close(), within serve()
 * Not here:    limits in time, and the end of the shard: the listener's (sherd/service.h)
 */
#include "shard/bytes.h"
#include "shard/service.h"

#ifdef __cplusplus
extern "C" {
#endif

struct stream;

/* in_max: the most that stream_fill() may be asked for. 0; -ENOMEM. */
int stream_open(struct service_call *call, size_t in_max, struct stream **ret);

/* Which may be NULL. What was put and not sent is lost. */
void stream_close(struct stream *stream);

/*
 * Waits until n bytes are unread, or more; where that is not so already, what was put is sent
 * first. 1; 0: the other side has ended before, and what is unread stays. -errno: -EMSGSIZE: n is
 * above in_max; -ENOMEM: also where there was none for what was put; others as service_recv() and
 * service_send(). coroutine_fn.
 */
int coroutine_fn stream_fill(struct stream *stream, size_t n);

/* What is unread: it stays where it is until the next stream_fill(), also as it is taken. */
const char *stream_in(const struct stream *stream, size_t *ret_len);

/* The first n bytes of it are read. */
void stream_take(struct stream *stream, size_t n);

/* What is to be sent. It grows with what is put: whoever puts much at the wish of the other side
 * calls stream_flush() now and then, so that one who takes nothing is waited for. */
struct bytes *stream_out(struct stream *stream);

/* Sends it. 0; -ENOMEM: there was none for something that was put, and nothing is sent; others as
 * service_send(). coroutine_fn. */
int coroutine_fn stream_flush(struct stream *stream);

#ifdef __cplusplus
}
#endif
#endif
