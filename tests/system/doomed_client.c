/* SPDX-License-Identifier: MIT */
/*
 * doomed_client INSTANCE - a client of the data plane that does all that clients do, and dies
 *
 *   --at FILE:LINE --hit N   there, at the N-th time (doom.h)
 *   --stop                   is stopped there instead, for somebody to kill
 *   --file PATH              reads that too, past the page cache
 *   --data BYTES             size of its data area, half of which it writes to
 *   --rounds N               of requests to each shard
 *   --steady                 lives until its standard input ends, with a request now and then to
 *                            each shard; says how many were answered, and how long the longest took
 *
 * Without a death each request ends as it may, else the exit status is 1; and standard output has a
 * line for each point that was met.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/client/client.h"
#include "ipc/client/waiter.h"
#include "tests/system/doom.h"

#define SECOND    INT64_C(1000000000)
#define PIECE     8192u
#define LARGE     5000u
#define STEADY_MS 1 /* between two requests */

struct options {
    const char *instance, *at, *file;
    uint64_t hit, data_bytes;
    uint32_t n_rounds;
    bool stops, steady;
};

struct doomed {
    struct sherd_client *client;
    const struct options *options;
    uint8_t *args, *room; /* buffers of the data area */
    uint8_t read_args[512];
    size_t read_len;
    uint32_t n_sleepers;
    uint64_t sleeper; /* the last */
    uint64_t n_answered, n_wrong;
    int64_t longest_ns;
};

__attribute__((noreturn)) static void fail(const char *what, int error)
{
    fprintf(stderr, "doomed_client: %s: %s\n", what, strerror(-error));
    exit(1);
}

/* ---- requests ---- */

/* What is echoed: opaque says of which size. */
static uint8_t byte_at(size_t at)
{
    return (uint8_t)(at * 7 + at / 251);
}

static void on_echo(const struct sherd_result *result, void *opaque)
{
    struct doomed *doomed = opaque;
    bool right = result->end == SHERD_END_DONE;

    for (size_t at = 0; right && at < result->len; at++)
        right = result->data[at] == byte_at(at);
    doomed->n_wrong += !right;
    doomed->n_answered++;
}

static void on_read(const struct sherd_result *result, void *opaque)
{
    struct doomed *doomed = opaque;

    doomed->n_wrong += result->end != SHERD_END_DONE || result->len != PIECE;
    doomed->n_answered++;
}

static void on_sleep(const struct sherd_result *result, void *opaque)
{
    struct doomed *doomed = opaque;

    doomed->n_wrong += result->end != SHERD_END_CANCELLED;
    doomed->n_sleepers--;
}

static uint64_t submit(
    struct doomed *doomed, const struct sherd_request *request, sherd_done_fn *done)
{
    uint64_t id;
    int r = sherd_client_submit(doomed->client, request, done, doomed, &id);

    if (r < 0)
        fail(request->method, r);
    return id;
}

static void submit_echo(struct doomed *doomed, uint32_t shard, size_t len, void *room)
{
    submit(doomed,
        &(struct sherd_request){.method = "sys.echo",
            .args = doomed->args,
            .args_len = len,
            .room = room,
            .room_len = room ? PIECE : 0,
            .answer_max = PIECE,
            .shard = shard,
            .flags = SHERD_TO_SHARD | (len == 0 ? SHERD_URGENT : 0)},
        on_echo);
}

static void submit_to_shard(struct doomed *doomed, uint32_t shard)
{
    static const char forever[] = "600000";

    submit_echo(doomed, shard, 0, NULL);
    submit_echo(doomed, shard, 16, NULL);
    submit_echo(doomed, shard, LARGE, NULL);
    submit_echo(doomed, shard, LARGE, doomed->room);
    /* By the method's own rule: the shard that is asked may have to ask another. */
    if (doomed->options->file)
        submit(doomed,
            &(struct sherd_request){.method = "file.read",
                .args = doomed->read_args,
                .args_len = doomed->read_len,
                .room = doomed->room + PIECE * (1 + shard),
                .room_len = PIECE,
                .shard = shard,
                .flags = SHERD_TO_SHARD},
            on_read);
    doomed->sleeper = submit(doomed,
        &(struct sherd_request){.method = "sys.sleep",
            .args = forever,
            .args_len = sizeof(forever) - 1,
            .shard = shard,
            .flags = SHERD_TO_SHARD},
        on_sleep);
    doomed->n_sleepers++;
}

static void process(struct doomed *doomed)
{
    int r = sherd_client_process(doomed->client, 60 * SECOND);

    if (r <= 0)
        fail("waiting", r < 0 ? r : -ETIMEDOUT);
}

static void make_round(struct doomed *doomed)
{
    uint32_t n_shards = sherd_client_n_shards(doomed->client), n_left;

    for (uint32_t shard = 0; shard < n_shards; shard++)
        submit_to_shard(doomed, shard);
    sherd_client_flush(doomed->client);
    sherd_client_cancel(doomed->client, doomed->sleeper);
    n_left = doomed->n_sleepers - 1;
    while (sherd_client_in_flight(doomed->client) > n_left)
        process(doomed);
}

