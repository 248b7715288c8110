# -*- test-case-name: txamqp091.test.unit.client.test_protocol -*-
"""
Tests for what else `txamqp091.protocol` does: opening channels, and how it shows.

Its other sides are in `test_handshake`, `test_heartbeats`, `test_closing`,
`test_blocked`, `test_backpressure`, `test_silence`, `test_cuts` and `test_secrets`.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHandshakeListener, IProtocol, ITCPTransport
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from txamqp091 import errors
from txamqp091._timers import ReadPauses
from txamqp091.endpoint import connect
from txamqp091.message import Settler
from txamqp091.parameters import ConnectionParameters
from txamqp091.test.support.peer import Peer
from txamqp091.testing._broker.protocol import BrokerFactory
from txamqp091.testing.memory import MemoryBroker
from txamqp091.testing.network import Direction
from txamqp091.wire import spec
from txamqp091.wire.method import Method


class ShowTests(SynchronousTestCase):
    """
    How a connection shows.
    """

    def test_interfaces(self) -> None:
        """
        It is a protocol that is told of the TLS handshake.
        """
        client = Peer(self).client
        verifyObject(IProtocol, client)
        verifyObject(IHandshakeListener, client)

    def test_repr(self) -> None:
        """
        Its name, the host and the state are in its repr.
        """
        peer = Peer(self, ConnectionParameters(host="rabbit", name="billing"))
        self.assertEqual(
            repr(peer.client), "<AMQPProtocol 'billing' to rabbit, greeted>"
        )
        peer.handshake()
        self.assertIn("to rabbit, open>", repr(peer.client))
        peer.drop()
        self.assertIn("to rabbit, closed>", repr(peer.client))
        peer = Peer(self)
        peer.handshake().close()
        self.assertIn("closing>", repr(peer.client))
        peer.drop()
        self.assertIn("closed>", repr(peer.client))
        self.assertEqual(
            repr(Peer(self).client), "<AMQPProtocol to localhost, greeted>"
        )

    def test_is_open(self) -> None:
        """
        It is open from open-ok until its end has begun.
        """
        peer = Peer(self)
        self.assertFalse(peer.client.is_open)
        peer.handshake()
        self.assertTrue(peer.client.is_open)
        peer.client.close()
        self.assertFalse(peer.client.is_open)

    def test_close_reason(self) -> None:
        """
        It tells why it has ended, from the moment that its end has begun.
        """
        peer = Peer(self)
        self.assertIsNone(peer.handshake().close_reason)
        peer.client.close(320, "maintenance")
        self.assertEqual(str(peer.client.close_reason), "320 maintenance")
        lost = Peer(self)
        lost.handshake()
        lost.drop()
        self.assertIsInstance(lost.client.close_reason, errors.ConnectionLost)


class CountTests(SynchronousTestCase):
    """
    What a connection counts.
    """

    def test_bytes(self) -> None:
        """
        It counts what comes and what goes, from the first byte on, and tells when it
        last heard the broker.
        """
        clock = Clock()
        reactor: Any = clock
        broker = MemoryBroker(reactor)
        endpoint = broker.endpoint()
        connecting = connect(reactor, ConnectionParameters(), endpoint=endpoint)
        clock.pump([0] * 50)
        connection = self.successResultOf(connecting)
        [link] = endpoint.links
        sizes = link.moved[Direction.DOWN], link.moved[Direction.UP]
        self.assertEqual((connection.bytes_received, connection.bytes_sent), sizes)
        self.assertEqual(connection.heard_at, clock.seconds())
        for _ in range(31):
            clock.advance(1)
            clock.pump([0] * 5)
        heard_at = connection.heard_at
        assert heard_at is not None
        self.assertEqual(heard_at, 30)
        self.assertGreater(connection.bytes_sent, sizes[1])
        closing = connection.close()
        clock.pump([0] * 50)
        self.successResultOf(closing)
        self.assertIsNone(Peer(self).client.heard_at)


class OpenChannelTests(SynchronousTestCase):
    """
    `AMQPProtocol.open_channel`.
    """

    def setUp(self) -> None:
        self.peer = Peer(self)
        self.client = self.peer.handshake(channel_max=3)

    def test_open(self) -> None:
        """
        Channels are opened without waiting for one another, and numbered.
        """
        opening = [self.client.open_channel() for _ in range(3)]
        self.assertEqual(self.peer.serve(), [spec.ChannelOpen()] * 3)
        channels = [self.successResultOf(each) for each in opening]
        self.assertEqual([each.number for each in channels], [1, 2, 3])
        for each in channels:
            self.assertTrue(each.is_open)
            self.assertIs(each.connection, self.client)

    def test_exhausted(self) -> None:
        """
        When there are no more, that is told by the Deferred; a channel that ends
        makes room, and its number is used again.
        """
        first = [self.peer.open_channel() for _ in range(3)][0]
        error = self.failureResultOf(
            self.client.open_channel(), errors.ChannelsExhausted
        ).value
        self.assertIn("all 3 channels", str(error))
        self.assertTrue(error.retriable)
        closing = first.close()
        self.failureResultOf(self.client.open_channel(), errors.ChannelsExhausted)
        self.peer.serve()
        self.successResultOf(closing)
        self.assertEqual(self.peer.open_channel().number, 1)

    def test_refused(self) -> None:
        """
        A broker that refuses a channel says why, and the others live on.
        """
        other = self.peer.open_channel()
        opening = self.client.open_channel()
        self.peer.send(2, spec.ChannelClose(506, "RESOURCE_ERROR", 20, 10))
        error = self.failureResultOf(opening, errors.ChannelClosed).value
        self.assertEqual((error.reply_code, error.operation), (506, "channel.open"))
        self.assertTrue(other.is_open)
        self.assertEqual(self.peer.listen()[-1].method, spec.ChannelCloseOk())

    def test_settler(self) -> None:
        """
        An adapter can bring the object that sends the settlements of a channel.
        """
        settled = []

        class Recorder(Settler):
            def send(self, method: type[Method], delivery_tag: int, bits: int) -> None:
                settled.append((method, delivery_tag))

        opening = self.client.open_channel(settler=Recorder)
        self.peer.serve()
        channel = self.successResultOf(opening)
        self.assertIsInstance(channel.settler, Recorder)
        channel.basic_consume("work", lambda delivery: delivery.ack(), consumer_tag="c")
        self.peer.serve()
        self.peer.deliver(1, "c", 1)
        self.assertEqual(settled, [(spec.BasicAck, 1)])
        self.assertEqual(self.peer.listen(), [])

    def test_cancel(self) -> None:
        """
        Given up, it is closed again when it has been opened.
        """
        opening = self.client.open_channel()
        opening.cancel()
        self.failureResultOf(opening, CancelledError)
        self.assertEqual(
            [each.name for each in self.peer.serve()],
            ["channel.open", "channel.close"],
        )
        self.assertEqual(len(self.client._machine._channels), 0)

    def test_cancel_and_lost(self) -> None:
        """
        Given up and lost, it is told once.
        """
        opening = self.client.open_channel()
        opening.cancel()
        self.failureResultOf(opening, CancelledError)
        self.peer.drop()
        self.failureResultOf(self.client.when_closed(), errors.ConnectionLost)

    def test_many(self) -> None:
        """
        Opening and closing leaves nothing behind.
        """
        for _ in range(1000):
            closing = self.peer.open_channel().close()
            self.peer.serve()
            self.successResultOf(closing)
        self.assertEqual(len(self.client._machine._channels), 0)
        self.assertEqual(len(self.client._machine._routes), 1)


class ForkTests(SynchronousTestCase):
    """
    A process that is forked.
    """

    def in_child(self, calls: Callable[[], list[Deferred[Any]]]) -> list[str]:
        """
        Make calls in a child of this process, and tell what they failed with.
        """
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                outcomes: list[Any] = []
                for each in calls():
                    each.addErrback(lambda failure: str(failure.value))
                    each.addCallback(outcomes.append)
                os.write(writing, repr(outcomes).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        outcomes = ast.literal_eval(said.decode())
        assert isinstance(outcomes, list)
        return outcomes

    def test_child(self) -> None:
        """
        The connection is the parent's.  In the child each call fails at once, closing
        is harmless, and nothing is sent; in the parent, nothing has happened.
        """
        if not hasattr(os, "fork"):
            self.skipTest("there is no fork")
        peer = Peer(self)
        peer.handshake()
        client, channel = peer.client, peer.open_channel()
        sent = len(peer.transport.writes)

        def calls() -> list[Deferred[Any]]:
            answers: list[Deferred[Any]] = [
                channel.queue_declare("work"),
                channel.basic_publish("", "work", "x"),
                channel.basic_consume("work", print),
                channel.when_closed(),
                client.open_channel(),
                client.update_secret("secret"),
                client.when_closed(),
                channel.close(),
                client.close(),
            ]
            cast(Clock, client.reactor).advance(1000)
            assert len(peer.transport.writes) == sent
            return answers

        outcomes = self.in_child(calls)
        self.assertEqual(len(outcomes), 9)
        for each in outcomes[:7]:
            self.assertIn("belongs to the parent", each)
        self.assertEqual(outcomes[7:], [None, None])
        declared = channel.queue_declare("work")
        peer.serve()
        self.assertEqual(self.successResultOf(declared).queue, "work")


class ReadPauseTests(SynchronousTestCase):
    """
    Small pieces that come fast are read less often.
    """

    pause = ConnectionParameters.read_pause

    def setUp(self) -> None:
        self.peer = peer = Peer(self)
        peer.handshake()
        self.client, self.clock = peer.client, peer.clock
        self.channel = peer.open_channel()
        # As for a transport of TCP.
        self.client._read_pauses = ReadPauses(
            self.clock,
            self.pause,
            self.client._pause_reads,
            self.client._resume_reads,
        )
        self.seen: list[bytes] = []
        self.channel.basic_consume(
            "work", lambda delivery: self.seen.append(delivery.body), auto_ack=True
        )
        peer.serve()
        self.clock.advance(1)

    def deliver(self, size: int = 100) -> None:
        """
        A message comes.
        """
        self.peer.deliver(1, "ctag-1.1", 1, bytes(size))

    @property
    def paused(self) -> bool:
        """
        Whether nothing is read.
        """
        return self.peer.transport.producerState == "paused"

    def test_pause(self) -> None:
        """
        After two reads that come soon after one another there is a pause; afterwards
        all goes on.
        """
        self.deliver()
        self.assertFalse(self.paused)
        self.deliver()
        self.assertTrue(self.paused)
        self.clock.advance(self.pause)
        self.assertFalse(self.paused)
        self.assertEqual(self.clock.getDelayedCalls()[2:], [])
        self.clock.advance(2 * self.pause)
        self.deliver()
        self.assertFalse(self.paused)
        self.assertEqual(len(self.seen), 3)

    def test_large(self) -> None:
        """
        There is none after a large read.
        """
        self.deliver()
        self.deliver(16384)
        self.assertFalse(self.paused)

    def test_answers_due(self) -> None:
        """
        There is none while an answer is due.
        """
        declared = self.channel.queue_declare("work")
        self.deliver()
        self.deliver()
        self.assertFalse(self.paused)
        self.peer.serve()
        self.successResultOf(declared)

    def test_held(self) -> None:
        """
        A pause does not begin, nor end, what a consumer holds back.
        """
        waiting: Deferred[None] = Deferred()
        holding = self.channel.basic_consume(
            "other", lambda _: waiting, prefetch=1, auto_ack=True, consumer_tag="slow"
        )
        self.peer.serve()
        self.successResultOf(holding)
        self.clock.advance(1)
        self.deliver()
        self.deliver()
        self.assertTrue(self.paused)
        for tag in (2, 3):
            self.peer.deliver(1, "slow", tag, b"x")
        self.assertFalse(self.client._flow.reading)
        self.clock.advance(self.pause)
        self.assertTrue(self.paused)
        waiting.callback(None)
        self.clock.advance(0)
        self.assertFalse(self.paused)

    def test_end(self) -> None:
        """
        The end of the connection leaves no timer.
        """
        self.deliver()
        self.deliver()
        self.assertTrue(self.paused)
        self.peer.drop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_violation(self) -> None:
        """
        There is none on a connection that is about to end.
        """
        self.deliver()
        self.peer.feed(b"garbage!")
        self.assertFalse(self.paused)

    def test_others(self) -> None:
        """
        There are none by default but for plain TCP.
        """
        peer = Peer(self)
        peer.handshake()
        self.assertIsNone(peer.client._read_pauses)


class DelayTests(TestCase):
    """
    What TCP does of its own accord.
    """

    async def test_no_delay(self) -> None:
        """
        A small write does not wait for the acknowledgement of the one before, on
        either side.
        """
        from twisted.internet import reactor as the_reactor

        reactor: Any = the_reactor
        factory = BrokerFactory(MemoryBroker(reactor), reactor)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        connection = await connect(reactor, f"amqp://127.0.0.1:{port.getHost().port}")
        [served] = factory.protocols
        for protocol in (connection, served):
            transport = cast(ITCPTransport, protocol.transport)
            self.assertTrue(transport.getTcpNoDelay())
        self.assertIsNotNone(connection._read_pauses)
        await connection.close()
        await factory.when_idle()
