/* SPDX-License-Identifier: MIT */
/*
 * What clients send at the attach socket: any bytes, any number of connections, in any order, with
 * the gateway replaced and shards asking for ends in between. No client has more than one row, what
 * is granted is as it was asked for, and nothing is left of clients that are gone: no row, no fd,
 * no byte of the memory that all have together.
 *
 * Input: steps; the first byte says which.
 */
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/data_plane.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/ipc/attach_rig.h"

#define CONNECTIONS  4u
#define STEPS_MOST   32u
#define N_SHARDS     2u
#define CLIENT_BYTES (UINT64_C(1) << 20)

enum step { CONNECT, HELLO, OPEN, BYTES, SPOILED, CLOSE, REPLACE, CUT, READ, SETTLE, N_STEPS };

static struct attach_rig rig;
static int connections[CONNECTIONS];
static uint32_t n_kept_before;

static void discard(void)
{
    rig_discard(&rig);
}

static void check_welcome(const struct attach_welcome *welcome, int fd)
{
    struct plane_layout layout =
        plane_layout(welcome->n_shards, welcome->n_entries, welcome->data_bytes);
    struct stat st;

    assert(welcome->n_entries >= PLANE_ENTRIES_MIN && welcome->n_entries <= PLANE_ENTRIES_MAX);
    assert((welcome->n_entries & (welcome->n_entries - 1)) == 0);
    assert(layout.total_bytes == welcome->total_bytes && welcome->total_bytes <= CLIENT_BYTES);
    assert(fd >= 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size == welcome->total_bytes);
}

static void read_answers(int at)
{
    union {
        struct attach_head head;
        struct attach_welcome welcome;
        struct attach_opened opened;
        struct attach_refused refused;
    } answer;
    int n, fd;

    while (at >= 0 && (n = rig_receive(at, &answer, sizeof(answer), &fd)) > 0) {
        assert(answer.head.magic == ATTACH_MAGIC && answer.head.version == ATTACH_VERSION);
        if (answer.head.kind == ATTACH_WELCOME)
            check_welcome(&answer.welcome, fd);
        else if (answer.head.kind == ATTACH_OPENED)
            assert(fd >= 0 && n == (int)sizeof(answer.opened) && answer.opened.shard < N_SHARDS);
        else
            assert(fd < 0 && n == (int)sizeof(answer.refused) && answer.refused.error < 0 &&
                   memchr(answer.refused.text, 0, sizeof(answer.refused.text)));
        if (fd >= 0)
            close(fd);
    }
}

static void say(int at, const void *bytes, size_t len)
{
    if (at >= 0 && len)
        (void)!send(at, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* A hello that may be granted, or nearly so. */
static struct attach_hello make_hello(struct fuzz_bytes *bytes)
{
    struct attach_hello hello = rig_hello(fuzz_number(bytes, 1));

    hello.n_entries = (uint32_t)fuzz_number(bytes, 2);
    hello.data_bytes = fuzz_number(bytes, 3);
    return hello;
}

/* One of its bytes is another. */
static void say_spoiled(int at, struct fuzz_bytes *bytes)
{
    struct attach_hello hello = make_hello(bytes);
    uint8_t *byte = (uint8_t *)&hello + fuzz_number(bytes, 1) % sizeof(hello);

    *byte = (uint8_t)fuzz_number(bytes, 1);
    say(at, &hello, sizeof(hello));
}

static void want_cut(struct fuzz_bytes *bytes)
{
    uint32_t client = (uint32_t)fuzz_number(bytes, 1) % 8, shard = client % N_SHARDS;
    struct client_lane *lane = segment_client_lane(&rig.seg, shard, client);

    rig_shard_turn(&rig, shard);
    if (lane->state != CLIENT_LANE_OPEN)
        return;
    lane->reason = (uint32_t)fuzz_number(bytes, 1);
    lane->state = CLIENT_LANE_CUT;
    segment_part(&rig.seg, shard)->clients_cut++;
}

static void hang_up(int *at)
{
    if (*at >= 0)
        close(*at);
    *at = -1;
}

static void take_step(enum step step, int *at, struct fuzz_bytes *bytes)
{
    switch (step) {
    case CONNECT:
        if (*at < 0)
            *at = rig_connect(&rig);
        return;
    case HELLO: {
        struct attach_hello hello = make_hello(bytes);
        say(*at, &hello, sizeof(hello));
        return;
    }
    case OPEN: {
        struct attach_open open =
            rig_open(fuzz_number(bytes, 1), (uint32_t)fuzz_number(bytes, 1) % 4);
        say(*at, &open, sizeof(open));
        return;
    }
    case BYTES: {
        struct fuzz_bytes taken = fuzz_take(bytes, fuzz_number(bytes, 1));
        say(*at, taken.at, taken.len);
        return;
    }
    case SPOILED:
        say_spoiled(*at, bytes);
        return;
    case CLOSE:
        hang_up(at);
        return;
    case REPLACE:
        rig_replace_gateway(&rig);
        return;
    case CUT:
        want_cut(bytes);
        return;
    case READ:
        read_answers(*at);
        return;
    case SETTLE:
        rig_settle(&rig);
        assert(rig_n_rows(&rig) <= CONNECTIONS + STEPS_MOST);
        return;
    case N_STEPS:
        return;
    }
}

void fuzz_one(const uint8_t *data, size_t len)
{
    struct fuzz_bytes bytes = {data, len};

    if (!rig.ctx) {
        rig_make(&rig, N_SHARDS, CLIENT_BYTES);
        atexit(discard);
        n_kept_before = fd_keep_count(rig.keep);
    }
    for (uint32_t i = 0; i < CONNECTIONS; i++)
        connections[i] = -1;
    for (uint32_t i = 0; i < STEPS_MOST && bytes.len > 0; i++) {
        uint32_t what = (uint32_t)fuzz_number(&bytes, 1);
        take_step(what % N_STEPS, &connections[what / N_STEPS % CONNECTIONS], &bytes);
    }
    rig_settle(&rig);
    for (uint32_t i = 0; i < CONNECTIONS; i++) {
        read_answers(connections[i]);
        hang_up(&connections[i]);
    }
    rig_settle(&rig);
    rig_wait_for_none(&rig);
    assert(fd_keep_count(rig.keep) == n_kept_before);
}
