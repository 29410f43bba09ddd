/* SPDX-License-Identifier: MIT */
/*
 * The command line is read twice: once to find --config and what is wrong with itself, and again
 * over what the file said.
 *
 * inih hands on lines of up to 198 bytes and would cut longer ones in two, so its reader here
 * refuses them.
 */
#include "tools/run_options.h"

#include <assert.h>
#include <errno.h>
#include <ini.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shard/explain.h"
#include "shard/restart.h"
#include "shard/segment.h"

#define DRAIN_LIMIT_NS  (INT64_C(30) * 1000000000)
#define SPIN_US         20u
#define SPIN_MAX_US     1000u
#define STALL_REPORT_NS (INT64_C(500) * 1000000)
#define STALL_LIMIT_NS  (INT64_C(10) * 1000000000)
#define REFUSED         (-2) /* for command_exit_status(): a usage error was printed */

static const char *parse_engine(const char *text, void *field)
{
    static const enum aio_engine engines[] = {
        AIO_ENGINE_IO_URING, AIO_ENGINE_LINUX_AIO, AIO_ENGINE_THREADS};

    for (size_t i = 0; i < sizeof(engines) / sizeof(engines[0]); i++) {
        if (strcmp(text, aio_engine_name(engines[i])) == 0) {
            *(enum aio_engine *)field = engines[i];
            return NULL;
        }
    }
    return "io_uring, linux-aio or threads";
}

static const char *parse_log_level(const char *text, void *field)
{
    return log_level_parse(text, field) == 0 ? NULL : "error, warning, notice, info or debug";
}

static const char *parse_shards(const char *text, void *field)
{
    uint32_t n;

    if (command_u32(text, &n) || n < 1 || n > SEGMENT_MAX_SHARDS)
        return "a number from 1 to 128";
    *(uint32_t *)field = n;
    return NULL;
}
static_assert(SEGMENT_MAX_SHARDS == 128, "parse_shards() says so");

static const char *parse_crash_limit(const char *text, void *field)
{
    uint32_t n;

    if (command_u32(text, &n) || n < 1 || n > RESTART_CRASHES_MAX)
        return "a number from 1 to 64";
    *(uint32_t *)field = n;
    return NULL;
}
static_assert(RESTART_CRASHES_MAX == 64, "parse_crash_limit() says so");

static const char *parse_spin(const char *text, void *field)
{
    uint32_t us;

    if (command_u32(text, &us) || us > SPIN_MAX_US)
        return "a number of microseconds from 0 to 1000";
    *(uint32_t *)field = us;
    return NULL;
}
static_assert(SPIN_MAX_US == 1000, "parse_spin() says so");

static const char *parse_rate(const char *text, void *field)
{
    return command_u32(text, field) ? "a number of requests; 0: no limit" : NULL;
}

static const char *parse_wake_latency(const char *text, void *field)
{
    if (strcmp(text, "low") != 0 && strcmp(text, "default") != 0)
        return "low or default";
    *(bool *)field = strcmp(text, "low") == 0;
    return NULL;
}

/* "SERVICE.KEY=VALUE" */
static const char *parse_setting(const char *text, void *field)
{
    const char *dot = strchr(text, '.'), *equals = strchr(text, '=');

    if (!dot || !equals || dot == text || equals <= dot + 1)
        return "SERVICE.KEY=VALUE";
    return command_list(text, field);
}

static const char *parse_scan_mode(const char *text, void *field)
{
    return scan_mode_parse(text, field) < 0 ? "off, report, refuse or abort" : NULL;
}

static const char *parse_sandbox(const char *text, void *field)
{
    *(bool *)field = strcmp(text, "off") == 0;
    return *(bool *)field || strcmp(text, "on") == 0 ? NULL : "on or off";
}

#define FIELD(name) offsetof(struct run_options, name)

