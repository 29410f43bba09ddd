/* SPDX-License-Identifier: MIT */
/*
 * Each peer counts how its calls end and when it has judged; the report is the difference to what
 * stood there when the process was reaped. Between death and report a peer may also have ended a
 * call to the replacement, but no such end is `in doubt` or `not started`.
 *
 * Of the stack the report names words that point behind a call instruction in code: each caller is
 * among them, with some that returned long ago. The tool unwinds properly, from the raw record.
 *
 * Orderings     first            then                ordered by        if broken
 *   JUDGED   a  peer's counters  judged_incarnation  release, acquire  a report without some
 *                                (judge.c)                             of the ends
 */
#include "shard/death_report.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/data_plane.h"
#include "runtime/atomic.h"
#include "shard/crash_record.h"

#define PATIENCE_NS (UINT64_C(5) * 1000000000)
#define FRAMES_MAX  32

/* X(name, what of pair_stats) */
#define TALLIES(X)                             \
    X(run_again, run_again)                    \
    X(in_doubt, ends[CALL_END_IN_DOUBT])       \
    X(not_started, ends[CALL_END_NOT_STARTED]) \
    X(failed, ends[CALL_END_FAILED])           \
    X(cancelled, ends[CALL_END_CANCELLED])     \
    X(given_back, ends[CALL_END_NONE])

struct tally {
#define X(name, field) uint64_t name;
    TALLIES(X)
#undef X
    uint64_t n_verdicts;
};

struct death_report {
    struct death_facts facts;
    char process[24];
    char how[96];
    time_t at;
    uint32_t incarnation; /* of the dead */
    bool ran_call;
    uint32_t home, caller, slot, method;
    uint64_t generation;
    bool recorded;
    struct crash_record record;
    struct tally before[]; /* by peer */
};

static struct tally tally_of(const struct segment *seg, uint32_t peer, uint32_t dead)
{
    const struct pair_stats *pair = segment_pair(seg, peer, dead);

    return (struct tally){
#define X(name, field) .name = atomic_load_relaxed(&pair->field), /* JUDGED */
        TALLIES(X)
#undef X
            .n_verdicts = atomic_load_acquire(&segment_part(seg, peer)->n_verdicts) /* JUDGED */
    };
}

/* A shard that is its own caller has the request, a local client's, in its ledger. */
static uint32_t method_of(const struct death_report *report)
{
    const struct segment *seg = report->facts.segment;
    struct plane_submission entry;

    if (report->caller != report->home)
        return segment_call(seg, report->caller, report->home, report->slot)->method;
    memcpy(&entry, segment_ledger(seg, report->home, report->slot)->entry, sizeof(entry));
    return entry.method;
}

static void note_call(struct death_report *report)
{
    const struct segment *seg = report->facts.segment;
    const struct peer_control *control = segment_control(seg, report->facts.peer);

    if (!report->facts.crash || control->crashed_incarnation != report->incarnation ||
        control->crashed_generation == 0)
        return;
    report->ran_call = true;
    report->home = control->crashed_home;
    report->caller = control->crashed_peer;
    report->slot = control->crashed_slot;
    report->generation = control->crashed_generation;
    report->method = method_of(report);
}

struct death_report *death_report_new(const struct death_facts *facts)
{
    const struct segment *seg = facts->segment;
    struct death_report *report =
        calloc(1, sizeof *report + seg->n_peers * sizeof report->before[0]);

    if (!report)
        return NULL;
    report->facts = *facts;
    snprintf(report->process, sizeof report->process, "%s", facts->process);
    snprintf(report->how, sizeof report->how, "%s", facts->how);
    report->at = time(NULL);
    report->incarnation = segment_control(seg, facts->peer)->incarnation;
    report->recorded = crash_record_read(segment_crash(seg, facts->peer), &report->record) == 0 &&
                       report->record.incarnation == report->incarnation;
    note_call(report);
    for (uint32_t peer = 0; peer < seg->n_peers; peer++)
        report->before[peer] = tally_of(seg, peer, facts->peer);
    return report;
}

void death_report_free(struct death_report *report)
{
    free(report);
}

static bool has_judged(const struct death_report *report, uint32_t peer)
{
    const struct segment *seg = report->facts.segment;
    uint64_t judged = atomic_load_acquire(
        &segment_pair(seg, peer, report->facts.peer)->judged_incarnation); /* JUDGED */

    return judged > report->incarnation;
}

