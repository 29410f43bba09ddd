/* SPDX-License-Identifier: MIT */
#include "services/file_open.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "runtime/disk.h"
#include "services/file_walk.h"
#include "tests/unit/services/services_fixture.h"

/*
 * The tree that most cases open files in; a and b are roots, out is not:
 *
 *   a/file "in a"     a/sub/deep "deep"     b/file "in b"     out/file
 */
struct opened {
    const struct file_roots *roots;
    const char *path;
    uint64_t flags;
    bool regular;
    int fd; /* result */
    char *error;
};

static void open_body(void *opaque)
{
    struct opened *o = opaque;
    struct file_opened file;

    if (!o->regular) {
        o->fd = file_open_co(o->roots, o->path, o->flags, 0644, &o->error);
        return;
    }
    o->fd = file_open_regular_co(o->roots, o->path, o->flags, 0644, &file, &o->error);
    if (o->fd == 0)
        o->fd = file.fd;
}

static void make_tree(struct fixture *f)
{
    make_dir(f, "a");
    make_dir(f, "a/sub");
    make_dir(f, "b");
    make_dir(f, "out");
    make_file(f, "a/file", "in a", 4);
    make_file(f, "a/sub/deep", "deep", 4);
    make_file(f, "b/file", "in b", 4);
    make_file(f, "out/file", "out", 3);
}

/* Names of folders in the fixture's, with :rw or not, ended by NULL; opened as a shard has them. */
static struct file_roots *open_roots(struct fixture *f, const char *const *names)
{
    struct file_roots *config = NULL;
    struct file_roots *opened;
    for (; *names; names++) {
        char *spec = in_dir(f, *names);
        char *error = NULL;
        assert_int_equal(file_roots_add(&config, spec, &error), 0);
        free(spec);
    }
    assert_int_equal(file_roots_open(config, &opened), 0);
    file_roots_free(config);
    return opened;
}

#define ROOTS(f, ...) open_roots(f, (const char *const[]){__VA_ARGS__, NULL})

static struct opened open_name(
    struct fixture *f, const struct file_roots *roots, const char *name, uint64_t flags)
{
    char *path = in_dir(f, name);
    struct opened o = {.roots = roots, .path = path, .flags = flags, .regular = true};
    run_co(f, open_body, &o);
    free(path);
    return o;
}

static void close_opened(struct opened *o)
{
    if (o->fd >= 0)
        close(o->fd);
    free(o->error);
}

static void expect_content(
    struct fixture *f, const struct file_roots *roots, const char *name, const char *content)
{
    struct opened o = open_name(f, roots, name, O_RDONLY);
    char data[64] = "";
    if (o.fd < 0)
        fail_msg("%s: %s", name, o.error);
    assert_true(pread(o.fd, data, sizeof(data) - 1, 0) >= 0);
    assert_string_equal(data, content);
    assert_true(fcntl(o.fd, F_GETFD) & FD_CLOEXEC);
    assert_false(fcntl(o.fd, F_GETFL) & O_NONBLOCK);
    close_opened(&o);
}

/* text must be in the message. */
static void expect_error(struct fixture *f, const struct file_roots *roots, const char *name,
    uint64_t flags, int error, const char *text)
{
    struct opened o = open_name(f, roots, name, flags);
    if (o.fd != error || !o.error || !strstr(o.error, text)) {
        fail_msg(
            "%s: got %d \"%s\", not %d \"%s\"", name, o.fd, o.error ? o.error : "", error, text);
    }
    close_opened(&o);
}

static void path_beneath_a_root_opens_however_it_is_spelled(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    struct file_roots *roots = ROOTS(f, "a", "b");
    expect_content(f, roots, "a/file", "in a");
    expect_content(f, roots, "a/./sub//deep", "deep");
    expect_content(f, roots, "/./a//sub/../file", "in a");
    expect_content(f, roots, "b/file", "in b");
    file_roots_free(roots);
}

static void links_within_a_root_are_followed(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    make_link(f, "a/relative", "./sub/deep");
    make_link(f, "a/absolute", "a/sub/deep");
    make_link(f, "a/folder", "a/sub");
    struct file_roots *roots = ROOTS(f, "a");
    expect_content(f, roots, "a/relative", "deep");
    expect_content(f, roots, "a/absolute", "deep");
    expect_content(f, roots, "a/folder/deep", "deep");
    expect_content(f, roots, "a/folder/../file", "in a");
    file_roots_free(roots);
}

