/* SPDX-License-Identifier: MIT */
#include "services/file_walk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * The walk keeps two texts: `base`, an absolute path without links that lies in a root, and `todo`,
 * what is still to be walked from there. Each turn takes one component off todo:
 *
 *   name    is a link: its text goes before todo; where that is absolute, base starts anew
 *           is no link, or missing and about to be created: appended to base
 *   ..      takes the last component off base, which holds no link, so that is its parent
 *
 * Base may lie outside of all roots for a while, because the way from root to root often does: with
 * the roots /usr and /etc, /usr/bin/ld.so leads to /lib64/ld-linux-x86-64.so.2, and /lib64 to
 * usr/lib64. There, links are looked at and nothing is opened, and whatever goes wrong is told as
 * "leads outside", with the path by which the walk left: callers learn nothing of what is there.
 *
 * Nothing here is trusted to stay as it was seen. Every component is looked up from the root's fd
 * with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, so somebody who exchanges a folder for a link
 * meanwhile makes the walk fail and never escape. Since base has no links, the root that holds it
 * by name is the one that holds the file: its :ro or :rw decides.
 */

#define RESOLVE_STRICT (RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS)

struct walk_state {
    struct file_walk *walk;
    char *base;
    char *todo;
    const char *next;             /* in todo */
    const struct file_root *root; /* &outside: none */
    const char *rest;             /* of base in root */
    uint32_t n_links;
    struct file_root outside; /* from which base is looked up there */
};

static void state_deinit(struct walk_state *state)
{
    free(state->base);
    free(state->todo);
}

uint64_t file_walk_kernel_flags(uint64_t flags)
{
    return (flags & O_PATH ? flags & ~(uint64_t)O_ACCMODE : flags) | O_CLOEXEC;
}

bool file_walk_writes(uint64_t flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
}

static int open_beneath(
    const struct file_root *root, const char *rest, uint64_t flags, uint32_t mode)
{
    if (root->fd < 0)
        return root->fd;
    struct open_how how = {
        .flags = file_walk_kernel_flags(flags), .mode = mode, .resolve = RESOLVE_STRICT};
    long fd = syscall(SYS_openat2, root->fd, *rest ? rest : ".", &how, sizeof(how));
    return fd < 0 ? -errno : (int)fd;
}

/* The two texts as one path. NULL: no memory. */
static char *join(const char *first, const char *second)
{
    char *text;
    return asprintf(&text, "%s/%s", first, second + strspn(second, "/")) < 0 ? NULL : text;
}

/* Base is outside of the roots; by which path it came there is kept. */
static int leave_roots(struct walk_state *state)
{
    if (state->root != &state->outside) {
        free(state->walk->outside);
        state->walk->outside = join(state->base, state->next);
    }
    state->root = &state->outside;
    state->rest = state->base + strspn(state->base, "/");
    return state->walk->outside ? 0 : -ENOMEM;
}

/* The base is `base` from now on, a path without links. consumes it. */
static int set_base(struct walk_state *state, char *base)
{
    const char *rest;
    const struct file_root *root = file_roots_find(state->walk->roots, base, &rest);
    /* By the root's real name, should it have been found by one that is a link. */
    char *real = !root ? base : *rest ? join(root->real, rest) : strdup(root->real);
    size_t rest_len = root ? strlen(rest) : 0;
    if (root)
        free(base);
    free(state->base);
    state->base = real;
    if (!real)
        return -ENOMEM;
    if (!root)
        return leave_roots(state);
    state->root = root;
    state->rest = real + strlen(real) - rest_len;
    return 0;
}

/* Goes on with the absolute path todo, from the root it names, else from "/". consumes it; NULL is
 * no memory. */
static int start_anew(struct walk_state *state, char *todo)
{
    if (!todo)
        return -ENOMEM;
    const char *rest = todo;
    const struct file_root *root = file_roots_find(state->walk->roots, todo, &rest);
    free(state->todo);
    state->todo = todo;
    state->next = rest;
    char *base = strdup(root ? root->real : "");
    return base ? set_base(state, base) : -ENOMEM;
}

