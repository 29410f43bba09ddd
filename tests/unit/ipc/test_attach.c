/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ipc/gateway/attach_socket.h"
#include "ipc/gateway/attach_wire.h"
#include "ipc/gateway/clients.h"
#include "proto/data_plane.h"
#include "runtime/atomic.h"
#include "shard/bits.h"
#include "shard/blame.h"
#include "shard/fd_list.h"
#include "tests/unit/ipc/attach_rig.h"

#define MIB (UINT64_C(1) << 20)
#define MS  (INT64_C(1000) * 1000)

struct fixture {
    struct attach_rig rig;
    uint32_t n_fds_before;
};

static uint32_t count_open(void)
{
    struct fd_list list;

    assert_int_equal(fd_list_read(&list), 0);
    free(list.fds);
    return list.n;
}

static int make_with(void **state, uint64_t client_bytes)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->n_fds_before = count_open();
    rig_make(&f->rig, 2, client_bytes);
    *state = f;
    return 0;
}

static int make(void **state)
{
    return make_with(state, 4 * MIB);
}

static int make_large(void **state)
{
    return make_with(state, 64 * MIB);
}

static int discard(void **state)
{
    struct fixture *f = *state;

    rig_discard(&f->rig);
    assert_int_equal(count_open(), f->n_fds_before);
    free(f);
    return 0;
}

/* ---- a client ---- */

struct client {
    int fd;
    int memory_fd;
    struct attach_welcome welcome;
};

static void close_client(struct client *client)
{
    close(client->fd);
    if (client->memory_fd >= 0)
        close(client->memory_fd);
}

static void say(const struct client *client, const void *message, size_t len)
{
    assert_int_equal(send(client->fd, message, len, 0), len);
}

/* The next answer, which has to be of that kind. */
static int answer(struct fixture *f, const struct client *client, enum attach_kind kind,
    uint64_t serial, void *ret, size_t size)
{
    struct attach_head head;
    int n, fd;

    rig_settle(&f->rig);
    for (int i = 0; (n = rig_receive(client->fd, ret, size, &fd)) == 0 && i < 1000; i++)
        rig_settle(&f->rig);
    assert_int_equal(n, size);
    memcpy(&head, ret, sizeof(head));
    assert_int_equal(head.magic, ATTACH_MAGIC);
    assert_int_equal(head.version, ATTACH_VERSION);
    assert_int_equal(head.kind, kind);
    assert_int_equal(head.serial, serial);
    return fd;
}

static int refusal(struct fixture *f, const struct client *client, uint64_t serial)
{
    struct attach_refused refused;

    assert_int_equal(answer(f, client, ATTACH_REFUSED, serial, &refused, sizeof(refused)), -1);
    assert_non_null(memchr(refused.text, 0, sizeof(refused.text)));
    assert_int_not_equal(refused.text[0], 0);
    return refused.error;
}

static struct client connect_client(struct fixture *f)
{
    return (struct client){.fd = rig_connect(&f->rig), .memory_fd = -1};
}

static void await_welcome(struct fixture *f, struct client *client, uint64_t serial)
{
    if (client->memory_fd >= 0)
        close(client->memory_fd);
    client->memory_fd =
        answer(f, client, ATTACH_WELCOME, serial, &client->welcome, sizeof(client->welcome));
    assert_true(client->memory_fd >= 0);
}

static struct client attach_client(struct fixture *f)
{
    struct client client = connect_client(f);
    struct attach_hello hello = rig_hello(1);

    say(&client, &hello, sizeof(hello));
    await_welcome(f, &client, 1);
    return client;
}

/* The doorbell. */
static int open_shard(
    struct fixture *f, const struct client *client, uint64_t serial, uint32_t shard)
{
    struct attach_open open = rig_open(serial, shard);
    struct attach_opened opened;

    say(client, &open, sizeof(open));
    int fd = answer(f, client, ATTACH_OPENED, serial, &opened, sizeof(opened));
    assert_int_equal(opened.shard, shard);
    assert_true(fd >= 0);
    return fd;
}

