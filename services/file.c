/* SPDX-License-Identifier: MIT */
#include "services/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/disk.h"
#include "services/file_io.h"
#include "services/file_job.h"
#include "services/file_open.h"
#include "services/file_request.h"
#include "shard/keymap.h"

/*
 * What each method does between file_job_run_co() and its answer. What file.write writes stays in
 * the caller's shared memory, is not looked at, and goes to the disk from there.
 */

#define READ_STEP_BYTES  ((size_t)1024 * 1024)
#define WRITE_STEP_BYTES ((size_t)64 * 1024) /* how exactly an error says what was written */
#define SMALL_BYTES      192u                /* that travel without a buffer */

#define FIRST_OF_HANDLES 5u /* of the methods: those that take no path */

/* ---- file.sha256 ---- */

static int coroutine_fn sha256_co(struct file_job *job)
{
    int r = file_job_open_regular_co(job, O_RDONLY);
    if (r < 0)
        return r;
    struct file_to_hash file = {
        .fd = job->file.io_fd,
        .size = job->file.size,
        .piece = job->piece,
        .may_go_on = file_job_may_go_on,
        .opaque = job->call,
    };
    uint8_t digest[FILE_DIGEST_BYTES];
    uint64_t size;
    r = file_hash_co(job->state->hasher, &file, digest, &size);
    if (r < 0)
        return file_job_fail_io(
            job, r, file_job_may_go_on(job->call) == r ? "given up" : "reading failed");
    Sherd__File__Sha256Reply reply = SHERD__FILE__SHA256_REPLY__INIT;
    reply.digest = (ProtobufCBinaryData){.data = digest, .len = sizeof(digest)};
    reply.size = size;
    return file_job_reply_co(job, &reply.base);
}

static int coroutine_fn run_sha256(struct service_call *call)
{
    return file_job_run_co(call, "file.sha256", sha256_co);
}

/* ---- direct I/O ---- */

/* Past the page cache from here on, where that was asked for and can be done. */
static void go_direct(struct file_job *job, const void *memory, uint64_t len)
{
    if (job->request->direct && job->request->offset % SERVICE_ROOM_ALIGN == 0 &&
        len % SERVICE_ROOM_ALIGN == 0 && (uintptr_t)memory % SERVICE_ROOM_ALIGN == 0)
        fcntl(
            job->fd, F_SETFL, O_DIRECT); /* a file system that can't says so, and stays as it was */
}

/* ---- file.read ---- */

static int check_range(struct file_job *job, uint64_t len)
{
    if (len > service_reply_max(job->call)) {
        return service_fail(job->call, -EMSGSIZE,
            "%s: %s: %llu bytes at once are too many: at most %zu", job->method, job->path,
            (unsigned long long)len, service_reply_max(job->call));
    }
    if (job->request->offset > (uint64_t)INT64_MAX - len) {
        return service_fail(
            job->call, -EINVAL, "%s: %s: the offset is too large", job->method, job->path);
    }
    return 0;
}

/* Of what is asked for, as much as the file is known to have; files that are made as they are read
 * say that they have nothing. */
static size_t bytes_to_read(const struct file_job *job)
{
    uint64_t size = job->file.size, offset = job->request->offset;
    uint64_t left = offset < size ? size - offset : 0;

    if (job->request->direct && job->request->length % SERVICE_ROOM_ALIGN == 0)
        left = (left + SERVICE_ROOM_ALIGN - 1) / SERVICE_ROOM_ALIGN * SERVICE_ROOM_ALIGN;
    return size > 0 && job->request->length > left ? left : job->request->length;
}

/* Room for the answer; the file is let go where that is waited for, and then opened anew. */
static int coroutine_fn take_room_co(struct file_job *job, size_t len, void **ret_room)
{
    bool waits = !service_has_reply_room(job->call, len);
    if (waits)
        file_job_let_go_co(job);
    int r = service_reply_room(job->call, len, ret_room);
    if (r == 0)
        r = file_job_may_go_on(job->call); /* the line was long, maybe */
    if (r < 0)
        return file_job_fail_io(job, r, "given up in line");
    if (waits)
        r = file_job_take_piece_co(job);
    return r == 0 && waits ? file_job_open_regular_co(job, O_RDONLY) : r;
}

/* In steps, so that a long one ends when nobody waits for it any more. Bytes read, fewer only at
 * the end of the file; or -errno, with a text. */
