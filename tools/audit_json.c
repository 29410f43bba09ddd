/* SPDX-License-Identifier: MIT */
#include "tools/audit_json.h"

#include "tools/json.h"

json_t *audit_finding_json(const struct look *look, const struct audit_finding *f)
{
    char name[LOOK_NAME];
    json_t *o = json_object();

    json_set_text(o, "from", look_peer_name(look, f->from, name));
    json_set_text(o, "to", look_peer_name(look, f->to, name));
    json_set_text(o, "expected_is", audit_expected_text(f->account));
    json_set_u64(o, "expected", f->expected);
    json_set_text(o, "found_is", audit_found_text(f->account));
    json_set_u64(o, "found", f->found);
    return o;
}

json_t *audit_result_json(const struct audit_result *result, json_t *findings)
{
    json_t *o = json_object(), *ends = json_object();

    json_object_set_new(o, "balanced", json_boolean(result->n_findings == 0));
    json_set_u64(o, "submitted", result->submitted);
#define X(name, number, text) json_set_u64(ends, text, result->ended[CALL_END_##name]);
    CALL_ENDS(X)
#undef X
    json_set_u64(ends, "abandoned", result->ended[CALL_END_NONE]);
    json_object_set_new(o, "ends", ends);
    json_set_u64(o, "under_way", result->under_way);
#define X(name, help) json_set_u64(o, #name, result->name);
    AUDIT_COUNTS(X)
#undef X
    json_object_set_new(o, "findings", findings);
    return o;
}

struct report {
    const struct look *look;
    json_t *findings;
};

static void on_finding(void *opaque, const struct audit_finding *finding)
{
    const struct report *report = opaque;
    json_array_append_new(report->findings, audit_finding_json(report->look, finding));
}

json_t *audit_json(const struct look *look)
{
    struct report report = {.look = look, .findings = json_array()};
    struct audit_result result;
    struct audit *audit;
    const char *why;
    if (audit_new(&look->view, &audit, &why) < 0) {
        json_decref(report.findings);
        return json_null();
    }
    audit_run(audit, on_finding, &report, &result);
    audit_free(audit);
    return audit_result_json(&result, report.findings);
}
