# SPDX-License-Identifier: MIT
"""sherd submit, with files: names, output, progress, what fails alone, deaths and interrupts meanwhile."""
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import termios

import harness
from harness import sherd


class Submitting(harness.TestCase):
    """submit, with files in a folder of the test's own."""

    def setUp(self):
        super().setUp()
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="sherd-files-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, name, data=b"data\n"):
        path = os.path.join(os.fsencode(self.folder), os.fsencode(name))
        with open(path, "wb") as file:
            file.write(data)
        return path

    def serve(self, *arguments):
        return self.start("--shards", "2", "--root", self.folder + ":rw", *arguments)

    def sha256sum(self, names):
        return subprocess.run(["sha256sum", "--", *names], capture_output=True, cwd=self.folder,
                              check=True).stdout

    def test_checksums_are_what_sha256sum_prints_whatever_the_names(self):
        names = [b"plain", b"with space", b"new\nline", b"back\\slash", b"carriage\rreturn", b"*star",
                 b"-dash", b"\xff\xfe", "Grüße".encode(), b"'quoted'", b"tab\there"]
        for number, name in enumerate(names):
            self.write(name, b"x" * (number * 70000))
        instance = self.serve()
        given = [b"./-dash" if name == b"-dash" else name for name in names]
        paths = [os.path.join(os.fsencode(self.folder), name) for name in names]
        for arguments in (given, paths):
            result = instance.command("submit", "file.sha256", *arguments, cwd=self.folder)
            self.assertDone(result)
            self.assertEqual(result.stdout, self.sha256sum(arguments))

    def test_names_come_from_standard_input(self):
        names = [self.write(f"file {n}", b"%d" % n) for n in range(3)]
        expected = self.sha256sum(names)
        instance = self.serve()
        for options, text in (((), b"\n".join(names) + b"\n"), ((), b"\n".join(names)),
                              (("-0",), b"\0".join(names) + b"\0"), (("--null",), b"\0".join(names))):
            result = instance.command("submit", *options, "file.sha256", "-", input=text)
            self.assertEqual(self.assertDone(result).stdout, expected)
        result = instance.command("submit", "file.sha256", names[0], "-", names[2], input=names[1])
        self.assertEqual(self.assertDone(result).stdout, expected)

    def test_answers_are_printed_while_names_still_come(self):
        self.write("first")
        instance = self.serve()
        submit = instance.popen("submit", "file.sha256", "-", stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, cwd=self.folder)
        with submit:
            submit.stdin.write(b"first\n")
            submit.stdin.flush()
            readable, _, _ = select.select([submit.stdout], [], [], harness.DEADLINE)
            self.assertTrue(readable, "no answer before the end of the names")
            self.assertTrue(submit.stdout.readline().endswith(b"  first\n"))
            submit.stdin.close()
        self.assertEqual(submit.returncode, 0)

    def test_what_fails_is_told_by_name_and_the_rest_goes_on(self):
        self.write("good")
        os.mkdir(os.path.join(self.folder, "directory"))
        os.mkfifo(os.path.join(self.folder, "fifo"))
        self.write("empty", b"")
        instance = self.serve()
        result = instance.command("submit", "file.sha256", "missing", "good", "directory", "fifo",
                                  "/nowhere/else", "", "empty", cwd=self.folder)
        self.assertEqual(result.returncode, 1)
        self.assertEqual([line.split("  ")[1] for line in result.stdout.splitlines()],
                         ["good", "empty"])
        errors = result.stderr.splitlines()
        self.assertEqual(len(errors), 5, result.stderr)
        for line, name in zip(errors, ("missing: No such file or directory", "directory: Is a directory",
                                       "fifo: ", "/nowhere/else: ", "'': No such file or directory")):
            self.assertTrue(line.startswith("sherd: file.sha256: " + name), line)

    def test_a_name_longer_than_any_buffer_fails_alone(self):
        self.write("good")
        instance = self.serve()
        text = b"a" * 200000 + b"\n" + b"good\n" + b"b" * 70000 + b"\0\ngood"
        result = instance.command("submit", "file.sha256", "-", input=text, cwd=self.folder)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stdout, self.sha256sum([b"good"]) * 2)
        self.assertEqual(result.stderr.count(b"File name too long"), 2, result.stderr[:300])

    def test_memory_does_not_grow_with_the_number_of_names(self):
        n = 100000
        path = self.write("file")
        instance = self.serve()
        listing = self.write("list", (path + b"\n") * n)
        most_kib = [0]

        def has_ended(submit):
            with contextlib.suppress(OSError), open(f"/proc/{submit.pid}/status") as status:
                most_kib.extend(int(kib) for kib in re.findall(r"VmHWM:\s+(\d+) kB", status.read()))
            return submit.poll() is not None
        with open(listing, "rb") as names, tempfile.TemporaryFile() as out:
            submit = instance.popen("submit", "file.sha256", "-", stdin=names, stdout=out)
            harness.wait_until(lambda: has_ended(submit), "the end of the names", 4 * harness.DEADLINE)
            out.seek(0)
            self.assertEqual(submit.returncode, 0)
            self.assertEqual(out.read(), self.sha256sum([path]) * n)
        if not harness.SANITIZED:
            self.assertLess(max(most_kib), 64 * 1024)
        self.assertGreater(max(most_kib), 0)

    def test_unordered_answers_are_the_same_lines(self):
        names = [self.write(f"file {n}", os.urandom(n * 1000)) for n in range(50)]
        instance = self.serve()
        result = self.assertDone(instance.command("submit", "--unordered", "file.sha256", *names))
        self.assertEqual(sorted(result.stdout.splitlines()), sorted(self.sha256sum(names).splitlines()))

    def test_unordered_an_end_is_told_while_the_one_before_is_still_to_come(self):
        instance = self.serve()
        with tempfile.TemporaryFile() as errors:
            submit = instance.popen("submit", "--unordered", "sys.sleep", "3600000", "no number", stderr=errors,
                                    stdout=subprocess.DEVNULL)
            try:
                harness.wait_until(lambda: os.fstat(errors.fileno()).st_size > 0, "what became of the second")
                self.assertIsNone(submit.poll())
            finally:
                submit.send_signal(signal.SIGINT)
                submit.wait(harness.DEADLINE)
            errors.seek(0)
            self.assertIn(b"the argument is the time in milliseconds", errors.readline())

    def test_files_are_read_in_pieces_of_any_size(self):
        data = os.urandom(3 * 1024 * 1024 + 17)
        path = self.write("big", data)
        instance = self.serve()
        read = lambda *options: self.assertDone(
            instance.command("submit", "file.read", *options, path)).stdout
        self.assertEqual(read(), data)
        self.assertEqual(read("--offset", "4096", "--length", "100"), data[4096:4196])
        self.assertEqual(read("--offset", "1M", "--length=2M"), data[1 << 20:3 << 20])
        self.assertEqual(read("--offset", "1G"), b"")
        self.assertEqual(read("--length", "0"), b"")
        self.assertRefused(instance.command("submit", "file.read", "missing", cwd=self.folder),
                           "sherd: file.read: missing: No such file or directory")

    def test_writing_goes_in_pieces_and_says_so(self):
        data = os.urandom(2 * 1024 * 1024 + 5)
        path = self.write("target", b"")
        instance = self.serve()
        result = self.assertDone(
            instance.command("submit", "file.write", "--offset", "3", path, input=data))
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"\0\0\0" + data)
        self.assertIn(b"2,097,157 bytes written at offset 3 in 3 pieces", result.stderr)
        self.assertIn(b"not atomic", result.stderr)

    def test_a_write_whose_shard_dies_is_in_doubt_from_where_it_says(self):
        data = os.urandom(48 * 1024 * 1024)
        instance = self.start("--shards", "1", "--root", self.folder + ":rw")
        for attempt in range(100):  # the death may fall between two pieces, which harms nothing
            shard = instance.wait_for_shard(0)
            path = self.write(f"target {attempt}", b"")
            source = self.write("source", data)
            with open(source, "rb") as given:
                submit = instance.popen("submit", "file.write", path, stdin=given,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                with submit:
                    harness.wait_until(lambda: os.path.getsize(path) > 2 << 20, "some pieces")
                    self.kill_within_a_piece(instance, shard, path, len(data))
                    errors = submit.stderr.read()
            with open(path, "rb") as target:
                written = target.read()
            os.unlink(path)
            if submit.returncode == 0:
                self.assertEqual(written, data)
                continue
            self.assertEqual(submit.returncode, 1)
            self.assertIn("in doubt: ", errors)
            certain = re.search(r"([0-9,]+) bytes from offset 0 on are written for certain", errors)
            length = int(certain.group(1).replace(",", ""))
            self.assertGreater(length, 0)
            self.assertEqual(written[:length], data[:length])
            return
        self.fail("no death fell into a write")

    def kill_within_a_piece(self, instance, shard, path, length):
        """Stops the shard until it stands within a call, or all is written, and kills it there."""
        while True:
            instance.kill(shard, signal.SIGSTOP)
            if os.path.getsize(path) == length or instance.shard(0)["calls_in"]:
                break
            instance.kill(shard, signal.SIGCONT)
        instance.kill(shard)

    def test_a_write_that_fails_says_what_was_written_for_certain(self):
        path = self.write("target", b"")
        instance = self.start("--shards", "1", "--root", self.folder)
        result = instance.command("submit", "file.write", path, input=b"data")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stderr.count(b"\n"), 1, result.stderr)
        self.assertNotIn(b"doubt", result.stderr)  # nothing was opened
        self.assertEqual(os.path.getsize(path), 0)

    def test_stat_tells_people_and_programs(self):
        path = self.write("file", b"12345")
        os.chmod(path, 0o640)
        instance = self.serve()
        people = self.assertDone(instance.command("submit", "file.stat", path)).stdout.decode()
        for line in ("type: regular file", "mode: 0640", "size: 5", "links: 1"):
            self.assertIn(line + "\n", people)
        told = json.loads(self.assertDone(
            instance.command("submit", "--json", "file.stat", path)).stdout)
        seen = os.stat(path)
        self.assertEqual((told["size"], told["inode"], told["mtime_ns"], told["mode"]),
                         (5, seen.st_ino, seen.st_mtime_ns, 0o640))

    def test_sys_methods_answer(self):
        instance = self.serve()
        run = lambda *arguments, **options: self.assertDone(
            instance.command("submit", *arguments, **options)).stdout
        self.assertRegex(run("sys.ping", "--shard", "1"), r"^pong from shard 1 in \S+ [um]?s\n$")
        self.assertRegex(run("sys.ping", "--count", "10000", "--window", "10000"), r"^10,000 pongs in ")
        self.assertEqual(run("sys.echo", "hello"), "hello")
        self.assertEqual(run("sys.echo", "a", "b"), "a\nb\n")
        self.assertEqual(run("sys.echo"), "")
        self.assertEqual(run("sys.echo", "-", input=b"\0raw\n\xff"), b"\0raw\n\xff")
        self.assertEqual(run("-0", "sys.echo", "-", input=b"a\0b\0"), b"a\nb\n")
        self.assertEqual(run("sys.sleep", "1"), "")
        moves = ("0", "4") if harness.SANITIZED or harness.THREADS else ("4",)  # two shards
        self.assertIn(run("sys.wander", "2"), moves)
        methods = run("sys.methods")
        for name in ("sys.ping", "sys.echo", "file.sha256", "file.write"):
            self.assertRegex(methods, rf"(?m)^{re.escape(name)} ")

    def test_what_is_not_there_is_refused_with_what_is(self):
        instance = self.serve()
        self.assertRefused(instance.command("submit", "sys.nonsense"), "sys.nonsense", "sys.ping",
                           "file.sha256")
        self.assertRefused(instance.command("submit", "--shard", "7", "sys.ping"), "7")
        self.assertRefused(instance.command("submit", "--timeout", "0.05", "sys.sleep", "60000"),
                           "expired")

    def test_an_argument_of_a_mebibyte_passes_and_a_longer_one_is_refused_with_the_limit(self):
        instance = self.serve()
        data = os.urandom(1024 * 1024)
        result = instance.command("submit", "sys.echo", "-", input=data)
        self.assertEqual(self.assertDone(result).stdout, data)
        result = instance.command("submit", "sys.echo", "-", input=data + b"x")
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"1048576 bytes", result.stderr)

    def n_ended(self, instance):
        """Of the gateway's requests, in all shards."""
        pairs = json.loads(self.assertDone(instance.command("queues", "--json")).stdout)["pairs"]
        return sum(pair["ends"]["done"] for pair in pairs if pair["from"] == "gateway")

    def test_an_interrupt_cancels_and_tells_how_much_was_done(self):
        instance = self.serve()
        submit = instance.popen("submit", "sys.sleep", "1", "600000", "600000", stderr=subprocess.PIPE,
                                text=True)
        with submit:
            harness.wait_until(lambda: self.n_ended(instance) == 1, "the first to be done")
            harness.wait_until(
                lambda: sum(instance.shard(n)["calls_in"] for n in (0, 1)) == 2,
                "two calls to be under way")
            submit.send_signal(signal.SIGINT)
            _, errors = submit.communicate(timeout=harness.DEADLINE)
        self.assertEqual(submit.returncode, 130)
        self.assertIn("interrupted: 1 done, 0 failed, 2 cancelled", errors)

    def test_what_an_interrupt_cancels_ends_in_the_shards(self):
        instance = self.serve()
        submit = instance.popen("submit", "--window", "4000", "--count", "4000", "sys.sleep", "86400000",
                                stderr=subprocess.DEVNULL)
        harness.wait_until(lambda: sum(instance.shard(n)["calls_in"] for n in (0, 1)) >= 1000,
                           "calls to be under way")
        submit.send_signal(signal.SIGINT)
        self.assertEqual(submit.wait(harness.DEADLINE), 130)
        self.assertDone(instance.command("submit", "--timeout", "20", "sys.ping"))
        harness.wait_until(lambda: sum(instance.shard(n)["calls_in"] for n in (0, 1)) == 0,
                           "the shards to be rid of what was cancelled")
        self.assertEqual(instance.stop(), 0)

    def test_an_interrupt_ends_it_while_it_connects(self):
        instance = self.serve()
        address = os.path.join(instance.scratch, "mute")
        with socket.socket(socket.AF_UNIX) as mute:
            mute.bind(address)
            mute.listen()
            mute.settimeout(harness.DEADLINE)
            submit = subprocess.Popen(
                [harness.program(), "submit", "--url", f"ipc://{address}", "--wait", "600", "sys.ping"],
                stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            connection, _ = mute.accept()
            with connection:
                submit.send_signal(signal.SIGINT)
                self.assertEqual(submit.wait(harness.DEADLINE), -signal.SIGINT)

    def test_several_answers_are_a_line_each(self):
        instance = self.serve()
        for arguments, expected in ((["abc"], b"abc"), (["--count", "3", "abc"], b"abc\nabc\nabc\n"),
                                    (["a", "", "b"], b"a\n\nb\n")):
            result = self.assertDone(instance.command("submit", "sys.echo", *arguments, text=False))
            self.assertEqual(result.stdout, expected)

    def test_an_interrupt_gets_through_when_the_reader_stands_still(self):
        path = self.write("file")
        instance = self.serve()
        listing = self.write("list", (path + b"\n") * 50000)
        with open(listing, "rb") as names:
            submit = instance.popen("submit", "file.sha256", "-", stdin=names, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE)
            with submit:
                blocked = lambda: json.loads(instance.command("queues", "--json").stdout)["shards"]
                seen = []

                def stands_still():
                    seen.append(sum(shard["ends"]["done"] for shard in blocked()))
                    return len(seen) > 2 and 0 < seen[-1] == seen[-2]
                harness.wait_until(stands_still, "the full pipe to hold everything back")
                submit.send_signal(signal.SIGINT)
                errors = submit.stderr.read()
        self.assertEqual(submit.returncode, 130)
        self.assertIn(b"interrupted: ", errors)

    def test_a_reader_that_goes_away_ends_it_quietly(self):
        path = self.write("file")
        instance = self.serve()
        listing = self.write("list", (path + b"\n") * 50000)
        with open(listing, "rb") as names:
            submit = instance.popen("submit", "file.sha256", "-", stdin=names, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE)
            with submit:
                submit.stdout.readline()
                submit.stdout.close()
                errors = submit.stderr.read()
        self.assertEqual(submit.returncode, -signal.SIGPIPE)
        self.assertEqual(errors, b"")

    def test_a_full_output_is_an_error(self):
        path = self.write("file")
        instance = self.serve()
        with open("/dev/full", "wb") as full:
            result = instance.command("submit", "file.sha256", path, stdout=full,
                                      stderr=subprocess.PIPE)
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"No space left on device", result.stderr)

    def shown(self, instance, columns):
        """What a terminal gets from 9 calls that are quick and one that is not."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        shown = b""
        submit = instance.popen("submit", "sys.sleep", *["1"] * 9, harness.lasting_ms(1000), stdout=subprocess.DEVNULL,
                                stderr=slave)
        os.close(slave)
        with contextlib.suppress(OSError):  # which is the end of file of a terminal
            while chunk := os.read(master, 65536):
                shown += chunk
        os.close(master)
        self.assertEqual(submit.wait(harness.DEADLINE), 0)
        return shown

    def test_a_terminal_shows_how_far_it_is(self):
        shown = self.shown(self.serve(), 0)
        self.assertRegex(shown, rb" 90% \[=+> *\] 9 calls, [0-9,]+/s, [0-9.]+ [mu]?s left")
        self.assertRegex(shown, rb"\r\x1b\[K10 calls, [0-9,]+/s in [0-9.]+ s")

    def test_a_terminal_shows_how_many_bytes_it_were(self):
        names = [self.write(f"file {n}", b"x" * 2048) for n in range(3)]
        instance = self.serve()
        master, slave = pty.openpty()
        submit = instance.popen("submit", "file.sha256", "-", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                                stderr=slave)
        os.close(slave)
        submit.stdin.write(b"".join(name + b"\n" for name in names))
        submit.stdin.flush()
        shown = b""
        while b"3 files" not in shown:  # it waits for more names, and shows where it is
            self.assertTrue(select.select([master], [], [], harness.DEADLINE)[0], shown)
            shown += os.read(master, 65536)
        submit.stdin.close()
        with contextlib.suppress(OSError):
            while chunk := os.read(master, 65536):
                shown += chunk
        os.close(master)
        self.assertEqual(submit.wait(harness.DEADLINE), 0)
        self.assertRegex(shown, rb"3 files, [0-9,]+/s, 6\.0 KiB, [0-9.]+ [KMG]?i?B/s in [0-9.]+ m?s")

    def test_a_narrow_terminal_shows_what_fits(self):
        shown = self.shown(self.serve(), 12)
        self.assertRegex(shown, rb"\r\x1b\[K 90% \[=====\r\x1b\[K10 calls")

    def test_a_gateway_on_tcp_is_reached_with_the_token_alone(self):
        url = f"tcp://127.0.0.1:{self.free_port()}"
        token, wrong = self.write("token", b"secret-of-this-test\n"), self.write("wrong", b"another one\n")
        os.chmod(token, 0o600)
        os.chmod(wrong, 0o600)
        self.start("--shards", "1", "--listen", url, "--token-file", os.fsdecode(token))
        submit = lambda *options: sherd("submit", "--url", url, *options, "sys.echo", "hello")
        self.assertEqual(self.assertDone(submit("--token-file", os.fsdecode(token))).stdout, "hello")
        self.assertRefused(submit("--token-file", os.fsdecode(wrong), "--wait", "30"), "token")
        self.assertRefused(submit("--wait", "30"), "token")

    def test_options_after_two_dashes_are_arguments(self):
        instance = self.serve()
        self.assertEqual(
            self.assertDone(instance.command("submit", "sys.echo", "--", "--json")).stdout, "--json")


if __name__ == "__main__":
    harness.main()
