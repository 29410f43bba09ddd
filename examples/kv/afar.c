/* SPDX-License-Identifier: MIT */
/*
 * Of a batch of commands, what is other shards' goes to each in one call, all of them at a time;
 * the answers wait there until it is their turn. A shard that could not answer all of its part in
 * one message is asked again, command by command.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

/* Its part of this batch; NULL: it has none. */
static struct part *find_part(struct session *s, uint32_t shard, struct service_part **ret_call)
{
    for (uint32_t i = 0; i < s->n_parts; i++)
        if (s->calls[i].shard == shard) {
            *ret_call = &s->calls[i];
            return &s->parts[i];
        }
    return NULL;
}

static struct part *new_part(struct session *s, uint32_t shard)
{
    struct part *part = &s->parts[s->n_parts];
    part->taken = 0;
    part->once = false;
    part->text.len = 0;
    s->calls[s->n_parts++] = (struct service_part){.shard = shard};
    return part;
}

static void forget_parts(struct session *s)
{
    for (uint32_t i = 0; i < s->n_parts; i++)
        free(s->calls[i].data);
    s->n_parts = 0;
}

bool coroutine_fn ask_others(struct session *s)
{
    uint32_t self = service_shard(s->call);
    struct service_part *call;
    bool once = false;
    forget_parts(s);
    for (uint32_t i = 0; i < s->n_steps; i++) {
        const struct step *step = &s->steps[i];
        if (step->shard == self)
            continue;
        struct part *part = find_part(s, step->shard, &call);
        part = part ? part : new_part(s, step->shard);
        once |= step->command->once;
        service_count(s->kv->home, KV_REMOTE, 1);
        if (!resp_raw(&part->text, s->in + step->at, step->bytes))
            return false;
    }
    for (uint32_t i = 0; i < s->n_parts; i++) {
        s->calls[i].args = s->parts[i].text.data;
        s->calls[i].args_len = s->parts[i].text.len;
    }
    if (s->n_parts)
        service_gather(s->call, once ? "kv.once" : "kv.run", s->calls, s->n_parts, 0);
    return true;
}

static bool put_failure(struct session *s, uint32_t shard, int status)
{
    char text[96];
    snprintf(text, sizeof text, "-ERR shard %u: %s\r\n", shard,
        status == -EOWNERDEAD ? "it died meanwhile; whether this was done is in doubt"
                              : strerrordesc_np(-status));
    return resp_text(&s->out, text);
}

/* The next of the answers that lie at *taken; 0: there are no more; -1: no memory. */
static int put_next(struct session *s, const char *data, size_t len, size_t *taken)
{
    uint32_t bytes;
    if (len - *taken < sizeof bytes)
        return 0;
    memcpy(&bytes, data + *taken, sizeof bytes);
    *taken += sizeof bytes + bytes;
    return resp_raw(&s->out, data + *taken - bytes, bytes) ? 1 : -1;
}

bool coroutine_fn ask_alone(
    struct session *s, uint32_t shard, bool once, const char *text, size_t text_len)
{
    void *data;
    size_t len, taken = 0;
    int r = service_call_shard(
        s->call, shard, once ? "kv.once" : "kv.run", text, text_len, &data, &len);
    bool ok = r < 0 ? put_failure(s, shard, r) : put_next(s, data, len, &taken) > 0;
    free(data);
    return ok;
}

bool coroutine_fn answer_from_afar(struct session *s, const struct step *step)
{
    struct service_part *call;
    struct part *part = find_part(s, step->shard, &call);
    if (part && call->status < 0)
        return put_failure(s, step->shard, call->status);
    int r = part ? put_next(s, call->data, call->len, &part->taken) : 0;
    return r ? r > 0
             : ask_alone(s, step->shard, step->command->once, s->in + step->at, step->bytes);
}

void afar_deinit(struct session *s)
{
    forget_parts(s);
    for (uint32_t i = 0; i < PARTS_MAX; i++)
        resp_out_deinit(&s->parts[i].text);
}
