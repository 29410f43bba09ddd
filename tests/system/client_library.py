# SPDX-License-Identifier: MIT
"""
client_library - libsherd-client.so, called from Python

Use:   with Client(instance, window=10000) as client:
           client.submit("sys.ping", done=results.append)
           client.run()
"""
import ctypes
import errno
import os

import harness

NO_SHARD = 0xffffffff
TO_SHARD, URGENT, REFUSE = 1, 2, 4
AUTO, DATA, CONTROL = range(3)
DONE, FAILED, CANCELLED, EXPIRED, NOT_STARTED, IN_DOUBT = range(1, 7)
SECOND = 1_000_000_000


class Options(ctypes.Structure):
    _fields_ = [("instance", ctypes.c_char_p), ("url", ctypes.c_char_p),
                ("token_file", ctypes.c_char_p), ("name", ctypes.c_char_p),
                ("wait_ns", ctypes.c_int64), ("spin_ns", ctypes.c_int64),
                ("data_bytes", ctypes.c_uint64), ("window", ctypes.c_uint32),
                ("plane", ctypes.c_uint32), ("answer_max", ctypes.c_uint32),
                ("reserved32", ctypes.c_uint32), ("reserved", ctypes.c_uint64 * 6)]


class Request(ctypes.Structure):
    _fields_ = [("method", ctypes.c_char_p), ("args", ctypes.c_char_p), ("args_len", ctypes.c_size_t),
                ("key", ctypes.c_char_p), ("key_len", ctypes.c_size_t),
                ("room", ctypes.c_void_p), ("room_len", ctypes.c_size_t),
                ("timeout_ns", ctypes.c_int64), ("shard", ctypes.c_uint32),
                ("flags", ctypes.c_uint32), ("method_handle", ctypes.c_uint32),
                ("answer_max", ctypes.c_uint32), ("reserved", ctypes.c_uint64 * 2)]


class RawResult(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint64), ("opaque", ctypes.c_void_p),
                ("data", ctypes.POINTER(ctypes.c_char)), ("len", ctypes.c_size_t),
                ("end", ctypes.c_int), ("error", ctypes.c_int32), ("shard", ctypes.c_uint32),
                ("retry_us", ctypes.c_uint32), ("owned", ctypes.c_void_p),
                ("reserved", ctypes.c_uint64)]


class Status(ctypes.Structure):
    _fields_ = [("change", ctypes.c_uint64), ("uptime_ns", ctypes.c_uint64), ("sessions", ctypes.c_uint64),
                ("requests_in_flight", ctypes.c_uint64), ("requests_accepted", ctypes.c_uint64),
                ("requests_ended", ctypes.c_uint64), ("deaths", ctypes.c_uint64),
                ("drain", ctypes.c_uint32), ("n_shards", ctypes.c_uint32),
                ("n_shards_up", ctypes.c_uint32), ("reserved32", ctypes.c_uint32),
                ("reserved", ctypes.c_uint64 * 6)]


class Result:
    def __init__(self, raw):
        self.id, self.end, self.error, self.shard = raw.id, raw.end, raw.error, raw.shard
        self.retry_us = raw.retry_us
        self.data = raw.data[:raw.len] if raw.len else b""


DoneFunction = ctypes.CFUNCTYPE(None, ctypes.POINTER(RawResult), ctypes.c_void_p)


def load():
    path = os.path.join(os.path.dirname(harness.program()), "dist", "libsherd-client.so")
    library = ctypes.CDLL(path)
    library.sherd_client_open.argtypes = [ctypes.POINTER(Options), ctypes.POINTER(ctypes.c_void_p),
                                          ctypes.POINTER(ctypes.c_void_p)]
    library.sherd_client_close.argtypes = [ctypes.c_void_p]
    library.sherd_client_close.restype = None
    library.sherd_client_submit.argtypes = [ctypes.c_void_p, ctypes.POINTER(Request), DoneFunction,
                                            ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64)]
    library.sherd_client_flush.argtypes = [ctypes.c_void_p]
    library.sherd_client_flush.restype = None
    library.sherd_client_cancel.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
    library.sherd_client_reap.argtypes = [ctypes.c_void_p, ctypes.POINTER(RawResult),
                                          ctypes.c_uint32, ctypes.c_int64]
    library.sherd_client_watch.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int64,
                                           ctypes.POINTER(Status)]
    library.sherd_client_drain.argtypes = [ctypes.c_void_p, ctypes.c_bool, ctypes.c_int64]
    library.sherd_client_error_text.argtypes = [ctypes.c_void_p]
    library.sherd_client_error_text.restype = ctypes.c_char_p
    library.sherd_client_wake.argtypes = [ctypes.c_void_p]
    library.sherd_client_wake.restype = None
    library.sherd_client_plane.argtypes = [ctypes.c_void_p]
    library.sherd_client_process.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.sherd_client_fd.argtypes = [ctypes.c_void_p]
    library.sherd_client_in_flight.argtypes = [ctypes.c_void_p]
    library.sherd_client_in_flight.restype = ctypes.c_size_t
    return library


