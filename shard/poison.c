/* SPDX-License-Identifier: MIT */
/*
 * Who was on the CPU is the supervisor's word: at a crash it copies it, and the incarnation last,
 * to the control record of the dead before it raises the incarnation, whose rise we have seen. A
 * caller that was stopped for so long that the shard crashed again meanwhile finds the later
 * crash there, and misses one: that delays the end by a crash, and accuses nobody.
 *
 * The letter is written by a thread of the pool, from copies. The caller's process may do so: it
 * has the rights of the instance, whose directory is its own.
 *
 * Orderings    first           then          ordered by                  if broken
 *   DEATH      who was on      incarnation   store release in death.c,   a crash is not counted
 *              the CPU                       acquire in mesh.c
 */
#include "shard/poison.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/thread_pool.h"
#include "shard/dead_letter.h"
#include "shard/mesh_inside.h"

struct poison {
    uint32_t shards[DEAD_LETTER_CRASHES];
    uint32_t incarnations[DEAD_LETTER_CRASHES];
    struct crash_record records[DEAD_LETTER_CRASHES];
};

/* ---- counting ---- */

static bool was_on_cpu(
    const struct mesh *mesh, uint32_t slot, uint32_t dead, uint32_t home, uint64_t generation)
{
    const struct peer_control *control = segment_control(&mesh->seg, dead);

    return atomic_load_relaxed(&control->crashed_incarnation) != 0 &&         /* DEATH */
           atomic_load_relaxed(&control->crashed_generation) == generation && /* DEATH */
           atomic_load_relaxed(&control->crashed_slot) == slot &&             /* DEATH */
           atomic_load_relaxed(&control->crashed_home) == home &&             /* DEATH */
           atomic_load_relaxed(&control->crashed_peer) == mesh->self;         /* DEATH */
}

static void keep_record(const struct mesh *mesh, struct poison *poison, uint32_t nth, uint32_t dead,
    uint32_t incarnation)
{
    struct crash_record *record = &poison->records[nth];

    poison->shards[nth] = dead;
    poison->incarnations[nth] = incarnation;
    if (crash_record_read(segment_crash(&mesh->seg, dead), record) < 0 ||
        record->incarnation != incarnation)
        *record = (struct crash_record){.kind = CRASH_NONE};
}

bool poison_note(
    struct mesh *mesh, struct mesh_call *call, uint32_t dead, uint32_t home, uint64_t generation)
{
    const struct peer_control *control = segment_control(&mesh->seg, dead);
    uint32_t incarnation = atomic_load_relaxed(&control->crashed_incarnation); /* DEATH */

    if (!was_on_cpu(mesh, call->slot, dead, home, generation))
        return false;
    if (!call->poison)
        call->poison = calloc(1, sizeof(*call->poison)); /* without memory: no backtraces */
    if (call->poison && call->n_crashes < DEAD_LETTER_CRASHES)
        keep_record(mesh, call->poison, call->n_crashes, dead, incarnation);
    return ++call->n_crashes >= DEAD_LETTER_CRASHES;
}

void poison_forget(struct mesh_call *call)
{
    free(call->poison);
    call->poison = NULL;
    call->n_crashes = 0;
}

/* ---- parking ---- */

struct parking {
    struct mesh *mesh;
    struct mesh_call *call;
    char name[DEAD_LETTER_NAME_MAX]; /* of the file */
    struct dead_letter letter;       /* its arguments follow */
};

static void name_method(const struct mesh *mesh, uint32_t method, char *name, size_t size)
{
    uint32_t service = 0;
    const struct service_method *found = mesh_method(mesh, method, &service);
    const struct service *owner = registry_service(mesh->registry, service);

    if (found && method < registry_n_methods(mesh->registry))
        snprintf(name, size, "%s.%s", owner->name, found->name);
    else
        snprintf(name, size, "%s", found ? found->name : "unknown");
}

static void tell_end(struct mesh *mesh, struct mesh_call *call, const char *kept)
{
    char text[256];
    int n = snprintf(text, sizeof(text),
        "shard %u crashed %u times while it ran this, so it is not run again; %s", call->target,
        DEAD_LETTER_CRASHES, kept);

    caller_finish(mesh, call,
        &(struct mesh_answer){.end = CALL_END_FAILED,
            .status = -ENOTRECOVERABLE,
            .data = text,
            .len = (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1,
            .shard = call->target});
}

static void tell_not_kept(struct mesh *mesh, struct mesh_call *call, int error)
{
    char kept[128];

    snprintf(kept, sizeof(kept), "it could not be kept as a dead letter: %s%s",
        strerrordesc_np(-error),
        error == -ENOSPC ? "; remove dead-letter-* that were read from the instance's directory"
                         : "");
    tell_end(mesh, call, kept);
}

/* In a worker, which touches nothing but this. */
static int write_letter(void *opaque)
{
    struct parking *parking = opaque;

    return dead_letter_write(parking->mesh->letters_dir, &parking->letter, parking->name);
}

static void on_written(void *opaque, int ret)
{
    struct parking *parking = opaque;
    char kept[128];

    snprintf(kept, sizeof(kept), "it is kept as %s (see sherd dead-letters)", parking->name);
    if (ret < 0)
        tell_not_kept(parking->mesh, parking->call, ret);
    else
        tell_end(parking->mesh, parking->call, kept);
    free(parking);
}

static void name_image(const struct segment_super *super, struct dead_letter_head *head)
{
    static_assert(sizeof(head->build_id) == sizeof(super->build_id) &&
                      sizeof(head->executable) == sizeof(super->executable),
        "the same there and here");
    head->image_base = super->image_base;
    memcpy(head->build_id, super->build_id, sizeof(head->build_id));
    memcpy(head->executable, super->executable, sizeof(head->executable));
}

static struct parking *parking_new(struct mesh *mesh, struct mesh_call *call)
{
    struct parking *parking = calloc(1, sizeof(*parking) + call->args_len);
    struct dead_letter_head *head;

    if (!parking)
        return NULL;
    parking->mesh = mesh;
    parking->call = call;
    head = &parking->letter.head;
    head->caller = mesh->self;
    head->callee = call->target;
    head->depth = call->depth;
    head->args_len = (uint32_t)call->args_len;
    head->n_shards = mesh->seg.geometry.n_shards;
    name_method(mesh, call->method, head->method, sizeof(head->method));
    name_image(segment_super(&mesh->seg), head);
    if (call->poison) {
        memcpy(head->crashed_shards, call->poison->shards, sizeof(head->crashed_shards));
        memcpy(head->crashed_incarnations, call->poison->incarnations,
            sizeof(head->crashed_incarnations));
        memcpy(parking->letter.crashes, call->poison->records, sizeof(parking->letter.crashes));
    }
    if (call->args_len)
        memcpy(parking + 1, call->args, call->args_len);
    parking->letter.args = parking + 1;
    return parking;
}

void poison_park(struct mesh *mesh, struct mesh_call *call)
{
    struct parking *parking = mesh->letters_dir ? parking_new(mesh, call) : NULL;
    int r = parking ? 0 : -ENOMEM;

    counter_add(&mesh->part->n_poisoned, 1);
    caller_stop_timer(call);
    call->where = CALL_OVER;
    if (!mesh->letters_dir) {
        tell_end(mesh, call, "dead letters are not kept here");
        return;
    }
    if (parking)
        r = thread_pool_submit_aio(write_letter, parking, on_written, parking, NULL);
    if (r == 0)
        return;
    free(parking);
    tell_not_kept(mesh, call, r);
}
