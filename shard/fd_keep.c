/* SPDX-License-Identifier: MIT */
/*
 * What is kept under a key is a bundle (fd_bundle.h). There is one a key at most, so what a giver
 * gone mad can have kept is bounded.
 *
 * Nothing waits: what can't be told to an heir now (its channel is full) is noted as owed in the
 * bundle, and told when there is room. A dropped bundle has closed its fds, and goes when nobody is
 * owed its end. The giver's next request is read only when it has been told what became of the one
 * before.
 *
 * The supervisor holds both ends of each channel. So nothing is lost with a child, the replacement
 * finds its channel where it was, and what the dead one had not read can be taken back.
 */
#include "shard/fd_keep.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shard/bits.h"
#include "shard/explain.h"
#include "shard/fd_bundle.h"
#include "shard/fd_pass.h"

#define REQUESTS_A_TURN 64u
#define RETRY_NS        (INT64_C(10) * 1000 * 1000)

struct channel {
    struct fd_keep *keep;
    uint32_t peer;
    int own, childs;
    bool behind; /* something is owed on it, and it is watched for room */
};

struct fd_keep {
    uint32_t n_peers, giver, max_keys;
    struct log *log;
    AioContext *ctx; /* NULL: not started */
    AioTimer retry;
    struct channel *channels;
    struct fd_bundle **bundles; /* by key; NULL: none */
    uint64_t *dropped;          /* by key: the last generation that was */
    struct fd_bundle program;
    struct fd_keep_message reply; /* that there was no room for; op 0: none */
    rlim_t max_fd;
    uint32_t n_fds;
};

static bool is_empty(const uint64_t bits[SEGMENT_BITMAP_WORDS])
{
    uint64_t any = 0;

    for (uint32_t i = 0; i < SEGMENT_BITMAP_WORDS; i++)
        any |= bits[i];
    return any == 0;
}

/* ---- bundles ---- */

static void close_items(struct fd_keep *keep, struct fd_bundle *bundle)
{
    keep->n_fds -= bundle->n_items;
    fd_bundle_close(bundle);
}

static void forget(struct fd_keep *keep, struct fd_bundle *bundle)
{
    close_items(keep, bundle);
    keep->bundles[bundle->key] = NULL;
    free(bundle);
}

/* Consumes fd. */
static int add_item(
    struct fd_keep *keep, struct fd_bundle *bundle, const struct fd_keep_message *what, int fd)
{
    uint32_t n_before = bundle->n_items;
    bool owed = what->peer != FD_KEEP_ALL && what->peer != keep->giver;
    int r = fd_bundle_add(bundle, what, owed, fd);

    keep->n_fds += bundle->n_items - n_before;
    return r;
}

/* ---- telling heirs ---- */

static int tell_item(
    struct fd_keep *keep, const struct fd_bundle *bundle, const struct fd_item *item)
{
    struct fd_keep_message message = {.op = FD_KEEP_HAND,
        .kind = item->kind,
        .key = bundle->key,
        .peer = item->peer,
        .generation = bundle->generation};
    int fds[FD_KEEP_FDS_MAX];

    memcpy(message.note, item->note, sizeof(message.note));
    for (const struct fd_item *other = bundle->items; other; other = other->next)
        if (other->peer == FD_KEEP_ALL)
            fds[message.n_fds++] = other->fd;
    fds[message.n_fds++] = item->fd;
    return fd_pass_send(
        keep->channels[item->peer].own, &message, sizeof(message), fds, message.n_fds);
}

static int tell_end(struct fd_keep *keep, const struct fd_bundle *bundle, uint32_t peer)
{
    struct fd_keep_message message = {
        .op = FD_KEEP_DROP, .key = bundle->key, .peer = peer, .generation = bundle->generation};

    return fd_keep_send(keep->channels[peer].own, &message, -1);
}

/* Tells peer what it is owed of this bundle. 0, or -errno: no more can be told now. */
static int tell_bundle(struct fd_keep *keep, struct fd_bundle *bundle, uint32_t peer)
{
    int r = 0;

    for (struct fd_item *item = bundle->items; item && r == 0; item = item->next) {
        if (item->peer != peer || !item->owed)
            continue;
        r = tell_item(keep, bundle, item);
        item->owed = r < 0;
    }
    if (r == 0 && bits_has(bundle->owed_end, peer)) {
        r = tell_end(keep, bundle, peer);
        if (r == 0)
            bits_clear(bundle->owed_end, peer);
    }
    return r;
}

static void forget_if_over(struct fd_keep *keep, struct fd_bundle *bundle)
{
    if (bundle->dropped && is_empty(bundle->owed_end))
        forget(keep, bundle);
}

static void on_room(void *opaque);

/* The channel has no room, or (-ETOOMANYREFS and the like) the kernel has none, which no event
 * tells the end of. */
