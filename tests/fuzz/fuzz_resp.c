/* SPDX-License-Identifier: MIT */
/*
 * What a client of examples/kv may send, as its parser sees it: as it comes, in pieces of any size.
 * Nothing outside of what has come is read; a command that is whole is the same however much comes
 * behind it, and is none while its last byte is missing; what is refused stays so.
 *
 * Input: bytes of a connection.
 */
#include <stdlib.h>

#include "examples/kv/resp.h"
#include "tests/fuzz/fuzz.h"

/* Parses a copy that a sanitizer watches the end of. */
static int parse(const uint8_t *data, size_t len, struct resp_command *ret)
{
    char *copy = malloc(len + 1);
    int r;

    assert(copy);
    memcpy(copy + 1, data, len);
    r = resp_parse(copy + 1, len, ret);
    for (uint32_t i = 0; r > 0 && i < ret->n; i++) {
        const struct resp_arg *arg = &ret->args[i];
        assert(arg->data > copy && arg->data + arg->len <= copy + 1 + ret->bytes);
        assert(!resp_is(arg, "NO COMMAND") || arg->len == 10);
    }
    free(copy);
    return r;
}

static void check_whole(const uint8_t *data, const struct resp_command *c)
{
    struct resp_command again;

    assert(c->n <= RESP_ARGS_MAX);
    assert(parse(data, c->bytes, &again) == 1 && again.bytes == c->bytes && again.n == c->n);
    assert(parse(data, c->bytes - 1, &again) == 0 && again.bytes <= c->bytes);
    assert(parse(data, c->bytes / 2, &again) == 0);
}

void fuzz_one(const uint8_t *data, size_t len)
{
    struct resp_command c;
    int64_t number;
    int r = 1;

    for (size_t at = 0; at <= len && r > 0; at += c.bytes) {
        r = parse(data + at, len - at, &c);
        if (r > 0) {
            assert(c.bytes > 0 && c.bytes <= len - at);
            check_whole(data + at, &c);
        } else if (r == 0) {
            assert(c.bytes > len - at && c.bytes <= RESP_BYTES_MAX);
        } else {
            assert(parse(data + at, len - at, &c) == r);
        }
    }
    resp_int64(&(struct resp_arg){(const char *)data, len < 24 ? len : 24}, &number);
}
