/* SPDX-License-Identifier: MIT */
/*
 * Everything that all processes share is made here, before the first fork: services loaded and
 * configured, cores counted, the runtime directory claimed. What a child inherits beyond the
 * supervisor's own list is what services opened meanwhile: the fds open after that less those open
 * before.
 */
#include "tools/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "ipc/gateway/attach_socket.h"
#include "ipc/gateway/certificate.h"
#include "ipc/gateway/gateway.h"
#include "ipc/plane/plane_shard.h"
#include "services/file.h"
#include "services/sys.h"
#include "shard/cgroup.h"
#include "shard/fd_list.h"
#include "shard/log.h"
#include "shard/rundir.h"
#include "shard/sandbox.h"
#include "shard/supervisor.h"
#include "shard/topology.h"
#include "shard/user.h"
#include "shard/wake_latency.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/run_options.h"

#define CLIENT_BYTES (UINT64_C(1) << 30)

struct run {
    struct run_options options;
    struct log log;
    struct registry *registry;
    struct topology topology;
    struct supervisor_limits limits;
    int latency_fd; /* -1: not held */
    struct sandbox *sandbox;
    struct fd_list service_fds;
    bool roots_changed; /* at the last SIGHUP */
    char *runtime_dir;
    int lock_fd;
    int attach_fd;      /* 0: none yet */
    int certificate_fd; /* 0: none. The supervisor has a copy of its own. */
};

/* ---- services ---- */

static int add_services(struct run *run, char **ret_error)
{
    const struct command_list *paths = &run->options.services;
    int r;

    r = registry_add(run->registry, &sys_service, ret_error);
    if (r == 0)
        r = registry_add(run->registry, &file_service, ret_error);
    for (size_t i = 0; r == 0 && i < paths->n; i++)
        r = registry_load(run->registry, paths->items[i], ret_error);
    if (run->options.enable_test_methods)
        registry_enable_test_methods(run->registry);
    return r;
}

/* "SERVICE.KEY=VALUE", which run_options has checked. */
static int configure_setting(struct run *run, const char *setting, char **ret_error)
{
    char *service = strdup(setting), *key, *value;
    int r;

    if (!service)
        return -ENOMEM;
    key = strchr(service, '.');
    *key++ = '\0';
    value = strchr(key, '=');
    *value++ = '\0';
    r = registry_configure(run->registry, service, key, value, ret_error);
    free(service);
    return r;
}

/* What follows "file.root=", or NULL. */
static const char *after_root(const char *text)
{
    static const char setting[] = "file.root=";

    return strncmp(text, setting, strlen(setting)) == 0 ? text + strlen(setting) : NULL;
}

/* The registry names the setting; who typed --root has never seen it. */
static int name_root(int error, char **ret_error)
{
    char *text;

    if (error < 0 && *ret_error && after_root(*ret_error) &&
        asprintf(&text, "--root %s", after_root(*ret_error)) >= 0) {
        free(*ret_error);
        *ret_error = text;
    }
    return error;
}

static int configure_root(struct run *run, const char *root, char **ret_error)
{
    return name_root(registry_configure(run->registry, "file", "root", root, ret_error), ret_error);
}

static int configure_services(struct run *run, char **ret_error)
{
    const struct command_list *roots = &run->options.roots, *settings = &run->options.settings;
    int r = 0;

    for (size_t i = 0; r == 0 && i < roots->n; i++)
        r = configure_root(run, roots->items[i], ret_error);
    for (size_t i = 0; r == 0 && i < settings->n; i++)
        r = configure_setting(run, settings->items[i], ret_error);
    return r;
}

static uint32_t n_shards(const struct run *run)
{
    return run->options.shards ? run->options.shards
                               : topology_default_shards(&run->topology, SEGMENT_MAX_SHARDS);
}

static int make_registry(struct run *run, char **ret_error)
{
    struct fd_list before;
    int r;

    run->registry = registry_new();
    r = run->registry ? fd_list_read(&before) : -ENOMEM;
    if (r < 0)
        return r;
    r = add_services(run, ret_error);
    if (r == 0)
        r = configure_services(run, ret_error);
    if (r == 0)
        r = registry_prepare(run->registry, n_shards(run), ret_error);
    if (r == 0)
        r = fd_list_read(&run->service_fds);
    if (r == 0)
        fd_list_subtract(&run->service_fds, &before);
    free(before.fds);
    return r;
}

/* ---- the instance ---- */

/* A daemon started with one of them closed would have its segment or a socket there. */
static int fill_standard_fds(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            return -errno;
    return 0;
}

static void set_limits(struct run *run)
{
    run->limits = (struct supervisor_limits){
        .stall_report_ns = (uint64_t)run->options.stall_report_ns,
        .stall_replace_ns = (uint64_t)run->options.stall_limit_ns,
        .drain_ns = (uint64_t)run->options.drain_limit_ns,
        .restart = {.crashes = run->options.crash_limit,
            .window_ns = (uint64_t)run->options.crash_window_ns},
    };
}

