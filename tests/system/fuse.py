# SPDX-License-Identifier: MIT
"""
fuse - a file system that does not answer, for processes that the kernel keeps

Why:   who asks it for a file is in a wait that not even SIGKILL ends, as with a disk that has gone.
Use:   with fuse.Stuck() as stuck:          # skips the case where it cannot be mounted
           stuck.folder + "/any name"        # whoever looks that up waits
           stuck.asked.wait(DEADLINE)
           stuck.let_go()                    # all who wait get ENOTCONN
       with fuse.Slow() as slow:             # holds=fuse.OPEN: whoever opens it waits; likewise GETATTR
           slow.file                         # can be opened; whoever reads it waits, past any cache
           slow.wait_for_asked(2)            # so many
           slow.answer()                     # reads with zero bytes, all who wait and all later ones
"""
import ctypes
import os
import struct
import tempfile
import threading
import unittest

LOOKUP, GETATTR, OPEN, READ, RELEASE, INIT, INTERRUPT = 1, 3, 14, 15, 18, 26, 36
ROOT, FILE = 1, 2
FILE_BYTES = 1 << 20
FOPEN_DIRECT_IO = 1
ENOSYS = 38
MNT_DETACH = 2
HEADER = struct.Struct("<IIQQIIII")  # len, opcode, unique, node, uid, gid, pid, spare


def attributes(node, mode, size):
    return struct.pack("<QQQQQQIIIIIIIIII", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class Stuck:
    def __init__(self):
        self.asked = threading.Event()
        self.libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self):
        try:
            self.fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise unittest.SkipTest(f"/dev/fuse: {error}")
        self.folder = tempfile.mkdtemp(prefix="sherd-stuck-")
        options = f"fd={self.fd},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        if self.libc.mount(b"stuck", self.folder.encode(), b"fuse", 0, options.encode()) != 0:
            error = os.strerror(ctypes.get_errno())
            os.close(self.fd)
            os.rmdir(self.folder)
            raise unittest.SkipTest(f"can't mount: {error}")
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.let_go()
        os.close(self.fd)
        os.rmdir(self.folder)

    def let_go(self):
        """Ends the connection, and with it our own read and every wait."""
        if self.thread.is_alive():
            self.libc.umount2(self.folder.encode(), 1)  # MNT_FORCE
            self.libc.umount2(self.folder.encode(), MNT_DETACH)
            self.thread.join()

    def serve(self):
        """Until the connection is ended."""
        while True:
            try:
                message = os.read(self.fd, 1 << 18)
            except OSError:
                return
            _, opcode, unique, node, *_ = HEADER.unpack_from(message)
            if opcode == INIT:
                self.reply(unique, struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, 4096, 1, 0, 0, 0))
            elif opcode == GETATTR and node == ROOT:  # valid for a while, so that nobody asks again
                self.reply(unique, struct.pack("<QII", 3600, 0, 0) + attributes(ROOT, 0o40755, 0))
            else:
                self.take(opcode, unique, message)

    def take(self, opcode, unique, _):
        if opcode == LOOKUP:
            self.asked.set()
        else:
            self.reply(unique, b"", -ENOSYS)

    def reply(self, unique, body, error=0):
        try:
            os.write(self.fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
        except OSError:  # an interrupt's answer, or what was given up meanwhile
            pass


class Slow(Stuck):
    """holds: what waits for answer(). cached: its bytes go through the kernel's cache. valid_s: how long
    the kernel need not ask again what the file is."""

    def __init__(self, holds=READ, cached=False, valid_s=3600):
        super().__init__()
        self.holds, self.cached, self.valid_s = holds, cached, valid_s

    def __enter__(self):
        self.waiting, self.answers = [], False
        self.changed = threading.Condition()
        super().__enter__()
        self.file = os.path.join(self.folder, "file")
        return self

    def take(self, opcode, unique, message):
        if opcode == INTERRUPT:  # that, a disk does not know
            return
        body = self.answer_to(opcode, message)
        with self.changed:
            if opcode == self.holds and not self.answers:
                self.waiting.append((unique, body))
                self.changed.notify()
                return
        self.reply(unique, body or b"", -ENOSYS if body is None else 0)

    def answer_to(self, opcode, message):
        file = attributes(FILE, 0o100644, FILE_BYTES)
        if opcode == LOOKUP:
            return struct.pack("<QQQQII", FILE, 0, 3600, self.valid_s, 0, 0) + file
        if opcode == GETATTR:
            return struct.pack("<QII", self.valid_s, 0, 0) + file
        if opcode == OPEN:
            return struct.pack("<QII", 0, 0 if self.cached else FOPEN_DIRECT_IO, 0)
        if opcode == READ:
            return bytes(struct.unpack_from("<I", message, HEADER.size + 16)[0])
        return b"" if opcode == RELEASE else None

    def wait_for_asked(self, n, deadline=30):
        with self.changed:
            return self.changed.wait_for(lambda: len(self.waiting) >= n, deadline)

    def answer(self):
        with self.changed:
            self.answers = True
            for unique, body in self.waiting:
                self.reply(unique, body)
