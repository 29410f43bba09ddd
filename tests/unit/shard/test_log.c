/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shard/log.h"

struct capture {
    struct log log;
    int fd;
    char *text;
};

static int open_capture(void **state)
{
    struct capture *capture = calloc(1, sizeof(*capture));

    capture->fd = memfd_create("log", MFD_CLOEXEC);
    unsetenv("JOURNAL_STREAM");
    log_init(&capture->log, capture->fd, LOG_LEVEL_INFO);
    *state = capture;
    return capture->fd < 0;
}

static int close_capture(void **state)
{
    struct capture *capture = *state;

    close(capture->fd);
    free(capture->text);
    free(capture);
    return 0;
}

/* All that was written so far. */
static const char *written(struct capture *capture)
{
    off_t size = lseek(capture->fd, 0, SEEK_END);

    free(capture->text);
    capture->text = calloc(1, (size_t)size + 1);
    assert_int_equal(pread(capture->fd, capture->text, (size_t)size, 0), size);
    return capture->text;
}

static unsigned n_lines(const char *text)
{
    unsigned n = 0;

    for (; (text = strchr(text, '\n')); text++)
        n++;
    return n;
}

static void a_line_has_time_process_level_and_text(void **state)
{
    struct capture *capture = *state;
    unsigned year, month, day, hour, minute, second, ms;
    char rest[64];

    log_process(&capture->log, "shard 1");
    log_line(&capture->log, LOG_LEVEL_WARNING, "%d things", 3);
    assert_int_equal(sscanf(written(capture), "%4u-%2u-%2uT%2u:%2u:%2u.%3uZ %63[^\n]", &year,
                         &month, &day, &hour, &minute, &second, &ms, rest),
        8);
    assert_string_equal(rest, "shard 1 warning 3 things");
    assert_int_equal(n_lines(capture->text), 1);
}

static void a_line_from_a_signal_handler_has_no_time(void **state)
{
    struct capture *capture = *state;

    log_process(&capture->log, "shard 1");
    log_from_signal(&capture->log, LOG_LEVEL_ERROR, "fault");
    assert_string_equal(written(capture), "shard 1 error fault\n");
    capture->log.journal = true;
    log_from_signal(&capture->log, LOG_LEVEL_NOTICE, "more");
    assert_string_equal(written(capture), "shard 1 error fault\n<5>shard 1 notice more\n");
}

static void lines_above_the_level_are_left_out(void **state)
{
    struct capture *capture = *state;

    log_line(&capture->log, LOG_LEVEL_DEBUG, "detail");
    assert_string_equal(written(capture), "");
    capture->log.level = LOG_LEVEL_DEBUG;
    log_line(&capture->log, LOG_LEVEL_DEBUG, "detail");
    assert_int_equal(n_lines(written(capture)), 1);
}

