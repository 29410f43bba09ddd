/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/wait.h>

#include "runtime/aio.h"
#include "shard/geometry.h"
#include "shard/process.h"
#include "shard/rundir.h"
#include "shard/segment.h"
#include "shard/segment_file.h"
#include "tests/unit/shard/scratch_dir.h"

#define MS INT64_C(1000000)
#define S  (1000 * MS)

static int make(void **state)
{
    if (scratch_make(state) != 0)
        return -1;
    return setenv("SHERD_RUNTIME_DIR", scratch_path(*state, "run"), 1);
}

static int remove_all(void **state)
{
    unsetenv("SHERD_RUNTIME_DIR");
    unsetenv("XDG_RUNTIME_DIR");
    return scratch_remove(state);
}

static void expect_path(const char *instance, const char *expected)
{
    char *path;

    assert_int_equal(rundir_path(instance, &path, NULL), 0);
    assert_string_equal(path, expected);
    free(path);
}

static void environment_decides_where_instances_live(void **state)
{
    expect_path("demo", scratch_path(*state, "run/demo"));
    unsetenv("SHERD_RUNTIME_DIR");
    setenv("XDG_RUNTIME_DIR", *state, 1);
    expect_path("demo", scratch_path(*state, "sherd/demo"));
    unsetenv("XDG_RUNTIME_DIR");
    if (geteuid() == 0)
        expect_path("demo", "/run/sherd/demo");
}

static void names_that_could_leave_the_folder_are_refused(void **state)
{
    static const char *const bad[] = {"", ".", "..", "a/b", "../x", ".hidden", "-x", "a b", "a\n",
        "é", "1234567890123456789012345678901234567890123456789"};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char *path = NULL, *error = NULL;
        assert_int_equal(rundir_path(bad[i], &path, &error), -EINVAL);
        assert_null(path);
        assert_non_null(strstr(error, "instance name"));
        free(error);
    }
    expect_path("A-z_0.9", scratch_path(*state, "run/A-z_0.9"));
}

static void claim_makes_a_private_folder_and_says_who_holds_it(void **state)
{
    char *path, *second, *error = NULL, pid[16];
    struct stat st;
    int lock_fd, other_fd;

    assert_int_equal(rundir_claim("demo", &path, &lock_fd, NULL), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(rundir_is_live(path), 1);
    assert_int_equal(rundir_claim("demo", &second, &other_fd, &error), -EBUSY);
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    assert_non_null(strstr(error, pid));
    free(error);
    close(lock_fd);
    assert_int_equal(rundir_is_live(path), 0);
    free(path);
}

static void folder_that_others_may_write_to_is_refused(void **state)
{
    char *path, *error = NULL;
    int lock_fd;

    assert_int_equal(mkdir(scratch_path(*state, "run"), 0700), 0);
    assert_int_equal(mkdir(scratch_path(*state, "run/demo"), 0700), 0);
    assert_int_equal(chmod(scratch_path(*state, "run/demo"), 0777), 0);
    assert_int_equal(rundir_claim("demo", &path, &lock_fd, &error), -EACCES);
    assert_non_null(strstr(error, "others may write"));
    free(error);
}

static void link_in_place_of_the_folder_is_refused(void **state)
{
    char *path, *error = NULL;
    int lock_fd;

    assert_int_equal(mkdir(scratch_path(*state, "run"), 0700), 0);
    assert_int_equal(symlink(*state, scratch_path(*state, "run/demo")), 0);
    assert_int_equal(rundir_claim("demo", &path, &lock_fd, &error), -EACCES);
    free(error);
}

static void expect_no_hand_over(int error, const char *text)
{
    char *why = NULL;

    assert_int_equal(rundir_hand_over("demo", geteuid(), getegid(), &why), error);
    assert_non_null(why);
    assert_non_null(strstr(why, text));
    free(why);
}

static void root_hands_over_no_folder_that_others_could_have_laid_in_its_way(void **state)
{
    assert_int_equal(rundir_hand_over("demo", geteuid(), getegid(), NULL), 0);
    assert_int_equal(chmod(scratch_path(*state, "run"), 0777), 0);
    expect_no_hand_over(-EACCES, "others may replace");
    assert_int_equal(chmod(scratch_path(*state, "run"), 0700), 0);
    assert_int_equal(rmdir(scratch_path(*state, "run/demo")), 0);
    assert_int_equal(symlink(*state, scratch_path(*state, "run/demo")), 0);
    expect_no_hand_over(-ENOTDIR, "run/demo");
    if (geteuid() != 0)
        return;
    assert_int_equal(unlink(scratch_path(*state, "run/demo")), 0);
    assert_int_equal(symlink(scratch_path(*state, "run"), scratch_path(*state, "link")), 0);
    assert_int_equal(lchown(scratch_path(*state, "link"), 12345, 12345), 0);
    setenv("SHERD_RUNTIME_DIR", scratch_path(*state, "link"), 1);
    expect_no_hand_over(-EACCES, "belongs to user 12345");
}

/* A child that waits for its end. Returns its pid. */
static pid_t fork_holder(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        pause();
        _exit(0);
    }
    return pid;
}

