/* SPDX-License-Identifier: MIT */
/*
 * Each attempt is made by a child of its own that has entered the sandbox of a role: it ends with
 * the errno it got, with 0 where it was let through, or by SIGSYS.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/sockios.h>
#include <netinet/in.h>
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
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/aio.h"
#include "shard/sandbox.h"
#include "shard/sandbox_calls.h"

#define DIED_OF(signum) (1000 + (signum))

struct fixture {
    struct sandbox *sandbox;
    char *missing;
    char dir[64]; /* with "ro", "rw" and "out", a file in each */
};

static struct fixture fixture;

static const char *in_dir(const char *name)
{
    static char path[128];

    snprintf(path, sizeof(path), "%s/%s", fixture.dir, name);
    return path;
}

static void make_file(const char *name)
{
    int fd = open(in_dir(name), O_CREAT | O_WRONLY | O_CLOEXEC, 0666);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
}

static int set_up(void **state)
{
    static const char *const folders[] = {"ro", "rw", "out"};
    static const char *const files[] = {"ro/file", "rw/file", "out/file"};
    char *error = NULL;

    (void)state;
    strcpy(fixture.dir, "/tmp/test-sandbox-XXXXXX");
    assert_non_null(mkdtemp(fixture.dir));
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(mkdir(in_dir(folders[i]), 0700), 0);
    for (size_t i = 0; i < 3; i++)
        make_file(files[i]);
    assert_int_equal(sandbox_new(&fixture.sandbox, &fixture.missing, &error), 0);
    return 0;
}

static int tear_down(void **state)
{
    static const char *const paths[] = {
        "ro/file", "rw/file", "out/file", "rw/new", "ro", "rw", "out", ""};

    (void)state;
    sandbox_free(fixture.sandbox);
    free(fixture.missing);
    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++)
        remove(in_dir(paths[i]));
    return 0;
}

/* ---- attempts ---- */

typedef long attempt_fn(void); /* as a system call: negative, and errno */

static uint16_t port; /* 0: none that may be bound */

static void enter(enum sandbox_role role, bool sockets)
{
    struct sandbox_paths paths = {.needs_sockets = sockets, .binds_port = port != 0, .port = port};
    char *error = NULL;

    if (sandbox_paths_add(&paths, in_dir("ro"), false) < 0 ||
        sandbox_paths_add(&paths, in_dir("rw"), true) < 0 ||
        sandbox_paths_add(&paths, in_dir("is not there"), true) < 0 ||
        sandbox_enter(fixture.sandbox, role, &paths, &error) < 0) {
        fprintf(stderr, "%s\n", error ? error : "no memory");
        _exit(255);
    }
    sandbox_paths_deinit(&paths);
}

static int try_in(enum sandbox_role role, bool sockets, attempt_fn *attempt)
{
    const struct rlimit no_core = {0, 0};
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        setrlimit(RLIMIT_CORE, &no_core);
        for (int signum = 1; signum < SIGRTMIN; signum++)
            signal(signum, SIG_DFL); /* not cmocka's handlers */
        enter(role, sockets);
        _exit(attempt() < 0 ? errno : 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? DIED_OF(WTERMSIG(status)) : WEXITSTATUS(status);
}

static int try_as_shard(attempt_fn *attempt)
{
    return try_in(SANDBOX_SHARD, false, attempt);
}

#define NEEDS(what)                                           \
    do {                                                      \
        if (fixture.missing && strstr(fixture.missing, what)) \
            skip(); /* this kernel or container has none */   \
    } while (0)

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

/* ---- TCP and abstract sockets ---- */

/* Of this process, and outside of every sandbox. */
struct listeners {
    int tcp, abstract;
    struct sockaddr_in tcp_address;
    struct sockaddr_un abstract_address;
    socklen_t abstract_len;
};

static struct listeners listeners;

static int landlock_abi(void)
{
    return (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
}

static int set_up_listeners(void **state)
{
    struct sockaddr_in *tcp = &listeners.tcp_address;
    struct sockaddr_un *abstract = &listeners.abstract_address;
    socklen_t len = sizeof(*tcp);

    (void)state;
    *tcp = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    listeners.tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listeners.tcp, (struct sockaddr *)tcp, len), 0);
    assert_int_equal(listen(listeners.tcp, 8), 0);
    assert_int_equal(getsockname(listeners.tcp, (struct sockaddr *)tcp, &len), 0);

    /* The kernel picks its name. */
    *abstract = (struct sockaddr_un){.sun_family = AF_UNIX};
    listeners.abstract = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    len = sizeof(abstract->sun_family);
    assert_int_equal(bind(listeners.abstract, (struct sockaddr *)abstract, len), 0);
    assert_int_equal(listen(listeners.abstract, 8), 0);
    listeners.abstract_len = sizeof(*abstract);
    assert_int_equal(
        getsockname(listeners.abstract, (struct sockaddr *)abstract, &listeners.abstract_len), 0);
    return 0;
}