static const struct command_option table[] = {
    {"shards", 0, "N", "how many shards (default: one a core, within affinity and CPU quota)",
        parse_shards, FIELD(shards)},
    {"instance", 0, "NAME", "name of the instance (default: default)", command_text,
        FIELD(instance)},
    {"service", 0, "PATH", "load a service; may be given again", command_list, FIELD(services)},
    {"set", 0, "SERVICE.KEY=VALUE", "a setting of a service; may be given again", parse_setting,
        FIELD(settings)},
    {"root", 0, "DIR[:rw]", "let the file service read (and write) below DIR; may be given again",
        command_list, FIELD(roots)},
    {"config", 0, "FILE", "read options from FILE", command_text, FIELD(config)},
    {"engine", 0, "NAME", "io_uring, linux-aio or threads (default: the best that works)",
        parse_engine, FIELD(engine)},
    {"listen", 0, "URL",
        "take clients at tls+tcp://ADDRESS:PORT too, or tcp://, which is not encrypted",
        command_text, FIELD(listen)},
    {"token-file", 0, "FILE", "what clients of --listen have to show", command_text,
        FIELD(token_file)},
    {"operator-token-file", 0, "FILE",
        "what those of them show instead who may drain the instance, too (default: nobody may)",
        command_text, FIELD(operator_token_file)},
    {"tls-cert", 0, "FILE",
        "the certificate for tls+tcp://, in PEM, others that vouch for it behind it", command_text,
        FIELD(tls.cert)},
    {"tls-key", 0, "FILE", "its private key, in PEM; nobody else may read it", command_text,
        FIELD(tls.key)},
    {"tls-client-ca", 0, "FILE",
        "have clients show a certificate that one of these authorities vouches for", command_text,
        FIELD(tls.client_ca)},
    {"segment-size", 0, "BYTES", "most shared memory (default: 23M for 2 shards)", command_bytes,
        FIELD(segment_bytes)},
    {"fates-memory", 0, "BYTES", "of it, for what became of clients' requests (default: 3750K)",
        command_bytes, FIELD(fates_bytes)},
    {"client-memory", 0, "BYTES",
        "most memory of all local clients together (default: 1G, or a quarter of what there is)",
        command_bytes, FIELD(client_bytes)},
    {"client-rate", 0, "N",
        "most requests a second of a local client in a shard (default: no limit)", parse_rate,
        FIELD(client_rate)},
    {"attach-group", 0, "GROUP", "let local clients of this group attach, too", command_text,
        FIELD(attach_group)},
    {"attach-mode", 0, "MODE",
        "mode of the socket at which local clients attach (default: 0600, with a group 0660)",
        command_text, FIELD(attach_mode)},
    {"enable-test-methods", 0, NULL, "allow sys.crash and other methods that only tests need",
        command_flag, FIELD(enable_test_methods)},
    {"drain-limit", 0, "SECONDS", "how long a stop waits for what is in flight (default: 30)",
        command_seconds, FIELD(drain_limit_ns)},
    {"crash-limit", 0, "N", "how many crashes within the window are the last (default: 10)",
        parse_crash_limit, FIELD(crash_limit)},
    {"crash-window", 0, "SECONDS", "the window for --crash-limit (default: 60)", command_seconds,
        FIELD(crash_window_ns)},
    {"user", 0, "NAME", "give up root's rights for those of this user", command_text, FIELD(user)},
    {"wake-latency", 0, "low", "keep CPUs from sleeping deeply: wakes in less time, takes power",
        parse_wake_latency, FIELD(wake_latency_low)},
    {"spin", 0, "US",
        "how long a shard looks for work before it sleeps, at most, in us (default: 20; 0: never)",
        parse_spin, FIELD(spin_us)},
    {"scan-moves", 0, "WHAT",
        "on pointers into one process that a moving coroutine takes along: off, report, refuse or "
        "abort",
        parse_scan_mode, FIELD(scan_mode)},
    {"no-rebalance", 0, NULL, "do not hand coroutines that may move over to shards that sleep",
        command_flag, FIELD(no_rebalance)},
    {"stall-report", 0, "SECONDS", "record a callback that runs longer (default: 0.5; 0: never)",
        command_seconds, FIELD(stall_report_ns)},
    {"stall-limit", 0, "SECONDS",
        "replace a process that is in one for longer (default: 10; 0: never)", command_seconds,
        FIELD(stall_limit_ns)},
    {"no-pin", 0, NULL, "do not pin shards to cores", command_flag, FIELD(no_pin)},
    {"sandbox", 0, "on|off",
        "off: shards and gateway keep all rights of their user (default: on, as far as the kernel "
        "has it)",
        parse_sandbox, FIELD(no_sandbox)},
    {"log-level", 0, "LEVEL", "error, warning, notice, info or debug (default: info)",
        parse_log_level, FIELD(log_level)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd run --shards 2 --root /usr --root /srv/data:rw",
        "two shards that read below /usr, and read and write below /srv/data"},
    {"sherd run --instance demo --service ./greeter.so --set greeter.name=World",
        "an instance of another name, with a service of your own"},
    {"sherd run --listen tcp://127.0.0.1:7411 --token-file /etc/sherd/token",
        "take clients over TCP, too; what they say can be read on the way"},
    {"sherd run --listen tls+tcp://0.0.0.0:7411 --token-file token --tls-cert cert.pem --tls-key "
     "key.pem",
        "take clients from everywhere who have the token, encrypted"},
    {"sherd run --config /etc/sherd/default.conf", "everything from a file; SIGHUP reads it again"},
    {0},
};

