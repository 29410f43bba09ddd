/* SPDX-License-Identifier: MIT */
/*
 * file.sha256 and file.stat: many paths, a record each, in order.
 *
 * The shards know a path by its absolute form; what is printed has the name as it was typed. The
 * absolute form is made again for a line of error, which is rare, instead of kept for each file.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "proto/file.pb-c.h"
#include "tools/clock.h"
#include "tools/json.h"
#include "tools/path.h"
#include "tools/submit.h"
#include "tools/text.h"

#define DIGEST_BYTES 32u

struct file_job {
    struct submit *submit;
    uint8_t *args; /* of the latest request */
    size_t args_room;
};

/* file.Request with a path alone. */
static int pack_path(struct file_job *job, const char *path, size_t *ret_len)
{
    Sherd__File__Request message = SHERD__FILE__REQUEST__INIT;
    message.path.data = (uint8_t *)path;
    message.path.len = strlen(path);
    size_t len = sherd__file__request__get_packed_size(&message);
    if (len > job->args_room) {
        uint8_t *args = realloc(job->args, len);
        if (!args)
            return -ENOMEM;
        job->args = args;
        job->args_room = len;
    }
    *ret_len = sherd__file__request__pack(&message, job->args);
    return 0;
}

static int make_path_request(
    void *opaque, const struct name *name, struct sherd_request *ret_request)
{
    struct file_job *job = opaque;
    size_t len;
    if (!name->len)
        return -ENOENT;
    if (memchr(name->bytes, 0, name->len))
        return -EINVAL;
    char *path = path_absolute(name->bytes);
    if (!path)
        return -errno;
    int r = pack_path(job, path, &len);
    free(path);
    if (r)
        return r;
    *ret_request = submit_request(job->submit);
    ret_request->args = job->args;
    ret_request->args_len = len;
    return 0;
}

static bool path_failed(struct submit *submit, const char *name, const struct sherd_result *result)
{
    char *path = path_absolute(name);
    submit_failed(submit, *name ? name : "''", path, result);
    free(path);
    return false;
}

static bool malformed(struct submit *submit, const char *name)
{
    static const char text[] = "the answer is malformed";
    return submit_failed(submit, name, NULL,
        &(struct sherd_result){
            .end = SHERD_END_FAILED, .data = (uint8_t *)text, .len = sizeof text - 1});
}

static int run_paths(struct submit *submit,
    bool (*ended)(void *, const char *, int64_t, const struct sherd_result *))
{
    struct file_job job = {.submit = submit};
    struct pump_job pump_job = {.make = make_path_request, .ended = ended, .opaque = &job};
    int status = submit_run(submit, &pump_job, "files");
    free(job.args);
    return status;
}

/* ---- file.sha256 ---- */

/* A line of sha256sum: a backslash first where the name needed some, the digest, two spaces, the
 * name. */
