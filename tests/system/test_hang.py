# SPDX-License-Identifier: MIT
"""Who hangs is seen from outside, told apart from who is stopped, and replaced; who crashes leaves a record."""
import os
import re
import signal
import unittest

import harness
from harness import wait_until

QUICK = ("--stall-report", "0.1")
FOR_EVER = "60000"


class Hang(harness.TestCase):
    def begin(self, instance, *arguments):
        """A command that is ended with the case."""
        process = instance.popen("submit", *arguments, stderr=harness.subprocess.DEVNULL,
                                 stdout=harness.subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def hangs(self, method, stall, *log, **options):
        instance = self.start("--shards", "2", "--enable-test-methods", *QUICK, "--stall-limit", "0",
                              **options)
        self.begin(instance, method, "--shard", "1", FOR_EVER)
        instance.wait_for("shard", 1, stall=stall)
        for text in ("hangs in one callback", *log):
            instance.wait_for_log(text)
        self.assertDone(instance.command("submit", "sys.ping", "--shard", "0"))
        process = instance.shard(1)
        self.assertEqual((process["incarnation"], process["stalls"]), (1, 1))
        instance.kill_all()  # what hangs would be run again
        return instance

    def test_one_that_spins_is_recorded_with_registers_and_coroutine(self):
        instance = self.hangs("sys.spin", "spinning", "in coroutine spin")
        self.assertRegex(instance.log(), r"hangs in one callback .*state R.*, at 0x[0-9a-f]+")

    def test_one_that_is_blocked_is_recorded_with_its_system_call(self):
        instance = self.hangs("sys.block", "blocked", "in coroutine block")
        self.assertRegex(instance.log(), r"hangs in one callback .*state S, system call \d+")

    @unittest.skipIf(os.uname().machine not in ("x86_64", "aarch64"), "the numbers of its calls are unknown")
    def test_where_tracing_is_forbidden_the_rest_is_recorded(self):
        instance = self.hangs("sys.spin", "spinning", preexec_fn=harness.deny_tracing)
        self.assertNotRegex(instance.log(), r"hangs in one callback .*, at 0x")

    def test_one_that_never_comes_back_is_replaced_which_counts_as_a_crash(self):
        instance = self.start("--shards", "2", "--enable-test-methods", *QUICK, "--stall-limit", "0.2")
        self.begin(instance, "sys.spin", "--shard", "1", FOR_EVER)
        instance.wait_for_shard(1, incarnation=2)
        instance.wait_for_log("in one callback")
        self.assertEqual(instance.shard(1)["crashes"], 1)
        self.assertEqual(instance.shard(0)["deaths"], 0)
        instance.kill_all()

    def test_one_that_goes_on_in_time_is_not_replaced(self):
        instance = self.start("--shards", "1", "--enable-test-methods", *QUICK)
        self.assertDone(instance.command("submit", "sys.block", "--shard", "0", "1200"))
        instance.wait_for_log("goes on")
        self.assertEqual(instance.shard(0)["incarnation"], 1)
        self.assertIsNone(instance.shard(0)["stall"])


class Stopped(harness.TestCase):
    def test_a_stop_is_no_death_and_no_stall_and_calls_wait_for_its_end(self):
        instance = self.start("--shards", "2", *QUICK, "--stall-limit", "0.5")
        process = instance.shard(1)
        os.kill(process["pid"], signal.SIGSTOP)
        instance.wait_for("shard", 1, stall="stopped")
        waiting = instance.popen("submit", "sys.ping", "--shard", "1")
        for _ in range(10):
            self.assertDone(instance.command("submit", "sys.ping", "--shard", "0"))
        self.assertIsNone(waiting.poll())
        os.kill(process["pid"], signal.SIGCONT)
        self.assertEqual(waiting.wait(harness.DEADLINE), 0)
        after = instance.wait_for("shard", 1, stall=None)
        self.assertEqual((after["pid"], after["stalls"]), (process["pid"], 0))


@unittest.skipIf(harness.SANITIZED, "a sanitizer has handlers of its own")
class LastWords(harness.TestCase):
    def test_who_dies_of_a_signal_says_where_it_stood(self):
        instance = self.start("--shards", "1", "--enable-test-methods")
        for number, (word, expected) in enumerate((
                ("fault", "SIGSEGV at 0x[0-9a-f]+, address 0x10, in coroutine crash"),
                ("abort", "SIGABRT at 0x[0-9a-f]+, .*in coroutine crash"),
                ("overflow", "SIGSEGV at .*, a stack that overflowed, in coroutine crash"))):
            pid = instance.wait_for_shard(0, incarnation=1 + number)["pid"]
            self.assertEqual(instance.command("submit", "sys.crash", "--shard", "0", word).returncode, 1)
            instance.wait_for_shard(0, incarnation=2 + number)
            pattern = f"shard 0, pid {pid}, its own last words: {expected}"
            wait_until(lambda: re.search(pattern, instance.log()), pattern)

    def test_the_gateway_leaves_its_last_words_too(self):
        instance = self.start("--shards", "1")
        instance.kill_and_wait("gateway", signum=signal.SIGBUS)
        instance.wait_for_log("its own last words: SIGBUS")

    def test_a_kill_leaves_none(self):
        instance = self.start("--shards", "1")
        instance.kill_and_wait("shard", 0)
        instance.wait_for("shard", 0, incarnation=2, state="up")
        self.assertNotIn("last words", instance.log())


if __name__ == "__main__":
    harness.main()
