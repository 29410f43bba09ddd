/* SPDX-License-Identifier: MIT */
/*
 * The lock is one of an open file description (F_OFD_SETLK): as with flock() every forked child
 * holds it too, and the last to go releases it; but whether somebody holds it can be asked without
 * taking it, so that a tool that looks never makes a `sherd run` fail.
 *
 * rundir_find() waits by inotify on the nearest folder that exists on the way to the instance's
 * directory, and looks again at whatever happens there. What it waits for is partly a word in the
 * segment, which inotify does not see; so the daemon touches its lock file after each change
 * (rundir_announce()). A user has 128 inotify instances by default; where they are used up, it
 * looks every 20 ms.
 */
#include "shard/rundir.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "shard/explain.h"
#include "shard/process.h"
#include "shard/segment.h"

#define NS_PER_S UINT64_C(1000000000)
#define LOOK_NS  (20 * 1000 * 1000) /* between two looks where no event is to be had */

/* Orphans leave within 5 s. */
#define ORPHANS_NS (6 * (long long)NS_PER_S)

/* ---- paths ---- */

static bool name_is_valid(const char *name)
{
    size_t len = strlen(name);

    if (len < 1 || len > RUNDIR_NAME_MAX || name[0] == '.' || name[0] == '-')
        return false;
    for (const char *p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("-_.", *p))
            return false;
    return true;
}

/* The folder that holds all instances. ret_is_shared: it lies where anybody may make one. */
static int parent_path(char **ret_path, bool *ret_is_shared)
{
    const char *own = getenv("SHERD_RUNTIME_DIR"), *session = getenv("XDG_RUNTIME_DIR");
    char *path = NULL;
    int n;

    *ret_is_shared = false;
    if (own && own[0] == '/') {
        n = asprintf(&path, "%s", own);
    } else if (own && own[0]) {
        char *cwd = getcwd(NULL, 0);
        n = cwd ? asprintf(&path, "%s/%s", cwd, own) : -1;
        free(cwd);
    } else if (session && session[0] == '/') {
        n = asprintf(&path, "%s/sherd", session);
    } else if (geteuid() == 0) {
        n = asprintf(&path, "/run/sherd");
    } else {
        n = asprintf(&path, "/tmp/sherd-%u", (unsigned)geteuid());
        *ret_is_shared = true;
    }
    if (n < 0)
        return -ENOMEM;
    *ret_path = path;
    return 0;
}

/* Whether path is a folder of ours alone. 0; -ENOENT: there is none; -EACCES. */
static int check_owner(const char *path, char **ret_error)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? -ENOENT
                               : explain(ret_error, -errno, "runtime directory %s: %m", path);
    if (!S_ISDIR(st.st_mode))
        return explain(ret_error, -EACCES, "runtime directory %s: it is no directory", path);
    if (st.st_uid != geteuid())
        return explain(ret_error, -EACCES,
            "runtime directory %s: it belongs to user %u; set SHERD_RUNTIME_DIR to one of your own",
            path, (unsigned)st.st_uid);
    if (st.st_mode & 022)
        return explain(ret_error, -EACCES,
            "runtime directory %s: others may write to it; chmod 700 it, or set SHERD_RUNTIME_DIR",
            path);
    return 0;
}

/* Whether nobody else could put a folder of his own in place of one in path. 0; -ENOENT;
 * -EACCES. */
static int check_parent(const char *path, char **ret_error)
{
    struct stat st;

    if (stat(path, &st) < 0)
        return errno == ENOENT ? -ENOENT
                               : explain(ret_error, -errno, "runtime directory %s: %m", path);
    if (st.st_mode & 022 && !(st.st_mode & S_ISVTX))
        return explain(ret_error, -EACCES,
            "runtime directory %s: others may replace what is in it; chmod 700 it, or set "
            "SHERD_RUNTIME_DIR",
            path);
    return 0;
}

int rundir_path(const char *instance, char **ret_path, char **ret_error)
{
    char *parent, *path = NULL;
    bool is_shared;
    int r;

    if (!name_is_valid(instance))
        return explain(ret_error, -EINVAL,
            "instance name '%s': 1 to %u letters, digits, '-', '_' and '.', with no '-' or '.' in "
            "front",
            instance, RUNDIR_NAME_MAX);
    r = parent_path(&parent, &is_shared);
    if (r < 0)
        return explain(ret_error, r, "runtime directory: %s", strerror(-r));
    r = is_shared ? check_owner(parent, ret_error) : check_parent(parent, ret_error);
    if (r == 0 || r == -ENOENT) {
        r = asprintf(&path, "%s/%s", parent, instance) < 0 ? -ENOMEM : 0;
        if (r == 0)
            *ret_path = path;
        else
            explain(ret_error, r, "runtime directory: %s", strerror(-r));
    }
    free(parent);
    return r;
}

