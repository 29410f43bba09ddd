/* SPDX-License-Identifier: MIT */
#include "tools/table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define GAP 2u /* between columns */

void table_init(struct table *t, const char *alignment)
{
    *t = (struct table){.alignment = alignment};
}

void table_deinit(struct table *t)
{
    for (size_t i = 0; i < t->n_cells; i++)
        free(t->cells[i]);
    free(t->cells);
    *t = (struct table){0};
}

void table_cell(struct table *t, const char *format, ...)
{
    char **cells = reallocarray(t->cells, t->n_cells + 1, sizeof *cells);
    char *text = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    if (cells)
        t->cells = cells;
    if (!cells || !text) {
        free(text);
        t->incomplete = true;
        return;
    }
    cells[t->n_cells++] = text;
}

static size_t n_columns(const struct table *t)
{
    return strlen(t->alignment);
}

static size_t column_width(const struct table *t, size_t column)
{
    size_t width = 0;
    for (size_t i = column; i < t->n_cells; i += n_columns(t)) {
        size_t len = strlen(t->cells[i]);
        if (len > width)
            width = len;
    }
    return width;
}

size_t table_rows(const struct table *t)
{
    return (t->n_cells + n_columns(t) - 1) / n_columns(t);
}

size_t table_width(const struct table *t)
{
    size_t width = 0;
    for (size_t column = 0; column < n_columns(t); column++)
        width += column_width(t, column) + (column ? GAP : 0);
    return width;
}

static void print_line(const struct table *t, size_t row, bool fill, FILE *out)
{
    for (size_t column = 0; column < n_columns(t); column++) {
        size_t i = row * n_columns(t) + column;
        const char *text = i < t->n_cells ? t->cells[i] : "";
        int width = (int)column_width(t, column);
        bool is_last = column + 1 == n_columns(t);
        fprintf(out, "%*s", column ? (int)GAP : 0, "");
        if (t->alignment[column] == '>')
            fprintf(out, "%*s", width, text);
        else
            fprintf(out, "%-*s", is_last && !fill ? 0 : width, text);
    }
}

void table_line(const struct table *t, size_t row, FILE *out)
{
    print_line(t, row, true, out);
}

void table_print(const struct table *t, FILE *out)
{
    for (size_t row = 0; row < table_rows(t); row++) {
        print_line(t, row, false, out);
        fputc('\n', out);
    }
    if (t->incomplete)
        fputs("(cells are missing: no memory)\n", out);
}
