/* SPDX-License-Identifier: MIT */
#include "shard/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES ((size_t)256)
#define KEPT_BYTES  ((size_t)64 * 1024)

void bytes_deinit(struct bytes *b)
{
    free(b->data);
    *b = (struct bytes){0};
}

void bytes_clear(struct bytes *b)
{
    if (b->capacity > KEPT_BYTES)
        bytes_deinit(b);
    if (b->data)
        b->data[0] = '\0';
    b->len = 0;
    b->failed = false;
}

/* For so much, and a NUL behind it. NULL: no memory, now or before. */
static char *take_room(struct bytes *b, size_t len)
{
    size_t capacity = b->capacity ? b->capacity : FIRST_BYTES;

    if (b->failed)
        return NULL;
    if (b->capacity - b->len > len)
        return b->data + b->len;
    while (capacity - b->len <= len && capacity <= SIZE_MAX / 2)
        capacity *= 2;
    char *data = capacity - b->len <= len ? NULL : realloc(b->data, capacity);
    b->failed = !data;
    if (!data)
        return NULL;
    b->data = data;
    b->capacity = capacity;
    return data + b->len;
}

void bytes_put(struct bytes *b, const void *data, size_t len)
{
    char *to = take_room(b, len);

    if (!to)
        return;
    if (len)
        memcpy(to, data, len);
    to[len] = '\0';
    b->len += len;
}

void bytes_put_text(struct bytes *b, const char *text)
{
    bytes_put(b, text, strlen(text));
}

void bytes_put_decimal(struct bytes *b, int64_t n)
{
    char digits[20], *end = digits + sizeof(digits), *at = end;
    uint64_t rest = n < 0 ? -(uint64_t)n : (uint64_t)n;

    do
        *--at = (char)('0' + rest % 10);
    while (rest /= 10);
    if (n < 0)
        *--at = '-';
    bytes_put(b, at, (size_t)(end - at));
}

void bytes_printf(struct bytes *b, const char *format, ...)
{
    va_list args, again;

    va_start(args, format);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    char *to = len < 0 ? NULL : take_room(b, (size_t)len);
    if (to) {
        vsnprintf(to, (size_t)len + 1, format, again);
        b->len += (size_t)len;
    }
    b->failed |= len < 0;
    va_end(again);
    va_end(args);
}
