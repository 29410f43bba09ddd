/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "shard/segment_file.h"
#include "tests/unit/shard/scratch_dir.h"

#define BYTES (256u * 1024)

/* A folder on tmpfs, with "shm" for segments and "a" and "b" for runtime directories. */
static int make(void **state)
{
    if (scratch_make_shm(state) != 0)
        return -1;
    return mkdir(scratch_path(*state, "shm"), 0700) | mkdir(scratch_path(*state, "a"), 0700) |
           mkdir(scratch_path(*state, "b"), 0700);
}

static unsigned n_entries(const char *path)
{
    DIR *dir = opendir(path);
    unsigned n = 0;

    for (struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static struct segment_file create(const char *dir, const char *rundir)
{
    struct segment_file file;

    assert_int_equal(segment_file_create(
                         scratch_path(dir, "shm"), scratch_path(dir, rundir), BYTES, &file, NULL),
        0);
    return file;
}

/* Leaves what kill -9 of everything leaves. Returns the segment's path (free() it). */
static char *crash(const char *dir, const char *rundir)
{
    struct segment_file file = create(dir, rundir);
    char *path = strdup(file.path);

    assert_int_equal(segment_file_publish(&file, NULL), 0);
    segment_file_close(&file);
    return path;
}

static int take_over(const char *dir, const char *rundir)
{
    return segment_file_take_over(scratch_path(dir, "shm"), scratch_path(dir, rundir), BYTES, NULL);
}

/* Whether rundir's link leads to target. */
static bool leads_to(const char *dir, const char *link, const char *target)
{
    char found[512];
    ssize_t n = readlink(scratch_path(dir, link), found, sizeof(found) - 1);

    if (n < 0)
        return target == NULL;
    found[n] = '\0';
    return target && strcmp(found, target) == 0;
}

static void file_has_no_name_before_it_is_published(void **state)
{
    struct segment_file file = create(*state, "a");

    assert_int_equal(n_entries(scratch_path(*state, "shm")), 0);
    assert_int_equal(n_entries(scratch_path(*state, "a")), 0);
    segment_file_close(&file);
    assert_int_equal(n_entries(scratch_path(*state, "shm")), 0);
}

static void published_file_is_linked_from_the_runtime_directory(void **state)
{
    struct segment_file file = create(*state, "a");
    struct stat st;

    assert_int_equal(segment_file_publish(&file, NULL), 0);
    assert_true(leads_to(*state, "a/segment", file.path));
    assert_int_equal(stat(file.path, &st), 0);
    assert_int_equal(st.st_size, BYTES);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_true((uint64_t)st.st_blocks * 512 >= BYTES); /* allocated, not sparse */
    segment_file_remove(&file);
    segment_file_close(&file);
    assert_int_equal(n_entries(scratch_path(*state, "shm")), 0);
    assert_int_equal(n_entries(scratch_path(*state, "a")), 0);
}

static void fresh_segment_is_all_zero_and_shared(void **state)
{
    struct segment_file file = create(*state, "a");
    uint8_t *bytes = file.base;

    for (size_t i = 0; i < BYTES; i++)
        assert_int_equal(bytes[i], 0);
    pid_t child = fork();
    if (child == 0) {
        bytes[BYTES - 1] = 7;
        _exit(0);
    }
    waitpid(child, NULL, 0);
    assert_int_equal(bytes[BYTES - 1], 7);
    segment_file_close(&file);
}

static void segment_of_the_dead_is_kept_as_crashed(void **state)
{
    char *path = crash(*state, "a");

    assert_int_equal(take_over(*state, "a"), 1);
    assert_true(leads_to(*state, "a/segment", NULL));
    assert_true(leads_to(*state, "a/crashed-1", path));
    assert_int_equal(access(path, F_OK), 0);
    free(path);
}

static void last_three_that_crashed_are_kept_the_newest_first(void **state)
{
    char *paths[5];

    for (int i = 0; i < 5; i++) {
        paths[i] = crash(*state, "a");
        assert_int_equal(take_over(*state, "a"), 1);
    }
    assert_true(leads_to(*state, "a/crashed-1", paths[4]));
    assert_true(leads_to(*state, "a/crashed-2", paths[3]));
    assert_true(leads_to(*state, "a/crashed-3", paths[2]));
    assert_int_equal(access(paths[1], F_OK), -1);
    assert_int_equal(access(paths[0], F_OK), -1);
    assert_int_equal(n_entries(scratch_path(*state, "shm")), 2 * 3);
    for (int i = 0; i < 5; i++)
        free(paths[i]);
}

static void orderly_end_leaves_nothing_to_take_over(void **state)
{
    struct segment_file file = create(*state, "a");

    assert_int_equal(segment_file_publish(&file, NULL), 0);
    segment_file_remove(&file);
    segment_file_close(&file);
    assert_int_equal(take_over(*state, "a"), 0);
}

static void dangling_link_is_taken_away(void **state)
{
    assert_int_equal(symlink(scratch_path(*state, "shm/sherd-0-0123456789abcdef"),
                         scratch_path(*state, "a/segment")),
        0);
    assert_int_equal(take_over(*state, "a"), 0);
    assert_int_equal(n_entries(scratch_path(*state, "a")), 0);
}

static void dead_segment_that_no_directory_links_to_is_removed(void **state)
{
    char *path = crash(*state, "a");

    assert_int_equal(unlink(scratch_path(*state, "a/segment")), 0);
    assert_int_equal(take_over(*state, "b"), 0);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(n_entries(scratch_path(*state, "shm")), 0);
    free(path);
}

static void dead_segment_of_another_instance_that_is_linked_stays(void **state)
{
    char *path = crash(*state, "a");

    assert_int_equal(take_over(*state, "b"), 0);
    assert_int_equal(access(path, F_OK), 0);
    assert_true(leads_to(*state, "a/segment", path));
    free(path);
}

static void living_segment_stays_though_its_directory_is_gone(void **state)
{
    struct segment_file file = create(*state, "a");

    assert_int_equal(segment_file_publish(&file, NULL), 0);
    assert_int_equal(unlink(scratch_path(*state, "a/segment")), 0);
    assert_int_equal(take_over(*state, "b"), 0);
    assert_int_equal(access(file.path, F_OK), 0);
    segment_file_remove(&file);
    segment_file_close(&file);
}

static void segment_lives_as_long_as_one_child_has_it_mapped(void **state)
{
    struct segment_file file = create(*state, "a");
    char *path;

    assert_int_equal(segment_file_publish(&file, NULL), 0);
    assert_int_equal(unlink(scratch_path(*state, "a/segment")), 0);
    pid_t child = fork();
    if (child == 0) {
        close(file.fd); /* as a child of the supervisor does */
        pause();
        _exit(0);
    }
    path = strdup(file.path);
    segment_file_close(&file);
    assert_int_equal(take_over(*state, "b"), 0);
    assert_int_equal(access(path, F_OK), 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(take_over(*state, "b"), 0);
    assert_int_equal(access(path, F_OK), -1);
    free(path);
}

static void files_that_are_not_segments_are_left_alone(void **state)
{
    scratch_write(*state, "shm/sherd-0-precious", "x");
    scratch_write(*state, "shm/other", "x");
    scratch_write(*state, "shm/sherd-4294967290-0123456789abcdef", "another user's, by its name");
    scratch_write(*state, "a/precious", "x");
    assert_int_equal(
        symlink(scratch_path(*state, "a/precious"), scratch_path(*state, "a/crashed-1")), 0);
    assert_int_equal(take_over(*state, "a"), 0);
    assert_int_equal(n_entries(scratch_path(*state, "shm")), 3);
    assert_int_equal(access(scratch_path(*state, "a/precious"), F_OK), 0);
}

static void place_that_is_no_tmpfs_is_refused(void **state)
{
    struct segment_file file;
    char *error = NULL;

    assert_int_equal(segment_file_create("/proc", *state, BYTES, &file, &error), -EMEDIUMTYPE);
    assert_non_null(strstr(error, "no tmpfs"));
    free(error);
}

/* ---- a small tmpfs, in a mount namespace of a child ---- */

#define SMALL_BYTES (1024u * 1024)

static void try_to_fill(const char *dir)
{
    struct segment_file file;
    char *error = NULL;

    assert_int_equal(segment_file_create(scratch_path(dir, "shm"), scratch_path(dir, "a"),
                         2 * SMALL_BYTES, &file, &error),
        -ENOSPC);
    assert_non_null(strstr(error, "needs 2.0 MiB"));
    assert_non_null(strstr(error, "1.0 MiB are free"));
    assert_non_null(strstr(error, "--segment-size"));
    free(error);
    assert_int_equal(n_entries(scratch_path(dir, "shm")), 0);
}

static void crash_until_full(const char *dir)
{
    char *first = crash(dir, "a"), *second;

    assert_int_equal(take_over(dir, "a"), 1);
    second = crash(dir, "a");
    assert_int_equal(segment_file_take_over(scratch_path(dir, "shm"), scratch_path(dir, "a"),
                         SMALL_BYTES - BYTES, NULL),
        1);
    assert_int_equal(access(first, F_OK), -1);
    assert_true(leads_to(dir, "a/crashed-1", second));
    free(first);
    free(second);
}

/* Runs test in a child whose shm folder is a tmpfs of SMALL_BYTES; skips where that can't be. */
static void on_small_tmpfs(const char *dir, void (*test)(const char *dir))
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("tmpfs", scratch_path(dir, "shm"), "tmpfs", 0, "size=1m") < 0)
            _exit(77);
        test(dir);
        _exit(0);
    }
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(status, 0);
}

static void full_tmpfs_is_an_error_that_says_what_to_do(void **state)
{
    on_small_tmpfs(*state, try_to_fill);
}

static void crashed_ones_make_room_for_the_new(void **state)
{
    on_small_tmpfs(*state, crash_until_full);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, make, scratch_remove)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(file_has_no_name_before_it_is_published),
        CASE(published_file_is_linked_from_the_runtime_directory),
        CASE(fresh_segment_is_all_zero_and_shared),
        CASE(segment_of_the_dead_is_kept_as_crashed),
        CASE(last_three_that_crashed_are_kept_the_newest_first),
        CASE(orderly_end_leaves_nothing_to_take_over),
        CASE(dangling_link_is_taken_away),
        CASE(dead_segment_that_no_directory_links_to_is_removed),
        CASE(dead_segment_of_another_instance_that_is_linked_stays),
        CASE(living_segment_stays_though_its_directory_is_gone),
        CASE(segment_lives_as_long_as_one_child_has_it_mapped),
        CASE(files_that_are_not_segments_are_left_alone),
        CASE(place_that_is_no_tmpfs_is_refused),
        CASE(full_tmpfs_is_an_error_that_says_what_to_do),
        CASE(crashed_ones_make_room_for_the_new),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
