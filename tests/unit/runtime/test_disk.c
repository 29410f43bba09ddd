/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/disk_fixture.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* ---- plain use ---- */

static void a_read_returns_what_the_file_holds(void **state)
{
    on_each_engine(read_everything, NULL, false);
}

static void read_past_end(struct fixture *f)
{
    uint8_t buf[100];

    assert_int_equal(co_pread(f->fd, buf, sizeof buf, FILE_BYTES - 30), 30);
    check_content(f, buf, FILE_BYTES - 30, 30);
    assert_int_equal(co_pread(f->fd, buf, sizeof buf, FILE_BYTES), 0);
    assert_int_equal(co_pread(f->fd, buf, sizeof buf, FILE_BYTES * 9), 0);
    assert_int_equal(co_pread(f->fd, buf, 0, 0), 0);
}

static void a_read_is_short_only_at_the_end(void **state)
{
    on_each_engine(read_past_end, NULL, false);
}

static void write_and_sync(struct fixture *f)
{
    char buf[5000];

    memset(buf, 'w', sizeof buf);
    assert_int_equal(co_pwrite(f->fd, buf, sizeof buf, 777), sizeof buf);
    assert_int_equal(co_fsync(f->fd), 0);
    assert_int_equal(co_fdatasync(f->fd), 0);
    memset(f->expected + 777, 'w', sizeof buf);
    read_everything(f);
}

static void what_was_written_is_read_back(void **state)
{
    on_each_engine(write_and_sync, NULL, false);
}

static void read_and_write_vectors(struct fixture *f)
{
    char a[100], b[1], c[7000];
    struct iovec iov[] = {{a, 0}, {a, sizeof a}, {NULL, 0}, {b, sizeof b}, {c, sizeof c}, {a, 0}};
    struct iovec before[6];
    const size_t total = sizeof a + sizeof b + sizeof c;

    memcpy(before, iov, sizeof iov);
    assert_int_equal(co_preadv(f->fd, iov, 6, 3), total);
    check_content(f, a, 3, sizeof a);
    check_content(f, b, 103, sizeof b);
    check_content(f, c, 104, sizeof c);
    assert_int_equal(co_pwritev(f->fd, iov, 6, 200000), total);
    memmove(f->expected + 200000, f->expected + 3, total);
    assert_memory_equal(before, iov, sizeof iov);
    assert_int_equal(co_preadv(f->fd, iov, 0, 0), 0);
    read_everything(f);
}

static void vectors_are_read_and_written_in_order(void **state)
{
    on_each_engine(read_and_write_vectors, NULL, false);
}

static void read_long_vector(struct fixture *f)
{
    enum { N = IOV_MAX * 2 + 17 };
    uint8_t *buf = malloc(N * 3);
    struct iovec *iov = malloc(N * sizeof *iov);

    for (int i = 0; i < N; i++)
        iov[i] = (struct iovec){buf + i * 3, 3};
    assert_int_equal(co_preadv(f->fd, iov, N, 11), N * 3);
    check_content(f, buf, 11, N * 3);
    free(iov);
    free(buf);
}

static void a_vector_may_be_longer_than_the_kernels_limit(void **state)
{
    on_each_engine(read_long_vector, NULL, false);
}

