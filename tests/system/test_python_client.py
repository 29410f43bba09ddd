# SPDX-License-Identifier: MIT
"""examples/python against a real instance, also while its processes die."""
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import unittest

import harness
import test_tls

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
EXAMPLE = os.path.join(ROOT, "examples", "python", "sherd_nng.py")
MEMORY_EXAMPLE = os.path.join(ROOT, "examples", "python", "sherd_shm.py")
# The same program, but it says when it has submitted all, and looks for ends when it is told to.
PAUSED = """
import sys, sherd_nng
fetch = sherd_nng.Client.fetch
def fetch_when_told(self):
    sherd_nng.Client.fetch = fetch
    print("submitted", flush=True)
    if sys.stdin.readline() == "lose the dialer\\n":
        sherd_nng.nng.nng_dialer_close(self.connection.dialer)
        sherd_nng.nng.nng_socket_set_ms(self.connection.socket, b"send-timeout", 500)
    return fetch(self)
sherd_nng.Client.fetch = fetch_when_told
sys.exit(sherd_nng.main())
"""
PYTHON = "/usr/bin/python3"  # the one that Debian's python3-protobuf is for


def has_protobuf():
    return shutil.which("protoc") and subprocess.run(
        [PYTHON, "-c", "import google.protobuf"], capture_output=True).returncode == 0


def end_of(process):
    out, error = process.communicate(timeout=harness.DEADLINE)
    return process.returncode, out, error


