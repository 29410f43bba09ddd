/* SPDX-License-Identifier: MIT */
/*
 * A line is put together in memory of its own length and written by one write(2) if it is not
 * longer than PIPE_BUF, so that lines of several processes do not mix.
 *
 * The log never stops the work: a supervisor that waits for the reader of its log replaces nobody.
 * So a pipe or terminal is asked first whether it takes PIPE_BUF bytes now; what it does not take
 * is dropped, and counted in the next line that comes through. (The fd itself stays as it is: other
 * programs may share its O_NONBLOCK.)
 *
 * Texts carry names that clients chose, so control characters are written as \n, \t or \xNN: an
 * event stays one line.
 */
#include "shard/log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* X(name, text, syslog priority) */
#define LEVELS(X)            \
    X(ERROR, "error", 3)     \
    X(WARNING, "warning", 4) \
    X(NOTICE, "notice", 5)   \
    X(INFO, "info", 6)       \
    X(DEBUG, "debug", 7)

static const struct level {
    const char *text;
    int priority;
} levels[] = {
#define X(name, text, priority) [LOG_LEVEL_##name] = {text, priority},
    LEVELS(X)
#undef X
};

#define N_LEVELS (sizeof(levels) / sizeof(levels[0]))

const char *log_level_text(enum log_level level)
{
    return (size_t)level < N_LEVELS ? levels[level].text : "unknown";
}

int log_level_parse(const char *text, enum log_level *ret_level)
{
    for (size_t i = 0; i < N_LEVELS; i++) {
        if (strcmp(text, levels[i].text) == 0) {
            *ret_level = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* Whether fd is the stream that systemd connected to its journal: "device:inode". */
static bool is_journal(int fd)
{
    const char *stream = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat st;

    return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 && fstat(fd, &st) == 0 &&
           st.st_dev == device && st.st_ino == inode;
}

void log_init(struct log *log, int fd, enum log_level level)
{
    *log = (struct log){.fd = fd, .level = level, .journal = is_journal(fd)};
    log_process(log, "supervisor");
}

void log_process(struct log *log, const char *process)
{
    snprintf(log->process, sizeof(log->process), "%s", process);
    log->last[0] = '\0';
    log->repeats = 0;
}

static bool takes_more(int fd)
{
    struct pollfd pfd = {.fd = fd, .events = POLLOUT};

    return poll(&pfd, 1, 0) == 1 && (pfd.revents & POLLOUT);
}

/* False where not all of it was taken. */
static bool write_whole(int fd, const char *line, size_t len)
{
    while (len > 0) {
        if (!takes_more(fd))
            return false;
        ssize_t n = write(fd, line, len < PIPE_BUF ? len : PIPE_BUF);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        line += n;
        len -= (size_t)n;
    }
    return true;
}

static void put_escaped(FILE *out, const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p; p++)
        if (*p == '\n')
            fputs("\\n", out);
        else if (*p == '\t')
            fputs("\\t", out);
        else if (*p < ' ' || *p == 0x7f)
            fprintf(out, "\\x%02x", *p);
        else
            fputc(*p, out);
}

static void put_time(FILE *out)
{
    struct timespec now;
    struct tm tm;
    char text[32];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    fprintf(out, "%s.%03ldZ ", text, now.tv_nsec / 1000000);
}

static void put_head(const struct log *log, enum log_level level, FILE *out)
{
    if (log->journal)
        fprintf(out, "<%d>", levels[level].priority);
    else
        put_time(out);
    fprintf(out, "%s %s ", log->process, levels[level].text);
}

static void put_dropped(const struct log *log, FILE *out)
{
    put_head(log, LOG_LEVEL_WARNING, out);
    fprintf(out, "(%llu lines before this one were lost: nobody read them)\n",
        (unsigned long long)log->dropped);
}

static void emit(struct log *log, enum log_level level, const char *text)
{
    char *line = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&line, &len);

    if (!out)
        return;
    if (log->dropped)
        put_dropped(log, out);
    put_head(log, level, out);
    put_escaped(out, text);
    fputc('\n', out);
    if (fclose(out) != 0 || !write_whole(log->fd, line, len))
        log->dropped++;
    else
        log->dropped = 0;
    free(line);
}

void log_from_signal(const struct log *log, enum log_level level, const char *text)
{
    char prefix[] = {'<', (char)('0' + levels[level].priority), '>', '\0'};
    const char *parts[] = {
        log->journal ? prefix : "", log->process, " ", levels[level].text, " ", text, "\n"};
    enum { N_PARTS = sizeof parts / sizeof *parts };
    struct iovec line[N_PARTS];

    for (int i = 0; i < N_PARTS; i++)
        line[i] =
            (struct iovec){.iov_base = (char *)(uintptr_t)parts[i], .iov_len = strlen(parts[i])};
    /* Nothing can be done about an error here. */
    ssize_t n = writev(log->fd, line, N_PARTS);
    (void)n;
}

void log_flush(struct log *log)
{
    char text[64];

    if (log->repeats == 0)
        return;
    snprintf(
        text, sizeof(text), "(the line before, %llu times more)", (unsigned long long)log->repeats);
    log->repeats = 0;
    emit(log, log->last_level, text);
}

/* Texts too long to be remembered never count as repeated. */
static void remember(struct log *log, enum log_level level, const char *text)
{
    size_t len = strlen(text);

    if (len >= sizeof(log->last))
        len = 0;
    memcpy(log->last, text, len);
    log->last[len] = '\0';
    log->last_level = level;
}

void log_line(struct log *log, enum log_level level, const char *format, ...)
{
    char *text = NULL;
    va_list args;

    if (level > log->level || (size_t)level >= N_LEVELS)
        return;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    if (!text)
        return;
    if (log->last[0] && log->last_level == level && strcmp(text, log->last) == 0) {
        log->repeats++;
    } else {
        log_flush(log);
        remember(log, level, text);
        emit(log, level, text);
    }
    free(text);
}
