/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * redirect - what the source under test calls in place of libc
 *
 * Why:         a blocking call would stop every thread of a scenario, and what malloc() returns
 *              would differ from run to run.
 * Use:         included before anything else in each source under test (meson.build, -include)
 * Concurrency: one OS thread
 * Not here:    what these do (explorer.h)
 */
#include <assert.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/explore/explorer.h"

long explorer_write(int fd, const void *bytes, size_t n);
long explorer_read(int fd, void *bytes, size_t n);
long explorer_futex(uint32_t *word, int op, uint32_t value);
void explorer_assert_fail(const char *text, const char *file, unsigned line, const char *function)
    __attribute__((noreturn));

#ifdef SHERD_ATOMIC_SHIM
#define write(fd, bytes, n)                   explorer_write(fd, bytes, n)
#define read(fd, bytes, n)                    explorer_read(fd, bytes, n)
#define malloc(bytes)                         explorer_alloc(bytes)
#define calloc(n, bytes)                      explorer_alloc((n) * (bytes))
#define free(p)                               explorer_free(p)
#define memcpy(to, from, bytes)               explorer_copy(to, from, bytes)
#define aligned_alloc(to, bytes)              explorer_alloc(bytes)
#define pthread_mutex_init(m, a)              ((void)(m))
#define pthread_mutex_destroy(m)              ((void)(m))
#define pthread_mutex_lock(m)                 explorer_lock(m)
#define pthread_mutex_unlock(m)               explorer_unlock(m)
#define syscall(number, word, op, value, ...) explorer_futex(word, op, value) /* SYS_futex alone */
#define __assert_fail                         explorer_assert_fail
#endif
