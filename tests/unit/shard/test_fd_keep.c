/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shard/fd_keep.h"
#include "shard/fd_list.h"
#include "shard/segment.h"

enum { SHARD_0, SHARD_1, GATEWAY, N_PEERS };
enum { CONNECTION = 1, MEMORY, BELL };

#define MAX_KEYS   1024u
#define TURNS_MOST 100000u

/* The supervisor's side, and what its children would have: their ends of the channels. */
struct fixture {
    struct log log;
    AioContext *ctx;
    struct fd_keep *keep;
    int channels[N_PEERS];
    uint32_t n_fds_before;
};

static uint32_t count_open(void)
{
    struct fd_list list;

    assert_int_equal(fd_list_read(&list), 0);
    free(list.fds);
    return list.n;
}

static int make(void **state)
{
    struct aio_config config = {.engine = AIO_ENGINE_THREADS, .monitor = AIO_MONITOR_EPOLL};
    struct fixture *f = calloc(1, sizeof(*f));
    char *error = NULL;

    f->n_fds_before = count_open();
    log_init(&f->log, STDERR_FILENO, LOG_LEVEL_ERROR);
    assert_int_equal(aio_context_new(&config, &f->ctx), 0);
    aio_context_set_current(f->ctx);
    assert_int_equal(fd_keep_new(N_PEERS, GATEWAY, MAX_KEYS, &f->log, &f->keep, &error), 0);
    assert_int_equal(fd_keep_start(f->keep, f->ctx), 0);
    for (uint32_t peer = 0; peer < N_PEERS; peer++) {
        struct fd_keep_heir heir;
        assert_int_equal(fd_keep_inherit(f->keep, peer, false, &heir), 0);
        assert_int_equal(heir.n_kept, 0);
        f->channels[peer] = heir.channel;
        fd_keep_disinherit(&heir, false);
    }
    *state = f;
    return 0;
}

/* What is kept is closed with the keeper, so a case leaves nothing open. */
static int discard(void **state)
{
    struct fixture *f = *state;

    fd_keep_free(f->keep);
    aio_context_set_current(NULL);
    aio_context_unref(f->ctx);
    assert_int_equal(count_open(), f->n_fds_before);
    free(f);
    return 0;
}

static void turn(struct fixture *f)
{
    while (aio_poll(f->ctx, false))
        ;
}

static struct fd_keep_message about(
    uint32_t op, uint32_t key, uint64_t generation, uint32_t kind, uint32_t peer)
{
    return (struct fd_keep_message){.op = op,
        .key = key,
        .generation = generation,
        .kind = kind,
        .peer = peer,
        .n_fds = op == FD_KEEP_PUT,
        .note = {(uint8_t)key, (uint8_t)kind}};
}