static char *file_in(const char *dir, const char *name)
{
    char *path = NULL;

    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

/* ---- the lock ---- */

static struct flock whole_file(short type)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET};
}

/* Makes the folders on the way that are not there, and the last one. */
static int make_folders(char *path)
{
    for (char *p = path + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        int r = mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
        *p = '/';
        if (r < 0)
            return r;
    }
    return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static long long now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * (long long)NS_PER_S + now.tv_nsec;
}

/* Whose pid is in the lock; 0: nobody who lives. */
static int living_holder(int lock_fd)
{
    char text[24] = "";
    ssize_t n = pread(lock_fd, text, sizeof(text) - 1, 0);
    int pid = n > 0 ? atoi(text) : 0;
    uint64_t ticks;

    return pid > 0 && process_start_ticks(pid, &ticks) == 0 ? pid : 0;
}

static int refuse_second(const char *instance, int pid, char **ret_error)
{
    if (pid > 0)
        return explain(ret_error, -EBUSY,
            "instance %s runs already, supervisor %d; stop it (sherd stop --instance %s) or choose "
            "another --instance",
            instance, pid, instance);
    return explain(ret_error, -EBUSY,
        "instance %s: its supervisor is gone, but processes of it are still there; end them (pgrep "
        "sherd), or choose another --instance",
        instance);
}

/* Those whose supervisor was killed, or that are being killed right now, are waited for. No event
 * tells that a lock was released, so it looks every 20 ms. */
static int lock_once_free(const char *instance, int fd, char **ret_error)
{
    long long deadline_ns = now_ns() + ORPHANS_NS;
    struct flock lock = whole_file(F_WRLCK);

    while (fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        if (errno != EAGAIN && errno != EACCES)
            return explain(ret_error, -errno, "lock of instance %s: %m", instance);
        int pid = living_holder(fd);
        if (pid > 0 || now_ns() >= deadline_ns)
            return refuse_second(instance, pid, ret_error);
        poll(NULL, 0, LOOK_NS / 1000000);
    }
    return 0;
}

static int take_lock(const char *instance, const char *dir, int *ret_fd, char **ret_error)
{
    char *path = file_in(dir, "lock");
    int r, fd;

    if (!path)
        return explain(ret_error, -ENOMEM, "runtime directory %s: %s", dir, strerror(ENOMEM));
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    r = fd < 0 ? explain(ret_error, -errno, "lock %s: %m", path) : 0;
    if (r == 0)
        r = lock_once_free(instance, fd, ret_error);
    if (r == 0 && (ftruncate(fd, 0) < 0 || dprintf(fd, "%d\n", (int)getpid()) < 0))
        r = explain(ret_error, -errno, "lock %s: %m", path);
    if (r == 0)
        *ret_fd = fd;
    else if (fd >= 0)
        close(fd);
    free(path);
    return r;
}

int rundir_claim(const char *instance, char **ret_path, int *ret_lock_fd, char **ret_error)
{
    char *path;
    int r;

    r = rundir_path(instance, &path, ret_error);
    if (r < 0)
        return r;
    r = make_folders(path);
    if (r < 0)
        explain(ret_error, r, "can't make runtime directory %s: %s; set SHERD_RUNTIME_DIR", path,
            strerror(-r));
    if (r == 0)
        r = check_owner(path, ret_error);
    if (r == 0)
        r = take_lock(instance, path, ret_lock_fd, ret_error);
    if (r < 0) {
        free(path);
        return r;
    }
    *ret_path = path;
    return 0;
}

/* Root follows no way that somebody else could have laid: each folder, and each link, on it is
 * root's or that user's, and nobody else may exchange what is in it. */
static int check_step(const char *path, uid_t uid, char **ret_error)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return explain(ret_error, -errno, "runtime directory %s: %m", path);
    if (st.st_uid != 0 && st.st_uid != uid)
        return explain(ret_error, -EACCES,
            "runtime directory %s: it belongs to user %u, not to root or to user %u; set "
            "SHERD_RUNTIME_DIR to another",
            path, (unsigned)st.st_uid, (unsigned)uid);
    return S_ISLNK(st.st_mode) ? 0 : check_parent(path, ret_error);
}

/* Makes path where it is not there; what is new becomes theirs. */
static int make_for(const char *path, uid_t uid, gid_t gid, char **ret_error)
{
    if (mkdir(path, 0700) == 0)
        return lchown(path, uid, gid) < 0 ? -errno : 0;
    return errno == EEXIST ? check_step(path, uid, ret_error) : -errno;
}

