# SPDX-License-Identifier: MIT
"""sherd bench: what it measures, that it counts each end once, and that its times keep nothing back."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import unittest

import harness
from harness import sherd

BLOCK = 4096


class Bench(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="sherd-bench-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.file = os.path.join(self.folder, "file")

    def serve(self, *arguments):
        return self.start("--shards", "2", "--root", self.folder + ":rw", *arguments)

    def bench(self, instance, *arguments):
        return json.loads(self.assertDone(instance.command("bench", *arguments, "--json")).stdout)

    def assertAllDone(self, told):
        self.assertEqual((told["ended_twice"], told["never_ended"]), (0, 0))
        self.assertGreater(told["submitted"], 0)
        self.assertEqual(told["ends"]["done"], told["submitted"])

    def test_wrong_usage_is_one_line_and_exit_status_2(self):
        kinds = "ping, file-read, file-write, mixed or a SERVICE.METHOD"
        for arguments, text in (
                ((), kinds), (("nonsense",), kinds), (("ping", "ping"), kinds),
                (("ping", "--clients", "0"), "--clients must be 1 to 256"),
                (("ping", "--depth", "100000"), "--depth must be 1 to 65536"),
                (("ping", "--depth", "0"), "--depth must be 1 to 65536"),
                (("ping", "--rate", "4000000000"), "--rate must be"),
                (("ping", "--size", "2M"), "--size is at most 1M"),
                (("ping", "--direct"), "--direct is for file-read and file-write"),
                (("ping", "--plane", "both"), "--plane is data or control"),
                (("ping", "--args", "x"), "--args is for a SERVICE.METHOD"),
                (("ping", "--file", "/etc/passwd"), "--file is for file-read, file-write and mixed"),
                (("mixed", "--sequential"), "are for a --file"),
                (("file-read",), "which --file?"),
                (("file-read", "--file", "/etc/passwd", "--size", "0"), "of a block at least 1"),
                (("file-read", "--file", "/etc/passwd", "--overwrite"), "--overwrite is for file-write"),
        ):
            with self.subTest(arguments=arguments):
                result = sherd("bench", *arguments)
                self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)
                self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
                self.assertIn(text, result.stderr)

    def test_each_end_counts_once_through_deaths_of_shards_and_the_gateway(self):
        instance = self.start("--shards", "2", "--root", "/etc")
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

    def test_pings_carry_as_much_as_they_are_told_to(self):
        instance = self.serve()
        for arguments, size in (((), 0), (("--size", "1000"), 1000)):
            told = self.bench(instance, "ping", "--seconds", "0.2", "--depth", "4", *arguments)
            self.assertAllDone(told)
            self.assertEqual((told["size"], told["bytes_per_s"]), (size, 0))

    def test_any_method_is_measured_within_a_deadline(self):
        instance = self.serve()
        told = self.bench(instance, "sys.echo", "--args", "hello", "--seconds", "0.2", "--plane", "control")
        self.assertAllDone(told)
        self.assertEqual((told["plane"], set(told["work"])), ("control", {"method"}))
        told = self.bench(instance, "sys.sleep", "--args", "600000", "--timeout", "0.01", "--seconds", "0.1")
        self.assertEqual(told["ends"]["expired"], told["submitted"])

    def test_where_not_one_was_done_it_says_why(self):
        instance = self.start("--shards", "1")
        for method, why in (("no.such", "no such method"), ("sys.sleep", "sys.sleep: the argument is")):
            for plane in ("data", "control"):
                with self.subTest(method=method, plane=plane):
                    result = instance.command("bench", method, "--args", "x", "--seconds", "0.1", "--plane", plane)
                    self.assertRefused(result, f"bench: not one was done: {why}")
        self.assertEqual(instance.stop(), 0)

    def test_blocks_of_a_file_are_read_at_random_or_in_order(self):
        with open(self.file, "wb") as file:
            file.write(os.urandom(20 * BLOCK + 1))
        instance = self.serve()
        for arguments, size in (((), BLOCK), (("--sequential", "--clients", "2"), BLOCK),
                                (("--plane", "control"), BLOCK), (("--size", "16K", "--depth", "8"), 4 * BLOCK)):
            told = self.bench(instance, "file-read", "--file", self.file, "--seconds", "0.2", *arguments)
            self.assertAllDone(told)
            self.assertEqual(set(told["work"]), {"read"})
            self.assertAlmostEqual(told["bytes_per_s"], told["done_per_s"] * size, delta=1)

    def test_a_file_whose_shard_died_is_opened_anew(self):
        with open(self.file, "wb") as file:
            file.write(os.urandom(20 * BLOCK))
        instance = self.serve()
        self.one_whose_shard_dies(instance, "file-read", "--plane", "data")
        self.one_whose_shard_dies(instance, "file-write", "--plane", "control", "--overwrite")

    def one_whose_shard_dies(self, instance, kind, *arguments):
        shard = instance.wait_for_shard(1)
        bench = instance.popen("bench", kind, "--file", self.file, "--depth", "8", "--seconds", "2", "--json",
                               *arguments, stdout=subprocess.PIPE)
        harness.wait_until(lambda: instance.shard(1)["counters"]["polls"] > shard["counters"]["polls"] + 100,
                           "the load to begin")
        instance.kill(shard, signal.SIGSTOP)  # with what it has in flight, however long the way to its death takes
        instance.kill_and_wait("shard", 1)
        out, _ = bench.communicate(timeout=4 * harness.DEADLINE)
        told = json.loads(out)
        self.assertEqual((bench.returncode, told["ended_twice"], told["never_ended"]), (0, 0, 0), out)
        # What was in flight, or found its file closed, is asked for again, and counted apart.
        self.assertEqual(told["ends"]["done"], told["submitted"], out)
        self.assertGreater(told["restarts"], 0)

    def test_more_than_the_file_has_is_refused(self):
        with open(self.file, "wb") as file:
            file.write(b"short")
        instance = self.serve()
        result = instance.command("bench", "file-read", "--file", self.file)
        self.assertEqual(result.returncode, 1)
        self.assertIn("--size is larger than the 5 bytes", result.stderr)
        result = instance.command("bench", "file-read", "--file", self.file + "-none")
        self.assertEqual(result.returncode, 1)
        self.assertIn("No such file", result.stderr)
        told = self.bench(instance, "mixed", "--file", self.file, "--seconds", "1")
        self.assertIn("read", told["work"])

    def test_a_new_file_is_written_block_by_block_and_one_with_content_left_alone(self):
        instance = self.serve()
        arguments = ("file-write", "--file", self.file, "--size", "8K", "--span", "64K", "--sequential",
                     "--seconds", "0.3")
        told = self.bench(instance, *arguments)
        self.assertAllDone(told)
        with open(self.file, "rb") as file:
            content = file.read()
        letters = bytes(ord("a") + i % 26 for i in range(8192))
        self.assertEqual(content, letters * (len(content) // 8192))
        self.assertEqual(len(content), min(told["submitted"], 8) * 8192)
        result = instance.command("bench", *arguments)
        self.assertEqual(result.returncode, 1)
        self.assertIn("has content; --overwrite", result.stderr)
        self.assertAllDone(self.bench(instance, *arguments, "--overwrite"))

    def test_at_a_fixed_rate_a_stall_counts_for_all_that_were_due_in_it(self):
        instance = self.start("--shards", "1", "--enable-test-methods")
        bench = instance.popen("bench", "ping", "--rate", "1000", "--seconds", "3", "--json",
                               stdout=subprocess.PIPE)
        harness.wait_until(lambda: instance.shard(0)["counters"]["polls"] > 100, "the load to begin")
        self.assertDone(instance.command("submit", "sys.block", "2000"))
        out, _ = bench.communicate(timeout=harness.DEADLINE)
        told = json.loads(out)
        self.assertAllDone(told)
        self.assertEqual(told["rate"], 1000)
        self.assertAlmostEqual(told["submitted"] + told["never_submitted"], 3000, delta=1)
        # Of those that were due while the shard was blocked all but the last 200 waited longer: more than a tenth,
        # though the block begin 2.5 s late. Counted from its submission one in 46 would: those of --depth.
        self.assertGreater(told["latency_ns"]["p90"], 200_000_000)

    def test_what_cannot_be_submitted_at_a_rate_is_told(self):
        instance = self.start("--shards", "1", "--enable-test-methods")
        result = self.assertDone(instance.command(
            "bench", "ping", "--rate", "1000000000", "--depth", "1", "--seconds", "0.2"))
        self.assertIn("could not be submitted", result.stdout)


if __name__ == "__main__":
    unittest.main()
