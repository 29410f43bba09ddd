/* SPDX-License-Identifier: MIT */
#include "tests/unit/shard/crash_load.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/co_sleep.h"
#include "runtime/disk.h"
#include "shard/call.h"
#include "shard/gather.h"
#include "shard/lock.h"
#include "shard/mesh_inside.h"
#include "shard/portable.h"
#include "shard/remote_bh.h"
#include "shard/shard_alloc.h"

#define LOOK_NS 200000 /* between two looks at what nobody tells of */
#define NAP_NS  INT64_C(3600000000000)
#define LARGE   9000u
#define SMALL   40u

/* The last one is not for those who are not to move. */
enum { M_ECHO, M_ONCE, M_RELAY, M_READ, M_SUM, M_NAP, M_WANDER, N_METHODS };

static struct load_board *board_of_all;

void load_set_board(struct load_board *board)
{
    board_of_all = board;
}

void load_wrong(struct load_board *board, const char *format, ...)
{
    va_list args;

    if (atomic_fetch_add(&board->n_wrong, 1) > 0)
        return;
    va_start(args, format);
    vsnprintf(board->wrong, sizeof(board->wrong), format, args);
    va_end(args);
}

/* ---- methods: the first four bytes of the arguments are the request's number ---- */

static void note_run(const void *args, size_t len)
{
    uint32_t id;

    if (len < sizeof(id))
        return; /* no request of the load's */
    memcpy(&id, args, sizeof(id));
    atomic_fetch_add(&board_of_all->n_runs[id % LOAD_IDS], 1);
}

static int coroutine_fn run_echo(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    note_run(args, len);
    return service_reply(call, args, len);
}

/* What the next one echoes. */
static int coroutine_fn run_relay(struct service_call *call)
{
    size_t len, answer_len = 0;
    const void *args = service_args(call, &len);
    uint32_t next = (service_shard(call) + 1) % service_n_shards(call);
    void *answer = NULL;
    int r = service_call_shard(call, next, "load.echo", args, len, &answer, &answer_len);

    if (r == 0)
        r = service_reply(call, answer, answer_len);
    free(answer);
    return r;
}

/* Answers from home, after it was everywhere. What can't move, for want of room, stays. */
static int coroutine_fn run_wander(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);
    uint32_t home = service_shard(call);
    uint8_t *copy = shard_alloc(len);

    note_run(args, len);
    if (copy)
        memcpy(copy, args, len);
    for (uint32_t i = 1; i < service_n_shards(call); i++)
        if (service_move(call, (home + i) % service_n_shards(call)) < 0)
            break;
    if (copy && memcmp(copy, args, len) != 0)
        load_wrong(board_of_all, "what a method had allocated has changed while it moved");
    shard_free(copy);
    return service_reply(call, args, len);
}

/* The file, read into the answer. */
static int coroutine_fn run_read(struct service_call *call)
{
    const void *args;
    size_t len;
    void *room;
    ssize_t n;
    int fd, r;

    args = service_args(call, &len);
    note_run(args, len);
    r = service_reply_room(call, LOAD_FILE_SIZE, &room);
    if (r < 0)
        return r;
    fd = open(board_of_all->file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    n = co_pread(fd, room, LOAD_FILE_SIZE, 0);
    close(fd);
    return n < 0 ? (int)n : service_reply_done(call, (size_t)n);
}

static uint32_t sum_of(const uint8_t *bytes, size_t len)
{
    uint32_t sum = 0;

    for (size_t at = 0; at < len; at++)
        sum = sum * 31 + bytes[at];
    return sum;
}

static int coroutine_fn run_sum(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);
    uint32_t sum = sum_of(args, len);

    note_run(args, len);
    return service_reply(call, &sum, sizeof(sum));
}

static int coroutine_fn run_nap(struct service_call *call)
{
    size_t len;
    const void *args = service_args(call, &len);

    note_run(args, len);
    return service_sleep_ns(call, NAP_NS);
}