static void absolute_link_leads_from_root_to_root(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    make_link(f, "a/to-b", "b/again");
    make_link(f, "b/again", "./to-a");
    make_link(f, "b/to-a", "a/sub");
    struct file_roots *roots = ROOTS(f, "a", "b");
    expect_content(f, roots, "a/to-b/deep", "deep");
    file_roots_free(roots);
}

static void dot_dot_may_lead_into_another_root(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    make_link(f, "a/up", "../b/file");
    struct file_roots *roots = ROOTS(f, "a", "b");
    expect_content(f, roots, "a/../b/file", "in b");
    expect_content(f, roots, "a/sub/../../b/file", "in b");
    expect_content(f, roots, "a/up", "in b");
    file_roots_free(roots);
}

static void what_leads_outside_is_refused_by_name(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    make_link(f, "a/out", "out/file");
    make_link(f, "a/out-folder", "../out");
    struct file_roots *roots = ROOTS(f, "a", "b");
    char *leads = new_text("leads to %s/out/file, which is under no --root (roots: %s/a, %s/b); "
                           "start sherd run with --root DIR",
        f->dir, f->dir, f->dir);
    expect_error(f, roots, "a/out", O_RDONLY, -EACCES, leads);
    expect_error(f, roots, "a/out-folder/file", O_RDONLY, -EACCES, leads);
    expect_error(f, roots, "a/../out/file", O_RDONLY, -EACCES, leads);
    expect_error(f, roots, "out/file", O_RDONLY, -EACCES, "is under no --root (roots: ");
    expect_error(f, roots, "ab/file", O_RDONLY, -EACCES, "is under no --root");
    free(leads);
    file_roots_free(roots);
}

static void way_between_roots_may_lead_through_links_outside(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    make_link(f, "top", "./a");
    make_link(f, "out/into", "../a/sub");
    make_link(f, "b/by-top", "top/file");
    make_link(f, "b/by-out", "out/into/deep");
    struct file_roots *roots = ROOTS(f, "a", "b");
    expect_content(f, roots, "b/by-top", "in a");
    expect_content(f, roots, "b/by-out", "deep");
    expect_content(f, roots, "top/sub/deep", "deep");
    expect_content(f, roots, "out/../b/file", "in b");
    file_roots_free(roots);
}

static void what_is_outside_is_not_told(void **state)
{
    static const char *const names[] = {
        "out/file", "out/nothing", "out/link", "out/file/", "out/loop"};
    struct fixture *f = *state;
    make_tree(f);
    make_link(f, "out/link", "out/secret-name");
    make_link(f, "out/loop", "./loop");
    struct file_roots *roots = ROOTS(f, "a");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char *text =
            new_text("%s/%s: is under no --root (roots: %s/a); start sherd run with --root DIR",
                f->dir, names[i], f->dir);
        expect_error(f, roots, names[i], O_RDONLY, -EACCES, text);
        free(text);
    }
    file_roots_free(roots);
}

static void without_roots_every_path_is_refused(void **state)
{
    struct fixture *f = *state;
    struct file_roots *roots;
    make_tree(f);
    assert_int_equal(file_roots_open(NULL, &roots), 0);
    expect_error(f, roots, "a/file", O_RDONLY, -EACCES,
        "no folder may be reached; start sherd run with --root DIR");
    file_roots_free(roots);
}

static void loops_and_chains_of_more_than_forty_links_end(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    make_link(f, "a/loop", "./loop");
    make_link(f, "a/loop-1", "b/loop-2");
    make_link(f, "b/loop-2", "a/loop-1");
    make_link(f, "a/chain-0", "b/file");
    for (int i = 1; i <= (int)FILE_WALK_LINKS_MAX; i++) {
        char *name = new_text("a/chain-%d", i);
        char *target = new_text("a/chain-%d", i - 1);
        make_link(f, name, target);
        free(name);
        free(target);
    }
    struct file_roots *roots = ROOTS(f, "a", "b");
    expect_error(f, roots, "a/loop", O_RDONLY, -ELOOP, "a/loop: Too many levels");
    expect_error(f, roots, "a/loop-1", O_RDONLY, -ELOOP, "a/loop-1: Too many levels");
    expect_content(f, roots, "a/chain-39", "in b");
    expect_error(f, roots, "a/chain-40", O_RDONLY, -ELOOP, "Too many levels");
    file_roots_free(roots);
}

