# SPDX-License-Identifier: MIT
"""Tests of the control plane by clients that speak its bytes themselves."""
import contextlib

import harness
from raw_client import DONE, RawClient, Submission


class WireCase(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.sockets = []

    def tearDown(self):
        for each in self.sockets:
            each.close()
        super().tearDown()

    def connect_raw(self, address, **options):
        """A client that has said nothing yet, and is closed when the case is over."""
        client = RawClient(address, **options)
        self.sockets.append(client.socket)
        return client


class IpcCase(WireCase):
    """With an instance of two shards."""

    def begin(self, *arguments):
        self.sherd = self.start("--shards", "2", *arguments)
        self.gateway_pid = self.sherd.gateway()["pid"]

    def client(self):
        return self.connect_raw(self.sherd.gateway_socket)

    def session(self):
        client = self.client()
        client.token, _ = client.hello()
        return client

    def assert_still_serves(self):
        self.assertEqual(self.sherd.gateway()["pid"], self.gateway_pid)
        with self.session() as client:
            self.assertEqual(client.submit([Submission(1, "sys.ping")]), (1, {}))
            self.assertEqual(client.next()[0].kind, DONE)

    def assert_closed(self, stream):
        with contextlib.suppress(ConnectionError):
            while stream.recv(4096):
                pass