static const struct command command = {
    .name = "run",
    .operands = "",
    .summary = "Runs an instance in the foreground: a supervisor, a gateway and shards.",
    .details =
        "SIGTERM or SIGINT: take nothing new, finish what is in flight, leave; a second one: "
        "leave at once.\nSIGHUP: read the log level, limits and roots from --config again.",
    .options = table,
    .examples = examples,
};

static struct run_options defaults(int argc, char **argv)
{
    const struct restart_limits limits = RESTART_LIMITS_DEFAULT;

    return (struct run_options){
        .instance = "default",
        .engine = AIO_ENGINE_AUTO,
        .scan_mode = scan_mode_default,
        .drain_limit_ns = DRAIN_LIMIT_NS,
        .crash_limit = limits.crashes,
        .crash_window_ns = (int64_t)limits.window_ns,
        .spin_us = SPIN_US,
        .stall_report_ns = STALL_REPORT_NS,
        .stall_limit_ns = STALL_LIMIT_NS,
        .log_level = LOG_LEVEL_INFO,
        .argc = argc,
        .argv = argv,
    };
}

static void free_roots(struct run_options *options)
{
    for (size_t i = 0; options->owns_roots && i < options->roots.n; i++)
        free((char *)options->roots.items[i]);
    free(options->roots.items);
}

void run_options_deinit(struct run_options *options)
{
    for (size_t i = 0; i < options->kept.n; i++)
        free((char *)options->kept.items[i]);
    free(options->kept.items);
    free(options->services.items);
    free(options->settings.items);
    free_roots(options);
}

/* Makes text, which fields may point to from now on, the options' own. False, and it is freed: no
 * memory. NULL is no memory either. */
static bool keep(struct run_options *options, char *text)
{
    if (!text || command_list(text, &options->kept) != NULL) {
        free(text);
        return false;
    }
    return true;
}

/* ---- the file ---- */

struct reading {
    FILE *file;
    struct run_options *options;
    char *error;
    bool too_long;
};

static const struct command_option *find_option(const char *name)
{
    for (const struct command_option *option = table; option->name; option++)
        if (strcmp(option->name, name) == 0)
            return option;
    return NULL;
}

static bool is_yes(const char *text)
{
    return strcmp(text, "yes") == 0 || strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
}

static bool is_no(const char *text)
{
    return strcmp(text, "no") == 0 || strcmp(text, "false") == 0 || strcmp(text, "0") == 0;
}

/* NULL, or what is wrong. */
static char *take_key(struct run_options *options, const char *name, const char *value)
{
    const struct command_option *option = find_option(name);
    const char *expected = NULL;
    char *text = NULL, *kept;

    if (!option || strcmp(name, "config") == 0) {
        explain(&text, 0, "there is no key %s", name);
        return text;
    }
    if (!option->value) {
        *(bool *)((char *)options + option->offset) = is_yes(value);
        expected = is_yes(value) || is_no(value) ? NULL : "yes or no";
    } else {
        kept = strdup(value);
        expected = keep(options, kept) ? option->parse(kept, (char *)options + option->offset)
                                       : "more memory";
    }
    if (expected)
        explain(&text, 0, "%s has to be %s, not '%s'", name, expected, value);
    return text;
}

static char *take_setting(
    struct run_options *options, const char *service, const char *key, const char *value)
{
    char *setting = NULL, *text = NULL;

    if (asprintf(&setting, "%s.%s=%s", service, key, value) < 0 || !keep(options, setting)) {
        explain(&text, 0, "%s", strerror(ENOMEM));
        return text;
    }
    if (parse_setting(setting, &options->settings))
        explain(&text, 0, "%s is no setting", setting);
    return text;
}

