/* SPDX-License-Identifier: MIT */
/* Portable coroutines that move: what their stacks keep, and what is refused. */
#include <alloca.h>
#include <fenv.h>

#include "shard/mesh_inside.h"
#include "tests/unit/shard/portable_fixture.h"

/* Hops of a torture; SHERD_TORTURE_HOPS says more. */
#define HOPS 20000

static uint64_t n_hops;

static const struct service *const service = &rig_nothing;

/* ---- what a stack keeps ---- */

/* Hops with a value in each register that a function must keep, and tells whether they were. */
static bool coroutine_fn hop_with_registers(struct mesh **mesh, uint32_t target, int *ret_status)
{
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
    register uint64_t rbx __asm__("rbx") = 0x1111222233334444;
    register uint64_t r12 __asm__("r12") = 0x2222333344445555;
    register uint64_t r13 __asm__("r13") = 0x3333444455556666;
    register uint64_t r14 __asm__("r14") = 0x4444555566667777;
    register uint64_t r15 __asm__("r15") = 0x5555666677778888;
    int status;

    __asm__ volatile("" : "+r"(rbx), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15));
    status = shard_co_move(mesh, target);
    __asm__ volatile("" : "+r"(rbx), "+r"(r12), "+r"(r13), "+r"(r14), "+r"(r15));
    *ret_status = status;
    return rbx == 0x1111222233334444 && r12 == 0x2222333344445555 && r13 == 0x3333444455556666 &&
           r14 == 0x4444555566667777 && r15 == 0x5555666677778888;
#else
    *ret_status = shard_co_move(mesh, target);
    return true;
#endif
}

static uint64_t coroutine_fn sum_of(struct mesh **mesh, uint32_t target, int n, ...)
{
    va_list args;
    uint64_t sum = 0;

    va_start(args, n);
    for (int i = 0; i < n; i++) {
        if (i == n / 2)
            CHECK(shard_co_move(mesh, target) == 0);
        sum += va_arg(args, uint64_t);
    }
    va_end(args);
    return sum;
}

static uint32_t coroutine_fn deep(struct mesh **mesh, uint32_t depth, uint32_t target)
{
    volatile uint8_t frame[512];
    uint32_t below;

    memset((uint8_t *)frame, (int)depth, sizeof(frame));
    if (depth == 0)
        CHECK(shard_co_move(mesh, target) == 0);
    below = depth ? deep(mesh, depth - 1, target) : 0;
    for (size_t i = 0; i < sizeof(frame); i += 64)
        CHECK(frame[i] == (uint8_t)depth);
    return below + 1;
}

static void coroutine_fn keep_shapes(struct mesh **mesh, uint32_t target)
{
    size_t n = 100 + target * 100;
    volatile uint8_t *block = alloca(n);

    memset((uint8_t *)block, 0x5a, n);
    CHECK(sum_of(mesh, target, 6, UINT64_C(1), UINT64_C(20), UINT64_C(300), UINT64_C(4000),
              UINT64_C(50000), UINT64_C(600000)) == 654321);
    CHECK(deep(mesh, 20, (target + 1) % 3) == 21);
    for (size_t i = 0; i < n; i++)
        CHECK(block[i] == 0x5a);
}

/* All that the ABI has a callee keep: rounding, denormals, exception masks, x87 precision. */
#if defined(__x86_64__)
#define STICKY UINT32_C(0x3f)

static uint64_t control_now(void)
{
    uint32_t mxcsr;
    uint16_t x87;

    __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(mxcsr), "=m"(x87));
    return (uint64_t)x87 << 32 | (mxcsr & ~STICKY);
}

static void control_set(uint64_t control)
{
    uint32_t mxcsr = (uint32_t)control;
    uint16_t x87 = (uint16_t)(control >> 32);

    __asm__ volatile("ldmxcsr %0\n\tfldcw %1" ::"m"(mxcsr), "m"(x87));
}

/* Denormals are zero, rounds up; x87 in double precision, rounds down. */
#define OWN_CONTROL (UINT64_C(0x067f) << 32 | 0xdfc0)
#elif defined(__aarch64__)
static uint64_t control_now(void)
{
    uint64_t fpcr;

    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return fpcr;
}

