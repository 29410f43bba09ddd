/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * call - shard_call(): a method runs in another shard, the calling coroutine sleeps until the
 * answer
 *
 * Why:         a method asks another shard as it would call a function, and no shard waits busily.
 * Use:         struct call_answer answer;
 *              int r = shard_call(mesh, &(struct call_request){.target = 1, .method = m}, &answer);
 *              …
 *              call_answer_deinit(&answer);
 * Concurrency: coroutine of the mesh's loop. A scope (runtime/co_cancel.h) that ends takes the call
 *              back: CANCELLED and -ECANCELED, or EXPIRED and -ETIMEDOUT; its deadline is the
 *              call's too. A call to the own shard runs in the calling coroutine.
 */
#include "runtime/co_wait.h"
#include "runtime/coroutine.h"
#include "shard/mesh.h"

struct call_request {
    uint32_t target;
    uint32_t method;
    const void *args;
    size_t args_len;
    int64_t deadline_ns; /* INT64_MAX: none */
    uint32_t depth;      /* 0, or one more than the call that is being served */
    uint32_t path;       /* 0, or path_within() the call that is being served */
    uint32_t lane;       /* enum mesh_lane */
    uint64_t origin;     /* 0, or that of the client's request that it is made for */
    /* An answer that is not small is read where it lies, in the callee's memory, until
     * call_answer_deinit(). Until then the coroutine that asked makes no other call (-EDEADLK). For
     * answers that are passed on or looked at once; see struct mesh_answer for what is parsed. */
    bool in_place;
};

/* Not to be moved or copied while it is alive; one that is read in place is given back by the
 * coroutine that asked, before it ends. */
struct call_answer {
    enum call_end end;
    const void *data; /* NULL where len is 0; with a NUL behind it, unless it is read in place */
    size_t len;

    /* The call's own. */
    void *copy; /* malloc; where data is not in place */
    struct mesh *mesh;
    struct mesh_hold hold;
    Coroutine *reader;
    struct call_answer *next;
};

/* Gives back what it holds. Owner loop. */
void call_answer_deinit(struct call_answer *answer);

/* The earlier of deadline_ns and that of the calling coroutine's scopes. Coroutine or loop. */
int64_t call_deadline_ns(int64_t deadline_ns);

/* Whether co reads an answer in place. Owner loop. */
bool call_is_reading(const struct mesh *mesh, const Coroutine *co);

/*
 * A call whose arguments are filled in place, by a disk read or otherwise, and reach the callee
 * without a copy:
 *
 *     struct call_room room;
 *     r = shard_call_room(mesh, &request, &room);     waits for a slot and a buffer of args_len bytes
 *     n = co_pread(fd, room.data, room.len, 0);
 *     r = shard_call_filled(&room, n, &answer);       or shard_call_room_drop(&room)
 *
 * Until then the coroutine may wait for disks and time, and makes no other call. The room begins on
 * a page; its bytes are whatever was there before. It lies in this shard's part, and once sent it
 * is not written to any more; shard/mesh.h says whose it is when, and what a death leaves of it.
 */
struct call_room {
    void *data;
    size_t len;

    /* The call's own; it is not to be moved or copied while it is filled. */
    struct call_wait {
        struct mesh_call call; /* first: on_done() gets a pointer to it */
        struct co_wait wait;
        Coroutine *co;
        struct call_answer *answer;
        int status;
        bool in_place;
        bool withdrawn; /* by the end of a scope */
        bool waits;     /* for ready() or done() */
        bool is_over;   /* done() has come */
    } waiting;
    struct mesh *mesh;
    struct call_request request;
    struct call_answer refusal; /* how it ended before it was filled */
};

/* 0, with ret_room; else as shard_call(), with no room. -EMSGSIZE: args_len is 0, or too large. */
int coroutine_fn shard_call_room(
    struct mesh *mesh, const struct call_request *request, struct call_room *ret_room);

/* Sends the first len bytes, and ends as shard_call(). */
int coroutine_fn shard_call_filled(
    struct call_room *room, size_t len, struct call_answer *ret_answer);

/* Gives it back. Owner loop. */
void shard_call_room_drop(struct call_room *room);

/* The same for one that malloc() gave, or for none; *room is NULL after it. Owner loop. */
void call_room_free(struct call_room **room);

/* 0 where end is DONE, else -errno with ret_answer->end; both set on every return. What
 * mesh_call_start() refuses ends as NOT_STARTED, and so does a call of a coroutine that reads an
 * answer in place: -EDEADLK. */
int coroutine_fn shard_call(
    struct mesh *mesh, const struct call_request *request, struct call_answer *ret_answer);