/* A fresh fd goes to the keeper; only its copy is left. */
static void ask_put(
    struct fixture *f, uint32_t key, uint64_t generation, uint32_t kind, uint32_t peer)
{
    struct fd_keep_message message = about(FD_KEEP_PUT, key, generation, kind, peer);
    int fd = eventfd(0, EFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(fd_keep_send(f->channels[GATEWAY], &message, fd), 0);
    close(fd);
}

/* 0 or the error that it is refused with. */
static int reply_of(struct fixture *f, uint32_t key, uint32_t kind)
{
    struct fd_keep_message reply;
    int fds[FD_KEEP_FDS_MAX];

    turn(f);
    assert_int_equal(fd_keep_receive(f->channels[GATEWAY], &reply, fds), 1);
    assert_int_equal(reply.key, key);
    assert_int_equal(reply.kind, kind);
    assert_int_equal(reply.n_fds, 0);
    assert_int_equal(reply.op, reply.error ? FD_KEEP_REFUSED : FD_KEEP_KEPT);
    return reply.error;
}

static int put(struct fixture *f, uint32_t key, uint64_t generation, uint32_t kind, uint32_t peer)
{
    ask_put(f, key, generation, kind, peer);
    return reply_of(f, key, kind);
}

static void drop(struct fixture *f, uint32_t key, uint64_t generation)
{
    struct fd_keep_message message = about(FD_KEEP_DROP, key, generation, 0, FD_KEEP_ALL);

    memset(message.note, 0, sizeof(message.note));
    assert_int_equal(fd_keep_send(f->channels[GATEWAY], &message, -1), 0);
    turn(f);
}

/* What a peer is told next: its op, 0 where there is nothing. fds are closed. */
static uint32_t told(struct fixture *f, uint32_t peer, struct fd_keep_message *ret)
{
    int fds[FD_KEEP_FDS_MAX], r = fd_keep_receive(f->channels[peer], ret, fds);

    if (r == 0)
        return 0;
    assert_int_equal(r, 1);
    for (uint32_t i = 0; i < FD_KEEP_FDS_MAX; i++) {
        assert_int_equal(fds[i] >= 0, i < ret->n_fds);
        if (fds[i] >= 0)
            assert_int_equal(close(fds[i]), 0);
    }
    return ret->op;
}

static void whole_client(struct fixture *f, uint32_t key, uint64_t generation)
{
    assert_int_equal(put(f, key, generation, CONNECTION, GATEWAY), 0);
    assert_int_equal(put(f, key, generation, MEMORY, FD_KEEP_ALL), 0);
}

static void what_is_kept_outlives_who_gave_it_and_is_inherited_by_the_next(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_heir heir;

    whole_client(f, 7, 3);
    assert_int_equal(fd_keep_count(f->keep), 2);
    fd_keep_prepare(f->keep, GATEWAY);
    assert_int_equal(fd_keep_inherit(f->keep, GATEWAY, false, &heir), 0);
    assert_int_equal(heir.n_kept, 2);
    assert_int_equal(heir.kept[0].kind, CONNECTION);
    assert_int_equal(heir.kept[1].kind, MEMORY);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(heir.kept[i].key, 7);
        assert_int_equal(heir.kept[i].generation, 3);
        assert_int_equal(heir.kept[i].note[0], 7);
        assert_int_equal(heir.kept[i].note[1], heir.kept[i].kind);
        assert_true(fcntl(heir.kept[i].fd, F_GETFD) >= 0);
    }
    fd_keep_disinherit(&heir, false);
}

static void a_shard_is_handed_its_own_with_what_is_for_all(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_message message;

    whole_client(f, 1, 1);
    assert_int_equal(told(f, SHARD_0, &message), 0);
    assert_int_equal(put(f, 1, 1, BELL, SHARD_1), 0);
    assert_int_equal(told(f, SHARD_0, &message), 0);
    assert_int_equal(told(f, SHARD_1, &message), FD_KEEP_HAND);
    assert_int_equal(message.n_fds, 2);
    assert_int_equal(message.kind, BELL);
    assert_int_equal(message.key, 1);
    assert_int_equal(message.generation, 1);
    assert_int_equal(message.note[1], BELL);
    assert_int_equal(told(f, SHARD_1, &message), 0);
    assert_int_equal(fd_keep_count(f->keep), 3);
}

static void a_replacement_inherits_what_is_for_it_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_heir heir;
    struct fd_keep_message message;

    whole_client(f, 1, 1);
    whole_client(f, 2, 1);
    assert_int_equal(put(f, 2, 1, BELL, SHARD_0), 0);
    fd_keep_prepare(f->keep, SHARD_0);
    assert_int_equal(told(f, SHARD_0, &message), 0); /* taken back: it is inherited */
    assert_int_equal(fd_keep_inherit(f->keep, SHARD_0, false, &heir), 0);
    assert_int_equal(heir.n_kept, 2);
    assert_int_equal(heir.kept[0].key, 2);
    assert_int_equal(heir.kept[0].kind, MEMORY);
    assert_int_equal(heir.kept[1].kind, BELL);
    assert_int_equal(heir.kept[1].peer, SHARD_0);
    fd_keep_disinherit(&heir, false);
    assert_int_equal(fd_keep_inherit(f->keep, SHARD_1, false, &heir), 0);
    assert_int_equal(heir.n_kept, 0);
    fd_keep_disinherit(&heir, false);
}

static void a_thread_inherits_copies(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_heir heir;

    whole_client(f, 1, 1);
    assert_int_equal(fd_keep_inherit(f->keep, GATEWAY, true, &heir), 0);
    assert_int_equal(heir.n_kept, 2);
    fd_keep_disinherit(&heir, true);
    assert_int_equal(fd_keep_inherit(f->keep, GATEWAY, false, &heir), 0);
    assert_true(fcntl(heir.kept[0].fd, F_GETFD) >= 0);
    fd_keep_disinherit(&heir, false);
}

