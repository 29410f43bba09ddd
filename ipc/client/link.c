/* SPDX-License-Identifier: MIT */
#include "ipc/client/link.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <nng/protocol/reqrep0/req.h>

#include "ipc/client/nng_close.h"
#include "ipc/client/nng_error.h"
#include "proto/protocol.h"

/*
 * Each message under way has an exchange: a context of the REQ socket. It is sent, then its answer
 * is received, then the exchange is put into the inbox. An exchange is nng's from link_send() until
 * it is in the inbox, and changes hands under the inbox's mutex, so its fields need no atomics.
 *
 * A dialer of nng 1.5.2 gives up for good where the other side dies between the connection's begin
 * and our greeting: sendmsg() says EPIPE, which nng takes for its own NNG_ECLOSED, "the dialer was
 * closed". Nothing tells its user. So whoever has waited long enough for a connection asks for
 * link_redial(), which closes the dialer, dead or not, and makes another: what waits is the
 * socket's and stays.
 *
 * REQ's own resending is off: whether a message whose connection broke was heard is for the session
 * to find out.
 *
 * On closing, the exchanges are stopped one by one first, after which nothing of nng's knows the
 * link any more.
 */
#define RECONNECT_MIN_MS 10
#define RECONNECT_MAX_MS 200

struct exchange {
    struct link *link;
    nng_ctx ctx;
    nng_aio *aio;
    bool receiving;
    bool busy; /* from link_send() to link_take(); its user's thread alone looks */
    bool waits, unsent, taken_back; /* for a connection; that took it never; nobody waits for its
                                       answer. Under the lock */
    struct letter letter;
    struct exchange *next;
};

struct link {
    nng_socket socket;
    nng_dialer dialer;
    nng_tls_config *tls; /* NULL: none */
    char *url;
    int fd;
    uint32_t n_exchanges; /* opened */
    struct exchange exchanges[LINK_EXCHANGES];
    struct exchange *idle;
    uint32_t n_idle;

    pthread_mutex_t lock; /* the four below */
    struct exchange *inbox;
    struct exchange **inbox_last;
    uint32_t n_unsent; /* messages that nng has not handed to a connection */
    uint64_t n_gone;   /* those that it has handed to one, or given up */
};

static void arrive(struct exchange *exchange, int result)
{
    struct link *link = exchange->link;

    exchange->letter.result = nng_errno(result);
    exchange->letter.msg = result == 0 ? nng_aio_get_msg(exchange->aio) : NULL;
    pthread_mutex_lock(&link->lock);
    exchange->next = NULL;
    *link->inbox_last = exchange;
    link->inbox_last = &exchange->next;
    pthread_mutex_unlock(&link->lock);
    /* Fails only where the counter is full, and then it is readable. */
    (void)!eventfd_write(link->fd, 1);
}

static void count_unsent(struct exchange *exchange)
{
    struct link *link = exchange->link;

    pthread_mutex_lock(&link->lock);
    exchange->waits = true;
    exchange->unsent = exchange->taken_back = false;
    link->n_unsent++;
    pthread_mutex_unlock(&link->lock);
}

/* Whether its answer is to be waited for. */
static bool count_gone(struct exchange *exchange, int result)
{
    struct link *link = exchange->link;

    pthread_mutex_lock(&link->lock);
    exchange->waits = false;
    exchange->unsent = result != 0;
    bool goes_on = result == 0 && !exchange->taken_back;
    link->n_unsent--;
    link->n_gone++;
    pthread_mutex_unlock(&link->lock);
    return goes_on;
}

/* In a thread of nng's. */
static void on_exchange(void *opaque)
{
    struct exchange *exchange = opaque;
    int result = nng_aio_result(exchange->aio);

    if (exchange->receiving) {
        arrive(exchange, result);
    } else if (count_gone(exchange, result)) {
        exchange->receiving = true;
        nng_ctx_recv(exchange->ctx, exchange->aio);
    } else {
        if (result != 0)
            nng_msg_free(nng_aio_get_msg(exchange->aio));
        arrive(exchange, result != 0 ? result : NNG_ECANCELED);
    }
}