static bool has_ended(struct fixture *f, const struct client *client)
{
    struct attach_refused refused;
    int n, fd;

    rig_settle(&f->rig);
    while ((n = rig_receive(client->fd, &refused, sizeof(refused), &fd)) > 0)
        if (fd >= 0)
            close(fd);
    return n < 0;
}

/* ---- cases ---- */

static void a_hello_is_granted_what_it_asked_for_rounded_up(void **state)
{
    struct fixture *f = *state;
    struct client client = connect_client(f);
    struct attach_hello hello = rig_hello(77);
    struct plane_layout layout;
    struct stat st;

    hello.n_entries = 9;
    hello.data_bytes = 5000;
    hello.features = UINT64_MAX;
    hello.head.version = 40;
    say(&client, &hello, sizeof(hello));
    await_welcome(f, &client, 77);
    layout = plane_layout(2, 16, 8192);
    assert_int_equal(client.welcome.n_entries, 16);
    assert_int_equal(client.welcome.data_bytes, 8192);
    assert_int_equal(client.welcome.total_bytes, layout.total_bytes);
    assert_int_equal(client.welcome.n_shards, 2);
    assert_int_equal(client.welcome.features, ATTACH_FEATURES_ALL);
    assert_int_equal(client.welcome.keymap, 1);
    assert_string_equal(client.welcome.instance, "rig");
    assert_int_equal(fstat(client.memory_fd, &st), 0);
    assert_int_equal(st.st_size, layout.total_bytes);
    assert_int_equal(st.st_blocks * 512, layout.total_bytes);
    assert_int_equal(
        fcntl(client.memory_fd, F_GET_SEALS), F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW);
    close_client(&client);
    rig_wait_for_none(&f->rig);
}

static void asked_again_it_gives_the_same_memory_and_a_new_doorbell(void **state)
{
    struct fixture *f = *state;
    struct client client = attach_client(f);
    struct attach_hello hello = rig_hello(1);
    struct stat first, second;
    int bells[2];

    assert_int_equal(fstat(client.memory_fd, &first), 0);
    say(&client, &hello, sizeof(hello));
    await_welcome(f, &client, 1);
    assert_int_equal(fstat(client.memory_fd, &second), 0);
    assert_int_equal(first.st_ino, second.st_ino);
    bells[0] = open_shard(f, &client, 2, 1);
    bells[1] = open_shard(f, &client, 2, 1);
    assert_int_equal(rig_shard_turn(&f->rig, 1), 2);
    assert_int_equal(rig_shard_turn(&f->rig, 0), 0);
    assert_int_equal(fd_keep_count(f->rig.keep), 4); /* with the listener */
    close(bells[0]);
    close(bells[1]);
    close_client(&client);
    rig_wait_for_none(&f->rig);
    assert_int_equal(fd_keep_count(f->rig.keep), 1);
}

static void a_hello_after_others_is_no_hello_asked_again(void **state)
{
    struct fixture *f = *state;
    struct client client = attach_client(f);
    struct attach_hello hello = rig_hello(1);

    close(open_shard(f, &client, 2, 0));
    say(&client, &hello, sizeof(hello));
    assert_true(has_ended(f, &client));
    close_client(&client);
    rig_wait_for_none(&f->rig);
}

