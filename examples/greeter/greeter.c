/* SPDX-License-Identifier: MIT */
/* greeter - the smallest service: one method, one setting */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sherd/service.h>

static int configure(void **config, const char *key, const char *value, char **ret_error)
{
    char *name = strcmp(key, "name") == 0 ? strdup(value) : NULL;
    if (!name) {
        *ret_error = strdup("the only setting is name");
        return -EINVAL;
    }
    free(*config);
    *config = name;
    return 0;
}

static int start(struct service_home *home, const void *config, void **ret_state)
{
    return asprintf((char **)ret_state, "Hello %s, this is shard %u\n",
               config ? (const char *)config : "World", (unsigned)service_home_shard(home)) < 0
               ? -ENOMEM
               : 0;
}

static int coroutine_fn hello(struct service_call *call)
{
    const char *greeting = service_state(call);
    return service_reply(call, greeting, strlen(greeting));
}

static const struct service_method methods[] = {{"hello", hello, SERVICE_IDEMPOTENT, "greets"}};

const struct service sherd_service = {SERVICE_ABI, "greeter", "greets", methods, 1,
    .configure = configure, .discard = free, .start = start, .stop = free};