static int open_exchange(struct link *link)
{
    struct exchange *exchange = &link->exchanges[link->n_exchanges];

    exchange->link = link;
    int r = nng_aio_alloc(&exchange->aio, on_exchange, exchange);
    if (r != 0)
        return nng_errno(r);
    r = nng_ctx_open(&exchange->ctx, link->socket);
    if (r == 0)
        r = nng_ctx_set_ms(exchange->ctx, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE);
    link->n_exchanges++; /* from here on link_close() frees it */
    exchange->next = link->idle;
    link->idle = exchange;
    link->n_idle++;
    return nng_errno(r);
}

static int configure(struct link *link)
{
    int r = nng_socket_set_size(link->socket, NNG_OPT_RECVMAXSZ, PROTOCOL_MESSAGE_MAX);

    if (r == 0)
        r = nng_socket_set_ms(link->socket, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE);
    if (r == 0)
        r = nng_socket_set_ms(link->socket, NNG_OPT_RECONNMINT, RECONNECT_MIN_MS);
    if (r == 0)
        r = nng_socket_set_ms(link->socket, NNG_OPT_RECONNMAXT, RECONNECT_MAX_MS);
    r = nng_errno(r);
    while (r == 0 && link->n_exchanges < LINK_EXCHANGES)
        r = open_exchange(link);
    return r;
}

static int dial(struct link *link, bool wait)
{
    int r = nng_dialer_create(&link->dialer, link->socket, link->url);

    if (r != 0)
        return nng_errno(r);
    if (link->tls)
        r = nng_dialer_set_ptr(link->dialer, NNG_OPT_TLS_CONFIG, link->tls);
    if (r == 0)
        r = nng_dialer_start(link->dialer, wait ? NNG_FLAG_NONBLOCK : 0);
    if (r != 0)
        nng_dialer_close(link->dialer);
    return nng_errno(r);
}

int link_open(const char *url, nng_tls_config *tls, bool wait, struct link **ret_link)
{
    struct link *link = calloc(1, sizeof(*link));

    if (!link)
        return -ENOMEM;
    link->inbox_last = &link->inbox;
    pthread_mutex_init(&link->lock, NULL);
    link->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    link->url = strdup(url);
    link->tls = tls;
    if (tls)
        nng_tls_config_hold(tls);
    int r = link->fd < 0 ? -errno : (link->url ? nng_errno(nng_req0_open(&link->socket)) : -ENOMEM);
    if (r == 0)
        r = configure(link);
    if (r == 0)
        r = dial(link, wait);
    if (r == -ESHUTDOWN)
        r = -ECONNRESET; /* nobody has closed our dialer */
    if (r < 0)
        link_close(link);
    else
        *ret_link = link;
    return r;
}

uint32_t link_waiting(struct link *link, uint64_t *ret_n_gone)
{
    pthread_mutex_lock(&link->lock);
    uint32_t n = link->n_unsent;
    *ret_n_gone = link->n_gone;
    pthread_mutex_unlock(&link->lock);
    return n;
}

static bool is_to_be_taken_back(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->link->lock);
    exchange->taken_back = exchange->waits;
    pthread_mutex_unlock(&exchange->link->lock);
    return exchange->taken_back;
}

/* One that goes out at that very moment is not waited for any more. */
void link_take_back(struct link *link, link_unsent_fn *fn, void *user)
{
    for (uint32_t i = 0; i < link->n_exchanges; i++) {
        struct exchange *exchange = &link->exchanges[i];
        if (is_to_be_taken_back(exchange)) {
            nng_aio_cancel(exchange->aio);
            nng_aio_wait(exchange->aio);
        }
        pthread_mutex_lock(&link->lock);
        bool unsent = exchange->busy && exchange->unsent;
        pthread_mutex_unlock(&link->lock);
        if (unsent)
            fn(exchange->letter.kind, exchange->letter.opaque, user);
    }
}

void link_redial(struct link *link)
{
    uint64_t n_gone;

    if (link_waiting(link, &n_gone) == 0)
        return;
    nng_dialer_close(link->dialer);
    /* Where there is no memory for it, the next redial finds none to close and tries again. */
    dial(link, true);
}