static void a_slash_at_the_end_wants_a_folder(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    make_link(f, "a/to-file", "b/file");
    make_link(f, "a/to-folder", "b/");
    struct file_roots *roots = ROOTS(f, "a/", "b//");
    expect_error(f, roots, "a/file/", O_RDONLY, -ENOTDIR, "a/file/: Not a directory");
    expect_error(f, roots, "a/to-file/", O_RDONLY, -ENOTDIR, "Not a directory");
    expect_error(f, roots, "a/to-file/x", O_RDONLY, -ENOTDIR, "Not a directory");
    expect_error(f, roots, "a/to-folder/", O_RDONLY, -EISDIR, "Is a directory");
    expect_error(f, roots, "a", O_RDONLY, -EISDIR, "Is a directory");
    expect_error(f, roots, "a/.", O_RDONLY, -EISDIR, "Is a directory");
    file_roots_free(roots);
}

static void what_is_missing_is_said_so(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    make_link(f, "a/dangling", "b/nothing");
    struct file_roots *roots = ROOTS(f, "a", "b");
    expect_error(f, roots, "a/nothing", O_RDONLY, -ENOENT, "a/nothing: No such file or directory");
    expect_error(f, roots, "a/dangling", O_RDONLY, -ENOENT, "No such file or directory");
    file_roots_free(roots);
}

static void root_that_is_a_link_holds_both_of_its_names(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    make_link(f, "alias", "./a");
    make_link(f, "b/by-name", "alias/file");
    make_link(f, "b/by-real-name", "a/file");
    struct file_roots *roots = ROOTS(f, "alias/", "b");
    expect_content(f, roots, "alias/file", "in a");
    expect_content(f, roots, "a/file", "in a");
    expect_content(f, roots, "b/by-name", "in a");
    expect_content(f, roots, "b/by-real-name", "in a");
    expect_content(f, roots, "alias/../b/file", "in b");
    file_roots_free(roots);
}

static void only_a_regular_file_is_opened_and_a_fifo_not_waited_for(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    char *fifo = in_dir(f, "a/fifo");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_true(snprintf(address.sun_path, sizeof(address.sun_path), "%s/a/socket", f->dir) <
                (int)sizeof(address.sun_path));
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    make_link(f, "a/null", "/dev/null");

    struct file_roots *roots = ROOTS(f, "a:rw", "/../../../../../../dev");
    expect_error(f, roots, "a/fifo", O_RDONLY, -EINVAL, "a/fifo: Is a FIFO");
    expect_error(f, roots, "a/fifo", O_WRONLY, -EINVAL, "a/fifo: Is a FIFO");
    expect_error(f, roots, "a/socket", O_RDONLY, -EINVAL, "Is a socket");
    expect_error(f, roots, "a/null", O_RDONLY, -EINVAL, "Is a device");
    file_roots_free(roots);
    close(listener);
    free(fifo);
}

static void fifo_that_is_refused_was_not_opened(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    char *path = in_dir(f, "a/fifo");
    assert_int_equal(mkfifo(path, 0600), 0);
    struct file_roots *roots = ROOTS(f, "a:rw");
    int reader = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct pollfd polled = {.fd = reader, .events = POLLIN};
    expect_error(f, roots, "a/fifo", O_WRONLY | O_CREAT, -EINVAL, "a/fifo: Is a FIFO");
    assert_int_equal(poll(&polled, 1, 0), 0); /* POLLHUP: a writer was there, and left */
    close(reader);
    file_roots_free(roots);
    free(path);
}

/* In a process of a user who may have no thread; root may have any. */
static int walk_without_threads(struct fixture *f, const struct file_roots *roots)
{
    if (geteuid() == 0 && (chmod(f->dir, 0755) < 0 || setresuid(65534, 65534, 65534) < 0))
        return 1;
    if (setrlimit(RLIMIT_NPROC, &(struct rlimit){1, 1}) < 0)
        return 1;
    struct opened o = open_name(f, roots, "out/link", O_RDONLY);
    return o.fd < 0 ? 2 : 0;
}

static void links_are_followed_even_where_no_thread_can_be_made(void **state)
{
    struct fixture *f = *state;
    int status;
    make_tree(f);
    make_link(f, "out/link", "a/file");
    struct file_roots *roots = ROOTS(f, "a");
    pid_t pid = fork();
    if (pid == 0)
        _exit(walk_without_threads(f, roots));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    file_roots_free(roots);
}

