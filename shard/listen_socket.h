/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * listen_socket - listening sockets for an address that a person wrote
 *
 * Why:         all shards accept at one address, those that replace others too: its sockets are
 *              made before the first fork, and inherited.
 * Use:         struct listen_socket opened;
 *              r = listen_socket_open("tcp://127.0.0.1:0", n_shards, 0, &opened, &error);
 * Concurrency: one thread
 * Lifetime:    the caller closes the fds, frees what is allocated, and unlinks path
 *
 * Addresses are numbers: nobody is asked for names, which may take long and load libraries that
 * start threads.
 */
#include <stdint.h>

struct listen_socket {
    int *fds; /* non-blocking and close-on-exec */
    uint32_t n_fds;
    char *address; /* as it is reached: with the port that the kernel chose for 0 */
    char *path;    /* NULL: no Unix socket */
};

/*
 * tcp://127.0.0.1:PORT, tcp://[::1]:PORT: n sockets that share the port (SO_REUSEPORT), among which
 * the kernel deals connections out; unix:///PATH: one, for its owner alone (0600), in place of one
 * that nobody listens to any more. backlog 0: as many as the kernel lets. 0, or -errno with a text:
 * -EINVAL: no such address; -EADDRINUSE, also where another process shares its port;
 * whatever else the system calls say.
 */
int listen_socket_open(
    const char *address, uint32_t n, uint32_t backlog, struct listen_socket *ret, char **ret_error);

/* One of them listens again, after a shutdown(). 0 or -errno. */
int listen_socket_again(int fd, uint32_t backlog);
