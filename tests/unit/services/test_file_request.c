/* SPDX-License-Identifier: MIT */
#include "services/file_request.h"

#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

static uint8_t *fill_with_fields(size_t len)
{
    uint8_t *args = malloc(len);

    for (size_t i = 0; i < len; i += 2) {
        args[i] = 0x28; /* `direct`, again and again */
        args[i + 1] = 1;
    }
    return args;
}

/* What is scanned and copied is bounded, and not by the length of the arguments. */
static void more_fields_or_more_beside_the_data_than_a_request_has_are_refused(void **state)
{
    struct file_request_split split;
    uint8_t *args = fill_with_fields(64 * 1024);
    static uint8_t unknown[FILE_REQUEST_REST_MAX + 8] = {0x7a}; /* a field 15, of bytes */

    (void)state;
    assert_int_equal(file_request_split(args, 64 * 1024, &split), -EBADMSG);
    assert_int_equal(file_request_split(args, (FILE_REQUEST_FIELDS_MAX + 1) * 2, &split), -EBADMSG);
    assert_int_equal(file_request_split(args, FILE_REQUEST_FIELDS_MAX * 2, &split), 0);
    free(split.rest);
    for (size_t more = 0; more < 2; more++) {
        size_t len = FILE_REQUEST_REST_MAX + more, value = len - 3;
        unknown[1] = (uint8_t)(value | 0x80);
        unknown[2] = (uint8_t)(value >> 7);
        assert_int_equal(file_request_split(unknown, len, &split), more ? -EBADMSG : 0);
        if (!more)
            free(split.rest);
    }
    free(args);
}

/* Who may read a page of it has read it: all but tag and length lies behind a wall. */
static void bytes_of_the_data_are_not_read(void **state)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), len = 64 << 20, value = len - 5;
    struct file_request_split split;
    uint8_t *args =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)state;
    assert_ptr_not_equal(args, MAP_FAILED);
    args[0] = 0x22;
    for (int i = 0; i < 4; i++)
        args[1 + i] = (uint8_t)(value >> 7 * i & 0x7f) | (i < 3 ? 0x80 : 0);
    assert_int_equal(mprotect(args + page, len - page, PROT_NONE), 0);
    assert_int_equal(file_request_split(args, len, &split), 0);
    assert_ptr_equal(split.data, args + 5);
    assert_int_equal(split.data_len, value);
    assert_int_equal(split.rest_len, 0);
    free(split.rest);
    munmap(args, len);
}

static void path_that_is_too_long_is_shown_and_not_copied(void **state)
{
    char path[PATH_MAX + 1] = {0};
    struct file_request_split split;
    size_t len;

    (void)state;
    memset(path, 'a', PATH_MAX);
    uint8_t *args = pack(path, "data", &len);
    assert_int_equal(file_request_split(args, len, &split), -ENAMETOOLONG);
    assert_int_equal(split.data_len, PATH_MAX);
    assert_memory_equal(split.data, path, PATH_MAX);
    assert_null(split.rest);
    free(args);
    path[PATH_MAX - 1] = '\0';
    args = pack(path, "data", &len);
    assert_int_equal(file_request_split(args, len, &split), 0);
    assert_int_equal(split.data_len, 4);
    free(split.rest);
    free(args);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(data_is_left_where_it_lies_and_the_rest_is_the_request_without_it),
        cmocka_unit_test(request_without_data_is_all_rest),
        cmocka_unit_test(more_fields_or_more_beside_the_data_than_a_request_has_are_refused),
        cmocka_unit_test(bytes_of_the_data_are_not_read),
        cmocka_unit_test(path_that_is_too_long_is_shown_and_not_copied),
        cmocka_unit_test(what_is_cut_short_or_says_too_long_a_length_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
