# SPDX-License-Identifier: MIT
"""What people type: sherd's commands, their output, errors, exit statuses, manual and completion."""
import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import harness
import segment
from harness import sherd

TREE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MAN = os.path.join(TREE, "docs", "man")
COMMANDS = ("run", "status", "queues", "services", "clients", "co", "audit", "postmortem", "dead-letters", "submit", "bench", "stop")
ROOTS = ("--root", "/usr", "--root", "/etc")


def page(name):
    with open(os.path.join(MAN, name + ".1.scd"), encoding="utf-8") as text:
        return text.read()


def rows(header, table):
    """The names in a table of the sources that is put into the built pages."""
    with open(os.path.join(TREE, header), encoding="utf-8") as text:
        lines = re.search(rf"^#define {table}\(X\)(?:.*\\\n)+.*\n", text.read(), re.M).group()
    return set(re.findall(r"^    X\((\w+),", lines, re.M))


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
                (("nonsense",), "no such command: nonsense; there are: run status queues services clients co audit postmortem dead-letters submit bench drain restart stop"),
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

    def test_what_waits_for_a_stopped_shard_is_counted_with_its_age(self):
        instance = self.start("--shards", "2")
        gateway_to_1 = lambda: next(
            pair for pair in json.loads(self.assertDone(instance.command("queues", "--json")).stdout)["pairs"]
            if (pair["from"], pair["to"]) == ("gateway", "shard 1"))
        free = gateway_to_1()["call_slots_free"]
        pid = instance.shard(1)["pid"]
        instance.kill(pid, signal.SIGSTOP)
        try:
            waiter = instance.popen("submit", "--shard", "1", "--count", "20", "sys.ping", stdout=subprocess.DEVNULL)
            harness.wait_until(lambda: gateway_to_1()["depth"] == 20, "20 calls to stand in the ring")
            time.sleep(0.2)
            pair = gateway_to_1()
        finally:
            instance.kill(pid, signal.SIGCONT)
        self.assertEqual(waiter.wait(harness.DEADLINE), 0)
        self.assertEqual((pair["depth"], pair["calls_under_way"], pair["call_slots_free"]), (20, 20, free - 20))
        self.assertGreaterEqual(pair["oldest_s"], 0.2)
        self.assertGreaterEqual(pair["rings_sent"] + pair["rings_saved"], 1)
        after = gateway_to_1()
        self.assertEqual((after["depth"], after["oldest_s"], after["call_slots_free"]), (0, None, free))
        self.assertGreaterEqual(after["high_water"], 20)

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

    @unittest.skipIf(harness.SANITIZED, "a sanitizer has words of its own in each frame")
    def test_what_moves_is_looked_through_for_pointers_into_one_process(self):
        instance = self.start("--shards", "3", "--scan-moves", "refuse")
        instance.kill_and_wait("shard", 2)  # what lies in its memory now lies elsewhere than in the others'
        for _ in range(10):
            result = instance.command("submit", "sys.wander", "--shard", "1", "100")
            self.assertEqual((result.returncode, result.stdout), (0, "300"), result.stderr)
        self.assertNotIn("pointer into this process", instance.log())

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


class Manual(harness.TestCase):
    def test_the_examples_of_the_manual_run(self):
        with tempfile.TemporaryDirectory() as folder:
            bin_folder = os.path.join(folder, "bin")
            os.mkdir(bin_folder)
            os.symlink(harness.program(), os.path.join(bin_folder, "sherd"))
            with open(os.path.join(folder, "data"), "wb") as data:
                data.write(b"data")
            shutil.copytree(os.path.join(TREE, "shard"), os.path.join(folder, "lib"))
            instance = self.start("--shards", "2", *ROOTS, "--root", folder + ":rw", name="demo")
            environment = {**instance.environment,
                           "PATH": bin_folder + os.pathsep + os.environ["PATH"]}
            for name in ("sherd-status", "sherd-queues", "sherd-services", "sherd-audit", "sherd-submit", "sherd-stop"):
                examples = re.findall(r"^```\n(.*?)^```", section(page(name), "EXAMPLES"), re.M | re.S)
                for line in "".join(examples).splitlines():
                    if "jq" in line and not shutil.which("jq"):
                        continue
                    # /usr/lib may be gigabytes, on a disk that is busy with other tests.
                    line = line.replace("/srv/data", folder).replace("/usr/lib", os.path.join(folder, "lib"))
                    with self.subTest(line=line):
                        result = subprocess.run(["bash", "-c", line], env=environment, cwd=folder,
                                                capture_output=True, stdin=subprocess.DEVNULL,
                                                timeout=4 * harness.DEADLINE)
                        self.check_example(line, result)
            instance.wait_exit()

    def test_the_manual_names_each_member_of_the_json(self):
        def members(value, elsewhere):
            if isinstance(value, list):
                value = {str(n): item for n, item in enumerate(value)}
            for key, item in value.items() if isinstance(value, dict) else ():
                if not key.isdigit():
                    yield key
                if key not in elsewhere:
                    yield from members(item, elsewhere)
        figures = rows("tools/pair_figures.h", "PAIR_FIGURES") | rows("shard/audit.h", "AUDIT_COUNTS")
        instance = self.start("--shards", "2")
        for command, elsewhere in (("status", {"counters"}), ("queues", {"ends"}), ("audit", {"ends"}),
                                   ("co", set()), ("postmortem", {"coroutines", "queues", "audit"})):
            told = json.loads(self.assertDone(instance.command(command, "--json")).stdout)
            named = set(re.findall(r"\w+", page("sherd-" + command))) | figures
            self.assertEqual(set(members(told, elsewhere)) - named, set(), command)

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
