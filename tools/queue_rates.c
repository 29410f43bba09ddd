/* SPDX-License-Identifier: MIT */
#include "tools/queue_rates.h"

#include <stdlib.h>

#include "tools/clock.h"

struct queue_rate {
    uint64_t pushed; /* when last looked at */
    uint64_t per_second;
};

struct queue_rates {
    int64_t at_ns;
    uint32_t n_peers;
    struct queue_rate pairs[]; /* by sender, then receiver */
};

struct queue_rates *queue_rates_new(const struct queue_reader *reader)
{
    size_t n = reader->n_peers;
    struct queue_rates *rates = calloc(1, sizeof *rates + n * n * sizeof *rates->pairs);
    if (!rates)
        return NULL;
    rates->n_peers = reader->n_peers;
    queue_rates_look(rates, reader);
    return rates;
}

void queue_rates_free(struct queue_rates *rates)
{
    free(rates);
}

void queue_rates_look(struct queue_rates *rates, const struct queue_reader *reader)
{
    int64_t now_ns = clock_now_ns();
    double seconds = (double)(now_ns - rates->at_ns) / 1e9;
    for (uint32_t from = 0; from < rates->n_peers; from++) {
        for (uint32_t to = 0; to < rates->n_peers; to++) {
            struct queue_rate *rate = &rates->pairs[(size_t)from * rates->n_peers + to];
            uint64_t pushed = queue_view_pushed(reader, from, to);
            uint64_t passed = pushed > rate->pushed ? pushed - rate->pushed : 0;
            rate->per_second = seconds > 0 ? (uint64_t)((double)passed / seconds) : 0;
            rate->pushed = pushed;
        }
    }
    rates->at_ns = now_ns;
}

uint64_t queue_rates_of(const struct queue_rates *rates, uint32_t from, uint32_t to)
{
    return rates->pairs[(size_t)from * rates->n_peers + to].per_second;
}
