/* SPDX-License-Identifier: MIT */
#include "ipc/client/methods.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_MIN 64u
#define LINE_FIELDS 3u /* name, kind, number; then the help */

static uint64_t hash_of(const char *name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (; *name; name++)
        hash = (hash ^ (uint8_t)*name) * UINT64_C(0x100000001b3);
    return hash;
}

/* Where it is, or the empty bucket where it belongs. The table is never full. */
static uint32_t bucket_of(const struct method_table *table, const char *name, uint64_t hash)
{
    uint32_t at = (uint32_t)hash & (table->n_buckets - 1);

    while (table->buckets[at] != 0) {
        const struct method *method = &table->methods[table->buckets[at] - 1];
        if (method->hash == hash && strcmp(method->name, name) == 0)
            break;
        at = (at + 1) & (table->n_buckets - 1);
    }
    return at;
}

int64_t methods_find(const struct method_table *table, const char *name)
{
    if (table->n_buckets == 0)
        return -ENOENT;
    uint32_t found = table->buckets[bucket_of(table, name, hash_of(name))];
    return found > 0 ? (int64_t)found - 1 : -ENOENT;
}

/* Room for one more, with half of the buckets empty. */
static int grow(struct method_table *table)
{
    if (table->n < table->capacity)
        return 0;
    uint32_t capacity = table->capacity > 0 ? table->capacity * 2 : BUCKETS_MIN / 2;
    struct method *methods = realloc(table->methods, capacity * sizeof(*methods));
    if (!methods)
        return -ENOMEM;
    table->methods = methods;
    uint32_t *buckets = calloc((size_t)capacity * 2, sizeof(*buckets));
    if (!buckets)
        return -ENOMEM;
    free(table->buckets);
    table->buckets = buckets;
    table->n_buckets = capacity * 2;
    table->capacity = capacity;
    for (uint32_t i = 0; i < table->n; i++)
        buckets[bucket_of(table, methods[i].name, methods[i].hash)] = i + 1;
    return 0;
}

int64_t methods_add(struct method_table *table, const char *name)
{
    size_t len = strnlen(name, METHOD_NAME_MAX + 1);
    int64_t found = methods_find(table, name);

    if (found >= 0)
        return found;
    if (len == 0 || len > METHOD_NAME_MAX)
        return -EINVAL;
    int r = grow(table);
    if (r < 0)
        return r;
    struct method method = {.name = strdup(name), .hash = hash_of(name)};
    if (!method.name)
        return -ENOMEM;
    table->methods[table->n] = method;
    table->buckets[bucket_of(table, name, method.hash)] = table->n + 1;
    return table->n++;
}

void methods_forget(struct method_table *table)
{
    for (uint32_t i = 0; i < table->n; i++)
        table->methods[i].is_known = table->methods[i].idempotent = false;
}

/* The instance has it. 0 or as methods_add(). */
static int tell(struct method_table *table, const char *name, uint16_t number, bool idempotent)
{
    int64_t i = methods_add(table, name);

    if (i < 0)
        return (int)i;
    table->methods[i].is_known = true;
    table->methods[i].number = number;
    table->methods[i].idempotent = idempotent;
    return 0;
}

int methods_learn(struct method_table *table, const Sherd__Wire__MethodsReply *reply)
{
    int r = 0;

    methods_forget(table);
    for (size_t i = 0; r == 0 && i < reply->n_methods; i++)
        r = tell(table, reply->methods[i]->name, (uint16_t)reply->methods[i]->number,
            reply->methods[i]->idempotent);
    if (r < 0)
        methods_forget(table);
    return r;
}

/* One line, which is changed. Another number of fields is passed over. */
static int read_line(struct method_table *table, char *line)
{
    char *fields[LINE_FIELDS];
    char *end;

    for (uint32_t i = 0; i < LINE_FIELDS; i++)
        fields[i] = strsep(&line, "\t");
    if (!fields[LINE_FIELDS - 1])
        return 0;
    unsigned long number = strtoul(fields[2], &end, 10);
    if (*end != '\0' || end == fields[2] || number >= UINT16_MAX)
        return -EPROTO;
    return tell(table, fields[0], (uint16_t)number, strncmp(fields[1], "idempotent", 10) == 0);
}

int methods_read(struct method_table *table, const char *text, size_t len)
{
    char *copy = strndup(text, len);
    char *rest = copy, *line;
    int r = copy ? 0 : -ENOMEM;

    methods_forget(table);
    while (r == 0 && (line = strsep(&rest, "\n")))
        r = read_line(table, line);
    if (r < 0)
        methods_forget(table);
    free(copy);
    return r;
}

bool methods_may_repeat(const struct method_table *table, const char *name)
{
    int64_t i = methods_find(table, name);

    return i >= 0 && table->methods[i].idempotent;
}

void methods_deinit(struct method_table *table)
{
    for (uint32_t i = 0; i < table->n; i++)
        free(table->methods[i].name);
    free(table->methods);
    free(table->buckets);
    *table = (struct method_table){};
}