static void fall_behind(struct channel *channel, int error)
{
    struct fd_keep *keep = channel->keep;
    bool waits =
        error == -EAGAIN && keep->ctx &&
        aio_set_fd_handler(keep->ctx, channel->own, NULL, on_room, NULL, NULL, channel) == 0;

    channel->behind = true;
    if (!waits && keep->ctx)
        timer_mod_ns(&keep->retry, aio_clock_ns() + RETRY_NS);
}

static void tell(struct fd_keep *keep, struct fd_bundle *bundle, uint32_t peer)
{
    struct channel *channel = &keep->channels[peer];
    int r = channel->behind ? 0 : tell_bundle(keep, bundle, peer);

    if (r < 0)
        fall_behind(channel, r);
}

static void catch_up(struct channel *channel)
{
    struct fd_keep *keep = channel->keep;

    channel->behind = false;
    if (channel->peer != keep->giver)
        aio_set_fd_handler(keep->ctx, channel->own, NULL, NULL, NULL, NULL, NULL);
    for (uint32_t key = 0; key < keep->max_keys && !channel->behind; key++) {
        struct fd_bundle *bundle = keep->bundles[key];
        if (!bundle)
            continue;
        tell(keep, bundle, channel->peer);
        forget_if_over(keep, bundle);
    }
}

static void on_room(void *opaque)
{
    catch_up(opaque);
}

static void on_retry(void *opaque)
{
    struct fd_keep *keep = opaque;

    for (uint32_t peer = 0; peer < keep->n_peers; peer++)
        if (keep->channels[peer].behind)
            catch_up(&keep->channels[peer]);
}

/* ---- what the giver asks for ---- */

/* Whether what it says makes sense: it may have gone mad. */
static int check_put(const struct fd_keep *keep, const struct fd_keep_message *asked)
{
    const struct fd_bundle *bundle;

    if (asked->key >= keep->max_keys || asked->n_fds != 1 ||
        (asked->peer >= keep->n_peers && asked->peer != FD_KEEP_ALL))
        return -EINVAL;
    if (asked->generation <= keep->dropped[asked->key])
        return -ESTALE;
    bundle = keep->bundles[asked->key];
    if (bundle && (bundle->dropped || bundle->generation != asked->generation))
        return -EBUSY;
    return bundle && bundle->n_items >= keep->n_peers + FD_KEEP_FDS_MAX &&
                   !fd_bundle_find(bundle, asked->kind, asked->peer)
               ? -EINVAL
               : 0;
}

/* Consumes fd. */
static int put(struct fd_keep *keep, const struct fd_keep_message *asked, int fd)
{
    struct fd_bundle *bundle;
    int r = check_put(keep, asked);

    if (r == 0 && (rlim_t)fd + FD_KEEP_RESERVED >= keep->max_fd)
        r = -EMFILE;
    if (r < 0) {
        close(fd);
        return r;
    }
    bundle = keep->bundles[asked->key];
    if (!bundle) {
        bundle = calloc(1, sizeof(*bundle));
        if (!bundle) {
            close(fd);
            return -ENOMEM;
        }
        bundle->key = asked->key;
        bundle->generation = asked->generation;
        keep->bundles[asked->key] = bundle;
    }
    r = add_item(keep, bundle, asked, fd);
    if (!bundle->items)
        forget(keep, bundle);
    else if (r == 0 && asked->peer != FD_KEEP_ALL && asked->peer != keep->giver)
        tell(keep, bundle, asked->peer);
    return r;
}

/* Its heirs, and whom the giver names. */
static void note_owed_end(
    const struct fd_keep *keep, struct fd_bundle *bundle, const struct fd_keep_message *asked)
{
    uint64_t named[SEGMENT_BITMAP_WORDS];

    _Static_assert(sizeof(named) <= FD_KEEP_NOTE, "a note has room for a bit a peer");
    memcpy(named, asked->note, sizeof(named));
    for (uint32_t peer = 0; peer < keep->n_peers; peer++)
        if (bits_has(named, peer) || bits_has(bundle->heirs, peer))
            bits_set(bundle->owed_end, peer);
}

static void drop(struct fd_keep *keep, const struct fd_keep_message *asked)
{
    struct fd_bundle *bundle;

    if (asked->key >= keep->max_keys)
        return;
    if (asked->generation > keep->dropped[asked->key])
        keep->dropped[asked->key] = asked->generation;
    bundle = keep->bundles[asked->key];
    if (!bundle || bundle->dropped || bundle->generation > asked->generation)
        return;
    close_items(keep, bundle);
    bundle->dropped = true;
    note_owed_end(keep, bundle, asked);
    bits_clear(bundle->owed_end, keep->giver);
    for (uint32_t peer = 0; peer < keep->n_peers; peer++)
        if (bits_has(bundle->owed_end, peer))
            tell(keep, bundle, peer);
    forget_if_over(keep, bundle);
}

