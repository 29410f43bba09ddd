/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * record - what stands in the segment, as tables
 *
 * Why:         the struct, the assertion that it has no holes, and its rows in the description that
 *              the segment carries (layout.h) come from one place. A field more is one row more.
 * Use:         #define LOCK_FIELDS(X, r) X(r, uint64_t, word, , word, "who holds it")
 *              SEGMENT_STRUCT(lock, LOCK_FIELDS);
 *              X(record, type, name, array, kind, help), with kind out of FIELD_KINDS
 * Not here:    which records there are (segment.h, *_records.h, message.h)
 */
#define SEGMENT_MEMBER(record, type, name, array, kind, help) type name array;
#define SEGMENT_STRUCT(record, FIELDS) \
    struct record {                    \
        FIELDS(SEGMENT_MEMBER, record) \
    }