#define IDEMPOTENT SERVICE_IDEMPOTENT
static const struct service_method methods[N_METHODS] = {
    [M_ECHO] = {.name = "echo", .run = run_echo, .flags = IDEMPOTENT, .help = "args back"},
    [M_ONCE] = {.name = "once", .run = run_echo, .help = "args back, not to be run twice"},
    [M_RELAY] = {.name = "relay", .run = run_relay, .flags = IDEMPOTENT, .help = "echo"},
    [M_WANDER] = {.name = "wander",
        .run = run_wander,
        .flags = IDEMPOTENT | SERVICE_PORTABLE,
        .help = "args back, after a round"},
    [M_READ] = {.name = "read", .run = run_read, .flags = IDEMPOTENT, .help = "the file"},
    [M_SUM] = {.name = "sum",
        .run = run_sum,
        .flags = IDEMPOTENT | SERVICE_IN_PLACE,
        .help = "of args read in place"},
    [M_NAP] = {.name = "nap", .run = run_nap, .flags = IDEMPOTENT, .help = "until the deadline"},
};

const struct service load_service = {.abi = SERVICE_ABI,
    .name = "load",
    .help = "for tests",
    .methods = methods,
    .n_methods = N_METHODS};

/* ---- tasks ---- */

struct task {
    struct load *load;
    uint32_t target;
    uint32_t method;
    size_t len; /* of the arguments */
    bool in_place;
};

static uint32_t next_id(struct load *load)
{
    uint32_t id = atomic_fetch_add(&load->board->n_ids, 1) % LOAD_IDS;

    atomic_store(&load->board->n_runs[id], 0);
    return id;
}

static void fill_args(uint8_t *args, size_t len, uint32_t id)
{
    for (size_t at = 0; at < len; at++)
        args[at] = load_byte(at + id);
    memcpy(args, &id, sizeof(id));
}

static bool is_right(const struct task *task, const uint8_t *args, const void *data, size_t len)
{
    uint32_t sum = sum_of(args, task->len);

    if (task->method == M_SUM)
        return len == sizeof(sum) && memcmp(data, &sum, len) == 0;
    if (task->method != M_READ)
        return len == task->len && memcmp(data, args, len) == 0;
    for (size_t at = 0; at < len; at++)
        if (((const uint8_t *)data)[at] != load_byte(at))
            return false;
    return len == LOAD_FILE_SIZE;
}

/* Whether a request may end so, beside DONE. */
static bool may_end(const struct load *load, uint32_t method, enum call_end end, int status)
{
    if (method == M_NAP && end == CALL_END_EXPIRED)
        return true;
    if (load->peer + 1 == atomic_load(&load->board->shunned))
        return true; /* its rings may be full of what its predecessor left there */
    if (end == CALL_END_IN_DOUBT && atomic_load(&load->board->may_die))
        return !(methods[method].flags & SERVICE_IDEMPOTENT);
    /* Who leaves without a supervisor may end others' calls on its way. */
    return atomic_load(&load->board->may_be_orphans) &&
           (status == -EHOSTDOWN || end == CALL_END_IN_DOUBT);
}

static void check_runs(
    const struct load *load, uint32_t method, uint32_t id, enum call_end end, int status)
{
    uint32_t n = atomic_load(&load->board->n_runs[id]);
    bool once = !(methods[method].flags & SERVICE_IDEMPOTENT);

    if (atomic_load(&load->board->hostile))
        return;
    if ((end == CALL_END_DONE && n == 0) || (end == CALL_END_NOT_STARTED && n > 0) ||
        (once && n > 1))
        load_wrong(load->board, "%s ended %s (%s), and was run %u times", methods[method].name,
            call_end_text(end), strerror(-status), n);
}

static void coroutine_fn call(const struct task *task)
{
    struct load *load = task->load;
    uint8_t *args = malloc(task->len);
    uint32_t id = next_id(load);
    struct call_answer answer;
    int r;

    fill_args(args, task->len, id);
    r = shard_call(load->mesh,
        &(struct call_request){.target = task->target,
            .method = task->method,
            .args = args,
            .args_len = task->len,
            .lane = task->method == M_ONCE ? LANE_URGENT : LANE_NORMAL,
            .deadline_ns = task->method == M_NAP ? aio_clock_ns() + LOOK_NS : INT64_MAX,
            .in_place = task->in_place},
        &answer);
    if (answer.end == CALL_END_DONE ? !is_right(task, args, answer.data, answer.len)
                                    : !may_end(load, task->method, answer.end, r))
        load_wrong(load->board, "%s of %u by %u ended wrongly: %s, %s", methods[task->method].name,
            task->target, load->peer, call_end_text(answer.end), strerror(-r));
    call_answer_deinit(&answer);
    check_runs(load, task->method, id, answer.end, r);
    free(args);
}

