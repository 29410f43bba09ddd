# SPDX-License-Identifier: MIT
"""The supervisor replaces what dies, ever later, and gives up; and rings whoever missed a wake-up."""
import contextlib
import mmap
import os
import re
import signal
import struct
import subprocess
import time

import harness
import segment
from harness import wait_until
from raw_client import DONE, RawClient, Submission


def senders_of(memory, shard):
    """Where the word is whose bits say who has sent to that shard."""
    bell, _ = segment.place(memory, "commons", 0, "bells", shard, 0, "bitmap")
    return bell


class Deaths(harness.TestCase):
    def test_each_process_that_is_killed_comes_back_again_and_again(self):
        instance = self.start("--shards", "2")
        for _ in range(4):
            for role, number in (("shard", 0), ("shard", 1), ("gateway", None)):
                instance.kill_and_wait(role, number)
        for process in instance.processes()[1:]:
            self.assertEqual(process["incarnation"], 5)
            self.assertEqual((process["deaths"], process["crashes"]), (4, 0))
        self.assertEqual(instance.stop(), 0)

    def test_death_line_says_who_how_and_when_it_was_back(self):
        instance = self.start("--shards", "2")
        pid = instance.shard(1)["pid"]
        instance.kill_and_wait("shard", 1)
        self.assertRegex(instance.log(), rf"shard 1 was killed: signal 9 \(Killed\), pid {pid}, incarnation 1, "
                                         r"\d+ ms after its start; replaced at once")
        self.assertRegex(instance.log(), r"shard 1 is up again: pid \d+, incarnation 2, \d+\.\d ms after the end of the one before")

    def test_log_names_the_coroutine_whose_stack_overflowed(self):
        instance = self.start("--shards", "2", "--enable-test-methods")
        before = instance.shard(1)
        instance.command("submit", "sys.crash", "--shard", "1", "overflow")
        instance.wait_for_shard(1, incarnation=before["incarnation"] + 1)
        self.assertRegex(instance.log(), r"shard 1 error coroutine \S+ overflowed its stack of \d+ bytes, fault at 0x")
        self.assertRegex(instance.log(), r"shard 1 crashed: signal 11 \(Segmentation fault\)")
        self.assertEqual(instance.shard(1)["crashes"], 1)
        self.assertEqual(instance.stop(), 0)

    def test_two_hundred_kills_leak_no_fd_and_no_mapping(self):
        instance = self.start("--shards", "2")
        supervisor = instance.supervisor.pid
        n_fds = harness.n_fds(supervisor)
        instance.kill_and_wait("shard", 0)
        n_maps = harness.n_maps(supervisor)
        for i in range(200):
            instance.kill_and_wait("shard", i % 2)
        # A pipe stays until the kernel has let go of the last one that was killed.
        harness.wait_until(lambda: harness.n_fds(supervisor) == n_fds, "as many fds as before")
        self.assertEqual(harness.n_maps(supervisor), n_maps)
        self.assertEqual(instance.shard(0)["crashes"], 0)
        self.assertEqual(instance.stop(), 0)

    def test_crashes_are_made_good_ever_later_and_the_tenth_is_the_last(self):
        instance = self.start("--shards", "2")
        for _ in range(9):
            instance.kill_and_wait("shard", 0, signal.SIGSEGV)
        delays = [int(ms) for ms in re.findall(r"shard 0 crashed.*replaced in (\d+) ms", instance.log())]
        self.assertEqual(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000])
        instance.kill(instance.shard(0), signal.SIGSEGV)
        instance.wait_for_shard(0, state="failed")
        self.assertIn("given up", instance.log())
        self.assertEqual(instance.shard(1)["state"], "up")
        instance.kill_and_wait("shard", 1)
        self.assertEqual(instance.stop(), 0)

    def test_killed_while_starting_it_is_forked_again(self):
        instance = self.start("--shards", "2")
        supervisor = instance.supervisor.pid
        for _ in range(50):
            with open(f"/proc/{supervisor}/task/{supervisor}/children") as children:
                for pid in children.read().split():
                    with contextlib.suppress(ProcessLookupError):
                        harness.send_signal(int(pid), signal.SIGKILL)
        instance.wait_ready()
        self.assertEqual(instance.stop(), 0)

    def test_a_sleeper_whose_wake_up_was_lost_is_knocked_at_and_counted(self):
        self.breaks_commons = True
        instance = self.start("--shards", "2")
        with open(os.path.join(instance.runtime_dir, "test", "segment"), "r+b") as file, \
                mmap.mmap(file.fileno(), 0) as memory:
            # As if the gateway had died between a sender's bit and its bell, and nobody had noticed.
            senders = senders_of(memory, 0)
            memory[senders] |= 1 << 2
            wait_until(lambda: memory[senders] == 0, "the shard to look")
        self.assertEqual(instance.status()["knocks"], 1)
        instance.wait_for_log("shard 0 slept")

    def test_what_a_turn_that_lasts_has_pushed_is_no_lost_wake_up(self):
        """A sender rings at the end of its turn."""
        instance = self.start("--shards", "2", "--enable-test-methods")
        instance.kill(instance.shard(1), signal.SIGSTOP)  # it takes both in one turn, then
        with instance.popen("submit", "sys.relay", "--shard", "1", "0 x", stdout=subprocess.DEVNULL) as relay:
            wait_until(lambda: instance.gateway()["clients"]["requests_in_flight"] == 1, "the relay to be taken")
            with instance.popen("submit", "sys.block", "--shard", "1", "1800") as block:
                wait_until(lambda: instance.gateway()["clients"]["requests_in_flight"] == 2, "both to be taken")
                instance.kill(instance.shard(1), signal.SIGCONT)
                self.assertEqual(block.wait(harness.DEADLINE), 0)
            self.assertEqual(relay.wait(harness.DEADLINE), 0)
        self.assertEqual(instance.status()["knocks"], 0, instance.log())

    def test_a_message_whose_bit_was_wiped_out_is_found_in_its_ring(self):
        self.breaks_commons = True
        instance = self.start("--shards", "2")
        process = instance.shard(0)
        with open(os.path.join(instance.runtime_dir, "test", "segment"), "r+b") as file, \
                mmap.mmap(file.fileno(), 0) as memory:
            senders = senders_of(memory, 0)
            instance.kill(process, signal.SIGSTOP)
            ping = instance.popen("submit", "sys.ping", "--shard", "0", stdout=subprocess.DEVNULL)
            wait_until(lambda: memory[senders] & 1 << 2, "the gateway's bit")
            memory[senders] = 0
            instance.kill(process, signal.SIGCONT)
            self.assertEqual(ping.wait(harness.DEADLINE), 0)
        self.assertEqual(instance.status()["knocks"], 1)

    def test_a_message_whose_bell_was_broken_is_found_within_a_second(self):
        """The receiver sleeps, and its words say that it is awake: nobody rings."""
        self.breaks_commons = True
        instance = self.start("--shards", "2")
        with open(os.path.join(instance.runtime_dir, "test", "segment"), "r+b") as file, \
                mmap.mmap(file.fileno(), 0) as memory:
            bell, _ = segment.place(memory, "commons", 0, "bells", 0, 0, "words")
            client = self.enterContext(RawClient(instance.gateway_socket))
            client.hello()
            for number in range(1, 101):  # a shard that takes a turn meanwhile makes it whole
                before = instance.status()["knocks"]
                wait_until(lambda: struct.unpack_from("<I", memory, bell)[0] != 0, "shard 0 to sleep")
                struct.pack_into("<I", memory, bell, 0)
                begin = time.monotonic()
                client.submit([Submission(number, "sys.ping", shard=0)])
                self.assertEqual([end.kind for end in client.fetch(1)], [DONE])
                served_s = time.monotonic() - begin
                if instance.status()["knocks"] > before:
                    break
            else:
                self.fail("no wake-up was lost in 100 tries")
            client.socket.close()
        print(f"found and served within {served_s:.2f} s")
        instance.wait_for_log("shard 0 slept")
        self.assertEqual(instance.stop(), 0)

    def test_stopped_peer_does_not_keep_another_from_being_replaced(self):
        instance = self.start("--shards", "2")
        stopped = instance.shard(0)
        instance.kill(stopped, signal.SIGSTOP)
        instance.kill_and_wait("shard", 1)
        instance.kill_and_wait("gateway")
        instance.kill(stopped, signal.SIGCONT)
        self.assertEqual(instance.stop(), 0)

    def test_orphans_leave_by_themselves_and_the_next_start_takes_over(self):
        instance = self.start("--shards", "2")
        pids = [p["pid"] for p in instance.processes()[1:]]
        instance.kill(instance.supervisor.pid)
        instance.wait_exit()
        wait_until(lambda: not any(map(harness.is_alive, pids)), "the orphans to leave")
        self.assertIn("the supervisor is gone", instance.log())
        instance.start("--shards", "2")
        self.assertEqual(instance.stop(), 0)

    def test_an_orphan_that_hangs_is_ended_by_the_kernel(self):
        user = ["--user", "nobody"] if os.geteuid() == 0 else []  # a change of user would undo it
        instance = self.instance()
        os.chmod(instance.scratch, 0o755)
        instance.start("--shards", "1", "--enable-test-methods", "--stall-report", "0.2", "--stall-limit", "60", *user)
        shard = instance.shard(0)
        with instance.popen("submit", "sys.spin", "60000", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            instance.wait_for("shard", 0, stall="spinning")
            wait_until(lambda: re.search(r"hangs in one callback .*, at 0x", instance.log()), "where it is")
            instance.kill(shard, signal.SIGALRM)  # which is nothing to it while its supervisor lives
            instance.kill(instance.supervisor.pid)
            instance.wait_exit()
            wait_until(lambda: not harness.is_alive(shard["pid"]), "the one that hangs to be gone")
        self.assertNotIn("shard 0: the supervisor is gone", instance.log())

    def test_a_start_waits_for_orphans_of_the_one_before(self):
        instance = self.start("--shards", "2")
        instance.kill(instance.supervisor.pid)
        instance.wait_exit()
        instance.start("--shards", "2")
        self.assertEqual(instance.stop(), 0)

    def test_kill_of_everything_is_taken_over_and_the_last_three_segments_are_kept(self):
        instance = self.start("--shards", "2")
        directory = os.path.join(instance.runtime_dir, "test")
        kept = []
        for _ in range(4):
            kept.insert(0, os.readlink(os.path.join(directory, "segment")))
            instance.kill_all()
            instance.start("--shards", "2")
            links = [os.path.join(directory, f"crashed-{n}") for n in (1, 2, 3)]
            self.assertEqual([os.readlink(link) for link in links if os.path.islink(link)], kept[:3])
            self.assertTrue(all(map(os.path.exists, kept[:3])))
        self.assertFalse(os.path.exists(kept[3]))
        self.assertIn("the instance before died; its segment is kept", instance.log())
        self.assertEqual(instance.stop(), 0)
        self.assertFalse(os.path.lexists(os.path.join(directory, "segment")))


if __name__ == "__main__":
    harness.main()
