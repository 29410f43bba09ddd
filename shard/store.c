/* SPDX-License-Identifier: MIT */
/*
 *   +------+-----------------+------------------------------------------+
 *   | head | buckets: refs   | log: records, from tail to head, round   |
 *   +------+-----------------+------------------------------------------+
 *
 * A new record is written where nothing points to, and counts with the one store that puts it into
 * its bucket's chain; it takes the old one's place there. Where the one that was replaced last had
 * the same lengths, that is its place; else it is at the head. Space comes back at the tail: a
 * record that nothing points to is passed over, one that counts is copied to the head, or, where
 * more than three quarters of the log count, is evicted, unless it was read since it was last
 * passed.
 *
 * A death is no reordering: what a dead one had stored is there in the order of its code, as far as
 * service_region_publish() and the mark keep the compiler to it. So what must be first is written
 * first, and no more is needed.
 */
#include "shard/store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MAGIC      UINT64_C(0x3165726f74736873) /* "shstore1" */
#define N_SOON     4u                           /* announced, and not fetched from memory yet */
#define N_SPARES   64u
#define ALIGN      16u /* of records; a ref counts in it, from 1 */
#define FLAG_READ  1u  /* since the tail last passed */
#define FLAG_BLANK 2u  /* to the end of the log, where a record did not fit */
#define FLAG_DEAD  4u  /* nothing points to it, for sure */

/* The region's own. head and tail only grow; their places in the log are modulo its size. */
struct store_head {
    uint64_t magic; /* 0: a new region */
    uint64_t head, tail;
    uint64_t n_keys, live_bytes; /* of what the chains hold: change with them, under the mark */
    uint64_t n_evicted;
    uint64_t seed; /* of hashes, so that nobody knows keys that share a chain */
    uint64_t spare;
};

struct record {
    uint32_t next; /* ref of the next in its chain; 0: the last */
    uint32_t hash;
    uint32_t value_len;
    uint16_t key_len;
    uint16_t flags;
    char bytes[]; /* key, value */
};

_Static_assert(sizeof(struct store_head) == 64, "what follows is aligned");
_Static_assert(sizeof(struct record) == ALIGN, "a blank one fits wherever one begins");
_Static_assert(STORE_KEY_MAX == UINT16_MAX, "key_len has it");

struct store {
    struct service_region region;
    struct store_head *head;
    uint32_t *buckets;
    uint32_t n_buckets; /* a power of two */
    uint8_t *log;
    uint64_t log_bytes;
    uint64_t record_max; /* bytes of one */
    /* By lengths: records that were replaced or deleted, and may be written over. This process's
     * alone: what a dead one had here the tail passes over. */
    struct record *spares[N_SPARES];
    uint32_t soon[N_SOON]; /* hashes */
    uint32_t n_soon;
};

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

static uint64_t fold(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Eight bytes at a time, the last of them filled up with zeros. */
static uint32_t hash_of(const struct store *s, const void *key, size_t len)
{
    const uint8_t *at = key;
    uint64_t hash = s->head->seed ^ len, word;
    for (; len >= sizeof(word); at += sizeof(word), len -= sizeof(word)) {
        memcpy(&word, at, sizeof(word));
        hash = fold(hash ^ word, UINT64_C(0x9e3779b97f4a7c15));
    }
    word = 0;
    for (size_t i = 0; i < len; i++)
        word |= (uint64_t)at[i] << 8 * i;
    return (uint32_t)fold(hash ^ word, UINT64_C(0xd1b54a32d192ed03));
}

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
    return &s->spares[(key_len * 7 + value_len) % N_SPARES];
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

/* A chain's bucket says where its first record is, so that is asked for some keys later. */
void store_prefetch(struct store *s, const void *key, size_t len)
{
    uint32_t *oldest = &s->soon[s->n_soon++ % N_SOON], ref = *bucket_of(s, *oldest);
    *oldest = hash_of(s, key, len);
    __builtin_prefetch(bucket_of(s, *oldest));
    if (ref)
        __builtin_prefetch(record_of(s, ref));
}

const void *store_get(struct store *s, const void *key, size_t len, size_t *ret_value_len)
{
    uint32_t ref = *find(s, hash_of(s, key, len), key, len);
    struct record *r = ref ? record_of(s, ref) : NULL;
    if (!r)
        return NULL;
    if (!(r->flags & FLAG_READ))
        r->flags |= FLAG_READ;
    *ret_value_len = r->value_len;
    return r->bytes + r->key_len;
}

/* Room for one of these lengths that nothing points to, which it has already. */
static struct record *take_new(struct store *s, size_t len, size_t value_len)
{
    uint64_t bytes = bytes_of(len, value_len);
    make_room(s, bytes);
    struct record *r = append(s, bytes);
    r->key_len = (uint16_t)len;
    r->value_len = (uint32_t)value_len;
    return r;
}

int store_set(struct store *s, const void *key, size_t len, const void *value, size_t value_len)
{
    if (len > STORE_KEY_MAX || value_len > STORE_PAIR_MAX ||
        bytes_of(len, value_len) > s->record_max)
        return -EMSGSIZE;
    struct record *spare = take_spare(s, len, value_len);
    struct record *r = spare ? spare : take_new(s, len, value_len);
    uint32_t hash = hash_of(s, key, len), *link = find(s, hash, key, len);
    struct record *old = *link ? record_of(s, *link) : NULL;
    r->next = old ? old->next : 0;
    r->hash = hash;
    memcpy(r->bytes, key, len);
    if (value_len)
        memcpy(r->bytes + len, value, value_len);
    r->flags = 0;
    if (!spare)
        close_record(s, r);
    relink(s, link, ref_of(s, r), !old,
        (int64_t)record_bytes(r) - (old ? (int64_t)record_bytes(old) : 0));
    if (old)
        let_go(s, old);
    return 0;
}

/* As it would be written, without a zero or a sign too many. */
static bool is_number(const char *text, size_t len, int64_t *ret)
{
    bool negative = len > 1 && text[0] == '-';
    size_t i = negative;
    if (len == 0 || (text[i] == '0' && len > 1))
        return false;
    for (*ret = 0; i < len; i++) /* towards the least, which has no opposite */
        if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(*ret, 10, ret) ||
            __builtin_sub_overflow(*ret, text[i] - '0', ret))
            return false;
    return negative || !__builtin_sub_overflow(0, *ret, ret);
}

