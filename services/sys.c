/* SPDX-License-Identifier: MIT */
#include "services/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/*
 * Arguments are decimal text or a word, not protobuf messages, so that `sherd submit sys.sleep 100`
 * needs to know nothing of the method.
 */

#define SLEEP_MAX_MS (24u * 3600 * 1000)
#define SPIN_MAX_MS  60000u
#define EAT_MAX_MIB  65536u
#define WANDER_MAX   1000u
#define NS_PER_MS    1000000LL

/* Digits that make up a number of at most max. False: they are something else. */
static bool parse_digits(const char *text, size_t len, uint32_t max, uint32_t *ret)
{
    uint64_t number = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        number = number * 10 + (uint64_t)(text[i] - '0');
        if (number > max)
            return false;
    }
    *ret = (uint32_t)number;
    return len > 0;
}

/* All of the arguments. */
static bool parse_number(const struct service_call *call, uint32_t max, uint32_t *ret)
{
    size_t len;
    const char *text = service_args(call, &len);
    return parse_digits(text, len, max, ret);
}

static int coroutine_fn run_ping(struct service_call *call)
{
    return service_reply(call, NULL, 0);
}

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);
    return service_reply(call, args, len);
}

/* Sleeps no longer than somebody waits for the answer. */
static int coroutine_fn run_sleep(struct service_call *call)
{
    uint32_t ms;
    if (!parse_number(call, SLEEP_MAX_MS, &ms)) {
        return service_fail(call, -EINVAL,
            "sys.sleep: the argument is the time in milliseconds, 0 to %u", SLEEP_MAX_MS);
    }
    int r = service_sleep_ns(call, ms * NS_PER_MS);
    if (r == -ETIMEDOUT)
        return service_fail(call, r, "sys.sleep: the deadline came before %u ms were over", ms);
    return r < 0 ? r : service_reply(call, NULL, 0);
}

static void print_method(
    FILE *out, const char *service, uint32_t number, const struct service_method *method)
{
    fprintf(out, "%s.%s\t%s%s%s\t%" PRIu32 "\t%s\n", service, method->name,
        method->flags & SERVICE_IDEMPOTENT ? "idempotent" : "once",
        (method->flags & SERVICE_READ_ONLY) == SERVICE_READ_ONLY ? ",read-only" : "",
        method->flags & SERVICE_TEST ? ",test" : "", number, method->help ? method->help : "");
}

static int coroutine_fn run_methods(struct service_call *call)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return -ENOMEM;
    uint32_t n_methods = service_n_methods(call);
    for (uint32_t i = 0; i < n_methods; i++) {
        const char *service;
        const struct service_method *method = service_method_at(call, i, &service);
        if (method)
            print_method(out, service, i, method);
    }
    int r = fclose(out) == 0 ? service_reply(call, text, len) : -ENOMEM;
    free(text);
    return r;
}

static void die_by_segv(void)
{
    raise(SIGSEGV);
}

/* By itself, and not by a signal sent. */
static void die_by_fault(void)
{
    int *volatile nowhere = (int *)(uintptr_t)16;

    *(volatile int *)nowhere = 1;
}

#define RAISES(X)         \
    X(die_by_bus, SIGBUS) \
    X(die_by_ill, SIGILL) \
    X(die_by_fpe, SIGFPE) \
    X(die_by_sys, SIGSYS)

#define X(name, signum)    \
    static void name(void) \
    {                      \
        raise(signum);     \
    }
RAISES(X)
#undef X

/* Not a tail call, and not a loop: what it returns is used afterwards. */
static int recurse(volatile int *depth)
{
    volatile int below = *depth + 1;

    return below < INT_MAX ? recurse(&below) + *depth : 0;
}

static void die_by_overflow(void)
{
    volatile int depth = 0;

    exit(recurse(&depth));
}

static void die_by_kill(void)
{
    raise(SIGKILL);
}

static void die_by_exit(void)
{
    _exit(3);
}

/* X(word, how) */
#define DEATHS(X)                  \
    X("abort", abort)              \
    X("segv", die_by_segv)         \
    X("fault", die_by_fault)       \
    X("bus", die_by_bus)           \
    X("ill", die_by_ill)           \
    X("fpe", die_by_fpe)           \
    X("sys", die_by_sys)           \
    X("overflow", die_by_overflow) \
    X("kill", die_by_kill)         \
    X("exit", die_by_exit)

static int coroutine_fn run_crash(struct service_call *call)
{
    static const struct {
        const char *word;
        void (*die)(void);
    } deaths[] = {
#define X(word, die) {word, die},
        DEATHS(X)
#undef X
    };
    size_t len;
    const char *word = service_args(call, &len);
    if (len == 0)
        abort();
    for (size_t i = 0; i < sizeof(deaths) / sizeof(deaths[0]); i++)
        if (strlen(deaths[i].word) == len && memcmp(deaths[i].word, word, len) == 0)
            deaths[i].die();
#define X(text, die) " " text
    return service_fail(call, -EINVAL, "sys.crash: the argument is one of:" DEATHS(X));
#undef X
}