static bool has_to_judge(const struct death_report *report, uint32_t peer)
{
    const struct peer_control *control = segment_control(report->facts.segment, peer);

    return peer != report->facts.peer &&
           (control->state == PEER_UP || control->state == PEER_DRAINING);
}

bool death_report_is_due(const struct death_report *report, uint64_t now_ns, bool settled)
{
    if (now_ns - report->facts.died_ns >= PATIENCE_NS)
        return true;
    for (uint32_t peer = 0; peer < report->facts.segment->n_peers; peer++)
        if (has_to_judge(report, peer) && !has_judged(report, peer))
            return false;
    return settled;
}

/* ---- JSON ---- */

static void put_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++)
        if ((unsigned char)*text < 32 || (unsigned char)*text > 126 || *text == '"' ||
            *text == '\\')
            fprintf(out, "\\u%04x", (unsigned char)*text);
        else
            fputc(*text, out);
    fputc('"', out);
}

static void put_ms(FILE *out, const char *name, uint64_t from_ns, uint64_t to_ns)
{
    if (to_ns > from_ns)
        fprintf(out, ", \"%s\": %.3f", name, (double)(to_ns - from_ns) / 1e6);
    else
        fprintf(out, ", \"%s\": null", name);
}

/* Where an address lies in a program or library. */
struct place {
    uint64_t address;
    const char *module;
    uint64_t offset;
};

static int find_module(struct dl_phdr_info *info, size_t size, void *opaque)
{
    struct place *place = opaque;

    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uint64_t begin = info->dlpi_addr + segment->p_vaddr;
        if (segment->p_type != PT_LOAD || !(segment->p_flags & PF_X) ||
            !(segment->p_flags & PF_R) || place->address < begin + 8 ||
            place->address >= begin + segment->p_memsz)
            continue;
        place->module = info->dlpi_name[0] ? info->dlpi_name : "sherd";
        place->offset = place->address - info->dlpi_addr;
        return 1;
    }
    return 0;
}

/* Code is at the same place in every process of the instance. */
static bool follows_a_call(const struct place *place, uint32_t machine)
{
    const uint8_t *code = (const uint8_t *)(uintptr_t)place->address;

    if (machine == EM_X86_64)
        return code[-5] == 0xe8 || code[-2] == 0xff || code[-3] == 0xff || code[-6] == 0xff ||
               code[-7] == 0xff;
    return place->address % 4 == 0 && ((code[-1] & 0xfc) == 0x94 || code[-1] == 0xd6);
}

static void put_frame(FILE *out, const struct place *place, const char *separator)
{
    fprintf(out, "%s{\"address\": \"0x%llx\", \"module\": ", separator,
        (unsigned long long)place->address);
    if (place->module)
        put_text(out, place->module);
    else
        fputs("null", out);
    fprintf(out, ", \"offset\": \"0x%llx\"}", (unsigned long long)place->offset);
}

static void put_backtrace(FILE *out, const struct crash_record *record)
{
    struct place place = {.address = record->pc};
    unsigned n = 1;

    dl_iterate_phdr(find_module, &place);
    fputs(", \"backtrace\": [", out);
    put_frame(out, &place, "");
    for (uint32_t at = 0; at + 8 <= record->stack_bytes && n < FRAMES_MAX; at += 8) {
        place = (struct place){0};
        memcpy(&place.address, record->stack + at, sizeof place.address);
        if (dl_iterate_phdr(find_module, &place) == 0 || !follows_a_call(&place, record->machine))
            continue;
        put_frame(out, &place, ", ");
        n++;
    }
    fputc(']', out);
}

/* A wild write that the firewall stopped names whose memory it was for. */
static void put_fault_owner(FILE *out, const struct segment *seg, const struct crash_record *record)
{
    char buf[SEGMENT_OWNER_TEXT];
    const char *owner = segment_owner_text(seg, record->fault_address, buf);

    fputs(", \"fault_in\": ", out);
    if (owner)
        put_text(out, owner);
    else
        fputs("null", out);
}

