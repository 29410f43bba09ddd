/* SPDX-License-Identifier: MIT */
/*
 * What is kept under a key is a bundle: fds that are for all its heirs, and fds that are each for
 * one. There is one bundle a key at most, so what a giver gone mad can have kept is bounded.
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
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "shard/explain.h"
#include "shard/fd_keep_inside.h"
#include "shard/segment.h"

#define REQUESTS_A_TURN 64u
#define RETRY_NS        (INT64_C(10) * 1000 * 1000)

struct item {
    struct item *next;
    uint32_t kind;
    uint32_t peer; /* FD_KEEP_ALL: for all */
    int fd;
    bool owed; /* its peer has not been told */
    uint8_t note[FD_KEEP_NOTE];
};

struct bundle {
    uint32_t key;
    bool dropped;
    uint64_t generation;
    struct item *items; /* in the order in which they came */
    uint32_t n_items, n_for_all;
    uint64_t heirs[SEGMENT_BITMAP_WORDS];    /* peers that an item is for, or was */
    uint64_t owed_end[SEGMENT_BITMAP_WORDS]; /* of these, those not yet told that it is dropped */
};

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
    struct bundle **bundles; /* by key; NULL: none */
    uint64_t *dropped;       /* by key: the last generation that was */
    struct bundle program;
    struct fd_keep_message reply; /* that there was no room for; op 0: none */
    rlim_t max_fd;
    uint32_t n_fds;
};

static bool has_bit(const uint64_t *bits, uint32_t n)
{
    return bits[n / 64] >> n % 64 & 1;
}

static void set_bit(uint64_t *bits, uint32_t n)
{
    bits[n / 64] |= UINT64_C(1) << n % 64;
}

static void clear_bit(uint64_t *bits, uint32_t n)
{
    bits[n / 64] &= ~(UINT64_C(1) << n % 64);
}

static bool is_empty(const uint64_t bits[SEGMENT_BITMAP_WORDS])
{
    uint64_t any = 0;

    for (uint32_t i = 0; i < SEGMENT_BITMAP_WORDS; i++)
        any |= bits[i];
    return any == 0;
}

/* ---- bundles ---- */

static void close_items(struct fd_keep *keep, struct bundle *bundle)
{
    for (struct item *item = bundle->items, *next; item; item = next) {
        next = item->next;
        close(item->fd);
        free(item);
        keep->n_fds--;
    }
    bundle->items = NULL;
    bundle->n_items = bundle->n_for_all = 0;
}

static void forget(struct fd_keep *keep, struct bundle *bundle)
{
    close_items(keep, bundle);
    keep->bundles[bundle->key] = NULL;
    free(bundle);
}

static struct item *find_item(const struct bundle *bundle, uint32_t kind, uint32_t peer)
{
    struct item *item = bundle->items;

    while (item && (item->kind != kind || item->peer != peer))
        item = item->next;
    return item;
}

/* Consumes fd. */
static int add_item(
    struct fd_keep *keep, struct bundle *bundle, const struct fd_keep_message *what, int fd)
{
    struct item *item = find_item(bundle, what->kind, what->peer), **link = &bundle->items;
    bool for_all = what->peer == FD_KEEP_ALL;

    if (!item && for_all && bundle->n_for_all >= FD_KEEP_FDS_MAX - 1) {
        close(fd);
        return -EINVAL;
    }
    if (item) {
        close(item->fd);
        keep->n_fds--;
    } else if ((item = calloc(1, sizeof(*item)))) {
        while (*link)
            link = &(*link)->next;
        *link = item;
        bundle->n_items++;
        bundle->n_for_all += for_all;
    } else {
        close(fd);
        return -ENOMEM;
    }
    item->kind = what->kind;
    item->peer = what->peer;
    item->fd = fd;
    item->owed = !for_all && what->peer != keep->giver;
    memcpy(item->note, what->note, sizeof(item->note));
    if (!for_all)
        set_bit(bundle->heirs, what->peer);
    keep->n_fds++;
    return 0;
}

/* ---- telling heirs ---- */

static int tell_item(struct fd_keep *keep, const struct bundle *bundle, const struct item *item)
{
    struct fd_keep_message message = {.op = FD_KEEP_HAND,
        .kind = item->kind,
        .key = bundle->key,
        .peer = item->peer,
        .generation = bundle->generation};
    int fds[FD_KEEP_FDS_MAX];

    memcpy(message.note, item->note, sizeof(message.note));
    for (const struct item *other = bundle->items; other; other = other->next)
        if (other->peer == FD_KEEP_ALL)
            fds[message.n_fds++] = other->fd;
    fds[message.n_fds++] = item->fd;
    return fd_keep_send_fds(keep->channels[item->peer].own, &message, fds, message.n_fds);
}

static int tell_end(struct fd_keep *keep, const struct bundle *bundle, uint32_t peer)
{
    struct fd_keep_message message = {
        .op = FD_KEEP_DROP, .key = bundle->key, .peer = peer, .generation = bundle->generation};

    return fd_keep_send(keep->channels[peer].own, &message, -1);
}