static void what_is_no_request_ends_the_connection(void **state)
{
    struct fixture *f = *state;
    struct attach_hello hello = rig_hello(1);
    struct attach_open open = rig_open(1, 0);
    uint8_t bytes[sizeof(hello) + 1];

    for (size_t len = 1; len <= sizeof(bytes); len++) {
        union attach_request request;
        const char *why = NULL;
        memset(bytes, 0, sizeof(bytes));
        memcpy(bytes, &hello, len < sizeof(hello) ? len : sizeof(hello));
        int r = attach_check(bytes, len, &request, &why);
        assert_int_equal(r, len == sizeof(hello) ? 0 : -EPROTO);
        assert_int_equal(why == NULL, r == 0);
        memcpy(bytes, &open, len < sizeof(open) ? len : sizeof(open));
        assert_int_equal(
            attach_check(bytes, len, &request, &why), len == sizeof(open) ? 0 : -EPROTO);
    }
    struct client client = connect_client(f);
    say(&client, &hello, sizeof(hello) - 1);
    assert_true(has_ended(f, &client));
    close_client(&client);
    client = connect_client(f);
    say(&client, &open, sizeof(open)); /* before any hello */
    assert_true(has_ended(f, &client));
    close_client(&client);
    assert_int_equal(rig_n_rows(&f->rig), 0);
}

static void what_can_not_be_had_is_refused_and_the_connection_stays(void **state)
{
    struct fixture *f = *state;
    struct client client = connect_client(f);
    struct attach_hello hello = rig_hello(1);
    struct attach_open open = rig_open(9, UINT32_MAX);

    hello.head.version = 0;
    say(&client, &hello, sizeof(hello));
    assert_int_equal(refusal(f, &client, 1), -EPROTONOSUPPORT);
    hello = rig_hello(2);
    hello.n_entries = PLANE_ENTRIES_MAX + 1;
    say(&client, &hello, sizeof(hello));
    assert_int_equal(refusal(f, &client, 2), -EINVAL);
    hello = rig_hello(3);
    hello.data_bytes = UINT64_MAX;
    say(&client, &hello, sizeof(hello));
    assert_int_equal(refusal(f, &client, 3), -ENOMEM);
    hello.data_bytes = 4 * MIB; /* with its rings it is more */
    say(&client, &hello, sizeof(hello));
    assert_int_equal(refusal(f, &client, 3), -ENOMEM);
    attach_set_draining(f->rig.attach, true);
    hello = rig_hello(4);
    say(&client, &hello, sizeof(hello));
    assert_int_equal(refusal(f, &client, 4), -ESHUTDOWN);
    attach_set_draining(f->rig.attach, false);
    say(&client, &hello, sizeof(hello));
    await_welcome(f, &client, 4);
    say(&client, &open, sizeof(open));
    assert_int_equal(refusal(f, &client, 9), -ENODEV);
    close(open_shard(f, &client, 10, 1));
    close_client(&client);
    rig_wait_for_none(&f->rig);
}

static void memory_that_has_been_given_out_is_not_to_be_had_until_all_have_let_go(void **state)
{
    struct fixture *f = *state;
    struct client first = connect_client(f), second = connect_client(f);
    struct attach_hello hello = rig_hello(1);

    hello.data_bytes = 3 * MIB;
    say(&first, &hello, sizeof(hello));
    await_welcome(f, &first, 1);
    close(open_shard(f, &first, 2, 0));
    assert_int_equal(rig_shard_turn(&f->rig, 0), 1);
    close_client(&first);
    rig_settle(&f->rig);
    say(&second, &hello, sizeof(hello));
    assert_int_equal(refusal(f, &second, 1), -ENOMEM); /* shard 0 has it mapped yet */
    rig_wait_for_none(&f->rig);
    say(&second, &hello, sizeof(hello));
    await_welcome(f, &second, 1);
    close_client(&second);
    rig_wait_for_none(&f->rig);
}

