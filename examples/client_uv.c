/* SPDX-License-Identifier: MIT */
/*
 * client_uv INSTANCE COUNT: so many pings, in a program whose loop is libuv's
 *
 * The client has one fd, whatever it is connected by: a uv_poll_t watches it, and what has ended is
 * handled when it is readable. Ends with status 1 where a ping was not answered.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <uv.h>

#include <sherd/client.h>

#define IN_FLIGHT 100

struct pings {
    uv_poll_t poll;
    struct sherd_client *client;
    long n_left; /* to be submitted */
    long n_answered, n_failed;
};

static void on_answer(const struct sherd_result *result, void *opaque);

static void ping(struct pings *pings)
{
    const struct sherd_request request = {.method = "sys.ping"};

    pings->n_left--;
    if (sherd_client_submit(pings->client, &request, on_answer, pings, NULL) < 0)
        pings->n_failed++;
}

static void on_answer(const struct sherd_result *result, void *opaque)
{
    struct pings *pings = opaque;

    if (result->end == SHERD_END_DONE)
        pings->n_answered++;
    else
        pings->n_failed++;
    if (pings->n_left > 0)
        ping(pings);
}

/* The loop ends when nothing is watched any more. */
static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct pings *pings = poll->data;
    int r = status < 0 ? status : sherd_client_process(pings->client, 0);

    if (r < 0)
        fprintf(
            stderr, "client_uv: %s: %s\n", strerror(-r), sherd_client_error_text(pings->client));
    if (status < 0 || sherd_client_in_flight(pings->client) == 0)
        uv_close((uv_handle_t *)poll, NULL);
}

int main(int argc, char **argv)
{
    struct pings pings = {0};
    char *error;

    if (argc != 3 || (pings.n_left = strtol(argv[2], NULL, 10)) < 1) {
        fprintf(stderr, "usage: client_uv INSTANCE COUNT\n");
        return 2;
    }
    struct sherd_client_options options = {.instance = argv[1]};
    if (sherd_client_open(&options, &pings.client, &error) < 0) {
        fprintf(stderr, "client_uv: %s\n", error ? error : "no memory");
        free(error);
        return 1;
    }
    uv_loop_t *loop = uv_default_loop();
    uv_poll_init(loop, &pings.poll, sherd_client_fd(pings.client));
    pings.poll.data = &pings;
    uv_poll_start(&pings.poll, UV_READABLE, on_readable);
    for (int i = 0; i < IN_FLIGHT && pings.n_left > 0; i++)
        ping(&pings);
    sherd_client_flush(pings.client); /* the loop sleeps elsewhere */
    uv_run(loop, UV_RUN_DEFAULT);

    printf("%ld answered, %ld failed\n", pings.n_answered, pings.n_failed);
    sherd_client_close(pings.client);
    uv_loop_close(loop);
    return pings.n_failed > 0;
}
