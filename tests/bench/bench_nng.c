/* SPDX-License-Identifier: MIT */
/*
 * sys.ping over the control plane with 64 in flight, through a real instance of one shard, beside a
 * bare REQ and a bare REP of nng in two processes: as many contexts as requests, over the same kind
 * of socket, with messages of the size of one ping's submission and of one end.
 *
 * The bare pair sends each request and each reply by itself and has no work in between. Sherd's
 * client sends in one message what was submitted since the last, and gets in one what has ended; in
 * between its gateway notes what becomes of each request, and a shard runs it.
 *
 * bench_nng SHERD
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>

#include "ipc/client/client.h"
#include "proto/sherd.pb-c.h"
#include "tests/bench/compare.h"
#include "tests/bench/own_instance.h"

#define IN_FLIGHT 64u
#define WAIT_NS   INT64_C(10000000000)
#define FAR_ID    UINT64_C(1000000) /* ids and positions in the middle of a long run */

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_nng: %s: %s\n", what, why);
    exit(1);
}

static void check(int error, const char *what)
{
    if (error)
        die(what, nng_strerror(error));
}

/* ---- how long the messages are ---- */

static size_t request_bytes(void)
{
    Sherd__Wire__Submission submission = SHERD__WIRE__SUBMISSION__INIT;
    Sherd__Wire__Request request = SHERD__WIRE__REQUEST__INIT;

    submission.id = FAR_ID;
    submission.method = (char *)(uintptr_t) "sys.ping";
    request.body_case = SHERD__WIRE__REQUEST__BODY_SUBMIT;
    request.submit = &submission;
    return sherd__wire__request__get_packed_size(&request);
}

static size_t reply_bytes(void)
{
    Sherd__Wire__End end = SHERD__WIRE__END__INIT, *ends[] = {&end};
    Sherd__Wire__NextReply next = SHERD__WIRE__NEXT_REPLY__INIT;
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;

    end.id = FAR_ID;
    end.kind = SHERD__WIRE__END_KIND__DONE;
    end.runner_case = SHERD__WIRE__END__RUNNER_SHARD;
    next.first = FAR_ID;
    next.ends = ends;
    next.n_ends = 1;
    reply.body_case = SHERD__WIRE__REPLY__BODY_NEXT;
    reply.next = &next;
    return sherd__wire__reply__get_packed_size(&reply);
}

/* ---- the bare pair: a context for each request, which nng's threads move on ---- */

struct peer {
    nng_ctx ctx;
    nng_aio *aio;
    bool is_sending;
};

static struct {
    nng_socket socket;
    struct peer peers[IN_FLIGHT];
    size_t send_bytes;
    pid_t server;

    pthread_mutex_t lock; /* the client's */
    pthread_cond_t ended;
    uint64_t n_wanted;
    uint64_t n_begun;
    uint64_t n_ended;
} bare = {.lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};

static void send_one(struct peer *peer)
{
    nng_msg *msg;

    check(nng_msg_alloc(&msg, bare.send_bytes), "a message");
    memset(nng_msg_body(msg), 'x', bare.send_bytes);
    peer->is_sending = true;
    nng_aio_set_msg(peer->aio, msg);
    nng_ctx_send(peer->ctx, peer->aio);
}

static void receive_one(struct peer *peer)
{
    peer->is_sending = false;
    nng_ctx_recv(peer->ctx, peer->aio);
}

/* Whether a message has come, which is over; one that has gone is waited behind for the next. */
static bool has_received(struct peer *peer)
{
    if (nng_aio_result(peer->aio) != 0)
        return false;
    if (peer->is_sending) {
        receive_one(peer);
        return false;
    }
    nng_msg_free(nng_aio_get_msg(peer->aio));
    return true;
}

static void serve(void *opaque)
{
    struct peer *peer = opaque;

    if (has_received(peer))
        send_one(peer);
}

/* Whether there is one more to be sent. */
static bool count_end(void)
{
    pthread_mutex_lock(&bare.lock);
    bool more = bare.n_begun < bare.n_wanted;
    bare.n_begun += more;
    if (++bare.n_ended == bare.n_wanted)
        pthread_cond_signal(&bare.ended);
    pthread_mutex_unlock(&bare.lock);
    return more;
}

