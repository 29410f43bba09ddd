/* SPDX-License-Identifier: MIT */
/*
 * mutant_rows - the table of mutants.c: each access of the files, each way to do it wrong, and who
 * notices
 *
 * Included there, between the macros that make rows of it. It has no guard for that reason, and is
 * not formatted: a row is a row.
 */
/* clang-format off */

NOTICED("aio_wait.c", add_waiter, store_relaxed, 1, swap,
    "a_kick_wakes_who_waits_for_a_condition")
NOTICED("aio_wait.c", aio_wait_begin, full_fence, 1, drop,
    "a_kick_wakes_who_waits_for_a_condition")
NOTICED("aio_wait.c", aio_wait_kick, full_fence, 1, drop,
    "a_kick_wakes_who_waits_for_a_condition")
NOTICED("aio_wait.c", run_errand, store_release, 1, relax,
    "who_sends_on_an_errand_sees_what_it_did")
NOTICED("aio_wait.c", run_errand, store_release, 1, swap,
    "who_sends_on_an_errand_sees_what_it_did")
NOTICED("aio_wait.c", aio_wait_bh_oneshot, load_acquire, 1, relax,
    "who_sends_on_an_errand_sees_what_it_did")

NOTICED("bh.c", push, cas_seq, 1, relax,
    "a_bottom_half_runs_after_each_schedule_and_sees_what_came_before")
NOTICED("bh.c", push, cas_seq, 1, split,
    "a_oneshot_runs_once_with_what_it_was_given")
NOTICED("bh.c", enqueue, or_seq, 1, relax,
    "a_bottom_half_runs_after_each_schedule_and_sees_what_came_before")
NOTICED("bh.c", enqueue, or_seq, 1, split,
    "a_bottom_half_runs_after_each_schedule_and_sees_what_came_before")
NOTICED("bh.c", bh_cancel, and_seq, 1, relax,
    "who_cancels_sees_what_came_before_the_schedule_it_took_back")
NOTICED("bh.c", bh_cancel, and_seq, 1, split,
    "who_cancels_sees_what_came_before_the_schedule_it_took_back")
NOTICED("bh.c", take_pushed, xchg_seq, 1, relax,
    "a_bottom_half_runs_after_each_schedule_and_sees_what_came_before")
NOTICED("bh.c", take_pushed, xchg_seq, 1, split,
    "a_oneshot_runs_once_with_what_it_was_given")
NOTICED("bh.c", claim_flags, and_seq, 1, relax,
    "a_bottom_half_runs_after_each_schedule_and_sees_what_came_before")
NOTICED("bh.c", claim_flags, and_seq, 1, split,
    "a_bottom_half_runs_after_each_schedule_and_sees_what_came_before")
NOTICED("bh.c", bh_timeout_ns, load_acquire, 1, relax,
    "a_bottom_half_runs_after_each_schedule_and_sees_what_came_before")
HARMLESS("bh.c", bh_flags, load_acquire, 1, relax,
    "a oneshot's flags come with its link; of others it is a hint: claim_flags() acquires")
HARMLESS("bh.c", claim_flags, load_acquire, 1, relax,
    "the read-modify-write behind it acquires; a oneshot's flags come with its link")

NOTICED("co_mutex.c", push_waiter, cas_seq, 1, relax,
    "it_can_be_taken_again_at_once")
NOTICED("co_mutex.c", pop_waiter, xchg_seq, 1, relax,
    "it_can_be_taken_again_at_once")
NOTICED("co_mutex.c", pop_waiter, xchg_seq, 1, split,
    "it_can_be_taken_again_at_once")
NOTICED("co_mutex.c", spin_lock, cas_seq, 1, relax,
    "two_lockers_and_an_unlocker_hand_it_on")
NOTICED("co_mutex.c", spin_lock, cas_seq, 1, split,
    "two_lockers_and_an_unlocker_hand_it_on")
NOTICED("co_mutex.c", wait_for_turn, full_fence, 1, drop,
    "it_can_be_taken_again_at_once")
NOTICED("co_mutex.c", lock_without_queue, cas_seq, 1, relax,
    "two_lockers_and_an_unlocker_hand_it_on")
