/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * own_instance - an instance of a benchmark's own, named "bench", in a folder of its own
 *
 * Use:         own_instance_begin(&in, sherd, (const char *[]){"--shards", "1", NULL});
 *              sherd_client_open() of instance OWN_INSTANCE, which waits until it is there; …
 *              own_instance_end(&in);
 * Concurrency: one thread, one at a time: SHERD_RUNTIME_DIR is set to the folder
 * Lifetime:    the instance has the CPUs of who begins it, and what it logs goes nowhere
 */
#include <sys/types.h>

#define OWN_INSTANCE "bench"

struct own_instance {
    char directory[32]; /* with OWN_INSTANCE in it */
    pid_t supervisor;
};

/* options end in NULL. Ends the program where that goes wrong. */
void own_instance_begin(struct own_instance *in, const char *sherd, const char *const *options);

/* Has it finish, and removes the folder. */
void own_instance_end(struct own_instance *in);