static void ask(void *opaque)
{
    struct peer *peer = opaque;

    if (has_received(peer) && count_end())
        send_one(peer);
}

static void open_peers(void (*on_event)(void *opaque), size_t send_bytes)
{
    bare.send_bytes = send_bytes;
    for (uint32_t i = 0; i < IN_FLIGHT; i++) {
        check(nng_ctx_open(&bare.peers[i].ctx, bare.socket), "a context");
        check(nng_aio_alloc(&bare.peers[i].aio, on_event, &bare.peers[i]), "an aio");
    }
}

static void run_server(const char *url)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    check(nng_rep0_open(&bare.socket), "rep");
    open_peers(serve, reply_bytes());
    for (uint32_t i = 0; i < IN_FLIGHT; i++)
        receive_one(&bare.peers[i]);
    check(nng_listen(bare.socket, url, NULL, 0), url);
    for (;;)
        pause();
}

/* Before nng has begun here: it does not survive a fork. */
static void begin_server(const char *url)
{
    bare.server = fork();
    if (bare.server < 0)
        die("fork", strerror(errno));
    if (bare.server == 0)
        run_server(url);
}

static void bare_pings(uint64_t n)
{
    pthread_mutex_lock(&bare.lock);
    bare.n_ended = 0;
    bare.n_wanted = n;
    bare.n_begun = n < IN_FLIGHT ? n : IN_FLIGHT;
    uint64_t n_first = bare.n_begun;
    pthread_mutex_unlock(&bare.lock);
    for (uint64_t i = 0; i < n_first; i++)
        send_one(&bare.peers[i]);
    pthread_mutex_lock(&bare.lock);
    while (bare.n_ended < n)
        pthread_cond_wait(&bare.ended, &bare.lock);
    pthread_mutex_unlock(&bare.lock);
}

static void open_bare_client(const char *url)
{
    check(nng_req0_open(&bare.socket), "req");
    open_peers(ask, request_bytes());
    /* It tries again by itself until the server listens. */
    check(nng_dial(bare.socket, url, NULL, NNG_FLAG_NONBLOCK), url);
}

/* ---- ours ---- */

static struct sherd_client *client;
static uint64_t n_ended;

static void on_done(const struct sherd_result *result, void *opaque)
{
    n_ended++;
    if (result->end != SHERD_END_DONE)
        die("sys.ping", sherd_end_text(result->end));
}

static void our_pings(uint64_t n)
{
    struct sherd_request request = {.method = "sys.ping"};
    uint64_t n_sent = 0;

    n_ended = 0;
    while (n_ended < n) {
        for (; n_sent < n && n_sent - n_ended < IN_FLIGHT; n_sent++)
            sherd_client_submit(client, &request, on_done, NULL, NULL);
        if (sherd_client_process(client, -1) < 0)
            die("sys.ping", "the instance is gone");
    }
}

static void open_client(void)
{
    struct sherd_client_options options = {
        .instance = OWN_INSTANCE, .wait_ns = WAIT_NS, .plane = SHERD_PLANE_CONTROL};
    char *error = NULL;

    if (sherd_client_open(&options, &client, &error) < 0)
        die("can't reach the instance", error ? error : "no reason given");
}

int main(int argc, char **argv)
{
    struct own_instance in;
    char url[64], what[64];

    if (argc != 2)
        die("usage", "bench_nng SHERD");
    own_instance_begin(&in, argv[1], (const char *[]){"--shards", "1", NULL});
    snprintf(url, sizeof url, "ipc://%s/bare", in.directory);
    begin_server(url);
    open_bare_client(url);
    open_client();

    snprintf(what, sizeof what, "req and rep, %zu and %zu bytes", request_bytes(), reply_bytes());
    compare_head();
    compare_row(&(struct compare){.what = "sys.ping, 64 in flight, control plane",
        .run = our_pings,
        .baseline_name = what,
        .baseline = bare_pings,
        .repeats = 10000,
        .rounds = 21,
        .goal = {.most_ratio = 1 / 0.85}});

    sherd_client_close(client);
    kill(bare.server, SIGKILL);
    waitpid(bare.server, NULL, 0);
    remove(url + strlen("ipc://"));
    own_instance_end(&in);
    return compare_end();
}
