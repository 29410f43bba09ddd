/* SPDX-License-Identifier: MIT */
/*
 * A shard: services are started in its loop before it looks into its rings for the first time, and
 * stopped after its last turn.
 */
#include <stdlib.h>
#include <string.h>

#include "shard/member.h"

static int start_services(const struct child_env *env, void **states)
{
    char *error = NULL;
    int r = registry_start(env->registry, env->peer, states, &error);

    if (r < 0)
        log_line(env->log, LOG_LEVEL_ERROR, "%s", error ? error : strerror(-r));
    free(error);
    return r;
}

int shard_main(const struct child_env *env)
{
    void **states = calloc(registry_n_services(env->registry) + 1, sizeof(*states));
    struct member *member = NULL;
    int status = 1;

    if (!states) {
        log_line(env->log, LOG_LEVEL_ERROR, "can't begin: no memory");
        return status;
    }
    if (member_new(env, states, &member) == 0 && start_services(env, states) == 0) {
        member_ready(member);
        status = member_run(member);
        /* What was under way when it had to leave still uses its service; it ends with the
         * process. */
        if (mesh_is_idle(member_mesh(member)))
            registry_stop(env->registry, states);
    }
    member_free(member);
    free(states);
    return status;
}