/* The last folder becomes theirs, also where it was there before: as itself, and no link or file by
 * its name. */
static int give(const char *path, uid_t uid, gid_t gid)
{
    int r, fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    r = fchown(fd, uid, gid) < 0 ? -errno : 0;
    close(fd);
    return r;
}

int rundir_hand_over(const char *instance, uid_t uid, gid_t gid, char **ret_error)
{
    char *path;
    int r;

    unsetenv("XDG_RUNTIME_DIR"); /* root's own */
    if (!getenv("SHERD_RUNTIME_DIR"))
        return 0;
    r = rundir_path(instance, &path, ret_error);
    if (r < 0)
        return r;
    for (char *p = path + 1; r == 0 && *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        r = make_for(path, uid, gid, ret_error);
        *p = '/';
    }
    if (r == 0)
        r = make_for(path, uid, gid, ret_error);
    if (r == 0)
        r = give(path, uid, gid);
    if (r < 0 && ret_error && !*ret_error)
        explain(ret_error, r, "runtime directory %s for user %u: %s", path, (unsigned)uid,
            strerror(-r));
    free(path);
    return r;
}

void rundir_announce(int lock_fd)
{
    futimens(lock_fd, NULL);
}

int rundir_is_live(const char *path)
{
    struct flock lock = whole_file(F_WRLCK);
    char *name = file_in(path, "lock");
    int r, fd;

    if (!name)
        return -ENOMEM;
    fd = open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    r = fd < 0 ? -errno : 0;
    free(name);
    if (r < 0)
        return r == -ENOENT || r == -ENOTDIR ? 0 : r;
    r = fcntl(fd, F_OFD_GETLK, &lock) < 0 ? -errno : lock.l_type != F_UNLCK;
    close(fd);
    return r;
}

/* ---- which there are ---- */

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void free_names(char **names)
{
    for (size_t i = 0; names && names[i]; i++)
        free(names[i]);
    free(names);
}

/* Adds a copy of name to the array of n names. */
static int add_name(char ***names, size_t *n, const char *name)
{
    char **grown = reallocarray(*names, *n + 2, sizeof(**names));

    if (!grown)
        return -ENOMEM;
    *names = grown;
    grown[*n] = strdup(name);
    if (!grown[*n])
        return -ENOMEM;
    grown[++*n] = NULL;
    return 0;
}

static int list_live(const char *parent, DIR *dir, char ***names, size_t *n)
{
    int r = 0;

    for (struct dirent *entry; r == 0 && (entry = readdir(dir));) {
        if (!name_is_valid(entry->d_name))
            continue;
        char *path = file_in(parent, entry->d_name);
        if (!path)
            return -ENOMEM;
        if (rundir_is_live(path) == 1)
            r = add_name(names, n, entry->d_name);
        free(path);
    }
    return r;
}

int rundir_list(char ***ret_names)
{
    char *parent, **names = calloc(1, sizeof(*names));
    size_t n = 0;
    bool is_shared;
    DIR *dir;
    int r;

    if (!names)
        return -ENOMEM;
    r = parent_path(&parent, &is_shared);
    if (r == 0) {
        dir = opendir(parent);
        if (dir) {
            r = list_live(parent, dir, &names, &n);
            closedir(dir);
        } else if (errno != ENOENT) {
            r = -errno;
        }
        free(parent);
    }
    if (r < 0) {
        free_names(names);
        return r;
    }
    qsort(names, n, sizeof(*names), compare_names);
    *ret_names = names;
    return 0;
}

/* ---- finding one ---- */

/* A supervisor that was killed leaves its words behind, so its process has to be there too. */
static bool supervisor_is_ready(const struct segment *seg)
{
    const struct supervisor_head *head = segment_supervisor(seg);
    uint64_t ticks;

    return atomic_load_acquire(&head->ready_ns) != 0 && /* READY: supervisor.c */
           process_start_ticks(head->pid, &ticks) == 0 && ticks == head->pid_start_ticks;
}

static bool is_there(const char *dir, bool wait_ready)
{
    char *path = file_in(dir, "segment");
    struct segment seg;
    const char *why;
    bool there = false;

    if (path && rundir_is_live(dir) == 1 && segment_open(&seg, path, &why) == 0) {
        there = !wait_ready || supervisor_is_ready(&seg);
        segment_close(&seg);
    } else if (path && !wait_ready && rundir_is_live(dir) == 1) {
        /* There, though of another build: whoever opens it says so by name. */
        there = access(path, R_OK) == 0;
    }
    free(path);
    return there;
}

/* A claim makes the lock before the segment, and nobody takes it away again: whether this instance
 * lives cannot be told. */
