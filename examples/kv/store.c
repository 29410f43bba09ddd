/* SPDX-License-Identifier: MIT */
#include "store.h"

#include <errno.h>
#include <string.h>

#define ALIGN      16u /* of records; a ref counts in it, from 1 */
#define FLAG_READ  1u  /* since the tail last passed */
#define FLAG_BLANK 2u  /* to the end of the log, where a record did not fit */
#define FLAG_DEAD  4u  /* nothing points to it, for sure */

/* The region's own. head and tail only grow; their places in the log are modulo its size. */
struct store_head {
    uint64_t head, tail;
    uint64_t n_keys, live_bytes; /* of what the chains hold: change with them, under the mark */
    uint64_t n_evicted;
    uint64_t spare[3];
};

_Static_assert(sizeof(struct record) == ALIGN, "a blank one fits wherever one begins");

static uint64_t bytes_of(size_t key_len, size_t value_len)
{
    return (sizeof(struct record) + key_len + value_len + ALIGN - 1) / ALIGN * ALIGN;
}

static uint64_t record_bytes(const struct record *r)
{
    return bytes_of(r->key_len, r->value_len);
}

static struct record *record_at(const struct store *s, uint64_t position)
{
    return (struct record *)(s->log + position % s->log_bytes);
}

static struct record *record_of(const struct store *s, uint32_t ref)
{
    return (struct record *)(s->log + (uint64_t)(ref - 1) * ALIGN);
}

static uint32_t ref_of(const struct store *s, const struct record *r)
{
    return (uint32_t)((uint64_t)((const uint8_t *)r - s->log) / ALIGN) + 1;
}

/* ---- chains ---- */

static uint32_t *bucket_of(const struct store *s, uint32_t hash)
{
    return &s->buckets[hash & (s->n_buckets - 1)];
}

/* What points to the key's record; where there is none, the end of its chain. */
static uint32_t *find(const struct store *s, uint32_t hash, const void *key, size_t len)
{
    uint32_t *link = bucket_of(s, hash);
    while (*link) {
        struct record *r = record_of(s, *link);
        if (r->hash == hash && r->key_len == len && memcmp(r->bytes, key, len) == 0)
            break;
        link = &r->next;
    }
    return link;
}

/* What points to r; NULL: nothing does. */
static uint32_t *find_link(const struct store *s, const struct record *r)
{
    uint32_t *link = bucket_of(s, r->hash), ref = ref_of(s, r);
    while (*link && *link != ref)
        link = &record_of(s, *link)->next;
    return *link ? link : NULL;
}

/* The one store that makes or ends a record, with the figures of it. */
static void relink(struct store *s, uint32_t *link, uint32_t ref, int keys, int64_t bytes)
{
    service_region_begin(&s->region, 1);
    service_region_publish32(link, ref);
    s->head->n_keys += (uint64_t)keys;
    s->head->live_bytes += (uint64_t)bytes;
    service_region_end(&s->region);
}

/* ---- records that may be written over ---- */

static struct record **spare_of(struct store *s, size_t key_len, size_t value_len)
{
    return &s->spares[(key_len * 7 + value_len) % STORE_SPARES];
}

/* Nothing points to it any more. */
static void let_go(struct store *s, struct record *r)
{
    r->flags = FLAG_DEAD;
    *spare_of(s, r->key_len, r->value_len) = r;
}

/* One of just these lengths, which do not change for a moment: the tail goes by them. NULL:
 * none. */
static struct record *take_spare(struct store *s, size_t key_len, size_t value_len)
{
    struct record **spare = spare_of(s, key_len, value_len), *r = *spare;
    if (!r || r->key_len != key_len || r->value_len != value_len)
        return NULL;
    *spare = NULL;
    return r;
}

static void unlink_record(struct store *s, uint32_t *link)
{
    struct record *r = record_of(s, *link);
    relink(s, link, r->next, -1, -(int64_t)record_bytes(r));
    let_go(s, r);
}

/* ---- the log ---- */

/* Room at the head that nothing points to. One record's at least is free, and the same again where
 * the log has to be closed with a blank one. */
static struct record *append(struct store *s, uint64_t bytes)
{
    uint64_t left = s->log_bytes - s->head->head % s->log_bytes;
    if (left < bytes) {
        struct record *blank = record_at(s, s->head->head);
        *blank =
            (struct record){.value_len = (uint32_t)(left - sizeof(*blank)), .flags = FLAG_BLANK};
        service_region_publish(&s->head->head, s->head->head + left);
    }
    return record_at(s, s->head->head);
}

/* The record that append() gave is written. */
static void close_record(struct store *s, const struct record *r)
{
    service_region_publish(&s->head->head, s->head->head + record_bytes(r));
}

static void move_to_head(struct store *s, uint32_t *link, const struct record *r)
{
    struct record *to = append(s, record_bytes(r));
    memcpy(to, r, record_bytes(r));
    to->flags = 0;
    close_record(s, to);
    relink(s, link, ref_of(s, to), 0, 0);
}

static uint64_t live_limit(const struct store *s)
{
    return s->log_bytes / 4 * 3 - 2 * s->record_max;
}

