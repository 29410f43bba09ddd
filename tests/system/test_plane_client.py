# SPDX-License-Identifier: MIT
"""libsherd-client.so over shared memory, against a real instance: what comes through, who dies."""
import contextlib
import ctypes
import errno
import itertools
import os
import select
import signal
import struct
import subprocess
import tempfile
import unittest

import harness
from client_library import (AUTO, CANCELLED, CONTROL, DATA, DONE, EXPIRED, FAILED, IN_DOUBT, NOT_STARTED, NO_SHARD,
                            SECOND, URGENT, Client)

MIB = 1024 * 1024


def client_of(instance, **options):
    options.setdefault("plane", DATA)
    options.setdefault("wait_ns", 20 * SECOND)
    return Client(instance, **options)


def varint(number):
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def file_request(path, length=0, data_len=None):
    """As in proto/file.proto; with data_len all but the data, which is to follow."""
    name = path.encode()
    return b"\x0a" + varint(len(name)) + name + (
        b"\x18" + varint(length) if data_len is None else b"\x22" + varint(data_len))


def names_of_all_shards(client, path, n_shards):
    """Links to a file, by the shard that what is small about each goes to."""
    owned = {}
    for i in itertools.count(1):
        name = f"{path}-{n_shards}-{i}"
        os.link(path, name)
        owned.setdefault(client.call("file.stat", file_request(name)).shard, name)
        if len(owned) == n_shards:
            return owned


def payloads(sherd, n_shards):
    """Bytes that its shards have copied, and that they have not."""
    heaps = [sherd.shard(shard)["heap"] for shard in range(n_shards)]
    return [sum(heap[name] for heap in heaps) for name in ("copied_bytes", "in_place_bytes")]


