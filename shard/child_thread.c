/* SPDX-License-Identifier: MIT */
/*
 * A child is a thread of the supervisor's process, so that ThreadSanitizer, AddressSanitizer and
 * valgrind see all shards and the gateway at once. What makes a child a process of its own is left
 * out: fds are not closed, signals not reset, the segment not protected; a crash ends all. Its fd
 * is an eventfd, its pid the thread's.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shard/explain.h"
#include "shard/supervisor_inside.h"

/* What the thread lives from. */
struct child_thread {
    pthread_t thread;
    struct child_env env;
    child_main_fn *main;
    struct log log; /* its own: a log belongs to one loop */
    char comm[COMM_BYTES];
    cpu_set_t cpus;
    bool pin;
    pid_t tid; /* stored last before `started` */
    int started;
    int ended_fd;
    int status;
};

static void *thread_main(void *opaque)
{
    struct child_thread *thread = opaque;
    uint64_t one = 1;

    prctl(PR_SET_NAME, thread->comm);
    prctl(PR_SET_TIMERSLACK, 1);
    if (thread->pin)
        pthread_setaffinity_np(pthread_self(), sizeof(thread->cpus), &thread->cpus);
    thread->tid = gettid();
    if (write(thread->started, &one, sizeof(one)) == (ssize_t)sizeof(one))
        thread->status = thread->main(&thread->env);
    if (write(thread->ended_fd, &one, sizeof(one)) < 0)
        abort(); /* nobody would see that it has ended */
    return NULL;
}

static int describe(struct child *child, struct child_thread *thread)
{
    struct spawn spawn;
    int r = birth_describe(child, true, thread->comm, &spawn, &thread->env, &thread->main);

    if (r < 0)
        return r;
    thread->log = *child->supervisor->config.log;
    thread->env.log = &thread->log;
    log_process(&thread->log, spawn.process);
    thread->pin = spawn.core;
    if (spawn.core)
        thread->cpus = spawn.core->cpus;
    return 0;
}

static void discard(struct child_thread *thread)
{
    if (thread->started >= 0)
        close(thread->started);
    if (thread->ended_fd >= 0)
        close(thread->ended_fd);
    fd_keep_disinherit(&thread->env.keep, false); /* the fds in it were the thread's */
    free(thread);
}

/* Signals are the supervisor's. */
static int start(struct child_thread *thread)
{
    sigset_t all, before;
    uint64_t one;
    int r;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = -pthread_create(&thread->thread, NULL, thread_main, thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r == 0 && read(thread->started, &one, sizeof(one)) < 0)
        r = -errno;
    return r;
}

int child_begin(struct child *child, pid_t *ret_pid, char **ret_error)
{
    struct child_thread *thread = calloc(1, sizeof(*thread));
    int r = 0;

    if (!thread)
        return explain(ret_error, -EAGAIN, "%s", strerror(ENOMEM));
    thread->started = eventfd(0, EFD_CLOEXEC);
    thread->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (thread->started < 0 || thread->ended_fd < 0)
        r = -errno;
    if (r == 0)
        r = describe(child, thread);
    if (r == 0)
        r = start(thread);
    if (r < 0) {
        fd_keep_disinherit(&thread->env.keep, true);
        discard(thread);
        return explain(ret_error, r, "thread: %s", strerror(-r));
    }
    child->thread = thread;
    child->life_fd = 0; /* is the thread's now */
    child->pidfd = thread->ended_fd;
    *ret_pid = thread->tid;
    return 0;
}

bool child_reap(struct child *child, bool wait, int *ret_status)
{
    struct child_thread *thread = child->thread;
    uint64_t one;

    if (!wait && read(thread->ended_fd, &one, sizeof(one)) < 0)
        return false;
    pthread_join(thread->thread, NULL);
    *ret_status = W_EXITCODE(thread->status, 0);
    thread->ended_fd = -1; /* child->pidfd, the caller's to close */
    discard(thread);
    child->thread = NULL;
    return true;
}

void child_kill(const struct child *child)
{
    log_line(child->supervisor->config.log, LOG_LEVEL_ERROR,
        "%s is a thread, which can't be ended by force: all end with it", child->process);
    kill(getpid(), SIGKILL);
}