/* ---- gathers ---- */

static void coroutine_fn gather(const struct task *task)
{
    struct load *load = task->load;
    struct gather_call calls[LOAD_SHARDS] = {0};
    uint8_t args[LOAD_SHARDS][SMALL];
    uint32_t n = 0;

    for (uint32_t shard = 0; shard < LOAD_SHARDS; shard++) {
        if (shard + 1 == atomic_load(&load->board->shunned))
            continue;
        fill_args(args[n], SMALL, next_id(load));
        calls[n] =
            (struct gather_call){.target = shard, .args = args[n], .args_len = sizeof(args[n])};
        n++;
    }
    shard_gather(
        load->mesh, &(struct gather_request){.method = M_ECHO, .deadline_ns = INT64_MAX}, calls, n);
    for (uint32_t i = 0; i < n; i++) {
        const struct call_answer *answer = &calls[i].answer;
        bool right = answer->len == SMALL && memcmp(answer->data, args[i], SMALL) == 0;
        if (answer->end == CALL_END_DONE ? !right
                                         : !may_end(load, M_ECHO, answer->end, calls[i].status))
            load_wrong(load->board, "a gather ended wrongly: %s", call_end_text(answer->end));
    }
    gather_deinit(calls, n);
}

/* ---- bottom halves ---- */

struct bh_wait {
    struct load *load;
    CoWaitGroup group;
    enum call_end end;
    int status;
};

static void count_bh(struct mesh *mesh, const void *args, size_t len)
{
    (void)mesh;
    note_run(args, len);
}

static void on_bh(void *opaque, enum call_end end, int status)
{
    struct bh_wait *wait = opaque;

    wait->end = end;
    wait->status = status;
    co_wait_group_done(&wait->group);
}

static void coroutine_fn bottom_half(const struct task *task)
{
    struct bh_wait wait = {.load = task->load};
    uint32_t id = next_id(task->load);
    int r;

    co_wait_group_init(&wait.group);
    co_wait_group_add(&wait.group, 1);
    r = shard_bh_schedule(task->load->mesh, &(struct shard_bh){.target = task->target,
                                                .fn = count_bh,
                                                .args = &id,
                                                .args_len = sizeof(id),
                                                .done = on_bh,
                                                .opaque = &wait});
    if (r < 0) {
        load_wrong(task->load->board, "%u: a bottom half for %u was refused: %s", task->load->peer,
            task->target, strerror(-r));
        return;
    }
    co_wait_group_wait(&wait.group);
    if (wait.end != CALL_END_DONE && !may_end(task->load, M_ONCE, wait.end, wait.status))
        load_wrong(task->load->board, "a bottom half ended %s", call_end_text(wait.end));
    check_runs(task->load, M_ONCE, id, wait.end, wait.status);
}

/* ---- portable coroutines ---- */

static bool coroutine_fn is_kept(const uint8_t *memory, uint32_t seed)
{
    for (size_t at = 0; at < LARGE; at++)
        if (memory[at] != load_byte(at + seed))
            return false;
    return true;
}

/* Once round, and a wait somewhere. */
static void coroutine_fn travel(struct mesh *mesh, void *opaque)
{
    const struct task *task = opaque;
    uint32_t home = task->load->peer;
    uint8_t *memory = shard_alloc(LARGE);

    atomic_store(&board_of_all->travellers[home][task->target], shard_co_self());
    for (size_t at = 0; memory && at < LARGE; at++)
        memory[at] = load_byte(at + home);
    for (uint32_t i = 1; i <= LOAD_SHARDS; i++) {
        if (shard_co_move(&mesh, (home + i) % LOAD_SHARDS) < 0)
            break;
        if (i == 1 && shard_co_wait(&mesh, "test") < 0)
            break;
        if (memory && !is_kept(memory, home))
            load_wrong(board_of_all, "what a coroutine had allocated has changed while it moved");
    }
    shard_free(memory);
}

