/* SPDX-License-Identifier: MIT */
/*
 * The very list that a gateway makes, entered by a child for each attempt: it ends with the errno
 * it got, or with 0 where it was let through.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "ipc/gateway/reach.h"

struct fixture {
    struct sandbox *sandbox;
    char *missing;
    char dir[64]; /* "run" is the instance's; beside it the tokens and what is no business of its */
    char run[80], token[80], operators[80];
    struct child_env env;
    struct sockaddr_in taken;
    int listener;
};

static struct fixture fixture;

static const char *in_dir(const char *name)
{
    static char path[80];

    snprintf(path, sizeof(path), "%s/%s", fixture.dir, name);
    return path;
}

static void make_file(const char *name)
{
    int fd = open(in_dir(name), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    close(fd);
}

static int set_up(void **state)
{
    static const char *const files[] = {"token", "operators", "other", "run/file"};
    struct sockaddr *address = (struct sockaddr *)&fixture.taken;
    socklen_t len = sizeof(fixture.taken);
    char *error = NULL;

    (void)state;
    strcpy(fixture.dir, "/tmp/test-reach-XXXXXX");
    assert_non_null(mkdtemp(fixture.dir));
    assert_int_equal(mkdir(in_dir("run"), 0700), 0);
    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
        make_file(files[i]);
    fixture.env = (struct child_env){
        .runtime_dir = strcpy(fixture.run, in_dir("run")),
        .token_file = strcpy(fixture.token, in_dir("token")),
        .operator_token_file = strcpy(fixture.operators, in_dir("operators")),
    };
    fixture.taken =
        (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fixture.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fixture.listener, address, len), 0);
    assert_int_equal(listen(fixture.listener, 8), 0);
    assert_int_equal(getsockname(fixture.listener, address, &len), 0);
    assert_int_equal(sandbox_new(&fixture.sandbox, &fixture.missing, &error), 0);
    return 0;
}

static int tear_down(void **state)
{
    static const char *const paths[] = {
        "run/file", "run/new", "token", "operators", "other", "new", "run", ""};

    (void)state;
    sandbox_free(fixture.sandbox);
    free(fixture.missing);
    close(fixture.listener);
    for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++)
        remove(in_dir(paths[i]));
    return 0;
}

/* ---- attempts ---- */

typedef long attempt_fn(const char *path);

static void enter(const char *listen_url)
{
    const struct rlimit no_core = {0, 0};
    struct sandbox_paths paths = {0};
    struct child_env env = fixture.env;
    char *error = NULL;

    env.listen_url = listen_url;
    setrlimit(RLIMIT_CORE, &no_core);
    for (int signum = 1; signum < SIGRTMIN; signum++)
        signal(signum, SIG_DFL); /* not cmocka's handlers */
    if (gateway_reach(&env, &paths) < 0 ||
        sandbox_enter(fixture.sandbox, SANDBOX_GATEWAY, &paths, &error) < 0) {
        fprintf(stderr, "%s\n", error ? error : "no memory");
        _exit(255);
    }
    sandbox_paths_deinit(&paths);
}

static int try_to(attempt_fn *attempt, const char *path, const char *listen_url)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        enter(listen_url);
        _exit(attempt(path) < 0 ? errno : 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static long to_read(const char *path)
{
    return open(path, O_RDONLY | O_CLOEXEC);
}

static long to_write(const char *path)
{
    return open(path, O_WRONLY | O_CLOEXEC);
}

static long to_make(const char *path)
{
    return open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
}

static long to_unlink(const char *path)
{
    return unlink(path);
}

static long on_port(int (*act)(int, const struct sockaddr *, socklen_t))
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    return fd < 0 ? -1 : act(fd, (const struct sockaddr *)&fixture.taken, sizeof(fixture.taken));
}

static long to_connect(const char *path)
{
    (void)path;
    return on_port(connect);
}

static long to_bind(const char *path)
{
    (void)path;
    return on_port(bind);
}

