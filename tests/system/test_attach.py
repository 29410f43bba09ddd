# SPDX-License-Identifier: MIT
"""Local clients: how they attach, what they are refused, and their ends, whoever dies meanwhile."""
import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import unittest

import attach_client
import harness
import segment
from attach_client import Client, Refused

FREE, ATTACHING, ATTACHED, ENDING = range(4)
F_GET_SEALS = 1034
SHRINK_GROW_SEAL = 7
MIB = 1024 * 1024
OTHER_UID = 54321

# An entry of proto/data_plane.h.
SUBMISSION = struct.Struct("<QHBBIQQIIQ16s")
ARGS_INLINE = 1
COMPLETION = struct.Struct("<QIiB3xII32sI")  # id, len, error, end, shard, retry_us, inline answer, turn
ROUTE_HERE, ROUTE_SHARD = 0, 3


class TestCase(harness.TestCase):
    def setUp(self):
        self.clients = []
        super().setUp()

    def tearDown(self):
        self.close_clients()
        super().tearDown()

    def close_clients(self):
        for client in self.clients:
            client.close()

    def directory(self, instance):
        return os.path.join(instance.runtime_dir, instance.name)

    def client(self, instance, **wishes):
        return self.connect(instance).attach(**wishes)

    def connect(self, instance):
        client = Client(self.directory(instance), timeout=harness.DEADLINE)
        self.clients.append(client)
        return client

    def refused(self, instance, error, *texts, **wishes):
        with Client(self.directory(instance), timeout=harness.DEADLINE) as client:
            with self.assertRaises(Refused) as caught:
                client.attach(**wishes)
        self.assertEqual(caught.exception.error, -error, caught.exception.text)
        for text in texts:
            self.assertIn(text, caught.exception.text)
        return caught.exception

    def field(self, instance, client, name, form="<Q"):
        with open(os.path.join(self.directory(instance), "segment"), "rb") as file:
            memory = file.read()
        off, size = segment.place(memory, "gateway", 0, "clients", 0, client, name)
        return struct.unpack_from(form, memory, off)[0] if form else memory[off:off + size].split(b"\0")[0].decode()

    def state(self, instance, client):
        return self.field(instance, client, "word") & 0xff

    def wait_ends_ns(self, instance):
        """Until when what our user asks for is not begun, by the clock of time.monotonic_ns(); 0: never."""
        with open(os.path.join(self.directory(instance), "segment"), "rb") as file:
            memory = file.read()

        def word(number, name):
            off, size = segment.place(memory, "control", 0, "client_users", 0, number, name)
            return int.from_bytes(memory[off:off + size], "little")
        return max((word(number, "until_ns") for number in range(4)
                    if word(number, "used") and word(number, "uid") == os.getuid()), default=0)

    def states(self, instance):
        """How many rows are not free."""
        with open(os.path.join(self.directory(instance), "segment"), "rb") as file:
            memory = file.read()
        first, _ = segment.place(memory, "gateway", 0, "clients", 0, 0, "word")
        second, _ = segment.place(memory, "gateway", 0, "clients", 0, 1, "word")
        return sum(memory[first + n * (second - first)] != FREE for n in range(1024))

    def wait_for_none(self, instance):
        harness.wait_until(lambda: self.states(instance) == 0, "every client's row to be free")

    def supervisor_fds(self, instance):
        return harness.n_fds(instance.supervisor.pid)


def push(client, shard, position, method, flags=ARGS_INLINE, args=b"", to=None):
    """An entry into the ring of that shard's lane, and the bell rung. to: the shard that is to run it."""
    lane_bytes = (128 + client.n_entries * 128 + 4095) // 4096 * 4096
    at = lane_bytes * shard + 128 + position % client.n_entries * 64
    kind, route = (ROUTE_HERE, 0) if to is None else (ROUTE_SHARD, to)
    entry = SUBMISSION.pack(position + 1, method, flags, kind, 0, route, 0, len(args), 0, 0, args.ljust(16, b"\0"))
    client.memory[at:at + 64] = entry
    client.memory[at + 12:at + 16] = struct.pack("<I", position + 1)  # its turn, last
    client.bells[shard].send(b"\0", socket.MSG_DONTWAIT)


