/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shard/dead_letter.h"
#include "tests/unit/shard/scratch_dir.h"

static void fill(struct dead_letter *letter, const char *args)
{
    memset(letter, 0, sizeof(*letter));
    strcpy(letter->head.method, "sys.echo");
    letter->head.caller = 2;
    letter->head.callee = 1;
    letter->head.args_len = (uint32_t)strlen(args);
    letter->args = args;
    for (uint32_t i = 0; i < DEAD_LETTER_CRASHES - 1; i++) {
        assert_true(crash_record_begin(&letter->crashes[i], CRASH_OF_SIGNAL));
        letter->crashes[i].signal = 11;
        letter->crashes[i].incarnation = letter->head.crashed_incarnations[i] = 7 + i;
        letter->head.crashed_shards[i] = 1;
        crash_record_end(&letter->crashes[i]);
    }
}

static char *path_in(const char *dir, const char *name)
{
    char *path;

    assert_true(asprintf(&path, "%s/%s", dir, name) > 0);
    return path;
}

static void a_letter_is_read_as_it_was_written(void **state)
{
    char name[DEAD_LETTER_NAME_MAX];
    uint32_t numbers[DEAD_LETTERS_MAX];
    struct dead_letter letter, *read;

    assert_int_equal(dead_letter_list(*state, numbers), 0);
    fill(&letter, "what brought it down");
    assert_int_equal(dead_letter_write(*state, &letter, name), 0);
    assert_string_equal(name, "dead-letter-1");
    assert_int_equal(dead_letter_list(*state, numbers), 1);
    assert_int_equal(numbers[0], 1);
    assert_int_equal(dead_letter_read(*state, 1, &read), 0);
    assert_string_equal(read->head.method, "sys.echo");
    assert_int_equal(read->head.caller, 2);
    assert_int_equal(read->head.callee, 1);
    assert_int_equal(read->head.crashed_incarnations[1], 8);
    assert_true(read->head.at_ns > 0);
    assert_int_equal(read->head.args_len, strlen(letter.args));
    assert_memory_equal(read->args, letter.args, read->head.args_len);
    assert_int_equal(read->crashes[1].signal, 11);
    assert_int_equal(read->crashes[2].kind, CRASH_NONE);
    dead_letter_free(read);
    assert_int_equal(dead_letter_read(*state, 2, &read), -ENOENT);
}

static void there_is_room_for_so_many_and_for_one_more_when_one_is_removed(void **state)
{
    char name[DEAD_LETTER_NAME_MAX];
    uint32_t numbers[DEAD_LETTERS_MAX];
    struct dead_letter letter;

    fill(&letter, "");
    for (uint32_t i = 0; i < DEAD_LETTERS_MAX; i++)
        assert_int_equal(dead_letter_write(*state, &letter, name), 0);
    assert_int_equal(dead_letter_write(*state, &letter, name), -ENOSPC);
    assert_int_equal(dead_letter_list(*state, numbers), DEAD_LETTERS_MAX);
    char *path = path_in(*state, "dead-letter-3");
    assert_int_equal(unlink(path), 0);
    free(path);
    assert_int_equal(dead_letter_list(*state, numbers), DEAD_LETTERS_MAX - 1);
    assert_int_equal(dead_letter_write(*state, &letter, name), 0);
    assert_string_equal(name, "dead-letter-3");
}

static void what_is_no_whole_letter_is_refused(void **state)
{
    char name[DEAD_LETTER_NAME_MAX];
    struct dead_letter letter, *read;
    struct stat st;

    fill(&letter, "abc");
    assert_int_equal(dead_letter_write(*state, &letter, name), 0);
    char *path = path_in(*state, name);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    for (off_t cut = st.st_size - 1; cut >= 0; cut -= cut > 200 ? 97 : 1) {
        assert_int_equal(truncate(path, cut), 0);
        assert_int_equal(dead_letter_read(*state, 1, &read), -EPROTO);
    }
    int fd = open(path, O_WRONLY);
    for (uint32_t i = 0; i < 4096; i++)
        assert_int_equal(write(fd, "\xa5\x5a", 2), 2);
    close(fd);
    assert_int_equal(dead_letter_read(*state, 1, &read), -EPROTO);
    free(path);
    assert_int_equal(dead_letter_write("/nowhere", &letter, name), -ENOENT);
}

static void a_record_that_makes_no_sense_is_none(void **state)
{
    char name[DEAD_LETTER_NAME_MAX];
    struct dead_letter letter, *read;

    fill(&letter, "");
    letter.crashes[0].stack_bytes = CRASH_STACK_BYTES + 1;
    memset(letter.crashes[1].coroutine_name, 'x', sizeof(letter.crashes[1].coroutine_name));
    assert_int_equal(dead_letter_write(*state, &letter, name), 0);
    assert_int_equal(dead_letter_read(*state, 1, &read), 0);
    assert_int_equal(read->crashes[0].kind, CRASH_NONE);
    assert_int_equal(
        strlen(read->crashes[1].coroutine_name), sizeof(read->crashes[1].coroutine_name) - 1);
    dead_letter_free(read);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            a_letter_is_read_as_it_was_written, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(
            there_is_room_for_so_many_and_for_one_more_when_one_is_removed, scratch_make,
            scratch_remove),
        cmocka_unit_test_setup_teardown(
            what_is_no_whole_letter_is_refused, scratch_make, scratch_remove),
        cmocka_unit_test_setup_teardown(
            a_record_that_makes_no_sense_is_none, scratch_make, scratch_remove),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
