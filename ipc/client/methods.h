/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * methods - which methods an instance may run again when nobody knows whether they ran
 *
 * Concurrency: one thread. Zero bytes are an empty set.
 */
#include <stdbool.h>

#include "proto/sherd.pb-c.h"

struct method_set {
    char **names; /* sorted */
    size_t n;
};

/* Replaces what was there. 0 or -ENOMEM, then it is empty: nothing is run again. */
int methods_learn(struct method_set *set, const Sherd__Wire__MethodsReply *reply);
bool methods_may_repeat(const struct method_set *set, const char *name);
void methods_deinit(struct method_set *set);
