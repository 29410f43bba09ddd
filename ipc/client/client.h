/* SPDX-License-Identifier: MIT */
#ifndef SHERD_CLIENT_H
#define SHERD_CLIENT_H
/*
 * client - submit work to a Sherd instance
 *
 * Why:         any process on this machine, or another one, can have the shards do something: over
 *              shared memory where the instance is here (the data plane), else by messages over a
 *              Unix socket or TCP (the control plane). The functions are the same.
 * Use:         struct sherd_client *c;
 *              struct sherd_client_options options = {.instance = "demo"};
 *              struct sherd_request ping = {.method = "sys.ping"};
 *              struct sherd_result res;
 *              int r = sherd_client_open(&options, &c, NULL);
 *              r = sherd_client_call(c, &ping, &res);
 *              sherd_result_deinit(&res);
 *              sherd_client_close(c);
 *              Many in flight: sherd_client_submit() for each, with a callback or without; then
 *              sherd_client_process() or sherd_client_reap() in a loop, or
 *              sherd_client_flush() and the former whenever sherd_client_fd() is readable.
 * Concurrency: one thread at a time per client; only sherd_client_wake() is for any thread.
 *              Clients share nothing: each thread may have one. Callbacks run in
 *              sherd_client_process(), sherd_client_reap() and sherd_client_call(), never in
 *              another thread; they may submit, cancel, and use buffers. A client does not survive
 *              a fork: open it in the child.
 * Lifetime:    closing abandons what is in flight: its callbacks do not run. Buffers are gone then.
 *
 * Each accepted request ends exactly once. Errors of the functions are negative errno values; what
 * became of a request is enum sherd_end:
 * - NOT_STARTED is certain: no shard has begun it, and none will.
 * - IN_DOUBT: nobody can tell. Where who had a request is gone, one that had certainly not been
 *   begun, or whose method may run twice (is idempotent), is submitted again as soon as there is
 *   somebody to take it, for as long as wait_ns and its own deadline let it; only what is left is
 *   in doubt.
 * - EXPIRED and CANCELLED come in time, whether or not who has the request answers: some ms behind
 *   its deadline, and 100 ms behind its cancellation. It may be running still. So a buffer
 *   (sherd_buffer_alloc()) that it names may still be read or written: do not use it for something
 *   else, but free it; it is given to nobody before that is over. A request that names it waits.
 *
 * Structs begin as zero bytes ({.method = "sys.ping"} does that): zero always means the default,
 * and `reserved` must be zero, which is checked (-EINVAL). No struct ever changes its size, and no
 * symbol its meaning: a program built with this header runs with each later libsherd-client.so.1.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SHERD_API __attribute__((visibility("default")))

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

SHERD_API const char *sherd_end_text(enum sherd_end end);

/* ---- opening ---- */

enum sherd_plane {
    SHERD_PLANE_AUTO,    /* the data plane where the instance is here and lets us, else the other */
    SHERD_PLANE_DATA,    /* shared memory */
    SHERD_PLANE_CONTROL, /* messages */
};

struct sherd_client_options {
    const char *instance; /* name; NULL: "default". Ignored where url is set. */
    const char *url;      /* "tcp://127.0.0.1:7000", "tls+tcp://host:7000", "ipc:///path"; NULL: the
                               instance's sockets. Always the control plane. */
    const char *token_file; /* for tcp and tls+tcp; NULL: none */
    const char *name;       /* for the instance's logs and tools; NULL: the program's */
    int64_t wait_ns;        /* for an instance that is not there yet, and later for one that died to
                               be replaced; 0: do not wait */
    int64_t spin_ns;        /* data plane: how long to look at the memory before sleeping. Takes a
                               core, and saves two wake-ups. 0: sleep at once */
    uint64_t data_bytes;    /* data plane: the data area, which holds arguments and answers that are
                               not small; 0: 1 MiB */
    uint32_t window;     /* control plane: most requests with the gateway at once, of urgent ones 16
                        more; 0: 1,024. Data plane: most with a shard at once, at most 2,048; 0: 256.
                        What is submitted beyond it waits in line here. */
    uint32_t plane;      /* enum sherd_plane */
    uint32_t answer_max; /* of requests that do not say; 0: 4,096 */
    uint32_t reserved32;
    /* tls+tcp alone. Files in PEM. */
    const char *tls_ca_file;   /* of authorities: whom to believe; NULL: what $SHERD_TLS_CA names */
    const char *tls_name;      /* in the gateway's certificate; NULL: the host in the URL. Has to be
                                  given where that is a number: addresses are not compared. */
    const char *tls_cert_file; /* our own, where the gateway wants one; NULL: none */
    const char *tls_key_file;  /* its key, which nobody else may read */
    uint64_t reserved[2];
};

/* Connects and says hello. -ENOENT: no such instance; -ECONNRESET: it begins or ends just now, and
 * wait_ns is 0; -ETIMEDOUT; -EACCES: refused; -EPROTO: not
 * Sherd, or another version; -EKEYREJECTED: TLS: it is not who tls_ca_file vouches for, or speaks
 * none; -EINVAL: options. ret_error, which may be NULL, gets a line for people
 * (free() it) on failure. */
