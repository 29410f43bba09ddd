/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/gateway.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ipc/gateway/certificate.h"
#include "ipc/gateway/core.h"
#include "ipc/gateway/reach.h"

/*
 * Draining: submissions are refused, what was accepted goes on. When nothing is under way any more,
 * clients that are connected have SESSION_DRAIN_NS to fetch and acknowledge the last ends.
 *
 * Counting: requests_accepted = requests_ended + requests_in_flight, over all incarnations.
 *
 * Leaving: each session of which nothing is left hears so by its nexts, and nothing is taken from
 * then on: so what its client has no answer to was not started.
 *
 * A replacement goes on with the sessions (fates.h), and with the calls that its predecessor had in
 * the mesh. What had been accepted and not begun counts as ended: clients submit it again, as hello
 * has told them that this is another gateway.
 */

#define FAREWELL_NS (INT64_C(200) * 1000000)

static struct part_head *own_head(const struct gateway *gateway)
{
    return segment_part(gateway->env->segment, gateway->env->peer);
}

void gateway_count(struct gateway *gateway)
{
    struct part_head *head = own_head(gateway);

    counter_set(&head->sessions, gateway->sessions.n_attached);
    counter_set(&head->requests_in_flight, gateway->requests.n);
    counter_set(&head->requests_accepted, head->requests_ended + gateway->requests.n);
}

static void settle_predecessor(struct gateway *gateway)
{
    struct part_head *head = own_head(gateway);
    uint64_t n = gateway->requests.n, accepted = head->requests_accepted;

    counter_set(&head->requests_ended, accepted > n ? accepted - n : 0);
    gateway_count(gateway);
}

static struct mesh_call *on_adopt(const struct mesh_asked *left, void *opaque)
{
    struct gateway *gateway = opaque;

    return requests_adopt(&gateway->heirs, &gateway->fates, left);
}

/* ---- hooks ---- */

static void on_ended(void *opaque)
{
    struct gateway *gateway = opaque;

    counter_add(&own_head(gateway)->requests_ended, 1);
    gateway_count(gateway);
}

static void on_message(struct exchange *exchange, void *opaque)
{
    dispatch_message(opaque, exchange);
}

static void on_gone(struct connection *connection, void *opaque)
{
    struct gateway *gateway = opaque;

    orders_forget(&gateway->orders, connection);
    watches_forget(&gateway->watches, connection);
    if (connection->session)
        session_detach(connection->session);
    gateway_count(gateway);
}

static void on_ask(uint64_t word, void *opaque)
{
    struct gateway *gateway = opaque;

    log_line(gateway->env->log, LOG_LEVEL_NOTICE, "a client gave an order: %s",
        order_kind_text((uint32_t)(word >> 56)));
    member_ask(gateway->member, word);
}

static void on_tell(struct exchange *exchange, void *opaque)
{
    struct gateway *gateway = opaque;

    arena_reset(&gateway->arena);
    describe_status(gateway, exchange);
}

static void on_abandon(struct session *session, void *opaque)
{
    struct gateway *gateway = opaque;

    requests_abandon(&gateway->requests, session);
}

static void on_room(struct session *session, void *opaque)
{
    struct gateway *gateway = opaque;

    requests_room(&gateway->requests, session);
}

static void on_drain_timer(void *opaque)
{
    /* The loop turns, and is_drained() is asked. */
    (void)opaque;
}

static void on_drain(void *opaque)
{
    struct gateway *gateway = opaque;

    gateway->draining = true;
    if (gateway->attach)
        attach_set_draining(gateway->attach, true);
    requests_drain(&gateway->requests);
    for (uint32_t i = 0; i < gateway->sessions.n; i++)
        requests_room(&gateway->requests, gateway->sessions.all[i]);
}

static void on_resume(void *opaque)
{
    struct gateway *gateway = opaque;

    gateway->draining = false;
    if (gateway->attach)
        attach_set_draining(gateway->attach, false);
    gateway->drain_until_ns = 0;
    timer_del(&gateway->drain_timer);
    requests_resume(&gateway->requests);
}

static bool is_drained(void *opaque)
{
    struct gateway *gateway = opaque;

    if (!requests_is_idle(&gateway->requests)) {
        gateway->drain_until_ns = 0;
        return false;
    }
    if (!sessions_owe(&gateway->sessions))
        return true;
    if (gateway->drain_until_ns == 0) {
        gateway->drain_until_ns = aio_clock_ns() + SESSION_DRAIN_NS;
        timer_mod_ns(&gateway->drain_timer, gateway->drain_until_ns);
    }
    return aio_clock_ns() >= gateway->drain_until_ns;
}

/* What shards keep for those who have ended goes. */
static void tell_of_ends(struct gateway *gateway)
{
    uint64_t n = gateway->sessions.n_over + (gateway->attach ? attach_n_over(gateway->attach) : 0);

    if (n == gateway->n_told_of)
        return;
    gateway->n_told_of = n;
    client_end_tell(member_mesh(gateway->member));
}

