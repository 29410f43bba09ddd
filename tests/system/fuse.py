# SPDX-License-Identifier: MIT
"""
fuse - a file system that does not answer, for processes that the kernel keeps

Why:   who asks it for a file is in a wait that not even SIGKILL ends, as with a disk that has gone.
Use:   with fuse.Stuck() as stuck:          # skips the case where it cannot be mounted
           stuck.folder + "/any name"        # whoever looks that up waits
           stuck.asked.wait(DEADLINE)
           stuck.let_go()                    # all who wait get ENOTCONN
"""
import ctypes
import os
import struct
import tempfile
import threading
import unittest

LOOKUP, GETATTR, INIT = 1, 3, 26
ENOSYS = 38
MNT_DETACH = 2
HEADER = struct.Struct("<IIQQIIII")  # len, opcode, unique, node, uid, gid, pid, spare


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
            _, opcode, unique, *_ = HEADER.unpack_from(message)
            if opcode == LOOKUP:
                self.asked.set()
            elif opcode == INIT:
                self.reply(unique, struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, 4096, 1, 0, 0, 0))
            elif opcode == GETATTR:  # of the root; valid for a while, so that nobody asks again
                attributes = struct.pack("<QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
                self.reply(unique, struct.pack("<QII", 3600, 0, 0) + attributes)
            else:
                self.reply(unique, b"", -ENOSYS)

    def reply(self, unique, body, error=0):
        try:
            os.write(self.fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
        except OSError:  # an interrupt's answer, or what was given up meanwhile
            pass
