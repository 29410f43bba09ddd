/* SPDX-License-Identifier: MIT */
/*
 * A row is the gateway's: nobody else writes to it. Its word is stored last when a client begins,
 * and first when it ends; whoever reads a row looks at the word before and after. What a shard has
 * of a client it says in its own lane of that number.
 *
 * Orderings    first               then                 ordered by                if broken
 *   ROW    the row's fields    its word             store release, load       a shard or a tool takes
 *                                                   acquire of readers        another client's figures
 *   LET_GO a shard's unmap     its lane's state     the shard's release,      a number, and memory, is
 *                              or generation        acquire here              given out a second time
 *                                                                             while it is in use
 *   FAILED: see shard/death.c
 */
#include "ipc/gateway/clients.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/atomic.h"
#include "shard/bits.h"

/* What lies in the data area together fits it; inline arguments and answers come on top. */
#define SLACK_BYTES (64u * 1024)

static uint32_t n_rows(const struct clients *clients)
{
    return clients->segment->geometry.n_clients;
}

static void set_state(const struct clients *clients, uint32_t client, enum client_state state)
{
    struct client_row *row = segment_client(clients->segment, client);
    uint64_t word = client_word(client_generation(row->word), state);

    atomic_store_release(&row->word, word); /* ROW */
}

/* ---- shares ---- */

static struct client_share *share_of(struct clients *clients, uid_t uid)
{
    for (uint32_t i = 0; i < clients->n_shares; i++)
        if (clients->shares[i].uid == uid)
            return &clients->shares[i];
    return NULL;
}

/* NULL: no memory. */
static struct client_share *make_share(struct clients *clients, uid_t uid)
{
    struct client_share *share = share_of(clients, uid);

    if (share)
        return share;
    if (clients->n_shares == clients->max_shares) {
        uint32_t n = clients->max_shares ? clients->max_shares * 2 : 8;
        struct client_share *grown = reallocarray(clients->shares, n, sizeof(*grown));
        if (!grown)
            return NULL;
        clients->shares = grown;
        clients->max_shares = n;
    }
    share = &clients->shares[clients->n_shares++];
    *share = (struct client_share){.uid = uid};
    return share;
}

static void count_in(struct clients *clients, struct client_share *share, uint64_t bytes)
{
    share->n++;
    share->bytes += bytes;
    clients->bytes += bytes;
}

static void count_out(struct clients *clients, uid_t uid, uint64_t bytes)
{
    struct client_share *share = share_of(clients, uid);

    clients->bytes -= bytes;
    share->n--;
    share->bytes -= bytes;
    if (share->n == 0)
        *share = clients->shares[--clients->n_shares];
}

/* Whether others would be left without. */
static bool is_too_much(
    const struct clients *clients, const struct client_share *share, uint64_t bytes)
{
    if (share->uid == 0 || share->uid == clients->owner)
        return false;
    return share->n >= n_rows(clients) / CLIENTS_USER_SHARE ||
           share->bytes + bytes > clients->max_bytes / CLIENTS_USER_SHARE;
}

/* ---- life ---- */

static int take_over(struct clients *clients)
{
    for (uint32_t client = 0; client < n_rows(clients); client++) {
        const struct client_row *row = segment_client(clients->segment, client);
        enum client_state state = client_state(row->word);
        if (state == CLIENT_FREE)
            continue;
        struct client_share *share = make_share(clients, row->uid);
        if (!share)
            return -ENOMEM;
        count_in(clients, share, row->total_bytes);
        if (state == CLIENT_ENDING)
            clients->ending[clients->n_ending++] = client;
    }
    return 0;
}

int clients_init(
    struct clients *clients, const struct segment *segment, uint64_t max_bytes, uid_t owner)
{
    int r;

    *clients = (struct clients){.segment = segment, .max_bytes = max_bytes, .owner = owner};
    clients->ending = calloc(n_rows(clients) + 1, sizeof(*clients->ending));
    clients->held = calloc(n_rows(clients) + 1, sizeof(*clients->held));
    r = clients->ending && clients->held ? take_over(clients) : -ENOMEM;
    if (r < 0)
        clients_deinit(clients);
    return r;
}

void clients_deinit(struct clients *clients)
{
    free(clients->ending);
    free(clients->held);
    free(clients->shares);
    *clients = (struct clients){0};
}

/* CLIENTS_NONE: there is none. */
static uint32_t find_free(struct clients *clients)
{
    for (uint32_t i = 0; i < n_rows(clients); i++) {
        uint32_t client = (clients->next + i) % n_rows(clients);
        if (client_state(clients_word(clients, client)) == CLIENT_FREE)
            return client;
    }
    return CLIENTS_NONE;
}

/* For logs and terminals. */
static void copy_name(char *to, const char *from, size_t size)
{
    size_t len = strnlen(from, size - 1);

    memset(to, 0, size);
    for (size_t i = 0; i < len; i++)
        to[i] = from[i] < ' ' || from[i] > '~' ? '?' : from[i];
}

