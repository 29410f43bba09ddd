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

void poison_read_record(
    const struct segment *seg, uint32_t dead, uint32_t incarnation, struct crash_record *ret)
{
    if (crash_record_read(segment_crash(seg, dead), ret) < 0 || ret->incarnation != incarnation)
        *ret = (struct crash_record){.kind = CRASH_NONE};
}

static void keep_record(const struct mesh *mesh, struct poison *poison, uint32_t nth, uint32_t dead,
    uint32_t incarnation)
{
    poison->shards[nth] = dead;
    poison->incarnations[nth] = incarnation;
    poison_read_record(&mesh->seg, dead, incarnation, &poison->records[nth]);
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
    const char *dir;
    poison_kept_fn *kept;
    void *opaque;
    uint32_t callee;
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

static void tell(const struct parking *parking, const char *what)
{
    char text[256];

    snprintf(text, sizeof(text),
        "shard %u crashed %u times while it ran this, so it is not run again; %s", parking->callee,
        DEAD_LETTER_CRASHES, what);
    parking->kept(parking->opaque, text);
}

static void tell_not_kept(const struct parking *parking, int error)
{
    char what[128];

    snprintf(what, sizeof(what), "it could not be kept as a dead letter: %s%s",
        strerrordesc_np(-error),
        error == -ENOSPC ? "; remove dead-letter-* that were read from the instance's directory"
                         : "");
    tell(parking, what);
}

/* In a worker, which touches nothing but this. */
static int write_letter(void *opaque)
{
    struct parking *parking = opaque;

    return dead_letter_write(parking->dir, &parking->letter, parking->name);
}

static void on_written(void *opaque, int ret)
{
    struct parking *parking = opaque;
    char what[128];

    snprintf(what, sizeof(what), "it is kept as %s (see sherd dead-letters)", parking->name);
    if (ret < 0)
        tell_not_kept(parking, ret);
    else
        tell(parking, what);
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

static void name_client(const struct segment *seg, uint64_t origin, struct dead_letter_head *head)
{
    uint32_t client = origin_client(origin);
    const struct client_row *row;

    static_assert(sizeof(head->client_name) == sizeof(row->name), "the same there and here");
    head->client = head->session = UINT32_MAX;
    if (!(origin & ORIGIN_CLIENT)) {
        head->session = origin ? origin_session(origin) : UINT32_MAX;
        return;
    }
    head->client = client;
    row = client < seg->geometry.n_clients ? segment_client(seg, client) : NULL;
    if (!row || (client_generation(row->word) & ORIGIN_ID_MASK) != (origin & ORIGIN_ID_MASK))
        return; /* its number is another's by now */
    head->uid = row->uid;
    head->pid = row->pid;
    memcpy(head->client_name, row->name, sizeof(head->client_name) - 1);
}

static void fill_head(struct mesh *mesh, const struct poisoned *what, struct dead_letter_head *head)
{
    head->caller = what->caller;
    head->callee = what->callee;
    head->depth = what->depth;
    head->whole_len = what->args_len;
    head->args_len =
        what->args_len < SEGMENT_PAYLOAD_MAX ? (uint32_t)what->args_len : SEGMENT_PAYLOAD_MAX;
    head->n_shards = mesh->seg.geometry.n_shards;
    name_method(mesh, what->method, head->method, sizeof(head->method));
    name_image(segment_super(&mesh->seg), head);
    name_client(&mesh->seg, what->origin, head);
}

static struct parking *parking_new(struct mesh *mesh, const struct poisoned *what)
{
    uint64_t room = what->args_len < SEGMENT_PAYLOAD_MAX ? what->args_len : SEGMENT_PAYLOAD_MAX;
    struct parking *parking = calloc(1, sizeof(*parking) + room);
    struct dead_letter *letter;

    if (!parking)
        return NULL;
    letter = &parking->letter;
    fill_head(mesh, what, &letter->head);
    if (what->crashes) {
        memcpy(letter->head.crashed_shards, what->crashes->shards,
            sizeof(letter->head.crashed_shards));
        memcpy(letter->head.crashed_incarnations, what->crashes->incarnations,
            sizeof(letter->head.crashed_incarnations));
        memcpy(letter->crashes, what->crashes->records, sizeof(letter->crashes));
    }
    if (room)
        memcpy(parking + 1, what->args, room);
    letter->args = parking + 1;
    return parking;
}

void poison_keep(struct mesh *mesh, const struct poisoned *what, poison_kept_fn *kept, void *opaque)
{
    struct parking here = {.kept = kept, .opaque = opaque, .callee = what->callee}, *parking;
    int r = -ENOMEM;

    counter_add(&mesh->part->n_poisoned, 1);
    if (!mesh->letters_dir) {
        tell(&here, "dead letters are not kept here");
        return;
    }
    parking = parking_new(mesh, what);
    if (parking) {
        parking->dir = mesh->letters_dir;
        parking->kept = kept;
        parking->opaque = opaque;
        parking->callee = what->callee;
        r = thread_pool_submit_aio(write_letter, parking, on_written, parking, NULL);
    }
    if (r == 0)
        return;
    free(parking);
    tell_not_kept(&here, r);
}

/* ---- a call ---- */

static void on_call_kept(void *opaque, const char *text)
{
    struct mesh_call *call = opaque;

    caller_finish(call->mesh, call,
        &(struct mesh_answer){.end = CALL_END_FAILED,
            .status = -ENOTRECOVERABLE,
            .data = text,
            .len = strlen(text),
            .shard = call->target});
}

void poison_park(struct mesh *mesh, struct mesh_call *call)
{
    caller_stop_timer(call);
    call->where = CALL_OVER;
    poison_keep(mesh,
        &(struct poisoned){.caller = mesh->self,
            .callee = call->target,
            .depth = call->depth,
            .method = call->method,
            .origin = call->origin,
            .args = call->args,
            .args_len = call->args_len,
            .crashes = call->poison},
        on_call_kept, call);
}
