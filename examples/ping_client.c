/* SPDX-License-Identifier: MIT */
/* ping_client - the smallest client: asks each shard named on the command line whether it
 * answers */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sherd/client.h>

#define SECOND INT64_C(1000000000)

/* Whether shard answered in time. */
static bool ping(struct sherd_client *client, uint32_t shard)
{
    const struct sherd_request request = {
        .method = "sys.ping",
        .shard = shard,
        .flags = SHERD_TO_SHARD,
        .timeout_ns = 5 * SECOND,
    };
    struct sherd_result result;
    int r = sherd_client_call(client, &request, &result);
    if (r < 0) {
        fprintf(stderr, "shard %" PRIu32 ": %s\n", shard, strerror(-r));
        return false;
    }
    bool done = result.end == SHERD_END_DONE;
    printf("shard %" PRIu32 ": %s %.*s\n", shard, sherd_end_text(result.end),
        done ? 0 : (int)result.len, result.data ? (const char *)result.data : "");
    sherd_result_deinit(&result);
    return done;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: ping_client INSTANCE SHARD...\n");
        return 2;
    }
    struct sherd_client *client;
    char *error;
    if (sherd_client_open(&(struct sherd_client_options){.instance = argv[1]}, &client, &error) <
        0) {
        fprintf(stderr, "ping_client: %s\n", error ? error : "no memory");
        free(error);
        return 1;
    }
    bool all = true;
    for (int i = 2; i < argc; i++)
        all &= ping(client, (uint32_t)strtoul(argv[i], NULL, 10));
    sherd_client_close(client);
    return all ? 0 : 1;
}