NOTICED("co_mutex.c", lock_without_queue, cas_seq, 1, split,
    "two_lockers_and_an_unlocker_hand_it_on")
NOTICED("co_mutex.c", co_mutex_lock, add_seq, 1, relax,
    "it_can_be_taken_again_at_once")
NOTICED("co_mutex.c", co_mutex_lock, add_seq, 1, split,
    "it_can_be_taken_again_at_once")
NOTICED("co_mutex.c", leave_token, store_release, 1, swap,
    "it_can_be_taken_again_at_once")
NOTICED("co_mutex.c", leave_token, full_fence, 1, drop,
    "it_can_be_taken_again_at_once")
NOTICED("co_mutex.c", co_mutex_unlock, store_relaxed, 1, swap,
    "two_lockers_and_an_unlocker_hand_it_on")
NOTICED("co_mutex.c", co_mutex_unlock, add_seq, 1, relax,
    "two_lockers_and_an_unlocker_hand_it_on")
NOTICED("co_mutex.c", co_mutex_unlock, add_seq, 1, split,
    "it_can_be_taken_again_at_once")
NOTICED("co_mutex.c", push_waiter, cas_seq, 1, split,
    "lockers_that_do_not_spin_hand_it_on")
HARMLESS("co_mutex.c", pop_waiter, store_relaxed, 1, swap,
    "the wake or the token that hands the list on comes later still")
HARMLESS("co_mutex.c", pop_waiter, store_relaxed, 2, swap,
    "a hint for those who spin")
NOTICED("co_mutex.c", take_token, cas_seq, 1, relax,
    "lockers_that_do_not_spin_hand_it_on")
NOTICED("co_mutex.c", take_token, cas_seq, 1, split,
    "lockers_that_do_not_spin_hand_it_on")
HARMLESS("co_mutex.c", became_holder, store_relaxed, 1, swap,
    "a hint for those who spin")
HARMLESS("co_mutex.c", became_holder, store_relaxed, 2, swap,
    "whoever reads it looks for itself, and sees its own store")
NOTICED("co_mutex.c", co_mutex_trylock, cas_seq, 1, relax,
    "who_tries_has_it_or_not")
NOTICED("co_mutex.c", co_mutex_trylock, cas_seq, 1, split,
    "who_tries_has_it_or_not")
NOTICED("co_mutex.c", leave_token, store_release, 1, relax,
    "lockers_that_do_not_spin_hand_it_on")

NOTICED("co_queue.c", set_first, store_relaxed, 1, swap,
    "one_at_a_time_has_the_only_one_and_each_gets_it")

NOTICED("co_rwlock.c", set_writer, store_relaxed, 1, swap,
    "a_writer_is_alone_and_readers_see_what_it_wrote")
NOTICED("co_rwlock.c", enter, or_seq, 1, relax,
    "a_writer_is_alone_and_readers_see_what_it_wrote")
NOTICED("co_rwlock.c", enter, or_seq, 1, split,
    "a_writer_is_alone_and_readers_see_what_it_wrote")
NOTICED("co_rwlock.c", serve, store_release, 1, relax,
    "who_changes_over_keeps_others_out_of_it")
HARMLESS("co_rwlock.c", serve, store_release, 1, swap,
    "what follows lets a mutex go, which all stores are made before")
NOTICED("co_rwlock.c", take_quickly, cas_seq, 1, relax,
    "a_writer_is_alone_and_readers_see_what_it_wrote")
NOTICED("co_rwlock.c", take_quickly, cas_seq, 1, split,
    "a_writer_is_alone_and_readers_see_what_it_wrote")
NOTICED("co_rwlock.c", change_quickly, cas_seq, 1, relax,
    "who_changes_over_keeps_others_out_of_it")
NOTICED("co_rwlock.c", change_quickly, cas_seq, 1, split,
    "who_changes_over_keeps_others_out_of_it")
NOTICED("co_rwlock.c", co_rwlock_unlock, cas_seq, 1, relax,
    "a_writer_is_alone_and_readers_see_what_it_wrote")
NOTICED("co_rwlock.c", co_rwlock_unlock, cas_seq, 1, split,
    "a_writer_is_alone_and_readers_see_what_it_wrote")

