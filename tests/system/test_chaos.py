# SPDX-License-Identifier: MIT
"""kill -9 of shards and of the gateway while files are hashed: each file gets one result, it is right,
and the run ends. SHERD_TEST_LONG=1 makes it longer, SHERD_TEST_LONG=ci a little."""
import hashlib
import json
import os
import random
import tempfile
import threading
import time

import harness

N_FILES = 10000 if harness.LONG else 3000
ROUNDS = 30 if harness.LONG else 10 if harness.LONGER else 5
SEED = int(os.environ.get("SHERD_TEST_SEED", "1"))


class Files:
    """A folder of files of many sizes, and what sha256sum would print of them."""

    def __init__(self, n_files):
        self.folder = tempfile.TemporaryDirectory(prefix="sherd-chaos-")
        self.paths = []
        self.expected = {}
        chance = random.Random(SEED)
        block = chance.randbytes(1 << 20)
        for number in range(n_files):
            size = chance.choice([0, 1, 100, 4096, 5000, 70000, 300000, 900000])
            content = number.to_bytes(4, "little") + block[:size]
            path = os.path.join(self.folder.name, f"file-{number}")
            with open(path, "wb") as file:
                file.write(content)
            self.paths.append(path)
            self.expected[path] = hashlib.sha256(content).hexdigest()

    def names(self):
        return b"".join(path.encode() + b"\0" for path in self.paths)


class Killer(threading.Thread):
    """Kills one process after the other, each time once the one before is up again, until told to end or
    each was killed ROUNDS times: a gateway that never lives long enough to answer serves nobody."""

    def __init__(self, instance, roles, pause):
        super().__init__()
        self.instance, self.roles, self.pause = instance, roles, pause
        self.ends = threading.Event()
        self.n_kills = 0
        self.failure = None

    def run(self):
        try:
            while self.n_kills < ROUNDS * len(self.roles) and not self.ends.wait(self.pause):
                role, shard = self.roles[self.n_kills % len(self.roles)]
                self.instance.kill_and_wait(role, shard)
                self.n_kills += 1
        except Exception as failure:  # told by the case
            self.failure = failure


class Chaos(harness.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = Files(N_FILES)

    @classmethod
    def tearDownClass(cls):
        cls.files.folder.cleanup()

    def hash_while_killing(self, roles, *arguments, shards=2, pause=0.02):
        instance = self.start("--shards", str(shards), "--root", self.files.folder.name, *arguments)
        killer = Killer(instance, roles, pause)
        killer.start()
        n_runs = 0
        try:
            # Runs until enough was killed, however fast the machine.
            while n_runs == 0 or killer.is_alive():
                result = instance.command("submit", "-0", "file.sha256", "-", input=self.files.names())
                self.check(result)
                n_runs += 1
        finally:
            killer.ends.set()
            killer.join()
        if killer.failure:
            raise killer.failure
        self.check_accounts(instance)
        self.assertEqual(instance.stop(), 0)
        return killer.n_kills

    def check(self, result):
        self.assertEqual(result.returncode, 0, result.stderr.decode(errors="replace")[-2000:])
        lines = result.stdout.decode().splitlines()
        self.assertEqual(len(lines), len(self.files.paths))
        for line, path in zip(lines, self.files.paths):
            self.assertEqual(line, f"{self.files.expected[path]}  {path}")

    def check_accounts(self, instance):
        """Nothing is left under way, and every call that was submitted has ended."""
        def pairs():
            return json.loads(self.assertDone(instance.command("queues", "--json")).stdout)["pairs"]
        harness.wait_until(lambda: all(p["calls_under_way"] == 0 and p["depth"] == 0 for p in pairs()),
                           "all calls to be over")
        for pair in pairs():
            ended = sum(pair["ends"].values())
            self.assertEqual(pair["calls_submitted"], ended, f"the accounts of {pair}")

    def test_each_shard_in_turn_again_and_again(self):
        self.hash_while_killing([("shard", 0), ("shard", 1)])

    def test_the_gateway_again_and_again(self):
        self.hash_while_killing([("gateway", None)], pause=0.05)

    def test_shards_and_the_gateway_in_turn(self):
        self.hash_while_killing([("shard", 0), ("gateway", None), ("shard", 1)])

    def test_with_linux_aio(self):
        self.hash_while_killing([("shard", 0), ("shard", 1)], "--engine", "linux-aio")

    def test_with_threads(self):
        self.hash_while_killing([("shard", 0), ("shard", 1)], "--engine", "threads")

    def test_with_more_shards_than_cores(self):
        self.hash_while_killing(
            [("shard", number) for number in range(5)] + [("gateway", None)], shards=5)

    def test_a_request_right_after_a_kill_is_answered(self):
        instance = self.start("--shards", "2")
        delays = []
        for _ in range(9):
            old = instance.wait_for_shard(0)
            instance.kill(old)
            begin = time.monotonic()
            self.assertDone(instance.command("submit", "sys.ping", "--shard", "0"))
            delays.append(time.monotonic() - begin)
            instance.wait_for_shard(0, incarnation=old["incarnation"] + 1)
        # Told, not judged: a command's own start is in it, and machines differ.
        print(f"kill -9 to an answer, command and all: median {sorted(delays)[4] * 1000:.1f} ms")


if __name__ == "__main__":
    harness.main()
