/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * look - an instance read by name, live or dead: its segment's own description, and its image
 *
 * Why:         a crashed instance tells as much as a living one, and another version's is read
 *              right or refused.
 * Use:         struct look look;
 *              if (look_open(name, wait_ns, &look))
 *                  return EXIT_WORK_FAILED;      // the error was printed
 *              segment_view_of_peer(&look.view, 0, "head", 0, 0, &record); …
 *              look_close(&look);
 * Concurrency: as segment_view.h; reading a process's memory stops nobody
 * Not here:    tools that need this version's layout (instance.h)
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "shard/segment_view.h"
#include "tools/symbols.h"

struct look {
    char *name;
    char *path; /* of the segment */
    char *dir;  /* of the instance; NULL: a segment alone is looked at */
    struct segment_view view;
    int32_t supervisor;   /* pid of one that lives and has the image mapped; 0: none does */
    bool is_same_version; /* enums and packed words mean here what they mean there */
};

enum look_for {
    LOOK_THERE_OR_DEAD, /* one that died, and whose segment its directory still links to, is opened
                           after the wait */
    LOOK_READY, /* it lives, and is ready for work; where it does not get ready in time, it is
                           opened all the same */
};

/* NULL: the instance called default. 0, or -errno after an error was printed. */
int look_open(const char *name, int64_t wait_ns, enum look_for what, struct look *ret);

/* A segment's file. As above. */
int look_open_file(const char *path, struct look *ret);
void look_close(struct look *look);

/* Prints that its segment can't be read, and why. Returns EXIT_WORK_FAILED. */
int look_refuse(const struct look *look, const char *why);

#define LOOK_NAME 24u

/* "gateway", "shard 3" */
const char *look_peer_name(const struct look *look, uint32_t peer, char buf[static LOOK_NAME]);

/* Which peer stands in the n-th place where all are listed: the gateway in the first, then
 * shards. */
static inline uint32_t look_listed_peer(const struct look *look, uint32_t n)
{
    return n ? n - 1 : look->view.n_shards;
}

/* "sys.ping", or the number where the segment has no name for it. */
#define LOOK_METHOD 80u
const char *look_method(const struct look *look, uint32_t method, char buf[static LOOK_METHOD]);

/* Whether its supervisor still lives. */
bool look_is_alive(const struct look *look);

/* A constant string of the image by its address; false where no process can be asked. */
bool look_string(const struct look *look, uint64_t address, char *ret_text, size_t size);

/* Names of its functions, from the supervisor or from the executable's file; NULL: none. For
 * symbols_free(). */
struct symbols *look_symbols(const struct look *look);

/* What lay in processes of an image that dir's instance may still run: then from its supervisor,
 * which knows the libraries too; else from the executable's file. NULL: no names. For
 * symbols_free(). */
struct look_image {
    const char *executable;
    uint64_t base;
    const uint8_t *build_id;
    size_t n_id;
};

struct symbols *look_symbols_of_image(const char *dir, const struct look_image *image);

/* A word of a record by name; 0 where it has none. */
uint64_t look_word(const struct view_record *record, const char *field);
