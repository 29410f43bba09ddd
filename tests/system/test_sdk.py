# SPDX-License-Identifier: MIT
"""What a service is given beside calls: regions that outlive a shard, listeners, counters (examples/counter)."""
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest

import harness

BUILD = os.path.dirname(os.path.realpath(harness.program()))
COUNTER = os.path.join(BUILD, "examples", "counter", "counter.so")
TORN = os.path.join(BUILD, "tests", "system", "torn_counter.so")


class Client:
    """Speaks lines over a connection."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=harness.DEADLINE)
        self.unread = b""

    def ask(self, line):
        self.socket.sendall(line.encode() + b"\n")
        return self.line()

    def line(self):
        while b"\n" not in self.unread:
            more = self.socket.recv(4096)
            if not more:
                raise EOFError
            self.unread += more
        line, self.unread = self.unread.split(b"\n", 1)
        return line.decode()

    def close(self):
        self.socket.close()


class CounterCase(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.clients = []

    def tearDown(self):
        for client in self.clients:
            client.close()
        super().tearDown()

    def listening(self, *arguments, shards=1):
        instance = self.start("--shards", str(shards), "--service", COUNTER, "--set", "counter.listen=tcp://127.0.0.1:0",
                              *arguments)
        rows = self.services(instance)["listeners"]
        instance.port = int(rows[0]["address"].rsplit(":", 1)[1])
        return instance

    def services(self, instance):
        return json.loads(self.assertDone(instance.command("services", "--json")).stdout)

    def count(self, instance, name, shard=0):
        return self.services(instance)["shards"][shard]["counters"][name]

    def client(self, instance):
        client = Client(instance.port)
        self.clients.append(client)
        return client


class Regions(CounterCase):
    def test_counters_go_on_where_a_killed_shard_left_them(self):
        instance = self.start("--shards", "2", "--service", COUNTER)
        for total in ("3", "6"):
            for name in ("a", "b", "c", "d"):
                added = self.assertDone(instance.command("submit", "counter.add", f"{name} 3"))
                self.assertEqual(added.stdout.strip(), total)
            for shard in (0, 1):
                instance.kill_and_wait("shard", shard)
        sums = [int(self.assertDone(instance.command("submit", "counter.sum", "--shard", str(shard))).stdout)
                for shard in (0, 1)]
        self.assertEqual(sum(sums), 24)
        self.assertEqual(instance.stop(), 0)

    def test_killed_while_it_changes_sum_and_counters_agree(self):
        instance = self.listening()
        total = 0
        for turn in range(12):
            client = self.client(instance)
            client.socket.sendall(b"".join(b"n%d\n" % n for n in range(200)) * 20)
            client.line()
            instance.kill_and_wait("shard", 0)
            parts = sum(int(self.client(instance).ask(f"n{n} 0")) for n in range(200)) if turn % 4 == 3 else None
            sum_now = int(self.assertDone(instance.command("submit", "counter.sum", "--shard", "0")).stdout)
            self.assertGreater(sum_now, total)
            self.assertIn(parts, (None, sum_now))
            total = sum_now
        self.assertEqual(instance.stop(), 0)

    @unittest.skipIf(harness.THREADS, "nobody dies alone")
    def test_killed_between_the_two_stores_of_a_change_the_sum_is_mended_by_the_mark(self):
        instance = self.start("--shards", "1", "--service", TORN, name="torn")
        add = lambda text: instance.command("submit", "counter.add", text)
        self.assertDone(add("a 5"))
        for deaths in (1, 2):
            self.assertEqual(add("b 7777").returncode, 1)
            instance.wait_for_shard(0, deaths=deaths, state="up")
            parts = [int(self.assertDone(add(f"{name} 0")).stdout) for name in "ab"]
            self.assertEqual(parts, [5, deaths * 7777])
            self.assertEqual(int(self.assertDone(instance.command("submit", "counter.sum")).stdout), sum(parts))
            self.assertEqual(self.count(instance, "counter.mended"), deaths)
        self.assertEqual(instance.stop(), 0)

    def test_a_new_instance_begins_with_nothing(self):
        for _ in range(2):
            instance = self.start("--shards", "1", "--service", COUNTER)
            self.assertEqual(self.assertDone(instance.command("submit", "counter.add", "a")).stdout.strip(), "1")
            self.assertEqual(instance.stop(), 0)

    def test_a_setting_decides_how_large_a_region_is_and_what_is_more_is_refused(self):
        instance = self.start("--shards", "1", "--service", COUNTER, "--set", "counter.max=100")
        region, = self.services(instance)["shards"][0]["regions"]
        self.assertEqual((region["name"], region["bytes"]), ("counter.table", 16 + 100 * 32))
        for n in range(100):
            self.assertDone(instance.command("submit", "counter.add", f"n{n}"))
        full = instance.command("submit", "counter.add", "one-more")
        self.assertIn("raise counter.max", full.stderr)
        self.assertEqual(instance.stop(), 0)


class Listeners(CounterCase):
    def test_a_connection_reaches_the_counters_of_all_shards(self):
        instance = self.listening(shards=2)
        client = self.client(instance)
        self.assertEqual([client.ask(f"n{n} 2") for n in range(8)], ["2"] * 8)
        self.assertEqual(client.ask("n0 5"), "7")
        self.assertEqual(client.ask("a-name-that-is-longer-than-it-may-be"), "failed")
        sums = [shard["counters"]["counter.names"] for shard in self.services(instance)["shards"]]
        self.assertEqual(sum(sums), 8)
        self.assertTrue(all(sums), sums)
        self.assertEqual(instance.stop(), 0)

    def test_whoever_waits_in_the_backlog_of_a_dead_shard_is_served_by_its_replacement(self):
        instance = self.listening()
        old = self.client(instance)
        self.assertEqual(old.ask("a"), "1")
        instance.kill(instance.shard(0), signal.SIGSTOP)
        waiting = [self.client(instance) for _ in range(5)]
        for client in waiting:
            client.socket.sendall(b"a\n")
        instance.kill_and_wait("shard", 0)
        self.assertEqual(sorted(int(client.line()) for client in waiting), [2, 3, 4, 5, 6])
        with self.assertRaises((EOFError, ConnectionResetError)):
            old.ask("a")
        self.assertEqual(instance.stop(), 0)

    def test_unix_sockets_are_for_their_owner_and_gone_after_a_stop(self):
        instance = self.instance()
        path = os.path.join(instance.scratch, "lines.sock")
        instance.start("--shards", "2", "--service", COUNTER, "--set", f"counter.listen=unix://{path}")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        with socket.socket(socket.AF_UNIX) as lines:
            lines.connect(path)
            lines.sendall(b"a 4\n")
            self.assertEqual(lines.recv(10), b"4\n")
        self.assertEqual(instance.stop(), 0)
        self.assertFalse(os.path.exists(path))

    def test_an_address_that_is_none_or_taken_keeps_the_instance_from_starting(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            for address, why in (("tcp://localhost:1", "no address to listen at"), ("tcp://127.0.0.1", "no address"),
                                 ("tcp://127.0.0.1:65536", "no address"), ("unix://relative", "no address"),
                                 (f"unix:///{'x' * 108}", "has at most 107 bytes"),
                                 (f"tcp://127.0.0.1:{port}", "Address already in use")):
                with self.subTest(address):
                    result = self.instance().command("run", "--shards", "2", "--service", COUNTER, "--set",
                                                     f"counter.listen={address}")
                    self.assertRefused(result, "service counter: ", why)

    def test_a_stop_and_a_restart_end_connections_between_two_lines(self):
        instance = self.listening(shards=2)
        clients = [self.client(instance) for _ in range(8)]
        for client in clients:
            client.ask("a")
        self.assertDone(instance.command("restart"))
        for client in clients:
            with self.assertRaises((EOFError, ConnectionResetError, BrokenPipeError)):
                client.ask("a")
        self.assertEqual(self.client(instance).ask("a"), "9")
        self.assertDone(instance.command("drain"))
        drained = self.client(instance)  # it waits in the backlog
        drained.socket.sendall(b"a\n")
        self.assertDone(instance.command("drain", "--off"))
        self.assertEqual(drained.line(), "10")
        self.assertEqual(instance.stop(), 0)


PROTO = """
syntax = "proto3";
package greeting;
message Hello { string name = 1; repeated string titles = 2; }
message Reply { string text = 1; }
"""
TYPED = """
#include <stdio.h>
#include <sherd/service_message.h>
#include "greeting.pb-c.h"
static int coroutine_fn hello(struct service_call *call)
{
    struct service_message args;
    Greeting__Reply reply = GREETING__REPLY__INIT;
    char text[100];
    int r = service_unpack(call, &args);
    if (r < 0)
        return r;
    const Greeting__Hello *hello = (const Greeting__Hello *)args.message;
    snprintf(text, sizeof text, "hello %s, %zu", hello->name, hello->n_titles);
    service_unpack_done(&args);
    reply.text = text;
    return service_reply_message(call, &reply.base);
}
static int coroutine_fn wrong(struct service_call *call)
{
    Greeting__Hello reply = GREETING__HELLO__INIT;
    return service_reply_message(call, &reply.base);
}
static const struct service_method methods[] = {
    {"hello", hello, 0, "", &greeting__hello__descriptor, &greeting__reply__descriptor},
    {"wrong", wrong, 0, "", NULL, &greeting__reply__descriptor},
};
const struct service sherd_service = {SERVICE_ABI, "greeting", "", methods, 2};
"""
IMPATIENT = """
#include <sherd/service.h>
static int coroutine_fn serve(struct service_call *call)
{
    static const char much[65536];
    char buf[10];
    ssize_t n = service_recv(call, buf, sizeof buf);
    while (n > 0 && service_send(call, much, sizeof much) == 0)
        continue;
    return 0;
}
static int coroutine_fn none(struct service_call *call)
{
    return service_connection(call) ? -1 : (int)service_recv(call, NULL, 0);
}
static int prepare(struct service_plan *plan, const void *config, char **ret_error)
{
    return service_listen(plan, &(struct service_listener){.name = "in", .address = "tcp://127.0.0.1:0",
        .serve = serve, .send_limit_ns = 100000000, .idle_limit_ns = 100000000}, ret_error);
}
static const struct service_method methods[] = {{"none", none, 0, ""}};
const struct service sherd_service = {SERVICE_ABI, "impatient", "", methods, 1, .prepare = prepare};
"""


@unittest.skipUnless(shutil.which("cc"), "there is no compiler")
class Built(CounterCase):
    def build(self, name, source, *arguments):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        path = os.path.join(folder, name + ".so")
        include = ["-I", os.path.join(BUILD, "dist", "include"), "-I", folder]
        if arguments:
            with open(os.path.join(folder, "greeting.proto"), "w") as proto:
                proto.write(PROTO)
            subprocess.run(["protoc-c", "--c_out=.", "greeting.proto"], cwd=folder, check=True)
        subprocess.run(["cc", "-shared", "-fPIC", "-D_GNU_SOURCE", *include, "-x", "c", "-", *arguments, "-o", path],
                       input=source, text=True, check=True, cwd=folder)
        return path

    @unittest.skipUnless(shutil.which("protoc-c"), "there is no protoc-c")
    def test_messages_are_unpacked_and_packed_and_others_refused(self):
        instance = self.start("--service", self.build("typed", TYPED, "greeting.pb-c.c", "-lprotobuf-c"))
        hello = b"\x0a\x03Ada\x12\x04Lady"
        answer = self.assertDone(instance.command("submit", "greeting.hello", hello, text=False))
        self.assertEqual(answer.stdout[:14], b"\x0a\x0chello Ada, 1")
        refused = instance.command("submit", "greeting.hello", b"\x0a\x7fno", text=False)
        self.assertIn(b"the arguments are no greeting.Hello", refused.stderr)
        bomb = b"\x12\x00" * 500000  # each takes more room than it has bytes
        self.assertIn(b"no greeting.Hello", instance.command("submit", "greeting.hello", "-", input=bomb).stderr)
        self.assertIn("which the method does not say", instance.command("submit", "greeting.wrong").stderr)
        self.assertEqual(instance.stop(), 0)

    def test_who_takes_or_sends_nothing_is_let_go_in_time(self):
        instance = self.start("--shards", "1", "--service", self.build("impatient", IMPATIENT))
        instance.port = int(self.services(instance)["listeners"][0]["address"].rsplit(":", 1)[1])
        silent, deaf = self.client(instance), self.client(instance)
        deaf.socket.sendall(b"x")
        with self.assertRaises(EOFError):
            silent.line()
        harness.wait_until(lambda: self.count(instance, "impatient.in.slow") == 2, "both to be let go")
        harness.wait_until(lambda: self.count(instance, "impatient.in.open") == 0, "their connections to be closed")
        self.assertIn("not connected", instance.command("submit", "impatient.none").stderr)
        self.assertEqual(instance.stop(), 0)


if __name__ == "__main__":
    harness.main()
