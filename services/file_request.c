/* SPDX-License-Identifier: MIT */
#include "services/file_request.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/*
 * A message is a row of fields: a tag (number << 3 | kind) and a value, whose kind says how long it
 * is. Each byte is read once, and every length is compared with what is left, so whatever is
 * written to the bytes meanwhile, what comes out lies within them. Only tags and lengths are read,
 * and not many of them: the loop of a shard has others to serve. The copy is parsed by protobuf-c,
 * which trusts nothing.
 */

#define PATH_FIELD 1
#define DATA_FIELD 4

enum wire_kind { WIRE_VARINT = 0, WIRE_64_BITS = 1, WIRE_BYTES = 2, WIRE_32_BITS = 5 };

struct scan {
    const volatile uint8_t *bytes;
    size_t len;
    size_t at;
};

static int scan_varint(struct scan *scan, uint64_t *ret)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (scan->at == scan->len)
            return -EBADMSG;
        uint8_t byte = scan->bytes[scan->at++];
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *ret = value;
            return 0;
        }
    }
    return -EBADMSG;
}

/* The length of the value that begins here, past its own length where it has one. */
static int scan_value(struct scan *scan, unsigned kind, uint64_t *ret_len)
{
    uint64_t number;

    switch (kind) {
    case WIRE_VARINT:
        *ret_len = 0;
        return scan_varint(scan, &number);
    case WIRE_64_BITS:
        *ret_len = 8;
        return 0;
    case WIRE_BYTES:
        return scan_varint(scan, ret_len);
    case WIRE_32_BITS:
        *ret_len = 4;
        return 0;
    default:
        return -EBADMSG;
    }
}

/* Where a field begins, and its value begins and ends. */
struct extent {
    size_t field, begin, end;
};

/* The next field, which the scan is then behind. */
static int scan_field(struct scan *scan, uint64_t *ret_tag, struct extent *ret)
{
    size_t field = scan->at;
    uint64_t value_len;
    int r = scan_varint(scan, ret_tag);

    if (r == 0)
        r = scan_value(scan, (unsigned)(*ret_tag & 7), &value_len);
    if (r < 0)
        return r;
    if (value_len > scan->len - scan->at)
        return -EBADMSG;
    *ret = (struct extent){field, scan->at, scan->at + value_len};
    scan->at = ret->end;
    return 0;
}

/* All at the end of the message where it has none. -ENAMETOOLONG: it is the path. */
static int find_data(const uint8_t *args, size_t len, struct extent *ret)
{
    struct scan scan = {.bytes = args, .len = len};
    struct extent field;
    uint64_t tag;

    *ret = (struct extent){len, len, len};
    for (unsigned n = 0; scan.at < len; n++) {
        int r = n < FILE_REQUEST_FIELDS_MAX ? scan_field(&scan, &tag, &field) : -EBADMSG;
        if (r < 0)
            return r;
        if (tag == (DATA_FIELD << 3 | WIRE_BYTES)) {
            if (ret->field < len)
                return -EBADMSG;
            *ret = field;
        } else if (tag == (PATH_FIELD << 3 | WIRE_BYTES) && field.end - field.begin >= PATH_MAX) {
            *ret = field;
            return -ENAMETOOLONG;
        }
    }
    return len - (ret->end - ret->field) <= FILE_REQUEST_REST_MAX ? 0 : -EBADMSG;
}

int file_request_split(const uint8_t *args, size_t len, struct file_request_split *ret)
{
    struct extent data;
    int r = find_data(args, len, &data);

    if (r == -ENAMETOOLONG)
        *ret = (struct file_request_split){
            .data = args + data.begin, .data_len = data.end - data.begin};
    if (r < 0)
        return r;
    size_t behind = len - data.end;
    uint8_t *rest = malloc(data.field + behind + 1);

    if (!rest)
        return -ENOMEM;
    if (data.field)
        memcpy(rest, args, data.field);
    if (behind)
        memcpy(rest + data.field, args + data.end, behind);
    *ret = (struct file_request_split){.rest = rest,
        .rest_len = data.field + behind,
        .data = args + data.begin,
        .data_len = data.end - data.begin};
    return 0;
}

int file_request_unpack(const void *args, size_t len, struct arena *arena,
    struct file_request_split *ret_split, Sherd__File__Request **ret_request)
{
    int r = file_request_split(args, len, ret_split);
    if (r < 0)
        return r;
    *ret_request =
        sherd__file__request__unpack(&arena->allocator, ret_split->rest_len, ret_split->rest);
    free(ret_split->rest);
    return *ret_request ? 0 : -EBADMSG;
}
