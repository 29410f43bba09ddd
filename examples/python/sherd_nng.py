#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
sherd_nng - a client of Sherd in Python: sherd.proto over nng, as docs/protocol.md describes it

Use:   protoc --python_out=. -I ../../proto sherd.proto
       ./sherd_nng.py ipc:///run/sherd/default/gateway sys.echo hello world
       prints the answers, one a line, in the order of the arguments: each is a request.
       ./sherd_nng.py URL watch: prints how the instance is, whenever that changes
       ./sherd_nng.py URL drain: has it take nothing new and waits until it has finished; resume: has it go on
       Over tcp the token is in SHERD_TOKEN; tls+tcp believes the authority whose certificate SHERD_TLS_CA names.
Needs: libnng1 (by ctypes), python3-protobuf, and protoc for sherd_pb2.py.

A connection may break, and the gateway die: the session outlives both. So hello is said again with the session,
and what has no end is submitted again under its id: it is served once. Where the session is lost as well, that
holds for methods that may run twice; of others nobody knows whether they ran.
"""
import collections
import ctypes
import errno
import os
import sys
import time

import sherd_pb2 as wire

NNG_FLAG_ALLOC = 1
NNG_FLAG_NONBLOCK = 2
NNG_DURATION_INFINITE = -1
WAIT_MS = 5000
PAUSE = 0.05  # seconds, where the gateway does not say

nng = ctypes.CDLL("libnng.so.1")
nng.nng_strerror.restype = ctypes.c_char_p


class Socket(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint32)]


class Dialer(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint32)]


class Broken(Exception):
    """nothing came back: nobody knows whether the message was heard"""


class Refused(Exception):
    def __init__(self, error):
        super().__init__(error.text or os.strerror(error.number))
        self.number = error.number


class Connection:
    """One message, one answer. Where it breaks, nng makes it anew by itself."""

    def __init__(self, url):
        self.socket = Socket()
        self.check(nng.nng_req0_open(ctypes.byref(self.socket)))
        # What comes twice is the session's business, not the socket's.
        self.check(nng.nng_socket_set_ms(self.socket, b"req:resend-time", NNG_DURATION_INFINITE))
        for limit in (b"recv-timeout", b"send-timeout"):
            self.check(nng.nng_socket_set_ms(self.socket, limit, 2 * WAIT_MS))
        self.url, self.dialer = url, Dialer()
        self.dial(0)

    def dial(self, flags):
        self.check(nng.nng_dialer_create(ctypes.byref(self.dialer), self.socket, self.url.encode()))
        if self.url.startswith("tls+tcp:"):
            self.check(nng.nng_dialer_set_string(self.dialer, b"tls-ca-file", os.environb[b"SHERD_TLS_CA"]))
        self.check(nng.nng_dialer_start(self.dialer, flags))

    def redial(self):
        """Where nothing came back: a dialer of nng 1.5.2 gives up for good if the other side dies as they meet."""
        nng.nng_dialer_close(self.dialer)
        self.dial(NNG_FLAG_NONBLOCK)

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
        self.open = {}  # id: Submission, of each that has no end
        self.line = collections.deque()  # ids that are to be sent, maybe once more
        self.heard = set()  # ids that a gateway may have heard of
        self.lost = []  # ends that nobody else will tell
        self.hello()
        self.repeatable = {method.name for method in self.connection.ask(methods=wire.Methods()).methods
                           if method.idempotent}

    def hello(self):
        """Begins a session, or goes on with the one that there is: then all that has no end is sent again."""
        while True:
            try:
                welcome = self.connection.ask(hello=wire.Hello(
                    version=1, client="sherd_nng.py", session=self.session, token=self.token))
                break
            except Broken:
                if not self.session:
                    raise
                self.connection.redial()
            except Refused as refused:
                if refused.number != errno.EAGAIN:  # more sessions than there may be: some end
                    raise
                time.sleep(PAUSE)
        if self.session and not welcome.resumed:
            self.begin_anew()
        self.session, self.limits = welcome.session, welcome
        self.line = collections.deque(self.open)

    def begin_anew(self):
        """The session is gone, and with it what became of its requests."""
        self.last_position = 0
        for number in self.heard & self.open.keys():
            if self.open[number].method not in self.repeatable:
                self.end_here(number, wire.IN_DOUBT, "its session is gone")
        self.heard.clear()

    def end_here(self, number, kind, text):
        del self.open[number]
        self.lost.append(wire.End(id=number, kind=kind, data=text.encode()))

    def again(self, action):
        """What a broken connection interrupts is done again on the next one."""
        while True:
            try:
                return action()
            except Broken:
                self.connection.redial()
            except Refused as refused:
                if refused.number != errno.ESTALE:  # this connection has no session yet
                    raise
            self.hello()

    # ---- submitting ----

    def take_batch(self):
        """As many as a message and the session have room for."""
        batch, n_bytes = [], 0
        room = self.limits.max_in_flight - (len(self.open) - len(self.line))
        while self.line and len(batch) < min(room, self.limits.max_batch):
            submission = self.open.get(self.line[0])
            if submission:
                n_bytes += len(submission.args)
                if batch and n_bytes > self.limits.max_payload:
                    break
                batch.append(submission)
            self.line.popleft()
        return batch

    def send(self):
        """Sends what there is room for. What is refused for now stays in line."""
        while batch := self.take_batch():
            known = self.heard & {submission.id for submission in batch}
            self.heard.update(submission.id for submission in batch)
            reply = self.connection.ask(submit_many=wire.SubmitMany(submissions=batch))
            for refused in reply.refused:
                self.refuse(refused, refused.id in known)
            if any(refused.number == errno.EAGAIN for refused in reply.refused):
                if reply.accepted == 0 and len(self.open) == len(self.line):  # no end to wait for
                    time.sleep(max(refused.retry_us for refused in reply.refused) / 1e6 or PAUSE)
                return

    def refuse(self, refused, was_heard):
        if refused.number == errno.EAGAIN:
            self.line.append(refused.id)
        elif refused.number == errno.ESTALE and was_heard:  # too old: what became of it is forgotten
            self.end_here(refused.id, wire.IN_DOUBT, refused.text)
        else:
            self.end_here(refused.id, wire.NOT_STARTED, refused.text or os.strerror(refused.number))

    # ---- ends ----

    def fetch(self):
        """The next ends, each of which a broken connection may have brought before. Those that it says have come
        are in flight no more."""
        wait_ms = WAIT_MS if len(self.open) > len(self.line) else 0
        try:
            reply = self.connection.ask(next=wire.Next(ack=self.last_position, wait_ms=wait_ms, session=self.session))
        except Refused as refused:
            if refused.number == errno.ESHUTDOWN:  # its last word: the connection breaks
                raise Broken(str(refused)) from refused
            raise
        for position, end in enumerate(reply.ends, reply.first):
            self.last_position = max(self.last_position, position)
            submission = self.open.get(end.id)
            if end.gone and submission and submission.method in self.repeatable:
                self.line.append(end.id)  # the answer went with a gateway: it is run again under its id
            elif self.open.pop(end.id, None):
                yield end

    def run(self, method, arguments):
        """A request for each, and its end, once, as they come: (place among the arguments, end)."""
        first = self.last_id + 1
        for args in arguments:
            self.last_id += 1
            self.open[self.last_id] = wire.Submission(id=self.last_id, method=method, args=args)
            self.line.append(self.last_id)
        while self.open or self.lost:
            self.again(self.send)
            ends = self.again(lambda: list(self.fetch())) if self.open else []
            ends, self.lost = self.lost + ends, []
            for end in ends:
                yield end.id - first, end

    # ---- the instance ----

    def watch(self, seen=0):
        """How it is, as soon as that is another way than `seen`, the `change` of what this returned before; after a
        while the same again."""
        return self.again(lambda: self.connection.ask(watch=wire.Watch(seen=seen, wait_ms=WAIT_MS)))

    def drain(self, off=False):
        self.again(lambda: self.connection.ask(drain=wire.Drain(instance=self.limits.instance, off=off)))
        status = self.watch()
        while not off and status.drain == wire.DRAINING:
            status = self.watch(status.change)

    def watch_for_ever(self):
        seen = 0
        while True:
            status = self.watch(seen)
            if status.change != seen:
                shards = " ".join(f"{p.role}{p.shard if p.role == 'shard' else ''}:{p.state}" for p in status.processes)
                print(f"{wire.DrainState.Name(status.drain)} {shards}", flush=True)
            seen = status.change


def main():
    orders = {"drain": lambda client: client.drain(), "resume": lambda client: client.drain(off=True),
              "watch": lambda client: client.watch_for_ever()}
    if len(sys.argv) < 3:
        sys.exit("use: sherd_nng.py URL METHOD [ARGUMENT...] | watch | drain | resume")
    url, method, *arguments = sys.argv[1:]
    client = Client(url, os.environb.get(b"SHERD_TOKEN", b""))
    if method in orders:
        return orders[method](client)
    ends = dict(client.run(method, [os.fsencode(argument) for argument in arguments or [""]]))
    for _, end in sorted(ends.items()):
        text = end.data.decode(errors="replace")
        if end.kind == wire.DONE and not end.gone:
            print(text)
        else:
            kind = "DONE, its answer is gone" if end.gone else wire.EndKind.Name(end.kind)
            print(f"{kind}: {text or os.strerror(end.error)}", file=sys.stderr)
    client.connection.close()
    return any(end.kind != wire.DONE or end.gone for end in ends.values())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Broken, Refused) as error:
        sys.exit(f"sherd_nng.py: {error}")
