# -*- test-case-name: txamqp091.test.unit.client.test_protocol -*-
"""
The other end of a connection, in memory, driven by a ``Clock``.

A `Peer` is the broker as the client sees it: bytes.  It says what a test wants it to
say, and keeps what the client said, as methods and messages::

    peer = Peer(self)
    peer.handshake()
    channel = peer.open_channel()
    declared = channel.queue_declare("work")
    self.assertEqual(peer.expect(QueueDeclare).queue, "work")
    peer.send(1, QueueDeclareOk("work", 3, 0))
    self.assertEqual(self.successResultOf(declared).message_count, 3)

When the test ends, the connection is dropped, and must leave nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack_from
from typing import TypeVar

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.channel import Channel
from txamqp091.factory import AMQPClientFactory
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.scripted import CAPABILITIES, answer
from txamqp091.wire import spec
from txamqp091.wire.frames import HEARTBEAT, content_frames, method_frame
from txamqp091.wire.method import Method, decode_method
from txamqp091.wire.properties import EMPTY, Properties

__all__ = ["Peer", "Said", "Transport"]

M = TypeVar("M", bound=Method)


@dataclass
class Said:
    """
    Something that the client said: a method, with its content if it has one.
    """

    channel: int
    method: Method
    properties: Properties = EMPTY
    body: bytes = b""


class Transport(StringTransport):
    """
    A transport in memory.  What it is asked to end, it ends in the next turn.

    :ivar ended: ``"lost"`` or ``"aborted"`` once it was asked to end.
    :ivar capacity: how many bytes it takes before its producer is paused; they leave
        when the peer reads them.
    """

    def __init__(self, clock: Clock, address: str = "127.0.0.1") -> None:
        super().__init__(peerAddress=IPv4Address("TCP", address, 5672))
        self.clock = clock
        self.protocol: AMQPProtocol
        self.ended = ""
        self.capacity = 1 << 30
        self.held = 0
        self.writes: list[bytes] = []
        self._ending: IDelayedCall | None = None

    def write(self, data: bytes) -> None:
        """
        Twisted: send bytes.
        """
        if self.ended:
            return
        self.writes.append(data)
        self.held += len(data)
        if self.held > self.capacity and self.producer is not None:
            self.producer.pauseProducing()

    def loseConnection(self) -> None:
        """
        Twisted: end, when all has been sent.
        """
        self._end("lost", ConnectionDone())

    def abortConnection(self) -> None:
        """
        Twisted: end now.
        """
        self._end("aborted", ConnectionAborted())

    def _end(self, how: str, why: Exception) -> None:
        if not self.ended:
            self.disconnecting = True
            self.ended = how
            self._ending = self.clock.callLater(0, self.drop, why)

    def drop(self, why: Exception) -> None:
        """
        The connection has ended: tell the protocol, once.
        """
        if self.connected:
            self.connected = False
            self.ended = self.ended or "dropped"
            if self._ending is not None and self._ending.active():
                self._ending.cancel()
            self.protocol.connectionLost(Failure(why))


class Peer:
    """
    A broker that says what a test tells it to.

    :ivar client: the connection under test.
    :ivar said: what the client has said and no `expect` has taken.
    :ivar fed: all that the peer has said, as bytes.
    :ivar virtual_host: what the client has asked for.
    """

    def __init__(
        self,
        case: SynchronousTestCase,
        parameters: ConnectionParameters | None = None,
        *,
        address: str = "127.0.0.1",
        transport: type[Transport] = Transport,
        cleanup: bool = True,
    ) -> None:
        """
        :param transport: what makes the transport.
        :param cleanup: whether the connection is dropped when the test ends.
        """
        self.case = case
        self.clock = Clock()
        self.transport = transport(self.clock, address)
        self.client: AMQPProtocol = AMQPClientFactory(
            parameters, clock=self.clock
        ).buildProtocol(None)
        self.transport.protocol = self.client
        self.said: list[Said] = []
        self.fed = b""
        self.virtual_host = ""
        self.heartbeats = 0
        self._read = 0
        self._buffer = b""
        self._content: Said | None = None
        self._missing = 0
        self._greeted = False
        if cleanup:
            case.addCleanup(self._finish)
        self.client.makeConnection(self.transport)

    def _finish(self) -> None:
        self.drop()
        left = self.clock.getDelayedCalls()
        self.case.assertEqual(left, [], "delayed calls outlive the connection")

    # -- time and transport --------------------------------------------------------

    def turn(self) -> None:
        """
        Let one turn of the reactor pass.
        """
        self.clock.advance(0)

    def drop(self, why: Exception | None = None) -> None:
        """
        The transport goes, without a word.
        """
        self.turn()
        self.transport.drop(ConnectionLost() if why is None else why)
        self.turn()

    def drain(self) -> None:
        """
        Read what the transport holds, so that it has room again.
        """
        self.turn()
        self.transport.held = 0
        if self.transport.producer is not None:
            self.transport.producer.resumeProducing()
        self.turn()

    # -- what the peer says --------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """
        Send bytes to the client.
        """
        if self.transport.connected:
            self.fed += data
            self.client.dataReceived(data)

    def send(self, channel: int, *methods: Method) -> None:
        """
        Send methods.
        """
        self.feed(b"".join(method_frame(channel, each.encode()) for each in methods))

    def content(
        self,
        channel: int,
        method: Method,
        body: bytes = b"",
        properties: Properties = EMPTY,
        max_payload: int = 131064,
    ) -> bytes:
        """
        The frames of a method with content.
        """
        frame = method_frame(channel, method.encode())
        return b"".join(
            content_frames(channel, frame, properties.encode(), body, max_payload)
        )

    def deliver(
        self,
        channel: int,
        consumer_tag: str,
        delivery_tag: int,
        body: bytes = b"",
        properties: Properties = EMPTY,
        *,
        redelivered: bool = False,
        exchange: str = "",
        routing_key: str = "work",
    ) -> None:
        """
        Deliver a message.
        """
        method = spec.BasicDeliver(
            consumer_tag, delivery_tag, redelivered, exchange, routing_key
        )
        self.feed(self.content(channel, method, body, properties))

    def heartbeat(self) -> None:
        """
        Send a heartbeat.
        """
        self.feed(HEARTBEAT)

    # -- what the client says ------------------------------------------------------

    def listen(self) -> list[Said]:
        """
        Take in what the client has written by now.
        """
        self.turn()
        data = b"".join(self.transport.writes[self._read :])
        self._read = len(self.transport.writes)
        self._buffer += data
        if not self._greeted and len(self._buffer) >= 8:
            self.case.assertEqual(self._buffer[:8], spec.PROTOCOL_HEADER)
            self._buffer = self._buffer[8:]
            self._greeted = True
        while self._greeted and len(self._buffer) >= 8:
            kind, channel, size = unpack_from(">BHI", self._buffer)
            if len(self._buffer) < size + 8:
                break
            payload = self._buffer[7 : 7 + size]
            self.case.assertEqual(self._buffer[7 + size], spec.FRAME_END)
            self._buffer = self._buffer[8 + size :]
            self._frame(kind, channel, payload)
        return self.said

    def _frame(self, kind: int, channel: int, payload: bytes) -> None:
        if kind == spec.FRAME_HEARTBEAT:
            self.heartbeats += 1
        elif kind == spec.FRAME_METHOD:
            said = Said(channel, decode_method(payload))
            if said.method.content:
                self._content = said
            else:
                self.said.append(said)
        else:
            said = self._content or Said(channel, Method())
            self.case.assertEqual(said.channel, channel)
            if kind == spec.FRAME_HEADER:
                self._missing = unpack_from(">Q", payload, 4)[0]
                said.properties = Properties.from_wire(payload[12:])
            else:
                said.body += payload
                self._missing -= len(payload)
            if not self._missing:
                self.said.append(said)
                self._content = None

    def expect(self, kind: type[M]) -> M:
        """
        The next thing that the client said, which must be such a method.
        """
        said = self.hear()
        self.case.assertIsInstance(said.method, kind)
        assert isinstance(said.method, kind)
        return said.method

    def hear(self) -> Said:
        """
        The next thing that the client said, whatever it is.
        """
        self.case.assertTrue(self.listen(), "the client has said nothing")
        return self.said.pop(0)

    def serve(self) -> list[Method]:
        """
        Agree with all that the client has asked for, until it asks for nothing more;
        and tell what that was.
        """
        heard: list[Method] = []
        while self.listen():
            said = self.said.pop(0)
            heard.append(said.method)
            reply = answer(said.method)
            if reply is not None:
                self.send(said.channel, reply)
        return heard

    # -- conversations -------------------------------------------------------------

    def start(self, mechanisms: bytes = b"PLAIN AMQPLAIN", **fields: object) -> None:
        """
        Introduce the broker.
        """
        self.listen()
        properties = {"product": "Peer", "capabilities": dict(CAPABILITIES)}
        self.send(
            0,
            spec.ConnectionStart(
                **{  # type: ignore[arg-type]
                    "version_major": 0,
                    "version_minor": 9,
                    "server_properties": properties,
                    "mechanisms": mechanisms,
                    "locales": b"en_US",
                    **fields,
                }
            ),
        )

    def log_in(
        self, mechanisms: bytes = b"PLAIN AMQPLAIN", **fields: object
    ) -> spec.ConnectionStartOk:
        """
        Introduce the broker, and have the client introduce itself.
        """
        self.start(mechanisms, **fields)
        return self.expect(spec.ConnectionStartOk)

    def tune(
        self, channel_max: int = 2047, frame_max: int = 131072, heartbeat: int = 60
    ) -> spec.ConnectionTuneOk:
        """
        Take the login, and have the client ask for its virtual host.
        """
        self.send(0, spec.ConnectionTune(channel_max, frame_max, heartbeat))
        tuned = self.expect(spec.ConnectionTuneOk)
        self.virtual_host = self.expect(spec.ConnectionOpen).virtual_host
        return tuned

    def handshake(
        self, channel_max: int = 2047, frame_max: int = 131072, heartbeat: int = 60
    ) -> AMQPProtocol:
        """
        Go through a whole handshake.
        """
        self.log_in()
        self.tune(channel_max, frame_max, heartbeat)
        self.send(0, spec.ConnectionOpenOk())
        self.case.assertTrue(self.client.is_open)
        return self.client

    def open_channel(self) -> Channel:
        """
        Have the client open a channel.
        """
        self.listen()
        place = len(self.said)
        opening: Deferred[Channel] = self.client.open_channel()
        said = self.listen().pop(place)
        self.case.assertEqual(said.method, spec.ChannelOpen())
        self.send(said.channel, spec.ChannelOpenOk())
        return self.case.successResultOf(opening)
