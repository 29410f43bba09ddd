/* SPDX-License-Identifier: MIT */
#include "tools/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/command.h"
#include "tools/commands.h"

void json_set_u64(json_t *object, const char *key, uint64_t n)
{
    json_object_set_new(object, key, json_integer(n < INT64_MAX ? (json_int_t)n : INT64_MAX));
}

void json_set_text(json_t *object, const char *key, const char *text)
{
    json_t *string = json_string(text);
    char *ascii = string ? NULL : strdup(text);
    for (char *c = ascii; c && *c; c++)
        if ((unsigned char)*c > 127)
            *c = '?';
    if (ascii)
        string = json_string(ascii);
    json_object_set_new(object, key, string);
    free(ascii);
}

int json_print(json_t *value)
{
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(value);
    if (!text)
        return command_error("no memory for the output");
    puts(text);
    free(text);
    return EXIT_DONE;
}
