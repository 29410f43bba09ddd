/* SPDX-License-Identifier: MIT */
#include "shard/portable.h"
/*
 * A coroutine that moves yields; then, on the loop's stack, when nothing runs on its own any more,
 * it is taken out of this process's books, its word is set to QUEUED for the target, and the target
 * is told by a call whose answer is only the slot coming back (builtin.h). The word is the truth
 * and the call a hint: who finds the word so enters the coroutine, once, whoever told it.
 *
 *   dies                          what is found             who goes on with it
 *   sender, before the word       running there             nobody: ended by the supervisor
 *   sender, before the call       queued for the target     the target, judging that death
 *   target, before it enters      queued for it             its replacement, at its start
 *   target, given up              queued for it, by us      the sender: -EHOSTDOWN
 *   sender and target             queued for the target     the target's replacement; where the
 *                                                           target is given up the sender's; where
 *                                                           both are, the supervisor ends it,
 *                                                           or who is left without one
 *
 * A wait is the same without a target: SUSPENDED, and a wake makes it QUEUED. Nothing of a process
 * is in a coroutine that is SUSPENDED or QUEUED, so any other may go on with it.
 *
 * Before it leaves, or waits where another shard may wake it, private_scan.c may look at what it
 * takes along.
 *
 * Who has more to do than others hands over, not who has less takes: a coroutine that computes for
 * long offers it at moments of its own choice (shard_co_yield()), and then moves as by its own
 * will.
 *
 * What a move needs here is taken before it yields, so that nothing fails once it is on its way.
 *
 * Orderings    first    then    ordered by          if broken
 *   IDLE       -        -       none: it is a hint  -
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/bug.h"
#include "runtime/co_sleep.h"
#include "shard/builtin.h"
#include "shard/lock_inside.h"
#include "shard/portable_inside.h"
#include "shard/serve.h"

#define RESTART_LOOK_NS INT64_C(1000000)

/* A shard is idle once it was seen asleep twice, so far apart, and not awake in between; each that
 * is handed over takes as long again. One that was handed over stays for a while. */
#define IDLE_NS INT64_C(1000000)
#define STAY_NS INT64_C(10000000)

/* A call that tells another shard of a coroutine. */
struct notice {
    struct mesh_call call;
    arena_co co;
    struct notice *next; /* spare */
    struct notice *next_of_all;
};

struct portable_end {
    struct notice *spare, *all;
    uint32_t n_ready; /* wait for their turn */
    uint32_t asleep;  /* a shard; the own one: none */
    int64_t asleep_ns;
    uint32_t n_free;
    uint32_t free[]; /* slots that were free and ours when last seen: a hint */
};

/* ---- what a mesh keeps ---- */

int portable_end_new(struct mesh *mesh, struct portable_end **ret_end)
{
    const struct segment *seg = &mesh->seg;
    struct portable_end *end =
        calloc(1, sizeof(*end) + seg->geometry.n_portable * sizeof(end->free[0]));

    if (!end)
        return -ENOMEM;
    for (uint32_t slot = seg->geometry.n_portable; slot-- > 0;) {
        struct arena_word w = arena_read(seg, slot);
        if (w.state == ARENA_FREE && w.owner == mesh->self)
            end->free[end->n_free++] = slot;
    }
    end->asleep = mesh->self;
    *ret_end = end;
    return 0;
}

/* Also of those that are still on their way, whose mesh is gone. */
void portable_end_free(struct portable_end *end)
{
    if (!end)
        return;
    while (end->all) {
        struct notice *notice = end->all;
        end->all = notice->next_of_all;
        free(notice);
    }
    free(end);
}

/* There are never more than are under way at once, so they are kept. */
static struct notice *take_notice(struct portable_end *end)
{
    struct notice *notice = end->spare;

    if (notice) {
        end->spare = notice->next;
        return notice;
    }
    notice = malloc(sizeof(*notice));
    if (notice) {
        notice->next_of_all = end->all;
        end->all = notice;
    }
    return notice;
}

static void give_notice(struct portable_end *end, struct notice *notice)
{
    notice->next = end->spare;
    end->spare = notice;
}

