/* SPDX-License-Identifier: MIT */
#include "ipc/client/client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "ipc/client/instance.h"
#include "ipc/client/talk.h"
#include "ipc/client/token.h"

/*
 * The pollable fd is an epoll set of two: the link's eventfd, which letters and submissions ring,
 * and a timerfd for what happens without a letter. Both are made quiet before a step, so that what
 * comes during the step makes the fd readable again.
 *
 * A request's copy takes its own bytes and some 200 more until it ends; those beyond the window
 * wait here. Who has more to submit than memory for it looks at sherd_client_in_flight().
 */
#define WINDOW_DEFAULT  1024u
#define METHOD_NAME_MAX 256u
#define ANSWER_WAIT_NS  (INT64_C(5) * 1000000000) /* for a gateway that is there to say hello */

struct sherd_client {
    struct talk talk;
    struct token token;
    int64_t wait_ns;
    int epoll_fd;
    int timer_fd;
    int64_t armed_ns; /* INT64_MAX: not */
    bool rung;        /* the fd is readable already for what was submitted */
    bool inside;      /* a step is on the stack */
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
    free(result->data);
    *result = (struct sherd_result){};
}

/* ---- opening ---- */

__attribute__((format(printf, 3, 4))) static int explain(
    char **ret_error, int error, const char *format, ...)
{
    va_list args;

    if (!ret_error)
        return error;
    va_start(args, format);
    if (vasprintf(ret_error, format, args) < 0)
        *ret_error = NULL;
    va_end(args);
    return error;
}

