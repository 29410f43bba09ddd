/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/client_users.h"

#include <stddef.h>

#include "runtime/atomic.h"

#define MS        INT64_C(1000000)
#define FORGET_NS (INT64_C(24) * 60 * 60 * 1000 * MS)

static struct client_user *find(const struct segment *seg, uid_t uid)
{
    struct client_user *users = segment_client_users(seg);

    for (uint32_t i = 0; i < SEGMENT_CLIENT_USERS; i++)
        if (users[i].used && users[i].uid == uid)
            return &users[i];
    return NULL;
}

/* A free row, or the one whose wait is over first. */
static struct client_user *make_room(const struct segment *seg)
{
    struct client_user *users = segment_client_users(seg), *room = users;

    for (uint32_t i = 0; i < SEGMENT_CLIENT_USERS; i++) {
        if (!users[i].used)
            return &users[i];
        if (users[i].until_ns < room->until_ns)
            room = &users[i];
    }
    return room;
}

static uint32_t doubled(uint32_t wait_ms)
{
    if (wait_ms == 0)
        return CLIENT_WAIT_FIRST_MS;
    return wait_ms < CLIENT_WAIT_MOST_MS / 2 ? wait_ms * 2 : CLIENT_WAIT_MOST_MS;
}

void client_users_note_crash(const struct segment *seg, uid_t uid, int64_t now_ns)
{
    struct client_user *user = find(seg, uid);

    if (!user) {
        user = make_room(seg);
        *user = (struct client_user){.uid = uid};
    } else if ((int64_t)user->until_ns + FORGET_NS < now_ns) {
        *user = (struct client_user){.uid = uid};
    }
    atomic_store_relaxed(&user->crashes, user->crashes + 1);
    atomic_store_relaxed(&user->wait_ms, doubled(user->wait_ms));
    atomic_store_relaxed(&user->until_ns, (uint64_t)(now_ns + user->wait_ms * MS));
    atomic_store_relaxed(&user->used, 1u);
}

int64_t client_users_wait_ns(const struct segment *seg, uid_t uid, int64_t now_ns)
{
    struct client_user *user = find(seg, uid);

    if (!user || (int64_t)user->until_ns <= now_ns)
        return 0;
    atomic_store_relaxed(&user->refused, user->refused + 1);
    return (int64_t)user->until_ns - now_ns;
}
