/* SPDX-License-Identifier: MIT */
#include "shard/call_end.h"

#include <errno.h>
#include <stdio.h>

size_t call_end_explain(const struct mesh_answer *answer, bool orphaned, char *text, size_t size)
{
    int n = 0;

    text[0] = '\0';
    if (answer->status == -EHOSTDOWN && orphaned)
        n = snprintf(text, size, "the supervisor of the instance is gone");
    else if (answer->status == -EHOSTDOWN)
        n = snprintf(text, size,
            "shard %u is given up after too many crashes; see its log, then `sherd restart %u`",
            answer->shard, answer->shard);
    else if (answer->status == -EOWNERDEAD)
        n = snprintf(text, size,
            "shard %u died while it ran this, which must not be run twice: look what was done",
            answer->shard);
    else if (answer->status == -EPROTO)
        n = snprintf(text, size, "what shard %u sent makes no sense", answer->shard);
    return (size_t)n < size ? (size_t)n : size - 1;
}