SHERD_API int sherd_client_open(
    const struct sherd_client_options *options, struct sherd_client **ret_client, char **ret_error);

/* NULL does nothing. Not in a callback. */
SHERD_API void sherd_client_close(struct sherd_client *client);

/* Which one it got; the same as long as it is open. */
SHERD_API enum sherd_plane sherd_client_plane(const struct sherd_client *client);

SHERD_API uint32_t sherd_client_n_shards(const struct sherd_client *client);

/* ---- requests ---- */

#define SHERD_NO_SHARD     UINT32_MAX
#define SHERD_PAYLOAD_MAX  ((size_t)1024 * 1024)      /* of arguments over the control plane */
#define SHERD_BUFFER_MAX   ((size_t)64 * 1024 * 1024) /* over the data plane */
#define SHERD_ANSWER_SMALL 32u                        /* an answer of that size needs no room */

enum sherd_request_flags {
    SHERD_TO_SHARD = 1u << 0, /* to `shard`; else to the owner of the key, else where the method
                                 belongs by its own rule, else anywhere: on the data plane always
                                 to one shard, this client's home */
    SHERD_URGENT =
        1u << 1, /* overtakes what waits, here and there, of this client's and of others';
                                 but has no more of a shard's time, and of the quotas. For the few
                                 that control others: 8 at a time in a shard, 20 over the control
                                 plane; what is beyond waits for these, or goes with the others. */
    SHERD_REFUSE = 1u << 2, /* where the shard is behind, or the window is full: ends at once as not
                                 started with -EAGAIN and retry_us, instead of waiting */
};

struct sherd_request {
    const char *method; /* "service.method"; NULL: see method_handle */
    const void *args;   /* Copied. What lies in a buffer of the client's (sherd_buffer_alloc())
                            is not copied on the data plane: leave it alone until the end. */
    size_t args_len;
    const void *key; /* NULL: none. Copied. */
    size_t key_len;
    void *room;         /* for the answer, until the end; NULL: the library has some. In a buffer
                            of the client's a method may write to it without a copy, best where it
                            begins at a page. */
    size_t room_len;    /* a longer answer fails with -ENOBUFS */
    int64_t timeout_ns; /* 0: none. Time from the submission to the end. */
    uint32_t shard;     /* with SHERD_TO_SHARD */
    uint32_t flags;     /* enum sherd_request_flags */
    uint32_t method_handle; /* where method is NULL: of sherd_client_method() */
    uint32_t answer_max; /* Without room: longest answer expected; 0: as the client's options say. A
                            longer one fails with -ENOBUFS on the data plane. */
    uint64_t reserved[2];
};

struct sherd_result {
    uint64_t id;
    void *opaque;  /* of its submission */
    uint8_t *data; /* The answer, or where end is not DONE a text for people. May be NULL. It
                            is the request's room where that was given. */
    size_t len;
    enum sherd_end end;
    int32_t error;     /* 0 or -errno. DONE with -ENODATA: it ran, but its answer was lost with the
                            gateway that had it (control plane). */
    uint32_t shard;    /* who ran it; SHERD_NO_SHARD: nobody */
    uint32_t retry_us; /* with -EAGAIN: when it may be worth while; 0: unknown */
    void *owned;       /* the library's */
    uint64_t reserved;
};

/* Of what sherd_client_call() filled in. */
SHERD_API void sherd_result_deinit(struct sherd_result *result);

/* Owns nothing of result: copy what it keeps. */
typedef void sherd_done_fn(const struct sherd_result *result, void *opaque);

/* A number for a method's name, which spares each request the search for it: as long as the client
 * is open, also over a reconnect. Whether there is such a method shows when it is called. 0;
 * -EINVAL: no name; -ENOMEM. */
SHERD_API int sherd_client_method(
    struct sherd_client *client, const char *name, uint32_t *ret_handle);

/* Queues a request. 0 and its id, or -EMSGSIZE (limit SHERD_PAYLOAD_MAX; on the data plane what the
 * data area holds, SHERD_BUFFER_MAX at most), -EINVAL, -ENOMEM. After a 0 done is called exactly
 * once; without one (NULL) the end is fetched by sherd_client_reap(). Requests go out in batches:
 * at the next flush, process, reap or call. */
SHERD_API int sherd_client_submit(struct sherd_client *client, const struct sherd_request *request,
    sherd_done_fn *done, void *opaque, uint64_t *ret_id);

/* As many calls of sherd_client_submit() and a flush: how many were queued, the first ones; -errno
 * where the first failed. opaques and ret_ids may be NULL. */
SHERD_API int sherd_client_submit_many(struct sherd_client *client,
    const struct sherd_request *requests, uint32_t n, sherd_done_fn *done, void *const *opaques,
    uint64_t *ret_ids);

/* Sends what was submitted. For who then sleeps in a poll of its own: all that waits here flushes,
 * and what callbacks submit is flushed behind them. */