static void open_look_allocate_close(struct fixture *f)
{
    struct open_how how = {.flags = O_RDWR | O_CLOEXEC};
    struct statx st;
    int fd = co_openat2(AT_FDCWD, f->path, &how);

    assert_true(fd >= 0);
    assert_int_equal(co_statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &st), 0);
    assert_int_equal(st.stx_size, FILE_BYTES);
    assert_int_equal(co_statx(AT_FDCWD, f->path, 0, STATX_SIZE, &st), 0);
    assert_int_equal(st.stx_size, FILE_BYTES);
    assert_int_equal(co_fallocate(fd, 0, FILE_BYTES, 4096), 0);
    assert_int_equal(co_statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &st), 0);
    assert_int_equal(st.stx_size, FILE_BYTES + 4096);
    st.stx_size = 0;
    assert_int_equal(co_statx(fd, NULL, AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &st), 0);
    assert_int_equal(st.stx_size, FILE_BYTES + 4096);
    assert_int_equal(co_statx(fd, NULL, AT_EMPTY_PATH, STATX_SIZE, &st), 0);
    assert_int_equal(co_close(fd), 0);
    assert_int_equal(fcntl(fd, F_GETFD), -1);

    how.flags |= O_NONBLOCK;
    fd = co_openat2(AT_FDCWD, f->path, &how);
    assert_true(fd >= 0);
    char c;
    assert_int_equal(co_pread(fd, &c, 1, 1), 1);
    check_content(f, &c, 1, 1);
    assert_int_equal(co_close(fd), 0);
}

static void files_are_opened_looked_at_and_closed(void **state)
{
    if (!has_openat2())
        skip();
    on_each_engine(open_look_allocate_close, NULL, false);
}

static void provoke_errors(struct fixture *f)
{
    struct open_how how = {.flags = O_RDONLY | O_CLOEXEC};
    struct statx st;
    char c = 0;

    assert_int_equal(co_close(-1), -EBADF);
    assert_int_equal(co_close(1000), -EBADF);
    assert_int_equal(co_pread(1000, &c, 1, 0), -EBADF);
    assert_int_equal(co_pread(1000, &c, 0, 0), -EBADF);
    assert_int_equal(co_pwrite(1000, &c, 1, 0), -EBADF);
    assert_int_equal(co_fsync(1000), -EBADF);
    assert_int_equal(co_pread(f->fd, &c, 1, UINT64_MAX), -EINVAL);
    assert_int_equal(co_pread(f->fd, &c, SIZE_MAX, 0), -EINVAL);
    assert_int_equal(co_preadv(f->fd, NULL, -1, 0), -EINVAL);
    assert_int_equal(co_fallocate(f->fd, 0, UINT64_MAX, 1), -EINVAL);
    assert_int_equal(co_openat2(AT_FDCWD, "/does/not/exist", &how), -ENOENT);
    assert_int_equal(co_statx(AT_FDCWD, "/does/not/exist", 0, STATX_SIZE, &st), -ENOENT);
    how.resolve = RESOLVE_BENEATH;
    assert_int_equal(co_openat2(AT_FDCWD, "/etc/passwd", &how), -EXDEV);
    how.flags |= O_NONBLOCK;
    assert_int_equal(co_openat2(AT_FDCWD, "/etc/passwd", &how), -EXDEV);
    how.resolve = UINT64_MAX;
    assert_int_equal(co_openat2(AT_FDCWD, f->path, &how), -EINVAL);
    read_everything(f); /* an error strands nobody */
}

static void errors_are_the_kernels_own(void **state)
{
    if (!has_openat2())
        skip();
    on_each_engine(provoke_errors, NULL, false);
}

static void write_to_full(struct fixture *f)
{
    struct open_how how = {.flags = O_WRONLY | O_CLOEXEC};
    int fd = co_openat2(AT_FDCWD, "/dev/full", &how);
    char buf[100] = {0};

    assert_true(fd >= 0);
    assert_int_equal(co_pwrite(fd, buf, sizeof buf, 0), -ENOSPC);
    assert_int_equal(co_close(fd), 0);
}

static void a_full_device_says_so(void **state)
{
    if (!has_openat2())
        skip();
    on_each_engine(write_to_full, NULL, false);
}

static void use_far_offsets(struct fixture *f)
{
    const uint64_t far = ((uint64_t)5 << 30) + 12345;
    char buf[10];

    assert_int_equal(co_pwrite(f->fd, "beyond", 6, far), 6);
    assert_int_equal(co_pread(f->fd, buf, sizeof buf, far - 2), 8);
    assert_memory_equal(buf, "\0\0beyond", 8);
}