static int on_key(void *user, const char *section, const char *name, const char *value)
{
    struct reading *reading = user;
    char *error;

    if (reading->error)
        return 0;
    error = section[0] && strcmp(section, "sherd") != 0
                ? take_setting(reading->options, section, name, value)
                : take_key(reading->options, name, value);
    reading->error = error;
    return error == NULL;
}

/* As fgets(), but a line that does not fit ends the reading. */
static char *read_line(char *line, int size, void *stream)
{
    struct reading *reading = stream;

    if (reading->too_long || !fgets(line, size, reading->file))
        return NULL;
    if (!strchr(line, '\n') && !feof(reading->file)) {
        reading->too_long = true;
        snprintf(line, (size_t)size, "?\n"); /* no key: counted as an error in this line */
    }
    return line;
}

/* 0 or -EINVAL, -errno with a text. */
static int read_file(struct run_options *options, const char *path, char **ret_error)
{
    struct reading reading = {.file = fopen(path, "re"), .options = options};
    int line, unread;

    if (!reading.file)
        return explain(ret_error, -errno, "configuration %s: %m", path);
    line = ini_parse_stream(read_line, &reading, on_key, &reading);
    unread = ferror(reading.file) ? errno : 0;
    fclose(reading.file);
    if (unread) {
        free(reading.error);
        return explain(ret_error, -unread, "configuration %s: %s", path, strerror(unread));
    }
    if (line == 0)
        return 0;
    explain(ret_error, -EINVAL, "configuration %s, line %d: %s", path, line,
        reading.error      ? reading.error
        : reading.too_long ? "it is longer than 198 bytes"
                           : "neither KEY = VALUE nor [SERVICE]");
    free(reading.error);
    return -EINVAL;
}

/* ---- both ---- */

static int check_tls(const struct run_options *options)
{
    bool wants_tls = options->listen && strncmp(options->listen, "tls+tcp://", 10) == 0;

    if (wants_tls && !(options->tls.cert && options->tls.key))
        return command_usage(
            &command, "--listen %s needs --tls-cert FILE and --tls-key FILE", options->listen);
    if (!wants_tls && (options->tls.cert || options->tls.key || options->tls.client_ca))
        return command_usage(
            &command, "--tls-… options are of use with --listen tls+tcp://ADDRESS:PORT only");
    return 0;
}

/* nng knows others, which nobody has thought through here. */
static bool is_address(const char *url)
{
    return strncmp(url, "tcp://", 6) == 0 || strncmp(url, "tls+tcp://", 10) == 0;
}

static int check(const struct run_options *options, int n_operands, char **operands)
{
    if (n_operands > 0)
        return command_usage(&command, "unexpected argument: %s", operands[0]);
    if (options->listen && !is_address(options->listen))
        return command_usage(&command,
            "--listen %s: it has to be tcp://ADDRESS:PORT or tls+tcp://ADDRESS:PORT",
            options->listen);
    if (options->listen && !options->token_file)
        return command_usage(
            &command, "--listen needs --token-file FILE: whoever reaches the port could submit");
    if (options->token_file && !options->listen)
        return command_usage(&command, "--token-file is of use with --listen only");
    if (options->operator_token_file && !options->listen)
        return command_usage(&command, "--operator-token-file is of use with --listen only");
    return check_tls(options);
}

static int parse_line(struct run_options *options, char ***ret_operands)
{
    return command_parse(&command, options->argc, options->argv, options, ret_operands);
}

int run_options_parse(int argc, char **argv, struct run_options *ret)
{
    struct run_options first = defaults(argc, argv), options = defaults(argc, argv);
    char **operands, *error = NULL;
    int n;

    n = parse_line(&first, &operands);
    run_options_deinit(&first);
    if (n < 0)
        return n;
    if (first.config && read_file(&options, first.config, &error) < 0) {
        command_usage(&command, "%s", error ? error : strerror(ENOMEM));
        free(error);
        run_options_deinit(&options);
        return REFUSED;
    }
    n = parse_line(&options, &operands);
    if (n >= 0)
        n = check(&options, n, operands) == 0 ? 0 : REFUSED;
    if (n < 0) {
        run_options_deinit(&options);
        return n;
    }
    *ret = options;
    return 0;
}

/* ---- again ---- */

static bool texts_differ(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) != 0 : a != b;
}

static bool lists_differ(const struct command_list *a, const struct command_list *b)
{
    if (a->n != b->n)
        return true;
    for (size_t i = 0; i < a->n; i++)
        if (texts_differ(a->items[i], b->items[i]))
            return true;
    return false;
}

