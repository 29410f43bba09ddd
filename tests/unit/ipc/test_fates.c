/* SPDX-License-Identifier: MIT */
/*
 * The gateway dies after each of its stores to the fates in turn; what its heir finds must fit what
 * the world had been told. The world is a page that the dying process shares with the test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "shard/geometry.h"
#include "ipc/gateway/fates.h"
#include "runtime/atomic.h"

#define N_FATES 24u
#define N_IDS   40u

/* What left the process, each in the order in which it did. */
struct world {
    uint32_t n_stores;
    bool welcome;
    bool accepted[N_IDS + 1];
    bool ended[N_IDS + 1];
    uint64_t told[N_IDS + 1]; /* by position: the id */
    uint64_t acked;
    bool finished;
};

static struct world *world;
static struct segment segment;
static uint32_t dies_after; /* stores; 0: never */

void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    const uint8_t *at = (const uint8_t *)address;

    (void)file;
    (void)line;
    if (access != ATOMIC_STORE || at < segment.base || at >= segment.base + segment.bytes)
        return;
    if (dies_after && ++world->n_stores == dies_after)
        _exit(0);
}

static void *map_shared(size_t bytes)
{
    void *at = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_ptr_not_equal(at, MAP_FAILED);
    return at;
}

static int set_up(void **state)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    (void)state;
    assert_int_equal(
        segment_geometry_plan_fates(1, 0, N_FATES * sizeof(struct fate), &geometry, &bytes), 0);
    assert_int_equal(segment_init(&segment, map_shared(bytes), bytes, &geometry, "test"), 0);
    world = map_shared(sizeof(*world));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    munmap(segment.base, segment.bytes);
    munmap(world, sizeof(*world));
    return 0;
}

/* ---- a life ---- */

static uint32_t accept_id(struct fates *fates, uint32_t row, uint64_t id)
{
    uint32_t fate;

    assert_int_equal(fates_accept(fates, row, id, 0, &fate), 0);
    world->accepted[id] = true;
    return fate;
}

static void end_id(struct fates *fates, uint32_t fate)
{
    uint64_t id = fates_at(fates, fate)->id;

    fates_end(
        fates, fate, &(struct mesh_answer){.end = CALL_END_DONE, .data = &id, .len = sizeof(id)});
    world->ended[id] = true;
}

static void tell(struct fates *fates, uint32_t fate, uint64_t position)
{
    fates_place(fates, fate, position);
    world->told[position] = fates_at(fates, fate)->id;
}

static void arrive(struct fates *fates, uint32_t row, uint32_t fate, uint64_t position)
{
    world->acked = position;
    fates_ack(fates, row, position);
    fates_settle(fates, fate);
}

/* Of ids 1 to N_IDS, the last three do not get so far; more than there is room for are over. */
static void live(void)
{
    uint8_t token[16] = "token of nobody";
    struct fates fates;
    uint32_t row, other, fate = 0;

    assert_int_equal(fates_open(&fates, &segment), 0);
    assert_int_equal(fates_add_session(&fates, token, &row), 0);
    world->welcome = true;
    assert_int_equal(fates_add_session(&fates, token, &other), 0);
    assert_int_equal(fates_accept(&fates, other, 1, 0, &fate), 0);
    fates_drop_session(&fates, other);
    for (uint64_t id = 1; id <= N_IDS - 3; id++) {
        fate = accept_id(&fates, row, id);
        end_id(&fates, fate);
        tell(&fates, fate, id);
        arrive(&fates, row, fate, id);
    }
    tell(&fates, (end_id(&fates, fate = accept_id(&fates, row, N_IDS - 2)), fate), N_IDS - 2);
    end_id(&fates, accept_id(&fates, row, N_IDS - 1));
    accept_id(&fates, row, N_IDS);
    fates_close(&fates);
    world->finished = true;
}

/* ---- what the heir finds ---- */

/* It is known how it ended, or that it is too old: either way it is not run. */
static void check_ended(const struct fates *fates, uint32_t row, uint64_t id)
{
    uint32_t fate = fates_find(fates, row, id);
    uint64_t told;

    if (fate == FATE_NONE) {
        assert_true(id <= fates_row(fates, row)->floor);
        assert_true(id <= world->acked);
        return;
    }
    assert_int_equal(fate_state(fates_at(fates, fate)->mark), FATE_ENDED);
    assert_int_equal(fates_at(fates, fate)->len, sizeof(told));
    memcpy(&told, fates_at(fates, fate)->answer, sizeof(told));
    assert_int_equal(told, id);
}

