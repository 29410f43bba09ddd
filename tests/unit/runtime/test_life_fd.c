/* SPDX-License-Identifier: MIT */
/*
 * The proof that the kernel writes no more for a process that was killed: the only write end of a
 * pipe, held by its context (aio_config.life_fd). A child has 64 reads of 1 MiB in flight into
 * shared memory when it is killed; after the end of file nothing of that memory may change, and
 * where there is no ring nothing after waitpid() either. Where the file system refuses O_DIRECT the
 * reads are of a file that is not in memory. The reads are those of sherd/disk.h; with the best
 * flags also such as are being cancelled, those of the kernel's own worker threads (IOSQE_ASYNC),
 * and such beside one that would never end by itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <liburing.h>

#include "runtime/aio_register.h"
#include "runtime/aio_sqe.h"
#include "runtime/co_cancel.h"
#include "runtime/context.h"
#include "runtime/disk.h"

#define N_READS    64
#define READ_BYTES ((size_t)1 << 20)
#define ALL_BYTES  (N_READS * READ_BYTES)
#define FILE_BYTES (8 * READ_BYTES)
#define PAGE       4096u
#define LOOKS      4 /* at all of the memory, after the proof */
#define DEADLINE   60000
#define NO_ENGINE  77

struct shared {
    _Atomic uint32_t in_flight;
};

/* What is in flight. */
enum load { LOAD_READS, LOAD_CANCELLED, LOAD_ASYNC, LOAD_ENDLESS };

struct way {
    enum aio_engine engine;
    uint32_t lesser_flags;
    enum load load;
};

struct rig {
    const struct way *way;
    int file;
    int ends[2];
    struct shared *shared;
    uint8_t *memory;
};

struct reader {
    struct rig *rig;
    uint32_t number;
    uint64_t offset;
};

static void *map_shared(size_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(base, MAP_FAILED);
    return base;
}

/* Direct where the file system knows that, else out of memory. */
static int open_file(void)
{
    char path[] = "life_fd-XXXXXX", by_fd[64];
    int plain = mkstemp(path), direct;
    uint8_t *bytes = malloc(FILE_BYTES);

    assert_true(plain >= 0);
    assert_int_equal(unlink(path), 0);
    memset(bytes, 0x5a, FILE_BYTES);
    assert_int_equal(write(plain, bytes, FILE_BYTES), FILE_BYTES);
    free(bytes);
    assert_int_equal(fdatasync(plain), 0);
    posix_fadvise(plain, 0, 0, POSIX_FADV_DONTNEED);
    snprintf(by_fd, sizeof(by_fd), "/proc/self/fd/%d", plain);
    direct = open(by_fd, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (direct < 0)
        return plain;
    close(plain);
    return direct;
}

/* ---- in the child ---- */

static void coroutine_fn read_entry(void *opaque)
{
    struct reader *reader = opaque;
    struct rig *rig = reader->rig;

    /* For ever, so that some are in flight whenever it is killed. */
    for (uint64_t i = reader->number;; i++)
        if (co_pread(rig->file, rig->memory + reader->number * READ_BYTES, READ_BYTES,
                i * READ_BYTES % FILE_BYTES) != (ssize_t)READ_BYTES)
            abort();
}

/* Each read is given up soon after it has begun, and the next one goes to the same place. */
static void coroutine_fn cancel_entry(void *opaque)
{
    struct reader *reader = opaque;
    struct rig *rig = reader->rig;

    for (uint64_t i = reader->number;; i++) {
        CoScope scope;
        co_scope_begin(&scope, NULL, aio_clock_ns() + (int64_t)(i % 7) * 30000);
        ssize_t n = co_pread(rig->file, rig->memory + reader->number * READ_BYTES, READ_BYTES,
            i * READ_BYTES % FILE_BYTES);
        co_scope_end(&scope);
        if (n != (ssize_t)READ_BYTES && n != -ETIMEDOUT)
            abort();
    }
}

static void prepare_async(struct io_uring_sqe *sqe, void *opaque)
{
    const struct reader *reader = opaque;

    io_uring_prep_read(sqe, reader->rig->file, reader->rig->memory + reader->number * READ_BYTES,
        (unsigned)READ_BYTES, reader->offset);
    sqe->flags |= IOSQE_ASYNC;
}

static void coroutine_fn async_entry(void *opaque)
{
    struct reader *reader = opaque;

    for (uint64_t i = reader->number;; i++) {
        reader->offset = i * READ_BYTES % FILE_BYTES;
        if (co_uring_op(prepare_async, reader, NULL) <= 0)
            abort();
    }
}

/* From a pipe that nobody writes to: as long as its process lives. */
static void prepare_endless(struct io_uring_sqe *sqe, void *opaque)
{
    const struct reader *reader = opaque;
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0)
        abort();
    io_uring_prep_read(
        sqe, ends[0], reader->rig->memory + reader->number * READ_BYTES, (unsigned)READ_BYTES, 0);
    if (reader->number % 2)
        sqe->flags |= IOSQE_ASYNC;
}

