/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * registry - the services of an instance and the numbers of their methods
 *
 * Why:         a method travels as a number, which is the same in every process forked from one
 *              image.
 * Use:         supervisor, before the first fork: registry_new(), registry_add() and
 *              registry_load(), registry_configure(), registry_prepare(); from then on it is read
 *              only, but for registry_configure_anew().
 *              shard, in its loop: registry_make_homes(), registry_start() before the first call,
 *              registry_stop() after the last.
 * Concurrency: filled by one thread of the supervisor, constant after the first fork: any process.
 * Lifetime:    services and their libraries live as long as the process. Freed by tests alone:
 *              every child inherits it.
 *
 * A ret_error may be NULL; else it gets a line for people on failure, or NULL where there was no
 * memory for one (free() it).
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shard/sandbox.h"
#include "shard/segment.h"
#include "shard/service.h"

struct service_plan;

#define REGISTRY_NAME_MAX    64u /* "service.method", without NUL */
#define REGISTRY_METHODS_MAX 4096u

struct registry;

struct registry *registry_new(void); /* NULL: no memory */
void registry_free(struct registry *registry);

/* 0; -EINVAL: wrong abi, no methods, a name that is empty, too long or has other characters than
 * a-z, 0-9, - and _, a method without a function; -EEXIST: a service or method of that name is
 * there; -ENOSPC: more than REGISTRY_METHODS_MAX; -ENOMEM. Nothing is added on failure. */
int registry_add(struct registry *registry, const struct service *service, char **ret_error);

/* Loads PATH (dlopen, all symbols bound now) and adds its `sherd_service`. -ENOEXEC: it can't be
 * loaded or has no such symbol; -EBUSY: it started a thread, which still runs; others as
 * registry_add(). */
int registry_load(struct registry *registry, const char *path, char **ret_error);

/* Hands key and value to service `name`. -ENOENT: no such service, or it takes no settings; else
 * what its configure() returned. */
int registry_configure(struct registry *registry, const char *name, const char *key,
    const char *value, char **ret_error);

struct registry_setting {
    const char *key, *value;
};

/* Replaces all that service `name` was ever told by these, for shards forked from now on. On
 * failure, as of registry_configure(), it stays as it was. */
int registry_configure_anew(struct registry *registry, const char *name,
    const struct registry_setting *settings, size_t n, char **ret_error);

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

/* The key's hash of a call that names no shard (struct service, hash()). 0, or -errno: anywhere. */
int registry_hash(const struct registry *registry, uint32_t method, const void *args, size_t len,
    uint64_t *ret_hash);

/* Once all are configured, before the segment is made: each service says what it needs. 0, or
 * -errno with a text. */
int registry_prepare(struct registry *registry, uint32_t n_shards, char **ret_error);

/* NULL: registry_prepare() was not called. */
const struct service_plan *registry_plan(const struct registry *registry, uint32_t service);

/* The shard is given up: what its services' listeners would be dealt others get; or it comes again.
 * In the supervisor. */
void registry_set_listening(const struct registry *registry, uint32_t shard, bool listens);

/* Of the services' regions in each shard's part; then, in the fresh segment, what is where. */
uint64_t registry_region_bytes(const struct registry *registry);
void registry_write_plans(const struct registry *registry, const struct segment *seg);

/* Fills in a home for each service. seg NULL: without counters and regions. Owner loop of that
 * shard. */
void registry_make_homes(const struct registry *registry, const struct segment *seg, uint32_t shard,
    uint32_t incarnation, struct service_home *homes);

/* What all services together may reach. 0, or the first -errno. */
int registry_reach(const struct registry *registry, struct sandbox_paths *paths);

/* Calls start() of every service, in order. states has a place for each service; one without
 * start() gets NULL. On failure those that were started are stopped, and -errno is returned.
 * Context: owner loop of a shard. */
int registry_start(
    const struct registry *registry, struct service_home *homes, void **states, char **ret_error);

/* Calls drain(), or resume(), of every service. Context: owner loop of that shard. */
void registry_drain(const struct registry *registry, void *const *states);
void registry_resume(const struct registry *registry, void *const *states);

/* Calls stop() of every service, last first. Context: owner loop of that shard. */
void registry_stop(const struct registry *registry, void *const *states);
