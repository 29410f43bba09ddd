# SPDX-License-Identifier: MIT
"""What an operator orders: rolling restart under load, drain and back, the way back of what is given up."""
import hashlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time

import harness
from harness import wait_until


class Load(threading.Thread):
    """Runs a command again and again until told to end; keeps each end that is not a success."""

    def __init__(self, instance, *arguments, **options):
        super().__init__()
        self.instance, self.arguments, self.options = instance, arguments, options
        self.ends = threading.Event()
        self.n_runs = 0
        self.failures = []
        self.outputs = set()

    def run(self):
        while not self.ends.is_set():
            result = self.instance.command(*self.arguments, **self.options)
            self.n_runs += 1
            self.outputs.add(result.stdout)
            if result.returncode:
                self.failures.append(result.stderr)


class Files:
    def __init__(self, n):
        self.folder = tempfile.TemporaryDirectory(prefix="sherd-operations-")
        self.names = []
        for i in range(n):
            self.names.append(os.path.join(self.folder.name, f"file-{i}"))
            with open(self.names[-1], "wb") as file:
                file.write(bytes([i % 256]) * (i * 997 % 300000))

    def hashes(self):
        lines = []
        for name in self.names:
            with open(name, "rb") as file:
                lines.append(f"{hashlib.sha256(file.read()).hexdigest()}  {name}\n")
        return "".join(lines)


