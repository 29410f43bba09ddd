/* SPDX-License-Identifier: MIT */
#include "services/file_request.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/file.pb-c.h"

static uint8_t *pack(const char *path, const char *data, size_t *ret_len)
{
    Sherd__File__Request request = SHERD__FILE__REQUEST__INIT;

    request.path = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)path, .len = strlen(path)};
    request.offset = UINT64_MAX;
    request.length = 300;
    request.data = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)data, .len = strlen(data)};
    uint8_t *packed = malloc(sherd__file__request__get_packed_size(&request) + 1);
    *ret_len = sherd__file__request__pack(&request, packed);
    return packed;
}

static void data_is_left_where_it_lies_and_the_rest_is_the_request_without_it(void **state)
{
    struct file_request_split split;
    size_t len;
    uint8_t *args = pack("/some/path", "what is to be written", &len);

    (void)state;
    assert_int_equal(file_request_split(args, len, &split), 0);
    assert_in_range((uintptr_t)split.data, (uintptr_t)args, (uintptr_t)args + len);
    assert_int_equal(split.data_len, strlen("what is to be written"));
    assert_memory_equal(split.data, "what is to be written", split.data_len);
    Sherd__File__Request *rest = sherd__file__request__unpack(NULL, split.rest_len, split.rest);
    assert_non_null(rest);
    assert_memory_equal(rest->path.data, "/some/path", 10);
    assert_true(rest->offset == UINT64_MAX);
    assert_int_equal(rest->length, 300);
    assert_int_equal(rest->data.len, 0);
    sherd__file__request__free_unpacked(rest, NULL);
    free(split.rest);
    free(args);
}

static void request_without_data_is_all_rest(void **state)
{
    struct file_request_split split;
    size_t len;
    uint8_t *args = pack("/p", "", &len);

    (void)state;
    assert_int_equal(file_request_split(args, len, &split), 0);
    assert_int_equal(split.data_len, 0);
    assert_int_equal(split.rest_len, len);
    assert_memory_equal(split.rest, args, len);
    free(split.rest);
    assert_int_equal(file_request_split(args, 0, &split), 0);
    assert_int_equal(split.rest_len + split.data_len, 0);
    free(split.rest);
    free(args);
}

static void what_is_cut_short_or_says_too_long_a_length_is_refused(void **state)
{
    static const uint8_t too_long[] = {
        0x22, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1};
    static const uint8_t endless[] = {
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t group[] = {0x0b, 0x0c};
    static const uint8_t twice[] = {0x22, 1, 'a', 0x22, 1, 'b'};
    struct file_request_split split;
    size_t len;
    uint8_t *args = pack("/some/path", "data", &len);

    (void)state;
    assert_int_equal(file_request_split(too_long, sizeof(too_long), &split), -EBADMSG);
    assert_int_equal(file_request_split(endless, sizeof(endless), &split), -EBADMSG);
    assert_int_equal(file_request_split(group, sizeof(group), &split), -EBADMSG);
    assert_int_equal(file_request_split(twice, sizeof(twice), &split), -EBADMSG);
    /* Each prefix, in memory of just its size: either whole fields, or refused. */
    for (size_t n = 1; n < len; n++) {
        uint8_t *part = malloc(n);
        memcpy(part, args, n);
        int r = file_request_split(part, n, &split);
        assert_true(r == 0 || r == -EBADMSG);
        if (r == 0)
            free(split.rest);
        free(part);
    }
    free(args);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(data_is_left_where_it_lies_and_the_rest_is_the_request_without_it),
        cmocka_unit_test(request_without_data_is_all_rest),
        cmocka_unit_test(what_is_cut_short_or_says_too_long_a_length_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
