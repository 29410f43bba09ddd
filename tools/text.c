/* SPDX-License-Identifier: MIT */
#include "tools/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* n / unit with one decimal below 100, none above. */
static void scaled(double n, const char *unit, char buf[static TEXT_FIGURE])
{
    snprintf(buf, TEXT_FIGURE, n < 99.95 ? "%.1f%s" : "%.0f%s", n, unit);
}

const char *text_count(uint64_t n, char buf[static TEXT_FIGURE])
{
    static const char *const units[] = {"k", "M", "G", "T", "P", "E"};
    if (n < 10000) {
        snprintf(buf, TEXT_FIGURE, "%" PRIu64, n);
        return buf;
    }
    double scale = (double)n / 1000;
    size_t unit = 0;
    for (; scale >= 999.5; unit++)
        scale /= 1000;
    scaled(scale, units[unit], buf);
    return buf;
}

const char *text_exact(uint64_t n, char buf[static TEXT_FIGURE])
{
    char digits[TEXT_FIGURE];
    size_t len = (size_t)snprintf(digits, sizeof digits, "%" PRIu64, n);
    char *to = buf;
    for (size_t i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0)
            *to++ = ',';
        *to++ = digits[i];
    }
    *to = 0;
    return buf;
}

const char *text_bytes(uint64_t bytes, char buf[static TEXT_FIGURE])
{
    static const char *const units[] = {" KiB", " MiB", " GiB", " TiB", " PiB", " EiB"};
    if (bytes < 1024) {
        snprintf(buf, TEXT_FIGURE, "%" PRIu64 " B", bytes);
        return buf;
    }
    double scale = (double)bytes / 1024;
    size_t unit = 0;
    for (; scale >= 1023.5; unit++)
        scale /= 1024;
    scaled(scale, units[unit], buf);
    return buf;
}

/* With one decimal where more than a tenth would be lost without. */
static void below_a_second(uint64_t ns, uint64_t unit_ns, const char *unit, char *buf)
{
    if (ns < 10 * unit_ns)
        snprintf(buf, TEXT_FIGURE, "%.1f %s", (double)(ns * 10 / unit_ns) / 10, unit);
    else
        snprintf(buf, TEXT_FIGURE, "%" PRIu64 " %s", ns / unit_ns, unit);
}

const char *text_duration(uint64_t ns, char buf[static TEXT_FIGURE])
{
    uint64_t seconds = ns / 1000000000;
    if (ns < 1000)
        snprintf(buf, TEXT_FIGURE, "%" PRIu64 " ns", ns);
    else if (ns < 1000000)
        below_a_second(ns, 1000, "us", buf);
    else if (seconds < 1)
        below_a_second(ns, 1000000, "ms", buf);
    else if (seconds < 60)
        snprintf(buf, TEXT_FIGURE, "%.1f s", (double)(ns / 100000000) / 10);
    else if (seconds < 3600)
        snprintf(buf, TEXT_FIGURE, "%" PRIu64 "m %" PRIu64 "s", seconds / 60, seconds % 60);
    else if (seconds < 86400)
        snprintf(buf, TEXT_FIGURE, "%" PRIu64 "h %" PRIu64 "m", seconds / 3600, seconds / 60 % 60);
    else
        snprintf(
            buf, TEXT_FIGURE, "%" PRIu64 "d %" PRIu64 "h", seconds / 86400, seconds / 3600 % 24);
    return buf;
}

char *text_escape(const char *bytes, size_t len)
{
    static const char named[] = "\a\b\t\n\v\f\r\033";
    static const char letters[] = "abtnvfre";
    char *out = malloc(len * 4 + 1);
    char *to = out;
    if (!out)
        return NULL;
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)bytes[i];
        const char *name = c ? strchr(named, c) : NULL;
        if (name) {
            *to++ = '\\';
            *to++ = letters[name - named];
        } else if (c < 32 || c == 127) {
            to += sprintf(to, "\\%03o", c);
        } else {
            *to++ = (char)c;
        }
    }
    *to = 0;
    return out;
}