uint32_t portable_n_here(const struct mesh *mesh)
{
    uint32_t n = 0;

    for (uint32_t slot = 0; slot < mesh->seg.geometry.n_portable; slot++) {
        struct arena_word w = arena_read(&mesh->seg, slot);
        n += w.owner == mesh->self && (w.state == ARENA_RUNNING || w.state == ARENA_SUSPENDED);
    }
    return n;
}

/* ---- birth and end ---- */

static struct portable *portable_at(const struct segment *seg, arena_co co)
{
    return (struct portable *)(segment_stack(seg, arena_slot_of(co)) + seg->geometry.stack_bytes) -
           1;
}

void portable_give(struct mesh *mesh, arena_co co)
{
    struct portable_end *end = mesh->portables;

    if (!co)
        return;
    arena_end(&mesh->seg, co, mesh->self);
    if (end->n_free < mesh->seg.geometry.n_portable)
        end->free[end->n_free++] = arena_slot_of(co);
}

/* On the loop's stack. From arena_end() on the memory may be somebody else's. */
static void on_ended(Coroutine *co, void *opaque)
{
    const struct portable *p = opaque;

    (void)co;
    portable_give(p->mesh, p->co);
}

struct portable *portable_self(void)
{
    return co_portable_of(coroutine_self(), on_ended);
}

arena_co shard_co_self(void)
{
    const struct portable *self = portable_self();

    return self ? self->co : 0;
}

static void coroutine_fn run(void *opaque)
{
    struct portable *self = opaque;

    self->run(self->mesh, self->opaque);
    lock_drop_all(self->mesh, coroutine_self());
}

static void show_slot(struct mesh *mesh, const struct portable *p, const char *name)
{
    struct arena_slot *slot = segment_arena(&mesh->seg, arena_slot_of(p->co));

    atomic_store_relaxed(&slot->created_ns, (uint64_t)aio_clock_ns());
    atomic_store_relaxed(&slot->entry, (uint64_t)(uintptr_t)p->run);
    atomic_store_relaxed(&slot->name, (uint64_t)(uintptr_t)name);
    atomic_store_relaxed(&slot->wait_site, 0);
    atomic_store_relaxed(&slot->position, 0);
    atomic_store_relaxed(&slot->n_moves, 0);
}

arena_co portable_take(struct mesh *mesh)
{
    struct portable_end *end = mesh->portables;
    arena_co co = 0;

    if (!end)
        return 0;
    while (!co && end->n_free > 0) {
        uint32_t slot = end->free[--end->n_free];
        if (arena_read(&mesh->seg, slot).state == ARENA_FREE)
            co = arena_create(&mesh->seg, mesh->self, slot);
    }
    return co ? co : arena_create(&mesh->seg, mesh->self, UINT32_MAX);
}

static void fill_own(const struct mesh *mesh, const void *state, const void *own[PORTABLE_OWN])
{
    own[OWN_MESH] = mesh;
    own[OWN_CONTEXT] = mesh->ctx;
    own[OWN_END] = mesh->portables;
    own[OWN_REGISTRY] = mesh->registry;
    own[OWN_STATES] = mesh->states;
    own[OWN_STATE] = state;
}

void portable_run(struct mesh *mesh, arena_co co, portable_fn *entry, void *opaque,
    const void *state, const char *name)
{
    struct portable *p = portable_at(&mesh->seg, co);
    uint8_t *low;

    arena_stack(&mesh->seg, co, &low);
    *p = (struct portable){.co = co, .mesh = mesh, .run = entry, .opaque = opaque};
    fill_own(mesh, state, p->began);
    p->coroutine = co_portable_create(low, (size_t)((uint8_t *)p - low), run, p, name, on_ended, p);
    co_portable_begins_in(p->coroutine, (const void *)(uintptr_t)entry);
    show_slot(mesh, p, name);
    coroutine_enter(p->coroutine);
}

int portable_start(
    struct mesh *mesh, portable_fn *entry, void *opaque, const char *name, arena_co *ret_co)
{
    arena_co co = portable_take(mesh);

    if (!co)
        return -EAGAIN;
    if (ret_co)
        *ret_co = co;
    portable_run(mesh, co, entry, opaque, NULL, name);
    return 0;
}

/* ---- arriving ---- */

/* This shard has the right to run it. All may write its word, so it may say so of one that is not
 * there. */
