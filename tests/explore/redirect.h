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
#define pthread_mutex_destroy(m)              explorer_lock_end(m)
#define pthread_mutex_lock(m)                 explorer_lock(m)
#define pthread_mutex_unlock(m)               explorer_unlock(m)
#define syscall(number, word, op, value, ...) explorer_futex(word, op, value) /* SYS_futex alone */
#define __assert_fail                         explorer_assert_fail

/* What parts.c has in place of the rest of runtime/. */
#define aio_context_current          parts_aio_context_current
#define aio_context_set_current      parts_aio_context_set_current
#define context_replace_turning      parts_context_replace_turning
#define aio_context_ref              parts_aio_context_ref
#define aio_context_unref            parts_aio_context_unref
#define handlers_dispatch            parts_handlers_dispatch
#define handlers_free_deleted        parts_handlers_free_deleted
#define timers_run                   parts_timers_run
#define timers_timeout_ns            parts_timers_timeout_ns
#define disk_dispatch_completed      parts_disk_dispatch_completed
#define aio_sqe_dispatch             parts_aio_sqe_dispatch
#define poll_mode_run                parts_poll_mode_run
#define poll_mode_slept              parts_poll_mode_slept
#define poll_mode_learn              parts_poll_mode_learn
#define aio_clock_ns                 parts_aio_clock_ns
#define recorder_note_at             parts_recorder_note_at
#define coroutine_self               parts_coroutine_self
#define in_coroutine                 parts_in_coroutine
#define coroutine_yield_at           parts_coroutine_yield_at
#define aio_co_wake                  parts_aio_co_wake
#define co_stack_take                parts_co_stack_take
#define co_stack_give                parts_co_stack_give
#define co_registry_new              parts_co_registry_new
#define co_registry_close            parts_co_registry_close
#define co_registry_add              parts_co_registry_add
#define co_registry_remove           parts_co_registry_remove
#define co_registry_remove_from_afar parts_co_registry_remove_from_afar
#define co_registry_leave_for        parts_co_registry_leave_for
#define cancel_context_init          parts_cancel_context_init
#define cancel_context_deinit        parts_cancel_context_deinit
#define co_scope_innermost           parts_co_scope_innermost
#define co_wait_self                 parts_co_wait_self
#define co_wait_in_scopes            parts_co_wait_in_scopes
#define bug                          parts_bug
#endif
