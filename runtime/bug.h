/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * bug - the end of a process whose code broke a contract
 *
 * Why:         some mistakes in a program (a coroutine scheduled twice, a lock kept at its end)
 * leave no state worth going on with, and an assertion can't say which two places disagree. Use:
 * bug("coroutine %s was scheduled by %s already", name, site); Concurrency: any thread Not here:
 * errors of the world outside (-errno), foreign bytes (an error to whoever sent them)
 */
#ifdef __cplusplus
extern "C" {
#endif

/* Writes one line "sherd: bug: …" to fd 2 and aborts. Context: any thread. */
void bug(const char *format, ...) __attribute__((noreturn, cold, format(printf, 1, 2)));

#ifdef __cplusplus
}
#endif
