# SPDX-License-Identifier: MIT
"""examples/permits: a semaphore and a read-write lock between shards, which outlive the death of who holds them."""
import json
import os
import signal

import harness

BUILD = os.path.dirname(os.path.realpath(harness.program()))
PERMITS = os.path.join(BUILD, "examples", "permits", "permits.so")


class Permits(harness.TestCase):
    def test_readers_and_writers_of_all_shards_outlive_the_death_of_one(self):
        instance = self.start("--shards", "3", "--service", PERMITS)
        waits = [
            instance.popen("submit", f"permits.{kind}", "--shard", str(shard), "thing")
            for kind in ("read", "write", "read") for shard in range(3)
        ]
        for shard in (1, 2):
            instance.kill_and_wait("shard", shard)
        for wait in waits:
            self.assertEqual(wait.wait(timeout=4 * harness.DEADLINE), 0)
        self.assertDone(instance.command("submit", "permits.write", "--shard", "0", "thing"))
        self.assertDone(instance.command("audit"))
        self.assertEqual(instance.stop(), 0)

    def n_held(self, instance):
        return json.loads(self.assertDone(instance.command("audit", "--json")).stdout)["locks"]

    def test_who_holds_and_who_serialises_may_be_killed_with_a_writer_inside(self):
        instance = self.start("--shards", "3", "--service", PERMITS)
        writer = instance.popen("submit", "permits.write", "--shard", "0", "thing 600000")
        harness.wait_until(lambda: self.n_held(instance) == 4, "the writer to have all permits")
        for shard in (1, 2):  # homes of some, or of all
            instance.kill_and_wait("shard", shard)
        for shard in (0, 1, 2):
            self.assertRefused(instance.command("submit", "--timeout", "0.2", "permits.read", "--shard", str(shard),
                                                "thing"), "expired")
        instance.kill_and_wait("shard", 0)  # what it held passes on; its request runs again
        readers = [instance.popen("submit", "permits.read", "--shard", str(shard), "thing") for shard in (1, 2)]
        writer.send_signal(signal.SIGINT)
        self.assertEqual(writer.wait(timeout=4 * harness.DEADLINE), 130)
        for reader in readers:
            self.assertEqual(reader.wait(timeout=4 * harness.DEADLINE), 0)
        self.assertDone(instance.command("submit", "permits.write", "--shard", "1", "thing"))
        harness.wait_until(lambda: self.n_held(instance) == 0, "every permit to be back")
        self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