static void control_set(uint64_t control)
{
    __asm__ volatile("msr fpcr, %0" ::"r"(control));
}

/* Denormals are zero, rounds up. */
#define OWN_CONTROL (UINT64_C(1) << 24 | UINT64_C(1) << 22)
#else
static uint64_t control_now(void)
{
    return (uint64_t)fegetround();
}

static void control_set(uint64_t control)
{
    fesetround((int)control);
}

#define OWN_CONTROL FE_UPWARD
#endif

static void coroutine_fn hop_about(struct mesh *mesh, void *opaque)
{
    volatile double local = 2.0 / 3.0;
    uint64_t hops = *(const uint64_t *)opaque;
    uint64_t before = control_now();
    int status;

    control_set(OWN_CONTROL);
    for (uint64_t i = 1; i <= hops; i++) {
        uint32_t target = (uint32_t)(i % 3);
        CHECK(hop_with_registers(&mesh, target, &status));
        CHECK(status == 0);
        CHECK(control_now() == OWN_CONTROL);
        CHECK(local == 2.0 / 3.0);
        if (i % 100 == 0) {
            keep_shapes(&mesh, target);
            note(WORD_HOPS, i);
        }
    }
    control_set(before);
    note(WORD_HOPS, hops);
    note(WORD_DONE, 1);
}

static bool has_hopped(void *opaque)
{
    return noted(WORD_HOPS) >= *(const uint64_t *)opaque;
}

/* With a deadline for each HOPS. */
static void serve_hops(struct rig_end *end)
{
    for (uint64_t i = HOPS; i < n_hops; i += HOPS)
        rig_poll_until(end, has_hopped, &i);
    rig_serve(end);
}

static void start_hopping(struct rig_end *end)
{
    uint64_t before = control_now();

    CHECK(portable_start(end->mesh, hop_about, &n_hops, "hop", NULL) == 0);
    serve_hops(end);
    CHECK(control_now() == before); /* the loop's own */
}

static void one_that_hops_about_keeps_locals_registers_float_control_deep_frames_and_arguments(
    void **state)
{
    const char *hops = getenv("SHERD_TORTURE_HOPS");

    (void)state;
    n_hops = hops ? strtoull(hops, NULL, 10) : HOPS;
    begin(1, serve_hops);
    begin(2, serve_hops);
    begin(0, start_hopping);
    for (uint64_t i = HOPS; i < n_hops; i += HOPS) /* a deadline for each */
        rig_wait_word(&rig, WORD_HOPS, i);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_HOPS), n_hops);
    assert_int_equal(noted(WORD_BAD), 0);
    rig_stop_all(&rig);
    assert_int_equal(n_in_use(), 0);
    assert_true(rig_balances(&rig));
}

/* ---- what is refused ---- */

static void coroutine_fn ask_wrongly(struct mesh *mesh, void *opaque)
{
    CoMutex mutex;

    (void)opaque;
    CHECK(shard_co_move(&mesh, 3) == -ENODEV);
    CHECK(shard_co_move(&mesh, 0) == 0);
    CHECK(shard_co_move(&mesh, 2) == -EHOSTDOWN);
    co_mutex_init(&mutex);
    co_mutex_lock(&mutex);
    CHECK(shard_co_move(&mesh, 1) == -EBUSY);
    CHECK(shard_co_wait(&mesh, "a wake") == -EBUSY);
    CHECK(strstr(shard_co_holds(), "lock") != NULL);
    co_mutex_unlock(&mutex);
    co_pin("a buffer of its stack is being written");
    CHECK(shard_co_move(&mesh, 1) == -EBUSY);
    CHECK(strstr(shard_co_holds(), "buffer") != NULL);
    co_unpin();
    CHECK(shard_co_holds() == NULL);
    CHECK(shard_co_move(&mesh, 1) == 0);
    note(WORD_DONE, 1);
}

static void start_asking(struct rig_end *end)
{
    CHECK(portable_start(end->mesh, ask_wrongly, NULL, "ask", NULL) == 0);
    rig_serve(end);
}