/* Shards forked from now on have these roots, and those of --set file.root=… as before. */
static int change_roots(void *opaque, const struct command_list *roots, char **ret_error)
{
    struct run *run = opaque;
    const struct command_list *set = &run->options.settings;
    struct registry_setting *settings = calloc(roots->n + set->n + 1, sizeof(*settings));
    size_t n = 0;
    int r;

    if (!settings)
        return -ENOMEM;
    for (; n < roots->n; n++)
        settings[n] = (struct registry_setting){"root", roots->items[n]};
    for (size_t i = 0; i < set->n; i++)
        if (after_root(set->items[i]))
            settings[n++] = (struct registry_setting){"root", after_root(set->items[i])};
    r = registry_configure_anew(run->registry, "file", settings, n, ret_error);
    free(settings);
    run->roots_changed = r == 0;
    return name_root(r, ret_error);
}

static void say_warning(struct run *run, char *warning)
{
    if (warning)
        log_line(&run->log, LOG_LEVEL_WARNING, "%s", warning);
    free(warning);
}

/* While root, whose the key may be, has not given up its rights. */
static int open_certificate(struct run *run, char **ret_error)
{
    char *warning = NULL;
    int r = 0;

    if (run->options.tls.cert)
        r = certificate_open(&run->options.tls, &run->certificate_fd, &warning, ret_error);
    say_warning(run, warning);
    return r;
}

/* Connections that there are go on with the old one. */
static void reload_certificate(struct run *run)
{
    char *warning = NULL, *error = NULL;

    if (!run->certificate_fd)
        return;
    if (certificate_reread(&run->options.tls, run->certificate_fd, &warning, &error) < 0)
        log_line(&run->log, LOG_LEVEL_ERROR, "the certificate stays as it was: %s",
            error ? error : strerror(ENOMEM));
    else
        log_line(&run->log, LOG_LEVEL_NOTICE,
            "certificate and key are read again; `sherd restart gateway` has clients see them");
    say_warning(run, warning);
    free(error);
}

static bool reload(void *opaque)
{
    struct run *run = opaque;
    char *error = NULL, *refused = NULL;

    reload_certificate(run);
    run->roots_changed = false;
    if (run_options_reload(&run->options, change_roots, run, &refused, &error)) {
        run->log.level = run->options.log_level;
        set_limits(run);
        if (refused)
            log_line(
                &run->log, LOG_LEVEL_WARNING, "not reloaded, they need a restart: %s", refused);
    } else {
        log_line(
            &run->log, LOG_LEVEL_ERROR, "nothing reloaded: %s", error ? error : strerror(ENOMEM));
    }
    free(refused);
    free(error);
    return run->roots_changed;
}

/* At most a quarter of the machine's memory, or of the cgroup's. */
static uint64_t client_bytes(const struct run *run)
{
    uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t cgroup = cgroup_memory_bytes(""), most = (machine < cgroup ? machine : cgroup) / 4;

    if (run->options.client_bytes)
        return run->options.client_bytes;
    return most < CLIENT_BYTES ? most : CLIENT_BYTES;
}

/* Where clients of this machine knock; opened here, so that it outlives every gateway. */
static int open_attach(struct run *run, char **ret_error)
{
    struct attach_access access;
    int r = attach_access_parse(
        run->options.attach_group, run->options.attach_mode, &access, ret_error);

    if (r == 0)
        r = attach_socket_open(run->runtime_dir, &access, &run->attach_fd, ret_error);
    if (r < 0)
        close(run->lock_fd); /* which the supervisor would have consumed */
    return r;
}

static int make_supervisor(struct run *run, struct supervisor **ret, char **ret_error)
{
    const struct run_options *options = &run->options;
    int secret_fd = run->certificate_fd ? fcntl(run->certificate_fd, F_DUPFD_CLOEXEC, 3) : 0;
    if (secret_fd < 0)
        return -errno;
    struct supervisor_config config = {
        .instance = options->instance,
        .runtime_dir = run->runtime_dir,
        .lock_fd = run->lock_fd,
        .shm_dir = "/dev/shm",
        .segment_bytes = options->segment_bytes,
        .fates_bytes = options->fates_bytes,
        .n_shards = n_shards(run),
        .topology = &run->topology,
        .pin = !options->no_pin,
        .engine = options->engine,
        .scan_mode = options->scan_mode,
        .no_rebalance = options->no_rebalance,
        .registry = run->registry,
        .log = &run->log,
        .listener_fd = run->attach_fd,
        .secret_fd = secret_fd,
        .client_bytes = client_bytes(run),
        .client_rate = options->client_rate,
        .listen_url = options->listen,
        .token_file = options->token_file,
        .operator_token_file = options->operator_token_file,
        .sandbox = run->sandbox,
        .limits = &run->limits,
        .cgroup_root = "",
        .spin_ns = (uint64_t)options->spin_us * 1000,
        .wake_latency_low = run->latency_fd >= 0,
        .service_fds = run->service_fds.fds,
        .n_service_fds = run->service_fds.n,
        .shard_main = shard_main,
        .gateway_main = gateway_main,
        .shard_extra = &plane_shard_extra,
        .reload = reload,
        .opaque = run,
    };

    return supervisor_new(&config, ret, ret_error);
}

