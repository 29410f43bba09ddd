/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/path.h"

static void assert_absolute(const char *name, const char *expected)
{
    char *path = path_absolute(name);

    assert_string_equal(path, expected);
    free(path);
}

static void absolute_names_stay_as_they_are(void **state)
{
    assert_absolute("/", "/");
    assert_absolute("/a/../b//c/", "/a/../b//c/");
}

static void relative_names_get_the_current_directory_before_them(void **state)
{
    assert_int_equal(chdir("/proc/self/"), 0); /* a link: the physical path is taken */
    char *folder = getcwd(NULL, 0), *expected;

    assert_true(asprintf(&expected, "%s/a/../b", folder) > 0);
    assert_absolute("a/../b", expected);
    assert_absolute("./a/../b", expected);
    assert_absolute(".//./a/../b", expected);
    free(expected);
    free(folder);
}

static void leading_dots_are_resolved_and_stop_at_the_root(void **state)
{
    assert_int_equal(chdir("/proc/sys/kernel"), 0);
    assert_absolute("../fs/aio-nr", "/proc/sys/fs/aio-nr");
    assert_absolute("../../x", "/proc/x");
    assert_absolute("./../.././x", "/proc/x");
    assert_absolute("../../../../../x", "/x");
    assert_absolute("..x", "/proc/sys/kernel/..x");
    assert_absolute(".x", "/proc/sys/kernel/.x");
    assert_absolute("x/..", "/proc/sys/kernel/x/..");
    assert_int_equal(chdir("/"), 0);
    assert_absolute("x", "/x");
    assert_absolute("../x", "/x");
}

static void only_what_sha256sum_escapes_is_escaped(void **state)
{
    char out[64];

    assert_int_equal(path_escape_checksum("plain 'name'\t\xff", out), 0);
    assert_string_equal(out, "plain 'name'\t\xff");
    assert_int_equal(path_escape_checksum("a\nb\rc\\d", out), 1);
    assert_string_equal(out, "a\\nb\\rc\\\\d");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absolute_names_stay_as_they_are),
        cmocka_unit_test(relative_names_get_the_current_directory_before_them),
        cmocka_unit_test(leading_dots_are_resolved_and_stop_at_the_root),
        cmocka_unit_test(only_what_sha256sum_escapes_is_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
