/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * redirect_gateway - what the gateway's side of attaching calls in place of the kernel and of its
 * loop
 *
 * Use:         included after redirect.h and redirect_mesh.h in each source of the gateway under
 *              test (meson.build)
 * Not here:    what these do (parts_gateway.h)
 */
#ifdef SHERD_ATOMIC_SHIM
#include <sys/eventfd.h>
#include <sys/socket.h>

int parts_gateway_accept(int listener);

#define accept4(fd, address, len, flags)           parts_gateway_accept(fd)
#define getsockopt(fd, level, option, value, len)  (memset(value, 0, *(len)), 0)
#define eventfd(value, flags)                      (-1)
#define shutdown(fd, how)                          ((void)(fd))
#define close(fd)                                  ((void)(fd))
#define reallocarray(grown_from_nothing, n, bytes) explorer_alloc((n) * (bytes))

#undef aio_timer_init
#undef timer_del
#undef timer_mod_ns
#define aio_timer_init     parts_gateway_timer_init
#define timer_del          parts_gateway_timer_del
#define timer_mod_ns       parts_gateway_timer_mod_ns
#define timer_pending      parts_gateway_timer_pending
#define aio_set_fd_handler parts_gateway_set_fd_handler
#define co_sleep_init      parts_gateway_co_sleep_init
#define co_sleep_deinit    parts_gateway_co_sleep_deinit
#define co_sleep_wake      parts_gateway_co_sleep_wake
#define aio_poll           parts_gateway_poll
#define log_line           parts_gateway_log_line
#endif