static void coroutine_fn wake_until_its_end(struct load *load, arena_co co)
{
    while (co && shard_co_wake(load->mesh, co) != -ESRCH)
        co_sleep_ns(LOOK_NS);
}

/* Its end is its function's, or that of a shard in which it was. */
static void coroutine_fn portable(const struct task *task)
{
    struct task copy = *task;
    arena_co co;

    if (portable_start(task->load->mesh, travel, &copy, "travel", &co) == 0)
        wake_until_its_end(task->load, co); /* else none is left */
}

/* Those that this peer's predecessor had sent out wait for a wake of its. */
static void coroutine_fn wake_orphans(struct load *load)
{
    for (uint32_t target = 0; load->peer < LOAD_SHARDS && target < LOAD_SHARDS; target++)
        wake_until_its_end(load, atomic_load(&load->board->travellers[load->peer][target]));
}

/* ---- locks ---- */

#define HOSTILE_LOCK_NS 2000000 /* who is hostile may hold one, or all that there are */

static void coroutine_fn hold(const struct task *task, bool owner_died)
{
    struct load *load = task->load;
    _Atomic uint32_t *owner = &load->board->owners[task->target];
    uint32_t before = atomic_exchange(owner, load->peer + 1);

    if (before && !owner_died)
        load_wrong(
            load->board, "two hold lock %u: %u and %u", task->target, before - 1, load->peer);
    co_sleep_ns(LOOK_NS / 4);
    if (atomic_exchange(owner, 0) != load->peer + 1)
        load_wrong(load->board, "lock %u was taken from %u", task->target, load->peer);
}

static void coroutine_fn lock(const struct task *task)
{
    struct load *load = task->load;
    struct shard_mutex mutex = {.id = LOAD_LOCK, .home = task->target};
    bool hostile = atomic_load(&load->board->hostile);
    int r = shard_mutex_lock(
        load->mesh, &mutex, hostile ? aio_clock_ns() + HOSTILE_LOCK_NS : INT64_MAX);

    if (r == -EHOSTDOWN && atomic_load(&load->board->may_be_orphans))
        return;
    if (hostile && r < 0 && r != -EOWNERDEAD)
        return;
    if (r < 0 && r != -EOWNERDEAD) {
        load_wrong(load->board, "a lock is not to be had: %s", strerror(-r));
        return;
    }
    hold(task, r == -EOWNERDEAD);
    if (r == -EOWNERDEAD)
        shard_mutex_consistent(load->mesh, &mutex);
    shard_mutex_unlock(load->mesh, &mutex);
}

/* ---- a round ---- */

typedef void task_fn(const struct task *task);

/* Of each of these one for each target. */
static const struct task_row {
    task_fn *run;
    uint32_t method;
    size_t len;
    bool in_place;
    bool shards_only;
    const char *name;
} rows[] = {
    {call, M_ECHO, SMALL, false, false},
    {call, M_ECHO, LARGE, true, false},
    {call, M_ECHO, LARGE, false, false},
    {call, M_ONCE, SMALL, false, false},
    {call, M_ONCE, LARGE, false, false},
    {call, M_RELAY, SMALL, false, false},
    {call, M_RELAY, LARGE, false, false},
    {call, M_WANDER, SMALL, false, false},
    {call, M_READ, SMALL, true, false},
    {call, M_READ, SMALL, false, false},
    {call, M_SUM, LARGE, false, false},
    {call, M_NAP, SMALL, false, false},
    {bottom_half, 0, 0, false, true, "bottom half"},
    {gather, 0, 0, false, false, "gather"},
    {lock, 0, 0, false, true, "lock"},
    {portable, 0, 0, false, true, "portable coroutine"},
};

struct load_task {
    struct task task;
    const struct task_row *row;
    struct load_task *next, *prev;
};

