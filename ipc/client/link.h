/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * link - the client's side of nng: one socket, some messages under way at a time
 *
 * Why:         nng calls back in threads of its own; here replies are fetched when it suits.
 * Use:         link_open(); link_send(); when link_fd() is readable: link_quiet(), then
 *              link_take() until it returns false
 * Concurrency: one thread; only the inside is touched by nng's threads
 * Lifetime:    nng does not survive a fork: open it in the child.
 *
 * A message is answered, or ends with an error: -ECONNRESET where the connection broke under it,
 * -ETIMEDOUT after its time. nng connects again by itself, and what is sent meanwhile waits for
 * that; but it may have given up without a word, so after some waiting: link_redial().
 */
#include <stdbool.h>
#include <stdint.h>
#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>

#define LINK_EXCHANGES 12u

struct link;

struct letter {
    uint32_t kind; /* the user's */
    void *opaque;
    int result;   /* 0 or -errno */
    nng_msg *msg; /* where result is 0: nng_msg_free() it */
};

/* Dials. tls: for tls+tcp://, held by the link from then on; else NULL. wait: what is not there yet
 * is waited for, in the background. 0; -ENOENT, -ECONNREFUSED, … as nng found; -ECONNRESET: it hung
 * up as we were introduced, and may well be there a moment later; -EKEYREJECTED: no TLS with it;
 * -EINVAL: no such kind of URL. */
int link_open(const char *url, nng_tls_config *tls, bool wait, struct link **ret_link);

/* Ends what is under way: link_take() has it. Nothing can be sent any more. Takes a second at most,
 * whatever nng does. */
void link_stop(struct link *link);

/* NULL does nothing. */
void link_close(struct link *link);

/* How many link_send() would take. */
uint32_t link_room(const struct link *link);

/* Consumes msg. timeout_ms: -1 none. 0; -EAGAIN: no room. */
int link_send(struct link *link, uint32_t kind, void *opaque, nng_msg *msg, int32_t timeout_ms);

/* How many messages wait for a connection that takes them; ret_n_gone: how many waited and no
 * longer do, ever. */
uint32_t link_waiting(struct link *link, uint64_t *ret_n_gone);

/* Ends what waits for one; its letters come. fn gets what certainly no connection has taken. */
typedef void link_unsent_fn(uint32_t kind, void *opaque, void *user);
void link_take_back(struct link *link, link_unsent_fn *fn, void *user);

/* Where a message waits for a connection: begins to connect anew, in the background. */
void link_redial(struct link *link);

/* How connecting has failed since the link was opened, or dialed anew: 0: not, or nobody knows;
 * -EKEYREJECTED: the other side is not believed, or no TLS is spoken there; -EPROTO: nng is not;
 * -ECONNREFUSED: nobody listens; -EADDRNOTAVAIL: there is no such name or port, or it hung up,
 * which nng does not tell apart; with TLS -ECONNRESET. Asks nng for all its figures. */
int link_trouble(const struct link *link);

/* An eventfd: readable when letters came since link_quiet(). */
int link_fd(const struct link *link);
void link_quiet(struct link *link);

bool link_take(struct link *link, struct letter *ret_letter);
