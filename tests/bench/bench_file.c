/* SPDX-License-Identifier: MIT */
/*
 * Reads of 4 KiB by a client process through a real instance of one shard, over the data plane,
 * both awake, beside a bare liburing loop that reads the same file in this process: from the page
 * cache with one in flight and 32, and past it (O_DIRECT) with 32.
 *
 * The bare loop asks anew for what a wait has brought, all with one system call. A disk is the
 * faster the less it waits for such batches to gather: so past the cache there are two bare loops,
 * of which the other hands over reads by fours. What is in the page cache the shard reads by a
 * preadv2() each, so a bare loop of these stands beside it, too.
 *
 * The shard has a core of its own, as ever; the kernel sees that this process has another one.
 *
 * bench_file SHERD [FOLDER]
 *            a file of FILE_BYTES is made in the folder (.) and removed, on a disk's file system
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ipc/client/client.h"
#include "proto/file.pb-c.h"
#include "tests/bench/bare_reads.h"
#include "tests/bench/compare.h"
#include "tests/bench/own_instance.h"

#define FILE_BYTES ((size_t)256 << 20)
#define FILE_NAME  "bench_file.tmp"
#define SPIN_NS    INT64_C(1000000)
#define SPIN_US    "1000"
#define WAIT_NS    INT64_C(10000000000)
#define SPAN_BYTES 24u

/* A read in flight. */
struct place {
    uint64_t span[3]; /* what file.pread takes: handle, offset, bytes; little-endian */
    void *room;
};

static struct {
    struct sherd_client *client;
    uint32_t pread;
    uint64_t handle;        /* of the file that is measured */
    uint64_t plain, direct; /* handles of the file, opened without O_DIRECT and with it */
    struct place places[BARE_DEPTH_MAX];
    struct place *free[BARE_DEPTH_MAX];
    uint32_t n_free;
    uint64_t n_ended;
} ours;

static struct bare_reads bare;

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_file: %s: %s\n", what, why);
    exit(1);
}

/* ---- ours ---- */

static void on_read(const struct sherd_result *result, void *opaque)
{
    if (result->end != SHERD_END_DONE || result->len != BARE_READ_BYTES)
        die("file.pread", sherd_end_text(result->end));
    ours.free[ours.n_free++] = opaque;
    ours.n_ended++;
}

static void begin_read(void)
{
    struct place *place = ours.free[--ours.n_free];
    struct sherd_request request = {.method_handle = ours.pread,
        .args = place->span,
        .args_len = SPAN_BYTES,
        .room = place->room,
        .room_len = BARE_READ_BYTES};

    place->span[0] = htole64(ours.handle);
    place->span[1] = htole64(bare_reads_offset(&bare));
    place->span[2] = htole64(BARE_READ_BYTES);
    if (sherd_client_submit(ours.client, &request, on_read, place, NULL) < 0)
        die("file.pread", "can't be submitted");
}

static void our_reads(uint64_t n)
{
    uint64_t n_begun = 0;

    ours.n_ended = 0;
    while (ours.n_ended < n) {
        for (; n_begun < n && n_begun - ours.n_ended < bare.depth; n_begun++)
            begin_read();
        if (sherd_client_process(ours.client, -1) < 0)
            die("file.pread", "the instance is gone");
    }
}

static void open_client(void)
{
    struct sherd_client_options options = {.instance = OWN_INSTANCE,
        .wait_ns = WAIT_NS,
        .plane = SHERD_PLANE_DATA,
        .spin_ns = SPIN_NS,
        .data_bytes = 4 * BARE_DEPTH_MAX * BARE_READ_BYTES};
    char *error = NULL;

    if (sherd_client_open(&options, &ours.client, &error) < 0)
        die("can't reach the instance", error ? error : "no reason given");
    sherd_client_method(ours.client, "file.pread", &ours.pread);
    for (uint32_t i = 0; i < BARE_DEPTH_MAX; i++) {
        ours.places[i].room = sherd_buffer_alloc(ours.client, BARE_READ_BYTES);
        if (!ours.places[i].room)
            die("buffers", strerror(errno));
        ours.free[ours.n_free++] = &ours.places[i];
    }
}

