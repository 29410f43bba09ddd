/* SPDX-License-Identifier: MIT */
/*
 * sys.ping, sys.methods, and all methods without a command line of their own.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/clock.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/submit.h"
#include "tools/table.h"
#include "tools/text.h"

/* ---- sys.ping ---- */

struct ping_job {
    struct submit *submit;
    uint64_t n;
    int64_t least_ns, most_ns, sum_ns;
    uint32_t shard; /* of the latest answer */
};

static int make_ping(void *opaque, const struct name *name, struct sherd_request *ret_request)
{
    struct ping_job *job = opaque;
    *ret_request = submit_request(job->submit);
    return 0;
}

static bool ping_ended(
    void *opaque, const char *name, int64_t round_trip_ns, const struct sherd_result *result)
{
    struct ping_job *job = opaque;
    if (result->end != SHERD_END_DONE)
        return submit_failed(job->submit, NULL, NULL, result);
    if (!job->n || round_trip_ns < job->least_ns)
        job->least_ns = round_trip_ns;
    if (round_trip_ns > job->most_ns)
        job->most_ns = round_trip_ns;
    job->sum_ns += round_trip_ns;
    job->shard = result->shard;
    job->n++;
    return true;
}

static void print_pings(const struct ping_job *job, int64_t took_ns)
{
    char count[TEXT_FIGURE], took[TEXT_FIGURE], least[TEXT_FIGURE], mean[TEXT_FIGURE],
        most[TEXT_FIGURE], rate[TEXT_FIGURE];
    FILE *out = job->submit->pump.out.stream;
    if (job->n == 1) {
        fprintf(out, "pong from shard %u in %s\n", job->shard,
            text_duration((uint64_t)job->least_ns, least));
        return;
    }
    fprintf(out, "%s pongs in %s, %s/s; round trip %s at least, %s on average, %s at most\n",
        text_exact(job->n, count), text_duration((uint64_t)took_ns, took),
        text_exact((uint64_t)((double)job->n * NS_PER_S / (double)took_ns), rate),
        text_duration((uint64_t)job->least_ns, least),
        text_duration((uint64_t)job->sum_ns / job->n, mean),
        text_duration((uint64_t)job->most_ns, most));
}

int submit_ping(struct submit *submit)
{
    struct ping_job job = {.submit = submit};
    struct pump_job pump_job = {.make = make_ping, .ended = ping_ended, .opaque = &job};
    int64_t begun_ns = clock_now_ns();
    int status = submit_run(submit, &pump_job, "pings");
    if (job.n)
        print_pings(&job, clock_now_ns() - begun_ns);
    return status;
}

/* ---- sys.methods ---- */

/* Its answer is a line a method, of four fields with tabs between them: name, kind, number,
 * help. */
static void print_method_table(char *text, FILE *out)
{
    struct table t;
    table_init(&t, "<<<");
    table_cell(&t, "METHOD");
    table_cell(&t, "AFTER A DEATH");
    table_cell(&t, "ARGUMENTS AND ANSWER");
    for (char *line; (line = strsep(&text, "\n"));) {
        const char *name = strsep(&line, "\t");
        const char *kind = strsep(&line, "\t");
        strsep(&line, "\t");
        if (!*name)
            continue;
        table_cell(&t, "%s", name);
        table_cell(&t, "%s", !kind ? "" : strstr(kind, "once") ? "in doubt" : "run again");
        table_cell(&t, "%s", line ? line : "");
    }
    table_print(&t, out);
    table_deinit(&t);
}

int submit_methods(struct submit *submit)
{
    struct sherd_result result;
    struct sherd_request request = submit_request(submit);
    int r = pump_call(&submit->pump, &request, &result);
    if (r)
        return submit_broken(submit, r);
    int status = EXIT_DONE;
    char *text = NULL;
    if (result.end != SHERD_END_DONE) {
        submit_failed(submit, NULL, NULL, &result);
        status = EXIT_WORK_FAILED;
    } else if (!(text = strndup((const char *)result.data, result.len))) {
        status = submit_broken(submit, -ENOMEM);
    } else {
        print_method_table(text, submit->pump.out.stream);
    }
    free(text);
    sherd_result_deinit(&result);
    return status;
}

/* ---- any other method ---- */

struct raw_job {
    struct submit *submit;
    bool has_lines; /* a new line behind each answer */
};

static int make_raw(void *opaque, const struct name *name, struct sherd_request *ret_request)
{
    struct raw_job *job = opaque;
    *ret_request = submit_request(job->submit);
    ret_request->args = name->bytes;
    ret_request->args_len = name->len;
    return 0;
}

static bool raw_ended(
    void *opaque, const char *name, int64_t round_trip_ns, const struct sherd_result *result)
{
    struct raw_job *job = opaque;
    if (result->end != SHERD_END_DONE)
        return submit_failed(job->submit, job->submit->n_operands > 1 ? name : NULL, NULL, result);
    FILE *out = job->submit->pump.out.stream;
    if (result->len)
        fwrite(result->data, 1, result->len, out);
    if (job->has_lines)
        putc('\n', out);
    return true;
}

/* All of standard input as one argument. 0; -EMSGSIZE; -EINTR; -errno. */
static int read_argument(struct submit *submit, char *bytes, size_t *ret_len)
{
    size_t len = 0;
    for (;;) {
        int r = pump_wait_readable(&submit->pump, STDIN_FILENO);
        if (r)
            return r;
        ssize_t n = read(STDIN_FILENO, bytes + len, SHERD_PAYLOAD_MAX + 1 - len);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0)
            len += (size_t)n;
        if (len > SHERD_PAYLOAD_MAX)
            return -EMSGSIZE;
        if (n == 0) {
            *ret_len = len;
            return 0;
        }
    }
}

static int call_with_input(struct submit *submit, struct raw_job *job)
{
    struct sherd_result result;
    struct sherd_request request = submit_request(submit);
    char *bytes = malloc(SHERD_PAYLOAD_MAX + 1);
    if (!bytes)
        return submit_broken(submit, -ENOMEM);
    request.args = bytes;
    int r = read_argument(submit, bytes, &request.args_len);
    if (!r)
        r = pump_call(&submit->pump, &request, &result);
    free(bytes);
    if (r == -EMSGSIZE)
        return command_error("%s: standard input holds more than an argument may: %zu bytes",
            submit->method, SHERD_PAYLOAD_MAX);
    if (r)
        return submit_broken(submit, r);
    bool is_done = raw_ended(job, "", 0, &result);
    sherd_result_deinit(&result);
    return is_done ? EXIT_DONE : EXIT_WORK_FAILED;
}

int submit_raw(struct submit *submit)
{
    bool has_input = submit->n_operands == 1 && !strcmp(submit->operands[0], "-");
    struct raw_job job = {
        .submit = submit,
        .has_lines = isatty(STDOUT_FILENO) || submit->n_operands > 1 || submit->values->is_zero ||
                     (submit->values->count != SUBMIT_NOT_GIVEN && submit->values->count > 1),
    };
    struct pump_job pump_job = {.make = make_raw, .ended = raw_ended, .opaque = &job};
    if (has_input && !submit->values->is_zero)
        return call_with_input(submit, &job);
    return submit_run(submit, &pump_job, "calls");
}
