#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
sherd_shm - a client of Sherd in Python over shared memory: attach, rings and doorbells, as docs/protocol.md has them

Use:   ./sherd_shm.py /run/sherd/default/attach sys.echo hello world
       prints the answers, one a line, in the order of the arguments: each is a request.
Needs: libatomic1 (by ctypes). The language has no fences, and without them another processor may see the turn
       of an entry before the entry.

Each request in flight has a place of its own in the data area: its arguments, and behind them room for its answer.
"""
import collections
import contextlib
import ctypes
import errno
import mmap
import os
import select
import socket
import struct
import sys

MAGIC, VERSION = 0x48435441, 1
HELLO, WELCOME, OPEN, OPENED, REFUSED, CLOSED = range(1, 7)
HEAD = struct.Struct("<IHHQ")
HELLO_BODY = struct.Struct("<QQII64s")
WELCOME_BODY = struct.Struct("<QQQIIIIQQQQ64s")
REFUSED_BODY = struct.Struct("<iI160s")
CLOSED_BODY = struct.Struct("<IiQ")

ENTRIES = 64
ARGS_MAX, ROOM = 64 * 1024, 64 * 1024
PAGE = 4096
DONE, IN_DOUBT, ENDS = 1, 6, ("", "done", "failed", "cancelled", "expired", "not started", "in doubt")
NEED_WAKEUP, CLIENT_SLEEPS, RINGS = 0, 64, 128  # in a lane
TABLE, ROUTE_HERE, ROUTE_METHOD = 0xffff, 0, 1
RELEASE, SEQ_CST = 3, 5

fence = ctypes.CDLL("libatomic.so.1").atomic_thread_fence


class Gone(Exception):
    """the instance has ended, or cut us off"""


class Down(Exception):
    """a shard is given up"""


class Attachment:
    """The connection that is the client's life, and the memory and doorbells that came by it."""

    def __init__(self, path, data_bytes):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(path)
        self.serial = 0
        self.closed = []  # (shard, the position of the first entry that it has not taken)
        body, memory = self.ask(HELLO, HELLO_BODY.pack(0, data_bytes, ENTRIES, 0, b"sherd_shm.py"), WELCOME)
        (_, self.data_bytes, total, self.n_entries, self.n_shards, _, self.max_in_flight, self.max_bytes,
         *_) = WELCOME_BODY.unpack(body)
        self.memory = mmap.mmap(memory, total)
        os.close(memory)
        self.data_at = total - self.data_bytes
        self.lane_bytes = self.data_at // self.n_shards

    def ask(self, kind, body, wanted):
        self.serial += 1
        try:
            self.socket.send(HEAD.pack(MAGIC, VERSION, kind, self.serial) + body)
        except BrokenPipeError:
            pass  # it may have said why
        while True:
            message, fds = self.receive()
            _, _, kind, serial = HEAD.unpack_from(message)
            if kind == wanted and serial == self.serial:
                return message[HEAD.size:], fds[0]
            for fd in fds:  # of a question that was asked twice
                os.close(fd)

    def listen(self):
        """What it says without having been asked: that a shard is given up; or that this is the end, and maybe why."""
        for fd in self.receive()[1]:
            os.close(fd)

    def receive(self):
        try:
            message, fds, _, _ = socket.recv_fds(self.socket, PAGE, 1)
        except ConnectionResetError:
            message = b""
        if not message:
            raise Gone("the instance has ended")
        self.check(message)
        return message, fds

    def check(self, message):
        _, _, kind, serial = HEAD.unpack_from(message)
        if kind == CLOSED:
            shard, _, taken = CLOSED_BODY.unpack_from(message, HEAD.size)
            self.closed.append((shard, taken))
        if kind == REFUSED:
            error, retry_ms, text = REFUSED_BODY.unpack_from(message, HEAD.size)
            again = f" (again in {retry_ms} ms)" if error == -errno.EAGAIN else ""
            raise (Down if serial and error == -errno.EHOSTDOWN else Gone)(text.split(b"\0")[0].decode() + again)

    def open(self, shard):
        """The doorbell of a shard."""
        return self.ask(OPEN, struct.pack("<II", shard, 0), OPENED)[1]


class Lane:
    """The two rings that are shared with a shard."""

    def __init__(self, attachment, shard):
        self.shard = shard
        self.memory = attachment.memory
        self.at = attachment.lane_bytes * shard
        self.n = attachment.n_entries
        self.bell = attachment.open(shard)
        self.pushed = self.popped = self.sleeps = 0

    def word(self, at):
        return ctypes.c_uint32.from_buffer(self.memory, self.at + at)

    def push(self, number, method, route, args, room):
        """args and room: where, and how long. Returns the entry's position."""
        entry = RINGS + self.pushed % self.n * 64
        at = self.at + entry
        self.memory[at:at + 12] = struct.pack("<QHBB", number, method, 0, route)
        self.memory[at + 16:at + 64] = struct.pack("<QQIIQQ8x", 0, 0, args[1], room[1], room[0], args[0])
        self.pushed += 1
        fence(RELEASE)
        self.word(entry + 12).value = self.pushed & 0xffffffff
        fence(SEQ_CST)
        if self.word(NEED_WAKEUP).value:
            self.ring()
        return self.pushed - 1

    def ring(self):
        try:
            os.write(self.bell, b"\0")
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            pass  # full: it has been rung; or the shard is between two lives

    def has_more(self):
        entry = RINGS + self.n * 64 + self.popped % self.n * 64
        more = self.word(entry + 60).value == (self.popped + 1) & 0xffffffff
        fence(SEQ_CST)
        return more

    def pop(self):
        """(number, length, error, end, what stands in the completion), or None."""
        if not self.has_more():
            return None
        at = self.at + RINGS + self.n * 64 + self.popped % self.n * 64
        number, length, error, end = struct.unpack_from("<QIiB", self.memory, at)
        self.popped += 1
        return number, length, error, end, self.memory[at + 28:at + 60]

    def may_sleep(self):
        """Asks to be rung. Whether there is nothing to take before."""
        self.sleeps += 1
        self.word(CLIENT_SLEEPS).value = self.sleeps
        fence(SEQ_CST)
        return not self.has_more()

    def wake(self):
        self.word(CLIENT_SLEEPS).value = 0
        try:
            os.read(self.bell, PAGE)
        except BlockingIOError:
            pass


