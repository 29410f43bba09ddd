/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * doom - each store of a client to shared memory, and each system call of its data plane, is a
 * point to die at
 *
 * Why:         a client may die at any instruction. What an instance sees of it are its stores to
 *              the memory that they share, and what it sends: so a test has it die at each of
 *              these.
 * Use:         sources built with SHERD_ATOMIC_HOOK and with this header before all others
 *              (-include); doom_begin("FILE:LINE", 3, SIGKILL), or NULL for no death; doom_print()
 *              at the end names all points that were met
 * Concurrency: one thread
 *
 * It dies before the access or call. Stores that are not atomic (the bytes of an entry, of
 * arguments) are no points: nobody reads them before the atomic one behind them.
 */
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* at: where, as doom_print() has it; NULL: nowhere. When it comes by for the hit-th time it says
 * the time on standard output, and gets the signal. */
void doom_begin(const char *at, uint64_t hit, int signum);

/* A line for each: what, FILE:LINE, how often. */
void doom_print(void);

/* The calling process is about to do that. */
void doom_point(const char *what, const char *file, int line);

#define DOOM_CALL(name, ...) (doom_point(#name, __FILE__, __LINE__), name(__VA_ARGS__))

#define close(...)      DOOM_CALL(close, __VA_ARGS__)
#define connect(...)    DOOM_CALL(connect, __VA_ARGS__)
#define epoll_wait(...) DOOM_CALL(epoll_wait, __VA_ARGS__)
#define mmap(...)       DOOM_CALL(mmap, __VA_ARGS__)
#define mremap(...)     DOOM_CALL(mremap, __VA_ARGS__)
#define munmap(...)     DOOM_CALL(munmap, __VA_ARGS__)
#define recv(...)       DOOM_CALL(recv, __VA_ARGS__)
#define recvmsg(...)    DOOM_CALL(recvmsg, __VA_ARGS__)
#define send(...)       DOOM_CALL(send, __VA_ARGS__)
#define socket(...)     DOOM_CALL(socket, __VA_ARGS__)
