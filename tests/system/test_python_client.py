# SPDX-License-Identifier: MIT
"""examples/python against a real instance, also while its gateway dies."""
import os
import shutil
import signal
import subprocess
import tempfile
import unittest

import harness

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
EXAMPLE = os.path.join(ROOT, "examples", "python", "sherd_nng.py")
PYTHON = "/usr/bin/python3"  # the one that Debian's python3-protobuf is for


def has_protobuf():
    return shutil.which("protoc") and subprocess.run(
        [PYTHON, "-c", "import google.protobuf"], capture_output=True).returncode == 0


@unittest.skipUnless(has_protobuf(), "protobuf-compiler and python3-protobuf are not installed")
class PythonClient(harness.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        subprocess.run(["protoc", f"--python_out={folder.name}", "-I", os.path.join(ROOT, "proto"), "sherd.proto"],
                       check=True)
        self.environment = {**os.environ, "PYTHONPATH": folder.name}
        self.sherd = self.instance()
        self.sherd.start("--shards", "2", "--enable-test-methods", "--set",
                         f"sys.notes={self.sherd.scratch}")
        self.url = "ipc://" + os.path.join(self.sherd.runtime_dir, self.sherd.name, "gateway")

    def begin(self, *arguments):
        return subprocess.Popen([PYTHON, EXAMPLE, self.url, *arguments], env=self.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def end(self, process):
        out, error = process.communicate(timeout=harness.DEADLINE)
        return process.returncode, out, error

    def test_answers_come_in_the_order_of_the_arguments(self):
        texts = [f"text {i}" for i in range(1500)]  # more than a message takes
        self.assertEqual(self.end(self.begin("sys.echo", *texts)), (0, "\n".join(texts) + "\n", ""))

    def test_what_cannot_be_is_told(self):
        code, _, error = self.end(self.begin("no.such", "x"))
        self.assertEqual(code, 1)
        self.assertIn("no such method: no.such", error)

    def test_a_gateway_that_dies_meanwhile_is_not_noticed(self):
        notes = os.path.join(self.sherd.scratch, "notes")
        shards = [self.sherd.shard(i)["pid"] for i in range(2)]
        for pid in shards:
            harness.send_signal(pid, signal.SIGSTOP)
        process = self.begin("sys.note", *[f"{notes} {i}" for i in range(200)])
        harness.wait_until(lambda: self.sherd.gateway()["clients"]["requests_in_flight"] == 200, "200 requests")
        self.sherd.kill_and_wait("gateway")
        for pid in shards:
            harness.send_signal(pid, signal.SIGCONT)
        self.assertEqual(self.end(process), (0, "".join(f"{i}\n" for i in range(200)), ""))
        with open(notes) as file:
            self.assertEqual(sorted(map(int, file.read().split())), list(range(200)))


if __name__ == "__main__":
    harness.main()
