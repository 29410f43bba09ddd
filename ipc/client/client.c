/* SPDX-License-Identifier: MIT */
/*
 * What both planes have in common: options and requests are checked here, and here is the loop that
 * steps and waits. A transport (transport.h) does the rest.
 */
#include "ipc/client/client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ipc/client/instance.h"
#include "ipc/client/tls.h"
#include "ipc/client/transport.h"
#include "proto/protocol.h"

#define ANSWER_DEFAULT 4096u
#define LOOK_NS        5000000 /* from one look for an instance to the next */

/* All of the ABI that is not a function. */
_Static_assert(sizeof(struct sherd_client_options) == 120, "constant for ever");
_Static_assert(sizeof(struct sherd_request) == 96, "constant for ever");
_Static_assert(sizeof(struct sherd_result) == 64, "constant for ever");
_Static_assert(sizeof(struct sherd_status) == 120, "constant for ever");
_Static_assert(sizeof(enum sherd_end) == 4, "a field of a result");

struct sherd_client {
    struct transport *transport;
    bool inside;   /* a step is on the stack */
    char *refusal; /* the gateway's words on a question; NULL: none yet */
};

const char *sherd_end_text(enum sherd_end end)
{
    switch (end) {
#define X(name, number, text) \
    case SHERD_END_##name:    \
        return text;
        SHERD_ENDS(X)
#undef X
    }
    return "unknown";
}

void sherd_result_deinit(struct sherd_result *result)
{
    free(result->owned);
    *result = (struct sherd_result){};
}

/* ---- opening ---- */

int transport_explain(char **ret_error, int error, const char *format, ...)
{
    va_list args;

    if (!ret_error)
        return error;
    free(*ret_error);
    va_start(args, format);
    if (vasprintf(ret_error, format, args) < 0)
        *ret_error = NULL;
    va_end(args);
    return error;
}

static bool is_zero(const uint64_t *words, size_t n)
{
    uint64_t any = 0;

    for (size_t i = 0; i < n; i++)
        any |= words[i];
    return any == 0;
}

static int check_name(const struct sherd_client_options *options, char **ret_error)
{
    char *path;
    const char *name = options->instance ? options->instance : "default";
    int r = options->url ? 0 : instance_socket_path(name, PROTOCOL_SOCKET, &path);

    if (r == -EINVAL)
        return transport_explain(ret_error, r,
            "'%s' is no name of an instance: up to %u letters, digits, '-', '_' and '.'", name,
            INSTANCE_NAME_MAX);
    if (r < 0)
        return transport_explain(ret_error, r,
            "the socket of instance %s: %s; set SHERD_RUNTIME_DIR to a "
            "folder of your own with a short name",
            name, strerror(-r));
    if (!options->url)
        free(path);
    return 0;
}

static bool has_tls(const struct sherd_client_options *options)
{
    return options->tls_ca_file || options->tls_name || options->tls_cert_file ||
           options->tls_key_file;
}

static int check_options(const struct sherd_client_options *options, char **ret_error)
{
    if (options->wait_ns < 0 || options->spin_ns < 0)
        return transport_explain(ret_error, -EINVAL, "a negative time to wait");
    if (options->reserved32 != 0 ||
        !is_zero(options->reserved, sizeof(options->reserved) / sizeof(options->reserved[0])))
        return transport_explain(ret_error, -EINVAL,
            "an option that this libsherd-client does not know, or options that did not begin as "
            "zero bytes");
    if (options->plane > SHERD_PLANE_CONTROL)
        return transport_explain(ret_error, -EINVAL, "no such plane: %u", options->plane);
    if (has_tls(options) && !(options->url && tls_is_url(options->url)))
        return transport_explain(
            ret_error, -EINVAL, "options for TLS are of use with a tls+tcp:// URL only");
    if (options->plane == SHERD_PLANE_DATA && options->url)
        return transport_explain(
            ret_error, -EINVAL, "the data plane has no URL: name the instance");
    return check_name(options, ret_error);
}

