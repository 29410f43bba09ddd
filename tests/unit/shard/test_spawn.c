/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shard/bells.h"
#include "shard/fd_list.h"
#include "shard/image.h"
#include "shard/segment.h"
#include "shard/spawn.h"

static int coroutine_fn run_nothing(struct service_call *call)
{
    (void)call;
    return 0;
}

static const struct service_method methods[] = {
    {.name = "nothing", .run = run_nothing, .help = "does nothing"},
};
static const struct service service = {
    .abi = SERVICE_ABI, .name = "first", .help = "for tests", .methods = methods, .n_methods = 1};

/* As another build of the same service would be, or the same elsewhere. */
static const struct service second = {
    .abi = SERVICE_ABI, .name = "second", .help = "for tests", .methods = methods, .n_methods = 1};

/* What a case's child is forked with. */
struct fixture {
    union {
        struct segment_super super;
        uint8_t page[SEGMENT_PAGE];
    };
    struct segment segment;
    struct registry *registry;
    struct log log;
    struct spawn spawn;
    int kept[2]; /* a pipe */
    cpu_set_t before;
};

static int make(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->segment.base = f->page;
    f->registry = registry_new();
    assert_int_equal(registry_add(f->registry, &service, NULL), 0);
    image_note(&f->segment, f->registry);
    log_init(&f->log, STDERR_FILENO, LOG_LEVEL_ERROR);
    f->spawn = (struct spawn){.process = "child",
        .comm = "sherd-child",
        .keep_fds = f->kept,
        .n_keep_fds = 2,
        .registry = f->registry,
        .segment = &f->segment};
    *state = f;
    return pipe2(f->kept, O_CLOEXEC);
}

static int discard(void **state)
{
    struct fixture *f = *state;

    close(f->kept[0]);
    close(f->kept[1]);
    registry_free(f->registry);
    free(f);
    return 0;
}

/* Settles in a child and returns its exit status: what check() says, or 100 where it was
 * refused. */
