# -*- test-case-name: txamqp091.test.unit.testing.test_network -*-
"""
A network in memory: transports that are joined, and misbehave on demand.

A `Link` joins two protocols.  Bytes move from one to the other in turns of a clock:
with a ``task.Clock``, only when the test lets time pass; with the reactor, by
themselves.  What a network can do to bytes, a link can be told to do: move them a few
at a time, late, in one direction only, or up to a certain byte and no further.
"""

from __future__ import annotations

import enum
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
)
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = ["Direction", "Link", "MemoryEndpoint", "MemoryTransport"]

#: Bytes that wait to be moved before their producer is asked to pause.
_HIGH = 65536


class Direction(enum.Enum):
    """
    Which way bytes go.
    """

    UP = "client to server"
    DOWN = "server to client"


@implementer(ITransport, IConsumer, IPushProducer)
class MemoryTransport:
    """
    One end of a `Link`: what a protocol takes for its transport.
    """

    disconnecting = False

    def __init__(self, link: Link, direction: Direction, address: IAddress) -> None:
        self.protocol: Protocol
        self.other: MemoryTransport
        self.direction = direction
        self.connected = True
        self.reading = True
        self.buffer = bytearray()
        self.producer: Any = None
        self.call: IDelayedCall | None = None
        self._link = link
        self._address = address
        self._paused = False

    def write(self, data: bytes) -> None:
        """
        See ``ITransport``.
        """
        if self.connected and not self.disconnecting and data:
            self.buffer += data
            self._link.schedule(self)
            if (
                len(self.buffer) > _HIGH
                and self.producer is not None
                and not self._paused
            ):
                self._paused = True
                self.producer.pauseProducing()

    def writeSequence(self, iovec: Any) -> None:
        """
        See ``ITransport``.
        """
        self.write(b"".join(iovec))

    def drained(self) -> None:
        """
        All that was written has moved.
        """
        if self._paused and self.producer is not None:
            self._paused = False
            self.producer.resumeProducing()

    def loseConnection(self, _connDone: object = None) -> None:
        """
        See ``ITransport``.
        """
        if self.connected:
            self.disconnecting = True
            self._link.schedule(self)

    def abortConnection(self) -> None:
        """
        See ``ITCPTransport``.
        """
        if self.connected:
            self.buffer.clear()
            self._link.end(self, ConnectionAborted(), ConnectionLost())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        See ``IConsumer``.
        """
        self.producer = producer

    def unregisterProducer(self) -> None:
        """
        See ``IConsumer``.
        """
        self.producer = None
        self._paused = False

    def pauseProducing(self) -> None:
        """
        See ``IPushProducer``: nothing more is read.
        """
        self.reading = False

    def resumeProducing(self) -> None:
        """
        See ``IPushProducer``.
        """
        self.reading = True
        self._link.schedule(self.other)

    def stopProducing(self) -> None:
        """
        See ``IPushProducer``.
        """
        self.loseConnection()

    def getPeer(self) -> IAddress:
        """
        See ``ITransport``.
        """
        return self.other._address

    def getHost(self) -> IAddress:
        """
        See ``ITransport``.
        """
        return self._address


class Link:
    """
    A connection in memory.

    :ivar chunk: how many bytes move at a time; 0 is all.
    :ivar delay: how many seconds bytes take.
    :ivar moved: how many bytes have moved, by direction.
    :ivar cut_after: by direction, after how many bytes the connection breaks.
    :ivar is_up: whether the two ends are connected.
    """

    _log = Logger(namespace="txamqp091.testing")

    def __init__(
        self, clock: IReactorTime, client: Protocol, server: Protocol, number: int = 1
    ) -> None:
        """
        Join two protocols; both are told, the server first.
        """
        self.chunk = 0
        self.delay = 0.0
        self.moved = dict.fromkeys(Direction, 0)
        self.cut_after: dict[Direction, int] = {}
        self.is_up = True
        self._holes: set[Direction] = set()
        self._clock = clock
        self.client = MemoryTransport(
            self, Direction.UP, IPv4Address("TCP", "127.0.0.1", 40000 + number)
        )
        self.server = MemoryTransport(
            self, Direction.DOWN, IPv4Address("TCP", "127.0.0.1", 5672)
        )
        self.client.other, self.server.other = self.server, self.client
        self.client.protocol, self.server.protocol = client, server
        for transport in (self.server, self.client):
            transport.protocol.makeConnection(cast(ITransport, transport))

    # -- faults --------------------------------------------------------------------

    def hole(self, *directions: Direction) -> None:
        """
        Move nothing any more, in one direction or both, and tell nobody.
        """
        self._holes.update(directions or Direction)

    def heal(self) -> None:
        """
        Move bytes again, first of all those that were held back.
        """
        self._holes.clear()
        for transport in (self.client, self.server):
            self.schedule(transport)

    def cut(self) -> None:
        """
        Break the connection now; what has not moved is lost.
        """
        for transport in (self.client, self.server):
            transport.buffer.clear()
        self.end(self.client, ConnectionLost(), ConnectionLost())

    # -- moving --------------------------------------------------------------------

    def schedule(self, transport: MemoryTransport) -> None:
        """
        Have what a transport has to say move, in a turn of its own.
        """
        if self.is_up and transport.call is None:
            transport.call = self._clock.callLater(self.delay, self._move, transport)

    def _move(self, transport: MemoryTransport) -> None:
        transport.call = None
        direction, buffer = transport.direction, transport.buffer
        if direction in self._holes or not transport.other.reading:
            return
        size = min(self.chunk or len(buffer), len(buffer))
        last = self.cut_after.get(direction)
        if last is not None:
            size = min(size, last - self.moved[direction])
        data = bytes(buffer[:size])
        del buffer[:size]
        self.moved[direction] += size
        if data:
            self._deliver(transport.other, data)
        if not self.is_up:
            return
        if last is not None and self.moved[direction] >= last:
            self.cut()
        elif buffer:
            self.schedule(transport)
        else:
            transport.drained()
            if transport.disconnecting and not transport.buffer:
                self.end(transport, ConnectionDone(), ConnectionDone())

    def _deliver(self, transport: MemoryTransport, data: bytes) -> None:
        try:
            transport.protocol.dataReceived(data)
        except Exception:
            # As a reactor does with a protocol that fails.
            self._log.failure("A protocol failed, and its connection is dropped")
            self.cut()

    def end(
        self, transport: MemoryTransport, ours: Exception, theirs: Exception
    ) -> None:
        """
        Both ends learn that the connection is over, in a turn of its own.
        """
        if self.is_up:
            self.is_up = False
            for each in (self.client, self.server):
                each.disconnecting = True
                if each.call is not None:
                    each.call.cancel()
                    each.call = None
            self._clock.callLater(0, self._tell, transport, ours)
            self._clock.callLater(0, self._tell, transport.other, theirs)

    def _tell(self, transport: MemoryTransport, why: Exception) -> None:
        transport.connected = False
        transport.protocol.connectionLost(Failure(why))


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """
    Where clients connect to in memory.

    :ivar links: every connection that was made, the last one last.
    :ivar refusing: whether new connections are refused.
    :ivar chunk: `Link.chunk` of the connections to come.
    :ivar delay: `Link.delay` of the connections to come.
    :ivar cut_after: `Link.cut_after` of the connections to come.
    """

    def __init__(self, clock: IReactorTime, factory: IProtocolFactory) -> None:
        """
        :param factory: makes the server's protocols.
        """
        self.links: list[Link] = []
        self.refusing = False
        self.chunk = 0
        self.delay = 0.0
        self.cut_after: dict[Direction, int] = {}
        self._clock = clock
        self._factory = factory

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        See ``IStreamClientEndpoint``.
        """
        if self.refusing:
            return fail(ConnectionRefusedError())
        address = IPv4Address("TCP", "127.0.0.1", 5672)
        client = protocolFactory.buildProtocol(address)
        server = self._factory.buildProtocol(address)
        if client is None or server is None:
            return fail(ConnectionRefusedError())
        number = len(self.links) + 1
        link = Link(self._clock, cast(Protocol, client), cast(Protocol, server), number)
        # In time: nothing moves before the next turn.
        link.chunk, link.delay = self.chunk, self.delay
        link.cut_after = dict(self.cut_after)
        self.links.append(link)
        return succeed(client)

    def cut(self) -> None:
        """
        Break every connection now.
        """
        for link in self.links:
            link.cut()