HARMLESS("co_schedule.c", co_claim, cas_seq, 1, relax,
    "who may claim it has learnt, by a lock or a list, that it waits again")
HARMLESS("co_schedule.c", co_claim, cas_seq, 1, split,
    "two that claim it at once break the contract, and are told of it less surely")
HARMLESS("co_schedule.c", co_unclaim, store_release, 1, relax,
    "who may claim it has learnt, by a lock or a list, that it waits again")
NOTICED("co_schedule.c", co_unclaim, store_release, 1, swap,
    "wakes_of_two_threads_at_once_are_both_heard")
NOTICED("co_schedule.c", co_schedule_claimed, cas_seq, 1, relax,
    "wakes_of_two_threads_at_once_are_both_heard")
NOTICED("co_schedule.c", co_schedule_claimed, cas_seq, 1, split,
    "wakes_of_two_threads_at_once_are_both_heard")
NOTICED("co_schedule.c", take_scheduled, xchg_seq, 1, relax,
    "wakes_of_two_threads_at_once_are_both_heard")
NOTICED("co_schedule.c", take_scheduled, xchg_seq, 1, split,
    "wakes_of_two_threads_at_once_are_both_heard")
HARMLESS("co_schedule.c", coroutine_context_deinit, load_acquire, 1, relax,
    "a context ends once everybody has let it go, which orders more")

NOTICED("co_semaphore.c", take_quickly, cas_seq, 1, relax,
    "one_at_a_time_has_the_only_one_and_each_gets_it")
NOTICED("co_semaphore.c", take_quickly, cas_seq, 1, split,
    "one_at_a_time_has_the_only_one_and_each_gets_it")
NOTICED("co_semaphore.c", give_quickly, cas_seq, 1, relax,
    "one_at_a_time_has_the_only_one_and_each_gets_it")
NOTICED("co_semaphore.c", give_quickly, cas_seq, 1, split,
    "one_at_a_time_has_the_only_one_and_each_gets_it")
NOTICED("co_semaphore.c", enter, or_seq, 1, relax,
    "one_at_a_time_has_the_only_one_and_each_gets_it")
NOTICED("co_semaphore.c", enter, or_seq, 1, split,
    "one_at_a_time_has_the_only_one_and_each_gets_it")
NOTICED("co_semaphore.c", leave, store_release, 1, relax,
    "one_at_a_time_has_the_only_one_and_each_gets_it")
HARMLESS("co_semaphore.c", leave, store_release, 1, swap,
    "what follows lets a mutex go, which all stores are made before")

HARMLESS("coroutine.c", note_enter, store_relaxed, 1, swap,
    "whoever looks on from outside reads what was, at any time")
HARMLESS("coroutine.c", co_enter_unclaimed, load_acquire, 1, relax,
    "a check for broken contracts")
HARMLESS("coroutine.c", coroutine_yield_at, store_relaxed, 1, swap,
    "whoever looks on from outside reads what was, at any time")

HARMLESS("doorbell.c", doorbell_nudge_home, load_acquire, 1, relax,
    "the wait that ended was a system call, which nothing overtakes")
NOTICED("doorbell.c", doorbell_nudge, full_fence, 1, drop,
    "a_bottom_half_runs_after_each_schedule_and_sees_what_came_before")
NOTICED("doorbell.c", doorbell_ring, store_release, 1, relax,
    "a_ring_reaches_a_loop_that_goes_to_sleep")
NOTICED("doorbell.c", doorbell_ring, store_release, 1, swap,
    "a_kick_wakes_who_waits_for_a_condition")
HARMLESS("doorbell.c", doorbell_knock, full_fence, 1, drop,
    "a kernel that orders what is before a write() to an eventfd needs none")
HARMLESS("doorbell.c", doorbell_knock, store_release, 1, relax,
    "who accepts it without the work is woken by the write, and looks again")
HARMLESS("doorbell.c", doorbell_knock, store_release, 1, swap,
    "what follows is a system call, before which all stores are made")
NOTICED("doorbell.c", doorbell_prepare_sleep, store_relaxed, 1, swap,
    "a_bottom_half_runs_after_each_schedule_and_sees_what_came_before")