static void the_end_of_a_key_is_told_to_those_that_had_it_and_closes_all(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_message message;

    whole_client(f, 5, 9);
    assert_int_equal(put(f, 5, 9, BELL, SHARD_0), 0);
    assert_int_equal(told(f, SHARD_0, &message), FD_KEEP_HAND);
    drop(f, 5, 9);
    assert_int_equal(fd_keep_count(f->keep), 0);
    assert_int_equal(told(f, SHARD_0, &message), FD_KEEP_DROP);
    assert_int_equal(message.key, 5);
    assert_int_equal(message.generation, 9);
    assert_int_equal(told(f, SHARD_1, &message), 0);
    drop(f, 5, 9);
    assert_int_equal(told(f, SHARD_0, &message), 0);
}

static void whoever_the_giver_names_is_told_of_the_end_too(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_message message = about(FD_KEEP_DROP, 5, 1, 0, FD_KEEP_ALL);
    const uint64_t named[SEGMENT_BITMAP_WORDS] = {
        1u << SHARD_1 | 1u << GATEWAY | 1u << N_PEERS, UINT64_MAX};

    whole_client(f, 5, 1);
    memset(message.note, 0, sizeof(message.note));
    memcpy(message.note, named, sizeof(named));
    assert_int_equal(fd_keep_send(f->channels[GATEWAY], &message, -1), 0);
    turn(f);
    assert_int_equal(told(f, SHARD_1, &message), FD_KEEP_DROP);
    assert_int_equal(told(f, SHARD_0, &message), 0);
    assert_int_equal(told(f, GATEWAY, &message), 0);
    assert_int_equal(put(f, 5, 2, CONNECTION, GATEWAY), 0);
}

static void a_generation_that_was_dropped_is_not_kept_again_and_the_next_one_is(void **state)
{
    struct fixture *f = *state;

    whole_client(f, 5, 2);
    assert_int_equal(put(f, 5, 3, CONNECTION, GATEWAY), -EBUSY);
    drop(f, 5, 2);
    assert_int_equal(put(f, 5, 2, CONNECTION, GATEWAY), -ESTALE);
    assert_int_equal(put(f, 5, 1, CONNECTION, GATEWAY), -ESTALE);
    assert_int_equal(put(f, 5, 3, CONNECTION, GATEWAY), 0);
    drop(f, 5, 2); /* comes late: of another */
    assert_int_equal(fd_keep_count(f->keep), 1);
}

static void asking_twice_replaces_and_keeps_one(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_message message;

    whole_client(f, 5, 2);
    whole_client(f, 5, 2);
    assert_int_equal(fd_keep_count(f->keep), 2);
    assert_int_equal(put(f, 5, 2, BELL, SHARD_0), 0);
    assert_int_equal(put(f, 5, 2, BELL, SHARD_0), 0);
    assert_int_equal(fd_keep_count(f->keep), 3);
    assert_int_equal(told(f, SHARD_0, &message), FD_KEEP_HAND);
    assert_int_equal(told(f, SHARD_0, &message), FD_KEEP_HAND);
    assert_int_equal(told(f, SHARD_0, &message), 0);
}

static void what_makes_no_sense_is_refused(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_message none = about(FD_KEEP_PUT, 1, 1, BELL, SHARD_0);
    uint32_t kind;

    assert_int_equal(put(f, MAX_KEYS, 1, BELL, SHARD_0), -EINVAL);
    assert_int_equal(put(f, FD_KEEP_PROGRAM, 1, BELL, SHARD_0), -EINVAL);
    assert_int_equal(put(f, 1, 1, BELL, N_PEERS), -EINVAL);
    assert_int_equal(put(f, 1, 0, BELL, SHARD_0), -ESTALE);
    none.n_fds = 0;
    assert_int_equal(fd_keep_send(f->channels[GATEWAY], &none, -1), 0);
    assert_int_equal(reply_of(f, 1, BELL), -EINVAL);
    none.n_fds = 1; /* says one, and has none: what a full table of fds looks like */
    assert_int_equal(fd_keep_send(f->channels[GATEWAY], &none, -1), 0);
    assert_int_equal(reply_of(f, 1, BELL), -EMFILE);
    for (kind = 1; kind < FD_KEEP_FDS_MAX; kind++)
        assert_int_equal(put(f, 1, 1, kind, FD_KEEP_ALL), 0);
    assert_int_equal(put(f, 1, 1, kind, FD_KEEP_ALL), -EINVAL);
    for (kind = 0; kind < N_PEERS + 1; kind++)
        assert_int_equal(put(f, 1, 1, kind, SHARD_0), 0);
    assert_int_equal(put(f, 1, 1, kind, SHARD_0), -EINVAL);
}

