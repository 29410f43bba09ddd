/* SPDX-License-Identifier: MIT */
#include "services/file_hash.h"

#include <openssl/evp.h>

#include "runtime/disk.h"
#include "tests/unit/services/services_fixture.h"

#define PIECE  FILE_PIECE_BYTES
#define WINDOW FILE_WINDOW_BYTES

struct hashing {
    struct fixture *f;
    struct file_hasher *hasher;
    struct file_to_hash file;
    int result;
    uint8_t digest[FILE_DIGEST_BYTES];
    uint64_t size;
};

static void hash_body(void *opaque)
{
    struct hashing *h = opaque;
    h->result = file_hash_co(h->hasher, &h->file, h->digest, &h->size);
}

static uint8_t *new_bytes(size_t len)
{
    uint8_t *bytes = malloc(len + 1);
    uint32_t seed = 1;
    assert_non_null(bytes);
    for (size_t i = 0; i < len; i++) {
        seed = seed * 1664525 + 1013904223;
        bytes[i] = (uint8_t)(seed >> 24);
    }
    return bytes;
}

static void expect_digest(const struct hashing *h, const uint8_t *bytes, size_t len)
{
    uint8_t expected[FILE_DIGEST_BYTES];
    assert_int_equal(h->result, 0);
    assert_int_equal(h->size, len);
    assert_true(EVP_Digest(bytes, len, expected, NULL, EVP_sha256(), NULL));
    assert_memory_equal(h->digest, expected, sizeof(expected));
}

static int open_bytes(struct fixture *f, const uint8_t *bytes, size_t len)
{
    char *path = in_dir(f, "file");
    make_file(f, "file", bytes, len);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    free(path);
    return fd;
}

/* Hashes the len bytes of fd, of which fstat() is pretended to have said size. */
static struct hashing hash_fd(struct fixture *f, int fd, uint64_t size)
{
    struct buffer_pool windows;
    struct hashing h = {.f = f, .file = {.fd = fd, .size = size, .piece = malloc(PIECE)}};
    buffer_pool_init(&windows, WINDOW, 1);
    assert_int_equal(file_hasher_new(&windows, &h.hasher), 0);
    run_co(f, hash_body, &h);
    file_hasher_free(h.hasher);
    buffer_pool_deinit(&windows);
    free(h.file.piece);
    h.file.piece = NULL;
    return h;
}

static void digest_is_that_of_all_bytes_at_every_size(void **state)
{
    static const size_t sizes[] = {0, 1, 4095, 4096, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE,
        WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + PIECE, 3 * WINDOW + 12345};
    struct fixture *f = *state;
    uint8_t *bytes = new_bytes(3 * WINDOW + 12345);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        int fd = open_bytes(f, bytes, sizes[i]);
        struct hashing h = hash_fd(f, fd, sizes[i]);
        expect_digest(&h, bytes, sizes[i]);
        close(fd);
    }
    free(bytes);
}

static void file_of_unknown_size_is_hashed_to_its_end(void **state)
{
    static const size_t sizes[] = {1, PIECE, PIECE + 1, WINDOW + 5};
    struct fixture *f = *state;
    uint8_t *bytes = new_bytes(WINDOW + 5);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        int fd = open_bytes(f, bytes, sizes[i]);
        struct hashing h = hash_fd(f, fd, 0);
        expect_digest(&h, bytes, sizes[i]);
        close(fd);
    }
    free(bytes);
}

static void file_that_shrank_is_hashed_to_its_new_end(void **state)
{
    static const size_t ends[] = {0, 100, PIECE, PIECE + 7, WINDOW};
    struct fixture *f = *state;
    uint8_t *bytes = new_bytes(2 * WINDOW);
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        int fd = open_bytes(f, bytes, ends[i]);
        struct hashing h = hash_fd(f, fd, 2 * WINDOW);
        expect_digest(&h, bytes, ends[i]);
        close(fd);
    }
    free(bytes);
}

static void failed_read_fails_the_hash_and_leaves_no_read_in_flight(void **state)
{
    static const uint64_t sizes[] = {0, 10, PIECE + 1, 3 * WINDOW};
    struct fixture *f = *state;
    int fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct hashing h = hash_fd(f, fd, sizes[i]);
        assert_int_equal(h.result, -EISDIR);
    }
    close(fd);
}

/* Says no when it has said yes so often. */
static int count_down(const void *opaque)
{
    uint32_t *n_left = (uint32_t *)(uintptr_t)opaque;
    return (*n_left)-- > 0 ? 0 : -ECANCELED;
}