static void instance_lives_until_the_last_child_that_inherited_the_lock_is_gone(void **state)
{
    char *path, *second, *error = NULL;
    int lock_fd, other_fd;
    pid_t child;

    assert_int_equal(rundir_claim("demo", &path, &lock_fd, NULL), 0);
    child = fork_holder();
    close(lock_fd);
    assert_int_equal(rundir_is_live(path), 1);
    assert_int_equal(rundir_claim("demo", &second, &other_fd, &error), -EBUSY);
    free(error);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    assert_int_equal(rundir_is_live(path), 0);
    free(path);
}

static pid_t dead_pid(void)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(0);
    waitpid(pid, NULL, 0);
    return pid;
}

static void *kill_later(void *opaque)
{
    poll(NULL, 0, 50); /* the claim may be waiting by now or not: both have to work */
    kill(*(pid_t *)opaque, SIGKILL);
    return NULL;
}

static void claim_waits_for_children_whose_supervisor_is_dead(void **state)
{
    char *path, *second;
    int lock_fd;
    pid_t child;
    pthread_t thread;

    (void)state;
    assert_int_equal(rundir_claim("demo", &path, &lock_fd, NULL), 0);
    child = fork_holder();
    assert_int_equal(ftruncate(lock_fd, 0), 0);
    assert_true(dprintf(lock_fd, "%d\n", (int)dead_pid()) > 0);
    close(lock_fd);
    assert_int_equal(pthread_create(&thread, NULL, kill_later, &child), 0);
    assert_int_equal(rundir_claim("demo", &second, &lock_fd, NULL), 0);
    pthread_join(thread, NULL);
    waitpid(child, NULL, 0);
    close(lock_fd);
    free(path);
    free(second);
}

static void looking_at_a_lock_never_makes_a_claim_fail(void **state)
{
    char *path, *unused;
    int lock_fd;

    assert_int_equal(rundir_claim("demo", &path, &lock_fd, NULL), 0);
    close(lock_fd);
    int looking_fd = open(scratch_path(path, "lock"), O_RDONLY | O_CLOEXEC);
    struct flock look = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    assert_int_equal(fcntl(looking_fd, F_OFD_GETLK, &look), 0);
    assert_int_equal(rundir_claim("demo", &unused, &lock_fd, NULL), 0);
    close(looking_fd);
    close(lock_fd);
    free(unused);
    free(path);
}

static void list_has_the_live_ones_alone_in_order(void **state)
{
    char *paths[3], **names;
    int locks[3];

    assert_int_equal(rundir_claim("c", &paths[0], &locks[0], NULL), 0);
    assert_int_equal(rundir_claim("a", &paths[1], &locks[1], NULL), 0);
    assert_int_equal(rundir_claim("dead", &paths[2], &locks[2], NULL), 0);
    close(locks[2]);
    assert_int_equal(rundir_list(&names), 0);
    assert_string_equal(names[0], "a");
    assert_string_equal(names[1], "c");
    assert_null(names[2]);
    for (int i = 0; i < 3; i++)
        free(paths[i]);
    free(names[0]);
    free(names[1]);
    free(names);
    close(locks[0]);
    close(locks[1]);
}

static void list_of_no_folder_is_empty(void **state)
{
    char **names;

    assert_int_equal(rundir_list(&names), 0);
    assert_null(names[0]);
    free(names);
}

static void missing_instance_is_refused_with_those_that_are_there(void **state)
{
    char *path, *found, *error = NULL;
    int lock_fd;

    assert_int_equal(rundir_claim("there", &path, &lock_fd, NULL), 0);
    assert_int_equal(rundir_find("demo", 0, 1, &found, &error), -ENOENT);
    assert_non_null(strstr(error, "no instance demo; running: there"));
    free(error);
    free(path);
    close(lock_fd);
}

/* ---- waiting ---- */

struct start {
    struct segment_file file;
    int lock_fd;
    char *path;
};

/* What a supervisor does, up to the segment's link. */
static void begin_instance(struct start *start, struct segment *seg)
{
    struct segment_geometry geometry;
    uint64_t bytes;

    assert_int_equal(rundir_claim("demo", &start->path, &start->lock_fd, NULL), 0);
    assert_int_equal(segment_geometry_plan(1, 0, &geometry, &bytes), 0);
    assert_int_equal(segment_file_create("/dev/shm", start->path, bytes, &start->file, NULL), 0);
    assert_int_equal(segment_init(seg, start->file.base, bytes, &geometry, "demo"), 0);
    assert_int_equal(segment_file_publish(&start->file, NULL), 0);
    rundir_announce(start->lock_fd);
}

