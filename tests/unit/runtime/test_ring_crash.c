/* SPDX-License-Identifier: MIT */
/*
 * The ring with a crash before each access to shared memory that a producer makes. Its source is
 * compiled in here, with the hook on, in place of the library's.
 */
#define SHERD_ATOMIC_HOOK
#include "runtime/ring.c"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define N_SLOTS 4

struct memory {
    struct ring_slot slots[N_SLOTS];
    uint64_t tail __attribute__((aligned(64)));
    uint64_t head __attribute__((aligned(64)));
};

static int accesses_left = -1; /* the test's own switch; -1: no crash */

void atomic_hook(
    enum atomic_access access, const volatile void *address, const char *file, int line)
{
    if (accesses_left >= 0 && accesses_left-- == 0)
        raise(SIGKILL);
}

static bool push_number(struct ring_tx *tx, uint64_t number)
{
    uint8_t payload[RING_PAYLOAD_BYTES];

    memset(payload, (int)number, sizeof payload);
    return ring_push(tx, payload);
}

/* Pops all there is and returns the next number, each being one more than the one before. */
static uint64_t drain(struct memory *m, uint64_t expected)
{
    uint8_t payload[RING_PAYLOAD_BYTES];
    struct ring_rx rx;

    ring_rx_init(&rx, m->slots, &m->head, N_SLOTS);
    while (ring_pop(&rx, payload)) {
        for (size_t i = 0; i < sizeof payload; i++)
            assert_int_equal(payload[i], (uint8_t)expected);
        expected++;
    }
    return expected;
}

/* In a child: takes over, pushes to the ring's end, and dies before access n. True where it did. */
static bool crash_at(struct memory *m, int n)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        struct ring_tx tx;

        accesses_left = n;
        ring_tx_init(&tx, m->slots, &m->tail, &m->head, N_SLOTS);
        while (push_number(&tx, tx.next)) {
        }
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void crash_before_any_access_loses_and_doubles_nothing(void **state)
{
    struct memory *m =
        mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t expected = 0;
    int n = 0;

    assert_ptr_not_equal(m, MAP_FAILED);
    while (crash_at(m, n)) {
        struct ring_tx tx;

        n++;
        expected = drain(m, expected);
        ring_tx_init(&tx, m->slots, &m->tail, &m->head, N_SLOTS);
        assert_int_equal(tx.next, expected);
        assert_true(push_number(&tx, expected));
        expected = drain(m, expected);
    }
    /* Two stores a slot at least, or the hook was not there. */
    assert_true(n >= 2 * N_SLOTS);
    munmap(m, sizeof *m);
}

int main(void)
{
    const struct CMUnitTest cases[] = {
        cmocka_unit_test(crash_before_any_access_loses_and_doubles_nothing),
    };

    return cmocka_run_group_tests(cases, NULL, NULL);
}