static void check_told(const struct fates *fates, uint32_t row, uint64_t position)
{
    uint32_t fate = fates_find(fates, row, world->told[position]);

    if (position <= world->acked)
        return;
    assert_int_not_equal(fate, FATE_NONE);
    assert_int_equal(fates_at(fates, fate)->position, position);
}

static void check_heir(void)
{
    struct fates fates;
    uint32_t row = 0, n_rows = 0;

    assert_int_equal(fates_open(&fates, &segment), 0);
    for (uint32_t i = 0; i < fates.n_rows; i++)
        if (fates_row(&fates, i)->number == 1) {
            row = i;
            n_rows++;
        }
    assert_true(n_rows == 1 || !world->welcome);
    if (n_rows == 1) {
        assert_true(fates_row(&fates, row)->acked <= world->acked);
        for (uint64_t id = 1; id <= N_IDS; id++) {
            if (world->ended[id])
                check_ended(&fates, row, id);
            else if (world->accepted[id])
                assert_int_not_equal(fates_find(&fates, row, id), FATE_NONE);
            if (world->told[id])
                check_told(&fates, row, id);
        }
    }
    fates_close(&fates);
}

static void forget_all(void)
{
    memset(world, 0, sizeof(*world));
    memset(
        segment_session(&segment, 0), 0, segment_sessions_of(N_FATES) * sizeof(struct session_row));
    memset(segment_fate(&segment, 0), 0, N_FATES * sizeof(struct fate));
}

static void a_death_after_any_store_leaves_what_the_world_was_told(void **state)
{
    uint32_t n_deaths = 0;
    int status;

    (void)state;
    do {
        forget_all();
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            dies_after = n_deaths + 1;
            live();
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        check_heir();
        n_deaths++;
    } while (!world->finished);
    assert_true(n_deaths > 4 * N_IDS); /* a mark, an end, a place and an acknowledgement each */
}

/* As of a client that has the number of a thread in the high bits. */
static void calls_find_their_fates_though_ids_look_alike(void **state)
{
    uint8_t token[16] = "token of nobody";
    struct fates fates;
    uint32_t row, at[SEGMENT_FATES_EACH];

    (void)state;
    forget_all();
    assert_int_equal(fates_open(&fates, &segment), 0);
    assert_int_equal(fates_add_session(&fates, token, &row), 0);
    for (uint64_t i = 0; i < SEGMENT_FATES_EACH; i++)
        assert_int_equal(fates_accept(&fates, row, i << 48 | 7, 0, &at[i]), 0);
    uint64_t origin = origin_of_session(fates_row(&fates, row)->number, 7);
    fates_close(&fates);
    assert_int_equal(fates_open(&fates, &segment), 0);
    for (uint64_t i = 0; i < SEGMENT_FATES_EACH; i += 2) {
        assert_int_equal(fates_take_call(&fates, origin, at[i]), at[i]);
        assert_int_equal(fates_at(&fates, at[i])->id, i << 48 | 7);
        assert_int_equal(fates_take_call(&fates, origin, at[i]), FATE_NONE); /* its call has it */
        assert_false(fates_has_call(&fates, at[i + 1]));
    }
    assert_int_equal(fates_take_call(&fates, origin + 1, at[1]), FATE_NONE);
    assert_int_equal(fates_take_call(&fates, origin, N_FATES), FATE_NONE);
    fates_close(&fates);
}

static void what_a_stray_pointer_wrote_is_forgotten(void **state)
{
    struct fates fates;

    (void)state;
    forget_all();
    live();
    for (uint32_t i = 0; i < N_FATES; i++) {
        segment_fate(&segment, i)->row = UINT32_MAX - i;
        segment_fate(&segment, i)->len = UINT32_MAX;
    }
    segment_session(&segment, 1)->number = UINT32_MAX;
    assert_int_equal(fates_open(&fates, &segment), 0);
    assert_int_equal(fates.n_sessions, 1);
    assert_int_equal(fates.n_bound, SEGMENT_FATES_EACH);
    fates_close(&fates);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_death_after_any_store_leaves_what_the_world_was_told),
        cmocka_unit_test(calls_find_their_fates_though_ids_look_alike),
        cmocka_unit_test(what_a_stray_pointer_wrote_is_forgotten),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
