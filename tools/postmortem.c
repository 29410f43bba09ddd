/* SPDX-License-Identifier: MIT */
/*
 * sherd postmortem - what the dead left: registers and stack of the last crash, what was running,
 * the last events, calls that were under way, coroutines, queues, accounts, reports of deaths, dead
 * letters
 *
 * It reads the segment of an instance that lives, that died, or that was kept after a crash, by
 * name, so that another version's is read right as far as it goes.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/instruments.h"
#include "shard/dead_letter.h"
#include "shard/rundir.h"
#include "shard/segment.h"
#include "shard/segment_file.h"
#include "tools/audit_json.h"
#include "tools/co_view.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/death_reports.h"
#include "tools/json.h"
#include "tools/look.h"
#include "tools/postmortem_text.h"
#include "tools/queue_json.h"
#include "tools/text.h"

struct values {
    const char *instance;
    int64_t wait_ns;
    uint32_t crashed;     /* 0: the instance as it is */
    uint32_t incarnation; /* 0: all that is there */
    uint32_t events;
    bool json;
};

static const struct command_option options[] = {
    COMMAND_INSTANCE_OPTIONS(struct values),
    {"crashed", 0, "N", "the instance that crashed before: 1 the last one, 2, 3", command_u32,
        offsetof(struct values, crashed)},
    {"incarnation", 0, "N", "of each process what its N-th incarnation left", command_u32,
        offsetof(struct values, incarnation)},
    {"events", 0, "N", "how many events of each process (default: 10)", command_u32,
        offsetof(struct values, events)},
    {"json", 0, NULL, "print JSON", command_flag, offsetof(struct values, json)},
    {0},
};

static const struct command_example examples[] = {
    {"sherd postmortem --instance demo", "what the last deaths left"},
    {"sherd postmortem --instance demo --crashed 1", "the instance that crashed before this one"},
    {"sherd postmortem --instance demo --incarnation 2", "what the second process of each left"},
    {"sherd postmortem /dev/shm/sherd-1000-0123456789abcdef --json", "a segment's file"},
    {0},
};

static const struct command command = {
    .name = "postmortem",
    .operands = "[FILE]",
    .summary = "Shows what the dead processes of an instance left, or those of a dead instance.",
    .details = "FILE is a segment, such as those kept in /dev/shm after an instance crashed.\n"
               "It reads files and shared memory and asks nobody.",
    .options = options,
    .examples = examples,
};

struct post {
    const struct look *look;
    struct symbols *symbols;
    uint32_t n_events;
    uint32_t incarnation; /* 0: any */
    bool is_kept;         /* of an instance before; reports of deaths are this one's */
};

static uint64_t incarnation_of(const struct post *post, uint32_t peer)
{
    struct view_record control;
    return segment_view_at(&post->look->view, "control", 0, "peers", peer, 0, &control)
               ? look_word(&control, "incarnation")
               : 0;
}

/* What stands in its part is that incarnation's. */
static bool stands_still(const struct post *post, uint32_t peer)
{
    return !post->incarnation || incarnation_of(post, peer) == post->incarnation;
}

/* ---- the crash ---- */

struct stack_copy {
    uint64_t address, bytes;
    uint8_t at[CRASH_STACK_BYTES];
};

struct backtrace {
    const struct post *post;
    struct stack_copy stack;
    json_t *frames;
};

/* A word above the copy reads as 0: there the walk ends. */
static bool read_stack(void *opaque, uint64_t address, uint64_t *ret_word)
{
    const struct stack_copy *stack = &((struct backtrace *)opaque)->stack;
    uint64_t off = address - stack->address;
    if (address < stack->address || stack->bytes < sizeof *ret_word ||
        off > stack->bytes - sizeof *ret_word)
        return false;
    memcpy(ret_word, stack->at + off, sizeof *ret_word);
    return true;
}

