/* SPDX-License-Identifier: MIT */
/* TCP ports and abstract sockets: who reaches them from a sandbox. */
#include <linux/landlock.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "tests/unit/shard/sandbox_fixture.h"

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

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up_listeners, tear_down_listeners)
    const struct CMUnitTest tests[] = {
        CASE(who_may_make_sockets_reaches_no_port_but_a_service_that_says_so),
        CASE(a_port_that_is_named_is_bound_and_no_other),
        CASE(abstract_sockets_of_others_are_out_of_reach),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