/* Does one request; keep->reply is what is to be said to it, where anything is. */
static void do_request(
    struct fd_keep *keep, int received, const struct fd_keep_message *asked, int *fds)
{
    int r = received;

    if (received < 0 && received != -EMFILE) {
        log_line(
            keep->log, LOG_LEVEL_WARNING, "the gateway said something that is no message: ignored");
        return;
    }
    if (asked->op == FD_KEEP_PUT && r > 0 && asked->n_fds == 1) {
        r = put(keep, asked, fds[0]);
    } else if (asked->op == FD_KEEP_PUT) {
        r = r < 0 ? r : -EINVAL;
        fd_pass_close(fds);
    } else {
        fd_pass_close(fds);
        if (asked->op == FD_KEEP_DROP)
            drop(keep, asked);
        return;
    }
    keep->reply = *asked;
    keep->reply.op = r < 0 ? FD_KEEP_REFUSED : FD_KEEP_KEPT;
    keep->reply.error = r < 0 ? r : 0;
    keep->reply.n_fds = 0;
}

static void on_request(void *opaque);
static void on_reply_room(void *opaque);

/* 0, or -errno where there is no room. */
static int send_reply(struct fd_keep *keep)
{
    struct channel *channel = &keep->channels[keep->giver];
    int r = keep->reply.op ? fd_keep_send(channel->own, &keep->reply, -1) : 0;

    if (r != -EAGAIN)
        keep->reply.op = 0;
    return r == -EAGAIN ? r : 0;
}

/* Reads requests, or waits until it can say what became of the last. */
static void watch_giver(struct fd_keep *keep)
{
    struct channel *channel = &keep->channels[keep->giver];
    bool replies = keep->reply.op != 0;

    if (keep->ctx)
        aio_set_fd_handler(keep->ctx, channel->own, replies ? NULL : on_request,
            replies ? on_reply_room : NULL, NULL, NULL, keep);
}

static void on_request(void *opaque)
{
    struct fd_keep *keep = opaque;
    struct fd_keep_message asked;
    int r = 1, fds[FD_KEEP_FDS_MAX];

    for (uint32_t i = 0; i < REQUESTS_A_TURN; i++) {
        r = fd_keep_receive(keep->channels[keep->giver].own, &asked, fds);
        if (r == 0)
            break;
        do_request(keep, r, &asked, fds);
        if (send_reply(keep) < 0) {
            watch_giver(keep);
            break;
        }
    }
}

static void on_reply_room(void *opaque)
{
    struct fd_keep *keep = opaque;

    if (send_reply(keep) == 0)
        watch_giver(keep);
}

/* ---- before a fork ---- */

static bool there_may_be_more(int received)
{
    return received > 0 || received == -EMFILE || received == -EPROTO;
}

static void finish_requests(struct fd_keep *keep)
{
    struct fd_keep_message asked;
    int r, fds[FD_KEEP_FDS_MAX];

    do {
        r = fd_keep_receive(keep->channels[keep->giver].own, &asked, fds);
        if (r != 0)
            do_request(keep, r, &asked, fds);
    } while (there_may_be_more(r));
    keep->reply.op = 0;
    watch_giver(keep);
}

static void take_back(struct channel *channel)
{
    struct fd_keep_message message;
    int r, fds[FD_KEEP_FDS_MAX];

    do {
        r = fd_keep_receive(channel->childs, &message, fds);
        if (r > 0)
            fd_pass_close(fds);
    } while (there_may_be_more(r));
}

void fd_keep_prepare(struct fd_keep *keep, uint32_t peer)
{
    struct channel *channel = &keep->channels[peer];

    if (peer == keep->giver)
        finish_requests(keep);
    take_back(channel);
    channel->behind = false;
    if (peer != keep->giver && keep->ctx)
        aio_set_fd_handler(keep->ctx, channel->own, NULL, NULL, NULL, NULL, NULL);
    for (uint32_t key = 0; key < keep->max_keys; key++) {
        struct fd_bundle *bundle = keep->bundles[key];
        if (!bundle)
            continue;
        for (struct fd_item *item = bundle->items; item; item = item->next)
            item->owed = item->owed && item->peer != peer;
        bits_clear(bundle->owed_end, peer);
        forget_if_over(keep, bundle);
    }
}

/* ---- heirs ---- */