NOTICED("doorbell.c", doorbell_prepare_sleep, full_fence, 1, drop,
    "a_bottom_half_runs_after_each_schedule_and_sees_what_came_before")
HARMLESS("doorbell.c", doorbell_end_sleep, store_release, 1, relax,
    "the wait before it is a system call, which nothing overtakes")
HARMLESS("doorbell.c", doorbell_end_sleep, store_release, 1, swap,
    "a sender that sees it late writes the eventfd for nothing")
HARMLESS("doorbell.c", doorbell_accept, xchg_seq, 1, relax,
    "the fence behind it acquires what it read")
HARMLESS("doorbell.c", doorbell_accept, xchg_seq, 1, split,
    "work whose notification falls in between is looked for again behind SLEEP's fence")
HARMLESS("doorbell.c", doorbell_accept, full_fence, 1, drop,
    "the xchg acquires what it takes; the rest is looked for again behind SLEEP's fence")

NOTICED("doorbell.c", doorbell_prepare_outer, store_relaxed, 1, swap,
    "a_ring_reaches_a_loop_within_an_outer_one")
NOTICED("doorbell.c", doorbell_prepare_outer, full_fence, 1, drop,
    "a_ring_reaches_a_loop_within_an_outer_one")
HARMLESS("doorbell.c", doorbell_end_outer, store_release, 1, relax,
    "the wait before it is a system call, which nothing overtakes")
HARMLESS("doorbell.c", doorbell_end_outer, store_release, 1, swap,
    "a sender that sees it late writes the eventfd for nothing")

HARMLESS("doorbell.h", doorbell_is_rung, load_acquire, 1, relax,
    "what it saw is acquired by doorbell_accept()")

NOTICED("lockcnt.c", sleep_on, cas_seq, 1, split,
    "nothing_is_freed_under_a_visitor_and_all_in_the_end")
NOTICED("lockcnt.c", lockcnt_inc, cas_seq, 1, relax,
    "nothing_is_freed_under_a_visitor_and_all_in_the_end")
NOTICED("lockcnt.c", lockcnt_inc, cas_seq, 1, split,
    "nothing_is_freed_under_a_visitor_and_all_in_the_end")
NOTICED("lockcnt.c", lockcnt_dec, add_seq, 1, split,
    "a_visitor_that_needs_no_lock_passes_its_wake_on")
NOTICED("lockcnt.c", dec_last, cas_seq, 1, relax,
    "nothing_is_freed_under_a_visitor_and_all_in_the_end")
NOTICED("lockcnt.c", dec_last, cas_seq, 1, split,
    "nothing_is_freed_under_a_visitor_and_all_in_the_end")
NOTICED("lockcnt.c", lockcnt_dec_and_lock, cas_seq, 1, relax,
    "nothing_is_freed_under_a_visitor_and_all_in_the_end")
NOTICED("lockcnt.c", lockcnt_dec_and_lock, cas_seq, 1, split,
    "nothing_is_freed_under_a_visitor_and_all_in_the_end")
NOTICED("lockcnt.c", lockcnt_lock, cas_seq, 1, relax,
    "nothing_is_freed_under_a_visitor_and_all_in_the_end")
NOTICED("lockcnt.c", lockcnt_lock, cas_seq, 1, split,
    "nothing_is_freed_under_a_visitor_and_all_in_the_end")
NOTICED("lockcnt.c", lockcnt_inc_and_unlock, cas_seq, 1, relax,
    "the_lock_is_one_threads_alone")
NOTICED("lockcnt.c", lockcnt_inc_and_unlock, cas_seq, 1, split,
    "the_lock_is_one_threads_alone")
NOTICED("lockcnt.c", lockcnt_unlock, and_seq, 1, relax,
    "nothing_is_freed_under_a_visitor_and_all_in_the_end")
NOTICED("lockcnt.c", lockcnt_unlock, and_seq, 1, split,
    "nothing_is_freed_under_a_visitor_and_all_in_the_end")
HARMLESS("lockcnt.c", sleep_on, cas_seq, 1, relax,
    "it hands nothing over, and keeps what the last release before it did")
