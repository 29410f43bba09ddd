/* SPDX-License-Identifier: MIT */
#include "tests/explore/site.h"
/*
 * Reads the source as it is formatted: a function's name stands in a line that begins in the first
 * column and ends without a semicolon, and what it does is indented. An access is the name of a
 * macro of runtime/atomic.h before a parenthesis, outside comments.
 */
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const op_names[ATOMIC_N_OPS] = {
#define X(name) #name,
    ATOMIC_OPS(X)
#undef X
};

const char *site_op_name(enum atomic_op op)
{
    return op_names[op];
}

/* Blanks out comments, keeping lines. */
static void drop_comments(char *text)
{
    for (char *begin; (begin = strstr(text, "/*")) != NULL; text = begin) {
        const char *end = strstr(begin, "*/");
        size_t n = end ? (size_t)(end + 2 - begin) : strlen(begin);

        for (size_t i = 0; i < n; i++)
            if (begin[i] != '\n')
                begin[i] = ' ';
    }
}

/* Takes the name of the function whose head is this line, if it is one. */
static void note_function(const char *line, size_t n, char *function, size_t bytes)
{
    const char *paren = memchr(line, '(', n);
    size_t length = 0;

    if (!isalpha((unsigned char)line[0]) || !paren || line[n - 1] == ';')
        return;
    while (paren > line + length &&
           (isalnum((unsigned char)paren[-1 - (int)length]) || paren[-1 - (int)length] == '_'))
        length++;
    snprintf(function, bytes, "%.*s", (int)length, paren - length);
}

/* The operation whose macro begins here, or ATOMIC_N_OPS. */
static enum atomic_op op_at(const char *text)
{
    static const char prefix[] = "atomic_";

    for (unsigned op = 0; op < ATOMIC_N_OPS; op++) {
        size_t n = strlen(op_names[op]);

        if (strncmp(text, prefix, sizeof prefix - 1) == 0 &&
            strncmp(text + sizeof prefix - 1, op_names[op], n) == 0 &&
            text[sizeof prefix - 1 + n] == '(')
            return (enum atomic_op)op;
    }
    return ATOMIC_N_OPS;
}

/* Where the call ends, and how many lines on. */
static const char *end_of_call(const char *text, int *ret_lines)
{
    int depth = 0;

    for (*ret_lines = 0; *text; text++) {
        depth += *text == '(';
        *ret_lines += *text == '\n';
        if (*text == ')' && --depth == 0)
            break;
    }
    return text;
}

/* The capitals with which a comment on this line begins. */
static void note_ordering(const char *line, char *ret, size_t bytes)
{
    size_t end = strcspn(line, "\n");
    const char *comment = memmem(line, end, "/* ", 3);

    if (comment)
        snprintf(ret, bytes, "%.*s", (int)strspn(comment + 3, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_"),
            comment + 3);
}

static unsigned count_before(const struct sites *sites, const char *function, enum atomic_op op)
{
    unsigned n = 0;

    for (size_t i = 0; i < sites->n; i++)
        n += sites->all[i].op == op && strcmp(sites->all[i].function, function) == 0;
    return n;
}

/* original: the same place with its comments. */
static bool add_site(struct sites *sites, const char *function, enum atomic_op op, const char *text,
    const char *original, int line)
{
    int n_more_lines;
    const char *end = end_of_call(text, &n_more_lines);
    struct site *all = realloc(sites->all, (sites->n + 1) * sizeof *all);

    if (!all)
        return false;
    struct site *site = &all[sites->n];

    *site = (struct site){.op = op,
        .nth = count_before(sites, function, op) + 1,
        .first_line = line,
        .last_line = line + n_more_lines};
    note_ordering(original + (end - text), site->ordering, sizeof site->ordering);
    snprintf(site->function, sizeof site->function, "%s", function);
    sites->all = all;
    sites->n++;
    return true;
}

static int find_sites(const char *text, const char *original, struct sites *ret)
{
    char function[sizeof ret->all->function] = "";
    int line = 1;

    for (const char *p = text; *p; p++) {
        bool begins_line = p == text || p[-1] == '\n';
        size_t n = strcspn(p, "\n");

        if (begins_line && n > 0)
            note_function(p, n, function, sizeof function);
        enum atomic_op op = op_at(p);

        if (op != ATOMIC_N_OPS && (p == text || !isalnum((unsigned char)p[-1])) &&
            !add_site(ret, function, op, p, original + (p - text), line))
            return -ENOMEM;
        line += *p == '\n';
    }
    return 0;
}

static char *read_text(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = NULL;
    size_t bytes = 0;

    if (!file)
        return NULL;
    ssize_t n = getdelim(&text, &bytes, '\0', file);

    fclose(file);
    if (n < 0) {
        free(text);
        errno = EIO;
        return NULL;
    }
    return text;
}

int sites_read(const char *path, struct sites *ret)
{
    char *original = read_text(path);

    if (!original)
        return -errno;
    char *text = strdup(original);
    int r = -ENOMEM;

    *ret = (struct sites){.n = 0};
    if (text) {
        drop_comments(text);
        r = find_sites(text, original, ret);
    }
    free(text);
    free(original);
    if (r < 0)
        sites_free(ret);
    return r;
}

void sites_free(struct sites *sites)
{
    free(sites->all);
    *sites = (struct sites){.n = 0};
}
