/* SPDX-License-Identifier: MIT */
/*
 * What a read of a file costs through a call to another shard, its bytes in a shared buffer,
 * against a bare io_uring of the caller's own that does the same, one at a time: from the page
 * cache, and from the disk (O_DIRECT). And what it brings to register the heap with io_uring.
 *
 * Both ends poll without ever sleeping, in processes of their own, on the first two cores this
 * process may use; the bare ring is polled likewise, or
 * has the bytes when the call that submits returns. Nobody looks at the bytes, on either side.
 */
#include <fcntl.h>
#include <liburing.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/aio_register.h"
#include "runtime/disk.h"
#include "tests/bench/compare.h"
#include "tests/unit/shard/mesh_rig.h"

#define FILE_BYTES  ((size_t)8 << 20)
#define ALIGNMENT   4096
#define CACHED_READ 400
#define DIRECT_READ 20

enum source { FROM_CACHE, FROM_DISK, N_SOURCES };

static const char *const source_names[N_SOURCES] = {"cache", "disk"};

struct wish {
    uint32_t len;
    uint32_t source; /* enum source; of `register`: 0 or 1 */
};

static cpu_set_t all;      /* that this process may use, at its start */
static int fds[N_SOURCES]; /* -1: there is none */
static uint32_t method_in_place, method_copied, method_register;
static struct io_uring ring; /* the bare one */

/* ---- what the caller's rows read from, as run() takes nothing ---- */

static struct {
    struct rig_end *end;
    struct wish wish;
    uint32_t method;
    bool in_place;
    uint64_t left;
    void *buffer;
} now;

static struct rig the_rig;

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

static int make_file(char *path)
{
    char *bytes = malloc(FILE_BYTES);
    int fd = mkstemp(path);

    memset(bytes, 'x', FILE_BYTES);
    if (fd >= 0) {
        must(write(fd, bytes, FILE_BYTES) == (ssize_t)FILE_BYTES && fsync(fd) == 0, path);
        unlink(path);
    }
    free(bytes);
    return fd;
}

static void open_files(void)
{
    char path[] = "bench-buffers-XXXXXX", by_fd[64];

    fds[FROM_CACHE] = make_file(path);
    must(fds[FROM_CACHE] >= 0, path);
    snprintf(by_fd, sizeof by_fd, "/proc/self/fd/%d", fds[FROM_CACHE]);
    fds[FROM_DISK] = open(by_fd, O_RDONLY | O_DIRECT);
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
    ssize_t n = co_pread(fds[wish.source], room, wish.len, 0);
    return n < 0 ? (int)n : service_reply_done(call, (size_t)n);
}

static int coroutine_fn run_copied(struct service_call *call)
{
    struct wish wish = wish_of(call);
    void *buffer = aligned_alloc(ALIGNMENT, wish.len);
    ssize_t n = co_pread(fds[wish.source], buffer, wish.len, 0);
    int r = n < 0 ? (int)n : service_reply(call, buffer, (size_t)n);

    free(buffer);
    return r;
}

/* The heap, which is what room is taken from; the answer says whether the kernel took it. */
static int coroutine_fn run_register(struct service_call *call)
{
    const struct segment *seg = &the_rig.seg;
    struct iovec heap = {
        .iov_base = seg->base + segment_heap_off(seg, 1), .iov_len = seg->geometry.heap_bytes};
    int r = wish_of(call).source ? aio_register_buffers(&heap, 1) : aio_unregister_buffers();

    return service_reply(call, &r, sizeof r);
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

static void open_ring(void)
{
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};

    must(io_uring_queue_init_params(8, &ring, &params) == 0, "io_uring");
}

static void read_by_ring(uint64_t repeats)
{
    struct io_uring_cqe *cqe;

    while (repeats-- > 0) {
        io_uring_prep_read(
            io_uring_get_sqe(&ring), fds[now.wish.source], now.buffer, now.wish.len, 0);
        io_uring_submit_and_get_events(&ring);
        while (io_uring_peek_cqe(&ring, &cqe) < 0)
            io_uring_get_events(&ring);
        must(cqe->res == (int)now.wish.len, "read");
        io_uring_cqe_seen(&ring, cqe);
    }
}