static void coroutine_fn run_task(void *opaque)
{
    struct load_task *task = opaque;
    struct load *load = task->task.load;

    task->row->run(&task->task);
    *(task->prev ? &task->prev->next : &load->first) = task->next;
    if (task->next)
        task->next->prev = task->prev;
    free(task);
    co_wait_group_done(&load->tasks);
}

static void start_task(struct load *load, const struct task_row *row, uint32_t target)
{
    struct load_task *task = malloc(sizeof(*task));

    *task = (struct load_task){.row = row,
        .task = {.load = load,
            .target = target,
            .method = row->method,
            .len = row->len,
            .in_place = row->in_place},
        .next = load->first};
    if (load->first)
        load->first->prev = task;
    load->first = task;
    co_wait_group_add(&load->tasks, 1);
    aio_co_schedule_at(load->mesh->ctx, coroutine_create(run_task, task), "task");
}

void load_check_end(const struct load *load)
{
    for (const struct load_task *task = load->first; task; task = task->next)
        load_wrong(load->board, "%u left, and its %s for %u had not ended", load->peer,
            task->row->run == call ? methods[task->row->method].name : task->row->name,
            task->task.target);
}

static bool is_in_round(const struct load *load, const struct task_row *row, uint32_t target)
{
    const struct load_board *board = load->board;
    uint32_t shunned = atomic_load(&board->shunned);
    bool nested = row->method == M_RELAY || row->method == M_WANDER;

    if (atomic_load(&board->hostile) && (row->run == portable || row->method == M_WANDER))
        return false;
    if (shunned && (target + 1 == shunned || nested))
        return false;
    return load->peer == LOAD_SHARDS ? !row->shards_only : target != load->peer || row->run == lock;
}

static void coroutine_fn run_round(struct load *load)
{

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (uint32_t target = 0; target < LOAD_SHARDS; target++)
            if (is_in_round(load, &rows[i], target))
                start_task(load, &rows[i], target);
    co_wait_group_wait(&load->tasks);
}

/* ---- between rounds ---- */

static uint32_t n_in_list(struct link *link, struct call_class *class)
{
    uint32_t n = 0;

    for (uint32_t at = class->free_slots; at && n <= link->n_out; at = link->out[at - 1].next_free)
        n++;
    return n;
}

/* Nothing is under way, so each slot stands in one list, and no page of the heap is taken. */
static void check_lists(const struct load *load)
{
    for (uint32_t peer = 0; peer < load->mesh->seg.n_peers; peer++) {
        struct link *link = &load->mesh->links[peer];
        uint32_t n = 0;
        for (uint32_t class = 0; class < N_LANES * SEGMENT_SLOT_CLASSES; class ++)
            n += n_in_list(
                link, &link->classes[class / SEGMENT_SLOT_CLASSES][class % SEGMENT_SLOT_CLASSES]);
        if (n != link->n_out)
            load_wrong(load->board, "%u has %u slots for calls to %u, of which %u are free",
                load->peer, link->n_out, peer, n);
    }
    if (load->mesh->heap.n_used != 0)
        load_wrong(
            load->board, "%u has %u pages of its heap in use", load->peer, load->mesh->heap.n_used);
}

static void coroutine_fn run_rounds(void *opaque)
{
    struct load *load = opaque;
    struct load_board *board = load->board;

    wake_orphans(load);
    for (;; co_sleep_ns(LOOK_NS)) {
        uint32_t at_rest = atomic_load(&board->at_rest);

        if (at_rest != atomic_load(&board->checked[load->peer])) {
            check_lists(load);
            atomic_store(&board->checked[load->peer], at_rest);
        }
        if (atomic_load(&board->round) == load->round)
            continue;
        load->round = atomic_load(&board->round);
        run_round(load);
        atomic_store(&board->over[load->peer], load->round);
    }
}

int load_start(struct load *load, struct mesh *mesh, uint32_t peer, struct load_board *board)
{
    Coroutine *co;

    *load = (struct load){
        .mesh = mesh, .peer = peer, .board = board, .round = atomic_load(&board->over[peer])};
    co_wait_group_init(&load->tasks);
    co = coroutine_create(run_rounds, load);
    if (!co)
        return -ENOMEM;
    aio_co_schedule_at(mesh->ctx, co, "load");
    return 0;
}