static uint64_t open_file(const char *path, bool is_direct)
{
    Sherd__File__Request message = SHERD__FILE__REQUEST__INIT;
    Sherd__File__OpenReply *reply;
    struct sherd_request request = {.method = "file.open"};
    struct sherd_result result;

    message.path = (ProtobufCBinaryData){strlen(path), (uint8_t *)(uintptr_t)path};
    message.direct = is_direct;
    uint8_t *args = malloc(sherd__file__request__get_packed_size(&message));
    if (!args)
        die("file.open", strerror(ENOMEM));
    request.args = args;
    request.args_len = sherd__file__request__pack(&message, args);
    if (sherd_client_call(ours.client, &request, &result) < 0 || result.end != SHERD_END_DONE)
        die("file.open", result.data ? (char *)result.data : path);
    reply = sherd__file__open_reply__unpack(NULL, result.len, result.data);
    if (!reply)
        die("file.open", "what it answers makes no sense");
    uint64_t handle = reply->handle;
    sherd__file__open_reply__free_unpacked(reply, NULL);
    sherd_result_deinit(&result);
    free(args);
    return handle;
}

/* ---- the bare loop ---- */

static void bare_loop(uint64_t n)
{
    bare.batch = 0;
    bare_reads_run(&bare, n);
}

static void bare_loop_by_fours(uint64_t n)
{
    bare.batch = 4;
    bare_reads_run(&bare, n);
}

static void bare_at_once(uint64_t n)
{
    bare_reads_at_once(&bare, n);
}

/* ---- the table ---- */

struct row {
    const char *what;
    uint32_t depth;
    bool is_direct;
    const char *baseline_name;
    void (*baseline)(uint64_t n);
    struct compare_goal goal;
};

static const struct row rows[] = {
    {"page cache, 1 in flight", 1, false, "bare liburing, fixed", bare_loop, {.most_ns = 1800}},
    {"page cache, 32 in flight", 32, false, "bare liburing, fixed", bare_loop,
        {.most_ratio = 1 / 0.77}},
    {"page cache, 32 in flight", 32, false, "preadv2, one by one", bare_at_once, {0}},
    {"O_DIRECT, 32 in flight", 32, true, "bare liburing, fixed", bare_loop,
        {.most_ratio = 1 / 0.95}},
    {"O_DIRECT, 32 in flight", 32, true, "the same, by fours", bare_loop_by_fours,
        {.most_ratio = 1 / 0.95}},
};

static void measure(const struct row *row)
{
    ours.handle = row->is_direct ? ours.direct : ours.plain;
    bare.depth = row->depth;
    bare.is_direct = row->is_direct;
    compare_row(&(struct compare){.what = row->what,
        .run = our_reads,
        .baseline_name = row->baseline_name,
        .baseline = row->baseline,
        .repeats = row->is_direct ? 5000 : 20000,
        .rounds = row->is_direct ? 21 : 31,
        .goal = row->goal});
}

int main(int argc, char **argv)
{
    char *folder = argc == 2 || argc == 3 ? realpath(argc == 3 ? argv[2] : ".", NULL) : NULL, *path;
    struct own_instance in;

    if (!folder)
        die("usage", "bench_file SHERD [FOLDER]");
    if (asprintf(&path, "%s/" FILE_NAME, folder) < 0)
        die(folder, strerror(ENOMEM));
    int fd = bare_reads_make_file(path, FILE_BYTES);
    bare_reads_open(&bare, fd, open(path, O_RDONLY | O_DIRECT | O_CLOEXEC), FILE_BYTES);
    bare.is_fixed = true;
    own_instance_begin(
        &in, argv[1], (const char *[]){"--shards", "1", "--spin", SPIN_US, "--root", folder, NULL});
    open_client();
    ours.plain = open_file(path, false);
    if (bare.fds[1] >= 0)
        ours.direct = open_file(path, true);
    compare_head();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (!rows[i].is_direct || bare.fds[1] >= 0)
            measure(&rows[i]);
    sherd_client_close(ours.client);
    own_instance_end(&in);
    unlink(path);
    bare_reads_close(&bare);
    free(path);
    free(folder);
    return compare_end();
}
