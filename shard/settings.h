/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * settings - what a person said of a service that has a table of settings
 *
 * Why:         a value that makes no sense is told to a person, with the setting's name, before
 *              anything starts.
 * Use:         settings_check() once; then a set of values: settings_new(), settings_set(),
 *              settings_free()
 * Concurrency: the supervisor, before the first fork; values are constant after
 * Lifetime:    the registry's
 * Not here:    services that read their settings themselves (struct service, configure())
 */
#include "shard/service.h"

/* 0; -EINVAL with a text: the table is not as it has to be. */
int settings_check(const struct service *service, char **ret_error);

/* All as they are where nobody says; NULL: no memory. */
union service_value *settings_new(const struct service *service);
void settings_free(const struct service *service, union service_value *values);

/* 0; -EINVAL with a text, or -ENOMEM: all are as they were. */
int settings_set(const struct service *service, union service_value *values, const char *key,
    const char *value, char **ret_error);
