/* SPDX-License-Identifier: MIT */
#include "ipc/client/local_lane.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

void local_lane_map(struct local_lane *lane, const struct plane_layout *layout, void *base,
    uint32_t shard, bool has_urgent)
{
    struct slot_list line = lane->line;
    uint32_t state = lane->state, last_urgent = lane->last_urgent;

    *lane = (struct local_lane){
        .words = plane_words_of(layout, base, shard),
        .ring = {.entries = plane_submission_at(layout, base, shard, 0),
            .mask = layout->n_entries - 1,
            .limit = layout->n_entries / 2},
        .urgent = {.entries = plane_urgent_at(layout, base, shard, 0),
            .mask = PLANE_URGENT_ENTRIES - 1,
            .limit = has_urgent ? PLANE_URGENT_ENTRIES / 2 : 0},
        .completions = plane_completion_at(layout, base, shard, 0),
        .mask = layout->n_entries - 1,
        .state = state,
        .bell_fd = -1,
        .line = line,
        .last_urgent = last_urgent,
    };
}

void local_lane_ring(struct local_lane *lane)
{
    static const uint8_t byte = 0;

    /* A full socket has bytes that the shard has not read; one without another end has a
     * replacement of the shard's to come, which looks by itself. */
    if (lane->bell_fd >= 0)
        (void)!send(lane->bell_fd, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

bool local_lane_drain_bell(struct local_lane *lane)
{
    uint8_t bytes[64];
    ssize_t n = recv(lane->bell_fd, bytes, sizeof(bytes), MSG_DONTWAIT);

    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}
