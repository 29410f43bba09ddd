/* SPDX-License-Identifier: MIT */
/*
 * Programs are made by libseccomp in the supervisor, once, and children only hand them to the
 * kernel: that takes microseconds of a replacement's start. The kernel knows beforehand which calls
 * a program always allows and runs it for the others alone, so the calls of every turn of the loop
 * are on the list without a look at their arguments.
 */
#include "shard/sandbox_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "shard/sandbox.h"

/* ---- the lists ---- */

/* The loop, in each of its engines: doorbells, timers, disk I/O, its thread pool's futexes. No
 * second ring: SANDBOX_LIST_NO_RINGS. pidfd_open: the supervisor's, whose end makes an
 * orphan. */
static const int of_loops[] = {SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register),
    SCMP_SYS(io_uring_setup), SCMP_SYS(io_setup), SCMP_SYS(io_destroy), SCMP_SYS(io_submit),
    SCMP_SYS(io_cancel), SCMP_SYS(io_getevents), SCMP_SYS(io_pgetevents), SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl), SCMP_SYS(epoll_wait), SCMP_SYS(epoll_pwait), SCMP_SYS(epoll_pwait2),
    SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(select), SCMP_SYS(pselect6), SCMP_SYS(eventfd2),
    SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime), SCMP_SYS(timerfd_gettime),
    SCMP_SYS(signalfd4), SCMP_SYS(pidfd_open), SCMP_SYS(read), SCMP_SYS(readv), SCMP_SYS(pread64),
    SCMP_SYS(preadv), SCMP_SYS(preadv2), SCMP_SYS(write), SCMP_SYS(writev), SCMP_SYS(pwrite64),
    SCMP_SYS(pwritev), SCMP_SYS(pwritev2), SCMP_SYS(futex), SCMP_SYS(futex_waitv),
    SCMP_SYS(sched_yield), SCMP_SYS(membarrier), SCMP_SYS(getcpu), SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_getres), SCMP_SYS(clock_nanosleep), SCMP_SYS(nanosleep), SCMP_SYS(gettimeofday),
    SCMP_SYS(time), SCMP_SYS(restart_syscall)};

/* Files; which ones is Landlock's to say. */
static const int of_files[] = {SCMP_SYS(openat), SCMP_SYS(openat2), SCMP_SYS(open), SCMP_SYS(close),
    SCMP_SYS(close_range), SCMP_SYS(dup), SCMP_SYS(dup2), SCMP_SYS(dup3), SCMP_SYS(fcntl),
    SCMP_SYS(pipe2), SCMP_SYS(fsync), SCMP_SYS(fdatasync), SCMP_SYS(sync_file_range),
    SCMP_SYS(fallocate), SCMP_SYS(ftruncate), SCMP_SYS(fadvise64), SCMP_SYS(copy_file_range),
    SCMP_SYS(flock), SCMP_SYS(lseek), SCMP_SYS(stat), SCMP_SYS(lstat), SCMP_SYS(fstat),
    SCMP_SYS(newfstatat), SCMP_SYS(statx), SCMP_SYS(statfs), SCMP_SYS(fstatfs), SCMP_SYS(access),
    SCMP_SYS(faccessat), SCMP_SYS(faccessat2), SCMP_SYS(readlink), SCMP_SYS(readlinkat),
    SCMP_SYS(getdents64), SCMP_SYS(getcwd), SCMP_SYS(linkat), SCMP_SYS(symlinkat),
    SCMP_SYS(renameat), SCMP_SYS(renameat2), SCMP_SYS(rename), SCMP_SYS(unlink), SCMP_SYS(unlinkat),
    SCMP_SYS(mkdirat), SCMP_SYS(utimensat), SCMP_SYS(fchmod), SCMP_SYS(fchmodat)};

