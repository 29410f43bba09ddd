/* SPDX-License-Identifier: MIT */
/* What is tried from within a sandbox, and what still works there. */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/aio.h"
#include "shard/sandbox_calls.h"
#include "tests/unit/shard/sandbox_fixture.h"

static char *const no_args[] = {(char *)"/bin/true", NULL};

static long call_execve(void)
{
    return execv(no_args[0], no_args);
}
static long call_fork(void)
{
    return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}
static long call_ptrace(void)
{
    return ptrace(PTRACE_ATTACH, getppid(), NULL, NULL);
}
static long call_mount(void)
{
    return mount("none", "/mnt", "tmpfs", 0, NULL);
}
static long call_unshare(void)
{
    return unshare(CLONE_NEWUSER);
}
static long call_setuid(void)
{
    return (long)syscall(SYS_setresuid, 0, 0, 0);
}
static long call_userfaultfd(void)
{
    return syscall(SYS_userfaultfd, 0);
}
static long call_chroot(void)
{
    return chroot("/");
}
static long call_keyctl(void)
{
    return syscall(SYS_keyctl, 0, -3, 0, 0, 0);
}
static long call_perf(void)
{
    return syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0);
}
static long call_kill(void)
{
    return kill(getppid(), 0);
}
static long call_writev(void)
{
    return syscall(SYS_process_vm_writev, getppid(), NULL, 0, NULL, 0, 0);
}
static long call_unknown(void)
{
    return syscall(1000000);
}
static long call_seccomp_notify(void)
{
    return syscall(SYS_seccomp, 3 /* sizes */, 0, NULL);
}

static long call_bpf(void)
{
    union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY};

    return syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr));
}

static void what_serves_no_shard_and_no_gateway_ends_them(void **state)
{
    static const struct {
        const char *name;
        attempt_fn *attempt;
    } attempts[] = {
#define ATTEMPT(name) {#name, call_##name}
        ATTEMPT(execve),
        ATTEMPT(fork),
        ATTEMPT(ptrace),
        ATTEMPT(mount),
        ATTEMPT(unshare),
        ATTEMPT(setuid),
        ATTEMPT(bpf),
        ATTEMPT(userfaultfd),
        ATTEMPT(chroot),
        ATTEMPT(keyctl),
        ATTEMPT(perf),
        ATTEMPT(kill),
        ATTEMPT(writev),
        ATTEMPT(unknown),
        ATTEMPT(seccomp_notify),
#undef ATTEMPT
    };

    (void)state;
    NEEDS("seccomp");
    for (size_t i = 0; i < sizeof(attempts) / sizeof(*attempts); i++)
        for (int role = 0; role < N_SANDBOX_ROLES; role++) {
            int end = try_in((enum sandbox_role)role, role == SANDBOX_SHARD, attempts[i].attempt);
            if (end != DIED_OF(SIGSYS))
                fail_msg("%s as role %d ended with %d", attempts[i].name, role, end);
        }
}

/* ---- what libraries try is an error ---- */

static long map_code(void)
{
    return (long)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == -1
               ? -1
               : 0;
}

static long make_memory_code(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    return page == MAP_FAILED ? -1 : mprotect(page, 4096, PROT_READ | PROT_EXEC);
}

static void no_memory_becomes_code(void **state)
{
    (void)state;
    NEEDS("seccomp");
    assert_int_equal(try_as_shard(map_code), EPERM);
    assert_int_equal(try_as_shard(make_memory_code), EPERM);
}