static void offsets_beyond_4_gib_are_kept_whole(void **state)
{
    on_each_engine(use_far_offsets, NULL, false);
}

/* The file system may know no O_DIRECT; the engines' own paths for it are then not run, and
 * said. */
static int direct_fd;

static ssize_t no_try_at_once(
    int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags)
{
    if (fd == direct_fd)
        assert_false(flags & RWF_NOWAIT); /* it would wait for the disk in the loop */
    return disk_kernel_real.preadv(fd, iov, n_iov, offset, flags);
}

static void read_and_write_directly(struct fixture *f)
{
    struct open_how how = {.flags = O_RDWR | O_CLOEXEC | O_DIRECT};
    int fd = co_openat2(AT_FDCWD, f->path, &how);
    uint8_t *buf = NULL;

    if (fd == -EINVAL) {
        print_message("no O_DIRECT in %s\n", scratch_folder());
        return;
    }
    assert_true(fd >= 0);
    assert_int_equal(posix_memalign((void **)&buf, 4096, 65536), 0);
    struct iovec iov[] = {{buf, 4096}, {buf + 8192, 8192}};
    struct disk_kernel watching = disk_kernel_real;
    watching.preadv = no_try_at_once;
    direct_fd = fd;
    f->ctx->disk.kernel = &watching;
    assert_int_equal(co_pread(fd, buf, 65536, 65536), 65536);
    check_content(f, buf, 65536, 65536);
    assert_int_equal(co_preadv(fd, iov, 2, 4096), 12288);
    check_content(f, buf, 4096, 4096);
    check_content(f, buf + 8192, 8192, 8192);
    memset(buf, 'd', 65536);
    assert_int_equal(co_pwrite(fd, buf, 65536, 131072), 65536);
    assert_int_equal(co_pwritev(fd, iov, 2, 0), 12288);
    assert_int_equal(co_fdatasync(fd), 0);
    assert_int_equal(co_fsync(fd), 0);
    memset(f->expected + 131072, 'd', 65536);
    memset(f->expected, 'd', 12288);
    ssize_t misaligned = pread(fd, buf + 1, 4096, 0); /* some file systems do not mind */
    misaligned = misaligned < 0 ? -errno : misaligned;
    assert_int_equal(co_pread(fd, buf + 1, 4096, 0), misaligned);
    assert_int_equal(co_pread(fd, buf, 65536, FILE_BYTES - 4096), 4096);
    check_content(f, buf, FILE_BYTES - 4096, 4096);
    free(buf);
    f->ctx->disk.kernel = &disk_kernel_real;
    assert_int_equal(co_close(fd), 0);
    read_everything(f);
}

static void direct_io_reaches_the_file(void **state)
{
    if (!has_openat2())
        skip();
    on_each_engine(read_and_write_directly, NULL, false);
}

/* ---- by a worker ---- */

static struct {
    struct disk_kernel kernel;
    pthread_t loop;
    unsigned n_calls;
} worker_seen;

static void expect_worker(void)
{
    assert_false(pthread_equal(pthread_self(), worker_seen.loop));
    worker_seen.n_calls++;
}

/* In two halves, as a file system may. */
static ssize_t read_in_worker(
    int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags)
{
    struct iovec half = {iov->iov_base, iov->iov_len > 1 ? iov->iov_len / 2 : iov->iov_len};

    expect_worker();
    return disk_kernel_real.preadv(fd, &half, 1, offset, flags);
}

static ssize_t write_in_worker(
    int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags)
{
    expect_worker();
    return disk_kernel_real.pwritev(fd, iov, n_iov, offset, flags);
}

static int open_in_worker(int dirfd, const char *path, const struct open_how *how)
{
    expect_worker();
    return disk_kernel_real.openat2(dirfd, path, how);
}