static bool lacks_lock(const char *dir)
{
    char *lock = file_in(dir, "lock"), *segment = file_in(dir, "segment");
    bool lacks =
        lock && segment && access(segment, F_OK) == 0 && access(lock, F_OK) < 0 && errno == ENOENT;

    free(lock);
    free(segment);
    return lacks;
}

/* Watches dir, or the nearest folder above it that exists. */
static int watch_nearest(int inotify_fd, const char *dir)
{
    const uint32_t events = IN_CREATE | IN_ATTRIB | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF;
    char *path = strdup(dir);
    int r = -ENOMEM;

    while (path && path[0]) {
        r = inotify_add_watch(inotify_fd, path, events | IN_ONLYDIR) < 0 ? -errno : 0;
        if (r != -ENOENT && r != -ENOTDIR)
            break;
        char *slash = strrchr(path, '/');
        if (slash == path && slash[1])
            slash++; /* "/" itself comes last */
        *slash = '\0';
    }
    free(path);
    return r;
}

/* 0: something happened, or it is time to look again; -ETIMEDOUT. inotify_fd < 0: there is none. */
static int wait_for_event(int inotify_fd, long long deadline_ns)
{
    char events[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    struct pollfd pfd = {.fd = inotify_fd, .events = POLLIN};
    long long left = deadline_ns - now_ns();
    struct timespec timeout;
    int n;

    if (left <= 0)
        return -ETIMEDOUT;
    if (inotify_fd < 0 && left > LOOK_NS)
        left = LOOK_NS;
    timeout.tv_sec = left / (long long)NS_PER_S;
    timeout.tv_nsec = left % (long long)NS_PER_S;
    n = ppoll(&pfd, 1, &timeout, NULL);
    if (n < 0 && errno != EINTR)
        return -errno;
    while (n > 0 && read(inotify_fd, events, sizeof(events)) > 0)
        ;
    return 0;
}

static int wait_until_there(const char *dir, long long wait_ns, bool wait_ready)
{
    long long deadline_ns = now_ns() + wait_ns;
    int r, fd;

    if (is_there(dir, wait_ready))
        return 0;
    fd = wait_ns > 0 ? inotify_init1(IN_CLOEXEC | IN_NONBLOCK) : -1;
    do {
        r = fd >= 0 ? watch_nearest(fd, dir) : 0;
        if (r == -ENOSPC) { /* as many watches as the user may have */
            close(fd);
            fd = -1;
            r = 0;
        }
        if (r == 0 && is_there(dir, wait_ready))
            break;
        if (r == 0 && lacks_lock(dir))
            r = -ENOLCK;
        if (r == 0)
            r = wait_for_event(fd, deadline_ns);
    } while (r == 0);
    if (fd >= 0)
        close(fd);
    return r;
}

/* "one, two", or "none"; NULL: no memory. */
static char *live_names_text(void)
{
    char **names, *text = NULL;
    size_t size;
    FILE *out;

    if (rundir_list(&names) < 0)
        return NULL;
    out = open_memstream(&text, &size);
    if (out) {
        for (size_t i = 0; names[i]; i++)
            fprintf(out, "%s%s", i ? ", " : "", names[i]);
        if (!names[0])
            fputs("none", out);
        if (fclose(out) != 0) {
            free(text);
            text = NULL;
        }
    }
    free_names(names);
    return text;
}

static int refuse_missing(const char *instance, const char *dir, char **ret_error)
{
    char *names = live_names_text();

    if (rundir_is_live(dir) == 1)
        explain(
            ret_error, -ENOENT, "instance %s is there but not ready; its log says why", instance);
    else
        explain(ret_error, -ENOENT, "no instance %s; running: %s; start it with sherd run%s%s",
            instance, names ? names : "unknown", strcmp(instance, "default") ? " --instance " : "",
            strcmp(instance, "default") ? instance : "");
    free(names);
    return -ENOENT;
}

int rundir_find(
    const char *instance, long long wait_ns, int wait_ready, char **ret_path, char **ret_error)
{
    char *path;
    int r;

    r = rundir_path(instance, &path, ret_error);
    if (r < 0)
        return r;
    r = wait_until_there(path, wait_ns, wait_ready);
    if (r == 0) {
        *ret_path = path;
        return 0;
    }
    if (r == -ENOLCK)
        explain(ret_error, r,
            "instance %s: %s has a segment and no lock file, so whether it lives cannot be told; "
            "end "
            "its processes, if there are any, and remove the segment",
            instance, path);
    else if (r == -ETIMEDOUT)
        r = refuse_missing(instance, path, ret_error);
    else
        explain(ret_error, r, "instance %s, in %s: %s", instance, path, strerror(-r));
    free(path);
    return r;
}
