/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * poison - calls that crash whoever runs them
 *
 * Why:         an idempotent call is run again when its shard died; one that is the cause of the
 *              death would be for ever, and take the shard and all its other calls with it.
 * Use:         judge.c, for each call that was started by the dead: poison_note(), and where that
 *              is true poison_park() instead of running it again
 * Concurrency: owner loop of the caller, in whose struct mesh_call the count stands: it lives as
 *              long as the call, over each time it is run again. A caller's death ends its calls,
 *              and the count with them: what is submitted anew is another call.
 *              Requests of local clients are counted by the heirs of the shard that they were asked
 *              of (ipc/plane/heir.c), and kept by poison_keep() likewise.
 * Not here:    what is kept (shard/dead_letter.h), what counts as a crash (shard/restart.h), whose
 *              fault it is (shard/blame.h)
 *
 * To be running is not to be guilty, so it takes three crashes in which the same call's coroutine
 * was on the CPU. One that merely waited in the shard that crashed is not counted, nor is a death
 * by somebody's kill, nor a crash in another thread than the loop's.
 */
#include "shard/dead_letter.h"
#include "shard/mesh.h"

/* What each crash left: where and when it was, and its record, if there is one. */
struct poison {
    uint32_t shards[DEAD_LETTER_CRASHES];
    uint32_t incarnations[DEAD_LETTER_CRASHES];
    struct crash_record records[DEAD_LETTER_CRASHES];
};

/* A request that is given up. */
struct poisoned {
    uint32_t caller, callee, depth, method;
    uint64_t origin;
    const void *args; /* copied, as many as a letter keeps: SEGMENT_PAYLOAD_MAX */
    uint64_t args_len;
    const struct poison *crashes; /* copied; NULL: not known */
};

/* text: for whoever asked for it. */
typedef void poison_kept_fn(void *opaque, const char *text);

/* Keeps it as a dead letter; kept() comes when that is done, or at once where it can't be. Context:
 * owner loop. */
void poison_keep(
    struct mesh *mesh, const struct poisoned *what, poison_kept_fn *kept, void *opaque);

/* The record of a crash of that incarnation; of kind CRASH_NONE where it left none. Context: any
 * process. */
void poison_read_record(
    const struct segment *seg, uint32_t dead, uint32_t incarnation, struct crash_record *ret);

/* Notes that `dead` died while it ran this generation of the call in `slot` of home's: true where
 * that was the third crash with it on the CPU. Context: owner loop. */
bool poison_note(
    struct mesh *mesh, struct mesh_call *call, uint32_t dead, uint32_t home, uint64_t generation);

/* Ends a call that has no slot any more: done() comes with FAILED and -ENOTRECOVERABLE when it has
 * been kept. Context: owner loop. */
void poison_park(struct mesh *mesh, struct mesh_call *call);

/* The call has ended. Context: owner loop. */
void poison_forget(struct mesh_call *call);
