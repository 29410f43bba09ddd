/* SPDX-License-Identifier: MIT */
#include "services/file_roots.h"

#include "tests/unit/services/services_fixture.h"

static int dir_setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    f->n_fds = count_fds();
    f->dir = new_folder();
    *state = f;
    return 0;
}

static int dir_teardown(void **state)
{
    struct fixture *f = *state;
    remove_folder(f->dir);
    assert_int_equal(count_fds(), f->n_fds);
    free(f);
    return 0;
}

static void add(struct fixture *f, struct file_roots **roots, const char *spec)
{
    char *text = spec[0] == '/' ? strdup(spec) : in_dir(f, spec);
    char *error = NULL;
    if (file_roots_add(roots, text, &error) < 0)
        fail_msg("%s", error);
    free(text);
}

static void expect_refused(struct fixture *f, const char *spec, int error, const char *end)
{
    struct file_roots *roots = NULL;
    char *text = spec[0] ? in_dir(f, spec) : strdup("");
    char *why = NULL;
    assert_int_equal(file_roots_add(&roots, text, &why), error);
    assert_null(roots);
    assert_non_null(strstr(why, end));
    free(why);
    free(text);
}

/* path, with DIR before it, is in the root of that name and its rest; root NULL: in none. */
static void expect_found(struct fixture *f, const struct file_roots *roots, const char *path,
    const char *root, const char *rest)
{
    char *text = in_dir(f, path);
    char *name = root ? in_dir(f, root) : NULL;
    const char *found_rest;
    const struct file_root *found = file_roots_find(roots, text, &found_rest);
    assert_int_equal(found != NULL, root != NULL);
    if (found) {
        assert_string_equal(found->name, name);
        assert_string_equal(found_rest, rest);
    }
    free(name);
    free(text);
}

static void path_is_in_the_innermost_root(void **state)
{
    struct fixture *f = *state;
    struct file_roots *roots = NULL;
    make_dir(f, "a");
    make_dir(f, "a/b");
    add(f, &roots, "a");
    add(f, &roots, "a/b:rw");
    expect_found(f, roots, "a", "a", "");
    expect_found(f, roots, "a/x", "a", "x");
    expect_found(f, roots, "a//./x//y/", "a", "x//y/");
    expect_found(f, roots, "a/b/", "a/b", "");
    expect_found(f, roots, "a/b/c", "a/b", "c");
    expect_found(f, roots, "a/bc", "a", "bc");
    expect_found(f, roots, "a/../a/b", "a", "../a/b");
    expect_found(f, roots, "ab", NULL, NULL);
    expect_found(f, roots, "x/../a", NULL, NULL);
    file_roots_free(roots);
}

static void root_folder_holds_everything(void **state)
{
    struct file_roots *roots = NULL;
    const char *rest;
    add(*state, &roots, "/");
    assert_non_null(file_roots_find(roots, "/etc/passwd", &rest));
    assert_string_equal(rest, "etc/passwd");
    assert_non_null(file_roots_find(roots, "//", &rest));
    assert_string_equal(rest, "");
    char *list = file_roots_list(roots);
    assert_string_equal(list, "/");
    free(list);
    file_roots_free(roots);
}

static void list_is_as_given_and_given_twice_the_last_counts(void **state)
{
    struct fixture *f = *state;
    struct file_roots *roots = NULL;
    make_dir(f, "a");
    make_dir(f, "b:rw");
    add(f, &roots, "a//:rw");
    add(f, &roots, "b:rw:ro");
    add(f, &roots, "./a/:ro");
    char *list = file_roots_list(roots);
    char *expected = new_text("%s/a, %s/b:rw", f->dir, f->dir);
    assert_string_equal(list, expected);
    assert_int_equal(roots->n_roots, 2);
    assert_false(roots->roots[0].writable || roots->roots[1].writable);
    free(expected);
    free(list);
    file_roots_free(roots);
}

static void what_is_no_folder_is_refused_when_it_is_named(void **state)
{
    struct fixture *f = *state;
    make_file(f, "file", "", 0);
    expect_refused(f, "nothing", -ENOENT, "/nothing: No such file or directory");
    expect_refused(f, "nothing:rw", -ENOENT, "/nothing: No such file or directory");
    expect_refused(f, "file", -ENOTDIR, "/file: Not a directory");
    expect_refused(f, "", -EINVAL, "no folder is named");
}

static void writable_root_around_a_read_only_one_is_marked(void **state)
{
    struct fixture *f = *state;
    struct file_roots *roots = NULL;
    make_dir(f, "a");
    make_dir(f, "a/b");
    make_dir(f, "ab");
    add(f, &roots, "a:rw");
    add(f, &roots, "ab");
    assert_false(roots->roots[0].is_mixed);
    add(f, &roots, "a/b");
    assert_true(roots->roots[0].is_mixed);
    assert_false(roots->roots[2].is_mixed);
    file_roots_free(roots);
}

static void each_shard_opens_a_set_of_its_own(void **state)
{
    struct fixture *f = *state;
    struct file_roots *config = NULL;
    struct file_roots *roots;
    make_dir(f, "a");
    make_dir(f, "b");
    add(f, &config, "a");
    add(f, &config, "b:rw");
    char *gone = in_dir(f, "b");
    assert_int_equal(rmdir(gone), 0);
    assert_int_equal(file_roots_open(config, &roots), 0);
    assert_int_equal(roots->n_roots, 2);
    assert_true(roots->roots[0].fd >= 0);
    assert_int_equal(roots->roots[1].fd, -ENOENT);
    file_roots_free(roots);
    file_roots_free(config);
    free(gone);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, dir_setup, dir_teardown)

int main(void)
{
    const struct CMUnitTest cases[] = {
        CASE(path_is_in_the_innermost_root),
        CASE(root_folder_holds_everything),
        CASE(list_is_as_given_and_given_twice_the_last_counts),
        CASE(what_is_no_folder_is_refused_when_it_is_named),
        CASE(writable_root_around_a_read_only_one_is_marked),
        CASE(each_shard_opens_a_set_of_its_own),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
