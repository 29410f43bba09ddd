/* SPDX-License-Identifier: MIT */
#include "shard/registry.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/explain.h"
#include "shard/service_home.h"
#include "shard/settings.h"

/*
 * Two arrays that only grow: services in the order they came, methods likewise, each method with
 * the number of its service. A name is looked up by walking services and then one service's
 * methods: there are some dozens at most, next to a message between processes nothing.
 *
 * A library is loaded while the supervisor has one thread, because fork() copies one: what another
 * thread held locked, malloc's lock for one, would stay locked in every shard. So /proc/self/task
 * is counted before and after. A library that failed is not closed again: its thread may be running
 * in it, and whoever called exits with the error anyway.
 */

struct entry {
    const struct service *service;
    void *config; /* the values of its settings; or configure()'s */
    uint32_t first_method;
    struct service_plan plan;
};

struct method {
    const struct service_method *method;
    uint32_t service;
};

struct registry {
    struct entry *services;
    struct method *methods;
    uint32_t n_services;
    uint32_t n_methods;
    bool test_methods;
    bool prepared;
    struct service_plans plans;
};

struct registry *registry_new(void)
{
    return calloc(1, sizeof(struct registry));
}

static void discard(const struct service *service, void *config)
{
    if (service->n_settings)
        settings_free(service, config);
    else if (service->discard)
        service->discard(config);
}

void registry_free(struct registry *registry)
{
    if (!registry)
        return;
    for (uint32_t i = 0; i < registry->n_services; i++) {
        struct entry *entry = &registry->services[i];
        service_plan_deinit(&entry->plan);
        discard(entry->service, entry->config);
    }
    free(registry->services);
    free(registry->methods);
    free(registry);
}

/* ---- adding ---- */

/* NULL: none of that name. */
static struct entry *find_service(const struct registry *registry, const char *name, size_t len)
{
    for (uint32_t i = 0; i < registry->n_services; i++) {
        const char *other = registry->services[i].service->name;
        if (strlen(other) == len && memcmp(other, name, len) == 0)
            return &registry->services[i];
    }
    return NULL;
}

static int check_method(const struct service *service, uint32_t idx, char **ret_error)
{
    const struct service_method *method = &service->methods[idx];
    if (!service_plan_is_name(method->name)) {
        return explain(ret_error, -EINVAL, "service %s: method %u has no valid name (a-z 0-9 - _)",
            service->name, idx);
    }
    if (strlen(service->name) + 1 + strlen(method->name) > REGISTRY_NAME_MAX) {
        return explain(ret_error, -EINVAL,
            "service %s: the name of method %s is too long (%u with "
            "the service's)",
            service->name, method->name, REGISTRY_NAME_MAX);
    }
    if (!method->run) {
        return explain(ret_error, -EINVAL, "service %s: method %s has no function", service->name,
            method->name);
    }
    for (uint32_t i = 0; i < idx; i++) {
        if (strcmp(service->methods[i].name, method->name) == 0) {
            return explain(ret_error, -EEXIST, "service %s: there are two methods named %s",
                service->name, method->name);
        }
    }
    return 0;
}

static int check_service(
    const struct registry *registry, const struct service *service, char **ret_error)
{
    if (service->abi != SERVICE_ABI) {
        return explain(ret_error, -EINVAL,
            "the service was built for version %u of sherd/service.h, "
            "this sherd has version %u: build it again",
            service->abi, SERVICE_ABI);
    }
    if (!service_plan_is_name(service->name))
        return explain(ret_error, -EINVAL, "the service has no valid name (a-z 0-9 - _)");
    if (find_service(registry, service->name, strlen(service->name)))
        return explain(ret_error, -EEXIST, "there is a service named %s already", service->name);
    if (service->n_methods == 0 || !service->methods)
        return explain(ret_error, -EINVAL, "service %s has no methods", service->name);
    if (service->n_methods > REGISTRY_METHODS_MAX - registry->n_methods) {
        return explain(ret_error, -ENOSPC, "service %s: there would be more than %u methods",
            service->name, REGISTRY_METHODS_MAX);
    }
    for (uint32_t i = 0; i < service->n_methods; i++) {
        int r = check_method(service, i, ret_error);
        if (r < 0)
            return r;
    }
    return settings_check(service, ret_error);
}

/* 0, or -ENOMEM. */
static int begin_config(const struct service *service, void **ret)
{
    *ret = service->n_settings ? settings_new(service) : NULL;
    return service->n_settings && !*ret ? -ENOMEM : 0;
}

int registry_add(struct registry *registry, const struct service *service, char **ret_error)
{
    int r = check_service(registry, service, ret_error);
    if (r < 0)
        return r;
    uint32_t first = registry->n_methods;
    struct entry *services =
        reallocarray(registry->services, registry->n_services + 1, sizeof(*services));
    if (!services)
        return explain(ret_error, -ENOMEM, "no memory");
    registry->services = services;
    struct method *methods =
        reallocarray(registry->methods, first + service->n_methods, sizeof(*methods));
    if (!methods)
        return explain(ret_error, -ENOMEM, "no memory");
    registry->methods = methods;
    void *config;
    if (begin_config(service, &config) < 0)
        return explain(ret_error, -ENOMEM, "no memory");

    for (uint32_t i = 0; i < service->n_methods; i++)
        methods[first + i] = (struct method){&service->methods[i], registry->n_services};
    services[registry->n_services] =
        (struct entry){.service = service, .config = config, .first_method = first};
    registry->n_services++;
    registry->n_methods += service->n_methods;
    return 0;
}