@unittest.skipUnless(has_protobuf(), "protobuf-compiler and python3-protobuf are not installed")
class PythonClient(harness.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        subprocess.run(["protoc", f"--python_out={folder.name}", "-I", os.path.join(ROOT, "proto"), "sherd.proto"],
                       check=True)
        self.environment = {**os.environ, "PYTHONPATH": f"{folder.name}:{os.path.dirname(EXAMPLE)}",
                            "PYTHONDONTWRITEBYTECODE": "1"}
        self.sherd = self.instance()
        self.notes = os.path.join(self.sherd.scratch, "notes")
        self.url = "ipc://" + self.sherd.gateway_socket
        self.start_instance()

    def start_instance(self, *arguments):
        self.sherd.start("--shards", "2", "--enable-test-methods", "--set", f"sys.notes={self.sherd.scratch}",
                         *arguments)

    def run_python(self, *arguments, **more):
        return subprocess.Popen([PYTHON, *arguments], env=self.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)

    def begin(self, *arguments):
        return self.run_python(EXAMPLE, self.url, *arguments)

    def signal_shards(self, signum):
        for number in range(2):
            self.sherd.kill(self.sherd.shard(number), signum)

    def begin_and_pause(self, *arguments):
        """A client that has submitted all, and asks for no end before it may go on."""
        process = self.run_python("-c", PAUSED, self.url, *arguments, stdin=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), "submitted\n")
        return process

    def test_answers_come_in_the_order_of_the_arguments(self):
        texts = [f"text {i}" for i in range(1500)]  # more than a message takes
        self.assertEqual(end_of(self.begin("sys.echo", *texts)), (0, "\n".join(texts) + "\n", ""))

    def test_what_cannot_be_is_told(self):
        code, _, error = end_of(self.begin("no.such", "x"))
        self.assertEqual(code, 1)
        self.assertIn("no such method: no.such", error)

    def test_more_than_a_session_may_have_and_more_than_a_message_may_hold_goes_in_turns(self):
        self.assertEqual(self.sherd.stop(), 0)
        self.start_instance("--fates-memory", str(320 * 32))
        texts = [f"text {i}" for i in range(100)]
        self.assertEqual(end_of(self.begin("sys.echo", *texts)), (0, "\n".join(texts) + "\n", ""))
        large = ("import sherd_nng, sys; client = sherd_nng.Client(sys.argv[1]); "
                 "print(sum(len(end.data) for _, end in client.run('sys.echo', [bytes(700000)] * 10)))")
        self.assertEqual(end_of(self.run_python("-c", large, self.url)), (0, "7000000\n", ""))

    def test_an_instance_that_drains_and_goes_on_is_watched(self):
        with self.begin("watch") as watch:
            self.assertIn("NOT_DRAINED supervisor:up shard0:up shard1:up gateway:up", watch.stdout.readline())
            self.assertEqual(end_of(self.begin("drain")), (0, "", ""))
            while not watch.stdout.readline().startswith("DRAINED"):
                pass
            code, _, error = end_of(self.begin("sys.ping"))
            self.assertEqual(code, 1)
            self.assertIn("draining", error)
            self.assertEqual(end_of(self.begin("resume")), (0, "", ""))
            while not watch.stdout.readline().startswith("NOT_DRAINED"):
                pass
            watch.kill()
        self.assertEqual(end_of(self.begin("sys.echo", "x")), (0, "x\n", ""))

    @unittest.skipUnless(shutil.which("openssl"), "openssl is not installed")
    def test_over_tls_the_authority_comes_from_the_environment(self):
        authority = test_tls.Authority()
        self.addCleanup(shutil.rmtree, authority.folder)
        self.assertEqual(self.sherd.stop(), 0)
        token = os.path.join(self.sherd.scratch, "token")
        with open(token, "w") as file:
            file.write("open sesame")
        os.chmod(token, 0o600)
        port = self.free_port()
        self.start_instance("--listen", f"tls+tcp://127.0.0.1:{port}", "--token-file", token, *authority.server())
        self.url = f"tls+tcp://localhost:{port}"
        for ca, wanted in (("ca", (0, "x\n")), ("other-ca", (1, ""))):
            self.environment |= {"SHERD_TOKEN": "open sesame", "SHERD_TLS_CA": authority.path(f"{ca}.pem")}
            self.assertEqual(end_of(self.begin("sys.echo", "x"))[:2], wanted)

    def test_a_gateway_that_dies_meanwhile_is_not_noticed(self):
        self.signal_shards(signal.SIGSTOP)
        process = self.begin("sys.note", *[f"{self.notes} {i}" for i in range(200)])
        harness.wait_until(lambda: self.sherd.gateway()["clients"]["requests_in_flight"] == 200, "200 requests")
        self.sherd.kill_and_wait("gateway")
        self.signal_shards(signal.SIGCONT)
        self.assertEqual(end_of(process), (0, "".join(f"{i}\n" for i in range(200)), ""))
        with open(self.notes) as file:
            self.assertEqual(sorted(map(int, file.read().split())), list(range(200)))

    def test_a_dialer_that_has_given_up_is_made_anew(self):
        process = self.begin_and_pause("sys.echo", "text")
        process.stdin.write("lose the dialer\n")
        self.assertEqual(end_of(process), (0, "text\n", ""))

    def test_an_answer_that_went_with_a_gateway_is_had_again_or_said_to_be_gone(self):
        for method, begin in (("sys.echo", ""), ("sys.note", f"{self.notes} ")):
            process = self.begin_and_pause(method, begin + "short", begin + "x" * 300)
            harness.wait_until(lambda: self.sherd.gateway()["clients"]["requests_in_flight"] == 0, "both to end")
            self.sherd.kill_and_wait("gateway")
            code, out, error = end_of(process)  # which lets it go on
            if method == "sys.echo":
                self.assertEqual((code, out, error), (0, f"short\n{'x' * 300}\n", ""))
            else:
                self.assertEqual((code, out), (1, "short\n"))
                self.assertIn("its answer is gone", error)

    def test_when_the_instance_is_another_one_what_may_not_run_twice_is_in_doubt(self):
        for method, begin in (("sys.echo", ""), ("sys.note", f"{self.notes} ")):
            self.signal_shards(signal.SIGSTOP)
            process = self.begin_and_pause(method, begin + "text")
            self.sherd.kill_all()
            self.start_instance()
            code, out, error = end_of(process)
            self.assertEqual((code, out) if method == "sys.echo" else (code, error[:8]),
                             (0, "text\n") if method == "sys.echo" else (1, "IN_DOUBT"))


