# SPDX-License-Identifier: MIT
"""libsherd-client.so against a real instance: many in flight, gateways that die, times and ends."""
import ctypes
import errno
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import harness
from client_library import (CANCELLED, DONE, EXPIRED, FAILED, IN_DOUBT, NOT_STARTED, REFUSE, SECOND,
                            Client, ClientError)

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "../..")
HEADER = os.path.join(ROOT, "ipc/client/client.h")


class Calls(harness.TestCase):
    def test_a_call_returns_what_the_method_answered(self):
        with Client(self.start("--shards", "2")) as client:
            result = client.call("sys.echo", b"hello", shard=1)
            self.assertEqual((result.end, result.error, result.shard, result.data),
                             (DONE, 0, 1, b"hello"))

    def test_ten_thousand_pings_are_in_flight_at_once_and_end_once_each(self):
        with Client(self.start("--shards", "2"), window=10000) as client:
            ends = []
            for _ in range(10000):
                client.submit("sys.ping", done=ends.append)
            self.assertEqual(client.in_flight(), 10000)
            client.run()
            self.assertEqual(sorted(end.id for end in ends), list(range(1, 10001)))
            self.assertEqual({end.end for end in ends}, {DONE})

    def test_more_than_the_gateway_takes_wait_in_the_client(self):
        with Client(self.start("--shards", "2"), window=100000) as client:
            ends = []
            for _ in range(40000):
                client.submit("sys.ping", done=ends.append)
            client.run()
            self.assertEqual(len({end.id for end in ends if end.end == DONE}), 40000)

    def test_answers_of_a_mebibyte_each_come_whole(self):
        with Client(self.start("--shards", "2")) as client:
            pieces = [os.urandom(1 << 20) for _ in range(3)]
            ends = {}
            for i in range(60):
                client.submit("sys.echo", pieces[i % 3],
                              done=lambda result, i=i: ends.update({i: result.data == pieces[i % 3]}))
            client.run()
            self.assertEqual((len(ends), set(ends.values())), (60, {True}))

    def test_more_than_a_mebibyte_is_refused_at_once(self):
        with Client(self.start("--shards", "1")) as client:
            with self.assertRaises(ClientError) as error:
                client.submit("sys.echo", bytes((1 << 20) + 1))
            self.assertEqual(error.exception.errno, errno.EMSGSIZE)

    def test_what_the_gateway_refuses_is_not_started_and_says_why(self):
        with Client(self.start("--shards", "2")) as client:
            result = client.call("sys.pong")
            self.assertEqual((result.end, result.error), (NOT_STARTED, -errno.ENOENT))
            self.assertIn(b"sys.ping", result.data)
            result = client.call("sys.ping", shard=9)
            self.assertEqual((result.end, result.error), (NOT_STARTED, -errno.ENODEV))

    def test_deadlines_hold_in_the_shard_and_in_line(self):
        with Client(self.start("--shards", "1"), window=1) as client:
            ends = {}
            for name in ("runs", "waits"):
                client.submit("sys.sleep", b"600000", timeout_ns=SECOND // 20,
                              done=lambda result, name=name: ends.update({name: result.end}))
            client.run()
            self.assertEqual(ends, {"runs": EXPIRED, "waits": EXPIRED})

    def test_a_request_is_cancelled_in_line_and_in_the_shard(self):
        with Client(self.start("--shards", "1"), window=1) as client:
            ends = {}
            ids = {name: client.submit("sys.sleep", b"600000", done=lambda result, name=name:
                                       ends.update({name: result.end}))
                   for name in ("runs", "waits")}
            client.process(0)
            for number in ids.values():
                self.assertEqual(client.cancel(number), 0)
            client.run()
            self.assertEqual(ends, {"runs": CANCELLED, "waits": CANCELLED})
            self.assertEqual(client.cancel(ids["runs"]), -errno.ENOENT)

    def test_an_urgent_request_overtakes_what_waits_in_line_here(self):
        with Client(self.start("--shards", "1"), window=1) as client:
            ends, sleeper = [], []

            def after_ping(result):
                ends.append("urgent")
                self.assertEqual(client.cancel(sleeper[0]), 0)
            sleeper.append(client.submit("sys.sleep", b"600000", done=lambda result: ends.append("slow")))
            client.process(0)
            client.submit("sys.ping", done=lambda result: ends.append("normal"))
            client.submit("sys.ping", done=after_ping, urgent=True)
            client.run()
            self.assertEqual(ends, ["urgent", "slow", "normal"])

    def test_callbacks_may_submit(self):
        with Client(self.start("--shards", "2"), window=16) as client:
            ends = []

            def again(result):
                ends.append(result.end)
                if len(ends) <= 500:
                    client.submit("sys.ping", done=again)
            for _ in range(16):
                client.submit("sys.ping", done=again)
            client.run()
            self.assertEqual(ends, [DONE] * 516)

    def test_ends_without_a_callback_are_fetched_as_they_come(self):
        sherd = self.start()
        with Client(sherd) as client:
            wanted = {client.queue("sys.echo", str(i).encode()): str(i).encode() for i in range(100)}
            while wanted:
                for result in client.reap(7):
                    self.assertEqual((result.end, result.data), (DONE, wanted.pop(result.id)))
            self.assertEqual(client.reap(7), [])

    def test_an_answer_comes_into_the_room_given_or_is_too_long_for_it(self):
        sherd = self.start()
        with Client(sherd) as client:
            room = ctypes.create_string_buffer(8)
            client.queue("sys.echo", b"12345678", room=room)
            self.assertEqual([r.data for r in client.reap(1)], [b"12345678"])
            self.assertEqual(room.raw, b"12345678")
            client.queue("sys.echo", b"123456789", room=room)
            result, = client.reap(1)
            self.assertEqual((result.end, result.error), (FAILED, -errno.ENOBUFS))

    def test_what_does_not_wait_ends_at_once_where_the_window_is_full(self):
        sherd = self.start()
        with Client(sherd, window=1) as client:
            slow = client.queue("sys.sleep", b"600000")
            client.process(0)
            refused = client.queue("sys.ping", flags=REFUSE)
            result, = client.reap(1)
            self.assertEqual((result.id, result.end, result.error),
                             (refused, NOT_STARTED, -errno.EAGAIN))
            self.assertGreater(result.retry_us, 0)
            client.cancel(slow)
            self.assertEqual([r.id for r in client.reap(1)], [slow])

    def test_another_thread_ends_a_wait(self):
        sherd = self.start()
        with Client(sherd) as client:
            slow = client.queue("sys.sleep", b"60000")
            waker = threading.Timer(0.05, client.wake)
            waker.start()
            self.assertEqual(client.reap(1), [])
            waker.join()
            client.cancel(slow)
            self.assertEqual([r.end for r in client.reap(1)], [CANCELLED])

    def test_the_fd_is_readable_when_there_is_something_to_do(self):
        with Client(self.start("--shards", "1")) as client:
            ends = []
            client.submit("sys.ping", done=ends.append)
            while not ends:
                self.assertTrue(select.select([client.fd()], [], [], harness.DEADLINE)[0])
                client.process(0)
            self.assertEqual(client.process(0), 0)


