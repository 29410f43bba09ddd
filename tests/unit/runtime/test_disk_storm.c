/* SPDX-License-Identifier: MIT */
/*
 * A random mix of requests on a kernel full of faults, against a model in memory. Each coroutine
 * has a part of the file for itself, so what it must read is known at any time; the whole file is
 * compared by its hash in the end.
 *
 * usage: unit-runtime-disk_storm [--seed N]        a failure names its seed
 */
#include <inttypes.h>

#include "tests/unit/runtime/disk_faults.h"

#define N_COROUTINES 16
#define PART_BYTES   (FILE_BYTES / N_COROUTINES)
#define N_STEPS      24
#define MOST_BYTES   ((size_t)24 << 10)

static uint64_t first_seed = 1;
static bool direct; /* O_DIRECT: whole blocks, aligned */

struct actor {
    struct fixture *f;
    int fd;
    uint64_t chance;
    uint8_t *part; /* of the model */
    size_t part_offset;
    uint8_t *buf;
    unsigned *n_left;
    unsigned n_results; /* of its requests; each has one */
};

static uint64_t draw(struct actor *a)
{
    return faults_mix(a->chance += 0x9e3779b97f4a7c15ULL);
}

/* Cuts [buf, buf + len) into up to three. */
static int cut(struct actor *a, size_t granule, size_t len, struct iovec iov[3])
{
    size_t first = draw(a) % (len / granule + 1) * granule;
    size_t second = draw(a) % ((len - first) / granule + 1) * granule;

    iov[0] = (struct iovec){a->buf, first};
    iov[1] = (struct iovec){a->buf + first, second};
    iov[2] = (struct iovec){a->buf + first + second, len - first - second};
    return 3;
}

static ssize_t transfer(struct actor *a, bool write, size_t at, size_t len)
{
    uint64_t offset = a->part_offset + at;
    struct iovec iov[3];
    ssize_t n;

    a->n_results++;
    if (draw(a) % 2 == 0)
        return write ? co_pwrite(a->fd, a->buf, len, offset) : co_pread(a->fd, a->buf, len, offset);
    int n_iov = cut(a, direct ? 4096 : 1, len, iov);
    n = write ? co_pwritev(a->fd, iov, n_iov, offset) : co_preadv(a->fd, iov, n_iov, offset);
    return n;
}

/* EIO alone comes to the caller, and leaves nothing behind but an unknown part of what was written:
 * so again. */
static void transfer_whole(struct actor *a, bool write, size_t at, size_t len)
{
    ssize_t n;

    while ((n = transfer(a, write, at, len)) == -EIO)
        continue;
    assert_int_equal(n, len);
}

static void step(struct actor *a)
{
    size_t granule = direct ? 4096 : 1;
    size_t len = (draw(a) % (MOST_BYTES / granule) + 1) * granule;
    size_t at = draw(a) % ((PART_BYTES - len) / granule + 1) * granule;
    int r;

    switch (draw(a) % 5) {
    case 0:
    case 1:
        memset(a->buf, 0xdd, len);
        transfer_whole(a, false, at, len);
        assert_memory_equal(a->buf, a->part + at, len);
        break;
    case 2:
    case 3:
        for (size_t i = 0; i < len; i++)
            a->buf[i] = (uint8_t)(a->chance >> i % 8 * 8);
        memcpy(a->part + at, a->buf, len);
        transfer_whole(a, true, at, len);
        break;
    default:
        a->n_results++;
        r = draw(a) % 2 ? co_fdatasync(a->fd) : co_fsync(a->fd);
        assert_true(r == 0 || r == -EIO);
        break;
    }
}

static void act(void *opaque)
{
    struct actor *a = opaque;

    for (int i = 0; i < N_STEPS; i++)
        step(a);
    --*a->n_left;
}

static uint64_t hash(const uint8_t *bytes, size_t n)
{
    uint64_t h = 0xcbf29ce484222325ULL;

    for (size_t i = 0; i < n; i++)
        h = (h ^ bytes[i]) * 0x100000001b3ULL;
    return h;
}

static void check_file(struct fixture *f)
{
    uint8_t *buf = malloc(FILE_BYTES);

    assert_int_equal(pread(f->fd, buf, FILE_BYTES, 0), FILE_BYTES);
    assert_int_equal(hash(buf, FILE_BYTES), hash(f->expected, FILE_BYTES));
    free(buf);
}

static void rage(struct fixture *f, int fd)
{
    struct actor actors[N_COROUTINES];
    unsigned n_left = N_COROUTINES;
    uint8_t *buffers = NULL;
    static uint64_t seed;

    seed = seed ? seed + 1 : first_seed;
    faults_begin(f->ctx, seed, direct ? 4096 : 1);
    assert_int_equal(posix_memalign((void **)&buffers, 4096, N_COROUTINES * MOST_BYTES), 0);
    for (unsigned i = 0; i < N_COROUTINES; i++) {
        actors[i] = (struct actor){.f = f,
            .fd = fd,
            .chance = seed * N_COROUTINES + i,
            .part = f->expected + i * PART_BYTES,
            .part_offset = i * PART_BYTES,
            .buf = buffers + i * MOST_BYTES,
            .n_left = &n_left};
        coroutine_enter(coroutine_create(act, &actors[i]));
    }
    poll_until_zero(f->ctx, &n_left);

    const struct aio_counters *counters = f->ctx->instruments.counters;
    unsigned n_results = 0;
    for (unsigned i = 0; i < N_COROUTINES; i++)
        n_results += actors[i].n_results;
    assert_true(counters->io_submitted >= n_results);
    assert_int_equal(counters->io_submitted, counters->io_completed);
    assert_true(faults.n_faults > 0);
    assert_true(faults.n_held_ever > 0);
    assert_true(faults.n_out_of_order > 0);
    faults_end();
    free(buffers);
    check_file(f);
}

static void rage_on_the_page_cache(struct fixture *f)
{
    direct = false;
    rage(f, f->fd);
}

static void rage_on_the_disk(struct fixture *f)
{
    int fd = open(f->path, O_RDWR | O_CLOEXEC | O_DIRECT);

    if (fd < 0) {
        print_message("no O_DIRECT in %s\n", scratch_folder());
        return;
    }
    direct = true;
    rage(f, fd);
    close(fd);
}

static void each_request_ends_once_with_the_right_content(void **state)
{
    on_each_engine(rage_on_the_page_cache, &(struct aio_config){.io_depth = 10}, true);
}

static void each_direct_request_ends_once_with_the_right_content(void **state)
{
    on_each_engine(rage_on_the_disk, &(struct aio_config){.io_depth = 10}, true);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_request_ends_once_with_the_right_content),
        cmocka_unit_test(each_direct_request_ends_once_with_the_right_content),
    };

    if (argc == 3 && strcmp(argv[1], "--seed") == 0)
        first_seed = strtoull(argv[2], NULL, 0);
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (n_failed > 0)
        print_message("to repeat: --seed %" PRIu64 "\n", first_seed);
    return n_failed;
}