class Run:
    """Arguments for one method, on their way."""

    def __init__(self, method, arguments, route, may_repeat):
        self.method, self.arguments, self.route, self.may_repeat = method, arguments, route, may_repeat
        self.line = collections.deque(range(len(arguments)))  # to be submitted
        self.under_way = {}  # by place: (which argument, lane, position)
        self.ends = [None] * len(arguments)


class Client:
    def __init__(self, path):
        self.attachment = Attachment(path, ENTRIES * (ARGS_MAX + ROOM))
        self.lanes = []
        for shard in range(self.attachment.n_shards):
            with contextlib.suppress(Down):  # the others do
                self.lanes.append(Lane(self.attachment, shard))
        table = self.run(TABLE, [b""], ROUTE_HERE)[0][1].decode()
        lines = [line.split("\t") for line in table.splitlines()]
        self.methods = {name: (int(number), kind.startswith("idempotent")) for name, kind, number, *_ in lines}

    def data(self, place, length):
        at = self.attachment.data_at + place
        return self.attachment.memory[at:at + length]

    def submit(self, run, place):
        number = run.line.popleft()
        args, lane = run.arguments[number], self.lanes[number % len(self.lanes)]
        if len(args) > ARGS_MAX:
            raise ValueError(f"{len(args)} bytes of arguments: there is room for {ARGS_MAX}")
        at = self.attachment.data_at + place
        self.attachment.memory[at:at + len(args)] = args
        position = lane.push(place, run.method, run.route, (place, len(args)), (place + ARGS_MAX, ROOM))
        run.under_way[place] = number, lane, position

    def take(self, run, lane):
        """The places of those that have ended in that lane."""
        places = []
        while popped := lane.pop():
            place, length, error, end, inline = popped
            data = inline[:length] if length <= len(inline) else self.data(place + ARGS_MAX, length)
            run.ends[run.under_way.pop(place)[0]] = end, data or os.strerror(-error).encode() * (end != DONE)
            places.append(place)
        return places

    def lose(self, run, lane, taken):
        """A lane whose shard is given up: what stands in its ring has ended, and the rest nobody has any more."""
        self.lanes.remove(lane)
        if not self.lanes:
            raise Gone("every shard is given up")
        places = self.take(run, lane)
        for place, (number, where, position) in list(run.under_way.items()):
            if where is not lane:
                continue
            if position >= taken or run.may_repeat:
                run.line.append(number)
            else:
                run.ends[number] = IN_DOUBT, b"its shard is given up, and with it whether it was done"
            del run.under_way[place]
            places.append(place)
        os.close(lane.bell)
        return places

    def lose_closed(self, run):
        places = []
        while self.attachment.closed:
            shard, taken = self.attachment.closed.pop()
            for lane in [lane for lane in self.lanes if lane.shard == shard]:  # none: it was said twice
                places += self.lose(run, lane, taken)
        return places

    def wait(self):
        """Until a shard has rung, or something was said of one."""
        if all([lane.may_sleep() for lane in self.lanes]):
            bells = {lane.bell for lane in self.lanes}
            ready, _, _ = select.select([*bells, self.attachment.socket], [], [])
            if self.attachment.socket in ready:
                self.attachment.listen()
        for lane in self.lanes:
            lane.wake()

    def run(self, method, arguments, route=ROUTE_METHOD, may_repeat=True):
        """[(end, answer or text)] in the order of the arguments."""
        if not self.lanes:
            raise Gone("every shard is given up")
        room = ARGS_MAX + ROOM
        most = min(ENTRIES, self.attachment.max_in_flight // len(self.lanes), self.attachment.max_bytes // room)
        free = [place * room for place in range(most)]
        run = Run(method, arguments, route, may_repeat)
        while run.line or run.under_way:
            while free and run.line:
                self.submit(run, free.pop())
            ended = self.lose_closed(run)
            for lane in self.lanes:
                ended += self.take(run, lane)
            free += ended
            if not ended and run.under_way:
                self.wait()
        return run.ends


def main():
    if len(sys.argv) < 3:
        sys.exit("use: sherd_shm.py SOCKET METHOD [ARGUMENT...]")
    path, method, *arguments = sys.argv[1:]
    client = Client(path)
    if method not in client.methods:
        sys.exit(f"sherd_shm.py: no such method: {method}; there are {', '.join(client.methods)}")
    number, may_repeat = client.methods[method]
    ends = client.run(number, [os.fsencode(argument) for argument in arguments or [""]], may_repeat=may_repeat)
    for end, data in ends:
        if end == DONE:
            print(data.decode(errors="replace"))
        else:
            print(f"{ENDS[end]}: {data.decode(errors='replace')}", file=sys.stderr)
    return any(end != DONE for end, _ in ends)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Gone, ValueError, OSError) as error:
        sys.exit(f"sherd_shm.py: {error}")