static void use_worker(struct fixture *f)
{
    struct open_how how = {.flags = O_RDONLY | O_NONBLOCK | O_CLOEXEC};
    struct statx stx;
    uint8_t buf[100];

    worker_seen.kernel = disk_kernel_real;
    worker_seen.kernel.preadv = read_in_worker;
    worker_seen.kernel.pwritev = write_in_worker;
    worker_seen.kernel.openat2 = open_in_worker;
    worker_seen.loop = pthread_self();
    worker_seen.n_calls = 0;
    f->ctx->disk.kernel = &worker_seen.kernel;
    assert_int_equal(co_pread(AIO_WORKER_FD(f->fd), buf, sizeof buf, 1234), sizeof buf);
    check_content(f, buf, 1234, sizeof buf);
    assert_in_range(worker_seen.n_calls, 2, 20);
    assert_int_equal(co_pwrite(AIO_WORKER_FD(f->fd), buf, sizeof buf, 1234), sizeof buf);
    int fd = co_openat2(AIO_WORKER_FD(AT_FDCWD), f->path, &how);
    assert_true(fd >= 0);
    assert_int_equal(co_statx(AIO_WORKER_FD(fd), "", AT_EMPTY_PATH, STATX_SIZE, &stx), 0);
    assert_int_equal(stx.stx_size, FILE_BYTES);
    assert_int_equal(co_close(AIO_WORKER_FD(fd)), 0);
    assert_int_equal(co_pread(AIO_WORKER_FD(fd), buf, 1, 0), -EBADF);
    assert_int_equal(co_pread(AIO_WORKER_FD(-1), buf, 1, 0), -EBADF);
    f->ctx->disk.kernel = &disk_kernel_real;
}

static void what_is_for_a_worker_is_never_tried_in_the_loop(void **state)
{
    if (!has_openat2())
        skip();
    on_each_engine(use_worker, NULL, false);
}

/* ---- many at once ---- */

static void run_many(struct fixture *f)
{
    enum { N = 250 };
    unsigned n_left = N;
    struct job job = {.f = f, .body = read_at_random, .n_left = &n_left};

    most_in_flight = 0;
    for (int i = 0; i < N; i++) {
        Coroutine *co = coroutine_create_full(run_job, &job, "read_at_random", 64 * 1024);
        assert_non_null(co);
        coroutine_enter(co);
    }
    poll_until_zero(f->ctx, &n_left);
    assert_true(most_in_flight <= 32);
    assert_int_equal(f->ctx->instruments.counters->io_submitted, N * 8);
    assert_int_equal(f->ctx->instruments.counters->io_completed, N * 8);
    assert_int_equal(f->ctx->instruments.counters->io_read_bytes, N * 8 * 512);
    assert_int_equal(f->ctx->instruments.counters->io_failed, 0);
}

static void hundreds_of_coroutines_share_32_places(void **state)
{
    on_each_engine(run_many, &(struct aio_config){.io_depth = 32, .max_threads = 4}, true);
}

static void sync_once(struct fixture *f)
{
    assert_int_equal(co_fdatasync(f->fd), 0);
}

/* A sync waits on each engine, whatever is in memory. */
static void fill_all_places(struct fixture *f)
{
    enum { N = 100 };
    unsigned n_left = N;
    struct job job = {.f = f, .body = sync_once, .n_left = &n_left};

    for (uint32_t i = 1; i <= N; i++) {
        Coroutine *co = coroutine_create_full(run_job, &job, "sync_once", 64 * 1024);

        assert_non_null(co);
        coroutine_enter(co);
        assert_int_equal(f->ctx->disk.n_in_flight, i < 32 ? i : 32);
        assert_int_equal(!f->ctx->disk.waiting.first, i <= 32);
    }
    while (n_left > 0) {
        aio_poll(f->ctx, true);
        assert_true(f->ctx->disk.n_in_flight <= 32);
    }
    assert_int_equal(f->ctx->disk.n_in_flight, 0);
}

