/* SPDX-License-Identifier: MIT */
/*
 * A shard dies at its k-th store for its clients, for every k, and its replacement at each store of
 * taking over: each request ends once, with an end that is true, and the accounts balance.
 *
 * The data plane's files are built in with SHERD_ATOMIC_HOOK; the test's process plays client and
 * supervisor.
 */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/atomic.h"
#include "tests/unit/plane/plane_rig.h"

#define DEADLINE_NS (INT64_C(60) * 1000000000)
#define ENTRIES     16u

enum { AGAIN, ONCE, NAP, ROOM, NAP_AGAIN };

/* Words of the board. */
enum { OPENED, RUNS }; /* RUNS + id: how often that request was run */

static struct rig rig;
static struct client client;

/* ---- dying at the k-th store ---- */

static uint64_t stores_left; /* 0: for ever */

void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    (void)address;
    (void)file;
    (void)line;
    if (stores_left && (access == ATOMIC_STORE || access == ATOMIC_RMW) && --stores_left == 0)
        kill(getpid(), SIGKILL);
}

/* ---- methods ---- */

static void note_run(struct service_call *call)
{
    size_t len;
    const uint8_t *id = service_args(call, &len);

    atomic_fetch_add(&rig.board->words[RUNS + *id], 1);
}

static int coroutine_fn run_counted(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    note_run(call);
    return service_reply(call, args, len);
}

static int coroutine_fn run_nap(struct service_call *call)
{
    note_run(call);
    return service_sleep_ns(call, INT64_MAX);
}

static int coroutine_fn run_room(struct service_call *call)
{
    void *room;
    int r = service_reply_room(call, 4096, &room);

    note_run(call);
    if (r < 0)
        return r;
    memset(room, 'r', 4096);
    return service_reply_done(call, 4096);
}

static const struct service_method methods[] = {
    [AGAIN] = {"again", run_counted, SERVICE_IDEMPOTENT, ""},
    [ONCE] = {"once", run_counted, 0, ""},
    [NAP] = {"nap", run_nap, 0, ""},
    [ROOM] = {"room", run_room, SERVICE_IDEMPOTENT, ""},
    [NAP_AGAIN] = {"nap_again", run_nap, SERVICE_IDEMPOTENT, ""},
};
static const struct service service = {
    .abi = SERVICE_ABI, .name = "test", .help = "", .methods = methods, .n_methods = 5};

/* ---- the shard ---- */

static uint64_t fuse_while_opening, fuse_once_open;

static void serve(struct rig_end *end)
{
    stores_left = fuse_while_opening;
    struct plane *plane = plane_rig_new(end);

    if (client_open(&client, plane) < 0)
        _exit(2);
    plane_recover(plane);
    if (fuse_once_open)
        stores_left = fuse_once_open;
    atomic_store(&rig.board->words[OPENED], 1);
    rig_serve(end);
    stores_left = 0;
    plane_drop(plane, client.grant.client, client.grant.generation);
    while (!plane_is_idle(plane))
        aio_poll(end->ctx, true);
    plane_free(plane);
}

/* ---- the client ---- */

static const uint8_t requests[] = {AGAIN, ONCE, NAP, ROOM, NAP_AGAIN, ONCE, AGAIN};
#define N_REQUESTS (sizeof(requests) / sizeof(requests[0]))

#define URGENT 6u /* of these, by the urgent ring */

static void push_request(uint8_t id)
{
    struct plane_submission *entry =
        id == URGENT ? client_next_urgent(&client) : client_next(&client);

    entry->id = id;
    entry->method = requests[id];
    entry->flags = PLANE_ARGS_INLINE;
    entry->args_len = 1;
    entry->inline_args[0] = id;
    entry->room_off = 4096;
    entry->room_len = requests[id] == ROOM ? 4096 : 0;
    if (id == URGENT) {
        entry->flags |= PLANE_URGENT;
        client_push_urgent(&client);
    } else {
        client_push(&client);
    }
}

static void push_cancel(uint8_t id)
{
    struct plane_submission *entry = client_next(&client);

    entry->id = entry->route = id;
    entry->flags = PLANE_CANCEL;
    client_push(&client);
}