int fd_keep_inherit(
    const struct fd_keep *keep, uint32_t peer, bool copies, struct fd_keep_heir *ret_heir)
{
    struct fd_keep_heir heir = {.channel = keep->channels[peer].childs};
    uint32_t n = fd_bundle_count_for(&keep->program, peer);
    int r;

    for (uint32_t key = 0; key < keep->max_keys; key++)
        n += keep->bundles[key] ? fd_bundle_count_for(keep->bundles[key], peer) : 0;
    heir.kept = calloc(n + 1, sizeof(*heir.kept));
    if (!heir.kept)
        return -ENOMEM;
    r = fd_bundle_hand_down(&keep->program, peer, copies, &heir);
    for (uint32_t key = 0; r == 0 && key < keep->max_keys; key++)
        if (keep->bundles[key])
            r = fd_bundle_hand_down(keep->bundles[key], peer, copies, &heir);
    if (r < 0) {
        fd_keep_disinherit(&heir, copies);
        return r;
    }
    *ret_heir = heir;
    return 0;
}

void fd_keep_disinherit(struct fd_keep_heir *heir, bool copies)
{
    for (uint32_t i = 0; copies && i < heir->n_kept; i++)
        close(heir->kept[i].fd);
    free(heir->kept);
    heir->kept = NULL;
    heir->n_kept = 0;
}

/* ---- life ---- */

static int open_channel(struct channel *channel)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        return -errno;
    channel->own = ends[0];
    channel->childs = ends[1];
    return 0;
}

static int make(struct fd_keep *keep)
{
    struct rlimit limit;
    int r = 0;

    keep->channels = calloc(keep->n_peers, sizeof(*keep->channels));
    keep->bundles = calloc(keep->max_keys + 1, sizeof(struct fd_bundle *));
    keep->dropped = calloc(keep->max_keys + 1, sizeof(*keep->dropped));
    if (!keep->channels || !keep->bundles || !keep->dropped)
        return -ENOMEM;
    for (uint32_t peer = 0; peer < keep->n_peers; peer++)
        keep->channels[peer] =
            (struct channel){.keep = keep, .peer = peer, .own = -1, .childs = -1};
    for (uint32_t peer = 0; r == 0 && peer < keep->n_peers; peer++)
        r = open_channel(&keep->channels[peer]);
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return -errno;
    keep->max_fd = limit.rlim_cur;
    return r;
}

int fd_keep_new(uint32_t n_peers, uint32_t giver, uint32_t max_keys, struct log *log,
    struct fd_keep **ret_keep, char **ret_error)
{
    struct fd_keep *keep = calloc(1, sizeof(*keep));
    int r = -ENOMEM;

    assert(giver < n_peers && n_peers <= SEGMENT_BITMAP_WORDS * 64);
    if (keep) {
        keep->n_peers = n_peers;
        keep->giver = giver;
        keep->max_keys = max_keys;
        keep->log = log;
        keep->program.key = FD_KEEP_PROGRAM;
        r = make(keep);
    }
    if (r < 0) {
        fd_keep_free(keep);
        return explain(ret_error, r, "channels for kept fds: %s", strerror(-r));
    }
    *ret_keep = keep;
    return 0;
}

static void close_channel(struct fd_keep *keep, struct channel *channel)
{
    if (channel->own >= 0) {
        if (keep->ctx)
            aio_set_fd_handler(keep->ctx, channel->own, NULL, NULL, NULL, NULL, NULL);
        close(channel->own);
    }
    if (channel->childs >= 0)
        close(channel->childs);
}

void fd_keep_free(struct fd_keep *keep)
{
    if (!keep)
        return;
    for (uint32_t peer = 0; keep->channels && peer < keep->n_peers; peer++)
        close_channel(keep, &keep->channels[peer]);
    for (uint32_t key = 0; keep->bundles && key < keep->max_keys; key++)
        if (keep->bundles[key])
            forget(keep, keep->bundles[key]);
    close_items(keep, &keep->program);
    if (keep->ctx)
        timer_del(&keep->retry);
    free(keep->channels);
    free(keep->bundles);
    free(keep->dropped);
    free(keep);
}

int fd_keep_add(struct fd_keep *keep, uint32_t kind, uint32_t peer, int fd)
{
    struct fd_keep_message what = {.op = FD_KEEP_PUT, .kind = kind, .peer = peer, .n_fds = 1};
    int r = add_item(keep, &keep->program, &what, fd);

    if (r == 0) /* it is forked with it */
        fd_bundle_find(&keep->program, kind, peer)->owed = false;
    return r;
}

int fd_keep_start(struct fd_keep *keep, AioContext *ctx)
{
    int r = aio_set_fd_handler(
        ctx, keep->channels[keep->giver].own, on_request, NULL, NULL, NULL, keep);

    if (r < 0)
        return r;
    keep->ctx = ctx;
    aio_timer_init(ctx, &keep->retry, on_retry, keep);
    return 0;
}

uint32_t fd_keep_count(const struct fd_keep *keep)
{
    return keep->n_fds;
}
