/* SPDX-License-Identifier: MIT */
#include "shard/thread_look.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The beginning of /proc/PID/task/PID/NAME, NUL-terminated. Its length or -errno. */
static ssize_t read_file(pid_t pid, const char *name, char *buf, size_t size)
{
    char path[64];
    ssize_t n;
    int fd, error;

    snprintf(path, sizeof path, "/proc/%d/task/%d/%s", (int)pid, (int)pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    n = read(fd, buf, size - 1);
    error = errno;
    close(fd);
    if (n < 0)
        return -error;
    buf[n] = '\0';
    return n;
}

/* "PID (NAME) STATE …", whose name may hold anything. */
static int read_state(pid_t pid, struct thread_look *look)
{
    char buf[512];
    ssize_t n = read_file(pid, "stat", buf, sizeof buf);
    const char *p = n < 0 ? NULL : strrchr(buf, ')');

    if (n < 0)
        return (int)n;
    if (!p || p[1] != ' ' || !p[2])
        return -EPROTO;
    look->state = p[2];
    return 0;
}

static void read_times(pid_t pid, struct thread_look *look)
{
    char buf[96];

    if (read_file(pid, "schedstat", buf, sizeof buf) > 0)
        sscanf(buf, "%" SCNu64 " %" SCNu64, &look->ran_ns, &look->queued_ns);
}

static void read_tracer(pid_t pid, struct thread_look *look)
{
    static const char key[] = "TracerPid:";
    char buf[1024];
    const char *p = read_file(pid, "status", buf, sizeof buf) > 0 ? strstr(buf, key) : NULL;

    look->traced = p && atoi(p + strlen(key)) != 0;
}

int thread_look(pid_t pid, struct thread_look *ret)
{
    *ret = (struct thread_look){.syscall_number = -1};
    int r = read_state(pid, ret);

    if (r < 0)
        return r;
    read_times(pid, ret);
    read_tracer(pid, ret);
    return 0;
}

void thread_look_closer(pid_t pid, struct thread_look *look)
{
    char buf[256];
    ssize_t n = read_file(pid, "syscall", buf, sizeof buf);
    const char *last;

    /* "running"; or "NUMBER … SP PC", with six arguments between, or none where NUMBER is -1. */
    if (n > 0 && sscanf(buf, "%" SCNd64, &look->syscall_number) == 1) {
        buf[strcspn(buf, "\n")] = '\0';
        last = strrchr(buf, ' ');
        look->pc = last ? strtoull(last, NULL, 16) : 0;
        while (last && last > buf && *--last != ' ')
            ;
        look->sp = last ? strtoull(last, NULL, 16) : 0;
    }
    n = read_file(pid, "wchan", look->wait_channel, sizeof look->wait_channel);
    if (n <= 0 || strcmp(look->wait_channel, "0") == 0)
        look->wait_channel[0] = '\0';
}
