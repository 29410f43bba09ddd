/* SPDX-License-Identifier: MIT */
#include "services/file_io.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "runtime/disk.h"

/*
 * What is in the kernel's cache is copied by a call that never waits (RWF_NOWAIT), here in the
 * loop: that takes less than the way through the engine and back. The rest, and all of what is read
 * past the cache, goes through the engine.
 *
 * What file.pwrite writes may lie in the caller's memory: it is not looked at, and goes to the disk
 * from there. Of its span, which lies behind it, one copy is made, and that is used.
 */

#define SMALL_BYTES  192u                  /* that travel without a buffer */
#define STEP_BYTES   ((size_t)1024 * 1024) /* after which a read looks whether it is wanted */
#define NOWAIT_BYTES ((size_t)256 * 1024)  /* longer copies would keep the loop from all else */

struct span {
    uint64_t handle;
    uint64_t offset;
    uint64_t len;
};

static uint64_t number_at(const uint8_t *bytes)
{
    uint64_t number;

    memcpy(&number, bytes, sizeof(number));
    return le64toh(number);
}

static struct span span_of(const uint8_t *args)
{
    uint8_t bytes[FILE_SPAN_BYTES];

    memcpy(bytes, args, sizeof(bytes));
    return (struct span){number_at(bytes), number_at(bytes + 8), number_at(bytes + 16)};
}

static int check_span(struct service_call *call, const char *method, const struct span *span)
{
    if (span->offset > (uint64_t)INT64_MAX || span->len > (uint64_t)INT64_MAX - span->offset)
        return service_fail(call, -EINVAL, "%s: the offset is too large", method);
    return 0;
}

static uint64_t owner_of(const struct service_call *call)
{
    struct service_caller caller;

    service_caller(call, &caller);
    return caller.id;
}

static int fail_stale(struct service_call *call, const char *method)
{
    return service_fail(call, -ESTALE,
        "%s: no such open file in shard %u: it was closed, or its shard died: open it again",
        method, service_shard(call));
}

static int fail_io(struct service_call *call, const char *method, int error)
{
    return service_fail(call, error, "%s: %s", method, strerrordesc_np(-error));
}

static int fail_read(struct service_call *call, const struct open_file *file, int error)
{
    if (error == -EINVAL && file->is_direct)
        return service_fail(call, error,
            "file.pread: past the cache (direct) offset, length and the address of the room are to "
            "be multiples of the disk's blocks: %zu does for all",
            SERVICE_ROOM_ALIGN);
    return fail_io(call, "file.pread", error);
}

/* 0 with the open file, to be given back; or what the call fails with. */
static int take_file(struct service_call *call, struct open_files *files, const char *method,
    const struct span *span, struct open_file **ret_file)
{
    int r = check_span(call, method, span);

    if (r < 0)
        return r;
    *ret_file = open_files_take(files, owner_of(call), span->handle);
    return *ret_file ? 0 : fail_stale(call, method);
}

static void coroutine_fn give_co(struct open_file *file)
{
    int fd = open_files_give(file);

    if (fd >= 0)
        co_close(fd);
}

/* ---- file.pread ---- */

/* As much as can be had at once; the errors are for the engine to find. */
static size_t read_cached(const struct open_file *file, void *to, size_t len, uint64_t offset)
{
    struct iovec iov = {to, len};
    ssize_t n;

    if (file->is_direct || file->io_fd != file->fd || len > NOWAIT_BYTES)
        return 0;
    n = preadv2(file->fd, &iov, 1, (off_t)offset, RWF_NOWAIT);
    return n > 0 ? (size_t)n : 0;
}

/* Fewer than len bytes only at the end of the file. */
static ssize_t coroutine_fn read_co(const struct service_call *call, const struct open_file *file,
    uint8_t *to, size_t len, uint64_t offset)
{
    size_t done = read_cached(file, to, len, offset);

    while (done < len) {
        size_t step = len - done < STEP_BYTES ? len - done : STEP_BYTES;
        if (done > 0 && !service_is_wanted(call))
            return -ECANCELED;
        ssize_t n = co_pread(file->io_fd, to + done, step, offset + done);
        if (n < 0)
            return n;
        done += (size_t)n;
        if (n == 0 || (file->is_direct && (size_t)n < step)) /* past the cache, that is the end */
            break;
    }
    return (ssize_t)done;
}