NOTICED("lockcnt.c", lockcnt_dec, add_seq, 1, relax,
    "who_changes_frees_only_where_nobody_visits")
NOTICED("lockcnt.c", lockcnt_count, load_acquire, 1, relax,
    "who_changes_frees_only_where_nobody_visits")

NOTICED("ring.c", tx_refresh_head, load_acquire, 1, relax,
    "what_is_popped_is_whole_and_in_order")
NOTICED("ring.c", ring_publish, store_release, 1, relax,
    "what_is_popped_is_whole_and_in_order")
NOTICED("ring.c", ring_peek_at, load_acquire, 1, relax,
    "what_is_popped_is_whole_and_in_order")
NOTICED("ring.c", ring_advance_by, store_release, 1, relax,
    "what_is_popped_is_whole_and_in_order")
HARMLESS("ring.c", count_published, load_acquire, 1, relax,
    "who replaces a dead side has learnt of its death, and of its stores with it")
HARMLESS("ring.c", is_plausible, load_acquire, 1, relax,
    "who replaces a dead side has learnt of its death, and of its stores with it")
HARMLESS("ring.c", is_plausible, load_acquire, 2, relax,
    "who replaces a dead side has learnt of its death, and of its stores with it")
HARMLESS("ring.c", void_the_rest, store_release, 1, relax,
    "who replaces a dead side has learnt of its death, and of its stores with it")
HARMLESS("ring.c", void_the_rest, store_release, 1, swap,
    "who replaces a dead side has learnt of its death, and of its stores with it")
HARMLESS("ring.c", skip_to_end, load_acquire, 1, relax,
    "who replaces a dead side has learnt of its death, and of its stores with it")
HARMLESS("ring.c", skip_to_end, store_release, 1, relax,
    "who replaces a dead side has learnt of its death, and of its stores with it")
HARMLESS("ring.c", skip_to_end, store_release, 1, swap,
    "who replaces a dead side has learnt of its death, and of its stores with it")
HARMLESS("ring.c", ring_publish, store_release, 1, swap,
    "who replaces a dead producer counts from the consumer, not from the tail")
HARMLESS("ring.c", ring_tx_init, load_acquire, 1, relax,
    "who replaces a dead producer has learnt of its death, and of its stores with it")
HARMLESS("ring.c", ring_tx_init, store_release, 1, relax,
    "the consumer goes by the slots, and ring_depth() is stale at any time")
HARMLESS("ring.c", ring_tx_init, store_release, 1, swap,
    "the consumer goes by the slots, and ring_depth() is stale at any time")
HARMLESS("ring.c", ring_publish, store_release, 2, relax,
    "the consumer goes by the slots, and so does who replaces a dead producer")
HARMLESS("ring.c", ring_publish, store_release, 2, swap,
    "the consumer goes by the slots, and so does who replaces a dead producer")
HARMLESS("ring.c", ring_advance_by, store_release, 1, swap,
    "a slot that is freed late is free late")
HARMLESS("ring.c", ring_depth, load_acquire, 1, relax,
    "it may be stale, and is clamped")
HARMLESS("ring.c", ring_depth, load_acquire, 2, relax,
    "it may be stale, and is clamped")

NOTICED("arena.c", change_co, cas_seq, 1, relax,
    "a_coroutine_is_woken_to_another_shard")
NOTICED("arena.c", change_co, cas_seq, 1, split,
    "a_wake_reaches_who_waits_or_is_about_to")

NOTICED("caller.c", redo_note, store_relaxed, 5, swap,
    "a_caller_that_dies_between_two_ends_keeps_its_counts")
NOTICED("caller.c", redo_note, store_release, 1, swap,
    "a_caller_that_dies_between_two_ends_keeps_its_counts")
NOTICED("caller.c", caller_free_slot, store_release, 2, swap,
    "a_caller_that_dies_between_two_ends_keeps_its_counts")
NOTICED("caller.c", publish, store_release, 1, swap,
    "a_caller_that_dies_between_two_ends_keeps_its_counts")
NOTICED("caller.c", publish, store_release, 2, swap,
    "a_caller_that_dies_between_two_ends_keeps_its_counts")

