/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <liburing.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/aio_register.h"
#include "runtime/aio_sqe.h"
#include "runtime/coroutine.h"
#include "runtime/disk.h"
#include "runtime/uring.h"

/* A context with a ring that is restricted; NULL: this kernel or container has none. */
static AioContext *open_context(void)
{
    struct aio_config config = {.engine = AIO_ENGINE_IO_URING, .restricted = true};
    AioContext *ctx;
    int r = aio_context_new(&config, &ctx);

    if (r < 0)
        return NULL;
    aio_context_set_current(ctx);
    return ctx;
}

static void close_context(AioContext *ctx)
{
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
}

struct noted {
    AioCqeHandler handler;
    unsigned n;
    int32_t result;
};

static void note(AioCqeHandler *handler, int32_t result, uint32_t cqe_flags)
{
    struct noted *noted = (struct noted *)handler;

    (void)cqe_flags;
    noted->n++;
    noted->result = result;
}

static int32_t end_of(AioContext *ctx, AioSqeFunc *prep, void *opaque)
{
    struct noted noted = {.handler.cb = note};

    assert_int_equal(aio_add_sqe(prep, opaque, &noted.handler), 0);
    while (noted.n == 0)
        aio_poll(ctx, true);
    return noted.result;
}

static void prep_nop(struct io_uring_sqe *sqe, void *opaque)
{
    (void)opaque;
    io_uring_prep_nop(sqe);
}

static void prep_socket(struct io_uring_sqe *sqe, void *opaque)
{
    (void)opaque;
    io_uring_prep_rw(IORING_OP_SOCKET, sqe, AF_UNIX, NULL, 0, SOCK_STREAM);
}

static void prep_openat(struct io_uring_sqe *sqe, void *opaque)
{
    io_uring_prep_openat(sqe, AT_FDCWD, opaque, O_RDONLY, 0);
}

static void prep_unlink(struct io_uring_sqe *sqe, void *opaque)
{
    io_uring_prep_unlinkat(sqe, AT_FDCWD, opaque, 0);
}

static void prep_epoll(struct io_uring_sqe *sqe, void *opaque)
{
    (void)opaque;
    io_uring_prep_rw(IORING_OP_EPOLL_CTL, sqe, -1, NULL, 0, 0);
}

static void prep_message(struct io_uring_sqe *sqe, void *opaque)
{
    (void)opaque;
    io_uring_prep_rw(IORING_OP_MSG_RING, sqe, -1, NULL, 0, 0);
}

static void what_is_not_on_the_list_is_refused(void **state)
{
    AioSqeFunc *const others[] = {prep_socket, prep_openat, prep_unlink, prep_epoll, prep_message};
    AioContext *ctx = open_context();

    (void)state;
    if (!ctx)
        skip();
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
        assert_int_equal(end_of(ctx, others[i], (void *)"/dev/null"), -EACCES);
    assert_int_equal(end_of(ctx, prep_nop, NULL), 0);
    close_context(ctx);
}

static void it_cannot_be_widened(void **state)
{
    struct io_uring_restriction all = {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = 0};
    AioContext *ctx = open_context();

    (void)state;
    if (!ctx)
        skip();
    assert_int_equal(end_of(ctx, prep_nop, NULL), 0); /* it is enabled */
    assert_true(uring_register(ctx, IORING_REGISTER_RESTRICTIONS, &all, 1) < 0);
    assert_int_equal(uring_register(ctx, IORING_REGISTER_PERSONALITY, NULL, 0), -EACCES);
    assert_int_equal(end_of(ctx, prep_socket, NULL), -EACCES);
    close_context(ctx);
}

struct work {
    const char *path;
    bool done;
};

/* Each kind of request that the engine knows. */
static void coroutine_fn use_disk(void *opaque)
{
    struct work *work = opaque;
    struct open_how how = {.flags = O_RDWR | O_CREAT | O_CLOEXEC, .mode = 0600};
    static char bytes[4096] __attribute__((aligned(4096)));
    struct iovec parts[] = {{bytes, 1000}, {bytes + 2000, 1000}};
    struct statx stx;
    int fd = co_openat2(AT_FDCWD, work->path, &how);

    assert_true(fd >= 0);
    assert_int_equal(co_fallocate(fd, 0, 0, sizeof(bytes)), 0);
    assert_int_equal(co_pwrite(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
    assert_int_equal(co_pwritev(fd, parts, 2, 0), 2000);
    assert_int_equal(co_preadv(fd, parts, 2, 0), 2000);
    assert_int_equal(co_fdatasync(fd), 0);
    assert_int_equal(co_fsync(fd), 0);
    assert_int_equal(co_pread(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
    assert_int_equal(co_statx(AT_FDCWD, work->path, 0, STATX_SIZE, &stx), 0);
    assert_int_equal(co_close(fd), 0);
    work->done = true;
}

static void the_disk_engine_has_all_it_needs(void **state)
{
    char path[] = "/tmp/test-restrict-XXXXXX";
    struct work work = {.path = path};
    AioContext *ctx = open_context();
    int fd;

    (void)state;
    if (!ctx)
        skip();
    fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    coroutine_enter(coroutine_create(use_disk, &work));
    while (!work.done)
        aio_poll(ctx, true);
    unlink(path);
    close_context(ctx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_on_the_list_is_refused),
        cmocka_unit_test(it_cannot_be_widened),
        cmocka_unit_test(the_disk_engine_has_all_it_needs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
