/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * audit_json - what an audit found and counted, for programs; keys are in sherd-audit(1)
 *
 * Concurrency: one thread
 */
#include <jansson.h>

#include "shard/audit.h"
#include "tools/look.h"

json_t *audit_finding_json(const struct look *look, const struct audit_finding *finding);

/* Consumes findings, an array of these. */
json_t *audit_result_json(const struct audit_result *result, json_t *findings);

/* One audit, whole; null where the segment can't be audited. */
json_t *audit_json(const struct look *look);
