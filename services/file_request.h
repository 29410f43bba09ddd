/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * file_request - finds the data of a packed sherd.file.Request, and leaves it where it lies
 *
 * Why:         what is to be written goes to the disk from the caller's memory, and all else of a
 *              request is parsed from a copy, for that memory may change meanwhile. It takes next
 *              to no time, however long the arguments are.
 * Use:         r = file_request_split(args, len, &split); unpack split.rest; free(split.rest). Or
 *              both: file_request_unpack()
 * Concurrency: none: a function of its arguments
 * Lifetime:    split.data is a part of args
 */
#include <stddef.h>
#include <stdint.h>

#include "proto/arena.h"
#include "proto/file.pb-c.h"

#define FILE_REQUEST_FIELDS_MAX 16u
#define FILE_REQUEST_REST_MAX   ((size_t)4096 + 256) /* bytes that are not data: a path, and some */
#define FILE_REQUEST_BYTES_MAX  (4 * FILE_REQUEST_REST_MAX) /* unpacked, without its data */

struct file_request_split {
    uint8_t *rest; /* malloc: the request without its data */
    size_t rest_len;
    const uint8_t *data;
    size_t data_len;
};

/* 0; -EBADMSG: it is no such message, has its data more than once, or more than the limits above;
 * -ENAMETOOLONG: its path has PATH_MAX bytes or more, and ret->data is that path; -ENOMEM. */
int file_request_split(const uint8_t *args, size_t len, struct file_request_split *ret);

/* The same, and *ret_request, in arena, is the request without its data. Of ret_split, data alone
 * is of use then. */
int file_request_unpack(const void *args, size_t len, struct arena *arena,
    struct file_request_split *ret_split, Sherd__File__Request **ret_request);