static int coroutine_fn read_small_co(
    struct service_call *call, const struct open_file *file, const struct span *span)
{
    uint8_t bytes[SMALL_BYTES];
    ssize_t n = read_co(call, file, bytes, span->len, span->offset);

    return n < 0 ? fail_io(call, "file.pread", (int)n) : service_reply(call, bytes, (size_t)n);
}

static int coroutine_fn read_room_co(
    struct service_call *call, const struct open_file *file, const struct span *span)
{
    void *room;
    int r = service_reply_room(call, span->len, &room);
    ssize_t n;

    if (r < 0)
        return fail_io(call, "file.pread", r);
    n = read_co(call, file, room, span->len, span->offset);
    return n < 0 ? fail_read(call, file, (int)n) : service_reply_done(call, (size_t)n);
}

int coroutine_fn file_pread_co(struct service_call *call, struct open_files *files)
{
    struct open_file *file;
    struct span span;
    size_t len;
    const uint8_t *args = service_args(call, &len);
    int r;

    if (len != FILE_SPAN_BYTES)
        return service_fail(call, -EBADMSG, "file.pread: the arguments are not 24 bytes");
    span = span_of(args);
    r = take_file(call, files, "file.pread", &span, &file);
    if (r < 0)
        return r;
    r = span.len <= SMALL_BYTES && !file->is_direct ? read_small_co(call, file, &span)
                                                    : read_room_co(call, file, &span);
    give_co(file);
    return r;
}

/* ---- file.pwrite ---- */

static int coroutine_fn write_co(
    struct service_call *call, const struct open_file *file, const uint8_t *from, struct span *span)
{
    uint64_t len = span->len;

    while (span->len > 0) {
        uint64_t step = span->len < STEP_BYTES ? span->len : STEP_BYTES;
        ssize_t n = co_pwrite(file->io_fd, from, step, span->offset);
        if (n <= 0) {
            int error = n < 0 ? (int)n : -EIO;
            return service_fail(call, error, "file.pwrite: %s, after at least %llu of %llu bytes",
                strerrordesc_np(-error), (unsigned long long)(len - span->len),
                (unsigned long long)len);
        }
        from += n;
        span->offset += (uint64_t)n;
        span->len -= (uint64_t)n;
    }
    return 0;
}

int coroutine_fn file_pwrite_co(struct service_call *call, struct open_files *files)
{
    struct open_file *file;
    struct span span;
    size_t len;
    const uint8_t *args = service_args(call, &len);
    int r;

    if (len < FILE_SPAN_BYTES)
        return service_fail(call, -EBADMSG, "file.pwrite: there are no 24 bytes behind the data");
    span = span_of(args + len - FILE_SPAN_BYTES);
    if (span.len != len - FILE_SPAN_BYTES)
        return service_fail(call, -EBADMSG,
            "file.pwrite: %zu bytes of data, not as many as it says", len - FILE_SPAN_BYTES);
    r = take_file(call, files, "file.pwrite", &span, &file);
    if (r < 0)
        return r;
    r = file->is_writable ? write_co(call, file, args, &span)
                          : service_fail(call, -EBADF, "file.pwrite: opened for reading alone");
    give_co(file);
    return r;
}

/* ---- file.close ---- */

int coroutine_fn file_close_co(struct service_call *call, struct open_files *files)
{
    size_t len;
    const uint8_t *args = service_args(call, &len);
    int fd;

    if (len != FILE_HANDLE_BYTES)
        return service_fail(call, -EBADMSG, "file.close: the arguments are not 8 bytes");
    fd = open_files_close(files, owner_of(call), number_at(args));
    if (fd == -ESTALE)
        return fail_stale(call, "file.close");
    return fd >= 0 ? co_close(fd) : 0;
}