static ssize_t coroutine_fn read_steps_co(struct file_job *job, uint8_t *to, size_t len)
{
    size_t done = 0;

    while (done < len) {
        size_t step = len - done < READ_STEP_BYTES ? len - done : READ_STEP_BYTES;
        int r = done > 0 ? file_job_may_go_on(job->call) : 0;
        if (r < 0)
            return file_job_fail_io(job, r, "given up");
        ssize_t n = co_pread(job->file.io_fd, to + done, step, job->request->offset + done);
        if (n < 0)
            return file_job_fail_io(job, (int)n, "reading failed");
        done += (size_t)n;
        if ((size_t)n < step)
            break;
    }
    return (ssize_t)done;
}

/* From the disk to where the caller reads it. */
static int coroutine_fn read_in_place_co(struct file_job *job, size_t len)
{
    void *room;
    int r = take_room_co(job, len, &room);
    if (r < 0)
        return r;
    go_direct(job, room, len);
    ssize_t n = read_steps_co(job, room, len);
    return n < 0 ? (int)n : service_reply_done(job->call, (size_t)n);
}

static int coroutine_fn read_co(struct file_job *job)
{
    int r = check_range(job, job->request->length);
    if (r == 0)
        r = file_job_open_regular_co(job, O_RDONLY);
    if (r < 0)
        return r;
    size_t wanted = bytes_to_read(job);
    if (wanted > SMALL_BYTES)
        return read_in_place_co(job, wanted);
    ssize_t len = co_pread(job->file.io_fd, job->piece, wanted, job->request->offset);
    return len < 0 ? file_job_fail_io(job, (int)len, "reading failed")
                   : service_reply(job->call, job->piece, (size_t)len);
}

static int coroutine_fn run_read(struct service_call *call)
{
    return file_job_run_co(call, "file.read", read_co);
}

/* ---- file.write ---- */

/* Writes in steps, so that *ret_written, set in any case, is close to the truth where one fails. */
static int coroutine_fn write_steps_co(struct file_job *job, size_t *ret_written)
{
    size_t written = 0;
    int r = 0;
    while (r == 0 && written < job->data_len) {
        size_t left = job->data_len - written;
        size_t len = left < WRITE_STEP_BYTES ? left : WRITE_STEP_BYTES;
        ssize_t n =
            co_pwrite(job->file.io_fd, job->data + written, len, job->request->offset + written);
        if (n < 0)
            r = (int)n;
        else
            written += (size_t)n;
        if (r == 0 && written < job->data_len)
            r = file_job_may_go_on(job->call);
    }
    *ret_written = written;
    return r;
}

/* Some file systems say only now that what was written has no room. */
static int coroutine_fn close_written_co(struct file_job *job)
{
    int fd = job->fd;
    job->fd = -1;
    return co_close(fd);
}

static int coroutine_fn write_co(struct file_job *job)
{
    size_t len = job->data_len;
    int r = check_range(job, len);
    if (r == 0)
        r = file_job_open_regular_co(job, O_WRONLY | O_CREAT);
    if (r < 0)
        return r;
    go_direct(job, job->data, len);
    size_t written;
    r = write_steps_co(job, &written);
    if (r < 0) {
        return service_fail(job->call, r,
            "%s: %s: %s, after at least %zu of %zu bytes at offset %llu were written", job->method,
            job->path, strerrordesc_np(-r), written, len, (unsigned long long)job->request->offset);
    }
    r = close_written_co(job);
    if (r < 0)
        return file_job_fail_io(job, r, "closing failed, so what was written may be lost");
    Sherd__File__WriteReply reply = SHERD__FILE__WRITE_REPLY__INIT;
    reply.written = written;
    return file_job_reply_co(job, &reply.base);
}

static int coroutine_fn run_write(struct service_call *call)
{
    return file_job_run_co(call, "file.write", write_co);
}

/* ---- file.stat ---- */

static int64_t timestamp_ns(const struct statx_timestamp *time)
{
    return time->tv_sec * 1000000000LL + time->tv_nsec;
}

static Sherd__File__StatReply stat_reply(const struct statx *stx)
{
    Sherd__File__StatReply reply = SHERD__FILE__STAT_REPLY__INIT;
    reply.size = stx->stx_size;
    reply.mode = stx->stx_mode;
    reply.uid = stx->stx_uid;
    reply.gid = stx->stx_gid;
    reply.inode = stx->stx_ino;
    reply.links = stx->stx_nlink;
    reply.blocks = stx->stx_blocks;
    reply.mtime_ns = timestamp_ns(&stx->stx_mtime);
    reply.ctime_ns = timestamp_ns(&stx->stx_ctime);
    reply.atime_ns = timestamp_ns(&stx->stx_atime);
    reply.dev_major = stx->stx_dev_major;
    reply.dev_minor = stx->stx_dev_minor;
    return reply;
}