static void add_frame(void *opaque, uint64_t pc)
{
    struct backtrace *b = opaque;
    char text[256];
    json_array_append_new(
        b->frames, json_string(symbols_name(b->post->symbols, pc, text, sizeof text)));
}

static void copy_stack(const struct view_record *crash, struct stack_copy *ret)
{
    const struct layout_field *field = view_field(crash, "stack");
    ret->address = look_word(crash, "stack_address");
    ret->bytes = look_word(crash, "stack_bytes");
    if (!field || ret->bytes > field->bytes || ret->bytes > sizeof ret->at)
        ret->bytes = 0;
    if (ret->bytes)
        memcpy(ret->at, crash->at + field->off, ret->bytes);
}

static json_t *backtrace_json(
    const struct post *post, const struct view_record *crash, const json_t *registers)
{
    struct backtrace b = {.post = post, .frames = json_array()};
    uint64_t words[CRASH_REGISTERS_MAX] = {0};
    size_t n = json_array_size(registers);
    for (size_t i = 0; i < n; i++)
        view_word(crash, "registers", (uint32_t)i, &words[i]);
    copy_stack(crash, &b.stack);
    if (!symbols_backtrace(post->symbols, (uint32_t)look_word(crash, "machine"), words, (uint32_t)n,
            read_stack, add_frame, &b))
        add_frame(&b, look_word(crash, "pc"));
    return b.frames;
}

static void set_hex(json_t *o, const char *key, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "0x%" PRIx64, value);
    json_set_text(o, key, text);
}

/* What ran was a call: running_word() of call_records.h. */
static json_t *running_json(const struct post *post, uint64_t word)
{
    char name[LOOK_NAME];
    json_t *o;
    if (!word || !post->look->is_same_version)
        return json_null();
    o = json_object();
    json_set_text(o, "called", look_peer_name(post->look, (uint32_t)(word >> 56), name));
    json_set_text(o, "by", look_peer_name(post->look, (uint32_t)(word >> 48) & 0xff, name));
    json_set_u64(o, "slot", word >> 32 & 0xffff);
    json_set_u64(o, "generation_low", word & UINT32_MAX);
    return o;
}

static json_t *registers_json(const struct view_record *crash)
{
    json_t *array = json_array();
    uint64_t n = look_word(crash, "n_registers"), value;
    char text[24];
    for (uint32_t i = 0; i < n && i < CRASH_REGISTERS_MAX; i++) {
        if (!view_word(crash, "registers", i, &value))
            break;
        snprintf(text, sizeof text, "0x%" PRIx64, value);
        json_array_append_new(array, json_string(text));
    }
    return array;
}

/* NULL: the peer has left no record, or is writing one. */
static json_t *crash_json(const struct post *post, uint32_t peer)
{
    struct view_record crash;
    char text[64];
    if (!segment_view_of_peer(&post->look->view, peer, "crash", 0, 0, &crash))
        return NULL;
    uint64_t sequence = look_word(&crash, "sequence");
    if (!sequence || sequence % 2 ||
        (post->incarnation && look_word(&crash, "incarnation") != post->incarnation))
        return NULL;
    json_t *o = json_object(), *registers = registers_json(&crash);
    json_set_text(o, "kind", crash_kind_text((uint32_t)look_word(&crash, "kind")));
    json_set_u64(o, "incarnation", look_word(&crash, "incarnation"));
    json_set_u64(o, "pid", look_word(&crash, "pid"));
    json_set_u64(o, "signal", look_word(&crash, "signal"));
    set_hex(o, "fault_address", look_word(&crash, "fault_address"));
    view_text(&crash, "coroutine_name", text, sizeof text);
    json_set_text(o, "coroutine", text);
    json_set_u64(o, "coroutine_id", look_word(&crash, "coroutine"));
    json_set_text(o, "begins_in",
        symbols_name(post->symbols, look_word(&crash, "coroutine_entry"), text, sizeof text));
    json_object_set_new(
        o, "overflow", json_boolean((look_word(&crash, "flags") & CRASH_OVERFLOW) != 0));
    json_object_set_new(o, "served", running_json(post, look_word(&crash, "running")));
    json_object_set_new(o, "backtrace", backtrace_json(post, &crash, registers));
    json_object_set_new(o, "registers", registers);
    return o;
}

