/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/interrupt.h"
#include "tools/pump.h"

/*
 * The client here is the test's own: a request's argument says in which order it ends. What is in
 * flight ends highest first, so that nothing comes back in the order it was sent.
 */
#define FLYING_MAX 1024u

struct flying {
    sherd_done_fn *done;
    void *opaque;
    uint64_t id;
    bool is_cancelled;
};

struct sherd_client {
    struct flying flying[FLYING_MAX];
    size_t n_flying, most_flying;
    uint64_t n_submitted, n_cancelled;
    size_t answer_bytes;
    bool is_stuck; /* nothing ends but what is cancelled */
    int ready_fd;  /* readable at any time */
};

int sherd_client_submit(struct sherd_client *client, const struct sherd_request *request,
    sherd_done_fn *done, void *opaque, uint64_t *ret_id)
{
    if (request->args_len > SHERD_PAYLOAD_MAX)
        return -EMSGSIZE;
    assert_true(client->n_flying < FLYING_MAX);
    *ret_id = ++client->n_submitted;
    client->flying[client->n_flying++] = (struct flying){done, opaque, *ret_id, false};
    if (client->n_flying > client->most_flying)
        client->most_flying = client->n_flying;
    return 0;
}

static void end(struct sherd_client *client, size_t idx, enum sherd_end how)
{
    struct flying flying = client->flying[idx];
    uint8_t *data = calloc(1, client->answer_bytes + 1);
    struct sherd_result result = {.id = flying.id, .end = how, .data = data};

    result.len = how == SHERD_END_DONE ? client->answer_bytes : 0;
    client->flying[idx] = client->flying[--client->n_flying];
    flying.done(&result, flying.opaque);
    free(data);
}

int sherd_client_process(struct sherd_client *client, int64_t timeout_ns)
{
    int n = 0;
    for (size_t i = client->n_flying; i-- > 0 && n < 16;) {
        bool is_cancelled = client->flying[i].is_cancelled;
        if (client->is_stuck && !is_cancelled)
            continue;
        end(client, i, is_cancelled ? SHERD_END_CANCELLED : SHERD_END_DONE);
        n++;
    }
    return n;
}

int sherd_client_cancel(struct sherd_client *client, uint64_t id)
{
    client->n_cancelled++;
    for (size_t i = 0; i < client->n_flying; i++) {
        if (client->flying[i].id == id) {
            client->flying[i].is_cancelled = true;
            return 0;
        }
    }
    return -ENOENT;
}

int sherd_client_fd(struct sherd_client *client)
{
    return client->ready_fd;
}

void sherd_result_deinit(struct sherd_result *result)
{
    free(result->owned);
}

/* ---- a job that notes what it is told ---- */

struct told {
    char names[4096];
    size_t n, n_errors;
    int error;
};

static int make(void *opaque, const struct name *name, struct sherd_request *ret_request)
{
    *ret_request = (struct sherd_request){.args = name->bytes, .args_len = name->len};
    return name->bytes[0] == '!' ? -EINVAL : 0;
}

static bool ended(
    void *opaque, const char *name, int64_t round_trip_ns, const struct sherd_result *result)
{
    struct told *told = opaque;
    if (told->n < sizeof told->names - 2 && strlen(name) == 1)
        told->names[told->n] = name[0];
    told->n++;
    if (result->end != SHERD_END_DONE) {
        told->n_errors++;
        told->error = result->error;
    }
    return result->end == SHERD_END_DONE;
}

struct rig {
    struct sherd_client client;
    struct pump pump;
    struct names names;
    struct progress progress;
    struct told told;
};

static struct rig *rig_new(char *const *operands, size_t n, uint64_t repeat, uint32_t window)
{
    struct rig *rig = calloc(1, sizeof *rig);
    rig->client.ready_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_int_equal(pump_init(&rig->pump, &rig->client, window), 0);
    assert_int_equal(names_init(&rig->names, operands, n, '\n'), 0);
    rig->names.repeat = repeat;
    progress_init(&rig->progress, "tests");
    return rig;
}

