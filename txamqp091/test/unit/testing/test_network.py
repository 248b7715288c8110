# -*- test-case-name: txamqp091.test.unit.testing.test_network -*-
"""
Tests for `txamqp091.testing.network`: what a link does to bytes, and says of it.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.interfaces import (
    IConsumer,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txamqp091.testing.network import Direction, Link, MemoryEndpoint, MemoryTransport


class Recorder(Protocol):
    """
    Keeps what it gets.
    """

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.ended: Failure | None = None
        self.fails = False

    def dataReceived(self, data: bytes) -> None:
        if self.fails:
            raise ValueError("a bug")
        self.got.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert self.ended is None, "told twice"
        self.ended = reason


@implementer(IPushProducer)
class Producer:
    """
    Notes what it is asked to do.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []

    def pauseProducing(self) -> None:
        self.asked.append("pause")

    def resumeProducing(self) -> None:
        self.asked.append("resume")

    def stopProducing(self) -> None:
        self.asked.append("stop")


class NetworkCase(SynchronousTestCase):
    """
    A link with something at each end.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.client, self.server = Recorder(), Recorder()
        clock = cast(IReactorTime, self.clock)
        self.link = Link(clock, self.client, self.server)
        self.addCleanup(self.check)

    def check(self) -> None:
        """
        Nothing is left to be done.
        """
        self.link.cut()
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def transport(self, protocol: Recorder) -> MemoryTransport:
        """
        What a protocol has for its transport.
        """
        return cast(MemoryTransport, protocol.transport)

    def said(self, protocol: Recorder) -> bytes:
        """
        What a protocol has got.
        """
        return b"".join(protocol.got)


class MovingTests(NetworkCase):
    """
    Bytes move when the clock lets them.
    """

    def test_turns(self) -> None:
        """
        What is written in one turn arrives in the next, as one piece, in order.
        """
        self.transport(self.client).write(b"a")
        self.transport(self.client).writeSequence([b"b", b"c"])
        self.assertEqual(self.server.got, [])
        self.clock.advance(0)
        self.assertEqual(self.server.got, [b"abc"])
        self.transport(self.server).write(b"d")
        self.clock.advance(0)
        self.assertEqual(self.client.got, [b"d"])
        self.assertEqual(self.link.moved, {Direction.UP: 3, Direction.DOWN: 1})

    def test_chunks(self) -> None:
        """
        They can move a few at a time.
        """
        self.link.chunk = 2
        self.transport(self.client).write(b"abcde")
        for _ in range(3):
            self.clock.advance(0)
        self.assertEqual(self.server.got, [b"ab", b"cd", b"e"])

    def test_delay(self) -> None:
        """
        They can be late.
        """
        self.link.delay = 2.0
        self.transport(self.client).write(b"a")
        self.clock.advance(1.9)
        self.assertEqual(self.server.got, [])
        self.clock.advance(0.1)
        self.assertEqual(self.server.got, [b"a"])

    def test_hole(self) -> None:
        """
        One direction can be stopped, and what was held back comes when it heals.
        """
        self.link.hole(Direction.UP)
        self.transport(self.client).write(b"a")
        self.transport(self.server).write(b"b")
        self.clock.advance(0)
        self.assertEqual((self.server.got, self.client.got), ([], [b"b"]))
        self.link.heal()
        self.clock.advance(0)
        self.assertEqual(self.server.got, [b"a"])

    def test_not_reading(self) -> None:
        """
        A protocol that pauses its transport gets nothing until it resumes.
        """
        self.transport(self.server).pauseProducing()
        self.transport(self.client).write(b"a")
        self.clock.advance(0)
        self.assertEqual(self.server.got, [])
        self.transport(self.server).resumeProducing()
        self.clock.advance(0)
        self.assertEqual(self.server.got, [b"a"])

    def test_producer(self) -> None:
        """
        Who writes more than the link holds is paused, and resumed when all has moved.
        """
        producer = Producer()
        transport = self.transport(self.client)
        transport.registerProducer(producer, True)
        transport.write(bytes(65536))
        self.assertEqual(producer.asked, [])
        transport.write(b"x")
        transport.write(b"y")
        self.assertEqual(producer.asked, ["pause"])
        self.clock.advance(0)
        self.assertEqual(producer.asked, ["pause", "resume"])
        transport.unregisterProducer()
        transport.write(bytes(65537))
        self.assertEqual(producer.asked, ["pause", "resume"])


class EndTests(NetworkCase):
    """
    However a link ends, both ends hear of it, once.
    """

    def test_lose(self) -> None:
        """
        What was written before the connection is closed still arrives.
        """
        self.transport(self.client).write(b"last")
        self.transport(self.client).loseConnection()
        self.transport(self.client).write(b"too late")
        self.clock.pump([0, 0, 0])
        self.assertEqual(self.said(self.server), b"last")
        for each in (self.client, self.server):
            assert each.ended is not None
            each.ended.trap(ConnectionDone)
        self.assertFalse(self.link.is_up)

    def test_abort(self) -> None:
        """
        When it is aborted, it does not.
        """
        self.transport(self.client).write(b"lost")
        self.transport(self.client).abortConnection()
        self.transport(self.client).abortConnection()
        self.clock.pump([0, 0])
        self.assertEqual(self.server.got, [])
        assert self.client.ended is not None and self.server.ended is not None
        self.client.ended.trap(ConnectionAborted)
        self.server.ended.trap(ConnectionLost)

    def test_cut_after(self) -> None:
        """
        The connection can break after a certain byte, in the middle of what was said.
        """
        self.link.cut_after[Direction.DOWN] = 4
        self.transport(self.server).write(b"abc")
        self.clock.advance(0)
        self.assertTrue(self.link.is_up)
        self.transport(self.server).write(b"def")
        self.clock.pump([0, 0])
        self.assertEqual(self.said(self.client), b"abcd")
        for each in (self.client, self.server):
            assert each.ended is not None
            each.ended.trap(ConnectionLost)

    def test_failing(self) -> None:
        """
        A protocol that raises is logged, and its connection dropped.
        """
        self.server.fails = True
        self.transport(self.client).write(b"a")
        self.clock.pump([0, 0])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertIsNotNone(self.client.ended)


class EndpointTests(SynchronousTestCase):
    """
    Connecting.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        factory = cast(IProtocolFactory, Factory.forProtocol(Recorder))
        self.factory = factory
        self.endpoint = MemoryEndpoint(cast(IReactorTime, self.clock), factory)

    def test_interfaces(self) -> None:
        """
        It is an endpoint, and makes transports.
        """
        verifyObject(IStreamClientEndpoint, self.endpoint)
        client = self.successResultOf(self.endpoint.connect(self.factory))
        transport = cast(Recorder, client).transport
        for interface in (ITransport, IConsumer, IPushProducer):
            verifyObject(interface, transport)
        assert transport is not None
        self.assertEqual(cast(IPv4Address, transport.getPeer()).port, 5672)
        self.assertEqual(cast(IPv4Address, transport.getHost()).host, "127.0.0.1")

    def test_links(self) -> None:
        """
        Each connection is a link, the last one last.
        """
        clients: list[Deferred[object]] = [
            cast("Deferred[object]", self.endpoint.connect(self.factory))
            for _ in range(2)
        ]
        self.assertEqual(
            [link.client.protocol for link in self.endpoint.links],
            [self.successResultOf(each) for each in clients],
        )

    def test_refusing(self) -> None:
        """
        It can refuse.
        """
        self.endpoint.refusing = True
        connecting = self.endpoint.connect(self.factory)
        self.failureResultOf(connecting, ConnectionRefusedError)
        self.assertEqual(self.endpoint.links, [])

    def test_connections_to_come(self) -> None:
        """
        What a connection is to suffer from its first byte on is said beforehand.
        """
        self.endpoint.chunk = 2
        self.endpoint.delay = 1.0
        self.endpoint.cut_after = {Direction.UP: 3}
        client = cast(Recorder, self.successResultOf(self.connect()))
        [link] = self.endpoint.links
        cast(MemoryTransport, client.transport).write(b"abcd")
        self.clock.pump([0, 1])
        self.assertEqual(link.moved[Direction.UP], 2)
        self.clock.pump([1, 0])
        self.assertEqual(link.moved[Direction.UP], 3)
        self.assertFalse(link.is_up)

    def test_cut(self) -> None:
        """
        All connections can be broken at once.
        """
        clients = [self.successResultOf(self.connect()) for _ in range(2)]
        self.endpoint.cut()
        self.clock.advance(0)
        for client in clients:
            self.assertIsNotNone(cast(Recorder, client).ended)

    def connect(self) -> Deferred[object]:
        """
        Connect.
        """
        return cast("Deferred[object]", self.endpoint.connect(self.factory))
