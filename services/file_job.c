/* SPDX-License-Identifier: MIT */
#include "services/file_job.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/disk.h"
#include "services/file_open.h"
#include "services/file_request.h"

/*
 * Thousands of calls may be in flight in a shard, each about a file. Whoever wants to open one
 * first takes a piece buffer, whether it needs its bytes or not, so the number of pieces bounds the
 * open files and the memory: FILE_PIECES and FILE_WINDOWS together are 32 MiB a shard. A large file
 * takes a window while it holds its piece; nobody waits for a piece while holding a window, so all
 * get on. Room for an answer comes back only once its reader has looked, which may be stopped: so
 * nobody waits for room while holding a piece. Who has room may wait for a piece.
 *
 * What is cancelled must not hold its place while others wait for it, so after each wait in line
 * and between two steps of what takes long it is asked whether the answer is wanted.
 *
 * Nothing of a request is trusted: it is unpacked from a private copy, and its path may hold any
 * byte.
 */

#define CREATE_MODE 0644u
#define PATH_SHOWN  200 /* of a path that is too long: texts for people are short */

void coroutine_fn file_job_let_go_co(struct file_job *job)
{
    if (job->fd >= 0) {
        co_close(job->fd);
        job->fd = -1;
    }
    buffer_pool_put(&job->state->pieces, job->piece);
    job->piece = NULL;
}

static void file_job_deinit(struct file_job *job)
{
    free(job->path);
    arena_deinit(&job->arena);
}

int file_job_fail(struct file_job *job, int error, char *text)
{
    int r = text ? service_fail(job->call, error, "%s: %s", job->method, text) : error;
    free(text);
    return r;
}

int file_job_fail_io(struct file_job *job, int error, const char *doing)
{
    return service_fail(
        job->call, error, "%s: %s: %s: %s", job->method, job->path, doing, strerrordesc_np(-error));
}

int file_job_may_go_on(const void *opaque)
{
    const struct service_call *call = opaque;
    if (service_is_wanted(call))
        return 0;
    return aio_clock_ns() >= service_deadline_ns(call) ? -ETIMEDOUT : -ECANCELED;
}

/* Such a path is not unpacked: its beginning is copied, for it may change meanwhile. */
static int refuse_long_path(const struct file_job *job, const struct file_request_split *path)
{
    char shown[PATH_SHOWN];
    memcpy(shown, path->data, sizeof shown);
    return service_fail(job->call, -ENAMETOOLONG,
        "%s: %.*s...: %zu bytes are too long for a path: at most %d", job->method, PATH_SHOWN,
        shown, path->data_len, PATH_MAX - 1);
}

static int unpack_request(struct file_job *job)
{
    struct file_request_split split;
    size_t len;
    const void *args = service_args(job->call, &len);
    int r = file_request_unpack(args, len, &job->arena, &split, &job->request);
    if (r == -ENAMETOOLONG)
        return refuse_long_path(job, &split);
    if (r == -EBADMSG)
        return service_fail(
            job->call, r, "%s: the arguments are no sherd.file.Request", job->method);
    if (r < 0)
        return r;
    job->data = split.data;
    job->data_len = split.data_len;
    return 0;
}

int coroutine_fn file_job_take_piece_co(struct file_job *job)
{
    job->piece = buffer_pool_take_co(&job->state->pieces);
    if (!job->piece)
        return -ENOMEM;
    int r = file_job_may_go_on(job->call);
    return r < 0 ? file_job_fail_io(job, r, "given up in line") : 0;
}

static int coroutine_fn file_job_init_co(
    struct file_job *job, struct service_call *call, const char *method)
{
    *job =
        (struct file_job){.call = call, .state = service_state(call), .method = method, .fd = -1};
    arena_init(&job->arena, FILE_REQUEST_BYTES_MAX);
    int r = unpack_request(job);
    if (r < 0)
        return r;
    const ProtobufCBinaryData *path = &job->request->path;
    if (path->len == 0 || memchr(path->data, '\0', path->len)) {
        return service_fail(
            call, -EINVAL, "%s: the path is empty or has a zero byte in it", method);
    }
    job->path = strndup((const char *)path->data, path->len);
    return job->path ? file_job_take_piece_co(job) : -ENOMEM;
}

int coroutine_fn file_job_open_regular_co(struct file_job *job, uint64_t flags)
{
    char *error = NULL;
    int r =
        file_open_regular_co(job->state->roots, job->path, flags, CREATE_MODE, &job->file, &error);
    if (r < 0)
        return file_job_fail(job, r, error);
    job->fd = job->file.fd;
    return 0;
}

int coroutine_fn file_job_run_co(struct service_call *call, const char *method, file_job_fn *run)
{
    struct file_job job;
    int r = file_job_init_co(&job, call, method);
    if (r == 0)
        r = run(&job);
    file_job_let_go_co(&job);
    file_job_deinit(&job);
    return r;
}

int coroutine_fn file_job_reply_co(struct file_job *job, const ProtobufCMessage *message)
{
    uint8_t packed[256];
    size_t len = protobuf_c_message_get_packed_size(message);
    if (len > sizeof(packed))
        return -EMSGSIZE;
    protobuf_c_message_pack(message, packed);
    file_job_let_go_co(job);
    return service_reply(job->call, packed, len);
}
