# SPDX-License-Identifier: MIT
"""Requests that crash every shard they come to, and locks between shards that outlive them."""
import json
import os
import re
import signal

import harness

BUILD = os.path.dirname(os.path.realpath(harness.program()))
MAN = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "docs", "man")
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
