/* SPDX-License-Identifier: MIT */
/*
 * What is watched stands in the shard's private memory; whether it is over, in the rows of clients
 * and sessions in the gateway's part. The gateway only says "look", by a count of those that have
 * ended, and rings the shards that watch anything. So it costs the same however many end together,
 * nothing where nobody is watched, and waits for no slot of the mesh.
 *
 * Orderings    first             then               ordered by                   if broken
 *   OVER     row says: over    n_watched is read    full fence on both sides,    neither sees the other:
 *            n_watched stored  the row is read      each between its two         gone() is never called
 *   TOLD     row says: over    clients_over         store release, acquire       a look finds nothing
 */
#include "shard/client_end.h"

#include <errno.h>
#include <stdlib.h>

#include "runtime/atomic.h"
#include "runtime/doorbell.h"
#include "shard/mesh_inside.h"
#include "shard/serve.h"

/* ---- who is there ---- */

static bool has_session(const struct segment *seg, uint32_t number)
{
    uint32_t n_rows = segment_sessions_of(seg->geometry.n_fates);

    for (uint32_t row = 0; row < n_rows; row++)
        if (atomic_load_acquire(&segment_session(seg, row)->number) == number) /* OVER */
            return true;
    return false;
}

static bool has_client(const struct segment *seg, uint32_t client, uint64_t generation)
{
    uint64_t word;

    if (client >= seg->geometry.n_clients)
        return false;
    word = atomic_load_acquire(&segment_client(seg, client)->word); /* OVER */
    return client_state(word) == CLIENT_ATTACHED &&
           (client_generation(word) & ORIGIN_ID_MASK) == generation;
}

static bool is_there(const struct segment *seg, uint64_t who)
{
    return who & ORIGIN_CLIENT ? has_client(seg, origin_client(who), who & ORIGIN_ID_MASK)
                               : has_session(seg, origin_session(who));
}

/* ---- in a shard ---- */

static void show(const struct mesh *mesh)
{
    atomic_store_relaxed(&mesh->part->clients_watched, mesh->n_watched); /* OVER */
}

static int add(struct mesh *mesh, uint64_t who, uint32_t service)
{
    if (mesh->n_watched == mesh->watched_room) {
        uint32_t room = mesh->watched_room ? 2 * mesh->watched_room : 16;
        struct watched *more = realloc(mesh->watched, room * sizeof(*more));
        if (!more)
            return -ENOMEM;
        mesh->watched = more;
        mesh->watched_room = room;
    }
    mesh->watched[mesh->n_watched++] = (struct watched){who, service};
    show(mesh);
    return 0;
}

static void remove_at(struct mesh *mesh, uint32_t at)
{
    mesh->watched[at] = mesh->watched[--mesh->n_watched];
    show(mesh);
}

int client_end_watch(struct mesh *mesh, uint64_t who, uint32_t service)
{
    int r;

    if (!who)
        return -ENOENT;
    for (uint32_t i = 0; i < mesh->n_watched; i++)
        if (mesh->watched[i].who == who && mesh->watched[i].service == service)
            return is_there(&mesh->seg, who) ? 0 : -ECANCELED;
    r = add(mesh, who, service);
    if (r < 0)
        return r;
    atomic_full_fence(); /* OVER */
    if (is_there(&mesh->seg, who))
        return 0;
    remove_at(mesh, mesh->n_watched - 1);
    return -ECANCELED;
}

void client_end_forget(struct mesh *mesh)
{
    free(mesh->watched);
}

void service_caller_of(uint64_t who, struct service_caller *ret_caller)
{
    bool is_local = who & ORIGIN_CLIENT;

    *ret_caller = (struct service_caller){.id = who,
        .kind = !who       ? SERVICE_CALLER_NONE
                : is_local ? SERVICE_CALLER_LOCAL
                           : SERVICE_CALLER_SESSION,
        .number = is_local ? origin_client(who) : origin_session(who)};
}

static void tell_service(const struct mesh *mesh, const struct watched *gone)
{
    const struct service *service = registry_service(mesh->registry, gone->service);
    struct service_caller caller;

    service_caller_of(gone->who, &caller);
    if (service->gone)
        service->gone(mesh->states ? mesh->states[gone->service] : NULL, &caller);
}

static uint64_t *count_of(const struct mesh *mesh)
{
    return &segment_part(&mesh->seg, segment_gateway(&mesh->seg))->clients_over;
}

bool client_end_is_told(const struct mesh *mesh)
{
    return atomic_load_relaxed(count_of(mesh)) != mesh->over_seen; /* TOLD: a hint */
}

void client_end_look(struct mesh *mesh)
{
    uint32_t i = 0;

    mesh->over_seen = atomic_load_acquire(count_of(mesh)); /* TOLD */
    while (i < mesh->n_watched) {
        struct watched gone = mesh->watched[i];
        if (is_there(&mesh->seg, gone.who)) {
            i++;
            continue;
        }
        remove_at(mesh, i);
        tell_service(mesh, &gone);
    }
}

/* ---- in the gateway ---- */

void client_end_tell(struct mesh *mesh)
{
    atomic_store_release(count_of(mesh), *count_of(mesh) + 1); /* TOLD */
    atomic_full_fence();                                       /* OVER */
    for (uint32_t shard = 0; shard < mesh->seg.geometry.n_shards; shard++) {
        struct doorbell bell = {
            .words = &segment_bell(&mesh->seg, shard)->words, .fd = mesh->bell_fds[shard]};
        if (atomic_load_relaxed(&segment_part(&mesh->seg, shard)->clients_watched)) /* OVER */
            doorbell_ring(&bell);
    }
}
