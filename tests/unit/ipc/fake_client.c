/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/ipc/fake_client.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/atomic.h"

struct sherd_client_options options_with(int64_t wait_ns)
{
    return (struct sherd_client_options){
        .instance = "fake", .wait_ns = wait_ns, .plane = SHERD_PLANE_DATA, .window = 16};
}

void open_client(struct fixture *f)
{
    struct sherd_client_options options = options_with(LONG);
    char *error = NULL;

    if (sherd_client_open(&options, &f->client, &error) < 0)
        fail_msg("%s", error);
}

int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    alarm(60);
    fake_plane_start(&f->fake);
    *state = f;
    return 0;
}

int set_up_open(void **state)
{
    set_up(state);
    open_client(*state);
    return 0;
}

int tear_down(void **state)
{
    struct fixture *f = *state;

    sherd_client_close(f->client);
    fake_plane_stop(&f->fake);
    free(f);
    alarm(0);
    return 0;
}

void on_done(const struct sherd_result *result, void *opaque)
{
    struct fixture *f = opaque;

    f->n_ended++;
    f->last = *result;
    if (result->len > 0 && result->len <= sizeof(f->data))
        memcpy(f->data, result->data, result->len);
}

uint64_t submit(struct fixture *f, const struct sherd_request *request)
{
    uint64_t id;

    assert_int_equal(sherd_client_submit(f->client, request, on_done, f, &id), 0);
    return id;
}

void process_until(struct fixture *f, unsigned n)
{
    while (f->n_ended < n)
        assert_true(sherd_client_process(f->client, LONG) > 0);
}

void set(uint32_t *field, uint32_t value)
{
    atomic_store_release(field, value);
}