class Restart(harness.TestCase):
    def pairs(self, instance):
        return json.loads(self.assertDone(instance.command("queues", "--json")).stdout)["pairs"]

    def test_rolling_restart_under_load_fails_no_request(self):
        files = Files(300)
        instance = self.start("--shards", "3", "--root", files.folder.name)
        loads = [Load(instance, "submit", "file.sha256", *files.names),
                 Load(instance, "submit", "--unordered", "sys.sleep", *["20"] * 100),
                 Load(instance, "submit", "sys.echo", *["word"] * 200)]
        for load in loads:
            load.start()
        try:
            for round_ in range(1, 4):
                self.assertDone(instance.command("restart"))
                for number in range(3):
                    instance.wait_for_shard(number, incarnation=1 + round_)
                seen = [load.n_runs for load in loads]
                wait_until(lambda: all(load.n_runs > n for load, n in zip(loads, seen)), "work after it")
        finally:
            for load in loads:
                load.ends.set()
            for load in loads:
                load.join()
        for load in loads:
            self.assertEqual(load.failures, [], load.arguments[:3])
        self.assertEqual(loads[0].outputs, {files.hashes()})
        for number in range(3):
            shard = instance.shard(number)
            self.assertEqual((shard["incarnation"], shard["deaths"], shard["restarts"]), (4, 0, 3))
        # Not one was cut off, nor run twice: every end is a success, and none was given back.
        for pair in self.pairs(instance):
            self.assertEqual({end for end, n in pair["ends"].items() if n} - {"done"}, set(), pair)
        self.assertDone(instance.command("audit"))
        self.assertEqual(instance.stop(), 0)
        files.folder.cleanup()

    def test_one_shard_alone_is_restarted_when_it_is_named(self):
        instance = self.start("--shards", "2")
        self.assertDone(instance.command("restart", "1"))
        instance.wait_for_shard(1, incarnation=2)
        self.assertEqual(instance.shard(0)["incarnation"], 1)

    def test_what_sleeps_is_finished_before_its_shard_is_restarted(self):
        instance = self.start("--shards", "2")
        with instance.popen("submit", "--shard", "1", "sys.sleep", "700", stdout=subprocess.DEVNULL) as sleeper:
            wait_until(lambda: instance.shard(1)["calls_in"], "the sleep to begin")
            with instance.popen("restart", "1") as restart:
                wait_until(lambda: instance.shard(1)["state"] in ("restarting", "up") or None, "it to be asked")
                # New calls to it wait for the replacement, which they reach.
                self.assertDone(instance.command("submit", "--shard", "1", "sys.ping"))
                self.assertEqual(restart.wait(harness.DEADLINE), 0)
            self.assertEqual(sleeper.wait(harness.DEADLINE), 0)
        self.assertEqual((instance.shard(1)["incarnation"], instance.shard(1)["deaths"]), (2, 0))

    def test_at_the_limit_it_is_cut_off_as_if_it_had_died_and_that_is_told(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        with instance.popen("submit", "--shard", "1", "sys.sleep", "1500", stdout=subprocess.DEVNULL) as sleeper:
            wait_until(lambda: instance.shard(1)["calls_in"], "the sleep to begin")
            self.assertRefused(instance.command("restart", "1", "--limit", "0.1"), "1 calls were in flight")
            instance.wait_for_shard(1, incarnation=2)
            self.assertEqual(sleeper.wait(harness.DEADLINE), 0)  # it may run twice, and did
        self.assertIn("did not finish within 0.1 s", instance.log())
        self.assertEqual(instance.stop(), 0)

    def test_one_that_hangs_is_killed_after_the_limit(self):
        instance = self.start("--shards", "2")
        instance.kill(instance.shard(0), signal.SIGSTOP)
        instance.command("restart", "0", "--limit", "0.1")
        instance.wait_for_shard(0, incarnation=2)
        self.assertEqual(instance.shard(0)["deaths"], 1)
        self.assertEqual(instance.stop(), 0)

    def test_one_that_is_killed_while_it_finishes_counts_as_restarted(self):
        instance = self.start("--shards", "2")
        with instance.popen("submit", "--shard", "0", "sys.sleep", "300", stdout=subprocess.DEVNULL) as sleeper, \
                instance.popen("restart") as restart:
            old = instance.shard(0)
            instance.kill(old)
            self.assertEqual(restart.wait(harness.DEADLINE), 0)
            self.assertEqual(sleeper.wait(harness.DEADLINE), 0)
        instance.wait_for_shard(1, incarnation=2)
        self.assertEqual(instance.stop(), 0)

    def test_the_gateway_finishes_what_it_has_and_clients_come_again(self):
        instance = self.start("--shards", "2")
        with instance.popen("submit", "sys.sleep", "300", stdout=subprocess.DEVNULL) as sleeper:
            wait_until(lambda: instance.gateway()["clients"]["requests_in_flight"], "the sleep to begin")
            self.assertDone(instance.command("restart", "gateway"))
            self.assertEqual(sleeper.wait(harness.DEADLINE), 0)
        self.assertDone(instance.command("submit", "sys.ping"))
        self.assertEqual((instance.gateway()["incarnation"], instance.gateway()["deaths"]), (2, 0))

    def test_a_second_order_is_refused_while_one_is_carried_out(self):
        instance = self.start("--shards", "2")
        with instance.popen("submit", "--shard", "0", "sys.sleep", "5000", stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL) as sleeper:
            wait_until(lambda: instance.shard(0)["calls_in"], "the sleep to begin")
            with instance.popen("restart", stderr=subprocess.PIPE) as restart:
                instance.wait_for_shard(0, state="restarting")
                self.assertRefused(instance.command("restart", "1"), "another order")
                self.assertEqual(instance.stop(), 0)  # a stop goes first
                self.assertEqual(restart.wait(harness.DEADLINE), 1)
            sleeper.wait(harness.DEADLINE)

    def test_wrong_targets_are_refused(self):
        instance = self.start("--shards", "2")
        for target in ("2", "-1", "shard", "gatewa"):
            self.assertRefused(instance.command("restart", "--", target), target, status=2)


class Drain(harness.TestCase):
    def test_a_drained_instance_finishes_refuses_stays_up_and_goes_on(self):
        instance = self.start("--shards", "2")
        with instance.popen("submit", "sys.sleep", "300", stdout=subprocess.DEVNULL) as sleeper:
            wait_until(lambda: instance.gateway()["clients"]["requests_in_flight"], "the sleep to begin")
            self.assertDone(instance.command("drain"))
            self.assertEqual(sleeper.wait(harness.DEADLINE), 0)
        self.assertEqual(instance.status()["state"], "draining")
        self.assertRefused(instance.command("submit", "sys.ping"), "draining")
        for role, shard in (("shard", 0), ("gateway", None)):  # a replacement knows of it
            old = instance.process(role, shard)
            instance.kill(old)
            wait_until(lambda: instance.process(role, shard)["incarnation"] > old["incarnation"] and
                       instance.process(role, shard)["state"] in ("up", "draining"), "the replacement")
        self.assertRefused(instance.command("submit", "sys.ping"), "draining")
        self.assertDone(instance.command("drain", "--off"))
        self.assertDone(instance.command("submit", "sys.ping"))
        self.assertEqual(instance.status()["state"], "up")
        self.assertEqual(instance.stop(), 0)

    def test_the_limit_cuts_nothing_off(self):
        instance = self.start("--shards", "2")
        with instance.popen("submit", "sys.sleep", "1000", stdout=subprocess.DEVNULL) as sleeper:
            wait_until(lambda: instance.gateway()["clients"]["requests_in_flight"], "the sleep to begin")
            self.assertRefused(instance.command("drain", "--limit", "0.1"), "1 calls")
            self.assertEqual(sleeper.wait(harness.DEADLINE), 0)
        self.assertDone(instance.command("drain"))
        self.assertEqual(instance.stop(), 0)

    def test_a_drained_instance_is_restarted_and_stays_drained(self):
        instance = self.start("--shards", "2")
        self.assertDone(instance.command("drain"))
        self.assertDone(instance.command("restart"))
        self.assertDone(instance.command("restart", "gateway"))
        self.assertRefused(instance.command("submit", "sys.ping"), "draining")

    def test_stop_waits_for_what_is_in_flight_up_to_its_limit(self):
        instance = self.start("--shards", "2", "--drain-limit", "0.3")
        with instance.popen("submit", "sys.sleep", "20000", stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL) as sleeper:
            wait_until(lambda: instance.gateway()["clients"]["requests_in_flight"], "the sleep to begin")
            begin = time.monotonic()
            self.assertEqual(instance.stop(), 0)
            self.assertGreater(time.monotonic() - begin, 0.29)
            self.assertEqual(sleeper.wait(harness.DEADLINE), 1)
        self.assertIn("drain limit of 0.3 s reached with 1 calls in flight", instance.log())


if __name__ == "__main__":
    harness.main()
