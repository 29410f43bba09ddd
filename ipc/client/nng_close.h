/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * nng_close - nng_close() with an end
 *
 * Why:         that of nng 1.5.2 may wait for ever where the other side dies as a connection to it
 *              begins: it waits for a pipe that nobody frees.
 * Use:         first stop all of the socket's aios and take its callbacks off; then nothing of
 *              nng's knows the caller's memory, whatever the answer
 * Concurrency: any thread
 */
#include <stdbool.h>
#include <nng/nng.h>

/* Waits a second at most. Whether it is closed; else thread and socket, some hundred KiB, are left
 * to the end of the process. */
bool nng_close_in_time(nng_socket socket);
