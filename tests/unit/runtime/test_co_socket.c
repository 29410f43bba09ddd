/* SPDX-License-Identifier: MIT */
#include "tests/unit/runtime/co_task.h"

#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/un.h>

#include "runtime/co_socket.h"

/* ---- what the coroutines of this file do ---- */

struct socket_task {
    struct co_task task;
    struct sockaddr *addr;
    socklen_t addr_len;
    struct msghdr *msg;
    struct iovec *iov;
    int n_iov;
    int flags;
};

static struct socket_task *of(struct co_task *task)
{
    return (struct socket_task *)task;
}

static ssize_t coroutine_fn do_accept(struct co_task *task)
{
    return co_accept(task->f, of(task)->addr, of(task)->addr ? &of(task)->addr_len : NULL);
}

static ssize_t coroutine_fn do_connect(struct co_task *task)
{
    return co_connect(task->f, of(task)->addr, of(task)->addr_len);
}

static ssize_t coroutine_fn do_recv(struct co_task *task)
{
    return co_recv(task->f, task->buf, task->len, of(task)->flags);
}

static ssize_t coroutine_fn do_send(struct co_task *task)
{
    return co_send(task->f, task->buf, task->len, of(task)->flags);
}

static ssize_t coroutine_fn do_recv_all(struct co_task *task)
{
    return co_recv_all(task->f, task->buf, task->len);
}

static ssize_t coroutine_fn do_send_all(struct co_task *task)
{
    return co_send_all(task->f, task->buf, task->len);
}

static ssize_t coroutine_fn do_recvv_all(struct co_task *task)
{
    return co_recvv_all(task->f, of(task)->iov, of(task)->n_iov);
}

static ssize_t coroutine_fn do_sendv_all(struct co_task *task)
{
    return co_sendv_all(task->f, of(task)->iov, of(task)->n_iov);
}

static ssize_t coroutine_fn do_recvmsg(struct co_task *task)
{
    return co_recvmsg(task->f, of(task)->msg, of(task)->flags);
}

static ssize_t coroutine_fn do_sendmsg(struct co_task *task)
{
    return co_sendmsg(task->f, of(task)->msg, of(task)->flags);
}

static ssize_t finish(struct loop *loop, struct socket_task *task)
{
    return co_task_finish(loop, &task->task);
}

static ssize_t do_it(struct loop *loop, struct socket_task task)
{
    co_task_start(&task.task);
    return finish(loop, &task);
}

/* ---- helpers ---- */

/* An address that fits both families, by value. */
struct address {
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_un un;
    };
    socklen_t len;
};

static struct address tcp_address(void)
{
    return (struct address){
        .in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)},
        .len = sizeof(struct sockaddr_in)};
}

/* A name of this process's own in the abstract namespace, which leaves no file. */
static struct address unix_address(const char *name)
{
    struct address address = {.un = {.sun_family = AF_UNIX}};
    int n = snprintf(address.un.sun_path + 1, sizeof(address.un.sun_path) - 1, "sherd-test-%d-%s",
        getpid(), name);

    address.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
    return address;
}

static void open_socket(CoFd *f, const struct address *address, int type)
{
    assert_int_equal(co_fd_init(f, socket(address->any.sa_family, type | SOCK_CLOEXEC, 0)), 0);
}

/* Listens, and puts the port it got into *address. */
static void listen_at(CoFd *listener, struct address *address, int backlog)
{
    open_socket(listener, address, SOCK_STREAM);
    assert_int_equal(bind(listener->fd, &address->any, address->len), 0);
    assert_int_equal(listen(listener->fd, backlog), 0);
    assert_int_equal(getsockname(listener->fd, &address->any, &address->len), 0);
}

/* Two ends that are connected, and are both CoFds. */
static void open_ends(CoFd ends[2], int type)
{
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds), 0);
    for (int i = 0; i < 2; i++)
        assert_int_equal(co_fd_init(&ends[i], fds[i]), 0);
}

static void close_ends(CoFd ends[2])
{
    co_fd_close(&ends[0]);
    co_fd_close(&ends[1]);
}

/* ---- connections ---- */

