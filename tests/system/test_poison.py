# SPDX-License-Identifier: MIT
"""Requests that crash every shard they come to."""
import json
import os
import re

import harness

MAN = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "docs", "man")


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

    def test_a_dead_letter_is_listed_and_shown_also_when_the_instance_is_gone(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        self.assertEqual(self.assertDone(instance.command("dead-letters")).stdout, "no dead letter\n")
        self.assertRefused(instance.command("submit", "sys.crash_again", "--shard", "1", "segv"), "sherd dead-letters")
        live = json.loads(self.assertDone(instance.command("dead-letters", "--json", "1")).stdout)
        self.assertEqual(instance.stop(), 0)
        listed = json.loads(self.assertDone(instance.command("dead-letters", "--json")).stdout)["dead_letters"]
        self.assertEqual([(letter["number"], letter["method"], letter["caller"], letter["callee"], letter["bytes"])
                          for letter in listed], [(1, "sys.crash_again", "gateway", "shard 1", 4)])
        letter = json.loads(self.assertDone(instance.command("dead-letters", "--json", "1")).stdout)
        self.assertEqual(bytes.fromhex(letter["arguments"]), b"segv")
        self.assertEqual([crash["process"] for crash in letter["crashes"]], ["shard 1"] * 3)
        incarnations = [crash["incarnation"] for crash in letter["crashes"]]
        self.assertEqual(incarnations, [incarnations[0], incarnations[0] + 1, incarnations[0] + 2])
        if not harness.SANITIZED:  # signals of crashes are the sanitizer's
            self.assertEqual([crash["what"][:7] for crash in letter["crashes"]], ["SIGSEGV"] * 3)
            for crash in live["crashes"]:
                self.assertTrue(any("run_crash" in frame for frame in crash["backtrace"]), crash)
        text = self.assertDone(instance.command("dead-letters", "1")).stdout
        self.assertIn("dead letter 1: sys.crash_again, from gateway to shard 1, given up", text)
        self.assertEqual(self.assertDone(instance.command("dead-letters", "1", "--raw")).stdout, "segv")
        with open(os.path.join(MAN, "sherd-dead-letters.1.scd"), encoding="utf-8") as page:
            named = set(re.findall(r"\w+", page.read()))
        members = {"dead_letters"} | listed[0].keys() | letter.keys() | letter["crashes"][0].keys()
        self.assertEqual(members - named, set())

    def test_what_is_no_dead_letter_is_one_line_and_exit_status_1(self):
        instance = self.start("--shards", "1")
        self.assertRefused(instance.command("dead-letters", "3"), "there is no such letter")
        with open(self.dead_letter(instance, 2), "wb") as letter:
            letter.write(b"x" * 5000)
        self.assertRefused(instance.command("dead-letters"), "dead-letter-2: not a whole dead letter")
        self.assertRefused(instance.command("dead-letters", "0"), "NUMBER must be 1 to 16", status=2)
        self.assertRefused(instance.command("dead-letters", "--raw"), "--raw needs a NUMBER", status=2)
        self.assertEqual(instance.stop(), 0)

    def test_being_killed_again_and_again_is_no_crime(self):
        instance = self.start("--shards", "1")
        waits = instance.popen("submit", "sys.sleep", "--shard", "0", "1500")
        for _ in range(4):
            instance.kill_and_wait("shard", 0)
        self.assertEqual(waits.wait(timeout=4 * harness.DEADLINE), 0)
        self.assertFalse(os.path.exists(self.dead_letter(instance, 1)))
        self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
