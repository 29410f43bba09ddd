/* SPDX-License-Identifier: MIT */
#include "shard/notify.h"

void notify_ready(const char *status)
{
    (void)status;
}

void notify_reloading(void)
{
}

void notify_status(const char *status)
{
    (void)status;
}

void notify_stopping(void)
{
}

void notify_alive(void)
{
}

uint64_t notify_watchdog_ns(void)
{
    return 0;
}
