# SPDX-License-Identifier: MIT
"""What a service is given beside calls: regions that outlive a shard, listeners, counters (examples/counter)."""
import json
import os
import signal
import socket
import unittest

import harness

BUILD = os.path.dirname(os.path.realpath(harness.program()))
COUNTER = os.path.join(BUILD, "examples", "counter", "counter.so")


class Client:
    """Speaks lines over a connection."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=harness.DEADLINE)
        self.unread = b""

    def ask(self, line):
        self.socket.sendall(line.encode() + b"\n")
        return self.line()

    def line(self):
        while b"\n" not in self.unread:
            more = self.socket.recv(4096)
            if not more:
                raise EOFError
            self.unread += more
        line, self.unread = self.unread.split(b"\n", 1)
        return line.decode()

    def close(self):
        self.socket.close()


class CounterCase(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.clients = []

    def tearDown(self):
        for client in self.clients:
            client.close()
        super().tearDown()

    def listening(self, *arguments, shards=1):
        instance = self.start("--shards", str(shards), "--service", COUNTER, "--set", "counter.listen=tcp://127.0.0.1:0",
                              *arguments)
        rows = self.services(instance)["listeners"]
        instance.port = int(rows[0]["address"].rsplit(":", 1)[1])
        return instance

    def services(self, instance):
        return json.loads(self.assertDone(instance.command("services", "--json")).stdout)

    def count(self, instance, name, shard=0):
        return self.services(instance)["shards"][shard]["counters"][name]

    def client(self, instance):
        client = Client(instance.port)
        self.clients.append(client)
        return client


class Regions(CounterCase):
    def test_counters_go_on_where_a_killed_shard_left_them(self):
        instance = self.start("--shards", "2", "--service", COUNTER)
        for total in ("3", "6"):
            for name in ("a", "b", "c", "d"):
                added = self.assertDone(instance.command("submit", "counter.add", f"{name} 3"))
                self.assertEqual(added.stdout.strip(), total)
            for shard in (0, 1):
                instance.kill_and_wait("shard", shard)
        sums = [int(self.assertDone(instance.command("submit", "counter.sum", "--shard", str(shard))).stdout)
                for shard in (0, 1)]
        self.assertEqual(sum(sums), 24)
        self.assertEqual(instance.stop(), 0)

    def test_killed_in_the_middle_of_changes_sum_and_counters_agree(self):
        instance = self.listening()
        total = 0
        for turn in range(12):
            client = self.client(instance)
            client.socket.sendall(b"".join(b"n%d\n" % n for n in range(200)) * 20)
            client.line()
            instance.kill_and_wait("shard", 0)
            parts = sum(int(self.client(instance).ask(f"n{n} 0")) for n in range(200)) if turn % 4 == 3 else None
            sum_now = int(self.assertDone(instance.command("submit", "counter.sum", "--shard", "0")).stdout)
            self.assertGreater(sum_now, total)
            self.assertIn(parts, (None, sum_now))
            total = sum_now
        self.assertEqual(instance.stop(), 0)

    def test_a_new_instance_begins_with_nothing(self):
        for _ in range(2):
            instance = self.start("--shards", "1", "--service", COUNTER)
            self.assertEqual(self.assertDone(instance.command("submit", "counter.add", "a")).stdout.strip(), "1")
            self.assertEqual(instance.stop(), 0)

    def test_a_setting_decides_how_large_a_region_is_and_what_is_more_is_refused(self):
        instance = self.start("--shards", "1", "--service", COUNTER, "--set", "counter.max=100")
        region, = self.services(instance)["shards"][0]["regions"]
        self.assertEqual((region["name"], region["bytes"]), ("counter.table", 16 + 100 * 32))
        for n in range(100):
            self.assertDone(instance.command("submit", "counter.add", f"n{n}"))
        full = instance.command("submit", "counter.add", "one-more")
        self.assertIn("raise counter.max", full.stderr)
        self.assertEqual(instance.stop(), 0)


class Listeners(CounterCase):
    def test_a_connection_reaches_the_counters_of_all_shards(self):
        instance = self.listening(shards=2)
        client = self.client(instance)
        self.assertEqual([client.ask(f"n{n} 2") for n in range(8)], ["2"] * 8)
        self.assertEqual(client.ask("n0 5"), "7")
        self.assertEqual(client.ask("a-name-that-is-longer-than-it-may-be"), "failed")
        sums = [shard["counters"]["counter.names"] for shard in self.services(instance)["shards"]]
        self.assertEqual(sum(sums), 8)
        self.assertTrue(all(sums), sums)
        self.assertEqual(instance.stop(), 0)

    def test_whoever_waits_in_the_backlog_of_a_dead_shard_is_served_by_its_replacement(self):
        instance = self.listening()
        old = self.client(instance)
        self.assertEqual(old.ask("a"), "1")
        instance.kill(instance.shard(0), signal.SIGSTOP)
        waiting = [self.client(instance) for _ in range(5)]
        for client in waiting:
            client.socket.sendall(b"a\n")
        instance.kill_and_wait("shard", 0)
        self.assertEqual(sorted(int(client.line()) for client in waiting), [2, 3, 4, 5, 6])
        with self.assertRaises((EOFError, ConnectionResetError)):
            old.ask("a")
        self.assertEqual(instance.stop(), 0)

    def test_unix_sockets_are_for_their_owner_and_gone_after_a_stop(self):
        instance = self.instance()
        path = os.path.join(instance.scratch, "lines.sock")
        instance.start("--shards", "2", "--service", COUNTER, "--set", f"counter.listen=unix://{path}")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        with socket.socket(socket.AF_UNIX) as lines:
            lines.connect(path)
            lines.sendall(b"a 4\n")
            self.assertEqual(lines.recv(10), b"4\n")
        self.assertEqual(instance.stop(), 0)
        self.assertFalse(os.path.exists(path))

    def test_an_address_that_is_none_or_taken_keeps_the_instance_from_starting(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            for address, why in (("tcp://localhost:1", "no address to listen at"), ("tcp://127.0.0.1", "no address"),
                                 ("tcp://127.0.0.1:65536", "no address"), ("unix://relative", "no address"),
                                 (f"unix:///{'x' * 108}", "has at most 107 bytes"),
                                 (f"tcp://127.0.0.1:{port}", "Address already in use")):
                with self.subTest(address):
                    result = self.instance().command("run", "--shards", "2", "--service", COUNTER, "--set",
                                                     f"counter.listen={address}")
                    self.assertRefused(result, "service counter: ", why)

    def test_a_stop_and_a_restart_end_connections_between_two_lines(self):
        instance = self.listening(shards=2)
        clients = [self.client(instance) for _ in range(8)]
        for client in clients:
            client.ask("a")
        self.assertDone(instance.command("restart"))
        for client in clients:
            with self.assertRaises((EOFError, ConnectionResetError, BrokenPipeError)):
                client.ask("a")
        self.assertEqual(self.client(instance).ask("a"), "9")
        self.assertDone(instance.command("drain"))
        drained = self.client(instance)  # it waits in the backlog
        drained.socket.sendall(b"a\n")
        self.assertDone(instance.command("drain", "--off"))
        self.assertEqual(drained.line(), "10")
        self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
