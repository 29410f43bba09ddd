/* SPDX-License-Identifier: MIT */
/*
 * How long an instance takes to be ready, and, under load, from kill -9 of a shard to the first
 * answer of its replacement. Medians and worst of several rounds. It judges too: exit status 1
 * where the median of the latter is above LIMIT_MS, or what was given for that.
 *
 *     bench_recovery SHERD [ROUNDS [LIMIT_MS]]        SHERD: the program, as build/sherd
 */
#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ipc/client/client.h"
#include "runtime/aio.h"
#include "runtime/atomic.h"
#include "shard/segment.h"

#define LOAD       256 /* calls in flight beside the one that is measured */
#define ROUNDS_MAX 1000
#define LIMIT_MS   50

struct bench {
    const char *sherd;
    char directory[64];
    pid_t supervisor;
    struct sherd_client *client;
    struct segment segment;
    bool answered;
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_recovery: %s: %s\n", what, why);
    exit(1);
}

static void begin_instance(struct bench *bench)
{
    bench->supervisor = fork();
    assert(bench->supervisor >= 0);
    if (bench->supervisor == 0) {
        int null_fd = open("/dev/null", O_RDWR);
        dup2(null_fd, STDERR_FILENO);
        execl(bench->sherd, "sherd", "run", "--instance", "bench", "--shards", "2", (char *)NULL);
        _exit(127);
    }
}

static void open_instance(struct bench *bench)
{
    struct sherd_client_options options = {.instance = "bench", .wait_ns = INT64_C(5000000000)};
    char path[PATH_MAX], *error = NULL;
    const char *why;

    if (sherd_client_open(&options, &bench->client, &error) < 0)
        die("can't reach the instance", error ? error : "no reason given");
    snprintf(path, sizeof(path), "%s/bench/segment", bench->directory);
    if (segment_open(&bench->segment, path, &why) < 0)
        die(path, why);
}

static void end_instance(struct bench *bench)
{
    sherd_client_close(bench->client);
    segment_close(&bench->segment);
    kill(bench->supervisor, SIGTERM);
    waitpid(bench->supervisor, NULL, 0);
}

/* The supervisor's own figure: from the top of its life to the last child's being up. */
static double ready_ms(const struct bench *bench)
{
    const struct supervisor_head *head = segment_supervisor(&bench->segment);

    while (!atomic_load_acquire(&head->ready_ns))
        sched_yield();
    return (double)(head->ready_ns - head->started_ns) / 1e6;
}

static void on_load(const struct sherd_result *result, void *opaque)
{
    (void)result;
    (void)opaque;
}

static void on_measured(const struct sherd_result *result, void *opaque)
{
    struct bench *bench = opaque;

    if (result->end != SHERD_END_DONE)
        die("sys.ping", sherd_end_text(result->end));
    bench->answered = true;
}

static void keep_busy(struct bench *bench)
{
    struct sherd_request request = {.method = "sys.echo", .args = "load", .args_len = 4};

    while (sherd_client_in_flight(bench->client) < LOAD) {
        request.shard = (uint32_t)sherd_client_in_flight(bench->client) % 2;
        sherd_client_submit(bench->client, &request, on_load, NULL, NULL);
    }
}

static double recover_ms(struct bench *bench, uint32_t shard)
{
    struct sherd_request ping = {.method = "sys.ping", .shard = shard};
    const struct peer_control *control = segment_control(&bench->segment, shard);
    uint32_t incarnation = control->incarnation;
    int64_t begin_ns;

    for (int turn = 0; turn < 50; turn++) {
        keep_busy(bench);
        sherd_client_process(bench->client, 100000000);
    }
    kill(control->pid, SIGKILL);
    begin_ns = aio_clock_ns();
    /* An answer that the dead one had given already does not count. */
    do {
        bench->answered = false;
        sherd_client_submit(bench->client, &ping, on_measured, bench, NULL);
        while (!bench->answered)
            sherd_client_process(bench->client, 1000000000);
    } while (atomic_load_acquire(&control->incarnation) == incarnation);
    return (double)(aio_clock_ns() - begin_ns) / 1e6;
}

/* An instance that ended in order leaves its lock file, and the folders to it. */
static void remove_directory(const struct bench *bench)
{
    static const char *const left[] = {"/bench/lock", "/bench", ""};
    char path[PATH_MAX];

    for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++) {
        snprintf(path, sizeof(path), "%s%s", bench->directory, left[i]);
        remove(path);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Returns the median. */
static double tell(const char *what, double *values, int n)
{
    qsort(values, (size_t)n, sizeof(values[0]), by_value);
    printf("%-52s median %6.1f ms, worst %6.1f ms, of %d\n", what, values[n / 2], values[n - 1], n);
    return values[n / 2];
}

int main(int argc, char **argv)
{
    struct bench bench = {.directory = "/tmp/sherd-bench-XXXXXX"};
    int n = argc > 2 ? atoi(argv[2]) : 20;
    double limit_ms = argc > 3 ? atof(argv[3]) : LIMIT_MS;
    double ready[ROUNDS_MAX], recovery[ROUNDS_MAX];

    if (argc < 2 || argc > 4 || n < 1 || n > ROUNDS_MAX || limit_ms <= 0)
        die("usage", "bench_recovery SHERD [ROUNDS [LIMIT_MS]]");
    bench.sherd = argv[1];
    if (!mkdtemp(bench.directory))
        die(bench.directory, "can't be made");
    setenv("SHERD_RUNTIME_DIR", bench.directory, 1);
    for (int round = 0; round < n; round++) {
        begin_instance(&bench);
        open_instance(&bench);
        ready[round] = ready_ms(&bench);
        if (round < n - 1)
            end_instance(&bench);
    }
    for (int round = 0; round < n; round++)
        recovery[round] = recover_ms(&bench, (uint32_t)round % 2);
    end_instance(&bench);
    remove_directory(&bench);
    tell("start of 2 shards to ready", ready, n);
    if (tell("kill -9 under load to the replacement's answer", recovery, n) > limit_ms) {
        fprintf(stderr, "bench_recovery: that median is above %g ms\n", limit_ms);
        return 1;
    }
    return 0;
}
