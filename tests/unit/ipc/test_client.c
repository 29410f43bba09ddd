/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include <nng/nng.h>

#include "ipc/client/client.h"
#include "ipc/client/instance.h"
#include "ipc/client/ticket.h"
#include "ipc/client/token.h"
#include "proto/protocol.h"

#define MS INT64_C(1000000)

/* nng_close() for the library, which can be made to hang. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool hangs;
    uint32_t n_inside;
} closing = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false, 0};

int nng_close(nng_socket socket)
{
    int (*real)(nng_socket) = (int (*)(nng_socket))dlsym(RTLD_NEXT, "nng_close");

    pthread_mutex_lock(&closing.lock);
    closing.n_inside++;
    while (closing.hangs)
        pthread_cond_wait(&closing.changed, &closing.lock);
    pthread_mutex_unlock(&closing.lock);
    int r = real(socket);
    pthread_mutex_lock(&closing.lock);
    closing.n_inside--;
    pthread_cond_broadcast(&closing.changed);
    pthread_mutex_unlock(&closing.lock);
    return r;
}

static char scratch[] = "/tmp/sherd-test-client-XXXXXX";

static int make_scratch(void **state)
{
    if (!mkdtemp(scratch))
        return -1;
    return setenv("SHERD_RUNTIME_DIR", scratch, 1);
}

static int remove_scratch(void **state)
{
    return rmdir(scratch);
}

static void write_file(const char *path, const char *text, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static int open_with(const struct sherd_client_options *options, const char *expected_words)
{
    struct sherd_client *client = NULL;
    char *error = NULL;
    int r = sherd_client_open(options, &client, &error);

    assert_null(client);
    assert_non_null(error);
    if (!strstr(error, expected_words))
        fail_msg("'%s' does not say '%s'", error, expected_words);
    free(error);
    return r;
}

static void an_instance_that_is_not_there_is_said_to_be_missing(void **state)
{
    struct sherd_client *client;

    assert_int_equal(
        open_with(&(struct sherd_client_options){.instance = "nobody"}, "no instance"), -ENOENT);
    assert_int_equal(
        sherd_client_open(&(struct sherd_client_options){.instance = "nobody"}, &client, NULL),
        -ENOENT);
}

static void waiting_for_an_instance_ends_in_time(void **state)
{
    assert_int_equal(
        open_with(&(struct sherd_client_options){.instance = "nobody", .wait_ns = 50000000},
            "did not answer"),
        -ETIMEDOUT);
}

/* As long as it takes: within a short wait nng need not have tried at all. */
static void fails_in_the_end(const char *url, const char *expected_words)
{
    char *error = NULL;
    bool said = false;

    for (int64_t wait_ns = 20 * MS; !said && wait_ns < 60000 * MS; wait_ns *= 2) {
        const struct sherd_client_options options = {.url = url, .wait_ns = wait_ns};
        struct sherd_client *client;
        free(error);
        assert_int_equal(sherd_client_open(&options, &client, &error), -ETIMEDOUT);
        said = strstr(error, expected_words);
    }
    if (!said)
        fail_msg("'%s' does not say '%s'", error, expected_words);
    free(error);
}

