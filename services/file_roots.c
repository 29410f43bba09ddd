/* SPDX-License-Identifier: MIT */
#include "services/file_roots.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "services/file_mounts.h"
#include "shard/explain.h"

/*
 * A root has two names: the one given, by which people write paths, and the real one, by which
 * links lead there: with --root /lib, where /lib is a link to usr/lib, both /lib/x and /usr/lib/x
 * are in it.
 *
 * Names are compared component by component, so that "/usr//./lib" is found under /usr/lib and
 * "/usr/library" is not. A ".." in a path matches no component: what is before it may be a link, so
 * only who follows links knows where it leads.
 */

static void root_deinit(struct file_root *root)
{
    free(root->name);
    free(root->real);
    if (root->fd >= 0)
        close(root->fd);
}

void file_roots_free(struct file_roots *roots)
{
    if (!roots)
        return;
    for (uint32_t i = 0; i < roots->n_roots; i++)
        root_deinit(&roots->roots[i]);
    if (roots->slash_fd >= 0)
        close(roots->slash_fd);
    file_mounts_free(roots->mounts);
    free(roots->roots);
    free(roots);
}

/* ---- comparing names ---- */

static const char *skip_slashes(const char *path)
{
    while (path[0] == '/' || (path[0] == '.' && (path[1] == '/' || path[1] == '\0')))
        path++;
    return path;
}

/* What of path comes after name, or NULL where it does not begin with it. */
static const char *after_name(const char *name, const char *path)
{
    path = skip_slashes(path);
    while (*name != '\0') {
        name++; /* each component of a name is a slash and its letters */
        size_t len = strcspn(name, "/");
        if (strcspn(path, "/") != len || memcmp(path, name, len) != 0)
            return NULL;
        name += len;
        path = skip_slashes(path + len);
    }
    return path;
}

const struct file_root *file_roots_find(
    const struct file_roots *roots, const char *path, const char **ret_rest)
{
    const struct file_root *found = NULL;
    const char *found_rest = NULL;
    for (uint32_t i = 0; i < roots->n_roots; i++) {
        const struct file_root *root = &roots->roots[i];
        const char *rest = after_name(root->name, path);
        if (!rest)
            rest = after_name(root->real, path);
        if (rest && (!found_rest || rest > found_rest)) {
            found = root;
            found_rest = rest;
        }
    }
    if (found)
        *ret_rest = found_rest;
    return found;
}

/* ---- the supervisor's set ---- */

/* dir made absolute and without // . and a slash at the end; NULL where it has a ".." or there is
 * no memory. */
static char *clean_name(const char *dir)
{
    char *cwd = dir[0] == '/' ? NULL : getcwd(NULL, 0);
    char *name = NULL;
    if (dir[0] != '/' && !cwd)
        return NULL;
    if (asprintf(&name, "%s/%s", cwd ? cwd : "", dir) < 0)
        name = NULL;
    free(cwd);
    if (!name)
        return NULL;
    /* What is written never passes what is read. */
    char *to = name;
    for (const char *from = skip_slashes(name); *from != '\0';) {
        size_t len = strcspn(from, "/");
        if (len == 2 && memcmp(from, "..", 2) == 0) {
            free(name);
            return NULL;
        }
        *to++ = '/';
        memmove(to, from, len);
        to += len;
        from = skip_slashes(from + len);
    }
    *to = '\0';
    return name;
}

/* The folder's part of spec; *ret_writable from its end. */
static char *parse_spec(const char *spec, bool *ret_writable)
{
    size_t len = strlen(spec);
    *ret_writable = len > 3 && strcmp(spec + len - 3, ":rw") == 0;
    if (*ret_writable || (len > 3 && strcmp(spec + len - 3, ":ro") == 0))
        len -= 3;
    return strndup(spec, len);
}

static int check_folder(const char *dir, char **ret_error)
{
    if (dir[0] == '\0')
        return explain(ret_error, -EINVAL, "no folder is named");
    int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        int error = -errno;
        return explain(ret_error, error, "%s: %s", dir, strerrordesc_np(-error));
    }
    close(fd);
    if (access(dir, X_OK) < 0) {
        int error = -errno;
        return explain(ret_error, error, "%s: can't be entered: %s", dir, strerrordesc_np(-error));
    }
    return 0;
}

static bool is_below(const struct file_root *inner, const struct file_root *outer)
{
    const char *rest = after_name(outer->real, inner->real);
    return rest && *rest != '\0';
}

