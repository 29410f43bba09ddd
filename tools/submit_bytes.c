/* SPDX-License-Identifier: MIT */
/*
 * file.read and file.write: one file of any length, in pieces that a message holds, one after the
 * other. No piece is begun before the one before it has ended, so that after a failure what was
 * written is one stretch whose length is known.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/file.pb-c.h"
#include "tools/command.h"
#include "tools/commands.h"
#include "tools/path.h"
#include "tools/submit.h"
#include "tools/text.h"

#define MESSAGE_SPARE 64u /* of a file.Request: what is neither path nor data */

struct piece {
    uint64_t offset;
    uint64_t length;     /* file.read */
    const uint8_t *data; /* file.write: length bytes */
};

/* Sends a piece and waits for its end. 0 with *ret_result, or as pump_call(). */
static int call_piece(struct submit *submit, const char *path, const struct piece *piece,
    struct sherd_result *ret_result)
{
    Sherd__File__Request message = SHERD__FILE__REQUEST__INIT;
    message.path.data = (uint8_t *)path;
    message.path.len = strlen(path);
    message.offset = piece->offset;
    if (piece->data) {
        message.data.data = (uint8_t *)piece->data;
        message.data.len = piece->length;
    } else {
        message.length = piece->length;
    }
    struct sherd_request request = submit_request(submit);
    request.args_len = sherd__file__request__get_packed_size(&message);
    uint8_t *args = malloc(request.args_len);
    if (!args)
        return -ENOMEM;
    sherd__file__request__pack(&message, args);
    request.args = args;
    int r = pump_call(&submit->pump, &request, ret_result);
    free(args);
    return r;
}

static uint64_t given(uint64_t value, uint64_t otherwise)
{
    return value == SUBMIT_NOT_GIVEN ? otherwise : value;
}

/* ---- file.read ---- */

/* 1: go on; 0: that was the end; else an exit status, negated. */
static int print_piece(struct submit *submit, const char *path, const struct piece *piece)
{
    struct sherd_result result;
    int r = call_piece(submit, path, piece, &result);
    if (r)
        return -submit_broken(submit, r);
    if (result.end != SHERD_END_DONE) {
        submit_failed(submit, submit->operands[0], path, &result);
        sherd_result_deinit(&result);
        return -EXIT_WORK_FAILED;
    }
    if (result.len)
        fwrite(result.data, 1, result.len, submit->pump.out.stream);
    bool is_last = result.len < piece->length;
    if (submit->pump.out.error)
        r = -submit_broken(submit, submit->pump.out.error);
    sherd_result_deinit(&result);
    return r ? r : !is_last;
}

int submit_read(struct submit *submit)
{
    uint64_t left = given(submit->values->length, UINT64_MAX);
    struct piece piece = {.offset = given(submit->values->offset, 0)};
    char *path = path_absolute(submit->operands[0]);
    if (!path)
        return submit_broken(submit, -errno);
    int more = 1;
    do {
        piece.length = left < SHERD_PAYLOAD_MAX ? left : SHERD_PAYLOAD_MAX;
        more = print_piece(submit, path, &piece);
        piece.offset += piece.length;
        left -= piece.length;
    } while (more == 1 && left);
    free(path);
    return more < 0 ? -more : EXIT_DONE;
}

/* ---- file.write ---- */

/* Fills data from standard input. How many bytes, fewer than room at its end; -EINTR; -errno. */
static ssize_t read_input(struct submit *submit, uint8_t *data, size_t room)
{
    size_t len = 0;
    while (len < room) {
        int r = pump_wait_readable(&submit->pump, STDIN_FILENO);
        if (r)
            return r;
        ssize_t n = read(STDIN_FILENO, data + len, room - len);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            break;
        if (n > 0)
            len += (size_t)n;
    }
    return (ssize_t)len;
}

struct write_state {
    const char *path;
    struct piece piece;
    uint64_t begin, n_pieces;
};

/* What is known of the piece at hand. */
enum rest {
    REST_NONE,  /* nothing of it is written */
    REST_TOLD,  /* the error's text says what may be */
    REST_DOUBT, /* nobody knows */
};

/* Says how far it got. */
static void tell_rest(const struct submit *submit, const struct write_state *state, enum rest rest)
{
    char done[TEXT_FIGURE], piece[TEXT_FIGURE];
    text_exact(state->piece.offset - state->begin, done);
    if (rest == REST_DOUBT)
        command_error("%s: %s: %s bytes from offset %" PRIu64
                      " on are written for certain; what of "
                      "the next %s is written is in doubt",
            submit->method, submit->operands[0], done, state->begin,
            text_exact(state->piece.length, piece));
    else if (rest == REST_TOLD && state->n_pieces)
        command_error("%s: %s: %s bytes from offset %" PRIu64
                      " on are written for certain, in the pieces before this one",
            submit->method, submit->operands[0], done, state->begin);
    else if (rest == REST_TOLD)
        return;
    else
        command_error("%s: %s: %s bytes from offset %" PRIu64
                      " on are written, and none after them",
            submit->method, submit->operands[0], done, state->begin);
}

/* Exit status. */
static int write_piece(struct submit *submit, struct write_state *state)
{
    struct sherd_result result;
    int r = call_piece(submit, state->path, &state->piece, &result);
    if (r) {
        tell_rest(submit, state, REST_DOUBT);
        return submit_broken(submit, r);
    }
    int status = EXIT_DONE;
    if (result.end == SHERD_END_DONE) {
        state->piece.offset += state->piece.length;
        state->n_pieces++;
    } else {
        submit_failed(submit, submit->operands[0], state->path, &result);
        tell_rest(submit, state,
            result.end == SHERD_END_FAILED        ? REST_TOLD
            : result.end == SHERD_END_NOT_STARTED ? REST_NONE
                                                  : REST_DOUBT);
        status = EXIT_WORK_FAILED;
    }
    sherd_result_deinit(&result);
    return status;
}

static int write_all(struct submit *submit, struct write_state *state, uint8_t *data, size_t room)
{
    for (;;) {
        ssize_t n = read_input(submit, data, room);
        if (n < 0) {
            tell_rest(submit, state, REST_NONE);
            return submit_broken(submit, (int)n);
        }
        /* Nothing at all is written too: the file is opened, and what is wrong with it said. */
        if (n == 0 && state->n_pieces)
            return EXIT_DONE;
        state->piece.data = data;
        state->piece.length = (uint64_t)n;
        int status = write_piece(submit, state);
        if (status || (size_t)n < room)
            return status;
    }
}

int submit_write(struct submit *submit)
{
    char figure[TEXT_FIGURE];
    uint64_t begin = given(submit->values->offset, 0);
    char *path = path_absolute(submit->operands[0]);
    size_t room = SHERD_PAYLOAD_MAX - MESSAGE_SPARE;
    if (!path || strlen(path) >= room) {
        int error = path ? ENAMETOOLONG : errno;
        free(path);
        return submit_broken(submit, -error);
    }
    room -= strlen(path);
    uint8_t *data = malloc(room);
    struct write_state state = {.path = path, .piece = {.offset = begin}, .begin = begin};
    int status = data ? write_all(submit, &state, data, room) : submit_broken(submit, -ENOMEM);
    if (!status)
        fprintf(stderr,
            "%s: %s bytes written at offset %" PRIu64 " in %" PRIu64
            " piece%s; this is not atomic, and not synced to disk\n",
            submit->method, text_exact(state.piece.offset - begin, figure), begin, state.n_pieces,
            state.n_pieces == 1 ? "" : "s");
    free(data);
    free(path);
    return status;
}