static int tear_down_listeners(void **state)
{
    (void)state;
    close(listeners.tcp);
    close(listeners.abstract);
    return 0;
}

static long connect_tcp(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr_in *to = &listeners.tcp_address;

    return fd < 0 ? -1 : connect(fd, (const struct sockaddr *)to, sizeof(*to));
}

/* EADDRINUSE is what only who may bind is told. */
static long bind_tcp(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr_in *to = &listeners.tcp_address;

    return fd < 0 ? -1 : bind(fd, (const struct sockaddr *)to, sizeof(*to));
}

static long bind_any_tcp(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = listeners.tcp_address;

    to.sin_port = 0;
    return fd < 0 ? -1 : bind(fd, (const struct sockaddr *)&to, sizeof(to));
}

static long connect_abstract(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const struct sockaddr_un *to = &listeners.abstract_address;

    return fd < 0 ? -1 : connect(fd, (const struct sockaddr *)to, listeners.abstract_len);
}

static int try_as_gateway(attempt_fn *attempt)
{
    return try_in(SANDBOX_GATEWAY, false, attempt);
}

static void who_may_make_sockets_reaches_no_port_but_a_service_that_says_so(void **state)
{
    (void)state;
    NEEDS("Landlock");
    if (landlock_abi() < 4)
        skip();
    assert_int_equal(try_as_gateway(connect_tcp), EACCES);
    assert_int_equal(try_as_gateway(bind_tcp), EACCES);
    assert_int_equal(try_as_gateway(bind_any_tcp), EACCES);
    assert_int_equal(try_in(SANDBOX_SHARD, true, connect_tcp), 0);
    assert_int_equal(try_in(SANDBOX_SHARD, true, bind_tcp), EADDRINUSE);
}

static void a_port_that_is_named_is_bound_and_no_other(void **state)
{
    (void)state;
    NEEDS("Landlock");
    if (landlock_abi() < 4)
        skip();
    port = ntohs(listeners.tcp_address.sin_port);
    int named = try_as_gateway(bind_tcp), any = try_as_gateway(bind_any_tcp);
    int connected = try_as_gateway(connect_tcp);
    port = 0;
    assert_int_equal(named, EADDRINUSE);
    assert_int_equal(any, EACCES);
    assert_int_equal(connected, EACCES);
}

static void abstract_sockets_of_others_are_out_of_reach(void **state)
{
    (void)state;
    NEEDS("Landlock");
    if (landlock_abi() < 6)
        skip();
    assert_int_equal(try_as_gateway(connect_abstract), EPERM);
    assert_int_equal(try_in(SANDBOX_SHARD, true, connect_abstract), 0);
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
        cmocka_unit_test_setup_teardown(
            who_may_make_sockets_reaches_no_port_but_a_service_that_says_so, set_up_listeners,
            tear_down_listeners),
        cmocka_unit_test_setup_teardown(
            a_port_that_is_named_is_bound_and_no_other, set_up_listeners, tear_down_listeners),
        cmocka_unit_test_setup_teardown(
            abstract_sockets_of_others_are_out_of_reach, set_up_listeners, tear_down_listeners),
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
