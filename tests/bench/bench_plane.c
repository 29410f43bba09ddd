/* SPDX-License-Identifier: MIT */
/*
 * What a request of a local client costs over the data plane: both awake, on two cores, against two
 * bare rings between the same two; and both asleep, against an echo over a Unix socket between two
 * processes that sleep as well.
 *
 * The client is this process, the shard another one, with a mesh and a plane and nothing else.
 *
 * bench_plane [one] [many] [wake]: these alone, for a profile.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "tests/bench/bare_rings.h"
#include "tests/bench/compare.h"
#include "tests/bench/two_cpus.h"
#include "tests/unit/plane/plane_rig.h"

#define IN_FLIGHT 64
#define SPIN_NS   50000 /* as a shard does while there is work */

static void check(bool ok)
{
    if (!ok)
        abort();
}

/* ---- two bare rings ---- */

static struct bare_rings *bare;
static uint32_t
    *shard_sleeps; /* written by the client: the shard is to sleep where there is nothing to do */
static struct rig rig;
static struct client client;

static void bare_run(uint64_t n, uint32_t in_flight)
{
    bare_rings_start(bare);
    send(client.bells[0], "", 1, MSG_DONTWAIT); /* it may sleep */
    bare_rings_run(bare, n, in_flight);
    bare_rings_stop(bare);
}

static void bare_one(uint64_t n)
{
    bare_run(n, 1);
}

static void bare_many(uint64_t n)
{
    bare_run(n, IN_FLIGHT);
}

/* ---- the shard ---- */

static void serve(struct rig_end *end)
{
    struct plane *plane = plane_rig_new(end);

    two_cpus_pin(1);
    check(client_open(&client, plane) == 0);
    plane_recover(plane);
    uint32_t sleeps = 2; /* neither yet */

    while (!atomic_load(&end->rig->board->leave)) {
        if (sleeps != atomic_load_relaxed(shard_sleeps)) {
            sleeps = atomic_load_relaxed(shard_sleeps);
            aio_context_set_poll_params(end->ctx, sleeps ? 0 : SPIN_NS, 0, 0);
        }
        aio_poll(end->ctx, true);
        bare_rings_echo(bare);
    }
    plane_drop(plane, client.grant.client, client.grant.generation);
    plane_free(plane);
}

/* ---- the client, awake ---- */

static void ping_run(uint64_t n, uint32_t in_flight)
{
    uint64_t sent = 0, received = 0;
    struct plane_completion c;

    while (received < n) {
        while (sent < n && sent - received < in_flight) {
            struct plane_submission *entry =
                plane_submission_at(&client.layout, client.base, client.shard, client.pushed);
            entry->id = sent++;
            entry->method = 0;
            entry->flags = PLANE_ARGS_INLINE;
            entry->route_kind = PLANE_ROUTE_HERE;
            entry->deadline_ns = 0;
            entry->args_len = entry->room_len = 0;
            client_push(&client);
        }
        while (client_pop(&client, &c)) {
            check(c.end == CALL_END_DONE);
            received++;
        }
    }
}

static void ping_one(uint64_t n)
{
    ping_run(n, 1);
}

static void ping_many(uint64_t n)
{
    ping_run(n, IN_FLIGHT);
}

/* ---- both asleep ---- */

static int echo_fds[2];

static void echo_process(void)
{
    char byte;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    two_cpus_pin(1);
    close(echo_fds[0]);
    while (recv(echo_fds[1], &byte, 1, 0) == 1)
        if (send(echo_fds[1], &byte, 1, 0) != 1)
            break;
    _exit(0);
}

static void echo_wakes(uint64_t n)
{
    char byte = 0;

    while (n-- > 0)
        check(send(echo_fds[0], &byte, 1, 0) == 1 && recv(echo_fds[0], &byte, 1, 0) == 1);
}

static void ping_wakes(uint64_t n)
{
    struct plane_words *words = plane_words_of(&client.layout, client.base, client.shard);
    struct plane_completion c;
    char byte;

    atomic_store_relaxed(shard_sleeps, 1);
    for (uint64_t i = 0; i < n; i++) {
        atomic_store_relaxed(&words->client_sleeps, 1);
        client_call(&client, 0);
        while (!client_pop(&client, &c))
            check(recv(client.bells[0], &byte, 1, 0) == 1);
    }
    atomic_store_relaxed(&words->client_sleeps, 0);
    atomic_store_relaxed(shard_sleeps, 0);
    client_call(&client, 0);
    while (!client_pop(&client, &c))
        ;
    while (recv(client.bells[0], &byte, 1, MSG_DONTWAIT) == 1)
        ;
}

static bool is_wanted(char **names, const char *name)
{
    bool any = false;

    for (; *names; names++) {
        if (strcmp(*names, name) == 0)
            return true;
        any = true;
    }
    return !any;
}

int main(int argc, char **argv)
{
    (void)argc;
    two_cpus_begin();
    bare = bare_rings_new();
    shard_sleeps = two_cpus_memory(sizeof(*shard_sleeps));
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, echo_fds) == 0);
    rig_open(&rig, 1, &rig_nothing);
    rig.engine = AIO_ENGINE_IO_URING;
    client_make(&client, &rig, 0, 1, 256, 4096);
    two_cpus_anywhere();
    pid_t echo = fork();
    if (echo == 0)
        echo_process();
    rig_fork(&rig, 0, serve);
    two_cpus_pin(0);
    ping_run(1000, 1);
    compare_head();
    if (is_wanted(argv + 1, "one"))
        compare_row(&(struct compare){.what = "ping, 1 in flight",
            .run = ping_one,
            .baseline_name = "two bare rings",
            .baseline = bare_one,
            .repeats = 100000,
            .goal = {.most_ns = 700, .most_ratio = 1.8}});
    if (is_wanted(argv + 1, "many"))
        compare_row(&(struct compare){.what = "ping, 64 in flight",
            .run = ping_many,
            .baseline_name = "two bare rings",
            .baseline = bare_many,
            .repeats = 1000000,
            .goal = {.most_ns = 125, .most_ratio = 4.0} /* 8 M/s, where the rings do 32 */});
    if (is_wanted(argv + 1, "wake"))
        compare_row(&(struct compare){.what = "ping, both asleep",
            .run = ping_wakes,
            .baseline_name = "socket echo",
            .baseline = echo_wakes,
            .repeats = 300,
            .goal = {.most_ratio = 1.15}});
    kill(echo, SIGKILL);
    rig_stop_all(&rig);
    rig_close(&rig);
    client_free(&client);
    return compare_end();
}
