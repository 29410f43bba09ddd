/* SPDX-License-Identifier: MIT */
#ifndef SHERD_BYTES_H
#define SHERD_BYTES_H
/*
 * bytes - something that is put together piece by piece: an answer, what a connection is sent
 *
 * Why:         how long it becomes, and whether there is memory for it, is known at its end alone.
 * Use:         struct bytes answer = {0};
 *              bytes_put(&answer, name, name_len);
 *              bytes_printf(&answer, " %d\n", n);
 *              r = answer.failed ? -ENOMEM : service_reply(call, answer.data, answer.len);
 *              bytes_deinit(&answer);
 * Concurrency: one user at a time; nothing here waits
 * Lifetime:    one that is zero is empty, and holds nothing
 * Not here:    a limit: who fills it from what others send has one
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct bytes {
    char *data; /* with a NUL behind it, which is not of it; NULL: nothing was put yet */
    size_t len;
    size_t capacity;
    bool failed; /* there was no memory for something: that is missing, and all that came after */
};

void bytes_deinit(struct bytes *bytes);

/* Empties it, as if nothing had failed. It keeps memory for what is put next: 64 KiB at most. */
void bytes_clear(struct bytes *bytes);

/* Puts that behind what is there. data may not lie in it, and may be NULL where len is 0. */
void bytes_put(struct bytes *bytes, const void *data, size_t len);
void bytes_put_text(struct bytes *bytes, const char *text); /* without its NUL */
void bytes_put_decimal(struct bytes *bytes, int64_t n);
void bytes_printf(struct bytes *bytes, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif
#endif
