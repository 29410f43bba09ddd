/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shard/registry.h"
#include "shard/service_home.h"

static int run(struct service_call *call)
{
    (void)call;
    return 0;
}

static const struct service_method two_methods[] = {
    {"one", run, SERVICE_IDEMPOTENT, "the first"},
    {"two", run, SERVICE_TEST, "the second"},
};

static const struct service first = {SERVICE_ABI, "first", "", two_methods, 2};
static const struct service second = {SERVICE_ABI, "second", "", two_methods, 1};

static struct registry *registry_of(const struct service *a, const struct service *b)
{
    struct registry *registry = registry_new();

    assert_non_null(registry);
    assert_int_equal(registry_add(registry, a, NULL), 0);
    if (b)
        assert_int_equal(registry_add(registry, b, NULL), 0);
    return registry;
}

static int find(const struct registry *registry, const char *name)
{
    uint32_t method;
    int r = registry_find(registry, name, strlen(name), &method);

    return r < 0 ? r : (int)method;
}

static void methods_are_numbered_in_the_order_they_came(void **state)
{
    struct registry *registry = registry_of(&first, &second);
    uint32_t service = 9;

    registry_enable_test_methods(registry);
    assert_int_equal(registry_n_services(registry), 2);
    assert_int_equal(registry_n_methods(registry), 3);
    assert_int_equal(find(registry, "first.one"), 0);
    assert_int_equal(find(registry, "first.two"), 1);
    assert_int_equal(find(registry, "second.one"), 2);
    assert_ptr_equal(registry_method(registry, 2, &service), &two_methods[0]);
    assert_int_equal(service, 1);
    assert_ptr_equal(registry_service(registry, service), &second);
    assert_null(registry_method(registry, 3, NULL));
    assert_null(registry_service(registry, 2));
    registry_free(registry);
}

static void names_that_are_not_there_are_not_found(void **state)
{
    static const char *const wrong[] = {
        "", ".", "first", "first.", ".one", "first.on", "first.onee", "second.two", "firs.one"};
    struct registry *registry = registry_of(&first, &second);

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(find(registry, wrong[i]), -ENOENT);
    registry_free(registry);
}

static void test_methods_are_there_only_when_enabled(void **state)
{
    struct registry *registry = registry_of(&first, NULL);

    assert_int_equal(find(registry, "first.two"), -EACCES);
    assert_null(registry_method(registry, 1, NULL));
    registry_enable_test_methods(registry);
    assert_int_equal(find(registry, "first.two"), 1);
    assert_ptr_equal(registry_method(registry, 1, NULL), &two_methods[1]);
    registry_free(registry);
}

/* Refused with error, a text that holds `text`, and nothing added. */
static void expect_refused(const struct service *service, int error, const char *text)
{
    struct registry *registry = registry_of(&first, NULL);
    char *why = NULL;

    assert_int_equal(registry_add(registry, service, &why), error);
    assert_non_null(why);
    if (!strstr(why, text))
        fail_msg("\"%s\" does not say \"%s\"", why, text);
    assert_int_equal(registry_n_services(registry), 1);
    assert_int_equal(registry_n_methods(registry), 2);
    free(why);
    registry_free(registry);
}

