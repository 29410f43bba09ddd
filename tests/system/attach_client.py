# SPDX-License-Identifier: MIT
"""A local client that knows the handshake to the byte (docs/protocol.md) and nothing else: what
attaching looks like without Sherd's library."""

import mmap
import os
import socket
import struct

MAGIC = 0x48435441
VERSION = 1
HELLO, WELCOME, OPEN, OPENED, REFUSED = range(1, 6)

HEAD = struct.Struct("<IHHQ")  # magic, version, kind, serial
HELLO_BODY = struct.Struct("<QQII64s")  # features, data_bytes, n_entries, spare, name
WELCOME_BODY = struct.Struct("<QQQIIIIQQQQ64s")
OPEN_BODY = struct.Struct("<II")  # shard, spare
REFUSED_BODY = struct.Struct("<iI160s")  # error, retry_ms, text


class Refused(Exception):
    def __init__(self, error, retry_ms, text):
        super().__init__(f"{os.strerror(-error)}: {text}")
        self.error = error
        self.retry_ms = retry_ms
        self.text = text


def head(kind, serial, magic=MAGIC, version=VERSION):
    return HEAD.pack(magic, version, kind, serial)


def hello(serial=1, n_entries=8, data_bytes=0, name=b"python", version=VERSION, features=0, spare=0):
    body = HELLO_BODY.pack(features, data_bytes, n_entries, spare, name)
    return head(HELLO, serial, version=version) + body


class Client:
    """One connection. attach() and open() say what is granted, or raise Refused."""

    def __init__(self, runtime_dir, timeout=20):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(timeout)
        self.socket.connect(os.path.join(runtime_dir, "attach"))
        self.serial = 0
        self.memory = None
        self.memory_fd = -1
        self.bells = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.memory:
            self.memory.close()
        if self.memory_fd >= 0:
            os.close(self.memory_fd)
        for bell in self.bells.values():
            bell.close()
        self.bells = {}
        self.memory, self.memory_fd = None, -1
        self.socket.close()

    def send(self, message, fds=()):
        if fds:
            socket.send_fds(self.socket, [message], list(fds))
        else:
            self.socket.send(message)

    def receive(self):
        """(kind, serial, body, fds), or None at the end of the connection."""
        message, fds, flags, _ = socket.recv_fds(self.socket, 4096, 4, socket.MSG_CMSG_CLOEXEC)
        if not message:
            return None
        magic, version, kind, serial = HEAD.unpack_from(message)
        assert magic == MAGIC and version == VERSION and not flags & socket.MSG_CTRUNC
        return kind, serial, message[HEAD.size :], fds

    def answer(self, serial, kind):
        """The body and fds of the answer to it; answers that were given before are passed over."""
        while True:
            got = self.receive()
            if got is None:
                raise ConnectionError("the connection has ended")
            got_kind, got_serial, body, fds = got
            if got_kind == REFUSED and got_serial in (serial, 0):
                error, retry_ms, text = REFUSED_BODY.unpack(body)
                raise Refused(error, retry_ms, text.split(b"\0")[0].decode())
            if got_serial == serial:
                assert got_kind == kind
                return body, fds
            for fd in fds:
                os.close(fd)

    def attach(self, **wishes):
        self.serial += 1
        self.send(hello(serial=self.serial, **wishes))
        body, fds = self.answer(self.serial, WELCOME)
        (
            self.features,
            self.data_bytes,
            self.total_bytes,
            self.n_entries,
            self.n_shards,
            self.client,
            self.max_in_flight,
            self.max_bytes,
            self.max_rate,
            self.keymap,
            self.generation,
            instance,
        ) = WELCOME_BODY.unpack(body)
        self.instance = instance.split(b"\0")[0].decode()
        (self.memory_fd,) = fds
        self.memory = mmap.mmap(self.memory_fd, self.total_bytes)
        return self

    def open(self, shard):
        self.serial += 1
        self.send(head(OPEN, self.serial) + OPEN_BODY.pack(shard, 0))
        body, fds = self.answer(self.serial, OPENED)
        assert OPEN_BODY.unpack(body) == (shard, 0)
        (fd,) = fds
        if shard in self.bells:
            self.bells[shard].close()
        self.bells[shard] = socket.socket(fileno=fd)
        return self.bells[shard]

    def wait_for_the_end(self):
        """Until the other side has ended the connection; the text it ended it with, or None."""
        text = None
        while True:
            try:
                got = self.receive()
            except ConnectionError:
                return text
            if got is None:
                return text
            kind, _, body, fds = got
            for fd in fds:
                os.close(fd)
            if kind == REFUSED:
                text = REFUSED_BODY.unpack(body)[2].split(b"\0")[0].decode()