/* Memory, but for what may be executed, which is below. */
static const int of_memory[] = {SCMP_SYS(brk), SCMP_SYS(munmap), SCMP_SYS(mremap),
    SCMP_SYS(madvise), SCMP_SYS(mincore), SCMP_SYS(msync), SCMP_SYS(mlock), SCMP_SYS(mlock2),
    SCMP_SYS(munlock), SCMP_SYS(memfd_create)};

/* Threads, signals, and what a process asks about itself. tgkill: raise() and abort(), to itself
 * alone (sandbox_calls_own_signals()). process_vm_readv: the crash handler, of memory that may not
 * be there. */
static const int of_processes[] = {SCMP_SYS(exit), SCMP_SYS(exit_group), SCMP_SYS(set_robust_list),
    SCMP_SYS(get_robust_list), SCMP_SYS(rseq), SCMP_SYS(set_tid_address), SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(rt_sigpending),
    SCMP_SYS(rt_sigtimedwait), SCMP_SYS(setitimer), SCMP_SYS(sigaltstack), SCMP_SYS(tgkill),
    SCMP_SYS(process_vm_readv), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(getppid),
    SCMP_SYS(getuid), SCMP_SYS(geteuid), SCMP_SYS(getgid), SCMP_SYS(getegid), SCMP_SYS(getresuid),
    SCMP_SYS(getresgid), SCMP_SYS(getgroups), SCMP_SYS(getpgrp), SCMP_SYS(getsid),
    SCMP_SYS(getpgid), SCMP_SYS(getrandom), SCMP_SYS(uname), SCMP_SYS(sysinfo), SCMP_SYS(getrlimit),
    SCMP_SYS(getrusage), SCMP_SYS(times), SCMP_SYS(sched_getaffinity), SCMP_SYS(sched_setaffinity),
    SCMP_SYS(sched_getparam), SCMP_SYS(sched_getscheduler), SCMP_SYS(getpriority),
    SCMP_SYS(capget)};

/* Sockets that were handed over or inherited: listeners, doorbells of clients. */
static const int on_sockets[] = {SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg), SCMP_SYS(recvmmsg), SCMP_SYS(sendto), SCMP_SYS(sendmsg), SCMP_SYS(sendmmsg),
    SCMP_SYS(shutdown), SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt)};

/* Sockets of one's own: nng's, and those of services that say so. */
static const int for_sockets[] = {SCMP_SYS(bind), SCMP_SYS(listen), SCMP_SYS(connect)};

/* nng protects its socket's file. */
static const int of_gateways[] = {SCMP_SYS(chmod)};

/* Libraries try these and go on without. clone3's flags are in memory, out of sight: clone() is
 * tried then. */
static const struct {
    int call, error;
} refused[] = {
    {SCMP_SYS(clone3), ENOSYS},
    {SCMP_SYS(set_mempolicy), EPERM},
    {SCMP_SYS(get_mempolicy), EPERM},
    {SCMP_SYS(mbind), EPERM},
    {SCMP_SYS(sched_setscheduler), EPERM},
    {SCMP_SYS(setpriority), EPERM},
    {SCMP_SYS(ioprio_set), EPERM},
};

static const unsigned ioctls[] = {
    TCGETS, TIOCOUTQ, FIONBIO, FIONREAD, BLKGETSIZE64, BLKSSZGET, BLKPBSZGET};
static const unsigned prctls[] = {PR_SET_NAME, PR_GET_NAME, PR_SET_PTRACER, PR_SET_TIMERSLACK,
    PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_GET_DUMPABLE, PR_SET_VMA, PR_GET_NO_NEW_PRIVS};
static const unsigned families[] = {AF_UNIX, AF_INET, AF_INET6};

#define N(array) (sizeof(array) / sizeof((array)[0]))

/* ---- making ---- */

static int allow_all(scmp_filter_ctx filter, const int *calls, size_t n)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < n; i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
    return r;
}

static int refuse_some(scmp_filter_ctx filter)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < N(refused); i++)
        r = seccomp_rule_add(
            filter, SCMP_ACT_ERRNO((uint32_t)refused[i].error), refused[i].call, 0);
    return r;
}

