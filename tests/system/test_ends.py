# SPDX-License-Identifier: MIT
"""
The ways a request can end, as docs/crashes.md has them, each brought about in real shards and told apart by each
kind of client: the bytes on the wire, the C library, and `sherd submit`.
"""
import errno
import signal
import subprocess
import unittest

import harness
from raw_client import CANCELLED, DONE, EXPIRED, FAILED, IN_DOUBT, NOT_STARTED, RawClient, Submission

if not harness.SANITIZED:  # Python cannot load the client library with a sanitizer in it
    from client_library import Client

POISONED = "poisoned"  # failed, with an error of its own
GIVEN_UP = 2           # shard
CRASHES = 0            # for what dies once
FOREVER = b"86400000"  # ms

# How each is brought about: method, arguments, shard ("own": one for each kind of client), time limit; and what the
# client is told: end, error, and what its text says.
CASES = {
    DONE: (("sys.echo", b"here", 1, 0), (DONE, 0, "here")),
    FAILED: (("sys.relay", b"nonsense", 1, 0), (FAILED, errno.EINVAL, "sys.relay: the arguments are a shard")),
    CANCELLED: (("sys.sleep", FOREVER, 1, 0), (CANCELLED, errno.ECANCELED, "")),
    EXPIRED: (("sys.sleep", FOREVER, 1, 300_000_000), (EXPIRED, errno.ETIMEDOUT, "")),
    NOT_STARTED: (("sys.ping", b"", GIVEN_UP, 0), (NOT_STARTED, errno.EHOSTDOWN, "is given up")),
    IN_DOUBT: (("sys.crash", b"segv", CRASHES, 0), (IN_DOUBT, errno.EOWNERDEAD, "must not be run twice")),
    POISONED: (("sys.crash_again", b"segv", "own", 0), (FAILED, errno.ENOTRECOVERABLE, "crashed 3 times")),
}
# Who crashes shards three times is ended, with all that he has under way: so these have a session each.
SESSIONS = ([case for case in CASES if case not in (IN_DOUBT, POISONED)], [IN_DOUBT], [POISONED])


class Ends(harness.TestCase):
    def begin(self):
        """Shards beyond GIVEN_UP are for one client's poison each: a fourth crash would be too many."""
        instance = self.start("--shards", "6", "--crash-limit", "4", "--enable-test-methods")
        for _ in range(3):
            instance.kill_and_wait("shard", GIVEN_UP, signal.SIGSEGV)
        instance.kill(instance.wait_for_shard(GIVEN_UP), signal.SIGSEGV)
        instance.wait_for_shard(GIVEN_UP, state="failed")
        return instance

    def check(self, told):
        for case, (_, (kind, error, text)) in CASES.items():
            with self.subTest(case=case):
                self.assertEqual(told[case][:2], (kind, error))
                self.assertIn(text, told[case][2])

    def by_wire(self, instance, own, cases):
        ids = dict(enumerate(cases, 1))
        with RawClient(instance.gateway_socket) as client:
            client.hello()
            for number, case in ids.items():
                (method, args, shard, timeout), _ = CASES[case]
                submission = Submission(number, method, args, own if shard == "own" else shard, timeout_ns=timeout)
                self.assertEqual(client.submit([submission]), (1, {}))
            for number in (number for number, case in ids.items() if case == CANCELLED):
                self.assertEqual(client.cancel([number]), 1)
            ends = client.fetch(len(ids))
        self.assertEqual(sorted(end.id for end in ends), sorted(ids))
        return {ids[end.id]: (end.kind, end.error, end.data.decode()) for end in ends}

    def by_library(self, instance, own, cases):
        told = {}

        def note(case):
            def done(result):
                self.assertNotIn(case, told)
                told[case] = (result.end, -result.error, result.data.decode())
            return done
        with Client(instance) as client:
            for case in cases:
                (method, args, shard, timeout), _ = CASES[case]
                number = client.submit(method, args, note(case), own if shard == "own" else shard, timeout_ns=timeout)
                if case == CANCELLED:
                    client.cancel(number)
            while client.in_flight():
                self.assertGreaterEqual(client.process(), 0)
        return told

    def by_command(self, instance, case, own):
        """Exit status, standard output, standard error."""
        (method, args, shard, timeout), _ = CASES[case]
        limit = ("--timeout", str(timeout / 1e9)) if timeout else ()
        submit = instance.popen("submit", "--shard", str(own if shard == "own" else shard), *limit, method,
                                *([args.decode()] if args else []), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                text=True)
        if case == CANCELLED:
            harness.wait_until(lambda: instance.shard(1)["calls_in"] > 0, "the call to begin")
            submit.send_signal(signal.SIGINT)
        output, errors = submit.communicate(timeout=harness.DEADLINE)
        return submit.returncode, output, errors

    def by_sessions(self, ask, own):
        """Each crash makes the next one's begin wait, so each kind of client has an instance of its own."""
        instance, told = self.begin(), {}
        for cases in SESSIONS:
            told.update(ask(instance, own, cases))
        self.check(told)
        self.assertDone(instance.command("audit"))
        self.assertEqual(instance.stop(), 0)

    def test_each_end_is_told_apart_on_the_wire(self):
        self.by_sessions(self.by_wire, 3)

    @unittest.skipIf(harness.SANITIZED, "Python cannot load the client library with a sanitizer in it")
    def test_each_end_is_told_apart_in_the_library(self):
        self.by_sessions(self.by_library, 4)

    def test_each_end_is_told_apart_by_the_command(self):
        instance = self.begin()
        words = {EXPIRED: "expired: ", NOT_STARTED: "not started: ", IN_DOUBT: "in doubt: "}
        for case, (_, (_, _, text)) in CASES.items():
            with self.subTest(command=case):
                status, output, errors = self.by_command(instance, case, 5)
                if case == DONE:
                    self.assertEqual((status, output.strip(), errors), (0, text, ""))
                elif case == CANCELLED:
                    self.assertEqual((status, output), (130, ""))
                    self.assertIn("1 cancelled", errors)
                else:
                    self.assertEqual((status, output, len(errors.splitlines())), (1, "", 1), errors)
                    self.assertIn(text, errors)
                    self.assertEqual([word for word in words.values() if word in errors],
                                     [words[case]] if case in words else [])
        self.assertDone(instance.command("audit"))
        self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
