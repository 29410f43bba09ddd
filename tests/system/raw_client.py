# SPDX-License-Identifier: MIT
"""
raw_client - the control plane spoken byte by byte, without nng and without protobuf's libraries

Why:   tests must be able to say what no library would: half a message, a wrong one, none at all.
Use:   with RawClient(path) as client: client.hello(); client.submit([Submission(1, "sys.ping")])
What:  a Unix or TCP stream with SP's framing (8 bytes of greeting each way; then, before each message,
       its length in 8 bytes, big-endian, with a byte 1 in front on Unix sockets), inside it REQ's
       4 bytes of request id, inside it a Request or Reply of sherd.proto.
"""
import socket
import struct

GREETING_REQ = b"\0SP\0\0\x30\0\0"
GREETING_REP = b"\0SP\0\0\x31\0\0"
DONE, FAILED, CANCELLED, EXPIRED, NOT_STARTED, IN_DOUBT = range(1, 7)


# ---- protobuf, as much as sherd.proto needs ----

def varint(value):
    out = bytearray()
    while value > 0x7f:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number, value):
    """A field; integers as varint (a 0 too), bytes and str with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def read_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7f) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def parse(data):
    """{number: [values]}"""
    fields, at = {}, 0
    while at < len(data):
        tag, at = read_varint(data, at)
        value, at = read_varint(data, at)
        if tag & 7 == 2:
            value, at = data[at:at + value], at + value
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def one(fields, number, default=0):
    return fields.get(number, [default])[0]


# ---- messages ----

class Submission:
    def __init__(self, number, method, args=b"", shard=None, key=b"", timeout_ns=0, urgent=False,
                 refuse=False):
        self.bytes = field(1, number) + field(2, method) + field(3, args)
        if shard is not None:
            self.bytes += field(4, shard)
        self.bytes += field(5, key) + field(6, timeout_ns) + field(7, int(urgent)) + field(8, int(refuse))


class Refusal(Exception):
    """The gateway answered with an Error."""

    def __init__(self, fields):
        self.number = one(fields, 1)
        self.text = one(fields, 2, b"").decode()
        super().__init__(f"{self.number}: {self.text}")


class End:
    def __init__(self, position, data):
        fields = parse(data)
        self.position = position
        self.id, self.kind, self.error = one(fields, 1), one(fields, 2), one(fields, 3)
        self.shard, self.data = one(fields, 4, None), one(fields, 5, b"")
        self.gone = bool(one(fields, 6))


class RawClient:
    def __init__(self, address, timeout=30, tls=None):
        """address: the path of a Unix socket, or (host, port). tls: an SSLContext."""
        self.local = isinstance(address, str)
        self.socket = socket.socket(socket.AF_UNIX if self.local else socket.AF_INET)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.socket.sendall(GREETING_REQ)
        assert self._receive(8) == GREETING_REP
        self.number = 0
        self.last = 0  # position of the last end that came

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _receive(self, n):
        data = bytearray()
        while len(data) < n:
            piece = self.socket.recv(n - len(data))
            if not piece:
                raise ConnectionError("the gateway closed the connection")
            data += piece
        return bytes(data)

    def send(self, body):
        """Begins a request; returns its number."""
        self.number += 1
        message = struct.pack(">I", 0x80000000 | self.number) + body
        self.socket.sendall((b"\1" if self.local else b"") + struct.pack(">Q", len(message)) + message)
        return self.number

    def receive(self):
        """The next reply: the request's number, which field of Reply it is, and that field's fields."""
        head = self._receive(9 if self.local else 8)
        message = self._receive(struct.unpack(">Q", head[-8:])[0])
        number = struct.unpack(">I", message[:4])[0] & 0x7fffffff
        (kind, (data,)), = parse(message[4:]).items()
        return number, kind, parse(data)

    def ask(self, body):
        """Sends, and returns the reply's fields. Only with nothing else under way."""
        sent = self.send(body)
        number, kind, fields = self.receive()
        assert number == sent
        if kind == 1:
            raise Refusal(fields)
        return fields

    def hello(self, session=b"", token=b"", version=1):
        """The session, and whether it is the one asked for."""
        fields = self.ask(field(1, field(1, version) + field(2, "test") + field(3, session) +
                                field(4, token)))
        return one(fields, 2), bool(one(fields, 3))

    @staticmethod
    def submit_message(submissions):
        return field(3, b"".join(field(1, s.bytes) for s in submissions))

    def submit(self, submissions):
        """How many were accepted, and {id: (number, text)} of the others."""
        fields = self.ask(self.submit_message(submissions))
        refused = {}
        for data in fields.get(2, []):
            refusal = parse(data)
            self.retry_us = one(refusal, 4)
            refused[one(refusal, 1)] = (one(refusal, 2), one(refusal, 3, b"").decode())
        return one(fields, 1), refused

    @staticmethod
    def next_message(ack=0, wait_ms=30000, max_ends=0, session=b""):
        return field(4, field(1, ack) + field(2, wait_ms) + field(3, max_ends) + field(4, session))

    @staticmethod
    def ends_of(fields):
        first = one(fields, 1)
        return [End(first + i, data) for i, data in enumerate(fields.get(2, []))]

    def next(self, ack=None, wait_ms=30000, max_ends=0, session=b""):
        """The next ends, acknowledging all that came before."""
        ends = self.ends_of(self.ask(
            self.next_message(self.last if ack is None else ack, wait_ms, max_ends, session)))
        if ends:
            self.last = ends[-1].position
        return ends

    def fetch(self, n):
        """n ends."""
        ends = []
        while len(ends) < n:
            ends += self.next()
        return ends

    def cancel(self, ids):
        return one(self.ask(field(5, field(1, b"".join(map(varint, ids))))), 1)

    def status(self):
        return self.status_of(self.ask(field(6, b"")))

    @staticmethod
    def watch_message(seen=0, wait_ms=30000):
        return field(9, field(1, seen) + field(2, wait_ms))

    def watch(self, seen=0, wait_ms=30000):
        return self.status_of(self.ask(self.watch_message(seen, wait_ms)))

    def drain(self, off=False, limit_ms=0, instance="test"):
        self.ask(field(8, field(1, int(off)) + field(2, limit_ms) + field(3, instance)))

    @staticmethod
    def status_of(fields):
        return {"instance": one(fields, 1, b"").decode(), "shards": one(fields, 4),
                "processes": [parse(data) for data in fields.get(5, [])],
                "sessions": one(fields, 6), "in_flight": one(fields, 7),
                "accepted": one(fields, 8), "ended": one(fields, 9),
                "drain": one(fields, 10), "change": one(fields, 11)}

    def described_methods(self):
        """{name: the fields of its Method}"""
        listed = map(parse, self.ask(field(7, b"")).get(1, []))
        return {one(method, 1).decode(): method for method in listed}

    def methods(self):
        """{name: whether it may be repeated}"""
        return {name: bool(one(method, 3)) for name, method in self.described_methods().items()}
