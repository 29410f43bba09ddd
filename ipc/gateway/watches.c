/* SPDX-License-Identifier: MIT */
/*
 * Words of other processes are read by themselves, and may be of different moments: then the next
 * look finds another number, and the client hears once more.
 */
#include "ipc/gateway/watches.h"

#include <stdlib.h>

#include "ipc/gateway/reply.h"
#include "proto/protocol.h"
#include "runtime/atomic.h"

#define LOOK_NS   (INT64_C(100) * 1000000)
#define FNV_BASIS UINT64_C(0xcbf29ce484222325)
#define FNV_PRIME UINT64_C(0x100000001b3)
#define MS_NS     INT64_C(1000000)

struct watch {
    struct watch *next;
    struct exchange *exchange;
    uint64_t seen;
    int64_t until_ns;
};

static void on_timer(void *opaque);

/* ---- how it is ---- */

bool watches_is_draining(const struct segment *segment)
{
    return atomic_load_relaxed(&segment_supervisor(segment)->state) == PEER_DRAINING;
}

bool watches_is_drained(const struct segment *segment)
{
    bool drained = watches_is_draining(segment);

    for (uint32_t peer = 0; drained && peer < segment->n_peers; peer++)
        drained = atomic_load_relaxed(&segment_part(segment, peer)->drained) == 1;
    return drained;
}

static uint64_t mix(uint64_t sum, uint64_t value)
{
    for (int i = 0; i < 8; i++, value >>= 8)
        sum = (sum ^ (value & 0xff)) * FNV_PRIME;
    return sum;
}

uint64_t watches_change(const struct segment *segment)
{
    uint64_t sum = mix(FNV_BASIS, atomic_load_relaxed(&segment_supervisor(segment)->state));

    sum = mix(sum, watches_is_drained(segment));
    for (uint32_t peer = 0; peer < segment->n_peers; peer++) {
        const struct peer_control *control = segment_control(segment, peer);
        sum = mix(sum, atomic_load_relaxed(&control->state));
        sum = mix(sum, atomic_load_relaxed(&control->incarnation));
    }
    return sum ? sum : 1;
}

/* ---- who waits ---- */

void watches_init(struct watches *watches, const struct watches_config *config)
{
    *watches = (struct watches){.config = *config};
    aio_timer_init(config->ctx, &watches->timer, on_timer, watches);
}

/* Takes it off the list; *link is the next one then. */
static struct exchange *take(struct watch **link)
{
    struct watch *watch = *link;
    struct exchange *exchange = watch->exchange;

    *link = watch->next;
    free(watch);
    return exchange;
}

void watches_deinit(struct watches *watches)
{
    while (watches->first)
        exchange_drop(take(&watches->first));
    timer_del(&watches->timer);
}

static struct exchange *take_of(struct watches *watches, const struct connection *connection)
{
    struct watch **link = &watches->first;

    while (*link && (*link)->exchange->connection != connection)
        link = &(*link)->next;
    return *link ? take(link) : NULL;
}

void watches_forget(struct watches *watches, const struct connection *connection)
{
    struct exchange *exchange = take_of(watches, connection);

    if (exchange)
        exchange_drop(exchange);
}

static void on_timer(void *opaque)
{
    struct watches *watches = opaque;
    uint64_t change = watches_change(watches->config.segment);
    int64_t now_ns = aio_clock_ns();
    struct watch **link = &watches->first;

    while (*link)
        if ((*link)->seen != change || (*link)->until_ns <= now_ns)
            watches->config.tell(take(link), watches->config.opaque);
        else
            link = &(*link)->next;
    if (watches->first)
        timer_mod_ns(&watches->timer, now_ns + LOOK_NS);
}

void watches_add(
    struct watches *watches, struct exchange *exchange, uint64_t seen, uint32_t wait_ms)
{
    struct exchange *earlier = take_of(watches, exchange->connection);
    struct watch *watch = NULL;
    int64_t now_ns = aio_clock_ns();

    if (earlier)
        watches->config.tell(earlier, watches->config.opaque);
    if (wait_ms > 0 && seen == watches_change(watches->config.segment))
        watch = malloc(sizeof(*watch));
    if (!watch) {
        watches->config.tell(exchange, watches->config.opaque);
        return;
    }
    if (wait_ms > PROTOCOL_WAIT_MS_MAX)
        wait_ms = PROTOCOL_WAIT_MS_MAX;
    *watch = (struct watch){watches->first, exchange, seen, now_ns + wait_ms * MS_NS};
    watches->first = watch;
    timer_mod_anticipate_ns(
        &watches->timer, now_ns + (wait_ms * MS_NS < LOOK_NS ? wait_ms * MS_NS : LOOK_NS));
}
