# SPDX-License-Identifier: MIT
"""Ends of an instance: what is in flight completes, and nothing is left behind."""
import collections
import contextlib
import os
import signal
import subprocess
import tempfile
import time
import unittest

import harness
from harness import wait_until

if not harness.SANITIZED:  # Python cannot load the client library with a sanitizer in it
    from client_library import CONTROL, DATA, DONE, NOT_STARTED, Client


class Leaving(harness.TestCase):
    def test_sigterm_and_sigint_end_it_in_order(self):
        for signum in (signal.SIGTERM, signal.SIGINT):
            instance = self.start("--shards", "2")
            instance.kill(instance.supervisor.pid, signum)
            self.assertEqual(instance.wait_exit(), 0)
            self.assertIn("stopped: instance test", instance.log())

    def test_a_signal_to_the_whole_process_group_ends_it_in_order(self):
        for signum in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signum):
                instance = self.start("--shards", "2", start_new_session=True)
                os.killpg(instance.supervisor.pid, signum)
                self.assertEqual(instance.wait_exit(), 0)
                self.assertNotIn("killed", instance.log())

    @unittest.skipIf(harness.SANITIZED, "Python cannot load the client library with a sanitizer in it")
    def test_what_nobody_has_begun_at_a_stop_under_load_is_not_started_on_either_plane(self):
        instance = self.start("--shards", "2")
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(instance, plane=plane, wait_ns=0)) for plane in (DATA, CONTROL)]
            ends = [collections.Counter() for _ in clients]

            def go_on(client, counter, result):
                counter[result.end] += 1
                if not told_to_stop or stop.poll() is None:
                    client.submit("sys.ping", done=lambda result: go_on(client, counter, result))

            told_to_stop = False
            for client, counter in zip(clients, ends):
                for _ in range(32):
                    client.submit("sys.ping", done=lambda result, c=client, n=counter: go_on(c, n, result))
            while not all(counter[DONE] > 100 for counter in ends):
                self.assertTrue(all(client.process(0) >= 0 for client in clients))
            stop = instance.popen("stop")
            told_to_stop = True
            with stop:
                while stop.poll() is None or any(client.in_flight() for client in clients):
                    for client in clients:
                        client.process(0)  # when the instance is gone it says so
            self.assertEqual(stop.returncode, 0)
            for client, counter in zip(clients, ends):
                self.assertEqual(set(counter), {DONE, NOT_STARTED}, counter)

    def test_stop_works_with_a_dead_gateway(self):
        instance = self.start("--shards", "2")
        instance.kill(instance.gateway())
        self.assertEqual(instance.stop(), 0)

    def test_a_gateway_that_hangs_does_not_hold_up_the_end_of_an_idle_instance(self):
        instance = self.start("--shards", "2", "--drain-limit", "60")
        instance.kill(instance.gateway(), signal.SIGSTOP)
        begin = time.monotonic()
        instance.kill(instance.supervisor.pid, signal.SIGTERM)
        instance.wait_exit()
        self.assertLess(time.monotonic() - begin, 30)
        self.assertIn("the gateway does not say that it has drained", instance.log())

    def test_a_service_is_not_stopped_under_the_calls_it_serves(self):
        with tempfile.TemporaryDirectory() as folder:
            big = os.path.join(folder, "big")
            with open(big, "wb") as file:
                file.truncate(200 << 30)
            instance = self.start("--shards", "2", "--root", folder, "--drain-limit", "1")
            submit = instance.popen("submit", "file.sha256", big, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL)
            with submit:
                wait_until(lambda: any(p.get("calls_in") for p in instance.processes()), "the hash to begin")
                instance.kill(instance.supervisor.pid, signal.SIGTERM)
                instance.wait_exit()
            self.assertNotIn("did not leave in order", instance.log())

    def test_second_signal_ends_it_at_once(self):
        instance = self.start("--shards", "2")
        instance.kill(instance.gateway(), signal.SIGSTOP)  # so that the drain does not end
        instance.kill(instance.supervisor.pid, signal.SIGTERM)
        instance.wait_for_log("draining")
        instance.kill(instance.supervisor.pid, signal.SIGTERM)
        self.assertEqual(instance.wait_exit(), 1)
        self.assertIn("leaving at once", instance.log())
        self.assertEqual(instance.segments(), [])

    def test_drain_limit_ends_a_drain_and_stragglers_are_killed(self):
        instance = self.start("--shards", "2", "--drain-limit", "0.1")
        instance.kill(instance.gateway(), signal.SIGSTOP)
        instance.kill(instance.supervisor.pid, signal.SIGTERM)
        self.assertEqual(instance.wait_exit(), 0)
        self.assertIn("drain limit of 0.1 s reached", instance.log())
        self.assertIn("did not leave within 5 s: killed", instance.log())

    def test_deaths_in_a_drain_are_made_good_and_it_ends(self):
        instance = self.start("--shards", "2")
        gateway = instance.gateway()
        instance.kill(gateway, signal.SIGSTOP)
        instance.kill(instance.supervisor.pid, signal.SIGTERM)
        instance.wait_for_log("draining")
        instance.kill_and_wait("shard", 0)
        instance.kill(gateway)
        self.assertEqual(instance.wait_exit(), 0)
        self.assertIn("gateway is up again", instance.log())

    def begin_sleep(self, instance, milliseconds):
        """A request that a shard serves until then."""
        request = instance.popen("submit", "sys.sleep", str(milliseconds), "--shard", "1",
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(lambda: (request.kill(), request.wait()))
        wait_until(lambda: instance.shard(1)["calls_in"] == 1, "the request to be served")
        return request

    def test_what_is_in_flight_completes_before_anybody_leaves(self):
        instance = self.start("--shards", "2")
        request = self.begin_sleep(instance, 500)
        instance.kill(instance.supervisor.pid, signal.SIGTERM)
        self.assertEqual(request.wait(harness.DEADLINE), 0)
        self.assertEqual(instance.wait_exit(), 0)
        self.assertNotIn("drain limit", instance.log())

    def test_what_does_not_complete_within_the_drain_limit_is_left(self):
        instance = self.start("--shards", "2", "--drain-limit", "0.2")
        self.begin_sleep(instance, 600000)
        instance.kill(instance.supervisor.pid, signal.SIGTERM)
        self.assertEqual(instance.wait_exit(), 0)
        self.assertIn("drain limit of 0.2 s reached with 1 calls in flight", instance.log())
        self.assertNotIn("killed", instance.log())

    def test_without_a_supervisor_what_is_in_flight_completes_too(self):
        instance = self.start("--shards", "2")
        request = self.begin_sleep(instance, 2000)
        instance.kill(instance.supervisor.pid)
        self.assertEqual(request.wait(harness.DEADLINE), 0)

    def test_without_a_supervisor_what_lasts_longer_ends_after_5_seconds(self):
        instance = self.start("--shards", "2")
        pids = [p["pid"] for p in instance.processes()[1:]]
        self.begin_sleep(instance, 600000)
        instance.kill(instance.supervisor.pid)
        wait_until(lambda: not any(map(harness.is_alive, pids)), "the orphans to leave")

    def test_stop_right_after_the_start_ends_it_too(self):
        for _ in range(10):
            instance = self.instance()
            instance.run("--shards", "2")
            lock = os.path.join(instance.runtime_dir, "test", "segment")
            wait_until(lambda: os.path.lexists(lock) or instance.supervisor.poll() is not None,
                       "the segment's link")
            instance.kill(instance.supervisor.pid, signal.SIGTERM)
            self.assertEqual(instance.wait_exit(), 0)
            self.assertEqual(instance.segments(), [])


if __name__ == "__main__":
    harness.main()
