/* SPDX-License-Identifier: MIT */
/*
 * glib_loop FILE...: counts lines, in a program whose loop is GLib's
 *
 * A coroutine a file reads in the thread of the main loop, which goes on with its other sources
 * meanwhile. Ends with status 1 where a file could not be read.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sherd/coroutine.h>
#include <sherd/disk.h>
#include <sherd/gsource.h>

struct work {
    GMainLoop *loop;
    int n_left; /* files */
    int n_failed;
};

struct file {
    struct work *work;
    const char *path;
};

static ssize_t coroutine_fn count_lines(int fd)
{
    char buf[16384];
    ssize_t n, n_lines = 0;

    for (uint64_t offset = 0; (n = co_pread(fd, buf, sizeof(buf), offset)) > 0;
         offset += (uint64_t)n)
        for (ssize_t i = 0; i < n; i++)
            n_lines += buf[i] == '\n';
    return n < 0 ? n : n_lines;
}

static void coroutine_fn count_file(void *opaque)
{
    struct file *file = opaque;
    struct work *work = file->work;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    ssize_t n_lines = fd < 0 ? -errno : count_lines(fd);

    if (n_lines >= 0) {
        printf("%zd %s\n", n_lines, file->path);
    } else {
        fprintf(stderr, "%s: %s\n", file->path, strerror((int)-n_lines));
        work->n_failed++;
    }
    if (fd >= 0)
        close(fd);
    if (--work->n_left == 0)
        g_main_loop_quit(work->loop);
}

int main(int argc, char **argv)
{
    struct work work = {.loop = g_main_loop_new(NULL, FALSE), .n_left = argc - 1};
    struct file *files = g_new0(struct file, argc);
    AioContext *ctx;

    if (argc < 2 || aio_context_new(NULL, &ctx) < 0)
        return 2;
    aio_context_set_current(ctx);
    GSource *source = aio_get_g_source(ctx);
    g_source_attach(source, NULL);
    g_source_unref(source);

    for (int i = 1; i < argc; i++) {
        files[i] = (struct file){&work, argv[i]};
        aio_co_schedule(ctx, coroutine_create(count_file, &files[i]));
    }
    g_main_loop_run(work.loop);

    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    g_main_loop_unref(work.loop);
    g_free(files);
    return work.n_failed > 0;
}