static int run(struct rig *rig, bool is_ordered)
{
    struct pump_job job = {
        .names = &rig->names,
        .progress = &rig->progress,
        .is_ordered = is_ordered,
        .make = make,
        .ended = ended,
        .opaque = &rig->told,
    };
    return pump_run(&rig->pump, &job);
}

static void rig_free(struct rig *rig)
{
    names_deinit(&rig->names);
    pump_deinit(&rig->pump);
    close(rig->client.ready_fd);
    free(rig);
}

static char *const letters[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"};

static void answers_come_in_the_order_of_the_names(void **state)
{
    struct rig *rig = rig_new(letters, 10, 1, 4);

    assert_int_equal(run(rig, true), 0);
    assert_string_equal(rig->told.names, "abcdefghij");
    assert_int_equal(rig->pump.n_done, 10);
    rig_free(rig);
}

static void unordered_answers_come_as_they_end(void **state)
{
    struct rig *rig = rig_new(letters, 10, 1, 10);

    assert_int_equal(run(rig, false), 0);
    assert_string_equal(rig->told.names, "jihgfedcba");
    rig_free(rig);
}

static void window_bounds_what_is_in_flight(void **state)
{
    struct rig *rig = rig_new(letters, 10, 1000, 7);

    assert_int_equal(run(rig, true), 0);
    assert_int_equal(rig->client.most_flying, 7);
    assert_int_equal(rig->told.n, 10000);
    rig_free(rig);
}

static void large_answers_that_wait_hold_new_requests_back(void **state)
{
    struct rig *rig = rig_new(letters, 10, 20, 64);

    rig->client.answer_bytes = SHERD_PAYLOAD_MAX;
    assert_int_equal(run(rig, true), 0);
    assert_int_equal(rig->told.n, 200);
    assert_int_equal(rig->pump.held_bytes, 0);
    rig_free(rig);
}

static void name_that_cannot_be_sent_fails_in_its_turn(void **state)
{
    static char *const names[] = {"a", "!", "c"};
    struct rig *rig = rig_new(names, 3, 1, 8);

    assert_int_equal(run(rig, true), 0);
    assert_string_equal(rig->told.names, "a!c");
    assert_int_equal(rig->told.error, -EINVAL);
    assert_int_equal(rig->pump.n_done, 2);
    assert_int_equal(rig->pump.n_failed, 1);
    rig_free(rig);
}

static void interrupt_cancels_what_is_in_flight_and_tells_no_failure(void **state)
{
    struct rig *rig = rig_new(letters, 10, 1, 10);

    rig->client.is_stuck = true;
    raise(SIGINT);
    assert_int_equal(run(rig, true), -EINTR);
    assert_int_equal(rig->client.n_cancelled, 10);
    assert_int_equal(rig->told.n_errors, 0);
    assert_int_equal(rig->pump.n_cut, 10);
    assert_int_equal(rig->client.n_flying, 0);
    rig_free(rig);
}

static void one_call_is_cancelled_by_an_interrupt(void **state)
{
    struct rig *rig = rig_new(letters, 1, 1, 1);
    struct sherd_request request = {.method = "sys.ping"};
    struct sherd_result result;

    assert_int_equal(pump_call(&rig->pump, &request, &result), 0);
    assert_int_equal(result.end, SHERD_END_DONE);
    sherd_result_deinit(&result);
    rig->client.is_stuck = true;
    raise(SIGINT);
    assert_int_equal(pump_call(&rig->pump, &request, &result), -EINTR);
    assert_int_equal(rig->client.n_flying, 0);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_come_in_the_order_of_the_names),
        cmocka_unit_test(unordered_answers_come_as_they_end),
        cmocka_unit_test(window_bounds_what_is_in_flight),
        cmocka_unit_test(large_answers_that_wait_hold_new_requests_back),
        cmocka_unit_test(name_that_cannot_be_sent_fails_in_its_turn),
        cmocka_unit_test(interrupt_cancels_what_is_in_flight_and_tells_no_failure),
        cmocka_unit_test(one_call_is_cancelled_by_an_interrupt),
    };
    interrupt_block();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
