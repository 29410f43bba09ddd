# SPDX-License-Identifier: MIT
"""A wild write into memory of another process of the instance ends the one that made it, by name; the commons, which all
may write, is the hole that is left."""
import json
import mmap
import os
import unittest

import harness
import segment


def path_of(instance):
    return os.path.join(instance.runtime_dir, instance.name, "segment")


def mapped_at(pid, path):
    """Where the file begins in the memory of the process."""
    inode = str(os.stat(path).st_ino)
    with open(f"/proc/{pid}/maps") as maps:
        for line in maps:
            addresses, _, offset, _, of_inode = line.split()[:5]
            if of_inode == inode:
                return int(addresses.split("-")[0], 16) - int(offset, 16)
    raise AssertionError(f"{path} is not mapped in process {pid}")


@unittest.skipIf(harness.SANITIZED, "a sanitizer has handlers of its own")
class Firewall(harness.TestCase):
    def begin(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        self.base = mapped_at(instance.shard(1)["pid"], path_of(instance))
        with open(path_of(instance), "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
            self.places = {
                "the part of shard 0": segment.place(memory, "shard", 0, "counters", 0, 0, "polls")[0],
                "the part of the gateway": segment.place(memory, "gateway", 0, "counters", 0, 0, "polls")[0],
                "the supervisor's words": segment.place(memory, "control", 0, "peers", 1, 0, "incarnation")[0],
                "the superblock": 0,
                "own": segment.place(memory, "shard", 1, "counters", 0, 0, "polls")[0],
                "the commons": segment.place(memory, "commons", 0, "bells", 0, 0, "pad")[0],
            }
        return instance

    def poke(self, instance, place):
        return instance.command("submit", "--shard", "1", "sys.poke", f"{self.base + self.places[place]:x}")

    def report(self, instance, number):
        path = os.path.join(instance.runtime_dir, instance.name, f"death-{number}.json")
        harness.wait_until(lambda: os.path.exists(path), path)
        with open(path) as file:
            return json.load(file)

    def test_who_writes_into_anothers_memory_dies_of_it_and_the_report_says_whose_it_was(self):
        instance = self.begin()
        for number, place in enumerate(place for place in self.places if place not in ("own", "the commons")):
            with self.subTest(place):
                self.assertRefused(self.poke(instance, place), "in doubt")
                instance.wait_for_shard(1, incarnation=number + 2)
                self.assertIn(f", in {place}", instance.log())
                report = self.report(instance, number)
                record = report["record"]
                self.assertEqual((record["signal"], record["fault_in"], int(record["fault_address"], 16)),
                                 (11, place, self.base + self.places[place]))
                self.assertEqual((report["process"], report["running"]["method"]), ("shard 1", "sys.poke"))
                self.assertDone(instance.command("submit", "--shard", "0", "sys.ping"))
        self.assertEqual([instance.shard(n)["deaths"] for n in (0, 1)], [0, 4])
        self.assertEqual(instance.gateway()["deaths"], 0)
        self.assertDone(instance.command("audit"))
        self.assertEqual(instance.stop(), 0)

    def test_the_commons_and_the_own_part_can_be_written(self):
        instance = self.begin()
        for place in ("the commons", "own"):
            self.assertDone(self.poke(instance, place))
        self.assertEqual(instance.shard(1)["deaths"], 0)
        self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