/* One client has at most half of a shard's ledger, whatever its ring would take. */
static uint32_t most_in_flight(const struct clients *clients, uint32_t n_entries)
{
    uint32_t half = clients->segment->geometry.n_ledger / 2;

    return n_entries < half ? n_entries : half;
}

/* The word itself stands as it is until they do: others look at it meanwhile. */
static void fill_in(struct clients *clients, struct client_row *row, const struct client_wish *wish,
    uint64_t total_bytes, int64_t now_ns)
{
    uint64_t word = row->word;
    struct client_row filled = {.uid = wish->uid,
        .pid = wish->pid,
        .n_entries = wish->n_entries,
        .max_in_flight = most_in_flight(clients, wish->n_entries),
        .data_bytes = wish->data_bytes,
        .total_bytes = total_bytes,
        .max_bytes = wish->data_bytes + SLACK_BYTES,
        .max_rate = wish->max_rate,
        .attached_ns = (uint64_t)now_ns,
        .serial = wish->serial};
    const size_t from = sizeof(row->word);

    _Static_assert(offsetof(struct client_row, word) == 0, "the fields follow the word");
    copy_name(filled.name, wish->name, sizeof(filled.name));
    memcpy((uint8_t *)row + from, (const uint8_t *)&filled + from, sizeof(filled) - from);
    atomic_store_release(
        &row->word, client_word(client_generation(word) + 1, CLIENT_ATTACHING)); /* ROW */
}

int clients_take(
    struct clients *clients, const struct client_wish *wish, int64_t now_ns, uint32_t *ret_client)
{
    uint32_t n_shards = clients->segment->geometry.n_shards, client = find_free(clients);
    uint64_t bytes = plane_layout(n_shards, wish->n_entries, wish->data_bytes).total_bytes;
    struct client_share *share;

    if (client == CLIENTS_NONE)
        return -EMFILE;
    if (bytes > clients->max_bytes - clients->bytes)
        return -ENOMEM;
    share = make_share(clients, wish->uid);
    if (!share)
        return -ENOMEM;
    if (is_too_much(clients, share, bytes)) {
        if (share->n == 0)
            clients->n_shares--; /* made above, the last */
        return -EDQUOT;
    }
    count_in(clients, share, bytes);
    clients->next = client + 1;
    fill_in(clients, segment_client(clients->segment, client), wish, bytes, now_ns);
    *ret_client = client;
    return 0;
}

void clients_attached(struct clients *clients, uint32_t client)
{
    set_state(clients, client, CLIENT_ATTACHED);
}

void clients_opened(struct clients *clients, uint32_t client, uint32_t shard)
{
    struct client_row *row = segment_client(clients->segment, client);
    uint64_t *bits = &row->opened[shard / 64];

    atomic_store_release(bits, *bits | bits_mask(shard)); /* ROW */
    atomic_store_relaxed(&row->opens, row->opens + 1);
}

void clients_answered(struct clients *clients, uint32_t client, uint64_t serial)
{
    atomic_store_relaxed(&segment_client(clients->segment, client)->serial, serial);
}

void clients_end(struct clients *clients, uint32_t client, enum cut_reason reason, uint32_t by)
{
    struct client_row *row = segment_client(clients->segment, client);

    atomic_store_relaxed(&row->reason, (uint32_t)reason);
    atomic_store_relaxed(&row->cut_by, by);
    set_state(clients, client, CLIENT_ENDING);
    clients->ending[clients->n_ending++] = client;
    clients->n_over++;
}

/* ---- the end ---- */

/* A shard that is given up has no process, and so nothing mapped. */
static bool has_let_go(
    const struct segment *seg, uint32_t shard, uint32_t client, uint64_t generation)
{
    const struct client_lane *lane = segment_client_lane(seg, shard, client);
    const struct peer_control *control = segment_control(seg, shard);
    uint64_t has = atomic_load_acquire(&lane->generation); /* LET_GO */

    return has > generation ||
           (has == generation &&
               atomic_load_acquire(&lane->state) == CLIENT_LANE_NONE) || /* LET_GO */
           atomic_load_acquire(&control->state) == PEER_FAILED;          /* FAILED */
}

static bool is_over(const struct clients *clients, uint32_t client)
{
    const struct segment *seg = clients->segment;
    const struct client_row *row = segment_client(seg, client);
    uint64_t generation = client_generation(row->word);

    for (uint32_t shard = 0; shard < seg->geometry.n_shards; shard++)
        if (bits_has(row->opened, shard) && !has_let_go(seg, shard, client, generation))
            return false;
    return true;
}

uint32_t clients_reap(struct clients *clients, clients_freed_fn *freed, void *opaque)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < clients->n_ending; i++) {
        uint32_t client = clients->ending[i];
        const struct client_row *row = segment_client(clients->segment, client);
        if (clients->held[client] || !is_over(clients, client)) {
            clients->ending[n++] = client;
            continue;
        }
        count_out(clients, row->uid, row->total_bytes);
        set_state(clients, client, CLIENT_FREE);
        if (freed)
            freed(client, opaque);
    }
    clients->n_ending = n;
    return n;
}
