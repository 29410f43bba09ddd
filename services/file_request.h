/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * file_request - finds the data of a packed sherd.file.Request, and leaves it where it lies
 *
 * Why:         what is to be written goes to the disk from the caller's memory, and all else of a
 *              request is parsed from a copy, for that memory may change meanwhile.
 * Use:         r = file_request_split(args, len, &split); unpack split.rest; free(split.rest)
 * Concurrency: none: a function of its arguments
 * Lifetime:    split.data is a part of args
 */
#include <stddef.h>
#include <stdint.h>

struct file_request_split {
    uint8_t *rest; /* malloc: the request without its data */
    size_t rest_len;
    const uint8_t *data;
    size_t data_len;
};

/* 0; -EBADMSG: it is no such message, or has its data more than once; -ENOMEM. */
int file_request_split(const uint8_t *args, size_t len, struct file_request_split *ret);
