/* SPDX-License-Identifier: MIT */
/*
 * How long an instance takes to be ready, and what the death of a shard costs under load. Medians
 * and worst of several rounds. It judges too: exit status 1 where a median is above its limit, of
 * which that for the client's answer can be given.
 *
 *     bench_recovery SHERD [ROUNDS [LIMIT_MS]]        SHERD: the program, as build/sherd
 *
 * A process that was killed goes when the kernel has taken its memory from it, which its pidfd
 * tells. From then on it is the instance's doing: until the replacement has run its first method,
 * as it notes itself, and until the last peer has judged its calls.
 */
#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ipc/client/client.h"
#include "runtime/aio.h"
#include "runtime/atomic.h"
#include "shard/segment.h"

#define LOAD       256 /* calls in flight beside the one that is measured */
#define ROUNDS_MAX 1000
#define LIMIT_MS   50

/* X(name, what, limit in ms; 0: none, or as was given) */
#define FIGURES(X)                                               \
    X(ready, "start of 2 shards to ready", 0)                    \
    X(gone, "kill -9 under load until the kernel lets it go", 0) \
    X(served, "from there until the replacement has served", 20) \
    X(told, "from there until all its callers are told", 30)     \
    X(answer, "kill -9 under load to the replacement's answer at the client", LIMIT_MS)

enum figure {
#define X(name, what, limit) FIGURE_##name,
    FIGURES(X)
#undef X
        N_FIGURES
};

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
        request.flags = SHERD_TO_SHARD;
        request.shard = (uint32_t)sherd_client_in_flight(bench->client) % 2;
        sherd_client_submit(bench->client, &request, on_load, NULL, NULL);
    }
}

/* Returns when. */
static int64_t wait_until_gone(int pidfd)
{
    struct pollfd fd = {.fd = pidfd, .events = POLLIN};

    if (poll(&fd, 1, -1) != 1)
        die("the shard's pidfd", "can't be waited for");
    return aio_clock_ns();
}

/* The last of the peers; each has judged when its part says so. */
static int64_t told_ns(const struct bench *bench, uint32_t shard, uint32_t incarnation)
{
    int64_t last_ns = 0;

    for (uint32_t peer = 0; peer < bench->segment.n_peers; peer++) {
        const struct pair_stats *pair = segment_pair(&bench->segment, peer, shard);

        if (peer == shard)
            continue;
        while (atomic_load_acquire(&pair->judged_incarnation) <= incarnation)
            sched_yield();
        if ((int64_t)atomic_load_relaxed(&pair->judged_ns) > last_ns)
            last_ns = (int64_t)atomic_load_relaxed(&pair->judged_ns);
    }
    return last_ns;
}

static int64_t served_ns(const struct bench *bench, uint32_t shard)
{
    const struct part_head *part = segment_part(&bench->segment, shard);
    uint64_t at_ns;

    while (!(at_ns = atomic_load_relaxed(&part->served_ns)))
        sched_yield();
    return (int64_t)at_ns;
}

static void recover(struct bench *bench, uint32_t shard, double *ret_ms)
{
    struct sherd_request ping = {.method = "sys.ping", .shard = shard, .flags = SHERD_TO_SHARD};
    const struct peer_control *control = segment_control(&bench->segment, shard);
    uint32_t incarnation = control->incarnation;
    int pidfd = pidfd_open(control->pid, 0);
    int64_t begin_ns, gone_ns;

    for (int turn = 0; turn < 50; turn++) {
        keep_busy(bench);
        sherd_client_process(bench->client, 100000000);
    }
    kill(control->pid, SIGKILL);
    begin_ns = aio_clock_ns();
    gone_ns = wait_until_gone(pidfd);
    close(pidfd);
    /* An answer that the dead one had given already does not count. */
    do {
        bench->answered = false;
        sherd_client_submit(bench->client, &ping, on_measured, bench, NULL);
        while (!bench->answered)
            sherd_client_process(bench->client, 1000000000);
    } while (atomic_load_acquire(&control->incarnation) == incarnation);
    ret_ms[FIGURE_answer] = (double)(aio_clock_ns() - begin_ns) / 1e6;
    ret_ms[FIGURE_gone] = (double)(gone_ns - begin_ns) / 1e6;
    ret_ms[FIGURE_served] = (double)(served_ns(bench, shard) - gone_ns) / 1e6;
    ret_ms[FIGURE_told] = (double)(told_ns(bench, shard, incarnation) - gone_ns) / 1e6;
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

/* Whether the median keeps to the limit. */
static bool tell(enum figure figure, double (*rounds)[N_FIGURES], int n, double limit_ms)
{
    static const char *const whats[] = {
#define X(name, what, limit) what,
        FIGURES(X)
#undef X
    };
    double values[ROUNDS_MAX];

    for (int round = 0; round < n; round++)
        values[round] = rounds[round][figure];
    qsort(values, (size_t)n, sizeof(values[0]), by_value);
    printf("%-62s median %6.2f ms, worst %6.2f ms, of %d", whats[figure], values[n / 2],
        values[n - 1], n);
    double missed_by = limit_ms > 0 ? values[n / 2] / limit_ms - 1 : 0;
    if (limit_ms > 0)
        printf(", at most %g ms", limit_ms);
    if (missed_by > 0)
        printf(": missed by %.0f %%", ceil(missed_by * 100));
    else if (limit_ms > 0)
        printf(": reached");
    printf("\n");
    return missed_by <= 0;
}

int main(int argc, char **argv)
{
    struct bench bench = {.directory = "/tmp/sherd-bench-XXXXXX"};
    int n = argc > 2 ? atoi(argv[2]) : 20;
    double limits_ms[] = {
#define X(name, what, limit) limit,
        FIGURES(X)
#undef X
    };
    static double rounds[ROUNDS_MAX][N_FIGURES];
    bool ok = true;

    if (argc > 3)
        limits_ms[FIGURE_answer] = atof(argv[3]);
    if (argc < 2 || argc > 4 || n < 1 || n > ROUNDS_MAX || limits_ms[FIGURE_answer] <= 0)
        die("usage", "bench_recovery SHERD [ROUNDS [LIMIT_MS]]");
    bench.sherd = argv[1];
    if (!mkdtemp(bench.directory))
        die(bench.directory, "can't be made");
    setenv("SHERD_RUNTIME_DIR", bench.directory, 1);
    for (int round = 0; round < n; round++) {
        begin_instance(&bench);
        open_instance(&bench);
        rounds[round][FIGURE_ready] = ready_ms(&bench);
        if (round < n - 1)
            end_instance(&bench);
    }
    for (int round = 0; round < n; round++)
        recover(&bench, (uint32_t)round % 2, rounds[round]);
    end_instance(&bench);
    remove_directory(&bench);
    for (int figure = 0; figure < N_FIGURES; figure++)
        ok &= tell((enum figure)figure, rounds, n, limits_ms[figure]);
    if (!ok)
        fprintf(stderr, "bench_recovery: a median is above its limit\n");
    return ok ? 0 : 1;
}