/* Where the first or second argument is one of these. */
static int allow_values(
    scmp_filter_ctx filter, int call, unsigned argument, const unsigned *values, size_t n)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < n; i++)
        r = seccomp_rule_add(
            filter, SCMP_ACT_ALLOW, call, 1, SCMP_CMP32(argument, SCMP_CMP_EQ, values[i]));
    return r;
}

/* Where the bit of the argument is as wanted; else it fails with error, or is none of the list. */
static int allow_by_bit(scmp_filter_ctx filter, int call, unsigned argument, unsigned bit,
    bool wanted, unsigned else_action)
{
    uint32_t good = wanted ? bit : 0, bad = wanted ? 0 : bit;
    int r = seccomp_rule_add(
        filter, SCMP_ACT_ALLOW, call, 1, SCMP_CMP64(argument, SCMP_CMP_MASKED_EQ, bit, good));

    if (r == 0 && else_action != SCMP_ACT_TRAP)
        r = seccomp_rule_add(
            filter, else_action, call, 1, SCMP_CMP64(argument, SCMP_CMP_MASKED_EQ, bit, bad));
    return r;
}

/* Code comes from the image alone. Libraries that load others at need (name services) do
 * without. */
static int allow_mappings(scmp_filter_ctx filter)
{
    static const int calls[] = {SCMP_SYS(mmap), SCMP_SYS(mprotect), SCMP_SYS(pkey_mprotect)};
    int r = 0;

    for (size_t i = 0; r == 0 && i < N(calls); i++)
        r = allow_by_bit(filter, calls[i], 2, PROT_EXEC, false, SCMP_ACT_ERRNO(EPERM));
    return r;
}

static int allow_by_arguments(scmp_filter_ctx filter)
{
    static const unsigned self[] = {0}, local[] = {AF_UNIX}, less[] = {SECCOMP_SET_MODE_FILTER};
    int r = allow_mappings(filter);

    if (r == 0) /* threads, and no process */
        r = allow_by_bit(filter, SCMP_SYS(clone), 0, CLONE_THREAD, true, SCMP_ACT_TRAP);
    if (r == 0)
        r = allow_values(filter, SCMP_SYS(ioctl), 1, ioctls, N(ioctls));
    if (r == 0)
        r = allow_values(filter, SCMP_SYS(prctl), 0, prctls, N(prctls));
    if (r == 0)
        r = allow_values(filter, SCMP_SYS(prlimit64), 0, self, 1);
    if (r == 0)
        r = allow_values(filter, SCMP_SYS(socketpair), 0, local, 1);
    if (r == 0) /* SANDBOX_LIST_NO_RINGS; it can only take away more */
        r = allow_values(filter, SCMP_SYS(seccomp), 0, less, 1);
    return r;
}

/* A service that was not written for a sandbox gets an error that it can tell. */
static int refuse_sockets(scmp_filter_ctx filter)
{
    int r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(socket), 0);

    for (size_t i = 0; r == 0 && i < N(for_sockets); i++)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EACCES), for_sockets[i], 0);
    return r;
}

static int allow_sockets(scmp_filter_ctx filter)
{
    int r = allow_values(filter, SCMP_SYS(socket), 0, families, N(families));

    if (r == 0) /* getaddrinfo() asks so which families there are, and takes all if it may not */
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
            SCMP_A0_32(SCMP_CMP_EQ, AF_NETLINK));
    return r < 0 ? r : allow_all(filter, for_sockets, N(for_sockets));
}