/* ---- the last events ---- */

static const char *event_text(const struct look *look, uint64_t kind)
{
    static const char *const texts[] = {
#define X(name, help) help,
        RECORDER_EVENTS(X)
#undef X
    };
    return look->is_same_version && kind < sizeof texts / sizeof *texts ? texts[kind] : "event";
}

static json_t *event_json(const struct look *look, const struct view_record *event)
{
    json_t *o = json_object();
    json_set_u64(o, "ns", look_word(event, "ns"));
    json_set_u64(o, "kind", look_word(event, "kind"));
    json_set_text(o, "what", event_text(look, look_word(event, "kind")));
    set_hex(o, "a", look_word(event, "a"));
    set_hex(o, "b", look_word(event, "b"));
    return o;
}

/* The events that a peer's recorder keeps, by number. */
struct recorded {
    const struct segment_view *view;
    uint32_t peer, n_places;
    uint64_t first, end;
};

static bool find_recorded(const struct post *post, uint32_t peer, struct recorded *ret)
{
    const struct segment_view *view = &post->look->view;
    const struct layout_region *region =
        segment_view_region(view, peer == view->n_shards ? "gateway" : "shard", "events");
    struct view_record recorded;
    if (!region || !region->n_inner ||
        !segment_view_of_peer(view, peer, "recorded", 0, 0, &recorded))
        return false;
    uint64_t end = look_word(&recorded, "value");
    uint64_t kept = end < region->n_inner ? end : region->n_inner;
    *ret = (struct recorded){view, peer, region->n_inner, end - kept, end};
    return true;
}

static bool event_at(const struct recorded *r, uint64_t number, struct view_record *ret)
{
    return segment_view_of_peer(
        r->view, r->peer, "events", 0, (uint32_t)(number % r->n_places), ret);
}

/* A recorder goes on over the incarnations: each notes that it is up, and a replacement notes more
 * before that from the moment it was forked. */
static bool begins_incarnation(const struct view_record *event, uint64_t *state)
{
    if (look_word(event, "kind") != RECORDER_STATE)
        return false;
    uint64_t before = *state;
    *state = look_word(event, "a");
    return *state == PEER_UP && before != PEER_DRAINING;
}

/* Leaves what one incarnation noted. Where it noted nothing that is kept, nothing. */
static void cut_to_incarnation(const struct post *post, struct recorded *r)
{
    uint64_t state = PEER_STARTING, begun = 0, first = r->end, last = r->first, own;
    uint64_t newest = incarnation_of(post, r->peer);
    struct view_record event;
    for (uint64_t i = r->first; i < r->end; i++)
        begun += event_at(r, i, &event) && begins_incarnation(&event, &state);
    own = newest - begun;
    state = PEER_STARTING;
    for (uint64_t i = r->first; i < r->end; i++) {
        own += event_at(r, i, &event) && begins_incarnation(&event, &state);
        if (own != post->incarnation)
            continue;
        first = i < first ? i : first;
        last = i + 1;
    }
    r->first = first;
    r->end = last > first ? last : first;
}

/* The newest last. */
static json_t *events_json(const struct post *post, uint32_t peer)
{
    struct recorded r;
    struct view_record event;
    json_t *array = json_array();
    if (!find_recorded(post, peer, &r))
        return array;
    if (post->incarnation)
        cut_to_incarnation(post, &r);
    if (r.end - r.first > post->n_events)
        r.first = r.end - post->n_events;
    for (uint64_t i = r.first; i < r.end; i++)
        if (event_at(&r, i, &event))
            json_array_append_new(array, event_json(post->look, &event));
    return array;
}

/* ---- calls that were under way ---- */