static long make_socket(void)
{
    return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static long make_packet_socket(void)
{
    return socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
}

static long use_a_pair(void)
{
    int fds[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
        return -1;
    int unread;
    if (ioctl(fds[0], SIOCOUTQ, &unread) < 0)
        return -1;
    return send(fds[0], "x", 1, MSG_DONTWAIT) == 1 && recv(fds[1], (char[1]){0}, 1, 0) == 1 ? 0
                                                                                            : -1;
}

static void sockets_are_made_by_who_says_that_it_needs_them(void **state)
{
    (void)state;
    NEEDS("seccomp");
    assert_int_equal(try_as_shard(make_socket), EACCES);
    assert_int_equal(try_in(SANDBOX_SHARD, true, make_socket), 0);
    assert_int_equal(try_in(SANDBOX_GATEWAY, false, make_socket), 0);
    assert_int_equal(try_in(SANDBOX_GATEWAY, false, make_packet_socket), DIED_OF(SIGSYS));
    assert_int_equal(try_as_shard(use_a_pair), 0);
}

/* ---- files ---- */

static long open_as(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);

    return fd < 0 ? -1 : close(fd);
}

static long read_passwd(void)
{
    return open_as("/etc/passwd", O_RDONLY);
}
static long read_out(void)
{
    return open_as(in_dir("out/file"), O_RDONLY);
}
static long look_up_out(void)
{
    return open_as(in_dir("out/file"), O_PATH);
}
static long read_ro(void)
{
    return open_as(in_dir("ro/file"), O_RDONLY);
}
static long write_ro(void)
{
    return open_as(in_dir("ro/file"), O_WRONLY);
}
static long make_ro(void)
{
    return open_as(in_dir("ro/new"), O_WRONLY | O_CREAT);
}
static long read_rw(void)
{
    return open_as(in_dir("rw/file"), O_RDONLY);
}
static long make_rw(void)
{
    return open_as(in_dir("rw/new"), O_WRONLY | O_CREAT | O_TRUNC);
}
static long unlink_out(void)
{
    return unlink(in_dir("out/file"));
}
static long list_slash(void)
{
    return open_as("/", O_RDONLY | O_DIRECTORY);
}
static long read_memory_of_parent(void)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/mem", (int)getppid());
    return open_as(path, O_RDWR);
}

static void files_are_those_that_were_named(void **state)
{
    (void)state;
    NEEDS("Landlock");
    for (int role = 0; role < N_SANDBOX_ROLES; role++) {
        assert_int_equal(try_in((enum sandbox_role)role, false, read_passwd), EACCES);
        assert_int_equal(try_in((enum sandbox_role)role, false, read_out), EACCES);
        assert_int_equal(try_in((enum sandbox_role)role, false, unlink_out), EACCES);
        assert_int_equal(try_in((enum sandbox_role)role, false, list_slash), EACCES);
        assert_int_equal(try_in((enum sandbox_role)role, false, read_memory_of_parent), EACCES);
    }
    assert_int_equal(try_as_shard(read_ro), 0);
    assert_int_equal(try_as_shard(write_ro), EACCES);
    assert_int_equal(try_as_shard(make_ro), EACCES);
    assert_int_equal(try_as_shard(read_rw), 0);
    assert_int_equal(try_as_shard(make_rw), 0);
    assert_int_equal(try_as_shard(look_up_out), 0); /* as links are followed */
}

/* ---- processes ---- */

static long read_parent(void)
{
    char byte;
    struct iovec here = {&byte, 1}, there = {&fixture, 1};

    return process_vm_readv(getppid(), &here, 1, &there, 1, 0);
}

static long read_self(void)
{
    char byte;
    struct iovec here = {&byte, 1}, there = {&fixture, 1};

    return process_vm_readv(getpid(), &here, 1, &there, 1, 0);
}

static long signal_parent(void)
{
    return syscall(SYS_tgkill, getppid(), getppid(), 0);
}

static void others_are_not_read(void **state)
{
    (void)state;
    NEEDS("Landlock");
    assert_int_equal(try_as_shard(read_self), 0); /* the crash handler does */
    assert_int_equal(try_as_shard(read_parent), EPERM);
}

static long signal_itself(void)
{
    return syscall(SYS_tgkill, getpid(), gettid(), 0);
}

static long own_by_parent(void)
{
    int fds[2];

    return pipe(fds) < 0 ? -1 : fcntl(fds[0], F_SETOWN, getppid());
}

static long own_by_sibling(void)
{
    struct f_owner_ex owner = {.type = F_OWNER_PID, .pid = getppid()};
    int fds[2];

    return pipe(fds) < 0 ? -1 : fcntl(fds[0], F_SETOWN_EX, &owner);
}

static long choose_signal(void)
{
    int fds[2];

    return pipe(fds) < 0 ? -1 : fcntl(fds[0], F_SETSIG, SIGTERM);
}