static void check_end(const struct plane_completion *c)
{
    uint64_t runs = atomic_load(&rig.board->words[RUNS + c->id]);

    switch (requests[c->id]) {
    case AGAIN:
        assert_int_equal(c->end, CALL_END_DONE);
        assert_true(runs >= 1);
        break;
    case ROOM:
        assert_int_equal(c->end, CALL_END_DONE);
        assert_int_equal(c->len, 4096);
        assert_int_equal(client_data(&client, 4096)[4095], 'r');
        break;
    case ONCE:
        assert_true(runs <= 1);
        assert_true(c->end == CALL_END_IN_DOUBT || (c->end == CALL_END_DONE && runs == 1));
        break;
    case NAP:
        assert_true(runs <= 1);
        assert_true(c->end == CALL_END_IN_DOUBT || c->end == CALL_END_CANCELLED);
        break;
    default:
        assert_int_equal(c->end, CALL_END_CANCELLED);
    }
}

static bool ledger_is_free(void)
{
    for (uint32_t n = 0; n < rig.seg.geometry.n_ledger; n++)
        if ((atomic_load_acquire(&segment_ledger(&rig.seg, 0, n)->word) & 0xff) != LEDGER_FREE)
            return false;
    return true;
}

static void check_accounts(void)
{
    const struct client_lane *row = segment_client_lane(&rig.seg, 0, client.grant.client);

    assert_int_equal(row->requests, N_REQUESTS);
    assert_int_equal(row->urgent_head, 1);
    assert_int_equal(row->tail, N_REQUESTS);
    assert_int_equal(row->state, CLIENT_LANE_OPEN);
}

/* ---- the supervisor ---- */

static bool has_died(void)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)rig.ends[0].pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid != 0;
}

static void replace(uint64_t while_opening, uint64_t once_open)
{
    rig_join(&rig, 0);
    rig_bury(&rig, 0, false);
    rig_quiet(&rig, 0);
    fuse_while_opening = while_opening;
    fuse_once_open = once_open;
    atomic_store(&rig.board->words[OPENED], 0);
    rig_fork(&rig, 0, serve);
}

/* Whether the shard died on the way, whose replacement may do so as well. */
static bool collect(uint64_t replacement_fuse)
{
    int64_t until_ns = aio_clock_ns() + DEADLINE_NS;
    uint32_t seen = 0, n_deaths = 0;
    struct plane_completion c;

    while (seen != (1u << N_REQUESTS) - 1) {
        assert_true(aio_clock_ns() < until_ns);
        if (has_died()) {
            replace(n_deaths++ == 0 ? replacement_fuse : 0, 0);
            continue;
        }
        if (!client_pop(&client, &c)) {
            sched_yield();
            continue;
        }
        assert_true(c.id < N_REQUESTS);
        assert_false(seen & 1u << c.id);
        seen |= 1u << c.id;
        check_end(&c);
    }
    assert_false(client_pop(&client, &c));
    return n_deaths > 0;
}

static void stop(void)
{
    rig_stop_all(&rig);
    atomic_store(&rig.board->leave, 0);
    rig_bury(&rig, 0, false);
}

/* One client's life. Whether a shard died in it. */
static bool play(uint32_t number, uint64_t fuse, uint64_t replacement_fuse)
{
    memset((void *)rig.board->words, 0, sizeof(rig.board->words));
    client_make(&client, &rig, 0, number, ENTRIES, 8192);
    for (uint8_t id = 0; id < N_REQUESTS; id++)
        push_request(id);
    push_cancel(2);
    push_cancel(4);
    fuse_while_opening = 0;
    fuse_once_open = fuse;
    rig_fork(&rig, 0, serve);
    bool died = collect(replacement_fuse);

    while (!atomic_load(&rig.board->words[OPENED]) || !ledger_is_free())
        if (has_died()) /* behind the last end */
            replace(0, 0);
    check_accounts();
    stop();
    client_free(&client);
    return died;
}

static void a_shard_may_die_at_any_store_and_each_request_ends_once(void **state)
{
    uint32_t number = 0;

    (void)state;
    rig_open(&rig, 1, &service);
    while (play(number, number + 1, 0))
        number++;
    print_message("%u stores\n", number);
    assert_true(number > 60);
    rig_close(&rig);
}

static void its_replacement_may_die_at_any_store_of_taking_over(void **state)
{
    static const uint64_t fuses[] = {9, 20, 35, 52, 66};
    uint32_t number = 0;

    (void)state;
    rig_open(&rig, 1, &service);
    for (size_t i = 0; i < sizeof(fuses) / sizeof(fuses[0]); i++)
        for (uint64_t fuse = 1; fuse < 70; fuse += 3)
            assert_true(play(number++, fuses[i], fuse + i % 3));
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shard_may_die_at_any_store_and_each_request_ends_once),
        cmocka_unit_test(its_replacement_may_die_at_any_store_of_taking_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