/* X(name, whether it differs): what only a new start can change */
#define FIXED(X)                                                                           \
    X("shards", a->shards != b->shards)                                                    \
    X("service", lists_differ(&a->services, &b->services))                                 \
    X("set", lists_differ(&a->settings, &b->settings))                                     \
    X("engine", a->engine != b->engine)                                                    \
    X("listen", texts_differ(a->listen, b->listen))                                        \
    X("token-file", texts_differ(a->token_file, b->token_file))                            \
    X("operator-token-file", texts_differ(a->operator_token_file, b->operator_token_file)) \
    X("tls-cert", texts_differ(a->tls.cert, b->tls.cert))                                  \
    X("tls-key", texts_differ(a->tls.key, b->tls.key))                                     \
    X("tls-client-ca", texts_differ(a->tls.client_ca, b->tls.client_ca))                   \
    X("segment-size", a->segment_bytes != b->segment_bytes)                                \
    X("client-memory", a->client_bytes != b->client_bytes)                                 \
    X("client-rate", a->client_rate != b->client_rate)                                     \
    X("attach-group", texts_differ(a->attach_group, b->attach_group))                      \
    X("attach-mode", texts_differ(a->attach_mode, b->attach_mode))                         \
    X("fates-memory", a->fates_bytes != b->fates_bytes)                                    \
    X("enable-test-methods", a->enable_test_methods != b->enable_test_methods)             \
    X("user", texts_differ(a->user, b->user))                                              \
    X("wake-latency", a->wake_latency_low != b->wake_latency_low)                          \
    X("spin", a->spin_us != b->spin_us)                                                    \
    X("no-rebalance", a->no_rebalance != b->no_rebalance)                                  \
    X("scan-moves", a->scan_mode != b->scan_mode)                                          \
    X("sandbox", a->no_sandbox != b->no_sandbox)                                           \
    X("no-pin", a->no_pin != b->no_pin)

/* For free(); NULL: nothing, or no memory to say it. */
static char *name_refused(const struct run_options *a, const struct run_options *b)
{
    char *names = NULL, *longer;

#define X(name, differs)                                                               \
    if (differs) {                                                                     \
        int n = asprintf(&longer, "%s%s" name, names ? names : "", names ? ", " : ""); \
        free(names);                                                                   \
        names = n < 0 ? NULL : longer;                                                 \
    }
    FIXED(X)
#undef X
    return names;
}

/* Copies, for those of `again` go with its texts. False: no memory. */
static bool take_roots(struct run_options *options, const struct command_list *roots)
{
    struct run_options fresh = {
        .roots.items = calloc(roots->n + 1, sizeof(*roots->items)), .owns_roots = true};

    while (fresh.roots.items && fresh.roots.n < roots->n &&
           (fresh.roots.items[fresh.roots.n] = strdup(roots->items[fresh.roots.n])))
        fresh.roots.n++;
    if (!fresh.roots.items || fresh.roots.n < roots->n) {
        free_roots(&fresh);
        return false;
    }
    free_roots(options);
    options->roots = fresh.roots;
    options->owns_roots = true;
    return true;
}

static bool reload_roots(struct run_options *options, const struct run_options *again,
    run_options_roots_fn *change_roots, void *opaque, char **ret_error)
{
    return !lists_differ(&options->roots, &again->roots) ||
           (change_roots(opaque, &again->roots, ret_error) == 0 &&
               take_roots(options, &again->roots));
}

bool run_options_reload(struct run_options *options, run_options_roots_fn *change_roots,
    void *opaque, char **ret_refused, char **ret_error)
{
    struct run_options again = defaults(options->argc, options->argv);
    char **operands;

    if (!options->config)
        return true;
    if (read_file(&again, options->config, ret_error) < 0 || parse_line(&again, &operands) < 0 ||
        !reload_roots(options, &again, change_roots, opaque, ret_error)) {
        run_options_deinit(&again);
        return false;
    }
    *ret_refused = name_refused(options, &again);
    options->log_level = again.log_level;
    options->drain_limit_ns = again.drain_limit_ns;
    options->crash_limit = again.crash_limit;
    options->crash_window_ns = again.crash_window_ns;
    options->stall_report_ns = again.stall_report_ns;
    options->stall_limit_ns = again.stall_limit_ns;
    run_options_deinit(&again);
    return true;
}