static const char *call_state_name(uint64_t state)
{
    static const char *const names[] = {[CALL_FREE] = "free",
        [CALL_WAITING] = "waiting",
        [CALL_ABANDONED] = "abandoned",
        [CALL_READING] = "answered"};
    return state < sizeof names / sizeof *names ? names[state] : "unknown";
}

static json_t *call_json(
    const struct post *post, uint32_t to, uint32_t slot, const struct view_record *call)
{
    uint64_t word = look_word(call, "word");
    char name[LOOK_NAME], method[LOOK_METHOD];
    json_t *o = json_object();
    json_set_text(o, "to", look_peer_name(post->look, to, name));
    json_set_u64(o, "slot", slot);
    json_set_u64(o, "generation", word >> 8);
    json_set_text(o, "state", call_state_name(word & 0xff));
    json_set_text(
        o, "method", look_method(post->look, (uint32_t)look_word(call, "method"), method));
    json_set_u64(o, "bytes", look_word(call, "args_len"));
    return o;
}

static json_t *calls_json(const struct post *post, uint32_t peer)
{
    const struct segment_view *view = &post->look->view;
    struct view_record call;
    json_t *array = json_array();
    for (uint32_t to = 0;
         post->look->is_same_version && stands_still(post, peer) && to < view->n_shards; to++)
        for (uint32_t slot = 0; segment_view_of_peer(view, peer, "calls", to, slot, &call); slot++)
            if ((look_word(&call, "word") & 0xff) != CALL_FREE)
                json_array_append_new(array, call_json(post, to, slot, &call));
    return array;
}

/* ---- a process ---- */

static json_t *process_json(const struct post *post, uint32_t peer)
{
    struct view_record control;
    char name[LOOK_NAME];
    json_t *o = json_object(), *crash = crash_json(post, peer);
    json_set_text(o, "process", look_peer_name(post->look, peer, name));
    if (segment_view_at(&post->look->view, "control", 0, "peers", peer, 0, &control)) {
        json_set_u64(o, "incarnation", look_word(&control, "incarnation"));
        json_set_text(o, "state", peer_state_text((uint32_t)look_word(&control, "state")));
        json_set_u64(o, "deaths", look_word(&control, "deaths"));
        json_set_u64(o, "crashes", look_word(&control, "crashes"));
    }
    json_object_set_new(o, "crash", crash ? crash : json_null());
    json_object_set_new(o, "calls", calls_json(post, peer));
    json_object_set_new(o, "events", events_json(post, peer));
    return o;
}

/* ---- dead letters ---- */

static json_t *letter_json(const struct post *post, uint32_t number, const struct dead_letter *l)
{
    char name[LOOK_NAME];
    json_t *o = json_object();
    json_set_u64(o, "number", number);
    json_set_text(o, "method", l->head.method);
    json_set_text(o, "caller", look_peer_name(post->look, l->head.caller, name));
    json_set_text(o, "callee", look_peer_name(post->look, l->head.callee, name));
    json_set_u64(o, "bytes", l->head.args_len);
    return o;
}

/* Those in the directory of the instance; none where a segment alone is looked at. */
static json_t *letters_json(const struct post *post, const char *dir)
{
    uint32_t numbers[DEAD_LETTERS_MAX];
    uint32_t n = dir ? dead_letter_list(dir, numbers) : 0;
    json_t *array = json_array();
    for (uint32_t i = 0; i < n; i++) {
        struct dead_letter *letter;
        if (dead_letter_read(dir, numbers[i], &letter) == 0) {
            json_array_append_new(array, letter_json(post, numbers[i], letter));
            dead_letter_free(letter);
        }
    }
    return array;
}

/* ---- the views of the other commands ---- */

