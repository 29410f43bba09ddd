/* SPDX-License-Identifier: MIT */
/*
 * What a request costs through the client library and a real instance of one shard, on two cores:
 * sys.ping over the data plane, one in flight and 64, beside two bare rings between two processes;
 * fetched instead of with callbacks; and over the control plane. bench_plane has the server's
 * share.
 *
 * bench_client SHERD
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ipc/client/client.h"
#include "tests/bench/bare_rings.h"
#include "tests/bench/compare.h"
#include "tests/bench/own_instance.h"

#define SECOND INT64_C(1000000000)
#define MANY   64u

static struct sherd_client *data, *control;
static uint32_t data_ping;
static uint64_t n_ended;
static struct bare_rings *rings;
static int echo_fds[2]; /* a byte has the other end of the rings look */

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_client: %s: %s\n", what, why);
    exit(1);
}

static struct sherd_client *open_plane(enum sherd_plane plane)
{
    struct sherd_client_options options = {.instance = OWN_INSTANCE,
        .wait_ns = 10 * SECOND,
        .plane = plane,
        .spin_ns = SECOND / 1000,
        .window = 256};
    struct sherd_client *client;
    char *error = NULL;

    if (sherd_client_open(&options, &client, &error) < 0)
        die("can't reach the instance", error ? error : "no reason given");
    return client;
}

static struct sherd_request data_request(void)
{
    return (struct sherd_request){.method_handle = data_ping, .answer_max = SHERD_ANSWER_SMALL};
}

/* ---- two bare rings, with a process that sleeps but for these ---- */

static pid_t begin_echo(void)
{
    char byte;

    rings = bare_rings_new();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, echo_fds) < 0)
        die("an echo", "can't be made");
    pid_t pid = fork();
    if (pid < 0)
        die("an echo", "can't be forked");
    if (pid > 0)
        return pid;
    close(echo_fds[0]);
    while (read(echo_fds[1], &byte, 1) == 1)
        bare_rings_echo(rings);
    _exit(0);
}

static void rings_run(uint64_t n, uint32_t in_flight)
{
    bare_rings_start(rings);
    if (write(echo_fds[0], "", 1) != 1)
        die("an echo", "has ended");
    bare_rings_run(rings, n, in_flight);
    bare_rings_stop(rings);
}

static void one_by_rings(uint64_t n)
{
    rings_run(n, 1);
}

static void many_by_rings(uint64_t n)
{
    rings_run(n, MANY);
}

/* ---- one in flight ---- */

static void one(struct sherd_client *client, const struct sherd_request *request, uint64_t n)
{
    struct sherd_result result;

    while (n-- > 0) {
        if (sherd_client_call(client, request, &result) < 0 || result.end != SHERD_END_DONE)
            die("sys.ping", "failed");
        sherd_result_deinit(&result);
    }
}

static void one_by_data(uint64_t n)
{
    struct sherd_request request = data_request();

    one(data, &request, n);
}

static void one_by_control(uint64_t n)
{
    struct sherd_request request = {.method = "sys.ping"};

    one(control, &request, n);
}

/* ---- many ---- */

static void on_done(const struct sherd_result *result, void *opaque)
{
    n_ended++;
    if (result->end != SHERD_END_DONE)
        die("sys.ping", sherd_end_text(result->end));
}

static void many_by_callbacks(
    struct sherd_client *client, const struct sherd_request *request, uint64_t n)
{
    uint64_t n_sent = 0;

    n_ended = 0;
    while (n_ended < n) {
        for (; n_sent < n && n_sent - n_ended < MANY; n_sent++)
            sherd_client_submit(client, request, on_done, NULL, NULL);
        if (sherd_client_process(client, -1) < 0)
            die("sys.ping", "the instance is gone");
    }
}

static void many_by_data(uint64_t n)
{
    struct sherd_request request = data_request();

    many_by_callbacks(data, &request, n);
}

static void many_by_control(uint64_t n)
{
    struct sherd_request request = {.method = "sys.ping"};

    many_by_callbacks(control, &request, n);
}

static void many_fetched(uint64_t n)
{
    struct sherd_request request = data_request();
    struct sherd_result results[MANY];
    uint64_t n_sent = 0, n_got = 0;

    while (n_got < n) {
        for (; n_sent < n && n_sent - n_got < MANY; n_sent++)
            sherd_client_submit(data, &request, NULL, NULL, NULL);
        int got = sherd_client_reap(data, results, MANY, -1);
        if (got < 0)
            die("sys.ping", "the instance is gone");
        n_got += (uint64_t)got;
    }
}

int main(int argc, char **argv)
{
    struct own_instance in;

    if (argc != 2)
        die("usage", "bench_client SHERD");
    pid_t echo = begin_echo();
    own_instance_begin(&in, argv[1], (const char *[]){"--shards", "1", NULL});
    data = open_plane(SHERD_PLANE_DATA);
    control = open_plane(SHERD_PLANE_CONTROL);
    sherd_client_method(data, "sys.ping", &data_ping);

    compare_head();
    compare_row(&(struct compare){.what = "sys.ping, one in flight, data plane",
        .run = one_by_data,
        .baseline_name = "two bare rings",
        .baseline = one_by_rings,
        .repeats = 100000,
        .goal = {.most_ns = 700, .most_ratio = 1.8}});
    compare_row(&(struct compare){.what = "sys.ping, 64 in flight, data plane",
        .run = many_by_data,
        .baseline_name = "two bare rings",
        .baseline = many_by_rings,
        .repeats = 400000,
        .goal = {.most_ns = 125, .most_ratio = 4.0}}); /* 8 M/s, where the rings do 32 */
    compare_row(&(struct compare){.what = "sys.ping, 64 in flight, fetched",
        .run = many_fetched,
        .baseline_name = "with callbacks",
        .baseline = many_by_data,
        .repeats = 400000});
    compare_row(&(struct compare){.what = "sys.ping, one in flight, control plane",
        .run = one_by_control,
        .baseline_name = "data plane",
        .baseline = one_by_data,
        .repeats = 300,
        .baseline_repeats = 20000});
    compare_row(&(struct compare){.what = "sys.ping, 64 in flight, control plane",
        .run = many_by_control,
        .baseline_name = "data plane",
        .baseline = many_by_data,
        .repeats = 10000,
        .baseline_repeats = 200000});

    sherd_client_close(data);
    sherd_client_close(control);
    own_instance_end(&in);
    close(echo_fds[0]);
    kill(echo, SIGKILL);
    waitpid(echo, NULL, 0);
    return compare_end();
}
