/* SPDX-License-Identifier: MIT */
/*
 * sherd restart - has the supervisor replace shards, one after the other
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tools/command.h"
#include "tools/commands.h"
#include "tools/order.h"

struct values {
    const char *instance;
    int64_t wait_ns;
    int64_t limit_ns; /* negative: not given */
};

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    {"limit", 0, "SECONDS",
        "how long each may take to finish what it has (default: the instance's drain limit)",
        command_seconds, offsetof(struct values, limit_ns)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd restart --instance demo", "all shards, one after the other"},
    {"sherd restart --instance demo 3", "shard 3, also where it was given up"},
    {"sherd restart --instance demo gateway", "the gateway; clients connect again"},
    {0},
};

static const struct command command = {
    .name = "restart",
    .operands = "[SHARD | gateway]",
    .summary = "Restarts all shards, one after the other, or one process.",
    .details = "Each finishes what it serves; calls to it wait for its replacement meanwhile, so "
               "that no request\nfails. What it has not finished at the limit is judged as if the "
               "shard had died.",
    .options = options,
    .examples = examples,
};

/* The operand as a target of the order. False: a usage error was printed. */
static bool parse_target(
    const struct instance *in, int n_operands, char **operands, uint32_t *ret_target)
{
    uint32_t shard;

    if (n_operands == 0) {
        *ret_target = ORDER_ALL_SHARDS;
    } else if (strcmp(operands[0], "gateway") == 0) {
        *ret_target = segment_gateway(&in->segment);
    } else if (command_u32(operands[0], &shard) == NULL && shard < in->segment.geometry.n_shards) {
        *ret_target = shard;
    } else {
        command_usage(&command, "'%s' is neither gateway nor a shard from 0 to %u", operands[0],
            in->segment.geometry.n_shards - 1);
        return false;
    }
    return true;
}

static int tell(const struct instance *in, const struct order_end *end)
{
    char name[INSTANCE_PEER_NAME];

    switch (end->state) {
    case ORDER_DONE:
        return EXIT_DONE;
    case ORDER_CUT:
        return command_error(
            "restart: restarted, but %" PRIu64 " calls were in flight when the limit came: what "
            "may run twice was run again, the callers of the others were told that it is in doubt",
            end->n_cut);
    case ORDER_FAILED:
        return command_error("restart: %s did not come up, see the log; those after it were left",
            instance_peer_name(in, end->peer, name));
    default:
        return command_error("restart: instance %s: %s", in->name, order_state_text(end->state));
    }
}

static int restart(const struct instance *in, struct values *values, int n, char **operands)
{
    struct order order = {.kind = ORDER_KIND_RESTART, .limit_ms = order_limit_ms(values->limit_ns)};
    struct order_end end;

    if (!parse_target(in, n, operands, &order.target))
        return EXIT_USAGE;
    if (order_carry_out(in, "restart", &order, &end))
        return EXIT_WORK_FAILED;
    return tell(in, &end);
}

int restart_command(int argc, char **argv)
{
    struct values values = {.wait_ns = COMMAND_WAIT_NS, .limit_ns = -1};
    struct instance in;
    char **operands;
    int status, n = command_parse(&command, argc, argv, &values, &operands);

    if (n < 0)
        return command_exit_status(n);
    if (n > 1)
        return command_usage(&command, "unexpected argument: %s", operands[1]);
    if (instance_open(values.instance, values.wait_ns, INSTANCE_READY, &in))
        return EXIT_WORK_FAILED;
    status = restart(&in, &values, n, operands);
    instance_close(&in);
    return status;
}
