/* SPDX-License-Identifier: MIT */
/* Pointers into one process do not leave it unseen. */
#include <inttypes.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "tests/unit/shard/portable_fixture.h"

#include "runtime/build_id.h"
#include "shard/memory_map.h"
#include "shard/shard_alloc.h"

#define CLEAN_MOVES 1000

static int coroutine_fn run_wander(struct service_call *call);

static const struct service_method methods[] = {
    {.name = "wander", .run = run_wander, .flags = SERVICE_PORTABLE, .help = "goes to 2 and back"},
};
static const struct service scan_service = {.abi = SERVICE_ABI,
    .name = "portable",
    .help = "for tests",
    .methods = methods,
    .n_methods = sizeof(methods) / sizeof(methods[0])};
static const struct service *const service = &scan_service;

/* In memory that all ends share: what was reported. */
struct reports {
    _Atomic uint32_t n;
    char last[512];
};

static struct reports *reports;

/* Context: an end; one coroutine moves at a time. */
static void keep_report(const char *text, void *opaque)
{
    (void)opaque;
    snprintf(reports->last, sizeof(reports->last), "%s", text);
    atomic_fetch_add(&reports->n, 1);
}

static int setup_scan(void **state, enum scan_mode mode)
{
    setup(state);
    rig.scan = (struct scan_config){.mode = mode, .report = keep_report};
    reports =
        mmap(NULL, sizeof(*reports), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return reports == MAP_FAILED;
}

static int setup_report(void **state)
{
    return setup_scan(state, SCAN_REPORT);
}

static int setup_refuse(void **state)
{
    return setup_scan(state, SCAN_REFUSE);
}

static int setup_abort(void **state)
{
    return setup_scan(state, SCAN_ABORT);
}

static int teardown_scan(void **state)
{
    munmap(reports, sizeof(*reports));
    return teardown(state);
}

static portable_fn *entry;

static void start_entry(struct rig_end *end)
{
    CHECK(portable_start(end->mesh, entry, NULL, "traveller", NULL) == 0);
    rig_serve(end);
}

static void let_travel(portable_fn *run)
{
    if (SANITIZED)
        skip(); /* it has words of its own in each frame */
    entry = run;
    begin(1, rig_serve);
    begin(2, rig_serve);
    begin(0, start_entry);
    rig_wait_word(&rig, WORD_DONE, 1);
    if (noted(WORD_BAD))
        fail_msg("the last report: %s", reports->last);
}

/* Not inlined, so that it has a frame of its own. */
__attribute__((noinline)) static int coroutine_fn holds_memory_of_malloc(struct mesh **mesh)
{
    char *volatile memory = malloc(100);
    int r = shard_co_move(mesh, 1);

    note(WORD_WHERE, (uint64_t)(uintptr_t)memory);
    if (r < 0)
        free(memory);
    return r;
}

static void coroutine_fn carry_malloc(struct mesh *mesh, void *opaque)
{
    int r = holds_memory_of_malloc(&mesh);

    (void)opaque;
    note(WORD_STATUS, (uint64_t)-r);
    note(WORD_DONE, 1);
}

static void says(const char *text)
{
    if (!strstr(reports->last, text))
        fail_msg("'%s' is not in '%s'", text, reports->last);
}

/* The function by its offset in the executable, for that tells no names. */
static void names_the_frame_of(const void *function)
{
    const char *offset = strstr(reports->last, "unit-shard-private_scan+0x");
    uint64_t at = (uint64_t)(uintptr_t)function - build_id_image_base();

    assert_non_null(offset);
    assert_in_range(strtoull(strchr(offset, '+') + 1, NULL, 16), at, at + 256);
}

static void one_that_holds_memory_of_malloc_is_named_with_frame_and_address(void **state)
{
    char value[32];

    (void)state;
    let_travel(carry_malloc);
    assert_true(atomic_load(&reports->n) >= 1);
    says("portable coroutine traveller");
    says("[heap]");
    snprintf(value, sizeof(value), "is 0x%" PRIx64, noted(WORD_WHERE));
    says(value);
    names_the_frame_of((const void *)(uintptr_t)holds_memory_of_malloc);
    assert_int_equal(noted(WORD_STATUS), 0); /* told, and no more */
}

static void where_moves_are_refused_for_it_it_goes_on_where_it_was(void **state)
{
    (void)state;
    let_travel(carry_malloc);
    assert_int_equal(noted(WORD_STATUS), EFAULT);
    assert_true(atomic_load(&reports->n) >= 1);
}

static void where_it_is_to_abort_the_shard_dies_of_it(void **state)
{
    int status;

    (void)state;
    if (SANITIZED || !IN_PROCESSES)
        skip();
    entry = carry_malloc;
    rig_fork(&rig, 0, start_entry);
    assert_int_equal(waitpid(rig.ends[0].pid, &status, 0), rig.ends[0].pid);
    rig.ends[0].running = false;
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    names_the_frame_of((const void *)(uintptr_t)holds_memory_of_malloc);
}

/* ---- what is marked ---- */

static void coroutine_fn carry_marked(struct mesh *mesh, void *opaque)
{
    void *volatile memory = malloc(100);
    void *marked[PORTABLE_MARKS];

    (void)opaque;
    memset(marked, 0, sizeof(marked));
    CHECK(shard_co_mark((void *)&memory) == 0);
    for (size_t i = 1; i < PORTABLE_MARKS; i++)
        CHECK(shard_co_mark(&marked[i]) == 0);
    CHECK(shard_co_mark(&marked[0]) == -ENOSPC);
    CHECK(shard_co_move(&mesh, 1) == 0);
    CHECK(shard_co_move(&mesh, 0) == 0);
    shard_co_unmark((void *)&memory);
    shard_co_unmark((void *)&memory); /* nothing */
    CHECK(shard_co_move(&mesh, 1) == -EFAULT);
    free(memory);
    note(WORD_DONE, 1);
}

static void a_word_that_is_marked_may_leave_until_it_is_unmarked(void **state)
{
    (void)state;
    let_travel(carry_marked);
}

/* ---- its memory, and its waits ---- */

static void coroutine_fn carry_in_memory(struct mesh *mesh, void *opaque)
{
    void **block = shard_alloc(400), **large = shard_alloc(10000);

    (void)opaque;
    memset(block, 0, 400);
    memset(large, 0, 10000);
    CHECK(shard_co_move(&mesh, 1) == 0);
    CHECK(shard_co_move(&mesh, 0) == 0);
    block[30] = malloc(10);
    CHECK(shard_co_move(&mesh, 1) == -EFAULT);
    CHECK(shard_co_wait(&mesh, "nobody") == -EFAULT);
    free(block[30]);
    block[30] = NULL;
    large[1100] = &reports->n; /* shared by all */
    CHECK(shard_co_move(&mesh, 1) == 0);
    CHECK(shard_co_move(&mesh, 0) == 0);
    large[1100] = malloc(10);
    CHECK(shard_co_move(&mesh, 1) == -EFAULT);
    free(large[1100]);
    shard_free(large); /* and with it what is in it */
    shard_free(block);
    CHECK(shard_co_move(&mesh, 1) == 0);
    note(WORD_DONE, 1);
}

static void memory_that_travels_is_looked_at_as_far_as_it_is_in_use(void **state)
{
    (void)state;
    let_travel(carry_in_memory);
    says("shard_alloc()");
}

/* ---- what is clean ---- */

static void coroutine_fn travel_light(struct mesh *mesh, void *opaque)
{
    const char *text = "a constant";
    uint64_t numbers[20], sum = 0;
    uint64_t *kept = shard_alloc(sizeof(*kept));

    (void)opaque;
    for (uint64_t i = 0; i < 20; i++)
        numbers[i] = i;
    *kept = 7;
    for (uint32_t i = 1; i <= CLEAN_MOVES; i++) {
        CHECK(shard_co_move(&mesh, i % 3) == 0);
        sum += *kept + strlen(text) + numbers[i % 20];
    }
    CHECK(sum > CLEAN_MOVES);
    note(WORD_DONE, 1);
}

static void one_that_is_clean_moves_a_thousand_times_without_a_report(void **state)
{
    (void)state;
    let_travel(travel_light);
    if (atomic_load(&reports->n))
        fail_msg("%s", reports->last);
}

static int coroutine_fn run_wander(struct service_call *call)
{
    for (uint32_t i = 0; i < 100; i++) {
        int r = service_move(call, i % 3);
        if (r < 0)
            return r;
    }
    return service_reply(call, "there", 5);
}

static void coroutine_fn ask_to_wander(void *opaque)
{
    struct call_answer answer;
    int r =
        shard_call(opaque, &(struct call_request){.target = 1, .deadline_ns = INT64_MAX}, &answer);

    CHECK(r == 0 && answer.len == 5);
    call_answer_deinit(&answer);
    note(WORD_DONE, 1);
}

static void start_asking(struct rig_end *end)
{
    coroutine_enter(coroutine_create(ask_to_wander, end->mesh));
    rig_serve(end);
}

static void what_the_mesh_has_in_frames_of_a_method_is_no_reason(void **state)
{
    (void)state;
    if (SANITIZED)
        skip();
    begin(1, rig_serve);
    begin(2, rig_serve);
    begin(0, start_asking);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_BAD), 0);
    if (atomic_load(&reports->n))
        fail_msg("%s", reports->last);
}

