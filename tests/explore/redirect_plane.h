/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * redirect_plane - what both sides of the data plane call in place of the kernel and of the loop
 *
 * Use:         included after redirect.h and redirect_mesh.h in each source of the plane under test
 *              (meson.build)
 * Not here:    what these do (parts_plane.h)
 */
#ifdef SHERD_ATOMIC_SHIM
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

struct stat;

int parts_plane_stat(int fd, struct stat *ret);
void *parts_plane_map(int fd);
void parts_plane_unmap(void *base, size_t bytes);
long parts_plane_send(int fd, const void *bytes, size_t n);
long parts_plane_recv(int fd, void *bytes, size_t n);

#define fcntl(fd, command)                        (SEALS)
#define fstat(fd, ret)                            parts_plane_stat(fd, ret)
#define mmap(at, bytes, protection, flags, fd, o) parts_plane_map(fd)
#define munmap(base, bytes)                       parts_plane_unmap(base, bytes)
#define close(fd)                                 ((void)(fd))
#define send(fd, bytes, n, flags)                 parts_plane_send(fd, bytes, n)
#define recv(fd, bytes, n, flags)                 parts_plane_recv(fd, bytes, n)

#define aio_set_fd_handler      parts_plane_set_fd_handler
#define timer_mod_anticipate_ns parts_plane_timer_mod
#define log_line                parts_plane_log_line
#define registry_find           parts_plane_registry_find
#define shard_call              parts_plane_shard_call
#define co_cancel_init          parts_plane_co_cancel_init
#define co_scope_begin          parts_plane_co_scope_begin
#define co_scope_end            parts_plane_co_scope_end
#endif