static void all_places_are_used_and_no_more(void **state)
{
    on_each_engine(fill_all_places, &(struct aio_config){.io_depth = 32, .max_threads = 4}, true);
}

struct runner {
    struct fixture *f;
    unsigned n_reads;
    bool *stop;
    unsigned *n_left;
};

static void read_for_ever(void *opaque)
{
    struct runner *r = opaque;
    char c;

    while (!*r->stop) {
        assert_int_equal(co_pread(r->f->fd, &c, 1, 0), 1);
        r->n_reads++;
    }
    --*r->n_left;
}

static void set_flag(void *opaque)
{
    *(bool *)opaque = true;
}

static void read_until_a_timer_says_stop(struct fixture *f)
{
    bool stop = false;
    unsigned n_left = 2;
    struct runner a = {f, 0, &stop, &n_left}, b = a;
    AioTimer timer;

    aio_timer_init(f->ctx, &timer, set_flag, &stop);
    timer_mod_ns(&timer, aio_clock_ns() + 2000000);
    coroutine_enter(coroutine_create(read_for_ever, &a));
    coroutine_enter(coroutine_create(read_for_ever, &b));
    poll_until_zero(f->ctx, &n_left);
    assert_true(a.n_reads > 0 && b.n_reads > 0);
}

static void cached_reads_do_not_keep_the_loop_from_its_timers(void **state)
{
    on_each_engine(read_until_a_timer_says_stop, NULL, true);
}

static void sync_at_home(void *opaque)
{
    struct runner *runner = opaque;

    for (int i = 0; i < 3; i++) {
        assert_int_equal(co_fdatasync(runner->f->fd), 0);
        assert_ptr_equal(coroutine_get_aio_context(coroutine_self()), runner->f->ctx);
    }
    --*runner->n_left;
}

static void sync_in_a_loop_that_is_not_current(struct fixture *f)
{
    struct aio_config config = {.engine = AIO_ENGINE_THREADS};
    unsigned n_left = 1;
    struct runner runner = {.f = f, .n_left = &n_left};
    AioContext *other;

    assert_int_equal(aio_context_new(&config, &other), 0);
    aio_poll(f->ctx, false);
    aio_context_set_current(NULL);
    aio_context_set_current(other);
    aio_co_schedule(f->ctx, coroutine_create(sync_at_home, &runner));
    poll_until_zero(f->ctx, &n_left);
    aio_context_set_current(NULL);
    aio_context_unref(other);
    aio_context_set_current(f->ctx);
}

static void a_coroutine_goes_on_in_the_context_of_its_request(void **state)
{
    on_each_engine(sync_in_a_loop_that_is_not_current, NULL, true);
}

static void do_nothing(struct fixture *f)
{
}

static void a_context_that_never_did_io_is_freed(void **state)
{
    on_each_engine(do_nothing, NULL, true);
}

/* ---- what the kernel refuses ---- */

static void no_room_for_a_linux_aio_context_is_an_error(void **state)
{
    AioContext *ctx;
    FILE *limit = fopen("/proc/sys/fs/aio-max-nr", "re");
    unsigned most;

    if (!limit)
        skip();
    assert_int_equal(fscanf(limit, "%u", &most), 1);
    fclose(limit);
    int r = aio_context_new(
        &(struct aio_config){.engine = AIO_ENGINE_LINUX_AIO, .io_depth = most + 1}, &ctx);
    assert_true(r == -EAGAIN || r == -ENOSYS || r == -EPERM);
}