static void hashing_is_given_up_between_pieces(void **state)
{
    static const uint64_t sizes[] = {0, 3 * WINDOW};
    struct fixture *f = *state;
    uint8_t *bytes = new_bytes(3 * WINDOW);
    int fd = open_bytes(f, bytes, 3 * WINDOW);
    for (uint32_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (uint32_t n_yes = 0; n_yes < 3; n_yes++) {
            uint32_t n_left = n_yes;
            struct buffer_pool windows;
            struct hashing h = {.f = f,
                .file = {.fd = fd,
                    .size = sizes[i],
                    .piece = malloc(PIECE),
                    .may_go_on = count_down,
                    .opaque = &n_left}};
            buffer_pool_init(&windows, WINDOW, 1);
            assert_int_equal(file_hasher_new(&windows, &h.hasher), 0);
            run_co(f, hash_body, &h);
            assert_int_equal(h.result, -ECANCELED);
            assert_int_equal(windows.n_taken, 0);
            file_hasher_free(h.hasher);
            buffer_pool_deinit(&windows);
            free(h.file.piece);
        }
    }
    close(fd);
    free(bytes);
}

/* ---- many at once ---- */

struct many {
    struct hashing hashing;
    uint32_t *n_left;
};

static void many_entry(void *opaque)
{
    struct many *one = opaque;
    hash_body(&one->hashing);
    (*one->n_left)--;
}

static void many_large_files_take_turns_at_few_windows(void **state)
{
    enum { N = 12 };
    struct fixture *f = *state;
    struct many many[N];
    struct buffer_pool windows;
    struct file_hasher *hasher;
    uint32_t n_left = N;
    size_t len = WINDOW + PIECE + 9;
    uint8_t *bytes = new_bytes(len);
    int fd = open_bytes(f, bytes, len);
    buffer_pool_init(&windows, WINDOW, 2);
    assert_int_equal(file_hasher_new(&windows, &hasher), 0);
    for (int i = 0; i < N; i++) {
        many[i] = (struct many){.n_left = &n_left,
            .hashing = {.f = f, .hasher = hasher, .file = {.fd = fd, .size = len}}};
        coroutine_enter(coroutine_create(many_entry, &many[i]));
    }
    run_until_none_left(f, &n_left);
    for (int i = 0; i < N; i++)
        expect_digest(&many[i].hashing, bytes, len);
    file_hasher_free(hasher);
    buffer_pool_deinit(&windows);
    close(fd);
    free(bytes);
}

struct ticking {
    uint32_t *n_left;
    uint32_t n_ticks;
};

static void tick_entry(void *opaque)
{
    struct ticking *ticking = opaque;
    while (*ticking->n_left > 0) {
        ticking->n_ticks++;
        aio_co_schedule(aio_context_current(), coroutine_self());
        coroutine_yield();
    }
    ticking->n_left = NULL;
}

static void others_run_between_the_pieces_of_a_large_file(void **state)
{
    struct fixture *f = *state;
    struct buffer_pool windows;
    uint32_t n_left = 1;
    struct ticking ticking = {.n_left = &n_left};
    size_t len = 4 * WINDOW;
    uint8_t *bytes = new_bytes(len);
    int fd = open_bytes(f, bytes, len);
    struct many one = {.n_left = &n_left, .hashing = {.f = f, .file = {.fd = fd, .size = len}}};
    buffer_pool_init(&windows, WINDOW, 1);
    assert_int_equal(file_hasher_new(&windows, &one.hashing.hasher), 0);
    coroutine_enter(coroutine_create(tick_entry, &ticking));
    coroutine_enter(coroutine_create(many_entry, &one));
    run_until_none_left(f, &n_left);
    while (ticking.n_left)
        aio_poll(f->ctx, false);
    expect_digest(&one.hashing, bytes, len);
    assert_true(ticking.n_ticks >= len / PIECE);
    file_hasher_free(one.hashing.hasher);
    buffer_pool_deinit(&windows);
    close(fd);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        FIXTURE_CASE(digest_is_that_of_all_bytes_at_every_size),
        FIXTURE_CASE(file_of_unknown_size_is_hashed_to_its_end),
        FIXTURE_CASE(file_that_shrank_is_hashed_to_its_new_end),
        FIXTURE_CASE(failed_read_fails_the_hash_and_leaves_no_read_in_flight),
        FIXTURE_CASE(hashing_is_given_up_between_pieces),
        FIXTURE_CASE(many_large_files_take_turns_at_few_windows),
        FIXTURE_CASE(others_run_between_the_pieces_of_a_large_file),
    };
    return FIXTURE_RUN(cases);
}
