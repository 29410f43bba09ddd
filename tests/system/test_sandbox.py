# SPDX-License-Identifier: MIT
"""What a service can't do from within a shard, and how that is told."""
import ctypes
import errno
import os
import platform
import stat
import tempfile
import unittest

import harness

BUILD = os.path.dirname(os.path.realpath(harness.program()))
TRESPASS = os.path.join(BUILD, "tests", "system", "trespass.so")
# What it tries, what the kernel calls that; unit tests try more.
ENDS = {"execve": "execve", "fork": "clone", "ptrace": "ptrace", "bpf": "bpf"}
LANDLOCK, SECCOMP = 444, {"x86_64": 317, "aarch64": 277}


def kernel_has_landlock():
    return ctypes.CDLL(None).syscall(LANDLOCK, None, 0, 1) > 0


@unittest.skipIf(os.environ.get("SHERD_TEST_SANITIZED") == "1", "there is no sandbox in this build")
class Sandbox(harness.TestCase):
    def begin(self, *arguments, **options):
        return self.start("--shards", "2", "--service", TRESPASS, *arguments, **options)

    def attempt(self, instance, *what):
        return instance.command("submit", "--shard", "1", "trespass.try", " ".join(what))

    def assertError(self, instance, number, *what):
        result = self.attempt(instance, *what)
        self.assertDone(result)
        self.assertEqual(int(result.stdout), number, what)

    def test_forbidden_calls_end_the_shard_and_are_named(self):
        instance = self.begin()
        for n, (call, name) in enumerate(ENDS.items()):
            result = instance.command("submit", "--shard", str(n % 2), "trespass.try", call)
            self.assertEqual(result.returncode, 1, call)
            instance.wait_for_log(f"SIGSYS: it called {name} (system call")
            instance.wait_for_shard(n % 2, deaths=n // 2 + 1, state="up")
        self.assertDone(instance.command("submit", "sys.ping"))

    def test_what_services_may_try_is_refused(self):
        instance = self.begin("--root", "/usr")
        self.assertError(instance, errno.EACCES, "socket")
        self.assertError(instance, errno.EPERM, "code")
        self.assertError(instance, errno.EPERM, "ring")
        self.assertError(instance, 0, "thread")
        engine = instance.shard(1)["engine"]
        self.assertError(instance, errno.EACCES if engine == "io_uring" else errno.ENOTSUP, "socket_by_ring")
        if kernel_has_landlock():
            self.assertError(instance, errno.EACCES, "read", "/etc/passwd")
            self.assertError(instance, errno.EACCES, "write", os.path.join(instance.scratch, "new"))
            self.assertError(instance, 0, "read", "/usr/bin/env")
            self.assertError(instance, errno.EACCES, "write", "/usr/bin/env")
        self.assertEqual(instance.shard(1)["deaths"], 0)

    def test_a_service_gets_what_it_says_that_it_needs(self):
        with tempfile.TemporaryDirectory() as folder:
            instance = self.begin("--set", f"trespass.path={folder}", "--set", "trespass.sockets=yes")
            self.assertError(instance, 0, "write", os.path.join(folder, "new"))
            self.assertError(instance, 0, "socket")
            self.assertTrue(os.path.exists(os.path.join(folder, "new")))

    def test_each_child_has_given_up_its_rights(self):
        instance = self.begin()
        for process in instance.processes():
            if process["role"] == "supervisor":
                continue
            with open(f"/proc/{process['pid']}/status") as status:
                fields = dict(line.split(":\t", 1) for line in status)
            self.assertEqual(fields["CapEff"].strip(), "0" * 16)
            self.assertEqual(fields["NoNewPrivs"].strip(), "1")
            self.assertEqual(fields["Seccomp"].strip(), "2")
            if os.geteuid() == 0:
                self.assertEqual(fields["CapBnd"].strip(), "0" * 16)

    def test_off_is_warned_of_and_takes_nothing_away(self):
        instance = self.begin("--sandbox", "off")
        instance.wait_for_log("--sandbox off")
        self.assertError(instance, 0, "read", "/etc/passwd")
        self.assertError(instance, 0, "socket")

    def test_what_a_container_forbids_is_left_out_and_said(self):
        forbid = lambda: harness.deny(LANDLOCK)
        instance = self.begin(preexec_fn=forbid)
        self.assertEqual(instance.log().count("the sandbox is not whole here: without Landlock"), 1)
        self.assertError(instance, 0, "read", "/etc/passwd")
        self.assertError(instance, errno.EACCES, "socket")
        number = SECCOMP.get(platform.machine())
        if number:
            other = self.begin(name="other", preexec_fn=lambda: harness.deny(number))
            self.assertIn("without seccomp", other.log())
            self.assertError(other, 0, "socket")

    def test_what_others_could_open_is_theirs_alone(self):
        instance = self.begin()
        folder = os.path.join(instance.runtime_dir, instance.name)
        self.assertEqual(stat.S_IMODE(os.stat(folder).st_mode), 0o700)
        for name in os.listdir(folder):
            entry = os.lstat(os.path.join(folder, name))
            if not stat.S_ISLNK(entry.st_mode):
                self.assertEqual(stat.S_IMODE(entry.st_mode) & 0o077, 0, name)
        segment = os.stat(os.path.join(folder, "segment"))
        self.assertEqual(stat.S_IMODE(segment.st_mode) & 0o077, 0)


if __name__ == "__main__":
    harness.main()
