/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * layout - the segment's description of itself: records, their fields, and where they lie
 *
 * Why:         a tool of another version reads a segment right, by name, or knows that it can't.
 * Use:         segment_init() writes it; whoever reads by name uses segment_view.h.
 * Concurrency: written before the first fork, constant after
 * Lifetime:    the segment's
 * Not here:    the fields (the tables in segment.h, *_records.h, message.h), the regions (the table
 *              in regions.h)
 *
 *   super.layout_off  +--------------+
 *                     | layout_head  |  how many of each follow, and how large one is
 *                     | layout_area  |  runs of equal stretches: what the regions are in
 *                     | layout_region|  arrays of records in an area: outer index, then inner
 *                     | layout_record|  a name, a size, and a run of fields
 *                     | layout_field |  a name, a place, a kind
 *                     +--------------+
 *
 * A later format may make any of these larger at its end: a reader goes by the sizes in the head.
 * What a reader cannot go by at all raises SEGMENT_FORMAT.
 */
#include <stdint.h>

/* X(name, what it is) */
#define FIELD_KINDS(X)                               \
    X(word, "an unsigned number with a meaning")     \
    X(integer, "a signed number")                    \
    X(counter, "only grows")                         \
    X(gauge, "goes both ways")                       \
    X(time, "nanoseconds of a clock")                \
    X(text, "characters, NUL-terminated")            \
    X(bytes, "bytes without a meaning of their own") \
    X(record, "another record")                      \
    X(spare, "nothing yet")

enum field_kind {
#define X(name, what) FIELD_##name,
    FIELD_KINDS(X)
#undef X
        N_FIELD_KINDS
};

/* X(name): the stretches that regions lie in */
#define LAYOUT_AREAS(X) \
    X(super)            \
    X(control)          \
    X(commons)          \
    X(shard)            \
    X(gateway)

enum layout_area_number {
#define X(name) AREA_##name,
    LAYOUT_AREAS(X)
#undef X
        N_AREAS
};

/* How the outer index of a region is to be read. */
enum layout_index {
    INDEX_NUMBER,      /* it is the n-th */
    INDEX_PEER,        /* a peer's number, the gateway's after the last shard's */
    INDEX_OTHER_SHARD, /* a shard's number, of those that are not the area's own */
};

/* X(struct, table): every record there is */
#define LAYOUT_RECORDS(X)                              \
    X(segment_super, SUPER_FIELDS)                     \
    X(segment_geometry, GEOMETRY_FIELDS)               \
    X(segment_image, IMAGE_FIELDS)                     \
    X(supervisor_head, SUPERVISOR_HEAD_FIELDS)         \
    X(order_note, ORDER_NOTE_FIELDS)                   \
    X(peer_control, PEER_CONTROL_FIELDS)               \
    X(method_name, METHOD_NAME_FIELDS)                 \
    X(commons_bell, COMMONS_BELL_FIELDS)               \
    X(doorbell_words, DOORBELL_WORDS_FIELDS)           \
    X(commons_bitmap, COMMONS_BITMAP_FIELDS)           \
    X(arena_slot, ARENA_SLOT_FIELDS)                   \
    X(part_head, PART_HEAD_FIELDS)                     \
    X(redo_record, REDO_RECORD_FIELDS)                 \
    X(part_hot, PART_HOT_FIELDS)                       \
    X(aio_counters, AIO_COUNTERS_FIELDS)               \
    X(pair_stats, PAIR_STATS_FIELDS)                   \
    X(ring_mark, RING_MARK_FIELDS)                     \
    X(recorder_event, RECORDER_EVENT_FIELDS)           \
    X(co_entry, CO_ENTRY_FIELDS)                       \
    X(ring_slot, RING_SLOT_FIELDS)                     \
    X(crash_record, CRASH_RECORD_FIELDS)               \
    X(verdict_record, VERDICT_RECORD_FIELDS)           \
    X(lock_record, LOCK_RECORD_FIELDS)                 \
    X(lock_holder, LOCK_HOLDER_FIELDS)                 \
    X(client_row, CLIENT_ROW_FIELDS)                   \
    X(culprit, CULPRIT_FIELDS)                         \
    X(client_user, CLIENT_USER_FIELDS)                 \
    X(client_lane, CLIENT_LANE_FIELDS)                 \
    X(ledger_slot, LEDGER_SLOT_FIELDS)                 \
    X(crash_note, CRASH_NOTE_FIELDS)                   \
    X(listener_row, LISTENER_ROW_FIELDS)               \
    X(service_count, SERVICE_COUNT_FIELDS)             \
    X(service_region_head, SERVICE_REGION_HEAD_FIELDS) \
    X(session_row, SESSION_ROW_FIELDS)                 \
    X(fate, FATE_FIELDS)                               \
    X(message, MESSAGE_FIELDS)                         \
    X(call_slot, CALL_SLOT_FIELDS)                     \
    X(serve_slot, SERVE_SLOT_FIELDS)                   \
    X(segment_word, SEGMENT_WORD_FIELDS)               \
    X(segment_page, SEGMENT_PAGE_FIELDS)

enum layout_record_number {
#define X(record, fields) RECORD_##record,
    LAYOUT_RECORDS(X)
#undef X
        N_RECORDS
};

#define LAYOUT_NAME 32

struct layout_head {
    uint32_t head_bytes; /* of this record, and of each below */
    uint32_t area_bytes, region_bytes, record_bytes, field_bytes;
    uint32_t n_areas, n_regions, n_records, n_fields;
    uint32_t n_shards;
};

struct layout_area {
    char name[LAYOUT_NAME];
    uint64_t off;    /* in the segment */
    uint64_t stride; /* from one to the next */
    uint64_t n;
};

struct layout_region {
    char name[LAYOUT_NAME];
    uint32_t area;
    uint32_t record;
    uint32_t index; /* enum layout_index */
    uint32_t n_outer;
    uint32_t n_inner;
    uint32_t stride; /* from one record to the next */
    uint64_t off;    /* in its area */
};

struct layout_record {
    char name[LAYOUT_NAME];
    uint32_t bytes;
    uint32_t first_field;
    uint32_t n_fields;
    uint32_t spare;
};

struct layout_field {
    char name[LAYOUT_NAME];
    uint32_t off;
    uint32_t bytes;         /* of the whole */
    uint32_t element_bytes; /* of one, where it is an array; else the same */
    uint16_t kind;          /* enum field_kind */
    uint16_t record;        /* which, for FIELD_record */
};

/* How large the description of so many regions is. */
uint64_t layout_bytes(uint32_t n_regions);

/* The size of a record, by its number. */
uint32_t layout_record_bytes(enum layout_record_number record);

/* Writes it to layout_bytes() of zeroed, aligned memory. Areas are by enum layout_area_number;
 * their names are filled in. */
void layout_write(void *to, uint32_t n_shards, const struct layout_area areas[N_AREAS],
    const struct layout_region *regions, uint32_t n_regions);

/* What a field is for, as in its table; "" where none of this version's is called that. */
const char *layout_help(const char *record, const char *field);
