/* SPDX-License-Identifier: MIT */
/*
 * The control plane as a transport: a talk over nng. The link's eventfd, rung by nng's threads, is
 * in the waiter's set beside the waiter's own, which submissions ring, and its timer, for what
 * happens without a letter. All are made quiet before a step, so that what comes during the step
 * makes the fd readable again.
 *
 * A request's copy takes its own bytes and some 300 more until it ends; those beyond the window
 * wait here. Who has more to submit than memory for it looks at sherd_client_in_flight().
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/client/instance.h"
#include "ipc/client/talk.h"
#include "ipc/client/tls.h"
#include "ipc/client/token.h"
#include "ipc/client/transport.h"

#define WINDOW_DEFAULT 1024u
#define ANSWER_WAIT_NS (INT64_C(5) * 1000000000) /* for a gateway that is there to say hello */
#define BUFFER_ALIGN   4096u

struct control {
    struct transport base;
    struct talk talk;
    struct token token;
    int64_t wait_ns;
    char *name;
    bool inside;           /* a step is on the stack */
    struct ticket *handed; /* fetched, good until the next fetch */
};

static struct control *control_of(struct transport *transport)
{
    return (struct control *)transport;
}

/* ---- requests ---- */

static int control_submit(struct transport *transport, const struct sherd_request *request,
    sherd_done_fn *done, void *opaque, uint64_t *ret_id)
{
    struct control *control = control_of(transport);
    struct talk *talk = &control->talk;
    struct sherd_request named = *request;
    struct ticket *ticket;

    if (request->args_len > SHERD_PAYLOAD_MAX)
        return -EMSGSIZE;
    if (!request->method)
        named.method = transport->methods.methods[request->method_handle].name;
    int64_t deadline_ns = INT64_MAX;
    if (request->timeout_ns > 0 &&
        __builtin_add_overflow(talk_now_ns(), request->timeout_ns, &deadline_ns))
        deadline_ns = INT64_MAX;
    int r = ticket_new(&talk->tickets, talk->last_id + 1, &named, deadline_ns, &ticket);
    if (r < 0)
        return r;
    ticket->done = done;
    ticket->opaque = opaque;
    talk->last_id++;
    if (ret_id)
        *ret_id = ticket->id;
    return 0;
}

/* The gateway is told by the next step. */
static void control_flush(struct transport *transport)
{
    if (!control_of(transport)->inside && control_of(transport)->talk.tickets.line.n > 0)
        waiter_ring(&transport->waiter);
}

static int control_cancel(struct transport *transport, uint64_t id)
{
    int r = talk_cancel(&control_of(transport)->talk, id);

    if (r == 0)
        waiter_ring(&transport->waiter);
    return r;
}

static size_t control_in_flight(const struct transport *transport)
{
    const struct control *control = (const struct control *)transport;

    return control->talk.tickets.line.n + control->talk.tickets.out.n;
}

static void control_ask(struct transport *transport, struct question *question)
{
    talk_ask(&control_of(transport)->talk, question);
}

/* ---- steps and waiting ---- */

static void control_step(struct transport *transport)
{
    struct control *control = control_of(transport);
    struct talk *talk = &control->talk;

    control->inside = true;
    link_quiet(talk->link);
    waiter_quiet(&transport->waiter);
    talk_step(talk);
    waiter_arm(&transport->waiter, talk_next_ns(talk));
    control->inside = false;
    transport->n_ended = talk->n_ended;
    transport->error = talk->error;
    transport->error_text = talk->error_text;
    transport->n_shards = talk->n_shards;
    talk->error = 0;
    if (transport->error < 0)
        control_flush(transport); /* what callbacks submitted meanwhile */
}

static int control_wait(struct transport *transport, int64_t until_ns)
{
    struct epoll_event event;
    int r = waiter_wait(&transport->waiter, until_ns, &event, 1);

    return r < 0 ? r : 0;
}

/* ---- ends that are fetched ---- */