static void mark_mixed(struct file_roots *roots)
{
    for (uint32_t i = 0; i < roots->n_roots; i++) {
        struct file_root *root = &roots->roots[i];
        root->is_mixed = false;
        for (uint32_t k = 0; k < roots->n_roots; k++) {
            const struct file_root *other = &roots->roots[k];
            root->is_mixed |= root->writable && !other->writable && is_below(other, root);
        }
    }
}

/* consumes root. 0 or -ENOMEM. */
static int put_root(struct file_roots **roots, struct file_root root)
{
    if (!*roots) {
        *roots = calloc(1, sizeof(**roots));
        if (!*roots) {
            root_deinit(&root);
            return -ENOMEM;
        }
        (*roots)->slash_fd = -EBADF;
    }
    for (uint32_t i = 0; i < (*roots)->n_roots; i++) {
        struct file_root *other = &(*roots)->roots[i];
        if (strcmp(other->real, root.real) == 0 && strcmp(other->name, root.name) == 0) {
            root_deinit(other);
            *other = root;
            return 0;
        }
    }
    struct file_root *grown = reallocarray((*roots)->roots, (*roots)->n_roots + 1, sizeof(*grown));
    if (!grown) {
        root_deinit(&root);
        return -ENOMEM;
    }
    grown[(*roots)->n_roots++] = root;
    (*roots)->roots = grown;
    return 0;
}

static int add_folder(struct file_roots **roots, const char *dir, bool writable, char **ret_error)
{
    int r = check_folder(dir, ret_error);
    if (r < 0)
        return r;
    struct file_root root = {.writable = writable, .fd = -EBADF};
    char *real = realpath(dir, NULL);
    if (!real) {
        int error = -errno;
        return explain(ret_error, error, "%s: %s", dir, strerrordesc_np(-error));
    }
    root.real = clean_name(real);
    root.name = clean_name(dir);
    if (!root.name)
        root.name = clean_name(real); /* a .. in it: people will write what it means */
    free(real);
    if (!root.real || !root.name) {
        root_deinit(&root);
        return explain(ret_error, -ENOMEM, "no memory");
    }
    r = put_root(roots, root);
    if (r < 0)
        return explain(ret_error, r, "no memory");
    mark_mixed(*roots);
    return 0;
}

int file_roots_add(struct file_roots **roots, const char *spec, char **ret_error)
{
    bool writable;
    char *dir = parse_spec(spec, &writable);
    if (!dir)
        return explain(ret_error, -ENOMEM, "no memory");
    int r = add_folder(roots, dir, writable, ret_error);
    free(dir);
    return r;
}

/* ---- a shard's set ---- */

/* O_PATH, or -errno. */
static int open_folder(const char *path)
{
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int copy_root(const struct file_root *from, struct file_root *ret_root)
{
    struct file_root root = *from;
    root.name = strdup(from->name);
    root.real = strdup(from->real);
    root.fd = open_folder(*from->real ? from->real : "/");
    if (!root.name || !root.real) {
        root_deinit(&root);
        return -ENOMEM;
    }
    *ret_root = root;
    return 0;
}

int file_roots_open(const struct file_roots *config, struct file_roots **ret_roots)
{
    struct file_roots *roots = calloc(1, sizeof(*roots));
    if (!roots)
        return -ENOMEM;
    roots->slash_fd = open_folder("/");
    uint32_t n_roots = config ? config->n_roots : 0;
    roots->roots = n_roots > 0 ? calloc(n_roots, sizeof(*roots->roots)) : NULL;
    roots->mounts = file_mounts_new();
    int r = !roots->mounts || (n_roots > 0 && !roots->roots) ? -ENOMEM : 0;
    for (uint32_t i = 0; r == 0 && i < n_roots; i++) {
        r = copy_root(&config->roots[i], &roots->roots[i]);
        roots->n_roots += r == 0;
    }
    if (r < 0) {
        file_roots_free(roots);
        return r;
    }
    *ret_roots = roots;
    return 0;
}

char *file_roots_list(const struct file_roots *roots)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return NULL;
    for (uint32_t i = 0; i < roots->n_roots; i++) {
        const struct file_root *root = &roots->roots[i];
        fprintf(out, "%s%s%s", i > 0 ? ", " : "", *root->name ? root->name : "/",
            root->writable ? ":rw" : "");
    }
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
