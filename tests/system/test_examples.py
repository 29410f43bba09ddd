# SPDX-License-Identifier: MIT
"""The programs in examples/ that use the runtime alone."""
import hashlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
import unittest

import harness

BUILD = os.path.dirname(os.path.realpath(harness.program()))
FILE_COPY = os.path.join(BUILD, "examples", "file_copy")
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


if __name__ == "__main__":
    harness.main()