class Deaths(harness.TestCase):
    def test_a_gateway_that_dies_again_and_again_loses_nothing_that_may_run_twice(self):
        sherd = self.start("--shards", "2")
        with Client(sherd, wait_ns=20 * SECOND, window=512) as client:
            ends = []
            for i in range(6000):
                client.submit("sys.echo", b"%d" % i, done=ends.append)
            deaths = 0
            while client.in_flight() > 0:
                self.assertGreaterEqual(client.process(20 * SECOND), 0)
                if len(ends) > 1500 * (deaths + 1) and deaths < 3:
                    sherd.kill_and_wait("gateway")
                    deaths += 1
            self.assertEqual(deaths, 3)
            self.assertEqual({end.end for end in ends}, {DONE})
            self.assertEqual(sorted(int(end.data) for end in ends), list(range(6000)))

    def test_what_must_not_run_twice_ends_as_it_did_though_the_gateway_dies_meanwhile(self):
        sherd = self.instance()
        sherd.start("--shards", "1", "--enable-test-methods", "--set", f"sys.notes={sherd.scratch}")
        notes = os.path.join(sherd.scratch, "notes")
        shard = sherd.shard(0)
        with Client(sherd, wait_ns=20 * SECOND) as client:
            ends = []
            sherd.kill(shard, signal.SIGSTOP)
            try:
                for i in range(2000):  # more than a shard is given at a time
                    client.submit("sys.note", f"{notes} {i}".encode(), done=ends.append)
                harness.wait_until(lambda: client.process(SECOND // 100) == 0 and
                                   sherd.gateway()["clients"]["requests_in_flight"] > 900,
                                   "requests to be accepted")
                sherd.kill_and_wait("gateway")
            finally:
                sherd.kill(shard, signal.SIGCONT)
            client.run()
        self.assertEqual({(end.end, end.error) for end in ends}, {(DONE, 0)})
        with open(notes) as file:
            self.assertEqual(sorted(map(int, file.read().split())), list(range(2000)))

    def test_deadlines_and_cancellations_hold_while_the_gateway_stands_still(self):
        sherd = self.start("--shards", "1")
        with Client(sherd) as client:
            self.assertEqual(client.call("sys.ping").end, DONE)
            gateway = sherd.gateway()
            sherd.kill(gateway, signal.SIGSTOP)
            try:
                late = client.call("sys.ping", timeout_ns=SECOND // 20)
                ends = []
                client.cancel(client.submit("sys.sleep", b"600000", done=ends.append))
                number = client.submit("sys.sleep", b"600000", done=ends.append)
                client.process(0)
                client.cancel(number)
                client.run()
            finally:
                sherd.kill(gateway, signal.SIGCONT)
            self.assertEqual((late.end, late.error), (EXPIRED, -errno.ETIMEDOUT))
            self.assertEqual([end.end for end in ends], [CANCELLED] * 2)
            self.assertEqual(client.call("sys.ping").end, DONE)

    def test_when_the_instance_stays_away_every_request_ends_and_the_client_can_go_on_later(self):
        sherd = self.start("--shards", "1")
        with Client(sherd, wait_ns=SECOND, window=1) as client:
            ends = []
            client.submit("sys.sleep", b"600000", done=ends.append)
            client.submit("sys.ping", done=ends.append)
            client.process(SECOND // 10)
            sherd.kill_all()
            error = 0
            while client.in_flight() > 0:
                error = client.process(20 * SECOND)
            self.assertEqual(error, -errno.ENOTCONN)
            self.assertEqual([(end.end, end.error) for end in ends],
                             [(IN_DOUBT, -errno.EOWNERDEAD), (NOT_STARTED, -errno.ENOTCONN)])
            sherd.start("--shards", "1")
            result = None
            while not result:
                try:
                    result = client.call("sys.ping")
                except ClientError:
                    pass
                if result and result.end != DONE:
                    result = None
            self.assertEqual(result.end, DONE)

    def test_shards_that_die_lose_nothing_that_may_run_twice(self):
        sherd = self.start("--shards", "2")
        with Client(sherd, window=256) as client:
            ends = []
            for i in range(3000):
                client.submit("sys.echo", b"%d" % i, done=ends.append)
            for shard in (0, 1):
                client.process(20 * SECOND)
                sherd.kill_and_wait("shard", shard)
            client.run()
            self.assertEqual(sorted(int(end.data) for end in ends), list(range(3000)))

    def test_a_client_killed_half_way_leaves_the_instance_serving(self):
        sherd = self.start("--shards", "2")
        script = ("import sys; sys.path.insert(0, sys.argv[1]); from client_library import *\n"
                  "c = Client(url=sys.argv[2])\n"
                  "for _ in range(5000): c.submit('sys.sleep', b'20')\n"
                  "c.process(); print('going', flush=True); c.run()\n")
        url = "ipc://" + sherd.gateway_socket
        with subprocess.Popen([sys.executable, "-c", script, HERE, url],
                              stdout=subprocess.PIPE, env=sherd.environment) as killed:
            self.assertEqual(killed.stdout.readline(), b"going\n")
            killed.kill()
        with Client(sherd) as client:
            self.assertEqual(client.call("sys.ping").end, DONE)
        self.assertEqual(sherd.gateway()["incarnation"], 1)


class Opening(harness.TestCase):
    def test_without_an_instance_opening_fails_at_once_or_after_its_time(self):
        sherd = self.instance()
        with self.assertRaises(ClientError) as error:
            Client(sherd, wait_ns=0)
        self.assertEqual(error.exception.errno, errno.ENOENT)
        with self.assertRaises(ClientError) as error:
            Client(sherd, wait_ns=SECOND // 20)
        self.assertEqual(error.exception.errno, errno.ETIMEDOUT)

    def test_a_client_waits_for_an_instance_that_is_starting(self):
        sherd = self.instance()
        sherd.run("--shards", "1")
        with Client(sherd, wait_ns=30 * SECOND) as client:
            self.assertEqual(client.call("sys.ping").end, DONE)

    def test_the_headers_are_valid_c_plus_plus(self):
        compiler = shutil.which("g++") or shutil.which("clang++")
        if not compiler:
            self.skipTest("no compiler for C++")
        with tempfile.NamedTemporaryFile("w", suffix=".cc") as source:
            source.write(f'#include "{HEADER}"\n#include "ipc/client/client_co.h"\n'
                         'int main() { return (int)sherd_client_in_flight(nullptr); }\n')
            source.flush()
            subprocess.run([compiler, "-I" + ROOT, "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-pedantic",
                            source.name], check=True)


if __name__ == "__main__":
    harness.main()