int store_add(struct store *s, const void *key, size_t len, int64_t n, int64_t *ret)
{
    char text[24];
    size_t old_len = 1;
    const char *old = store_get(s, key, len, &old_len);
    int64_t value;
    if (!is_number(old ? old : "0", old_len, &value))
        return -EINVAL;
    if (__builtin_add_overflow(value, n, &value))
        return -ERANGE;
    int text_len = snprintf(text, sizeof(text), "%" PRId64, value);
    int r = store_set(s, key, len, text, (size_t)text_len);
    if (r == 0)
        *ret = value;
    return r;
}

bool store_delete(struct store *s, const void *key, size_t len)
{
    uint32_t *link = find(s, hash_of(s, key, len), key, len);
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

static bool is_within(const struct store *s, uint32_t ref)
{
    uint64_t at = (uint64_t)(ref - 1) * ALIGN;
    return at + sizeof(struct record) <= s->log_bytes &&
           at + record_bytes(record_of(s, ref)) <= s->log_bytes;
}

/* After a death between a chain's change and its figures. -EINVAL: a chain leads out of the log, or
 * to no end, as what died may have written anywhere before. */
static int count_again(struct store *s)
{
    uint64_t n = 0, bytes = 0;
    for (uint32_t b = 0; b < s->n_buckets; b++)
        for (uint32_t ref = s->buckets[b]; ref; ref = record_of(s, ref)->next) {
            if (!is_within(s, ref) || ++n > s->log_bytes / ALIGN)
                return -EINVAL;
            bytes += record_bytes(record_of(s, ref));
        }
    s->head->n_keys = n;
    s->head->live_bytes = bytes;
    service_region_end(&s->region);
    return 0;
}

/* Where all lies follows from the region's size alone. */
static void lay_out(struct store *s, const struct service_region *region)
{
    uint32_t n = 64;
    while ((uint64_t)n * 2 * 64 <= region->bytes)
        n *= 2;
    s->region = *region;
    s->head = region->data;
    s->n_buckets = n;
    s->buckets = (uint32_t *)(s->head + 1);
    s->log = (uint8_t *)(s->buckets + n);
    s->log_bytes = (region->bytes - (uint64_t)(s->log - (uint8_t *)s->head)) / ALIGN * ALIGN;
    s->record_max = s->log_bytes / 32 / ALIGN * ALIGN;
    if (s->record_max > bytes_of(0, STORE_PAIR_MAX))
        s->record_max = bytes_of(0, STORE_PAIR_MAX);
}

/* A death before the last store leaves a new region. */
static int make(struct store *s)
{
    if (getrandom(&s->head->seed, sizeof(s->head->seed), 0) < 0)
        return -errno;
    service_region_publish(&s->head->magic, MAGIC);
    return 0;
}

static bool is_store(const struct store *s)
{
    const struct store_head *h = s->head;
    return h->magic == MAGIC && h->tail <= h->head && h->head - h->tail <= s->log_bytes;
}

int store_open(const struct service_region *region, struct store **ret)
{
    if (region->bytes < STORE_BYTES_MIN || region->bytes > STORE_BYTES_MAX)
        return -EINVAL;
    struct store *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    lay_out(s, region);
    int r = s->head->magic == 0 && s->head->head == 0 ? make(s) : 0;
    if (r == 0 && !is_store(s))
        r = -EINVAL;
    if (r == 0 && region->mark)
        r = count_again(s);
    if (r < 0)
        free(s);
    else
        *ret = s;
    return r;
}

void store_close(void *store)
{
    free(store);
}
