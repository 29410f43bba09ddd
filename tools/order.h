/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * order - has the supervisor of an instance do something, and waits until it has
 *
 * Use:         struct order order = {.kind = ORDER_KIND_DRAIN, …};
 *              struct order_end end;
 *              if (order_carry_out(&in, "drain", &order, &end))
 *                  return EXIT_WORK_FAILED;      // the error was printed
 * Concurrency: one thread
 * Not here:    what orders there are (shard/order.h)
 */
#include "shard/order.h"
#include "tools/instance.h"

/* Gives the order a token of its own. Waits as long as the supervisor takes; it has limits. 0 with
 * the end; -errno where it could not be told, or died: an error was printed. */
int order_carry_out(
    const struct instance *in, const char *command, struct order *order, struct order_end *ret_end);

/* SECONDS as given by --limit (negative: not given) in an order's milliseconds. */
uint32_t order_limit_ms(int64_t limit_ns);