static void under_the_journal_a_priority_stands_for_the_time(void **state)
{
    struct capture *capture = *state;
    char stream[64];
    struct stat st;

    assert_int_equal(fstat(capture->fd, &st), 0);
    snprintf(stream, sizeof(stream), "%llu:%llu", (unsigned long long)st.st_dev,
        (unsigned long long)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_init(&capture->log, capture->fd, LOG_LEVEL_INFO);
    unsetenv("JOURNAL_STREAM");
    log_line(&capture->log, LOG_LEVEL_ERROR, "broken");
    assert_string_equal(written(capture), "<3>supervisor error broken\n");
}

static void another_stream_in_the_environment_is_not_the_journal(void **state)
{
    struct capture *capture = *state;

    setenv("JOURNAL_STREAM", "1:1", 1);
    log_init(&capture->log, capture->fd, LOG_LEVEL_INFO);
    unsetenv("JOURNAL_STREAM");
    assert_false(capture->log.journal);
}

static void repeated_lines_are_counted_and_the_count_comes_with_the_next_one(void **state)
{
    struct capture *capture = *state;

    for (int i = 0; i < 5; i++)
        log_line(&capture->log, LOG_LEVEL_INFO, "again");
    assert_int_equal(n_lines(written(capture)), 1);
    log_line(&capture->log, LOG_LEVEL_INFO, "else");
    assert_int_equal(n_lines(written(capture)), 3);
    assert_non_null(strstr(capture->text, "(the line before, 4 times more)"));
}

static void flush_writes_the_count_once(void **state)
{
    struct capture *capture = *state;

    log_line(&capture->log, LOG_LEVEL_INFO, "again");
    log_flush(&capture->log);
    assert_int_equal(n_lines(written(capture)), 1);
    log_line(&capture->log, LOG_LEVEL_INFO, "again");
    log_flush(&capture->log);
    log_flush(&capture->log);
    assert_int_equal(n_lines(written(capture)), 2);
}

static void same_text_at_another_level_is_another_line(void **state)
{
    struct capture *capture = *state;

    log_line(&capture->log, LOG_LEVEL_INFO, "again");
    log_line(&capture->log, LOG_LEVEL_ERROR, "again");
    assert_int_equal(n_lines(written(capture)), 2);
}

static void control_characters_do_not_break_the_line(void **state)
{
    struct capture *capture = *state;

    log_line(&capture->log, LOG_LEVEL_INFO, "file %s", "a\nb\tc\033[0m");
    assert_int_equal(n_lines(written(capture)), 1);
    assert_non_null(strstr(capture->text, "file a\\nb\\tc\\x1b[0m"));
}

static void a_long_line_comes_out_whole(void **state)
{
    struct capture *capture = *state;
    char *name = malloc(100001);

    memset(name, 'x', 100000);
    name[100000] = '\0';
    log_line(&capture->log, LOG_LEVEL_INFO, "%s", name);
    log_line(&capture->log, LOG_LEVEL_INFO, "%s", name);
    assert_int_equal(n_lines(written(capture)), 2);
    assert_non_null(strstr(capture->text, name));
    free(name);
}

static void reader_that_does_not_read_stops_nobody_and_is_told_what_it_missed(void **state)
{
    struct log log;
    char page[4096] = {0};
    int pipe_fds[2], n_lost = 0;

    (void)state;
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    log_init(&log, pipe_fds[1], LOG_LEVEL_INFO);
    for (; log.dropped < 10; n_lost++)
        log_line(&log, LOG_LEVEL_INFO, "line %d %s", n_lost, "of some length, so that it fills up");
    while (poll(&(struct pollfd){.fd = pipe_fds[0], .events = POLLIN}, 1, 0) == 1)
        assert_true(read(pipe_fds[0], page, sizeof(page) - 1) > 0);
    log_line(&log, LOG_LEVEL_INFO, "again");
    page[read(pipe_fds[0], page, sizeof(page) - 1)] = '\0';
    assert_non_null(strstr(page, "(10 lines before this one were lost: nobody read them)"));
    assert_non_null(strstr(page, "again"));
    assert_int_equal(log.dropped, 0);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static void every_level_reads_back_from_its_text(void **state)
{
    for (int level = LOG_LEVEL_ERROR; level <= LOG_LEVEL_DEBUG; level++) {
        enum log_level back;
        assert_int_equal(log_level_parse(log_level_text((enum log_level)level), &back), 0);
        assert_int_equal(back, level);
    }
    enum log_level untouched = LOG_LEVEL_DEBUG;
    assert_true(log_level_parse("loud", &untouched) < 0);
    assert_int_equal(untouched, LOG_LEVEL_DEBUG);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, open_capture, close_capture)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_line_has_time_process_level_and_text),
        CASE(a_line_from_a_signal_handler_has_no_time),
        CASE(lines_above_the_level_are_left_out),
        CASE(under_the_journal_a_priority_stands_for_the_time),
        CASE(another_stream_in_the_environment_is_not_the_journal),
        CASE(repeated_lines_are_counted_and_the_count_comes_with_the_next_one),
        CASE(flush_writes_the_count_once),
        CASE(same_text_at_another_level_is_another_line),
        CASE(control_characters_do_not_break_the_line),
        CASE(a_long_line_comes_out_whole),
        cmocka_unit_test(reader_that_does_not_read_stops_nobody_and_is_told_what_it_missed),
        cmocka_unit_test(every_level_reads_back_from_its_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
