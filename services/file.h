/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * file - the service that hashes, reads, writes and describes files under given folders
 *
 * Why:         a shard does disk I/O and computes on what it reads, for clients that may not, or
 *              would have to wait.
 * Use:         registry_add(registry, &file_service, NULL);
 *              registry_configure(registry, "file", "root", "/usr", &error);
 *              docs/services.md lists the methods; proto/file.proto has their messages
 * Concurrency: as any service: coroutines of the shard's loop.
 */
#include "shard/service.h"

extern const struct service file_service;
