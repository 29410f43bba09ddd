/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/core.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ipc/gateway/reply.h"
#include "proto/message_text.h"
#include "proto/sherd.pb-c.h"

/*
 * What is told is read from the segment, where each process writes what it is. Words of others are
 * read by themselves and may be of different moments; texts of others are cut and cleaned.
 */

struct process_text {
    char engine[sizeof(((struct part_head *)0)->engine) + 1];
    char flags[sizeof(((struct part_head *)0)->engine_flags) + 1];
};

static void copy_text(char *to, const char *from, size_t bytes)
{
    memcpy(to, from, bytes);
    to[bytes] = '\0';
    /* Bytes of another process in a `string`, which is UTF-8. */
    for (char *c = to; *c; c++)
        if (*c < ' ' || *c > '~')
            *c = '?';
}

static void describe_peer(const struct segment *segment, uint32_t peer, struct process_text *text,
    Sherd__Wire__Process *process)
{
    const struct peer_control *control = segment_control(segment, peer);
    const struct part_head *head = segment_part(segment, peer);
    int32_t core = atomic_load_relaxed(&control->core);

    sherd__wire__process__init(process);
    process->role = peer == segment_gateway(segment) ? (char *)"gateway" : (char *)"shard";
    if (peer != segment_gateway(segment)) {
        process->number_case = SHERD__WIRE__PROCESS__NUMBER_SHARD;
        process->shard = peer;
    }
    process->pid = atomic_load_relaxed(&control->pid);
    process->state = (char *)peer_state_text(atomic_load_relaxed(&control->state));
    process->incarnation = atomic_load_relaxed(&control->incarnation);
    if (core >= 0) {
        process->placement_case = SHERD__WIRE__PROCESS__PLACEMENT_CORE;
        process->core = (uint32_t)core;
    }
    process->deaths = atomic_load_relaxed(&control->deaths);
    copy_text(text->engine, head->engine, sizeof(head->engine));
    copy_text(text->flags, head->engine_flags, sizeof(head->engine_flags));
    process->engine = text->engine;
    process->engine_flags = text->flags;
}

static void describe_supervisor(const struct segment *segment, Sherd__Wire__Process *process)
{
    const struct supervisor_head *head = segment_supervisor(segment);

    sherd__wire__process__init(process);
    process->role = (char *)"supervisor";
    process->pid = atomic_load_relaxed(&head->pid);
    process->state = (char *)peer_state_text(atomic_load_relaxed(&head->state));
    process->incarnation = 1;
}

static void fill_status(struct gateway *gateway, Sherd__Wire__StatusReply *body)
{
    const struct segment *segment = gateway->env->segment;
    const struct part_head *head = segment_part(segment, gateway->env->peer);

    body->instance = (char *)gateway->env->instance;
    body->server = (char *)SHERD_VERSION;
    body->uptime_ns = (uint64_t)aio_clock_ns() - segment_supervisor(segment)->started_ns;
    body->shards = segment->geometry.n_shards;
    body->sessions = head->sessions;
    body->requests_in_flight = head->requests_in_flight;
    body->requests_accepted = head->requests_accepted;
    body->requests_ended = head->requests_ended;
    body->drain = watches_is_drained(segment)    ? SHERD__WIRE__DRAIN_STATE__DRAINED
                  : watches_is_draining(segment) ? SHERD__WIRE__DRAIN_STATE__DRAINING
                                                 : SHERD__WIRE__DRAIN_STATE__NOT_DRAINED;
    body->change = watches_change(segment);
}