static void a_gateways_replacement_goes_on_with_each_client_and_each_request(void **state)
{
    struct fixture *f = *state;
    struct client client = attach_client(f), late = connect_client(f);
    struct attach_hello hello = rig_hello(5);
    struct attach_open open = rig_open(2, 0), asked = rig_open(3, 1);
    uint64_t word = segment_client(&f->rig.seg, client.welcome.client)->word;

    say(&client, &open, sizeof(open)); /* not read by the one that dies */
    say(&client, &asked, sizeof(asked));
    say(&late, &hello, sizeof(hello)); /* not even accepted */
    rig_replace_gateway(&f->rig);
    assert_int_equal(segment_client(&f->rig.seg, client.welcome.client)->word, word);
    struct attach_opened opened;
    close(answer(f, &client, ATTACH_OPENED, 2, &opened, sizeof(opened)));
    close(answer(f, &client, ATTACH_OPENED, 3, &opened, sizeof(opened)));
    await_welcome(f, &late, 5);
    rig_replace_gateway(&f->rig);
    close_client(&client);
    rig_replace_gateway(&f->rig); /* which sees that it is gone */
    close_client(&late);
    rig_wait_for_none(&f->rig);
    assert_int_equal(fd_keep_count(f->rig.keep), 1);
}

static void a_row_that_was_about_to_attach_when_its_gateway_died_is_free_again(void **state)
{
    struct fixture *f = *state;
    struct client_row *row = segment_client(&f->rig.seg, 5);

    row->word = client_word(3, CLIENT_ATTACHING);
    row->total_bytes = MIB;
    rig_replace_gateway(&f->rig);
    assert_int_equal(client_state(row->word), CLIENT_ENDING);
    rig_wait_for_none(&f->rig);
    assert_int_equal(client_generation(row->word), 3);
}

/* The gateway died when it had noted both, and told the supervisor of neither. */
static void a_shard_hears_of_an_end_also_before_it_was_handed_anything(void **state)
{
    struct fixture *f = *state;
    struct client client = attach_client(f);
    struct client_row *row = segment_client(&f->rig.seg, client.welcome.client);

    bits_set(row->opened, 0);
    row->word = client_word(client_generation(row->word), CLIENT_ENDING);
    rig_replace_gateway(&f->rig);
    rig_wait_for_none(&f->rig);
    close_client(&client);
}

#define TURNS_MOST 40u /* more than an attach takes, and the opening of two shards */

static uint32_t count_answers(const struct client *client)
{
    struct attach_welcome any; /* the longest */
    uint32_t n = 0;
    int fd;

    for (; rig_receive(client->fd, &any, sizeof(any), &fd) > 0; n++)
        if (fd >= 0)
            close(fd);
    return n;
}

/* Asks for all at once and is gone after that many turns. Returns how much was answered by then. */
static uint32_t come_and_go(struct fixture *f, uint32_t n_turns, bool gateway_dies)
{
    uint32_t n_open = count_open(), n_kept = fd_keep_count(f->rig.keep), n_answers;
    struct client client = connect_client(f);
    struct attach_hello hello = rig_hello(1);
    struct attach_open first = rig_open(2, 0), second = rig_open(3, 1);

    say(&client, &hello, sizeof(hello));
    say(&client, &first, sizeof(first));
    say(&client, &second, sizeof(second));
    for (uint32_t i = 0; i < n_turns; i++)
        rig_turn(&f->rig);
    n_answers = count_answers(&client);
    close_client(&client);
    if (gateway_dies)
        rig_replace_gateway(&f->rig);
    rig_settle(&f->rig); /* what it asked for may be looked at only now */
    rig_wait_for_none(&f->rig);
    rig_settle(&f->rig);
    assert_int_equal(fd_keep_count(f->rig.keep), n_kept);
    assert_int_equal(count_open(), n_open);
    return n_answers;
}

static void a_client_that_is_gone_after_any_turn_of_the_gateway_leaves_nothing(void **state)
{
    for (uint32_t n = 0; n < TURNS_MOST; n++)
        come_and_go(*state, n, false);
    assert_int_equal(come_and_go(*state, TURNS_MOST, false), 3);
}

static void nor_does_one_whose_gateway_dies_at_the_same_moment(void **state)
{
    for (uint32_t n = 0; n <= TURNS_MOST; n++)
        come_and_go(*state, n, true);
}

#define LARGE (40 * MIB) /* made in ten pieces */

/* When this returns a worker makes its memory. */
static struct client ask_for_much(struct fixture *f)
{
    struct client client = connect_client(f);
    struct attach_hello hello = rig_hello(1);

