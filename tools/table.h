/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * table - rows and columns of text, as wide as what stands in them
 *
 * Use:         struct table t;
 *              table_init(&t, "<>");              // one column to the left, one to the right
 *              table_cell(&t, "SHARD"); table_cell(&t, "CALLS");
 *              table_cell(&t, "%u", 0); table_cell(&t, "%u", 17);
 *              table_print(&t, stdout); table_deinit(&t);
 *              Lines of a table that stands beside others come from table_line().
 * Concurrency: one thread
 * Lifetime:    cells are copies. Without memory a cell is left out and table_print() says so.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct table {
    const char *alignment; /* a character a column: < or > */
    char **cells;
    size_t n_cells;
    bool incomplete;
};

void table_init(struct table *t, const char *alignment);
void table_deinit(struct table *t);

/* The next cell of the row, or the first of the next row. */
void table_cell(struct table *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

size_t table_rows(const struct table *t);
size_t table_width(const struct table *t);

/* A row without the line's end, filled up to table_width(). */
void table_line(const struct table *t, size_t row, FILE *out);

void table_print(const struct table *t, FILE *out);