static bool print_checksum(FILE *out, const uint8_t digest[static DIGEST_BYTES], const char *name)
{
    static const char digits[] = "0123456789abcdef";
    char hex[2 * DIGEST_BYTES];
    char *escaped = malloc(2 * strlen(name) + 1);
    if (!escaped)
        return false;
    for (size_t i = 0; i < DIGEST_BYTES; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    if (path_escape_checksum(name, escaped))
        putc('\\', out);
    fwrite(hex, 1, sizeof hex, out);
    fputs("  ", out);
    fputs(escaped, out);
    putc('\n', out);
    free(escaped);
    return true;
}

static bool sha256_ended(
    void *opaque, const char *name, int64_t round_trip_ns, const struct sherd_result *result)
{
    struct file_job *job = opaque;
    if (result->end != SHERD_END_DONE)
        return path_failed(job->submit, name, result);
    Sherd__File__Sha256Reply *reply =
        sherd__file__sha256_reply__unpack(NULL, result->len, result->data);
    bool is_good = reply && reply->digest.len == DIGEST_BYTES;
    if (is_good) {
        progress_add_bytes(&job->submit->progress, reply->size);
        is_good = print_checksum(job->submit->pump.out.stream, reply->digest.data, name);
    }
    if (reply)
        sherd__file__sha256_reply__free_unpacked(reply, NULL);
    return is_good || malformed(job->submit, name);
}

int submit_sha256(struct submit *submit)
{
    return run_paths(submit, sha256_ended);
}

/* ---- file.stat ---- */

/* X(format bits, text) */
#define FILE_TYPES(X)              \
    X(S_IFREG, "regular file")     \
    X(S_IFDIR, "directory")        \
    X(S_IFLNK, "symbolic link")    \
    X(S_IFIFO, "FIFO")             \
    X(S_IFSOCK, "socket")          \
    X(S_IFCHR, "character device") \
    X(S_IFBLK, "block device")

static const char *type_text(uint32_t mode)
{
    switch (mode & S_IFMT) {
#define X(bits, text) \
    case bits:        \
        return text;
        FILE_TYPES(X)
#undef X
    default:
        return "unknown";
    }
}

/* X(field of StatReply, label): what is printed as a whole number */
#define STAT_NUMBERS(X) \
    X(size, "size")     \
    X(uid, "uid")       \
    X(gid, "gid")       \
    X(inode, "inode")   \
    X(links, "links")   \
    X(blocks, "blocks")

/* X(field of StatReply, label): times in ns since 1970 */
#define STAT_TIMES(X)       \
    X(mtime_ns, "modified") \
    X(ctime_ns, "changed")  \
    X(atime_ns, "accessed")

static void print_time(FILE *out, const char *label, int64_t ns)
{
    int64_t rest_ns = ns % NS_PER_S;
    time_t seconds = (time_t)(ns / NS_PER_S);
    if (rest_ns < 0) {
        rest_ns += NS_PER_S;
        seconds--;
    }
    struct tm local;
    char text[64] = "?", zone[16] = "";
    if (localtime_r(&seconds, &local)) {
        strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &local);
        strftime(zone, sizeof zone, "%z", &local);
    }
    fprintf(out, "%s: %s.%09" PRId64 " %s\n", label, text, rest_ns, zone);
}

static void print_stat(FILE *out, const char *name, const Sherd__File__StatReply *reply)
{
    char *safe = text_escape(name, strlen(name));
    fprintf(out, "path: %s\ntype: %s\nmode: %04o\n", safe ? safe : "", type_text(reply->mode),
        reply->mode & 07777);
    free(safe);
#define X(field, label) fprintf(out, label ": %" PRIu64 "\n", (uint64_t)reply->field);
    STAT_NUMBERS(X)
#undef X
    fprintf(out, "device: %u:%u\n", reply->dev_major, reply->dev_minor);
#define X(field, label) print_time(out, label, reply->field);
    STAT_TIMES(X)
#undef X
}

static void print_stat_json(FILE *out, const char *name, const Sherd__File__StatReply *reply)
{
    json_t *o = json_object();
    json_set_text(o, "path", name);
    json_set_text(o, "type", type_text(reply->mode));
    json_set_u64(o, "mode", reply->mode & 07777);
#define X(field, label) json_set_u64(o, #field, reply->field);
    STAT_NUMBERS(X)
#undef X
    json_set_u64(o, "dev_major", reply->dev_major);
    json_set_u64(o, "dev_minor", reply->dev_minor);
#define X(field, label) json_object_set_new(o, #field, json_integer(reply->field));
    STAT_TIMES(X)
#undef X
    json_dumpf(o, out, JSON_COMPACT);
    putc('\n', out);
    json_decref(o);
}

static bool stat_ended(
    void *opaque, const char *name, int64_t round_trip_ns, const struct sherd_result *result)
{
    struct file_job *job = opaque;
    if (result->end != SHERD_END_DONE)
        return path_failed(job->submit, name, result);
    Sherd__File__StatReply *reply =
        sherd__file__stat_reply__unpack(NULL, result->len, result->data);
    FILE *out = job->submit->pump.out.stream;
    if (!reply)
        return malformed(job->submit, name);
    if (job->submit->values->is_json) {
        print_stat_json(out, name, reply);
    } else {
        if (job->submit->pump.n_done)
            putc('\n', out);
        print_stat(out, name, reply);
    }
    sherd__file__stat_reply__free_unpacked(reply, NULL);
    return true;
}

int submit_stat(struct submit *submit)
{
    return run_paths(submit, stat_ended);
}
