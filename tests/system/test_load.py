# SPDX-License-Identifier: MIT
"""A mixed load from all to all in which nobody dies: every request is done, once, and the accounts balance at any
moment. It is for shards that are threads, of which a sanitizer sees all at a time; test_storm has the deaths. No
files: TSan takes their numbers for races (tests/tsan.supp)."""
import json
import subprocess

import harness


class Load(harness.TestCase):
    def test_calls_and_moves_from_all_to_all_are_all_done(self):
        instance = self.start("--shards", "3")
        with instance.popen("bench", "mixed", "--json", "--seconds", "4", "--clients", "3", "--depth", "16",
                            stdout=subprocess.PIPE) as bench:
            while bench.poll() is None:
                self.assertDone(instance.command("audit", "--count", "10"))
            result = json.loads(bench.stdout.read())
        self.assertEqual(bench.returncode, 0, result)
        self.assertGreater(result["ends"]["done"], 0)
        self.assertEqual(result["ends"]["done"], result["submitted"], result)
        self.assertEqual((result["ended_twice"], result["never_ended"]), (0, 0))
        self.assertDone(instance.command("audit"))
        self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
