/* SPDX-License-Identifier: MIT */
#include "ipc/gateway/round.h"

struct line *round_turn(struct round *round)
{
    struct line *line = round->turn;

    if (line)
        round->turn = line->next;
    return line;
}

void round_enter(struct round *round, struct line *line)
{
    if (line->next)
        return;
    if (round->turn) {
        line->next = round->turn;
        line->prev = round->turn->prev;
        line->prev->next = line;
        line->next->prev = line;
    } else {
        round->turn = line->next = line->prev = line;
    }
}

void round_leave(struct round *round, struct line *line)
{
    if (!line->next)
        return;
    if (line->next == line) {
        round->turn = NULL;
    } else {
        line->prev->next = line->next;
        line->next->prev = line->prev;
        if (round->turn == line)
            round->turn = line->next;
    }
    line->next = line->prev = NULL;
}

void line_join(struct line *line, struct line_place *place)
{
    place->prev = line->last;
    place->next = NULL;
    if (line->last)
        line->last->next = place;
    else
        line->first = place;
    line->last = place;
}

void line_leave(struct round *round, struct line *line, struct line_place *place)
{
    if (place->prev)
        place->prev->next = place->next;
    else
        line->first = place->next;
    if (place->next)
        place->next->prev = place->prev;
    else
        line->last = place->prev;
    place->prev = place->next = NULL;
    if (!line->first)
        round_leave(round, line);
}
