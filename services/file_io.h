/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * file_io - reads and writes files that are open already: file.pread, file.pwrite, file.close
 *
 * Why:         a block takes one look into a table and one system call, and goes straight between
 *              the disk, or the kernel's cache, and the caller's memory.
 * Use:         docs/services.md: what they take and answer
 * Concurrency: coroutines of the shard's loop.
 */
#include "services/open_files.h"
#include "shard/service.h"

#define FILE_HANDLE_BYTES 8u
#define FILE_SPAN_BYTES   24u /* handle, offset, length: 8 bytes each, little-endian */

int coroutine_fn file_pread_co(struct service_call *call, struct open_files *files);
int coroutine_fn file_pwrite_co(struct service_call *call, struct open_files *files);
int coroutine_fn file_close_co(struct service_call *call, struct open_files *files);
