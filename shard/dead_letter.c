/* SPDX-License-Identifier: MIT */
/*
 * A letter is written to a file of its writer's own and linked to its name when it is whole. The
 * first free name wins, whoever else writes one at the same time: link() refuses what is there.
 */
#include "shard/dead_letter.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "shard/segment.h"

static_assert(sizeof(struct dead_letter_head) == 528, "part of the ABI");

static void name_of(uint32_t number, char name[DEAD_LETTER_NAME_MAX])
{
    snprintf(name, DEAD_LETTER_NAME_MAX, "dead-letter-%u", number);
}

static int write_all(int fd, const void *data, size_t len)
{
    const char *at = data;

    while (len > 0) {
        ssize_t n = write(fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_letter(int fd, const struct dead_letter *letter)
{
    struct dead_letter_head head = letter->head;
    struct timespec now;
    int r;

    clock_gettime(CLOCK_REALTIME, &now);
    memcpy(head.magic, DEAD_LETTER_MAGIC, sizeof(head.magic));
    head.version = DEAD_LETTER_VERSION;
    head.head_bytes = sizeof(head);
    head.record_bytes = sizeof(struct crash_record);
    head.at_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    r = write_all(fd, &head, sizeof(head));
    if (r == 0)
        r = write_all(fd, letter->crashes, sizeof(letter->crashes));
    return r == 0 ? write_all(fd, letter->args, head.args_len) : r;
}

static int link_to_free_name(int dir_fd, const char *from, char ret_name[DEAD_LETTER_NAME_MAX])
{
    for (uint32_t number = 1; number <= DEAD_LETTERS_MAX; number++) {
        name_of(number, ret_name);
        if (linkat(dir_fd, from, dir_fd, ret_name, 0) == 0)
            return 0;
        if (errno != EEXIST)
            return -errno;
    }
    return -ENOSPC;
}

int dead_letter_write(
    const char *dir, const struct dead_letter *letter, char ret_name[DEAD_LETTER_NAME_MAX])
{
    char draft[48];
    int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int r, fd;

    if (dir_fd < 0)
        return -errno;
    snprintf(draft, sizeof(draft), ".dead-letter-%d-%p", (int)getpid(), (const void *)letter);
    fd = openat(dir_fd, draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    r = fd < 0 ? -errno : write_letter(fd, letter);
    if (fd >= 0) {
        close(fd);
        if (r == 0)
            r = link_to_free_name(dir_fd, draft, ret_name);
        unlinkat(dir_fd, draft, 0);
    }
    close(dir_fd);
    return r;
}

/* ---- reading ---- */

static char *path_of(const char *dir, uint32_t number)
{
    char name[DEAD_LETTER_NAME_MAX], *path;

    name_of(number, name);
    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

uint32_t dead_letter_list(const char *dir, uint32_t ret_numbers[DEAD_LETTERS_MAX])
{
    uint32_t n = 0;

    for (uint32_t number = 1; number <= DEAD_LETTERS_MAX; number++) {
        char *path = path_of(dir, number);
        if (path && access(path, F_OK) == 0)
            ret_numbers[n++] = number;
        free(path);
    }
    return n;
}

/* 0; -EPROTO where the file ends before. */
static int read_all(int fd, void *data, size_t len)
{
    char *at = data;

    while (len > 0) {
        ssize_t n = read(fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EPROTO;
        at += n;
        len -= (size_t)n;
    }
    return 0;
}

static bool head_is_sane(const struct dead_letter_head *head)
{
    return memcmp(head->magic, DEAD_LETTER_MAGIC, sizeof(head->magic)) == 0 &&
           head->version == DEAD_LETTER_VERSION && head->head_bytes == sizeof(*head) &&
           head->record_bytes == sizeof(struct crash_record) &&
           head->args_len <= SEGMENT_PAYLOAD_MAX;
}

/* The records as crash_record_read() has them: each is checked, and voided where it makes no
 * sense. */
static void check_crashes(struct dead_letter *letter)
{
    for (uint32_t i = 0; i < DEAD_LETTER_CRASHES; i++) {
        struct crash_record copy = {.kind = CRASH_NONE};
        if (crash_record_read(&letter->crashes[i], &copy) < 0)
            copy = (struct crash_record){.kind = CRASH_NONE};
        letter->crashes[i] = copy;
    }
}

static int read_letter(int fd, struct dead_letter **ret_letter)
{
    struct dead_letter_head head;
    struct dead_letter *letter;
    int r = read_all(fd, &head, sizeof(head));

    if (r < 0)
        return r;
    if (!head_is_sane(&head))
        return -EPROTO;
    letter = calloc(1, sizeof(*letter) + head.args_len);
    if (!letter)
        return -ENOMEM;
    letter->head = head;
    letter->head.method[sizeof(head.method) - 1] = '\0';
    letter->head.client_name[sizeof(head.client_name) - 1] = '\0';
    letter->head.executable[sizeof(head.executable) - 1] = '\0';
    letter->args = letter + 1;
    r = read_all(fd, letter->crashes, sizeof(letter->crashes));
    if (r == 0)
        r = read_all(fd, letter + 1, head.args_len);
    if (r < 0) {
        free(letter);
        return r;
    }
    check_crashes(letter);
    *ret_letter = letter;
    return 0;
}

int dead_letter_read(const char *dir, uint32_t number, struct dead_letter **ret_letter)
{
    char *path = path_of(dir, number);
    int r, fd;

    if (!path)
        return -ENOMEM;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    r = fd < 0 ? -errno : read_letter(fd, ret_letter);
    if (fd >= 0)
        close(fd);
    free(path);
    return r;
}

const char *dead_letter_peer(
    const struct dead_letter *letter, uint32_t peer, char *buf, size_t size)
{
    if (peer == letter->head.n_shards)
        snprintf(buf, size, "gateway");
    else
        snprintf(buf, size, "shard %u", peer);
    return buf;
}

void dead_letter_free(struct dead_letter *letter)
{
    free(letter);
}
