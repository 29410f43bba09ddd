/* SPDX-License-Identifier: MIT */
#include "shard/settings.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shard/registry.h"
#include "shard/service_home.h"

enum { ADDRESS, COUNT, MEMORY, N_SETTINGS };

static const struct service_setting table[] = {
    [ADDRESS] = {"address", SERVICE_TEXT, "where"},
    [COUNT] = {"count", SERVICE_NUMBER, "how many", .initial = 5, .min = 1, .max = 100000},
    [MEMORY] = {"memory", SERVICE_SIZE, "of each", .initial = 64 << 20, .min = 16 << 10,
        .max = (uint64_t)32 << 30},
};

static int nothing(struct service_call *call)
{
    return 0;
}

static const struct service_method methods[] = {{"nothing", nothing, 0, ""}};

static const struct service set_service = {
    SERVICE_ABI, "set", "", methods, 1, .settings = table, .n_settings = N_SETTINGS};

static void expect_refused(
    union service_value *values, const char *key, const char *value, const char *expected)
{
    char *why = NULL;

    assert_int_equal(settings_set(&set_service, values, key, value, &why), -EINVAL);
    assert_string_equal(why, expected);
    free(why);
}

static void what_nobody_says_is_as_the_table_says(void **state)
{
    union service_value *values = settings_new(&set_service);

    assert_null(values[ADDRESS].text);
    assert_int_equal(values[COUNT].number, 5);
    assert_int_equal(values[MEMORY].number, 64 << 20);
    settings_free(&set_service, values);
    settings_free(&set_service, NULL);
}

static void the_last_that_is_said_counts(void **state)
{
    union service_value *values = settings_new(&set_service);

    assert_int_equal(settings_set(&set_service, values, "address", "one", NULL), 0);
    assert_int_equal(settings_set(&set_service, values, "address", "another", NULL), 0);
    assert_int_equal(settings_set(&set_service, values, "count", "7", NULL), 0);
    assert_int_equal(settings_set(&set_service, values, "count", "100000", NULL), 0);
    assert_string_equal(values[ADDRESS].text, "another");
    assert_int_equal(values[COUNT].number, 100000);
    settings_free(&set_service, values);
}

static void sizes_may_have_a_letter_and_numbers_have_none(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } right[] = {{"16384", 16384}, {"16K", 16384}, {"3M", 3 << 20}, {"32G", (uint64_t)32 << 30}};
    static const char *const wrong[] = {"", "x", "M", "-1", " 16K", "+16K", "16k", "16KB", "16K ",
        "1.5M", "0x100000", "16383", "33G", "18446744073709551616", "18014398509481985K"};
    union service_value *values = settings_new(&set_service);

    for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++) {
        assert_int_equal(settings_set(&set_service, values, "memory", right[i].text, NULL), 0);
        assert_true(values[MEMORY].number == right[i].bytes);
    }
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        expect_refused(
            values, "memory", wrong[i], "it is a size (bytes, or K, M, G) from 16K to 32G");
    assert_true(values[MEMORY].number == right[3].bytes);
    expect_refused(values, "count", "1K", "it is a number from 1 to 100000");
    expect_refused(values, "count", "0", "it is a number from 1 to 100000");
    assert_int_equal(values[COUNT].number, 5);
    settings_free(&set_service, values);
}

static void one_that_there_is_not_is_refused_with_those_that_there_are(void **state)
{
    union service_value *values = settings_new(&set_service);

    expect_refused(values, "adress", "x",
        "there is no such setting; it has address (where), count (how many), memory (of each)");
    assert_int_equal(settings_set(&set_service, values, "", "x", NULL), -EINVAL);
    settings_free(&set_service, values);
}

static void tables_that_are_not_as_they_must_be_are_refused(void **state)
{
    static const struct service_setting no_name[] = {{"A b", SERVICE_TEXT, ""}},
                                        no_kind[] = {{"a", (enum service_setting_kind)9, ""}},
                                        beyond[] = {{"a", SERVICE_NUMBER, "", 0, 1, 2}},
                                        twice[] = {
                                            {"a", SERVICE_TEXT, ""}, {"a", SERVICE_TEXT, ""}};
    static const struct {
        const struct service_setting *table;
        uint32_t n;
        const char *expected;
    } wrong[] = {{no_name, 1, "set: setting 0: it has no valid name"},
        {no_kind, 1, "it is of no kind"}, {beyond, 1, "less than min or more than max"},
        {twice, 2, "setting 1: there is one of that name"}};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct service service = set_service;
        struct registry *registry = registry_new();
        char *why = NULL;
        service.settings = wrong[i].table;
        service.n_settings = wrong[i].n;
        assert_int_equal(registry_add(registry, &service, &why), -EINVAL);
        assert_non_null(strstr(why, wrong[i].expected));
        free(why);
        registry_free(registry);
    }
}

static void a_table_and_configure_are_not_for_the_same_service(void **state)
{
    struct service both = set_service;
    char *why = NULL;

    both.discard = free;
    assert_int_equal(settings_check(&both, &why), -EINVAL);
    assert_string_equal(why, "service set: it has both settings and configure()");
    free(why);
}

/* ---- as a service has them ---- */

static const union service_value *seen;

static int look(struct service_home *home, const void *config, void **ret_state)
{
    seen = config;
    return 0;
}

static const union service_value *start(const struct registry *registry)
{
    static struct service_home homes[1];
    void *states[1];

    registry_make_homes(registry, NULL, 0, 1, homes);
    assert_int_equal(registry_start(registry, homes, states, NULL), 0);
    registry_stop(registry, states);
    return seen;
}

static void start_is_handed_them_also_where_nobody_says_any(void **state)
{
    static const struct registry_setting anew[] = {{"count", "8"}, {"count", "0"}};
    struct service service = set_service;
    struct registry *registry = registry_new();
    char *why = NULL;

    service.start = look;
    assert_int_equal(registry_add(registry, &service, NULL), 0);
    assert_int_equal(start(registry)[COUNT].number, 5);
    assert_int_equal(registry_configure(registry, "set", "address", "here", NULL), 0);
    assert_int_equal(registry_configure(registry, "set", "count", "many", &why), -EINVAL);
    assert_string_equal(why, "set.count=many: it is a number from 1 to 100000");
    free(why);
    assert_string_equal(start(registry)[ADDRESS].text, "here");
    assert_int_equal(registry_configure_anew(registry, "set", anew, 2, NULL), -EINVAL);
    assert_string_equal(start(registry)[ADDRESS].text, "here");
    assert_int_equal(registry_configure_anew(registry, "set", anew, 1, NULL), 0);
    assert_null(start(registry)[ADDRESS].text);
    assert_int_equal(start(registry)[COUNT].number, 8);
    registry_free(registry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_nobody_says_is_as_the_table_says),
        cmocka_unit_test(the_last_that_is_said_counts),
        cmocka_unit_test(sizes_may_have_a_letter_and_numbers_have_none),
        cmocka_unit_test(one_that_there_is_not_is_refused_with_those_that_there_are),
        cmocka_unit_test(tables_that_are_not_as_they_must_be_are_refused),
        cmocka_unit_test(a_table_and_configure_are_not_for_the_same_service),
        cmocka_unit_test(start_is_handed_them_also_where_nobody_says_any),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