/* O_PATH opens nothing that a FIFO's other end, or a device, would notice. */
static int coroutine_fn stat_co(struct file_job *job)
{
    char *error = NULL;
    int fd = file_open_co(job->state->roots, job->path, O_PATH, 0, &error);
    if (fd < 0)
        return file_job_fail(job, fd, error);
    job->fd = fd;
    struct statx stx;
    int r = co_statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stx);
    if (r < 0)
        return file_job_fail_io(job, r, "statx failed");
    Sherd__File__StatReply reply = stat_reply(&stx);
    return file_job_reply_co(job, &reply.base);
}

static int coroutine_fn run_stat(struct service_call *call)
{
    return file_job_run_co(call, "file.stat", stat_co);
}

/* ---- file.open, and what is done with its handle ---- */

/* Opened as any other, for O_DIRECT is set on what was found to be a regular file. */
static int use_direct(struct file_job *job)
{
    if (fcntl(job->fd, F_SETFL, O_DIRECT) < 0)
        return service_fail(
            job->call, -errno, "%s: %s: its file system always caches", job->method, job->path);
    return 0;
}

static int coroutine_fn open_co(struct file_job *job)
{
    bool is_writable = job->request->writable, is_direct = job->request->direct;
    int r = file_job_open_regular_co(job, is_writable ? O_RDWR | O_CREAT : O_RDONLY);
    if (r == 0 && is_direct)
        r = use_direct(job);
    if (r < 0)
        return r;
    Sherd__File__OpenReply reply = SHERD__FILE__OPEN_REPLY__INIT;
    reply.size = job->file.size;
    struct service_caller caller;
    int evicted;
    service_caller(job->call, &caller);
    r = service_watch_caller(job->call);
    if (r < 0 && r != -ENOENT)
        return service_fail(job->call, r, "%s: %s: %s", job->method, job->path,
            r == -ECANCELED ? "its client is gone" : strerrordesc_np(-r));
    r = open_files_add(job->state->open,
        &(struct open_file){.fd = job->fd,
            .io_fd = job->file.io_fd,
            .owner = caller.id,
            .is_writable = is_writable,
            .is_direct = is_direct},
        &reply.handle, &evicted);
    if (r == -EMFILE)
        return service_fail(job->call, r,
            "%s: %s: too many files are open and in use: %u, or %u of one client", job->method,
            job->path, OPEN_FILES, OPEN_FILES_EACH);
    if (r < 0)
        return file_job_fail_io(job, r, "no handle can be made");
    job->fd = evicted; /* closed where this job lets go */
    return file_job_reply_co(job, &reply.base);
}

static int coroutine_fn run_open(struct service_call *call)
{
    return file_job_run_co(call, "file.open", open_co);
}

static int coroutine_fn run_pread(struct service_call *call)
{
    const struct file_state *state = service_state(call);
    return file_pread_co(call, state->open);
}

static int coroutine_fn run_pwrite(struct service_call *call)
{
    const struct file_state *state = service_state(call);
    return file_pwrite_co(call, state->open);
}

static int coroutine_fn run_close(struct service_call *call)
{
    const struct file_state *state = service_state(call);
    return file_close_co(call, state->open);
}

/* ---- the end of a client ---- */

struct closing {
    uint32_t n;
    int fds[OPEN_FILES_EACH];
};

/* In a coroutine, for closing may wait for a disk or a server. */
static void coroutine_fn close_co(void *opaque)
{
    struct closing *closing = opaque;

    for (uint32_t i = 0; i < closing->n; i++)
        co_close(closing->fds[i]);
    free(closing);
}

static void gone(void *opaque, const struct service_caller *caller)
{
    const struct file_state *state = opaque;
    struct closing *closing = malloc(sizeof(*closing)), here;
    Coroutine *co = closing ? coroutine_create(close_co, closing) : NULL;

    if (co) {
        closing->n = open_files_close_all(state->open, caller->id, closing->fds);
        coroutine_enter(co);
        return;
    }
    free(closing);
    here.n = open_files_close_all(state->open, caller->id, here.fds);
    for (uint32_t i = 0; i < here.n; i++)
        close(here.fds[i]);
}

