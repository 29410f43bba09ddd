/* SPDX-License-Identifier: MIT */
/*
 * sherd drain - has the instance take nothing new and finish what it has; --off: take it again
 */
#include <inttypes.h>
#include <stdio.h>

#include "tools/command.h"
#include "tools/commands.h"
#include "tools/order.h"

struct values {
    const char *instance;
    int64_t wait_ns;
    int64_t limit_ns; /* negative: not given */
    bool off;
};

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    {"limit", 0, "SECONDS",
        "how long to wait for what is in flight (default: the instance's drain limit)",
        command_seconds, offsetof(struct values, limit_ns)},
    {"off", 0, NULL, "take what is new again", command_flag, offsetof(struct values, off)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd drain --instance demo --limit 10", "nothing new from now on; wait up to 10 s"},
    {"sherd drain --instance demo --off", "go on"},
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
    .options = options,
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

int drain_command(int argc, char **argv)
{
    struct values values = {.wait_ns = COMMAND_WAIT_NS, .limit_ns = -1};
    struct instance in;
    struct order_end end;
    char **operands;
    int status, n = command_parse(&command, argc, argv, &values, &operands);

    if (n < 0)
        return command_exit_status(n);
    if (n > 0)
        return command_usage(&command, "unexpected argument: %s", operands[0]);
    if (instance_open(values.instance, values.wait_ns, INSTANCE_READY, &in))
        return EXIT_WORK_FAILED;
    struct order order = {.kind = values.off ? ORDER_KIND_RESUME : ORDER_KIND_DRAIN,
        .target = ORDER_ALL_SHARDS,
        .limit_ms = order_limit_ms(values.limit_ns)};
    status = order_carry_out(&in, "drain", &order, &end) ? EXIT_WORK_FAILED : tell(&in, &end);
    instance_close(&in);
    return status;
}