/* A counter of the dialer's by its name in nng; 0: it has none of that name. */
static uint64_t dialer_count(nng_stat *dialer, const char *name)
{
    for (nng_stat *stat = nng_stat_child(dialer); stat; stat = nng_stat_next(stat))
        if (strcmp(nng_stat_name(stat), name) == 0)
            return nng_stat_value(stat);
    return 0;
}

int link_trouble(const struct link *link)
{
    const int gone = link->tls ? -ECONNRESET : -EADDRNOTAVAIL;
    const struct {
        const char *counter;
        int error;
    } troubles[] = {
        {"auth", -EKEYREJECTED},
        {"proto", -EPROTO},
        {"refused", -ECONNREFUSED},
        {"other", gone},
        {"disconnect", gone},
    };
    nng_stat *all;
    int r = 0;

    if (nng_stats_get(&all) != 0)
        return 0;
    nng_stat *dialer = nng_stat_find_dialer(all, link->dialer);
    for (size_t i = 0; dialer && r == 0 && i < sizeof(troubles) / sizeof(troubles[0]); i++)
        if (dialer_count(dialer, troubles[i].counter) > 0)
            r = troubles[i].error;
    nng_stats_free(all);
    return r;
}

static bool is_in_inbox(const struct link *link, const struct exchange *exchange)
{
    const struct exchange *each = link->inbox;

    while (each && each != exchange)
        each = each->next;
    return each != NULL;
}

void link_stop(struct link *link)
{
    for (uint32_t i = 0; i < link->n_exchanges; i++)
        nng_aio_stop(link->exchanges[i].aio); /* waits for its callback */
    if (link->socket.id != 0)
        nng_close_in_time(link->socket);
    link->socket.id = 0;
    /* What was stopped between sending and receiving had no callback. */
    for (uint32_t i = 0; i < link->n_exchanges; i++)
        if (link->exchanges[i].busy && !is_in_inbox(link, &link->exchanges[i]))
            arrive(&link->exchanges[i], NNG_ECANCELED);
}

void link_close(struct link *link)
{
    if (!link)
        return;
    link_stop(link);
    for (uint32_t i = 0; i < link->n_exchanges; i++) {
        nng_aio_free(link->exchanges[i].aio); /* waits for its callback */
        nng_msg_free(link->exchanges[i].letter.msg);
    }
    if (link->fd >= 0)
        close(link->fd);
    pthread_mutex_destroy(&link->lock);
    if (link->tls)
        nng_tls_config_free(link->tls);
    free(link->url);
    free(link);
}

uint32_t link_room(const struct link *link)
{
    return link->n_idle;
}

int link_send(struct link *link, uint32_t kind, void *opaque, nng_msg *msg, int32_t timeout_ms)
{
    struct exchange *exchange = link->idle;

    if (!exchange) {
        nng_msg_free(msg);
        return -EAGAIN;
    }
    link->idle = exchange->next;
    link->n_idle--;
    exchange->receiving = false;
    exchange->busy = true;
    exchange->letter = (struct letter){.kind = kind, .opaque = opaque};
    nng_aio_set_timeout(exchange->aio, timeout_ms);
    nng_aio_set_msg(exchange->aio, msg);
    count_unsent(exchange);
    nng_ctx_send(exchange->ctx, exchange->aio);
    return 0;
}

int link_fd(const struct link *link)
{
    return link->fd;
}

void link_quiet(struct link *link)
{
    eventfd_t count;

    /* Fails only where it is quiet already. */
    (void)!eventfd_read(link->fd, &count);
}

bool link_take(struct link *link, struct letter *ret_letter)
{
    pthread_mutex_lock(&link->lock);
    struct exchange *exchange = link->inbox;
    if (exchange) {
        link->inbox = exchange->next;
        if (!link->inbox)
            link->inbox_last = &link->inbox;
    }
    pthread_mutex_unlock(&link->lock);
    if (!exchange)
        return false;
    *ret_letter = exchange->letter;
    exchange->letter.msg = NULL;
    exchange->busy = false;
    exchange->next = link->idle;
    link->idle = exchange;
    link->n_idle++;
    return true;
}