static void become_ready(struct start *start, const struct segment *seg)
{
    struct supervisor_head *head = segment_supervisor(seg);
    uint64_t ticks;

    assert_int_equal(process_start_ticks(getpid(), &ticks), 0);
    head->pid = getpid();
    head->pid_start_ticks = ticks;
    atomic_store_release(&head->ready_ns, 1);
    rundir_announce(start->lock_fd);
}

static void end_instance(struct start *start)
{
    segment_file_remove(&start->file);
    segment_file_close(&start->file);
    close(start->lock_fd);
    free(start->path);
}

static void *start_later(void *opaque)
{
    struct start *start = opaque;
    struct segment seg;

    /* The other thread may or may not be waiting by now: both have to work. */
    poll(NULL, 0, 20);
    begin_instance(start, &seg);
    poll(NULL, 0, 20);
    become_ready(start, &seg);
    return NULL;
}

static void find_waits_for_an_instance_that_is_about_to_start(void **state)
{
    struct start start;
    pthread_t thread;
    char *path;

    assert_int_equal(pthread_create(&thread, NULL, start_later, &start), 0);
    assert_int_equal(rundir_find("demo", 30 * S, 1, &path, NULL), 0);
    pthread_join(thread, NULL);
    assert_string_equal(path, start.path);
    free(path);
    end_instance(&start);
}

/* Takes all that this user may have, so that there are none for rundir_find(). */
static unsigned use_up_inotify(int *fds, unsigned max)
{
    unsigned n = 0;

    while (n < max && (fds[n] = inotify_init1(IN_CLOEXEC)) >= 0)
        n++;
    return n;
}

static void find_waits_without_inotify_too(void **state)
{
    static int fds[4096];
    unsigned n = use_up_inotify(fds, sizeof(fds) / sizeof(fds[0]));
    struct start start;
    pthread_t thread;
    char *path;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, start_later, &start), 0);
    int r = rundir_find("demo", 30 * S, 1, &path, NULL);
    while (n > 0)
        close(fds[--n]);
    pthread_join(thread, NULL);
    assert_int_equal(r, 0);
    free(path);
    end_instance(&start);
}

static void find_tells_what_is_there_from_what_is_ready(void **state)
{
    struct start start;
    struct segment seg;
    char *path, *error = NULL;

    begin_instance(&start, &seg);
    assert_int_equal(rundir_find("demo", 0, 0, &path, NULL), 0);
    free(path);
    assert_int_equal(rundir_find("demo", 20 * MS, 1, &path, &error), -ENOENT);
    assert_non_null(strstr(error, "not ready"));
    free(error);
    become_ready(&start, &seg);
    assert_int_equal(rundir_find("demo", 0, 1, &path, NULL), 0);
    free(path);
    end_instance(&start);
}

static void an_instance_whose_lock_file_was_removed_is_refused_at_once(void **state)
{
    struct start start;
    struct segment seg;
    char *path, *error = NULL;

    begin_instance(&start, &seg);
    become_ready(&start, &seg);
    assert_int_equal(unlink(scratch_path(start.path, "lock")), 0);
    assert_int_equal(rundir_find("demo", INT64_MAX / 2, 1, &path, &error), -ENOLCK);
    assert_non_null(strstr(error, "no lock file"));
    free(error);
    end_instance(&start);
}

static void words_of_a_dead_supervisor_are_no_readiness(void **state)
{
    struct start start;
    struct segment seg;
    char *path;

    begin_instance(&start, &seg);
    become_ready(&start, &seg);
    segment_supervisor(&seg)->pid_start_ticks++;
    assert_int_equal(rundir_find("demo", 0, 1, &path, NULL), -ENOENT);
    end_instance(&start);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, make, remove_all)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(environment_decides_where_instances_live),
        CASE(names_that_could_leave_the_folder_are_refused),
        CASE(claim_makes_a_private_folder_and_says_who_holds_it),
        CASE(folder_that_others_may_write_to_is_refused),
        CASE(link_in_place_of_the_folder_is_refused),
        CASE(root_hands_over_no_folder_that_others_could_have_laid_in_its_way),
        CASE(instance_lives_until_the_last_child_that_inherited_the_lock_is_gone),
        CASE(claim_waits_for_children_whose_supervisor_is_dead),
        CASE(looking_at_a_lock_never_makes_a_claim_fail),
        CASE(list_has_the_live_ones_alone_in_order),
        CASE(list_of_no_folder_is_empty),
        CASE(missing_instance_is_refused_with_those_that_are_there),
        CASE(find_waits_for_an_instance_that_is_about_to_start),
        CASE(find_waits_without_inotify_too),
        CASE(find_tells_what_is_there_from_what_is_ready),
        CASE(an_instance_whose_lock_file_was_removed_is_refused_at_once),
        CASE(words_of_a_dead_supervisor_are_no_readiness),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
