# SPDX-License-Identifier: MIT
"""How much memory each process takes at most, against the bounds in sherd-run(1), under MEMORY."""
import ctypes
import os
import re
import subprocess
import tempfile
import unittest

import harness

if not harness.SANITIZED:  # Python cannot load the client library with a sanitizer in it
    from client_library import DATA, DONE, TO_SHARD, Client
    from test_plane_client import file_request

MIB = 1 << 20
# Two shards' segment is 20 MiB, and counts in each process as far as that one has touched it.
SUPERVISOR_MIB = 8 + 16
GATEWAY_MIB = 8 + 16
SHARD_MIB = 8 + 16
FILE_BUFFERS_MIB = 32        # a shard's
CALLS_MIB = 16               # 576 calls at once, of which each touches some 20 KiB
REQUESTS_MIB = 8             # a few thousand small ones that the gateway knows of
ANSWERS_MIB = 8              # of a session, not acknowledged


def most_bytes(pid):
    """The most that the process has held so far, pages that it shares included."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1]) * 1024


class Memory(harness.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix="sherd-memory-")
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)

    def begin(self, *options):
        """An instance as it is without meson's filling of all that malloc() gives."""
        return self.start(*options, environment={"MALLOC_PERTURB_": "0"})

    def write(self, name, data):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def by_role(self, instance):
        """The most that a process of each role has held."""
        most = {}
        for process in instance.processes():
            role = process["role"]
            most[role] = max(most.get(role, 0), most_bytes(process["pid"]))
        return most

    def check(self, instance, gateway_mib=0, shard_mib=0):
        most = self.by_role(instance)
        self.assertLess(most["supervisor"], SUPERVISOR_MIB * MIB)
        self.assertLess(most["gateway"], (GATEWAY_MIB + gateway_mib) * MIB)
        self.assertLess(most["shard"], (SHARD_MIB + shard_mib) * MIB)

    def hash_files(self, instance, paths):
        listing = self.write("list", "".join(path + "\n" for path in paths).encode())
        with open(listing, "rb") as names:
            result = self.assertDone(instance.command("submit", "--window", "4096", "file.sha256", "-",
                                                      stdin=names))
        self.assertEqual(result.stdout.count("\n"), len(paths))

    def test_an_instance_at_rest_takes_little(self):
        self.check(self.begin("--shards", "2"))

    def test_hashing_many_files_at_once_takes_the_file_buffers_and_no_more(self):
        instance = self.begin("--shards", "2", "--root", self.folder)
        paths = [self.write(f"file {n}", bytes(MIB)) for n in range(256)]
        self.hash_files(instance, 4 * paths)
        self.check(instance, shard_mib=FILE_BUFFERS_MIB + CALLS_MIB, gateway_mib=REQUESTS_MIB)

    def test_eighty_thousand_requests_take_no_more_than_those_at_once(self):
        instance = self.begin("--shards", "2", "--root", self.folder)
        paths = [self.write(f"file {n}", os.urandom(1000)) for n in range(100)]
        self.hash_files(instance, 800 * paths)
        self.check(instance, gateway_mib=REQUESTS_MIB, shard_mib=CALLS_MIB)

    def test_large_answers_take_what_a_session_may_leave_lying_and_no_more(self):
        instance = self.begin("--shards", "2", "--root", self.folder)
        path = self.write("big", bytes(128 * MIB))
        self.assertDone(instance.command("submit", "--window", "1024", "file.read", path,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
        self.check(instance, gateway_mib=ANSWERS_MIB, shard_mib=FILE_BUFFERS_MIB + CALLS_MIB)

    def read_into(self, client, path, room):
        """Both shards read the whole file to there."""
        args = file_request(path, len(room))
        for shard in 0, 1:
            client.queue("file.read", args, flags=TO_SHARD, shard=shard, room=room)

    def test_answers_that_begin_at_no_page_take_nothing_of_a_shard(self):
        instance = self.begin("--shards", "2", "--root", self.folder)
        path = os.path.join(self.folder, "large")
        with open(path, "wb") as file:
            file.truncate(26 * MIB)
        with Client(instance, plane=DATA, data_bytes=80 * MIB) as client:
            buffers = [client.buffer(26 * MIB + 1) for _ in range(3)]
            for buffer in buffers:
                self.read_into(client, path, (ctypes.c_char * (26 * MIB)).from_address(ctypes.addressof(buffer) + 1))
            ends = []
            while len(ends) < 2 * len(buffers):
                ends += [result.end for result in client.reap(16)]
            self.assertEqual(ends, 6 * [DONE])
            self.check(instance, shard_mib=FILE_BUFFERS_MIB + 80)  # its client's memory counts there too


if harness.SANITIZED:
    Memory = unittest.skip("a sanitizer's memory is in it")(Memory)

if __name__ == "__main__":
    harness.main()
