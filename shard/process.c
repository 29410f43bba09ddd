/* SPDX-License-Identifier: MIT */
#include "shard/process.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Field 22 of "PID (NAME) STATE …"; the name may hold anything, so fields are counted from its
 * last ')'. */
static int parse_stat(const char *line, uint64_t *ret_ticks)
{
    const char *p = strrchr(line, ')');
    char state;
    unsigned long long ticks;

    if (!p ||
        sscanf(p + 1,
            " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu",
            &state, &ticks) != 2)
        return -EPROTO;
    if (state == 'Z' || state == 'X')
        return -ESRCH;
    *ret_ticks = ticks;
    return 0;
}

int process_start_ticks(pid_t pid, uint64_t *ret_ticks)
{
    char path[64], *line = NULL;
    size_t size = 0;
    FILE *file;
    int r;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    file = fopen(path, "re");
    if (!file)
        return errno == ENOENT ? -ESRCH : -errno;
    /* A name may hold newlines; everything up to the end is the record. */
    r = getdelim(&line, &size, '\0', file) < 0 ? -ESRCH : parse_stat(line, ret_ticks);
    free(line);
    fclose(file);
    return r;
}

static void put_thread_name(FILE *out, const char *tid, const char *separator)
{
    char path[300], name[64] = "unknown";
    FILE *file;

    snprintf(path, sizeof(path), "/proc/self/task/%s/comm", tid);
    file = fopen(path, "re");
    if (file) {
        if (fgets(name, sizeof(name), file))
            name[strcspn(name, "\n")] = '\0';
        fclose(file);
    }
    fprintf(out, "%s%s", separator, name);
}

int process_is_single_threaded(char **ret_names)
{
    char own[24];
    char *names = NULL;
    size_t size = 0;
    unsigned n_others = 0;
    DIR *dir;
    FILE *out;

    dir = opendir("/proc/self/task");
    if (!dir)
        return -errno;
    out = open_memstream(&names, &size);
    snprintf(own, sizeof(own), "%d", (int)gettid());
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, own) == 0)
            continue;
        if (out)
            put_thread_name(out, entry->d_name, n_others ? ", " : "");
        n_others++;
    }
    closedir(dir);
    if (out && fclose(out) != 0) {
        free(names);
        names = NULL;
    }
    if (n_others == 0) {
        free(names);
        return 1;
    }
    *ret_names = out ? names : NULL;
    return 0;
}