/* Without Landlock, which knows of signals from Linux 6.12 on alone. */
static int try_with_own_signals(attempt_fn *attempt)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || sandbox_calls_own_signals() < 0)
            _exit(255);
        _exit(attempt() < 0 ? errno : 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void a_signal_goes_to_nobody_else_whatever_the_kernel_scopes(void **state)
{
    (void)state;
    NEEDS("seccomp");
    assert_int_equal(try_with_own_signals(signal_parent), EPERM);
    assert_int_equal(try_with_own_signals(signal_itself), 0);
    assert_int_equal(try_with_own_signals(own_by_parent), EPERM);
    assert_int_equal(try_with_own_signals(own_by_sibling), EPERM);
    assert_int_equal(try_with_own_signals(choose_signal), EPERM);
    assert_int_equal(try_as_shard(signal_parent), EPERM);
    assert_int_equal(try_as_shard(signal_itself), 0);
    assert_int_equal(try_as_shard(own_by_parent), EPERM);
}

static long count_rights(void)
{
    char line[256];
    long n_wrong = 0;
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    FILE *status = fd < 0 ? NULL : fdopen(fd, "r");

    if (!status)
        return -1;
    while (fgets(line, sizeof(line), status)) {
        unsigned long long rights;
        if (sscanf(line, "CapEff: %llx", &rights) == 1 ||
            sscanf(line, "CapPrm: %llx", &rights) == 1 ||
            (geteuid() == 0 && sscanf(line, "CapBnd: %llx", &rights) == 1))
            n_wrong += rights != 0;
        if (sscanf(line, "NoNewPrivs: %llu", &rights) == 1)
            n_wrong += rights != 1;
    }
    fclose(status);
    errno = EALREADY;
    return n_wrong ? -1 : 0;
}

static void no_capability_is_left_and_none_comes_back(void **state)
{
    (void)state;
    assert_int_equal(try_as_shard(count_rights), 0);
}

/* ---- what still works ---- */

static void *run_thread(void *opaque)
{
    *(int *)opaque = 1;
    return NULL;
}

static long make_thread(void)
{
    pthread_t thread;
    int ran = 0;

    if (pthread_create(&thread, NULL, run_thread, &ran) != 0 || pthread_join(thread, NULL) != 0)
        return -1;
    return ran ? 0 : -1;
}

static long turn_loop(enum aio_engine engine)
{
    struct aio_config config = {.engine = engine};
    AioContext *ctx;
    int r = aio_context_new(&config, &ctx);

    if (r < 0) {
        errno = -r;
        return -1;
    }
    aio_context_set_current(ctx);
    aio_notify(ctx);
    aio_poll(ctx, true);
    aio_context_set_current(NULL);
    aio_context_unref(ctx);
    return 0;
}

static long turn_any(void)
{
    return turn_loop(AIO_ENGINE_AUTO);
}
static long turn_linux_aio(void)
{
    return turn_loop(AIO_ENGINE_LINUX_AIO);
}
static long turn_threads(void)
{
    return turn_loop(AIO_ENGINE_THREADS);
}
static long raise_abort(void)
{
    abort();
}

static void loops_threads_and_crashes_work(void **state)
{
    (void)state;
    for (int role = 0; role < N_SANDBOX_ROLES; role++) {
        assert_int_equal(try_in((enum sandbox_role)role, false, make_thread), 0);
        assert_int_equal(try_in((enum sandbox_role)role, false, turn_any), 0);
        assert_int_equal(try_in((enum sandbox_role)role, false, turn_linux_aio), 0);
        assert_int_equal(try_in((enum sandbox_role)role, false, turn_threads), 0);
        assert_int_equal(try_in((enum sandbox_role)role, false, raise_abort), DIED_OF(SIGABRT));
    }
}

static void *make_ring(void *opaque)
{
    struct io_uring_params params = {0};

    *(int *)opaque = syscall(SYS_io_uring_setup, 1, &params) < 0 ? errno : 0;
    return NULL;
}

static long make_ring_after_all(void)
{
    pthread_t thread;
    int error = -1;

    if (sandbox_close_rings(fixture.sandbox) < 0)
        return -1;
    if (pthread_create(&thread, NULL, make_ring, &error) != 0 || pthread_join(thread, NULL) != 0)
        return -1;
    errno = error;
    return error ? -1 : 0;
}

static void no_second_ring_is_made(void **state)
{
    (void)state;
    NEEDS("seccomp");
    assert_int_equal(try_as_shard(make_ring_after_all), EPERM);
}

static void no_sandbox_is_none(void **state)
{
    struct sandbox_paths paths = {0};

    (void)state;
    assert_int_equal(sandbox_enter(NULL, SANDBOX_SHARD, &paths, NULL), 0);
    assert_int_equal(sandbox_close_rings(NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_serves_no_shard_and_no_gateway_ends_them),
        cmocka_unit_test(no_memory_becomes_code),
        cmocka_unit_test(sockets_are_made_by_who_says_that_it_needs_them),
        cmocka_unit_test(files_are_those_that_were_named),
        cmocka_unit_test(others_are_not_read),
        cmocka_unit_test(a_signal_goes_to_nobody_else_whatever_the_kernel_scopes),
        cmocka_unit_test(no_capability_is_left_and_none_comes_back),
        cmocka_unit_test(loops_threads_and_crashes_work),
        cmocka_unit_test(no_second_ring_is_made),
        cmocka_unit_test(no_sandbox_is_none),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
