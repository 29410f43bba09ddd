# SPDX-License-Identifier: MIT
"""Requests that crash every shard they come to, and locks between shards that outlive them."""
import os

import harness

BUILD = os.path.dirname(os.path.realpath(harness.program()))
PERMITS = os.path.join(BUILD, "examples", "permits", "permits.so")


class Poison(harness.TestCase):
    def dead_letter(self, instance, number):
        return os.path.join(instance.runtime_dir, instance.name, f"dead-letter-{number}")

    def test_the_third_crash_parks_the_request_with_its_arguments(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        result = instance.command("submit", "sys.crash_again", "--shard", "1", "segv")
        self.assertRefused(result, "crashed 3 times while it ran this", "dead-letter-1")
        self.assertEqual(instance.shard(1)["crashes"], 3)
        with open(self.dead_letter(instance, 1), "rb") as letter:
            data = letter.read()
        self.assertIn(b"sys.crash_again", data)
        self.assertTrue(data.endswith(b"segv"))
        self.assertDone(instance.command("submit", "sys.ping", "--shard", "1"))
        self.assertDone(instance.command("audit"))
        self.assertEqual(instance.stop(), 0)
        self.assertTrue(os.path.exists(self.dead_letter(instance, 1)))

    def test_being_killed_again_and_again_is_no_crime(self):
        instance = self.start("--shards", "1")
        waits = instance.popen("submit", "sys.sleep", "--shard", "0", "1500")
        for _ in range(4):
            instance.kill_and_wait("shard", 0)
        self.assertEqual(waits.wait(timeout=4 * harness.DEADLINE), 0)
        self.assertFalse(os.path.exists(self.dead_letter(instance, 1)))
        self.assertEqual(instance.stop(), 0)


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


if __name__ == "__main__":
    harness.main()