static void go_on(struct mesh *mesh, arena_co co, int status)
{
    struct portable *p = portable_at(&mesh->seg, co);
    struct arena_slot *slot = segment_arena(&mesh->seg, arena_slot_of(co));

    if (p->co != co) {
        portable_give(mesh, co);
        return;
    }
    atomic_store_relaxed(&slot->wait_site, 0);
    atomic_store_relaxed(&slot->position, 0);
    co_portable_arrive(p->coroutine);
    p->mesh = mesh;
    p->status = status;
    if (in_coroutine())
        aio_co_schedule(mesh->ctx, p->coroutine);
    else
        coroutine_enter(p->coroutine);
}

static void enter_if_ours(struct mesh *mesh, arena_co co)
{
    if (arena_enter(&mesh->seg, co, mesh->self))
        go_on(mesh, co, 0);
}

int portable_serve_notice(struct service_call *call)
{
    arena_co co;

    if (call->args_len != sizeof(co) || !call->mesh->portables)
        return -EPROTO;
    memcpy(&co, call->args, sizeof(co));
    enter_if_ours(call->mesh, co);
    return 0;
}

static void on_told(struct mesh_call *call, const struct mesh_answer *answer)
{
    struct notice *notice = (struct notice *)call;
    struct mesh *mesh = call->mesh;
    arena_co co = notice->co;

    give_notice(mesh->portables, notice);
    if (answer->end != CALL_END_DONE && arena_bounce(&mesh->seg, co, mesh->self, answer->shard))
        go_on(mesh, co, -EHOSTDOWN);
}

/* co is queued for target, and the word tells so. */
static void tell(
    struct mesh *mesh, struct notice *notice, arena_co co, uint32_t target, uint32_t method)
{
    notice->co = co;
    notice->call = (struct mesh_call){.target = target,
        .method = method,
        .args = &notice->co,
        .args_len = sizeof(notice->co),
        .deadline_ns = INT64_MAX,
        .depth = SEGMENT_DEPTH_BUILTIN,
        .done = on_told};
    if (mesh_call_start(mesh, &notice->call) == 0)
        return;
    give_notice(mesh->portables, notice);
    if (arena_bounce(&mesh->seg, co, mesh->self, target))
        go_on(mesh, co, -EHOSTDOWN);
}

/* ---- leaving ---- */

static void show_leaving(const struct portable *p, uint32_t n_moves)
{
    struct arena_slot *slot = segment_arena(&p->mesh->seg, arena_slot_of(p->co));
    const void *end, *position = co_portable_position(p->coroutine, &end);

    atomic_store_relaxed(&slot->position, (uint64_t)(uintptr_t)position);
    atomic_store_relaxed(&slot->n_moves, slot->n_moves + n_moves);
}

/*
 * What the mesh's own frames hold, and what of a service is another in each shard, is of no harm:
 * it is set anew on arrival. That goes for what they held where it began, too: a frame that lasts,
 * also the method's, has saved registers of those before it, which another process would take for
 * pointers of its own.
 */
static bool passes_scan(const struct portable *p, const char *name)
{
    const struct mesh *mesh = p->mesh;
    const void *known[2 * PORTABLE_OWN + 2] = {p->opaque, p->notice};
    struct scan_of of = {.co = p->co,
        .name = name,
        .known = known,
        .n_known = sizeof(known) / sizeof(known[0]),
        .own = {mesh, p->began[OWN_MESH]},
        .own_bytes = sizeof(*mesh) + mesh->seg.n_peers * sizeof(mesh->links[0]),
        .states = (const void *const *)mesh->states,
        .n_states = mesh->states ? registry_n_services(mesh->registry) : 0,
        .harmless = p->harmless,
        .n_harmless = PORTABLE_MARKS,
        .has_memory = p->has_memory};
    const void *end;

    fill_own(mesh, NULL, known + 2);
    memcpy(known + 2 + PORTABLE_OWN, p->began, sizeof(p->began));
    of.low = co_portable_position(p->coroutine, &end);
    of.end = end;
    return private_scan_passes(mesh->scan, &of);
}

/* On the loop's stack. Where it may not leave it goes on here, and is told. */
static bool may_leave(struct portable *p)
{
    const struct arena_slot *slot = segment_arena(&p->mesh->seg, arena_slot_of(p->co));

    if (!p->mesh->scan || p->unseen ||
        passes_scan(p, (const char *)(uintptr_t)atomic_load_relaxed(&slot->name)))
        return true;
    p->status = -EFAULT;
    aio_co_schedule(p->mesh->ctx, p->coroutine);
    return false;
}

