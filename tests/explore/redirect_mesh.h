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
#define builtin_method        parts_mesh_builtin_method
#define lock_end_new          parts_mesh_lock_end_new
#define lock_end_free         parts_mesh_lock_end_free
#define lock_drop_all         parts_mesh_lock_drop_all
#define lock_end_wait         parts_mesh_lock_end_wait
#define lock_judge_peer       parts_mesh_lock_judge_peer
#define portable_end_new      parts_mesh_portable_end_new
#define portable_end_free     parts_mesh_portable_end_free
#define portable_take         parts_mesh_portable_take
#define portable_run          parts_mesh_portable_run
#define portable_give         parts_mesh_portable_give
#define shard_co_move         parts_mesh_co_move
#define co_sleep_ns           parts_mesh_co_sleep_ns
#define shard_co_holds        parts_mesh_co_holds
#define portable_n_here       parts_mesh_portable_n_here
#define portable_judge        parts_mesh_portable_judge
#define code_ranges_init      parts_mesh_code_ranges_init
#define code_ranges_deinit    parts_mesh_code_ranges_deinit
#define ring_peek_at          parts_mesh_ring_peek_at
#endif
