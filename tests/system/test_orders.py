# SPDX-License-Identifier: MIT
"""Orders and looks over the wire: who may have an instance drain, and how those hear of it who wait."""
import errno
import mmap
import os
import signal
import struct
import time
import unittest

import harness
import segment
from ipc_case import WireCase
from raw_client import DONE, Refusal, Submission, field

if not harness.SANITIZED:  # Python cannot load it with a sanitizer in it
    import client_library

NOT_DRAINED, DRAINING, DRAINED = range(3)
WRONG = 8  # enum order_state


class OrdersCase(WireCase):
    def setUp(self):
        super().setUp()
        self.sherd = self.instance()

    def begin(self, *arguments):
        self.sherd.start("--shards", "2", *arguments)

    def client(self, token=None):
        """By tcp where there is a token."""
        client = self.connect_raw(self.sherd.gateway_socket if token is None else ("127.0.0.1", self.port))
        client.hello(token=token or b"")
        return client

    def listen(self, *arguments):
        self.port = self.free_port()
        self.begin("--listen", f"tcp://127.0.0.1:{self.port}", "--token-file", self.file("guest"), *arguments)

    def file(self, secret):
        path = os.path.join(self.sherd.scratch, secret)
        with open(path, "w") as file:
            file.write(secret)
        os.chmod(path, 0o600)
        return path

    def url(self):
        return "--url", f"tcp://127.0.0.1:{self.port}"

    def await_drain(self, client, state):
        """By watching alone, as a client would."""
        status = client.watch()
        while status["drain"] != state:
            status = client.watch(seen=status["change"])
        return status


class Drain(OrdersCase):
    def test_a_local_client_has_the_instance_drain_and_go_on(self):
        self.begin()
        client = self.client()
        client.drain()
        with self.assertRaises(Refusal) as refusal:
            client.submit([Submission(1, "sys.ping")])
        self.assertEqual(refusal.exception.number, errno.ESHUTDOWN)
        self.await_drain(client, DRAINED)
        self.assertEqual(self.sherd.status()["state"], "drained")
        client.drain(off=True)
        client.submit([Submission(2, "sys.ping")])
        self.assertEqual(client.next()[0].kind, DONE)
        self.await_drain(client, NOT_DRAINED)

    def test_what_was_accepted_is_finished_before_the_instance_is_drained(self):
        self.begin()
        client, other = self.client(), self.client()
        shards = [self.sherd.shard(number) for number in (0, 1)]
        for shard in shards:
            self.sherd.kill(shard, signal.SIGSTOP)
        client.submit([Submission(1, "sys.ping")])
        other.drain()
        self.assertEqual(other.watch()["drain"], DRAINING)
        for shard in shards:
            self.sherd.kill(shard, signal.SIGCONT)
        end, = client.next()
        self.assertEqual(end.kind, DONE)
        client.next(wait_ms=0)  # which acknowledges it
        self.await_drain(other, DRAINED)

    def test_the_token_for_clients_is_not_one_for_orders(self):
        self.listen()
        with self.assertRaises(Refusal) as refusal:
            self.client(b"guest").drain()
        self.assertEqual(refusal.exception.number, errno.EACCES)
        self.assertIn("--operator-token-file", refusal.exception.text)
        self.assertEqual(self.client().watch()["drain"], NOT_DRAINED)

    def test_who_has_the_operator_s_token_may_and_needs_no_other(self):
        self.listen("--operator-token-file", self.file("operator"))
        with self.assertRaises(Refusal) as refusal:
            self.client(b"guest").drain()
        self.assertEqual(refusal.exception.number, errno.EACCES)
        operator = self.client(b"operator")
        operator.drain()
        self.await_drain(operator, DRAINED)

    def test_who_shows_a_lesser_token_on_the_same_connection_may_no_more(self):
        self.listen("--operator-token-file", self.file("operator"))
        client = self.client(b"operator")
        client.hello(token=b"guest")
        with self.assertRaises(Refusal):
            client.drain()

    def test_the_command_drains_an_instance_elsewhere(self):
        self.listen("--operator-token-file", self.file("operator"))
        operator = ("--token-file", self.file("operator"))
        self.assertRefused(harness.sherd("drain", *self.url(), "--token-file", self.file("guest")),
                           "this token is not for orders")
        self.assertDone(harness.sherd("drain", *self.url(), *operator))
        self.assertRefused(harness.sherd("submit", *self.url(), *operator, "sys.ping"), "draining")
        self.assertDone(harness.sherd("drain", "--off", *self.url(), *operator))
        self.assertDone(harness.sherd("submit", *self.url(), *operator, "sys.ping"))

    def test_the_command_says_what_was_not_finished_at_the_limit(self):
        self.listen("--operator-token-file", self.file("operator"))
        client = self.client()
        client.submit([Submission(1, "sys.sleep", b"60000")])
        self.assertRefused(harness.sherd("drain", "--limit", "0.1", *self.url(), "--token-file", self.file("operator")),
                           "1 requests or their clients were not finished")
        client.cancel([1])

    def test_an_order_that_names_another_instance_or_none_is_refused(self):
        self.begin()
        client = self.client()
        for name in ("other", ""):
            with self.assertRaises(Refusal) as refusal:
                client.drain(instance=name)
            self.assertEqual(refusal.exception.number, errno.EINVAL)
        self.assertEqual(client.watch()["drain"], NOT_DRAINED)

    def test_another_order_under_way_is_told(self):
        self.begin()
        client, other = self.client(), self.client()
        client.submit([Submission(1, "sys.sleep", b"60000")])
        client.drain(limit_ms=60000)
        with self.assertRaises(Refusal) as refusal:
            other.drain()
        self.assertEqual(refusal.exception.number, errno.EBUSY)
        client.cancel([1])
        client.next()
        client.next(wait_ms=0)
        self.await_drain(other, DRAINED)

    def test_more_orders_than_ten_a_second_wait(self):
        self.begin()
        client = self.client()
        begun = time.monotonic()
        for n in range(6):
            client.drain(off=n % 2 == 1)
        self.assertGreater(time.monotonic() - begun, 0.45)  # five waits of 100 ms, however slow all else is
        self.await_drain(client, NOT_DRAINED)

    def test_an_order_needs_a_session(self):
        self.begin()
        client = self.connect_raw(self.sherd.gateway_socket)
        for body in (field(8, b""), field(9, b"")):
            with self.assertRaises(Refusal) as refusal:
                client.ask(body)
            self.assertEqual(refusal.exception.number, errno.ESTALE)


