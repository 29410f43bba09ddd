/* SPDX-License-Identifier: MIT */
#include "shard/layout.h"
/*
 * Every row of every table becomes a struct row at compile time; an assertion a record says that
 * its rows cover it without a hole, so that none can be left out. The tables of the runtime's
 * records stand here, since runtime/ knows nothing of segments.
 */
#include <assert.h>
#include <stddef.h>
#include <string.h>

#include "shard/segment.h"

struct segment_word {
    uint64_t value;
};

struct segment_page {
    uint8_t bytes[SEGMENT_PAGE];
};

#define SEGMENT_WORD_FIELDS(X, r) X(r, uint64_t, value, , word, "one word")
#define SEGMENT_PAGE_FIELDS(X, r) X(r, uint8_t, bytes, [SEGMENT_PAGE], bytes, "a page")

#define DOORBELL_WORDS_FIELDS(X, r)                                    \
    X(r, uint32_t, notify_me, , word, "the sleeper is about to sleep") \
    X(r, uint32_t, notified, , word, "somebody has published work")

#define AIO_COUNTERS_FIELDS(X, r)           AIO_COUNTERS(COUNTER_ROW)
#define COUNTER_ROW(name, kind, unit, help) ROW(aio_counters, uint64_t, name, , kind, help)

#define RECORDER_EVENT_FIELDS(X, r)                            \
    X(r, uint64_t, ns, , time, "CLOCK_MONOTONIC; stored last") \
    X(r, uint64_t, kind, , word, "enum recorder_kind")         \
    X(r, uint64_t, a, , word, "as its kind says")              \
    X(r, uint64_t, b, , word, "as its kind says")

#define CO_ENTRY_FIELDS(X, r)                                                               \
    X(r, uint64_t, id, , word, "0: free; else unique in its context")                       \
    X(r, uint64_t, entry, , word, "address of its first function")                          \
    X(r, uint64_t, created_ns, , time, "CLOCK_MONOTONIC")                                   \
    X(r, uint64_t, wait_site, , word,                                                       \
        "address of the string that names why it waits, 0 while it runs")                   \
    X(r, uint64_t, position_at, , word,                                                     \
        "address, in its process, of the word that holds its stack pointer while it waits") \
    X(r, char, name, [32], text, "cut where longer")

#define CRASH_RECORD_FIELDS(X, r)                                                         \
    X(r, uint64_t, sequence, , word, "odd: being written; 0: never was")                  \
    X(r, uint32_t, kind, , word, "enum crash_kind")                                       \
    X(r, uint32_t, flags, , word, "enum crash_flags")                                     \
    X(r, uint32_t, incarnation, , word, "whose")                                          \
    X(r, int32_t, pid, , integer, "of the process")                                       \
    X(r, int32_t, tid, , integer, "of the thread that it happened to")                    \
    X(r, int32_t, signal, , integer, "that ended it")                                     \
    X(r, int32_t, code, , integer, "si_code")                                             \
    X(r, uint32_t, machine, , word, "of ELF")                                             \
    X(r, uint32_t, n_registers, , word, "how many there are")                             \
    X(r, uint32_t, stack_bytes, , word, "how much of the stack there is")                 \
    X(r, uint64_t, fault_address, , word, "si_addr")                                      \
    X(r, uint64_t, at_ns, , time, "CLOCK_MONOTONIC")                                      \
    X(r, uint64_t, running, , word, "running_word() of the call on the CPU")              \
    X(r, uint64_t, coroutine, , word,                                                     \
        "its number in the registry; 0: the loop itself, or unknown")                     \
    X(r, uint64_t, pc, , word, "program counter")                                         \
    X(r, uint64_t, stack_address, , word, "of the first byte of stack")                   \
    X(r, uint64_t, registers, [CRASH_REGISTERS_MAX], word, "in the order of NT_PRSTATUS") \
    X(r, char, coroutine_name, [32], text, "its name")                                    \
    X(r, int64_t, syscall_number, , integer, "-1: none is under way, or unknown")         \
    X(r, uint64_t, callback_ns, , time, "how long a stalled callback had run")            \
    X(r, uint64_t, stopped_ns, , time, "how long the look stopped it")                    \
    X(r, char, state, [4], text, "of /proc")                                              \
    X(r, char, wait_channel, [36], text, "of /proc")                                      \
    X(r, uint64_t, coroutine_entry, , word, "address of the coroutine's first function")  \
    X(r, uint8_t, spare, [120], spare, "")                                                \
    X(r, uint8_t, stack, [CRASH_STACK_BYTES], bytes, "top of the stack")

#define RING_SLOT_FIELDS(X, r)                                            \
    X(r, uint64_t, seq, , word, "valid for position p while it is p + 1") \
    X(r, struct message, payload, , record, "a message")

/* ---- rows ---- */