/* The same, asleep in the kernel. */
static int coroutine_fn run_block(struct service_call *call)
{
    uint32_t ms;
    if (!parse_number(call, SPIN_MAX_MS, &ms)) {
        return service_fail(call, -EINVAL,
            "sys.block: the argument is the time in milliseconds, 0 to %u", SPIN_MAX_MS);
    }
    struct timespec left = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * NS_PER_MS};
    while (nanosleep(&left, &left) < 0 && errno == EINTR) {
    }
    return service_reply(call, NULL, 0);
}

/* Does what a service must not: keeps the loop from everything else. */
static int coroutine_fn run_spin(struct service_call *call)
{
    uint32_t ms;
    if (!parse_number(call, SPIN_MAX_MS, &ms)) {
        return service_fail(call, -EINVAL,
            "sys.spin: the argument is the time in milliseconds, 0 to %u", SPIN_MAX_MS);
    }
    int64_t end_ns = aio_clock_ns() + ms * NS_PER_MS;
    while (aio_clock_ns() < end_ns) {
    }
    return service_reply(call, NULL, 0);
}

/* A wild write, wherever it hits: the byte that is there anyway. */
static int coroutine_fn run_poke(struct service_call *call)
{
    char text[24] = "", *end = text;
    size_t len;
    const char *args = service_args(call, &len);
    if (len < sizeof(text))
        memcpy(text, args, len);
    uint64_t address = strtoull(text, &end, 16);
    if (end == text || *end != '\0')
        return service_fail(call, -EINVAL, "sys.poke: the argument is an address, in hexadecimal");
    volatile uint8_t *byte = (volatile uint8_t *)(uintptr_t)address;
    *byte = *byte;
    return service_reply(call, NULL, 0);
}

/* Takes memory, and gives it back at the end, if it comes that far. */
static int coroutine_fn run_eat(struct service_call *call)
{
    uint32_t mib;
    if (!parse_number(call, EAT_MAX_MIB, &mib)) {
        return service_fail(
            call, -EINVAL, "sys.eat: the argument is a size in MiB, 0 to %u", EAT_MAX_MIB);
    }
    size_t bytes = (size_t)mib << 20;
    uint8_t *memory = malloc(bytes);
    if (!memory)
        return service_fail(call, -ENOMEM, "sys.eat: there are no %u MiB", mib);
    for (volatile uint8_t *page = memory; page < memory + bytes; page += 4096)
        *page = 1;
    free(memory);
    return service_reply(call, NULL, 0);
}

/* One write, which goes to the end of the file whoever else writes there. */
static int append_line(const char *path, const char *text, size_t len)
{
    struct iovec parts[] = {{(void *)text, len}, {"\n", 1}};
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    ssize_t n = writev(fd, parts, 2);
    int r = n < 0 ? -errno : (size_t)n == len + 1 ? 0 : -EIO;
    close(fd);
    return r;
}

/* Leaves a trace of each run, so that a request that was run twice can be told. */
static int coroutine_fn run_note(struct service_call *call)
{
    size_t len;
    const char *args = service_args(call, &len);
    const char *space = len ? memchr(args, ' ', len) : NULL;
    if (!space)
        return service_fail(
            call, -EINVAL, "sys.note: the arguments are a path, a space and a text");
    const char *text = space + 1;
    size_t text_len = len - (size_t)(text - args);
    char *path = strndup(args, (size_t)(space - args));
    if (!path)
        return -ENOMEM;
    int r = append_line(path, text, text_len);
    free(path);
    if (r < 0)
        return service_fail(call, r, "sys.note: %s", strerror(-r));
    return service_reply(call, text, text_len);
}

/* "SHARD BYTES": that shard's answer to sys.echo BYTES. */
static int coroutine_fn run_relay(struct service_call *call)
{
    size_t len, i = 0;
    const char *args = service_args(call, &len);
    uint64_t shard = 0;
    void *data = NULL;
    size_t data_len;
    for (; i < len && args[i] >= '0' && args[i] <= '9' && shard < UINT32_MAX; i++)
        shard = shard * 10 + (uint64_t)(args[i] - '0');
    if (i == 0 || (i < len && args[i] != ' ') || shard >= service_n_shards(call)) {
        return service_fail(call, -EINVAL,
            "sys.relay: the arguments are a shard, 0 to %u, a space, and what it is to echo",
            service_n_shards(call) - 1);
    }
    if (i < len)
        i++;
    int r =
        service_call_shard(call, (uint32_t)shard, "sys.echo", args + i, len - i, &data, &data_len);
    if (r == 0)
        r = service_reply(call, data, data_len);
    else
        r = service_fail(call, r, "sys.relay: shard %u: %s", (unsigned)shard, strerror(-r));
    free(data);
    return r;
}