class Calls(harness.TestCase):
    def test_the_data_plane_is_taken_where_it_can_be(self):
        sherd = self.start("--shards", "2")
        for plane, got in (AUTO, DATA), (DATA, DATA), (CONTROL, CONTROL):
            with client_of(sherd, plane=plane) as client:
                self.assertEqual(client.plane(), got)
                self.assertEqual(client.call("sys.ping").end, DONE)

    def test_answers_come_whole_from_each_shard_whatever_their_size(self):
        sherd = self.start("--shards", "2")
        with client_of(sherd, data_bytes=8 * MIB, answer_max=MIB) as client:
            for size in 0, 1, 16, 17, 32, 33, 4096, 100_001, MIB:
                for shard in 0, 1:
                    data = os.urandom(size)
                    result = client.call("sys.echo", data, shard=shard)
                    self.assertEqual((result.end, result.shard, result.data), (DONE, shard, data))
            result = client.call("file.nothing")
            self.assertEqual(result.error, -errno.ENOENT)

    def test_an_answer_longer_than_was_said_fails_so(self):
        sherd = self.start("--shards", "1")
        with client_of(sherd) as client:
            result = client.call("sys.echo", b"x" * 5000)
            self.assertEqual((result.end, result.error), (FAILED, -errno.ENOBUFS))

    def test_large_reads_and_writes_of_any_file_are_copied_by_no_shard(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        first = os.path.join(folder.name, "0")
        data = os.urandom(MIB) * 64
        with open(first, "wb") as file:
            file.write(data)
        for n_shards in 2, 3, 4:
            sherd = self.start("--shards", str(n_shards), "--root", folder.name + ":rw")
            with client_of(sherd, data_bytes=65 * MIB) as client:
                owned = names_of_all_shards(client, first, n_shards)
                before = payloads(sherd, n_shards)
                buffer = client.buffer(64 * MIB)
                for shard, name in owned.items():
                    client.queue("file.read", file_request(name, length=64 * MIB), room=buffer)
                    result, = client.reap(1)
                    self.assertEqual((result.end, len(result.data)), (DONE, 64 * MIB))
                    self.assertTrue(buffer.raw == data)
                    head = file_request(name, data_len=64 * MIB - len(file_request(name, data_len=64 * MIB)))
                    data = head + bytes([shard]) * (64 * MIB - len(head))
                    ctypes.memmove(buffer, data, len(data))
                    client.queue("file.write", buffer)
                    self.assertEqual([r.end for r in client.reap(1)], [DONE])
                    with open(first, "rb") as file:
                        written, data = data[len(head):], file.read()
                    self.assertTrue(data.startswith(written))
                after = payloads(sherd, n_shards)
                self.assertEqual([now - then for now, then in zip(after, before)], [0, n_shards * 128 * MIB])
            sherd.stop()

    def test_fifty_thousand_pings_end_once_each(self):
        sherd = self.start("--shards", "2")
        with client_of(sherd) as client:
            wanted = {client.queue("sys.ping") for _ in range(50_000)}
            while wanted:
                for result in client.reap(256):
                    self.assertEqual(result.end, DONE)
                    wanted.remove(result.id)

    def test_deadlines_cancels_and_urgency_hold_in_the_shard(self):
        sherd = self.start("--shards", "1")
        with client_of(sherd) as client:
            self.assertEqual(client.call("sys.sleep", b"60000", timeout_ns=SECOND // 50).end, EXPIRED)
            slow = client.queue("sys.sleep", b"60000")
            client.process(0)
            client.cancel(slow)
            self.assertEqual([(r.id, r.end) for r in client.reap(1)], [(slow, CANCELLED)])
            client.queue("sys.ping", flags=URGENT)
            self.assertEqual([r.end for r in client.reap(1)], [DONE])

    def test_an_urgent_request_overtakes_the_work_that_stands_in_its_client_s_ring(self):
        sherd = self.start("--shards", "1", "--enable-test-methods")
        with client_of(sherd) as client:
            client.call("sys.ping")
            shard = sherd.shard(0)
            sherd.kill(shard, signal.SIGSTOP)  # until all is in the rings
            work = [client.queue("sys.spin", b"2") for _ in range(60)]
            urgent = client.queue("sys.ping", flags=URGENT)
            client.process(0)
            sherd.kill(shard, signal.SIGCONT)
            ends = []
            while len(ends) < 61:
                ends += [result.id for result in client.reap(64)]
            self.assertLess(ends.index(urgent), 30)
            self.assertEqual([number for number in ends if number != urgent], work)

    def test_the_fd_tells_of_what_ends_while_nobody_looks(self):
        sherd = self.start("--shards", "1")
        with client_of(sherd) as client:
            ends = []
            for i in range(20):
                client.submit("sys.sleep", b"5", done=ends.append)
                while len(ends) == i:
                    self.assertTrue(select.select([client.fd()], [], [], harness.DEADLINE)[0])
                    self.assertGreaterEqual(client.process(0), 0)

    def run_example(self, name):
        program = os.path.join(os.path.dirname(harness.program()), "examples", name)
        if not os.path.exists(program):
            self.skipTest(f"{name} is not built: its library was not found")
        sherd = self.start("--shards", "2")
        ran = subprocess.run([program, sherd.name, "5000"], capture_output=True, text=True,
                             timeout=harness.DEADLINE,
                             env={**os.environ, "SHERD_RUNTIME_DIR": sherd.runtime_dir})
        self.assertEqual((ran.returncode, ran.stdout), (0, "5000 answered, 0 failed\n"), ran.stderr)

    def test_a_client_in_a_loop_of_glib(self):
        self.run_example("client_glib")

    def test_a_client_in_a_loop_of_libuv(self):
        self.run_example("client_uv")


class Files(harness.TestCase):
    N_FILES = 16

    def begin(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        for number in range(self.N_FILES):
            with open(self.path(number), "wb") as file:
                file.write(b"bytes")
        self.sherd = self.start("--shards", "2", "--root", self.folder)

    def path(self, number):
        return os.path.join(self.folder, str(number))

    def open_all(self, client):
        """(handle, shard) of each file: by its path it belongs to a shard, whichever the client has asked."""
        opened = []
        for number in range(self.N_FILES):
            path = self.path(number).encode()
            result = client.call("file.open", bytes([0x0a, len(path)]) + path)
            self.assertEqual((result.end, result.data[0]), (DONE, 0x09))
            opened.append((result.data[1:9], result.shard))
        self.assertEqual({shard for _, shard in opened}, {0, 1})
        return opened

    def read(self, client, handle, shard):
        return client.call("file.pread", handle + struct.pack("<QQ", 0, 5), shard=shard)

    def n_open(self):
        n = 0
        for shard in 0, 1:
            fds = f"/proc/{self.sherd.shard(shard)['pid']}/fd"
            for fd in os.listdir(fds):
                with contextlib.suppress(OSError):
                    n += os.readlink(os.path.join(fds, fd)).startswith(self.folder + "/")
        return n

    def wait_for_open(self, n):
        harness.wait_until(lambda: self.n_open() == n, f"{n} files are open")

    def test_files_that_a_client_has_open_are_its_own_and_close_with_it(self):
        self.begin()
        with client_of(self.sherd) as other, client_of(self.sherd, plane=CONTROL) as session:
            kept = self.open_all(other)[0]
            with client_of(self.sherd) as client:
                opened = self.open_all(client)
                self.open_all(session)
                self.assertEqual(self.n_open(), 3 * self.N_FILES)
                for handle, shard in opened:
                    self.assertEqual(self.read(client, handle, shard).data, b"bytes")
                    for stranger in other, session:
                        self.assertEqual(self.read(stranger, handle, shard).error, -errno.ESTALE)
                        self.assertEqual(stranger.call("file.close", handle, shard=shard).error, -errno.ESTALE)
            self.wait_for_open(2 * self.N_FILES)
            self.assertEqual(self.read(other, *kept).data, b"bytes")

    @unittest.skipIf(harness.THREADS, "nobody dies alone")
    def test_files_of_a_client_that_ends_while_there_is_no_gateway_are_closed_too(self):
        self.begin()
        gateway = self.sherd.gateway()
        with client_of(self.sherd) as client:
            self.open_all(client)
            self.sherd.kill(gateway)
        self.wait_for_open(0)


@unittest.skipIf(harness.THREADS, "nobody dies alone")
class Deaths(harness.TestCase):
    def load(self, sherd, client, n, kill, method="sys.echo"):
        """Keeps 200 under way until n have ended, kills thrice meanwhile; the ends, by number."""
        ends = {}
        sent = deaths = 0
        while len(ends) < n:
            while sent < n and sent - len(ends) < 200:
                client.submit(method, b"%d" % sent, shard=sent % 2,
                              done=lambda result, i=sent: self.end(ends, i, result))
                sent += 1
            self.assertGreater(client.process(20 * SECOND), 0)
            if len(ends) > n // 4 * (deaths + 1) and deaths < 3:
                kill()
                deaths += 1
        self.assertEqual(client.in_flight(), 0)
        self.assertEqual(deaths, 3)
        return ends

    def one(self, client, method, **options):
        """A call while others are in flight."""
        ends = []
        client.submit(method, done=ends.append, **options)
        while not ends:
            self.assertGreaterEqual(client.process(20 * SECOND), 0)
        return ends[0]

    def end(self, ends, i, result):
        self.assertNotIn(i, ends)
        ends[i] = result

    def test_shards_that_die_lose_nothing_that_may_run_twice(self):
        sherd = self.start("--shards", "2")
        with client_of(sherd) as client:
            ends = self.load(sherd, client, 8000, lambda: sherd.kill_and_wait("shard", 0))
            self.assertEqual({result.end for result in ends.values()}, {DONE})
            self.assertEqual([int(ends[i].data) for i in range(8000)], list(range(8000)))

    def test_a_gateway_s_death_is_not_noticed(self):
        sherd = self.start("--shards", "2")
        with client_of(sherd) as client:
            ends = self.load(sherd, client, 8000, lambda: sherd.kill_and_wait("gateway"))
            self.assertEqual({result.end for result in ends.values()}, {DONE})

    def test_what_must_not_run_twice_is_in_doubt_after_its_shard_s_death(self):
        sherd = self.start("--shards", "2", "--enable-test-methods")
        with client_of(sherd) as client:
            doubtful = client.queue("sys.crash", b"kill")
            result, = client.reap(1)
            self.assertEqual((result.id, result.end), (doubtful, IN_DOUBT))
            self.assertEqual(client.call("sys.ping").end, DONE)

    def test_a_shard_that_stands_still_keeps_nobody_from_the_others(self):
        sherd = self.start("--shards", "2")
        with client_of(sherd) as client:
            for shard in 0, 1:
                self.assertEqual(client.call("sys.ping", shard=shard).end, DONE)
            stopped = sherd.shard(0)
            sherd.kill(stopped, signal.SIGSTOP)
            ends = []
            try:
                self.assertEqual(client.call("sys.ping", shard=0, timeout_ns=SECOND // 20).end, EXPIRED)
                cancelled = []
                client.cancel(client.submit("sys.ping", done=cancelled.append, shard=0))
                client.run()
                self.assertEqual([end.end for end in cancelled], [CANCELLED])
                client.submit("sys.ping", done=ends.append, shard=0)
                for _ in range(100):
                    other = []
                    client.submit("sys.ping", done=other.append, shard=1)
                    while not other:
                        self.assertGreater(client.process(20 * SECOND), 0)
            finally:
                sherd.kill(stopped, signal.SIGCONT)
            client.run()
            self.assertEqual([end.end for end in ends], [DONE])

    def test_a_shard_that_is_given_up_ends_what_it_had_alone_and_may_come_back(self):
        sherd = self.start("--shards", "2", "--crash-limit", "1", "--enable-test-methods")
        with client_of(sherd) as client:
            home = client.call("sys.ping").shard
            other = 1 - home
            for round in range(2):
                begun, untaken, elsewhere, free = [], [], [], []
                self.assertEqual(client.call("sys.ping", shard=home).shard, home)
                client.submit("sys.sleep", b"60000", done=begun.append, shard=home)
                client.submit("sys.sleep", b"300", done=elsewhere.append, shard=other)
                self.assertEqual(self.one(client, "sys.ping", shard=home).end, DONE)
                last = sherd.shard(home)
                sherd.kill(last, signal.SIGSTOP)
                client.submit("sys.crash", b"kill", done=untaken.append, shard=home)
                client.submit("sys.echo", b"anywhere", done=free.append)
                client.process(0)
                sherd.kill(last, signal.SIGSEGV)
                sherd.kill(last, signal.SIGCONT)
                sherd.wait_for_shard(home, state="failed")
                client.run()
                ends = [(end.end, end.error, end.shard) for end in begun + untaken + elsewhere + free]
                self.assertEqual(ends[:2], [(FAILED, -errno.EHOSTDOWN, NO_SHARD),
                                            (NOT_STARTED, -errno.EHOSTDOWN, NO_SHARD)])
                self.assertEqual(ends[2:], [(DONE, 0, other), (DONE, 0, other if round == 0 else free[0].shard)])
                if round == 0:
                    sherd.kill_and_wait("gateway")
                self.assertEqual(client.call("sys.ping", shard=home).error, -errno.EHOSTDOWN)
                self.assertDone(sherd.command("restart", str(home)))
                sherd.wait_for_shard(home)
                self.assertEqual(client.call("sys.echo", b"again", shard=home).data, b"again")
            self.assertNotIn("cut off", sherd.log())
        self.assertDone(sherd.command("audit"))

    def test_an_instance_that_comes_back_is_attached_to_anew(self):
        sherd = self.start("--shards", "2", "--enable-test-methods")
        with client_of(sherd, window=4) as client:
            ends, once = [], []
            self.assertEqual(client.call("sys.ping", shard=1).end, DONE)
            sherd.kill(sherd.shard(1), signal.SIGSTOP)
            client.submit("sys.crash", b"kill", done=once.append, shard=1)
            for _ in range(4):
                client.submit("sys.sleep", b"500", done=ends.append, shard=0)
            client.process(0)
            client.submit("sys.echo", b"later", done=ends.append, shard=0)
            sherd.kill_all()
            sherd.start("--shards", "1")
            client.run()
            # Nobody can tell whether the one was begun; the others may run twice.
            self.assertEqual([end.end for end in once], [IN_DOUBT])
            self.assertEqual([end.end for end in ends], [DONE] * 5)
            self.assertIn(b"later", [end.data for end in ends])


if __name__ == "__main__":
    harness.main()