static int watch(int epoll_fd, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int make_fds(struct sherd_client *client)
{
    client->armed_ns = INT64_MAX;
    client->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    client->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (client->epoll_fd < 0 || client->timer_fd < 0)
        return -errno;
    return watch(client->epoll_fd, client->timer_fd);
}

static int find_url(const struct sherd_client_options *options, char **ret_url, char **ret_error)
{
    char *path;
    const char *name = options->instance ? options->instance : "default";

    if (options->url) {
        *ret_url = strdup(options->url);
        return *ret_url ? 0 : explain(ret_error, -ENOMEM, "no memory");
    }
    int r = instance_socket_path(name, &path);
    if (r == -EINVAL)
        return explain(ret_error, r,
            "'%s' is no name of an instance: up to %u letters, digits, '-', '_' and '.'", name,
            INSTANCE_NAME_MAX);
    if (r < 0)
        return explain(ret_error, r,
            "the socket of instance %s: %s; set SHERD_RUNTIME_DIR to a "
            "folder of your own with a short name",
            name, strerror(-r));
    r = asprintf(ret_url, "ipc://%s", path) < 0 ? -ENOMEM : 0;
    free(path);
    return r < 0 ? explain(ret_error, r, "no memory") : 0;
}

static int dial(struct sherd_client *client, const struct sherd_client_options *options,
    const char *url, char **ret_error)
{
    int r = link_open(url, options->wait_ns > 0, &client->talk.link);

    /* nng says "refused" also of a socket that does not exist. */
    if (r == -ENOENT || (r == -ECONNREFUSED && strncmp(url, "ipc://", 6) == 0))
        return explain(
            ret_error, -ENOENT, "no instance of Sherd at %s: start it with `sherd run`", url);
    if (r < 0)
        return explain(ret_error, r, "connecting to %s: %s", url, strerror(-r));
    r = watch(client->epoll_fd, link_fd(client->talk.link));
    return r < 0 ? explain(ret_error, r, "watching the connection: %s", strerror(-r)) : 0;
}

static int load_token(struct sherd_client *client, const char *path, char **ret_error)
{
    const char *why;

    if (!path)
        return 0;
    int r = token_load(path, &client->token, &why);
    if (r < 0)
        return explain(ret_error, r, "token file %s %s (%s)", path, why, strerror(-r));
    client->talk.token = client->token.secret;
    client->talk.token_len = client->token.len;
    return 0;
}

/* ---- steps and waiting ---- */

static void make_quiet(struct sherd_client *client)
{
    uint64_t expirations;

    link_quiet(client->talk.link);
    if (read(client->timer_fd, &expirations, sizeof(expirations)) == sizeof(expirations))
        client->armed_ns = INT64_MAX;
    client->rung = false;
}

static void arm(struct sherd_client *client)
{
    int64_t next_ns = talk_next_ns(&client->talk);
    struct itimerspec when = {};

    if (next_ns == client->armed_ns)
        return;
    if (next_ns != INT64_MAX) {
        next_ns = next_ns > 0 ? next_ns : 1;
        when.it_value.tv_sec = next_ns / 1000000000;
        when.it_value.tv_nsec = next_ns % 1000000000;
    }
    if (timerfd_settime(client->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0)
        client->armed_ns = next_ns;
}

static void step(struct sherd_client *client)
{
    client->inside = true;
    make_quiet(client);
    talk_step(&client->talk);
    arm(client);
    client->inside = false;
}

/* Waits for the fd until then, at most. */
static int wait_until(struct sherd_client *client, int64_t until_ns)
{
    struct epoll_event event;
    int timeout_ms = -1;

    if (until_ns != INT64_MAX) {
        int64_t left_ns = until_ns - talk_now_ns();
        int64_t left_ms = left_ns > 0 ? (left_ns + 999999) / 1000000 : 0;
        timeout_ms = left_ms < INT32_MAX ? (int)left_ms : INT32_MAX;
    }
    return epoll_wait(client->epoll_fd, &event, 1, timeout_ms) < 0 ? -errno : 0;
}

static int64_t end_of_wait(int64_t timeout_ns)
{
    int64_t now_ns = talk_now_ns();

    return timeout_ns < 0 || timeout_ns > INT64_MAX - now_ns ? INT64_MAX : now_ns + timeout_ns;
}

int sherd_client_process(struct sherd_client *client, int64_t timeout_ns)
{
    struct talk *talk = &client->talk;
    int64_t until_ns = end_of_wait(timeout_ns);
    uint64_t before = talk->n_ended;

    if (client->inside)
        return -EBUSY;
    for (;;) {
        step(client);
        if (talk->error < 0) {
            int r = talk->error;
            talk->error = 0;
            if (sherd_client_in_flight(client) > 0)
                link_ring(talk->link); /* what callbacks submitted meanwhile */
            return r;
        }
        if (talk->n_ended != before || sherd_client_in_flight(client) == 0 ||
            talk_now_ns() >= until_ns)
            return (int)(talk->n_ended - before);
        int r = wait_until(client, until_ns);
        if (r < 0)
            return r;
    }
}

int sherd_client_fd(const struct sherd_client *client)
{
    return client->epoll_fd;
}

size_t sherd_client_in_flight(const struct sherd_client *client)
{
    return client->talk.tickets.line.n + client->talk.tickets.out.n;
}

/* Until the gateway knows us, or the conversation ends. */
static int get_to_know(struct sherd_client *client, char **ret_error)
{
    struct talk *talk = &client->talk;

    talk->wait_ns = client->wait_ns > 0 ? client->wait_ns : ANSWER_WAIT_NS;
    talk->eager = true;
    step(client);
    while (talk->phase != TALK_READY && talk->error == 0) {
        int r = wait_until(client, talk_next_ns(talk));
        if (r < 0 && r != -EINTR)
            return explain(ret_error, r, "waiting for the gateway: %s", strerror(-r));
        step(client);
    }
    talk->wait_ns = client->wait_ns;
    talk->eager = false;
    int error = talk->error == -ENOTCONN ? -ETIMEDOUT : talk->error;
    talk->error = 0;
    return error < 0 ? explain(ret_error, error, "%s", talk->error_text ? talk->error_text : "")
                     : 0;
}

static int open_client(
    struct sherd_client *client, const struct sherd_client_options *options, char **ret_error)
{
    char *url = NULL;

    if (options->wait_ns < 0)
        return explain(ret_error, -EINVAL, "a negative time to wait");
    int r = make_fds(client);
    if (r < 0)
        return explain(ret_error, r, "file descriptors: %s", strerror(-r));
    r = load_token(client, options->token_file, ret_error);
    if (r == 0)
        r = find_url(options, &url, ret_error);
    if (r == 0)
        r = dial(client, options, url, ret_error);
    if (r == 0)
        r = get_to_know(client, ret_error);
    free(url);
    return r;
}

int sherd_client_open(
    const struct sherd_client_options *options, struct sherd_client **ret_client, char **ret_error)
{
    struct sherd_client *client = calloc(1, sizeof(*client));

    if (ret_error)
        *ret_error = NULL;
    if (!client)
        return explain(ret_error, -ENOMEM, "no memory");
    client->epoll_fd = client->timer_fd = -1;
    client->wait_ns = options->wait_ns;
    client->talk.window = options->window ? options->window : WINDOW_DEFAULT;
    talk_init(&client->talk);
    int r = open_client(client, options, ret_error);
    if (r < 0)
        sherd_client_close(client);
    else
        *ret_client = client;
    return r;
}

void sherd_client_close(struct sherd_client *client)
{
    if (!client)
        return;
    talk_deinit(&client->talk);
    token_deinit(&client->token);
    if (client->timer_fd >= 0)
        close(client->timer_fd);
    if (client->epoll_fd >= 0)
        close(client->epoll_fd);
    free(client);
}

/* ---- submitting ---- */

static int check(const struct sherd_request *request)
{
    if (!request->method || strnlen(request->method, METHOD_NAME_MAX + 1) > METHOD_NAME_MAX)
        return -EINVAL;
    if ((request->args_len > 0 && !request->args) || request->timeout_ns < 0)
        return -EINVAL;
    if (request->args_len > SHERD_PAYLOAD_MAX ||
        (request->key && request->key_len > PROTOCOL_KEY_MAX))
        return -EMSGSIZE;
    return 0;
}

int sherd_client_submit(struct sherd_client *client, const struct sherd_request *request,
    sherd_done_fn *done, void *opaque, uint64_t *ret_id)
{
    struct talk *talk = &client->talk;
    struct ticket *ticket;
    int r = check(request);

    if (r < 0)
        return r;
    r = ticket_new(&talk->tickets, talk->last_id + 1, request,
        end_of_wait(request->timeout_ns > 0 ? request->timeout_ns : -1), &ticket);
    if (r < 0)
        return r;
    ticket->done = done;
    ticket->opaque = opaque;
    talk->last_id++;
    if (ret_id)
        *ret_id = ticket->id;
    if (!client->rung && !client->inside) {
        client->rung = true;
        link_ring(talk->link);
    }
    return 0;
}

int sherd_client_cancel(struct sherd_client *client, uint64_t id)
{
    int r = talk_cancel(&client->talk, id);

    if (r == 0)
        link_ring(client->talk.link);
    return r;
}

/* ---- one call ---- */

struct one_call {
    struct sherd_result *result;
    bool ended;
    int error;
};

static void on_call_done(const struct sherd_result *result, void *opaque)
{
    struct one_call *call = opaque;

    call->ended = true;
    *call->result = *result;
    call->result->data = NULL;
    if (result->len == 0)
        return;
    call->result->data = malloc(result->len);
    if (call->result->data)
        memcpy(call->result->data, result->data, result->len);
    else
        call->error = -ENOMEM;
}

int sherd_client_call(struct sherd_client *client, const struct sherd_request *request,
    struct sherd_result *ret_result)
{
    struct sherd_result result = {};
    struct one_call call = {.result = &result};

    if (client->inside)
        return -EBUSY;
    int r = sherd_client_submit(client, request, on_call_done, &call, NULL);
    while (r >= 0 && !call.ended) {
        r = sherd_client_process(client, -1);
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