static void connect_and_talk(struct loop *loop, struct address address)
{
    enum { BYTES = 1 << 20 };
    uint8_t *sent = malloc(BYTES);
    uint8_t *got = malloc(BYTES + 1);
    CoFd listener;
    CoFd client;
    CoFd server;
    struct address peer = {.len = sizeof(struct sockaddr_un)};

    fill_pattern(sent, BYTES, 7);
    listen_at(&listener, &address, 8);
    open_socket(&client, &address, SOCK_STREAM);
    struct socket_task accept = {
        .task = {.call = do_accept, .f = &listener}, .addr = &peer.any, .addr_len = peer.len};
    struct socket_task connect = {
        .task = {.call = do_connect, .f = &client}, .addr = &address.any, .addr_len = address.len};

    co_task_start(&accept.task);
    co_task_settle(loop);
    assert_false(accept.task.done);
    assert_int_equal(do_it(loop, connect), 0);
    int fd = (int)finish(loop, &accept);
    assert_true(fd >= 0);
    assert_int_equal(peer.any.sa_family, address.any.sa_family);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    assert_int_equal(co_fd_init(&server, fd), 0);

    struct socket_task send = {
        .task = {.call = do_send_all, .f = &client, .buf = sent, .len = BYTES}};
    struct socket_task recv = {
        .task = {.call = do_recv_all, .f = &server, .buf = got, .len = BYTES + 1}};
    co_task_start(&send.task);
    co_task_start(&recv.task);
    assert_int_equal(finish(loop, &send), BYTES);
    co_fd_close(&client);
    assert_int_equal(finish(loop, &recv), BYTES);
    assert_memory_equal(sent, got, BYTES);
    co_fd_close(&server);
    co_fd_close(&listener);
    free(sent);
    free(got);
}

static void tcp_connects_and_carries_bytes(void **state)
{
    connect_and_talk(*state, tcp_address());
}

static void unix_connects_and_carries_bytes(void **state)
{
    connect_and_talk(*state, unix_address("talk"));
}

static void a_refused_connection_says_so(void **state)
{
    struct loop *loop = *state;
    struct address tcp = tcp_address();
    struct address local = unix_address("nobody");
    CoFd listener;
    CoFd f;

    listen_at(&listener, &tcp, 1);
    co_fd_close(&listener); /* nobody listens at its port now */
    aio_poll(loop->ctx, false);
    open_socket(&f, &tcp, SOCK_STREAM);
    struct socket_task connect = {.task = {.call = do_connect, .f = &f}};

    connect.addr = &tcp.any;
    connect.addr_len = tcp.len;
    assert_int_equal(do_it(loop, connect), -ECONNREFUSED);
    co_fd_close(&f);

    open_socket(&f, &local, SOCK_STREAM);
    connect.addr = &local.any;
    connect.addr_len = local.len;
    assert_int_equal(do_it(loop, connect), -ECONNREFUSED);
    co_fd_close(&f);
}