struct row {
    struct layout_field field;
    const char *type; /* as in the table: names a record, where it is one */
    const char *help;
};

#define ROW(r, member_type, member, array, field_kind, text) \
    {.field = {.name = #member,                              \
         .off = offsetof(struct r, member),                  \
         .bytes = sizeof(((struct r *)0)->member),           \
         .element_bytes = sizeof(member_type),               \
         .kind = FIELD_##field_kind},                        \
        .type = #member_type,                                \
        .help = text},

static const struct row rows[] = {
#define X(record, fields) fields(ROW, record)
    LAYOUT_RECORDS(X)
#undef X
};

#define N_FIELDS (sizeof(rows) / sizeof(rows[0]))

/* Counting rows with a row's own shape: each is one. */
#undef COUNTER_ROW
#define COUNTER_ROW(name, kind, unit, help)     +1
#define ONE(r, type, member, array, kind, help) +1

struct record_row {
    const char *name;
    uint32_t bytes;
    uint32_t n_fields;
};

static const struct record_row records[N_RECORDS] = {
#define X(record, fields) {#record, sizeof(struct record), 0 fields(ONE, record)},
    LAYOUT_RECORDS(X)
#undef X
};

/* No hole, and no field that is in no row. */
#undef COUNTER_ROW
#define COUNTER_ROW(name, kind, unit, help)       +sizeof(uint64_t)
#define BYTES(r, type, member, array, kind, help) +sizeof(((struct r *)0)->member)
#define X(record, fields)                                                                       \
    static_assert(0 fields(BYTES, record) == sizeof(struct record), #record ": a field has no " \
                                                                            "row");
LAYOUT_RECORDS(X)
#undef X

/* The number of the record that "struct name" names. */
static uint16_t record_of_type(const char *type)
{
    const char *name = strchr(type, ' ');

    for (uint16_t n = 0; name && n < N_RECORDS; n++)
        if (strcmp(records[n].name, name + 1) == 0)
            return n;
    return N_RECORDS;
}

const char *layout_help(const char *record, const char *field)
{
    const struct row *row = rows;

    for (uint32_t n = 0; n < N_RECORDS; row += records[n].n_fields, n++)
        for (uint32_t i = 0; strcmp(records[n].name, record) == 0 && i < records[n].n_fields; i++)
            if (strcmp(row[i].field.name, field) == 0)
                return row[i].help;
    return "";
}

/* ---- writing ---- */

uint64_t layout_bytes(uint32_t n_regions)
{
    return sizeof(struct layout_head) + N_AREAS * sizeof(struct layout_area) +
           n_regions * sizeof(struct layout_region) + N_RECORDS * sizeof(struct layout_record) +
           N_FIELDS * sizeof(struct layout_field);
}

uint32_t layout_record_bytes(enum layout_record_number record)
{
    return records[record].bytes;
}

static void write_areas(struct layout_area *to, const struct layout_area *areas)
{
    static const char *const names[] = {
#define X(name) #name,
        LAYOUT_AREAS(X)
#undef X
    };

    for (uint32_t n = 0; n < N_AREAS; n++) {
        to[n] = areas[n];
        strncpy(to[n].name, names[n], LAYOUT_NAME - 1);
    }
}

static void write_records(struct layout_record *to)
{
    uint32_t first = 0;

    for (uint32_t n = 0; n < N_RECORDS; n++) {
        strncpy(to[n].name, records[n].name, LAYOUT_NAME - 1);
        to[n].bytes = records[n].bytes;
        to[n].first_field = first;
        to[n].n_fields = records[n].n_fields;
        first += records[n].n_fields;
    }
}

static void write_fields(struct layout_field *to)
{
    for (uint32_t n = 0; n < N_FIELDS; n++) {
        to[n] = rows[n].field;
        if (to[n].kind == FIELD_record)
            to[n].record = record_of_type(rows[n].type);
    }
}

void layout_write(void *to, uint32_t n_shards, const struct layout_area areas[N_AREAS],
    const struct layout_region *regions, uint32_t n_regions)
{
    struct layout_head *head = to;
    struct layout_area *area = (struct layout_area *)(head + 1);
    struct layout_region *region = (struct layout_region *)(area + N_AREAS);
    struct layout_record *record = (struct layout_record *)(region + n_regions);

    *head = (struct layout_head){.head_bytes = sizeof(*head),
        .area_bytes = sizeof(struct layout_area),
        .region_bytes = sizeof(struct layout_region),
        .record_bytes = sizeof(struct layout_record),
        .field_bytes = sizeof(struct layout_field),
        .n_areas = N_AREAS,
        .n_regions = n_regions,
        .n_records = N_RECORDS,
        .n_fields = N_FIELDS,
        .n_shards = n_shards};
    write_areas(area, areas);
    memcpy(region, regions, n_regions * sizeof(*region));
    write_records(record);
    write_fields((struct layout_field *)(record + N_RECORDS));
}
