# SPDX-License-Identifier: MIT
"""The control plane over tls+tcp://: who is believed, by either side, and what those do who are not."""
import collections
import contextlib
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import unittest

import harness
from ipc_case import WireCase
from raw_client import DONE, GREETING_REQ, Refusal, Submission

HELLO = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"  # of a handshake, as far as it goes


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


class Authority:
    """A folder of certificates made for a test; NAME.pem with NAME.key, vouched for by `ca`."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="sherd-test-tls-")
        for name in ("ca", "other-ca"):
            openssl(self.folder, "req", "-x509", *self.new_key(name), "-out", f"{name}.pem", "-days", "2",
                    "-subj", f"/CN={name}")
        self.sign("server")
        self.sign("expired", days="-1")
        self.sign("elsewhere", host="elsewhere.example")
        self.sign("client")
        self.sign("foreign-client", by="other-ca")

    def new_key(self, name):
        return "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"

    def sign(self, name, by="ca", host="localhost", days="2"):
        with open(self.path("names"), "w") as names:
            names.write(f"subjectAltName=DNS:{host}")
        openssl(self.folder, "req", *self.new_key(name), "-out", "request", "-subj", f"/CN={name}")
        openssl(self.folder, "x509", "-req", "-in", "request", "-CA", f"{by}.pem", "-CAkey", f"{by}.key",
                "-CAcreateserial", "-days", days, "-out", f"{name}.pem", "-extfile", "names")

    def path(self, name):
        return os.path.join(self.folder, name)

    def server(self, name="server"):
        return "--tls-cert", self.path(f"{name}.pem"), "--tls-key", self.path(f"{name}.key")

    def copy(self, name, to, mode):
        shutil.copy(self.path(name), self.path(to))
        os.chmod(self.path(to), mode)
        return self.path(to)


@unittest.skipUnless(shutil.which("openssl"), "openssl is not installed")
class TlsCase(WireCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.authority = Authority()

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.authority.folder)
        super().tearDownClass()

    def setUp(self):
        super().setUp()
        self.sherd = self.instance()
        self.port = self.free_port()
        self.token = os.path.join(self.sherd.scratch, "token")
        with open(self.token, "w") as file:
            file.write("open sesame\n")
        os.chmod(self.token, 0o600)

    def arguments(self, *more, certificate="server"):
        return ("--shards", "1", "--listen", f"tls+tcp://127.0.0.1:{self.port}", "--token-file", self.token,
                *self.authority.server(certificate), *more)

    def begin(self, *more, **options):
        self.sherd.start(*self.arguments(*more, **options))
        self.gateway_pid = self.sherd.gateway()["pid"]

    def remote(self, *what, host="localhost", ca="ca", token=True):
        command = ["submit", "--url", f"tls+tcp://{host}:{self.port}"]
        command += ["--tls-ca", self.authority.path(f"{ca}.pem")] if ca else []
        command += ["--token-file", self.token] if token else []
        return command + list(what or ["sys.ping"])

    def submit(self, *what, **options):
        return harness.sherd(*self.remote(*what, **options))

    def raw(self):
        context = ssl.create_default_context(cafile=self.authority.path("ca.pem"))
        return self.connect_raw(("127.0.0.1", self.port), tls=context)

    def assert_still_serves(self):
        self.assertDone(self.submit())
        self.assertEqual(self.sherd.gateway()["pid"], self.gateway_pid)


class Clients(TlsCase):
    def test_who_believes_the_gateway_and_has_the_token_is_served(self):
        self.begin()
        self.assertDone(self.submit("sys.echo", "x" * 100000))
        client = self.raw()
        client.hello(token=b"open sesame")
        client.submit([Submission(1, "sys.ping")])
        self.assertEqual(client.next()[0].kind, DONE)

    def test_the_authority_may_come_from_the_environment(self):
        self.begin()
        environment = {**os.environ, "SHERD_TLS_CA": self.authority.path("ca.pem")}
        self.assertDone(harness.sherd(*self.remote(ca=None), env=environment))
        self.assertRefused(self.submit(ca=None), "--tls-ca FILE, or SHERD_TLS_CA")

    def test_a_gateway_of_another_authority_or_another_name_is_not_believed(self):
        self.begin()
        for wait in ("5", "0"):  # in the background, or by the first attempt
            self.assertRefused(self.submit("--wait", wait, "sys.ping", ca="other-ca"), "TLS fails", "another authority")
        self.assertRefused(self.submit(host="127.0.0.1"), "TLS fails", "--tls-name")
        self.assertDone(self.submit("--tls-name", "localhost", "sys.ping", host="127.0.0.1"))
        self.assertRefused(self.submit("--tls-name", "elsewhere", "sys.ping"), "TLS fails")
        self.assert_still_serves()

    def test_a_certificate_that_has_expired_is_not_believed_and_the_start_says_so(self):
        self.begin(certificate="expired")
        self.sherd.wait_for_log("is no longer valid: clients will refuse it")
        self.assertRefused(self.submit(), "TLS fails", "not valid now")

    def test_tls_does_not_replace_the_token(self):
        self.begin()
        self.assertRefused(self.submit(token=False), "the token is missing")
        with self.assertRaises(Refusal):
            self.raw().hello(token=b"guessed")

    def test_a_file_that_is_no_certificate_is_named(self):
        self.begin()
        self.assertRefused(self.submit(ca="none"), "none.pem can't be opened")
        self.assertRefused(harness.sherd(*self.remote("--tls-ca", self.token, "sys.ping", ca=None)),
                           f"{self.token} is not understood")
        self.assertRefused(self.submit("--tls-cert", self.token, "sys.ping"), "go together", status=2)

    def test_a_client_that_speaks_tls_to_who_does_not_is_told(self):
        self.sherd.start("--shards", "1", "--listen", f"tcp://127.0.0.1:{self.port}", "--token-file", self.token)
        self.sherd.wait_for_log("travel in the clear")
        self.assertRefused(self.submit(), "TLS fails", "it speaks no TLS")

    def test_over_tls_nothing_is_said_to_travel_in_the_clear(self):
        self.begin()
        self.assertNotIn("in the clear", self.sherd.log())


class ClientCertificates(TlsCase):
    def show(self, name):
        return "--tls-cert", self.authority.path(f"{name}.pem"), "--tls-key", self.authority.path(f"{name}.key")

    def test_where_clients_must_show_one_it_has_to_be_of_that_authority(self):
        self.begin("--tls-client-ca", self.authority.path("ca.pem"))
        self.assertDone(self.submit(*self.show("client"), "sys.ping"))
        for shown in ((), self.show("foreign-client")):
            self.assertRefused(self.submit("--wait", "30", *shown, "sys.ping"), "TLS", "(--tls-cert)")
        self.assertDone(self.submit(*self.show("client"), "sys.ping"))


class Strangers(TlsCase):
    def stranger(self):
        return socket.create_connection(("127.0.0.1", self.port))

    def test_who_speaks_no_tls_is_sent_away_and_nobody_notices(self):
        self.begin()
        n_fds = harness.n_fds(self.gateway_pid)
        for words in (GREETING_REQ, os.urandom(4096), HELLO, b"", b"GET / HTTP/1.0\r\n\r\n"):
            for _ in range(4):
                with self.stranger() as stranger:
                    stranger.sendall(words)
        with self.stranger() as stranger:  # no matter what comes, it ends
            stranger.settimeout(harness.DEADLINE)
            stranger.sendall(GREETING_REQ * 512)
            with contextlib.suppress(ConnectionError):
                while stranger.recv(4096):
                    pass
        harness.wait_until(lambda: harness.n_fds(self.gateway_pid) <= n_fds, "no connection to be left")
        self.assert_still_serves()

    def test_who_leaves_in_the_handshake_silences_nobody(self):
        self.begin()
        for _ in range(50):
            stranger = self.stranger()
            stranger.sendall(b"\x16\x03\x01")
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stranger.close()
        self.assert_still_serves()

    def silent(self, n):
        """In the middle of a handshake."""
        for _ in range(n):
            stranger = self.stranger()
            stranger.settimeout(harness.DEADLINE)
            stranger.sendall(HELLO)
            self.sockets.append(stranger)

    def test_who_falls_silent_in_the_handshake_makes_room_for_the_next(self):
        self.begin()
        n_fds = harness.n_fds(self.gateway_pid)
        self.silent(257)
        self.assertEqual(self.sockets[0].recv(1), b"")
        harness.wait_until(lambda: harness.n_fds(self.gateway_pid) <= n_fds + 2 * 256, "no more than 256 to be left")
        self.assert_still_serves()

    def test_who_stays_silent_is_sent_away_after_a_while(self):
        if not harness.LONG:
            self.skipTest("takes the ten seconds that a handshake has")
        self.begin()
        n_fds = harness.n_fds(self.gateway_pid)
        self.silent(20)
        self.assertEqual([stranger.recv(1) for stranger in self.sockets], [b""] * 20)
        harness.wait_until(lambda: harness.n_fds(self.gateway_pid) <= n_fds, "no connection to be left")

    def test_garbage_within_tls_is_garbage(self):
        self.begin()
        context = ssl.create_default_context(cafile=self.authority.path("ca.pem"))
        with context.wrap_socket(self.stranger(), server_hostname="localhost") as stranger:
            stranger.sendall(b"no greeting of anybody")
            with contextlib.suppress(OSError):
                while stranger.recv(4096):
                    pass
        self.assert_still_serves()


@unittest.skipIf(harness.THREADS, "the gateway is no process")
class Deaths(TlsCase):
    def test_a_gateway_that_dies_under_load_leaves_each_request_run_once(self):
        self.begin("--enable-test-methods", "--set", f"sys.notes={self.sherd.scratch}")
        notes = os.path.join(self.sherd.scratch, "notes")
        shard = self.sherd.shard(0)["pid"]
        harness.send_signal(shard, signal.SIGSTOP)
        process = subprocess.Popen([harness.program(), *self.remote("sys.note", *[f"{notes} {i}" for i in range(200)])],
                                   text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        harness.wait_until(lambda: self.sherd.gateway()["clients"]["requests_in_flight"] == 200, "200 requests")
        self.sherd.kill_and_wait("gateway")
        harness.send_signal(shard, signal.SIGCONT)
        _, error = process.communicate(timeout=harness.DEADLINE)
        self.assertEqual((process.returncode, error), (0, ""))
        with open(notes) as file:
            self.assertEqual(collections.Counter(map(int, file.read().split())), {i: 1 for i in range(200)})

    def test_a_new_certificate_is_seen_after_sighup_with_the_next_gateway(self):
        files = [self.authority.copy(f"server.{kind}", f"own.{kind}", 0o600) for kind in ("pem", "key")]
        self.begin(certificate="own")
        for kind in ("pem", "key"):
            self.authority.copy(f"elsewhere.{kind}", f"own.{kind}", 0o600)
        self.sherd.supervisor.send_signal(signal.SIGHUP)
        self.sherd.wait_for_log("certificate and key are read again")
        self.assertDone(self.submit())
        self.assertDone(self.sherd.command("restart", "gateway"))
        self.assertRefused(self.submit(), "TLS fails")
        self.assertDone(self.submit("--tls-name", "elsewhere.example", "sys.ping"))
        os.unlink(files[1])
        self.sherd.supervisor.send_signal(signal.SIGHUP)
        self.sherd.wait_for_log("the certificate stays as it was: --tls-key")

    def test_no_shard_has_the_key(self):
        self.begin()

        def holds(pid):
            return any("sherd-certificate" in path for path in harness.open_files(pid).values())
        self.assertTrue(holds(self.gateway_pid))
        self.assertFalse(holds(self.sherd.shard(0)["pid"]))
        self.assertTrue(holds(self.sherd.kill_and_wait("gateway")["pid"]))
        self.assertFalse(holds(self.sherd.kill_and_wait("shard", 0)["pid"]))


class Starts(TlsCase):
    def run_with(self, cert, key, *more):
        return self.sherd.command("run", "--shards", "1", "--listen", f"tls+tcp://127.0.0.1:{self.port}",
                                  "--token-file", self.token, "--tls-cert", cert, "--tls-key", key, *more)

    def test_what_is_wrong_with_a_file_is_in_the_error_of_the_start(self):
        path, folder = self.authority.path, self.authority.folder
        openssl(folder, "genpkey", "-algorithm", "ed25519", "-out", "ed25519.key")
        openssl(folder, "pkey", "-in", "server.key", "-aes128", "-passout", "pass:x", "-out", "locked.key")
        os.chmod(path("ed25519.key"), 0o600)
        os.chmod(path("locked.key"), 0o600)
        open_to_all = self.authority.copy("server.key", "open.key", 0o644)
        for cert, key, *words in (
                (path("none"), path("server.key"), "--tls-cert", "can't be opened"),
                (self.token, path("server.key"), "--tls-cert", "holds no certificate"),
                (path("server.pem"), path("none"), "--tls-key", "can't be opened"),
                (path("server.pem"), open_to_all, "--tls-key", "chmod 600"),
                (path("server.pem"), self.token, "--tls-key", "holds no private key"),
                (path("server.pem"), path("client.key"), "does not belong to the certificate"),
                (path("server.pem"), path("locked.key"), "passphrase"),
                (path("server.pem"), path("ed25519.key"), "neither RSA nor ECDSA")):
            self.assertRefused(self.run_with(cert, key), *words)
        self.assertRefused(self.run_with(path("server.pem"), path("server.key"), "--tls-client-ca", self.token),
                           "--tls-client-ca", "holds no certificate")

    def test_a_file_as_long_as_may_be_is_read_and_a_longer_one_refused(self):
        server = [self.authority.path(name) for name in ("server.pem", "server.key")]
        for option, place, holds in ("--tls-cert", 0, "certificate"), ("--tls-key", 1, "private key"):
            for more, why in (0, f"holds no {holds}"), (1, "is longer than 256 KiB"):
                files = list(server)
                files[place] = os.path.join(self.authority.folder, "long")
                with open(files[place], "w") as file:
                    os.fchmod(file.fileno(), 0o600)
                    file.write("x" * (256 * 1024 + more))
                self.assertRefused(self.run_with(*files), option, why)

    def test_options_that_do_not_go_together_are_refused(self):
        certificate = self.authority.server()
        listen = ("run", "--token-file", self.token, "--listen")
        self.assertRefused(self.sherd.command(*listen, f"tls+tcp://127.0.0.1:{self.port}"), "--tls-cert", status=2)
        self.assertRefused(self.sherd.command(*listen, f"tcp://127.0.0.1:{self.port}", *certificate), "tls+tcp://",
                           status=2)

    @unittest.skipUnless(os.geteuid() == 0, "needs root, who changes to another user")
    def test_a_key_of_root_s_is_read_before_its_rights_are_given_up(self):
        os.chown(self.token, 65534, 65534)
        os.chmod(self.sherd.scratch, 0o755)
        self.begin("--user", "nobody")
        self.assertEqual(os.stat(f"/proc/{self.gateway_pid}").st_uid, 65534)
        harness_token = os.path.join(self.authority.folder, "token")
        with open(harness_token, "w") as file:
            file.write("open sesame")
        os.chmod(harness_token, 0o600)
        self.token = harness_token
        self.assertDone(self.submit())


if __name__ == "__main__":
    harness.main()