static void any_depth_will_do_for_a_ring(void **state)
{
    static const uint32_t depths[] = {40000, (uint32_t)1 << 31, UINT32_MAX};

    for (size_t i = 0; i < sizeof depths / sizeof depths[0]; i++) {
        struct aio_config config = {.engine = AIO_ENGINE_IO_URING, .io_depth = depths[i]};
        AioContext *ctx;

        int r = aio_context_new(&config, &ctx);
        assert_true(r == 0 || r == -ENOSYS || r == -EPERM || r == -ENOMEM);
        if (r == 0)
            aio_context_unref(ctx);
        config.engine = AIO_ENGINE_LINUX_AIO;
        r = aio_context_new(&config, &ctx);
        assert_true(depths[i] < 100000 || r == -EAGAIN || r == -ENOSYS || r == -EPERM);
        if (r == 0)
            aio_context_unref(ctx);
    }
}

#define CANNOT_FORBID 77

/* From here on this process gets EPERM from a system call, as in a container. It ends where that
 * cannot be had: qemu-user has no seccomp. */
static void forbid(uint32_t system_call)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, system_call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        _exit(CANNOT_FORBID);
}

/* In a child: its exit status is how many of the claims hold. */
static int claims_that_hold(enum aio_engine expected, const char *said)
{
    struct fixture f = {0};

    engine_under_test = AIO_ENGINE_AUTO;
    if (!setup(&f, NULL))
        return 0;
    int n = 1;
    n += aio_context_engine(f.ctx) == expected;
    n += strstr(aio_context_engine_flags(f.ctx), said) != NULL;
    in_one_coroutine(&f, read_everything);
    teardown(&f);
    return n + 1;
}

/* False where nothing can be forbidden. */
static bool pass_over(uint32_t call_of_uring, uint32_t call_of_linux_aio)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        signal(SIGABRT, SIG_DFL); /* not cmocka's */
        forbid(call_of_uring);
        int n = claims_that_hold(AIO_ENGINE_LINUX_AIO, "io_uring: Operation not permitted");
        forbid(call_of_linux_aio);
        n += claims_that_hold(AIO_ENGINE_THREADS, "linux-aio: Operation not permitted");
        _exit(n);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == CANNOT_FORBID)
        return false;
    assert_int_equal(WEXITSTATUS(status), 8);
    return true;
}

static void an_engine_that_is_forbidden_is_passed_over_and_named(void **state)
{
    if (!pass_over(SYS_io_uring_setup, SYS_io_setup))
        skip();
}

/* A sandbox may know of some of an engine's calls only. */
static void an_engine_that_is_forbidden_in_part_is_passed_over_too(void **state)
{
    if (!pass_over(SYS_io_uring_enter, SYS_io_submit))
        skip();
    pass_over(SYS_io_uring_register, SYS_io_setup);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_read_returns_what_the_file_holds),
        cmocka_unit_test(a_read_is_short_only_at_the_end),
        cmocka_unit_test(what_was_written_is_read_back),
        cmocka_unit_test(vectors_are_read_and_written_in_order),
        cmocka_unit_test(a_vector_may_be_longer_than_the_kernels_limit),
        cmocka_unit_test(files_are_opened_looked_at_and_closed),
        cmocka_unit_test(errors_are_the_kernels_own),
        cmocka_unit_test(a_full_device_says_so),
        cmocka_unit_test(offsets_beyond_4_gib_are_kept_whole),
        cmocka_unit_test(direct_io_reaches_the_file),
        cmocka_unit_test(what_is_for_a_worker_is_never_tried_in_the_loop),
        cmocka_unit_test(hundreds_of_coroutines_share_32_places),
        cmocka_unit_test(all_places_are_used_and_no_more),
        cmocka_unit_test(cached_reads_do_not_keep_the_loop_from_its_timers),
        cmocka_unit_test(a_coroutine_goes_on_in_the_context_of_its_request),
        cmocka_unit_test(a_context_that_never_did_io_is_freed),
        cmocka_unit_test(no_room_for_a_linux_aio_context_is_an_error),
        cmocka_unit_test(any_depth_will_do_for_a_ring),
        cmocka_unit_test(an_engine_that_is_forbidden_is_passed_over_and_named),
        cmocka_unit_test(an_engine_that_is_forbidden_in_part_is_passed_over_too),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
