/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * sys - the service that asks a shard about itself, and disturbs it on request
 *
 * Why:         whoever operates an instance wants to know whether a shard answers; whoever tests
 * one wants it to wait, to be busy and to die. Use:         registry_add(registry, &sys_service,
 * NULL); docs/services.md lists the methods Concurrency: as any service: coroutines of the shard's
 * loop.
 */
#include "shard/service.h"

extern const struct service sys_service;