static void publish_move(Coroutine *co, void *opaque)
{
    struct portable *p = opaque;
    struct notice *notice = p->notice;
    struct mesh *mesh = p->mesh;
    uint32_t target = p->target;
    arena_co name = p->co;

    if (!may_leave(p)) {
        give_notice(mesh->portables, notice);
        return;
    }
    show_leaving(p, 1);
    co_portable_leave(co);
    if (!arena_move(&mesh->seg, name, mesh->self, target))
        bug("portable coroutine %s is not this shard's", "that moves");
    tell(mesh, notice, name, target, BUILTIN_MOVE);
}

static void publish_wait(Coroutine *co, void *opaque)
{
    struct portable *p = opaque;
    struct mesh *mesh = p->mesh;
    arena_co name = p->co;

    if (!may_leave(p))
        return;
    show_leaving(p, 0);
    co_portable_leave(co);
    if (arena_suspend(&mesh->seg, name, mesh->self))
        return;
    co_portable_arrive(co); /* a wake came before */
    aio_co_schedule(mesh->ctx, co);
}

static struct portable *self_in(const char *function)
{
    struct portable *self = portable_self();

    if (!self)
        bug("%s outside a portable coroutine", function);
    return self;
}

static int check_target(const struct mesh *mesh, uint32_t target)
{
    if (target >= mesh->seg.geometry.n_shards)
        return -ENODEV;
    if (target == mesh->self)
        return 0;
    if (mesh->orphaned || atomic_load_acquire(&segment_control(&mesh->seg, target)->state) ==
                              PEER_FAILED) /* STATE in caller.c */
        return -EHOSTDOWN;
    return 0;
}

const char *coroutine_fn shard_co_holds(void)
{
    const char *why;

    return co_portable_check(&why) < 0 ? why : NULL;
}

/* A shard that is to be restarted by order gets no more visitors, or it might never be done: who
 * wants to go there waits for the replacement where it is. */
static int coroutine_fn wait_for_target(const struct mesh *mesh, uint32_t target)
{
    const struct peer_control *control = segment_control(&mesh->seg, target);

    while (!mesh->orphaned &&
           atomic_load_acquire(&control->state) == PEER_RESTARTING && /* STATE in caller.c */
           co_sleep_ns(RESTART_LOOK_NS) == 0) /* else nobody wants it to wait */
        ;
    return check_target(mesh, target);
}

static int coroutine_fn move_to(
    struct mesh **mesh, struct portable *self, uint32_t target, bool awaited)
{
    const char *why;
    int r = check_target(*mesh, target);

    if (r < 0 || target == (*mesh)->self)
        return r;
    r = co_portable_check(&why);
    if (r == 0 && !awaited)
        r = wait_for_target(*mesh, target);
    if (r < 0)
        return r;
    self->notice = take_notice((*mesh)->portables);
    if (!self->notice)
        return -ENOMEM;
    self->target = target;
    co_yield_then("move", publish_move, self);
    *mesh = self->mesh;
    return self->status;
}

int coroutine_fn shard_co_move(struct mesh **mesh, uint32_t target)
{
    return move_to(mesh, self_in(__func__), target, false);
}

int coroutine_fn portable_move(struct mesh **mesh, uint32_t target, unsigned flags)
{
    struct portable *self = self_in(__func__);
    int r;

    self->unseen = flags & PORTABLE_AT_END;
    r = move_to(mesh, self, target, flags & PORTABLE_AWAITED);
    self->unseen = false;
    return r;
}

static bool change_mark(const void **marks, const void *from, const void *to)
{
    for (uint32_t i = 0; i < PORTABLE_MARKS; i++)
        if (marks[i] == from) {
            marks[i] = to;
            return true;
        }
    return false;
}

int coroutine_fn shard_co_mark(const void *word)
{
    return change_mark(self_in(__func__)->harmless, NULL, word) ? 0 : -ENOSPC;
}

void coroutine_fn shard_co_unmark(const void *word)
{
    change_mark(self_in(__func__)->harmless, word, NULL);
}