static int fill_role(scmp_filter_ctx filter, enum sandbox_list list)
{
    int r = allow_all(filter, of_loops, N(of_loops));

    if (r == 0)
        r = allow_all(filter, of_files, N(of_files));
    if (r == 0)
        r = allow_all(filter, of_memory, N(of_memory));
    if (r == 0)
        r = allow_all(filter, of_processes, N(of_processes));
    if (r == 0)
        r = allow_all(filter, on_sockets, N(on_sockets));
    if (r == 0 && list == SANDBOX_LIST_GATEWAY)
        r = allow_all(filter, of_gateways, N(of_gateways));
    if (r == 0)
        r = allow_by_arguments(filter);
    if (r == 0)
        r = refuse_some(filter);
    if (r == 0)
        r = list == SANDBOX_LIST_SHARD ? refuse_sockets(filter) : allow_sockets(filter);
    return r;
}

/* libseccomp writes programs to a file. */
static int read_program(int fd, struct sandbox_program *ret_program)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    size_t n = (size_t)st.st_size / sizeof(struct sock_filter);
    if (n == 0 || n > BPF_MAXINSNS)
        return -E2BIG;
    struct sock_filter *filter = malloc((size_t)st.st_size);
    if (!filter)
        return -ENOMEM;
    if (pread(fd, filter, (size_t)st.st_size, 0) != st.st_size) {
        free(filter);
        return -EIO;
    }
    *ret_program = (struct sandbox_program){filter, (uint16_t)n};
    return 0;
}

static int export(scmp_filter_ctx filter, struct sandbox_program *ret_program)
{
    int fd = memfd_create("seccomp", MFD_CLOEXEC);

    if (fd < 0)
        return -errno;
    int r = seccomp_export_bpf(filter, fd);
    if (r == 0)
        r = read_program(fd, ret_program);
    close(fd);
    return r;
}

int sandbox_calls_make(enum sandbox_list list, struct sandbox_program *ret_program)
{
    bool adds = list == SANDBOX_LIST_NO_RINGS;
    scmp_filter_ctx filter = seccomp_init(adds ? SCMP_ACT_ALLOW : SCMP_ACT_TRAP);
    int r;

    if (!filter)
        return -ENOMEM;
    seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree, not a list */
    r = adds ? seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(io_uring_setup), 0)
             : fill_role(filter, list);
    if (r == 0)
        r = export(filter, ret_program);
    seccomp_release(filter);
    return r;
}

/* Of the process that makes it, whose number nobody knows before; Landlock knows of signals from
 * 6.12 on alone. An fd sends signals too, to whoever is said to own it. */
static int refuse_others_signals(scmp_filter_ctx filter)
{
    static const uint64_t of_fds[] = {F_SETOWN, F_SETOWN_EX, F_SETSIG};
    int r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(tgkill), 1,
        SCMP_A0_32(SCMP_CMP_NE, (uint32_t)getpid()));

    for (size_t i = 0; r == 0 && i < N(of_fds); i++)
        r = seccomp_rule_add(
            filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(fcntl), 1, SCMP_A1_32(SCMP_CMP_EQ, of_fds[i]));
    return r;
}

void sandbox_calls_free(struct sandbox_program *program)
{
    free(program->filter);
    *program = (struct sandbox_program){0};
}

/* ---- in the child ---- */

int sandbox_calls_probe(void)
{
    uint32_t action = SECCOMP_RET_TRAP;

    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0 ? -errno : 0;
}

int sandbox_calls_load(const struct sandbox_program *program)
{
    struct sock_fprog code = {.len = program->n, .filter = program->filter};
    long r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &code);

    return r < 0 ? -errno : r > 0 ? -ESRCH : 0; /* a thread that does not take it */
}

int sandbox_calls_own_signals(void)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    struct sandbox_program program;
    int r;

    if (!filter)
        return -ENOMEM;
    r = refuse_others_signals(filter);
    if (r == 0)
        r = export(filter, &program);
    seccomp_release(filter);
    if (r < 0)
        return r;
    r = sandbox_calls_load(&program);
    sandbox_calls_free(&program);
    return r;
}

char *sandbox_call_name(int64_t number)
{
    return number < 0 || number > INT32_MAX
               ? NULL
               : seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, (int)number);
}
