/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "ipc/gateway/round.h"

#define N_LINES  3
#define N_PLACES 3

struct fixture {
    struct round round;
    struct line lines[N_LINES];
    struct line_place places[N_LINES][N_PLACES];
};

/* All lines, in order. */
static void fill(struct fixture *f)
{
    for (int line = 0; line < N_LINES; line++) {
        for (int i = 0; i < N_PLACES; i++)
            line_join(&f->lines[line], &f->places[line][i]);
        round_enter(&f->round, &f->lines[line]);
    }
}

/* Takes the first place of the line whose turn it is; NULL: there is none. */
static struct line_place *take(struct fixture *f)
{
    struct line *line = round_turn(&f->round);
    struct line_place *place = line ? line->first : NULL;

    if (line)
        line_leave(&f->round, line, place);
    return place;
}

static void lines_have_their_turns_one_after_the_other(void **state)
{
    struct fixture f = {0};

    fill(&f);
    for (int i = 0; i < N_PLACES; i++)
        for (int line = 0; line < N_LINES; line++)
            assert_ptr_equal(take(&f), &f.places[line][i]);
    assert_null(take(&f));
}

static void a_line_of_many_stands_before_no_other_s_one(void **state)
{
    struct fixture f = {0};

    for (int i = 0; i < N_PLACES; i++)
        line_join(&f.lines[0], &f.places[0][i]);
    round_enter(&f.round, &f.lines[0]);
    assert_ptr_equal(take(&f), &f.places[0][0]);
    line_join(&f.lines[1], &f.places[1][0]);
    round_enter(&f.round, &f.lines[1]);
    assert_ptr_equal(take(&f), &f.places[0][1]);
    assert_ptr_equal(take(&f), &f.places[1][0]);
    assert_ptr_equal(take(&f), &f.places[0][2]);
    assert_null(take(&f));
}

static void to_enter_again_gives_no_second_turn(void **state)
{
    struct fixture f = {0};

    fill(&f);
    round_enter(&f.round, &f.lines[0]);
    assert_ptr_equal(take(&f), &f.places[0][0]);
    assert_ptr_equal(take(&f), &f.places[1][0]);
    assert_ptr_equal(take(&f), &f.places[2][0]);
    assert_ptr_equal(take(&f), &f.places[0][1]);
}

static void a_line_held_back_keeps_its_places_and_costs_no_other_its_turn(void **state)
{
    struct fixture f = {0};

    fill(&f);
    assert_ptr_equal(take(&f), &f.places[0][0]);
    round_leave(&f.round, &f.lines[1]); /* whose turn it is */
    round_leave(&f.round, &f.lines[1]);
    assert_ptr_equal(take(&f), &f.places[2][0]);
    assert_ptr_equal(take(&f), &f.places[0][1]);
    round_enter(&f.round, &f.lines[1]);
    assert_ptr_equal(take(&f), &f.places[2][1]);
    assert_ptr_equal(take(&f), &f.places[0][2]);
    assert_ptr_equal(take(&f), &f.places[1][0]);
}

static void who_leaves_from_the_middle_moves_the_others_up(void **state)
{
    struct fixture f = {0};

    fill(&f);
    for (int line = 0; line < N_LINES; line++)
        line_leave(&f.round, &f.lines[line], &f.places[line][1]);
    for (int line = 0; line < N_LINES; line++)
        assert_ptr_equal(take(&f), &f.places[line][0]);
    for (int line = 0; line < N_LINES; line++)
        assert_ptr_equal(take(&f), &f.places[line][2]);
    assert_null(take(&f));
}

static void a_line_that_the_last_has_left_is_in_no_round(void **state)
{
    struct fixture f = {0};

    fill(&f);
    for (int i = N_PLACES; i > 0; i--)
        line_leave(&f.round, &f.lines[0], &f.places[0][i - 1]);
    assert_null(f.lines[0].next);
    assert_ptr_equal(take(&f), &f.places[1][0]);
    assert_ptr_equal(take(&f), &f.places[2][0]);
    line_join(&f.lines[0], &f.places[0][2]);
    round_enter(&f.round, &f.lines[0]);
    assert_ptr_equal(take(&f), &f.places[1][1]);
    assert_ptr_equal(take(&f), &f.places[2][1]);
    assert_ptr_equal(take(&f), &f.places[0][2]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_have_their_turns_one_after_the_other),
        cmocka_unit_test(a_line_of_many_stands_before_no_other_s_one),
        cmocka_unit_test(to_enter_again_gives_no_second_turn),
        cmocka_unit_test(a_line_held_back_keeps_its_places_and_costs_no_other_its_turn),
        cmocka_unit_test(who_leaves_from_the_middle_moves_the_others_up),
        cmocka_unit_test(a_line_that_the_last_has_left_is_in_no_round),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