/* Accepts on *opaque until that is shut down, and greets as nng never does. */
static void *speak_otherwise(void *opaque)
{
    int fd;

    while ((fd = accept4(*(int *)opaque, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        send(fd, "-ERR unknown command\r\n", 22, MSG_NOSIGNAL);
        close(fd);
    }
    return NULL;
}

static void why_there_is_no_connection_is_said(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char url[40];
    pthread_t other;

    assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
    snprintf(url, sizeof(url), "tcp://127.0.0.1:%u", ntohs(address.sin_port));
    fails_in_the_end(url, "nobody listens there");
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(pthread_create(&other, NULL, speak_otherwise, &fd), 0);
    fails_in_the_end(url, "what listens there is no gateway");
    shutdown(fd, SHUT_RDWR);
    pthread_join(other, NULL);
    close(fd);
    fails_in_the_end("tcp://127.0.0.1:no-port", "no such host or port");
}

static void closing_ends_also_where_nng_s_own_does_not(void **state)
{
    struct sherd_client *client;

    pthread_mutex_lock(&closing.lock);
    closing.hangs = true;
    pthread_mutex_unlock(&closing.lock);
    alarm(60);
    assert_true(sherd_client_open(&(struct sherd_client_options){.wait_ns = 1000000}, &client,
                    NULL) < 0); /* closes what it began */
    alarm(0);
    pthread_mutex_lock(&closing.lock);
    assert_int_equal(closing.n_inside, 1);
    closing.hangs = false;
    pthread_cond_broadcast(&closing.changed);
    while (closing.n_inside > 0)
        pthread_cond_wait(&closing.changed, &closing.lock);
    pthread_mutex_unlock(&closing.lock);
}

static void wrong_options_are_refused_by_name(void **state)
{
    assert_int_equal(
        open_with(&(struct sherd_client_options){.instance = "../x"}, "no name of an instance"),
        -EINVAL);
    assert_int_equal(
        open_with(&(struct sherd_client_options){.instance = ""}, "no name of an instance"),
        -EINVAL);
    assert_int_equal(open_with(&(struct sherd_client_options){.wait_ns = -1}, "negative"), -EINVAL);
    assert_int_equal(
        open_with(&(struct sherd_client_options){.url = "smoke://signal"}, "tls+tcp://HOST"),
        -EINVAL);
    assert_int_equal(
        open_with(&(struct sherd_client_options){.url = "tcp://"}, "no such host or port"),
        -EADDRNOTAVAIL);
    assert_int_equal(open_with(&(struct sherd_client_options){.token_file = "/nonexistent/token"},
                         "/nonexistent"),
        -ENOENT);
}

static void a_runtime_directory_too_long_for_a_socket_is_refused(void **state)
{
    char longer[200];
    char *path;

    memset(longer, 'x', sizeof(longer) - 1);
    longer[0] = '/';
    longer[sizeof(longer) - 1] = '\0';
    setenv("SHERD_RUNTIME_DIR", longer, 1);
    assert_int_equal(instance_socket_path("a", "gateway", &path), -ENAMETOOLONG);
    setenv("SHERD_RUNTIME_DIR", scratch, 1);
}

static void the_socket_is_where_the_environment_says(void **state)
{
    char *path;

    setenv("SHERD_RUNTIME_DIR", "/a/b", 1);
    assert_int_equal(instance_socket_path(NULL, "gateway", &path), 0);
    assert_string_equal(path, "/a/b/default/gateway");
    free(path);
    unsetenv("SHERD_RUNTIME_DIR");
    setenv("XDG_RUNTIME_DIR", "/x", 1);
    assert_int_equal(instance_socket_path("n", "gateway", &path), 0);
    assert_string_equal(path, "/x/sherd/n/gateway");
    free(path);
    unsetenv("XDG_RUNTIME_DIR");
    setenv("SHERD_RUNTIME_DIR", scratch, 1);
}

static int load(const char *text, mode_t mode, struct token *ret_token)
{
    char path[128];
    const char *why;

    snprintf(path, sizeof(path), "%s/token", scratch);
    write_file(path, text, mode);
    int r = token_load(path, ret_token, &why);
    unlink(path);
    return r;
}

static void a_token_file_must_be_secret_and_not_empty(void **state)
{
    struct token token = {};

    assert_int_equal(load("secret\n", 0600, &token), 0);
    assert_int_equal(token.len, 6);
    token_deinit(&token);
    assert_int_equal(load("secret", 0400, &token), 0);
    token_deinit(&token);
    assert_int_equal(load("secret", 0640, &token), -EACCES);
    assert_int_equal(load("secret", 0604, &token), -EACCES);
    assert_int_equal(load("", 0600, &token), -EINVAL);
    assert_int_equal(load("\n\n", 0600, &token), -EINVAL);
    assert_null(token.secret);
}

static void a_token_file_longer_than_a_token_is_refused(void **state)
{
    static char text[PROTOCOL_TOKEN_MAX + 2];
    struct token token = {};

    memset(text, 'x', PROTOCOL_TOKEN_MAX + 1);
    assert_int_equal(load(text, 0600, &token), -EFBIG);
    text[PROTOCOL_TOKEN_MAX] = '\0';
    assert_int_equal(load(text, 0600, &token), 0);
    assert_int_equal(token.len, PROTOCOL_TOKEN_MAX);
    token_deinit(&token);
}

static void tokens_are_equal_only_in_every_byte(void **state)
{
    const uint8_t a[] = "abcdef", b[] = "abcdeg";

    assert_true(token_equal(a, 6, a, 6));
    assert_false(token_equal(a, 6, b, 6));
    assert_false(token_equal(a, 6, a, 5));
    assert_false(token_equal(a, 3, (const uint8_t *)"abcabc", 6));
    assert_false(token_equal(a, 6, NULL, 0));
    assert_false(token_equal(NULL, 0, a, 6));
}

static struct ticket *new_ticket(struct ticket_table *table, uint64_t id)
{
    struct ticket *ticket;
    struct sherd_request request = {
        .method = "sys.echo", .args = "args", .args_len = 4, .key = "key", .key_len = 3};

    assert_int_equal(ticket_new(table, id, &request, INT64_MAX, &ticket), 0);
    return ticket;
}

static void a_ticket_is_a_copy_and_is_found_until_it_is_freed(void **state)
{
    struct ticket_table table = {};
    struct ticket *ticket = new_ticket(&table, 7);

    assert_string_equal(ticket->method, "sys.echo");
    assert_memory_equal(ticket->args, "args", 4);
    assert_memory_equal(ticket->key, "key", 3);
    assert_ptr_equal(ticket_find(&table, 7), ticket);
    ticket_free(&table, ticket);
    assert_null(ticket_find(&table, 7));
    ticket_table_deinit(&table);
}

static void tickets_keep_their_line_over_thousands_and_come_back_to_its_head(void **state)
{
    struct ticket_table table = {};

    for (uint64_t id = 1; id <= 5000; id++)
        new_ticket(&table, id);
    for (uint64_t id = 1; id <= 5000; id++)
        assert_int_equal(ticket_find(&table, id)->id, id);
    struct ticket *first = table.line.first;
    ticket_out(&table, first, TICKET_SENT);
    assert_int_equal(table.line.first->id, 2);
    assert_int_equal(table.out.n, 1);
    ticket_back(&table, first);
    assert_int_equal(table.line.first->id, 1);
    assert_int_equal(table.line.n, 5000);
    ticket_table_deinit(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_instance_that_is_not_there_is_said_to_be_missing),
        cmocka_unit_test(waiting_for_an_instance_ends_in_time),
        cmocka_unit_test(why_there_is_no_connection_is_said),
        cmocka_unit_test(closing_ends_also_where_nng_s_own_does_not),
        cmocka_unit_test(wrong_options_are_refused_by_name),
        cmocka_unit_test(a_runtime_directory_too_long_for_a_socket_is_refused),
        cmocka_unit_test(the_socket_is_where_the_environment_says),
        cmocka_unit_test(a_token_file_must_be_secret_and_not_empty),
        cmocka_unit_test(a_token_file_longer_than_a_token_is_refused),
        cmocka_unit_test(tokens_are_equal_only_in_every_byte),
        cmocka_unit_test(a_ticket_is_a_copy_and_is_found_until_it_is_freed),
        cmocka_unit_test(tickets_keep_their_line_over_thousands_and_come_back_to_its_head),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