/* "ROUNDS MS", either left out; false: something else. */
static bool parse_wander(const struct service_call *call, uint32_t *rounds, uint32_t *ms)
{
    size_t len, word;
    const char *text = service_args(call, &len);
    const char *space = len ? memchr(text, ' ', len) : NULL;
    word = space ? (size_t)(space - text) : len;
    return (len == 0 || parse_digits(text, word, WANDER_MAX, rounds)) &&
           (!space || parse_digits(space + 1, len - word - 1, SLEEP_MAX_MS, ms));
}

static int coroutine_fn hop(struct service_call *call, uint32_t shard, uint64_t *n_moves)
{
    uint32_t before = service_shard(call);
    int r = service_move(call, shard % service_n_shards(call));
    *n_moves += service_shard(call) != before;
    return r == -EHOSTDOWN || r == -ENOTSUP ? 0 : r;
}

/*
 * Goes round all shards, ROUNDS times, sleeps in the next, and answers from home with how often it
 * moved. What it keeps on its stack has to come along: where it does not, the answer is an error. A
 * shard that is given up is passed over; where nothing can move at all, it stays.
 */
static int coroutine_fn run_wander(struct service_call *call)
{
    uint32_t rounds = 1, ms = 0, n_shards = service_n_shards(call), home = service_shard(call);
    volatile uint32_t luggage[16];
    uint64_t n_moves = 0;
    char text[24] = ""; /* nothing stale comes along: --scan-moves goes by values */
    int r = 0;
    if (!parse_wander(call, &rounds, &ms))
        return service_fail(call, -EINVAL,
            "sys.wander: the arguments are how often it goes round, 0 to %u, and for how many "
            "milliseconds it stays in the next shard",
            WANDER_MAX);
    for (uint32_t i = 0; i < 16; i++)
        luggage[i] = home + i;
    for (uint32_t n = 1; n <= rounds * n_shards && r == 0 && service_is_wanted(call); n++)
        r = hop(call, home + n, &n_moves);
    if (ms > 0 && r == 0)
        r = hop(call, home + 1, &n_moves);
    if (ms > 0 && r == 0)
        r = service_sleep_ns(call, ms * NS_PER_MS);
    for (uint32_t i = 0; i < 16; i++)
        if (luggage[i] != home + i)
            return service_fail(call, -EILSEQ, "sys.wander: its stack has changed on its way");
    if (r < 0)
        return r;
    int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)n_moves);
    return service_reply(call, text, (size_t)n);
}

/* sys.note's, which may be written to. */
static int configure(void **config, const char *key, const char *value, char **ret_error)
{
    char *folder;

    if (strcmp(key, "notes") != 0) {
        if (asprintf(ret_error, "sys has no setting %s; it has notes", key) < 0)
            *ret_error = NULL;
        return -EINVAL;
    }
    folder = strdup(value);
    if (!folder)
        return -ENOMEM;
    free(*config);
    *config = folder;
    return 0;
}

static int reach(const void *config, struct service_reach *reach)
{
    return service_reach_path(reach, config, true);
}

static const struct service_method methods[] = {
    {"ping", run_ping, SERVICE_READ_ONLY, "answers with nothing"},
    {"echo", run_echo, SERVICE_READ_ONLY, "answers with its arguments"},
    {"sleep", run_sleep, SERVICE_READ_ONLY, "MS: answers after MS milliseconds"},
    {"relay", run_relay, SERVICE_IDEMPOTENT, "SHARD BYTES: answers with what that shard echoes"},
    {"wander", run_wander, SERVICE_IDEMPOTENT | SERVICE_PORTABLE,
        "[ROUNDS [MS]]: goes on in one shard after the other, and answers with how often it moved"},
    {"methods", run_methods, SERVICE_READ_ONLY, "lists the methods: name, kind, number, help"},
    {"crash", run_crash, SERVICE_TEST | SERVICE_PORTABLE,
        "[abort|segv|fault|...]: ends the shard so"},
    {"crash_again", run_crash, SERVICE_TEST | SERVICE_IDEMPOTENT,
        "[abort|segv|fault|...]: the same, and may be run again"},
    {"block", run_block, SERVICE_TEST | SERVICE_IDEMPOTENT,
        "MS: keeps the shard in a system call for MS ms"},
    {"spin", run_spin, SERVICE_TEST | SERVICE_IDEMPOTENT, "MS: keeps the shard busy for MS ms"},
    {"poke", run_poke, SERVICE_TEST, "ADDRESS: writes there, whosever memory it is"},
    {"note", run_note, SERVICE_TEST,
        "PATH TEXT: adds TEXT and a new line to the file, and answers with TEXT; --set "
        "sys.notes=FOLDER"},
    {"eat", run_eat, SERVICE_TEST, "MIB: takes so much memory, and gives it back"},
};

const struct service sys_service = {
    .abi = SERVICE_ABI,
    .name = "sys",
    .help = "asks a shard about itself",
    .methods = methods,
    .n_methods = sizeof(methods) / sizeof(methods[0]),
    .configure = configure,
    .discard = free,
    .reach = reach,
};
