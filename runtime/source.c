/* SPDX-License-Identifier: MIT */
#include "runtime/source.h"

#include <assert.h>

#include "runtime/context.h"

void aio_add_source(AioContext *ctx, struct aio_source *source)
{
    struct aio_source **link = &ctx->sources;

    assert(ctx->sources_visited == 0);
    while (*link)
        link = &(*link)->next;
    source->next = NULL;
    *link = source;
}

void aio_remove_source(AioContext *ctx, struct aio_source *source)
{
    struct aio_source **link = &ctx->sources;

    assert(ctx->sources_visited == 0);
    while (*link != source) {
        assert(*link);
        link = &(*link)->next;
    }
    *link = source->next;
}

bool sources_pending(AioContext *ctx)
{
    bool pending = false;

    ctx->sources_visited++;
    for (struct aio_source *s = ctx->sources; s && !pending; s = s->next)
        pending = s->pending(s->opaque);
    ctx->sources_visited--;
    return pending;
}

bool sources_prepare(AioContext *ctx)
{
    bool pending = false;

    ctx->sources_visited++;
    for (struct aio_source *s = ctx->sources; s; s = s->next)
        pending |= s->prepare && s->prepare(s->opaque);
    ctx->sources_visited--;
    return pending;
}

bool sources_dispatch(AioContext *ctx)
{
    bool progress = false;

    ctx->sources_visited++;
    for (struct aio_source *s = ctx->sources; s; s = s->next)
        progress |= s->dispatch(s->opaque);
    ctx->sources_visited--;
    return progress;
}

void sources_flush(AioContext *ctx)
{
    ctx->sources_visited++;
    for (struct aio_source *s = ctx->sources; s; s = s->next)
        s->flush(s->opaque);
    ctx->sources_visited--;
}