/* ---- what an address points into ---- */

static void addresses_are_told_apart_by_whose_memory_they_are_in(void **state)
{
    static const char constant[] = "constant";
    struct memory_map map = {.n = 0};
    char *memory = malloc(10);
    void *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    void *anonymous = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int local;
    const struct {
        const void *at;
        enum memory_kind kind;
    } expected[] = {
        {memory, MEMORY_PRIVATE},
        {&local, MEMORY_PRIVATE},
        {anonymous, MEMORY_PRIVATE},
        {stdout, MEMORY_PRIVATE},
        {&errno, MEMORY_PRIVATE},
        {&board, MEMORY_PRIVATE},
        {shared, MEMORY_SAME},
        {constant, MEMORY_SAME},
        {(const void *)(uintptr_t)run_wander, MEMORY_CODE},
    };

    (void)state;
    assert_int_equal(memory_map_read(&map), 0);
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        const struct memory_range *range = memory_map_find(&map, (uintptr_t)expected[i].at);
        assert_non_null(range);
        assert_int_equal(range->kind, expected[i].kind);
    }
    assert_null(memory_map_find(&map, 1));
    memory_map_deinit(&map);
    munmap(shared, 4096);
    munmap(anonymous, 4096);
    free(memory);
}

#define WITH(name, mode) cmocka_unit_test_setup_teardown(name, setup_##mode, teardown_scan)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(one_that_holds_memory_of_malloc_is_named_with_frame_and_address, report),
        WITH(where_moves_are_refused_for_it_it_goes_on_where_it_was, refuse),
        WITH(where_it_is_to_abort_the_shard_dies_of_it, abort),
        WITH(a_word_that_is_marked_may_leave_until_it_is_unmarked, refuse),
        WITH(memory_that_travels_is_looked_at_as_far_as_it_is_in_use, refuse),
        WITH(one_that_is_clean_moves_a_thousand_times_without_a_report, refuse),
        WITH(what_the_mesh_has_in_frames_of_a_method_is_no_reason, refuse),
        cmocka_unit_test(addresses_are_told_apart_by_whose_memory_they_are_in),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
