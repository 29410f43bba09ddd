# SPDX-License-Identifier: MIT
"""What people type: sherd's commands, their output, errors, exit statuses, manual and completion."""
import contextlib
import json
import mmap
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest

import harness
import segment

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAN = os.path.join(TREE, "docs", "man")
COMMANDS = ("run", "status", "queues", "co", "audit", "postmortem", "dead-letters", "submit", "bench", "stop")
ROOTS = ("--root", "/usr", "--root", "/etc")


def sherd(*arguments, **options):
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([harness.program(), *arguments], capture_output=True, text=True,
                          timeout=4 * harness.DEADLINE, **options)


def page(name):
    with open(os.path.join(MAN, name + ".1.scd"), encoding="utf-8") as text:
        return text.read()


def section(text, title):
    return re.search(rf"^# {title}\n(.*?)(?=^# |\Z)", text, re.M | re.S).group(1)


class Help(unittest.TestCase):
    """What needs no instance."""

    def test_each_option_in_help_stands_in_the_manual_and_the_other_way_round(self):
        for command in COMMANDS:
            with self.subTest(command=command):
                helped = sherd(command, "--help")
                self.assertEqual(helped.returncode, 0, helped.stderr)
                options = helped.stdout.split("\nOptions:\n")[1].split("\n\n")[0]
                in_help = set(re.findall(r"^  (?:-., )?(--[a-z0-9-]+)", options, re.M))
                entries = re.findall(r"^\*.*$", section(page("sherd-" + command), "OPTIONS"), re.M)
                in_manual = {option for entry in entries for option in re.findall(r"--[a-z0-9-]+", entry)}
                self.assertEqual(in_help, in_manual)

    def test_each_command_has_examples_and_the_help_names_each_command(self):
        overview = sherd("--help")
        self.assertEqual(overview.returncode, 0)
        for command in COMMANDS:
            self.assertRegex(overview.stdout, rf"(?m)^  {command} ")
            self.assertIn(f"\n  sherd {command} ", sherd(command, "--help").stdout)
            self.assertIn(f"*{command}*", page("sherd"))

    def test_version_is_one_line(self):
        self.assertRegex(sherd("--version").stdout, r"^sherd \d+\.\d+\.\d+\n$")

    def test_wrong_usage_is_one_line_and_exit_status_2(self):
        for arguments, text in (
                (("nonsense",), "no such command: nonsense; there are: run status queues co audit postmortem dead-letters submit bench drain restart stop"),
                ((), "--help"),
                (("status", "--nonsense"), "no such option: --nonsense"),
                (("status", "--wait", "soon"), "expected a number of seconds"),
                (("status", "--wait"), "--wait needs a value"),
                (("status", "--json=yes"), "--json takes no value"),
                (("status", "operand"), "takes none"),
                (("submit",), "SERVICE.METHOD"),
                (("submit", "nodot"), "nodot is no SERVICE.METHOD"),
                (("submit", "file.sha256"), "takes paths"),
                (("submit", "file.read", "a", "b"), "takes one path"),
                (("submit", "sys.ping", "--offset", "1"), "no use for --offset"),
                (("submit", "--shard", "-1", "sys.ping"), "expected a whole number"),
                (("submit", "--shard", "0", "--key", "k", "sys.ping"), "exclude each other"),
                (("submit", "--window", "1000000", "sys.ping"), "--window is at most"),
                (("bench",), "ping or mixed"),
                (("bench", "nonsense"), "is ping or mixed"),
                (("bench", "ping", "--clients", "0"), "--clients must be 1 to 256"),
                (("bench", "ping", "--depth", "100000"), "--depth must be 1 to 65536"),
                (("bench", "ping", "--file", "/etc/passwd"), "--file is for mixed"),
                (("submit", "--offset", "8Q", "file.read", "/etc/passwd"), "a number of bytes"),
        ):
            with self.subTest(arguments=arguments):
                result = sherd(*arguments)
                self.assertEqual(result.returncode, 2, result.stderr)
                self.assertEqual(result.stdout, "")
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
                self.assertIn(text, result.stderr)

    def test_what_a_name_holds_does_not_reach_the_terminal(self):
        result = sherd("status", "--instance", "a\n\033[31mb")
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        self.assertNotIn("\033", result.stderr)


class Placed(harness.TestCase):
    """Where sherd finds the program that has the other commands."""

    def test_tools_are_found_through_a_link_and_in_a_moved_prefix(self):
        build = os.path.dirname(os.path.realpath(harness.program()))
        with tempfile.TemporaryDirectory() as folder:
            link = os.path.join(folder, "link")
            os.symlink(harness.program(), link)
            prefix = os.path.join(folder, "prefix with a space")
            os.makedirs(os.path.join(prefix, "bin"))
            os.makedirs(os.path.join(prefix, "libexec", "sherd"))
            moved = os.path.join(prefix, "bin", "sherd")
            shutil.copy(os.path.join(build, "sherd"), moved)
            shutil.copy(os.path.join(build, "sherd-tools"), os.path.join(prefix, "libexec", "sherd"))
            for program in (link, moved):
                result = subprocess.run([program, "status", "--help"], capture_output=True, text=True)
                self.assertEqual(result.returncode, 0, result.stderr)
            os.unlink(os.path.join(prefix, "libexec", "sherd", "sherd-tools"))
            if not os.path.exists("/usr/local/libexec/sherd/sherd-tools"):
                result = subprocess.run([moved, "status"], capture_output=True, text=True)
                self.assertRefused(result, "sherd-tools is neither beside sherd nor in")


