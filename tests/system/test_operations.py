# SPDX-License-Identifier: MIT
"""What an operator orders: rolling restart under load, drain and back, the way back of what is given up."""
import contextlib
import hashlib
import json
import os
import pwd
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

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


class OrderCase(harness.TestCase):
    @contextlib.contextmanager
    def request(self, instance):
        """One that is under way until the block ends: the shards stand still."""
        pids = [instance.wait_for_shard(number)["pid"] for number in (0, 1)]
        for pid in pids:
            instance.kill(pid, signal.SIGSTOP)
        try:
            request = instance.popen("submit", "sys.ping", stdout=subprocess.DEVNULL)
            wait_until(lambda: instance.gateway()["clients"]["requests_in_flight"], "the request to be taken")
            yield request
        finally:
            for pid in pids:
                instance.kill(pid, signal.SIGCONT)


class Restart(OrderCase):
    def pairs(self, instance):
        return json.loads(self.assertDone(instance.command("queues", "--json")).stdout)["pairs"]

    def test_rolling_restart_under_load_fails_no_request(self):
        files = Files(300)
        instance = self.start("--shards", "3", "--root", files.folder.name)
        loads = [Load(instance, "submit", "file.sha256", *files.names),
                 Load(instance, "submit", "--unordered", "sys.sleep", *["20"] * 100),
                 Load(instance, "submit", "sys.echo", *["word"] * 200),
                 Load(instance, "submit", "--unordered", "sys.wander", *["5"] * 100)]
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
        moves = [int(line) for output in loads[3].outputs for line in output.split()]
        self.assertGreater(max(moves), 0)  # they did go round
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

    def test_a_shard_that_is_never_idle_is_restarted_because_new_calls_wait(self):
        instance = self.start("--shards", "2")
        loads = [Load(instance, "submit", "--shard", "1", "--unordered", "sys.sleep",
                      *(str(10 + i * 37 % 190) for i in range(2000))) for _ in range(3)]
        for load in loads:
            load.start()
        try:
            wait_until(lambda: instance.shard(1)["calls_in"] > 50, "the load")
            self.assertDone(instance.command("restart", "1", "--limit", "0.7"))
        finally:
            for load in loads:
                load.ends.set()
            for load in loads:
                load.join()
        self.assertEqual([load.failures for load in loads], [[]] * 3)
        self.assertEqual((instance.shard(1)["incarnation"], instance.shard(1)["deaths"]), (2, 0))

    def test_at_the_limit_it_is_cut_off_as_if_it_had_died_and_that_is_told(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        with instance.popen("submit", "--shard", "1", "sys.sleep", "600000", stderr=subprocess.DEVNULL) as sleeper:
            wait_until(lambda: instance.shard(1)["calls_in"], "the sleep to begin")
            self.assertRefused(instance.command("restart", "1", "--limit", "0.1"), "1 calls were in flight")
            instance.wait_for_shard(1, incarnation=2)
            wait_until(lambda: instance.shard(1)["calls_in"], "it to begin again, as it may")
            sleeper.send_signal(signal.SIGINT)
            self.assertEqual(sleeper.wait(harness.DEADLINE), 130)
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
        with instance.popen("submit", "--shard", "0", "sys.sleep", "600000", stderr=subprocess.DEVNULL) as sleeper:
            wait_until(lambda: instance.shard(0)["calls_in"], "the sleep to begin")
            restart = instance.popen("restart", "0")
            instance.kill(instance.wait_for_shard(0, state="restarting"))
            self.assertEqual(restart.wait(harness.DEADLINE), 0)
            instance.wait_for_shard(0, incarnation=2)
            wait_until(lambda: instance.shard(0)["calls_in"], "it to begin again")
            sleeper.send_signal(signal.SIGINT)
            self.assertEqual(sleeper.wait(harness.DEADLINE), 130)
        self.assertEqual(instance.stop(), 0)

    def test_the_gateway_finishes_what_it_has_and_clients_come_again(self):
        instance = self.start("--shards", "2")
        with self.request(instance) as request:
            restart = instance.popen("restart", "gateway")
            instance.wait_for("gateway", state="draining")
        self.assertEqual((restart.wait(harness.DEADLINE), request.wait(harness.DEADLINE)), (0, 0))
        self.assertDone(instance.command("submit", "sys.ping"))
        self.assertEqual((instance.gateway()["incarnation"], instance.gateway()["deaths"]), (2, 0))

    def test_a_second_order_is_refused_while_one_is_carried_out(self):
        instance = self.start("--shards", "2", "--drain-limit", "0.3")
        with instance.popen("submit", "--shard", "0", "sys.sleep", "600000", stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL) as sleeper:
            wait_until(lambda: instance.shard(0)["calls_in"], "the sleep to begin")
            with instance.popen("restart", "--limit", "600", stderr=subprocess.PIPE) as restart:
                instance.wait_for_shard(0, state="restarting")
                self.assertRefused(instance.command("restart", "1"), "another order")
                self.assertEqual(instance.stop(), 0)  # a stop goes first
                self.assertEqual(restart.wait(harness.DEADLINE), 1)
            sleeper.wait(harness.DEADLINE)

    def test_wrong_targets_are_refused(self):
        instance = self.start("--shards", "2")
        for target in ("2", "-1", "shard", "gatewa"):
            self.assertRefused(instance.command("restart", "--", target), target, status=2)


class Drain(OrderCase):
    def test_a_drained_instance_finishes_refuses_stays_up_and_goes_on(self):
        instance = self.start("--shards", "2")
        with self.request(instance) as request:
            drain = instance.popen("drain")
            wait_until(lambda: instance.status()["state"] == "draining", "the drain to begin")
            self.assertIsNone(drain.poll())
        self.assertEqual((drain.wait(harness.DEADLINE), request.wait(harness.DEADLINE)), (0, 0))
        wait_until(lambda: instance.status()["state"] == "drained", "each process to be drained")
        self.assertIn("drained;", self.assertDone(instance.command("status")).stdout)
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
        with self.request(instance) as request:
            self.assertRefused(instance.command("drain", "--limit", "0.1"), "1 calls")
        self.assertEqual(request.wait(harness.DEADLINE), 0)
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


class Degraded(harness.TestCase):
    def crash(self, instance, number, times):
        for _ in range(times):
            instance.kill_and_wait("shard", number, signal.SIGSEGV)
        instance.kill(instance.wait_for_shard(number), signal.SIGSEGV)
        instance.wait_for_shard(number, state="failed")

    def test_a_shard_at_its_crash_loop_limit_under_load_is_given_up_and_the_instance_says_so(self):
        with Notifications() as notifications:
            instance = self.start("--shards", "2", "--crash-limit", "3", environment=notifications.environment)
            load = Load(instance, "submit", "--unordered", "sys.sleep", *["5"] * 50)
            load.start()
            try:
                self.crash(instance, 1, 2)
                wait_until(lambda: instance.status()["state"] == "degraded", "it to say so")
                status = instance.command("status")
                self.assertEqual(status.returncode, 1)
                self.assertIn("degraded", status.stdout)
                self.assertIn("shard 1", notifications.wait_for("STATUS=degraded"))
                self.assertIn("the instance is degraded, given up: shard 1", instance.log())
                # Who asks for that shard is told at once; the other one goes on.
                self.assertRefused(instance.command("submit", "--shard", "1", "sys.ping"), "not started", "given up")
                self.assertDone(instance.command("submit", "--shard", "0", "sys.ping"))
                # And back, by order.
                self.assertDone(instance.command("restart", "1"))
                instance.wait_for_shard(1)
                self.assertDone(instance.command("submit", "--shard", "1", "sys.ping"))
                self.assertEqual(instance.status()["state"], "up")
                self.assertEqual(instance.command("status").returncode, 0)
                self.assertIn("whole again", instance.log())
            finally:
                load.ends.set()
                load.join()
            self.assertDone(instance.command("audit"))
            # Its crashes are forgotten: it takes the whole number again.
            self.crash(instance, 1, 2)
            self.assertEqual(instance.stop(), 0)

    def test_sighup_changes_the_limits_and_names_what_needs_a_restart(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
            def write(text):
                config.seek(0)
                config.truncate()
                config.write(text)
                config.flush()
            write("shards = 2\ncrash-limit = 9\n")
            instance = self.start("--config", config.name)
            write("shards = 3\ncrash-limit = 1\nengine = threads\n")
            instance.kill(instance.supervisor.pid, signal.SIGHUP)
            instance.wait_for_log("need a restart: shards, engine")
            instance.wait_for_log("reloaded")
            instance.kill(instance.shard(0), signal.SIGSEGV)
            instance.wait_for_shard(0, state="failed")
            self.assertIn("crash 1 within 60 s", instance.log())


class Reload(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.TemporaryDirectory(prefix="sherd-reload-")
        self.addCleanup(self.folder.cleanup)
        self.roots = [os.path.join(self.folder.name, name) for name in ("one", "two")]
        for root in self.roots:
            os.mkdir(root)
            with open(os.path.join(root, "file"), "w") as file:
                file.write("text")
        self.config = os.path.join(self.folder.name, "config")

    def write(self, *lines):
        with open(self.config, "w") as config:
            config.write("\n".join(["shards = 2", *lines, ""]))

    def reload(self, instance):
        n_before = instance.log().count("reloaded: log level")
        instance.kill(instance.supervisor.pid, signal.SIGHUP)
        wait_until(lambda: instance.log().count("reloaded: log level") > n_before, "it to be read again")

    def reads(self, instance):
        """Which roots can be reached, in each shard."""
        return [[instance.command("submit", "--shard", str(shard), "file.stat", root + "/file").returncode == 0
                 for root in self.roots] for shard in (0, 1)]

    def wait_for_settings(self, instance, times):
        wait_until(lambda: instance.log().count("all shards have the new settings") == times, "the new settings")

    def test_roots_come_and_go_by_a_sighup_and_no_request_fails(self):
        self.write(f"root = {self.roots[0]}")
        instance = self.start("--config", self.config)
        load = Load(instance, "submit", "--unordered", "sys.sleep", *["5"] * 50)
        load.start()
        try:
            self.assertEqual(self.reads(instance), [[True, False]] * 2)
            self.write(*(f"root = {root}" for root in self.roots))
            self.reload(instance)
            self.wait_for_settings(instance, 1)
            self.assertEqual(self.reads(instance), [[True, True]] * 2)
            self.write(f"root = {self.roots[1]}")
            self.reload(instance)
            self.wait_for_settings(instance, 2)
            self.assertEqual(self.reads(instance), [[False, True]] * 2)
        finally:
            load.ends.set()
            load.join()
        self.assertEqual(load.failures, [])
        self.assertEqual([(instance.shard(n)["deaths"], instance.shard(n)["restarts"]) for n in (0, 1)], [(0, 2)] * 2)
        self.assertEqual(instance.stop(), 0)

    def test_a_root_that_is_not_there_changes_nothing(self):
        self.write(f"root = {self.roots[0]}", "crash-limit = 9")
        instance = self.start("--config", self.config)
        self.write(f"root = {self.roots[1]}", "root = /nonexistent", "crash-limit = 1")
        self.reload(instance)
        instance.wait_for_log("nothing reloaded: --root /nonexistent: ")
        instance.kill_and_wait("shard", 0, signal.SIGSEGV)  # the old limit
        self.assertEqual(self.reads(instance), [[True, False]] * 2)  # and the old roots, in the new shard too
        self.assertEqual(instance.shard(1)["restarts"], 0)
        self.assertEqual(instance.stop(), 0)

    def test_roots_that_change_while_an_order_is_carried_out_wait_for_its_end(self):
        self.write(f"root = {self.roots[0]}")
        instance = self.start("--config", self.config)
        process = instance.shard(0)
        instance.kill(process, signal.SIGSTOP)  # it leaves when the case lets it, however fast the machine
        try:
            with instance.popen("restart", "0") as restart:
                instance.wait_for_shard(0, state="restarting")
                self.write(f"root = {self.roots[1]}")
                self.reload(instance)
                instance.kill(process, signal.SIGCONT)
                self.assertEqual(restart.wait(harness.DEADLINE), 0)
        finally:
            with contextlib.suppress(ProcessLookupError):
                instance.kill(process, signal.SIGCONT)
        self.wait_for_settings(instance, 1)
        self.assertEqual(self.reads(instance), [[False, True]] * 2)
        self.assertEqual(instance.stop(), 0)


class Notifications:
    """The service manager's end of systemd's notify socket."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="sherd-notify-")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = os.path.join(self.folder.name, "socket")
        self.socket.bind(path)
        self.socket.settimeout(harness.DEADLINE)
        self.environment = {"NOTIFY_SOCKET": path}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.folder.cleanup()

    def wait_for(self, text):
        while True:
            message = self.socket.recv(4096).decode()
            if text in message:
                return message


class Placement(harness.TestCase):
    @unittest.skipIf(len(os.sched_getaffinity(0)) < 2, "needs two CPUs")
    def test_shards_are_pinned_anew_when_other_cpus_are_allowed(self):
        cpus = sorted(os.sched_getaffinity(0))[:2]
        instance = self.start("--shards", "2", prefix=["taskset", "-c", f"{cpus[0]},{cpus[1]}"])
        self.assertEqual([instance.shard(n)["core"] for n in (0, 1)], cpus)
        self.assertGreater(instance.status()["spin_ns"], 0)
        os.sched_setaffinity(instance.supervisor.pid, {cpus[0]})
        instance.wait_for_log("1 core for 2 shards")
        for number in (0, 1):
            shard = instance.wait_for_shard(number, core=None)
            for tid in os.listdir(f"/proc/{shard['pid']}/task"):
                with contextlib.suppress(ProcessLookupError):  # one that idled too long has left
                    self.assertEqual(os.sched_getaffinity(int(tid)), {cpus[0]})
        self.assertEqual(instance.status()["spin_ns"], 0)  # they would take turns in vain
        instance.kill_and_wait("shard", 1)
        self.assertEqual(os.sched_getaffinity(instance.shard(1)["pid"]), {cpus[0]})
        os.sched_setaffinity(instance.supervisor.pid, set(cpus))
        instance.wait_for_log("2 cores for 2 shards")
        for number in (0, 1):
            shard = instance.wait_for_shard(number, core=cpus[number])
            self.assertEqual(os.sched_getaffinity(shard["pid"]), {cpus[number]})
        self.assertGreater(instance.status()["spin_ns"], 0)

    def test_wake_latency_is_held_or_it_is_told_why_not(self):
        instance = self.start("--shards", "1", "--wake-latency", "low")
        if "/dev/cpu_dma_latency" in harness.open_files(instance.supervisor.pid).values():
            self.assertEqual(instance.status()["wake_latency"], "low")
        else:
            self.assertIn("--wake-latency low: /dev/cpu_dma_latency", instance.log())
            self.assertEqual(instance.status()["wake_latency"], "default")
        self.assertNotIn("/dev/cpu_dma_latency", harness.open_files(instance.shard(0)["pid"]).values())


class User(harness.TestCase):
    def ids(self, pid, name):
        with open(f"/proc/{pid}/status") as status:
            return next(line.split()[1:] for line in status if line.startswith(name + ":"))

    @unittest.skipIf(os.geteuid() != 0, "only root can become another user")
    def test_root_becomes_another_user_before_anything_is_made(self):
        instance = self.instance()
        os.chmod(instance.scratch, 0o755)
        instance.run("--shards", "2", "--user", "nobody")
        wait_until(lambda: "ready in" in instance.log(), "it to be ready")
        nobody = pwd.getpwnam("nobody")
        as_nobody = {"user": "nobody", "group": nobody.pw_gid, "extra_groups": []}
        status = json.loads(instance.command("status", "--json", **as_nobody).stdout)
        for process in status["processes"]:
            self.assertEqual(self.ids(process["pid"], "Uid"), [str(nobody.pw_uid)] * 4)
            self.assertEqual(self.ids(process["pid"], "Gid"), [str(nobody.pw_gid)] * 4)
            self.assertNotIn("0", self.ids(process["pid"], "Groups"))
            self.assertEqual(self.ids(process["pid"], "CapEff"), ["0" * 16])
            owner = os.stat(f"/proc/{process['pid']}/maps").st_uid  # root, where it may not be traced nor dumped
            self.assertEqual(owner, nobody.pw_uid)
        directory = os.path.join(instance.runtime_dir, instance.name)
        for path in (directory, os.path.realpath(os.path.join(directory, "segment"))):
            self.assertEqual(os.stat(path).st_uid, nobody.pw_uid)
        self.assertDone(instance.command("submit", "sys.ping", **as_nobody))
        instance.kill(next(p for p in status["processes"] if p.get("shard") == 0))
        instance.wait_for_log("is up again")
        self.assertNotIn("running as root", instance.log())
        self.assertDone(instance.command("stop", **as_nobody))
        self.assertEqual(instance.wait_exit(), 0)

    @unittest.skipIf(os.geteuid() != 0, "needs root")
    def test_running_as_root_is_warned_of(self):
        instance = self.start("--shards", "1")
        self.assertEqual(instance.log().count("running as root"), 1)

    def test_a_user_that_is_not_there_is_refused(self):
        self.assertRefused(self.instance().command("run", "--user", "no-such-user"), "no-such-user")


class Supervisor(harness.TestCase):
    def test_orphans_take_nothing_new_and_fail_what_waits_for_the_dead(self):
        instance = self.start("--shards", "2")
        instance.kill(instance.shard(1), signal.SIGSTOP)  # so that its calls wait
        with instance.popen("submit", "--shard", "1", "sys.ping", stderr=subprocess.PIPE, text=True) as waiting:
            wait_until(lambda: instance.gateway()["clients"]["requests_in_flight"], "the call")
            pids = [p["pid"] for p in instance.processes()[1:]]
            shard = instance.shard(1)
            instance.kill(instance.supervisor.pid)
            instance.kill(shard)
            instance.wait_exit()
            wait_until(lambda: not any(map(harness.is_alive, pids)), "the orphans to leave")
            self.assertNotEqual(waiting.wait(harness.DEADLINE), 0)
            # It was told so by an answer; it did not just lose its connection.
            self.assertIn("the supervisor of the instance is gone", waiting.stderr.read())

    def test_the_lock_is_held_until_the_last_orphan_is_gone_and_a_new_start_waits_for_it(self):
        instance = self.start("--shards", "2")
        orphan = instance.shard(0)
        instance.kill(orphan, signal.SIGSTOP)
        instance.kill(instance.supervisor.pid)
        instance.wait_exit()
        second = instance.run("--shards", "2")
        lock = os.path.join(instance.runtime_dir, instance.name, "lock")

        wait_until(lambda: lock in harness.open_files(second.pid).values(), "the second one to come to the lock")
        self.assertEqual(instance.log().count("ready in"), 1)
        self.assertIsNone(second.poll())
        instance.kill(orphan, signal.SIGKILL)
        instance.wait_ready()
        self.assertEqual(instance.stop(), 0)

    def test_supervisor_stopped_while_a_shard_dies_replaces_it_when_it_goes_on(self):
        instance = self.start("--shards", "2")
        old = instance.shard(1)
        instance.kill(instance.supervisor.pid, signal.SIGSTOP)
        instance.kill(old)
        with instance.popen("submit", "--shard", "1", "sys.ping", stdout=subprocess.DEVNULL) as ping:
            wait_until(lambda: instance.gateway()["clients"]["requests_in_flight"], "the call to be taken")
            self.assertDone(instance.command("submit", "--shard", "0", "sys.ping"))
            instance.kill(instance.supervisor.pid, signal.SIGCONT)
            self.assertEqual(ping.wait(harness.DEADLINE), 0)
        instance.wait_for_shard(1, incarnation=old["incarnation"] + 1)
        self.assertEqual(instance.stop(), 0)

    def test_supervisor_killed_while_a_shard_dies_leaves_nothing_hanging(self):
        for first, second in (("supervisor", "shard"), ("shard", "supervisor")):
            with self.subTest(first=first):
                instance = self.start("--shards", "2")
                pids = {"supervisor": instance.supervisor.pid, "shard": instance.shard(1)["pid"]}
                others = [p["pid"] for p in instance.processes()[1:]]
                with instance.popen("submit", "--unordered", "sys.sleep", *[harness.lasting_ms(100)] * 100,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
                    wait_until(lambda: instance.shard(1)["calls_in"], "calls to it")
                    instance.kill(pids[first])
                    instance.kill(pids[second])
                    instance.wait_exit()
                    load.wait(harness.DEADLINE)
                wait_until(lambda: not any(map(harness.is_alive, others)), "all to be gone")
                self.assertDone(instance.start("--shards", "2").command("submit", "sys.ping"))
                self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