#define NEEDS_LANDLOCK(abi)                                                                  \
    do {                                                                                     \
        if ((fixture.missing && strstr(fixture.missing, "Landlock")) ||                      \
            syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < \
                (abi))                                                                       \
            skip(); /* this kernel or container has none, or less of it */                   \
    } while (0)

/* ---- claims ---- */

static void check_files(const char *listen_url)
{
    assert_int_equal(try_to(to_make, in_dir("run/new"), listen_url), 0);
    assert_int_equal(try_to(to_write, in_dir("run/file"), listen_url), 0);
    assert_int_equal(try_to(to_read, in_dir("token"), listen_url), 0);
    assert_int_equal(try_to(to_read, in_dir("operators"), listen_url), 0);
    assert_int_equal(try_to(to_write, in_dir("token"), listen_url), EACCES);
    assert_int_equal(try_to(to_write, in_dir("operators"), listen_url), EACCES);
    assert_int_equal(try_to(to_unlink, in_dir("token"), listen_url), EACCES);
    assert_int_equal(try_to(to_read, in_dir("other"), listen_url), EACCES);
    assert_int_equal(try_to(to_write, in_dir("other"), listen_url), EACCES);
    assert_int_equal(try_to(to_unlink, in_dir("other"), listen_url), EACCES);
    assert_int_equal(try_to(to_make, in_dir("new"), listen_url), EACCES);
    assert_int_equal(try_to(to_read, "/", listen_url), EACCES);
    assert_int_equal(try_to(to_read, "/etc/passwd", listen_url), EACCES);
    assert_int_equal(try_to(to_read, "/proc/1/status", listen_url), EACCES);
}

static void a_gateway_writes_its_folder_alone_and_reads_its_tokens(void **state)
{
    (void)state;
    NEEDS_LANDLOCK(1);
    check_files(NULL);
    check_files("tcp://127.0.0.1:7411");
    check_files("no URL");
}

static void where_names_are_found_is_read_by_who_listens(void **state)
{
    static const char file[] = "/etc/nsswitch.conf";

    (void)state;
    NEEDS_LANDLOCK(1);
    if (access(file, R_OK) < 0)
        skip();
    assert_int_equal(try_to(to_read, file, NULL), EACCES);
    assert_int_equal(try_to(to_read, file, "tcp://localhost:7411"), 0);
    assert_int_equal(try_to(to_write, file, "tcp://localhost:7411"), EACCES);
}

/* EADDRINUSE is what only who may bind is told. */
static void a_gateway_binds_the_port_it_listens_on_and_connects_nowhere(void **state)
{
    static const char *const schemes[] = {"tcp", "tls+tcp"};
    char url[64];

    (void)state;
    NEEDS_LANDLOCK(4);
    assert_int_equal(try_to(to_connect, NULL, NULL), EACCES);
    assert_int_equal(try_to(to_bind, NULL, NULL), EACCES);
    assert_int_equal(try_to(to_bind, NULL, "tcp://127.0.0.1"), EACCES);
    assert_int_equal(try_to(to_bind, NULL, "tcp://127.0.0.1:99999"), EACCES);
    assert_int_equal(try_to(to_bind, NULL, "tcp://127.0.0.1:no-such-service"), EACCES);
    for (size_t i = 0; i < sizeof(schemes) / sizeof(*schemes); i++) {
        snprintf(url, sizeof(url), "%s://127.0.0.1:%u", schemes[i], ntohs(fixture.taken.sin_port));
        assert_int_equal(try_to(to_bind, NULL, url), EADDRINUSE);
        assert_int_equal(try_to(to_connect, NULL, url), EACCES);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_gateway_writes_its_folder_alone_and_reads_its_tokens),
        cmocka_unit_test(where_names_are_found_is_read_by_who_listens),
        cmocka_unit_test(a_gateway_binds_the_port_it_listens_on_and_connects_nowhere),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
