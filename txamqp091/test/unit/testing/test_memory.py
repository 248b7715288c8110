# -*- test-case-name: txamqp091.test.unit.testing.test_memory -*-
"""
Tests for `txamqp091.testing.memory` and `txamqp091.testing._broker.protocol`: how
clients get to the in-memory broker, are let in or not, and are told of what happens.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from txamqp091.endpoint import connect
from txamqp091.errors import ConnectionForced, HeartbeatTimeout, TLSFailed
from txamqp091.factory import AMQPClientFactory
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.certificates import Authority
from txamqp091.test.support.raw_client import HANDSHAKE, RawClient, handshake
from txamqp091.test.support.recording import content, frames
from txamqp091.test.support.tls_peers import server_options
from txamqp091.testing import Direction, Link, MemoryBroker, MemoryEndpoint
from txamqp091.testing._broker.protocol import BrokerFactory, BrokerProtocol
from txamqp091.testing.memory import ListeningPort
from txamqp091.testing.reactor import SteppingClock
from txamqp091.wire import spec
from txamqp091.wire.frames import HEARTBEAT

T = TypeVar("T")


class MemoryCase(SynchronousTestCase):
    """
    A broker, the way to it, and time that passes when the test says so.
    """

    version = "4.3.6"

    def setUp(self) -> None:
        self.clock = SteppingClock()
        self.broker = MemoryBroker(
            cast(IReactorTime, self.clock), version=self.version, consumer_timeout=None
        )
        self.endpoint = self.broker.endpoint()
        self.addCleanup(self.check)

    def check(self) -> None:
        """
        When all have gone, nothing is left.
        """
        self.endpoint.cut()
        self.flush()
        self.assertEqual(self.broker.sessions, [])
        self.broker.clear()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def flush(self) -> None:
        """
        Do all that can be done without any time passing.
        """
        self.clock.advance(0)

    def raw(self, data: bytes = HANDSHAKE, *, opened: bool = True) -> RawClient:
        """
        Connect by hand, say something, and forget the answer.

        :param opened: whether that opens the connection.
        """
        factory = cast(IProtocolFactory, Factory.forProtocol(RawClient))
        connecting = cast("Deferred[RawClient]", self.endpoint.connect(factory))
        client = self.successResultOf(connecting)
        client.write(data)
        self.flush()
        if opened:
            client.heard_one(spec.ConnectionOpenOk)
        return client

    def client(self, endpoint: MemoryEndpoint | None = None) -> AMQPProtocol:
        """
        Connect properly.
        """
        factory = AMQPClientFactory(clock=cast(Any, self.clock))
        where = endpoint or self.endpoint
        self.successResultOf(where.connect(cast(IProtocolFactory, factory)))
        protocol = cast(AMQPProtocol, where.links[-1].client.protocol)
        return self.result_of(protocol.when_open())

    def result_of(self, deferred: Deferred[T]) -> T:
        """
        What comes of something, once all has been done.
        """
        self.flush()
        return self.successResultOf(deferred)

    @property
    def link(self) -> Link:
        """
        The last connection.
        """
        return self.endpoint.links[-1]

    @property
    def waiting(self) -> int:
        """
        How many bytes the server has said that have not moved.
        """
        return len(self.link.server.buffer)


class WaysTests(MemoryCase):
    """
    Tests for the ways to a broker.
    """

    def test_endpoint(self) -> None:
        """
        A client that connects by the endpoint is a client.
        """
        channel = self.result_of(self.client().open_channel())
        self.result_of(channel.queue_declare("q"))
        self.result_of(channel.basic_publish("", "q", b"body"))
        self.flush()
        self.assertEqual(self.broker.queue("q").bodies, [b"body"])

    def test_endpoints(self) -> None:
        """
        There may be several, each with its own connections, to the same queues.
        """
        other = self.broker.endpoint()
        channel = self.result_of(self.client(other).open_channel())
        self.result_of(channel.queue_declare("q"))
        self.assertEqual((len(other.links), len(self.endpoint.links)), (1, 0))
        self.client()
        self.assertEqual(len(self.broker.sessions), 2)
        other.cut()
        self.flush()
        self.assertEqual(len(self.broker.sessions), 1)

    def test_introduction(self) -> None:
        """
        The broker says what it is, which RabbitMQ it is like, and what it can.
        """
        client = self.raw(spec.PROTOCOL_HEADER, opened=False)
        start = client.heard_one(spec.ConnectionStart)
        properties = start.server_properties
        self.assertEqual(properties["product"], "txamqp091 MemoryBroker")
        self.assertEqual(properties["version"], "4.3.6")
        self.assertIn("keeps nothing", str(properties["information"]))
        capabilities = cast("dict[str, object]", properties["capabilities"])
        self.assertTrue(capabilities["publisher_confirms"])
        self.assertEqual(start.mechanisms, b"PLAIN AMQPLAIN ANONYMOUS")

    def test_interface(self) -> None:
        """
        The broker's end is the producer of its transport.
        """
        self.raw()
        verifyObject(IPushProducer, self.link.server.protocol)
        self.assertIs(self.link.server.producer, self.link.server.protocol)

    def test_idle(self) -> None:
        """
        A factory tells when nobody is connected.
        """
        self.raw()
        protocol = cast(BrokerProtocol, self.link.server.protocol)
        factory = cast(BrokerFactory, protocol.factory)
        waiting = [factory.when_idle() for _ in range(2)]
        self.assertNoResult(waiting[0])
        self.link.cut()
        self.flush()
        for each in (*waiting, factory.when_idle()):
            self.assertIsNone(self.successResultOf(each))


class LoginTests(MemoryCase):
    """
    Tests for who is let in.
    """

    def refused(self, **options: Any) -> spec.ConnectionClose:
        """
        What a client is told that is not let in.
        """
        client = self.raw(handshake(**options), opened=False)
        close = client.heard_one(spec.ConnectionClose)
        self.assertEqual(self.broker.sessions, [])
        client.say(0, spec.ConnectionCloseOk())
        self.flush()
        self.assertIsNotNone(client.ended)
        return close

    def dropped(self, **options: Any) -> None:
        """
        See a client dropped that is not let in.
        """
        client = self.raw(handshake(**options), opened=False)
        self.assertIsNotNone(client.ended)
        said = [type(each) for each in client.heard()]
        self.assertEqual(said, [spec.ConnectionStart])

    def test_wrong_password(self) -> None:
        """
        Whoever has the wrong password is told, if it says that it would understand.
        """
        close = self.refused(response=b"\0guest\0wrong")
        self.assertEqual(
            close,
            spec.ConnectionClose(
                403,
                "ACCESS_REFUSED - Login was refused using authentication mechanism "
                "PLAIN. For details see the broker logfile.",
            ),
        )
        for capabilities in ({}, {"authentication_failure_close": False}, "all"):
            self.dropped(response=b"\0guest\0wrong", capabilities=capabilities)

    def test_mechanisms(self) -> None:
        """
        A mechanism that was not offered is no way in.
        """
        self.dropped(mechanism="EXTERNAL", response=b"guest")
        self.dropped(mechanism="\udcff", response=b"guest")
        login = b"\5LOGINS\0\0\0\5guest\x08PASSWORDS\0\0\0\5guest"
        self.raw(handshake(mechanism="AMQPLAIN", response=login))
        self.raw(handshake(mechanism="ANONYMOUS", response=b""))
        self.assertEqual(
            [each.user.name for each in self.broker.sessions], ["guest"] * 2
        )

    def test_virtual_host(self) -> None:
        """
        Neither is a virtual host that there is not.
        """
        close = self.refused(vhost="missing")
        self.assertEqual(
            close,
            spec.ConnectionClose(530, "NOT_ALLOWED - vhost missing not found", 10, 40),
        )

    def test_strangers(self) -> None:
        """
        Who breaks the rules before it was let in is dropped without a word; after that
        it is told.
        """
        client = self.raw(spec.PROTOCOL_HEADER + b"\xff" * 20, opened=False)
        self.assertIsNotNone(client.ended)
        self.assertEqual(len(client.heard()), 1)
        client = self.raw()
        client.write(b"\xff" * 20)
        self.flush()
        self.assertEqual(client.heard_one(spec.ConnectionClose).reply_code, 501)
        self.assertIsNotNone(client.ended)

    def test_other_protocols(self) -> None:
        """
        Who speaks something else is told what is spoken here.
        """
        client = self.raw(b"GET / HTTP/1.1\r\n\r\n", opened=False)
        self.assertEqual(client.data, spec.PROTOCOL_HEADER)
        self.assertIsNotNone(client.ended)

    def test_limits(self) -> None:
        """
        Frames may not be smaller than RabbitMQ lets them be.
        """
        agreed = frames(0, spec.ConnectionTuneOk(2047, 131072, 0))
        for size, opens in ((8192, True), (8191, False)):
            smaller = frames(0, spec.ConnectionTuneOk(2047, size, 0))
            client = self.raw(HANDSHAKE.replace(agreed, smaller), opened=opens)
            self.assertEqual(client.ended is None, opens)
        close = client.heard_one(spec.ConnectionClose)
        self.assertEqual((close.reply_code, close.class_id), (530, 10))
        large: dict[str, Any] = {"token": "x" * 6000, "capabilities": {}}
        data = frames(0, spec.ConnectionStartOk(large, "PLAIN", b"\0guest\0guest"))
        self.raw(spec.PROTOCOL_HEADER + data + HANDSHAKE[HANDSHAKE.index(agreed) :])

    def test_secret(self) -> None:
        """
        A new secret is taken.
        """
        client = self.raw()
        client.say(0, spec.ConnectionUpdateSecret(b"s", "expired"))
        self.flush()
        client.heard_one(spec.ConnectionUpdateSecretOk)
        self.assertEqual(self.broker.sessions[0].secret, b"s")


class OldLoginTests(MemoryCase):
    """
    Tests for an older RabbitMQ, with smaller frames.
    """

    version = "3.10.8"

    def test_anonymous(self) -> None:
        """
        It lets nobody in without a name.
        """
        data = handshake(mechanism="ANONYMOUS", response=b"")
        client = self.raw(data, opened=False)
        start = client.heard_one(spec.ConnectionStart)
        self.assertEqual(start.mechanisms, b"PLAIN AMQPLAIN")
        self.assertIsNotNone(client.ended)

    def test_limits(self) -> None:
        """
        Its smallest frames are those of AMQP.
        """
        agreed = frames(0, spec.ConnectionTuneOk(2047, 131072, 0))
        smaller = frames(0, spec.ConnectionTuneOk(2047, 4096, 0))
        self.raw(HANDSHAKE.replace(agreed, smaller))


class TimeTests(MemoryCase):
    """
    Tests for what is done by the clock.
    """

    def test_handshake(self) -> None:
        """
        A connection has to be open in ten seconds, whatever has come by then.
        """
        for size in (0, 3, 8, 100, len(HANDSHAKE) - 1):
            client = self.raw(HANDSHAKE[:size], opened=False)
            self.clock.advance(9.9)
            self.assertIsNone(client.ended, size)
            self.clock.advance(0.1)
            self.flush()
            self.assertIsNotNone(client.ended, size)
        client = self.raw()
        self.clock.advance(1000)
        self.assertIsNone(client.ended)

    def test_heartbeats(self) -> None:
        """
        The broker says something every half interval; a client that says nothing for
        two intervals has gone.
        """
        client = self.raw(handshake(heartbeat=10))
        client.data = b""
        self.clock.advance(19.9)
        self.assertEqual(client.data, HEARTBEAT * 3)
        client.write(HEARTBEAT)
        self.clock.advance(19.9)
        self.assertIsNone(client.ended)
        self.clock.advance(10)
        self.assertIsNotNone(client.ended)
        self.assertEqual(self.broker.sessions, [])

    def test_silent_broker(self) -> None:
        """
        Our client gives up on a broker that falls silent, and the broker on it.
        """
        client = self.client()
        closed = client.when_closed()
        self.link.hole()
        self.clock.advance(121)
        self.failureResultOf(closed, HeartbeatTimeout)
        self.assertEqual(self.broker.sessions, [])

    def test_close_unanswered(self) -> None:
        """
        A client that does not answer a close is dropped after ten seconds.
        """
        client = self.raw()
        self.broker.close_connections()
        self.clock.advance(9.9)
        self.assertIsNone(client.ended)
        self.clock.advance(0.2)
        self.assertIsNotNone(client.ended)

    def test_last_words_not_taken(self) -> None:
        """
        A client that closes and does not take the answer is dropped after 40 s.
        """
        client = self.raw()
        self.link.hole(Direction.DOWN)
        client.say(0, spec.ConnectionClose(200, "bye"))
        self.clock.pump([10.0, 10.0, 10.0, 9.9])
        self.assertTrue(self.link.is_up)
        self.clock.advance(0.2)
        self.assertFalse(self.link.is_up)

    def test_does_not_hang_up(self) -> None:
        """
        A client that has closed has 30 s to hang up, or as long as a heartbeat: what
        it says until then is discarded.
        """
        for heartbeat, seconds in ((0, 30.0), (60, 30.0), (5, 5.0)):
            client = self.raw(handshake(heartbeat=heartbeat))
            client.say(0, spec.ConnectionClose(200, "bye"))
            self.flush()
            client.heard_one(spec.ConnectionCloseOk)
            self.clock.advance(seconds - 0.1)
            client.say(1, spec.ChannelOpen(), spec.QueueDeclare(0, "late"))
            self.flush()
            self.assertEqual((client.heard(), client.ended), ([], None))
            self.clock.advance(0.2)
            self.assertFalse(self.link.is_up)
            self.flush()
        self.assertEqual(self.broker.queues(), [])


class FaultTests(MemoryCase):
    """
    Tests for what a test has the broker do to its clients.
    """

    def test_blocked(self) -> None:
        """
        Clients that understand it are told that the broker is short of something; also
        those that come later, when they have a channel.
        """
        one, other = self.raw(), self.raw(handshake(capabilities={}))
        self.broker.block("low on disk")
        self.flush()
        self.assertEqual(one.heard(), [spec.ConnectionBlocked("low on disk")])
        later = self.raw()
        later.say(1, spec.ChannelOpen())
        self.flush()
        blocked = later.heard_one(spec.ConnectionBlocked)
        self.assertEqual(blocked.reason, "low on disk")
        self.broker.unblock()
        self.flush()
        self.assertEqual(one.heard(), [spec.ConnectionUnblocked()])
        self.assertEqual(other.heard(), [])

    def test_cancelled(self) -> None:
        """
        Those that understand it are told that a consumer has ended.
        """
        clients = [self.raw(), self.raw(handshake(capabilities={}))]
        self.broker.declare_queue("q")
        for client in clients:
            client.say(1, spec.ChannelOpen(), spec.BasicConsume(0, "q", "tag"))
            self.flush()
            client.heard_one(spec.BasicConsumeOk)
        self.broker.delete_queue("q")
        self.flush()
        heard = [client.heard() for client in clients]
        self.assertEqual(heard, [[spec.BasicCancel("tag", True)], []])

    def test_forced_close(self) -> None:
        """
        All connections can be closed, and it is told why.
        """
        closed = self.client().when_closed()
        self.broker.close_connections(problem="maintenance")
        self.flush()
        error = self.failureResultOf(closed, ConnectionForced).value
        self.assertEqual(str(error), "320 CONNECTION_FORCED - maintenance")
        self.assertFalse(self.link.is_up)

    def test_forced_twice(self) -> None:
        """
        To close what closes already does nothing.
        """
        client = self.raw()
        self.broker.close_connections()
        self.broker.close_connections()
        protocol = cast(BrokerProtocol, self.link.server.protocol)
        protocol.close(541, "INTERNAL_ERROR")
        self.flush()
        self.assertEqual(len(client.heard()), 1)

    def test_close_channels(self) -> None:
        """
        So can channels; then what is outstanding is discarded.
        """
        client = self.raw()
        client.say(1, spec.ChannelOpen())
        self.flush()
        self.broker.close_channels(404, "no queue 'q'")
        client.say(1, spec.QueueDeclare(0, "late"))
        client.write(content(1, spec.BasicPublish(0, "", "late"), b"late"))
        self.flush()
        close = spec.ChannelClose(404, "NOT_FOUND - no queue 'q'")
        self.assertEqual(client.heard(), [spec.ChannelOpenOk(), close])
        self.assertEqual(self.broker.queues(), [])
        client.say(1, spec.ChannelCloseOk(), spec.ChannelOpen())
        self.flush()
        self.assertEqual(client.heard(), [spec.ChannelOpenOk()])

    def test_together(self) -> None:
        """
        Channels that end with their connection do not get each other's messages.
        """
        self.broker.declare_queue("q")
        client = self.raw()
        for number in (1, 2):
            client.say(
                number,
                spec.ChannelOpen(),
                spec.BasicQos(0, 1),
                spec.BasicConsume(0, "q", "tag"),
            )
        for body in (b"one", b"two"):
            self.broker.publish("", "q", body)
        self.flush()
        client.heard()
        self.broker.close_connections()
        self.flush()
        self.assertEqual(
            [type(each) for each in client.heard()], [spec.ConnectionClose]
        )
        self.assertEqual(self.broker.queue("q").bodies, [b"one", b"two"])


class MessageTests(MemoryCase):
    """
    Tests for messages on the wire.
    """

    def test_too_large(self) -> None:
        """
        A message over the limit costs the channel, and none of it is kept.
        """
        client = self.raw()
        size = 16 * 1024 * 1024 + 1
        client.write(frames(1, spec.ChannelOpen()))
        client.write(
            content(1, spec.BasicPublish(0, "", "q"), bytes(size), max_payload=131064)
        )
        self.flush()
        close = client.heard_one(spec.ChannelClose)
        text = (
            "PRECONDITION_FAILED - message size 16777217 is larger than configured max "
            "size 16777216"
        )
        self.assertEqual(close, spec.ChannelClose(406, text, 60, 40))
        self.assertEqual(len(self.broker.published), 0)

    def test_refused(self) -> None:
        """
        What the broker refuses costs the channel, or the connection.
        """
        client = self.raw()
        client.say(1, spec.ChannelOpen(), spec.QueueDeclare(0, "missing", True))
        self.flush()
        text = "NOT_FOUND - no queue 'missing' in vhost '/'"
        self.assertEqual(
            client.heard_one(spec.ChannelClose), spec.ChannelClose(404, text, 50, 10)
        )
        client.say(2, spec.ChannelOpen(), spec.BasicQosOk())
        self.flush()
        self.assertEqual(
            client.heard_one(spec.ConnectionClose),
            spec.ConnectionClose(503, "COMMAND_INVALID - unimplemented method", 60, 11),
        )


class ListenTests(TestCase):
    """
    Tests for a real port.
    """

    async def test_listen(self) -> None:
        """
        Any client can connect to it, until it is stopped.
        """
        from twisted.internet import reactor

        broker = MemoryBroker(reactor)
        port = broker.listen(cast(Any, reactor))
        address = cast(IPv4Address, port.getHost())
        self.assertEqual(address.host, "127.0.0.1")
        await self.serves(broker, port, f"amqp://127.0.0.1:{address.port}")

    async def test_tls(self) -> None:
        """
        It may have TLS: who trusts its authority, and no other, connects to it.
        """
        from twisted.internet import reactor

        authority = Authority()
        folder = self.mktemp()
        os.mkdir(folder)
        broker = MemoryBroker(reactor)
        options = server_options(authority.issue("localhost"))
        port = broker.listen(cast(Any, reactor), tls=options)
        uri = f"amqps://localhost:{cast(IPv4Address, port.getHost()).port}"
        refused: Deferred[Any] = connect(reactor, uri)
        await self.assertFailure(refused, TLSFailed)
        await self.serves(broker, port, f"{uri}?cacertfile={authority.write(folder)}")

    async def serves(self, broker: MemoryBroker, port: ListeningPort, uri: str) -> None:
        """
        A client connects, and is told when it is over.
        """
        from twisted.internet import reactor

        connection = await connect(reactor, uri)
        channel = await connection.open_channel()
        await channel.queue_declare("q")
        body = bytes(3_000_000)
        await channel.basic_publish("", "q", body)
        delivery = await channel.basic_get("q")
        assert delivery is not None
        self.assertEqual(delivery.body, body)
        closed = connection.when_closed()
        await cast("Deferred[None]", port.stopListening())
        broker.close_connections()
        await self.assertFailure(closed, ConnectionForced)
        self.assertEqual(broker.sessions, [])