/*
 * The data plane where its socket is, whatever then keeps us from it the other; of an instance that
 * is not there yet the socket comes before the gateway answers. So whoever finds a gateway, and no
 * such socket before nor after, has an instance without.
 */
static int open_either(struct transport_options *how, struct transport **ret_transport)
{
    int64_t until_ns = waiter_now_ns() + how->wait_ns;

    for (;;) {
        how->wait_ns = 0;
        bool has_gateway = instance_answers(how->options->instance, PROTOCOL_SOCKET);
        int r = local_open(how, ret_transport);
        if (r == 0)
            return 0;
        int64_t left_ns = until_ns - waiter_now_ns();
        if (r != -ENOENT || has_gateway || left_ns <= 0) {
            how->wait_ns = how->options->wait_ns == 0 ? 0 : left_ns > 0 ? left_ns : 1;
            return control_open(how, ret_transport);
        }
        nanosleep(&(struct timespec){.tv_nsec = left_ns < LOOK_NS ? left_ns : LOOK_NS}, NULL);
    }
}

static int open_transport(
    const struct sherd_client_options *options, struct transport **ret_transport, char **ret_error)
{
    struct transport_options how = {
        .options = options, .ret_error = ret_error, .wait_ns = options->wait_ns};

    if (options->url || options->plane == SHERD_PLANE_CONTROL)
        return control_open(&how, ret_transport);
    if (options->plane == SHERD_PLANE_DATA)
        return local_open(&how, ret_transport);
    return open_either(&how, ret_transport);
}

int sherd_client_open(
    const struct sherd_client_options *options, struct sherd_client **ret_client, char **ret_error)
{
    if (ret_error)
        *ret_error = NULL;
    int r = check_options(options, ret_error);
    if (r < 0)
        return r;
    struct sherd_client *client = calloc(1, sizeof(*client));
    if (!client)
        return transport_explain(ret_error, -ENOMEM, "no memory");
    r = open_transport(options, &client->transport, ret_error);
    if (r < 0) {
        free(client);
        return r;
    }
    if (ret_error) { /* why it is not the data plane */
        free(*ret_error);
        *ret_error = NULL;
    }
    client->transport->answer_max = options->answer_max ? options->answer_max : ANSWER_DEFAULT;
    *ret_client = client;
    return 0;
}

void sherd_client_close(struct sherd_client *client)
{
    if (!client)
        return;
    client->transport->ops->free(client->transport);
    free(client->refusal);
    free(client);
}

enum sherd_plane sherd_client_plane(const struct sherd_client *client)
{
    return client->transport->ops->plane;
}

uint32_t sherd_client_n_shards(const struct sherd_client *client)
{
    return client->transport->n_shards;
}

const char *sherd_client_error_text(const struct sherd_client *client)
{
    if (client->refusal)
        return client->refusal;
    return client->transport->error_text ? client->transport->error_text : "";
}

/* ---- steps and waiting ---- */

static int64_t end_of_wait(int64_t timeout_ns)
{
    int64_t now_ns = waiter_now_ns();

    return timeout_ns < 0 || timeout_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + timeout_ns;
}

static int step(struct sherd_client *client)
{
    struct transport *transport = client->transport;

    client->inside = true;
    transport->ops->step(transport);
    client->inside = false;
    int r = transport->error;
    transport->error = 0;
    if (r < 0) { /* the latest error is this one */
        free(client->refusal);
        client->refusal = NULL;
    }
    return r;
}

