/* SPDX-License-Identifier: MIT */
#include "services/file_hash.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdlib.h>

#include "runtime/disk.h"

/*
 * Three ways, by size:
 *
 *   at most a piece   one read, one update, no other coroutine. Most files are such.
 *   larger            a window of pieces, each read by a coroutine of its own, so that their reads
 *                     are in flight together; hashed in order, and each read again at once for the
 *                     next part of the file that nobody reads yet
 *   not known         piece after piece until a read comes back short
 *
 * A read is short only at the end of the file, so a short piece is the last; pieces in flight
 * behind it lie past the end and are waited for, because their buffers go back.
 */

struct file_hasher {
    EVP_MD *sha256; /* fetched once: looking a digest up costs more than hashing a small file */
    EVP_MD_CTX *idle_ctx;
    struct buffer_pool *windows;
};

int file_hasher_new(struct buffer_pool *windows, struct file_hasher **ret_hasher)
{
    struct file_hasher *hasher = calloc(1, sizeof(*hasher));
    if (!hasher)
        return -ENOMEM;
    hasher->windows = windows;
    hasher->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (!hasher->sha256) {
        file_hasher_free(hasher);
        return -ENOTSUP;
    }
    *ret_hasher = hasher;
    return 0;
}

void file_hasher_free(struct file_hasher *hasher)
{
    if (!hasher)
        return;
    EVP_MD_CTX_free(hasher->idle_ctx);
    EVP_MD_free(hasher->sha256);
    free(hasher);
}

/* ---- one digest ---- */

/* The context that was used last, else a new one. NULL: no memory. */
static EVP_MD_CTX *digest_begin(struct file_hasher *hasher)
{
    EVP_MD_CTX *ctx = hasher->idle_ctx ? hasher->idle_ctx : EVP_MD_CTX_new();
    hasher->idle_ctx = NULL;
    if (ctx && !EVP_DigestInit_ex2(ctx, hasher->sha256, NULL)) {
        EVP_MD_CTX_free(ctx);
        ctx = NULL;
    }
    return ctx;
}

static int digest_update(EVP_MD_CTX *ctx, const void *data, size_t len)
{
    return EVP_DigestUpdate(ctx, data, len) ? 0 : -EIO;
}

static void digest_drop(struct file_hasher *hasher, EVP_MD_CTX *ctx)
{
    EVP_MD_CTX_free(hasher->idle_ctx);
    hasher->idle_ctx = ctx;
}

/* Lets everything else in this loop have a turn. */
static void coroutine_fn let_others_run_co(void)
{
    aio_co_schedule(aio_context_current(), coroutine_self());
    coroutine_yield_at("lets others run");
}

static int may_go_on(const struct file_to_hash *file)
{
    return file->may_go_on ? file->may_go_on(file->opaque) : 0;
}

/* While others run it may become known that nobody waits for this file any more. */
static int coroutine_fn pause_co(const struct file_to_hash *file)
{
    let_others_run_co();
    return may_go_on(file);
}

/* ---- size not known ---- */

static int coroutine_fn hash_until_end_co(
    const struct file_to_hash *file, EVP_MD_CTX *ctx, uint64_t *ret_size)
{
    uint64_t size = 0;
    while (true) {
        ssize_t len = co_pread(file->fd, file->piece, FILE_PIECE_BYTES, size);
        int r = len < 0 ? (int)len : digest_update(ctx, file->piece, (size_t)len);
        if (r < 0)
            return r;
        size += (uint64_t)len;
        if ((size_t)len < FILE_PIECE_BYTES) {
            *ret_size = size;
            return 0;
        }
        r = pause_co(file);
        if (r < 0)
            return r;
    }
}

/* ---- a piece or less ---- */

static int coroutine_fn hash_small_co(
    const struct file_to_hash *file, EVP_MD_CTX *ctx, uint64_t *ret_size)
{
    ssize_t len = co_pread(file->fd, file->piece, file->size, 0);
    if (len < 0)
        return (int)len;
    *ret_size = (uint64_t)len;
    return digest_update(ctx, file->piece, (size_t)len);
}

/* ---- more: a window that moves over the file ---- */

struct window;

struct piece {
    struct window *window;
    uint8_t *data;
    uint64_t offset;
    size_t len;     /* asked for; 0: past the size */
    ssize_t result; /* once it is not in flight */
    bool in_flight;
};