    hello.data_bytes = LARGE;
    say(&client, &hello, sizeof(hello));
    while (!rig_is_making(&f->rig))
        rig_turn(&f->rig);
    return client;
}

/* Turns until no worker is at it: one for each piece, or a few more. */
static uint32_t count_pieces(struct fixture *f)
{
    uint32_t n = 0;

    for (; rig_is_making(&f->rig); n++)
        rig_turn(&f->rig);
    return n;
}

static void who_is_gone_while_its_memory_is_made_gets_no_more_of_it(void **state)
{
    struct fixture *f = *state;
    struct client client = ask_for_much(f);

    assert_true(count_pieces(f) >= 8);
    await_welcome(f, &client, 1);
    close_client(&client);
    rig_wait_for_none(&f->rig);
    client = ask_for_much(f);
    close_client(&client);
    assert_true(count_pieces(f) <= 3);
    rig_wait_for_none(&f->rig);
}

static void what_a_shard_wants_cut_off_is_told_why_and_ended(void **state)
{
    struct fixture *f = *state;
    struct client client = attach_client(f), other = attach_client(f);
    struct client_lane *lane = segment_client_lane(&f->rig.seg, 1, client.welcome.client);
    struct attach_refused refused;

    close(open_shard(f, &client, 2, 1));
    rig_shard_turn(&f->rig, 1);
    lane->reason = CUT_FLAGS;
    lane->state = CLIENT_LANE_CUT;
    segment_part(&f->rig.seg, 1)->clients_cut++;
    rig_settle(&f->rig);
    assert_int_equal(answer(f, &client, ATTACH_REFUSED, 0, &refused, sizeof(refused)), -1);
    assert_int_equal(refused.error, -EPROTO);
    assert_non_null(strstr(refused.text, "unknown flags"));
    assert_true(has_ended(f, &client));
    assert_false(has_ended(f, &other));
    const struct client_row *row = segment_client(&f->rig.seg, client.welcome.client);
    assert_int_equal(row->reason, CUT_FLAGS);
    assert_int_equal(row->cut_by, 1);
    assert_int_equal(segment_part(&f->rig.seg, 2)->clients_cut, 1);
    close_client(&client);
    close_client(&other);
    rig_wait_for_none(&f->rig);
}

/* Shard 0 crashes with a request of that client's on the CPU, in an hour: so long its user waits,
 * however slow this machine is. */
static void crash_over(struct fixture *f, uint32_t client)
{
    const struct segment *seg = &f->rig.seg;
    struct ledger_slot *request = segment_ledger(seg, 0, 0);
    struct peer_control *control = segment_control(seg, 0);

    request->client = client;
    request->client_generation = client_generation(segment_client(seg, client)->word);
    request->word = UINT64_C(1) << 8;
    control->crashed_generation = 1;
    blame_note(seg, 0, aio_clock_ns() + INT64_C(3600) * 1000 * 1000 * 1000);
}

static void a_crash_makes_its_user_wait_also_where_the_client_has_gone(void **state)
{
    struct fixture *f = *state;
    struct client client = attach_client(f), next = connect_client(f);
    struct attach_hello hello = rig_hello(1);

    close(open_shard(f, &client, 2, 0));
    rig_shard_turn(&f->rig, 0);
    close_client(&client);
    rig_settle(&f->rig);
    rig_wait_for_none(&f->rig);
    crash_over(f, client.welcome.client);
    say(&next, &hello, sizeof(hello));
    assert_int_equal(refusal(f, &next, 1), -EAGAIN);
    close_client(&next);
}