class Hostile(OrdersCase):
    """What a gateway that somebody has taken over may write into its part."""

    def ask(self, word):
        """As the gateway would, and has the supervisor look."""
        with open(os.path.join(self.sherd.runtime_dir, self.sherd.name, "segment"), "r+b") as file, \
                mmap.mmap(file.fileno(), 0) as memory:
            off, _ = segment.place(memory, "gateway", 0, "head", 0, 0, "asked")
            struct.pack_into("<Q", memory, off, word)
        self.sherd.supervisor.send_signal(signal.SIGHUP)

    def state_of(self, word):
        with open(os.path.join(self.sherd.runtime_dir, self.sherd.name, "segment"), "rb") as file, \
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            for i in range(4):
                off, _ = segment.place(memory, "control", 0, "supervisor", 0, 0, "orders")
                note = off + i * 32
                if struct.unpack_from("<Q", memory, note)[0] == word:
                    return struct.unpack_from("<I", memory, note + 8)[0]
        return None

    def test_it_can_neither_restart_nor_make_nonsense_of_an_order(self):
        self.begin()
        restart, drain_one, nonsense = (1 << 56) | (255 << 48) | 1, (2 << 56) | (0 << 48) | 2, (99 << 56) | 3
        for word in (restart, drain_one, nonsense):
            self.ask(word)
            harness.wait_until(lambda word=word: self.state_of(word) == WRONG, "the supervisor to refuse it")
        self.assertEqual(self.sherd.status()["state"], "up")
        self.assertEqual([self.sherd.shard(i)["incarnation"] for i in range(2)], [1, 1])
        self.assertDone(self.sherd.command("submit", "sys.ping"))