HARMLESS("caller_heir.c", caller_recover, full_fence, 1, drop,
    "who takes back frees nothing: the slot comes back by an answer or the callee's death; what does "
    "not yet look started keeps its arguments")
HARMLESS("serve.c", serve_on_calls, full_fence, 1, drop,
    "who takes back frees nothing: a call that is seen as waiting still runs for nobody, and is "
    "answered")

NOTICED("hot.c", hot_drop_quiet, full_fence, 1, drop,
    "a_peer_that_is_looked_at_no_more_sets_its_bit_again")

NOTICED("lock_home.c", set_word, store_release, 1, swap,
    "a_lock_is_held_by_one_at_a_time")
NOTICED("lock_home.c", take_record, store_relaxed, 1, swap,
    "a_lock_is_held_by_one_at_a_time")

NOTICED("mesh.c", mesh_flush, full_fence, 1, drop,
    "two_large_answers_share_a_page_one_after_the_other")
NOTICED("mesh.c", ring_peer, full_fence, 1, drop,
    "a_call_is_run_once_and_answered_once")
NOTICED("mesh.c", ring_peer, or_seq, 1, split,
    "two_callers_are_both_heard")
NOTICED("mesh.c", take_senders, full_fence, 1, drop,
    "a_call_comes_while_its_callee_looks_for_the_first_time")
NOTICED("mesh.c", take_senders, xchg_seq, 1, split,
    "two_callers_are_both_heard")

NOTICED("local_lane.h", local_lane_push, store_release, 1, drop,
    "a_request_wakes_a_shard_and_its_end_the_client")
NOTICED("local_lane.h", local_lane_push, store_release, 1, relax,
    "a_request_wakes_a_shard_and_its_end_the_client")
NOTICED("local_lane.h", local_lane_push, store_release, 1, swap,
    "a_request_wakes_a_shard_and_its_end_the_client")
NOTICED("local_lane.h", local_lane_has, load_acquire, 1, relax,
    "a_request_wakes_a_shard_and_its_end_the_client")
NOTICED("local_lane.h", local_lane_fence, full_fence, 1, drop,
    "a_request_wakes_a_shard_and_its_end_the_client")
NOTICED("local_lane.h", local_lane_arm, store_relaxed, 1, drop,
    "a_request_wakes_a_shard_and_its_end_the_client")
NOTICED("local_lane.h", local_lane_arm, store_relaxed, 1, swap,
    "a_request_wakes_a_shard_and_its_end_the_client")

NOTICED("intake.c", intake_pass, store_release, 1, drop,
    "what_may_run_twice_is_done_whenever_its_shard_dies")

NOTICED("lane.c", lane_cut, store_release, 1, drop,
    "who_is_cut_off_comes_again_under_its_number")
NOTICED("lane.c", tell_gateway, store_release, 1, drop,
    "who_is_cut_off_comes_again_under_its_number")
NOTICED("lane.c", lane_say_closed, store_relaxed, 1, drop,
    "what_a_shard_that_leaves_did_not_take_has_not_run")
NOTICED("lane.c", lane_say_closed, store_release, 1, relax,
    "what_a_shard_that_leaves_did_not_take_has_not_run")
NOTICED("lane.c", begin, store_relaxed, 1, drop,
    "what_it_leaves_in_the_ring_its_replacement_runs")
NOTICED("lane.c", lane_settle, store_release, 1, drop,
    "who_is_cut_off_comes_again_under_its_number")
NOTICED("lane.c", begin_row, store_release, 1, drop,
    "who_is_cut_off_comes_again_under_its_number")
NOTICED("lane.c", lane_let_go, store_release, 1, relax,
    "a_client_may_end_while_its_shard_dies")
NOTICED("lane.c", begin_row, store_relaxed, 1, drop,
    "what_may_run_twice_is_done_whenever_its_shard_dies")

NOTICED("ledger.c", ledger_commit, store_release, 1, drop,
    "what_may_run_twice_is_done_whenever_its_shard_dies")
NOTICED("ledger.c", ledger_commit, store_release, 1, swap,
    "what_may_run_twice_is_done_whenever_its_shard_dies")
NOTICED("ledger.c", ledger_commit, store_release, 2, drop,
    "what_may_run_twice_is_done_whenever_its_shard_dies")
