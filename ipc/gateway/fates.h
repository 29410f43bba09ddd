/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * fates - what became of the latest requests of each session, where the gateway's death cannot
 * reach
 *
 * Why:         a client whose connection broke submits again what it has no answer for, and each of
 *              these requests must be served once, also by a gateway that has never heard of it.
 * Use:         fates_open(), which takes over what a predecessor left; then
 *              hello: fates_add_session(); a request comes: fates_find(), else fates_accept();
 *              it ends: fates_end(), its end gets a place: fates_place(); the client has it:
 *              fates_ack(), then fates_settle() for each; never begun: fates_forget()
 * Concurrency: owner loop
 * Lifetime:    the segment's; what hangs off struct fates is the process's
 *
 * A request that has not ended, or whose end is not acknowledged, keeps its fate whatever comes. Of
 * the others a session's latest are kept, FATES_SESSION with those; where there is no free fate for
 * a new request, the session that remembers most of them forgets its oldest. Each session has
 * SEGMENT_FATES_EACH that nobody can take from it, so there is a limit to sessions. What is
 * forgotten leaves its id behind: the floor, at or below which an unknown id is too old.
 */
#include <stdbool.h>
#include <stdint.h>

#include "shard/mesh.h"
#include "shard/segment.h"

#define FATES_SESSION 4096u
#define FATE_NONE     UINT32_MAX

struct fate_link;
struct fate_owner;

struct fates {
    const struct segment *segment;
    struct session_row *rows;
    struct fate *all;
    uint32_t n_rows, n_all;
    struct fate_link *links;   /* by fate */
    struct fate_owner *owners; /* by row */
    uint32_t *buckets;
    uint32_t n_buckets; /* a power of two */
    uint64_t hash_key;  /* random and odd: ids are the clients' choice */
    uint32_t free;      /* list of fates */
    uint32_t n_sessions;
    uint32_t last_number;
    uint64_t
        n_bound; /* that nobody may take: of each session those needed, or those it has for sure */
};

/* What a predecessor wrote is checked as if a stranger had; what makes no sense is forgotten. 0 or
 * -ENOMEM. */
int fates_open(struct fates *fates, const struct segment *segment);
void fates_close(struct fates *fates);

/* ---- sessions ---- */

/* 0; -EAGAIN: there is no room for one more. token has 16 bytes. */
int fates_add_session(struct fates *fates, const uint8_t *token, uint32_t *ret_row);

/* Whose a session is; CLIENT_USER_REMOTE: of who has the token. */
void fates_set_user(struct fates *fates, uint32_t row, uint32_t uid);

/* With all of its fates. */
void fates_drop_session(struct fates *fates, uint32_t row);

/* ---- requests ---- */

/* The fate of that request; FATE_NONE: it is not known. */
uint32_t fates_find(const struct fates *fates, uint32_t row, uint64_t id);

/* 0; -EAGAIN: as many are under way, or not acknowledged, as the session or the instance can have.
 * The id is not known, and above the floor. */
int fates_accept(
    struct fates *fates, uint32_t row, uint64_t id, uint32_t method, uint32_t *ret_fate);

/* Notes the end, once. */
void fates_end(struct fates *fates, uint32_t fate, const struct mesh_answer *answer);

/* The end's place among those of its session; another one where it is told a second time. */
void fates_place(struct fates *fates, uint32_t fate, uint64_t position);

/* Ends up to position have arrived. Before fates_settle() for each of these. */
void fates_ack(struct fates *fates, uint32_t row, uint64_t position);

/* It is needed no more, and may be forgotten; or is needed again, to be told a second time: 0, or
 * -EAGAIN as fates_accept(). */
void fates_settle(struct fates *fates, uint32_t fate);
int fates_unsettle(struct fates *fates, uint32_t fate);

bool fates_is_settled(const struct fates *fates, uint32_t fate);

/* Of one that has ended: its answer is here, or still with its session. */
bool fates_has_all(const struct fates *fates, uint32_t fate);

/* Of an accepted one that was never begun, and will not be: as if it had not been heard of. */
void fates_forget(struct fates *fates, uint32_t fate);

static inline const struct fate *fates_at(const struct fates *fates, uint32_t fate)
{
    return &fates->all[fate];
}

static inline const struct session_row *fates_row(const struct fates *fates, uint32_t row)
{
    return &fates->rows[row];
}

/* ---- what a predecessor left ---- */

/* All fates that it left are needed, until they are settled or forgotten. */

/* The fate of a call in the mesh, which has this origin and this index of its fate: not ended and
 * not asked for before. FATE_NONE: there is none. */
uint32_t fates_take_call(struct fates *fates, uint64_t origin, uint32_t at);
bool fates_has_call(const struct fates *fates, uint32_t fate);

/* Whose it is; FATE_NONE: it is free. */
uint32_t fates_row_of(const struct fates *fates, uint32_t fate);
