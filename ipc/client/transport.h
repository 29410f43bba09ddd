/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * transport - what a plane does for a client
 *
 * Why:         one API over two ways to an instance: client.c waits, checks and owns; a transport
 *              carries.
 * Concurrency: one thread; callbacks run in step() alone, and may submit and cancel
 * Lifetime:    a transport is the first field of its plane's struct; free() frees that too
 */
#include "ipc/client/client.h"
#include "ipc/client/methods.h"
#include "ipc/client/question.h"
#include "ipc/client/waiter.h"

/* Who has a request tells its end; where it does not, the request ends here so long behind its
 * deadline, or its cancellation. */
#define REQUEST_LATE_NS   (INT64_C(2) * 1000000)
#define REQUEST_CANCEL_NS (INT64_C(100) * 1000000)

struct transport;

struct transport_ops {
    enum sherd_plane plane;
    void (*free)(struct transport *transport);
    /* A checked request. */
    int (*submit)(struct transport *transport, const struct sherd_request *request,
        sherd_done_fn *done, void *opaque, uint64_t *ret_id);
    void (*flush)(struct transport *transport);
    int (*cancel)(struct transport *transport, uint64_t id);
    size_t (*in_flight)(const struct transport *transport);
    /* Handles what has come, ends what has ended, sends. */
    void (*step)(struct transport *transport);
    /* Until step() has something to do, or that time. 0 or -errno. */
    int (*wait)(struct transport *transport, int64_t until_ns);
    /* Of ends without a callback. */
    uint32_t (*reap)(struct transport *transport, struct sherd_result *ret_results, uint32_t n);
    /* Lets go of what reap() gave out. */
    void (*forget)(struct transport *transport);
    /* What step() and wait() see to, until it is answered; NULL: nothing any more. */
    void (*ask)(struct transport *transport, struct question *question); /* NULL: not here */
    void *(*buffer_alloc)(struct transport *transport, size_t len);
    void (*buffer_free)(struct transport *transport, void *buffer);
};

struct transport {
    const struct transport_ops *ops;
    struct waiter waiter;
    struct method_table methods;
    uint64_t n_ended; /* requests that ended */
    int error;        /* -errno: it has ended with that, until somebody submits again */
    char *error_text;
    uint32_t n_shards;
    uint32_t answer_max;
    bool is_polled; /* somebody waits for the fd elsewhere */
};

/* What the options say, with defaults in place. */
struct transport_options {
    const struct sherd_client_options *options;
    char **ret_error;
    int64_t wait_ns; /* for the instance, while opening */
};

/* Text for people; returns error. */
__attribute__((format(printf, 3, 4))) int transport_explain(
    char **ret_error, int error, const char *format, ...);

/* ret_transport is freed by ops->free(). 0 or -errno with a text. */
int control_open(const struct transport_options *options, struct transport **ret_transport);
int local_open(const struct transport_options *options, struct transport **ret_transport);
