# SPDX-License-Identifier: MIT
"""The cache in examples/kv, by an unchanged redis-cli and redis-benchmark, and by connections of its own."""
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import threading
import unittest

import harness
from raw_client import DONE, RawClient, Submission

BUILD = os.path.dirname(os.path.realpath(harness.program()))
KV = os.path.join(BUILD, "examples", "kv", "kv.so")
needs = unittest.skipUnless
CLI = needs(shutil.which("redis-cli"), "redis-cli is not there: apt-get install redis-tools")
BENCHMARK = needs(shutil.which("redis-benchmark"), "redis-benchmark is not there: apt-get install redis-tools")


def request(*words):
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Connection:
    """Requests and replies as values: str of a line, bytes, int, None, list."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=harness.DEADLINE)
        self.file = self.socket.makefile("rb")

    def send(self, *words):
        self.socket.sendall(request(*words))

    def reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError
        kind, text = line[:1], line[1:-2]
        if kind == b":":
            return int(text)
        if kind == b"$":
            return None if text == b"-1" else self.file.read(int(text) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(text))]
        return (kind + text).decode()

    def ask(self, *words):
        self.send(*words)
        return self.reply()

    def close(self):
        self.file.close()
        self.socket.close()


class KvCase(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.connections = []

    def tearDown(self):
        for connection in self.connections:
            connection.close()
        super().tearDown()

    def begin(self, *settings, shards=1, options=()):
        arguments = [part for setting in ("listen=tcp://127.0.0.1:0", "memory=4M", *settings)
                     for part in ("--set", "kv." + setting)]
        instance = self.start("--shards", str(shards), "--service", KV, *arguments, *options)
        instance.port = int(self.services(instance)["listeners"][0]["address"].rsplit(":", 1)[1])
        return instance

    def services(self, instance):
        return json.loads(self.assertDone(instance.command("services", "--json")).stdout)

    def count(self, instance, name):
        return sum(shard["counters"]["kv." + name] for shard in self.services(instance)["shards"])

    def connect(self, instance):
        connection = Connection(instance.port)
        self.connections.append(connection)
        return connection


class Commands(KvCase):
    @CLI
    def test_an_unchanged_redis_cli_is_served(self):
        instance = self.begin(shards=2)
        told = (("PING",), "PONG"), (("SET", "a", "1"), "OK"), (("GET", "a"), "1"), (("INCR", "a"), "2"), \
            (("INCR", "n"), "1"), (("EXISTS", "a", "n", "x"), "2"), (("DEL", "a", "n", "x"), "2"), \
            (("GET", "a"), ""), (("SET", "s", "two words"), "OK"), (("INCR", "s"), "ERR value is not an integer")
        for words, answer in told:
            done = subprocess.run(["redis-cli", "-p", str(instance.port), *words], capture_output=True, text=True,
                                  timeout=harness.DEADLINE, stdin=subprocess.DEVNULL)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertTrue(done.stdout.startswith(answer), f"{words}: {done.stdout!r}")
        lines = "".join(f"SET k{n} v{n}\nGET k{n}\n" for n in range(20))
        done = subprocess.run(["redis-cli", "-p", str(instance.port)], input=lines, capture_output=True, text=True,
                              timeout=harness.DEADLINE)
        self.assertEqual(done.stdout.split(), [word for n in range(20) for word in ("OK", f"v{n}")])
        self.assertEqual(instance.stop(), 0)

    @BENCHMARK
    def test_an_unchanged_redis_benchmark_is_served(self):
        instance = self.begin(shards=2)
        for depth in ("1", "64"):
            done = subprocess.run(["redis-benchmark", "-p", str(instance.port), "-t", "ping,set,get,incr", "-c", "10",
                                   "-n", "4000", "-r", "100", "-P", depth, "--csv"], capture_output=True, text=True,
                                  timeout=2 * harness.DEADLINE)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(len(done.stdout.splitlines()), 6, done.stdout)
            self.assertNotIn("ERR", done.stdout + done.stderr)
        self.assertEqual(self.count(instance, "keys"), 200)  # key:… and counter:…
        self.assertEqual(instance.stop(), 0)

    def test_a_pipeline_over_all_shards_is_answered_in_order(self):
        instance = self.begin(shards=3)
        connection = self.connect(instance)
        wanted, words = [], []
        for n in range(300):
            words += [("SET", f"k{n}", f"v{n}"), ("GET", f"k{n}"), ("INCR", f"n{n % 7}"), ("PING", n)]
            wanted += ["+OK", b"v%d" % n, n // 7 + 1, b"%d" % n]
        connection.socket.sendall(b"".join(request(*command) for command in words))
        self.assertEqual([connection.reply() for _ in wanted], wanted)
        self.assertEqual(connection.ask("EXISTS", *(f"k{n}" for n in range(60))), 60)
        self.assertEqual(connection.ask("DEL", *(f"k{n}" for n in range(60))), 60)
        self.assertEqual(self.count(instance, "keys"), 247)
        self.assertTrue(self.count(instance, "remote"))
        self.assertEqual(instance.stop(), 0)

    def test_what_is_refused_runs_nowhere_and_takes_nobodys_answer(self):
        instance = self.begin(shards=3)
        connection = self.connect(instance)
        for n in range(12):
            self.assertEqual(connection.ask("SET", f"k{n}", f"v{n}"), "+OK")
            self.assertEqual(connection.ask("SET", f"n{n}", 1), "+OK")
        words, wanted = [], []
        for n in range(12):
            for refused in (("GET", f"k{n}", "extra"), ("INCR", f"n{n}", "extra"), ("SET", f"k{n}", "x", "NX"),
                            ("SET", f"k{n}"), ("GET",), ("DEL",)):
                for asked in range(12):
                    words += [refused, ("GET", f"k{asked}")]
                    wanted += [None, b"v%d" % asked]
        connection.socket.sendall(b"".join(request(*command) for command in words))
        for command, answer in zip(words, wanted):
            reply = connection.reply()
            if answer is None:
                self.assertIn("-ERR wrong number of arguments", reply, command)
            else:
                self.assertEqual(reply, answer, command)
        self.assertEqual([connection.ask("GET", f"n{n}") for n in range(12)], [b"1"] * 12)
        self.assertEqual(instance.stop(), 0)

    def test_a_client_that_asks_the_wrong_shard_is_told_so(self):
        instance = self.begin(shards=2)
        with RawClient(instance.gateway_socket) as client:
            client.hello()
            numbers = iter(range(1, 100))

            def run(shard, *words):
                asked = request(*words)
                args = struct.pack("=I", len(asked)) + asked
                self.assertEqual(client.submit([Submission(next(numbers), "kv.run", args, shard=shard)]), (1, {}))
                end, = client.fetch(1)
                self.assertEqual(end.kind, DONE, end.data)
                self.assertEqual(struct.unpack("=I", end.data[:4])[0], len(end.data) - 4)
                return end.data[4:]

            first = [run(shard, "SET", "k", "1") for shard in range(2)]
            self.assertEqual(first.count(b"+OK\r\n"), 1, first)
            other = first.index(b"+OK\r\n") ^ 1
            for words in (("SET", "k", "2"), ("GET", "k"), ("INCR", "k"), ("DEL", "k", "k"), ("EXISTS", "k")):
                self.assertIn(b"-ERR another shard", run(other, *words), words)
            self.assertEqual(run(other, "PING"), b"+PONG\r\n")
        self.assertEqual(self.connect(instance).ask("GET", "k"), b"1")
        self.assertEqual(instance.stop(), 0)

    def test_info_is_text(self):
        instance = self.begin()
        info = self.connect(instance).ask("INFO")
        self.assertTrue(info.endswith(b"sherd-kv\r\n"), info)
        self.assertEqual(instance.stop(), 0)

    def test_values_of_any_bytes_and_up_to_the_limit_come_back(self):
        instance = self.begin("memory=64M", shards=2)
        connection = self.connect(instance)
        large = [os.urandom(size) for size in (0, 1, 65536, 500000, 524288)]
        for number, value in enumerate(large):
            for copy in range(2):
                self.assertEqual(connection.ask("SET", b"\0\r\n%d %d" % (number, copy), value), "+OK")
        gets = [(number, copy) for number in range(len(large)) for copy in range(2)]
        connection.socket.sendall(b"".join(request("GET", b"\0\r\n%d %d" % which) for which in gets))
        for number, copy in gets:
            self.assertEqual(connection.reply(), large[number])
        self.assertIn("Protocol error", connection.ask("SET", "a", bytes(524289)))
        self.assertEqual(instance.stop(), 0)

    def test_what_is_no_resp_ends_its_connection_alone(self):
        instance = self.begin()
        good = self.connect(instance)
        for sent in (b"*1\r\n:1\r\n", b"*999999999999\r\n", b"*2\r\n$3\r\nGETxx$1\r\n", b"x" * 700000):
            bad = self.connect(instance)
            with self.subTest(sent[:20]):
                try:
                    bad.socket.sendall(sent)
                    self.assertIn("Protocol error", bad.reply())
                    bad.reply()
                    self.fail("the connection goes on")
                except (EOFError, ConnectionResetError, BrokenPipeError):
                    pass
        self.assertEqual(good.ask("PING"), "+PONG")
        self.assertEqual(instance.stop(), 0)

    def test_a_full_cache_evicts_and_goes_on(self):
        instance = self.begin("memory=256K")
        connection = self.connect(instance)
        for start in range(0, 4000, 200):
            connection.socket.sendall(b"".join(request("SET", f"k{n}", "v" * 100) for n in range(start, start + 200)))
            self.assertEqual([connection.reply() for _ in range(200)], ["+OK"] * 200)
        self.assertEqual(connection.ask("GET", "k3999"), b"v" * 100)
        self.assertIsNone(connection.ask("GET", "k0"))
        self.assertEqual(self.count(instance, "keys") + self.count(instance, "evicted"), 4000)
        self.assertEqual(instance.stop(), 0)


class Limits(KvCase):
    def test_more_connections_than_there_may_be_wait_until_one_leaves(self):
        instance = self.begin("connections=3")
        first = [self.connect(instance) for _ in range(3)]
        for connection in first:
            self.assertEqual(connection.ask("PING"), "+PONG")
        fourth = self.connect(instance)
        fourth.send("PING")
        harness.wait_until(lambda: self.count(instance, "resp.paused") >= 1, "it to pause")
        self.assertEqual(self.count(instance, "resp.open"), 3)
        first[0].close()
        self.assertEqual(fourth.reply(), "+PONG")
        self.assertEqual(instance.stop(), 0)

    @unittest.skipIf(harness.THREADS, "shards share their file descriptors")
    def test_a_shard_without_fds_accepts_again_when_there_are_some(self):
        instance = self.begin()
        pid = instance.shard(0)["pid"]
        first = self.connect(instance)
        self.assertEqual(first.ask("SET", "a", "1"), "+OK")
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        second = self.connect(instance)
        second.send("GET", "a")
        harness.wait_until(lambda: self.count(instance, "resp.paused") >= 1, "it to pause")
        self.assertEqual(first.ask("PING"), "+PONG")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        self.assertEqual(second.reply(), b"1")
        self.assertEqual(instance.stop(), 0)

    def test_one_who_takes_no_answers_holds_up_nobody_and_keeps_its_memory(self):
        instance = self.begin("memory=16M")
        good, slow = self.connect(instance), self.connect(instance)
        self.assertEqual(good.ask("SET", "a", "v" * 400000), "+OK")
        slow.socket.settimeout(0.2)
        with self.assertRaises(TimeoutError):
            while True:
                slow.socket.sendall(request("GET", "a") * 100)
        for _ in range(20):
            self.assertEqual(good.ask("PING"), "+PONG")
        with open(f"/proc/{instance.shard(0)['pid']}/statm") as statm:
            resident = int(statm.read().split()[1]) * 4096
        self.assertTrue(harness.SANITIZED or resident < 64 << 20, resident)
        slow.close()
        self.connections.remove(slow)
        self.assertEqual(instance.stop(), 0)


class Deaths(KvCase):
    def test_all_that_was_acknowledged_is_there_after_kill_9_under_load(self):
        instance = self.begin("memory=1M", shards=2)
        written = {}
        stop = threading.Event()

        def write(writer):
            """Sets keys of its own, over and over, until told; notes what was acknowledged, and what was sent."""
            connection, turn = None, 0
            while not stop.is_set():
                key = f"w{writer}-{turn % 50}"
                before = written.get(key, (None,))
                try:
                    connection = connection or Connection(instance.port)
                    written[key] = (before[0], str(turn))
                    if connection.ask("SET", key, turn) == "+OK":
                        written[key] = (str(turn),)
                    else:
                        written[key] = (before[0], str(turn), *before[1:])
                except (OSError, EOFError):
                    written[key] = (*before, str(turn))
                    if connection:
                        connection.close()
                    connection = None
                turn += 1
            if connection:
                connection.close()

        writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for writer in writers:
            writer.start()
        try:
            for turn in range(6):
                instance.kill_and_wait("shard", turn % 2)
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        connection = self.connect(instance)
        self.assertTrue(written)
        for key, values in written.items():
            value = connection.ask("GET", key)
            self.assertIn(value and value.decode(), values, key)
        self.assertEqual(instance.stop(), 0)

    def test_a_shard_that_is_given_up_is_not_waited_for_until_it_is_back(self):
        instance = self.begin(shards=2, options=("--crash-limit", "1"))
        instance.kill(instance.wait_for_shard(1, state="up"), signal.SIGSEGV)
        instance.wait_for_shard(1, state="failed")
        for _ in range(20):
            self.assertEqual(self.connect(instance).ask("PING"), "+PONG")
        answers = {self.connections[-1].ask("SET", f"k{n}", "v")[:12] for n in range(20)}
        self.assertEqual(answers, {"+OK", "-ERR shard 1"})
        self.assertDone(instance.command("restart", "1"))
        for n in range(20):
            self.assertEqual(self.connect(instance).ask("SET", f"k{n}", "v"), "+OK")
        self.assertTrue(self.services(instance)["shards"][1]["counters"]["kv.resp.accepted"])
        self.assertEqual(instance.stop(), 0)

    def test_connections_of_a_dead_shard_close_and_those_who_wait_are_served(self):
        instance = self.begin()
        old = self.connect(instance)
        self.assertEqual(old.ask("SET", "a", "kept"), "+OK")
        instance.kill(instance.shard(0), signal.SIGSTOP)
        waiting = [self.connect(instance) for _ in range(5)]
        for connection in waiting:
            connection.send("GET", "a")
        instance.kill_and_wait("shard", 0)
        self.assertEqual([connection.reply() for connection in waiting], [b"kept"] * 5)
        with self.assertRaises((EOFError, OSError)):
            old.ask("PING")
        self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