/* Tells peer what it is owed of this bundle. 0, or -errno: no more can be told now. */
static int tell_bundle(struct fd_keep *keep, struct bundle *bundle, uint32_t peer)
{
    int r = 0;

    for (struct item *item = bundle->items; item && r == 0; item = item->next) {
        if (item->peer != peer || !item->owed)
            continue;
        r = tell_item(keep, bundle, item);
        item->owed = r < 0;
    }
    if (r == 0 && has_bit(bundle->owed_end, peer)) {
        r = tell_end(keep, bundle, peer);
        if (r == 0)
            clear_bit(bundle->owed_end, peer);
    }
    return r;
}

static void forget_if_over(struct fd_keep *keep, struct bundle *bundle)
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

static void tell(struct fd_keep *keep, struct bundle *bundle, uint32_t peer)
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
        struct bundle *bundle = keep->bundles[key];
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
    const struct bundle *bundle;

    if (asked->key >= keep->max_keys || asked->n_fds != 1 ||
        (asked->peer >= keep->n_peers && asked->peer != FD_KEEP_ALL))
        return -EINVAL;
    if (asked->generation <= keep->dropped[asked->key])
        return -ESTALE;
    bundle = keep->bundles[asked->key];
    if (bundle && (bundle->dropped || bundle->generation != asked->generation))
        return -EBUSY;
    return bundle && bundle->n_items >= keep->n_peers + FD_KEEP_FDS_MAX &&
                   !find_item(bundle, asked->kind, asked->peer)
               ? -EINVAL
               : 0;
}

/* Consumes fd. */
static int put(struct fd_keep *keep, const struct fd_keep_message *asked, int fd)
{
    struct bundle *bundle;
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
    const struct fd_keep *keep, struct bundle *bundle, const struct fd_keep_message *asked)
{
    uint64_t named[SEGMENT_BITMAP_WORDS];

    _Static_assert(sizeof(named) <= FD_KEEP_NOTE, "a note has room for a bit a peer");
    memcpy(named, asked->note, sizeof(named));
    for (uint32_t peer = 0; peer < keep->n_peers; peer++)
        if (has_bit(named, peer) || has_bit(bundle->heirs, peer))
            set_bit(bundle->owed_end, peer);
}

static void drop(struct fd_keep *keep, const struct fd_keep_message *asked)
{
    struct bundle *bundle;

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
    clear_bit(bundle->owed_end, keep->giver);
    for (uint32_t peer = 0; peer < keep->n_peers; peer++)
        if (has_bit(bundle->owed_end, peer))
            tell(keep, bundle, peer);
    forget_if_over(keep, bundle);
}

static void close_all(const int fds[FD_KEEP_FDS_MAX])
{
    for (uint32_t i = 0; i < FD_KEEP_FDS_MAX; i++)
        if (fds[i] >= 0)
            close(fds[i]);
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
        close_all(fds);
    } else {
        close_all(fds);
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
            close_all(fds);
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
        struct bundle *bundle = keep->bundles[key];
        if (!bundle)
            continue;
        for (struct item *item = bundle->items; item; item = item->next)
            item->owed = item->owed && item->peer != peer;
        clear_bit(bundle->owed_end, peer);
        forget_if_over(keep, bundle);
    }
}

/* ---- heirs ---- */

static uint32_t count_heritage(const struct bundle *bundle, uint32_t peer)
{
    uint32_t n = 0;

    if (!has_bit(bundle->heirs, peer))
        return 0;
    for (const struct item *item = bundle->items; item; item = item->next)
        n += item->peer == peer || item->peer == FD_KEEP_ALL;
    return n;
}

/* Appends its rows. 0 or -errno. */
static int hand_down(
    const struct bundle *bundle, uint32_t peer, bool copies, struct fd_keep_heir *heir)
{
    if (count_heritage(bundle, peer) == 0)
        return 0;
    for (const struct item *item = bundle->items; item; item = item->next) {
        if (item->peer != peer && item->peer != FD_KEEP_ALL)
            continue;
        struct fd_kept *kept = &heir->kept[heir->n_kept];
        *kept = (struct fd_kept){.key = bundle->key,
            .kind = item->kind,
            .peer = item->peer,
            .generation = bundle->generation,
            .fd = copies ? fcntl(item->fd, F_DUPFD_CLOEXEC, 0) : item->fd};
        if (kept->fd < 0)
            return -errno;
        memcpy(kept->note, item->note, sizeof(kept->note));
        heir->n_kept++;
    }
    return 0;
}

int fd_keep_inherit(
    const struct fd_keep *keep, uint32_t peer, bool copies, struct fd_keep_heir *ret_heir)
{
    struct fd_keep_heir heir = {.channel = keep->channels[peer].childs};
    uint32_t n = count_heritage(&keep->program, peer);
    int r;

    for (uint32_t key = 0; key < keep->max_keys; key++)
        n += keep->bundles[key] ? count_heritage(keep->bundles[key], peer) : 0;
    heir.kept = calloc(n + 1, sizeof(*heir.kept));
    if (!heir.kept)
        return -ENOMEM;
    r = hand_down(&keep->program, peer, copies, &heir);
    for (uint32_t key = 0; r == 0 && key < keep->max_keys; key++)
        if (keep->bundles[key])
            r = hand_down(keep->bundles[key], peer, copies, &heir);
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
    keep->bundles = calloc(keep->max_keys + 1, sizeof(struct bundle *));
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
        find_item(&keep->program, kind, peer)->owed = false;
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
