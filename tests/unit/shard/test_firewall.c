/* SPDX-License-Identifier: MIT */
#include "shard/geometry.h"
#include "shard/firewall.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define N_SHARDS   3
#define SUPERVISOR (N_SHARDS + 1)

static struct segment segment;

static int open_segment(void **state)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    if (segment_geometry_plan(N_SHARDS, 0, &geometry, &bytes) < 0)
        return -1;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (base == MAP_FAILED)
        return -1;
    return segment_init(&segment, base, bytes, &geometry, "firewall");
}

static int close_segment(void **state)
{
    return munmap(segment.base, segment.bytes);
}

/* ---- one write, in a process behind the firewall ---- */

enum mend { AS_RAISED, OPENED, CLOSED_AGAIN };

static void write_and_exit(uint32_t self, enum mend mend, uint32_t mended, uint64_t off)
{
    signal(SIGSEGV, SIG_DFL); /* not a sanitizer's report */
    if (firewall_raise(&segment, self) < 0)
        _exit(2);
    if (mend >= OPENED && firewall_open(&segment, mended) < 0)
        _exit(2);
    if (mend == CLOSED_AGAIN && firewall_close(&segment, mended) < 0)
        _exit(2);
    ((volatile uint8_t *)segment.base)[off] = segment.base[off];
    _exit(0);
}

/* Whether that process could write the byte at off. Else it has died of it. */
static bool can_write_mended(uint32_t self, enum mend mend, uint32_t mended, uint64_t off)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        write_and_exit(self, mend, mended, off);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status)) {
        assert_int_equal(WTERMSIG(status), SIGSEGV);
        return false;
    }
    assert_int_equal(WEXITSTATUS(status), 0);
    return true;
}

static bool can_write(uint32_t self, uint64_t off)
{
    return can_write_mended(self, AS_RAISED, 0, off);
}

static uint64_t first_of(uint32_t peer)
{
    return segment_part_off(&segment, peer);
}

static uint64_t last_of(uint32_t peer)
{
    return segment_part_off(&segment, peer + 1) - 1;
}

/* ---- what is claimed ---- */

static void each_peer_writes_its_own_part_and_the_commons(void **state)
{
    for (uint32_t peer = 0; peer <= N_SHARDS; peer++) {
        assert_true(can_write(peer, first_of(peer)));
        assert_true(can_write(peer, last_of(peer)));
        assert_true(can_write(peer, segment.commons_off));
        assert_true(can_write(peer, segment.parts_off - 1));
    }
}

static void no_peer_writes_anothers_part(void **state)
{
    for (uint32_t peer = 0; peer <= N_SHARDS; peer++)
        for (uint32_t other = 0; other <= N_SHARDS; other++)
            if (other != peer) {
                assert_false(can_write(peer, first_of(other)));
                assert_false(can_write(peer, last_of(other)));
            }
}

static void no_peer_writes_what_the_supervisor_decides(void **state)
{
    for (uint32_t peer = 0; peer <= N_SHARDS; peer++) {
        assert_false(can_write(peer, segment.control_off));
        assert_false(can_write(peer, segment.commons_off - 1));
    }
}

static void nobody_writes_the_superblock(void **state)
{
    for (uint32_t self = 0; self <= SUPERVISOR; self++)
        assert_false(can_write(self, 0));
}

static void the_supervisor_writes_control_and_commons_alone(void **state)
{
    assert_true(can_write(SUPERVISOR, segment.control_off));
    assert_true(can_write(SUPERVISOR, segment.commons_off));
    for (uint32_t peer = 0; peer <= N_SHARDS; peer++)
        assert_false(can_write(SUPERVISOR, first_of(peer)));
}

static void the_supervisor_mends_a_part_while_it_is_open(void **state)
{
    assert_true(can_write_mended(SUPERVISOR, OPENED, 1, last_of(1)));
    assert_false(can_write_mended(SUPERVISOR, OPENED, 1, first_of(2)));
    assert_false(can_write_mended(SUPERVISOR, CLOSED_AGAIN, 1, last_of(1)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_peer_writes_its_own_part_and_the_commons),
        cmocka_unit_test(no_peer_writes_anothers_part),
        cmocka_unit_test(no_peer_writes_what_the_supervisor_decides),
        cmocka_unit_test(nobody_writes_the_superblock),
        cmocka_unit_test(the_supervisor_writes_control_and_commons_alone),
        cmocka_unit_test(the_supervisor_mends_a_part_while_it_is_open),
    };
    struct rlimit no_core = {0};

    setrlimit(RLIMIT_CORE, &no_core);
    return cmocka_run_group_tests(tests, open_segment, close_segment);
}