def completion(client, shard, position):
    """What stands there, (end, error, retry_us, answer); None: nothing yet."""
    lane_bytes = (128 + client.n_entries * 128 + 4095) // 4096 * 4096
    at = lane_bytes * shard + 128 + client.n_entries * 64 + position % client.n_entries * 64
    _, length, error, end, _, retry_us, answer, turn = COMPLETION.unpack(client.memory[at:at + 64])
    return (end, -error, retry_us, answer[:length]) if turn == position + 1 else None


def method(directory, name):
    """Its number."""
    with open(os.path.join(directory, "segment"), "rb") as file:
        memory = file.read()
    for n in range(256):
        off, size = segment.place(memory, "control", 0, "methods", 0, n, "name")
        if memory[off:off + size].split(b"\0")[0].decode() == name:
            off, _ = segment.place(memory, "control", 0, "methods", 0, n, "number")
            return struct.unpack_from("<I", memory, off)[0]
    raise KeyError(name)


class Attach(TestCase):
    def test_a_client_has_sealed_memory_of_zeros_that_no_other_has_had(self):
        instance = self.start("--shards", "2")
        first = self.client(instance, n_entries=9, data_bytes=5000, name=b"first\x1b")
        self.assertEqual((first.n_entries, first.data_bytes, first.n_shards, first.keymap), (16, 8192, 2, 1))
        self.assertEqual(first.total_bytes, 2 * 4096 + 8192)
        self.assertEqual(os.fstat(first.memory_fd).st_size, first.total_bytes)
        self.assertEqual(fcntl.fcntl(first.memory_fd, F_GET_SEALS) & SHRINK_GROW_SEAL, SHRINK_GROW_SEAL)
        with self.assertRaises(OSError):
            os.ftruncate(first.memory_fd, 0)
        self.assertEqual(os.fstat(first.memory_fd).st_blocks * 512, first.total_bytes)
        self.assertEqual(self.field(instance, first.client, "name", None), "first?")
        self.assertEqual(self.field(instance, first.client, "uid", "<I"), os.getuid())
        self.assertEqual(self.field(instance, first.client, "pid", "<i"), os.getpid())
        first.memory[:] = b"\xa5" * first.total_bytes
        second = self.client(instance, n_entries=9, data_bytes=5000)
        self.assertEqual(second.memory[:], bytes(second.total_bytes))
        first.close()
        self.assertEqual(self.client(instance, n_entries=9, data_bytes=5000).memory[:], bytes(second.total_bytes))
        self.assertEqual(instance.stop(), 0)

    def test_clients_are_listed_with_their_lanes(self):
        instance = self.start("--shards", "2")
        self.assertEqual(self.assertDone(instance.command("clients")).stdout, "no local client is attached\n")
        client = self.client(instance, name=b"lister")
        client.open(1)
        push(client, 1, 0, method(self.directory(instance), "sys.ping"))

        def listed():
            (row,) = json.loads(self.assertDone(instance.command("clients", "--json")).stdout)["clients"]
            return row if row["lanes"] and row["lanes"][0]["tail"] == 1 else None
        row = harness.wait_until(listed, "the request to have ended")
        self.assertEqual((row["client"], row["name"], row["state"], row["pid"], row["total_bytes"], row["opens"]),
                         (client.client, "lister", "attached", os.getpid(), client.total_bytes, 1))
        self.assertEqual([(lane["shard"], lane["requests"]) for lane in row["lanes"]], [(1, 1)])
        text = self.assertDone(instance.command("clients")).stdout
        self.assertIn("lister", text)
        self.assertIn("attached", text)
        self.assertEqual(instance.stop(), 0)

    def test_an_idle_client_costs_two_fds_in_the_supervisor_and_one_more_for_each_shard(self):
        instance = self.start("--shards", "2")
        before = self.supervisor_fds(instance)
        client = self.client(instance)
        self.assertEqual(self.supervisor_fds(instance), before + 2)
        client.open(0)
        self.assertEqual(self.supervisor_fds(instance), before + 3)
        client.open(0)  # again: in the place of the one before
        self.assertEqual(self.supervisor_fds(instance), before + 3)
        client.open(1)
        self.assertEqual(self.supervisor_fds(instance), before + 4)
        client.close()
        harness.wait_until(lambda: self.supervisor_fds(instance) == before, "all its fds to be closed")
        self.wait_for_none(instance)
        self.assertEqual(instance.stop(), 0)

    def test_what_is_no_message_of_the_handshake_ends_the_connection_and_nothing_else(self):
        instance = self.start("--shards", "1")
        good = attach_client.hello()
        opened = attach_client.head(attach_client.OPEN, 2) + attach_client.OPEN_BODY.pack(0, 0)
        wrong = {
            "short": good[:-1], "long": good + b"\0", "a byte": b"\0", "4 KiB": bytes(4096),
            "no magic": b"\0" + good[1:], "an answer": attach_client.head(attach_client.WELCOME, 1) + good[16:],
            "of no kind": attach_client.head(99, 1), "a head": attach_client.head(attach_client.HELLO, 1),
            "spare bytes": attach_client.hello(spare=1), "a name without end": attach_client.hello(name=b"x" * 64),
            "an open first": opened,
        }
        for what, message in wrong.items():
            with self.subTest(what), Client(self.directory(instance)) as client:
                client.send(message)
                self.assertIn("cut off", client.wait_for_the_end() or "cut off")
        with Client(self.directory(instance)) as client, open("/dev/null", "rb") as null:
            client.send(good, [null.fileno()] * 3)
            self.assertIn("fds", client.wait_for_the_end())
        for what, message in {"a second hello": attach_client.hello(serial=7), "spare bytes": opened[:-1] + b"\1"}.items():
            with self.subTest(what + ", attached"):
                client = self.client(instance)
                client.send(message)
                client.wait_for_the_end()
                harness.wait_until(lambda client=client: self.state(instance, client.client) == FREE, "its row to be free")
        self.client(instance).open(0)
        self.assertEqual(instance.stop(), 0)

    def test_what_can_not_be_granted_is_refused_with_its_reason_and_may_be_asked_again(self):
        instance = self.start("--shards", "2", "--client-memory", "1M")
        with Client(self.directory(instance)) as client:
            for wishes, error, text in (({"version": 0}, errno.EPROTONOSUPPORT, "version"),
                                        ({"n_entries": 0}, errno.EINVAL, "0 entries"),
                                        ({"n_entries": 4097}, errno.EINVAL, "1 to 4096"),
                                        ({"data_bytes": MIB}, errno.ENOMEM, "--client-memory"),
                                        ({"data_bytes": 2**64 - 1}, errno.ENOMEM, "")):
                with self.assertRaises(Refused) as caught:
                    client.attach(**wishes)
                self.assertEqual(caught.exception.error, -error)
                self.assertIn(text, caught.exception.text)
            client.attach(data_bytes=MIB - 8192, version=9, features=2**64 - 1)
            self.assertEqual(client.features, 1)
            with self.assertRaises(Refused) as caught:
                client.open(2)
            self.assertEqual(caught.exception.error, -errno.ENODEV)
            with self.assertRaises(Refused):
                client.open(2**32 - 1)
            self.assertGreater(self.refused(instance, errno.ENOMEM).retry_ms, 0)
        self.wait_for_none(instance)
        self.client(instance, data_bytes=MIB - 8192)
        self.assertDone(instance.command("drain"))
        self.refused(instance, errno.ESHUTDOWN, "draining")
        self.assertEqual(instance.stop(), 0)

    def test_a_flood_of_requests_waits_and_who_does_not_read_the_answers_is_cut_off(self):
        instance = self.start("--shards", "1")
        client = self.client(instance)
        client.socket.setblocking(False)
        request = attach_client.head(attach_client.OPEN, 5) + attach_client.OPEN_BODY.pack(0, 0)
        with contextlib.suppress(OSError):
            while True:
                client.socket.send(request)
        client.socket.settimeout(harness.DEADLINE)
        other = self.client(instance)
        other.open(0)
        harness.wait_until(lambda: self.state(instance, client.client) == FREE, "the flood to be cut off")
        shown = self.assertDone(instance.command("clients", "--json"))
        self.assertEqual(json.loads(shown.stdout)["cut_off"], 1)
        self.assertIn("1 cut off since the start", instance.command("clients").stdout)
        instance.wait_for_log("does not read its answers")
        self.assertEqual(self.state(instance, other.client), ATTACHED)
        self.assertEqual(instance.stop(), 0)

    def test_strangers_do_not_keep_clients_out_and_are_sent_away(self):
        instance = self.start("--shards", "1")
        strangers = [self.connect(instance) for _ in range(600)]
        self.client(instance).open(0)
        self.assertIsNone(strangers[0].wait_for_the_end())
        strangers[-1].attach()
        self.assertEqual(instance.stop(), 0)

    def test_a_few_hundred_clients_cost_an_idle_instance_no_wake_up(self):
        instance = self.start("--shards", "1")
        clients = [self.client(instance) for _ in range(200)]
        for client in clients:
            client.open(0)
        self.assertEqual(len({client.client for client in clients}), 200)
        pids = [instance.gateway()["pid"], instance.shard(0)["pid"]]
        settled = [None]

        def quiet():
            before, settled[0] = settled[0], [harness.n_sleeps(pid) for pid in pids]
            return before and all(now - then < 20 for now, then in zip(settled[0], before))
        harness.wait_until(quiet, "both to sleep")
        for client in clients:
            client.close()
        self.wait_for_none(instance)
        self.assertEqual(instance.stop(), 0)