static void put_record(FILE *out, const struct segment *seg, const struct crash_record *record)
{
    char line[320];

    crash_record_line(record, line, sizeof line);
    fputs(", \"record\": {\"kind\": ", out);
    put_text(out, crash_kind_text(record->kind));
    fputs(", \"line\": ", out);
    put_text(out, line);
    fprintf(out, ", \"signal\": %d, \"fault_address\": \"0x%llx\"", record->signal,
        (unsigned long long)record->fault_address);
    put_fault_owner(out, seg, record);
    fputs(", \"coroutine\": ", out);
    put_text(out, record->coroutine_name);
    fprintf(out, ", \"machine\": %u, \"registers\": [", record->machine);
    for (uint32_t i = 0; i < record->n_registers; i++)
        fprintf(out, "%s\"0x%llx\"", i ? ", " : "", (unsigned long long)record->registers[i]);
    fputc(']', out);
    put_backtrace(out, record);
    fputc('}', out);
}

static void put_method(FILE *out, const struct death_report *report, uint32_t number)
{
    uint32_t service;
    const struct service_method *method = registry_method(report->facts.registry, number, &service);
    char name[2 * REGISTRY_NAME_MAX];

    if (method)
        snprintf(name, sizeof name, "%s.%s",
            registry_service(report->facts.registry, service)->name, method->name);
    else
        snprintf(name, sizeof name, "%u", number);
    put_text(out, name);
}

static void put_call(FILE *out, const struct death_report *report)
{
    fprintf(out, "{\"caller\": %u, \"home\": %u, \"slot\": %u, \"generation\": %llu, \"method\": ",
        report->caller, report->home, report->slot, (unsigned long long)report->generation);
    put_method(out, report, report->method);
    fputc('}', out);
}