class Looking(harness.TestCase):
    """status, queues and stop."""

    def test_an_instance_that_is_not_there_is_refused_and_others_are_named(self):
        there = self.start("--shards", "1", name="there")
        for command in ("status", "queues", "audit", "stop"):
            result = sherd(command, "--instance", "elsewhere", "--wait", "0.1", env=there.environment)
            self.assertRefused(result, "elsewhere", "there")
        result = sherd("submit", "--instance", "elsewhere", "--wait", "0.1", "sys.ping",
                       env=there.environment)
        self.assertRefused(result, "elsewhere", "there")

    def test_status_waits_for_an_instance_that_starts(self):
        instance = self.instance()
        waiting = instance.popen("status", "--json", stdout=subprocess.PIPE)
        instance.run("--shards", "1")
        out, _ = waiting.communicate(timeout=harness.DEADLINE)
        self.assertEqual(waiting.returncode, 0)
        self.assertTrue(json.loads(out)["ready"])

    def test_status_shows_all_processes_to_people_and_programs(self):
        instance = self.start("--shards", "3")
        status = instance.status()
        self.assertEqual([p["role"] for p in status["processes"]],
                         ["supervisor", "gateway", "shard", "shard", "shard"])
        self.assertEqual([p["shard"] for p in status["processes"] if "shard" in p], [0, 1, 2])
        self.assertEqual(status["processes"][0]["pid"], instance.supervisor.pid)
        for process in status["processes"]:
            self.assertTrue(harness.is_alive(process["pid"]))
            self.assertEqual(process["incarnation"], 1)
        people = self.assertDone(instance.command("status")).stdout
        for process in status["processes"]:
            self.assertRegex(people, rf"(?m)^{process['role']}.* {process['pid']} .* up ")
        self.assertIn("3 shards", people.splitlines()[0])

    def test_status_counts_a_death(self):
        instance = self.start("--shards", "1")
        instance.kill_and_wait("shard", 0)
        process = instance.shard(0)
        self.assertEqual((process["incarnation"], process["deaths"]), (2, 1))

    def test_status_and_stop_work_when_the_gateway_hangs(self):
        instance = self.start("--shards", "1", "--drain-limit", "0.5")
        gateway = instance.gateway()
        instance.kill(gateway, signal.SIGSTOP)
        self.assertDone(instance.command("status"))
        self.assertDone(instance.command("queues"))
        self.assertDone(instance.command("stop"))
        instance.wait_exit()

    def test_status_says_that_the_supervisor_is_dead_and_stop_waits_for_the_rest(self):
        instance = self.start("--shards", "1")
        pids = [p["pid"] for p in instance.processes()]
        shard = instance.shard(0)
        instance.kill(shard, signal.SIGSTOP)  # keeps the instance there until the look at it is over
        instance.supervisor.kill()
        instance.supervisor.wait()
        status = instance.status()
        self.assertEqual(status["state"], "dead")
        self.assertIn("supervisor is dead", instance.command("status").stdout)
        instance.kill(shard, signal.SIGCONT)
        self.assertDone(instance.command("stop"))
        self.assertFalse(any(map(harness.is_alive, pids)))

    def test_stop_ends_all_processes_and_a_second_one_finds_nothing(self):
        instance = self.start("--shards", "2")
        pids = [p["pid"] for p in instance.processes()]
        self.assertDone(instance.command("stop"))
        self.assertFalse(any(map(harness.is_alive, pids[1:])))
        self.assertEqual(instance.wait_exit(), 0)
        self.assertRefused(instance.command("stop", "--wait", "0"), "test")

    def test_stop_waits_for_what_is_in_flight_and_now_does_not(self):
        instance = self.start("--shards", "1")
        sleeper = instance.popen("submit", "sys.sleep", "600000", stderr=subprocess.DEVNULL)
        harness.wait_until(lambda: instance.shard(0)["calls_in"], "the call to be under way")
        self.assertRefused(instance.command("stop", "--timeout", "0.2"), "still there", "--now")
        self.assertIsNone(instance.supervisor.poll())
        self.assertDone(instance.command("stop", "--now"))
        instance.wait_exit()
        self.assertEqual(sleeper.wait(harness.DEADLINE), 1)

    def test_queues_count_what_passed(self):
        instance = self.start("--shards", "2")
        self.assertDone(instance.command("submit", "sys.ping", "--count", "50", "--shard", "1"))
        queues = json.loads(self.assertDone(instance.command("queues", "--json")).stdout)
        pair = next(p for p in queues["pairs"] if (p["from"], p["to"]) == ("gateway", "shard 1"))
        self.assertEqual(pair["calls_submitted"], 50)
        self.assertEqual(pair["calls_started"], 50)
        self.assertEqual(pair["ends"]["done"], 50)
        self.assertEqual((pair["depth"], pair["calls_under_way"]), (0, 0))
        self.assertEqual(queues["shards"][1]["ends"]["done"], 50)
        people = self.assertDone(instance.command("queues")).stdout
        self.assertRegex(people, r"(?m)^shard 1 +50 +50 +0 ")
        listed = self.assertDone(instance.command("queues", "--list")).stdout
        self.assertRegex(listed, r"(?m)^gateway +shard 1 +0 ")

    def test_queues_are_watched_until_the_instance_ends(self):
        instance = self.start("--shards", "2")
        watcher = instance.popen("queues", "--list", "--watch", "0.02", stdout=subprocess.PIPE, text=True)
        load = instance.popen("submit", "--shard", "1", "sys.ping", "--count", "100000", stdout=subprocess.DEVNULL)
        n_shown, has_rate = 0, False
        for line in watcher.stdout:  # ends, at the latest, with the instance
            n_shown += line.startswith("FROM ")
            if re.match(r"gateway +shard 1 +\d+ +\S+( \S+)? +\d+ +\d+ +[1-9]\d* ", line):
                has_rate = True
            if has_rate and n_shown >= 2:
                break
        else:
            self.fail(f"no rate, shown {n_shown} times")
        self.assertEqual(load.wait(4 * harness.DEADLINE), 0)
        stopped = instance.popen("stop")
        watcher.communicate(timeout=harness.DEADLINE)
        self.assertEqual((watcher.returncode, stopped.wait(harness.DEADLINE)), (0, 0))
        instance.wait_exit()

    def test_what_waits_for_a_stopped_shard_is_shown_message_by_message(self):
        instance = self.start("--shards", "2")
        self.assertIn("nothing is queued", self.assertDone(instance.command("queues", "--entries")).stdout)
        pid = instance.shard(1)["pid"]
        instance.kill(pid, signal.SIGSTOP)
        try:
            waiter = instance.popen("submit", "--shard", "1", "sys.echo", "12345", stdout=subprocess.DEVNULL)
            entries = harness.wait_until(
                lambda: json.loads(instance.command("queues", "--entries", "--json").stdout)["entries"],
                "the call to stand in the ring")
            people = self.assertDone(instance.command("queues", "--entries")).stdout
        finally:
            instance.kill(pid, signal.SIGCONT)
        self.assertEqual(waiter.wait(harness.DEADLINE), 0)
        self.assertEqual([(e["from"], e["to"], e["lane"], e["message"], e["method"], e["bytes"])
                          for e in entries], [("gateway", "shard 1", "normal", "call", "sys.echo", 5)])
        self.assertRegex(people, r"(?m)^gateway +shard 1 +normal +call .* sys\.echo$")

    def test_the_accounts_balance_under_load_and_after_deaths(self):
        instance = self.start("--shards", "2")
        load = instance.popen("submit", "sys.ping", "--count", "100000", stdout=subprocess.DEVNULL)
        self.assertDone(instance.command("audit", "--count", "300"))
        instance.kill_and_wait("shard", 1)
        self.assertDone(instance.command("audit", "--count", "300"))
        self.assertEqual(load.wait(4 * harness.DEADLINE), 0)
        told = json.loads(self.assertDone(instance.command("audit", "--json")).stdout)
        self.assertTrue(told["balanced"])
        self.assertEqual(told["findings"], [])
        self.assertGreaterEqual(told["submitted"], 100000)
        self.assertEqual((told["under_way"], told["requests_in_flight"]), (0, 0))
        self.assertEqual(told["submitted"], sum(told["ends"].values()))

    def test_coroutines_are_shown_live_and_after_a_crash_of_the_instance(self):
        instance = self.start("--shards", "2")
        sleeper = instance.popen("submit", "--shard", "1", "sys.sleep", "600000", stderr=subprocess.DEVNULL)
        def coroutines():
            told = json.loads(self.assertDone(instance.command("co", "--json")).stdout)
            self.assertTrue(told["live"])
            return [c for c in told["coroutines"] if c["process"] == "shard 1" and c["waits_for"]]
        found = harness.wait_until(coroutines, "the coroutine that sleeps")
        self.assertEqual((found[0]["kind"], found[0]["state"]), ("local", "waits"))
        self.assertRegex(self.assertDone(instance.command("co")).stdout, r"(?m)^shard 1 +\d+ .* waits ")
        for process in instance.processes():
            instance.kill(process)
        sleeper.kill()
        sleeper.wait(harness.DEADLINE)
        instance.wait_exit()
        told = json.loads(self.assertDone(instance.command("co", "--wait", "0", "--json")).stdout)
        self.assertFalse(told["live"])
        self.assertEqual([c["id"] for c in told["coroutines"] if c["id"] == found[0]["id"]
                          and c["process"] == "shard 1"], [found[0]["id"]])

    @unittest.skipIf(harness.SANITIZED, "a coroutine stays where it is")
    def test_backtraces_are_shown_of_both_kinds_live_and_of_portable_ones_after_a_crash(self):
        instance = self.start("--shards", "2")
        sleepers = [instance.popen("submit", "--shard", "0", method, arguments, stderr=subprocess.DEVNULL)
                    for method, arguments in (("sys.wander", "1 600000"), ("sys.sleep", "600000"))]

        def waiting(*arguments):
            told = json.loads(self.assertDone(
                instance.command("co", "--json", "--backtrace", *arguments)).stdout)
            return {c["kind"]: c for c in told["coroutines"] if c["state"] == "waits"}
        found = harness.wait_until(
            lambda: len(waiting()) == 2 and waiting(), "both to wait")
        portable, local = found["portable"], found["local"]
        self.assertEqual((portable["process"], portable["name"], portable["moves"]), ("shard 1", "wander", 3))
        self.assertEqual((local["process"], local["name"]), ("shard 0", "sleep"))
        for one, function in ((portable, "run_wander"), (local, "run_sleep")):
            if one["backtrace"]:
                names = [frame.split()[0] for frame in one["backtrace"]]
                self.assertTrue(any(name.startswith(function) for name in names), one)
                self.assertGreater(one["stack_used"], 100)
            else:
                self.assertIn("ptrace is forbidden", one["backtrace_why"])
        self.assertRegex(self.assertDone(instance.command("co", "--backtrace")).stdout,
                         r"(?m)^shard 1 p\d+ wander: waits for sleep, .* old\n    #0 ")
        instance.kill_all()
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait(harness.DEADLINE)
        dead = waiting("--wait", "0")
        self.assertEqual(dead["portable"]["backtrace"], portable["backtrace"])
        self.assertEqual(dead["portable"]["waits_for"], portable["waits_for"])
        self.assertEqual(dead["local"]["backtrace"], [])
        self.assertIn("gone", dead["local"]["backtrace_why"])

    @unittest.skipIf(harness.SANITIZED, "signals of crashes are the sanitizer's")
    def test_a_crash_is_explained_while_the_instance_lives_and_after_it_died(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        incarnation = instance.shard(1)["incarnation"]
        instance.command("submit", "--shard", "1", "sys.crash", "segv")
        instance.wait_for_shard(1, incarnation=incarnation + 1)
        def told(*arguments):
            return json.loads(self.assertDone(instance.command("postmortem", "--json", *arguments)).stdout)
        live = told()
        self.assertTrue(live["live"])
        shard = live["processes"][1]
        self.assertEqual((shard["process"], shard["deaths"], shard["crashes"]), ("shard 1", 1, 1))
        self.assertEqual((shard["crash"]["signal"], shard["crash"]["incarnation"]), (signal.SIGSEGV, incarnation))
        self.assertEqual(shard["crash"]["served"]["by"], "gateway")
        self.assertIsNone(live["processes"][0]["crash"])
        self.assertIn("shard 1: up", self.assertDone(instance.command("postmortem")).stdout)
        self.assertTrue(live["audit"]["balanced"])
        self.assertEqual(len(live["queues"]), 6)
        first = told("--incarnation", str(incarnation))
        self.assertEqual([(d["process"], d["running"]["method"]) for d in first["deaths"]],
                         [("shard 1", "sys.crash")])
        self.assertEqual(first["processes"][1]["crash"], shard["crash"])
        self.assertTrue(first["processes"][1]["events"][-1]["what"].startswith("method begins"), first)
        second = told("--incarnation", str(incarnation + 1))
        self.assertEqual((second["deaths"], second["processes"][1]["crash"]), ([], None))
        segment_file = os.path.realpath(os.path.join(instance.runtime_dir, "test", "segment"))
        for process in instance.processes():
            instance.kill(process)
        instance.wait_exit()
        dead = told()
        self.assertFalse(dead["live"])
        self.assertEqual(dead["processes"][1]["crash"]["registers"], shard["crash"]["registers"])
        instance.start("--shards", "2")
        before = json.loads(self.assertDone(instance.command("postmortem", "--json", "--crashed", "1")).stdout)
        self.assertEqual(before["processes"][1]["crash"], dead["processes"][1]["crash"])
        by_file = json.loads(self.assertDone(sherd("postmortem", "--json", segment_file)).stdout)
        self.assertEqual(by_file["processes"], before["processes"])

    @unittest.skipIf(harness.SANITIZED, "signals of crashes are the sanitizer's")
    def test_a_stack_overflow_is_told_as_one_with_the_coroutine_and_what_it_began_in(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        incarnation = instance.shard(1)["incarnation"]
        instance.command("submit", "--shard", "1", "sys.crash", "overflow")
        instance.wait_for_shard(1, incarnation=incarnation + 1)
        self.assertRegex(self.assertDone(instance.command("postmortem")).stdout,
                         r"stack overflow of coroutine crash \(\d+\) created at (serve_portable|0x)")
        crash = json.loads(self.assertDone(instance.command("postmortem", "--json")).stdout)["processes"][1]["crash"]
        self.assertTrue(crash["overflow"])

    def test_what_moves_is_looked_through_for_pointers_into_one_process(self):
        instance = self.start("--shards", "3", "--scan-moves", "refuse")
        self.assertEqual(self.assertDone(instance.command("submit", "sys.wander", "--shard", "1", "100")).stdout, "300")
        self.assertNotIn("pointer into this process", instance.log())

    def test_a_bench_counts_each_end_once_through_deaths_of_shards_and_the_gateway(self):
        instance = self.start("--shards", "2", *ROOTS)
        bench = instance.popen("bench", "mixed", "--clients", "2", "--depth", "16", "--seconds", "1.5",
                               "--file", "/etc/passwd", "--json", stdout=subprocess.PIPE)
        harness.wait_until(lambda: instance.shard(1)["counters"]["polls"] > 100, "the load to begin")
        for role, number in (("shard", 1), ("gateway", None), ("shard", 0)):
            instance.kill_and_wait(role, number)
        out, _ = bench.communicate(timeout=4 * harness.DEADLINE)
        self.assertEqual(bench.returncode, 0, out)
        told = json.loads(out)
        self.assertEqual((told["ended_twice"], told["never_ended"]), (0, 0))
        self.assertEqual(told["submitted"], sum(told["ends"].values()))
        self.assertEqual(set(told["work"]), {"ping", "call", "move", "read"})
        self.assertLessEqual(told["latency_ns"]["p50"], told["latency_ns"]["p99.99"])
        self.assertDone(instance.command("audit"))

    def test_an_account_that_is_wrong_is_told_by_name(self):
        instance = self.start("--shards", "2")
        with open(os.path.join(instance.runtime_dir, "test", "segment"), "r+b") as file, \
                mmap.mmap(file.fileno(), 0) as memory:
            submitted_to_shard_1, _ = segment.place(memory, "shard", 0, "pairs", 1, 0, "calls_submitted")
            memory[submitted_to_shard_1] += 1
            result = instance.command("audit")
            told = json.loads(instance.command("audit", "--json").stdout)
            memory[submitted_to_shard_1] -= 1  # else it would wait for that call when it ends
        self.assertEqual(result.returncode, 1)
        self.assertIn("shard 0 to shard 1: 0 calls that ended or hold a slot, but 1 calls submitted",
                      result.stdout)
        self.assertFalse(told["balanced"])
        self.assertEqual([(f["from"], f["to"], f["found"]) for f in told["findings"]],
                         [("shard 0", "shard 1", 1)])

    def test_queues_stay_readable_with_16_shards_and_are_a_list_beyond(self):
        instance = self.start("--shards", "16")
        people = self.assertDone(instance.command("queues")).stdout
        self.assertLessEqual(max(map(len, people.splitlines())), 120)
        self.assertIn("from \\ to", people)
        instance.stop()
        instance.start("--shards", "17")
        self.assertDone(instance.command("submit", "sys.ping", "--shard", "16"))
        people = self.assertDone(instance.command("queues")).stdout
        self.assertNotIn("from \\ to", people)
        self.assertRegex(people, r"(?m)^gateway +shard 16 +0 ")


class Submitting(harness.TestCase):
    """submit, with files in a folder of the test's own."""

    def setUp(self):
        super().setUp()
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="sherd-files-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, name, data=b"data\n"):
        path = os.path.join(os.fsencode(self.folder), os.fsencode(name))
        with open(path, "wb") as file:
            file.write(data)
        return path

    def serve(self, *arguments):
        return self.start("--shards", "2", "--root", self.folder + ":rw", *arguments)

    def sha256sum(self, names):
        return subprocess.run(["sha256sum", "--", *names], capture_output=True, cwd=self.folder,
                              check=True).stdout

    def test_checksums_are_what_sha256sum_prints_whatever_the_names(self):
        names = [b"plain", b"with space", b"new\nline", b"back\\slash", b"carriage\rreturn", b"*star",
                 b"-dash", b"\xff\xfe", "Grüße".encode(), b"'quoted'", b"tab\there"]
        for number, name in enumerate(names):
            self.write(name, b"x" * (number * 70000))
        instance = self.serve()
        given = [b"./-dash" if name == b"-dash" else name for name in names]
        paths = [os.path.join(os.fsencode(self.folder), name) for name in names]
        for arguments in (given, paths):
            result = instance.command("submit", "file.sha256", *arguments, cwd=self.folder)
            self.assertDone(result)
            self.assertEqual(result.stdout, self.sha256sum(arguments))

    def test_names_come_from_standard_input(self):
        names = [self.write(f"file {n}", b"%d" % n) for n in range(3)]
        expected = self.sha256sum(names)
        instance = self.serve()
        for options, text in (((), b"\n".join(names) + b"\n"), ((), b"\n".join(names)),
                              (("-0",), b"\0".join(names) + b"\0"), (("--null",), b"\0".join(names))):
            result = instance.command("submit", *options, "file.sha256", "-", input=text)
            self.assertEqual(self.assertDone(result).stdout, expected)
        result = instance.command("submit", "file.sha256", names[0], "-", names[2], input=names[1])
        self.assertEqual(self.assertDone(result).stdout, expected)

    def test_answers_are_printed_while_names_still_come(self):
        self.write("first")
        instance = self.serve()
        submit = instance.popen("submit", "file.sha256", "-", stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, cwd=self.folder)
        with submit:
            submit.stdin.write(b"first\n")
            submit.stdin.flush()
            readable, _, _ = select.select([submit.stdout], [], [], harness.DEADLINE)
            self.assertTrue(readable, "no answer before the end of the names")
            self.assertTrue(submit.stdout.readline().endswith(b"  first\n"))
            submit.stdin.close()
        self.assertEqual(submit.returncode, 0)

    def test_what_fails_is_told_by_name_and_the_rest_goes_on(self):
        self.write("good")
        os.mkdir(os.path.join(self.folder, "directory"))
        os.mkfifo(os.path.join(self.folder, "fifo"))
        self.write("empty", b"")
        instance = self.serve()
        result = instance.command("submit", "file.sha256", "missing", "good", "directory", "fifo",
                                  "/nowhere/else", "", "empty", cwd=self.folder)
        self.assertEqual(result.returncode, 1)
        self.assertEqual([line.split("  ")[1] for line in result.stdout.splitlines()],
                         ["good", "empty"])
        errors = result.stderr.splitlines()
        self.assertEqual(len(errors), 5, result.stderr)
        for line, name in zip(errors, ("missing: No such file or directory", "directory: Is a directory",
                                       "fifo: ", "/nowhere/else: ", "'': No such file or directory")):
            self.assertTrue(line.startswith("sherd: file.sha256: " + name), line)

    def test_a_name_longer_than_any_buffer_fails_alone(self):
        self.write("good")
        instance = self.serve()
        text = b"a" * 200000 + b"\n" + b"good\n" + b"b" * 70000 + b"\0\ngood"
        result = instance.command("submit", "file.sha256", "-", input=text, cwd=self.folder)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stdout, self.sha256sum([b"good"]) * 2)
        self.assertEqual(result.stderr.count(b"File name too long"), 2, result.stderr[:300])

    def test_memory_does_not_grow_with_the_number_of_names(self):
        n = 100000
        path = self.write("file")
        instance = self.serve()
        listing = self.write("list", (path + b"\n") * n)
        most_kib = [0]

        def has_ended(submit):
            with contextlib.suppress(OSError), open(f"/proc/{submit.pid}/status") as status:
                most_kib.extend(int(kib) for kib in re.findall(r"VmHWM:\s+(\d+) kB", status.read()))
            return submit.poll() is not None
        with open(listing, "rb") as names, tempfile.TemporaryFile() as out:
            submit = instance.popen("submit", "file.sha256", "-", stdin=names, stdout=out)
            harness.wait_until(lambda: has_ended(submit), "the end of the names")
            out.seek(0)
            self.assertEqual(submit.returncode, 0)
            self.assertEqual(out.read(), self.sha256sum([path]) * n)
        if not harness.SANITIZED:
            self.assertLess(max(most_kib), 64 * 1024)
        self.assertGreater(max(most_kib), 0)

    def test_unordered_answers_are_the_same_lines(self):
        names = [self.write(f"file {n}", os.urandom(n * 1000)) for n in range(50)]
        instance = self.serve()
        result = self.assertDone(instance.command("submit", "--unordered", "file.sha256", *names))
        self.assertEqual(sorted(result.stdout.splitlines()), sorted(self.sha256sum(names).splitlines()))

    def test_files_are_read_in_pieces_of_any_size(self):
        data = os.urandom(3 * 1024 * 1024 + 17)
        path = self.write("big", data)
        instance = self.serve()
        read = lambda *options: self.assertDone(
            instance.command("submit", "file.read", *options, path)).stdout
        self.assertEqual(read(), data)
        self.assertEqual(read("--offset", "4096", "--length", "100"), data[4096:4196])
        self.assertEqual(read("--offset", "1M", "--length=2M"), data[1 << 20:3 << 20])
        self.assertEqual(read("--offset", "1G"), b"")
        self.assertEqual(read("--length", "0"), b"")
        self.assertRefused(instance.command("submit", "file.read", "missing", cwd=self.folder),
                           "sherd: file.read: missing: No such file or directory")

    def test_writing_goes_in_pieces_and_says_so(self):
        data = os.urandom(2 * 1024 * 1024 + 5)
        path = self.write("target", b"")
        instance = self.serve()
        result = self.assertDone(
            instance.command("submit", "file.write", "--offset", "3", path, input=data))
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"\0\0\0" + data)
        self.assertIn(b"2,097,157 bytes written at offset 3 in 3 pieces", result.stderr)
        self.assertIn(b"not atomic", result.stderr)

    def test_a_write_whose_shard_dies_is_in_doubt_from_where_it_says(self):
        data = os.urandom(48 * 1024 * 1024)
        instance = self.start("--shards", "1", "--root", self.folder + ":rw")
        for attempt in range(20):  # the death may fall between two pieces, which harms nothing
            path = self.write(f"target {attempt}", b"")
            source = self.write("source", data)
            with open(source, "rb") as given:
                submit = instance.popen("submit", "file.write", path, stdin=given,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                with submit:
                    harness.wait_until(lambda: os.path.getsize(path) > 2 << 20, "some pieces")
                    instance.kill(instance.shard(0))
                    errors = submit.stderr.read()
            with open(path, "rb") as target:
                written = target.read()
            os.unlink(path)
            if submit.returncode == 0:
                self.assertEqual(written, data)
                continue
            self.assertEqual(submit.returncode, 1)
            self.assertIn("in doubt: ", errors)
            certain = re.search(r"([0-9,]+) bytes from offset 0 on are written for certain", errors)
            length = int(certain.group(1).replace(",", ""))
            self.assertGreater(length, 0)
            self.assertEqual(written[:length], data[:length])
            return
        self.fail("no death fell into a write")

    def test_a_write_that_fails_says_what_was_written_for_certain(self):
        path = self.write("target", b"")
        instance = self.start("--shards", "1", "--root", self.folder)
        result = instance.command("submit", "file.write", path, input=b"data")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stderr.count(b"\n"), 1, result.stderr)
        self.assertNotIn(b"doubt", result.stderr)  # nothing was opened
        self.assertEqual(os.path.getsize(path), 0)

    def test_stat_tells_people_and_programs(self):
        path = self.write("file", b"12345")
        os.chmod(path, 0o640)
        instance = self.serve()
        people = self.assertDone(instance.command("submit", "file.stat", path)).stdout.decode()
        for line in ("type: regular file", "mode: 0640", "size: 5", "links: 1"):
            self.assertIn(line + "\n", people)
        told = json.loads(self.assertDone(
            instance.command("submit", "--json", "file.stat", path)).stdout)
        seen = os.stat(path)
        self.assertEqual((told["size"], told["inode"], told["mtime_ns"], told["mode"]),
                         (5, seen.st_ino, seen.st_mtime_ns, 0o640))

    def test_sys_methods_answer(self):
        instance = self.serve()
        run = lambda *arguments, **options: self.assertDone(
            instance.command("submit", *arguments, **options)).stdout
        self.assertRegex(run("sys.ping", "--shard", "1"), r"^pong from shard 1 in \S+ [um]?s\n$")
        self.assertRegex(run("sys.ping", "--count", "10000", "--window", "10000"), r"^10,000 pongs in ")
        self.assertEqual(run("sys.echo", "hello"), "hello")
        self.assertEqual(run("sys.echo", "a", "b"), "a\nb\n")
        self.assertEqual(run("sys.echo"), "")
        self.assertEqual(run("sys.echo", "-", input=b"\0raw\n\xff"), b"\0raw\n\xff")
        self.assertEqual(run("-0", "sys.echo", "-", input=b"a\0b\0"), b"a\nb\n")
        self.assertEqual(run("sys.sleep", "1"), "")
        moves = ("0", "4") if harness.SANITIZED or harness.THREADS else ("4",)  # two shards
        self.assertIn(run("sys.wander", "2"), moves)
        methods = run("sys.methods")
        for name in ("sys.ping", "sys.echo", "file.sha256", "file.write"):
            self.assertRegex(methods, rf"(?m)^{re.escape(name)} ")

    def test_what_is_not_there_is_refused_with_what_is(self):
        instance = self.serve()
        self.assertRefused(instance.command("submit", "sys.nonsense"), "sys.nonsense", "sys.ping",
                           "file.sha256")
        self.assertRefused(instance.command("submit", "--shard", "7", "sys.ping"), "7")
        self.assertRefused(instance.command("submit", "--timeout", "0.05", "sys.sleep", "60000"),
                           "expired")

    def test_an_argument_of_a_mebibyte_passes_and_a_longer_one_is_refused_with_the_limit(self):
        instance = self.serve()
        data = os.urandom(1024 * 1024)
        result = instance.command("submit", "sys.echo", "-", input=data)
        self.assertEqual(self.assertDone(result).stdout, data)
        result = instance.command("submit", "sys.echo", "-", input=data + b"x")
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"1048576 bytes", result.stderr)

    def test_an_interrupt_cancels_and_tells_how_much_was_done(self):
        instance = self.serve()
        submit = instance.popen("submit", "sys.sleep", "1", "600000", "600000", stderr=subprocess.PIPE,
                                text=True)
        with submit:
            harness.wait_until(
                lambda: sum(instance.shard(n)["calls_in"] for n in (0, 1)) == 2,
                "two calls to be under way")
            submit.send_signal(signal.SIGINT)
            _, errors = submit.communicate(timeout=harness.DEADLINE)
        self.assertEqual(submit.returncode, 130)
        self.assertIn("interrupted: 1 done, 0 failed, 2 cancelled", errors)

    def test_what_an_interrupt_cancels_ends_in_the_shards(self):
        instance = self.serve()
        submit = instance.popen("submit", "--window", "4000", "--count", "4000", "sys.sleep", "86400000",
                                stderr=subprocess.DEVNULL)
        harness.wait_until(lambda: sum(instance.shard(n)["calls_in"] for n in (0, 1)) >= 1000,
                           "calls to be under way")
        submit.send_signal(signal.SIGINT)
        self.assertEqual(submit.wait(harness.DEADLINE), 130)
        self.assertDone(instance.command("submit", "--timeout", "20", "sys.ping"))
        harness.wait_until(lambda: sum(instance.shard(n)["calls_in"] for n in (0, 1)) == 0,
                           "the shards to be rid of what was cancelled")
        self.assertEqual(instance.stop(), 0)

    def test_an_interrupt_ends_it_while_it_connects(self):
        instance = self.serve()
        address = os.path.join(instance.scratch, "mute")
        with socket.socket(socket.AF_UNIX) as mute:
            mute.bind(address)
            mute.listen()
            mute.settimeout(harness.DEADLINE)
            submit = subprocess.Popen(
                [harness.program(), "submit", "--url", f"ipc://{address}", "--wait", "600", "sys.ping"],
                stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            connection, _ = mute.accept()
            with connection:
                submit.send_signal(signal.SIGINT)
                self.assertEqual(submit.wait(harness.DEADLINE), -signal.SIGINT)

    def test_several_answers_are_a_line_each(self):
        instance = self.serve()
        for arguments, expected in ((["abc"], b"abc"), (["--count", "3", "abc"], b"abc\nabc\nabc\n"),
                                    (["a", "b"], b"a\nb\n")):
            result = self.assertDone(instance.command("submit", "sys.echo", *arguments, text=False))
            self.assertEqual(result.stdout, expected)

    def test_an_interrupt_gets_through_when_the_reader_stands_still(self):
        path = self.write("file")
        instance = self.serve()
        listing = self.write("list", (path + b"\n") * 50000)
        with open(listing, "rb") as names:
            submit = instance.popen("submit", "file.sha256", "-", stdin=names, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE)
            with submit:
                blocked = lambda: json.loads(instance.command("queues", "--json").stdout)["shards"]
                seen = []

                def stands_still():
                    seen.append(sum(shard["ends"]["done"] for shard in blocked()))
                    return len(seen) > 2 and 0 < seen[-1] == seen[-2]
                harness.wait_until(stands_still, "the full pipe to hold everything back")
                submit.send_signal(signal.SIGINT)
                errors = submit.stderr.read()
        self.assertEqual(submit.returncode, 130)
        self.assertIn(b"interrupted: ", errors)

    def test_a_reader_that_goes_away_ends_it_quietly(self):
        path = self.write("file")
        instance = self.serve()
        listing = self.write("list", (path + b"\n") * 50000)
        with open(listing, "rb") as names:
            submit = instance.popen("submit", "file.sha256", "-", stdin=names, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE)
            with submit:
                submit.stdout.readline()
                submit.stdout.close()
                errors = submit.stderr.read()
        self.assertEqual(submit.returncode, -signal.SIGPIPE)
        self.assertEqual(errors, b"")

    def test_a_full_output_is_an_error(self):
        path = self.write("file")
        instance = self.serve()
        with open("/dev/full", "wb") as full:
            result = instance.command("submit", "file.sha256", path, stdout=full,
                                      stderr=subprocess.PIPE)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"No space left on device", result.stderr)

    def test_a_terminal_shows_how_far_it_is(self):
        instance = self.serve()
        master, slave = pty.openpty()
        shown = b""
        submit = instance.popen("submit", "sys.sleep", *["1"] * 9, "1000", stdout=subprocess.DEVNULL,
                                stderr=slave)
        os.close(slave)
        with contextlib.suppress(OSError):  # which is the end of file of a terminal
            while chunk := os.read(master, 65536):
                shown += chunk
        os.close(master)
        self.assertEqual(submit.wait(harness.DEADLINE), 0)
        self.assertRegex(shown, rb" 90% \[=+> *\] 9 calls, [0-9,]+/s")
        self.assertRegex(shown, rb"\r\x1b\[K10 calls, [0-9,]+/s in [0-9.]+ s")

    def test_a_gateway_on_tcp_is_reached_with_the_token_alone(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = "tcp://127.0.0.1:%d" % free.getsockname()[1]
        token, wrong = self.write("token", b"secret-of-this-test\n"), self.write("wrong", b"another one\n")
        os.chmod(token, 0o600)
        os.chmod(wrong, 0o600)
        self.start("--shards", "1", "--listen", url, "--token-file", os.fsdecode(token))
        submit = lambda *options: sherd("submit", "--url", url, *options, "sys.echo", "hello")
        self.assertEqual(self.assertDone(submit("--token-file", os.fsdecode(token))).stdout, "hello")
        self.assertRefused(submit("--token-file", os.fsdecode(wrong), "--wait", "0.2"), "token")
        self.assertRefused(submit("--wait", "0.2"), "token")

    def test_options_after_two_dashes_are_arguments(self):
        instance = self.serve()
        self.assertEqual(
            self.assertDone(instance.command("submit", "sys.echo", "--", "--json")).stdout, "--json")


class Manual(harness.TestCase):
    def test_the_examples_of_the_manual_run(self):
        with tempfile.TemporaryDirectory() as folder:
            bin_folder = os.path.join(folder, "bin")
            os.mkdir(bin_folder)
            os.symlink(harness.program(), os.path.join(bin_folder, "sherd"))
            with open(os.path.join(folder, "data"), "wb") as data:
                data.write(b"data")
            instance = self.start("--shards", "2", *ROOTS, "--root", folder + ":rw", name="demo")
            environment = {**instance.environment,
                           "PATH": bin_folder + os.pathsep + os.environ["PATH"]}
            for name in ("sherd-status", "sherd-queues", "sherd-audit", "sherd-submit", "sherd-stop"):
                examples = re.findall(r"^```\n(.*?)^```", section(page(name), "EXAMPLES"), re.M | re.S)
                for line in "".join(examples).splitlines():
                    if "jq" in line and not shutil.which("jq"):
                        continue
                    line = line.replace("/srv/data", folder)
                    with self.subTest(line=line):
                        result = subprocess.run(["bash", "-c", line], env=environment, cwd=folder,
                                                capture_output=True, stdin=subprocess.DEVNULL,
                                                timeout=4 * harness.DEADLINE)
                        self.check_example(line, result)
            instance.wait_exit()

    def test_the_manual_names_each_member_of_the_json(self):
        def members(value, generated):
            if isinstance(value, list):
                value = {str(n): item for n, item in enumerate(value)}
            for key, item in value.items() if isinstance(value, dict) else ():
                if not key.isdigit():
                    yield key
                if key not in generated:
                    yield from members(item, generated)
        with open(os.path.join(TREE, "tools", "pair_figures.h"), encoding="utf-8") as header:
            figures = set(re.findall(r"^    X\((\w+),", header.read(), re.M))
        instance = self.start("--shards", "2")
        for command, generated in (("status", {"counters"}), ("queues", {"ends"}), ("audit", {"ends"}),
                                   ("co", set()), ("postmortem", set())):
            told = json.loads(self.assertDone(instance.command(command, "--json")).stdout)
            named = set(re.findall(r"\w+", page("sherd-" + command))) | figures
            self.assertEqual(set(members(told, generated)) - named, set())

    def check_example(self, line, result):
        """Files that only some users may read, or that links lead to elsewhere, are told apart."""
        if b"file.sha256: " in result.stderr:
            self.assertEqual(result.returncode, 1)
            self.assertGreater(result.stdout.count(b"\n"), 10 * result.stderr.count(b"\n"))
        else:
            self.assertEqual(result.returncode, 0, result.stderr[:1000])


class Completion(harness.TestCase):
    def complete(self, instance, *words):
        script = os.path.join(TREE, "tools", "completion", "sherd.bash")
        program = f'source "{script}"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sherd; ' \
                  'printf "%s\\n" "${COMPREPLY[@]}"'
        result = subprocess.run(["bash", "-c", program, "bash", harness.program(), *words],
                                capture_output=True, text=True, env=instance.environment,
                                stdin=subprocess.DEVNULL, timeout=harness.DEADLINE)
        self.assertEqual(result.stderr, "")
        return result.stdout.split()

    def test_commands_options_instances_and_methods_are_completed(self):
        instance = self.start("--shards", "1", name="demo")
        self.assertEqual(self.complete(instance, "st"), ["status", "stop"])
        self.assertEqual(self.complete(instance, "status", "--js"), ["--json"])
        self.assertEqual(self.complete(instance, "status", "--instance", ""), ["demo"])
        self.assertEqual(self.complete(instance, "submit", "--instance", "demo", "file.s"),
                         ["file.sha256", "file.stat"])


if __name__ == "__main__":
    harness.main()