class Watch(OrdersCase):
    def test_nothing_is_told_while_nothing_changes_and_all_is_when_the_time_is_over(self):
        self.begin()
        client = self.client()
        seen = client.watch()
        self.assertNotEqual(seen["change"], 0)
        again = client.watch(seen=seen["change"], wait_ms=50)
        self.assertEqual(again["change"], seen["change"])
        self.assertEqual(len(again["processes"]), 4)

    @unittest.skipIf(harness.THREADS, "a thread is not killed alone")
    def test_a_death_and_what_takes_its_place_are_told_as_they_happen(self):
        self.begin()
        client = self.client()
        seen = client.watch()["change"]
        client.send(client.watch_message(seen))
        self.sherd.kill_and_wait("shard", 1)
        status = client.status_of(client.receive()[2])
        self.assertNotEqual(status["change"], seen)
        while any(process[4] != [b"up"] for process in status["processes"]):
            status = client.watch(seen=status["change"])
        self.assertEqual(sum(process.get(7, [0])[0] for process in status["processes"]), 1)

    def test_one_waits_a_connection(self):
        self.begin()
        client = self.client()
        seen = client.watch()["change"]
        waiting = {client.send(client.watch_message(seen)) for _ in range(2)}  # nng may hand them over in any order
        answered = {client.receive()[0]}
        self.assertLess(answered, waiting)
        waiting.add(client.send(client.watch_message()))  # which waits for nothing
        answered |= {client.receive()[0] for _ in range(2)}
        self.assertEqual(answered, waiting)

    def test_who_leaves_while_it_waits_is_forgotten(self):
        self.begin()
        client = self.client()
        for _ in range(20):
            watcher = self.client()
            watcher.send(watcher.watch_message(client.watch()["change"]))
            watcher.socket.close()
        harness.wait_until(lambda: client.status()["sessions"] == 1, "the others to be gone")
        client.drain()
        self.await_drain(client, DRAINED)
        self.assertEqual(self.sherd.stop(), 0)


@unittest.skipIf(harness.SANITIZED, "Python cannot load the client library with a sanitizer in it")
class Library(OrdersCase):
    def test_it_drains_and_watches(self):
        self.begin()
        with client_library.Client(self.sherd) as client:
            status = client.watch()
            self.assertEqual((status.n_shards, status.n_shards_up, status.drain), (2, 2, NOT_DRAINED))
            client.drain()
            while status.drain != DRAINED:
                status = client.watch(status.change)
            self.assertEqual(client.call("sys.ping").error, -errno.ESHUTDOWN)
            client.drain(off=True)
            self.assertEqual(client.call("sys.ping").end, client_library.DONE)

    def test_callbacks_run_while_it_watches(self):
        self.begin()
        with client_library.Client(self.sherd) as client:
            ends = []
            client.submit("sys.ping", done=ends.append)
            client.watch(client.watch().change, wait_ns=0)
            seen = client.watch().change
            while not ends:
                client.watch(seen, wait_ns=10_000_000)

    def test_what_is_refused_comes_with_its_words(self):
        self.listen()
        with client_library.Client(url=f"tcp://127.0.0.1:{self.port}", token_file=self.file("guest")) as client:
            with self.assertRaises(OSError) as refused:
                client.drain()
            self.assertEqual(refused.exception.errno, errno.EACCES)
            self.assertIn("--operator-token-file", str(refused.exception))

    def test_over_shared_memory_there_is_neither(self):
        self.begin()
        with client_library.Client(self.sherd, plane=client_library.DATA) as client:
            with self.assertRaises(OSError) as refused:
                client.watch()
            self.assertEqual(refused.exception.errno, errno.EOPNOTSUPP)

    @unittest.skipIf(harness.THREADS, "a thread is not killed alone")
    def test_a_watch_goes_on_with_the_next_gateway(self):
        self.begin()
        with client_library.Client(self.sherd) as client:
            seen = client.watch()
            harness.send_signal(self.sherd.gateway()["pid"], signal.SIGKILL)
            status = client.watch(seen.change)
            self.assertEqual(status.deaths, seen.deaths + 1)


if __name__ == "__main__":
    harness.main()