/* Power is saved by sleeping deeply, so a CPU that nothing keeps awake takes long to wake. */
static void hold_wake_latency(struct run *run)
{
    int fd;

    if (!run->options.wake_latency_low)
        return;
    fd = wake_latency_hold("/dev/cpu_dma_latency");
    if (fd < 0)
        log_line(&run->log, LOG_LEVEL_WARNING, "--wake-latency low: /dev/cpu_dma_latency: %s%s",
            strerror(-fd), fd == -EACCES ? "; root may open it" : "");
    else
        run->latency_fd = fd;
}

/* After what only root may do, and before all that belongs to the instance. */
static int change_user(struct run *run, char **ret_error)
{
    struct user user;
    int r;

    if (!run->options.user)
        return 0;
    r = user_find(run->options.user, &user, ret_error);
    if (r == 0)
        r = rundir_hand_over(run->options.instance, user.uid, user.gid, ret_error);
    return r < 0 ? r : user_become(run->options.user, &user, ret_error);
}

static int make_sandbox(struct run *run, char **ret_error)
{
    char *missing = NULL;
    int r;

    if (run->options.no_sandbox) {
        log_line(&run->log, LOG_LEVEL_WARNING,
            "--sandbox off: who finds a mistake in a shard has all rights of user number %u",
            (unsigned)geteuid());
        return 0;
    }
    r = sandbox_new(&run->sandbox, &missing, ret_error);
    if (r == 0 && missing)
        log_line(&run->log, LOG_LEVEL_WARNING, "the sandbox is not whole here: %s", missing);
    free(missing);
    return r;
}

/* Who has lost root's rights can't lock more memory for the disk engine than the limit, which is
 * meant for logins, and is low. Where it may not be raised, it stays. */
static void raise_locked_memory(void)
{
    const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};

    setrlimit(RLIMIT_MEMLOCK, &none);
}

/* Each step in order, up to the supervisor. 0, or -errno with a text. */
static int prepare(struct run *run, struct supervisor **ret, char **ret_error)
{
    int r;

    r = fill_standard_fds();
    if (r < 0)
        return r;
    hold_wake_latency(run);
    raise_locked_memory();
    r = open_certificate(run, ret_error);
    if (r == 0)
        r = change_user(run, ret_error);
    if (r == 0)
        r = make_sandbox(run, ret_error);
    if (r == 0)
        r = topology_read("", &run->topology);
    if (r == 0)
        r = make_registry(run, ret_error);
    if (r == 0)
        r = rundir_claim(run->options.instance, &run->runtime_dir, &run->lock_fd, ret_error);
    if (r == 0)
        r = open_attach(run, ret_error);
    if (r == 0)
        r = make_supervisor(run, ret, ret_error);
    return r;
}

static void clean_up(struct run *run)
{
    registry_free(run->registry);
    sandbox_free(run->sandbox);
    topology_deinit(&run->topology);
    free(run->service_fds.fds);
    free(run->runtime_dir);
    run_options_deinit(&run->options);
    if (run->latency_fd >= 0)
        close(run->latency_fd);
    if (run->certificate_fd)
        close(run->certificate_fd);
}

int run_command(int argc, char **argv)
{
    struct run run = {.latency_fd = -1};
    struct supervisor *supervisor = NULL;
    struct child_env env;
    child_main_fn *child_main;
    char *error = NULL;
    int status, r;

    r = run_options_parse(argc, argv, &run.options);
    if (r < 0)
        return command_exit_status(r);
    signal(SIGPIPE, SIG_IGN);
    log_init(&run.log, STDERR_FILENO, run.options.log_level);
    set_limits(&run);
    r = prepare(&run, &supervisor, &error);
    if (r < 0) {
        clean_up(&run);
        return command_error_text(error, "run", r);
    }
    if (geteuid() == 0)
        log_line(&run.log, LOG_LEVEL_WARNING,
            "running as root: services have all rights; --user NAME takes them away");
    status = supervisor_run(supervisor, &env, &child_main);
    if (status == SUPERVISOR_BECOME_CHILD) {
        status = child_main(&env);
        fflush(NULL);
        _exit(status); /* what is left to do at exit is the supervisor's */
    }
    supervisor_free(supervisor);
    clean_up(&run);
    return status;
}
