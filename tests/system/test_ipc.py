# SPDX-License-Identifier: MIT
"""The control plane as any client sees it: sessions, ends and limits."""
import errno
import itertools
import os
import signal
import tempfile
import time

import harness
from ipc_case import IpcCase
from raw_client import CANCELLED, DONE, EXPIRED, Refusal, Submission, field, one


class Sessions(IpcCase):
    def test_hello_gives_a_session_and_nothing_else_is_heard_before(self):
        self.begin()
        client = self.client()
        for body in (client.submit_message([Submission(1, "sys.ping")]), client.next_message(),
                     field(6, b""), field(7, b"")):
            with self.assertRaises(Refusal) as refusal:
                client.ask(body)
            self.assertEqual(refusal.exception.number, errno.ESTALE)
        session, resumed = client.hello()
        self.assertEqual((len(session), resumed), (16, False))

    def test_another_version_is_refused_with_both_numbers(self):
        self.begin()
        with self.assertRaises(Refusal) as refusal:
            self.client().hello(version=7)
        self.assertEqual(refusal.exception.number, errno.EPROTONOSUPPORT)
        self.assertIn("version 7", refusal.exception.text)
        self.assertIn("version 1", refusal.exception.text)

    def test_ends_that_were_not_acknowledged_come_again_after_a_reconnect(self):
        self.begin()
        client = self.session()
        client.submit([Submission(i, "sys.echo", b"%d" % i) for i in range(1, 11)])
        before = {}
        while len(before) < 10:
            before.update((end.position, end.id) for end in client.next(ack=0, max_ends=5))
        client.next(ack=4, wait_ms=0)
        client.socket.close()
        again = self.client()
        self.assertEqual(again.hello(client.token), (client.token, True))
        after = again.fetch(6)
        self.assertEqual({end.position: end.id for end in after},
                         {position: id for position, id in before.items() if position > 4})

    def test_requests_go_on_while_their_client_is_away(self):
        self.begin()
        client = self.session()
        client.submit([Submission(1, "sys.sleep", b"100")])
        client.socket.close()
        again = self.client()
        again.hello(client.token)
        self.assertEqual([(end.id, end.kind) for end in again.fetch(1)], [(1, DONE)])

    def test_requests_in_line_wait_while_their_client_is_away(self):
        self.begin()
        client = self.session()
        for batch in range(3):
            client.submit([Submission(1 + 1000 * batch + i, "sys.sleep", b"200", shard=0)
                           for i in range(1000)])
        client.socket.close()
        other = self.session()
        harness.wait_until(lambda: other.status()["in_flight"] < 2500, "what was started to end")
        other.submit([Submission(1, "sys.sleep", b"700", shard=1)])
        other.fetch(1)
        self.assertGreater(other.status()["in_flight"], 1500)
        again = self.client()
        again.hello(client.token)
        self.assertEqual(len({end.id for end in again.fetch(3000)}), 3000)

    def test_requests_in_line_of_a_dead_client_do_not_stand_before_a_stop(self):
        self.begin()
        client = self.session()
        for batch in range(3):
            client.submit([Submission(1 + 1000 * batch + i, "sys.sleep", b"100", shard=0)
                           for i in range(1000)])
        client.socket.close()
        other = self.session()
        harness.wait_until(lambda: other.status()["in_flight"] < 2500, "what was started to end")
        other.socket.close()
        began = time.monotonic()
        self.sherd.stop()
        self.assertLess(time.monotonic() - began, 20)

    def test_a_request_that_comes_twice_is_served_once(self):
        self.begin()
        client = self.session()
        pings = [Submission(i, "sys.ping") for i in range(1, 6)]
        self.assertEqual(client.submit(pings), (5, {}))
        self.assertEqual(client.submit(pings), (5, {}))
        harness.wait_until(lambda: client.status()["ended"] == 5, "five ends")
        self.assertEqual(client.submit(pings), (5, {}))  # also when all have ended
        ends = client.next()
        self.assertEqual(sorted(end.id for end in ends), [1, 2, 3, 4, 5])
        client.next(ack=5, wait_ms=0)
        self.assertEqual(client.submit(pings), (5, {}))  # and arrived: what became of them is told again
        self.assertEqual([(end.id, end.position) for end in client.next(ack=5)],
                         [(i, 5 + i) for i in range(1, 6)])
        self.assertEqual(client.status()["accepted"], 5)

    def test_an_unknown_session_is_answered_with_a_new_one(self):
        self.begin()
        session, resumed = self.client().hello(b"x" * 16)
        self.assertFalse(resumed)
        self.assertNotEqual(session, b"x" * 16)

    def test_a_session_moves_with_its_latest_hello(self):
        self.begin()
        first = self.session()
        second = self.client()
        second.hello(first.token)
        with self.assertRaises(Refusal) as refusal:
            first.submit([Submission(1, "sys.ping")])
        self.assertEqual(refusal.exception.number, errno.ESTALE)
        self.assertEqual(second.submit([Submission(1, "sys.ping")]), (1, {}))

    def test_a_client_that_dies_leaves_nothing_in_flight(self):
        self.begin()
        client = self.session()
        client.submit([Submission(i, "sys.sleep", b"50") for i in range(1, 101)])
        client.socket.close()
        other = self.session()
        harness.wait_until(lambda: other.status()["in_flight"] == 0, "its requests to end")
        harness.wait_until(lambda: other.status()["sessions"] == 1, "its session to be without it")
        self.assert_still_serves()


