/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * postmortem_text - a post-mortem for people: the same object that programs get, as text
 *
 * Concurrency: one thread
 * Not here:    what stands in it (postmortem.c)
 */
#include <jansson.h>

void postmortem_print(const json_t *told);