static void control_forget(struct transport *transport)
{
    struct control *control = control_of(transport);

    while (control->handed) {
        struct ticket *ticket = control->handed;
        control->handed = ticket->next;
        talk_free_kept(ticket);
    }
}

static uint32_t control_reap(
    struct transport *transport, struct sherd_result *ret_results, uint32_t n)
{
    struct control *control = control_of(transport);
    struct ticket *ticket;
    uint32_t i = 0;

    while (i < n && (ticket = talk_take_kept(&control->talk))) {
        ret_results[i++] = ticket->result;
        ticket->next = control->handed;
        control->handed = ticket;
    }
    return i;
}

/* ---- buffers: ordinary memory ---- */

static void *control_buffer_alloc(struct transport *transport, size_t len)
{
    void *buffer;
    int r = len > SHERD_BUFFER_MAX ? EMSGSIZE : posix_memalign(&buffer, BUFFER_ALIGN, len + !len);

    errno = r;
    return r == 0 ? buffer : NULL;
}

static void control_buffer_free(struct transport *transport, void *buffer)
{
    free(buffer);
}

/* ---- life ---- */

static void control_free(struct transport *transport)
{
    struct control *control = control_of(transport);

    control_forget(transport);
    talk_deinit(&control->talk);
    token_deinit(&control->token);
    free(control->name);
    waiter_deinit(&transport->waiter);
    methods_deinit(&transport->methods);
    free(control);
}

static const struct transport_ops control_ops = {
    .plane = SHERD_PLANE_CONTROL,
    .free = control_free,
    .submit = control_submit,
    .flush = control_flush,
    .cancel = control_cancel,
    .in_flight = control_in_flight,
    .ask = control_ask,
    .step = control_step,
    .wait = control_wait,
    .reap = control_reap,
    .forget = control_forget,
    .buffer_alloc = control_buffer_alloc,
    .buffer_free = control_buffer_free,
};

/* nng knows other ways, by which no gateway is reached. */
static bool is_known(const char *url)
{
    return strncmp(url, "ipc://", 6) == 0 || strncmp(url, "tcp://", 6) == 0 || tls_is_url(url);
}

static int find_url(const struct sherd_client_options *options, char **ret_url, char **ret_error)
{
    char *path;
    const char *name = options->instance ? options->instance : "default";

    if (options->url) {
        if (!is_known(options->url))
            return transport_explain(ret_error, -EINVAL,
                "the URL %s is none of ipc://PATH, tcp://HOST:PORT and tls+tcp://HOST:PORT",
                options->url);
        *ret_url = strdup(options->url);
        return *ret_url ? 0 : transport_explain(ret_error, -ENOMEM, "no memory");
    }
    int r = instance_socket_path(name, PROTOCOL_SOCKET, &path);
    if (r < 0)
        return transport_explain(ret_error, r, "the socket of instance %s: %s", name, strerror(-r));
    r = asprintf(ret_url, "ipc://%s", path) < 0 ? -ENOMEM : 0;
    free(path);
    return r < 0 ? transport_explain(ret_error, r, "no memory") : 0;
}

static int explain_dial(
    const struct transport_options *how, const char *url, bool has_tls, int error)
{
    char **ret_error = how->ret_error;

    /* nng says "refused" also of a socket that does not exist. */
    if (error == -ENOENT || (error == -ECONNREFUSED && strncmp(url, "ipc://", 6) == 0))
        return transport_explain(
            ret_error, -ENOENT, "no instance of Sherd at %s: start it with `sherd run`", url);
    if (error == -EKEYREJECTED)
        return transport_explain(ret_error, error, "%s: %s", url, TLS_TEXT_REJECTED);
    if (error == -ECONNRESET && has_tls)
        return transport_explain(ret_error, error, "%s: %s", url, TLS_TEXT_HUNG_UP);
    if (error == -ECONNRESET)
        return transport_explain(ret_error, error,
            "%s hung up before it said anything: the instance begins or ends; try again", url);
    if (error == -EADDRNOTAVAIL)
        return transport_explain(ret_error, error, "%s: there is no such host or port", url);
    return transport_explain(ret_error, error, "connecting to %s: %s", url, strerror(-error));
}

