# SPDX-License-Identifier: MIT
"""Clients of the data plane die at each store to what they share with a shard and at each system call, handshake
included: nothing of theirs is left, and nobody else notices. SHERD_TEST_LONG=1 tries many more hits of each point."""
import collections
import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import attach_client
import fuse
import harness
from reclaim import ENDING, FREE, Holdings
from test_attach import method, push

MIB = 1024 * 1024
RECLAIM_NS = 10_000_000
DEATHS = 100 if harness.LONG else 2 if harness.SANITIZED else 5  # at each point
FEW = 20 if harness.LONG else 1
TRIES = 20
Point = collections.namedtuple("Point", "what at n_hits")


def spread(n_hits, n):
    """n of n_hits, the first and the last among them; where those are fewer, some again."""
    return [1 + (n_hits - 1) * i // max(n - 1, 1) for i in range(n)]


class TestCase(harness.TestCase):
    def setUp(self):
        self.steady = self.holdings = None
        super().setUp()

    def tearDown(self):
        if self.steady:
            self.steady.kill()
            self.steady.communicate()
        if self.holdings:
            self.holdings.close()
        super().tearDown()

    def begin(self, *options, data=MIB, steady=True, file=None):
        """An instance with memory for two clients at a time, one that lives on (steady), and a file to be read."""
        self.data = data
        self.times = collections.defaultdict(list)  # by point: what time_until_reclaimed() says
        self.again = {}  # by point: dies there once more
        self.file = file or self.make_file()
        self.sherd = self.start("--root", os.path.dirname(self.file), "--client-memory", str(4 * MIB + data), *options)
        self.holdings = Holdings(self.sherd)
        if steady:
            self.steady = self.client("--steady", stdin=subprocess.PIPE)
            harness.wait_until(lambda: len(self.holdings.lanes_in_use()) == len(self.holdings.lanes),
                               "lanes of who lives on")
        self.before = self.holdings.take()
        return self.sherd

    def make_file(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.join(folder.name, "file")
        with open(path, "wb") as file:
            file.write(bytes(64 * 1024))
        return path

    def client(self, *options, **more):
        return subprocess.Popen([os.environ["DOOMED_CLIENT"], self.sherd.name, *options], stdout=subprocess.PIPE,
                                text=True, env=self.sherd.environment, **more)

    def end_steady(self):
        """Ends it as it should: all it asked for was answered rightly. (answers, longest in ns)"""
        out, _ = self.steady.communicate()
        status, self.steady = self.steady.returncode, None
        self.assertEqual(status, 0)
        return map(int, out.split())

    def doomed(self, *options):
        return self.client("--file", self.file, "--data", str(self.data), *options)

    def points(self, *options):
        with self.doomed(*options) as client:
            lines = client.stdout.readlines()
        self.assertEqual(client.returncode, 0)
        self.wait_until_reclaimed("a client that closed")
        return [Point(what, at, int(n)) for what, at, n in map(str.split, lines)]

    # ---- what is left ----

    def wait_until_reclaimed(self, what):
        """All that others had of it is gone."""
        left = [None]

        def nothing():
            left[0] = self.holdings.differ(self.before)
            return not left[0]
        try:
            harness.wait_until(nothing, "")
        except AssertionError:
            self.fail(f"{what}: {left[0]}")

    def time_until_reclaimed(self, what, killed=None):
        """The same, looked at closely, of a client that is gone: (ns since it was killed, ns since now without the time in
        which a loop had no processor). What counts is when the look began that found nothing: with many processes one
        takes milliseconds."""
        looked = begin = time.monotonic_ns()
        waited = self.holdings.waited_ns()
        while self.holdings.differ(self.before):
            if looked > begin + 1_000_000_000:
                self.wait_until_reclaimed(what)
            time.sleep(0.0001)  # between two looks, not for the state
            looked = time.monotonic_ns()
        return looked - (killed or begin), max(looked - begin - (self.holdings.waited_ns() - waited), 0)

    # ---- dying ----

    def dies_at(self, point, hit, *options):
        """Whether it came by there."""
        with self.doomed("--at", point.at, "--hit", str(hit), *options) as client:
            killed = client.stdout.readline()
            client.stdout.read()  # until its end
            times = self.time_until_reclaimed(f"hit {hit} of {point.what} at {point.at}", int(killed or 0))
        if client.returncode == 0:
            return False
        self.assertEqual(client.returncode, -signal.SIGKILL)
        self.times[point.at].append(times)
        self.again[point.at] = lambda: self.dies_at(point, hit, *options)
        return True

    @contextlib.contextmanager
    def stopped_at(self, point, hit):
        """A client that is stopped there; None where it did not come by. Dead in the end."""
        with self.doomed("--at", point.at, "--hit", str(hit), "--stop") as client:
            _, status = os.waitpid(client.pid, os.WUNTRACED)
            if os.WIFSTOPPED(status):
                yield client
                client.kill()
                client.wait()
            else:
                client.returncode = os.waitstatus_to_exitcode(status)
                self.assertEqual(client.returncode, 0)
                yield None

    def die_at_each(self, points, n_deaths, *options):
        n_met = 0
        for point in points:
            n_met += sum([self.dies_at(point, hit, *options) for hit in spread(point.n_hits, n_deaths)]) > 0
            self.assertDone(self.sherd.command("audit"))
        self.assertGreaterEqual(n_met * 2, len(points))

    def assert_soon(self, times, again):
        """What can take so long only for other work of the machine, which it may have at any time, does not always:
        judged is the best, of as many as it takes, again() being one more."""
        for _ in range(TRIES):
            if harness.SANITIZED or min(free for _, free in times) < RECLAIM_NS:
                return
            again()
        self.assertLess(min(free for _, free in times), RECLAIM_NS)

    def finish(self):
        """Who lived on has not noticed; how long it took."""
        for at, times in self.times.items():
            with self.subTest(at):
                self.assert_soon(times, self.again[at])
        n_answered, longest = self.end_steady()
        self.assertGreater(n_answered, 0)
        took = sorted(ns for times in self.times.values() for ns, _ in times)
        best = {at: min(free for _, free in times) for at, times in self.times.items()}
        slowest = max(best, key=best.get)
        print(f"\n{len(took)} deaths at {len(self.times)} points: reclaimed {statistics.median(took) / 1e6:.2f} ms after the "
              f"signal, at most {took[-1] / 1e6:.2f}; after its end, and without waits for a processor, at each point's best "
              f"within {best[slowest] / 1e6:.2f} ({slowest}); who lives on waited {longest / 1e6:.2f} ms at most")
        self.assertEqual(self.sherd.stop(), 0)


def points_of_the_manual():
    """(file, call) of each row of its table of clients' calls."""
    with open(os.path.join(os.path.dirname(__file__), "..", "..", "docs", "crash-points.md")) as manual:
        return set(re.findall(r"^\| `(ipc/client/\w+\.c)` \| ([a-z_]+) \|", manual.read(), re.M))


class Deaths(TestCase):
    def test_the_manual_has_each_call_at_which_a_client_may_die(self):
        self.begin("--shards", "2")
        met = {(point.at.split(":")[0], point.what) for point in self.points() if point.what != "store"}
        self.assertEqual(met, points_of_the_manual())
        self.assertEqual(self.sherd.stop(), 0)

    def test_a_client_that_dies_at_any_store_or_call_leaves_nothing(self):
        self.begin("--shards", "2")
        self.die_at_each(self.points(), DEATHS)
        self.finish()

    def test_so_it_is_with_memory_of_64_mib_and_a_lane_in_each_of_16_shards(self):
        self.begin("--shards", "16", data=64 * MIB)
        self.die_at_each(self.points("--rounds", "1"), FEW + 2, "--rounds", "1")
        self.finish()

    def test_a_client_that_is_stopped_at_any_point_and_killed_then_leaves_nothing(self):
        self.begin("--shards", "2")
        for point in self.points():
            for hit in spread(point.n_hits, FEW + 1):
                self.is_killed_where_it_stopped(point, hit)
        self.finish()

    def is_killed_where_it_stopped(self, point, hit):
        with self.stopped_at(point, hit) as client:
            if client:
                killed = time.monotonic_ns()
                client.kill()
                client.stdout.read()
                self.times[point.at].append(self.time_until_reclaimed(f"stopped at {point.at}", killed))
                self.again[point.at] = lambda: self.is_killed_where_it_stopped(point, hit)

    def die_together(self, point, hit, shard, shard_first):
        with self.stopped_at(point, hit) as client:
            old = self.sherd.wait_for_shard(shard)
            doomed = [old["pid"], client.pid if client else None]
            for pid in doomed if shard_first else reversed(doomed):
                if pid:
                    harness.send_signal(pid, signal.SIGKILL)
            self.sherd.wait_for_shard(shard, incarnation=old["incarnation"] + 1)
            self.holdings.look_anew()
            self.wait_until_reclaimed(f"with shard {shard}, {'behind' if shard_first else 'before'} it, at {point.at}")

    def test_a_client_and_a_shard_that_die_together_leave_nothing(self):
        self.begin("--shards", "2", "--crash-limit", "64")
        for shard in 0, 1:
            self.sherd.kill_and_wait("shard", shard)
        self.holdings.look_anew()
        self.before = self.holdings.take()  # a replacement has fds by inheritance
        for i, point in enumerate(self.points()):
            for hit in spread(point.n_hits, FEW):
                for shard_first in (True, False) if harness.LONG else (i % 2 == 0,):
                    self.die_together(point, hit, i // 2 % 2, shard_first)
            self.assertDone(self.sherd.command("audit"))
        n_answered, _ = self.end_steady()
        self.assertGreater(n_answered, 0)
        self.assertEqual(self.sherd.stop(), 0)

    def memory_of_others(self, process):
        """Inodes of clients' memory that it has, without that of who lives on."""
        return self.holdings.memory_of(self.holdings.pids[process])[0] - self.before[process][0]

    def test_memory_that_a_disk_still_writes_to_stays_until_it_has_and_is_nobody_elses(self):
        times = [self.time_after_the_disk()]
        self.assert_soon(times, lambda: times.append(self.time_after_the_disk()))

    def time_after_the_disk(self):
        with fuse.Slow() as slow:
            self.begin("--shards", "2", "--engine", "threads", file=slow.file)  # where fuse would hold a ring of the kernel
            with self.doomed("--rounds", "1") as client:
                self.assertTrue(slow.wait_for_asked(2))
                client.kill()
            number, = self.holdings.clients() - self.before["clients"]
            harness.wait_until(lambda: self.holdings.state(number) == ENDING, "its end to be seen")
            harness.wait_until(lambda: len(self.holdings.requests_of(number)) == 2, "all but the reads to have ended")
            kept, = self.memory_of_others("shard0")
            with self.connect().attach() as other:
                self.assertNotEqual(os.fstat(other.memory_fd).st_ino, kept)
                self.assertEqual(other.memory.read(), bytes(other.total_bytes))
                other.open(0)
            harness.wait_until(lambda: self.holdings.clients() == self.before["clients"] | {number}, "the other's end")
            self.assertEqual(self.memory_of_others("shard0"), {kept})
            self.assertEqual(self.memory_of_others("shard1"), {kept})
            self.assertEqual(self.holdings.state(number), ENDING)
            slow.answer()
            took, free = self.time_until_reclaimed("what a disk wrote to")
            print(f"\nreclaimed {took / 1e6:.2f} ms after the disk's answer")
            n_answered, _ = self.end_steady()
            self.assertGreater(n_answered, 0)
            self.assertEqual(self.sherd.stop(), 0)
        self.holdings.close()
        self.holdings = None
        return took, free

    def connect(self):
        client = attach_client.Client(os.path.join(self.sherd.runtime_dir, self.sherd.name), timeout=harness.DEADLINE)
        self.addCleanup(client.close)
        return client

    def time_of_end(self, what, clients):
        for client in clients:
            client.close()
        return self.time_until_reclaimed(what)

    def test_who_has_asked_for_a_lot_and_dies_is_not_served_to_the_end(self):
        self.begin("--shards", "2")
        times = []

        def flood():
            client = self.connect().attach()
            client.socket.setblocking(False)
            with contextlib.suppress(OSError):
                while True:
                    client.send(attach_client.head(attach_client.OPEN, client.serial) + attach_client.OPEN_BODY.pack(0, 0))
            times.append(self.time_of_end("a flood of requests", [client]))
        for _ in range(3):
            flood()
        print(f"\nafter a flood: reclaimed after {min(times)[0] / 1e6:.2f} ms at best")
        self.assert_soon(times, flood)
        self.assertEqual(self.sherd.stop(), 0)

    def test_a_shard_that_stands_still_keeps_nothing_of_a_client_of_another(self):
        self.begin("--shards", "2", steady=False)
        times = []

        def die_meanwhile():
            client = self.connect().attach()
            client.open(0)
            self.sherd.kill(self.holdings.pids["shard1"], signal.SIGSTOP)
            push(client, 0, 0, method(os.path.join(self.sherd.runtime_dir, self.sherd.name), "sys.ping"), to=1)
            harness.wait_until(lambda: self.holdings.requests_of(client.client) == [0], "its request to be on its way")
            times.append(self.time_of_end("a client whose request waits in another shard", [client]))
            self.sherd.kill(self.holdings.pids["shard1"], signal.SIGCONT)
        for _ in range(3):
            die_meanwhile()
        print(f"\nwith a request in a shard that stands still: reclaimed after {min(times)[0] / 1e6:.2f} ms at best")
        self.assert_soon(times, die_meanwhile)
        self.assertDone(self.sherd.command("audit"))
        self.assertEqual(self.sherd.stop(), 0)

    def test_a_supervisor_that_stood_still_lets_go_of_all_that_died_meanwhile(self):
        self.begin("--shards", "2", steady=False)
        program = ("import signal, sys; from attach_client import Client\n"
                   "clients = [Client(sys.argv[1]).attach() for _ in range(400)]\n"
                   "print('attached', flush=True); signal.pause()\n")
        many = subprocess.Popen([sys.executable, "-c", program, os.path.join(self.sherd.runtime_dir, self.sherd.name)],
                                stdout=subprocess.PIPE)
        with many:
            many.stdout.readline()
            self.sherd.kill(self.sherd.supervisor.pid, signal.SIGSTOP)
            many.kill()
        harness.wait_until(lambda: set(self.holdings.rows.of(self.holdings.memory)) <= {FREE, ENDING}, "all ends to be seen")
        self.sherd.kill(self.sherd.supervisor.pid, signal.SIGCONT)
        self.wait_until_reclaimed("more than the way to the supervisor has room for")
        self.assertEqual(self.sherd.stop(), 0)

    def test_nobody_s_loop_gives_back_the_pages_of_a_client_that_died(self):
        self.begin("--shards", "2", data=256 * MIB, steady=False)
        loops = ["supervisor", "shard0", "shard1", "gateway"]
        client = self.connect().attach(data_bytes=256 * MIB)
        client.open(0)
        client.open(1)
        before = list(map(self.holdings.cpu_ns, loops))
        self.time_of_end("a large client", [client])
        took = [after - first for after, first in zip(map(self.holdings.cpu_ns, loops), before)]
        fd = os.memfd_create("as large")
        os.posix_fallocate(fd, 0, 256 * MIB)
        begin = time.process_time_ns()
        os.close(fd)
        all_pages = time.process_time_ns() - begin
        self.assertLess(max(took), all_pages / 4, dict(zip(loops, took)))
        self.assertEqual(self.sherd.stop(), 0)


if __name__ == "__main__":
    harness.main()
