/* SPDX-License-Identifier: MIT */
/*
 * How long a look stops who computes. Time alone fails nothing: where the best of some looks took
 * too long, a bare stop and start of the same process, in turn with them, has to have been quicker.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "shard/crash_record.h"
#include "shard/stall_probe.h"
#include "tests/unit/shard/mesh_rig.h"

#define N_LOOKS   9
#define LIMIT_NS  1000000
#define MANY_BARE 20 /* bare stops that a look may take: registers and stack are copied in it */

static void spin(struct rig_end *end)
{
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
    atomic_store(&end->rig->board->words[0], 1);
    for (;;)
        atomic_pause();
}

/* As the helper does it, without a look. 0: it may not. */
static uint64_t stop_bare(pid_t pid)
{
    int64_t began_ns = aio_clock_ns();
    int status;

    if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0)
        return 0;
    assert_int_equal(ptrace(PTRACE_INTERRUPT, pid, NULL, NULL), 0);
    assert_int_equal(waitpid(pid, &status, __WALL), pid);
    assert_int_equal(ptrace(PTRACE_DETACH, pid, NULL, NULL), 0);
    return (uint64_t)(aio_clock_ns() - began_ns);
}

/* 0: it was not stopped. */
static uint64_t look(const struct rig *rig, uint32_t peer)
{
    struct stall_target target = {.segment = &rig->seg, .peer = peer, .pid = rig->ends[peer].pid};
    struct crash_record record;
    pid_t helper = stall_probe_begin(&target);
    int status;

    assert_true(helper > 0);
    assert_int_equal(waitpid(helper, &status, 0), helper);
    if (crash_record_read(segment_crash(&rig->seg, peer), &record) < 0)
        return 0;
    assert_int_equal(record.pid, target.pid);
    return record.flags & CRASH_NO_REGISTERS ? 0 : record.stopped_ns;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return b && b < a ? b : a;
}

static void a_look_stops_who_computes_for_less_than_a_millisecond(void **state)
{
    uint64_t best_ns = UINT64_MAX, bare_ns = UINT64_MAX;
    struct rig rig;

    (void)state;
    rig_open(&rig, 1, &rig_nothing);
    rig_fork(&rig, 0, spin);
    rig_wait_word(&rig, 0, 1);
    for (int i = 0; i < N_LOOKS; i++) {
        best_ns = least(best_ns, look(&rig, 0));
        bare_ns = least(bare_ns, stop_bare(rig.ends[0].pid));
    }
    rig_kill(&rig, 0, false);
    rig_close(&rig);
    if (best_ns == UINT64_MAX || bare_ns == UINT64_MAX)
        skip(); /* nobody may trace here */
    print_message("  stopped for %.1f us at best, a bare stop takes %.1f us\n",
        (double)best_ns / 1e3, (double)bare_ns / 1e3);
    assert_true(best_ns < LIMIT_NS || best_ns < MANY_BARE * bare_ns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_look_stops_who_computes_for_less_than_a_millisecond),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
