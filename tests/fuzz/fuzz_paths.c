/* SPDX-License-Identifier: MIT */
/*
 * Paths that clients write, under two roots, one of which may be written to, with links of every
 * kind between them and out of them. Whatever is opened lies in a root, and what is opened for
 * writing, or made, in the writable one.
 *
 * Input: a byte of flags, then the path, up to a NUL. A path that does not begin with a slash is
 * taken from the folder around the roots.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "services/file_walk.h"
#include "tests/fuzz/fuzz.h"

#define PATH_BYTES 300

static const struct {
    const char *name;
    const char *target; /* of a link; NULL: a file; "": a folder. "@" is the folder around all */
} tree[] = {
    {"ro", ""},
    {"rw", ""},
    {"secret", ""},
    {"secret/key", NULL},
    {"ro/file", NULL},
    {"ro/sub", ""},
    {"ro/sub/file", NULL},
    {"rw/file", NULL},
    {"rw/sub", ""},
    {"rw/sub/deep", ""},
    {"rw/sub/deep/file", NULL},
    {"ro/out", "../secret"},
    {"ro/out_absolute", "@/secret"},
    {"ro/over", "../rw"},
    {"ro/over_absolute", "@/rw/sub"},
    {"rw/over", "../ro/sub"},
    {"rw/out", "../secret/key"},
    {"rw/loop", "loop2"},
    {"rw/loop2", "@/rw/loop"},
    {"rw/up", ".."},
    {"rw/self", "."},
    {"rw/magic", "/proc/self/root"},
    {"rw/new", "@/secret/new"},
    {"secret/back", "@/rw"},
};

static char *around;
static struct file_roots *roots;

static void make_entry(size_t i)
{
    char path[PATH_MAX], target[PATH_MAX];
    const char *to = tree[i].target;

    snprintf(path, sizeof(path), "%s/%s", around, tree[i].name);
    if (!to) {
        int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        assert(fd >= 0);
        close(fd);
    } else if (*to == '\0') {
        assert(mkdir(path, 0700) == 0);
    } else {
        snprintf(target, sizeof(target), "%s%s", *to == '@' ? around : "", to + (*to == '@'));
        assert(symlink(target, path) == 0);
    }
}

static void remove_tree(void)
{
    char command[PATH_MAX + 32];

    file_roots_free(roots);
    snprintf(command, sizeof(command), "rm -rf '%s'", around);
    assert(system(command) == 0);
    free(around);
}

static void add_root(struct file_roots **config, const char *name)
{
    char spec[PATH_MAX];

    snprintf(spec, sizeof(spec), "%s/%s", around, name);
    assert(file_roots_add(config, spec, NULL) == 0);
}

static void make_tree(void)
{
    const char *tmp = getenv("TMPDIR");
    char name[PATH_MAX];
    struct file_roots *config = NULL;

    snprintf(name, sizeof(name), "%s/sherd-fuzz-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    assert(mkdtemp(name));
    around = realpath(name, NULL);
    assert(around);
    for (size_t i = 0; i < sizeof(tree) / sizeof(*tree); i++)
        make_entry(i);
    add_root(&config, "ro");
    add_root(&config, "rw:rw");
    assert(file_roots_open(config, &roots) == 0);
    file_roots_free(config);
    atexit(remove_tree);
}

static uint64_t flags_of(uint8_t byte)
{
    static const int modes[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDONLY | O_PATH};
    uint64_t flags = (uint64_t)modes[byte & 3] | O_NONBLOCK | O_NOCTTY;

    flags |= byte & 4 ? O_CREAT : 0;
    flags |= byte & 8 ? O_DIRECTORY : 0;
    flags |= byte & 16 ? O_TRUNC : 0;
    flags |= byte & 32 ? O_NOFOLLOW : 0;
    return flags;
}

/* Where fd is, below `around`; or NULL: not there. */
static const char *place_of(int fd)
{
    static char real[PATH_MAX];
    char link[64];
    size_t len = strlen(around);

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, real, sizeof(real) - 1);
    assert(n > 0);
    real[n] = '\0';
    return strncmp(real, around, len) == 0 && real[len] == '/' ? real + len : NULL;
}

static void check_fd(int fd, uint64_t flags)
{
    const char *place = place_of(fd);

    assert(place && (strncmp(place, "/ro", 3) == 0 || strncmp(place, "/rw", 3) == 0));
    assert(place[3] == '\0' || place[3] == '/');
    if ((flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)))
        assert(strncmp(place, "/rw", 3) == 0);
}

/* What inputs have made is taken away again, so that each finds the same tree. */
static void forget_made(int fd, const struct stat *before)
{
    struct stat st;

    if (before->st_nlink == 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%s%s", around, place_of(fd));
        unlink(path);
    }
}

void fuzz_one(const uint8_t *data, size_t len)
{
    struct fuzz_bytes bytes = {data, len};
    uint64_t flags = flags_of((uint8_t)fuzz_number(&bytes, 1));
    char path[PATH_BYTES + PATH_MAX];
    struct stat before = {0};

    if (!roots)
        make_tree();
    struct fuzz_bytes text = fuzz_take(&bytes, PATH_BYTES);
    int n = snprintf(path, sizeof(path), "%s", text.len && text.at[0] == '/' ? "" : around);
    if (n > 0)
        path[n++] = '/';
    memcpy(path + n, text.at, text.len);
    path[n + (int)text.len] = '\0';

    struct file_walk walk = {.roots = roots, .path = path, .flags = flags, .mode = 0600};
    if (stat(path, &before) < 0)
        before.st_nlink = 0;
    int fd = file_walk_open(&walk);
    if (fd >= 0) {
        check_fd(fd, flags);
        forget_made(fd, &before);
        close(fd);
    } else {
        assert(fd > -4096);
        assert(fd != -EXDEV || walk.outside);
        assert(fd != -EROFS || walk.root);
    }
    file_walk_deinit(&walk);
}
