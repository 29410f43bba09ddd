/* SPDX-License-Identifier: MIT */
#include "runtime/doorbell.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/atomic.h"

#define ROUNDS      100000
#define DEADLINE_MS 60000

/* Both sides of the litmus test, in memory that two processes may share. */
struct party {
    struct doorbell bell;
    struct doorbell_words words;
    uint64_t work __attribute__((aligned(64)));
    uint64_t done __attribute__((aligned(64)));
};

static int setup(void **state)
{
    struct party *party =
        mmap(NULL, sizeof *party, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(party, MAP_FAILED);
    party->bell.words = &party->words;
    party->bell.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_true(party->bell.fd >= 0);
    *state = party;
    return 0;
}

static int teardown(void **state)
{
    struct party *party = *state;

    close(party->bell.fd);
    munmap(party, sizeof *party);
    return 0;
}

static bool is_readable(const struct doorbell *bell, int timeout_ms)
{
    struct pollfd pfd = {.fd = bell->fd, .events = POLLIN};
    int n;

    do {
        n = poll(&pfd, 1, timeout_ms);
    } while (n < 0 && errno == EINTR);
    return n == 1;
}

static void ring_of_an_awake_receiver_costs_no_system_call(void **state)
{
    const struct doorbell *bell = &((struct party *)*state)->bell;

    assert_false(doorbell_ring(bell));
    assert_false(is_readable(bell, 0));
    assert_true(doorbell_is_rung(bell));
}

static void ring_of_a_sleeping_receiver_makes_its_fd_readable(void **state)
{
    const struct doorbell *bell = &((struct party *)*state)->bell;

    assert_true(doorbell_prepare_sleep(bell));
    assert_true(doorbell_ring(bell));
    assert_true(is_readable(bell, 0));
    doorbell_end_sleep(bell);
    doorbell_drain_fd(bell);
    assert_false(is_readable(bell, 0));
}

static void every_ring_of_a_sleeping_receiver_writes_though_it_is_rung_already(void **state)
{
    const struct doorbell *bell = &((struct party *)*state)->bell;

    assert_true(doorbell_prepare_sleep(bell));
    assert_true(doorbell_ring(bell));
    doorbell_drain_fd(bell);
    assert_true(doorbell_ring(bell));
    assert_true(is_readable(bell, 0));
    doorbell_end_sleep(bell);
}

static void notification_before_the_wait_forbids_to_block(void **state)
{
    const struct doorbell *bell = &((struct party *)*state)->bell;

    doorbell_ring(bell);
    assert_false(doorbell_prepare_sleep(bell));
    doorbell_end_sleep(bell);
}

static void accept_takes_a_notification_once(void **state)
{
    const struct doorbell *bell = &((struct party *)*state)->bell;

    assert_false(doorbell_accept(bell));
    doorbell_ring(bell);
    doorbell_ring(bell);
    assert_true(doorbell_accept(bell));
    assert_false(doorbell_accept(bell));
    assert_true(doorbell_prepare_sleep(bell));
    doorbell_end_sleep(bell);
}

static void nested_sleeps_stay_asleep_until_the_outer_one_ends(void **state)
{
    const struct doorbell *bell = &((struct party *)*state)->bell;

    doorbell_prepare_sleep(bell);
    doorbell_prepare_sleep(bell);
    doorbell_end_sleep(bell);
    assert_true(doorbell_ring(bell));
    doorbell_end_sleep(bell);
    assert_false(doorbell_ring(bell));
}

static void nudge_leaves_no_notification_behind(void **state)
{
    const struct doorbell *bell = &((struct party *)*state)->bell;

    assert_false(doorbell_nudge(bell));
    assert_true(doorbell_prepare_sleep(bell));
    assert_true(doorbell_nudge(bell));
    assert_true(is_readable(bell, 0));
    doorbell_end_sleep(bell);
    assert_false(doorbell_is_rung(bell));
}

static void knock_writes_whatever_notify_me_says(void **state)
{
    const struct doorbell *bell = &((struct party *)*state)->bell;

    doorbell_knock(bell);
    assert_true(is_readable(bell, 0));
    assert_true(doorbell_is_rung(bell));
}

static void full_eventfd_neither_blocks_nor_changes_errno(void **state)
{
    const struct doorbell *bell = &((struct party *)*state)->bell;
    uint64_t most = UINT64_MAX - 1;

    assert_int_equal(write(bell->fd, &most, sizeof most), sizeof most);
    doorbell_prepare_sleep(bell);
    errno = ENOTTY;
    assert_true(doorbell_ring(bell));
    assert_int_equal(errno, ENOTTY);
    assert_true(is_readable(bell, 0));
    doorbell_end_sleep(bell);
}

/* Some hundred nanoseconds at most, in steps of about one. */
static void dawdle(uint32_t *seed)
{
    *seed = *seed * 1664525 + 1013904223;
    for (uint32_t i = *seed >> 23; i > 0; i--)
        __asm__ volatile("");
}

/* Publishes round after round, each as soon as the one before is seen. It takes the sleeper about
 * as long to go to bed, so that the ring meets it at every step of its way. */
static void send_rounds(struct party *party)
{
    uint32_t seed = 1;

    for (uint64_t round = 1; round <= ROUNDS; round++) {
        while (atomic_load_acquire(&party->done) != round - 1)
            atomic_pause();
        dawdle(&seed);
        /* Relaxed: what orders it is the doorbell. */
        atomic_store_relaxed(&party->work, round);
        doorbell_ring(&party->bell);
    }
}

/* Returns whether each round woke it. */
static bool sleep_rounds(struct party *party)
{
    const struct doorbell *bell = &party->bell;
    uint64_t seen = 0;
    uint32_t seed = 2;

    while (seen < ROUNDS) {
        bool woken = true;

        dawdle(&seed);
        if (doorbell_prepare_sleep(bell))
            woken = is_readable(bell, DEADLINE_MS);
        doorbell_end_sleep(bell);
        doorbell_drain_fd(bell);
        doorbell_accept(bell);
        seen = atomic_load_relaxed(&party->work);
        atomic_store_release(&party->done, seen);
        if (!woken)
            return false;
    }
    return true;
}

static void *send_rounds_thread(void *opaque)
{
    send_rounds(opaque);
    return NULL;
}

static void no_wake_up_is_lost_between_two_threads(void **state)
{
    struct party *party = *state;
    pthread_t sender;

    assert_int_equal(pthread_create(&sender, NULL, send_rounds_thread, party), 0);
    assert_true(sleep_rounds(party));
    pthread_join(sender, NULL);
}

static void no_wake_up_is_lost_between_two_processes(void **state)
{
    struct party *party = *state;
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        send_rounds(party);
        _exit(0);
    }
    bool woken = sleep_rounds(party);
    if (!woken)
        kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(woken);
    assert_int_equal(status, 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest cases[] = {
        CASE(ring_of_an_awake_receiver_costs_no_system_call),
        CASE(ring_of_a_sleeping_receiver_makes_its_fd_readable),
        CASE(every_ring_of_a_sleeping_receiver_writes_though_it_is_rung_already),
        CASE(notification_before_the_wait_forbids_to_block),
        CASE(accept_takes_a_notification_once),
        CASE(nested_sleeps_stay_asleep_until_the_outer_one_ends),
        CASE(nudge_leaves_no_notification_behind),
        CASE(knock_writes_whatever_notify_me_says),
        CASE(full_eventfd_neither_blocks_nor_changes_errno),
        CASE(no_wake_up_is_lost_between_two_threads),
        CASE(no_wake_up_is_lost_between_two_processes),
    };

    return cmocka_run_group_tests(cases, NULL, NULL);
}