static void services_that_are_not_as_they_must_be_are_refused(void **state)
{
    static const struct service_method no_name[] = {{NULL, run}};
    static const struct service_method dotted[] = {{"a.b", run}};
    static const struct service_method no_function[] = {{"one", NULL}};
    static const struct service_method twice[] = {{"one", run}, {"one", run}};
    static const struct service_method longest[] = {
        {"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", run}};
    const struct {
        struct service service;
        int error;
        const char *text;
    } wrong[] = {
        {{SERVICE_ABI + 1, "s", "", two_methods, 2}, -EINVAL, "build it again"},
        {{SERVICE_ABI, NULL, "", two_methods, 2}, -EINVAL, "no valid name"},
        {{SERVICE_ABI, "", "", two_methods, 2}, -EINVAL, "no valid name"},
        {{SERVICE_ABI, "a b", "", two_methods, 2}, -EINVAL, "no valid name"},
        {{SERVICE_ABI, "first", "", two_methods, 2}, -EEXIST, "named first already"},
        {{SERVICE_ABI, "s", "", NULL, 0}, -EINVAL, "has no methods"},
        {{SERVICE_ABI, "s", "", two_methods, UINT32_MAX}, -ENOSPC, "more than 4096 methods"},
        {{SERVICE_ABI, "s", "", no_name, 1}, -EINVAL, "method 0 has no valid name"},
        {{SERVICE_ABI, "s", "", dotted, 1}, -EINVAL, "method 0 has no valid name"},
        {{SERVICE_ABI, "s", "", longest, 1}, -EINVAL, "too long (64 with"},
        {{SERVICE_ABI, "s", "", no_function, 1}, -EINVAL, "method one has no function"},
        {{SERVICE_ABI, "s", "", twice, 2}, -EEXIST, "two methods named one"},
    };

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        expect_refused(&wrong[i].service, wrong[i].error, wrong[i].text);
}

static void library_that_is_no_service_is_refused_by_name(void **state)
{
    struct registry *registry = registry_new();
    char *why = NULL;

    assert_int_equal(registry_load(registry, "/nowhere/x.so", &why), -ENOEXEC);
    assert_non_null(strstr(why, "can't load the service: /nowhere/x.so: "));
    free(why);
    assert_int_equal(registry_load(registry, "libcmocka.so.0", &why), -ENOEXEC);
    assert_non_null(strstr(why, "./libcmocka.so.0")); /* not looked for in the system's folders */
    free(why);
    assert_int_equal(registry_load(registry, "/proc/self/exe", &why), -ENOEXEC);
    free(why);
    assert_int_equal(registry_load(registry, "/proc/self/exe", NULL), -ENOEXEC);
    registry_free(registry);
}

/* ---- settings and life ---- */

static int configure(void **config, const char *key, const char *value, char **ret_error)
{
    if (strcmp(key, "good") != 0) {
        *ret_error = strdup("only good");
        return -EINVAL;
    }
    char *kept = strdup(value);

    free(*config);
    *config = kept;
    return 0;
}

static int start_with_config(struct service_home *home, const void *config, void **ret_state)
{
    char *state = NULL;

    assert_true(asprintf(&state, "%u %s", service_home_shard(home),
                    config ? (const char *)config : "-") >= 0);
    *ret_state = state;
    return 0;
}

static int start_all(
    const struct registry *registry, uint32_t shard, void **states, char **ret_error)
{
    static struct service_home homes[2];

    registry_make_homes(registry, NULL, shard, 1, homes);
    return registry_start(registry, homes, states, ret_error);
}

static int start_badly(struct service_home *home, const void *config, void **ret_state)
{
    return -ENODEV;
}

static const struct service living = {SERVICE_ABI, "living", "", two_methods, 2,
    .configure = configure, .discard = free, .start = start_with_config, .stop = free};
static const struct service stillborn = {
    SERVICE_ABI, "stillborn", "", two_methods, 2, .start = start_badly};

static void settings_are_kept_for_start_and_freed_once(void **state)
{
    struct registry *registry = registry_of(&first, &living);
    void *states[2] = {&states, &states};
    char *why = NULL;

    assert_int_equal(registry_configure(registry, "living", "good", "old", &why), 0);
    assert_int_equal(registry_configure(registry, "living", "good", "new", &why), 0);
    assert_int_equal(start_all(registry, 7, states, NULL), 0);
    assert_null(states[0]);
    assert_string_equal(states[1], "7 new");
    registry_stop(registry, states);
    registry_free(registry);
}

