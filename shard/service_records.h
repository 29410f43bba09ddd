/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * service_records - what the segment has of services: what they count, and what they keep
 *
 * Why:         a shard's replacement goes on counting, and finds what its predecessor kept; tools
 *              show both.
 * Use:         segment_service_counts(), segment_service_regions() (segment.h) find them
 * Concurrency: named by the supervisor before the first fork, then written by the shard whose part
 *              they are in
 */
#include <stdint.h>

#include "shard/record.h"

#define SEGMENT_SERVICE_COUNTERS  64u /* of all services, those of listeners included */
#define SEGMENT_SERVICE_REGIONS   16u /* of all services */
#define SEGMENT_SERVICE_BYTES_MAX (UINT64_C(1) << 40)

/* What a service counts in this shard. The name is the supervisor's, before the first fork. */
#define SERVICE_COUNT_FIELDS(X, r)                                                     \
    X(r, char, name, [72], text, "service.counter; empty: there are no more")          \
    X(r, uint64_t, kind, , word, "enum service_counter_kind")                          \
    X(r, uint64_t, value, , word, "over all incarnations; of a gauge, what it is now") \
    X(r, uint8_t, spare, [40], spare, "")
SEGMENT_STRUCT(service_count, SERVICE_COUNT_FIELDS);

/* A service's region in this shard's part, and how its last user left it. Name, place and size are
 * the supervisor's, before the first fork. */
#define SERVICE_REGION_HEAD_FIELDS(X, r)                                                         \
    X(r, char, name, [72], text, "service.region; empty: there are no more")                     \
    X(r, uint64_t, off, , word, "in the segment")                                                \
    X(r, uint64_t, bytes, , gauge, "its size")                                                   \
    X(r, uint64_t, mark, , word, "what change of it is under way, as the service says; 0: none") \
    X(r, uint32_t, incarnation, , word, "that opened it last; 0: none yet, and it is all zero")  \
    X(r, uint8_t, spare, [28], spare, "")
SEGMENT_STRUCT(service_region_head, SERVICE_REGION_HEAD_FIELDS);