/* Threads of this process, or -errno. */
static int count_threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks)
        return -errno;
    int n = 0;
    for (struct dirent *task; (task = readdir(tasks));)
        n += task->d_name[0] != '.';
    closedir(tasks);
    return n;
}

int registry_load(struct registry *registry, const char *path, char **ret_error)
{
    int threads_before = count_threads();
    if (threads_before < 0) {
        return explain(ret_error, threads_before, "%s: can't count threads: /proc/self/task: %s",
            path, strerrordesc_np(-threads_before));
    }
    /* Without a slash dlopen() would look in the system's library folders. */
    char *file = NULL;
    if (asprintf(&file, "%s%s", strchr(path, '/') ? "" : "./", path) < 0)
        return explain(ret_error, -ENOMEM, "no memory");
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    free(file);
    if (!library)
        return explain(ret_error, -ENOEXEC, "can't load the service: %s", dlerror());
    if (count_threads() != threads_before) {
        return explain(ret_error, -EBUSY,
            "%s: the library starts a thread when it is loaded; "
            "a service may start threads in its start() alone",
            path);
    }
    const struct service *service = dlsym(library, "sherd_service");
    if (!service) {
        return explain(ret_error, -ENOEXEC,
            "%s: has no symbol sherd_service, so it is no service (see sherd/service.h)", path);
    }
    char *why = NULL;
    int r = registry_add(registry, service, &why);
    if (r < 0) {
        explain(ret_error, r, "%s: %s", path, why ? why : "no memory");
        free(why);
    }
    return r;
}

static int find_configurable(
    const struct registry *registry, const char *name, struct entry **ret, char **ret_error)
{
    struct entry *entry = find_service(registry, name, strlen(name));
    if (!entry)
        return explain(ret_error, -ENOENT, "there is no service named %s", name);
    if (!entry->service->configure && !entry->service->n_settings)
        return explain(ret_error, -ENOENT, "service %s takes no settings", name);
    *ret = entry;
    return 0;
}

static int configure(const struct service *service, void **config, const char *key,
    const char *value, char **ret_error)
{
    char *why = NULL;
    int r = service->n_settings ? settings_set(service, *config, key, value, &why)
                                : service->configure(config, key, value, &why);
    if (r < 0)
        explain(ret_error, r, "%s.%s=%s: %s", service->name, key, value,
            why ? why : strerrordesc_np(-r));
    free(why);
    return r;
}

int registry_configure(struct registry *registry, const char *name, const char *key,
    const char *value, char **ret_error)
{
    struct entry *entry = NULL;
    int r = find_configurable(registry, name, &entry, ret_error);
    return r < 0 ? r : configure(entry->service, &entry->config, key, value, ret_error);
}

int registry_configure_anew(struct registry *registry, const char *name,
    const struct registry_setting *settings, size_t n, char **ret_error)
{
    struct entry *entry = NULL;
    void *fresh = NULL, *stale;
    int r = find_configurable(registry, name, &entry, ret_error);
    if (r < 0)
        return r;
    if (begin_config(entry->service, &fresh) < 0)
        return explain(ret_error, -ENOMEM, "no memory");
    for (size_t i = 0; r == 0 && i < n; i++)
        r = configure(entry->service, &fresh, settings[i].key, settings[i].value, ret_error);
    stale = r == 0 ? entry->config : fresh;
    if (r == 0)
        entry->config = fresh;
    discard(entry->service, stale);
    return r;
}

void registry_enable_test_methods(struct registry *registry)
{
    registry->test_methods = true;
}

/* ---- before the segment is made ---- */

static int prepare(struct registry *registry, struct entry *entry, char **ret_error)
{
    const struct service *service = entry->service;
    char *why = NULL;
    int r = 0;

    service_plan_init(&entry->plan, &registry->plans, service);
    if (service->prepare)
        r = service->prepare(&entry->plan, entry->config, &why);
    if (r < 0)
        explain(ret_error, r, "service %s: %s", service->name, why ? why : strerrordesc_np(-r));
    free(why);
    return r < 0 ? r : service_plan_counters(&entry->plan, ret_error);
}

int registry_prepare(struct registry *registry, uint32_t n_shards, char **ret_error)
{
    registry->plans = (struct service_plans){.n_shards = n_shards};
    for (uint32_t i = 0; i < registry->n_services; i++) {
        int r = prepare(registry, &registry->services[i], ret_error);
        if (r < 0)
            return r;
    }
    registry->prepared = true;
    return 0;
}