@unittest.skipIf(harness.THREADS, "shards and gateway are threads, none of which dies alone")
class Deaths(TestCase):
    def test_clients_do_not_notice_that_the_gateway_is_killed(self):
        instance = self.start("--shards", "2")
        before = self.supervisor_fds(instance)
        clients = [self.client(instance) for _ in range(5)]
        clients[0].open(0)
        numbers = [(client.client, self.field(instance, client.client, "word")) for client in clients]
        for _ in range(3):
            instance.kill_and_wait("gateway")
        self.assertEqual(numbers, [(c.client, self.field(instance, c.client, "word")) for c in clients])
        for client in clients:
            client.open(1)
        clients[0].close()
        harness.wait_until(lambda: self.state(instance, clients[0].client) == FREE, "a row to be free")
        instance.kill_and_wait("gateway")
        clients[1].close()
        harness.wait_until(lambda: self.state(instance, clients[1].client) == FREE, "another to be free")
        for client in clients:
            client.close()
        self.wait_for_none(instance)
        harness.wait_until(lambda: self.supervisor_fds(instance) == before, "all fds to be closed")
        self.assertEqual(instance.stop(), 0)

    def test_who_connects_while_there_is_no_gateway_waits_for_the_next(self):
        instance = self.start("--shards", "1")
        gateway = instance.gateway()
        instance.kill(gateway, signal.SIGSTOP)
        client = self.connect(instance)
        client.send(attach_client.hello(serial=1))
        instance.kill(gateway)
        for fd in client.answer(1, attach_client.WELCOME)[1]:
            os.close(fd)
        self.assertEqual(instance.stop(), 0)

    def test_an_open_that_a_dead_gateway_has_not_answered_is_answered_by_the_next(self):
        instance = self.start("--shards", "1")
        client = self.client(instance)
        gateway = instance.gateway()
        instance.kill(gateway, signal.SIGSTOP)
        client.serial += 1
        client.send(attach_client.head(attach_client.OPEN, client.serial) + attach_client.OPEN_BODY.pack(0, 0))
        instance.kill(gateway)
        _, fds = client.answer(client.serial, attach_client.OPENED)
        for fd in fds:
            os.close(fd)
        self.assertEqual(instance.stop(), 0)

    def test_the_gateway_dies_again_and_again_while_clients_come_open_and_go(self):
        instance = self.start("--shards", "2", "--crash-limit", "64")
        before = self.supervisor_fds(instance)
        over = threading.Event()
        done = [0]

        def come_and_go():
            while not over.is_set():
                with contextlib.suppress(OSError, ConnectionError, Refused):
                    with Client(self.directory(instance), timeout=1) as client:
                        client.attach(data_bytes=65536)
                        client.open(0)
                        client.open(1)
                        done[0] += 1
        threads = [threading.Thread(target=come_and_go) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(6):
            so_far = done[0]
            harness.wait_until(lambda so_far=so_far: done[0] > so_far, "clients to come and go")
            instance.kill_and_wait("gateway")
        for shard in (0, 1):
            instance.kill_and_wait("shard", shard)
        over.set()
        for thread in threads:
            thread.join()
        self.wait_for_none(instance)
        harness.wait_until(lambda: self.supervisor_fds(instance) == before, "all fds to be closed")
        self.client(instance).open(1)
        self.assertEqual(instance.stop(), 0)

    def test_a_client_that_goes_while_a_shard_is_dead_or_stopped_is_let_go_later(self):
        instance = self.start("--shards", "2")
        client, other = self.client(instance), self.client(instance)
        for shard in (0, 1):
            client.open(shard)
            other.open(shard)
        stopped = instance.shard(1)
        instance.kill(stopped, signal.SIGSTOP)
        client.close()
        harness.wait_until(lambda: self.state(instance, client.client) == ENDING, "its row to end")
        third = self.client(instance)
        self.assertNotEqual(third.client, client.client)
        instance.kill(stopped)
        instance.wait_for_shard(1, incarnation=stopped["incarnation"] + 1)
        harness.wait_until(lambda: self.state(instance, client.client) == FREE, "its row to be free")
        self.assertEqual(self.state(instance, other.client), ATTACHED)
        third.open(1)
        self.assertEqual(instance.stop(), 0)

    def test_a_client_that_is_killed_or_stopped_harms_nobody(self):
        instance = self.start("--shards", "1")
        before = self.supervisor_fds(instance)
        program = ("import sys, signal, os; from attach_client import Client\n"
                   "client = Client(sys.argv[1]).attach(data_bytes=1 << 20); client.open(0)\n"
                   "print(client.client, flush=True); signal.pause()\n")
        children = [subprocess.Popen([sys.executable, "-c", program, self.directory(instance)],
                                     stdout=subprocess.PIPE, text=True) for _ in range(2)]
        numbers = [int(child.stdout.readline()) for child in children]
        harness.send_signal(children[0].pid, signal.SIGSTOP)
        harness.send_signal(children[1].pid, signal.SIGKILL)
        children[1].wait()
        began = time.monotonic()
        harness.wait_until(lambda: self.state(instance, numbers[1]) == FREE, "the killed one's row to be free")
        self.assertLess(time.monotonic() - began, harness.DEADLINE)
        self.assertEqual(self.state(instance, numbers[0]), ATTACHED)
        self.client(instance).open(0)
        harness.send_signal(children[0].pid, signal.SIGKILL)
        children[0].wait()
        for child in children:
            child.stdout.close()
        self.close_clients()
        self.wait_for_none(instance)
        harness.wait_until(lambda: self.supervisor_fds(instance) == before, "all fds to be closed")
        self.assertEqual(instance.stop(), 0)

    def test_a_gateway_restarted_by_order_keeps_its_clients(self):
        instance = self.start("--shards", "1")
        client = self.client(instance)
        self.assertDone(instance.command("restart", "gateway"))
        client.open(0)
        self.assertEqual(instance.stop(), 0)


class CutOff(TestCase):
    def test_an_entry_that_makes_no_sense_ends_its_client_with_the_reason(self):
        instance = self.start("--shards", "2")
        client, other = self.client(instance), self.client(instance)
        client.open(1)
        other.open(1)
        push(client, 1, 0, method(self.directory(instance), "sys.ping"), flags=0xff)
        self.assertIn("unknown flags", client.wait_for_the_end())
        instance.wait_for_log("for shard 1: ")
        harness.wait_until(lambda: self.state(instance, client.client) == FREE, "its row to be free")
        self.assertEqual(self.state(instance, other.client), ATTACHED)
        self.assertEqual(instance.stop(), 0)

    @unittest.skipIf(harness.THREADS or harness.SANITIZED, "crashes for real")
    def test_whose_requests_crash_shards_waits_and_is_cut_off_at_the_third(self):
        instance = self.start("--shards", "1", "--enable-test-methods")
        client = self.client(instance)
        client.open(0)
        crash = method(self.directory(instance), "sys.crash_again")
        push(client, 0, 0, crash, args=b"segv")
        self.assertIn("three crashes", client.wait_for_the_end())
        self.assertEqual(instance.wait_for_shard(0, incarnation=4)["crashes"], 3)
        wait_ends_ns = self.wait_ends_ns(instance)
        self.assertGreater(wait_ends_ns, 0)

        def let_in():
            """While it waits, it is told so."""
            began_ns = time.monotonic_ns()
            try:
                other = self.client(instance)
            except Refused as refused:
                self.assertLess(began_ns, wait_ends_ns)
                self.assertEqual(refused.error, -errno.EAGAIN)
                self.assertIn("crashed shards", refused.text)
                self.assertTrue(0 < refused.retry_ms <= 1000, refused.retry_ms)
                return None
            self.assertGreater(time.monotonic_ns(), wait_ends_ns)
            return other
        harness.wait_until(let_in, "the wait to be over").open(0)
        self.assertEqual(instance.stop(), 0)


class Access(TestCase):
    def mode(self, *path):
        return os.stat(os.path.join(*path)).st_mode & 0o7777

    def test_only_its_own_user_gets_in_unless_a_group_or_a_mode_is_named(self):
        instance = self.start("--shards", "1")
        self.assertEqual(self.mode(self.directory(instance)), 0o700)
        self.assertEqual(self.mode(self.directory(instance), "attach"), 0o600)
        self.assertEqual(instance.stop(), 0)
        instance.start("--shards", "1", "--attach-group", str(os.getegid()))
        self.assertEqual(self.mode(self.directory(instance)), 0o710)
        self.assertEqual(self.mode(self.directory(instance), "attach"), 0o660)
        self.assertEqual(os.stat(os.path.join(self.directory(instance), "attach")).st_gid, os.getegid())
        self.client(instance)
        self.assertEqual(instance.stop(), 0)

    def test_a_group_that_is_none_and_a_mode_that_is_none_are_refused(self):
        instance = self.instance()
        for arguments, text in ((("--attach-group", "no-such-group"), "no-such-group"),
                                (("--attach-mode", "rw"), "octal"), (("--attach-mode", "0060"), "octal")):
            result = instance.command("run", "--shards", "1", *arguments)
            self.assertRefused(result, text)

    def as_other_user(self, function):
        """What it returns in a process of another user; only root can have one."""
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            text = b""
            try:
                os.setgroups([])
                os.setgid(OTHER_UID)
                os.setuid(OTHER_UID)
                text = repr(function()).encode()
            except BaseException as error:  # pylint: disable=broad-except
                text = repr(error).encode()
            finally:
                os.write(writer, text)
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as file:
            text = file.read().decode()
        os.waitpid(pid, 0)
        return text

    @unittest.skipUnless(os.geteuid() == 0, "needs another user")
    def test_another_user_gets_in_by_the_group_alone_and_has_no_more_than_a_share(self):
        instance = self.start("--shards", "1", "--client-memory", "4M")
        os.chmod(instance.scratch, 0o711)
        os.chmod(instance.runtime_dir, 0o711)
        directory = self.directory(instance)
        self.assertIn("PermissionError", self.as_other_user(lambda: Client(directory)))
        self.assertEqual(instance.stop(), 0)
        instance.start("--shards", "1", "--client-memory", "4M", "--attach-group", str(OTHER_UID))
        self.assertEqual(self.as_other_user(lambda: Client(directory).attach().keymap), "1")
        self.wait_for_none(instance)
        self.assertIn("may have no more", self.as_other_user(lambda: Client(directory).attach(data_bytes=MIB)))
        self.assertIn("PermissionError", self.as_other_user(lambda: os.listdir(directory)))
        self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