/* Of processes in which nobody has come after those that are asked about. */
static json_t *coroutines_json(const struct post *post)
{
    struct co_reader *reader = co_reader_new(post->look);
    json_t *all = reader ? co_reader_json(reader, true) : json_array(), *shown = json_array(), *co;
    char name[LOOK_NAME];
    size_t i;
    json_array_foreach(
        all, i, co) for (uint32_t peer = 0; peer <= post->look->view.n_shards;
                         peer++) if (stands_still(post, peer) &&
                                     !strcmp(json_string_value(json_object_get(co, "process")),
                                         look_peer_name(post->look, peer, name)))
        json_array_append(shown, co);
    json_decref(all);
    co_reader_free(reader);
    return shown;
}

static json_t *queues_json(const struct post *post)
{
    struct queue_reader reader;
    if (post->incarnation)
        return json_array();
    queue_reader_init(&reader, post->look);
    return queue_pairs_json(&reader, NULL);
}

static json_t *post_json(const struct post *post, const char *dir)
{
    json_t *o = json_object(), *processes = json_array();
    json_set_text(o, "instance", post->look->name);
    json_set_text(o, "segment", post->look->path);
    json_object_set_new(o, "live", json_boolean(post->look->supervisor != 0));
    for (uint32_t peer = 0; peer <= post->look->view.n_shards; peer++)
        json_array_append_new(processes, process_json(post, peer));
    json_object_set_new(o, "processes", processes);
    json_object_set_new(o, "coroutines", coroutines_json(post));
    json_object_set_new(o, "queues", queues_json(post));
    json_object_set_new(o, "deaths",
        death_reports_read(post->is_kept ? NULL : dir, post->incarnation, post->symbols));
    json_object_set_new(o, "dead_letters", letters_json(post, dir));
    json_object_set_new(o, "audit", post->incarnation ? json_null() : audit_json(post->look));
    return o;
}

/* ---- the command ---- */

static int open_crashed(const struct values *values, const char *dir, struct look *ret)
{
    char *path;
    int r;
    if (asprintf(&path, "%s/crashed-%u", dir, values->crashed) < 0)
        return command_error("no memory");
    r = look_open_file(path, ret);
    free(path);
    return r;
}

static int open_what(
    const struct values *values, const char *file, const char *dir, struct look *ret)
{
    if (file)
        return look_open_file(file, ret);
    if (values->crashed)
        return open_crashed(values, dir, ret);
    return look_open(values->instance, values->wait_ns, LOOK_THERE_OR_DEAD, ret);
}

static int show(const struct values *values, const char *file, const char *dir)
{
    struct look look;
    if (open_what(values, file, dir, &look))
        return EXIT_WORK_FAILED;
    struct post post = {.look = &look,
        .symbols = look_symbols(&look),
        .n_events = values->events,
        .incarnation = values->incarnation,
        .is_kept = values->crashed != 0};
    json_t *told = post_json(&post, file ? NULL : dir);
    int status = EXIT_DONE;
    if (values->json) {
        status = json_print(told);
    } else {
        postmortem_print(told);
        json_decref(told);
    }
    symbols_free(post.symbols);
    look_close(&look);
    return status ? status : command_finish_output();
}

int postmortem_command(int argc, char **argv)
{
    struct values values = {.wait_ns = 0, .events = 10};
    char **operands, *dir = NULL, *error = NULL;
    int n = command_parse(&command, argc, argv, &values, &operands);
    if (n < 0)
        return command_exit_status(n);
    if (n > 1)
        return command_usage(&command, "it takes one FILE at most");
    if (values.crashed > SEGMENT_FILE_CRASHED_MAX)
        return command_usage(&command, "--crashed must be 1 to %u", SEGMENT_FILE_CRASHED_MAX);
    if (n == 1 && (values.instance || values.crashed))
        return command_usage(&command, "FILE and --instance or --crashed exclude each other");
    int r = n ? 0 : rundir_path(values.instance ? values.instance : "default", &dir, &error);
    if (r < 0 && r != -ENOENT)
        return command_error_text(error, "runtime directory", r);
    int status = show(&values, n ? operands[0] : NULL, dir);
    free(dir);
    return status;
}