const struct service_plan *registry_plan(const struct registry *registry, uint32_t service)
{
    return registry->prepared ? &registry->services[service].plan : NULL;
}

void registry_set_listening(const struct registry *registry, uint32_t shard, bool listens)
{
    for (uint32_t i = 0; registry->prepared && i < registry->n_services; i++)
        service_plan_set_listening(&registry->services[i].plan, shard, listens);
}

uint64_t registry_region_bytes(const struct registry *registry)
{
    return registry->plans.bytes;
}

void registry_write_plans(const struct registry *registry, const struct segment *seg)
{
    for (uint32_t i = 0; registry->prepared && i < registry->n_services; i++)
        service_plan_write(&registry->services[i].plan, seg);
}

/* ---- looking up ---- */

uint32_t registry_n_services(const struct registry *registry)
{
    return registry->n_services;
}

const struct service *registry_service(const struct registry *registry, uint32_t service)
{
    return service < registry->n_services ? registry->services[service].service : NULL;
}

uint32_t registry_n_methods(const struct registry *registry)
{
    return registry->n_methods;
}

static bool is_enabled(const struct registry *registry, const struct service_method *method)
{
    return registry->test_methods || !(method->flags & SERVICE_TEST);
}

const struct service_method *registry_method(
    const struct registry *registry, uint32_t method, uint32_t *ret_service)
{
    if (method >= registry->n_methods || !is_enabled(registry, registry->methods[method].method))
        return NULL;
    if (ret_service)
        *ret_service = registry->methods[method].service;
    return registry->methods[method].method;
}

int registry_find(
    const struct registry *registry, const char *name, size_t len, uint32_t *ret_method)
{
    const char *dot = memchr(name, '.', len);
    if (!dot)
        return -ENOENT;
    const struct entry *entry = find_service(registry, name, (size_t)(dot - name));
    if (!entry)
        return -ENOENT;
    const char *method_name = dot + 1;
    size_t method_len = len - (size_t)(method_name - name);
    for (uint32_t i = 0; i < entry->service->n_methods; i++) {
        const struct service_method *method = &entry->service->methods[i];
        if (strlen(method->name) != method_len ||
            memcmp(method->name, method_name, method_len) != 0)
            continue;
        if (!is_enabled(registry, method))
            return -EACCES;
        *ret_method = entry->first_method + i;
        return 0;
    }
    return -ENOENT;
}

int registry_hash(const struct registry *registry, uint32_t method, const void *args, size_t len,
    uint64_t *ret_hash)
{
    if (method >= registry->n_methods)
        return -ENOENT;
    const struct entry *entry = &registry->services[registry->methods[method].service];
    if (!entry->service->hash)
        return -ENOENT;
    return entry->service->hash(method - entry->first_method, args ? args : "", len, ret_hash);
}

/* ---- a shard's life ---- */

static void stop_first(const struct registry *registry, void *const *states, uint32_t n)
{
    while (n-- > 0) {
        const struct service *service = registry->services[n].service;
        if (service->stop)
            service->stop(states[n]);
    }
}

void registry_make_homes(const struct registry *registry, const struct segment *seg, uint32_t shard,
    uint32_t incarnation, struct service_home *homes)
{
    for (uint32_t i = 0; i < registry->n_services; i++)
        service_home_init(&homes[i], registry_plan(registry, i), seg, shard, incarnation);
}

struct service_reach {
    struct sandbox_paths *paths;
};

int service_reach_path(struct service_reach *reach, const char *path, bool writable)
{
    return sandbox_paths_add(reach->paths, path, writable);
}

void service_reach_sockets(struct service_reach *reach)
{
    reach->paths->needs_sockets = true;
}

int registry_reach(const struct registry *registry, struct sandbox_paths *paths)
{
    struct service_reach reach = {paths};
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < registry->n_services; i++) {
        const struct entry *entry = &registry->services[i];
        if (entry->service->reach)
            r = entry->service->reach(entry->config, &reach);
    }
    return r;
}

int registry_start(
    const struct registry *registry, struct service_home *homes, void **states, char **ret_error)
{
    for (uint32_t i = 0; i < registry->n_services; i++) {
        const struct entry *entry = &registry->services[i];
        states[i] = NULL;
        int r =
            entry->service->start ? entry->service->start(&homes[i], entry->config, &states[i]) : 0;
        if (r < 0) {
            stop_first(registry, states, i);
            return explain(ret_error, r, "service %s does not start: %s", entry->service->name,
                strerrordesc_np(-r));
        }
    }
    return 0;
}

void registry_stop(const struct registry *registry, void *const *states)
{
    stop_first(registry, states, registry->n_services);
}

void registry_drain(const struct registry *registry, void *const *states)
{
    for (uint32_t i = 0; i < registry->n_services; i++)
        if (registry->services[i].service->drain)
            registry->services[i].service->drain(states[i]);
}

void registry_resume(const struct registry *registry, void *const *states)
{
    for (uint32_t i = 0; i < registry->n_services; i++)
        if (registry->services[i].service->resume)
            registry->services[i].service->resume(states[i]);
}
