# -*- test-case-name: txamqp091.test.unit.client.test_immediate -*-
"""
Bytes go to the socket at once where Twisted's TCP transport holds nothing.
"""

from __future__ import annotations

import socket

from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Connection
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from txamqp091._immediate import immediate_write


class ImmediateTests(SynchronousTestCase):
    """
    Tests for `immediate_write`.
    """

    def setUp(self) -> None:
        ours, self.theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(self.theirs.close)
        for each in ours, self.theirs:
            each.setblocking(False)
        self.reactor = MemoryReactor()
        self.transport = Connection(ours, Protocol(), self.reactor)
        self.transport.connected = 1
        self.errors: list[Exception] = []
        self.write = immediate_write(self.transport, self.errors.append)

    def waiting(self) -> bool:
        """
        Whether the transport waits for the reactor, to write.
        """
        return self.transport in self.reactor.getWriters()

    def received(self) -> bytes:
        """
        What is there for the peer.
        """
        found = b""
        while True:
            try:
                data = self.theirs.recv(1 << 20)
            except BlockingIOError:
                return found
            if not data:
                return found
            found += data

    def test_at_once(self) -> None:
        """
        Bytes are sent in the same turn.
        """
        self.write(b"one")
        self.write(b"two")
        self.assertEqual(self.received(), b"onetwo")
        self.assertFalse(self.waiting())

    def test_full(self) -> None:
        """
        What the kernel does not take waits in the transport, and what follows waits
        behind it.
        """
        large = bytes(range(256)) * (1 << 14)
        self.write(large)
        self.assertTrue(self.waiting())
        self.write(b"behind")
        found = self.received()
        self.assertTrue(0 < len(found) < len(large))
        while self.waiting():
            self.transport.doWrite()
            found += self.received()
        self.assertEqual(found, large + b"behind")
        self.write(b"again")
        self.assertEqual(self.received(), b"again")

    def test_nothing_taken(self) -> None:
        """
        When the kernel takes nothing, all of it waits.
        """
        while self.transport.writeSomeData(bytes(1 << 20)):
            pass
        self.write(b"waits")
        self.assertEqual(b"".join(self.transport._tempDataBuffer), b"waits")

    def test_lost(self) -> None:
        """
        That the peer has gone is for the reactor to find out; the error is told.
        """
        self.theirs.close()
        self.write(b"lost")
        [error] = self.errors
        self.assertIsInstance(error, ConnectionLost)
        self.assertTrue(self.waiting())
        self.assertIsInstance(self.transport.doWrite(), Exception)

    def test_ending(self) -> None:
        """
        A transport that ends, or has ended, decides itself.
        """
        self.transport.loseConnection()
        self.write(b"last")
        self.assertEqual(self.received(), b"")
        self.assertEqual(b"".join(self.transport._tempDataBuffer), b"last")
        self.transport.connected = 0
        self.write(b"nothing")
        self.assertEqual(b"".join(self.transport._tempDataBuffer), b"last")

    def test_tls(self) -> None:
        """
        A transport that has begun TLS encrypts what it is given.
        """
        self.transport.TLS = True
        encrypted: list[bytes] = []
        self.patch(self.transport, "write", encrypted.append)
        immediate_write(self.transport, self.errors.append)(b"secret")
        self.assertEqual((encrypted, self.received()), ([b"secret"], b""))

    def test_others(self) -> None:
        """
        Any other transport is written to as ever.
        """
        other = StringTransport()
        immediate_write(other, self.errors.append)(b"data")
        self.assertEqual(other.value(), b"data")
