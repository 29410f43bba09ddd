# SPDX-License-Identifier: MIT
"""Control groups, version 1 and 2: limits at the start, a kill for want of memory, CPUs that come and go. Groups made by
hand, in a file system of their own before the real ones; and real ones, where the machine lets us make them."""
import json
import os
import shutil
import subprocess
import unittest

import cgroups
import harness
from cgroups import MIB, MOUNT
from harness import wait_until

LIMIT = 96 * MIB


def report(instance, number):
    path = os.path.join(instance.runtime_dir, instance.name, f"death-{number}.json")
    wait_until(lambda: os.path.exists(path), path)
    with open(path) as file:
        return json.load(file)


# ---- made by hand ----

def with_files(files):
    """A command before another that has these files, and no others, below MOUNT."""
    script = [f"mount -t tmpfs tmpfs {MOUNT}"]
    for path, text in files.items():
        script += [f"mkdir -p {os.path.dirname(f'{MOUNT}/{path}')}", f"printf '{text}' > {MOUNT}/{path}"]
    return ["unshare", "-m", "sh", "-ec", "\n".join([*script, 'exec "$@"']), "sh"]


def can_mount():
    return os.geteuid() == 0 and shutil.which("unshare") and subprocess.run(
        [*with_files({}), "true"], capture_output=True).returncode == 0


@unittest.skipUnless(can_mount(), "can't mount a tmpfs here")
class ByHand(harness.TestCase):
    """Whatever the path of our group, the files of a mount's root count."""

    def versions(self, controller, v1, v2):
        """The files that say the same in each version that /proc/self/cgroup has."""
        names = [name for name, _ in cgroups.own_groups()]
        if controller in names:
            yield {f"{controller}/{name}": text for name, text in v1.items()}
        if "" in names:
            yield v2

    def test_the_segment_takes_no_more_than_half_of_the_memory(self):
        for files in self.versions("memory", {"memory.limit_in_bytes": str(20 * MIB)}, {"memory.max": str(20 * MIB)}):
            with self.subTest(files):
                instance = self.start("--shards", "2", prefix=with_files(files))
                self.assertIn("the memory limit of this cgroup is 20.0 MiB", instance.log())
                self.assertLessEqual(instance.status()["segment_bytes"], 10 * MIB)
                self.assertEqual(instance.stop(), 0)
                instance.run("--segment-size", "21M", prefix=with_files(files))
                self.assertEqual(instance.wait_exit(), 1)
                self.assertIn("does not fit the memory limit of this cgroup", instance.log())

    @unittest.skipIf(len(os.sched_getaffinity(0)) < 2, "needs two CPUs")
    def test_a_quota_of_one_cpu_makes_one_shard_and_two_do_not_spin(self):
        for files in self.versions("cpu", {"cpu.cfs_quota_us": "100000", "cpu.cfs_period_us": "100000"},
                                   {"cpu.max": "100000 100000"}):
            with self.subTest(files):
                instance = self.start(prefix=with_files(files))
                self.assertEqual(len([p for p in instance.processes() if p["role"] == "shard"]), 1)
                self.assertGreater(instance.status()["spin_ns"], 0)
                self.assertEqual(instance.stop(), 0)
                instance.start("--shards", "2", prefix=with_files(files))
                self.assertEqual(instance.status()["spin_ns"], 0)
                self.assertEqual(instance.stop(), 0)

    def test_a_kill_that_the_group_counts_is_one_for_want_of_memory(self):
        for files in self.versions("memory", {"memory.oom_control": r"under_oom 0\noom_kill 3\n"},
                                   {"memory.events": r"oom 3\noom_kill 3\n"}):
            with self.subTest(files):
                instance = self.start("--shards", "2", prefix=with_files(files))
                instance.kill_and_wait("shard", 0)
                name, = files
                with open(f"/proc/{instance.supervisor.pid}/root{MOUNT}/{name}", "w") as count:
                    count.write("oom_kill 4\n")
                instance.kill_and_wait("shard", 0)
                instance.kill_and_wait("shard", 0)
                told = [report(instance, number) for number in range(3)]
                self.assertEqual([death["out_of_memory"] for death in told], [False, True, False])
                self.assertEqual([death["crash"] for death in told], [False, True, False])
                self.assertIn("its cgroup had no memory left", instance.log())
                self.assertEqual(instance.stop(), 0)


# ---- real ones ----

class Real(harness.TestCase):
    def start_in(self, folder, *arguments):
        return self.start(*arguments, preexec_fn=cgroups.enter(folder))

    @unittest.skipIf(harness.SANITIZED, "a sanitizer's memory is in it")
    def test_a_shard_that_eats_all_memory_is_killed_replaced_and_told_from_other_kills(self):
        folder = self.enterContext(cgroups.memory(LIMIT))
        instance = self.start_in(folder, "--shards", "2", "--enable-test-methods")
        instance.kill_and_wait("shard", 1)
        self.assertRefused(instance.command("submit", "--shard", "1", "sys.eat", "1024"), "in doubt")
        shard = instance.wait_for_shard(1, incarnation=3)
        self.assertEqual((shard["deaths"], shard["crashes"]), (2, 1))
        self.assertEqual([instance.shard(0)["deaths"], instance.gateway()["deaths"]], [0, 0])
        told = [report(instance, number) for number in (0, 1)]
        self.assertEqual([death["out_of_memory"] for death in told], [False, True])
        self.assertEqual(told[1]["running"]["method"], "sys.eat")
        self.assertIn("its cgroup had no memory left", instance.log())
        self.assertDone(instance.command("submit", "--shard", "1", "sys.ping"))
        self.assertDone(instance.command("audit"))
        self.assertEqual(instance.stop(), 0)

    @unittest.skipIf(len(os.sched_getaffinity(0)) < 2, "needs two CPUs")
    def test_shards_follow_the_cpus_of_their_group(self):
        cpus = sorted(os.sched_getaffinity(0))[:2]
        both = f"{cpus[0]},{cpus[1]}"
        settings = {1: {"cpuset.cpus": both, "cpuset.mems": "0"}, 2: {"cpuset.cpus": both}}
        folder = self.enterContext(cgroups.group("cpuset", settings))
        instance = self.start_in(folder, "--shards", "2")
        self.assertEqual([instance.shard(n)["core"] for n in (0, 1)], cpus)
        cgroups.write(folder, "cpuset.cpus", str(cpus[0]))
        instance.wait_for_log("1 core for 2 shards")
        for number in (0, 1):
            shard = instance.wait_for_shard(number, core=None)
            self.assertEqual(os.sched_getaffinity(shard["pid"]), {cpus[0]})
        self.assertEqual(instance.status()["spin_ns"], 0)
        cgroups.write(folder, "cpuset.cpus", both)
        instance.wait_for_log("2 cores for 2 shards")
        for number in (0, 1):
            self.assertEqual(os.sched_getaffinity(instance.wait_for_shard(number, core=cpus[number])["pid"]),
                             {cpus[number]})
        self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
