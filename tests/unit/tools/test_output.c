/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "tools/output.h"

/* A stream into a pipe, and a pipe that stops it once it can be read. */
struct rig {
    struct output out;
    int pipe[2];
    int stop[2];
};

static void rig_open(struct rig *rig)
{
    assert_int_equal(pipe(rig->pipe), 0);
    assert_int_equal(pipe(rig->stop), 0);
    assert_int_equal(output_open(&rig->out, rig->pipe[1], rig->stop[0]), 0);
}

static void rig_close(struct rig *rig)
{
    output_close(&rig->out);
    close(rig->pipe[0]);
    close(rig->pipe[1]);
    close(rig->stop[0]);
    close(rig->stop[1]);
}

static void what_is_printed_arrives_when_it_is_flushed(void **state)
{
    struct rig rig;
    char bytes[16] = "";

    rig_open(&rig);
    fprintf(rig.out.stream, "%d lines\n", 2);
    fcntl(rig.pipe[0], F_SETFL, O_NONBLOCK);
    assert_int_equal(read(rig.pipe[0], bytes, sizeof bytes), -1);
    assert_int_equal(output_flush(&rig.out), 0);
    assert_int_equal(read(rig.pipe[0], bytes, sizeof bytes), 8);
    assert_string_equal(bytes, "2 lines\n");
    rig_close(&rig);
}

/* The pipe holds less than this, and nobody reads. Without the stop it would never return. */
static void stop_gets_through_to_a_writer_whose_reader_stands_still(void **state)
{
    static char bytes[4 * OUTPUT_BUFFER];
    struct rig rig;

    rig_open(&rig);
    fcntl(rig.pipe[1], F_SETPIPE_SZ, 4096);
    assert_int_equal(write(rig.pipe[1], bytes, 4096), 4096);
    assert_int_equal(write(rig.stop[1], "", 1), 1);
    fwrite(bytes, 1, sizeof bytes, rig.out.stream);
    assert_int_equal(output_flush(&rig.out), -EINTR);
    assert_int_equal(rig.out.error, -EINTR);
    rig_close(&rig);
}

static void first_error_stays_and_nothing_is_written_after_it(void **state)
{
    struct rig rig;

    signal(SIGPIPE, SIG_IGN);
    rig_open(&rig);
    close(rig.pipe[0]);
    fputs("lost", rig.out.stream);
    assert_int_equal(output_flush(&rig.out), -EPIPE);
    fputs("later", rig.out.stream);
    assert_int_equal(output_flush(&rig.out), -EPIPE);
    rig.pipe[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_printed_arrives_when_it_is_flushed),
        cmocka_unit_test(stop_gets_through_to_a_writer_whose_reader_stands_still),
        cmocka_unit_test(first_error_stays_and_nothing_is_written_after_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
