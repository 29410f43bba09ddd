/* SPDX-License-Identifier: MIT */
/* What is left of the firewall where shards are threads: shard/firewall_none.c, in any build. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "shard/geometry.h"
#include "shard/firewall.h"

/* Whether the kernel can read a byte there: no sanitizer has a say in that. */
static bool is_accessible(const uint8_t *at)
{
    int ends[2];
    bool readable;

    assert_int_equal(pipe(ends), 0);
    readable = write(ends[1], at, 1) == 1;
    assert_true(readable || errno == EFAULT);
    close(ends[0]);
    close(ends[1]);
    return readable;
}

static void portable_stacks_have_guards_and_all_else_may_be_written(void **state)
{
    struct segment_geometry geometry;
    struct segment seg;
    uint64_t bytes;

    (void)state;
    assert_int_equal(segment_geometry_plan(2, 0, &geometry, &bytes), 0);
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(base, MAP_FAILED);
    assert_int_equal(segment_init(&seg, base, bytes, &geometry, "threads"), 0);
    assert_int_equal(firewall_raise(&seg, seg.n_peers), 0);
    assert_int_equal(firewall_raise(&seg, 0), 0);
    for (uint32_t slot = 0; slot < seg.geometry.n_portable; slot++) {
        assert_false(is_accessible(segment_stack(&seg, slot)));
        segment_stack(&seg, slot)[SEGMENT_PAGE] = 1;
    }
    segment_part(&seg, 1)->pid = 1;
    segment_close(&seg);
    munmap(base, bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(portable_stacks_have_guards_and_all_else_may_be_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
