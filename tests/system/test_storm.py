# SPDX-License-Identifier: MIT
"""A mixed load of calls from all shards to all, of moves and of file reads, while shards and the gateway are killed,
crash, run out of memory, and are stopped and continued, and the supervisor is killed, at random: each request ends
exactly once by the clients' own count, the accounts balance, and nothing leaks. SHERD_TEST_LONG=1 makes it longer,
SHERD_TEST_SECONDS as long as one likes; SHERD_TEST_SEED repeats the dice, not how the processes meet."""
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time

import cgroups
import harness

SECONDS = float(os.environ.get("SHERD_TEST_SECONDS", "30" if harness.LONG else "5"))
SEED = int(os.environ.get("SHERD_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
CRASHES_MAX = 2  # in an instance: one more may all be charged to one session, which is ended then
MEMORY = 384 * cgroups.MIB
WINDOW = 64  # notes in flight
NOTES = 2000
AUDITS = 1000 if harness.LONG else 100
RESTARTS = 1000 if harness.LONG else 100


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Bench:
    """`sherd bench mixed` in the background."""

    def __init__(self, instance, *arguments, seconds=SECONDS):
        self.process = instance.popen("bench", "mixed", "--json", "--wait", "30", "--seconds", str(seconds), *arguments,
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def runs(self):
        return self.process.poll() is None

    def end(self):
        """Whether the case passes or not."""
        if self.runs():
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def result(self, case):
        out, err = self.process.communicate(timeout=SECONDS + 4 * harness.DEADLINE)
        case.assertEqual(self.process.returncode, 0, err.decode(errors="replace")[-2000:] + out.decode()[-3000:])
        return json.loads(out)


class Dice:
    """What is done to whom; every process is left running in the end. again: starts the instance once more."""

    def __init__(self, instance, n_shards, chance, again=None, memory=False, crashes=True):
        self.instance, self.chance, self.again = instance, chance, again
        self.roles = [("shard", number) for number in range(n_shards)] + [("gateway", None)]
        self.n_crashes = 0  # of this instance
        self.chances = {"killed": 14, "stopped": 4, "crashed": 2 if crashes else 0, "starved": 2 if memory else 0,
                        "orphaned": 1 if again else 0}
        self.n_done = collections.Counter(dict.fromkeys(self.chances, 0))

    def throw(self):
        who = self.chance.choice(self.roles)
        what = self.chance.choices(list(self.chances), self.chances.values())[0]
        process = self.instance.wait_for(*who, state="up")
        if what in ("crashed", "starved"):
            if self.n_crashes == CRASHES_MAX or (what == "starved" and who[0] == "gateway"):
                what = "killed"
            else:
                self.n_crashes += 1
        with contextlib.suppress(ProcessLookupError):  # its last death is not in the status yet
            getattr(self, "be_" + what)(process)
            self.n_done[what] += 1

    def be_killed(self, process):
        self.instance.kill(process)

    def be_crashed(self, process):
        self.instance.kill(process, signal.SIGSEGV)

    def be_starved(self, process):
        """It takes more memory than there is, and is killed for it."""
        self.instance.command("submit", "--shard", str(process["shard"]), "--timeout", "10", "sys.eat",
                              str(2 * MEMORY // cgroups.MIB))

    def be_orphaned(self, _):
        """The supervisor dies: the others leave, and the next start waits for that."""
        self.instance.kill(self.instance.supervisor.pid)
        self.instance.wait_exit()
        self.n_crashes = 0
        self.again()

    def be_stopped(self, process):
        self.stop_for_a_while(process)

    def stop_for_a_while(self, process):
        """Another dies meanwhile; now and then it is killed where it stopped."""
        self.instance.kill(process, signal.SIGSTOP)
        try:
            other = self.instance.wait_for(*self.chance.choice(self.roles), state="up")
            if other["pid"] != process["pid"]:
                self.instance.kill_and_wait(other["role"], other.get("shard"))
        finally:
            self.instance.kill(process, self.chance.choice((signal.SIGCONT, signal.SIGCONT, signal.SIGKILL)))


class StormCase(harness.TestCase):
    def wait_for_fds(self, instance, n):
        """The supervisor closes a dead one's pipe once the kernel has let go of it."""
        harness.wait_until(lambda: harness.n_fds(instance.supervisor.pid) == n, f"the supervisor to hold {n} fds")


class Storm(StormCase):
    def check_balance(self, instance):
        """What nobody waits for any more may still run for a moment."""
        def balanced():
            result = instance.command("audit", "--json")
            audit = json.loads(result.stdout)
            return result.returncode == 0 and audit["under_way"] == 0 and audit["requests_in_flight"] == 0
        harness.wait_until(balanced, "accounts that balance with nothing under way")

    def check_ends(self, ends, n_done):
        """All of it may be run again, and is: done, but for what was on the CPU in crash after crash (poison)."""
        undone = {end: n for end, n in ends.items() if n and end not in ("done", "failed")}
        self.assertEqual(undone, {}, ends)
        self.assertLessEqual(ends["failed"], n_done["crashed"] + n_done["starved"], ends)

    def storm(self, n_shards, *arguments, plane="control", ends=False, memory=False, **options):
        """A local client whose requests are on the CPU in three crashes is cut off: over shared memory none crashes."""
        instance = self.instance()

        def start():
            instance.start("--shards", str(n_shards), "--root", os.path.dirname(__file__), "--enable-test-methods",
                           *arguments, **options)
        start()
        n_fds = harness.n_fds(instance.supervisor.pid)
        dice = Dice(instance, n_shards, random.Random(SEED), start if ends else None, memory, plane == "control")
        bench = Bench(instance, "--plane", plane, "--clients", "3", "--depth", "32", "--file", __file__)
        try:
            while bench.runs():
                dice.throw()
            result = bench.result(self)
        finally:
            bench.end()
        print(f"seed {SEED}: {dict(dice.n_done)}, {result['submitted']} requests: {result['ends']}")
        for role in dice.roles:
            instance.wait_for(*role, state="up")
        self.check_balance(instance)
        self.assertEqual((result["ended_twice"], result["never_ended"]), (0, 0))
        self.assertEqual(result["submitted"], sum(result["ends"].values()))
        if not ends:
            self.check_ends(result["ends"], dice.n_done)
        self.wait_for_fds(instance, n_fds)
        self.assertEqual(instance.stop(), 0)

    def test_three_shards(self):
        self.storm(3)

    def test_three_shards_over_shared_memory(self):
        self.storm(3, plane="data")

    def test_the_supervisor_dies_too_and_the_instance_is_started_again(self):
        self.storm(2, ends=True)

    def test_memory_runs_out_too(self):
        folder = self.enterContext(cgroups.memory(MEMORY))
        self.storm(2, memory=True, preexec_fn=cgroups.enter(folder))

    def test_more_shards_than_cores(self):
        self.storm(9, "--engine", "threads")

    def test_64_shards_do_all_of_it(self):
        self.storm(64)


class Once(StormCase):
    """What must not be run twice leaves a line in a file each time it runs."""

    def submit_notes(self, instance, path, texts):
        """Those that were done; the number in doubt and of those that did not begin."""
        notes = "\0".join(f"{path} {text}" for text in texts)
        result = instance.command("submit", "-0", "--window", str(WINDOW), "sys.note", "-", input=notes)
        told = result.stderr.splitlines()
        in_doubt = [line for line in told if ": in doubt: " in line]
        self.assertEqual(len(result.stdout.splitlines()) + len(told), len(texts), result.stderr[-2000:])
        self.assertEqual(in_doubt, told)
        return result.stdout.splitlines(), len(in_doubt)

    def test_nothing_is_run_twice_and_only_what_was_in_flight_at_a_death_is_in_doubt(self):
        instance = self.instance()
        instance.start("--shards", "3", "--enable-test-methods", "--set", f"sys.notes={instance.scratch}")
        instance.wait_ready()
        path = os.path.join(instance.scratch, "notes")
        dice = Dice(instance, 3, random.Random(SEED))
        ends = threading.Event()
        failures = []

        def throw():
            try:
                while not ends.is_set():
                    dice.throw()
            except Exception as failure:  # told below
                failures.append(failure)
        thrower = threading.Thread(target=throw)
        thrower.start()
        done, n_in_doubt, n_submitted = [], 0, 0
        until = time.monotonic() + SECONDS / 2
        try:
            while time.monotonic() < until:
                # With its new line 32 bytes: none lies across two pages, and is torn by a death within its write.
                texts = [f"{number:031}" for number in range(n_submitted, n_submitted + NOTES)]
                n_submitted += NOTES
                now_done, now_in_doubt = self.submit_notes(instance, path, texts)
                done += now_done
                n_in_doubt += now_in_doubt
        finally:
            ends.set()
            thrower.join()
        self.assertEqual(failures, [])
        with open(path) as file:
            runs = collections.Counter(file.read().splitlines())
        print(f"seed {SEED}: {dict(dice.n_done)}, {n_submitted} requests: {len(done)} done, {n_in_doubt} in doubt, "
              f"{runs.total() - len(done)} of which were run")
        self.assertEqual([text for text, n in runs.items() if n > 1], [])
        self.assertEqual([text for text in done if runs[text] != 1], [])
        self.assertLessEqual(n_in_doubt, 2 * dice.n_done.total() * WINDOW)  # a stop may be two deaths
        self.assertEqual(instance.stop(), 0)


class Many(StormCase):
    def test_128_shards_start_and_answer(self):
        instance = self.start("--shards", "128")
        for shard in (0, 64, 127):
            self.assertDone(instance.command("submit", "sys.ping", "--shard", str(shard)))
        self.assertDone(instance.command("audit"))
        self.assertEqual(instance.stop(), 0)

    def test_the_accounts_balance_at_each_of_many_looks_under_full_load(self):
        instance = self.start("--shards", "3", "--root", os.path.dirname(__file__))
        bench = Bench(instance, "--clients", "2", "--depth", "32", "--file", __file__, seconds=600)
        try:
            harness.wait_until(lambda: instance.shard(2)["counters"]["polls"] > 100, "the load to begin")
            began = time.monotonic()
            self.assertDone(instance.command("audit", "--count", str(AUDITS)))
            print(f"{AUDITS} audits in {time.monotonic() - began:.1f} s")
            self.assertTrue(bench.runs())
        finally:
            bench.end()
        self.assertEqual(instance.stop(), 0)

    def test_restarts_leave_nothing_in_the_supervisor(self):
        instance = self.start("--shards", "2")
        supervisor = instance.supervisor.pid
        n_fds = harness.n_fds(supervisor)
        for number in range(20):  # what is made once, is made by then
            instance.kill_and_wait("shard", number % 2)
        n_maps = harness.n_maps(supervisor)
        resident = resident_bytes(supervisor)
        for number in range(RESTARTS):
            instance.kill_and_wait("shard", number % 2)
        self.wait_for_fds(instance, n_fds)
        self.assertEqual(harness.n_maps(supervisor), n_maps)
        if not harness.SANITIZED:
            self.assertLess(resident_bytes(supervisor) - resident, 256 << 10)
        self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