static void coroutine_fn endless_entry(void *opaque)
{
    struct reader *reader = opaque;

    if (reader->number >= 4)
        read_entry(opaque);
    co_uring_op(prepare_endless, reader, NULL);
    abort();
}

static CoroutineEntry *const entries[] = {
    [LOAD_READS] = read_entry,
    [LOAD_CANCELLED] = cancel_entry,
    [LOAD_ASYNC] = async_entry,
    [LOAD_ENDLESS] = endless_entry,
};

static void live(struct rig *rig)
{
    static struct reader readers[N_READS];
    struct aio_config config = {.engine = rig->way->engine,
        .lesser_flags = rig->way->lesser_flags,
        .io_depth = N_READS,
        .max_threads = 4,
        .life_fd = rig->ends[1]};
    AioContext *ctx;

    close(rig->ends[0]);
    if (aio_context_new(&config, &ctx) < 0)
        _exit(NO_ENGINE);
    aio_context_set_current(ctx);
    for (uint32_t i = 0; i < N_READS; i++) {
        readers[i] = (struct reader){.rig = rig, .number = i};
        coroutine_enter(coroutine_create(entries[rig->way->load], &readers[i]));
    }
    aio_poll(ctx, false);
    atomic_store(&rig->shared->in_flight, 1);
    while (true)
        aio_poll(ctx, true);
}

/* ---- in the test ---- */

static bool is_at_end(int fd, int timeout_ms)
{
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    char byte;

    return poll(&wanted, 1, timeout_ms) == 1 && read(fd, &byte, 1) == 0;
}

static uint64_t sum_of(const uint8_t *memory)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < ALL_BYTES; i += sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, memory + i, sizeof(word));
        sum = (sum ^ word) * 0x9e3779b97f4a7c15ULL + i;
    }
    return sum;
}

/* Puts a mark on every page, over what was read, so that each write that comes late is seen. */
static void mark_pages(uint8_t *memory)
{
    for (size_t i = 0; i < ALL_BYTES; i += PAGE)
        memory[i] = 0;
}

static unsigned n_unmarked(const uint8_t *memory)
{
    unsigned n = 0;

    for (size_t i = 0; i < ALL_BYTES; i += PAGE)
        n += memory[i] != 0;
    return n;
}

/* 0, or NO_ENGINE. */
static int fork_child(struct rig *rig)
{
    int status;
    pid_t pid;

    assert_int_equal(pipe2(rig->ends, O_CLOEXEC | O_NONBLOCK), 0);
    atomic_store(&rig->shared->in_flight, 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        live(rig);
    close(rig->ends[1]);
    while (!atomic_load(&rig->shared->in_flight)) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
        sched_yield();
    }
    assert_false(is_at_end(rig->ends[0], 0));
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    mark_pages(rig->memory);
    return 0;
}

static void nothing_changes_after_the_proof(const struct way *way)
{
    struct rig rig = {.way = way, .file = open_file()};

    rig.shared = map_shared(sizeof(*rig.shared));
    rig.memory = map_shared(ALL_BYTES);
    int r = fork_child(&rig);

    if (r == 0) {
        /* Without a ring it is over when the process is. */
        if (way->engine != AIO_ENGINE_IO_URING) {
            assert_true(is_at_end(rig.ends[0], 0));
            assert_int_equal(n_unmarked(rig.memory), 0);
        } else {
            assert_true(is_at_end(rig.ends[0], DEADLINE));
            print_message("%u pages were written to after waitpid()\n", n_unmarked(rig.memory));
        }
        mark_pages(rig.memory);
        uint64_t sum = sum_of(rig.memory);
        for (int look = 0; look < LOOKS; look++)
            assert_true(sum_of(rig.memory) == sum);
    }
    close(rig.ends[0]);
    close(rig.file);
    munmap(rig.memory, ALL_BYTES);
    munmap(rig.shared, sizeof(*rig.shared));
    if (r == NO_ENGINE)
        skip();
    assert_int_equal(r, 0);
}

