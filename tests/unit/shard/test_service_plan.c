/* SPDX-License-Identifier: MIT */
#include "shard/geometry.h"
#include "shard/service_plan.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "shard/service_home.h"

#define N_SHARDS 2u

static int coroutine_fn serve(struct service_call *call)
{
    return 0;
}

static const struct service_counter counters[] = {
    {"grows", SERVICE_COUNTER, ""}, {"moves", SERVICE_GAUGE, ""}};
static const struct service service = {
    SERVICE_ABI, "planned", "", .counters = counters, .n_counters = 2};

/* A plan, and a segment by it. */
struct rig {
    struct service_plans all;
    struct service_plan plan;
    struct segment seg;
    void *base;
    uint64_t bytes;
};

static void rig_init(struct rig *rig)
{
    *rig = (struct rig){.all.n_shards = N_SHARDS};
    service_plan_init(&rig->plan, &rig->all, &service);
}

static void rig_make_segment(struct rig *rig)
{
    struct segment_geometry geometry;

    assert_int_equal(service_plan_counters(&rig->plan, NULL), 0);
    assert_int_equal(segment_geometry_plan(N_SHARDS, 0, &geometry, &rig->bytes), 0);
    rig->bytes = segment_geometry_add(&geometry, rig->all.bytes);
    rig->base = mmap(NULL, rig->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(rig->base, MAP_FAILED);
    assert_int_equal(segment_init(&rig->seg, rig->base, rig->bytes, &geometry, "test"), 0);
    service_plan_write(&rig->plan, &rig->seg);
}

static void rig_deinit(struct rig *rig)
{
    if (rig->base)
        munmap(rig->base, rig->bytes);
    service_plan_deinit(&rig->plan);
}

static void regions_have_names_and_sizes_and_there_are_so_many(void **state)
{
    struct rig rig;
    char name[80];

    rig_init(&rig);
    assert_int_equal(service_plan_region(&rig.plan, "a", 1), 0);
    assert_int_equal(service_plan_region(&rig.plan, "a", 1), -EEXIST);
    assert_int_equal(service_plan_region(&rig.plan, "b", 0), -EINVAL);
    assert_int_equal(service_plan_region(&rig.plan, "B", 1), -EINVAL);
    assert_int_equal(service_plan_region(&rig.plan, "", 1), -EINVAL);
    assert_int_equal(service_plan_region(&rig.plan, "c", SEGMENT_SERVICE_BYTES_MAX), -ENOSPC);
    memset(name, 'x', sizeof name);
    name[SERVICE_PLAN_NAME_MAX - strlen("planned.") + 1] = '\0';
    assert_int_equal(service_plan_region(&rig.plan, name, 1), -EINVAL);
    name[SERVICE_PLAN_NAME_MAX - strlen("planned.")] = '\0';
    assert_int_equal(service_plan_region(&rig.plan, name, 1), 0);
    for (unsigned n = 2; n < SEGMENT_SERVICE_REGIONS; n++) {
        snprintf(name, sizeof name, "r%u", n);
        assert_int_equal(service_plan_region(&rig.plan, name, SEGMENT_PAGE + 1), 0);
    }
    assert_int_equal(service_plan_region(&rig.plan, "one-more", 1), -ENOSPC);
    assert_int_equal(
        rig.all.bytes, (2 + 2 * (SEGMENT_SERVICE_REGIONS - 2)) * (uint64_t)SEGMENT_PAGE);
    rig_deinit(&rig);
}

static void a_region_is_each_shard_s_own_and_tells_how_it_was_left(void **state)
{
    struct service_region first, second, again;
    struct service_home home, other;
    struct rig rig;

    rig_init(&rig);
    assert_int_equal(service_plan_region(&rig.plan, "small", 10), 0);
    assert_int_equal(service_plan_region(&rig.plan, "large", 3 * SEGMENT_PAGE), 0);
    rig_make_segment(&rig);
    service_home_init(&home, &rig.plan, &rig.seg, 0, 1);
    service_home_init(&other, &rig.plan, &rig.seg, 1, 1);
    assert_int_equal(service_region(&home, "none", &first), -ENOENT);
    assert_int_equal(service_region(&home, "large", &first), 0);
    assert_int_equal(service_region(&other, "large", &second), 0);
    assert_int_equal(first.found, 0);
    assert_int_equal(first.mark, 0);
    assert_int_equal(first.bytes, 3 * SEGMENT_PAGE);
    assert_int_equal((uintptr_t)first.data % SEGMENT_PAGE, 0);
    memset(first.data, 'x', first.bytes);
    for (uint64_t i = 0; i < second.bytes; i++)
        assert_int_equal(((char *)second.data)[i], 0);

    service_region_begin(&first, 7);
    service_home_init(&home, &rig.plan, &rig.seg, 0, 4); /* it died then */
    assert_int_equal(service_region(&home, "large", &again), 0);
    assert_int_equal(again.found, 1);
    assert_int_equal(again.mark, 7);
    assert_ptr_equal(again.data, first.data);
    assert_int_equal(((char *)again.data)[0], 'x');
    service_region_end(&again);
    assert_int_equal(service_region(&home, "large", &first), 0);
    assert_int_equal(first.found, 4);
    assert_int_equal(first.mark, 0);
    rig_deinit(&rig);
}

static void counters_go_on_and_gauges_begin_anew(void **state)
{
    struct service_home home;
    struct rig rig;

    rig_init(&rig);
    rig_make_segment(&rig);
    const struct service_count *counts = segment_service_counts(&rig.seg, 1);
    assert_string_equal(counts[0].name, "planned.grows");
    assert_string_equal(counts[1].name, "planned.moves");
    assert_string_equal(counts[2].name, "");
    service_home_init(&home, &rig.plan, &rig.seg, 1, 1);
    service_count(&home, 0, 5);
    service_count_set(&home, 1, 3);
    service_count(&home, 1, -1);
    service_count(&home, 2, 1); /* there is none */
    assert_int_equal(counts[0].value, 5);
    assert_int_equal(counts[1].value, 2);
    assert_int_equal(counts[2].value, 0);
    service_home_init(&home, &rig.plan, &rig.seg, 1, 2);
    assert_int_equal(counts[0].value, 5);
    assert_int_equal(counts[1].value, 0);
    rig_deinit(&rig);
}

static void more_counters_than_there_is_room_for_are_refused(void **state)
{
    static char names[SEGMENT_SERVICE_COUNTERS + 1][8];
    static struct service_counter many[SEGMENT_SERVICE_COUNTERS + 1];
    struct service large = {SERVICE_ABI, "large", "", .counters = many};
    struct service_plans all = {.n_shards = 1};
    struct service_plan plan;
    char *error = NULL;

    for (unsigned n = 0; n <= SEGMENT_SERVICE_COUNTERS; n++) {
        snprintf(names[n], sizeof names[n], "n%u", n);
        many[n] = (struct service_counter){names[n], SERVICE_COUNTER, ""};
    }
    service_plan_init(&plan, &all, &large);
    large.n_counters = SEGMENT_SERVICE_COUNTERS + 1;
    assert_int_equal(service_plan_counters(&plan, &error), -ENOSPC);
    assert_non_null(strstr(error, "more than 64 counters"));
    free(error);
    large.n_counters = SEGMENT_SERVICE_COUNTERS;
    assert_int_equal(service_plan_counters(&plan, NULL), 0);
    many[1].name = many[0].name;
    assert_int_equal(service_plan_counters(&plan, NULL), -EEXIST);
    service_plan_deinit(&plan);
}

/* ---- listeners ---- */

static int listen_at(struct rig *rig, const char *name, const char *address, uint32_t flags)
{
    struct service_listener listener = {
        .name = name, .address = address, .flags = flags, .serve = serve};

    return service_listen(&rig->plan, &listener, NULL);
}

static void connect_to(int fd)
{
    struct sockaddr_in at;
    socklen_t len = sizeof at;
    int client = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    assert_int_equal(connect(client, (struct sockaddr *)&at, len), 0);
    close(client);
}

static void each_shard_has_a_socket_and_all_have_one_port_or_share_one(void **state)
{
    struct rig rig;

    rig_init(&rig);
    assert_int_equal(listen_at(&rig, "each", "tcp://127.0.0.1:0", 0), 0);
    assert_int_equal(listen_at(&rig, "one", "tcp://127.0.0.1:0", SERVICE_LISTEN_SHARED), 0);
    const struct planned_listener *each = &rig.plan.listeners[0], *one = &rig.plan.listeners[1];
    assert_int_equal(each->n_fds, N_SHARDS);
    assert_int_equal(one->n_fds, 1);
    assert_string_equal(each->name, "planned.each");
    connect_to(each->fds[0]);
    connect_to(one->fds[0]);
    rig_make_segment(&rig);
    const struct listener_row *rows = segment_listeners(&rig.seg);
    assert_string_equal(rows[0].address, each->address);
    assert_int_equal(rows[0].n_sockets, N_SHARDS);
    assert_string_equal(rows[1].name, "planned.one");
    assert_string_equal(segment_service_counts(&rig.seg, 0)[2].name, "planned.each.open");
    rig_deinit(&rig);
}

static void a_shard_that_is_given_up_is_dealt_no_connection_until_it_comes_again(void **state)
{
    struct rig rig;
    uint32_t n_first = 0;

    rig_init(&rig);
    assert_int_equal(listen_at(&rig, "each", "tcp://127.0.0.1:0", 0), 0);
    const int *fds = rig.plan.listeners[0].fds;
    service_plan_set_listening(&rig.plan, 0, false);
    for (int n = 0; n < 30; n++) {
        connect_to(fds[1]);
        int fd = accept(fds[1], NULL, NULL);
        assert_true(fd >= 0);
        close(fd);
    }
    service_plan_set_listening(&rig.plan, 0, true);
    service_plan_set_listening(&rig.plan, N_SHARDS, false); /* the gateway has none */
    for (int n = 0; n < 200 && !n_first; n++) {
        connect_to(fds[1]);
        int fd = accept(fds[0], NULL, NULL);
        n_first += fd >= 0;
        if (fd >= 0)
            close(fd);
    }
    assert_int_equal(n_first, 1);
    rig_deinit(&rig);
}

static void a_port_that_another_shares_is_taken_all_the_same(void **state)
{
    struct rig rig, other;

    rig_init(&rig);
    rig_init(&other);
    assert_int_equal(listen_at(&rig, "a", "tcp://127.0.0.1:0", 0), 0);
    assert_int_equal(listen_at(&other, "a", rig.plan.listeners[0].address, 0), -EADDRINUSE);
    rig_deinit(&other);
    rig_deinit(&rig);
}

static void what_is_no_listener_is_refused(void **state)
{
    static const char *const wrong[] = {"", "tcp://", "tcp://127.0.0.1",
        "tcp://127.0.0.1:", "tcp://127.0.0.1:x", "tcp://127.0.0.1:1x", "tcp://127.0.0.1:65536",
        "tcp://127.1:1", "tcp://::1:1", "tcp://[::1", "tcp://[127.0.0.1]:1", "tcp://localhost:1",
        "udp://127.0.0.1:1", "unix://", "unix://a"};
    struct service_listener nobody = {.name = "a", .address = "tcp://127.0.0.1:0"};
    struct rig rig;

    rig_init(&rig);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(listen_at(&rig, "a", wrong[i], 0), -EINVAL);
    assert_int_equal(listen_at(&rig, "A", "tcp://127.0.0.1:0", 0), -EINVAL);
    assert_int_equal(listen_at(&rig, "a", NULL, 0), -EINVAL);
    assert_int_equal(service_listen(&rig.plan, &nobody, NULL), -EINVAL);
    assert_int_equal(listen_at(&rig, "a", "tcp://127.0.0.1:0", 0), 0);
    assert_int_equal(listen_at(&rig, "a", "tcp://127.0.0.1:0", 0), -EEXIST);
    assert_int_equal(rig.plan.n_listeners, 1);
    rig_deinit(&rig);
}

static void there_are_so_many_listeners_of_so_many_connections_each(void **state)
{
    struct rig rig;
    char name[8];

    rig_init(&rig);
    for (unsigned n = 0; n < SEGMENT_LISTENERS; n++) {
        snprintf(name, sizeof name, "n%u", n);
        assert_int_equal(listen_at(&rig, name, "tcp://127.0.0.1:0", SERVICE_LISTEN_SHARED), 0);
        assert_int_equal(rig.plan.listeners[n].what.connections_max, SERVICE_PLAN_CONNECTIONS);
        assert_int_equal(rig.plan.listeners[n].what.send_limit_ns, SERVICE_PLAN_SEND_NS);
    }
    assert_int_equal(listen_at(&rig, "more", "tcp://127.0.0.1:0", SERVICE_LISTEN_SHARED), -ENOSPC);
    rig_deinit(&rig);
}

static void a_unix_socket_that_nobody_listens_to_is_replaced_and_no_file(void **state)
{
    char path[] = "/tmp/sherd-test-XXXXXX", address[64];
    struct rig rig, other;
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    close(fd);
    snprintf(address, sizeof address, "unix://%s", path);
    rig_init(&rig);
    rig_init(&other);
    assert_int_equal(listen_at(&rig, "a", address, 0), -EADDRINUSE); /* a file stays */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(listen_at(&rig, "a", address, 0), 0);
    assert_int_equal(listen_at(&other, "a", address, 0), -EADDRINUSE);
    close(rig.plan.listeners[0].fds[0]); /* as if it had died */
    rig.plan.listeners[0].n_fds = 0;
    assert_int_equal(listen_at(&other, "a", address, 0), 0);
    rig_deinit(&other);
    assert_int_equal(access(path, F_OK), -1);
    rig_deinit(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(regions_have_names_and_sizes_and_there_are_so_many),
        cmocka_unit_test(a_region_is_each_shard_s_own_and_tells_how_it_was_left),
        cmocka_unit_test(counters_go_on_and_gauges_begin_anew),
        cmocka_unit_test(more_counters_than_there_is_room_for_are_refused),
        cmocka_unit_test(each_shard_has_a_socket_and_all_have_one_port_or_share_one),
        cmocka_unit_test(a_shard_that_is_given_up_is_dealt_no_connection_until_it_comes_again),
        cmocka_unit_test(a_port_that_another_shares_is_taken_all_the_same),
        cmocka_unit_test(what_is_no_listener_is_refused),
        cmocka_unit_test(there_are_so_many_listeners_of_so_many_connections_each),
        cmocka_unit_test(a_unix_socket_that_nobody_listens_to_is_replaced_and_no_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
