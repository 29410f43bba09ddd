/* SPDX-License-Identifier: MIT */
/*
 * Items stand in one list in the order of their names, from the moment their request is made until
 * ended() was told. In order, only the list's head is handed on; otherwise whatever ends. One turn:
 *
 *   make requests while there is room and names   →  let the client send and receive
 *     ↑                                               →  hand on what has ended
 *     └──  poll: client, names, SIGINT  ←  flush output, if there was nothing to do
 */
#include "tools/pump.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "tools/clock.h"
#include "tools/interrupt.h"

#define CANCEL_WAIT_NS (5 * NS_PER_S) /* for the ends of what an interrupt cancelled */
#define REDRAW_MS      100
#define LOOK_MS        500 /* the longest sleep: the client has clocks of its own */

struct pump_entry {
    struct pump *pump;
    struct pump_entry *older, *newer;
    uint64_t id;
    int64_t submitted_ns, round_trip_ns;
    bool is_flying;
    struct sherd_result result;
    char name[]; /* NUL-terminated */
};

int pump_init(struct pump *pump, struct sherd_client *client, uint32_t window)
{
    sigset_t set = interrupt_set();
    *pump = (struct pump){
        .client = client,
        .window = window,
        .signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
    };
    if (pump->signal_fd < 0)
        return -errno;
    int r = output_open(&pump->out, STDOUT_FILENO, pump->signal_fd);
    if (r)
        close(pump->signal_fd);
    return r;
}

void pump_deinit(struct pump *pump)
{
    output_close(&pump->out);
    close(pump->signal_fd);
}

/* ---- entries ---- */

static struct pump_entry *entry_new(struct pump *pump, const struct name *name)
{
    struct pump_entry *entry = calloc(1, sizeof *entry + name->len + 1);
    if (!entry)
        return NULL;
    memcpy(entry->name, name->bytes, name->len);
    entry->pump = pump;
    entry->submitted_ns = clock_now_ns();
    entry->older = pump->newest;
    *(pump->newest ? &pump->newest->newer : &pump->oldest) = entry;
    pump->newest = entry;
    pump->n_entries++;
    return entry;
}

static void entry_free(struct pump_entry *entry)
{
    struct pump *pump = entry->pump;
    *(entry->older ? &entry->older->newer : &pump->oldest) = entry->newer;
    *(entry->newer ? &entry->newer->older : &pump->newest) = entry->older;
    pump->n_entries--;
    sherd_result_deinit(&entry->result);
    free(entry);
}

/* Tells the job how it ended and lets go of it. */
static void hand_on(struct pump_entry *entry, const struct sherd_result *result)
{
    struct pump *pump = entry->pump;
    const struct pump_job *job = pump->job;
    progress_make_way(job->progress);
    if (pump->is_interrupted && result->end != SHERD_END_DONE)
        pump->n_cut++;
    else if (job->ended(job->opaque, entry->name, entry->round_trip_ns, result))
        pump->n_done++;
    else
        pump->n_failed++;
    entry_free(entry);
}

static void hand_on_ended(struct pump *pump)
{
    while (pump->oldest && !pump->oldest->is_flying) {
        struct pump_entry *entry = pump->oldest;
        pump->held_bytes -= entry->result.len;
        hand_on(entry, &entry->result);
    }
}

/* Keeps what is not the list's head, for its turn. Without memory the answer is lost and the item
 * failed. */
static void keep(struct pump_entry *entry, const struct sherd_result *result)
{
    entry->result = *result;
    entry->result.data = NULL;
    if (!result->len)
        return;
    entry->result.data = entry->result.owned = malloc(result->len);
    if (entry->result.data) {
        memcpy(entry->result.data, result->data, result->len);
        entry->pump->held_bytes += result->len;
    } else {
        entry->result.len = 0;
        entry->result.end = SHERD_END_FAILED;
        entry->result.error = -ENOMEM;
    }
}

static void entry_ended(struct pump_entry *entry, const struct sherd_result *result)
{
    struct pump *pump = entry->pump;
    if (!pump->job->is_ordered || entry == pump->oldest) {
        hand_on(entry, result);
        hand_on_ended(pump);
    } else {
        keep(entry, result);
    }
}

static void on_end(const struct sherd_result *result, void *opaque)
{
    struct pump_entry *entry = opaque;
    entry->is_flying = false;
    entry->round_trip_ns = clock_now_ns() - entry->submitted_ns;
    entry->pump->n_flying--;
    entry_ended(entry, result);
}

/* ---- one turn ---- */

/* 0: under way, or ended by itself; -errno: the pump cannot go on. */
static int start(struct pump *pump, const struct name *name)
{
    struct sherd_request request;
    struct pump_entry *entry = entry_new(pump, name);
    if (!entry)
        return -ENOMEM;
    int r = name->is_too_long ? -ENAMETOOLONG : pump->job->make(pump->job->opaque, name, &request);
    if (!r)
        r = sherd_client_submit(pump->client, &request, on_end, entry, &entry->id);
    if (r) {
        struct sherd_result refused = {
            .end = SHERD_END_FAILED, .error = r, .shard = SHERD_NO_SHARD};
        entry_ended(entry, &refused);
        return 0;
    }
    entry->is_flying = true;
    pump->n_flying++;
    return 0;
}

static bool has_room(const struct pump *pump)
{
    return pump->n_flying < pump->window && pump->n_entries < (size_t)pump->window * PUMP_SPAN &&
           pump->held_bytes < PUMP_HELD_BYTES;
}

