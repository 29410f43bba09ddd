/* SPDX-License-Identifier: MIT */
#ifndef SHERD_SERVICE_MESSAGE_H
#define SHERD_SERVICE_MESSAGE_H
/*
 * service_message - arguments and answers that are messages of protobuf-c
 *
 * Why:         a method that declares what it takes need not unpack it by hand, and a short hostile
 *              message that unpacks to much memory is refused.
 * Use:         static int coroutine_fn hello(struct service_call *call)
 *              {
 *                  struct service_message args;
 *                  int r = service_unpack(call, &args);
 *                  if (r < 0)
 *                      return r;
 *                  const Greeting__Hello *hello = (const Greeting__Hello *)args.message;
 *                  …
 *                  service_unpack_done(&args);
 *                  return service_reply_message(call, &reply.base);
 *              }
 *              and in the table: .args = &greeting__hello__descriptor,
 *                                .reply = &greeting__reply__descriptor
 * Concurrency: coroutine
 * Lifetime:    a message from service_unpack() to service_unpack_done()
 *
 * The service links libprotobuf-c: these functions are its own.
 */
#include <errno.h>
#include <protobuf-c/protobuf-c.h>
#include <stdlib.h>

#include "shard/service.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What all messages of one call may unpack to. */
#define SERVICE_MESSAGE_BYTES ((size_t)16 * 1024 * 1024)

struct service_message {
    ProtobufCMessage *message;
    size_t bytes; /* taken for it so far */
    ProtobufCAllocator allocator;
};

static inline void *service_message_alloc(void *opaque, size_t bytes)
{
    struct service_message *m = (struct service_message *)opaque;

    if (bytes > SERVICE_MESSAGE_BYTES - m->bytes)
        return NULL;
    m->bytes += bytes;
    return malloc(bytes);
}

static inline void service_message_free(void *opaque, void *pointer)
{
    (void)opaque;
    free(pointer);
}

/*
 * The arguments as the message that the method's args names. 0; -EBADMSG, with a text: they are
 * none, or would unpack to more than SERVICE_MESSAGE_BYTES; -EINVAL: the method names none. ret
 * must not be moved.
 */
static inline int service_unpack(struct service_call *call, struct service_message *ret)
{
    const struct service_method *method = service_method(call);
    size_t len;
    const uint8_t *data = (const uint8_t *)service_args(call, &len);

    ret->message = NULL;
    ret->bytes = 0;
    ret->allocator.alloc = service_message_alloc;
    ret->allocator.free = service_message_free;
    ret->allocator.allocator_data = ret;
    if (!method || !method->args)
        return service_fail(
            call, -EINVAL, "the method does not say what message its arguments are");
    ret->message = protobuf_c_message_unpack(method->args, &ret->allocator, len, data);
    if (!ret->message)
        return service_fail(call, -EBADMSG, "the arguments are no %s", method->args->name);
    return 0;
}

static inline void service_unpack_done(struct service_message *message)
{
    if (message->message)
        protobuf_c_message_free_unpacked(message->message, &message->allocator);
    message->message = NULL;
}

/* Answers with that message, which has to be what the method's reply names. 0; -EINVAL: it is
 * another; -ENOMEM; others as service_reply(). coroutine_fn. */
static inline int coroutine_fn service_reply_message(
    struct service_call *call, const ProtobufCMessage *message)
{
    const struct service_method *method = service_method(call);
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *data;
    int r;

    if (!method || method->reply != message->descriptor)
        return service_fail(call, -EINVAL, "the answer is a %s, which the method does not say",
            message->descriptor->name);
    if (len > SERVICE_REPLY_MAX)
        return -EMSGSIZE;
    data = (uint8_t *)malloc(len ? len : 1);
    if (!data)
        return -ENOMEM;
    protobuf_c_message_pack(message, data);
    r = service_reply(call, data, len);
    free(data);
    return r;
}

#ifdef __cplusplus
}
#endif
#endif