SHERD_API void sherd_client_flush(struct sherd_client *client);

/* Asks that a request end early; its end still comes, with what became of it. -ENOENT: ended
 * already. */
SHERD_API int sherd_client_cancel(struct sherd_client *client, uint64_t id);

/* Requests submitted and not ended. */
SHERD_API size_t sherd_client_in_flight(const struct sherd_client *client);

/* ---- ends ---- */

/* Sends what is queued, runs callbacks of what has ended, waiting up to timeout_ns (-1: for ever)
 * for the first end; at once where nothing is in flight. Returns how many ended, those for
 * sherd_client_reap() included; or -errno: -ENOTCONN where the instance is gone and wait_ns has
 * passed, -EPROTO where something else answers, -EPERM or -EAGAIN where it does not let this client
 * in any more, or not yet (each request then ended as not started or in doubt, and the next
 * submission tries anew); -EINTR; -EBUSY in a callback. */
SHERD_API int sherd_client_process(struct sherd_client *client, int64_t timeout_ns);

/* The same for ends without a callback: fetches up to n of them, waiting only while there is none.
 * Returns how many, or -errno as sherd_client_process() where there is none. Their data is good
 * until the next call of this, process, call or close. */
SHERD_API int sherd_client_reap(
    struct sherd_client *client, struct sherd_result *ret_results, uint32_t n, int64_t timeout_ns);

/* Submits and waits; callbacks of other requests run meanwhile. 0: see result, which says too where
 * the instance is gone (sherd_result_deinit() it); -errno as sherd_client_submit() and
 * sherd_client_process(). */
SHERD_API int sherd_client_call(struct sherd_client *client, const struct sherd_request *request,
    struct sherd_result *ret_result);

/* Readable when sherd_client_process(client, 0) has something to do. One epoll fd: of the
 * doorbells, the connections and a timer. From the first call on each process and flush makes sure
 * that it rings, which costs a little. */
SHERD_API int sherd_client_fd(struct sherd_client *client);

/* Has sherd_client_process() or sherd_client_reap() return, or the next one not wait.
 * Context: any thread, signal handler; until sherd_client_close() begins. */
SHERD_API void sherd_client_wake(struct sherd_client *client);

/* What stands behind the latest -ENOTCONN, -EPROTO, or error of a drain, for people; "" where there
 * was none. Good until the next call. */
SHERD_API const char *sherd_client_error_text(const struct sherd_client *client);

/* ---- the instance ---- */

enum sherd_drain {
    SHERD_NOT_DRAINED, /* takes what is new */
    SHERD_DRAINING,    /* takes nothing new, and has not finished all that it had */
    SHERD_DRAINED,     /* has finished it */
};

struct sherd_status {
    uint64_t
        change; /* another number where the instance is another way: see sherd_client_watch() */
    uint64_t uptime_ns;
    uint64_t sessions; /* clients of the control plane */
    uint64_t requests_in_flight, requests_accepted, requests_ended; /* theirs */
    uint64_t deaths; /* of shards and gateways since it began */
    uint32_t drain;  /* enum sherd_drain; a later instance may know more of them */
    uint32_t n_shards, n_shards_up;
    uint32_t reserved32;
    uint64_t reserved[6];
};

/* Control plane. How the instance is, as soon as it is another way than `seen`, the `change` of an
 * earlier status: a process died or is up again, it drains or is drained. 0: at once. After
 * wait_ns, a minute at most, it comes all the same. Callbacks of requests run meanwhile. -EINTR: a
 * signal, or sherd_client_wake(); -EOPNOTSUPP: the data plane; else as sherd_client_process(). */
SHERD_API int sherd_client_watch(
    struct sherd_client *client, uint64_t seen, int64_t wait_ns, struct sherd_status *ret_status);

/* Control plane. Has the instance take nothing new and finish what it has, or with `off` take what
 * is new again. Returns when that has begun: sherd_client_watch() tells the rest. limit_ns: how
 * long the instance sees to it; 0: as long as it is told to. -EACCES: this client may not: over the
 * Unix socket all do, over TCP who has the token for it; -EBUSY: it has another order just now;
 * -ESHUTDOWN: it begins or ends; -EOPNOTSUPP, and others, as above. sherd_client_error_text() has
 * the words. */
SHERD_API int sherd_client_drain(struct sherd_client *client, bool off, int64_t limit_ns);

/* ---- buffers ---- */

/* A piece of the data area, for arguments and answers that no one copies; on the control plane
 * ordinary memory. Begins at a page where it is 2,048 bytes or longer, else at a multiple of 64.
 * NULL with errno: ENOMEM: not that much is left; EMSGSIZE: longer than SHERD_BUFFER_MAX. Stays
 * good, bytes and all, over a reconnect; of rooms in flight then the bytes are anything. */
SHERD_API void *sherd_buffer_alloc(struct sherd_client *client, size_t len);

/* Not while a request that has not ended uses it. NULL does nothing. */
SHERD_API void sherd_buffer_free(struct sherd_client *client, void *buffer);

#ifdef __cplusplus
}
#endif
#endif