/* Connects until the queue of who does not accept is full; returns how many did. */
static int fill_queue(const struct address *address, int *fds, int max)
{
    for (int n = 0; n < max; n++) {
        fds[n] = socket(address->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (connect(fds[n], &address->any, address->len) < 0) {
            close(fds[n]);
            return n;
        }
    }
    fail_msg("the queue takes more than %d", max);
    return 0;
}

static void a_unix_connect_waits_while_the_queue_is_full(void **state)
{
    struct loop *loop = *state;
    struct address address = unix_address("full");
    CoFd listener;
    CoFd late;
    CoFd client;
    CoFd *closed = malloc(sizeof *closed);
    int fds[8];

    listen_at(&listener, &address, 1);
    int n = fill_queue(&address, fds, 8);
    open_socket(&late, &address, SOCK_STREAM);
    open_socket(&client, &address, SOCK_STREAM);
    open_socket(closed, &address, SOCK_STREAM);
    struct socket_task connect = {
        .task = {.call = do_connect, .f = &client}, .addr = &address.any, .addr_len = address.len};
    struct socket_task in_time = connect;
    struct socket_task until_closed = connect;

    in_time.task.f = &late;
    in_time.task.deadline_ns = aio_clock_ns() + 5 * LOOP_MS;
    assert_int_equal(do_it(loop, in_time), -ETIMEDOUT);
    until_closed.task.f = closed;
    co_task_start(&until_closed.task);
    co_fd_close(closed);
    free(closed);
    assert_int_equal(finish(loop, &until_closed), -EBADF);

    co_task_start(&connect.task);
    assert_false(connect.task.done);
    close((int)do_it(loop, (struct socket_task){.task = {.call = do_accept, .f = &listener}}));
    assert_int_equal(finish(loop, &connect), 0);
    while (n > 0)
        close(fds[--n]);
    co_fd_close(&late);
    co_fd_close(&client);
    co_fd_close(&listener);
}

static void a_connect_under_way_ends_with_its_scope(void **state)
{
    struct loop *loop = *state;
    struct address address = tcp_address();
    CoFd listener;
    CoFd client;
    int fds[8];
    int n = 0;

    /* A full queue drops what asks to connect, so that stays under way for a second at least. */
    listen_at(&listener, &address, 0);
    for (; n < 8; n++) {
        fds[n] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        connect(fds[n], &address.any, address.len);
    }
    open_socket(&client, &address, SOCK_STREAM);
    struct socket_task connect = {
        .task = {.call = do_connect, .f = &client, .deadline_ns = aio_clock_ns() + LOOP_MS},
        .addr = &address.any,
        .addr_len = address.len};

    assert_int_equal(do_it(loop, connect), -ETIMEDOUT);
    while (n > 0)
        close(fds[--n]);
    co_fd_close(&client);
    co_fd_close(&listener);
}

static void accept_without_a_free_fd_says_so_and_loses_nobody(void **state)
{
    struct loop *loop = *state;
    struct address address = unix_address("emfile");
    struct rlimit before;
    struct rlimit none;
    CoFd listener;
    int fds[8];

    listen_at(&listener, &address, 0);
    int n = fill_queue(&address, fds, 8);
    struct socket_task accept = {.task = {.call = do_accept, .f = &listener}};

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    co_task_start(&accept.task);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(finish(loop, &accept), -EMFILE);
    for (int i = 0; i < n; i++) {
        int fd = (int)do_it(loop, (struct socket_task){.task = accept.task});
        assert_true(fd >= 0);
        close(fd);
        close(fds[i]);
    }
    co_fd_close(&listener);
}

static void each_connection_wakes_one_of_those_that_accept(void **state)
{
    struct loop *loop = *state;
    struct address address = unix_address("herd");
    struct socket_task accepts[3];
    CoFd listener;

    listen_at(&listener, &address, 8);
    for (int i = 0; i < 3; i++) {
        accepts[i] = (struct socket_task){.task = {.call = do_accept, .f = &listener}};
        co_task_start(&accepts[i].task);
    }
    for (int i = 0; i < 3; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_int_equal(connect(fd, &address.any, address.len), 0);
        close((int)finish(loop, &accepts[i]));
        co_task_settle(loop);
        assert_true(i == 2 || !accepts[i + 1].task.done);
        close(fd);
    }
    co_fd_close(&listener);
}

/* ---- messages ---- */

static void one_coroutine_receives_while_another_sends(void **state)
{
    enum { BYTES = 1 << 19 };
    struct loop *loop = *state;
    uint8_t *bytes[4];
    CoFd ends[2];
    struct socket_task tasks[4];

    open_ends(ends, SOCK_STREAM);
    for (int i = 0; i < 4; i++) {
        bytes[i] = malloc(BYTES);
        fill_pattern(bytes[i], BYTES, (uint32_t)i);
        tasks[i] = (struct socket_task){.task = {.call = i < 2 ? do_send_all : do_recv_all,
                                            .f = &ends[i % 2],
                                            .buf = bytes[i],
                                            .len = BYTES}};
    }
    for (int i = 0; i < 4; i++)
        co_task_start(&tasks[i].task);
    for (int i = 0; i < 4; i++)
        assert_int_equal(finish(loop, &tasks[i]), BYTES);
    assert_memory_equal(bytes[0], bytes[3], BYTES);
    assert_memory_equal(bytes[1], bytes[2], BYTES);
    close_ends(ends);
    for (int i = 0; i < 4; i++)
        free(bytes[i]);
}

static void a_scope_ends_receive_and_send(void **state)
{
    struct loop *loop = *state;
    CoFd ends[2];
    CoCancel token;
    static char buf[1 << 16];

    co_cancel_init(&token);
    open_ends(ends, SOCK_STREAM);
    struct socket_task recv = {.task = {.call = do_recv, .f = &ends[0], .buf = buf, .len = 1}};
    struct socket_task send = {
        .task = {.call = do_send_all, .f = &ends[0], .buf = buf, .len = sizeof buf}};

    recv.task.deadline_ns = aio_clock_ns() + LOOP_MS;
    assert_int_equal(do_it(loop, recv), -ETIMEDOUT);
    do {
        send.task.done = false;
        send.task.token = &token;
        co_task_start(&send.task);
    } while (send.task.done);
    co_cancel(&token);
    assert_int_equal(finish(loop, &send), -ECANCELED);
    close_ends(ends);
    co_cancel_deinit(&token);
}

static void to_send_where_nobody_receives_is_an_error_and_no_signal(void **state)
{
    struct loop *loop = *state;
    sighandler_t old = signal(SIGPIPE, SIG_DFL);
    CoFd ends[2];
    struct iovec iov[2] = {{.iov_base = "a", .iov_len = 1}, {.iov_base = "b", .iov_len = 1}};

    open_ends(ends, SOCK_STREAM);
    co_fd_close(&ends[1]);
    aio_poll(loop->ctx, false);
    struct socket_task send = {.task = {.call = do_send, .f = &ends[0], .buf = "x", .len = 1}};
    struct socket_task sendv = {
        .task = {.call = do_sendv_all, .f = &ends[0]}, .iov = iov, .n_iov = 2};

    assert_int_equal(do_it(loop, send), -EPIPE);
    assert_int_equal(do_it(loop, sendv), -EPIPE);
    close_ends(ends);
    signal(SIGPIPE, old);
}

static void dontwait_does_not_wait(void **state)
{
    struct loop *loop = *state;
    CoFd ends[2];
    char byte;

    open_ends(ends, SOCK_STREAM);
    struct socket_task recv = {
        .task = {.call = do_recv, .f = &ends[0], .buf = &byte, .len = 1}, .flags = MSG_DONTWAIT};

    co_task_start(&recv.task);
    assert_true(recv.task.done);
    assert_int_equal(recv.task.result, -EAGAIN);
    assert_int_equal(do_it(loop, recv), -EAGAIN);
    close_ends(ends);
}

static void a_look_at_what_is_there_leaves_it_there(void **state)
{
    struct loop *loop = *state;
    CoFd ends[2];
    char got[8] = "";

    open_ends(ends, SOCK_STREAM);
    assert_int_equal(send(ends[1].fd, "abc", 3, 0), 3);
    struct socket_task recv = {
        .task = {.call = do_recv, .f = &ends[0], .buf = got, .len = sizeof got}};
    struct socket_task peek = recv;

    peek.flags = MSG_PEEK;
    co_task_start(&peek.task);
    assert_true(peek.task.done);
    co_task_start(&recv.task); /* need not wait for what the look left */
    assert_true(recv.task.done);
    assert_int_equal(recv.task.result, 3);
    assert_string_equal(got, "abc");
    (void)loop;
    close_ends(ends);
}

static void messages_keep_their_bounds(void **state)
{
    struct loop *loop = *state;
    CoFd ends[2];
    char got[8];

    open_ends(ends, SOCK_DGRAM);
    struct socket_task send = {.task = {.call = do_send, .f = &ends[0], .buf = "abc"}};
    struct socket_task recv = {
        .task = {.call = do_recv, .f = &ends[1], .buf = got, .len = sizeof got}};

    for (size_t len = 0; len <= 3; len++) {
        send.task.len = len;
        assert_int_equal(do_it(loop, send), len);
    }
    for (size_t len = 0; len <= 3; len++) {
        struct socket_task one = recv;
        co_task_start(&one.task); /* a short message says nothing of the next */
        assert_true(one.task.done);
        assert_int_equal(one.task.result, len);
    }
    close_ends(ends);
}

static void a_message_carries_an_fd(void **state)
{
    struct loop *loop = *state;
    CoFd ends[2];
    char byte = 'x';
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {
        .header = {
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr msg = {.msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control};
    struct msghdr received = msg;
    int fd;

    open_ends(ends, SOCK_STREAM);
    struct socket_task recv = {
        .task = {.call = do_recvmsg, .f = &ends[1]}, .msg = &received, .flags = MSG_CMSG_CLOEXEC};
    struct socket_task send = {.task = {.call = do_sendmsg, .f = &ends[0]}, .msg = &msg};

    co_task_start(&recv.task);
    assert_false(recv.task.done);
    memcpy(CMSG_DATA(&control.header), &ends[0].fd, sizeof fd);
    assert_int_equal(do_it(loop, send), 1);
    assert_int_equal(finish(loop, &recv), 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&received)), sizeof fd);
    assert_true(fd >= 0 && fd != ends[0].fd);
    close(fd);
    close_ends(ends);
}

/* ---- all of it ---- */

/* Cuts buf into pieces of odd lengths, some of them empty. */
static int cut(struct iovec *iov, uint8_t *buf, size_t len, size_t longest)
{
    int n = 0;

    for (size_t at = 0; at < len; n++) {
        size_t piece = (size_t)(n * 7919) % (longest + 1);

        piece = piece < len - at ? piece : len - at;
        iov[n] = (struct iovec){.iov_base = buf + at, .iov_len = piece};
        at += piece;
    }
    return n;
}

static void many_pieces_arrive_whole(void **state)
{
    enum { BYTES = 1 << 20, SHORT = 401, LONG = 70001 };
    struct loop *loop = *state;
    CoFd ends[2];
    uint8_t *sent = malloc(BYTES);
    uint8_t *got = calloc(1, BYTES);
    struct iovec *from = calloc(BYTES, sizeof *from);
    struct iovec *copy = calloc(BYTES, sizeof *copy);
    struct iovec *to = calloc(BYTES, sizeof *to);

    fill_pattern(sent, BYTES, 3);
    open_ends(ends, SOCK_STREAM);
    struct socket_task send = {.task = {.call = do_sendv_all, .f = &ends[0]},
        .iov = from,
        .n_iov = cut(from, sent, BYTES, SHORT)};
    struct socket_task recv = {.task = {.call = do_recvv_all, .f = &ends[1]},
        .iov = to,
        .n_iov = cut(to, got, BYTES, LONG)};

    assert_true(send.n_iov > IOV_MAX);
    memcpy(copy, from, (size_t)send.n_iov * sizeof *copy);
    co_task_start(&recv.task);
    co_task_start(&send.task);
    assert_int_equal(finish(loop, &send), BYTES);
    assert_int_equal(finish(loop, &recv), BYTES);
    assert_memory_equal(sent, got, BYTES);
    assert_memory_equal(copy, from, (size_t)send.n_iov * sizeof *copy);
    close_ends(ends);
    free(sent);
    free(got);
    free(from);
    free(copy);
    free(to);
}

static void all_is_short_at_the_end_alone(void **state)
{
    struct loop *loop = *state;
    CoFd ends[2];
    char got[8];

    open_ends(ends, SOCK_STREAM);
    struct socket_task recv = {
        .task = {.call = do_recv_all, .f = &ends[0], .buf = got, .len = sizeof got}};

    co_task_start(&recv.task);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(send(ends[1].fd, "ab", 2, 0), 2);
        co_task_settle(loop);
        assert_false(recv.task.done);
    }
    co_fd_close(&ends[1]);
    assert_int_equal(finish(loop, &recv), 6);
    assert_memory_equal(got, "ababab", 6);
    assert_int_equal(do_it(loop, recv), 0);
    close_ends(ends);
}

