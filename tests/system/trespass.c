/* SPDX-License-Identifier: MIT */
/*
 * trespass - a service that tries what its sandbox forbids, by name, from within a shard
 *
 * Answers with "0" where it was let through, else with the number of the error; what ends the
 * process is not answered.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <sherd/aio_sqe.h>
#include <sherd/service.h>

static long end_fd(long fd)
{
    return fd < 0 ? -1 : close((int)fd);
}

static void prep_socket(struct io_uring_sqe *sqe, void *opaque)
{
    (void)opaque;
    sqe->opcode = IORING_OP_SOCKET;
    sqe->fd = AF_UNIX;
    sqe->off = SOCK_STREAM;
}

/* Through the shard's own ring, of which seccomp sees nothing. */
static long coroutine_fn socket_by_ring(void)
{
    int r = co_uring_op(prep_socket, NULL, NULL);

    errno = r < 0 ? -r : 0;
    return r < 0 ? -1 : end_fd(r);
}

static void *think(void *opaque)
{
    return opaque;
}

static long run_thread(void)
{
    pthread_t thread;

    errno = pthread_create(&thread, NULL, think, NULL);
    return errno ? -1 : pthread_join(thread, NULL);
}

static char *const no_args[] = {(char *)"/bin/true", NULL};

/* X(name, attempt): path is what comes after the name. */
#define ATTEMPTS(X)                                                                             \
    X(execve, execv(no_args[0], no_args))                                                       \
    X(fork, syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0))                                            \
    X(ptrace, ptrace(PTRACE_ATTACH, getppid(), NULL, NULL))                                     \
    X(mount, mount("none", "/mnt", "tmpfs", 0, NULL))                                           \
    X(setuid, syscall(SYS_setresuid, 0, 0, 0))                                                  \
    X(bpf, syscall(SYS_bpf, BPF_MAP_CREATE, NULL, 0))                                           \
    X(userfaultfd, syscall(SYS_userfaultfd, 0))                                                 \
    X(kill, kill(getppid(), SIGTERM))                                                           \
    X(signal, syscall(SYS_tgkill, getppid(), getppid(), SIGTERM))                               \
    X(read, end_fd(open(path, O_RDONLY | O_CLOEXEC)))                                           \
    X(write, end_fd(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600)))                          \
    X(socket, end_fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)))                           \
    X(socket_by_ring, socket_by_ring())                                                         \
    X(ring, end_fd(syscall(SYS_io_uring_setup, 1, &(struct io_uring_params){0})))               \
    X(code,                                                                                     \
        mmap(NULL, 4096, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0) \
    X(thread, run_thread())

static long coroutine_fn try(const char *name, const char *path)
{
    (void)path;
#define X(attempt, call)             \
    if (strcmp(name, #attempt) == 0) \
        return call;
    ATTEMPTS(X)
#undef X
    errno = ENOSYS;
    return -1;
}

static int coroutine_fn run_try(struct service_call *call)
{
    size_t len;
    const char *args = service_args(call, &len);
    char text[16], *name = strndup(args ? args : "", len), *path;

    if (!name)
        return -ENOMEM;
    path = strchr(name, ' ');
    if (path)
        *path++ = '\0';
    int n = snprintf(text, sizeof(text), "%d", try(name, path ? path : "") < 0 ? errno : 0);
    free(name);
    return service_reply(call, text, (size_t)n);
}

/* trespass.path=FOLDER, trespass.sockets=yes: what it says that it needs. */
struct needs {
    char *path;
    bool sockets;
};

static int configure(void **config, const char *key, const char *value, char **ret_error)
{
    struct needs *needs = *config ? *config : calloc(1, sizeof(*needs));

    (void)ret_error;
    if (!needs)
        return -ENOMEM;
    *config = needs;
    if (strcmp(key, "sockets") == 0) {
        needs->sockets = strcmp(value, "yes") == 0;
        return 0;
    }
    free(needs->path);
    needs->path = strdup(value);
    return needs->path ? 0 : -ENOMEM;
}

static int reach(const void *config, struct service_reach *reach)
{
    const struct needs *needs = config;

    if (needs && needs->sockets)
        service_reach_sockets(reach);
    return needs ? service_reach_path(reach, needs->path, true) : 0;
}

static const struct service_method methods[] = {{"try", run_try, 0, "NAME [PATH]"}};

const struct service sherd_service = {SERVICE_ABI, "trespass", "tries what is forbidden", methods,
    1, .configure = configure, .reach = reach};