static void expect_started_with(const struct registry *registry, const char *expected)
{
    void *states[2];

    assert_int_equal(start_all(registry, 7, states, NULL), 0);
    assert_string_equal(states[1], expected);
    registry_stop(registry, states);
}

static void settings_made_anew_replace_the_old_ones_or_change_nothing(void **state)
{
    static const struct registry_setting wrong[] = {{"good", "new"}, {"bad", "new"}};
    struct registry *registry = registry_of(&first, &living);
    char *why = NULL;

    assert_int_equal(registry_configure(registry, "living", "good", "old", &why), 0);
    assert_int_equal(registry_configure_anew(registry, "living", wrong, 2, &why), -EINVAL);
    assert_string_equal(why, "living.bad=new: only good");
    free(why);
    expect_started_with(registry, "7 old");
    assert_int_equal(registry_configure_anew(registry, "living", wrong, 1, &why), 0);
    expect_started_with(registry, "7 new");
    assert_int_equal(registry_configure_anew(registry, "living", NULL, 0, &why), 0);
    expect_started_with(registry, "7 -");
    registry_free(registry);
}

static void settings_that_nobody_takes_are_refused(void **state)
{
    struct registry *registry = registry_of(&first, &living);
    char *why = NULL;

    assert_int_equal(registry_configure_anew(registry, "nobody", NULL, 0, &why), -ENOENT);
    free(why);
    assert_int_equal(registry_configure(registry, "nobody", "k", "v", &why), -ENOENT);
    assert_string_equal(why, "there is no service named nobody");
    free(why);
    assert_int_equal(registry_configure(registry, "first", "k", "v", &why), -ENOENT);
    assert_string_equal(why, "service first takes no settings");
    free(why);
    assert_int_equal(registry_configure(registry, "living", "k", "v", &why), -EINVAL);
    assert_string_equal(why, "living.k=v: only good");
    free(why);
    registry_free(registry);
}

static void start_that_fails_stops_those_before_it(void **state)
{
    struct registry *registry = registry_of(&living, &stillborn);
    void *states[2];
    char *why = NULL;

    assert_int_equal(start_all(registry, 0, states, &why), -ENODEV);
    assert_string_equal(why, "service stillborn does not start: No such device");
    free(why); /* a state left behind is for the sanitizer to find */
    registry_free(registry);
}

static int hash_of_place(uint32_t method, const void *args, size_t len, uint64_t *ret_hash)
{
    *ret_hash = 100 + method + len;
    return 0;
}

static const struct service hashing = {
    SERVICE_ABI, "hashing", "", two_methods, 2, .hash = hash_of_place};

static void hash_is_asked_with_the_methods_place_in_its_service(void **state)
{
    struct registry *registry = registry_of(&first, &hashing);
    uint64_t hash;

    assert_int_equal(registry_hash(registry, 3, "ab", 2, &hash), 0);
    assert_int_equal(hash, 103);
    assert_int_equal(registry_hash(registry, 0, "ab", 2, &hash), -ENOENT);
    assert_int_equal(registry_hash(registry, 4, "ab", 2, &hash), -ENOENT);
    registry_free(registry);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(methods_are_numbered_in_the_order_they_came),
        cmocka_unit_test(names_that_are_not_there_are_not_found),
        cmocka_unit_test(test_methods_are_there_only_when_enabled),
        cmocka_unit_test(services_that_are_not_as_they_must_be_are_refused),
        cmocka_unit_test(library_that_is_no_service_is_refused_by_name),
        cmocka_unit_test(settings_are_kept_for_start_and_freed_once),
        cmocka_unit_test(settings_made_anew_replace_the_old_ones_or_change_nothing),
        cmocka_unit_test(settings_that_nobody_takes_are_refused),
        cmocka_unit_test(start_that_fails_stops_those_before_it),
        cmocka_unit_test(hash_is_asked_with_the_methods_place_in_its_service),
    };
    return cmocka_run_group_tests(cases, NULL, NULL);
}
