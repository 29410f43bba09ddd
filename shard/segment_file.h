/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * segment_file - the file on tmpfs behind the segment: made, linked to, kept after a crash, removed
 *
 * Why:         tools open the segment by its file, live or after a crash; and no start may leave
 *              more behind than the one before.
 * Use:         with the runtime directory claimed: segment_file_take_over(), segment_file_create(),
 *              segment_init() on its mapping, segment_file_publish(); in the end
 *              segment_file_remove()
 * Concurrency: one supervisor a runtime directory; several of them share shm_dir.
 * Lifetime:    whoever has the file mapped holds its lock, so a locked file is a living instance's.
 * Not here:    what is in it (shard/segment.h)
 *
 *   SHM_DIR/sherd-UID-TOKEN       the segment; TOKEN is 16 random hexadecimal digits
 *   SHM_DIR/sherd-UID-TOKEN.dir   link to the runtime directory that it is of
 *   RUNDIR/segment                link to the segment of the instance that runs, or that died
 *   RUNDIR/crashed-1 … crashed-3  links to segments of those that died, the newest first
 */
#include <stdbool.h>
#include <stdint.h>

#define SEGMENT_FILE_CRASHED_MAX 3u

struct segment_file {
    char *path;   /* in shm_dir; not there before segment_file_publish() */
    char *rundir; /* copy */
    int fd;       /* -1: none */
    void *base;   /* mapped shared and writable */
    uint64_t bytes;
    bool published;
};

/*
 * What another left here: a segment that rundir links to, though nobody lives in it, becomes
 * crashed-1; of the crashed ones the oldest go, so that at most three stay and `bytes` fit into
 * shm_dir beside them, if that is possible at all. Segments in shm_dir that are this user's, dead,
 * and linked from no runtime directory are removed. Returns 1 where the instance before died, 0
 * where it did not, -errno.
 */
int segment_file_take_over(
    const char *shm_dir, const char *rundir, uint64_t bytes, char **ret_error);

/* Makes the file, all of it allocated and zero, and maps it. It has no name yet. 0; -ENOSPC:
 * shm_dir has no room; -EMEDIUMTYPE: shm_dir is no tmpfs; -errno. */
int segment_file_create(const char *shm_dir, const char *rundir, uint64_t bytes,
    struct segment_file *ret_file, char **ret_error);

/* Gives it its name and rundir's link, whatever was there. 0 or -errno. */
int segment_file_publish(struct segment_file *file, char **ret_error);

/* Takes name and link away; the mapping stays for whoever has it. */
void segment_file_remove(struct segment_file *file);

/* Unmaps and frees; the file stays. */
void segment_file_close(struct segment_file *file);