static void put_peer(FILE *out, const struct death_report *report, uint32_t peer)
{
    const struct segment *seg = report->facts.segment;
    struct tally now = tally_of(seg, peer, report->facts.peer);
    const struct tally *before = &report->before[peer];

    fprintf(
        out, "{\"peer\": %u, \"judged\": %s", peer, has_judged(report, peer) ? "true" : "false");
#define X(name, field) \
    fprintf(out, ", \"" #name "\": %llu", (unsigned long long)(now.name - before->name));
    TALLIES(X)
#undef X
    fputc('}', out);
}

/* ---- who was told what ---- */

static void put_origin(FILE *out, uint64_t origin)
{
    if (origin)
        fprintf(out, ", \"client\": %llu, \"request\": %llu",
            (unsigned long long)origin_session(origin),
            (unsigned long long)(origin & ORIGIN_ID_MASK));
    else
        fputs(", \"client\": null, \"request\": null", out);
}

static void put_verdict(FILE *out, const struct death_report *report, uint32_t peer,
    const struct verdict_record *verdict)
{
    fprintf(out, "{\"caller\": %u, \"slot\": %u, \"generation\": %llu, \"method\": ", peer,
        verdict->slot, (unsigned long long)verdict->generation);
    put_method(out, report, verdict->method);
    fputs(", \"end\": ", out);
    put_text(out, verdict_text(verdict->kind));
    put_origin(out, peer == segment_gateway(report->facts.segment) ? verdict->origin : 0);
    put_ms(out, "ms", report->facts.died_ns, verdict->at_ns);
    fputc('}', out);
}

struct told {
    uint32_t n_named;
    uint64_t n_left_out;
};

/* A verdict is what it is until SEGMENT_VERDICTS others have come; older ones are only counted. */
static void put_verdicts(
    FILE *out, const struct death_report *report, uint32_t peer, struct told *told)
{
    const struct segment *seg = report->facts.segment;
    uint64_t end = atomic_load_acquire(&segment_part(seg, peer)->n_verdicts); /* JUDGED */
    uint64_t at = report->before[peer].n_verdicts;

    if (end - at > SEGMENT_VERDICTS) {
        told->n_left_out += end - at - SEGMENT_VERDICTS;
        at = end - SEGMENT_VERDICTS;
    }
    for (; at < end; at++) {
        struct verdict_record verdict = *segment_verdict(seg, peer, at);
        if (verdict.dead != report->facts.peer || verdict.incarnation <= report->incarnation)
            continue;
        if (told->n_named == DEATH_REPORT_TOLD) {
            told->n_left_out++;
            continue;
        }
        fputs(told->n_named++ ? ", " : "", out);
        put_verdict(out, report, peer, &verdict);
    }
}

static void put_told(FILE *out, const struct death_report *report)
{
    struct told told = {0};

    fputs(", \"told\": [", out);
    for (uint32_t peer = 0; peer < report->facts.segment->n_peers; peer++)
        if (peer != report->facts.peer)
            put_verdicts(out, report, peer, &told);
    fprintf(out, "], \"told_left_out\": %llu", (unsigned long long)told.n_left_out);
}

/* The last who was to judge; 0: somebody has not. */
static uint64_t told_ns(const struct death_report *report)
{
    const struct segment *seg = report->facts.segment;
    uint64_t last_ns = 0, at_ns;

    for (uint32_t peer = 0; peer < seg->n_peers; peer++) {
        if (!has_to_judge(report, peer))
            continue;
        if (!has_judged(report, peer))
            return 0;
        at_ns = atomic_load_relaxed(
            &segment_pair(seg, peer, report->facts.peer)->judged_ns); /* JUDGED */
        if (at_ns > last_ns)
            last_ns = at_ns;
    }
    return last_ns;
}

static void put_peers(FILE *out, const struct death_report *report)
{
    const char *separator = "";

    fputs(", \"peers\": [", out);
    for (uint32_t peer = 0; peer < report->facts.segment->n_peers; peer++) {
        if (peer == report->facts.peer)
            continue;
        fputs(separator, out);
        put_peer(out, report, peer);
        separator = ", ";
    }
    fputc(']', out);
}

static void put_head(
    FILE *out, const struct death_report *report, const char *instance, uint64_t number)
{
    char at[32] = "";
    struct tm utc;

    if (gmtime_r(&report->at, &utc))
        strftime(at, sizeof at, "%Y-%m-%dT%H:%M:%SZ", &utc);
    fprintf(out, "{\"format\": 1, \"number\": %llu, \"instance\": ", (unsigned long long)number);
    put_text(out, instance);
    fprintf(out, ", \"time\": \"%s\", \"process\": ", at);
    put_text(out, report->process);
    fprintf(out, ", \"peer\": %u, \"pid\": %d, \"incarnation\": %u, \"how\": ", report->facts.peer,
        (int)report->facts.pid, report->incarnation);
    put_text(out, report->how);
    fprintf(out, ", \"crash\": %s, \"hung\": %s, \"out_of_memory\": %s",
        report->facts.crash ? "true" : "false", report->facts.hung ? "true" : "false",
        report->facts.out_of_memory ? "true" : "false");
}

static void put_report(
    FILE *out, const struct death_report *report, const struct death_outcome *outcome)
{
    const struct part_head *part = segment_part(report->facts.segment, report->facts.peer);

    fputs(", \"running\": ", out);
    if (report->ran_call)
        put_call(out, report);
    else
        fputs("null", out);
    if (report->recorded)
        put_record(out, report->facts.segment, &report->record);
    else
        fputs(", \"record\": null", out);
    put_peers(out, report);
    put_told(out, report);
    fprintf(out, ", \"redo_finished\": %s, \"quarantined_bytes\": %llu",
        outcome->redo_finished ? "true" : "false",
        (unsigned long long)atomic_load_relaxed(&part->heap_quarantined_bytes)); /* JUDGED */
    put_ms(out, "up_ms", report->facts.died_ns, outcome->up_ns);
    put_ms(out, "told_ms", report->facts.died_ns, told_ns(report));
    put_ms(out, "served_ms", report->facts.died_ns, outcome->served_ns);
    fputs("}\n", out);
}

static int write_file(const char *folder, uint64_t number, const char *text, size_t bytes)
{
    char *path = NULL, *fresh = NULL;
    int fd = -1, r = -ENOMEM;

    if (asprintf(
            &path, "%s/death-%llu.json", folder, (unsigned long long)(number % DEATH_REPORTS)) < 0)
        path = NULL;
    if (asprintf(&fresh, "%s/death.new", folder) < 0)
        fresh = NULL;
    if (path && fresh) {
        fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        r = fd < 0 ? -errno : 0;
    }
    if (r == 0 && write(fd, text, bytes) != (ssize_t)bytes)
        r = -EIO;
    if (r == 0 && rename(fresh, path) < 0)
        r = -errno;
    if (fd >= 0)
        close(fd);
    free(path);
    free(fresh);
    return r;
}

int death_report_write(const struct death_report *report, const char *folder, const char *instance,
    const struct death_outcome *outcome)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    int r;

    if (!out)
        return -ENOMEM;
    put_head(out, report, instance, outcome->number);
    put_report(out, report, outcome);
    r = fclose(out) == 0 ? 0 : -ENOMEM;
    if (r == 0 && bytes > DEATH_REPORT_BYTES)
        r = -EFBIG;
    if (r == 0)
        r = write_file(folder, outcome->number, text, bytes);
    free(text);
    return r;
}
