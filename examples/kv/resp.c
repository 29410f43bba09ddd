/* SPDX-License-Identifier: MIT */
#include "resp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BYTES 4096
#define USUAL_BYTES ((size_t)64 * 1024)

/* ---- requests ---- */

/* A place in what is parsed. */
struct cursor {
    const char *at, *end;
};

/* Digits, then CR LF. 1, 0 or -EPROTO as resp_parse(). Ten digits are more than any limit. */
static int take_length(struct cursor *c, size_t *ret)
{
    size_t n = 0;
    const char *p = c->at;
    for (; p < c->end && *p >= '0' && *p <= '9'; p++) {
        if (p - c->at == 10)
            return -EPROTO;
        n = n * 10 + (size_t)(*p - '0');
    }
    if (p == c->at && p < c->end)
        return -EPROTO;
    if (c->end - p < 2)
        return p < c->end && *p != '\r' ? -EPROTO : 0;
    if (p[0] != '\r' || p[1] != '\n')
        return -EPROTO;
    c->at = p + 2;
    *ret = n;
    return 1;
}

/* "$3\r\nkey\r\n" */
static int take_bulk(struct cursor *c, struct resp_arg *ret, size_t *ret_missing)
{
    size_t len;
    if (c->at == c->end)
        return 0;
    if (*c->at++ != '$')
        return -EPROTO;
    int r = take_length(c, &len);
    if (r <= 0)
        return r;
    if (len > RESP_BULK_MAX)
        return -EMSGSIZE;
    size_t there = (size_t)(c->end - c->at);
    if (there < len + 2) {
        *ret_missing = len + 2 - there;
        return 0;
    }
    if (c->at[len] != '\r' || c->at[len + 1] != '\n')
        return -EPROTO;
    *ret = (struct resp_arg){c->at, len};
    c->at += len + 2;
    return 1;
}

static int take_array(struct cursor *c, struct resp_command *ret, size_t *ret_missing)
{
    size_t n;
    c->at++;
    int r = take_length(c, &n);
    if (r <= 0)
        return r;
    if (n > RESP_ARGS_MAX)
        return -EMSGSIZE;
    for (ret->n = 0; ret->n < n; ret->n++) {
        r = take_bulk(c, &ret->args[ret->n], ret_missing);
        if (r <= 0)
            return r;
    }
    return 1;
}

/* Words up to the end of the line. */
static int take_line(struct cursor *c, struct resp_command *ret)
{
    const char *end = memchr(c->at, '\n', (size_t)(c->end - c->at)), *p = c->at;
    if (!end)
        return 0;
    c->at = end + 1;
    if (end > p && end[-1] == '\r')
        end--;
    for (ret->n = 0;; ret->n++) {
        while (p < end && *p == ' ')
            p++;
        if (p == end)
            return 1;
        if (ret->n == RESP_ARGS_MAX)
            return -EMSGSIZE;
        const char *word = p;
        while (p < end && *p != ' ')
            p++;
        ret->args[ret->n] = (struct resp_arg){word, (size_t)(p - word)};
    }
}

int resp_parse(const char *data, size_t len, struct resp_command *ret)
{
    struct cursor c = {data, data + len};
    size_t missing = 1;
    if (len == 0) {
        ret->bytes = 1;
        return 0;
    }
    int r = data[0] == '*' ? take_array(&c, ret, &missing) : take_line(&c, ret);
    ret->bytes = r > 0 ? (size_t)(c.at - data) : len + missing;
    return ret->bytes > RESP_BYTES_MAX && r >= 0 ? -EMSGSIZE : r;
}

bool resp_is(const struct resp_arg *arg, const char *word)
{
    size_t i = 0;
    while (i < arg->len && word[i] && (arg->data[i] & ~0x20) == word[i])
        i++;
    return i == arg->len && !word[i];
}

bool resp_int64(const struct resp_arg *arg, int64_t *ret)
{
    bool negative = arg->len > 0 && arg->data[0] == '-';
    size_t i = negative;
    int64_t n = 0;
    if (arg->len == i || arg->len > 20 || (arg->data[i] == '0' && arg->len > 1))
        return false;
    for (; i < arg->len; i++) {
        int digit = arg->data[i] - '0';
        if (digit < 0 || digit > 9 || __builtin_mul_overflow(n, 10, &n) ||
            __builtin_sub_overflow(n, digit, &n)) /* the least number has no opposite */
            return false;
    }
    if (!negative && n == INT64_MIN)
        return false;
    *ret = negative ? n : -n;
    return true;
}

/* ---- replies ---- */

void resp_out_deinit(struct resp_out *out)
{
    free(out->data);
    *out = (struct resp_out){0};
}

void resp_out_reset(struct resp_out *out)
{
    if (out->capacity > USUAL_BYTES)
        resp_out_deinit(out);
    out->len = 0;
}

/* NULL: no memory. */
static char *room(struct resp_out *out, size_t len)
{
    size_t capacity = out->capacity ? out->capacity : FIRST_BYTES;
    if (__builtin_expect(out->capacity - out->len >= len, 1))
        return out->data + out->len;
    while (capacity - out->len < len)
        capacity *= 2;
    char *data = realloc(out->data, capacity);
    if (!data)
        return NULL;
    out->data = data;
    out->capacity = capacity;
    return data + out->len;
}

bool resp_raw(struct resp_out *out, const void *data, size_t len)
{
    char *to = room(out, len);
    if (to && len) {
        memcpy(to, data, len);
        out->len += len;
    }
    return to;
}

bool resp_text(struct resp_out *out, const char *text)
{
    return resp_raw(out, text, strlen(text));
}

/* A letter, a number, CR LF. Returns the end; `to` has room for 24 bytes. */
static char *put_number(char *to, char letter, int64_t n)
{
    char digits[20], *p = digits + sizeof digits;
    uint64_t u = n < 0 ? -(uint64_t)n : (uint64_t)n;
    *to++ = letter;
    if (n < 0)
        *to++ = '-';
    do
        *--p = (char)('0' + u % 10);
    while (u /= 10);
    size_t len = (size_t)(digits + sizeof digits - p);
    memcpy(to, p, len);
    memcpy(to + len, "\r\n", 2);
    return to + len + 2;
}

bool resp_integer(struct resp_out *out, int64_t n)
{
    char *to = room(out, 24);
    if (to)
        out->len = (size_t)(put_number(to, ':', n) - out->data);
    return to;
}

bool resp_bulk(struct resp_out *out, const void *data, size_t len)
{
    char *to = room(out, len + 26);
    if (!to)
        return false;
    to = put_number(to, '$', (int64_t)len);
    memcpy(to, data, len);
    memcpy(to + len, "\r\n", 2);
    out->len = (size_t)(to + len + 2 - out->data);
    return true;
}