struct window {
    const struct file_to_hash *file;
    Coroutine *hashing;
    const struct piece *awaited; /* by the hashing coroutine, which has yielded */
    uint64_t next_offset;        /* to be read next */
    struct piece pieces[FILE_WINDOW_PIECES];
};

static void coroutine_fn piece_read(void *opaque)
{
    struct piece *piece = opaque;
    struct window *window = piece->window;
    piece->result = co_pread(window->file->fd, piece->data, piece->len, piece->offset);
    piece->in_flight = false;
    if (window->awaited == piece) {
        window->awaited = NULL;
        aio_co_wake(window->hashing);
    }
}

/* Has the piece read the next part of the file, if there is more of it. */
static void coroutine_fn piece_start(struct piece *piece)
{
    struct window *window = piece->window;
    uint64_t left = window->file->size - window->next_offset;
    piece->len = left < FILE_PIECE_BYTES ? (size_t)left : FILE_PIECE_BYTES;
    piece->result = 0;
    if (piece->len == 0)
        return;
    piece->offset = window->next_offset;
    piece->in_flight = true;
    window->next_offset += piece->len;
    Coroutine *reader = coroutine_create(piece_read, piece);
    if (reader)
        coroutine_enter(reader);
    else
        piece_read(piece); /* no memory for another stack: without reading ahead */
}

static void coroutine_fn piece_wait_co(struct piece *piece)
{
    while (piece->in_flight) {
        piece->window->awaited = piece;
        coroutine_yield_at("reads ahead");
    }
}

static int coroutine_fn hash_pieces_co(struct window *window, EVP_MD_CTX *ctx, uint64_t *ret_size)
{
    uint64_t size = 0;
    for (uint32_t i = 0;; i = (i + 1) % FILE_WINDOW_PIECES) {
        struct piece *piece = &window->pieces[i];
        piece_wait_co(piece);
        if (piece->result < 0)
            return (int)piece->result;
        int r = digest_update(ctx, piece->data, (size_t)piece->result);
        if (r < 0)
            return r;
        size += (uint64_t)piece->result;
        if (piece->result < (ssize_t)piece->len || size == window->file->size) {
            *ret_size = size;
            return 0;
        }
        piece_start(piece);
        r = pause_co(window->file);
        if (r < 0)
            return r;
    }
}

static int coroutine_fn hash_large_co(struct file_hasher *hasher, const struct file_to_hash *file,
    EVP_MD_CTX *ctx, uint64_t *ret_size)
{
    uint8_t *buffer = buffer_pool_take_co(hasher->windows);
    if (!buffer)
        return -ENOMEM;
    int r = may_go_on(file); /* the line was long, maybe */
    if (r < 0) {
        buffer_pool_put(hasher->windows, buffer);
        return r;
    }
    struct window window = {.file = file, .hashing = coroutine_self()};
    for (uint32_t i = 0; i < FILE_WINDOW_PIECES; i++) {
        struct piece *piece = &window.pieces[i];
        piece->window = &window;
        piece->data = buffer + i * FILE_PIECE_BYTES;
        piece_start(piece);
    }
    r = hash_pieces_co(&window, ctx, ret_size);
    for (uint32_t i = 0; i < FILE_WINDOW_PIECES; i++)
        piece_wait_co(&window.pieces[i]);
    buffer_pool_put(hasher->windows, buffer);
    return r;
}

int coroutine_fn file_hash_co(struct file_hasher *hasher, const struct file_to_hash *file,
    uint8_t ret_digest[FILE_DIGEST_BYTES], uint64_t *ret_size)
{
    EVP_MD_CTX *ctx = digest_begin(hasher);
    if (!ctx)
        return -ENOMEM;
    uint64_t size = 0;
    int r = file->size == 0                  ? hash_until_end_co(file, ctx, &size)
            : file->size <= FILE_PIECE_BYTES ? hash_small_co(file, ctx, &size)
                                             : hash_large_co(hasher, file, ctx, &size);
    if (r == 0 && !EVP_DigestFinal_ex(ctx, ret_digest, NULL))
        r = -EIO;
    digest_drop(hasher, ctx);
    if (r == 0)
        *ret_size = size;
    return r;
}