static void pieces_that_can_not_be_counted_are_refused(void **state)
{
    struct loop *loop = *state;
    CoFd ends[2];
    struct iovec iov[2] = {{.iov_len = SSIZE_MAX}, {.iov_len = 1}};

    open_ends(ends, SOCK_STREAM);
    struct socket_task send = {
        .task = {.call = do_sendv_all, .f = &ends[0]}, .iov = iov, .n_iov = 2};

    assert_int_equal(do_it(loop, send), -EINVAL);
    send.n_iov = 0;
    assert_int_equal(do_it(loop, send), 0);
    close_ends(ends);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        LOOP_CASE(tcp_connects_and_carries_bytes),
        LOOP_CASE(unix_connects_and_carries_bytes),
        LOOP_CASE(a_refused_connection_says_so),
        LOOP_CASE(a_unix_connect_waits_while_the_queue_is_full),
        LOOP_CASE(a_connect_under_way_ends_with_its_scope),
        LOOP_CASE(accept_without_a_free_fd_says_so_and_loses_nobody),
        LOOP_CASE(each_connection_wakes_one_of_those_that_accept),
        LOOP_CASE(one_coroutine_receives_while_another_sends),
        LOOP_CASE(a_scope_ends_receive_and_send),
        LOOP_CASE(to_send_where_nobody_receives_is_an_error_and_no_signal),
        LOOP_CASE(dontwait_does_not_wait),
        LOOP_CASE(a_look_at_what_is_there_leaves_it_there),
        LOOP_CASE(messages_keep_their_bounds),
        LOOP_CASE(a_message_carries_an_fd),
        LOOP_CASE(many_pieces_arrive_whole),
        LOOP_CASE(all_is_short_at_the_end_alone),
        LOOP_CASE(pieces_that_can_not_be_counted_are_refused),
    };
    return LOOP_RUN(cases);
}
