# SPDX-License-Identifier: MIT
"""Deaths by name, each under a mixed load of calls from all shards to all and of file reads: every request of the
load ends exactly once, the accounts balance, and the instance serves again."""
import contextlib
import errno
import json
import os
import signal
import subprocess
import time
import unittest

import harness

SECONDS = 2.5
TWO = [("shard", 0), ("shard", 1)]


class Deaths(harness.TestCase):
    def begin(self, *options, shards=2):
        self.load = None
        self.addCleanup(self.end_load)
        instance = self.start("--shards", str(shards), "--enable-test-methods",
                              "--root", os.path.dirname(__file__), *options)
        self.load = instance.popen("bench", "mixed", "--json", "--wait", "30", "--seconds", str(SECONDS), "--file", __file__,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        harness.wait_until(lambda: self.n_accepted(instance) > 100, "the load to begin")
        return instance

    def end_load(self):
        if self.load:
            with contextlib.suppress(ProcessLookupError):
                self.load.kill()
            self.load.communicate()
            self.load = None

    def n_accepted(self, instance):
        pairs = json.loads(self.assertDone(instance.command("queues", "--json")).stdout)["pairs"]
        return sum(pair["calls_submitted"] for pair in pairs)

    def stop_and_kill(self, instance, roles):
        """All of them at one moment: none sees another's death."""
        doomed = [instance.wait_for(*role) for role in roles]
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for process in doomed:
                instance.kill(process, signum)
        return doomed

    def wait_for_heirs(self, instance, dead):
        for process in dead:
            instance.wait_for(process["role"], process.get("shard"), incarnation=process["incarnation"] + 1)

    def wait_for_load(self, all_done=True):
        """Its own count is right: none ended twice or never. all_done: and as none may not be run again, all are done."""
        out, err = self.load.communicate(timeout=SECONDS + 2 * harness.DEADLINE)
        status, self.load = self.load.returncode, None
        self.assertEqual(status, 0, err.decode(errors="replace")[-2000:] + out.decode()[-2000:])
        told = json.loads(out)
        if all_done:
            self.assertEqual(told["ends"]["done"], told["submitted"], told["ends"])
        self.assertGreater(told["work"]["read"]["ends"]["done"], 0)

    def check(self, instance, shards=2):
        """The load's own count is right, each shard serves, nothing is under way, and the accounts balance."""
        self.wait_for_load()
        for number in range(shards):
            self.assertDone(instance.command("submit", "--shard", str(number), "--timeout", "30", "sys.ping"))
        harness.wait_until(
            lambda: json.loads(instance.command("audit", "--json").stdout)["under_way"] == 0,
            "nothing to be under way")
        self.assertDone(instance.command("audit", "--count", "3"))
        self.assertEqual(instance.stop(), 0)

    def test_caller_and_callee_at_once(self):
        instance = self.begin()
        for _ in range(3):
            self.wait_for_heirs(instance, self.stop_and_kill(instance, TWO))
        self.check(instance)

    def test_one_during_the_recovery_of_another(self):
        instance = self.begin("--engine", "threads", shards=3)
        for first, second in ((0, 1), (1, 2), (2, 0)):
            dead = [instance.wait_for_shard(number) for number in (first, second)]
            instance.kill(dead[0])
            harness.wait_until(lambda: not harness.is_alive(dead[0]["pid"]), "the first to be dead")
            instance.kill(dead[1])
            self.wait_for_heirs(instance, dead)
        self.check(instance, 3)

    def test_the_gateway(self):
        """Its clients' requests are resubmitted to its replacement, and each ends once."""
        instance = self.begin()
        for _ in range(3):
            self.wait_for_heirs(instance, self.stop_and_kill(instance, [("gateway", None)]))
        self.check(instance)

    def test_the_gateway_and_a_shard_it_calls(self):
        instance = self.begin("--engine", "linux-aio")
        self.wait_for_heirs(instance, self.stop_and_kill(instance, [("gateway", None), ("shard", 0)]))
        self.check(instance)

    def test_a_target_twice_before_a_stopped_caller_judges(self):
        instance = self.begin()
        caller = instance.shard(0)
        instance.kill(caller, signal.SIGSTOP)
        instance.kill_and_wait("shard", 1)
        instance.kill_and_wait("shard", 1)
        instance.kill(caller, signal.SIGCONT)
        self.check(instance)
        self.assertNotIn("shard 0 was killed", instance.log())

    def test_a_shard_while_the_supervisor_is_stopped(self):
        instance = self.begin()
        dead = instance.shard(1)
        instance.kill(instance.supervisor.pid, signal.SIGSTOP)
        try:
            instance.kill(dead)
        finally:
            instance.kill(instance.supervisor.pid, signal.SIGCONT)
        self.wait_for_heirs(instance, [dead])
        self.check(instance)

    def test_the_supervisor(self):
        """What waits is told; shards and gateway leave within 5 s; the next start serves."""
        instance = self.begin()
        pids = [p["pid"] for p in instance.processes()[1:]]
        instance.kill(instance.supervisor.pid)
        instance.wait_exit()
        begin = time.monotonic()
        harness.wait_until(lambda: not any(map(harness.is_alive, pids)), "the orphans to leave")
        self.end_load()
        print(f"orphans left within {time.monotonic() - begin:.1f} s")
        instance.start("--shards", "2")
        self.assertDone(instance.command("submit", "sys.ping"))
        self.assertEqual(instance.stop(), 0)

    def lose_shard_0_to_its_crash_loop(self, instance, crashes):
        """The last of so many crashes comes while somebody waits for it."""
        for _ in range(crashes - 1):
            instance.kill_and_wait("shard", 0, signal.SIGSEGV)
        waiting = instance.popen("submit", "--shard", "0", "sys.sleep", "60000", stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
        self.addCleanup(waiting.communicate)
        self.addCleanup(waiting.kill)
        harness.wait_until(lambda: self.runs(instance, 0, "sleep"), "the call to be under way")
        instance.kill(instance.shard(0), signal.SIGSEGV)
        instance.wait_for_shard(0, state="failed")
        _, err = waiting.communicate(timeout=harness.DEADLINE)
        self.assertIn(b"given up", err)

    def runs(self, instance, shard, name):
        """Whether a coroutine of that name is there."""
        shown = json.loads(self.assertDone(instance.command("co", "--json")).stdout)
        return any((co["name"], co["process"]) == (name, f"shard {shard}") for co in shown["coroutines"])

    def check_without_shard_0(self, instance):
        self.assertDone(instance.command("submit", "--shard", "1", "--count", "1000", "sys.ping"))
        refused = instance.command("submit", "--shard", "0", "--timeout", "30", "sys.ping")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("given up", refused.stderr)
        self.assertDone(instance.command("audit"))
        self.assertEqual(instance.stop(), 0)

    def test_a_shard_at_its_crash_loop_limit(self):
        """Under load: who waits for it is told at once, each request ends once, and the others serve on."""
        instance = self.begin("--crash-limit", "3")
        self.lose_shard_0_to_its_crash_loop(instance, 3)
        self.wait_for_load(all_done=False)
        self.check_without_shard_0(instance)

    @unittest.skipUnless(harness.LONG, "the delays before each restart add up to 17 s")
    def test_a_shard_at_the_crash_loop_limit_that_is_the_default(self):
        instance = self.start("--shards", "2")
        self.lose_shard_0_to_its_crash_loop(instance, 10)
        self.check_without_shard_0(instance)


@unittest.skipUnless(harness.own_tmpfs(1), "can't mount a tmpfs here")
class FullSharedMemory(harness.TestCase):
    """/dev/shm of the instance alone is full, as far as that user can have one of his own."""

    def test_a_start_says_what_to_do(self):
        instance = self.instance()
        instance.run("--shards", "2", prefix=harness.own_tmpfs(8))
        self.assertEqual(instance.wait_exit(), 1)
        for text in ("the segment needs ", "8.0 MiB are free", "--segment-size"):
            self.assertIn(text, instance.log())
        instance.run("--shards", "2", "--segment-size", "8M", prefix=harness.own_tmpfs(8))
        instance.wait_for_log("ready in")

    def test_it_hurts_nobody_who_runs(self):
        """What is needed was there at the start: a shard that dies is replaced, and the load goes on."""
        instance = self.instance()
        instance.run("--shards", "2", "--enable-test-methods", prefix=harness.own_tmpfs(24))
        instance.wait_for_log("ready in")
        inside = harness.enter_namespaces(instance.supervisor.pid)
        with open(f"/proc/{instance.supervisor.pid}/root/dev/shm/full", "wb", buffering=0) as full:
            with self.assertRaises(OSError) as raised:
                while True:
                    full.write(bytes(1 << 20))
        self.assertEqual(raised.exception.errno, errno.ENOSPC)
        with subprocess.Popen([*inside, harness.program(), "bench", "mixed", "--instance", instance.name, "--seconds", "1"],
                              env=instance.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as load:
            children = harness.children_of(instance.supervisor.pid)
            instance.kill(next(pid for pid, name in children.items() if name == "sherd-shard-1"))
            instance.wait_for_log("shard 1 is up again")
            out, _ = load.communicate(timeout=harness.DEADLINE)
        self.assertEqual(load.returncode, 0, out.decode(errors="replace"))
        self.assertNotIn("crashed", instance.log())
        instance.supervisor.send_signal(signal.SIGTERM)
        self.assertEqual(instance.wait_exit(), 0)


if __name__ == "__main__":
    harness.main()