static void what_is_no_message_is_passed_over(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_message message;
    char bytes[2 * sizeof(message)] = {0};

    f->log.fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    assert_int_equal(send(f->channels[GATEWAY], bytes, 1, 0), 1);
    assert_int_equal(send(f->channels[GATEWAY], bytes, sizeof(bytes), 0), sizeof(bytes));
    for (uint32_t op = FD_KEEP_DROP + 1; op < 10; op++) {
        message = about(op, 0, 1, 0, SHARD_0);
        assert_int_equal(fd_keep_send(f->channels[GATEWAY], &message, -1), 0);
    }
    assert_int_equal(put(f, 1, 1, CONNECTION, GATEWAY), 0);
    close(f->log.fd);
    f->log.fd = STDERR_FILENO;
}

static void requests_of_a_dead_giver_are_done_before_its_replacement_is_forked(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_message message;
    struct fd_keep_heir heir;

    ask_put(f, 1, 1, CONNECTION, GATEWAY);
    ask_put(f, 1, 1, MEMORY, FD_KEEP_ALL);
    fd_keep_prepare(f->keep, GATEWAY);
    assert_int_equal(told(f, GATEWAY, &message), 0); /* replies are not the next one's */
    assert_int_equal(fd_keep_inherit(f->keep, GATEWAY, false, &heir), 0);
    assert_int_equal(heir.n_kept, 2);
    fd_keep_disinherit(&heir, false);
    assert_int_equal(put(f, 2, 1, CONNECTION, GATEWAY), 0); /* and the channel works on */
}

static void what_a_stopped_shard_has_no_room_for_is_told_later(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_message message;
    uint32_t n_handed = 0, n_dropped = 0;
    bool handed[MAX_KEYS] = {false};

    for (uint32_t key = 0; key < MAX_KEYS; key++)
        assert_int_equal(put(f, key, 1, BELL, SHARD_0), 0);
    for (uint32_t key = 0; key < MAX_KEYS; key += 2)
        drop(f, key, 1);
    for (uint32_t i = 0; i < TURNS_MOST && n_dropped < MAX_KEYS / 2; i++) {
        uint32_t op = told(f, SHARD_0, &message);
        if (op == FD_KEEP_HAND)
            handed[message.key] = true;
        n_dropped += op == FD_KEEP_DROP;
        turn(f);
    }
    while (told(f, SHARD_0, &message))
        handed[message.key] = true;
    for (uint32_t key = 1; key < MAX_KEYS; key += 2)
        n_handed += handed[key];
    assert_int_equal(n_handed, MAX_KEYS / 2);
    assert_int_equal(n_dropped, MAX_KEYS / 2);
    assert_int_equal(put(f, 0, 2, BELL, SHARD_0), 0); /* nothing is owed any more */
}

static void a_shard_that_is_told_nothing_holds_nobody_up(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_message message;

    for (uint32_t key = 0; key < MAX_KEYS; key++)
        assert_int_equal(put(f, key, 1, BELL, SHARD_0), 0);
    assert_int_equal(put(f, 1, 1, BELL, SHARD_1), 0);
    assert_int_equal(told(f, SHARD_1, &message), FD_KEEP_HAND);
}

static void a_giver_that_does_not_listen_is_not_listened_to(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_message message;
    uint32_t n_asked = 0, n_replies = 0;

    for (uint32_t i = 0; i < TURNS_MOST; i++) {
        message = about(FD_KEEP_PUT, 1, 1, BELL, SHARD_0);
        message.n_fds = 0;
        if (fd_keep_send(f->channels[GATEWAY], &message, -1) < 0)
            break;
        n_asked++;
        turn(f);
    }
    assert_true(n_asked < TURNS_MOST);
    for (uint32_t i = 0; i < TURNS_MOST && n_replies < n_asked; i++) {
        n_replies += told(f, GATEWAY, &message) == FD_KEEP_REFUSED;
        turn(f);
    }
    assert_int_equal(n_replies, n_asked);
}

