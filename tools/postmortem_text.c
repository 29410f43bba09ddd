/* SPDX-License-Identifier: MIT */
#include "tools/postmortem_text.h"

#include <stdio.h>

static const char *text_of(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : "-";
}

static json_int_t number_of(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static void print_crash(const json_t *crash)
{
    const json_t *served = json_object_get(crash, "served"), *frame;
    size_t i;
    printf("  last crash: signal %" JSON_INTEGER_FORMAT
           ", address %s, incarnation %" JSON_INTEGER_FORMAT ", pid %" JSON_INTEGER_FORMAT "; %s\n",
        number_of(crash, "signal"), text_of(crash, "fault_address"),
        number_of(crash, "incarnation"), number_of(crash, "pid"), text_of(crash, "kind"));
    if (json_is_true(json_object_get(crash, "overflow")))
        printf("  stack overflow of coroutine %s (%" JSON_INTEGER_FORMAT ") created at %s\n",
            text_of(crash, "coroutine"), number_of(crash, "coroutine_id"),
            text_of(crash, "begins_in"));
    else if (*text_of(crash, "coroutine"))
        printf("  in coroutine %s (%" JSON_INTEGER_FORMAT ")\n", text_of(crash, "coroutine"),
            number_of(crash, "coroutine_id"));
    if (json_is_object(served))
        printf("  which served a call of %s in slot %" JSON_INTEGER_FORMAT "\n",
            text_of(served, "by"), number_of(served, "slot"));
    json_array_foreach(json_object_get(crash, "backtrace"), i, frame)
        printf("    #%zu %s\n", i, json_string_value(frame));
}

static void print_process(const json_t *p)
{
    const json_t *item;
    size_t i;
    printf("%s: %s, incarnation %" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT
           " deaths, %" JSON_INTEGER_FORMAT " of them crashes\n",
        text_of(p, "process"), text_of(p, "state"), number_of(p, "incarnation"),
        number_of(p, "deaths"), number_of(p, "crashes"));
    if (json_is_object(json_object_get(p, "crash")))
        print_crash(json_object_get(p, "crash"));
    json_array_foreach(json_object_get(p, "calls"), i, item)
        printf("  call to %s, slot %" JSON_INTEGER_FORMAT ", method %s: %s\n", text_of(item, "to"),
            number_of(item, "slot"), text_of(item, "method"), text_of(item, "state"));
    json_array_foreach(json_object_get(p, "events"), i, item)
        printf("  %" JSON_INTEGER_FORMAT ".%06" JSON_INTEGER_FORMAT " s  %s: %s %s\n",
            number_of(item, "ns") / 1000000000, number_of(item, "ns") / 1000 % 1000000,
            text_of(item, "what"), text_of(item, "a"), text_of(item, "b"));
    putchar('\n');
}

/* ---- deaths ---- */

static void print_ms(const json_t *death, const char *key, const char *text)
{
    const json_t *ms = json_object_get(death, key);
    if (json_is_number(ms))
        printf("; %s after %.1f ms", text, json_number_value(ms));
}

static void print_death(const json_t *death)
{
    const json_t *running = json_object_get(death, "running"), *frame;
    size_t i;
    printf("death %" JSON_INTEGER_FORMAT " at %s: %s, incarnation %" JSON_INTEGER_FORMAT ", of %s",
        number_of(death, "number"), text_of(death, "time"), text_of(death, "process"),
        number_of(death, "incarnation"), text_of(death, "how"));
    print_ms(death, "up_ms", "its replacement was up");
    print_ms(death, "told_ms", "all were told");
    print_ms(death, "served_ms", "it had served");
    putchar('\n');
    if (json_is_object(running))
        printf("  it ran %s\n", text_of(running, "method"));
    json_array_foreach(json_object_get(json_object_get(death, "record"), "backtrace"), i, frame)
        printf("    #%zu %s\n", i, text_of(frame, "function"));
    json_array_foreach(json_object_get(death, "told"), i, frame)
        printf("  told: a call of %" JSON_INTEGER_FORMAT " (%s): %s\n", number_of(frame, "caller"),
            text_of(frame, "method"), text_of(frame, "end"));
}

/* ---- the views ---- */

static void print_coroutine(const json_t *co)
{
    const json_t *frame;
    const char *waits_for = json_string_value(json_object_get(co, "waits_for"));
    const char *why = json_string_value(json_object_get(co, "backtrace_why"));
    size_t i;
    printf("%s %s%" JSON_INTEGER_FORMAT " %s: %s%s%s, began in %s\n", text_of(co, "process"),
        json_object_get(co, "moves") ? "p" : "", number_of(co, "id"), text_of(co, "name"),
        text_of(co, "state"), waits_for ? " for " : "", waits_for ? waits_for : "",
        text_of(co, "begins_in"));
    if (why)
        printf("    no backtrace: %s\n", why);
    json_array_foreach(json_object_get(co, "backtrace"), i, frame)
        printf("    #%zu %s\n", i, json_string_value(frame));
}

static void print_queue(const json_t *pair)
{
    if (number_of(pair, "depth"))
        printf("queue %s to %s: %" JSON_INTEGER_FORMAT " waiting\n", text_of(pair, "from"),
            text_of(pair, "to"), number_of(pair, "depth"));
}

static void print_accounts(const json_t *audit)
{
    const json_t *f;
    size_t i;
    if (!json_is_object(audit))
        return;
    json_array_foreach(json_object_get(audit, "findings"), i, f)
        printf("%s, %s: %" JSON_INTEGER_FORMAT " %s, but %" JSON_INTEGER_FORMAT " %s\n",
            text_of(f, "from"), text_of(f, "to"), number_of(f, "expected"),
            text_of(f, "expected_is"), number_of(f, "found"), text_of(f, "found_is"));
    printf("the accounts %s: %" JSON_INTEGER_FORMAT " calls submitted, %" JSON_INTEGER_FORMAT
           " under way\n",
        json_is_true(json_object_get(audit, "balanced")) ? "balance" : "do not balance",
        number_of(audit, "submitted"), number_of(audit, "under_way"));
}

static void print_letter(const json_t *letter)
{
    printf("dead letter %" JSON_INTEGER_FORMAT ": %s, from %s to %s\n", number_of(letter, "number"),
        text_of(letter, "method"), text_of(letter, "caller"), text_of(letter, "callee"));
}

static void print_each(const json_t *array, void (*print)(const json_t *))
{
    const json_t *item;
    size_t i;
    json_array_foreach(array, i, item) print(item);
}

void postmortem_print(const json_t *o)
{
    printf("instance %s (%s), %s\n\n", text_of(o, "instance"), text_of(o, "segment"),
        json_is_true(json_object_get(o, "live")) ? "which lives" : "which is dead");
    print_each(json_object_get(o, "processes"), print_process);
    print_each(json_object_get(o, "coroutines"), print_coroutine);
    print_each(json_object_get(o, "queues"), print_queue);
    print_each(json_object_get(o, "deaths"), print_death);
    print_each(json_object_get(o, "dead_letters"), print_letter);
    print_accounts(json_object_get(o, "audit"));
}
