# SPDX-License-Identifier: MIT
"""What becomes of requests when the gateway dies: each is run once, and its end told, by the one that takes its place."""
import collections
import contextlib
import errno
import os
import signal
import time

import harness
from ipc_case import IpcCase
from raw_client import DONE, Refusal, Submission


class FatesCase(IpcCase):
    def begin(self, *arguments):
        self.sherd = self.instance()
        self.sherd.start("--shards", "2", "--enable-test-methods", "--set",
                         f"sys.notes={self.sherd.scratch}", *arguments)
        self.notes = os.path.join(self.sherd.scratch, "notes")

    def again(self, old):
        """The same session, on a new connection, with what has come acknowledged."""
        client = self.client()
        client.token, resumed = client.hello(old.token)
        self.assertTrue(resumed)
        client.last = old.last
        return client

    def replace_gateway(self):
        return self.sherd.kill_and_wait("gateway")

    def note(self, number, **options):
        """Not to be run twice, which the file would show."""
        return Submission(number, "sys.note", f"{self.notes} {number}".encode(), **options)

    def noted(self):
        with contextlib.suppress(FileNotFoundError), open(self.notes) as file:
            return collections.Counter(map(int, file.read().split()))
        return collections.Counter()

    def ends(self, client, n):
        """The first n, of which none is acknowledged."""
        harness.wait_until(lambda: client.status()["ended"] == n, f"{n} ends")
        return client.next(ack=0)

    def take_all(self, client, last):
        """All ends up to that position, acknowledged."""
        while client.last < last:
            client.next()
        client.next(wait_ms=0)

    @contextlib.contextmanager
    def stopped(self, shard):
        pid = self.sherd.shard(shard)["pid"]
        harness.send_signal(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            if self.sherd.shard(shard)["pid"] == pid:
                harness.send_signal(pid, signal.SIGCONT)


class Deaths(FatesCase):
    def test_what_a_shard_had_ends_with_its_answer_under_the_next_gateway(self):
        self.begin()
        client = self.session()
        with self.stopped(0):
            self.assertEqual(client.submit([self.note(i, shard=0) for i in range(1, 101)]), (100, {}))
            self.replace_gateway()
            client = self.again(client)
            self.assertEqual(client.status()["in_flight"], 100)
        ends = client.fetch(100)
        self.assertEqual({(end.id, end.kind, end.data) for end in ends},
                         {(i, DONE, str(i).encode()) for i in range(1, 101)})
        self.assertEqual(self.noted(), {i: 1 for i in range(1, 101)})

    def test_ids_that_are_alike_in_their_low_bits_keep_their_own_ends(self):
        self.begin()
        client = self.session()
        ids = [thread << 48 | number for number in range(1, 11) for thread in range(1, 9)]
        with self.stopped(0):
            self.assertEqual(client.submit([self.note(i, shard=0) for i in ids]), (80, {}))
            self.replace_gateway()
            client = self.again(client)
            self.assertEqual(client.submit([self.note(i, shard=0) for i in ids]), (80, {}))
        self.assertEqual({(end.id, end.data) for end in client.fetch(80)}, {(i, str(i).encode()) for i in ids})
        self.assertEqual(self.noted(), {i: 1 for i in ids})

    def test_submitted_again_meanwhile_they_are_not_run_again(self):
        self.begin()
        client = self.session()
        notes = [self.note(i, shard=0) for i in range(1, 101)]
        with self.stopped(0):
            client.submit(notes)
            self.replace_gateway()
            client = self.again(client)
            self.assertEqual(client.submit(notes), (100, {}))
        self.assertEqual(len({end.id for end in client.fetch(100)}), 100)
        self.assertEqual(self.noted(), {i: 1 for i in range(1, 101)})

    def test_what_was_in_line_is_run_when_it_comes_again(self):
        self.begin()
        client = self.session()
        notes = [self.note(i, shard=0) for i in range(1, 2049)]
        with self.stopped(0):
            for batch in (notes[:1024], notes[1024:]):
                self.assertEqual(client.submit(batch), (1024, {}))
            self.replace_gateway()
            client = self.again(client)
            in_mesh = client.status()["in_flight"]
            self.assertTrue(0 < in_mesh < 2048, in_mesh)
            for batch in (notes[:1024], notes[1024:]):
                self.assertEqual(client.submit(batch), (1024, {}))
        self.assertEqual({(end.id, end.kind) for end in client.fetch(2048)},
                         {(i, DONE) for i in range(1, 2049)})
        self.assertEqual(self.noted(), {i: 1 for i in range(1, 2049)})

    def test_ends_keep_their_places_and_what_has_arrived_does_not_come_again(self):
        self.begin()
        client = self.session()
        client.submit([Submission(i, "sys.echo", b"%d" % i) for i in range(1, 11)])
        first = self.ends(client, 10)
        client.next(ack=4, wait_ms=0)
        for _ in range(2):
            self.replace_gateway()
            client = self.again(client)
            again = client.next(ack=4)
            self.assertEqual([(end.position, end.id, end.data) for end in again],
                             [(end.position, end.id, end.data) for end in first[4:]])
        client.submit([Submission(11, "sys.ping")])
        self.assertEqual([(end.position, end.id) for end in client.next(ack=10)], [(11, 11)])

    def test_an_answer_too_large_to_be_remembered_is_done_and_gone(self):
        self.begin()
        client = self.session()
        client.submit([Submission(i, "sys.note", f"{self.notes} {'x' * size}".encode())
                       for i, size in ((1, 256), (2, 257))])
        self.ends(client, 2)
        self.replace_gateway()
        client = self.again(client)
        fields = client.ask(client.next_message(0))
        gone = {end.id: (end.kind, len(end.data)) for end in client.ends_of(fields)}
        self.assertEqual(gone, {1: (DONE, 256), 2: (DONE, 0)})
        self.assertEqual({end.id: end.gone for end in client.ends_of(fields)}, {1: False, 2: True})

    def test_what_may_be_run_again_is_when_its_answer_is_gone(self):
        self.begin()
        client = self.session()
        echo = [Submission(1, "sys.echo", b"y" * 1000)]
        client.submit(echo)
        client.fetch(1)
        self.replace_gateway()
        client = self.again(client)
        self.assertTrue(client.next(ack=0)[0].gone)
        self.assertEqual(client.submit(echo), (1, {}))
        self.assertEqual([(end.id, end.data) for end in client.next(ack=1)], [(1, b"y" * 1000)])

    def test_the_ids_that_were_used_stay_used(self):
        self.begin()
        client = self.session()
        client.submit([self.note(i) for i in range(1, 11)])
        client.fetch(10)
        client.next(ack=10, wait_ms=0)
        self.replace_gateway()
        client = self.again(client)
        self.assertEqual(client.submit([self.note(i) for i in range(5, 16)]), (11, {}))
        self.assertEqual({end.id for end in client.fetch(11)}, set(range(5, 16)))
        self.assertEqual(self.noted(), {i: 1 for i in range(1, 16)})

    def test_with_the_shard_dead_as_well_the_next_of_both_go_on(self):
        self.begin()
        client = self.session()
        client.submit([Submission(1, "sys.sleep", b"600000", shard=1)])
        with self.stopped(1):
            client.submit([self.note(2, shard=1)])  # not begun
            self.sherd.kill(self.sherd.shard(1))
            self.replace_gateway()
        client = self.again(client)
        self.assertEqual([(end.id, end.kind) for end in client.fetch(1)], [(2, DONE)])
        self.assertEqual(client.cancel([1]), 1)  # under way again: it may be, and its arguments are small
        self.assertEqual({end.id for end in client.fetch(1)}, {1})
        self.assertEqual(self.noted(), {2: 1})

    def test_each_request_runs_once_though_gateways_die_under_load(self):
        self.begin()
        client, left, ends = self.session(), {}, collections.Counter()
        number, n_deaths = 0, 0
        deadline = time.monotonic() + harness.DEADLINE
        while n_deaths < 4 or left:
            self.assertLess(time.monotonic(), deadline)
            try:
                batch = [number + 1 + i for i in range(128)] if n_deaths < 4 else []
                number += len(batch)
                left |= {i: self.note(i, shard=i % 2) for i in batch}
                if batch:
                    self.assertEqual(client.submit([left[i] for i in batch])[1], {})
                if number // 128 % 4 == 0 and n_deaths < 4:
                    n_deaths += 1
                    killed = self.sherd.gateway()["pid"]
                    harness.send_signal(killed, signal.SIGKILL)
                for end in client.next(wait_ms=1000):
                    self.assertEqual(end.kind, DONE)
                    ends[end.id] += left.pop(end.id, None) is not None
            except (ConnectionError, FileNotFoundError):
                harness.wait_until(lambda: self.sherd.gateway()["pid"] != killed, "another gateway")
                client = self.come_back(client, left)
        self.assertEqual(ends, {i: 1 for i in range(1, number + 1)})
        self.assertEqual(self.noted(), {i: 1 for i in range(1, number + 1)})

    def come_back(self, client, left):
        self.sherd.wait_for("gateway", state="up")
        client = self.again(client)
        pending = list(left.values())
        for first in range(0, len(pending), 1024):
            self.assertEqual(client.submit(pending[first:first + 1024])[1], {})
        return client


class Limits(FatesCase):
    def test_what_is_forgotten_is_too_old_and_not_run(self):
        self.begin()
        client = self.session()
        client.submit([self.note(1)])
        self.take_all(client, 1)
        for first in range(2, 4098, 1024):
            client.submit([Submission(i, "sys.ping") for i in range(first, first + 1024)])
            self.take_all(client, first + 1023)
        client.submit([Submission(5000, "sys.ping")])
        client.fetch(1)
        for _ in range(2):
            accepted, refused = client.submit([self.note(1)])
            self.assertEqual((accepted, refused[1][0]), (0, errno.ESTALE))
            self.assertIn("too old", refused[1][1])
            self.replace_gateway()
            client = self.again(client)
        self.assertEqual(self.noted(), {1: 1})

    def test_the_total_is_printed_and_at_it_new_sessions_are_refused(self):
        self.begin("--fates-memory", str(320 * 32))
        self.assertIn("fates of 32 requests of at most 4 sessions", self.sherd.log())
        clients = [self.session() for _ in range(4)]
        with self.assertRaises(Refusal) as refusal:
            self.session()
        self.assertEqual(refusal.exception.number, errno.EAGAIN)
        self.assertIn("--fates-memory", refusal.exception.text)
        accepted, refused = clients[0].submit(
            [Submission(i, "sys.sleep", b"600000") for i in range(1, 65)])
        self.assertEqual(accepted, 8)  # the others' are theirs
        self.assertEqual({number for number, _ in refused.values()}, {errno.EAGAIN})
        self.assertEqual(clients[1].submit([Submission(1, "sys.ping")]), (1, {}))
        clients[1].fetch(1)
        clients[0].cancel(range(1, 9))

    def test_where_room_is_short_what_has_arrived_is_forgotten_first(self):
        self.begin("--fates-memory", str(320 * 32))
        many, few = self.session(), self.session()
        few.submit([self.note(1)])
        self.take_all(few, 1)
        for number in range(1, 101):
            self.assertEqual(many.submit([self.note(1000 + number)]), (1, {}))
            many.fetch(1)
        self.assertEqual(few.submit([self.note(1)]), (1, {}))
        self.assertEqual([(end.id, end.position) for end in few.next()], [(1, 2)])
        self.assertEqual(many.submit([self.note(1001)])[0], 0)
        self.assertEqual(self.noted(), {i: 1 for i in [1, *range(1001, 1101)]})


if __name__ == "__main__":
    harness.main()
