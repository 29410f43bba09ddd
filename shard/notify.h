/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * notify - tells the service manager how the daemon is (systemd's notify protocol)
 *
 * Why:         `systemctl start` returns when the instance is ready, and a supervisor that hangs is
 *              replaced.
 * Concurrency: supervisor
 * Not here:    built without libsystemd (notify_none.c), all of it does nothing
 */
#include <stdint.h>

void notify_ready(const char *status);
void notify_reloading(void);
void notify_status(const char *status);
void notify_stopping(void);
void notify_alive(void);

/* How often notify_alive() is expected at the least; 0: never. */
uint64_t notify_watchdog_ns(void);
