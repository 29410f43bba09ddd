/* SPDX-License-Identifier: MIT */
/*
 * client_glib INSTANCE COUNT: so many pings, in a program whose loop is GLib's
 *
 * The client has one fd, whatever it is connected by: a source of GLib's watches it, and what has
 * ended is handled when it is readable. Ends with status 1 where a ping was not answered.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <glib-unix.h>
#include <glib.h>

#include <sherd/client.h>

#define IN_FLIGHT 100

struct pings {
    GMainLoop *loop;
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
    else if (sherd_client_in_flight(pings->client) == 0)
        g_main_loop_quit(pings->loop);
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer opaque)
{
    struct pings *pings = opaque;
    int r = sherd_client_process(pings->client, 0);

    if (r < 0)
        fprintf(
            stderr, "client_glib: %s: %s\n", strerror(-r), sherd_client_error_text(pings->client));
    if (sherd_client_in_flight(pings->client) == 0)
        g_main_loop_quit(pings->loop);
    return G_SOURCE_CONTINUE;
}

int main(int argc, char **argv)
{
    struct pings pings = {0};
    char *error;

    if (argc != 3 || (pings.n_left = strtol(argv[2], NULL, 10)) < 1) {
        fprintf(stderr, "usage: client_glib INSTANCE COUNT\n");
        return 2;
    }
    struct sherd_client_options options = {.instance = argv[1]};
    if (sherd_client_open(&options, &pings.client, &error) < 0) {
        fprintf(stderr, "client_glib: %s\n", error ? error : "no memory");
        free(error);
        return 1;
    }
    pings.loop = g_main_loop_new(NULL, FALSE);
    guint source = g_unix_fd_add(sherd_client_fd(pings.client), G_IO_IN, on_readable, &pings);
    for (int i = 0; i < IN_FLIGHT && pings.n_left > 0; i++)
        ping(&pings);
    sherd_client_flush(pings.client); /* the loop sleeps elsewhere */
    g_main_loop_run(pings.loop);

    printf("%ld answered, %ld failed\n", pings.n_answered, pings.n_failed);
    g_source_remove(source);
    g_main_loop_unref(pings.loop);
    sherd_client_close(pings.client);
    return pings.n_failed > 0;
}
