# SPDX-License-Identifier: MIT
"""Who hangs is seen from outside, told apart from who is stopped, and replaced; who crashes leaves a record."""
import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import time
import unittest

import fuse
import harness
from harness import wait_until

QUICK = ("--stall-report", "0.1")
FOR_EVER = "60000"


class Hang(harness.TestCase):
    def begin(self, instance, *arguments):
        """A command that is ended with the case."""
        process = instance.popen("submit", *arguments, stderr=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL)
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
        process = instance.shard(1)  # which may be on its way to the next: what hangs is run again
        self.assertEqual(process["crashes"], process["deaths"])
        self.assertGreaterEqual(process["crashes"], 1)
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
        instance.kill(process, signal.SIGSTOP)
        instance.wait_for("shard", 1, stall="stopped")
        waiting = instance.popen("submit", "sys.ping", "--shard", "1")
        for _ in range(10):
            self.assertDone(instance.command("submit", "sys.ping", "--shard", "0"))
        self.assertIsNone(waiting.poll())
        instance.kill(process, signal.SIGCONT)
        self.assertEqual(waiting.wait(harness.DEADLINE), 0)
        after = instance.wait_for("shard", 1, stall=None)
        self.assertEqual((after["pid"], after["stalls"]), (process["pid"], 0))


class Debugger:
    """Holds a process, as gdb does."""
    SEIZE, INTERRUPT, DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000

    def __init__(self, pid):
        self.pid, self.libc = pid, ctypes.CDLL(None, use_errno=True)

    def ptrace(self, request):
        result = self.libc.ptrace(ctypes.c_long(request), ctypes.c_long(self.pid), None, None)
        return 0 if result == 0 else ctypes.get_errno()

    def __enter__(self):
        error = self.ptrace(self.SEIZE)
        if error:
            raise unittest.SkipTest(f"no process may be traced here: {os.strerror(error)}")
        self.ptrace(self.INTERRUPT)
        os.waitpid(self.pid, self.WALL)
        return self

    def __exit__(self, *_):
        self.ptrace(self.DETACH)


