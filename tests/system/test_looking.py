# SPDX-License-Identifier: MIT
"""What looks in changes nothing, reads what other builds made, and is harmed by no rubbish."""
import hashlib
import json
import mmap
import os
import random
import signal
import struct
import subprocess
import tempfile
import time
import unittest

import harness
import segment

LOOKS = (("status", "--json"), ("queues", "--json"), ("queues", "--list"), ("queues", "--entries"), ("co",),
         ("co", "--backtrace", "--json"), ("audit", "--json"), ("postmortem", "--json"), ("postmortem",))
OF_THE_DEAD = LOOKS[1:]
SCRIBBLES = 15
ABI = 12  # offset of that word in the superblock
LARGE = ("heap", "stacks", "chunks")  # bytes that say nothing


class Looking(harness.TestCase):

    def setUp(self):
        super().setUp()
        scratch = tempfile.TemporaryDirectory(prefix="sherd-looking-")
        self.addCleanup(scratch.cleanup)
        self.runtime_dir = scratch.name

    def segment_file(self, instance):
        return os.path.join(instance.runtime_dir, "test", "segment")

    def dead_instance(self, data, name="dead"):
        """A runtime directory whose instance died and left this segment."""
        folder = os.path.join(self.runtime_dir, name)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        path = os.path.join(folder, "segment")
        with open(path, "wb") as file:
            file.write(data)
        return path

    def look_at(self, *arguments, name="dead", **options):
        environment = {**os.environ, "SHERD_RUNTIME_DIR": self.runtime_dir}
        head, *rest = arguments
        return subprocess.run(
            [harness.program(), head, "--instance", name, "--wait", "0", *rest], env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=4 * harness.DEADLINE, **options)

    def json_of(self, *arguments):
        return json.loads(self.assertDone(self.look_at(*arguments)).stdout)

    def used_segment(self, *options):
        """What an instance that had some work left behind."""
        instance = self.start("--shards", "2", *options)
        for shard in ("0", "1"):
            self.assertDone(instance.command("submit", "--shard", shard, "sys.relay", "1 x"))
        self.assertDone(instance.command("submit", "sys.ping", "--count", "100"))
        instance.kill_all()
        with open(self.segment_file(instance), "rb") as file:
            return file.read()

    def test_looking_stores_nothing_and_maps_nothing_that_it_could_store_to(self):
        instance = self.start("--shards", "2")
        self.assertDone(instance.command("submit", "sys.ping", "--count", "10"))
        pids = [process["pid"] for process in instance.processes()]
        for pid in pids:
            harness.send_signal(pid, signal.SIGSTOP)
        try:
            def digest():
                with open(self.segment_file(instance), "rb") as file:
                    return hashlib.sha256(file.read()).hexdigest()
            before = digest()
            for arguments in LOOKS:
                self.assertDone(instance.command(*arguments))
            watcher = instance.popen("queues", "--watch", "0.01", stdout=subprocess.PIPE)
            watcher.stdout.readline()
            with open(f"/proc/{watcher.pid}/maps", encoding="ascii") as maps:
                mapped = [line.split()[1] for line in maps if "/sherd-" in line and line.split()[1][3] == "s"]
            self.assertEqual(mapped, ["r--s"])
            watcher.kill()
            watcher.communicate()
            self.assertEqual(digest(), before)
        finally:
            for pid in pids:
                harness.send_signal(pid, signal.SIGCONT)

    def test_what_another_build_laid_out_is_read_right(self):
        data = self.used_segment()
        self.dead_instance(data)
        looks = [arguments for arguments in OF_THE_DEAD if "--json" in arguments]
        own = [self.json_of(*arguments) for arguments in looks]
        self.assertGreater(sum(pair["pushed"] for pair in own[0]["pairs"]), 200)
        self.assertTrue(own[2]["balanced"])
        later = segment.relaid(data)
        self.assertNotEqual(len(later), len(data))
        self.dead_instance(later)
        for arguments, expected in zip(looks, own):
            with self.subTest(arguments=arguments):
                self.assertEqual(self.json_of(*arguments), expected)

    def test_what_another_version_means_is_read_by_name_or_refused_by_name(self):
        data = bytearray(self.used_segment())
        self.dead_instance(data)
        own = self.json_of("queues", "--json")
        abi, = struct.unpack_from("<I", data, ABI)
        struct.pack_into("<I", data, ABI, abi + 1)
        self.dead_instance(data)
        foreign = self.json_of("queues", "--json")
        self.assertEqual([pair["pushed"] for pair in foreign["pairs"]],
                         [pair["pushed"] for pair in own["pairs"]])
        self.assertRefused(self.look_at("audit"), "another version of Sherd", "dead")
        for arguments in OF_THE_DEAD:
            if arguments[0] != "audit":
                self.assertDone(self.look_at(*arguments))

    def test_what_is_no_segment_is_refused_in_one_line(self):
        data = self.used_segment()
        layout = segment.Layout(data)
        for cut in (0, 1, 100, segment.PAGE, layout.off + 10, layout.off + layout.bytes, len(data) - 1):
            self.dead_instance(data[:cut])
            for arguments in OF_THE_DEAD:
                with self.subTest(cut=cut, arguments=arguments):
                    self.assertRefused(self.look_at(*arguments), "cannot be read")
        self.dead_instance(b"x" * 100000)
        self.assertRefused(self.look_at("co"), "no Sherd segment")
        for arguments in LOOKS:
            self.assertRefused(self.look_at(*arguments, name="nobody"), "nobody")

    @unittest.skipUnless(os.geteuid() == 0, "takes another user's place")
    def test_another_users_instance_is_refused_in_one_line(self):
        self.dead_instance(self.used_segment())
        os.chmod(self.runtime_dir, 0o755)
        try:
            for arguments in LOOKS:
                with self.subTest(arguments=arguments):
                    self.assertRefused(self.look_at(*arguments, user=65534, group=65534), "dead")
        finally:
            os.chmod(self.runtime_dir, 0o700)

    def scribble(self, memory, layout, chance):
        """Some words somewhere; returns what stood there, to be put back."""
        regions = [r for r in layout.regions if r.name not in LARGE and r.n_outer * r.n_inner]
        was = []
        for _ in range(chance.choice((1, 3, 30, 300))):
            if chance.random() < 0.3:
                at = layout.off + chance.randrange(layout.bytes - 8)
            else:
                region = chance.choice(regions)
                area = layout.areas[region.area]
                at = (area.off + chance.randrange(area.n) * area.stride + region.off +
                      chance.randrange(region.n_outer * region.n_inner) * region.stride +
                      chance.randrange(region.stride - 7))
            was.append((at, memory[at:at + 8]))
            value = chance.choice((chance.getrandbits(64), chance.randrange(1000), 2 ** 64 - 1))
            size = chance.choice((1, 2, 4, 8))
            memory[at:at + size] = struct.pack("<Q", value)[:size]
        return was

    def test_no_rubbish_in_a_segment_ends_who_looks(self):
        seed = int(os.environ.get("SHERD_SEED", random.randrange(2 ** 32)))
        until = time.monotonic() + float(os.environ.get("SHERD_FUZZ_SECONDS", "0"))
        chance, n = random.Random(seed), 0
        path = self.dead_instance(self.used_segment())
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            layout = segment.Layout(memory)
            while n < SCRIBBLES or time.monotonic() < until:
                was = self.scribble(memory, layout, chance)
                for arguments in OF_THE_DEAD:
                    result = self.look_at(*arguments, errors="replace")
                    self.assertIn(result.returncode, (0, 1), f"seed {seed}, {n}: {arguments}: {result.stderr}")
                    self.assertLessEqual(len(result.stderr.splitlines()), 1, result.stderr)
                for at, words in reversed(was):
                    memory[at:at + 8] = words
                n += 1


if __name__ == "__main__":
    harness.main()