/* 1: no room; 0: no more names; -EAGAIN: they are still to come; -errno. */
static int start_some(struct pump *pump)
{
    while (has_room(pump)) {
        struct name name;
        int r = names_next(pump->job->names, &name);
        if (r > 0)
            r = start(pump, &name);
        else
            return r;
        if (r)
            return r;
    }
    return 1;
}

/* Whether an interrupt came; it is taken. */
static bool take_interrupt(struct pump *pump)
{
    struct signalfd_siginfo info;
    return read(pump->signal_fd, &info, sizeof info) == sizeof info;
}

/* Sleeps until something can be done. names_fd -1: not waited for. */
static int wait_for_work(struct pump *pump, int names_fd)
{
    struct pollfd fds[] = {
        {.fd = pump->signal_fd, .events = POLLIN},
        {.fd = sherd_client_fd(pump->client), .events = POLLIN},
        {.fd = names_fd, .events = POLLIN},
    };
    struct progress *progress = pump->job ? pump->job->progress : NULL;
    int n = poll(fds, 3, progress && progress_is_shown(progress) ? REDRAW_MS : LOOK_MS);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    if (fds[0].revents && take_interrupt(pump))
        return -EINTR;
    if (fds[2].revents)
        names_readable(pump->job->names);
    return 0;
}

static int flush_output(struct pump *pump)
{
    progress_make_way(pump->job->progress);
    return output_flush(&pump->out);
}

/* What of the names has been handed out, less what of that has not ended. */
static double fraction_done(const struct pump *pump)
{
    double begun = (double)(pump->n_done + pump->n_failed + pump->n_entries);
    double fraction = names_fraction(pump->job->names);
    return begun > 0 ? fraction * (double)(pump->n_done + pump->n_failed) / begun : fraction;
}

/* 1: go on; 0: all is done; -errno. */
static int turn(struct pump *pump)
{
    int more = start_some(pump);
    if (more < 0 && more != -EAGAIN)
        return more;
    int n = sherd_client_process(pump->client, 0);
    if (n < 0)
        return n;
    if (pump->out.error)
        return pump->out.error;
    progress_update(pump->job->progress, pump->n_done, pump->n_failed, fraction_done(pump));
    if (more == 0 && !pump->n_entries)
        return 0;
    if (n > 0)
        return 1;
    if (more == 1 && has_room(pump))
        return 1;
    int r = flush_output(pump);
    if (!r)
        r = wait_for_work(pump, more == -EAGAIN ? names_fd(pump->job->names) : -1);
    return r ? r : 1;
}

/* Asks that all end, and waits for that, but not for long. */
static void cancel_all(struct pump *pump)
{
    int64_t deadline_ns = clock_now_ns() + CANCEL_WAIT_NS;
    for (struct pump_entry *entry = pump->oldest; entry; entry = entry->newer)
        if (entry->is_flying)
            sherd_client_cancel(pump->client, entry->id);
    while (pump->n_flying && clock_now_ns() < deadline_ns) {
        if (sherd_client_process(pump->client, 0) < 0)
            break;
        if (pump->n_flying && wait_for_work(pump, -1))
            break;
    }
}

/* What nobody will hear of any more: closing the client lets go of it on the other side. */
static void drop_rest(struct pump *pump)
{
    while (pump->oldest) {
        pump->n_cut++;
        entry_free(pump->oldest);
    }
}

int pump_run(struct pump *pump, const struct pump_job *job)
{
    int r;
    pump->job = job;
    do
        r = turn(pump);
    while (r > 0);
    if (r && r != -ENOTCONN) {
        pump->is_interrupted = true;
        if (pump->out.error == -EINTR)
            take_interrupt(pump);
        cancel_all(pump);
    }
    int flushed = flush_output(pump);
    drop_rest(pump);
    progress_finish(job->progress, pump->n_done, pump->n_failed);
    pump->job = NULL;
    return r ? r : flushed;
}

/* ---- one request ---- */

struct call {
    bool has_ended;
    struct sherd_result result;
};

static void on_call_end(const struct sherd_result *result, void *opaque)
{
    struct call *call = opaque;
    call->has_ended = true;
    call->result = *result;
    call->result.data = call->result.owned = result->len ? malloc(result->len) : NULL;
    if (call->result.data) {
        memcpy(call->result.data, result->data, result->len);
    } else if (result->len) {
        call->result.len = 0;
        call->result.end = SHERD_END_FAILED;
        call->result.error = -ENOMEM;
    }
}

int pump_call(
    struct pump *pump, const struct sherd_request *request, struct sherd_result *ret_result)
{
    struct call call = {0};
    uint64_t id;
    int r = sherd_client_submit(pump->client, request, on_call_end, &call, &id);
    if (r)
        return r;
    int64_t give_up_ns = INT64_MAX;
    while (!call.has_ended) {
        r = sherd_client_process(pump->client, 0);
        if (r < 0 || call.has_ended)
            break;
        r = wait_for_work(pump, -1);
        if (r == -EINTR && !pump->is_interrupted) {
            pump->is_interrupted = true;
            give_up_ns = clock_now_ns() + CANCEL_WAIT_NS;
            sherd_client_cancel(pump->client, id);
        } else if (r) {
            break;
        }
        if (clock_now_ns() >= give_up_ns)
            break;
    }
    if (call.has_ended && !pump->is_interrupted) {
        *ret_result = call.result;
        return 0;
    }
    sherd_result_deinit(&call.result);
    return pump->is_interrupted ? -EINTR : r;
}

int pump_wait_readable(struct pump *pump, int fd)
{
    for (;;) {
        struct pollfd fds[] = {
            {.fd = pump->signal_fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return -errno;
        if (fds[0].revents)
            return -EINTR;
        if (fds[1].revents)
            return 0;
    }
}
