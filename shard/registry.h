/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * registry - the services of an instance and the numbers of their methods
 *
 * Why:         a method travels as a number, which is the same in every process forked from one
 * image. Use:         registry_new(); registry_add() and registry_load() before the first fork;
 * then read only. Concurrency: filled by the supervisor before the first fork, constant after: any
 * process. Lifetime:    freed by nobody but tests: every process inherits it.
 */
#include <stddef.h>
#include <stdint.h>

#include "shard/service.h"

#define REGISTRY_NAME_MAX 64u /* "service.method", without NUL */

struct registry;

struct registry *registry_new(void); /* NULL: no memory */
void registry_free(struct registry *registry);

/* 0; -EINVAL: wrong abi, empty or over-long names, a method without a function; -EEXIST: a service
 * or method of that name is there. ret_error, which may be NULL, gets a line for people (free()
 * it). */
int registry_add(struct registry *registry, const struct service *service, char **ret_error);

/* Loads PATH (dlopen, all symbols bound now) and adds its `sherd_service`. -ENOEXEC: it can't be
 * loaded or has no such symbol; -EBUSY: it started a thread. */
int registry_load(struct registry *registry, const char *path, char **ret_error);

/* Hands "key=value" to service `name`. -ENOENT: no such service, or it takes no settings. */
int registry_configure(struct registry *registry, const char *name, const char *key,
    const char *value, char **ret_error);

void registry_enable_test_methods(struct registry *registry);

uint32_t registry_n_services(const struct registry *registry);
const struct service *registry_service(const struct registry *registry, uint32_t service);

/* Methods are numbered from 0 over all services, in the order they were added. NULL: no such
 * number, or a test method that is not enabled. */
uint32_t registry_n_methods(const struct registry *registry);
const struct service_method *registry_method(
    const struct registry *registry, uint32_t method, uint32_t *ret_service);

/* "service.method" → number. -ENOENT; a test method that is not enabled: -EACCES. */
int registry_find(
    const struct registry *registry, const char *name, size_t len, uint32_t *ret_method);