/* ---- the service ---- */

static int reach(const void *config, struct service_reach *reach)
{
    const struct file_roots *roots = config;
    int r = 0;

    for (uint32_t i = 0; roots && r == 0 && i < roots->n_roots; i++) {
        const char *real = roots->roots[i].real;
        r = service_reach_path(reach, *real ? real : "/", roots->roots[i].writable);
    }
    return r;
}

static int configure(void **config, const char *key, const char *value, char **ret_error)
{
    if (strcmp(key, "root") == 0)
        return file_roots_add((struct file_roots **)config, value, ret_error);
    if (asprintf(ret_error, "there is no setting %s; there is: root", key) < 0)
        *ret_error = NULL;
    return -EINVAL;
}

static void discard(void *config)
{
    file_roots_free(config);
}

static void stop(void *opaque)
{
    struct file_state *state = opaque;
    if (!state)
        return;
    open_files_free(state->open);
    file_hasher_free(state->hasher);
    buffer_pool_deinit(&state->windows);
    buffer_pool_deinit(&state->pieces);
    file_roots_free(state->roots);
    free(state);
}

static int start(struct service_home *home, const void *config, void **ret_state)
{
    struct file_state *state = calloc(1, sizeof(*state));
    if (!state)
        return -ENOMEM;
    buffer_pool_init(&state->pieces, FILE_PIECE_BYTES, FILE_PIECES);
    buffer_pool_init(&state->windows, FILE_WINDOW_BYTES, FILE_WINDOWS);
    state->open = open_files_new();
    int r = state->open ? file_roots_open(config, &state->roots) : -ENOMEM;
    if (r == 0)
        r = file_hasher_new(&state->windows, &state->hasher);
    if (r < 0) {
        stop(state);
        return r;
    }
    *ret_state = state;
    return 0;
}

/* By path, for all methods alike that have one, so that small requests about a file meet in one
 * shard. Nothing is kept by path there, so large reads and writes stay where their client's memory
 * is. Who has a handle says the shard. */
static int hash(uint32_t method, const void *args, size_t len, uint64_t *ret_hash)
{
    if (method >= FIRST_OF_HANDLES)
        return -EINVAL;
    struct file_request_split split;
    Sherd__File__Request *request;
    struct arena arena;
    arena_init(&arena, FILE_REQUEST_BYTES_MAX);
    int r = file_request_unpack(args, len, &arena, &split, &request);
    if (r == 0)
        *ret_hash = keymap_hash(request->path.data, request->path.len);
    arena_deinit(&arena);
    return r;
}

#define MESSAGES(reply_) \
    .args = &sherd__file__request__descriptor, .reply = &sherd__file__##reply_##__descriptor

static const struct service_method methods[] = {
    {"sha256", run_sha256, SERVICE_READ_ONLY, "path: SHA-256 and size of a file",
        MESSAGES(sha256_reply)},
    {"read", run_read, SERVICE_READ_ONLY | SERVICE_STAYS,
        "path, offset, length (at most 1 MiB): the bytes",
        .args = &sherd__file__request__descriptor},
    {"write", run_write, SERVICE_IN_PLACE | SERVICE_STAYS,
        "path, offset, data: writes in pieces, not atomic, not synced", MESSAGES(write_reply)},
    {"stat", run_stat, SERVICE_READ_ONLY, "path: size, mode, owner, times", MESSAGES(stat_reply)},
    {"open", run_open, SERVICE_IDEMPOTENT, "path, writable, direct: a handle, good in this shard",
        MESSAGES(open_reply)},
    [FIRST_OF_HANDLES] = {"pread", run_pread, SERVICE_READ_ONLY | SERVICE_STAYS,
        "handle, offset, length, 8 bytes each: the bytes"},
    {"pwrite", run_pwrite, SERVICE_IN_PLACE | SERVICE_STAYS,
        "data, then handle, offset, length: writes it, not atomic, not synced"},
    {"close", run_close, 0, "handle, 8 bytes: nobody reads or writes by it any more"},
};

const struct service file_service = {
    .abi = SERVICE_ABI,
    .name = "file",
    .help = "hashes, reads, writes and describes files under the roots",
    .methods = methods,
    .n_methods = sizeof(methods) / sizeof(methods[0]),
    .configure = configure,
    .reach = reach,
    .discard = discard,
    .start = start,
    .stop = stop,
    .hash = hash,
    .gone = gone,
};
