/* SPDX-License-Identifier: MIT */
/*
 * What a read of a file costs through a call to another shard, its bytes in a shared buffer, against
 * pread() of the same size by the caller itself: from the page cache, and from the disk (O_DIRECT).
 *
 * Both ends poll without ever sleeping, in processes of their own, on the first two cores this
 * process may use. Nobody looks at the bytes, on either side.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/disk.h"
#include "tests/bench/compare.h"
#include "tests/unit/shard/mesh_rig.h"

#define FILE_BYTES  ((size_t)8 << 20)
#define ALIGNMENT   4096
#define CACHED_READ 400
#define DIRECT_READ 20

struct wish {
    uint32_t len;
    bool direct;
};

static cpu_set_t all; /* that this process may use, at its start */
static int cached_fd, direct_fd;
static uint32_t method_in_place, method_copied;

/* ---- what the caller's rows read from, as run() takes nothing ---- */

static struct {
    struct rig_end *end;
    struct wish wish;
    uint32_t method;
    bool in_place;
    uint64_t left;
    void *buffer;
} now;

static void pin_to(uint32_t which)
{
    cpu_set_t one;

    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && which-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            sched_setaffinity(0, sizeof one, &one);
            return;
        }
}

static void must(bool right, const char *what)
{
    if (right)
        return;
    perror(what);
    abort();
}

static void open_files(void)
{
    char path[] = "bench-buffers-XXXXXX", by_fd[64];
    char *bytes = malloc(FILE_BYTES);

    memset(bytes, 'x', FILE_BYTES);
    cached_fd = mkstemp(path);
    must(cached_fd >= 0 && write(cached_fd, bytes, FILE_BYTES) == (ssize_t)FILE_BYTES, path);
    must(fsync(cached_fd) == 0, "fsync");
    unlink(path);
    free(bytes);
    snprintf(by_fd, sizeof by_fd, "/proc/self/fd/%d", cached_fd);
    direct_fd = open(by_fd, O_RDONLY | O_DIRECT);
}

/* ---- the callee ---- */

static struct wish wish_of(const struct service_call *call)
{
    struct wish wish;
    size_t len;

    memcpy(&wish, service_args(call, &len), sizeof wish);
    return wish;
}

static int coroutine_fn run_in_place(struct service_call *call)
{
    struct wish wish = wish_of(call);
    void *room;
    int r = service_reply_room(call, wish.len, &room);

    if (r < 0)
        return r;
    ssize_t n = co_pread(wish.direct ? direct_fd : cached_fd, room, wish.len, 0);
    return n < 0 ? (int)n : service_reply_done(call, (size_t)n);
}

static int coroutine_fn run_copied(struct service_call *call)
{
    struct wish wish = wish_of(call);
    void *buffer = aligned_alloc(ALIGNMENT, wish.len);
    ssize_t n = co_pread(wish.direct ? direct_fd : cached_fd, buffer, wish.len, 0);
    int r = n < 0 ? (int)n : service_reply(call, buffer, (size_t)n);

    free(buffer);
    return r;
}

static void serve_awake(struct rig_end *end)
{
    pin_to(1);
    while (!atomic_load(&end->rig->board->leave))
        aio_poll(end->ctx, false);
}

/* ---- the caller ---- */

static void coroutine_fn call_until_done(void *opaque)
{
    struct call_request request = {.target = 1,
        .method = now.method,
        .args = &now.wish,
        .args_len = sizeof now.wish,
        .deadline_ns = INT64_MAX,
        .in_place = now.in_place};

    (void)opaque;
    for (; now.left > 0; now.left--) {
        struct call_answer answer;

        must(shard_call(now.end->mesh, &request, &answer) == 0 && answer.len == now.wish.len,
            "call");
        call_answer_deinit(&answer);
    }
}

static void read_by_call(uint64_t repeats)
{
    now.left = repeats;
    coroutine_enter(coroutine_create(call_until_done, NULL));
    while (now.left > 0)
        aio_poll(now.end->ctx, false);
}

static void read_by_call_in_place(uint64_t repeats)
{
    now.method = method_in_place;
    now.in_place = true;
    read_by_call(repeats);
}

static void read_by_call_copied(uint64_t repeats)
{
    now.method = method_copied;
    now.in_place = false;
    read_by_call(repeats);
}

static void read_by_pread(uint64_t repeats)
{
    int fd = now.wish.direct ? direct_fd : cached_fd;

    while (repeats-- > 0)
        must(pread(fd, now.buffer, now.wish.len, 0) == (ssize_t)now.wish.len, "pread");
}

static void measure(uint32_t len, bool direct)
{
    uint64_t repeats = direct ? DIRECT_READ : CACHED_READ;
    char what[64];

    now.wish = (struct wish){.len = len, .direct = direct};
    snprintf(what, sizeof what, "%s %u KiB, in place", direct ? "disk" : "cache", len >> 10);
    compare_row(&(struct compare){.what = what,
        .run = read_by_call_in_place,
        .baseline_name = "pread",
        .baseline = read_by_pread,
        .repeats = repeats});
    snprintf(what, sizeof what, "%s %u KiB, copied", direct ? "disk" : "cache", len >> 10);
    compare_row(&(struct compare){.what = what,
        .run = read_by_call_copied,
        .baseline_name = "in place",
        .baseline = read_by_call_in_place,
        .repeats = repeats});
}

static void call_awake(struct rig_end *end)
{
    static const uint32_t sizes[] = {64u << 10, 256u << 10, 1u << 20};

    pin_to(0);
    now.end = end;
    now.buffer = aligned_alloc(ALIGNMENT, SEGMENT_PAYLOAD_MAX);
    compare_head();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        measure(sizes[i], false);
    for (size_t i = 0; direct_fd >= 0 && i < sizeof sizes / sizeof sizes[0]; i++)
        measure(sizes[i], true);
    fflush(stdout);
}

static const struct service_method methods[] = {
    {.name = "in_place", .flags = SERVICE_IDEMPOTENT, .help = "reads", .run = run_in_place},
    {.name = "copied", .flags = SERVICE_IDEMPOTENT, .help = "reads", .run = run_copied},
};
static const struct service bench_service = {.abi = SERVICE_ABI,
    .name = "bench",
    .help = "for a benchmark",
    .methods = methods,
    .n_methods = 2};

int main(void)
{
    static struct rig rig;

    sched_getaffinity(0, sizeof all, &all);
    open_files();
    rig_open(&rig, 2, &bench_service);
    must(registry_find(rig.registry, "bench.in_place", 14, &method_in_place) == 0, "method");
    must(registry_find(rig.registry, "bench.copied", 12, &method_copied) == 0, "method");
    rig_fork(&rig, 1, serve_awake);
    rig_fork(&rig, 0, call_awake);
    rig_join(&rig, 0);
    rig_close(&rig);
    return 0;
}