static void on_turn(void *opaque)
{
    struct gateway *gateway = opaque;

    if (gateway->attach)
        attach_turn(gateway->attach);
    penalty_turn(gateway);
    tell_of_ends(gateway);
}

/* ---- life ---- */

static int load_token(const struct child_env *env, const char *path, struct token *ret_token)
{
    const char *why;
    int r = path ? token_load(path, ret_token, &why) : 0;

    if (r < 0)
        log_line(env->log, LOG_LEVEL_ERROR, "token file %s %s (%s)", path, why, strerror(-r));
    return r;
}

static int load_tokens(struct gateway *gateway)
{
    const struct child_env *env = gateway->env;

    if (!env->listen_url)
        return 0;
    if (!env->token_file) {
        log_line(env->log, LOG_LEVEL_ERROR,
            "listening on %s is refused without a token: give --token-file", env->listen_url);
        return -EINVAL;
    }
    int r = load_token(env, env->token_file, &gateway->token);
    return r < 0 ? r : load_token(env, env->operator_token_file, &gateway->operator_token);
}

static int give_up_rights(const struct child_env *env)
{
    struct sandbox_paths paths = {0};
    char *error = NULL;
    int r = gateway_reach(env, &paths);

    if (r == 0)
        r = sandbox_enter(env->sandbox, SANDBOX_GATEWAY, &paths, &error);
    if (r < 0)
        log_line(env->log, LOG_LEVEL_ERROR, "can't begin: %s", error ? error : strerror(-r));
    sandbox_paths_deinit(&paths);
    free(error);
    return r;
}

/* nng calls it "cannot assign requested address". */
static int check_socket_path(const struct gateway *gateway, const char *path)
{
    const size_t most = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;

    if (strlen(path) <= most)
        return 0;
    log_line(gateway->env->log, LOG_LEVEL_ERROR,
        "%s is too long for a socket: %zu bytes, and %zu are the most; set SHERD_RUNTIME_DIR to a "
        "folder of your own with a short name",
        path, strlen(path), most);
    return -ENAMETOOLONG;
}

static int find_certificate(const struct child_env *env)
{
    for (uint32_t i = 0; i < env->keep.n_kept; i++)
        if (env->keep.kept[i].key == FD_KEEP_PROGRAM &&
            env->keep.kept[i].kind == CERTIFICATE_FD_KIND)
            return env->keep.kept[i].fd;
    return -1;
}

static int load_certificate(const struct child_env *env, nng_tls_config **ret_tls)
{
    int fd = find_certificate(env);

    *ret_tls = NULL;
    if (fd < 0)
        return 0;
    int r = certificate_config(fd, ret_tls);
    if (r < 0)
        log_line(env->log, LOG_LEVEL_ERROR,
            "the gateway can't use its certificate or key: %s; nng's TLS takes RSA, and ECDSA with "
            "the curves of NIST",
            strerror(-r));
    return r;
}

static void warn_of_clear_text(const struct child_env *env, const nng_tls_config *tls)
{
    if (env->listen_url && !tls && env->incarnation == 1)
        log_line(env->log, LOG_LEVEL_WARNING,
            "%s has no TLS: the token and all requests travel in the clear, for whoever is on the "
            "way to read; tls+tcp:// with --tls-cert and --tls-key encrypts them",
            env->listen_url);
}

static int open_port(struct gateway *gateway, nng_tls_config *tls)
{
    const struct child_env *env = gateway->env;
    const char *what = "memory";
    char *path = NULL;

    if (asprintf(&path, "%s/" PROTOCOL_SOCKET, env->runtime_dir) < 0)
        return -ENOMEM;
    if (check_socket_path(gateway, path) < 0) {
        free(path);
        return -ENAMETOOLONG;
    }
    struct port_config config = {
        .ctx = gateway->ctx,
        .local_path = path,
        .listen_url = env->listen_url,
        .tls = tls,
        .message = on_message,
        .gone = on_gone,
        .opaque = gateway,
    };
    int r = port_open(&config, &gateway->port, &what);
    if (r < 0)
        log_line(env->log, LOG_LEVEL_ERROR, "the gateway can't listen: %s: %s", what, strerror(-r));
    free(path);
    return r;
}

static int start_port(struct gateway *gateway)
{
    nng_tls_config *tls;
    int r = load_certificate(gateway->env, &tls);

    if (r < 0)
        return r;
    warn_of_clear_text(gateway->env, tls);
    r = open_port(gateway, tls);
    if (tls)
        nng_tls_config_free(tls);
    return r;
}

static void start_talks(struct gateway *gateway)
{
    struct orders_config orders = {
        .ctx = gateway->ctx, .segment = gateway->env->segment, .ask = on_ask, .opaque = gateway};
    struct watches_config watches = {
        .ctx = gateway->ctx, .segment = gateway->env->segment, .tell = on_tell, .opaque = gateway};

    orders_init(&gateway->orders, &orders);
    watches_init(&gateway->watches, &watches);
}