void describe_status(struct gateway *gateway, struct exchange *exchange)
{
    const struct segment *segment = gateway->env->segment;
    struct arena *arena = &gateway->arena;
    uint32_t n = segment->n_peers + 1;
    Sherd__Wire__Process *processes = arena_alloc(arena, n * sizeof(*processes));
    Sherd__Wire__Process **pointers = arena_alloc(arena, n * sizeof(*pointers));
    struct process_text *texts = arena_alloc(arena, n * sizeof(*texts));

    if (!processes || !pointers || !texts) {
        reply_error(exchange, -ENOMEM, "no memory for the status");
        return;
    }
    describe_supervisor(segment, &processes[0]);
    for (uint32_t peer = 0; peer < segment->n_peers; peer++)
        describe_peer(segment, peer, &texts[peer], &processes[peer + 1]);
    for (uint32_t i = 0; i < n; i++)
        pointers[i] = &processes[i];
    Sherd__Wire__StatusReply body = SHERD__WIRE__STATUS_REPLY__INIT;
    fill_status(gateway, &body);
    body.n_processes = n;
    body.processes = pointers;
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;
    reply.body_case = SHERD__WIRE__REPLY__BODY_STATUS;
    reply.status = &body;
    reply_send(exchange, &reply);
}

/* NULL where there is no memory. */
static char *full_name(struct arena *arena, const char *service, const char *method)
{
    size_t bytes = strlen(service) + 1 + strlen(method) + 1;
    char *name = arena_alloc(arena, bytes);

    if (name)
        snprintf(name, bytes, "%s.%s", service, method);
    return name;
}

/* What kind of message it is; "" for bytes. NULL where there is no memory. */
static char *describe_message(struct arena *arena, const ProtobufCMessageDescriptor *message)
{
    char *text = message ? message_text(message) : NULL, *kept;

    if (!text)
        return message ? NULL : (char *)"";
    kept = arena_alloc(arena, strlen(text) + 1);
    if (kept)
        strcpy(kept, text);
    free(text);
    return kept;
}

static Sherd__Wire__Method *describe_method(
    struct gateway *gateway, uint32_t number, const struct service_method *method, uint32_t service)
{
    const char *service_name = registry_service(gateway->env->registry, service)->name;
    Sherd__Wire__Method *described = arena_alloc(&gateway->arena, sizeof(*described));
    char *name = full_name(&gateway->arena, service_name, method->name);
    char *args = describe_message(&gateway->arena, method->args);
    char *answer = describe_message(&gateway->arena, method->reply);

    if (!described || !name || !args || !answer)
        return NULL;
    sherd__wire__method__init(described);
    described->name = name;
    described->help = (char *)(method->help ? method->help : "");
    described->idempotent = (method->flags & SERVICE_IDEMPOTENT) != 0;
    described->test = (method->flags & SERVICE_TEST) != 0;
    described->args = args;
    described->reply = answer;
    described->number = number;
    described->portable = (method->flags & SERVICE_PORTABLE) != 0;
    described->read_only = (method->flags & SERVICE_READ_ONLY) == SERVICE_READ_ONLY;
    described->in_place = (method->flags & SERVICE_IN_PLACE) != 0;
    return described;
}

void describe_methods(struct gateway *gateway, struct exchange *exchange)
{
    const struct registry *registry = gateway->env->registry;
    uint32_t n = registry_n_methods(registry);
    Sherd__Wire__MethodsReply body = SHERD__WIRE__METHODS_REPLY__INIT;

    body.methods = arena_alloc(&gateway->arena, (n + 1) * sizeof(*body.methods));
    for (uint32_t i = 0; body.methods && i < n; i++) {
        uint32_t service;
        const struct service_method *method = registry_method(registry, i, &service);
        Sherd__Wire__Method *described =
            method ? describe_method(gateway, i, method, service) : NULL;
        if (described)
            body.methods[body.n_methods++] = described;
    }
    if (!body.methods) {
        reply_error(exchange, -ENOMEM, "no memory for the list of methods");
        return;
    }
    Sherd__Wire__Reply reply = SHERD__WIRE__REPLY__INIT;
    reply.body_case = SHERD__WIRE__REPLY__BODY_METHODS;
    reply.methods = &body;
    reply_send(exchange, &reply);
}