static void the_root_where_a_write_ends_decides(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    make_dir(f, "a/sub/writable");
    make_file(f, "a/sub/writable/file", "", 0);
    make_link(f, "a/to-sub", "./sub");
    make_link(f, "b/to-read-only", "./../a/sub/deep");
    make_link(f, "a/new", "b/made-by-a-link");
    struct file_roots *roots = ROOTS(f, "a:rw", "a/sub", "a/sub/writable:rw", "b:rw");
    expect_error(
        f, roots, "a/sub/deep", O_WRONLY, -EROFS, "a/sub is read-only; start sherd run with");
    expect_error(f, roots, "a/to-sub/deep", O_WRONLY, -EROFS, "is read-only");
    expect_error(f, roots, "b/to-read-only", O_WRONLY, -EROFS, "is read-only");
    expect_error(f, roots, "a/sub/new", O_WRONLY | O_CREAT, -EROFS, "is read-only");
    expect_error(f, roots, "a/sub/new", O_RDONLY | O_CREAT, -EROFS, "is read-only");
    expect_error(f, roots, "a/sub/deep", O_RDONLY | O_TRUNC, -EROFS, "is read-only");
    static const char *const allowed[] = {
        "a/file", "a/sub/writable/file", "a/to-sub/writable/file", "a/new", "b/new", "a/newer"};
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
        struct opened o = open_name(f, roots, allowed[i], O_WRONLY | O_CREAT);
        if (o.fd < 0)
            fail_msg("%s: %s", allowed[i], o.error);
        close_opened(&o);
    }
    expect_content(f, roots, "b/made-by-a-link", "");
    expect_error(f, roots, "a/sub/new", O_RDONLY, -ENOENT, "No such file");
    file_roots_free(roots);
}

static void link_of_proc_is_not_a_way_out(void **state)
{
    struct fixture *f = *state;
    struct file_roots *config = NULL;
    struct file_roots *roots;
    char *error = NULL;
    assert_int_equal(file_roots_add(&config, "/proc", &error), 0);
    assert_int_equal(file_roots_open(config, &roots), 0);
    file_roots_free(config);
    struct opened o = {
        .roots = roots, .path = "/proc/self/root/etc/passwd", .flags = O_RDONLY, .regular = true};
    run_co(f, open_body, &o);
    assert_int_equal(o.fd, -ELOOP);
    free(o.error);
    file_roots_free(roots);
}

static void relative_path_is_refused(void **state)
{
    struct fixture *f = *state;
    make_tree(f);
    struct file_roots *roots = ROOTS(f, "a");
    struct opened o = {.roots = roots, .path = "a/file", .flags = O_RDONLY};
    run_co(f, open_body, &o);
    assert_int_equal(o.fd, -EINVAL);
    assert_string_equal(o.error, "\"a/file\": a path must be absolute");
    free(o.error);
    file_roots_free(roots);
}

static void root_that_vanished_is_named(void **state)
{
    struct fixture *f = *state;
    struct file_roots *config = NULL;
    struct file_roots *roots;
    char *error = NULL;
    make_dir(f, "gone");
    char *spec = in_dir(f, "gone");
    assert_int_equal(file_roots_add(&config, spec, &error), 0);
    assert_int_equal(rmdir(spec), 0);
    assert_int_equal(file_roots_open(config, &roots), 0);
    expect_error(f, roots, "gone/file", O_RDONLY, -ENOENT, "gone can't be opened: No such file");
    file_roots_free(config);
    file_roots_free(roots);
    free(spec);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        FIXTURE_CASE(path_beneath_a_root_opens_however_it_is_spelled),
        FIXTURE_CASE(links_within_a_root_are_followed),
        FIXTURE_CASE(absolute_link_leads_from_root_to_root),
        FIXTURE_CASE(dot_dot_may_lead_into_another_root),
        FIXTURE_CASE(what_leads_outside_is_refused_by_name),
        FIXTURE_CASE(way_between_roots_may_lead_through_links_outside),
        FIXTURE_CASE(what_is_outside_is_not_told),
        FIXTURE_CASE(without_roots_every_path_is_refused),
        FIXTURE_CASE(loops_and_chains_of_more_than_forty_links_end),
        FIXTURE_CASE(a_slash_at_the_end_wants_a_folder),
        FIXTURE_CASE(what_is_missing_is_said_so),
        FIXTURE_CASE(root_that_is_a_link_holds_both_of_its_names),
        FIXTURE_CASE(only_a_regular_file_is_opened_and_a_fifo_not_waited_for),
        FIXTURE_CASE(fifo_that_is_refused_was_not_opened),
        FIXTURE_CASE(links_are_followed_even_where_no_thread_can_be_made),
        FIXTURE_CASE(the_root_where_a_write_ends_decides),
        FIXTURE_CASE(link_of_proc_is_not_a_way_out),
        FIXTURE_CASE(relative_path_is_refused),
        FIXTURE_CASE(root_that_vanished_is_named),
    };
    return FIXTURE_RUN(cases);
}
