# SPDX-License-Identifier: MIT
"""A client that stands still, on either plane: what ended for it waits within its quota and comes when it goes on; nobody
else notices."""
import os
import signal
import struct
import subprocess
import sys
import time

import harness
import segment
from client_library import CONTROL, DATA, DONE, SECOND, Client
from reclaim import Holdings

MIB = 1024 * 1024
N_CALLS = 200  # of each of the others
N, BYTES = 300, 60_000  # more than a session's answers or a data area have room for
ANSWERS_SESSION = 8 * MIB  # LIMIT_ANSWERS_SESSION; what a `next` has fetched is on its way, four of a mebibyte at most
ON_THEIR_WAY = 4 * MIB

# Says when all is submitted; then fetches the ends.
PROGRAM = f"""
import sys
from client_library import Client, DONE, SECOND
class Instance:
    runtime_dir, name = sys.argv[1:3]
ends = []
with Client(Instance, plane=int(sys.argv[3]), wait_ns=20 * SECOND, answer_max={BYTES}) as client:
    for shard in 0, 1:
        client.call("sys.echo", bytes({BYTES}), shard=shard)  # so that the gateway knows how long its answers are
    print("attached", flush=True)
    sys.stdin.readline()
    for i in range({N}):
        args = bytes([i % 256]) * {BYTES}
        client.submit("sys.echo", args, shard=i % 2,
                      done=lambda end, args=args: ends.append((end.end, end.data == args)))
    print("submitted", flush=True)
    client.run()
assert ends == [(DONE, True)] * {N}, len(ends)
"""


class SlowClient(harness.TestCase):
    def setUp(self):
        self.slow = self.holdings = None
        self.others = []
        super().setUp()

    def tearDown(self):
        if self.slow:
            self.slow.kill()
            self.slow.communicate()
        for client in self.others:
            client.__exit__()
        if self.holdings:
            self.holdings.close()
        super().tearDown()

    def begin(self, plane):
        self.sherd = self.start("--shards", "2")
        self.holdings = Holdings(self.sherd)
        self.others = [Client(self.sherd, plane=other, wait_ns=20 * SECOND) for other in (DATA, CONTROL)]
        before = self.cost_of_calls()
        self.first = self.count("requests_ended")
        self.slow = subprocess.Popen([sys.executable, "-c", PROGRAM, self.sherd.runtime_dir, "test", str(plane)],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.assertEqual(self.slow.stdout.readline(), "attached\n")
        shards = [self.holdings.pids[f"shard{n}"] for n in (0, 1)]
        for pid in shards:  # so that all is asked for before anything ends
            self.sherd.kill(pid, signal.SIGSTOP)
        self.slow.stdin.write("\n")
        self.slow.stdin.flush()
        self.assertEqual(self.slow.stdout.readline(), "submitted\n")
        if plane == CONTROL:
            harness.wait_until(lambda: self.count("requests_accepted") == self.first + 2 + N, "all to be accepted")
        self.sherd.kill(self.slow.pid, signal.SIGSTOP)
        os.waitpid(self.slow.pid, os.WUNTRACED)
        for pid in shards:
            self.sherd.kill(pid, signal.SIGCONT)
        return before

    def count(self, name):
        """Of the control plane."""
        off, _ = segment.place(self.holdings.memory, "gateway", 0, "head", 0, 0, name)
        return struct.unpack_from("<Q", self.holdings.memory, off)[0]

    def cost_of_calls(self):
        """(time in s, CPU in ns that the instance's loops had) of some by each of the others to both shards, which all
        end as they should: the best of five."""
        costs = []
        for _ in range(5):
            begin, cpu = time.monotonic(), self.holdings.cpu_ns()
            for client in self.others:
                for i in range(N_CALLS // 5):
                    self.assertEqual(client.call("sys.ping", shard=i % 2).end, DONE)
            costs.append((time.monotonic() - begin, self.holdings.cpu_ns() - cpu))
        return tuple(map(min, zip(*costs)))

    def wait_until_asleep(self):
        """Nobody looks again and again whether it goes on."""
        last = [None]

        def quiet():
            before, last[0] = last[0], [harness.n_sleeps(pid) for pid in self.holdings.pids.values()]
            return before and all(now - then < 20 for now, then in zip(last[0], before))
        harness.wait_until(quiet, "all to sleep")

    def check_others(self, before):
        during = self.cost_of_calls()
        print(f"\n{2 * N_CALLS // 5} calls of others: {before[0] * 1e3:.1f} ms, {before[1] / 1e6:.1f} of CPU; with one that "
              f"stands still {during[0] * 1e3:.1f} ms, {during[1] / 1e6:.1f} of CPU")
        self.assertLess(during[1], 3 * before[1])
        self.wait_until_asleep()

    def go_on(self):
        while self.others:
            self.others.pop().__exit__()
        harness.send_signal(self.slow.pid, signal.SIGCONT)
        self.assertEqual(self.slow.wait(harness.DEADLINE), 0)
        self.assertDone(self.sherd.command("audit"))
        self.assertEqual(self.sherd.stop(), 0)

    def lanes(self, number):
        """(entries taken, completions given out) of that client in each shard."""
        return [tuple(struct.unpack_from("<Q", self.holdings.memory,
                                         segment.place(self.holdings.memory, "shard", shard, "client_lanes", 0, number, field)[0])[0]
                      for field in ("head", "tail")) for shard in (0, 1)]

    def test_on_the_data_plane(self):
        before = self.begin(DATA)
        number = max(self.holdings.clients())  # of two
        self.check_others(before)  # by whose end the shards have looked into its rings
        lanes = self.lanes(number)
        self.assertEqual(self.holdings.requests_of(number), [])
        for head, tail in lanes:
            self.assertEqual(head, tail)
        n_ended = sum(tail for _, tail in lanes)
        self.assertGreater(n_ended, 4)
        self.assertLess(n_ended * BYTES, MIB)  # its data area, where they stand
        self.cost_of_calls()
        self.assertEqual(self.lanes(number), lanes)
        self.go_on()

    def test_on_the_control_plane(self):
        before = self.begin(CONTROL)
        quota = self.first + 2 + ANSWERS_SESSION // BYTES
        harness.wait_until(lambda: self.count("requests_ended") >= quota, "answers up to its quota")
        self.check_others(before)
        n_held = self.count("requests_ended") - self.first - 2 - N_CALLS  # of others
        self.assertLess(n_held * BYTES, ANSWERS_SESSION + ON_THEIR_WAY + MIB)
        self.go_on()


if __name__ == "__main__":
    harness.main()
