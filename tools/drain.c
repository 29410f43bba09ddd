/* SPDX-License-Identifier: MIT */
/*
 * sherd drain - has the instance take nothing new and finish what it has; --off: take it again
 *
 * Here the order goes to the supervisor itself, so that it works with a dead gateway too; to one
 * elsewhere it goes through the gateway, and how the instance is tells when it is carried out.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/clock.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/order.h"
#include "tools/remote.h"

#define LIMIT_NS (30 * NS_PER_S) /* as an instance has it unless it is told */

struct values {
    const char *instance;
    int64_t wait_ns;
    struct remote remote;
    int64_t limit_ns; /* negative: not given */
    bool off;
};

static const struct command_option option_table[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    REMOTE_OPTIONS(struct values, remote),
    {"limit", 0, "SECONDS",
        "how long to wait for what is in flight (default: the instance's drain limit)",
        command_seconds, offsetof(struct values, limit_ns)},
    {"off", 0, NULL, "take what is new again", command_flag, offsetof(struct values, off)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd drain --instance demo --limit 10", "nothing new from now on; wait up to 10 s"},
    {"sherd drain --instance demo --off", "go on"},
    {"sherd drain --url tls+tcp://host:7411 --tls-ca ca.pem --token-file operator-token",
        "one elsewhere, which says who may by --operator-token-file"},
    {0},
};

static const struct command command = {
    .name = "drain",
    .operands = "",
    .summary = "Has an instance take nothing new from clients, finish what is in flight, and stay "
               "up.",
    .details =
        "It returns when nothing is in flight, or at the limit; nothing is cut off then, and "
        "nothing new\nis taken until --off.",
    .options = option_table,
    .examples = examples,
};

static int tell(const struct instance *in, const struct order_end *end)
{
    if (end->state == ORDER_DONE)
        return EXIT_DONE;
    if (end->state == ORDER_LIMIT)
        return command_error("drain: instance %s takes nothing new, but %" PRIu64
                             " calls or their clients were not finished at the limit",
            in->name, end->n_cut);
    return command_error("drain: instance %s: %s", in->name, order_state_text(end->state));
}

static int drain_here(const struct values *values)
{
    struct instance in;
    struct order_end end;

    if (instance_open(values->instance, values->wait_ns, INSTANCE_READY, &in))
        return EXIT_WORK_FAILED;
    struct order order = {.kind = values->off ? ORDER_KIND_RESUME : ORDER_KIND_DRAIN,
        .target = ORDER_ALL_SHARDS,
        .limit_ms = order_limit_ms(values->limit_ns)};
    int status = order_carry_out(&in, "drain", &order, &end) ? EXIT_WORK_FAILED : tell(&in, &end);
    instance_close(&in);
    return status;
}

static int broken(struct sherd_client *client, int error)
{
    const char *text = sherd_client_error_text(client);

    return command_error("drain: %s", *text ? text : strerror(-error));
}

/* Until the limit, and until somebody else has it take what is new again. */
static int await_drained(struct sherd_client *client, const struct values *values)
{
    int64_t until_ns = clock_now_ns() + (values->limit_ns < 0 ? LIMIT_NS : values->limit_ns);
    struct sherd_status status = {0};
    int r = sherd_client_watch(client, 0, 0, &status);

    while (r == 0 && status.drain == SHERD_DRAINING && clock_now_ns() < until_ns)
        r = sherd_client_watch(client, status.change, until_ns - clock_now_ns(), &status);
    if (r < 0)
        return broken(client, r);
    if (status.drain == SHERD_DRAINING)
        return command_error("drain: %s takes nothing new, but %" PRIu64
                             " requests or their clients were not finished at the limit",
            values->remote.url, status.requests_in_flight);
    if (status.drain == SHERD_NOT_DRAINED)
        return command_error("drain: %s was told to go on meanwhile", values->remote.url);
    return EXIT_DONE;
}

static int drain_there(const struct values *values)
{
    struct sherd_client_options options = {.wait_ns = values->wait_ns};
    struct sherd_client *client;
    char *error = NULL;

    remote_apply(&values->remote, &options);
    int r = sherd_client_open(&options, &client, &error);
    if (r < 0)
        return command_error_text(error, values->remote.url, r);
    r = sherd_client_drain(client, values->off, values->limit_ns < 0 ? 0 : values->limit_ns);
    int status = r < 0         ? broken(client, r)
                 : values->off ? EXIT_DONE
                               : await_drained(client, values);
    sherd_client_close(client);
    return status;
}

int drain_command(int argc, char **argv)
{
    struct values values = {.wait_ns = COMMAND_WAIT_NS, .limit_ns = -1};
    char **operands;
    int n = command_parse(&command, argc, argv, &values, &operands);

    if (n < 0)
        return command_exit_status(n);
    if (n > 0)
        return command_usage(&command, "unexpected argument: %s", operands[0]);
    int status = remote_check(&values.remote, &command, values.instance);
    if (status)
        return status;
    return values.remote.url ? drain_there(&values) : drain_here(&values);
}