/* Steps until something ended, or there is nothing to wait for. 0 or -errno. */
static int run(struct sherd_client *client, int64_t timeout_ns)
{
    struct transport *transport = client->transport;
    uint64_t before = transport->n_ended;
    int64_t until_ns = 0; /* asked for once it matters */

    for (;;) {
        int r = step(client);
        if (r < 0)
            return r;
        if (transport->n_ended != before || timeout_ns == 0 ||
            transport->ops->in_flight(transport) == 0 || waiter_take_wake(&transport->waiter))
            return 0;
        if (until_ns == 0)
            until_ns = timeout_ns < 0 ? INT64_MAX : end_of_wait(timeout_ns);
        else if (until_ns != INT64_MAX && waiter_now_ns() >= until_ns)
            return 0;
        r = transport->ops->wait(transport, until_ns);
        if (r < 0)
            return r;
    }
}

int sherd_client_process(struct sherd_client *client, int64_t timeout_ns)
{
    struct transport *transport = client->transport;
    uint64_t before = transport->n_ended;

    if (client->inside)
        return -EBUSY;
    transport->ops->forget(transport);
    int r = run(client, timeout_ns);
    return r < 0 ? r : (int)(transport->n_ended - before);
}

int sherd_client_reap(
    struct sherd_client *client, struct sherd_result *ret_results, uint32_t n, int64_t timeout_ns)
{
    struct transport *transport = client->transport;
    int r = 0;

    if (client->inside)
        return -EBUSY;
    transport->ops->forget(transport);
    uint32_t n_got = transport->ops->reap(transport, ret_results, n);
    if (n_got < n)
        r = run(client, n_got > 0 ? 0 : timeout_ns);
    n_got += transport->ops->reap(transport, ret_results + n_got, n - n_got);
    return n_got == 0 && r < 0 ? r : (int)n_got;
}

int sherd_client_fd(struct sherd_client *client)
{
    struct transport *transport = client->transport;

    if (!transport->is_polled) {
        transport->is_polled = true;
        waiter_ring(&transport->waiter); /* the next process looks, and sees to the rest */
    }
    return transport->waiter.epoll_fd;
}

void sherd_client_wake(struct sherd_client *client)
{
    waiter_wake(&client->transport->waiter);
}

size_t sherd_client_in_flight(const struct sherd_client *client)
{
    return client->transport->ops->in_flight(client->transport);
}

/* ---- submitting ---- */

int sherd_client_method(struct sherd_client *client, const char *name, uint32_t *ret_handle)
{
    int64_t handle = methods_add(&client->transport->methods, name);

    if (handle < 0)
        return (int)handle;
    *ret_handle = (uint32_t)handle;
    return 0;
}

static int check(const struct sherd_client *client, const struct sherd_request *request)
{
    if (request->method ? strnlen(request->method, METHOD_NAME_MAX + 1) > METHOD_NAME_MAX
                        : request->method_handle >= client->transport->methods.n)
        return -EINVAL;
    if ((request->args_len > 0 && !request->args) || (request->key_len > 0 && !request->key) ||
        (request->room_len > 0 && !request->room) || request->timeout_ns < 0)
        return -EINVAL;
    if ((request->flags & ~(uint32_t)(SHERD_TO_SHARD | SHERD_URGENT | SHERD_REFUSE)) != 0 ||
        (request->reserved[0] | request->reserved[1]) != 0)
        return -EINVAL;
    return request->key_len > PROTOCOL_KEY_MAX ? -EMSGSIZE : 0;
}

int sherd_client_submit(struct sherd_client *client, const struct sherd_request *request,
    sherd_done_fn *done, void *opaque, uint64_t *ret_id)
{
    struct transport *transport = client->transport;
    int r = check(client, request);

    return r < 0 ? r : transport->ops->submit(transport, request, done, opaque, ret_id);
}

void sherd_client_flush(struct sherd_client *client)
{
    client->transport->ops->flush(client->transport);
}

int sherd_client_submit_many(struct sherd_client *client, const struct sherd_request *requests,
    uint32_t n, sherd_done_fn *done, void *const *opaques, uint64_t *ret_ids)
{
    uint32_t i;
    int r = 0;

    for (i = 0; i < n && r == 0; i += r == 0)
        r = sherd_client_submit(
            client, &requests[i], done, opaques ? opaques[i] : NULL, ret_ids ? &ret_ids[i] : NULL);
    sherd_client_flush(client);
    return i > 0 ? (int)i : r;
}