NOTICED("ledger.c", ledger_adopt, store_release, 2, drop,
    "what_may_run_twice_is_done_whenever_its_shard_dies")
NOTICED("ledger.c", ledger_void, store_release, 1, drop,
    "what_may_run_twice_is_done_whenever_its_shard_dies")
NOTICED("ledger.c", ledger_start, store_release, 1, drop,
    "what_may_not_runs_once_at_most")
NOTICED("ledger.c", ledger_start, store_release, 1, swap,
    "what_may_not_runs_once_at_most")
NOTICED("ledger.c", write_completion, store_release, 1, drop,
    "what_may_run_twice_is_done_whenever_its_shard_dies")
NOTICED("ledger.c", write_completion, store_release, 1, relax,
    "what_may_run_twice_is_done_whenever_its_shard_dies")
NOTICED("ledger.c", write_completion, store_release, 1, swap,
    "what_may_run_twice_is_done_whenever_its_shard_dies")
NOTICED("ledger.c", ledger_publish, store_release, 1, drop,
    "what_may_run_twice_is_done_whenever_its_shard_dies")
NOTICED("ledger.c", ledger_end, store_release, 1, drop,
    "what_may_run_twice_is_done_whenever_its_shard_dies")
NOTICED("ledger.c", ledger_end, store_release, 1, swap,
    "what_may_run_twice_is_done_whenever_its_shard_dies")
NOTICED("ledger.c", ledger_cancel, store_relaxed, 1, drop,
    "a_cancel_is_not_lost_with_the_shard")
NOTICED("ledger.c", ledger_cancel, store_relaxed, 1, swap,
    "a_cancel_is_not_lost_with_the_shard")
NOTICED("ledger.c", ledger_start, store_relaxed, 1, drop,
    "nor_does_the_disk_of_an_heir_that_died_too")

NOTICED("plane.c", cool_quiet, store_relaxed, 1, drop,
    "a_quiet_lane_is_told_to_ring_and_nothing_pushed_meanwhile_is_lost")
NOTICED("plane.c", cool_quiet, store_relaxed, 1, swap,
    "a_quiet_lane_is_told_to_ring_and_nothing_pushed_meanwhile_is_lost")
NOTICED("plane.c", cool_quiet, full_fence, 1, drop,
    "a_quiet_lane_is_told_to_ring_and_nothing_pushed_meanwhile_is_lost")
NOTICED("plane.c", plane_prepare, store_relaxed, 1, drop,
    "a_request_wakes_a_shard_and_its_end_the_client")
NOTICED("plane.c", plane_prepare, store_relaxed, 1, swap,
    "a_request_wakes_a_shard_and_its_end_the_client")
NOTICED("plane.c", plane_prepare, full_fence, 1, drop,
    "a_request_wakes_a_shard_and_its_end_the_client")
NOTICED("plane.c", plane_flush, full_fence, 1, drop,
    "a_request_wakes_a_shard_and_its_end_the_client")

NOTICED("plane_inside.h", intake_has_ahead, load_acquire, 1, relax,
    "a_cancel_is_heard_behind_what_waits")

NOTICED("run.c", note_touch, store_release, 1, drop,
    "no_disk_writes_where_the_client_has_its_memory_back")
NOTICED("run.c", note_touch, store_release, 1, swap,
    "no_disk_writes_where_the_client_has_its_memory_back")

NOTICED("attach_closed.c", close_lane, store_release, 1, drop,
    "what_a_shard_that_is_given_up_did_not_take_runs_once")
NOTICED("plane_shard.c", plane_shard_start, full_fence, 1, drop,
    "a_lane_that_is_over_is_served_by_nobody")

NOTICED("clients.c", set_state, store_release, 1, drop,
    "and_where_the_gateway_dies")
NOTICED("clients.c", fill_in, store_release, 1, drop,
    "who_is_cut_off_comes_again_under_its_number")
NOTICED("clients.c", fill_in, store_release, 1, swap,
    "who_is_cut_off_comes_again_under_its_number")
NOTICED("clients.c", clients_opened, store_release, 1, drop,
    "the_number_of_one_that_dies_is_used_again")

/* clang-format on */