static int status_of_child(struct fixture *f, int (*check)(struct fixture *f))
{
    struct pollfd ended;
    char *error = NULL;
    int pidfd, status;
    pid_t pid = spawn_fork(&pidfd, &error);

    if (pid == 0) {
        if (spawn_settle(&f->spawn, &f->log, &error) < 0)
            _exit(100);
        _exit(check(f));
    }
    assert_null(error);
    assert_true(pid > 0);
    ended = (struct pollfd){.fd = pidfd, .events = POLLIN};
    assert_int_equal(poll(&ended, 1, 30000), 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    close(pidfd);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int nothing(struct fixture *f)
{
    (void)f;
    return 0;
}

static int has_kept_fds_alone(struct fixture *f)
{
    struct fd_list open;

    if (fd_list_read(&open) < 0 || open.n != 5)
        return 1;
    return !fd_list_has(&open, f->kept[0]) || !fd_list_has(&open, f->kept[1]);
}

static void child_has_the_fds_of_its_list_and_no_other(void **state)
{
    int others[3];

    for (int i = 0; i < 3; i++)
        assert_true((others[i] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0);
    int far = fcntl(others[0], F_DUPFD_CLOEXEC, 700);
    assert_int_equal(status_of_child(*state, has_kept_fds_alone), 0);
    close(far);
    for (int i = 0; i < 3; i++)
        close(others[i]);
}

static void child_that_misses_an_fd_of_its_list_is_refused(void **state)
{
    struct fixture *f = *state;
    int wrong[2] = {f->kept[0], 900};

    f->spawn.keep_fds = wrong;
    assert_int_equal(status_of_child(f, nothing), 100);
}

static int has_default_signals(struct fixture *f)
{
    static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ};
    struct sigaction action;
    sigset_t mask;

    (void)f;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    sigaction(SIGUSR1, NULL, &action);
    if (sigismember(&mask, SIGTERM) || action.sa_handler != SIG_DFL)
        return 1;
    for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++) {
        sigaction(ignored[i], NULL, &action);
        if (action.sa_handler != SIG_IGN)
            return 2;
    }
    return 0;
}

static void child_ignores_what_is_sent_to_all_and_blocks_nothing(void **state)
{
    sigset_t mask, before;

    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigprocmask(SIG_BLOCK, &mask, &before);
    signal(SIGUSR1, SIG_IGN);
    int status = status_of_child(*state, has_default_signals);
    signal(SIGUSR1, SIG_DFL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    assert_int_equal(status, 0);
}

static int is_named(struct fixture *f)
{
    char name[16];

    prctl(PR_GET_NAME, name);
    return strcmp(name, "sherd-child") != 0 || strcmp(f->log.process, "child") != 0;
}

static void child_is_named_in_ps_and_in_the_log(void **state)
{
    assert_int_equal(status_of_child(*state, is_named), 0);
}

static int sleeps_are_stretched(struct fixture *f)
{
    return prctl(PR_GET_TIMERSLACK) > 1;
}

static void child_wakes_when_its_timers_say(void **state)
{
    assert_int_equal(status_of_child(*state, sleeps_are_stretched), 0);
}

static int runs_where_it_did(struct fixture *f)
{
    cpu_set_t cpus;

    return sched_getaffinity(0, sizeof(cpus), &cpus) < 0 || !CPU_EQUAL(&cpus, &f->before);
}

static int runs_on_its_core(struct fixture *f)
{
    cpu_set_t cpus;

    return sched_getaffinity(0, sizeof(cpus), &cpus) < 0 || !CPU_EQUAL(&cpus, &f->spawn.core->cpus);
}

static void child_runs_on_its_core_or_without_where_that_is_gone(void **state)
{
    struct fixture *f = *state;
    struct topology_core core = {.first_cpu = 0};

    assert_int_equal(sched_getaffinity(0, sizeof(f->before), &f->before), 0);
    while (!CPU_ISSET((size_t)core.first_cpu, &f->before))
        core.first_cpu++;
    CPU_SET((size_t)core.first_cpu, &core.cpus);
    f->spawn.core = &core;
    assert_int_equal(status_of_child(f, runs_on_its_core), 0);
    CPU_ZERO(&core.cpus);
    CPU_SET(CPU_SETSIZE - 1, &core.cpus);
    assert_int_equal(status_of_child(f, runs_where_it_did), 0);
}

static void child_of_another_image_is_refused(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(status_of_child(f, nothing), 0);
    f->super.image.thread_local_errno += 8;
    assert_int_equal(status_of_child(f, nothing), 100);
}

static void refusal_names(struct fixture *f, const char *what)
{
    char *error = NULL;

    assert_int_equal(image_check(&f->segment, f->registry, &error), -ENOEXEC);
    assert_non_null(strstr(error, what));
    free(error);
}

static void each_fact_of_the_image_counts_and_is_named(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(image_check(&f->segment, f->registry, NULL), 0);
#define ONE_DIFFERS(record, type, field, array, kind, what) \
    f->super.image.field ^= 0x10;                           \
    refusal_names(f, what);                                 \
    f->super.image.field ^= 0x10;
    IMAGE_FIELDS(ONE_DIFFERS, )
#undef ONE_DIFFERS
    f->super.build_id[0]++;
    refusal_names(f, "the build id");
    f->super.build_id[0]--;
    assert_int_equal(image_check(&f->segment, f->registry, NULL), 0);
}

static void child_with_a_service_more_or_one_elsewhere_is_refused(void **state)
{
    struct fixture *f = *state;
    struct registry *other = registry_new();

    assert_int_equal(registry_add(f->registry, &second, NULL), 0);
    refusal_names(f, "services");
    registry_free(f->registry);
    f->registry = other;
    assert_int_equal(registry_add(other, &second, NULL), 0);
    refusal_names(f, "services");
}

/* The same program executed anew: another place in memory, other guards. */
#define CHECKS_ANEW "--checks-the-image-in"

static void a_program_that_was_executed_anew_is_refused(void **state)
{
    struct fixture *f = *state;
    int fd = memfd_create("superblock", 0), status;
    char path[64];
    pid_t child;

#if !defined(__x86_64__)
    skip(); /* an emulator executes another program than itself */
#endif
    assert_int_equal(write(fd, f->page, sizeof(f->page)), sizeof(f->page));
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "test", CHECKS_ANEW, path, NULL);
        _exit(1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(WEXITSTATUS(status), 100);
    close(fd);
}

/* What that runs instead of cases: 100, it was refused. */
static int check_anew(const char *path)
{
    static struct fixture f;
    int fd = open(path, O_RDONLY);

    if (read(fd, f.page, sizeof(f.page)) != sizeof(f.page))
        return 1;
    f.segment.base = f.page;
    f.registry = registry_new();
    if (registry_add(f.registry, &service, NULL) < 0)
        return 1;
    /* What it maps itself could be where it was. */
    f.super.image.segment = (uint64_t)(uintptr_t)f.page;
    return image_check(&f.segment, f.registry, NULL) == -ENOEXEC ? 100 : 0;
}

/* ---- threads ---- */

static void *wait_for_end(void *opaque)
{
    struct fixture *f = opaque;
    char byte;

    pthread_setname_np(pthread_self(), "stowaway");
    while (read(f->kept[0], &byte, 1) < 0)
        ;
    return NULL;
}

static void process_with_a_second_thread_does_not_fork_and_names_it(void **state)
{
    struct fixture *f = *state;
    char *error = NULL;
    pthread_t thread;
    int pidfd;

    assert_int_equal(pthread_create(&thread, NULL, wait_for_end, f), 0);
    do { /* until it has its name */
        free(error);
        error = NULL;
        assert_int_equal(spawn_fork(&pidfd, &error), -EBUSY);
    } while (!strstr(error, "stowaway"));
    free(error);
    assert_int_equal(write(f->kept[1], "x", 1), 1);
    pthread_join(thread, NULL);
}

/* ---- bells ---- */

static void bells_sit_together_above_512(void **state)
{
    int *fds;

    (void)state;
    assert_int_equal(bells_open(9, &fds, NULL), 0);
    for (int i = 0; i < 9; i++) {
        assert_int_equal(fds[i], BELLS_FIRST_FD + i);
        assert_int_equal(fcntl(fds[i], F_GETFD), FD_CLOEXEC);
        assert_true(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
    }
    bells_close(fds, 9);
    assert_int_equal(fcntl(BELLS_FIRST_FD, F_GETFD), -1);
}

static void bells_without_room_for_fds_say_what_to_raise(void **state)
{
    pid_t child = fork();
    int status;

    (void)state;
    if (child == 0) {
        struct rlimit limit = {BELLS_FIRST_FD, BELLS_FIRST_FD};
        char *error = NULL;
        int *fds;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0 || bells_open(2, &fds, &error) != -EMFILE)
            _exit(1);
        _exit(!strstr(error, "LimitNOFILE"));
    }
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, make, discard)

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], CHECKS_ANEW) == 0)
        return check_anew(argv[2]);

    const struct CMUnitTest tests[] = {
        CASE(child_has_the_fds_of_its_list_and_no_other),
        CASE(child_that_misses_an_fd_of_its_list_is_refused),
        CASE(child_ignores_what_is_sent_to_all_and_blocks_nothing),
        CASE(child_is_named_in_ps_and_in_the_log),
        CASE(child_wakes_when_its_timers_say),
        CASE(child_runs_on_its_core_or_without_where_that_is_gone),
        CASE(child_of_another_image_is_refused),
        CASE(each_fact_of_the_image_counts_and_is_named),
        CASE(child_with_a_service_more_or_one_elsewhere_is_refused),
        CASE(a_program_that_was_executed_anew_is_refused),
        CASE(process_with_a_second_thread_does_not_fork_and_names_it),
        cmocka_unit_test(bells_sit_together_above_512),
        cmocka_unit_test(bells_without_room_for_fds_say_what_to_raise),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