int coroutine_fn shard_co_wait(struct mesh **mesh, const char *why)
{
    struct portable *self = self_in(__func__);
    const char *holds;
    int r = co_portable_check(&holds);

    if (r < 0)
        return r;
    self->status = 0;
    atomic_store_relaxed(&segment_arena(&(*mesh)->seg, arena_slot_of(self->co))->wait_site,
        (uint64_t)(uintptr_t)why);
    co_yield_then(why, publish_wait, self);
    *mesh = self->mesh;
    return self->status;
}

/* ---- spreading ---- */

static void publish_turn(Coroutine *co, void *opaque)
{
    const struct portable *p = opaque;

    aio_co_schedule(p->mesh->ctx, co);
}

void coroutine_fn portable_take_turn(struct mesh *mesh)
{
    mesh->portables->n_ready++;
    co_yield_then("its turn", publish_turn, self_in(__func__));
    mesh->portables->n_ready--;
}

/* A hint: it may wake the moment after. */
static bool sleeps(const struct mesh *mesh, uint32_t shard)
{
    return shard != mesh->self && check_target(mesh, shard) == 0 &&
           atomic_load_relaxed(&segment_bell(&mesh->seg, shard)->words.notify_me) != 0; /* IDLE */
}

static uint32_t find_sleeper(const struct mesh *mesh)
{
    uint32_t n = mesh->seg.geometry.n_shards;

    for (uint32_t i = 1; i < n; i++)
        if (sleeps(mesh, (mesh->self + i) % n))
            return (mesh->self + i) % n;
    return mesh->self;
}

uint32_t portable_choose_shard(struct mesh *mesh)
{
    struct portable_end *end = mesh->portables;
    struct portable *self = self_in(__func__);
    int64_t now_ns;

    if (mesh->stays || end->n_ready == 0)
        return mesh->self;
    now_ns = aio_clock_ns();
    if (!sleeps(mesh, end->asleep)) {
        end->asleep = find_sleeper(mesh);
        end->asleep_ns = now_ns;
    }
    if (end->asleep == mesh->self || now_ns - end->asleep_ns < IDLE_NS ||
        (self->rebalanced_ns && now_ns - self->rebalanced_ns < STAY_NS))
        return mesh->self;
    end->asleep_ns = now_ns;
    self->rebalanced_ns = now_ns;
    return end->asleep;
}

int coroutine_fn shard_co_yield(struct mesh **mesh)
{
    portable_take_turn(*mesh);
    return shard_co_move(mesh, portable_choose_shard(*mesh));
}

/* ---- waking ---- */

static int wake(struct mesh *mesh, arena_co co, uint32_t target)
{
    struct notice *notice = take_notice(mesh->portables);
    enum arena_woken woken;
    uint32_t owner;

    if (!notice)
        return -ENOMEM;
    woken = arena_wake(&mesh->seg, co, mesh->self, target, &owner);
    if (woken == ARENA_IS_DUE && owner != mesh->self) {
        tell(mesh, notice, co, owner, BUILTIN_WAKE);
        return 0;
    }
    give_notice(mesh->portables, notice);
    if (woken == ARENA_IS_DUE)
        enter_if_ours(mesh, co);
    return woken == ARENA_GONE ? -ESRCH : 0;
}

int shard_co_wake(struct mesh *mesh, arena_co co)
{
    return wake(mesh, co, ARENA_WHERE_IT_IS);
}

int shard_co_schedule(struct mesh *mesh, arena_co co, uint32_t target)
{
    int r = check_target(mesh, target);

    return r < 0 ? r : wake(mesh, co, target);
}

/* ---- deaths ---- */

void portable_judge(struct mesh *mesh, uint32_t peer, bool failed)
{
    for (uint32_t slot = 0; slot < mesh->seg.geometry.n_portable; slot++) {
        struct arena_word w = arena_read(&mesh->seg, slot);
        arena_co co = arena_co_at(&mesh->seg, slot);

        if (w.state != ARENA_QUEUED || !mesh->portables)
            continue;
        if (w.owner == mesh->self)
            enter_if_ours(mesh, co);
        else if (failed && w.owner == peer && w.by == mesh->self &&
                 arena_bounce(&mesh->seg, co, mesh->self, peer))
            go_on(mesh, co, -EHOSTDOWN);
    }
}
