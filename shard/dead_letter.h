/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * dead_letter - a call that was on the CPU in three crashes, kept in a file instead of being run
 *               again
 *
 * Why:         a request that brings down each shard it comes to must be stopped, and must not be
 *              lost: somebody will want to see what was in it.
 * Use:         dead_letter_write(dir, &letter, name), in a thread that may block
 *              tool: dead_letter_list(), dead_letter_read(), dead_letter_free()
 * Concurrency: any process; a letter appears whole or not at all
 * Lifetime:    a letter stays, over restarts of the instance, until somebody removes the file.
 *              There is room for DEAD_LETTERS_MAX in a directory.
 * Not here:    when a call becomes one (shard/poison.h)
 *
 * Files dead-letter-1 … in the instance's directory, 0600: struct dead_letter_head, then the crash
 * records, then the arguments.
 */
#include <stddef.h>

#include "shard/crash_record.h"
#include "shard/registry.h"

#define DEAD_LETTERS_MAX     16u
#define DEAD_LETTER_CRASHES  3u
#define DEAD_LETTER_NAME_MAX 24u
#define DEAD_LETTER_MAGIC    "SHERDLTR"
#define DEAD_LETTER_VERSION  3u

struct dead_letter_head {
    char magic[8];
    uint32_t version;
    uint32_t head_bytes;   /* sizeof(struct dead_letter_head) */
    uint32_t record_bytes; /* sizeof(struct crash_record) */
    uint32_t args_len;     /* that are kept: of whole_len at most 1 MiB */
    uint64_t whole_len;    /* that there were */
    uint64_t at_ns;        /* CLOCK_REALTIME, when it was given up */
    uint32_t caller;       /* peer: a shard, or the gateway, which is as many as there are shards */
    uint32_t callee;
    uint32_t depth; /* how deep it was nested */
    uint32_t crashed_shards[DEAD_LETTER_CRASHES];
    uint32_t crashed_incarnations[DEAD_LETTER_CRASHES];
    uint32_t n_shards;
    /* Whose request it was, or was made for. */
    uint32_t session; /* of the gateway; UINT32_MAX: none */
    uint32_t client;  /* a local client's number; UINT32_MAX: none */
    uint32_t uid;     /* these three its own; zeros where it has gone */
    int32_t pid;
    char client_name[64]; /* NUL-terminated */
    uint32_t spare;
    char method[REGISTRY_NAME_MAX + 4]; /* "service.method", NUL-terminated */
    /* What the addresses in the crash records are addresses of. */
    uint64_t image_base;
    uint8_t build_id[32];
    char executable[256]; /* its path, NUL-terminated; "": not known */
};

struct dead_letter {
    struct dead_letter_head head; /* magic, version and sizes are set by dead_letter_write() */
    struct crash_record crashes[DEAD_LETTER_CRASHES]; /* kind CRASH_NONE where it left no record */
    const void *args;
};

/* "gateway" or "shard 3". Context: any. */
const char *dead_letter_peer(
    const struct dead_letter *letter, uint32_t peer, char *buf, size_t size);

/* Writes it into dir under the first name that is free. 0 with the file's name; -ENOSPC: there are
 * DEAD_LETTERS_MAX, or the file system is full; else -errno. Context: any thread, blocks. */
int dead_letter_write(
    const char *dir, const struct dead_letter *letter, char ret_name[DEAD_LETTER_NAME_MAX]);

/* Which there are, as numbers from 1, ascending. Returns how many. Context: any process. */
uint32_t dead_letter_list(const char *dir, uint32_t ret_numbers[DEAD_LETTERS_MAX]);

/* 0 with *ret_letter, and its arguments with it, for dead_letter_free(); -ENOENT: no such; -EPROTO:
 * it is none, was cut short, or another version's; -ENOMEM; -errno. */
int dead_letter_read(const char *dir, uint32_t number, struct dead_letter **ret_letter);
void dead_letter_free(struct dead_letter *letter);