/* Passes the oldest record. Returns how much of the log that is. */
static uint64_t pass_oldest(struct store *s)
{
    struct record *r = record_at(s, s->head->tail);
    uint64_t bytes = record_bytes(r);
    struct record **spare = spare_of(s, r->key_len, r->value_len);
    uint32_t *link = r->flags & (FLAG_BLANK | FLAG_DEAD) ? NULL : find_link(s, r);
    if (link && (s->head->live_bytes <= live_limit(s) || r->flags & FLAG_READ)) {
        move_to_head(s, link, r);
    } else if (link) {
        unlink_record(s, link);
        s->head->n_evicted++;
    }
    if (*spare == r)
        *spare = NULL;
    service_region_publish(&s->head->tail, s->head->tail + bytes);
    return bytes;
}

static uint64_t free_bytes(const struct store *s)
{
    return s->log_bytes - (s->head->head - s->head->tail);
}

/* Frees a little more than is about to be taken, once a quarter is left: so that nobody waits for a
 * whole round. What must be free is freed in any case. */
static void make_room(struct store *s, uint64_t bytes)
{
    uint64_t passed = 0;
    while (s->head->tail < s->head->head && free_bytes(s) < s->log_bytes / 4 && passed < 8 * bytes)
        passed += pass_oldest(s);
    while (free_bytes(s) < 4 * s->record_max)
        pass_oldest(s);
}

/* ---- what it is for ---- */

void store_prefetch_chain(const struct store *s, uint64_t hash)
{
    __builtin_prefetch(bucket_of(s, (uint32_t)(hash >> 32)));
}

void store_prefetch_record(const struct store *s, uint64_t hash)
{
    uint32_t ref = *bucket_of(s, (uint32_t)(hash >> 32));
    if (ref)
        __builtin_prefetch(record_of(s, ref));
}

const struct record *store_get(struct store *s, uint64_t hash, const void *key, size_t len)
{
    uint32_t ref = *find(s, (uint32_t)(hash >> 32), key, len);
    struct record *r = ref ? record_of(s, ref) : NULL;
    if (r && !(r->flags & FLAG_READ))
        r->flags |= FLAG_READ;
    return r;
}

int store_set(struct store *s, uint64_t hash, const void *key, size_t len, const void *value,
    size_t value_len)
{
    uint64_t bytes = bytes_of(len, value_len);
    if (len > STORE_KEY_MAX || bytes > s->record_max)
        return -EMSGSIZE;
    struct record *r = take_spare(s, len, value_len);
    bool is_new = !r;
    if (is_new) {
        make_room(s, bytes);
        r = append(s, bytes);
        r->key_len = (uint16_t)len;
        r->value_len = (uint32_t)value_len;
    }
    uint32_t *link = find(s, (uint32_t)(hash >> 32), key, len);
    struct record *old = *link ? record_of(s, *link) : NULL;
    r->next = old ? old->next : 0;
    r->hash = (uint32_t)(hash >> 32);
    memcpy(r->bytes, key, len);
    memcpy(r->bytes + len, value, value_len);
    r->flags = 0;
    if (is_new)
        close_record(s, r);
    relink(s, link, ref_of(s, r), !old, (int64_t)bytes - (old ? (int64_t)record_bytes(old) : 0));
    if (old)
        let_go(s, old);
    return 0;
}

bool store_delete(struct store *s, uint64_t hash, const void *key, size_t len)
{
    uint32_t *link = find(s, (uint32_t)(hash >> 32), key, len);
    if (!*link)
        return false;
    unlink_record(s, link);
    return true;
}

uint64_t store_n_keys(const struct store *s)
{
    return s->head->n_keys;
}

uint64_t store_live_bytes(const struct store *s)
{
    return s->head->live_bytes;
}

uint64_t store_n_evicted(const struct store *s)
{
    return s->head->n_evicted;
}

/* ---- opening ---- */

/* After a death between a chain's change and its figures. */
static void count_again(struct store *s)
{
    uint64_t n = 0, bytes = 0;
    for (uint32_t b = 0; b < s->n_buckets; b++)
        for (uint32_t ref = s->buckets[b]; ref; ref = record_of(s, ref)->next) {
            n++;
            bytes += record_bytes(record_of(s, ref));
        }
    s->head->n_keys = n;
    s->head->live_bytes = bytes;
    service_region_end(&s->region);
}

int store_open(struct store *s, const struct service_region *region)
{
    uint64_t buckets = 64;
    if (region->bytes < STORE_BYTES_MIN || region->bytes > STORE_BYTES_MAX)
        return -EINVAL;
    while (buckets * 2 * 64 <= region->bytes)
        buckets *= 2;
    *s = (struct store){.region = *region, .head = region->data, .n_buckets = (uint32_t)buckets};
    s->buckets = (uint32_t *)(s->head + 1);
    s->log = (uint8_t *)(s->buckets + buckets);
    s->log_bytes = (region->bytes - sizeof(*s->head) - buckets * sizeof(uint32_t)) / ALIGN * ALIGN;
    s->record_max = s->log_bytes / 32 / ALIGN * ALIGN;
    if (s->record_max > 640 * 1024)
        s->record_max = 640 * 1024;
    if (s->head->tail > s->head->head || s->head->head - s->head->tail > s->log_bytes)
        return -EINVAL;
    if (region->mark)
        count_again(s);
    return 0;
}
