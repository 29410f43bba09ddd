/* SPDX-License-Identifier: MIT */
/*
 * What a client of examples/kv may send, as its parser sees it: as it comes, in pieces of any size.
 * Nothing outside of what has come is read; a request that is whole is the same however much comes
 * behind it, and is none while its last byte is missing; what is refused stays so.
 *
 * Input: bytes of a connection.
 */
#include "examples/kv/kv.c"

#include "tests/fuzz/fuzz.h"

/* Parses a copy that a sanitizer watches the end of. */
static int parse_copy(const uint8_t *data, size_t len, struct request *ret)
{
    char *copy = malloc(len + 1);
    int r;

    assert(copy);
    memcpy(copy + 1, data, len);
    r = parse(copy + 1, len, ret);
    for (uint32_t i = 0; r > 0 && i < ret->n; i++) {
        const struct word *word = &ret->words[i];
        assert(word->data > copy && word->data + word->len <= copy + 1 + ret->bytes);
    }
    if (r > 0 && ret->n > 0)
        assert(find_command(ret));
    free(copy);
    return r;
}

static void check_whole(const uint8_t *data, const struct request *q)
{
    struct request again;

    assert(q->n <= WORDS_MAX);
    assert(parse_copy(data, q->bytes, &again) == 1 && again.bytes == q->bytes && again.n == q->n);
    assert(parse_copy(data, q->bytes - 1, &again) == 0);
    assert(parse_copy(data, q->bytes / 2, &again) == 0);
}

void fuzz_one(const uint8_t *data, size_t len)
{
    struct request q = {.n = 0};
    int r = 1;

    for (size_t at = 0; at <= len && r > 0; at += q.bytes) {
        r = parse_copy(data + at, len - at, &q);
        if (r > 0) {
            assert(q.bytes > 0 && q.bytes <= len - at);
            check_whole(data + at, &q);
        } else {
            assert(parse_copy(data + at, len - at, &q) == r);
        }
    }
}
