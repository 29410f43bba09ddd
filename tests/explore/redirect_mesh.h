/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * redirect_mesh - what the mesh's sources call in place of the rest of runtime/ and shard/
 *
 * Use:         included after redirect.h in each source of the mesh under test (meson.build)
 * Not here:    what these do (parts_mesh.h)
 */
#ifdef SHERD_ATOMIC_SHIM
#undef coroutine_self
#undef coroutine_yield_at
#undef aio_co_wake
#undef in_coroutine

#define aio_add_source        parts_mesh_add_source
#define aio_remove_source     parts_mesh_remove_source
#define aio_bh_new_full       parts_mesh_bh_new
#define bh_schedule           parts_mesh_bh_schedule
#define bh_delete             parts_mesh_bh_delete
#define aio_timer_init        parts_mesh_timer_init
#define timer_del             parts_mesh_timer_del
#define timer_mod_ns          parts_mesh_timer_mod_ns
#define coroutine_create_full parts_mesh_coroutine_create
#define coroutine_enter       parts_mesh_coroutine_enter
#define coroutine_entered     parts_mesh_coroutine_entered
#define coroutine_self        parts_mesh_coroutine_self
#define coroutine_yield_at    parts_mesh_coroutine_yield
#define aio_co_wake           parts_mesh_co_wake
#define recorder_note         parts_mesh_recorder_note
#define registry_method       parts_mesh_method
#define coroutine_set_work    parts_mesh_set_work
#define in_coroutine          parts_mesh_in_coroutine
#define aio_co_schedule_at    parts_mesh_co_schedule_at
#define co_portable_create    parts_mesh_portable_create
#define co_portable_begins_in parts_mesh_portable_begins_in
#define co_portable_of        parts_mesh_portable_of
#define co_portable_check     parts_mesh_portable_check
#define co_portable_leave     parts_mesh_portable_leave
#define co_portable_arrive    parts_mesh_portable_arrive
#define co_portable_position  parts_mesh_portable_position
#define co_yield_then         parts_mesh_yield_then
#define co_pin                parts_mesh_pin
#define co_unpin              parts_mesh_unpin
#define co_sleep_ns           parts_mesh_co_sleep_ns
#define co_cancel             parts_mesh_co_cancel
#define co_cancel_deinit      parts_mesh_co_cancel_deinit
#define code_ranges_init      parts_mesh_code_ranges_init
#define code_ranges_deinit    parts_mesh_code_ranges_deinit
#define code_ranges_has       parts_mesh_code_ranges_has
#define co_scope_status       parts_mesh_scope_status
#define service_reply         parts_mesh_service_reply
#define ring_peek_at          parts_mesh_ring_peek_at
#endif