class Held(harness.TestCase):
    def test_who_is_held_by_a_debugger_is_shown_so_left_alone_and_goes_on(self):
        instance = self.start("--shards", "2", *QUICK, "--stall-limit", "0.4")
        process = instance.shard(1)
        with Debugger(process["pid"]):
            waiting = instance.popen("submit", "sys.ping", "--shard", "1", stdout=subprocess.DEVNULL)
            instance.wait_for("shard", 1, stall="traced")
            held_until = time.monotonic() + 1.2  # three times the limit
            while time.monotonic() < held_until:
                self.assertDone(instance.command("submit", "sys.ping", "--shard", "0"))
            self.assertIsNone(waiting.poll())
        self.assertEqual(waiting.wait(harness.DEADLINE), 0)
        after = instance.wait_for("shard", 1, stall=None)
        self.assertEqual((after["pid"], after["incarnation"], after["stalls"]), (process["pid"], 1, 0))

    def test_one_that_the_kernel_keeps_after_its_death_is_shown_so_and_replaced_when_it_is_gone(self):
        with fuse.Stuck() as stuck:
            instance = self.start("--shards", "2", "--engine", "threads", "--root", stuck.folder)
            asks = instance.popen("submit", "file.stat", stuck.folder + "/file", "--shard", "1",
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.assertTrue(stuck.asked.wait(harness.DEADLINE))
            instance.kill(instance.shard(1))
            waiting = instance.popen("submit", "sys.ping", "--shard", "1", stdout=subprocess.DEVNULL)
            instance.wait_for("shard", 1, stall="unkillable")
            instance.wait_for_log("was killed, but the kernel keeps it")
            self.assertEqual(instance.shard(1)["incarnation"], 1)
            self.assertDone(instance.command("submit", "sys.ping", "--shard", "0"))
            self.assertIsNone(waiting.poll())
            stuck.let_go()
            instance.wait_for_shard(1, incarnation=2, stall=None)
            self.assertEqual(waiting.wait(harness.DEADLINE), 0)
            asks.wait(harness.DEADLINE)
            self.assertEqual(instance.stop(), 0)


@unittest.skipIf(harness.SANITIZED, "a sanitizer has handlers of its own")
class LastWords(harness.TestCase):
    def test_who_dies_of_a_signal_says_where_it_stood(self):
        instance = self.start("--shards", "1", "--enable-test-methods")
        for number, (word, expected) in enumerate((
                ("fault", "SIGSEGV at 0x[0-9a-f]+, address 0x10, in coroutine crash"),
                ("abort", "SIGABRT at 0x[0-9a-f]+, .*in coroutine crash"),
                ("overflow", r"SIGSEGV at 0x[0-9a-f]+: stack overflow of coroutine crash \(\d+\) created at 0x"))):
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


class Report(harness.TestCase):
    def report(self, instance, number):
        path = os.path.join(instance.runtime_dir, instance.name, f"death-{number % 16}.json")

        def there():
            with contextlib.suppress(FileNotFoundError), open(path) as file:
                report = json.load(file)
                return report if report["number"] == number else None
        return wait_until(there, path)

    def test_a_crash_is_reported_with_who_was_told_what(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        pid = instance.shard(1)["pid"]
        instance.command("submit", "sys.crash", "--shard", "1", "abort")
        report = self.report(instance, 0)
        self.assertEqual((report["format"], report["process"], report["pid"], report["incarnation"],
                          report["crash"], report["hung"]), (1, "shard 1", pid, 1, True, False))
        self.assertIn("signal 6", report["how"])
        self.assertGreater(report["up_ms"], 0)
        self.assertGreater(report["told_ms"], 0)
        self.assertEqual(report["quarantined_bytes"], 0)
        self.assertEqual([peer["peer"] for peer in report["peers"]], [0, 2])
        self.assertTrue(all(peer["judged"] for peer in report["peers"]))
        self.assertEqual([peer["in_doubt"] for peer in report["peers"]], [0, 1])
        running = report["running"]
        self.assertEqual((running["method"], running["caller"], running["home"]), ("sys.crash", 2, 1))
        told, = report["told"]
        self.assertEqual((told["caller"], told["slot"], told["generation"], told["method"], told["end"]),
                         (2, running["slot"], running["generation"], "sys.crash", "in doubt"))
        self.assertGreater(told["client"], 0)
        self.assertGreater(told["request"], 0)
        self.assertGreater(told["ms"], 0)
        self.assertEqual(report["told_left_out"], 0)

    def test_the_first_request_that_the_replacement_serves_is_filled_in_when_it_comes(self):
        instance = self.start("--shards", "2")
        instance.kill_and_wait("shard", 1)
        report = self.report(instance, 0)
        self.assertIsNone(report["served_ms"])
        self.assertDone(instance.command("submit", "sys.ping", "--shard", "1"))
        served = wait_until(lambda: self.report(instance, 0)["served_ms"], "the report to say so")
        self.assertGreater(served, report["up_ms"])
        instance.kill_and_wait("shard", 1)
        self.assertIsNone(self.report(instance, 1)["served_ms"])
        self.assertEqual(instance.stop(), 0)

    def test_a_report_names_so_many_calls_and_counts_the_rest(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        load = instance.popen("submit", "--unordered", "--shard", "1", "sys.sleep", *["600000"] * 200,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def n_begun():
            pairs = json.loads(self.assertDone(instance.command("queues", "--json")).stdout)["pairs"]
            return next(pair["calls_started"] for pair in pairs if (pair["from"], pair["to"]) == ("gateway", "shard 1"))
        wait_until(lambda: n_begun() == 200, "them to be begun")
        instance.kill_and_wait("shard", 1)
        wait_until(lambda: n_begun() == 400, "them to be begun again")
        load.send_signal(signal.SIGINT)
        self.assertEqual(load.wait(harness.DEADLINE), 130)
        report = self.report(instance, 0)
        n_again = sum(peer["run_again"] for peer in report["peers"])
        self.assertGreater(n_again, 64)
        self.assertEqual(len(report["told"]), 64)  # what one caller keeps
        self.assertEqual(report["told_left_out"], n_again - 64)
        self.assertEqual({told["end"] for told in report["told"]}, {"run again"})
        self.assertEqual(len({told["request"] for told in report["told"]}), 64)

    @unittest.skipIf(harness.SANITIZED, "a sanitizer has handlers of its own")
    def test_a_report_has_the_record_and_a_backtrace_into_the_program(self):
        instance = self.start("--shards", "1", "--enable-test-methods")
        instance.command("submit", "sys.crash", "--shard", "0", "fault")
        record = self.report(instance, 0)["record"]
        self.assertEqual((record["signal"], record["fault_address"], record["coroutine"]), (11, "0x10", "crash"))
        self.assertEqual(record["backtrace"][0]["module"], "sherd")
        self.assertGreater(len(record["registers"]), 16)

    def test_what_is_idempotent_is_reported_as_run_again_after_a_kill_that_is_no_crash(self):
        instance = self.start("--shards", "1", "--enable-test-methods", "--stall-report", "0", "--stall-limit", "0")
        call = instance.popen("submit", "sys.block", "--shard", "0", FOR_EVER, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)

        def runs():
            shard = instance.shard(0)
            return (shard["state"] == "up" and shard["calls_in"] == 1 and shard["counters"]["co_alive"] and
                    not shard["counters"]["asleep"] and shard)
        first = wait_until(runs, "the call to run")
        instance.kill(first)
        wait_until(lambda: (shard := runs()) and shard["pid"] != first["pid"], "it to be run again")
        report = self.report(instance, 0)
        instance.kill_all()
        call.kill()
        call.wait()
        self.assertFalse(report["crash"])
        self.assertIsNone(report["running"])
        self.assertIsNone(report["record"])
        self.assertEqual([peer["run_again"] for peer in report["peers"]], [1])

    def test_the_last_sixteen_reports_are_kept(self):
        instance = self.start("--shards", "1")
        for number in range(18):
            instance.kill_and_wait("shard", 0)
            self.report(instance, number)
        files = [name for name in os.listdir(os.path.join(instance.runtime_dir, "test"))
                 if name.startswith("death")]
        self.assertEqual(len(files), 16)
        self.assertEqual(self.report(instance, 2)["number"], 2)


if __name__ == "__main__":
    harness.main()