static int open_link(struct control *control, const struct transport_options *how, const char *url)
{
    nng_tls_config *tls = NULL;
    bool has_tls = how->options->url && tls_is_url(url);
    int r = has_tls ? tls_config_new(how->options, &tls, how->ret_error) : 0;

    if (r < 0)
        return r;
    r = link_open(url, tls, how->wait_ns > 0, &control->talk.link);
    if (tls)
        nng_tls_config_free(tls);
    return r < 0 ? explain_dial(how, url, has_tls, r) : 0;
}

static int dial(struct control *control, const struct transport_options *how, const char *url)
{
    int r = open_link(control, how, url);

    if (r < 0)
        return r;
    r = waiter_watch(&control->base.waiter, link_fd(control->talk.link), 0);
    return r < 0 ? transport_explain(how->ret_error, r, "watching the connection: %s", strerror(-r))
                 : 0;
}

static int load_token(struct control *control, const char *path, char **ret_error)
{
    const char *why;

    if (!path)
        return 0;
    int r = token_load(path, &control->token, &why);
    if (r < 0)
        return transport_explain(ret_error, r, "token file %s %s (%s)", path, why, strerror(-r));
    control->talk.token = control->token.secret;
    control->talk.token_len = control->token.len;
    return 0;
}

/* Until the gateway knows us, or the conversation ends. */
static int get_to_know(struct control *control, int64_t wait_ns, char **ret_error)
{
    struct talk *talk = &control->talk;
    struct transport *transport = &control->base;

    talk->wait_ns = wait_ns > 0 ? wait_ns : ANSWER_WAIT_NS;
    talk->eager = true;
    control_step(transport);
    while (talk->phase != TALK_READY && transport->error == 0) {
        int r = control_wait(transport, talk_next_ns(talk));
        if (r < 0 && r != -EINTR)
            return transport_explain(ret_error, r, "waiting for the gateway: %s", strerror(-r));
        control_step(transport);
    }
    talk->wait_ns = control->wait_ns;
    talk->eager = false;
    int error = transport->error == -ENOTCONN ? -ETIMEDOUT : transport->error;
    transport->error = 0;
    return error < 0
               ? transport_explain(ret_error, error, "%s", talk->error_text ? talk->error_text : "")
               : 0;
}

static int connect_control(struct control *control, const struct transport_options *options)
{
    char *url = NULL;
    int r = waiter_init(&control->base.waiter);

    if (r < 0)
        return transport_explain(options->ret_error, r, "file descriptors: %s", strerror(-r));
    r = load_token(control, options->options->token_file, options->ret_error);
    if (r == 0)
        r = find_url(options->options, &url, options->ret_error);
    if (r == 0)
        r = dial(control, options, url);
    if (r == 0)
        r = get_to_know(control, options->wait_ns, options->ret_error);
    free(url);
    return r;
}

int control_open(const struct transport_options *options, struct transport **ret_transport)
{
    const struct sherd_client_options *wanted = options->options;
    struct control *control = calloc(1, sizeof(*control));

    if (!control)
        return transport_explain(options->ret_error, -ENOMEM, "no memory");
    control->base.ops = &control_ops;
    control->base.waiter =
        (struct waiter){.epoll_fd = -1, .event_fd = -1, .timer_fd = -1, .armed_ns = INT64_MAX};
    control->wait_ns = wanted->wait_ns;
    control->talk.window = wanted->window ? wanted->window : WINDOW_DEFAULT;
    talk_init(&control->talk);
    int r = 0;
    if (wanted->name && !(control->name = strdup(wanted->name)))
        r = transport_explain(options->ret_error, -ENOMEM, "no memory");
    control->talk.name = control->name;
    if (r == 0)
        r = connect_control(control, options);
    if (r < 0)
        control_free(&control->base);
    else
        *ret_transport = &control->base;
    return r;
}
