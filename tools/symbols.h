/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * symbols - what an address in a process is called
 *
 * Why:         the instance stores addresses, which cost nothing; names are found here, when
 *              somebody looks.
 * Use:         struct symbols *s = symbols_of_process(pid);   // NULL is a fine one: no names
 *              puts(symbols_name(s, address, buf, sizeof buf));
 *              symbols_free(s);
 * Concurrency: one thread
 * Lifetime:    the process may end: its files are opened when it is looked at first
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct symbols;

/* NULL: nothing can be said about it. */
struct symbols *symbols_of_process(pid_t pid);

/* An executable's file, as it lay in processes that are gone. NULL too where it has been built anew
 * since, which its build id tells: up to n_id bytes, zero-padded. */
struct symbols *symbols_of_file(
    const char *path, uint64_t base, const uint8_t *build_id, size_t n_id);
void symbols_free(struct symbols *s);

/* Reads a word of the stack. False: it is not there. */
typedef bool symbols_read_fn(void *opaque, uint64_t address, uint64_t *ret_word);
typedef void symbols_frame_fn(void *opaque, uint64_t pc);

/* Walks up from registers in the order of NT_PRSTATUS, of an EM_… machine; frame() is called for
 * each frame, the innermost first. Returns how many there were; 0: nothing is known of the machine
 * or the code. */
uint32_t symbols_backtrace(struct symbols *s, uint32_t machine, const uint64_t *registers,
    uint32_t n_registers, symbols_read_fn *read, symbols_frame_fn *frame, void *opaque);

/* "serve_run (serve.c:120)", "serve_run+0x12", or "0x55…" where it has no name. Returns buf. */
const char *symbols_name(struct symbols *s, uint64_t address, char *buf, size_t size);

/* A constant string by its address, from the files alone; what is not printable replaced. False:
 * there is none. */
bool symbols_string(struct symbols *s, uint64_t address, char *ret_text, size_t size);
