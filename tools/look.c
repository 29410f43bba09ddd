/* SPDX-License-Identifier: MIT */
#include "tools/look.h"
/*
 * All processes of an instance are forked from one image, so the supervisor's memory tells what an
 * address of a constant means in any of them, the dead ones too.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "shard/process.h"
#include "shard/rundir.h"
#include "shard/segment.h"
#include "tools/command.h"

/* The directory of an instance that left its segment behind. */
static bool find_dead(const char *name, char **ret_path)
{
    char *segment = NULL, *path = NULL;
    bool found = rundir_path(name, &path, NULL) == 0 &&
                 asprintf(&segment, "%s/segment", path) >= 0 && access(segment, R_OK) == 0;
    if (found)
        *ret_path = path;
    else
        free(path);
    free(segment);
    return found;
}

static bool find_unready(const char *name, char **ret_path)
{
    char *ignored = NULL;
    int r = rundir_find(name, 0, 0, ret_path, &ignored);
    free(ignored);
    return r == 0;
}

static int find(const char *name, int64_t wait_ns, enum look_for what, char **ret_path)
{
    char *error = NULL;
    int r = rundir_find(name, wait_ns, what == LOOK_READY, ret_path, &error);
    bool found = r == 0;
    if (!found && what == LOOK_READY)
        found = find_unready(name, ret_path);
    else if (r == -ENOENT || r == -ENOLCK)
        found = find_dead(name, ret_path);
    if (found) {
        free(error);
        return 0;
    }
    command_error_text(error, name, r);
    return r;
}

static int32_t living_supervisor(const struct segment_view *view)
{
    struct view_record head;
    uint64_t ticks;
    if (!segment_view_at(view, "control", 0, "supervisor", 0, 0, &head))
        return 0;
    int32_t pid = (int32_t)look_word(&head, "pid");
    bool lives = pid > 0 && process_start_ticks(pid, &ticks) == 0 &&
                 ticks == look_word(&head, "pid_start_ticks");
    return lives ? pid : 0;
}

int look_refuse(const struct look *look, const char *why)
{
    return command_error(
        "instance %s: its segment (%s) cannot be read: %s", look->name, look->path, why);
}

/* Consumes name and path. */
static int open_view(char *name, char *path, struct look *ret)
{
    struct look look = {.name = name, .path = path};
    const char *why = NULL;
    int r = segment_view_open(path, &look.view, &why);
    if (r) {
        look_refuse(&look, why);
        free(name);
        free(path);
        return r;
    }
    look.supervisor = living_supervisor(&look.view);
    look.is_same_version = look.view.abi == SEGMENT_ABI;
    *ret = look;
    return 0;
}

int look_open(const char *name, int64_t wait_ns, enum look_for what, struct look *ret)
{
    char *dir, *path, *copy = strdup(name ? name : "default");
    int r = copy ? find(copy, wait_ns, what, &dir) : -ENOMEM;
    if (r) {
        free(copy);
        return r;
    }
    if (asprintf(&path, "%s/segment", dir) < 0) {
        free(copy);
        free(dir);
        command_error("no memory");
        return -ENOMEM;
    }
    r = open_view(copy, path, ret);
    if (r)
        free(dir);
    else
        ret->dir = dir;
    return r;
}

int look_open_file(const char *path, struct look *ret)
{
    struct view_record super;
    char name[64], *copy = strdup(path), *unnamed = strdup(path);
    if (!copy || !unnamed) {
        free(copy);
        free(unnamed);
        command_error("no memory");
        return -ENOMEM;
    }
    int r = open_view(unnamed, copy, ret);
    if (r == 0 && segment_view_at(&ret->view, "super", 0, "super", 0, 0, &super) &&
        view_text(&super, "instance", name, sizeof name) && (copy = strdup(name))) {
        free(ret->name);
        ret->name = copy;
    }
    return r;
}

void look_close(struct look *look)
{
    segment_view_close(&look->view);
    free(look->name);
    free(look->path);
    free(look->dir);
}

const char *look_peer_name(const struct look *look, uint32_t peer, char buf[static LOOK_NAME])
{
    if (peer == look->view.n_shards)
        snprintf(buf, LOOK_NAME, "gateway");
    else
        snprintf(buf, LOOK_NAME, "shard %u", peer);
    return buf;
}

/* They stand there once for all, before the first process is forked. */
const char *look_method(const struct look *look, uint32_t method, char buf[static LOOK_METHOD])
{
    struct view_record row;
    for (uint32_t i = 0; segment_view_at(&look->view, "control", 0, "methods", 0, i, &row); i++)
        if (look_word(&row, "number") == method && view_text(&row, "name", buf, LOOK_METHOD) &&
            *buf)
            return buf;
    snprintf(buf, LOOK_METHOD, "%u", method);
    return buf;
}

bool look_is_alive(const struct look *look)
{
    return living_supervisor(&look->view) != 0;
}

uint64_t look_word(const struct view_record *record, const char *field)
{
    uint64_t value;
    view_u64(record, field, &value);
    return value;
}

struct symbols *look_symbols(const struct look *look)
{
    const struct layout_field *build_id;
    struct view_record super;
    char path[256];
    if (look->supervisor)
        return symbols_of_process(look->supervisor);
    if (!segment_view_at(&look->view, "super", 0, "super", 0, 0, &super) ||
        !view_text(&super, "executable", path, sizeof path) || !*path ||
        !(build_id = view_field(&super, "build_id")))
        return NULL;
    return symbols_of_file(
        path, look_word(&super, "image_base"), super.at + build_id->off, build_id->bytes);
}

static bool is_of_image(const struct segment_view *view, const struct look_image *image)
{
    const struct layout_field *build_id;
    struct view_record super;
    return segment_view_at(view, "super", 0, "super", 0, 0, &super) &&
           (build_id = view_field(&super, "build_id")) && build_id->bytes == image->n_id &&
           look_word(&super, "image_base") == image->base &&
           memcmp(super.at + build_id->off, image->build_id, image->n_id) == 0;
}

struct symbols *look_symbols_of_image(const char *dir, const struct look_image *image)
{
    struct segment_view view;
    const char *why;
    int32_t supervisor = 0;
    char *path;
    if (asprintf(&path, "%s/segment", dir) < 0)
        return NULL;
    if (segment_view_open(path, &view, &why) == 0) {
        if (is_of_image(&view, image))
            supervisor = living_supervisor(&view);
        segment_view_close(&view);
    }
    free(path);
    if (supervisor)
        return symbols_of_process(supervisor);
    return *image->executable
               ? symbols_of_file(image->executable, image->base, image->build_id, image->n_id)
               : NULL;
}

/* Reads no further than the page's end at a time: the next may not be there. */
bool look_string(const struct look *look, uint64_t address, char *ret_text, size_t size)
{
    size_t n = 0, ends;
    ret_text[0] = '\0';
    if (!look->supervisor || !address)
        return false;
    do {
        size_t in_page = 4096 - (address + n) % 4096;
        size_t want = size - 1 - n < in_page ? size - 1 - n : in_page;
        struct iovec to = {ret_text + n, want}, from = {(void *)(uintptr_t)(address + n), want};
        if (process_vm_readv(look->supervisor, &to, 1, &from, 1, 0) != (ssize_t)want)
            return false;
        n += want;
        ret_text[n] = '\0';
        ends = strlen(ret_text);
    } while (ends == n && n + 1 < size);
    for (char *c = ret_text; *c; c++)
        if (*c < 32 || *c > 126)
            *c = '?';
    return ret_text[0] != '\0';
}
