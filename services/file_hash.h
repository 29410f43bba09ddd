/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * file_hash - SHA-256 of an open file, reading ahead so that disk and CPU work at the same time
 *
 * Why:         one read at a time leaves the disk idle while the CPU hashes, and the other way
 *              round.
 * Use:         struct file_hasher *hasher;  r = file_hasher_new(&hasher);    once a shard
 *              r = file_hash_co(hasher, &(struct file_to_hash){.fd = fd, …}, digest, &size);
 * Concurrency: owner loop; hashing: coroutine, any number at once. Others run in between: no more
 *              than FILE_PIECE_BYTES are hashed at a stretch.
 * Lifetime:    fd and buffer stay valid until the call returns; by then no read is in flight.
 */
#include <stddef.h>
#include <stdint.h>

#include "runtime/coroutine.h"
#include "services/buffer_pool.h"

#define FILE_PIECE_BYTES  ((size_t)256 * 1024)
#define FILE_DIGEST_BYTES 32u

struct file_hasher;

/* windows hands out buffers of FILE_WINDOW_BYTES, of which a file larger than a piece takes one,
 * and outlives the hasher. 0, -ENOMEM, or -ENOTSUP: libcrypto has no SHA-256. */
#define FILE_WINDOW_PIECES 4u
#define FILE_WINDOW_BYTES  (FILE_WINDOW_PIECES * FILE_PIECE_BYTES)
int file_hasher_new(struct buffer_pool *windows, struct file_hasher **ret_hasher);
void file_hasher_free(struct file_hasher *hasher); /* NULL does nothing */

struct file_to_hash {
    int fd;
    uint64_t size; /* by fstat(); 0: not known, as in /proc */
    void *piece;   /* FILE_PIECE_BYTES to read into, for small files */
    /* Asked between pieces and after waiting in line: 0, or -errno to give up with. NULL: never. */
    int (*may_go_on)(const void *opaque);
    const void *opaque;
};

/*
 * Hashes from the start to the end of the file, or to file->size where the file has grown since.
 * One that shrinks meanwhile is hashed to its new end. 0, or -errno: what reading or may_go_on()
 * said; -ENOMEM. *ret_size is how many bytes were hashed.
 */
int coroutine_fn file_hash_co(struct file_hasher *hasher, const struct file_to_hash *file,
    uint8_t ret_digest[FILE_DIGEST_BYTES], uint64_t *ret_size);
