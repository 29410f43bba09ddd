# SPDX-License-Identifier: MIT
"""Whose requests crash shards: each crash is charged to a client or session and makes its user wait; three are too
many."""
import errno
import json
import os
import socket
import time
import unittest

import harness
import test_attach
from raw_client import DONE, FAILED, IN_DOUBT, RawClient, Refusal, Submission
from test_attach import ARGS_INLINE, completion, method, push

REFUSE = 8
NOT_STARTED = 5


@unittest.skipIf(harness.THREADS or harness.SANITIZED, "crashes for real")
class LocalClients(test_attach.TestCase):
    def awaited(self, client, shard, position):
        return harness.wait_until(lambda: completion(client, shard, position), "a completion")

    def test_crashes_of_another_shard_are_its_own_and_the_third_is_told_before_the_cut(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        client, other = self.client(instance), self.client(instance)
        client.open(0)
        other.open(0)
        crash, ping = (method(self.directory(instance), f"sys.{name}") for name in ("crash", "ping"))
        for n in range(3):
            push(client, 0, n, crash, args=b"segv", to=1)
            instance.wait_for_shard(1, incarnation=n + 2)
            self.assertEqual(self.awaited(client, 0, n)[:2], (IN_DOUBT, errno.EOWNERDEAD))
        self.assertIn("three crashes", client.wait_for_the_end())
        push(other, 0, 0, ping, flags=ARGS_INLINE | REFUSE)
        end, error, retry_us, _ = self.awaited(other, 0, 0)
        if end == NOT_STARTED:
            self.assertEqual(error, errno.EAGAIN)
            self.assertTrue(0 < retry_us <= 400000, retry_us)
        else:  # this test was held up for the 400 ms
            self.assertEqual((end, error), (DONE, 0))
            self.assertGreater(time.monotonic_ns(), self.wait_ends_ns(instance))
        shown = json.loads(self.assertDone(instance.command("clients", "--json")).stdout)
        self.assertEqual([(user["uid"], user["crashes"]) for user in shown["users"]], [(os.getuid(), 3)])
        push(other, 0, 1, ping)  # this one waits in the ring
        self.assertEqual(self.awaited(other, 0, 1)[:2], (DONE, 0))
        self.assertEqual(instance.stop(), 0)

    def test_one_that_is_run_again_is_parked_and_told_before_the_cut(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        client = self.client(instance)
        client.open(0)
        push(client, 0, 0, method(self.directory(instance), "sys.crash_again"), args=b"segv", to=1)
        self.assertEqual(self.awaited(client, 0, 0)[:2], (FAILED, errno.ENOTRECOVERABLE))
        self.assertIn("three crashes", client.wait_for_the_end())
        self.assertEqual(instance.shard(1)["crashes"], 3)
        letter = json.loads(self.assertDone(instance.command("dead-letters", "--json", "1")).stdout)
        self.assertEqual(bytes.fromhex(letter["arguments"]), b"segv")
        self.assertEqual(letter["client"], {"number": client.client, "uid": os.getuid(), "pid": os.getpid(),
                                            "name": "python"})
        self.assertEqual(instance.stop(), 0)

    def test_one_that_its_own_shard_runs_again_is_a_dead_letter_too(self):
        instance = self.start("--shards", "1", "--enable-test-methods")
        client = self.client(instance)
        client.open(0)
        push(client, 0, 0, method(self.directory(instance), "sys.crash_again"), args=b"segv")
        self.assertEqual(self.awaited(client, 0, 0)[:2], (FAILED, errno.ENOTRECOVERABLE))
        self.assertIn("three crashes", client.wait_for_the_end())
        letter = json.loads(self.assertDone(instance.command("dead-letters", "--json", "1")).stdout)
        self.assertEqual((letter["method"], letter["caller"], letter["callee"], letter["client"]["number"]),
                         ("sys.crash_again", "shard 0", "shard 0", client.client))
        self.assertEqual(bytes.fromhex(letter["arguments"]), b"segv")
        self.assertEqual([(crash["incarnation"], crash["what"][:7]) for crash in letter["crashes"]],
                         [(n, "SIGSEGV") for n in (1, 2, 3)])
        for crash in letter["crashes"]:
            self.assertTrue(any("run_crash" in frame for frame in crash["backtrace"]), crash)
        self.assertEqual(instance.stop(), 0)

    def test_a_gateway_that_dies_meanwhile_forgets_nothing(self):
        instance = self.start("--shards", "1", "--enable-test-methods")
        client = self.client(instance)
        client.open(0)
        crash = method(self.directory(instance), "sys.crash")
        for n in range(3):
            push(client, 0, n, crash, args=b"segv")
            instance.wait_for_shard(0, incarnation=n + 2)
            if n == 1:
                instance.kill_and_wait("gateway")
        self.assertIn("three crashes", client.wait_for_the_end())
        self.assertEqual(instance.stop(), 0)


@unittest.skipIf(harness.THREADS or harness.SANITIZED, "crashes for real")
class Sessions(test_attach.TestCase):
    def raw(self, instance, address=None):
        client = RawClient(address or os.path.join(self.directory(instance), "gateway"), timeout=harness.DEADLINE)
        self.clients.append(client.socket)
        return client

    def crash(self, instance, client, number, incarnation, name="sys.crash"):
        """One more, after the user's wait for the one before."""
        accepted, refused = client.submit([Submission(number, name, b"segv", shard=0)])
        self.assertEqual((accepted, refused), (1, {}))
        instance.wait_for_shard(0, incarnation=incarnation)

    def test_the_third_crash_ends_a_session_and_it_is_refused_by_name(self):
        instance = self.start("--shards", "1", "--enable-test-methods")
        client = self.raw(instance)
        token, _ = client.hello()
        for n in range(3):
            self.crash(instance, client, n + 1, n + 2)
            if n < 2:
                end, = client.fetch(1)
                self.assertEqual((end.id, end.kind, end.error), (n + 1, IN_DOUBT, errno.EOWNERDEAD))
        end, = client.fetch(1)  # it is told that before it ends
        self.assertEqual((end.id, end.kind), (3, IN_DOUBT))
        with self.assertRaises((ConnectionError, socket.timeout)):
            client.next()
        again = self.raw(instance)
        with self.assertRaises(Refusal) as caught:
            again.hello(token)
        self.assertEqual(caught.exception.number, errno.EPERM)
        self.assertIn("is ended: requests of it were on the CPU in three crashes", caught.exception.text)
        instance.wait_for_log("were on the CPU in three crashes")
        self.assertEqual(instance.stop(), 0)

    def test_until_its_wait_is_over_nothing_of_a_user_is_begun(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        *doomed, other = [self.raw(instance) for _ in range(4)]
        for session in *doomed, other:
            session.hello()
        for turn, client in enumerate(doomed):  # who was held up for 200 ms tries 800 ms, then 3.2 s
            for n in range(2):
                self.crash(instance, client, n + 1, 2 * turn + n + 2)
                client.fetch(1)
            accepted, _ = other.submit([Submission(turn + 1, "sys.ping", shard=1, refuse=True)])
            asked = time.monotonic()
            if accepted == 0:
                break
            other.fetch(1)
        self.assertEqual(accepted, 0)
        self.assertTrue(0 < other.retry_us <= 200000 * 4 ** turn, other.retry_us)
        self.assertEqual(other.submit([Submission(9, "sys.ping", shard=1)])[0], 1)  # waits in line
        self.assertEqual([(end.id, end.kind) for end in other.fetch(1)], [(9, 1)])
        self.assertGreater(time.monotonic() - asked, (other.retry_us - 50000) / 1e6)
        self.client(instance).open(0)
        self.assertEqual(instance.stop(), 0)

    def test_a_gateway_that_dies_meanwhile_ends_it_all_the_same(self):
        instance = self.start("--shards", "1", "--enable-test-methods")
        client = self.raw(instance)
        token, _ = client.hello()
        for n in range(2):
            self.crash(instance, client, n + 1, n + 2)
            client.fetch(1)
        self.crash(instance, client, 3, 4)
        instance.kill_and_wait("gateway")
        again = self.raw(instance)
        with self.assertRaises(Refusal) as caught:
            again.hello(token)
        self.assertEqual(caught.exception.number, errno.EPERM)
        self.assertEqual(instance.stop(), 0)

    def test_who_comes_by_tcp_is_one_user_of_its_own(self):
        port = self.free_port()
        instance = self.instance()
        path = os.path.join(instance.scratch, "token")
        with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write("open sesame\n")
        instance.start("--shards", "1", "--enable-test-methods", "--listen", f"tcp://127.0.0.1:{port}",
                       "--token-file", path)
        far, near, farther = self.raw(instance, ("127.0.0.1", port)), self.raw(instance), self.raw(
            instance, ("127.0.0.1", port))
        far.hello(token=b"open sesame")
        farther.hello(token=b"open sesame")
        near.hello()
        for n in range(3):
            self.crash(instance, far, n + 1, n + 2)
            far.fetch(1)
        self.assertEqual(near.submit([Submission(1, "sys.ping", refuse=True)])[0], 1)
        shown = json.loads(self.assertDone(instance.command("clients", "--json")).stdout)
        (user,), (session,) = shown["users"], shown["sessions"]
        self.assertEqual((user["uid"], user["crashes"], user["wait_ms"]), (None, 3, 400))
        self.assertLessEqual(user["wait_left_ns"], 400000000)
        self.assertEqual((session["uid"], session["crashes"]), (None, 3))
        text = self.assertDone(instance.command("clients")).stdout
        self.assertRegex(text, r"by tcp +3 +400 ms")
        accepted, _ = farther.submit([Submission(1, "sys.ping", refuse=True)])
        if accepted == 0:
            self.assertTrue(0 < farther.retry_us <= 400000, farther.retry_us)
        near.fetch(1)
        self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