static int start_tables(struct gateway *gateway)
{
    const struct child_env *env = gateway->env;
    struct requests_config requests = {
        .ctx = gateway->ctx,
        .mesh = member_mesh(gateway->member),
        .fates = &gateway->fates,
        .segment = env->segment,
        .registry = env->registry,
        .ended = on_ended,
        .opaque = gateway,
    };
    struct sessions_config sessions = {
        .ctx = gateway->ctx,
        .fates = &gateway->fates,
        .n_lines = requests_n_lines(env->segment),
        .abandon = on_abandon,
        .room = on_room,
        .opaque = gateway,
    };
    int r = requests_init(&gateway->requests, &requests);

    if (r < 0)
        return r;
    r = sessions_init(&gateway->sessions, &sessions);
    if (r == 0)
        r = sessions_inherit(&gateway->sessions);
    if (r < 0)
        return r;
    requests_inherit(&gateway->requests, &gateway->sessions, gateway->heirs);
    gateway->heirs = NULL;
    return 0;
}

static int start_attach(struct gateway *gateway)
{
    const struct child_env *env = gateway->env;
    struct attach_config config = {
        .ctx = gateway->ctx,
        .segment = env->segment,
        .log = env->log,
        .keep = &env->keep,
        .instance = env->instance,
        .client_bytes = env->client_bytes,
        .client_rate = env->client_rate,
        .owner = geteuid(),
    };
    int r = attach_start(&config, &gateway->attach);

    if (r == 0 && gateway->attach)
        log_line(env->log, env->incarnation == 1 ? LOG_LEVEL_NOTICE : LOG_LEVEL_DEBUG,
            "local clients: up to %u, with %.1f MiB of memory together",
            env->segment->geometry.n_clients, (double)env->client_bytes / (1024 * 1024));
    return r;
}

static void on_farewell_limit(void *opaque)
{
    *(bool *)opaque = true;
}

/* Nothing is taken any more; who waits for ends is told, as far as it listens. */
static void say_farewell(struct gateway *gateway)
{
    bool is_over = false;
    AioTimer limit;

    gateway->draining = true;
    sessions_farewell(&gateway->sessions);
    aio_timer_init(gateway->ctx, &limit, on_farewell_limit, &is_over);
    timer_mod_ns(&limit, aio_clock_ns() + FAREWELL_NS);
    do
        aio_poll(gateway->ctx, false);
    while (port_is_sending(gateway->port) && !is_over);
    timer_del(&limit);
}

static int serve(struct gateway *gateway)
{
    struct member_hooks hooks = {.drain = on_drain,
        .resume = on_resume,
        .is_drained = is_drained,
        .turn = on_turn,
        .opaque = gateway};
    int r = start_port(gateway);

    if (r == 0)
        r = start_attach(gateway);
    if (r == 0)
        r = sandbox_close_rings(gateway->env->sandbox);
    if (r < 0)
        return EXIT_FAILURE;
    member_set_hooks(gateway->member, &hooks);
    member_ready(gateway->member);
    int status = member_run(gateway->member);
    say_farewell(gateway);
    return status;
}

static int run(struct gateway *gateway)
{
    gateway->ctx = member_context(gateway->member);
    aio_timer_init(gateway->ctx, &gateway->drain_timer, on_drain_timer, gateway);
    start_talks(gateway);
    gateway->n_told_of = UINT64_MAX; /* a predecessor may not have told of all */
    int r = start_tables(gateway);
    if (r < 0) {
        log_line(gateway->env->log, LOG_LEVEL_ERROR, "the gateway has no memory to start with");
        return EXIT_FAILURE;
    }
    settle_predecessor(gateway);
    penalty_start(gateway);
    int status = serve(gateway);
    orders_deinit(&gateway->orders);
    watches_deinit(&gateway->watches);
    attach_stop(gateway->attach);
    penalty_stop(gateway);
    timer_del(&gateway->drain_timer);
    sessions_deinit(&gateway->sessions);
    port_close(gateway->port);
    requests_deinit(&gateway->requests);
    return status;
}

static int open_fates(struct gateway *gateway)
{
    int r = fates_open(&gateway->fates, gateway->env->segment);

    if (r < 0)
        log_line(gateway->env->log, LOG_LEVEL_ERROR,
            "the gateway has no memory for the fates of %u requests",
            gateway->env->segment->geometry.n_fates);
    return r;
}

int gateway_main(const struct child_env *env)
{
    struct gateway *gateway = calloc(1, sizeof(*gateway));
    int status = EXIT_FAILURE;

    if (!gateway)
        return status;
    gateway->env = env;
    arena_init(&gateway->arena, PROTOCOL_UNPACKED_MAX);
    if (give_up_rights(env) == 0 && load_tokens(gateway) == 0 && open_fates(gateway) == 0 &&
        member_new_heir(env, NULL, on_adopt, gateway, &gateway->member) == 0) {
        status = run(gateway);
        member_free(gateway->member);
    }
    fates_close(&gateway->fates);
    token_deinit(&gateway->operator_token);
    token_deinit(&gateway->token);
    arena_deinit(&gateway->arena);
    free(gateway);
    return status;
}
