/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fake_client - a client of a fake instance (fake_plane.h), and what has ended of it
 *
 * Use:         a case's state is a struct fixture; set_up() or set_up_open(), tear_down()
 * Concurrency: the test's thread
 */
#include "ipc/client/client.h"
#include "tests/unit/ipc/fake_plane.h"

#define SECOND INT64_C(1000000000)
#define LONG   (20 * SECOND)

struct fixture {
    struct fake_plane fake;
    struct sherd_client *client;
    unsigned n_ended;
    struct sherd_result last;
    uint8_t data[4096];
};

struct sherd_client_options options_with(int64_t wait_ns);
void open_client(struct fixture *f);
int set_up(void **state);
int set_up_open(void **state);
int tear_down(void **state);

/* Its end is counted in n_ended, and stands in `last` and `data`. */
uint64_t submit(struct fixture *f, const struct sherd_request *request);
void on_done(const struct sherd_result *result, void *opaque);
void process_until(struct fixture *f, unsigned n);

/* A field of the fake's. */
void set(uint32_t *field, uint32_t value);