class Requests(IpcCase):
    def test_a_request_goes_to_the_shard_it_names_and_a_key_always_to_the_same(self):
        self.begin()
        client = self.session()
        client.submit([Submission(1 + i, "sys.ping", shard=i % 2) for i in range(10)])
        self.assertEqual({(end.id % 2, end.shard) for end in client.fetch(10)}, {(1, 0), (0, 1)})
        client.submit([Submission(100 + i, "sys.ping", key=b"the key") for i in range(10)])
        self.assertEqual(len({end.shard for end in client.fetch(10)}), 1)

    def test_what_names_nothing_is_spread_over_the_shards(self):
        self.begin()
        client = self.session()
        client.submit([Submission(1 + i, "sys.ping") for i in range(10)])
        self.assertEqual({end.shard for end in client.fetch(10)}, {0, 1})

    def test_wrong_requests_are_refused_one_by_one_with_reasons(self):
        self.begin()
        client = self.session()
        accepted, refused = client.submit([
            Submission(1, "sys.pong"), Submission(2, "sys.ping", shard=2), Submission(3, "sys.ping"),
            Submission(0, "sys.ping"), Submission(5, "sys.ping", key=b"k" * 5000),
            Submission(6, "sys.crash")])
        self.assertEqual(accepted, 1)
        self.assertEqual({id: number for id, (number, _) in refused.items()},
                         {1: errno.ENOENT, 2: errno.ENODEV, 0: errno.EINVAL, 5: errno.EMSGSIZE,
                          6: errno.EACCES})
        self.assertIn("sys.echo", refused[1][1])
        self.assertIn("there are 2", refused[2][1])
        self.assertIn("4096", refused[5][1])
        self.assertIn("--enable-test-methods", refused[6][1])
        self.assertEqual([end.id for end in client.fetch(1)], [3])

    def test_a_payload_of_one_mebibyte_is_the_largest(self):
        self.begin()
        client = self.session()
        largest = os.urandom(1 << 20)
        accepted, refused = client.submit([Submission(1, "sys.echo", largest)])
        self.assertEqual((accepted, refused), (1, {}))
        self.assertEqual(client.fetch(1)[0].data, largest)
        accepted, refused = client.submit([Submission(2, "sys.echo", largest + b"x")])
        self.assertEqual((accepted, refused[2][0]), (0, errno.EMSGSIZE))
        self.assertIn("1048576", refused[2][1])

    def test_more_than_1024_requests_in_a_message_are_refused_together(self):
        self.begin()
        client = self.session()
        with self.assertRaises(Refusal) as refusal:
            client.submit([Submission(1 + i, "sys.ping") for i in range(1025)])
        self.assertEqual(refusal.exception.number, errno.EMSGSIZE)
        self.assertIn("1024", refusal.exception.text)
        self.assertEqual(client.status()["accepted"], 0)

    def test_deadlines_end_what_runs_and_what_waits(self):
        self.begin()
        client = self.session()
        client.submit([Submission(1, "sys.sleep", b"60000", timeout_ns=20_000_000)])
        end, = client.fetch(1)
        self.assertEqual((end.kind, end.error), (EXPIRED, errno.ETIMEDOUT))

    def test_a_cancelled_request_ends_at_once_and_only_once(self):
        self.begin()
        client = self.session()
        client.submit([Submission(i, "sys.sleep", b"2000") for i in (1, 2)])  # runs on, unheard
        self.assertEqual(client.cancel([1]), 1)
        end, = client.fetch(1)
        self.assertEqual((end.id, end.kind, end.error), (1, CANCELLED, errno.ECANCELED))
        self.assertEqual(client.cancel([1, 77]), 0)
        self.assertEqual(client.cancel([2]), 1)
        self.assertEqual([end.id for end in client.next()], [2])

    def test_at_the_limit_of_a_session_requests_are_told_to_wait(self):
        self.begin()
        client = self.session()
        accepted, busy = 0, 0
        for batch in range(5):
            n, refused = client.submit(
                [Submission(1 + 1024 * batch + i, "sys.ping") for i in range(1024)])
            accepted += n
            self.assertTrue(all(number == errno.EAGAIN for number, _ in refused.values()))
            busy += len(refused)
        self.assertEqual((accepted, busy), (4096, 1024))
        self.assertTrue(100 <= client.retry_us <= 100_000, client.retry_us)
        ends = client.fetch(4096)
        self.assertEqual(len({end.id for end in ends}), 4096)
        client.next(ack=4096, wait_ms=0)
        self.assertEqual(client.submit([Submission(5 * 1024, "sys.ping")]), (1, {}))

    def test_arguments_of_all_take_so_much_and_more_is_told_to_wait(self):
        """While no shard takes any."""
        self.begin()
        shards = [self.sherd.shard(i) for i in range(2)]
        for shard in shards:
            self.sherd.kill(shard, signal.SIGSTOP)
        first, second = self.session(), self.session()
        mebibyte = bytes(1 << 20)
        for i in range(0, 64, 2):
            client = first if i < 32 else second
            self.assertEqual(client.submit([Submission(i + k + 1, "sys.echo", mebibyte) for k in (0, 1)]), (2, {}))
        for client in (first, second):
            accepted, refused = client.submit([Submission(100, "sys.echo", b"x"), Submission(101, "sys.ping")])
            self.assertEqual((accepted, refused[100][0]), (1, errno.EAGAIN))
        self.assertEqual(first.cancel([1]), 1)
        self.assertEqual([end.id for end in first.fetch(1)], [1])  # until then its arguments are kept
        self.assertEqual(second.submit([Submission(100, "sys.echo", b"x")]), (1, {}))
        for shard in shards:
            self.sherd.kill(shard, signal.SIGCONT)

    def test_of_large_answers_of_all_only_so_much_lies_about(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = os.path.realpath(os.path.join(folder.name, "mebibyte"))
        with open(path, "wb") as file:
            file.write(bytes(1 << 20))
        self.begin("--root", os.path.dirname(path))
        read = field(1, path) + field(3, 1 << 20)
        clients, ended = [self.session()], 1
        clients[0].submit([Submission(100, "file.read", read)])  # from now on it is known how long they are
        clients[0].next()
        clients[0].next(wait_ms=0)
        for n in [8] * 15 + [7, 1, 1]:  # of a session 8 MiB, of all 128
            clients.append(self.session())
            clients[-1].submit([Submission(i, "file.read", read) for i in range(1, 9)])
            ended += n
            harness.wait_until(lambda: clients[0].status()["ended"] == ended, f"{ended} answers")
        last = clients[-1]
        self.assertEqual(len(last.next()), 1)
        self.assertEqual(last.submit([Submission(9, "sys.ping", shard=0)]), (1, {}))  # behind them, in line
        self.assertEqual(clients[0].status()["ended"], ended)
        self.assertGreaterEqual(len(last.next()), 1)  # its own is acknowledged, so it has one more
        for client in clients:
            client.cancel(range(1, 10))  # nobody fetches them

    def test_a_fifth_waiting_next_sends_the_oldest_back(self):
        self.begin()
        client = self.session()
        sent = [client.send(client.next_message()) for _ in range(5)]
        number, kind, fields = client.receive()
        self.assertIn(number, sent)  # the oldest that the gateway heard: messages may overtake each other
        self.assertEqual((kind, client.ends_of(fields)), (4, []))

    def test_a_next_ends_after_its_time_without_an_end(self):
        self.begin()
        client = self.session()
        self.assertEqual(client.next(wait_ms=10), [])

    def test_acknowledging_what_was_never_sent_is_an_error(self):
        self.begin()
        with self.assertRaises(Refusal) as refusal:
            self.session().next(ack=1)
        self.assertEqual(refusal.exception.number, errno.EINVAL)

    def test_a_next_of_an_earlier_session_acknowledges_nothing_in_this_one(self):
        self.begin()
        client = self.session()
        client.submit([Submission(1, "sys.ping")])
        self.assertEqual(len(client.next()), 1)
        with self.assertRaises(Refusal) as refusal:
            client.next(ack=1, session=b"x" * 16)
        self.assertEqual(refusal.exception.number, errno.ESTALE)
        self.assertEqual(len(client.next(ack=0, wait_ms=0)), 0)  # this connection has had it
        client.socket.close()
        again = self.client()
        again.hello(client.token)
        self.assertEqual([end.position for end in again.next(ack=0)], [1])

    def test_status_and_methods_say_what_there_is(self):
        self.begin()
        client = self.session()
        status = client.status()
        self.assertEqual((status["instance"], status["shards"], status["sessions"]),
                         (self.sherd.name, 2, 1))
        self.assertEqual([process[1][0] for process in status["processes"]],
                         [b"supervisor", b"shard", b"shard", b"gateway"])
        methods = client.methods()
        self.assertTrue(methods["sys.ping"])
        self.assertFalse(methods["file.write"])
        self.assertNotIn("sys.crash", methods)
        read_only = {name for name, method in client.described_methods().items() if one(method, 10)}
        self.assertLess({"file.read", "file.stat", "sys.ping"}, read_only)
        self.assertFalse({"file.write", "file.open", "sys.wander"} & read_only)

    def test_a_method_tells_which_messages_it_takes_and_gives(self):
        self.begin()
        methods = self.session().described_methods()
        told = {name: (one(method, 8, b"").decode(), one(method, 9, b"").decode())
                for name, method in methods.items()}
        request = "message sherd.file.Request { bytes path = 1; uint64 offset = 2; uint64 length = 3; bytes data = 4;"
        for method, reply in (("file.write", "message sherd.file.WriteReply { uint64 written = 1; }"), ("file.read", "")):
            self.assertEqual((told[method][0][:len(request)], told[method][1]), (request, reply))
        self.assertEqual(told["sys.echo"], ("", ""))

    def test_a_method_s_number_is_its_own_and_outlives_the_gateway(self):
        self.begin("--enable-test-methods")
        numbers = {name: one(method, 5)
                   for name, method in self.session().described_methods().items()}
        self.assertEqual(sorted(numbers.values()), list(range(len(numbers))))
        self.sherd.kill_and_wait("gateway")
        with self.session() as client:
            again = client.described_methods()
        self.assertEqual({name: one(method, 5) for name, method in again.items()}, numbers)


class Many(IpcCase):
    def test_two_hundred_clients_at_once_get_each_what_is_theirs(self):
        self.begin()
        clients = [self.session() for _ in range(200)]
        for number, client in enumerate(clients):
            client.send(client.submit_message(
                [Submission(1 + i, "sys.echo", b"%d.%d" % (number, i)) for i in range(20)]))
        for client in clients:
            _, kind, _ = client.receive()
            self.assertEqual(kind, 3)
        for number, client in enumerate(clients):
            self.assertEqual(sorted(end.data for end in client.fetch(20)),
                             sorted(b"%d.%d" % (number, i) for i in range(20)))
        self.assertEqual(clients[0].status()["sessions"], 200)

    def test_one_client_s_thousands_do_not_stand_before_another_s_one(self):
        self.begin()
        greedy, modest = self.session(), self.session()
        self.fill(greedy, 3000, urgent=False)
        modest.submit([Submission(1, "sys.ping", shard=0)])
        self.assertEqual(greedy.cancel(range(1, 1025)), 1024)  # all that were begun, and some in line
        modest.fetch(1)
        self.assertEqual(greedy.cancel(range(1025, 3001)), 1976)
        greedy.fetch(3000)

    def fill(self, client, n, urgent):
        """n requests for shard 0 that do not end by themselves. Their ids are 1 to n."""
        for first in range(1, n + 1, 1024):
            client.submit([Submission(i, "sys.sleep", b"600000", shard=0, urgent=urgent)
                           for i in range(first, min(first + 1024, n + 1))])

    def end_all(self, client, n):
        self.assertEqual(client.cancel(range(1, n + 1)), n)

    def test_an_urgent_request_does_not_wait_for_those_that_are_not(self):
        self.begin()
        greedy, urgent = self.session(), self.session()
        self.fill(greedy, 3000, urgent=False)
        for client, first in ((greedy, 5001), (urgent, 1)):
            client.submit([Submission(first, "sys.ping", shard=0),
                           Submission(first + 1, "sys.ping", shard=0, urgent=True)])
            self.assertEqual([(end.id, end.kind) for end in client.fetch(1)], [(first + 1, DONE)])
        self.assertEqual(urgent.status()["in_flight"], 3002)
        self.end_all(greedy, 3000)
        self.assertEqual(len({end.id for end in greedy.fetch(3001)}), 3001)
        self.assertEqual([(end.id, end.kind) for end in urgent.fetch(1)], [(1, DONE)])

    def test_urgent_requests_that_are_too_many_wait_for_each_other_alone(self):
        self.begin()
        urgent, normal = self.session(), self.session()
        self.fill(urgent, 100, urgent=True)
        urgent.submit([Submission(5001, "sys.ping", shard=0, urgent=True)])
        normal.submit([Submission(1, "sys.ping", shard=0),
                       Submission(2, "sys.ping", shard=1, urgent=True)])
        self.assertEqual({(end.id, end.kind) for end in normal.fetch(2)}, {(1, DONE), (2, DONE)})
        self.assertEqual(normal.status()["in_flight"], 101)
        self.end_all(urgent, 100)
        self.assertIn((5001, DONE), {(end.id, end.kind) for end in urgent.fetch(101)})

    def refused_soon(self, client, first, **placement):
        """Submits pings that would rather be refused, with ids from `first`, until one is. Returns its id."""
        numbers = itertools.count(first)

        def is_refused():
            number = next(numbers)
            accepted, refused = client.submit([Submission(number, "sys.ping", refuse=True, **placement)])
            self.assertEqual(accepted + len(refused), 1)
            return refused and (number, refused[number][0])
        number, error = harness.wait_until(is_refused, "a request is refused")
        self.assertEqual(error, errno.EAGAIN)
        self.assertGreater(client.retry_us, 0)
        return number

    def test_a_shard_that_is_behind_refuses_who_would_rather_be_and_has_others_wait(self):
        self.begin()
        client = self.session()
        client.submit([Submission(1, "sys.ping", shard=0)])
        client.fetch(1)
        shard = self.sherd.shard(0)
        self.sherd.kill(shard, signal.SIGSTOP)
        client.submit([Submission(2, "sys.ping", shard=0)])
        last = self.refused_soon(client, 3, shard=0)
        self.assertEqual(client.submit([Submission(last + 1, "sys.ping", shard=0),
                                        Submission(last + 2, "sys.ping", shard=1, refuse=True)]), (2, {}))
        self.assertEqual([end.id for end in client.fetch(1)], [last + 2])
        self.sherd.kill(shard, signal.SIGCONT)
        ends = client.fetch(last - 1)
        self.assertEqual({(end.id, end.kind) for end in ends},
                         {(number, DONE) for number in (*range(2, last), last + 1)})
        self.assertEqual(client.submit([Submission(last, "sys.ping", shard=0, refuse=True)]), (1, {}))
        self.assertEqual([(end.id, end.kind) for end in client.fetch(1)], [(last, DONE)])

    def test_who_would_rather_be_refused_does_not_stand_in_line(self):
        self.begin()
        greedy, modest = self.session(), self.session()
        self.fill(greedy, 1000, urgent=False)
        accepted, refused = modest.submit([Submission(1, "sys.ping", shard=0, refuse=True),
                                           Submission(2, "sys.ping", shard=0)])
        self.assertEqual((accepted, refused[1][0]), (1, errno.EAGAIN))
        self.end_all(greedy, 1000)
        self.assertEqual([(end.id, end.kind) for end in modest.fetch(1)], [(2, DONE)])
        greedy.fetch(1000)

    def test_the_limit_of_a_session_holds_for_urgent_requests_too(self):
        self.begin()
        client = self.session()
        self.fill(client, 4096, urgent=False)
        _, refused = client.submit([Submission(20000, "sys.ping", urgent=True)])
        self.assertEqual(refused[20000][0], errno.EAGAIN)
        for first in range(1, 4097, 1024):
            client.cancel(range(first, first + 1024))
        client.fetch(4096)


if __name__ == "__main__":
    harness.main()