class PythonMemory(harness.TestCase):
    def sherd_notes(self):
        """A folder for notes."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.notes = os.path.join(folder.name, "notes")
        return folder.name

    def noted(self):
        with contextlib.suppress(FileNotFoundError), open(self.notes) as file:
            return list(map(int, file.read().split()))
        return []

    def begin(self, *arguments):
        path = os.path.join(self.sherd.runtime_dir, self.sherd.name, "attach")
        return subprocess.Popen([PYTHON, MEMORY_EXAMPLE, path, *arguments], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def test_answers_come_in_the_order_of_the_arguments_though_shards_and_gateway_die(self):
        self.sherd = self.start("--shards", "2")
        texts = [f"{i} " + "x" * (i % 300) for i in range(2000)]  # some fit into an entry
        self.assertEqual(end_of(self.begin("sys.echo", *texts)), (0, "\n".join(texts) + "\n", ""))
        process = self.begin("sys.sleep", *["20"] * 1500)
        for victim in (("shard", 0), ("gateway",), ("shard", 1)):
            served = self.sherd.shard(0)["calls_in"]
            self.sherd.kill_and_wait(*victim)
            harness.wait_until(lambda: self.sherd.shard(0)["calls_in"] != served or process.poll() is not None,
                               "it to go on")
        self.assertEqual(end_of(process), (0, "\n" * 1500, ""))

    def give_up(self, shard):
        """Of an instance that does so at the first crash."""
        process = self.sherd.shard(shard)
        for signum in signal.SIGSTOP, signal.SIGSEGV, signal.SIGCONT:
            self.sherd.kill(process, signum)
        self.sherd.wait_for_shard(shard, state="failed")

    def test_what_a_shard_had_that_is_given_up_goes_to_another_or_is_in_doubt(self):
        self.sherd = self.start("--shards", "2", "--crash-limit", "1", "--enable-test-methods",
                                "--set", f"sys.notes={self.sherd_notes()}")
        with self.subTest("what may run again is run by the other"):
            process = self.begin("sys.sleep", *["300"] * 128)
            harness.wait_until(lambda: "sherd_shm" in self.sherd.command("clients").stdout, "it to be attached")
            self.give_up(1)
            self.assertEqual(end_of(process), (0, "\n" * 128, ""))
        with self.subTest("who attaches then uses those there are"):
            self.assertEqual(end_of(self.begin("sys.echo", "a", "b")), (0, "a\nb\n", ""))
        self.assertDone(self.sherd.command("restart", "1"))
        self.sherd.wait_for_shard(1)
        with self.subTest("what was not taken is run once"):
            self.sherd.kill(self.sherd.shard(1), signal.SIGSTOP)
            process = self.begin("sys.note", *[f"{self.notes} {i}" for i in range(40)])
            harness.wait_until(lambda: len(self.noted()) == 20, "the other's half")
            self.give_up(1)
            self.assertEqual(end_of(process), (0, "".join(f"{i}\n" for i in range(40)), ""))
            self.assertEqual(sorted(self.noted()), list(range(40)))
        self.assertDone(self.sherd.command("restart", "1"))
        self.sherd.wait_for_shard(1)
        with self.subTest("what was, and may not be run twice, is in doubt"):
            code, out, error = end_of(self.begin("sys.crash", "segv"))
            self.assertEqual((code, out), (1, ""))
            self.assertIn("in doubt: its shard is given up", error)

    def test_what_cannot_be_is_told(self):
        self.sherd = self.start("--shards", "1", "--client-memory", "64K")
        self.assertIn("--client-memory", end_of(self.begin("sys.echo", "x"))[2])
        self.assertEqual(self.sherd.stop(), 0)
        self.sherd = self.start("--shards", "1")
        code, _, error = end_of(self.begin("no.such", "x"))
        self.assertEqual(code, 1)
        self.assertIn("no such method: no.such", error)
        code, _, error = end_of(self.begin("sys.sleep", "1", "never"))
        self.assertEqual(code, 1)
        self.assertIn("failed: sys.sleep: the argument is the time", error)
        process = self.begin("sys.sleep", "3600000")
        harness.wait_until(lambda: "sherd_shm" in self.sherd.command("clients").stdout, "it to be attached")
        self.sherd.kill_all()
        self.assertEqual(end_of(process), (1, "", "sherd_shm.py: the instance has ended\n"))


if __name__ == "__main__":
    harness.main()