class ClientError(OSError):
    pass


def begin_nng():
    """nng keeps two fds of its own from its first use on: before a case counts its fds."""
    client = ctypes.c_void_p()
    assert load().sherd_client_open(Options(url=b"tcp://"), client, None) < 0


begin_nng()


class Client:
    def __init__(self, instance=None, url=None, token_file=None, wait_ns=5 * SECOND, window=0, **more):
        self.lib = load()
        self.handle = ctypes.c_void_p()
        self.callbacks = {}
        text = ctypes.c_void_p()
        options = Options(url=url.encode() if url else None,
                          token_file=token_file.encode() if token_file else None,
                          wait_ns=wait_ns, window=window, **more)
        if instance and more.get("plane", CONTROL) != CONTROL:
            os.environ["SHERD_RUNTIME_DIR"] = instance.runtime_dir
            options.instance = instance.name.encode()
        elif instance:
            options.url = f"ipc://{os.path.join(instance.runtime_dir, instance.name, 'gateway')}".encode()
        error = self.lib.sherd_client_open(options, self.handle, text)
        if error < 0:
            raise ClientError(-error, ctypes.string_at(text).decode() if text else "")
        self.on_done = DoneFunction(self._done)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lib.sherd_client_close(self.handle)

    def _done(self, raw, _):
        result = Result(raw.contents)
        self.callbacks.pop(result.id)(result)

    def submit(self, method, args=b"", done=lambda result: None, shard=None, key=None,
               timeout_ns=0, urgent=False):
        number = ctypes.c_uint64()
        request = Request(method=method.encode(), args=args, args_len=len(args), key=key,
                          key_len=len(key or b""), timeout_ns=timeout_ns, shard=shard or 0,
                          flags=(URGENT if urgent else 0) | (0 if shard is None else TO_SHARD))
        error = self.lib.sherd_client_submit(self.handle, request, self.on_done, None, number)
        if error < 0:
            raise ClientError(-error, os.strerror(-error))
        self.callbacks[number.value] = done
        self.lib.sherd_client_flush(self.handle)
        return number.value

    def cancel(self, number):
        return self.lib.sherd_client_cancel(self.handle, number)

    def process(self, timeout_ns=-1):
        """How many ended; negative: -errno."""
        return self.lib.sherd_client_process(self.handle, timeout_ns)

    def queue(self, method, args=b"", flags=0, timeout_ns=0, room=None, shard=0):
        """Its end is fetched by reap(). args may be what buffer() gave."""
        number = ctypes.c_uint64()
        where = args if isinstance(args, bytes) else ctypes.addressof(args)
        request = Request(method=method.encode(), args=where, args_len=len(args), flags=flags,
                          timeout_ns=timeout_ns, shard=shard, room=ctypes.addressof(room) if room else None,
                          room_len=len(room) if room else 0)
        error = self.lib.sherd_client_submit(self.handle, request, DoneFunction(), None, number)
        if error < 0:
            raise ClientError(-error, os.strerror(-error))
        return number.value

    def buffer(self, length):
        """Of the data area, as an array of bytes; gone with the client."""
        self.lib.sherd_buffer_alloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.lib.sherd_buffer_alloc.restype = ctypes.c_void_p
        return (ctypes.c_char * length).from_address(self.lib.sherd_buffer_alloc(self.handle, length))

    def reap(self, n, timeout_ns=-1):
        results = (RawResult * n)()
        got = self.lib.sherd_client_reap(self.handle, results, n, timeout_ns)
        if got < 0:
            raise ClientError(-got, os.strerror(-got))
        return [Result(result) for result in results[:got]]

    def wake(self):
        self.lib.sherd_client_wake(self.handle)

    def watch(self, seen=0, wait_ns=int(harness.DEADLINE * SECOND)):
        status = Status()
        error = self.lib.sherd_client_watch(self.handle, seen, wait_ns, status)
        if error < 0:
            raise ClientError(-error, os.strerror(-error))
        return status

    def drain(self, off=False, limit_ns=0):
        error = self.lib.sherd_client_drain(self.handle, off, limit_ns)
        if error < 0:
            raise ClientError(-error, self.lib.sherd_client_error_text(self.handle).decode())

    def plane(self):
        return self.lib.sherd_client_plane(self.handle)

    def in_flight(self):
        return self.lib.sherd_client_in_flight(self.handle)

    def fd(self):
        return self.lib.sherd_client_fd(self.handle)

    def run(self):
        """Until nothing is in flight."""
        while self.in_flight() > 0:
            error = self.process(int(harness.DEADLINE * SECOND))
            if error == -errno.EINTR:  # it was stopped
                continue
            if error < 0:
                raise ClientError(-error, os.strerror(-error))
            if error == 0:
                raise AssertionError(f"{self.in_flight()} requests do not end")

    def call(self, method, args=b"", **options):
        results = []
        self.submit(method, args, results.append, **options)
        self.run()
        return results[0]
