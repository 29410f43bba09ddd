/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * text - figures and foreign bytes as people read them
 *
 * Use:         char buf[TEXT_FIGURE]; printf("%s", text_count(n, buf));
 * Concurrency: any thread
 */
#include <stddef.h>
#include <stdint.h>

#define TEXT_FIGURE 32u /* room for any of the figures below */

/* At most five characters: 9999, 12.3k, 123k, 4.5M, … */
const char *text_count(uint64_t n, char buf[static TEXT_FIGURE]);

/* With commas between thousands: 12,345,678 */
const char *text_exact(uint64_t n, char buf[static TEXT_FIGURE]);

/* In units of 1024: 512 B, 4.5 KiB, 16 MiB */
const char *text_bytes(uint64_t bytes, char buf[static TEXT_FIGURE]);

/* The two largest units: 350 ms, 12.3 s, 5m 12s, 3h 20m, 12d 4h */
const char *text_duration(uint64_t ns, char buf[static TEXT_FIGURE]);

/* Bytes without control characters, which come out as \n, \t, \e or \ooo, so that foreign names
 * neither break lines nor drive a terminal. Bytes from 128 on stay. For free(); NULL: no memory. */
char *text_escape(const char *bytes, size_t len);
