#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
sherd_nng - a client of Sherd in Python: sherd.proto over nng, as docs/protocol.md describes it

Use:   protoc --python_out=. -I ../../proto sherd.proto
       ./sherd_nng.py ipc:///run/sherd/default/gateway sys.echo hello world
       prints the answers, one a line, in the order of the arguments: each is a request.
Needs: libnng1 (by ctypes), python3-protobuf, and protoc for sherd_pb2.py.

A connection may break, and the gateway die: the session outlives both. So hello is said again with the session,
and what has no end is submitted again under its id: it is served once.
"""
import ctypes
import os
import sys

import sherd_pb2 as wire

NNG_FLAG_ALLOC = 1
NNG_DURATION_INFINITE = -1
ESTALE = 116
WAIT_MS = 5000

nng = ctypes.CDLL("libnng.so.1")
nng.nng_strerror.restype = ctypes.c_char_p


class Socket(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint32)]


class Broken(Exception):
    """nothing came back: nobody knows whether the message was heard"""


class Refused(Exception):
    def __init__(self, error):
        super().__init__(error.text or os.strerror(error.number))
        self.number = error.number


class Connection:
    """One message, one answer."""

    def __init__(self, url):
        self.socket = Socket()
        self.check(nng.nng_req0_open(ctypes.byref(self.socket)))
        # What comes twice is the session's business, not the socket's.
        self.check(nng.nng_socket_set_ms(self.socket, b"req:resend-time", NNG_DURATION_INFINITE))
        self.check(nng.nng_socket_set_ms(self.socket, b"recv-timeout", 2 * WAIT_MS))
        self.check(nng.nng_dial(self.socket, url.encode(), None, 0))

    @staticmethod
    def check(result):
        if result != 0:
            raise Broken(nng.nng_strerror(result).decode())

    def ask(self, **body):
        message = wire.Request(**body).SerializeToString()
        self.check(nng.nng_send(self.socket, message, ctypes.c_size_t(len(message)), 0))
        data, size = ctypes.c_void_p(), ctypes.c_size_t()
        self.check(nng.nng_recv(self.socket, ctypes.byref(data), ctypes.byref(size), NNG_FLAG_ALLOC))
        reply = wire.Reply.FromString(ctypes.string_at(data, size.value))
        nng.nng_free(data, size)
        if reply.WhichOneof("body") == "error":
            raise Refused(reply.error)
        return getattr(reply, reply.WhichOneof("body"))

    def close(self):
        nng.nng_close(self.socket)


class Client:
    """Requests by id, over as many connections as it takes."""

    def __init__(self, url, token=b""):
        self.connection = Connection(url)
        self.token = token
        self.session = b""
        self.last_id = 0
        self.last_position = 0
        self.under_way = {}  # id: Submission
        self.hello()

    def hello(self):
        welcome = self.connection.ask(hello=wire.Hello(
            version=1, client="sherd_nng.py", session=self.session, token=self.token))
        if self.session and not welcome.resumed:
            raise SystemExit("the instance is another one: what had no end may have run")
        self.session, self.max_batch = welcome.session, welcome.max_batch

    def again(self, action):
        """What a broken connection interrupts is done again on the next one, which nng makes by itself."""
        while True:
            try:
                return action()
            except Broken:
                pass
            except Refused as refused:
                if refused.number != ESTALE:
                    raise
            try:
                self.hello()
                self.send(list(self.under_way.values()))
            except Broken:
                pass

    def send(self, submissions):
        for first in range(0, len(submissions), self.max_batch):
            batch = submissions[first:first + self.max_batch]
            for refused in self.connection.ask(submit_many=wire.SubmitMany(submissions=batch)).refused:
                raise Refused(refused)

    def submit(self, method, arguments):
        """Returns the ids."""
        new = [wire.Submission(id=self.last_id + 1 + i, method=method, args=args)
               for i, args in enumerate(arguments)]
        self.last_id += len(new)
        self.under_way.update((submission.id, submission) for submission in new)
        self.again(lambda: self.send(list(self.under_way.values())))
        return [submission.id for submission in new]

    def ends(self):
        """Each end, once, as they come."""
        while self.under_way:
            reply = self.again(lambda: self.connection.ask(next=wire.Next(
                ack=self.last_position, wait_ms=WAIT_MS, session=self.session)))
            for position, end in enumerate(reply.ends, reply.first):
                self.last_position = max(self.last_position, position)
                if self.under_way.pop(end.id, None):
                    yield end

    def methods(self):
        return self.again(lambda: self.connection.ask(methods=wire.Methods())).methods


def main():
    if len(sys.argv) < 3:
        sys.exit("use: sherd_nng.py URL METHOD [ARGUMENT...]")
    url, method, *arguments = sys.argv[1:]
    client = Client(url, os.environb.get(b"SHERD_TOKEN", b""))
    ids = client.submit(method, [os.fsencode(argument) for argument in arguments or [""]])
    ends = {end.id: end for end in client.ends()}
    for number in ids:
        end = ends[number]
        if end.kind == wire.DONE:
            print(end.data.decode(errors="replace"))
        else:
            print(f"{wire.EndKind.Name(end.kind)}: {end.data.decode(errors='replace')}", file=sys.stderr)
    client.connection.close()
    return any(end.kind != wire.DONE for end in ends.values())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Broken, Refused) as error:
        sys.exit(f"sherd_nng.py: {error}")
