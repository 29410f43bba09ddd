/* SPDX-License-Identifier: MIT */
/*
 * The order goes out as a signal's value; its note in the segment says what became of it. Nothing
 * wakes a reader of the segment, so it is looked at a few hundred times a second.
 */
#include "tools/order.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "runtime/atomic.h"
#include "tools/clock.h"
#include "tools/command.h"
#include "tools/pidfd.h"

#define LOOK_EVERY_NS (3 * NS_PER_MS)
#define TAKEN_IN_NS   (5 * NS_PER_S)

/* 0, -ESRCH: the supervisor has gone, -ETIMEDOUT: it takes no notice. */
static int wait_for_end(
    const struct instance *in, int pidfd, uint64_t word, struct order_end *ret_end)
{
    int64_t taken_by_ns = clock_now_ns() + TAKEN_IN_NS;

    for (;;) {
        bool is_noted = order_find(&in->segment, word, ret_end);
        if (is_noted && ret_end->state >= ORDER_DONE)
            return 0;
        if (!is_noted && clock_now_ns() >= taken_by_ns)
            return -ETIMEDOUT;
        if (!pidfd_wait(pidfd, LOOK_EVERY_NS))
            return -ESRCH;
    }
}

static const char *advice(int error)
{
    if (error == -EPERM)
        return "; be the user who started it";
    if (error == -ETIMEDOUT)
        return "; is its supervisor stopped?";
    return error == -ESRCH ? "; its supervisor has ended" : "";
}

int order_carry_out(
    const struct instance *in, const char *command, struct order *order, struct order_end *ret_end)
{
    int pidfd = instance_open_supervisor(in), r = pidfd;

    order->token = ((uint32_t)getpid() << 8 ^ (uint32_t)clock_now_ns()) & ORDER_TOKEN_MASK;
    if (pidfd >= 0) {
        uint64_t word = order_word(order);
        r = pidfd_send_word(pidfd, ORDER_SIGNAL, word);
        if (r == 0)
            r = wait_for_end(in, pidfd, word, ret_end);
        close(pidfd);
    }
    if (r < 0)
        command_error("%s: instance %s, supervisor %d: %s%s", command, in->name,
            atomic_load_relaxed(&segment_supervisor(&in->segment)->pid), strerror(-r), advice(r));
    return r < 0 ? r : 0;
}

uint32_t order_limit_ms(int64_t limit_ns)
{
    int64_t ms = (limit_ns + NS_PER_MS - 1) / NS_PER_MS;

    if (limit_ns < 0)
        return 0;
    if (ms < 1)
        return 1;
    return ms < (int64_t)ORDER_LIMIT_MAX_MS ? (uint32_t)ms : ORDER_LIMIT_MAX_MS;
}