int sherd_client_cancel(struct sherd_client *client, uint64_t id)
{
    return client->transport->ops->cancel(client->transport, id);
}

/* ---- one call ---- */

struct one_call {
    struct sherd_result *result;
    const void *room;
    bool ended;
    int error;
};

static void on_call_done(const struct sherd_result *result, void *opaque)
{
    struct one_call *call = opaque;

    call->ended = true;
    *call->result = *result;
    call->result->opaque = NULL;
    if (result->len == 0 || result->data == call->room)
        return;
    call->result->data = call->result->owned = malloc(result->len);
    if (call->result->data)
        memcpy(call->result->data, result->data, result->len);
    else
        call->error = -ENOMEM;
}

int sherd_client_call(struct sherd_client *client, const struct sherd_request *request,
    struct sherd_result *ret_result)
{
    struct sherd_result result = {};
    struct one_call call = {.result = &result, .room = request->room};

    if (client->inside)
        return -EBUSY;
    client->transport->ops->forget(client->transport);
    int r = sherd_client_submit(client, request, on_call_done, &call, NULL);
    while (r >= 0 && !call.ended) {
        r = run(client, -1);
        if (r == -EINTR)
            r = 0;
    }
    /* Where the instance is gone, the result says what that means for this request. */
    if (call.ended)
        r = call.error;
    if (r == 0)
        *ret_result = result;
    return r;
}

/* ---- the instance ---- */

static int ask_and_wait(struct sherd_client *client, struct question *question)
{
    struct transport *transport = client->transport;
    int r = 0;

    while (r == 0 && !question->answered) {
        r = step(client);
        if (r == 0 && !question->answered)
            r = waiter_take_wake(&transport->waiter) ? -EINTR
                                                     : transport->ops->wait(transport, INT64_MAX);
    }
    return question->answered ? question->error : r;
}

static int ask(struct sherd_client *client, struct question *question)
{
    struct transport *transport = client->transport;

    if (client->inside)
        return -EBUSY;
    if (!transport->ops->ask)
        return -EOPNOTSUPP;
    transport->ops->forget(transport);
    transport->ops->ask(transport, question);
    int r = ask_and_wait(client, question);
    transport->ops->ask(transport, NULL);
    if (question->text) {
        free(client->refusal);
        client->refusal = question->text;
    }
    return r;
}

/* Rounded up, and as much as a message can say. */
static uint32_t to_ms(int64_t ns, uint32_t most)
{
    int64_t ms = ns <= 0 ? 0 : (ns - 1) / 1000000 + 1;

    return ms < most ? (uint32_t)ms : most;
}

int sherd_client_watch(
    struct sherd_client *client, uint64_t seen, int64_t wait_ns, struct sherd_status *ret_status)
{
    struct question question = {
        .kind = QUESTION_WATCH, .seen = seen, .wait_ms = to_ms(wait_ns, PROTOCOL_WAIT_MS_MAX)};
    int r = ask(client, &question);

    if (r == 0)
        *ret_status = question.status;
    return r;
}

int sherd_client_drain(struct sherd_client *client, bool off, int64_t limit_ns)
{
    struct question question = {
        .kind = QUESTION_DRAIN, .off = off, .wait_ms = to_ms(limit_ns, UINT32_MAX)};

    return limit_ns < 0 ? -EINVAL : ask(client, &question);
}

/* ---- buffers ---- */

void *sherd_buffer_alloc(struct sherd_client *client, size_t len)
{
    return client->transport->ops->buffer_alloc(client->transport, len);
}

void sherd_buffer_free(struct sherd_client *client, void *buffer)
{
    if (buffer)
        client->transport->ops->buffer_free(client->transport, buffer);
}
