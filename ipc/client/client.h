/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CLIENT_H
#define SHERD_CLIENT_H
/*
 * client - submit work to a Sherd instance
 *
 * Why:         any process on this machine, or another one, can have the shards do something.
 * Use:         struct sherd_client *c;
 *              int r = sherd_client_open(&(struct sherd_client_options){.instance = "demo"}, &c,
 *              NULL); struct sherd_request ping = {.method = "sys.ping", .shard = SHERD_ANY_SHARD};
 *              struct sherd_result res;
 *              r = sherd_client_call(c, &ping, &res);
 *              sherd_result_deinit(&res);
 *              sherd_client_close(c);
 *              Many in flight: sherd_client_submit() with a callback, then sherd_client_process()
 *              in a loop, or when sherd_client_fd() is readable.
 * Concurrency: one thread at a time per client. Callbacks run in sherd_client_process() and
 *              sherd_client_call(), never in another thread.
 * Lifetime:    closing abandons what is in flight: its callbacks do not run.
 *
 * Each accepted request ends exactly once. Errors of the functions are negative errno values; what
 * became of a request is enum sherd_end.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sherd_client;

/* X(name, number on the wire, text) */
#define SHERD_ENDS(X)                \
    X(DONE, 1, "done")               \
    X(FAILED, 2, "failed")           \
    X(CANCELLED, 3, "cancelled")     \
    X(EXPIRED, 4, "expired")         \
    X(NOT_STARTED, 5, "not started") \
    X(IN_DOUBT, 6, "in doubt")

enum sherd_end {
#define X(name, number, text) SHERD_END_##name = number,
    SHERD_ENDS(X)
#undef X
};

const char *sherd_end_text(enum sherd_end end);

struct sherd_client_options {
    const char *instance;   /* name; NULL: "default". Ignored where url is set. */
    const char *url;        /* "tcp://127.0.0.1:7000", "ipc:///path"; NULL: the instance's socket */
    const char *token_file; /* for tcp; NULL: none */
    int64_t wait_ns;        /* for an instance that is not there yet, and later for a gateway that
                               died to be replaced; 0: do not wait */
    uint32_t window;        /* most requests with the gateway at once; 0: 1,024. What is submitted
                               beyond it waits in line here; of urgent ones, beyond 16 more. */
};

/* Connects and says hello. -ENOENT: no such instance; -ETIMEDOUT; -EACCES: token refused; -EPROTO:
 * not Sherd, or another version. ret_error, which may be NULL, gets a line for people (free() it)
 * on failure. */
int sherd_client_open(
    const struct sherd_client_options *options, struct sherd_client **ret_client, char **ret_error);
void sherd_client_close(struct sherd_client *client);

#define SHERD_ANY_SHARD   UINT32_MAX
#define SHERD_PAYLOAD_MAX ((size_t)1024 * 1024)

struct sherd_request {
    const char *method; /* "service.method" */
    const void *args;   /* copied */
    size_t args_len;
    uint32_t shard;  /* SHERD_ANY_SHARD: by key, else by the method's own rule */
    const void *key; /* NULL: none. Copied. */
    size_t key_len;
    int64_t timeout_ns; /* 0: none. Time from the submission to the end. */
    bool urgent;        /* Overtakes what waits here, with the gateway and for its shard. For the
                           few that control others: they wait for each other. */
};

struct sherd_result {
    uint64_t id;
    enum sherd_end end;
    int error;      /* 0 or -errno */
    uint32_t shard; /* who ran it; SHERD_ANY_SHARD: nobody */
    uint8_t *data;  /* the answer, or where end is not DONE a text for people; may be NULL */
    size_t len;
};

void sherd_result_deinit(struct sherd_result *result);

/* Owns nothing of result: copy what it keeps. */
typedef void sherd_done_fn(const struct sherd_result *result, void *opaque);

/* Queues a request. 0 and its id, or -EMSGSIZE (limit SHERD_PAYLOAD_MAX), -EINVAL, -ENOMEM; done is
 * called exactly once after a 0. Requests go out in batches, at sherd_client_process(). */
int sherd_client_submit(struct sherd_client *client, const struct sherd_request *request,
    sherd_done_fn *done, void *opaque, uint64_t *ret_id);

/* Asks that a request end early; its callback still comes, with what became of it. -ENOENT: ended
 * already. */
int sherd_client_cancel(struct sherd_client *client, uint64_t id);

/* Sends what is queued, runs callbacks of what has ended, waiting up to timeout_ns (-1: for ever)
 * for the first; at once where nothing is in flight. Returns how many ran, or -errno: -ENOTCONN
 * where the gateway is gone and wait_ns has passed, -EPROTO where something else answers (each
 * request then ended as not started or in doubt, and the next submission tries anew); -EINTR;
 * -EBUSY in a callback. */
int sherd_client_process(struct sherd_client *client, int64_t timeout_ns);

/* Readable when sherd_client_process(client, 0) has something to do. */
int sherd_client_fd(const struct sherd_client *client);

/* Requests submitted and not ended. */
size_t sherd_client_in_flight(const struct sherd_client *client);

/* Submits and waits; callbacks of other requests run meanwhile. 0: see result, which says too where
 * the instance is gone (sherd_result_deinit() it); -errno as sherd_client_submit() and
 * sherd_client_process(). */
int sherd_client_call(struct sherd_client *client, const struct sherd_request *request,
    struct sherd_result *ret_result);

#ifdef __cplusplus
}
#endif
#endif
