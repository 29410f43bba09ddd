/* SPDX-License-Identifier: MIT */
#include "shard/settings.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/explain.h"
#include "shard/service_plan.h"

/* ---- the table ---- */

static const char *what_is_wrong(const struct service_setting *s)
{
    if (!service_plan_is_name(s->name))
        return "it has no valid name (a-z 0-9 - _)";
    if (s->kind != SERVICE_TEXT && s->kind != SERVICE_NUMBER && s->kind != SERVICE_SIZE)
        return "it is of no kind";
    if (s->kind != SERVICE_TEXT && (s->initial < s->min || s->initial > s->max))
        return "what it is initially is less than min or more than max";
    return NULL;
}

/* The place; n_settings: there is none. */
static uint32_t find(const struct service *service, const char *name)
{
    uint32_t i = 0;

    while (i < service->n_settings && strcmp(service->settings[i].name, name) != 0)
        i++;
    return i;
}

int settings_check(const struct service *service, char **ret_error)
{
    if (service->n_settings && (service->configure || service->discard))
        return explain(
            ret_error, -EINVAL, "service %s: it has both settings and configure()", service->name);
    for (uint32_t i = 0; i < service->n_settings; i++) {
        const struct service_setting *setting = &service->settings[i];
        const char *wrong = what_is_wrong(setting);
        if (!wrong && find(service, setting->name) < i)
            wrong = "there is one of that name already";
        if (wrong)
            return explain(
                ret_error, -EINVAL, "service %s: setting %u: %s", service->name, i, wrong);
    }
    return 0;
}

/* ---- values ---- */

union service_value *settings_new(const struct service *service)
{
    union service_value *values = calloc(service->n_settings, sizeof(*values));

    for (uint32_t i = 0; values && i < service->n_settings; i++)
        if (service->settings[i].kind != SERVICE_TEXT)
            values[i].number = service->settings[i].initial;
    return values;
}

void settings_free(const struct service *service, union service_value *values)
{
    for (uint32_t i = 0; values && i < service->n_settings; i++)
        if (service->settings[i].kind == SERVICE_TEXT)
            free((char *)values[i].text);
    free(values);
}

/* "64M", where there may be a letter. */
static bool read_number(const char *text, bool is_size, uint64_t *ret)
{
    static const char letters[] = "KMG";
    char *end;

    if (text[0] < '0' || text[0] > '9')
        return false;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    const char *letter = is_size && *end ? strchr(letters, *end) : NULL;
    unsigned shift = letter ? 10 * (unsigned)(letter - letters + 1) : 0;
    if (errno || end[letter != NULL] || n > UINT64_MAX >> shift)
        return false;
    *ret = (uint64_t)n << shift;
    return true;
}

/* As a person would write it. */
static void print_number(char *to, size_t size, uint64_t n, bool is_size)
{
    unsigned letter = 0;

    while (is_size && letter < 3 && n && n % 1024 == 0) {
        n /= 1024;
        letter++;
    }
    snprintf(to, size, "%" PRIu64 "%.1s", n, &"\0KMG"[letter]);
}

static int set_number(const struct service_setting *setting, union service_value *value,
    const char *text, char **ret_error)
{
    bool is_size = setting->kind == SERVICE_SIZE;
    char min[24], max[24];
    uint64_t n;

    if (read_number(text, is_size, &n) && n >= setting->min && n <= setting->max) {
        value->number = n;
        return 0;
    }
    print_number(min, sizeof(min), setting->min, is_size);
    print_number(max, sizeof(max), setting->max, is_size);
    return explain(ret_error, -EINVAL, "it is a %s from %s to %s",
        is_size ? "size (bytes, or K, M, G)" : "number", min, max);
}

static int set_text(union service_value *value, const char *text)
{
    char *copy = strdup(text);

    if (!copy)
        return -ENOMEM;
    free((char *)value->text);
    value->text = copy;
    return 0;
}

static int refuse(const struct service *service, char **ret_error)
{
    char *names = NULL;
    size_t len;
    FILE *list = open_memstream(&names, &len);

    if (!list)
        return -ENOMEM;
    for (uint32_t i = 0; i < service->n_settings; i++) {
        const struct service_setting *setting = &service->settings[i];
        fprintf(
            list, "%s%s (%s)", i ? ", " : "", setting->name, setting->help ? setting->help : "");
    }
    int r = fclose(list) == 0 ? -EINVAL : -ENOMEM;
    explain(ret_error, r, "there is no such setting; it has %s", r == -EINVAL ? names : "others");
    free(names);
    return r;
}

int settings_set(const struct service *service, union service_value *values, const char *key,
    const char *value, char **ret_error)
{
    uint32_t place = find(service, key);

    if (place == service->n_settings)
        return refuse(service, ret_error);
    if (service->settings[place].kind == SERVICE_TEXT)
        return set_text(&values[place], value);
    return set_number(&service->settings[place], &values[place], value, ret_error);
}
