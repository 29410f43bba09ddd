/* SPDX-License-Identifier: MIT */
/*
 * sherd submit - has the shards do something, over the client library
 *
 * The order matters: an instance that is not there is waited for first; then SIGINT is blocked, and
 * only then nng starts its threads, which inherit that. Until it is connected an interrupt ends the
 * program all the same, then the pump takes it.
 *
 * When all is printed the program ends without closing the client: that waits for nng, whose peer
 * may hang, and the gateway sees the end of the process as well.
 */
#include "tools/submit.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shard/rundir.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/interrupt.h"

#define EXIT_INTERRUPTED 130 /* as shells have it: 128 and SIGINT */
#define WINDOW_MAX       65536u

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct submit_values),
    {"shard", 0, "N", "have shard N do it (default: whichever the method or --key says)",
        command_u32, offsetof(struct submit_values, shard)},
    {"key", 0, "TEXT", "have the shard do it that this key belongs to", command_text,
        offsetof(struct submit_values, key)},
    {"timeout", 0, "SECONDS", "how long each request may take (default: for ever)", command_seconds,
        offsetof(struct submit_values, timeout_ns)},
    {"urgent", 0, NULL, "do not wait for requests that are not urgent", command_flag,
        offsetof(struct submit_values, is_urgent)},
    REMOTE_OPTIONS(struct submit_values, remote),
    {"null", '0', NULL, "names on standard input end with NUL, not with a new line", command_flag,
        offsetof(struct submit_values, is_zero)},
    {"unordered", 0, NULL, "print answers as they come, not in the order of the arguments",
        command_flag, offsetof(struct submit_values, is_unordered)},
    {"count", 0, "N", "do it N times for each argument", command_u64,
        offsetof(struct submit_values, count)},
    {"window", 0, "N", "most requests in flight (default: 256; at most 65536)", command_u32,
        offsetof(struct submit_values, window)},
    {"offset", 0, "BYTES", "where file.read and file.write begin (default: 0)", command_bytes,
        offsetof(struct submit_values, offset)},
    {"length", 0, "BYTES", "how much file.read reads (default: to the end)", command_bytes,
        offsetof(struct submit_values, length)},
    {"json", 0, NULL, "file.stat prints JSON, a line a file", command_flag,
        offsetof(struct submit_values, is_json)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd submit --instance demo file.sha256 /usr/bin/*",
        "hash files: what sha256sum would print"},
    {"find /usr/lib -type f -print0 | sherd submit --instance demo -0 file.sha256 -",
        "hash what find finds, while it does"},
    {"sherd submit --instance demo file.read --offset 4096 --length 100 /etc/services",
        "print 100 bytes of a file"},
    {"sherd submit --instance demo file.write --offset 0 /srv/data/new < data",
        "write standard input into a file, piece by piece"},
    {"sherd submit --instance demo file.stat /etc/services", "show size, times and more"},
    {"sherd submit --instance demo sys.ping --shard 1", "ask shard 1 whether it is there"},
    {"sherd submit --instance demo sys.ping --shard 1 --urgent", "the same of a busy shard"},
    {"sherd submit --instance demo sys.ping --count 10000 --window 10000",
        "ask 10,000 times at once"},
    {"sherd submit --instance demo sys.methods", "list what can be submitted"},
    {0},
};

static const struct command command = {
    .name = "submit",
    .operands = "SERVICE.METHOD [ARGUMENT...|-]",
    .summary = "Has an instance's shards do something, and prints what they answer.",
    .details = "file.sha256 and file.stat take paths, file.read and file.write one path, sys.ping "
               "and sys.methods\nnothing. Of any other method each argument is sent as it is, or "
               "none as nothing, and the answer\nprinted as it is. The argument - stands for what "
               "is read from standard input: a name a line (with\n-0: up to each NUL); of other "
               "methods all of it is one argument, unless -0 divides it.",
    .options = options,
    .examples = examples,
};

static const struct submit_method methods[] = {
    {"file.sha256", 0, 1, SIZE_MAX, "paths, or - for a list on standard input", submit_sha256},
    {"file.stat", SUBMIT_USES_JSON, 1, SIZE_MAX, "paths, or - for a list on standard input",
        submit_stat},
    {"file.read", SUBMIT_USES_OFFSET | SUBMIT_USES_LENGTH, 1, 1, "one path", submit_read},
    {"file.write", SUBMIT_USES_OFFSET, 1, 1, "one path", submit_write},
    {"sys.ping", 0, 0, 0, "no argument", submit_ping},
    {"sys.methods", 0, 0, 0, "no argument", submit_methods},
    {NULL, 0, 0, SIZE_MAX, "", submit_raw},
};

/* ---- what methods use ---- */

struct sherd_request submit_request(const struct submit *submit)
{
    const struct submit_values *values = submit->values;
    return (struct sherd_request){
        .method = submit->method,
        .key = values->key,
        .key_len = values->key ? strlen(values->key) : 0,
        .timeout_ns = values->timeout_ns,
        .shard = values->shard,
        .flags = (values->shard != SHERD_NO_SHARD ? SHERD_TO_SHARD : 0u) |
                 (values->is_urgent ? SHERD_URGENT : 0u),
    };
}

/* The server's text without what stands in front of it here anyway: the path or the method. */
static const char *skip_prefix(const char *text, const char *prefix)
{
    size_t len = prefix ? strlen(prefix) : 0;
    if (len && !strncmp(text, prefix, len) && !strncmp(text + len, ": ", 2))
        return text + len + 2;
    return text;
}

bool submit_failed(struct submit *submit, const char *subject, const char *wire_path,
    const struct sherd_result *result)
{
    char *text = result->len ? strndup((const char *)result->data, result->len) : NULL;
    const char *why = text ? text : "";
    why = skip_prefix(why, submit->method);
    why = skip_prefix(why, wire_path);
    if (!*why)
        why = result->error ? strerror(-result->error) : sherd_end_text(result->end);
    bool has_subject = subject && *subject;
    bool is_plain = result->end == SHERD_END_FAILED;
    progress_hide(&submit->progress);
    command_error("%s: %s%s%s%s%s", submit->method, has_subject ? subject : "",
        has_subject ? ": " : "", is_plain ? "" : sherd_end_text(result->end), is_plain ? "" : ": ",
        why);
    free(text);
    return false;
}

int submit_broken(struct submit *submit, int error)
{
    progress_hide(&submit->progress);
    switch (error) {
    case -EINTR:
        command_error("%s: interrupted", submit->method);
        return EXIT_INTERRUPTED;
    case -EPIPE:
        signal(SIGPIPE, SIG_DFL); /* end as any filter does whose reader has gone */
        raise(SIGPIPE);
        return EXIT_WORK_FAILED;
    case -ENOTCONN:
        return command_error("%s: the instance %s is gone; what was in flight may be done or not",
            submit->method,
            submit->values->remote.url ? submit->values->remote.url
            : submit->values->instance ? submit->values->instance
                                       : "default");
    default:
        return command_error("%s: %s", submit->method, strerror(-error));
    }
}

static int report(struct submit *submit, int r)
{
    const struct pump *pump = &submit->pump;
    if (r != -EINTR && r)
        return submit_broken(submit, r);
    if (r == -EINTR) {
        command_error("%s: interrupted: %llu done, %llu failed, %llu cancelled", submit->method,
            (unsigned long long)pump->n_done, (unsigned long long)pump->n_failed,
            (unsigned long long)pump->n_cut);
        return EXIT_INTERRUPTED;
    }
    return pump->n_failed ? EXIT_WORK_FAILED : EXIT_DONE;
}

int submit_run(struct submit *submit, struct pump_job *job, const char *noun)
{
    static char *const nothing[] = {""};
    struct names names;
    bool has_operands = submit->n_operands > 0;
    int r = names_init(&names, has_operands ? submit->operands : nothing,
        has_operands ? submit->n_operands : 1, submit->values->is_zero ? 0 : '\n');
    if (r)
        return submit_broken(submit, r);
    if (submit->values->count != SUBMIT_NOT_GIVEN)
        names.repeat = submit->values->count;
    progress_init(&submit->progress, noun);
    job->names = &names;
    job->progress = &submit->progress;
    job->is_ordered = !submit->values->is_unordered;
    r = pump_run(&submit->pump, job);
    names_deinit(&names);
    return report(submit, r);
}

/* ---- the command ---- */

static const struct submit_method *find_method(const char *name)
{
    const struct submit_method *method = methods;
    while (method->name && strcmp(method->name, name))
        method++;
    return method;
}

static int check_usage(const struct submit *submit, const struct submit_method *method)
{
    const struct submit_values *values = submit->values;
    if (!strchr(submit->method, '.'))
        return command_usage(
            &command, "%s is no SERVICE.METHOD, such as file.sha256", submit->method);
    if (submit->n_operands < method->min_operands || submit->n_operands > method->max_operands)
        return command_usage(&command, "%s takes %s", submit->method, method->expects);
    if (values->offset != SUBMIT_NOT_GIVEN && !(method->uses & SUBMIT_USES_OFFSET))
        return command_usage(&command, "%s has no use for --offset", submit->method);
    if (values->length != SUBMIT_NOT_GIVEN && !(method->uses & SUBMIT_USES_LENGTH))
        return command_usage(&command, "%s has no use for --length", submit->method);
    if (values->is_json && !(method->uses & SUBMIT_USES_JSON))
        return command_usage(&command, "%s has no use for --json", submit->method);
    if (values->shard != SHERD_NO_SHARD && values->key)
        return command_usage(&command, "--shard and --key exclude each other");
    if (values->window > WINDOW_MAX || values->count == 0)
        return command_usage(
            &command, "--window is at most %u, and --count at least 1", WINDOW_MAX);
    return remote_check(&values->remote, &command, values->instance);
}

/* Waits until the instance is ready; the error names those that are there. */
static int find_instance(const struct submit_values *values)
{
    char *path = NULL;
    char *error = NULL;
    const char *name = values->instance ? values->instance : "default";
    int r = rundir_find(name, values->wait_ns, 1, &path, &error);
    free(path);
    return r ? command_error_text(error, name, r) : EXIT_DONE;
}

static int run_method(struct submit *submit, const struct submit_method *method)
{
    int status = method->run(submit);
    int r = output_flush(&submit->pump.out);
    return !status && r ? submit_broken(submit, r) : status;
}

/* Does not return where it got connected. */
static int connect_and_run(struct submit *submit, const struct submit_method *method)
{
    const struct submit_values *values = submit->values;
    struct sherd_client *client;
    char *error = NULL;
    uint32_t window = values->window ? values->window : PUMP_WINDOW;
    struct interrupt_watch watch;
    struct sherd_client_options how = {
        .instance = values->instance,
        .wait_ns = values->wait_ns,
        .window = window,
        .plane = SHERD_PLANE_CONTROL, /* which asks nobody how long an answer may be */
    };
    remote_apply(&values->remote, &how);
    interrupt_block();
    interrupt_watch_start(&watch);
    int r = sherd_client_open(&how, &client, &error);
    interrupt_watch_stop(&watch);
    if (r)
        return command_error_text(
            error, values->remote.url ? values->remote.url : "the gateway", r);
    r = pump_init(&submit->pump, client, window);
    int status = r ? submit_broken(submit, r) : run_method(submit, method);
    if (!r)
        pump_deinit(&submit->pump);
    fflush(NULL);
    _exit(status);
}

int submit_command(int argc, char **argv)
{
    struct submit_values values = {
        .wait_ns = COMMAND_WAIT_NS,
        .shard = SHERD_NO_SHARD,
        .count = SUBMIT_NOT_GIVEN,
        .offset = SUBMIT_NOT_GIVEN,
        .length = SUBMIT_NOT_GIVEN,
    };
    char **operands;
    int n = command_parse(&command, argc, argv, &values, &operands);
    if (n < 0)
        return command_exit_status(n);
    if (!n)
        return command_usage(&command, "which SERVICE.METHOD?");
    struct submit submit = {
        .values = &values,
        .method = operands[0],
        .operands = operands + 1,
        .n_operands = (size_t)n - 1,
    };
    const struct submit_method *method = find_method(submit.method);
    int status = check_usage(&submit, method);
    if (!status && !values.remote.url)
        status = find_instance(&values);
    if (status)
        return status;
    signal(SIGPIPE, SIG_IGN);
    return connect_and_run(&submit, method);
}
