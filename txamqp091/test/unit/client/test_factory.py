# -*- test-case-name: txamqp091.test.unit.client.test_factory -*-
"""
Tests for `txamqp091.factory`: connections by way of any endpoint.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txamqp091.errors import ConnectionClosed
from txamqp091.factory import AMQPClientFactory
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.peer import Transport


class FactoryTests(SynchronousTestCase):
    """
    `AMQPClientFactory`.
    """

    def test_interface(self) -> None:
        """
        It is a factory, and says nothing in the log for each connection.
        """
        factory = AMQPClientFactory(clock=Clock())
        verifyObject(IProtocolFactory, factory)
        self.assertFalse(factory.noisy)

    def test_build(self) -> None:
        """
        Each connection is a protocol of its own, with the factory's parameters.
        """
        clock, parameters = Clock(), ConnectionParameters(name="billing")
        factory = AMQPClientFactory(parameters, clock=clock)
        address = IPv4Address("TCP", "127.0.0.1", 5672)
        one, two = factory.buildProtocol(address), factory.buildProtocol(None)
        self.assertIsInstance(one, AMQPProtocol)
        self.assertIsNot(one, two)
        self.assertIs(one.parameters, parameters)
        self.assertIs(one.factory, factory)
        self.assertIs(one.reactor, clock)
        self.assertIsNot(one.when_open(), two.when_open())

    def test_defaults(self) -> None:
        """
        By default the user is guest, and the clock is the global reactor.
        """
        from twisted.internet import reactor

        factory = AMQPClientFactory()
        self.assertEqual(factory.parameters, ConnectionParameters())
        self.assertIs(factory.clock, reactor)

    def test_endpoint(self) -> None:
        """
        Any endpoint will do: it gives a protocol that is connected, and `when_open`
        tells when AMQP is.
        """
        reactor = MemoryReactorClock()
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", 5672)
        connecting = endpoint.connect(AMQPClientFactory(clock=reactor))
        host, port, wrapping, _, _ = reactor.tcpClients[0]
        self.assertEqual((host, port), ("127.0.0.1", 5672))
        transport = Transport(reactor)
        outer: Any = wrapping.buildProtocol(IPv4Address("TCP", host, port))
        transport.protocol = outer
        outer.makeConnection(transport)
        client = self.successResultOf(connecting)
        assert isinstance(client, AMQPProtocol)
        opening = client.when_open()
        self.assertNoResult(opening)
        self.assertEqual(transport.writes, [b"AMQP\0\0\x09\x01"])
        closing = client.close()
        reactor.advance(0)
        self.successResultOf(closing)
        self.failureResultOf(opening, ConnectionClosed)
        self.assertEqual(reactor.getDelayedCalls(), [])