/* ---- life ---- */

static size_t put_number(uint8_t *to, uint8_t field, uint64_t value)
{
    size_t n = 0;

    to[n++] = (uint8_t)(field << 3);
    for (; value >= 0x80; value >>= 7)
        to[n++] = (uint8_t)(value | 0x80);
    to[n++] = (uint8_t)value;
    return n;
}

/* A file.Request (proto/file.proto): path, length, direct. */
static void pack_read(struct doomed *doomed, const char *path)
{
    size_t len = strlen(path);
    uint8_t *to = doomed->read_args;

    if (len > 127)
        fail(path, -ENAMETOOLONG);
    to[0] = 1 << 3 | 2;
    to[1] = (uint8_t)len;
    memcpy(to + 2, path, len);
    doomed->read_len = 2 + len;
    doomed->read_len += put_number(to + doomed->read_len, 3, PIECE);
    doomed->read_len += put_number(to + doomed->read_len, 5, 1);
}

/* The bytes of a large piece of the area have pages in this process too. */
static void touch(struct doomed *doomed, size_t len)
{
    uint8_t *piece = sherd_buffer_alloc(doomed->client, len);

    if (!piece)
        fail("a large buffer", -errno);
    memset(piece, 1, len);
    sherd_buffer_free(doomed->client, piece);
}

static void take_buffers(struct doomed *doomed)
{
    size_t half = doomed->options->data_bytes / 2;

    touch(doomed, half < SHERD_BUFFER_MAX ? half : SHERD_BUFFER_MAX);
    doomed->args = sherd_buffer_alloc(doomed->client, LARGE);
    doomed->room =
        sherd_buffer_alloc(doomed->client, PIECE * (1 + sherd_client_n_shards(doomed->client)));
    if (!doomed->args || !doomed->room)
        fail("buffers", -errno);
    for (size_t at = 0; at < LARGE; at++)
        doomed->args[at] = byte_at(at);
}

static void be_steady(struct doomed *doomed)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    uint32_t shard = 0;

    while (poll(&input, 1, STEADY_MS) == 0) {
        int64_t begin_ns = waiter_now_ns();
        submit_echo(doomed, shard++ % sherd_client_n_shards(doomed->client), LARGE, NULL);
        while (sherd_client_in_flight(doomed->client) > 0)
            process(doomed);
        if (waiter_now_ns() - begin_ns > doomed->longest_ns)
            doomed->longest_ns = waiter_now_ns() - begin_ns;
    }
    printf("%llu %lld\n", (unsigned long long)doomed->n_answered, (long long)doomed->longest_ns);
}

static void live(struct doomed *doomed)
{
    const struct options *options = doomed->options;
    struct sherd_client_options wishes = {.instance = options->instance,
        .name = options->steady ? "steady" : "doomed",
        .wait_ns = 20 * SECOND,
        .data_bytes = options->data_bytes,
        .plane = SHERD_PLANE_DATA};
    int r = sherd_client_open(&wishes, &doomed->client, NULL);

    if (r < 0)
        fail("opening", r);
    take_buffers(doomed);
    if (options->file)
        pack_read(doomed, options->file);
    if (options->steady)
        be_steady(doomed);
    else
        for (uint32_t i = 0; i < options->n_rounds; i++)
            make_round(doomed);
    sherd_client_close(doomed->client);
}

static void parse(int argc, char **argv, struct options *options)
{
    static const struct option known[] = {
        {"at", required_argument, NULL, 'a'},
        {"hit", required_argument, NULL, 'h'},
        {"stop", no_argument, NULL, 's'},
        {"file", required_argument, NULL, 'f'},
        {"data", required_argument, NULL, 'd'},
        {"rounds", required_argument, NULL, 'r'},
        {"steady", no_argument, NULL, 'y'},
        {0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
        switch (c) {
        case 'a':
            options->at = optarg;
            break;
        case 'h':
            options->hit = strtoull(optarg, NULL, 10);
            break;
        case 's':
            options->stops = true;
            break;
        case 'f':
            options->file = optarg;
            break;
        case 'd':
            options->data_bytes = strtoull(optarg, NULL, 10);
            break;
        case 'r':
            options->n_rounds = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'y':
            options->steady = true;
            break;
        default:
            exit(2);
        }
    if (optind + 1 != argc)
        exit(2);
    options->instance = argv[optind];
}

int main(int argc, char **argv)
{
    struct options options = {.hit = 1, .n_rounds = 3, .data_bytes = 1 << 20};
    struct doomed doomed = {.options = &options};

    parse(argc, argv, &options);
    doom_begin(options.at, options.hit, options.stops ? SIGSTOP : SIGKILL);
    live(&doomed);
    if (!options.at && !options.steady)
        doom_print();
    if (doomed.n_wrong > 0)
        fprintf(
            stderr, "doomed_client: %llu answers were wrong\n", (unsigned long long)doomed.n_wrong);
    return doomed.n_wrong > 0;
}
