/* SPDX-License-Identifier: MIT */
#include "tools/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tools/clock.h"
#include "tools/text.h"

#define FIRST_NS  (200 * NS_PER_MS) /* what is over sooner shows nothing */
#define REDRAW_NS (100 * NS_PER_MS)
#define BAR_WIDTH 24

void progress_init(struct progress *p, const char *noun)
{
    const char *terminal = getenv("TERM");
    bool is_dumb = terminal && !strcmp(terminal, "dumb");
    *p = (struct progress){
        .noun = noun,
        .is_enabled = isatty(STDERR_FILENO) && !is_dumb,
        .shares_screen = isatty(STDOUT_FILENO),
        .begun_ns = clock_now_ns(),
    };
}

bool progress_is_shown(const struct progress *p)
{
    return p->is_enabled;
}

void progress_add_bytes(struct progress *p, uint64_t bytes)
{
    p->bytes += bytes;
}

static void write_bar(FILE *line, double fraction)
{
    int filled = (int)(fraction * BAR_WIDTH);
    fprintf(line, "%3d%% [", (int)(fraction * 100));
    for (int i = 0; i < BAR_WIDTH; i++)
        fputc(i < filled ? '=' : i == filled ? '>' : ' ', line);
    fputs("] ", line);
}

/* "12,345 files, 8,123/s, 1.2 GiB, 412 MiB/s, 3 failed" */
static void write_figures(FILE *line, const struct progress *p, uint64_t n_done, uint64_t n_failed)
{
    char count[TEXT_FIGURE], rate[TEXT_FIGURE], bytes[TEXT_FIGURE], speed[TEXT_FIGURE];
    double seconds = (double)(clock_now_ns() - p->begun_ns) / (double)NS_PER_S;
    double n = (double)(n_done + n_failed);
    fprintf(line, "%s %s, %s/s", text_exact(n_done + n_failed, count), p->noun,
        text_exact((uint64_t)(n / seconds), rate));
    if (p->bytes)
        fprintf(line, ", %s, %s/s", text_bytes(p->bytes, bytes),
            text_bytes((uint64_t)((double)p->bytes / seconds), speed));
    if (n_failed)
        fprintf(line, ", %s failed", text_exact(n_failed, count));
}

/* As if what is left took as long as what is done: ", 12 s left" */
static void write_remaining(FILE *line, const struct progress *p, double fraction)
{
    char left[TEXT_FIGURE];
    double past_ns = (double)(clock_now_ns() - p->begun_ns);
    if (fraction > 0)
        fprintf(line, ", %s left",
            text_duration((uint64_t)(past_ns * (1 - fraction) / fraction), left));
}

/* What does not fit into the terminal's width would stay on the screen for good. */
static void draw(const char *text, size_t len)
{
    struct winsize size;
    size_t room = len;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
        room = size.ws_col - 1u;
    fprintf(stderr, "\r\033[K%.*s", (int)(len < room ? len : room), text);
    fflush(stderr);
}

void progress_update(struct progress *p, uint64_t n_done, uint64_t n_failed, double fraction)
{
    int64_t now_ns = clock_now_ns();
    if (!p->is_enabled || now_ns < p->begun_ns + FIRST_NS || now_ns < p->drawn_ns + REDRAW_NS)
        return;
    char *text = NULL;
    size_t len;
    FILE *line = open_memstream(&text, &len);
    if (!line)
        return;
    fraction = fraction < 1 ? fraction : 1;
    if (fraction >= 0)
        write_bar(line, fraction);
    write_figures(line, p, n_done, n_failed);
    write_remaining(line, p, fraction);
    if (fclose(line) == 0)
        draw(text, len);
    free(text);
    p->drawn_ns = now_ns;
    p->is_drawn = true;
}

void progress_hide(struct progress *p)
{
    if (p->is_drawn)
        fputs("\r\033[K", stderr);
    p->is_drawn = false;
}

void progress_make_way(struct progress *p)
{
    if (p->shares_screen)
        progress_hide(p);
}

void progress_finish(struct progress *p, uint64_t n_done, uint64_t n_failed)
{
    char age[TEXT_FIGURE];
    progress_hide(p);
    if (!p->drawn_ns)
        return;
    write_figures(stderr, p, n_done, n_failed);
    fprintf(stderr, " in %s\n", text_duration((uint64_t)(clock_now_ns() - p->begun_ns), age));
}
