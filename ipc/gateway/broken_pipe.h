/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * broken_pipe - the process's sendmsg(): a peer that is gone is ECONNRESET, never EPIPE
 *
 * Why:         nng 1.5.2 turns EPIPE into NNG_ECLOSED and hands the error of a failed greeting to
 *              the listener, which takes it for its own end and accepts nobody any more. A client
 *              that connects and closes at once would silence the gateway for good; and a client
 *              whose gateway dies in the greeting would never dial again.
 * Use:         nothing: linked into the programs `sherd` and `sherd-tools`, it stands before
 *              libc's. broken_pipe_stands() says whether it does.
 * Concurrency: any thread
 * Not here:    libsherd-client; a library must not put itself before libc in others' programs
 */
#include <stdbool.h>

/* Whether nng's calls of sendmsg() come here. */
bool broken_pipe_stands(void);