static void a_move_that_can_not_be_leaves_it_where_it_is_and_says_why(void **state)
{
    (void)state;
    segment_control(&rig.seg, 2)->state = PEER_FAILED;
    begin(1, rig_serve);
    begin(0, start_asking);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_BAD), 0);
}

static void coroutine_fn wait_for_ever(struct mesh *mesh, void *opaque)
{
    (void)opaque;
    shard_co_wait(&mesh, "nothing");
}

static void start_too_many(struct rig_end *end)
{
    uint32_t n = end->rig->seg.geometry.n_portable;
    arena_co last = 0;

    for (uint32_t i = 0; i < n; i++)
        CHECK(portable_start(end->mesh, wait_for_ever, NULL, "many", &last) == 0);
    CHECK(portable_start(end->mesh, wait_for_ever, NULL, "many", NULL) == -EAGAIN);
    CHECK(shard_co_wake(end->mesh, last) == 0);
    CHECK(shard_co_wake(end->mesh, last) == -ESRCH);
    CHECK(portable_start(end->mesh, wait_for_ever, NULL, "many", NULL) == 0);
    note(WORD_DONE, 1);
    rig_serve(end);
}

static void when_all_are_in_use_no_more_begin_until_one_ends(void **state)
{
    (void)state;
    begin(0, start_too_many);
    rig_wait_word(&rig, WORD_DONE, 1);
    assert_int_equal(noted(WORD_BAD), 0);
}

/* ---- who computes for long ---- */

#define N_COMPUTE 4

static bool went_elsewhere(void)
{
    return noted(WORD_WHERE) != 0;
}

/* Yields until one of them is elsewhere; where none ever is, as long as the test says. */
static void coroutine_fn compute(struct mesh *mesh, void *opaque)
{
    (void)opaque;
    while (!went_elsewhere() && noted(WORD_GO) == 0) {
        CHECK(shard_co_yield(&mesh) == 0);
        if (mesh->self != 0)
            note(WORD_WHERE, mesh->self);
        atomic_fetch_add(&board->words[WORD_HOPS], 1);
    }
    atomic_fetch_add(&board->words[WORD_RUNS], 1);
}

static void start_computing(struct rig_end *end)
{
    for (uint32_t i = 0; i < noted(WORD_READY); i++)
        CHECK(portable_start(end->mesh, compute, NULL, "compute", NULL) == 0);
    rig_serve(end);
}

static void let_compute(uint64_t n)
{
    note(WORD_READY, n);
    begin(1, rig_serve);
    begin(2, rig_serve);
    begin(0, start_computing);
}

static void of_many_that_compute_some_go_to_shards_that_sleep(void **state)
{
    (void)state;
    let_compute(N_COMPUTE);
    rig_wait_word(&rig, WORD_WHERE, 1);
    rig_wait_word(&rig, WORD_RUNS, N_COMPUTE);
    assert_int_equal(noted(WORD_BAD), 0);
}

static void stays_at_home(uint64_t n)
{
    let_compute(n);
    rig_wait_word(&rig, WORD_HOPS, 20000);
    note(WORD_GO, 1);
    rig_wait_word(&rig, WORD_RUNS, n);
    assert_int_equal(noted(WORD_WHERE), 0);
    assert_int_equal(noted(WORD_BAD), 0);
}

static void one_that_computes_alone_stays(void **state)
{
    (void)state;
    stays_at_home(1);
}

static void where_it_is_off_all_that_compute_stay(void **state)
{
    (void)state;
    rig.no_rebalance = true;
    stays_at_home(N_COMPUTE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(one_that_hops_about_keeps_locals_registers_float_control_deep_frames_and_arguments),
        CASE(a_move_that_can_not_be_leaves_it_where_it_is_and_says_why),
        CASE(when_all_are_in_use_no_more_begin_until_one_ends),
        CASE(of_many_that_compute_some_go_to_shards_that_sleep),
        CASE(one_that_computes_alone_stays),
        CASE(where_it_is_off_all_that_compute_stay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
