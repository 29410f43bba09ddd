# SPDX-License-Identifier: MIT
"""The programs in examples/ that use the runtime alone, and the pages that explain them."""
import hashlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import unittest

import harness

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BUILD = os.path.dirname(os.path.realpath(harness.program()))
FILE_COPY = os.path.join(BUILD, "examples", "file_copy")
TWO_LOOPS = os.path.join(BUILD, "examples", "two_loops")
ECHO_SERVER = os.path.join(BUILD, "examples", "echo_server")
FAR_MS = 600_000


class FileCopy(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.source, self.target = (os.path.join(folder.name, name) for name in ("from", "to"))

    def copy(self, *paths):
        return subprocess.run([FILE_COPY, *paths], capture_output=True, timeout=harness.DEADLINE)

    def check(self, data):
        with open(self.source, "wb") as source:
            source.write(data)
        result = self.copy(self.source, self.target)
        self.assertEqual((result.returncode, result.stderr), (0, b""))
        with open(self.target, "rb") as target:
            self.assertEqual(hashlib.sha256(target.read()).digest(), hashlib.sha256(data).digest())

    def test_copies_have_the_bytes_of_files_of_any_length(self):
        piece = 64 * 1024
        for length in (9 * piece + 1, 8 * piece, piece - 1, 1, 0):  # each shorter than what is there
            self.check(os.urandom(length))

    def test_a_file_is_copied_onto_itself_unharmed(self):
        data = os.urandom(1_000_000)
        with open(self.source, "wb") as source:
            source.write(data)
        os.link(self.source, self.target)
        self.check(data)

    def test_errors_are_told(self):
        for paths, text in (((self.source, self.target), b"No such file"),
                            ((os.path.dirname(self.source), self.target), b"Is a directory"),
                            ((FILE_COPY, "/dev/full"), b"No space left"),
                            ((FILE_COPY,), b"FROM TO")):
            result = self.copy(*paths)
            self.assertEqual(result.returncode, 1)
            self.assertIn(text, result.stderr)


class EchoServer(unittest.TestCase):
    def start(self, idle_ms=FAR_MS):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "echo")
        server = subprocess.Popen([ECHO_SERVER, self.path, str(idle_ms)], stderr=subprocess.PIPE)
        self.addCleanup(server.stderr.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        return server

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(harness.DEADLINE)

        def connected():
            try:
                client.connect(self.path)
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            return True

        harness.wait_until(connected, "the server listens")
        return client

    def talk(self, client, n_bytes):
        data = os.urandom(n_bytes)
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        got = self.receive(client, n_bytes)
        sender.join()
        self.assertEqual(hashlib.sha256(got).digest(), hashlib.sha256(data).digest())

    def receive(self, client, n_bytes):
        got = bytearray()
        while len(got) < n_bytes:
            piece = client.recv(n_bytes - len(got))
            self.assertTrue(piece, "the server closed the connection")
            got += piece
        return got

    def check_end(self, server, signum, clients=()):
        server.send_signal(signum)
        self.assertEqual(server.wait(harness.DEADLINE), 0)
        self.assertEqual(server.stderr.read(), b"")
        self.assertFalse(os.path.exists(self.path))
        for client in clients:
            self.assertEqual(client.recv(1), b"")

    def test_clients_get_back_what_they_send_and_signals_end_it(self):
        for signum in (signal.SIGINT, signal.SIGTERM):
            server = self.start()
            clients = [self.connect() for _ in range(20)]
            for client in clients:
                self.talk(client, 1000)
            self.talk(clients[0], 3_000_000)
            clients.pop().close()
            self.talk(clients[0], 1)
            self.check_end(server, signum, clients)

    def test_who_comes_when_all_are_busy_waits_for_a_place(self):
        server = self.start()
        clients = [self.connect() for _ in range(257)]
        for client in clients[:256]:
            self.talk(client, 10)
        late = clients[256]
        late.sendall(b"late")
        late.setblocking(False)
        with self.assertRaises(BlockingIOError):
            late.recv(4)
        late.settimeout(harness.DEADLINE)
        clients[0].close()
        self.assertEqual(self.receive(late, 4), b"late")
        self.check_end(server, signal.SIGTERM)

    def test_an_idle_client_is_left(self):
        server = self.start(idle_ms=20)
        client = self.connect()
        self.assertEqual(client.recv(1), b"")
        self.check_end(server, signal.SIGTERM)


class TwoLoops(unittest.TestCase):
    def test_all_of_it_happens(self):
        result = subprocess.run([TWO_LOOPS], capture_output=True, text=True, timeout=harness.DEADLINE)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        lines = result.stdout.splitlines()
        self.assertEqual(sorted(lines), ["a bottom half ran", "a coroutine is in the helper's thread",
                                         "it is back, and has slept", "the timer fired"])
        self.assertLess(lines.index("a coroutine is in the helper's thread"),
                        lines.index("it is back, and has slept"))


def text_of(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def files_of(folder, pattern):
    return [text_of(folder, name) for name in os.listdir(os.path.join(ROOT, folder))
            if re.fullmatch(pattern, name)]


def called(text):
    """The functions and macros that text names: `aio_poll()`, `co_pread(fd, …)`."""
    return re.findall(r"`(\w+)\(", text)


class Pages(unittest.TestCase):
    def test_the_code_in_the_loop_page_is_that_of_the_examples(self):
        blocks = re.findall(r"^```c\n(.*?)^```$", text_of("docs", "loop.md"), re.M | re.S)
        examples = files_of("examples", r".*\.c")
        self.assertGreater(len(blocks), 8)
        for block in blocks:
            self.assertTrue(any(block in example for example in examples), block)

    def test_each_function_that_the_pages_name_is_there(self):
        headers = "\n".join(files_of("runtime", r".*\.h") + [text_of("shard", "service.h")])
        names = set(called(text_of("docs", "loop.md")))
        for line in text_of("docs", "concepts.md").splitlines():
            cells = line.split(" | ")
            if len(cells) == 3 and not line.startswith("|---"):
                ours = cells[0].replace("qemu_", "") if cells[1].strip() == "the same" else cells[1]
                names.update(called(ours))
        self.assertGreater(len(names), 60)
        there = set(re.findall(r"\w+", headers)) | {"getaddrinfo"}
        self.assertEqual(names - there - {"serve"}, set())


if __name__ == "__main__":
    harness.main()
