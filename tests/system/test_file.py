# SPDX-License-Identifier: MIT
"""The file service over the real programs, on each engine: hashes beside sha256sum, and refusals."""
import contextlib
import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import unittest

import fuse
import harness
from raw_client import DONE, RawClient, Submission, field

ENGINES = ("threads",) if harness.THREADS else ("io_uring", "linux-aio", "threads")
MIB = 1024 * 1024


class FileCase(harness.TestCase):
    """A folder to serve, and what sha256sum says of files."""

    def setUp(self):
        super().setUp()
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="sherd-test-file-"))

    def tearDown(self):
        shutil.rmtree(self.folder)
        super().tearDown()

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, data=b""):
        with open(self.path(name), "wb") as file:
            file.write(data)
        return self.path(name)

    @contextlib.contextmanager
    def on(self, engine, *arguments):
        """An instance on that engine, as a case of its own; skipped where it is forbidden and says so."""
        with self.subTest(engine=engine):
            instance = self.instance(engine.replace("_", "-"))
            instance.run("--shards", "2", "--engine", engine, *arguments)
            try:
                instance.wait_ready()
            except AssertionError:
                if engine == "io_uring" and "io_uring" in instance.log():
                    self.skipTest("io_uring is forbidden here")
                raise
            yield instance
            self.assertEqual(instance.stop(), 0)

    def expected(self, paths):
        return subprocess.run(["sha256sum", "--", *paths], capture_output=True).stdout

    def hash(self, instance, *arguments, **options):
        return instance.command("submit", "file.sha256", *arguments, text=False, **options)


