/* SPDX-License-Identifier: MIT */
/* The link against a socket of nng's in this process that answers what it hears. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/socket.h>
#include <cmocka.h>
#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>

#include "ipc/client/link.h"

#define DEADLINE_MS 60000

/* What a dialer of REQ says first. */
static const uint8_t greeting[8] = {0, 'S', 'P', 0, 0, 0x30, 0, 0};

static atomic_bool refuses_greetings;
static sem_t refused; /* how often */

/* For nng: the other side of a connection is gone as it begins. */
ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    ssize_t (*real)(int, const struct msghdr *, int) =
        (ssize_t(*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");

    if (refuses_greetings && message->msg_iovlen == 1 && message->msg_iov[0].iov_len == 8 &&
        memcmp(message->msg_iov[0].iov_base, greeting, 8) == 0) {
        sem_post(&refused);
        errno = EPIPE;
        return -1;
    }
    ssize_t n = real(fd, message, flags);
    if (n < 0 && errno == EPIPE)
        errno = ECONNRESET; /* the server is to go on, as the gateway does: broken_pipe.h */
    return n;
}

struct fixture {
    char url[64];
    nng_socket server;
    struct link *link;
};

static int set_up(void **state)
{
    static unsigned n;
    struct fixture *f = calloc(1, sizeof(*f));

    snprintf(f->url, sizeof(f->url), "ipc:///tmp/sherd-test-link-%d-%u", (int)getpid(), n++);
    assert_int_equal(nng_rep0_open(&f->server), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    refuses_greetings = false;
    link_close(f->link);
    nng_close(f->server);
    unlink(f->url + strlen("ipc://"));
    free(f);
    return 0;
}

static void say(struct fixture *f)
{
    nng_msg *msg;

    assert_int_equal(nng_msg_alloc(&msg, 5), 0);
    assert_int_equal(link_send(f->link, 7, NULL, msg, DEADLINE_MS), 0);
}

/* The server's answer to what it hears next comes back as a letter. Its connection. */
static uint32_t assert_answered(struct fixture *f)
{
    struct letter letter;
    nng_msg *msg;

    assert_int_equal(nng_socket_set_ms(f->server, NNG_OPT_RECVTIMEO, DEADLINE_MS), 0);
    assert_int_equal(nng_recvmsg(f->server, &msg, 0), 0);
    uint32_t pipe = (uint32_t)nng_pipe_id(nng_msg_get_pipe(msg));
    assert_int_equal(nng_sendmsg(f->server, msg, 0), 0);
    while (!link_take(f->link, &letter)) {
        struct pollfd readable = {.fd = link_fd(f->link), .events = POLLIN};
        assert_int_equal(poll(&readable, 1, DEADLINE_MS), 1);
        link_quiet(f->link);
    }
    assert_int_equal(letter.result, 0);
    assert_int_equal(letter.kind, 7);
    nng_msg_free(letter.msg);
    return pipe;
}

static void a_message_waits_for_whom_it_is_for(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(link_open(f->url, NULL, true, &f->link), 0);
    say(f);
    assert_int_equal(nng_listen(f->server, f->url, NULL, 0), 0);
    assert_answered(f);
}

static void a_connection_that_breaks_in_its_greeting_is_made_again_on_request(void **state)
{
    struct fixture *f = *state;

    refuses_greetings = true;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += DEADLINE_MS / 1000;
    assert_int_equal(sem_init(&refused, 0, 0), 0);
    assert_int_equal(nng_listen(f->server, f->url, NULL, 0), 0);
    assert_int_equal(link_open(f->url, NULL, true, &f->link), 0);
    for (unsigned n = 1; n <= 3; n++) {
        assert_int_equal(sem_timedwait(&refused, &until), 0);
        if (n == 1)
            say(f);
        refuses_greetings = n < 3;
        link_redial(f->link);
    }
    assert_answered(f);
}

static void a_connection_that_breaks_in_its_greeting_is_reset_where_nobody_waits(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(nng_listen(f->server, f->url, NULL, 0), 0);
    refuses_greetings = true;
    assert_int_equal(link_open(f->url, NULL, false, &f->link), -ECONNRESET);
    refuses_greetings = false;
    assert_int_equal(link_open(f->url, NULL, false, &f->link), 0);
    say(f);
    assert_answered(f);
}

static void a_connection_that_stands_is_left_alone(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(nng_listen(f->server, f->url, NULL, 0), 0);
    assert_int_equal(link_open(f->url, NULL, false, &f->link), 0);
    say(f);
    uint32_t pipe = assert_answered(f);
    link_redial(f->link);
    say(f);
    assert_int_equal(assert_answered(f), pipe);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(a_message_waits_for_whom_it_is_for),
        CASE(a_connection_that_breaks_in_its_greeting_is_reset_where_nobody_waits),
        CASE(a_connection_that_breaks_in_its_greeting_is_made_again_on_request),
        CASE(a_connection_that_stands_is_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