static void fds_are_left_for_the_supervisor_itself(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, few;
    struct fd_keep *keep;
    char *error = NULL;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = count_open() + FD_KEEP_RESERVED + 16;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_int_equal(fd_keep_new(N_PEERS, GATEWAY, MAX_KEYS, &f->log, &keep, &error), 0);
    fd_keep_free(f->keep);
    f->keep = keep;
    assert_int_equal(fd_keep_start(f->keep, f->ctx), 0);
    struct fd_keep_heir heir;
    assert_int_equal(fd_keep_inherit(f->keep, GATEWAY, false, &heir), 0);
    f->channels[GATEWAY] = heir.channel;
    fd_keep_disinherit(&heir, false);
    uint32_t n = 0;
    int r;
    while ((r = put(f, n, 1, CONNECTION, GATEWAY)) == 0)
        n++;
    assert_int_equal(r, -EMFILE);
    assert_true(n >= 8);
    assert_int_equal(fd_keep_count(f->keep), n);
    drop(f, 0, 1);
    assert_int_equal(put(f, n, 1, CONNECTION, GATEWAY), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
}

static void what_the_program_opened_is_inherited_by_whom_it_is_for(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_heir heir;
    int fd = eventfd(0, EFD_CLOEXEC);

    assert_int_equal(fd_keep_add(f->keep, 4, GATEWAY, fd), 0);
    assert_int_equal(fd_keep_inherit(f->keep, GATEWAY, false, &heir), 0);
    assert_int_equal(heir.n_kept, 1);
    assert_int_equal(heir.kept[0].key, FD_KEEP_PROGRAM);
    assert_int_equal(heir.kept[0].kind, 4);
    assert_int_equal(heir.kept[0].fd, fd);
    fd_keep_disinherit(&heir, false);
    assert_int_equal(fd_keep_inherit(f->keep, SHARD_0, false, &heir), 0);
    assert_int_equal(heir.n_kept, 0);
    fd_keep_disinherit(&heir, false);
}

static void more_fds_than_a_message_may_have_do_not_stay_open(void **state)
{
    struct fixture *f = *state;
    struct fd_keep_message message = about(FD_KEEP_HAND, 1, 1, BELL, SHARD_0), got;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(8 * sizeof(int))];
    } space = {.bytes = {0}};
    struct iovec iov = {.iov_base = &message, .iov_len = sizeof(message)};
    struct msghdr msg = {.msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = space.bytes,
        .msg_controllen = sizeof(space.bytes)};
    struct cmsghdr *header = CMSG_FIRSTHDR(&msg);
    int fd = eventfd(0, EFD_CLOEXEC), ends[2], fds[FD_KEEP_FDS_MAX];
    uint32_t n_open;

    (void)f;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(8 * sizeof(int));
    for (uint32_t i = 0; i < 8; i++)
        memcpy(CMSG_DATA(header) + i * sizeof(int), &fd, sizeof(int));
    n_open = count_open();
    message.n_fds = 8;
    assert_int_equal(sendmsg(ends[0], &msg, 0), sizeof(message));
    assert_int_equal(fd_keep_receive(ends[1], &got, fds), -EMFILE);
    message.n_fds = 1; /* says fewer than come */
    assert_int_equal(sendmsg(ends[0], &msg, 0), sizeof(message));
    assert_true(fd_keep_receive(ends[1], &got, fds) < 0);
    assert_int_equal(count_open(), n_open);
    close(fd);
    close(ends[0]);
    close(ends[1]);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, make, discard)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(what_is_kept_outlives_who_gave_it_and_is_inherited_by_the_next),
        CASE(a_shard_is_handed_its_own_with_what_is_for_all),
        CASE(a_replacement_inherits_what_is_for_it_and_nothing_else),
        CASE(a_thread_inherits_copies),
        CASE(the_end_of_a_key_is_told_to_those_that_had_it_and_closes_all),
        CASE(whoever_the_giver_names_is_told_of_the_end_too),
        CASE(a_generation_that_was_dropped_is_not_kept_again_and_the_next_one_is),
        CASE(asking_twice_replaces_and_keeps_one),
        CASE(what_makes_no_sense_is_refused),
        CASE(what_is_no_message_is_passed_over),
        CASE(requests_of_a_dead_giver_are_done_before_its_replacement_is_forked),
        CASE(what_a_stopped_shard_has_no_room_for_is_told_later),
        CASE(a_shard_that_is_told_nothing_holds_nobody_up),
        CASE(a_giver_that_does_not_listen_is_not_listened_to),
        CASE(fds_are_left_for_the_supervisor_itself),
        CASE(what_the_program_opened_is_inherited_by_whom_it_is_for),
        CASE(more_fds_than_a_message_may_have_do_not_stay_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
