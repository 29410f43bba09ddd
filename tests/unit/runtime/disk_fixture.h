/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * disk_fixture - a context and a file for each case, on each engine that this kernel allows
 *
 * Use:         on_each_engine(body, &config, false) runs body in a coroutine
 * Lifetime:    twice for each engine, with a file that is in memory and as if it were not, in a
 *              context and on a file of its own. Content is checked byte by byte; after each run no
 *              request is in flight and no fd is left open.
 */
#include <errno.h>
#include <limits.h>
#include <linux/openat2.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/context.h"
#include "runtime/disk.h"
#include "runtime/disk_kernel.h"

#define FILE_BYTES  ((size_t)1 << 20)
#define DEADLINE_NS ((int64_t)60 * 1000 * 1000 * 1000)

struct fixture {
    AioContext *ctx;
    char path[PATH_MAX];
    int fd;
    uint8_t *expected; /* FILE_BYTES, what the file holds */
};

static inline uint8_t byte_at(uint64_t offset)
{
    uint64_t x = (offset + 1) * 0x9e3779b97f4a7c15ULL;

    return (uint8_t)(x >> 32 ^ x >> 56);
}

/* qemu-user has none in Debian 12. */
static inline bool has_openat2(void)
{
    struct open_how how = {.flags = O_RDONLY | O_CLOEXEC};
    long fd = syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof how);

    if (fd >= 0)
        close((int)fd);
    return fd >= 0 || errno != ENOSYS;
}

/* ---- running a coroutine to its end ---- */

typedef void Body(struct fixture *f);

struct job {
    struct fixture *f;
    Body *body;
    unsigned *n_left;
};

static inline void run_job(void *opaque)
{
    struct job *job = opaque;

    job->body(job->f);
    --*job->n_left;
}

static inline void fail_late(void *opaque)
{
    fail_msg("the state waited for did not come");
}

static inline void poll_until_zero(AioContext *ctx, const unsigned *n_left)
{
    AioTimer deadline;

    aio_timer_init(ctx, &deadline, fail_late, NULL);
    timer_mod_ns(&deadline, aio_clock_ns() + DEADLINE_NS);
    while (*n_left > 0)
        aio_poll(ctx, true);
    timer_del(&deadline);
}

static inline void in_one_coroutine(struct fixture *f, Body *body)
{
    unsigned n_left = 1;
    struct job job = {.f = f, .body = body, .n_left = &n_left};

    coroutine_enter(coroutine_create(run_job, &job));
    poll_until_zero(f->ctx, &n_left);
}

/* ---- fixture ---- */

static inline const char *scratch_folder(void)
{
    const char *folder = getenv("TMPDIR");

    return folder ? folder : "/tmp";
}

static inline int make_file(struct fixture *f)
{
    snprintf(f->path, sizeof f->path, "%s/sherd-test-disk-XXXXXX", scratch_folder());
    int fd = mkostemp(f->path, O_CLOEXEC);

    assert_true(fd >= 0);
    f->expected = malloc(FILE_BYTES);
    for (size_t i = 0; i < FILE_BYTES; i++)
        f->expected[i] = byte_at(i);
    assert_int_equal(pwrite(fd, f->expected, FILE_BYTES, 0), FILE_BYTES);
    return fd;
}

static enum aio_engine engine_under_test;

/* False where the kernel has none of it, which is said. */
static inline bool setup(struct fixture *f, const struct aio_config *config)
{
    struct aio_config c = config ? *config : (struct aio_config){0};

    c.engine = engine_under_test;
    int r = aio_context_new(&c, &f->ctx);
    if (r == -ENOSYS || r == -EPERM || (r == -EAGAIN && c.engine == AIO_ENGINE_LINUX_AIO)) {
        print_message("%s is not to be had here: %s\n", aio_engine_name(c.engine), strerror(-r));
        return false;
    }
    assert_int_equal(r, 0);
    aio_context_set_current(f->ctx);
    f->fd = make_file(f);
    return true;
}

static inline void teardown(struct fixture *f)
{
    close(f->fd);
    unlink(f->path);
    free(f->expected);
    aio_context_set_current(NULL);
    aio_context_unref(f->ctx);
}

static inline int count_fds(void)
{
    int n = 0;

    for (int fd = 0; fd < 1024; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* As if nothing were in memory: what the loop tries at once goes the long way. */
static inline ssize_t nothing_cached(
    int fd, const struct iovec *iov, int n_iov, uint64_t offset, int flags)
{
    return flags & RWF_NOWAIT ? -EAGAIN : disk_kernel_real.preadv(fd, iov, n_iov, offset, flags);
}

static inline int no_path_cached(int dirfd, const char *path, const struct open_how *how)
{
    return how->resolve != UINT64_MAX && (how->resolve & RESOLVE_CACHED)
               ? -EAGAIN
               : disk_kernel_real.openat2(dirfd, path, how);
}

static inline void on_this_engine(
    Body *body, const struct aio_config *config, bool outside_coroutine, bool cold)
{
    struct fixture f = {0};
    struct disk_kernel cold_kernel = disk_kernel_real;
    int n_fds = count_fds();

    if (!setup(&f, config))
        return;
    cold_kernel.preadv = nothing_cached;
    cold_kernel.openat2 = no_path_cached;
    if (cold)
        f.ctx->disk.kernel = &cold_kernel;
    if (outside_coroutine)
        body(&f);
    else
        in_one_coroutine(&f, body);
    assert_int_equal(f.ctx->disk.n_in_flight, 0);
    teardown(&f);
    assert_int_equal(count_fds(), n_fds);
}

static inline void on_each_engine(
    Body *body, const struct aio_config *config, bool outside_coroutine)
{
    static const enum aio_engine engines[] = {
        AIO_ENGINE_THREADS, AIO_ENGINE_IO_URING, AIO_ENGINE_LINUX_AIO};

    for (size_t i = 0; i < sizeof engines / sizeof engines[0]; i++) {
        engine_under_test = engines[i];
        on_this_engine(body, config, outside_coroutine, false);
        on_this_engine(body, config, outside_coroutine, true);
    }
}

/* ---- what many cases do ---- */

static inline void check_content(
    const struct fixture *f, const void *buf, size_t offset, size_t len)
{
    assert_memory_equal(buf, f->expected + offset, len);
}

static inline void read_everything(struct fixture *f)
{
    uint8_t *buf = malloc(FILE_BYTES + 10);

    assert_int_equal(co_pread(f->fd, buf, FILE_BYTES, 0), FILE_BYTES);
    check_content(f, buf, 0, FILE_BYTES);
    assert_int_equal(co_pread(f->fd, buf, 100, 4095), 100);
    check_content(f, buf, 4095, 100);
    free(buf);
}

static uint32_t most_in_flight;

static inline void read_at_random(struct fixture *f)
{
    static unsigned seed = 7;
    uint8_t buf[512];

    for (int i = 0; i < 8; i++) {
        size_t offset = (size_t)rand_r(&seed) % (FILE_BYTES - sizeof buf);

        assert_int_equal(co_pread(f->fd, buf, sizeof buf, offset), sizeof buf);
        check_content(f, buf, offset, sizeof buf);
        if (f->ctx->disk.n_in_flight > most_in_flight)
            most_in_flight = f->ctx->disk.n_in_flight;
    }
}
