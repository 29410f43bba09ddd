# SPDX-License-Identifier: MIT
"""The supervisor: what it forks, what it refuses, and what it reads."""
import mmap
import os
import resource
import select
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import harness

GREETER = os.path.join(os.path.dirname(os.path.realpath(harness.program())), "examples", "greeter", "greeter.so")
from harness import wait_until



def comm(pid):
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()


def address_of(pid, path):
    """Where the process has the file mapped."""
    inode = str(os.stat(path).st_ino)
    with open(f"/proc/{pid}/maps") as maps:
        return next(line.split("-")[0] for line in maps if line.split()[4] == inode and "/dev/shm" in line)


def writable_pages(pid, path):
    """Which pages of the file the process may write."""
    inode, pages = str(os.stat(path).st_ino), set()
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            addresses, access, offset, _, of_inode = line.split()[:5]
            if of_inode == inode and "/dev/shm" in line and "w" in access:
                begin, end = (int(address, 16) for address in addresses.split("-"))
                first = int(offset, 16) // mmap.PAGESIZE
                pages |= set(range(first, first + (end - begin) // mmap.PAGESIZE))
    return pages


class Start(harness.TestCase):
    def test_all_processes_come_up_named_and_at_the_same_addresses(self):
        instance = self.start("--shards", "2")
        names = sorted(comm(p["pid"]) for p in instance.processes())
        self.assertEqual(names, ["sherd", "sherd-gateway", "sherd-shard-0", "sherd-shard-1"])
        path = os.path.join(instance.runtime_dir, "test", "segment")
        self.assertEqual(len({address_of(p["pid"], path) for p in instance.processes()}), 1)
        self.assertEqual(instance.stop(), 0)
        self.assertEqual(instance.segments(), [])
        self.assertIsNone(instance.status())

    def test_no_two_processes_may_write_the_same_memory_but_the_commons(self):
        instance = self.start("--shards", "3")
        instance.kill_and_wait("shard", 1)
        instance.wait_for_shard(1, state="up", incarnation=2)
        path = os.path.join(instance.runtime_dir, "test", "segment")
        pages = {p["pid"]: writable_pages(p["pid"], path) for p in instance.processes()}
        commons = set.intersection(*pages.values())
        self.assertEqual(len(pages), 5)
        self.assertTrue(commons)
        for pid, own in pages.items():
            others = set().union(*(pages[other] for other in pages if other != pid))
            self.assertEqual(own & others, commons)
            self.assertTrue(own - commons)
            self.assertNotIn(0, own)

    def test_children_keep_no_fd_that_is_not_theirs(self):
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        try:
            instance = self.instance()
            instance.start("--shards", "2", pass_fds=[writer])
            pipe = os.readlink(f"/proc/self/fd/{writer}")
            self.assertIn(pipe, harness.open_files(instance.supervisor.pid).values())
            for process in instance.processes()[1:]:
                files = harness.open_files(process["pid"])
                self.assertNotIn(pipe, files.values())
                self.assertFalse([f for f in files.values() if "signalfd" in f])
        finally:
            os.close(reader)
            os.close(writer)

    def test_shards_are_pinned_and_the_gateway_is_not(self):
        allowed = os.sched_getaffinity(0)
        if len(allowed) < 2:
            self.skipTest("one CPU is allowed")
        instance = self.start("--shards", "2")
        cores = set()
        for number in (0, 1):
            shard = instance.shard(number)
            self.assertIn(shard["core"], os.sched_getaffinity(shard["pid"]))
            self.assertLess(os.sched_getaffinity(shard["pid"]), allowed)
            cores.add(shard["core"])
        self.assertEqual(len(cores), 2)
        self.assertIsNone(instance.gateway()["core"])
        self.assertEqual(os.sched_getaffinity(instance.gateway()["pid"]), allowed)

    def test_no_pin_leaves_shards_where_they_may_be(self):
        instance = self.start("--shards", "1", "--no-pin")
        self.assertIsNone(instance.shard(0)["core"])
        self.assertEqual(os.sched_getaffinity(instance.shard(0)["pid"]), os.sched_getaffinity(0))

    def test_one_allowed_core_makes_one_shard(self):
        core = min(os.sched_getaffinity(0))
        instance = self.start(prefix=["taskset", "-c", str(core)])
        self.assertEqual(len([p for p in instance.processes() if p["role"] == "shard"]), 1)
        self.assertEqual(instance.shard(0)["core"], core)
        self.assertEqual(instance.stop(), 0)

    def test_more_shards_than_cores_run_unpinned(self):
        n_shards = 2 * len(os.sched_getaffinity(0)) + 4
        instance = self.start("--shards", str(n_shards))
        shards = [p for p in instance.processes() if p["role"] == "shard"]
        self.assertEqual(len(shards), n_shards)
        self.assertEqual({p["core"] for p in shards}, {None})
        self.assertEqual(instance.stop(), 0)

    def test_two_shards_are_soon_ready_and_say_so_to_the_service_manager(self):
        best = float("inf")
        for _ in range(5):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager, \
                    tempfile.TemporaryDirectory() as folder:
                address = os.path.join(folder, "notify")
                manager.bind(address)
                manager.settimeout(harness.DEADLINE)
                instance = self.instance(environment={"NOTIFY_SOCKET": address})
                began = time.monotonic()
                instance.run("--shards", "2")
                message = manager.recv(4096).decode()
                best = min(best, time.monotonic() - began)
                self.assertIn("READY=1", message.split("\n"))
                self.assertEqual(instance.stop(), 0)
        print(f"ready after {1000 * best:.1f} ms, the best of 5")  # tests/bench/bench_recovery judges it
        self.assertLess(best, harness.DEADLINE)

    def test_watchdog_of_the_service_manager_is_fed(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager, \
                tempfile.TemporaryDirectory() as folder:
            address = os.path.join(folder, "notify")
            manager.bind(address)
            manager.settimeout(harness.DEADLINE)
            instance = self.instance(environment={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"})
            instance.run("--shards", "1")
            fed = 0
            while fed < 5:
                fed += manager.recv(4096) == b"WATCHDOG=1"
            self.assertEqual(instance.stop(), 0)

    def test_log_that_nobody_reads_stops_nothing(self):
        reader, writer = os.pipe()
        try:
            while select.select([], [writer], [], 0)[1]:
                os.write(writer, b"x" * 4096)
            instance = self.instance()
            instance.supervisor = instance.popen("run", "--shards", "1", "--log-level", "debug", stderr=writer)
            instance.wait_ready()
            instance.kill_and_wait("shard", 0)
            self.assertEqual(instance.stop(), 0)
        finally:
            os.close(reader)
            os.close(writer)

    def test_each_engine_can_be_chosen(self):
        for engine in ("io_uring", "linux-aio", "threads"):
            with self.subTest(engine):
                instance = self.start("--shards", "1", "--engine", engine)
                self.assertEqual(instance.shard(0)["engine"], engine)
                self.assertEqual(instance.stop(), 0)

    def test_without_io_uring_it_falls_back_and_says_so(self):
        instance = self.start("--shards", "1", preexec_fn=harness.deny_io_uring)
        self.assertEqual(instance.shard(0)["engine"], "linux-aio")
        self.assertRegex(instance.log(), r"shard 0 notice engine linux-aio.*io_uring: Operation not permitted")
        self.assertEqual(instance.stop(), 0)

    def test_engine_that_does_not_work_is_an_error_by_name(self):
        instance = self.instance()
        instance.run("--shards", "1", "--engine", "io_uring", preexec_fn=harness.deny_io_uring)
        self.assertEqual(instance.wait_exit(), 1)
        self.assertIn("engine io_uring does not work here: Operation not permitted", instance.log())

    def too_often(self, pids, seconds):
        """Who slept more often in that time than twice a second."""
        began = time.monotonic()
        before = {pid: harness.n_sleeps(pid) for pid in pids}
        time.sleep(seconds)  # what is measured is how little happens in it
        woken = {pid: harness.n_sleeps(pid) - before[pid] for pid in pids}
        limit = 2 * (time.monotonic() - began) + 1  # a look at both ends of the time is one more
        return {pid: times for pid, times in woken.items() if times > limit}

    def test_idle_processes_wake_up_at_most_twice_a_second(self):
        instance = self.start("--shards", "2")
        pids = [p["pid"] for p in instance.processes()]
        # Something else may wake one now and then: then not again.
        self.assertTrue(any(not self.too_often(pids, 3) for _ in range(3)), f"of {pids}, the supervisor first")


class Refusals(harness.TestCase):
    def refused(self, *arguments, status=2, **options):
        instance = self.instance()
        result = instance.command("run", *arguments, **options)
        self.assertEqual(result.returncode, status, result.stderr)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        self.assertEqual(instance.segments(), [])
        return result.stderr

    def test_bad_options_are_refused_by_name(self):
        for arguments, text in (
                (["--shards", "0"], "1 to 128"),
                (["--shards", "129"], "1 to 128"),
                (["--engine", "warp"], "io_uring, linux-aio or threads"),
                (["--log-level", "loud"], "debug"),
                (["--set", "nonsense"], "SERVICE.KEY=VALUE"),
                (["--listen", "tcp://127.0.0.1:1"], "--token-file"),
                (["--listen", "ws://127.0.0.1:1/"], "tls+tcp://ADDRESS:PORT"),
                (["--listen", "inproc://x"], "tls+tcp://ADDRESS:PORT"),
                (["surplus"], "surplus"),
                (["--no-such-option"], "no-such-option")):
            with self.subTest(arguments):
                self.assertIn(text, self.refused(*arguments))

    def test_what_can_not_be_done_is_refused_with_the_reason(self):
        for arguments, text in (
                (["--root", "/nonexistent"], "sherd: --root /nonexistent: "),
                (["--service", "/nonexistent.so"], "/nonexistent.so"),
                (["--set", "nobody.key=value"], "nobody"),
                (["--fates-memory", "1"], "--fates-memory: 1 bytes"),
                (["--fates-memory", "100G"], "--fates-memory: 107374182400 bytes"),
                (["--segment-size", "64K"], "--segment-size")):
            with self.subTest(arguments):
                self.assertIn(text, self.refused(*arguments, status=1))

    def test_a_limit_on_the_size_of_files_is_an_error_that_says_so(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000000, 1000000))
        self.assertIn("File too large", self.refused(status=1, preexec_fn=limit))

    def test_bad_instance_name_is_refused(self):
        result = subprocess.run([harness.program(), "run", "--instance", "../x"],
                                capture_output=True, text=True, timeout=harness.DEADLINE)
        self.assertRefused(result, "../x")

    def test_second_run_of_an_instance_is_refused_and_disturbs_nothing(self):
        instance = self.start("--shards", "1")
        before = instance.processes()
        result = instance.command("run", "--shards", "1")
        self.assertRefused(result, "runs already", str(instance.supervisor.pid))
        self.assertEqual([p["pid"] for p in instance.processes()], [p["pid"] for p in before])

    def test_unknown_instance_is_refused_with_those_that_run(self):
        instance = self.start("--shards", "1")
        other = subprocess.run(
            [harness.program(), "status", "--instance", "other", "--wait", "0"],
            capture_output=True, text=True, env=instance.environment, timeout=harness.DEADLINE)
        self.assertRefused(other, "other", "test")

    def test_first_start_that_fails_ends_everything_with_the_reason(self):
        with socket.socket() as taken, tempfile.NamedTemporaryFile("w") as token:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            token.write("0123456789abcdef0123456789abcdef\n")
            token.flush()
            instance = self.instance()
            instance.run("--shards", "2", "--listen", f"tcp://127.0.0.1:{taken.getsockname()[1]}",
                         "--token-file", token.name)
            self.assertEqual(instance.wait_exit(), 1)
        self.assertIn("gateway could not start", instance.log())
        self.assertEqual(instance.segments(), [])

    @unittest.skipUnless(harness.own_tmpfs(1), "can't mount a tmpfs here")
    def test_the_64_mib_of_a_container_are_enough(self):
        instance = self.instance()
        instance.run("--shards", "8", prefix=harness.own_tmpfs(64))
        instance.wait_for_log("ready in")
        instance.supervisor.send_signal(signal.SIGTERM)
        self.assertEqual(instance.wait_exit(), 0)

    def test_small_limit_on_open_files_is_an_error_that_says_what_to_do(self):
        instance = self.instance()
        instance.run("--shards", "2", prefix=["prlimit", "--nofile=256:256"])
        self.assertEqual(instance.wait_exit(), 1)
        self.assertIn("LimitNOFILE", instance.log())


class Config(harness.TestCase):
    def write(self, text):
        with open(self.path, "w") as config:
            config.write(text)

    def setUp(self):
        super().setUp()
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "sherd.conf")

    def tearDown(self):
        self.folder.cleanup()
        super().tearDown()

    def test_file_gives_options_and_the_command_line_wins(self):
        self.write("# two of them\nshards = 2\nroot = /usr\nroot = /etc\nno-pin = yes\n"
                   "engine = threads\n")
        instance = self.start("--config", self.path, "--engine", "linux-aio")
        self.assertEqual(instance.shard(1)["engine"], "linux-aio")
        self.assertIsNone(instance.shard(1)["core"])

    def test_sections_are_settings_of_services_and_sherd_s_own(self):
        self.write(f"shards = 1\n[greeter]\nname = Ada\n[sherd]\nservice = {GREETER}\nno-pin = yes\n")
        instance = self.start("--config", self.path)
        self.assertIsNone(instance.shard(0)["core"])
        self.assertIn("Hello Ada", self.assertDone(instance.command("submit", "greeter.hello")).stdout)
        self.write(f"service = {GREETER}\n[greeter]\nnme = Ada\n")
        self.assertRefused(self.instance("other").command("run", "--config", self.path), "greeter.nme=Ada: there is no such setting")
        self.write("[nobody]\nkey = value\n")
        self.assertRefused(self.instance("other").command("run", "--config", self.path), "no service named nobody")

    def test_errors_are_told_with_their_line(self):
        for text, expected in (
                ("shards = 2\nshard = 3\n", "line 2: there is no key shard"),
                ("shards = many\n", "line 1: shards has to be a number"),
                ("no-pin = maybe\n", "line 1: no-pin has to be yes or no"),
                ("shards\n", "line 1: neither KEY = VALUE"),
                ("# fine\nroot = /" + "x" * 300 + "\n", "line 2: it is longer than 198 bytes"),
                ("config = other\n", "line 1: there is no key config")):
            with self.subTest(text[:40]):
                self.write(text)
                result = self.instance().command("run", "--config", self.path)
                self.assertRefused(result, expected, status=2)

    def test_file_that_can_not_be_read_is_refused(self):
        for path, why in ((self.path, "No such file"), (self.folder.name, "Is a directory")):
            result = self.instance().command("run", "--config", path)
            self.assertRefused(result, path, why, status=2)

    def test_sighup_reads_the_log_level_again(self):
        self.write("shards = 1\nlog-level = info\n")
        instance = self.start("--config", self.path)
        self.write("shards = 1\nlog-level = debug\n")
        instance.kill(instance.supervisor.pid, signal.SIGHUP)
        instance.wait_for_log("log level is debug")
        self.write("shards = 1\nlog-level = loud\n")
        instance.kill(instance.supervisor.pid, signal.SIGHUP)
        instance.wait_for_log("nothing reloaded")
        self.assertEqual(instance.stop(), 0)
        self.assertIn("supervisor debug leaving, was draining", instance.log())


if __name__ == "__main__":
    harness.main()
