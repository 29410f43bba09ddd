/* SPDX-License-Identifier: MIT */
/* greeter - the smallest service: one method, one setting */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sherd/service.h>

static const struct service_setting settings[] = {{"name", SERVICE_TEXT, "whom it greets"}};

static int start(struct service_home *home, const void *config, void **ret_state)
{
    const union service_value *set = config;
    return asprintf((char **)ret_state, "Hello %s, this is shard %u\n",
               set[0].text ? set[0].text : "World", (unsigned)service_home_shard(home)) < 0
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
    .settings = settings, .n_settings = 1, .start = start, .stop = free};