static void a_user_has_no_more_than_its_share_of_rows_and_memory(void **state)
{
    struct fixture *f = *state;
    struct client_wish wish = {.uid = 12345, .n_entries = 8, .data_bytes = MIB, .name = "greedy"};
    struct client_wish own = {
        .uid = geteuid(), .n_entries = 8, .data_bytes = 2 * MIB, .name = "own"};
    uint32_t n_rows = f->rig.seg.geometry.n_clients, client, n = 0;
    struct clients clients;
    int r;

    assert_int_equal(clients_init(&clients, &f->rig.seg, 4 * MIB, geteuid()), 0);
    assert_int_equal(clients_take(&clients, &wish, 0, &client), -EDQUOT);
    wish.data_bytes = MIB - 3 * 4096;
    assert_int_equal(clients_take(&clients, &wish, 0, &client), 0);
    assert_int_equal(clients_take(&clients, &wish, 0, &client), -EDQUOT);
    assert_int_equal(clients_take(&clients, &own, 0, &client), 0);
    assert_int_equal(clients_take(&clients, &own, 0, &client), -ENOMEM);
    clients.max_bytes = UINT64_MAX / 2;
    wish.data_bytes = 0;
    for (; (r = clients_take(&clients, &wish, 0, &client)) == 0; n++)
        ;
    assert_int_equal(r, -EDQUOT);
    assert_int_equal(n + 1, n_rows / CLIENTS_USER_SHARE);
    for (n += 2; (r = clients_take(&clients, &own, 0, &client)) == 0; n++)
        ;
    assert_int_equal(r, -EMFILE);
    assert_int_equal(n, n_rows);
    for (uint32_t i = 0; i < n_rows; i++)
        clients_end(&clients, i, CUT_NONE, 0);
    assert_int_equal(clients_reap(&clients, NULL, NULL), 0);
    assert_int_equal(clients.bytes, 0);
    assert_int_equal(clients.n_shares, 0);
    clients_deinit(&clients);
}

static void rights_of_the_socket_are_parsed_or_refused(void **state)
{
    struct attach_access access;
    char *error = NULL;

    (void)state;
    assert_int_equal(attach_access_parse(NULL, NULL, &access, &error), 0);
    assert_int_equal(access.mode, 0600);
    assert_int_equal(attach_access_parse("4711", NULL, &access, &error), 0);
    assert_int_equal(access.mode, 0660);
    assert_int_equal(access.gid, 4711);
    assert_int_equal(attach_access_parse("root", "666", &access, &error), 0);
    assert_int_equal(access.mode, 0666);
    static const char *const wrong[] = {"", "8", "60", "01777", "0660x", "-600"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(attach_access_parse(NULL, wrong[i], &access, &error), -EINVAL);
        free(error);
    }
    assert_int_equal(attach_access_parse("no such group", NULL, &access, &error), -ENOENT);
    free(error);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, make, discard)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_hello_is_granted_what_it_asked_for_rounded_up),
        CASE(asked_again_it_gives_the_same_memory_and_a_new_doorbell),
        CASE(a_hello_after_others_is_no_hello_asked_again),
        CASE(what_is_no_request_ends_the_connection),
        CASE(what_can_not_be_had_is_refused_and_the_connection_stays),
        CASE(memory_that_has_been_given_out_is_not_to_be_had_until_all_have_let_go),
        CASE(a_gateways_replacement_goes_on_with_each_client_and_each_request),
        CASE(a_row_that_was_about_to_attach_when_its_gateway_died_is_free_again),
        CASE(a_shard_hears_of_an_end_also_before_it_was_handed_anything),
        CASE(a_client_that_is_gone_after_any_turn_of_the_gateway_leaves_nothing),
        CASE(nor_does_one_whose_gateway_dies_at_the_same_moment),
        cmocka_unit_test_setup_teardown(
            who_is_gone_while_its_memory_is_made_gets_no_more_of_it, make_large, discard),
        CASE(what_a_shard_wants_cut_off_is_told_why_and_ended),
        CASE(a_crash_makes_its_user_wait_also_where_the_client_has_gone),
        CASE(a_user_has_no_more_than_its_share_of_rows_and_memory),
        cmocka_unit_test(rights_of_the_socket_are_parsed_or_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
