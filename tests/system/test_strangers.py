# SPDX-License-Identifier: MIT
"""The control plane's doors: bytes that are not the protocol, who may come in, and how many."""
import contextlib
import errno
import os
import random
import resource
import select
import signal
import socket
import struct
import time

import harness
from ipc_case import IpcCase
from raw_client import DONE, GREETING_REQ, RawClient, Refusal, Submission, field, one, varint

TAKE_SECONDS = 5  # that an answer has to be taken in


def allow_fds(n):
    """For this process; False: it can't have so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < n:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, n), hard))
    return True


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Garbage(IpcCase):
    def connect(self):
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(harness.DEADLINE)
        stream.connect(self.sherd.gateway_socket)
        self.sockets.append(stream)
        return stream

    def test_bytes_that_are_not_sp_end_the_connection(self):
        self.begin()
        for bytes_ in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 64, os.urandom(4096), b"\0SP\0\0\x50\0\0"):
            stream = self.connect()
            with contextlib.suppress(ConnectionError):
                stream.sendall(bytes_)
            self.assert_closed(stream)
        self.assert_still_serves()

    def test_clients_that_leave_before_the_greeting_silence_nobody(self):
        self.begin()
        for _ in range(200):
            with socket.socket(socket.AF_UNIX) as stream:
                stream.connect(self.sherd.gateway_socket)
        self.assert_still_serves()

    def test_a_message_longer_than_the_limit_ends_the_connection(self):
        self.begin()
        for length in (4 * 1024 * 1024 + 5, 1 << 40, (1 << 64) - 1):
            stream = self.connect()
            stream.sendall(GREETING_REQ)
            with contextlib.suppress(ConnectionError):
                stream.sendall(b"\1" + struct.pack(">Q", length) + b"x" * 1000)
            self.assert_closed(stream)
        self.assert_still_serves()

    def test_a_client_that_stops_in_the_middle_of_a_message_disturbs_nobody(self):
        self.begin()
        stream = self.connect()
        stream.sendall(GREETING_REQ + b"\1" + struct.pack(">Q", 1000) + b"half")
        self.assert_still_serves()
        stream.close()
        self.assert_still_serves()

    def test_a_message_that_is_no_request_is_told_so_and_the_connection_stays(self):
        self.begin()
        client = self.session()
        for body in (b"", b"\xff" * 100, b"\x0a\x7f", field(99, b"unknown"), field(3, b"\x0a\xff")):
            with self.assertRaises(Refusal) as refusal:
                client.ask(body)
            self.assertEqual(refusal.exception.number, errno.EPROTO)
        self.assertEqual(client.submit([Submission(1, "sys.ping")]), (1, {}))

    def test_a_thousand_bad_messages_are_not_a_thousand_lines_of_log(self):
        self.begin()
        client = self.session()
        for length in range(1, 1001):
            with self.assertRaises(Refusal):
                client.ask(b"\xff" * length)
        self.assertIn(self.sherd.log().count("not the protocol"), range(1, 50))

    def test_a_short_message_that_unpacks_to_much_is_refused(self):
        self.begin()
        client = self.session()
        with self.assertRaises(Refusal) as refusal:
            client.ask(b"\x1a" + varint(2_000_000) + b"\x0a\x00" * 1_000_000)
        self.assertEqual(refusal.exception.number, errno.EPROTO)
        self.assert_still_serves()

    def test_damaged_messages_never_end_the_gateway(self):
        self.begin()
        dice = random.Random(2)
        whole = [RawClient.submit_message([Submission(i, "sys.echo", b"data", shard=0, key=b"key",
                                                      timeout_ns=10**9) for i in range(1, 5)]),
                 RawClient.next_message(wait_ms=0), field(5, field(1, b"\1\2\3")),
                 field(1, field(1, 1) + field(2, "x") + field(3, b"s" * 16))]
        client = self.session()
        for _ in range(3000):
            body = bytearray(dice.choice(whole))
            for _ in range(dice.randint(1, 3)):
                body[dice.randrange(len(body))] = dice.randrange(256)
            if dice.random() < 0.3:
                del body[dice.randrange(len(body)):]
            client.send(bytes(body) if body[:1] != b"\x22" else bytes(field(4, b"")))
            client.receive()
        self.assert_still_serves()

    def ask_without_end(self, client, n):
        """Asks n times, or until nobody listens any more, and takes no answer. How often."""
        for sent in range(n):
            try:
                client.send(field(5, b""))
            except OSError:
                return sent
        return n

    def test_one_that_does_not_take_its_answers_keeps_nobody_waiting(self):
        self.begin()
        deaf, other = self.session(), self.session()
        began = time.monotonic()
        sent = self.ask_without_end(deaf, 1000)  # more than nng and the kernel hold
        n_sessions = other.status()["sessions"]
        if time.monotonic() - began < TAKE_SECONDS:  # else it may be closed by now
            self.assertEqual((sent, n_sessions), (1000, 2))

    def test_of_those_that_take_no_answers_the_one_that_asks_most_is_closed_before_it_has_all_contexts(self):
        self.begin()
        deaf, deafer, other = self.session(), self.session(), self.session()
        began = time.monotonic()
        n_deaf, n_deafer = self.ask_without_end(deaf, 1000), self.ask_without_end(deafer, 20000)
        harness.wait_until(lambda: other.status()["sessions"] <= 2, "its end")
        n_sessions = other.status()["sessions"]
        if time.monotonic() - began < TAKE_SECONDS:  # else the time of their answers was over before
            self.assertEqual((n_deaf, n_sessions), (1000, 2))
            self.assertGreater(n_deafer, 6000)

    def test_a_client_that_does_not_take_its_answers_is_closed(self):
        if not harness.LONG:
            self.skipTest("takes the five seconds that an answer has")
        self.begin()
        client = self.session()
        client.submit([Submission(i, "sys.echo", bytes(1 << 20)) for i in range(1, 2)])
        client.socket.settimeout(0.1)
        with contextlib.suppress(socket.timeout, ConnectionError):
            while True:
                client.send(field(7, b""))
        other = self.session()
        harness.wait_until(lambda: other.status()["sessions"] == 1, "the deaf client to be closed")


class Remote(IpcCase):
    def token_file(self, text="open sesame\n", mode=0o600):
        path = os.path.join(self.instance_for_files.scratch, "token")
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def setUp(self):
        super().setUp()
        self.instance_for_files = self.instance()
        self.port = self.free_port()

    def listen(self, token_file):
        self.sherd = self.instance_for_files.start(
            "--shards", "1", "--listen", f"tcp://127.0.0.1:{self.port}", "--token-file", token_file)

    def remote(self):
        return self.connect_raw(("127.0.0.1", self.port))

    def test_over_tcp_only_the_right_token_is_let_in(self):
        self.listen(self.token_file())
        for token in (b"", b"open", b"open sesame ", b"open sesamE"):
            with self.assertRaises(Refusal) as refusal:
                self.remote().hello(token=token)
            self.assertEqual(refusal.exception.number, errno.EACCES)
        client = self.remote()
        with self.assertRaises(Refusal):
            client.ask(field(7, b""))
        client.hello(token=b"open sesame")
        client.submit([Submission(1, "sys.ping")])
        self.assertEqual(client.next()[0].kind, DONE)
        local = self.client()
        local.hello()

    def test_strangers_cost_little_and_keep_nobody_out(self):
        self.listen(self.token_file())
        strangers = [self.remote() for _ in range(100)]
        for stranger in strangers:
            stranger.socket.settimeout(harness.DEADLINE)
            with contextlib.suppress(ConnectionError):  # those that a newer one displaced
                stranger.socket.sendall(struct.pack(">Q", 4 << 20) + bytes((4 << 20) - 1))
        if not harness.SANITIZED:
            self.assertLess(resident_bytes(self.sherd.gateway()["pid"]), 120 << 20)
        self.remote().hello(token=b"open sesame")
        self.assert_closed(strangers[0].socket)

    def test_a_stranger_has_five_seconds_and_a_client_with_the_token_stays(self):
        if not harness.LONG:
            self.skipTest("takes the five seconds that a stranger has")
        self.listen(self.token_file())
        client = self.remote()
        client.hello(token=b"open sesame")
        self.assert_closed(self.remote().socket)
        client.submit([Submission(1, "sys.ping")])
        self.assertEqual(client.next()[0].kind, DONE)

    def test_clients_that_leave_before_the_greeting_silence_nobody(self):
        self.listen(self.token_file())
        reset_at_close = struct.pack("ii", 1, 0)
        for _ in range(20):
            streams = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(10)]
            for stream in streams:
                stream.shutdown(socket.SHUT_WR)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_at_close)
                stream.close()
        self.remote().hello(token=b"open sesame")

    def test_of_more_connections_by_tcp_than_there_may_be_the_newest_is_closed(self):
        if not allow_fds(2048):
            self.skipTest("may not open so many fds")
        self.listen(self.token_file())
        clients = [self.remote()]
        for _ in range(1023):
            clients[-1].hello(token=b"open sesame")
            clients.append(self.remote())
        clients[-1].hello(token=b"open sesame")
        with self.assertRaises(ConnectionError):
            self.remote().hello(token=b"open sesame")
        clients[0].submit([Submission(1, "sys.ping")])
        self.assertEqual(clients[0].next()[0].kind, DONE)

    def test_a_session_s_token_does_not_replace_the_secret(self):
        self.listen(self.token_file())
        local = self.client()
        session, _ = local.hello()
        with self.assertRaises(Refusal):
            self.remote().hello(session)

    def test_listening_without_a_good_token_file_is_refused(self):
        for arguments in ((), ("--token-file", self.token_file(mode=0o644)),
                          ("--token-file", self.token_file(text="\n")),
                          ("--token-file", "/nonexistent/token")):
            result = self.instance_for_files.command(
                "run", "--shards", "1", "--listen", f"tcp://127.0.0.1:{self.port}", *arguments)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("token", result.stderr)


class Socket(IpcCase):
    def test_a_runtime_directory_too_long_for_a_socket_is_named_as_the_cause(self):
        instance = self.instance()
        directory = os.path.join(instance.scratch, "d" * 90)
        os.mkdir(directory, 0o700)
        result = instance.command("run", "--shards", "1",
                                  env={**instance.environment, "SHERD_RUNTIME_DIR": directory})
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("107", result.stderr)
        self.assertIn("SHERD_RUNTIME_DIR", result.stderr)

    def test_of_more_connections_by_the_socket_than_there_may_be_one_is_closed(self):
        """That which the gateway saw last; nng's threads bring them to it in no certain order."""
        if not allow_fds(4096):
            self.skipTest("may not open so many fds")
        self.begin()
        clients = {}
        poll = select.poll()
        for _ in range(2049):
            client = self.client()  # which is greeted
            clients[client.socket.fileno()] = client
            poll.register(client.socket, select.POLLIN)
        [(fd, _)] = poll.poll(60000)
        poll.unregister(fd)
        with self.assertRaises(ConnectionError):
            clients.pop(fd).hello()
        self.assertEqual(len(clients.popitem()[1].hello()[0]), 16)
        self.assertEqual(poll.poll(0), [])
        clients.popitem()[1].socket.close()

        def there_is_room():
            with contextlib.suppress(ConnectionError):
                return self.session()
        harness.wait_until(there_is_room, "a place that was given back")

    def test_the_socket_is_for_its_owner_alone_and_comes_back_with_a_new_gateway(self):
        self.begin()
        self.assertEqual(os.stat(self.sherd.gateway_socket).st_mode & 0o777, 0o600)
        self.sherd.kill_and_wait("gateway", signum=signal.SIGKILL)
        self.assertEqual(os.stat(self.sherd.gateway_socket).st_mode & 0o777, 0o600)
        client = self.session()
        client.submit([Submission(1, "sys.ping")])
        self.assertEqual(client.next()[0].kind, DONE)


if __name__ == "__main__":
    harness.main()