class Unanswered(FileCase):
    """A file system that does not answer keeps those who ask it, and nobody else."""

    WAYS = {"reads": {}, "cached reads": {"cached": True}, "opening": {"holds": fuse.OPEN},
            "what a file is": {"holds": fuse.GETATTR, "valid_s": 0}}

    def assertServes(self, instance):
        self.assertDone(instance.command("submit", "--timeout", str(harness.DEADLINE), "sys.ping", "--shard", "0"))

    def test_it_holds_no_shard(self):
        for engine in ENGINES:
            with contextlib.ExitStack() as stack:
                slow = {what: stack.enter_context(fuse.Slow(**way)) for what, way in self.WAYS.items()}
                roots = [word for one in slow.values() for word in ("--root", one.folder)]
                with self.on(engine, *roots) as instance:
                    asking = []
                    for what, one in slow.items():
                        with self.subTest(engine=engine, what=what):
                            asking.append(instance.popen("submit", "--shard", "0", "file.sha256", one.file,
                                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
                            self.assertTrue(one.wait_for_asked(1))
                            self.assertServes(instance)
                    for one in slow.values():
                        one.answer()
                    self.assertEqual([process.wait(harness.DEADLINE) for process in asking], [0] * len(asking))

    def test_nor_does_a_read_by_handle(self):
        for engine in ENGINES:
            with fuse.Slow() as slow, self.on(engine, "--root", slow.folder) as instance, \
                    RawClient(instance.gateway_socket) as client:
                client.hello()
                client.submit([Submission(1, "file.open", field(1, slow.file), shard=0)])
                opened, = client.fetch(1)
                self.assertEqual(opened.kind, DONE, opened.data)
                handle, = struct.unpack_from("<Q", opened.data, 1)
                client.submit([Submission(2, "file.pread", struct.pack("<QQQ", handle, 0, 4096), shard=0)])
                self.assertTrue(slow.wait_for_asked(1))
                self.assertServes(instance)
                slow.answer()
                read, = client.fetch(1)
                self.assertEqual((read.kind, read.data), (DONE, bytes(4096)))


class Hashes(FileCase):
    def test_all_of_usr_bin_is_byte_for_byte_what_sha256sum_prints(self):
        paths = sorted(path for path in (os.path.join("/usr/bin", name) for name in os.listdir("/usr/bin"))
                       if os.path.isfile(path) and os.access(path, os.R_OK)
                       and os.path.realpath(path).startswith(("/usr/", "/etc/")))
        expected = self.expected(paths)
        self.assertGreater(sum(map(os.path.islink, paths)), 10)
        for engine in ENGINES:
            with self.on(engine, "--root", "/usr", "--root", "/etc") as instance:
                result = self.hash(instance, *paths)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual(result.stdout, expected)

    def test_a_link_into_a_root_that_is_missing_is_refused_with_the_root_to_add(self):
        os.mkdir(self.path("a"))
        os.mkdir(self.path("b"))
        self.write("b/file", b"x")
        os.symlink(self.path("b/file"), self.path("a/link"))
        instance = self.start("--shards", "2", "--root", self.path("a"))
        result = instance.command("submit", "file.sha256", self.path("a/link"))
        self.assertRefused(result, self.path("a/link"), f"leads to {self.path('b/file')}",
                           f"(roots: {self.path('a')})", "start sherd run with --root DIR")
        result = instance.command("submit", "file.sha256", self.path("b/file"))
        self.assertRefused(result, self.path("b/file"), "is under no --root")

    def test_cancelled_hashes_give_their_places_to_others(self):
        big, small = self.write("big"), self.write("small", b"small")
        os.truncate(big, 200 << 30)
        for engine in ENGINES:
            with self.on(engine, "--root", self.folder) as instance:
                submit = instance.popen("submit", "--count", "200", "file.sha256", big,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                harness.wait_until(lambda: sum(instance.shard(n)["calls_in"] for n in (0, 1)) >= 100,
                                   "calls to be under way")
                submit.send_signal(signal.SIGINT)
                self.assertEqual(submit.wait(harness.DEADLINE), 130)
                for shard in ("0", "1"):
                    result = self.hash(instance, "--timeout", "20", "--shard", shard, small)
                    self.assertEqual(result.returncode, 0, result.stderr)

    def test_without_a_root_every_path_is_refused(self):
        instance = self.start("--shards", "1")
        result = instance.command("submit", "file.stat", "/etc/services")
        self.assertRefused(result, "/etc/services", "--root DIR")

    def test_names_of_any_bytes_and_sizes_around_the_pieces(self):
        names = [b"plain", b"with space", b"line\nbreak", b"back\\slash", b"\\begins", b"re\rturn",
                 b"\xff\xfe", b"-dash", b"tab\t"]
        for name in names:
            with open(os.path.join(os.fsencode(self.folder), name), "wb") as file:
                file.write(name * 3)
        sizes = [0, 1, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 7]
        for size in sizes:
            self.write(f"size-{size}", os.urandom(size))
        paths = [os.path.join(os.fsencode(self.folder), name)
                 for name in sorted(os.listdir(os.fsencode(self.folder)))]
        expected = self.expected(paths)
        for engine in ENGINES:
            with self.on(engine, "--root", self.folder) as instance:
                result = self.hash(instance, *paths)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertEqual(result.stdout, expected)
                result = self.hash(instance, "-0", "-", input=b"\0".join(paths))
                self.assertEqual(result.stdout, expected)

    def test_what_can_not_be_hashed_fails_alone_and_the_rest_goes_on(self):
        good = [self.write(f"good-{i}", b"%d" % i) for i in range(20)]
        os.mkfifo(self.path("fifo"))
        os.mkdir(self.path("folder"))
        os.symlink("loop", self.path("loop"))
        bad = {"fifo": "Is a FIFO", "folder": "Is a directory", "loop": "Too many levels",
               "nothing": "No such file or directory"}
        if os.geteuid() != 0:
            os.chmod(self.write("secret"), 0)
            bad["secret"] = "Permission denied"
        paths = [*good[:10], *map(self.path, bad), *good[10:]]
        expected = self.expected(good)
        for engine in ENGINES:
            with self.on(engine, "--root", self.folder) as instance:
                result = self.hash(instance, *paths)
                self.assertEqual(result.returncode, 1)
                self.assertEqual(result.stdout, expected)
                lines = result.stderr.decode().splitlines()
                self.assertEqual(len(lines), len(bad), lines)
                for name, text in bad.items():
                    self.assertTrue(any(self.path(name) in line and text in line for line in lines), lines)

    def test_files_of_proc_are_hashed_to_their_end(self):
        instance = self.start("--shards", "1", "--root", "/proc")
        result = self.hash(instance, "/proc/version", "/proc/filesystems")
        self.assertEqual(result.stdout, self.expected(["/proc/version", "/proc/filesystems"]))

    def test_files_that_change_all_the_time_end_all_the_same(self):
        paths = [self.write(f"file-{i}", os.urandom(MIB)) for i in range(8)]
        changing = subprocess.Popen(
            ["sh", "-c", 'while :; do for f; do truncate -s 100 "$f"; truncate -s 2M "$f"; done; done', "sh",
             *paths[:4]], stdin=subprocess.DEVNULL)
        try:
            instance = self.start("--shards", "2", "--root", self.folder)
            result = self.hash(instance, *paths, *paths, *paths)
        finally:
            changing.kill()
            changing.wait()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(len(result.stdout.splitlines()), 3 * len(paths))
        steady = [line for line in result.stdout.decode().splitlines() if line[66:] in paths[4:]]
        self.assertEqual("\n".join(steady) + "\n", self.expected(paths[4:]).decode() * 3)


class Reads(FileCase):
    def test_reads_give_the_range_that_is_there(self):
        data = os.urandom(3 * MIB + 100)
        path = self.write("file", data)
        for engine in ENGINES:
            with self.on(engine, "--root", self.folder) as instance:
                for offset, length in ((0, 10), (4096, 100), (MIB - 1, MIB), (3 * MIB, 4096), (9 * MIB, 5)):
                    result = instance.command("submit", "file.read", "--offset", str(offset), "--length",
                                              str(length), path, text=False)
                    self.assertEqual(result.returncode, 0, result.stderr)
                    self.assertEqual(result.stdout, data[offset:offset + length])
                result = instance.command("submit", "file.read", path, text=False)
                self.assertEqual(hashlib.sha256(result.stdout).digest(), hashlib.sha256(data).digest())

    def test_shards_copy_nothing_of_what_is_read_and_written(self):
        data = os.urandom(MIB)
        path = self.write("file", data)
        for engine in ENGINES:
            with self.on(engine, "--root", f"{self.folder}:rw") as instance:
                result = instance.command("submit", "file.read", "--shard", "1", "--length", str(MIB), path, text=False)
                self.assertEqual(result.stdout, data)
                shard = instance.shard(1)["heap"]
                self.assertEqual((shard["copied_bytes"], shard["in_place_bytes"]), (0, MIB))

    @unittest.skipIf(harness.THREADS, "shards are threads, none of which dies alone")
    def test_buffers_that_the_killed_had_in_flight_come_back_once_the_kernel_has_let_go(self):
        data = os.urandom(MIB)
        path = self.write("file", data)
        for engine in ENGINES:
            with self.on(engine, "--root", self.folder) as instance:
                for _ in range(4):
                    readers = [instance.popen("submit", "file.read", "--shard", "1", "--length", str(MIB), path,
                                              stdout=subprocess.PIPE) for _ in range(4)]
                    instance.kill_and_wait("shard", 1)
                    for reader in readers:
                        self.assertEqual(reader.communicate()[0], data)
                        self.assertEqual(reader.returncode, 0)

                def is_quiet():
                    shard = instance.shard(1)
                    return (shard["quiet_incarnation"] == shard["incarnation"] - 1
                            and shard["heap"]["quarantined_bytes"] == 0)
                harness.wait_until(is_quiet, "the kernel to let go")

    def test_stat_says_what_the_kernel_says(self):
        path = self.write("file", b"12345")
        instance = self.start("--shards", "2", "--root", self.folder)
        told = json.loads(self.assertDone(instance.command("submit", "--json", "file.stat", path)).stdout)
        st = os.stat(path)
        self.assertEqual((told["size"], told["inode"], told["uid"]), (5, st.st_ino, st.st_uid))


class Writes(FileCase):
    def test_written_in_pieces_and_read_back_and_nothing_else_changed(self):
        data = os.urandom(2 * MIB + 17)
        for engine in ENGINES:
            with self.on(engine, "--root", self.folder + ":rw") as instance:
                path = self.write("file", b"0123456789")
                result = instance.command("submit", "file.write", "--offset", "5", path,
                                          input=data, text=False)
                self.assertEqual(result.returncode, 0, result.stderr)
                with open(path, "rb") as file:
                    self.assertEqual(file.read(), b"01234" + data)
                made = self.path("made")
                result = instance.command("submit", "file.write", "--offset", "0", made,
                                          input=b"new", text=False)
                self.assertEqual(result.returncode, 0, result.stderr)
                with open(made, "rb") as file:
                    self.assertEqual(file.read(), b"new")
                os.unlink(made)

    def test_a_root_without_rw_is_not_written(self):
        path = self.write("file", b"kept")
        instance = self.start("--shards", "1", "--root", self.folder)
        result = instance.command("submit", "file.write", path, input=b"x", text=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"--root {self.folder}:rw".encode(), result.stderr)
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"kept")

    def test_a_full_disk_is_an_error_that_says_so(self):
        full = self.path("full")
        os.mkdir(full)
        unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        mount = ["sh", "-c", 'mount -t tmpfs -o size=512k none "$0" && exec "$@"', full]
        if not shutil.which("unshare") or subprocess.run(
                [*unshare, *mount, "true"], stdin=subprocess.DEVNULL, capture_output=True).returncode != 0:
            self.skipTest("no small file system may be mounted here")
        instance = self.start("--shards", "1", "--root", full + ":rw", prefix=[*unshare, *mount])
        path = os.path.join(full, "file")
        result = instance.command("submit", "file.write", path, input=bytes(MIB), text=False)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"No space left on device", result.stderr)
        self.assertRegex(result.stderr, rb"at least \d+ of \d+ bytes")
        self.assertEqual(self.hash(instance, path).returncode, 0)
        self.assertEqual(instance.stop(), 0)

    @unittest.skipIf(harness.THREADS, "shards are threads, none of which dies alone")
    def test_a_shard_killed_while_it_writes_leaves_no_write_unanswered(self):
        path = self.path("file")
        data = os.urandom(16 * MIB)
        instance = self.start("--shards", "1", "--root", self.folder + ":rw")
        writing = instance.popen("submit", "file.write", path, stdin=subprocess.PIPE,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        with contextlib.suppress(BrokenPipeError):
            writing.stdin.write(data[:4 * MIB])
            writing.stdin.flush()
            harness.wait_until(lambda: os.path.exists(path), "the first piece")
            instance.kill(instance.shard(0), signal.SIGKILL)
            writing.stdin.write(data[4 * MIB:])
        with contextlib.suppress(BrokenPipeError):
            writing.stdin.close()
        errors = writing.stderr.read()
        writing.stderr.close()
        writing.wait(harness.DEADLINE)
        if writing.returncode == 0:  # the kill fell between two pieces
            with open(path, "rb") as file:
                self.assertEqual(file.read(), data)
        else:
            self.assertEqual(writing.returncode, 1)
            self.assertIn(b"in doubt", errors)


if __name__ == "__main__":
    harness.main()