/* X(name of the case, engine, sets of ring flags passed over, load) */
#define WAYS(X)                                                           \
    X(single_issuer_defer_taskrun, AIO_ENGINE_IO_URING, 0, LOAD_READS)    \
    X(coop_taskrun, AIO_ENGINE_IO_URING, 1, LOAD_READS)                   \
    X(submit_all, AIO_ENGINE_IO_URING, 2, LOAD_READS)                     \
    X(plain, AIO_ENGINE_IO_URING, 3, LOAD_READS)                          \
    X(linux_aio, AIO_ENGINE_LINUX_AIO, 0, LOAD_READS)                     \
    X(threads, AIO_ENGINE_THREADS, 0, LOAD_READS)                         \
    X(reads_being_cancelled, AIO_ENGINE_IO_URING, 0, LOAD_CANCELLED)      \
    X(linux_aio_being_cancelled, AIO_ENGINE_LINUX_AIO, 0, LOAD_CANCELLED) \
    X(threads_being_cancelled, AIO_ENGINE_THREADS, 0, LOAD_CANCELLED)     \
    X(reads_by_workers_of_the_kernel, AIO_ENGINE_IO_URING, 0, LOAD_ASYNC) \
    X(reads_that_never_end, AIO_ENGINE_IO_URING, 0, LOAD_ENDLESS)

#define X(name, engine, lesser_flags, load)                                         \
    static void nothing_is_written_after_the_proof_with_##name(void **state)        \
    {                                                                               \
        (void)state;                                                                \
        nothing_changes_after_the_proof(&(struct way){engine, lesser_flags, load}); \
    }
WAYS(X)
#undef X

/* ---- the table of files that the ring has for it ---- */

static AioContext *open_guarded(int *ret_read_end)
{
    struct aio_config config = {.engine = AIO_ENGINE_IO_URING};
    AioContext *ctx;
    int ends[2];

    assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    config.life_fd = ends[1];
    int r = aio_context_new(&config, &ctx);

    *ret_read_end = ends[0];
    assert_int_equal(fcntl(ends[1], F_GETFD), -1); /* the ring's alone, or closed */
    if (r < 0) {
        assert_true(is_at_end(ends[0], 0));
        close(ends[0]);
        skip();
    }
    aio_context_set_current(ctx);
    return ctx;
}

static void the_ring_lets_go_of_it_when_the_context_is_freed(void **state)
{
    int fd;
    AioContext *ctx = open_guarded(&fd);

    (void)state;
    assert_false(is_at_end(fd, 0));
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    assert_true(is_at_end(fd, DEADLINE));
    close(fd);
}

static void coroutine_fn read_fixed(void *opaque)
{
    char byte;

    *(ssize_t *)opaque = co_pread(AIO_FIXED_FD(1), &byte, 1, 0);
}

static void files_are_registered_beside_it_and_it_is_never_let_go_of(void **state)
{
    int fd, zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    AioContext *ctx = open_guarded(&fd);
    int fds[2] = {-1, zero};
    int *many = malloc((AIO_MOST_GUARDED_FILES + 1) * sizeof *many);

    (void)state;
    for (int i = 0; i <= AIO_MOST_GUARDED_FILES; i++)
        many[i] = zero;
    for (int round = 0; round < 3; round++) {
        ssize_t n = 0;
        assert_int_equal(aio_register_files(fds, 2), 0);
        assert_int_equal(aio_register_files(fds, 2), -EBUSY);
        assert_int_equal(aio_update_files(0, &zero, 1), 0);
        coroutine_enter(coroutine_create(read_fixed, &n));
        while (n == 0)
            aio_poll(ctx, true);
        assert_int_equal(n, 1);
        assert_int_equal(aio_unregister_files(), 0);
        assert_int_equal(aio_unregister_files(), -ENXIO);
        assert_false(is_at_end(fd, 0));
    }
    assert_int_equal(aio_register_files(many, AIO_MOST_GUARDED_FILES + 1), -EMFILE);
    assert_int_equal(aio_register_files(fds, 2), 0);
    assert_false(is_at_end(fd, 0));
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    assert_true(is_at_end(fd, DEADLINE));
    free(many);
    close(fd);
    close(zero);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define X(name, engine, lesser_flags, load) \
    cmocka_unit_test(nothing_is_written_after_the_proof_with_##name),
        WAYS(X)
#undef X
            cmocka_unit_test(the_ring_lets_go_of_it_when_the_context_is_freed),
        cmocka_unit_test(files_are_registered_beside_it_and_it_is_never_let_go_of),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