static int go_up(struct walk_state *state)
{
    char *base = strdup(state->base);
    if (!base)
        return -ENOMEM;
    char *slash = strrchr(base, '/');
    if (slash)
        *slash = '\0';
    return set_base(state, base); /* "/.." is "/" */
}

/* The text of the link that fd is. NULL: errno says. */
static char *read_link(int fd)
{
    char text[PATH_MAX]; /* no link is longer */
    ssize_t len = readlinkat(fd, "", text, sizeof(text));
    return len < 0 ? NULL : strndup(text, (size_t)len);
}

static int follow_link(struct walk_state *state, int fd)
{
    if (++state->n_links > FILE_WALK_LINKS_MAX)
        return -ELOOP;
    char *target = read_link(fd);
    if (!target)
        return -errno;
    char *todo = *state->next ? join(target, state->next) : strdup(target);
    free(target);
    if (!todo)
        return -ENOMEM;
    if (todo[0] == '/')
        return start_anew(state, todo);
    free(state->todo);
    state->todo = todo;
    state->next = todo;
    return 0;
}

/* The component that base becomes as `base`, a new text, which is consumed. */
static int enter_component(struct walk_state *state, char *base)
{
    const char *rest;
    const struct file_root *root = file_roots_find(state->walk->roots, base, &rest);
    if (!root) {
        root = &state->outside;
        rest = base + strspn(base, "/");
    }
    int fd = open_beneath(root, rest, O_PATH | O_NOFOLLOW, 0);
    if (fd == -ENOENT && *state->next == '\0' && (state->walk->flags & O_CREAT))
        return set_base(state, base);
    if (fd < 0) {
        free(base);
        return fd;
    }
    struct stat st;
    int r = fstat(fd, &st) < 0 ? -errno : 0;
    if (r == 0 && S_ISLNK(st.st_mode)) {
        free(base);
        r = follow_link(state, fd);
    } else if (r == 0 && *state->next != '\0' && !S_ISDIR(st.st_mode)) {
        free(base);
        r = -ENOTDIR;
    } else if (r == 0) {
        r = set_base(state, base);
    } else {
        free(base);
    }
    close(fd);
    return r;
}

/* Takes one component off todo, and leaves the slash that may come after it: who has one must be a
 * folder. */
static int step(struct walk_state *state)
{
    const char *name = state->next + strspn(state->next, "/");
    size_t len = strcspn(name, "/");
    state->next = name + len;
    if (len == 0 || (len == 1 && name[0] == '.'))
        return 0;
    if (len == 2 && name[0] == '.' && name[1] == '.')
        return go_up(state);
    char *base;
    if (asprintf(&base, "%s/%.*s", state->base, (int)len, name) < 0)
        return -ENOMEM;
    return enter_component(state, base);
}

/* The end of the walk: opens what base is. */
static int open_base(const struct walk_state *state)
{
    struct file_walk *walk = state->walk;
    if (file_walk_writes(walk->flags) && !state->root->writable) {
        walk->root = state->root;
        return -EROFS;
    }
    return open_beneath(
        state->root, state->rest, walk->flags, walk->flags & O_CREAT ? walk->mode : 0);
}

int file_walk_open(struct file_walk *walk)
{
    struct walk_state state = {
        .walk = walk, .outside = {.name = "", .real = "", .fd = walk->roots->slash_fd}};
    int r = start_anew(&state, strdup(walk->path));
    while (r == 0 && *state.next != '\0')
        r = step(&state);
    if (state.root == &state.outside && r != -ENOMEM)
        r = -EXDEV;
    else if (r == 0)
        r = open_base(&state);
    state_deinit(&state);
    return r;
}

void file_walk_deinit(struct file_walk *walk)
{
    free(walk->outside);
    walk->outside = NULL;
}