/* 0, or what the kernel has against it. */
static void coroutine_fn ask_to_register(void *opaque)
{
    struct wish wish = {.source = *(int *)opaque > 0};
    struct call_request request = {.target = 1,
        .method = method_register,
        .args = &wish,
        .args_len = sizeof wish,
        .deadline_ns = INT64_MAX};
    struct call_answer answer;

    must(shard_call(now.end->mesh, &request, &answer) == 0, "register");
    memcpy(opaque, answer.data, sizeof(int));
    call_answer_deinit(&answer);
    now.left = 0;
}

static int register_heap(bool wanted)
{
    int r = wanted;

    now.left = 1;
    coroutine_enter(coroutine_create(ask_to_register, &r));
    while (now.left > 0)
        aio_poll(now.end->ctx, false);
    return r;
}

/* The kernel's work for that is not counted. */
static double read_with_heap_ns(bool registered, uint64_t repeats)
{
    int r = register_heap(registered);
    int64_t begin_ns = aio_clock_ns();

    read_by_call_in_place(repeats);
    double ns = (double)(aio_clock_ns() - begin_ns) / (double)repeats;
    if (registered && r == 0)
        register_heap(false);
    return ns;
}

static double read_registered_ns(uint64_t repeats)
{
    return read_with_heap_ns(true, repeats);
}

static double read_unregistered_ns(uint64_t repeats)
{
    return read_with_heap_ns(false, repeats);
}

static void measure_registered(const char *name, uint64_t repeats)
{
    char what[64];
    int r = register_heap(true);

    if (r < 0) {
        printf("the heap can't be registered: %s\n", strerror(-r));
        return;
    }
    register_heap(false);
    snprintf(what, sizeof what, "%s, heap registered", name);
    compare_row(&(struct compare){.what = what,
        .run_ns = read_registered_ns,
        .baseline_name = "not registered",
        .baseline_ns = read_unregistered_ns,
        .repeats = repeats});
}

static void measure(uint32_t len, enum source source)
{
    uint64_t repeats = source == FROM_DISK ? DIRECT_READ : CACHED_READ;
    char name[32], what[64];

    now.wish = (struct wish){.len = len, .source = source};
    snprintf(name, sizeof name, "%s %u KiB", source_names[source], len >> 10);
    snprintf(what, sizeof what, "%s, in place", name);
    compare_row(&(struct compare){.what = what,
        .run = read_by_call_in_place,
        .baseline_name = "bare io_uring",
        .baseline = read_by_ring,
        .repeats = repeats});
    snprintf(what, sizeof what, "%s, copied", name);
    compare_row(&(struct compare){.what = what,
        .run = read_by_call_copied,
        .baseline_name = "in place",
        .baseline = read_by_call_in_place,
        .repeats = repeats});
    if (source == FROM_DISK)
        measure_registered(name, repeats);
}

static void call_awake(struct rig_end *end)
{
    static const uint32_t sizes[] = {4u << 10, 64u << 10, 256u << 10, 1u << 20};

    pin_to(0);
    now.end = end;
    now.buffer = aligned_alloc(ALIGNMENT, SEGMENT_PAYLOAD_MAX);
    open_ring();
    compare_head();
    for (uint32_t source = 0; source < N_SOURCES; source++)
        for (size_t i = 0; fds[source] >= 0 && i < sizeof sizes / sizeof sizes[0]; i++)
            measure(sizes[i], source);
    fflush(stdout);
}

static const struct service_method methods[] = {
    {.name = "in_place", .flags = SERVICE_IDEMPOTENT, .help = "reads", .run = run_in_place},
    {.name = "copied", .flags = SERVICE_IDEMPOTENT, .help = "reads", .run = run_copied},
    {.name = "register", .help = "registers", .run = run_register},
};
static const struct service bench_service = {.abi = SERVICE_ABI,
    .name = "bench",
    .help = "for a benchmark",
    .methods = methods,
    .n_methods = 3};

int main(void)
{
    sched_getaffinity(0, sizeof all, &all);
    open_files();
    rig_open(&the_rig, 2, &bench_service);
    the_rig.engine = AIO_ENGINE_IO_URING;
    must(registry_find(the_rig.registry, "bench.in_place", 14, &method_in_place) == 0, "method");
    must(registry_find(the_rig.registry, "bench.copied", 12, &method_copied) == 0, "method");
    must(registry_find(the_rig.registry, "bench.register", 14, &method_register) == 0, "method");
    rig_fork(&the_rig, 1, serve_awake);
    rig_fork(&the_rig, 0, call_awake);
    rig_join(&the_rig, 0);
    rig_close(&the_rig);
    return 0;
}
