/* SPDX-License-Identifier: MIT */
/*
 * A shard: it gives up the rights that none of its services needs. Those are started in its loop
 * before it looks into its rings for the first time, their listeners opened once it is up, and all
 * of it ended after its last turn.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/atomic.h"
#include "shard/connection.h"
#include "shard/member.h"
#include "shard/service_home.h"

#define SEE_OUT_NS INT64_C(500000000)

struct shard {
    const struct child_env *env;
    struct member *member;
    void **states;              /* by service */
    struct service_home *homes; /* likewise */
    struct doors *doors;        /* NULL: not open yet */
    void *extra;                /* NULL: the program adds nothing */
};

/* While it is one thread, and before the first byte of anybody else's is read. */
static int give_up_rights(const struct child_env *env)
{
    struct sandbox_paths paths = {0};
    char *error = NULL;
    int r = sandbox_paths_add(&paths, env->runtime_dir, true); /* letters of the dead */

    if (r == 0)
        r = registry_reach(env->registry, &paths);
    if (r == 0)
        r = sandbox_enter(env->sandbox, SANDBOX_SHARD, &paths, &error);
    if (r < 0)
        log_line(env->log, LOG_LEVEL_ERROR, "can't begin: %s", error ? error : strerror(-r));
    sandbox_paths_deinit(&paths);
    free(error);
    return r;
}

static int start_services(struct shard *shard)
{
    const struct child_env *env = shard->env;
    char *error = NULL;
    int r;

    registry_make_homes(env->registry, env->segment, env->peer, env->incarnation, shard->homes);
    mesh_set_homes(member_mesh(shard->member), shard->homes);
    r = registry_start(env->registry, shard->homes, shard->states, &error);
    if (r < 0)
        log_line(env->log, LOG_LEVEL_ERROR, "%s", error ? error : strerror(-r));
    free(error);
    return r;
}

static int start_extra(struct shard *shard)
{
    const struct child_env *env = shard->env;
    int r = env->extra ? env->extra->start(env, shard->member, &shard->extra) : 0;

    if (r < 0)
        log_line(env->log, LOG_LEVEL_ERROR, "can't begin: %s", strerror(-r));
    return r;
}

static int begin(struct shard *shard)
{
    const struct child_env *env = shard->env;
    int r = give_up_rights(env);

    if (r == 0)
        r = member_new(env, shard->states, &shard->member);
    if (r == 0)
        r = start_services(shard);
    if (r == 0)
        r = start_extra(shard);
    return r == 0 ? sandbox_close_rings(env->sandbox) : r;
}

/* ---- taking nothing new, and back ---- */

static bool is_to_return(const struct shard *shard)
{
    const struct peer_control *control = segment_control(shard->env->segment, shard->env->peer);

    return atomic_load_acquire(&control->order) == ORDER_RETURN; /* ORDER in member.c */
}

static void drain(void *opaque)
{
    struct shard *shard = opaque;

    if (shard->doors)
        doors_close(shard->doors);
    if (shard->extra)
        shard->env->extra->drain(shard->extra, is_to_return(shard));
    registry_drain(shard->env->registry, shard->states);
}

static void resume(void *opaque)
{
    struct shard *shard = opaque;

    registry_resume(shard->env->registry, shard->states);
    if (shard->extra)
        shard->env->extra->resume(shard->extra);
    if (shard->doors)
        doors_reopen(shard->doors);
}

/* ---- life ---- */

/* Accepts connections once calls may come. A shard that was told to drain before has not opened. */
static void open_doors(struct shard *shard)
{
    const struct child_env *env = shard->env;
    int r = doors_open(member_mesh(shard->member), env->registry, shard->homes, &shard->doors);

    if (r < 0)
        log_line(env->log, LOG_LEVEL_ERROR,
            "can't accept connections: %s; those who come wait in vain", strerror(-r));
    member_set_hooks(
        shard->member, &(struct member_hooks){.drain = drain, .resume = resume, .opaque = shard});
}

static void on_limit(void *opaque)
{
    *(bool *)opaque = true;
}

/* Connections that were told to end take a turn or two for it. */
static void see_out(struct shard *shard)
{
    AioContext *ctx = member_context(shard->member);
    bool is_over = false;
    AioTimer limit;

    doors_close(shard->doors);
    aio_timer_init(ctx, &limit, on_limit, &is_over);
    timer_mod_ns(&limit, aio_clock_ns() + SEE_OUT_NS);
    while (!doors_are_left(shard->doors) && !is_over)
        aio_poll(ctx, true);
    timer_del(&limit);
}

/* What was under way when it had to leave still uses its service; it ends with the process. */
static void stop_services(struct shard *shard)
{
    if (shard->doors)
        see_out(shard);
    if (shard->extra)
        shard->env->extra->leave(shard->extra);
    if (!mesh_is_idle(member_mesh(shard->member)))
        return;
    if (shard->extra)
        shard->env->extra->stop(shard->extra);
    if (shard->doors && !doors_are_left(shard->doors))
        return;
    doors_free(shard->doors);
    registry_stop(shard->env->registry, shard->states);
}

int shard_main(const struct child_env *env)
{
    uint32_t n = registry_n_services(env->registry);
    struct shard shard = {.env = env,
        .states = calloc(n + 1, sizeof(*shard.states)),
        .homes = calloc(n + 1, sizeof(*shard.homes))};
    int status = 1;

    if (!shard.states || !shard.homes) {
        log_line(env->log, LOG_LEVEL_ERROR, "can't begin: no memory");
    } else if (begin(&shard) == 0) {
        member_ready(shard.member);
        open_doors(&shard);
        status = member_run(shard.member);
        stop_services(&shard);
    }
    member_free(shard.member);
    free(shard.homes);
    free(shard.states);
    return status;
}
