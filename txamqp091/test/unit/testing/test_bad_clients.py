# -*- test-case-name: txamqp091.test.unit.testing.test_bad_clients -*-
"""
Clients that misbehave, and the in-memory broker: it says what is wrong, or nothing, and
drops them; their memory comes back, and others go on.
"""

from __future__ import annotations

import gc
from collections import Counter
from random import Random
from struct import pack
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.task import Cooperator
from twisted.trial.unittest import TestCase

from txamqp091.channel import Channel
from txamqp091.endpoint import connect
from txamqp091.test.support.fuzz import mutate
from txamqp091.test.support.fuzz_server import server_sessions
from txamqp091.test.support.integration import until
from txamqp091.test.support.raw_client import HANDSHAKE, RawClient
from txamqp091.test.support.recording import content, frames
from txamqp091.test.unit.testing.test_memory import MemoryCase
from txamqp091.testing import Direction, MemoryBroker
from txamqp091.wire import spec

#: What one client may have waiting for it, in bytes: what its transport holds, what is
#: written at once, the answers until nothing is read, and the last message.
BOUND = 65536 + 65536 + (1 << 20) + 65536 + 200_000

OPENED = frames(1, spec.ChannelOpen())
PUBLISH = spec.BasicPublish(0, "", "q")

#: What was said, and whether the broker waits for more.
BAD = {
    "nothing": (b"", True),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n", False),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(194), False),
    "AMQP 1.0": (b"AMQP\0\1\0\0", False),
    "SASL of AMQP 1.0": (b"AMQP\3\1\0\0", False),
    "zeros": (bytes(100_000), False),
    "half a header": (b"AMQP\0", True),
    "half a handshake": (HANDSHAKE[:60], True),
    "garbage in the handshake": (spec.PROTOCOL_HEADER + b"\xff" * 100, False),
    "garbage": (HANDSHAKE + b"\xfe" * 100_000, False),
    "half a frame": (HANDSHAKE + OPENED[:9], True),
    "the head of a large frame": (HANDSHAKE + pack(">BHI", 3, 1, 1 << 31), False),
    "the head of a frame over the limit": (
        HANDSHAKE + OPENED + pack(">BHI", 3, 1, 131073),
        False,
    ),
    "the wrong end": (HANDSHAKE + OPENED[:-1] + b"\0", False),
    "half a message": (
        HANDSHAKE + OPENED + content(1, PUBLISH, bytes(10_000))[:-100],
        True,
    ),
    "a large message that does not come": (
        HANDSHAKE + OPENED + content(1, PUBLISH, bytes(200_000))[:60],
        True,
    ),
    "a message on no channel": (HANDSHAKE + content(1, PUBLISH, b"x"), False),
    "what only brokers say": (
        HANDSHAKE + OPENED + frames(1, spec.QueueDeclareOk("q", 1, 1)),
        True,  # for the answer to its close
    ),
}


class BadClientTests(MemoryCase):
    """
    Tests for clients that say what may not be said.
    """

    def test_each(self) -> None:
        """
        Each is dropped, at once, or when its time is up or it hangs up; and a client
        that keeps to the rules does not notice.
        """
        good = self.result_of(self.client().open_channel())
        self.result_of(good.queue_declare("good"))
        for name, (data, waits) in BAD.items():
            for chunk in (0, 1) if len(data) < 1000 else (0, 1000):
                bad = self.raw(b"", opened=False)
                self.link.chunk = chunk
                bad.write(data)
                self.flush()
                self.assertEqual(bad.ended is None, waits, name)
                self.link.cut()
                self.flush()
                self.assertIsNotNone(bad.ended, name)
                self.assertEqual(len(self.broker.sessions), 1, name)
                self.result_of(good.basic_publish("", "good", name))
                delivery = self.result_of(good.basic_get("good", auto_ack=True))
                assert delivery is not None
                self.assertEqual(delivery.body.decode(), name)
        self.assertEqual(self.broker.queues(), ["good"])

    def test_spoilt(self) -> None:
        """
        Neither is it anything else that spoilt conversations come to: the broker
        behind the wire fails at none of them.
        """
        random = Random(7)
        sessions = server_sessions()
        for _ in range(600):
            session = random.choice(sessions)
            client = self.raw(HANDSHAKE if session.opens else session.greeting,
                              opened=session.opens)  # fmt: skip
            client.write(mutate(list(session.frames), random))
            self.flush()
            self.link.cut()
            self.flush()
            self.assertEqual(self.broker.sessions, [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_many(self) -> None:
        """
        A thousand connections that are opened and dropped, at any point of what they
        say, leave nothing behind.
        """
        whole = HANDSHAKE + OPENED + frames(
            1,
            spec.QueueDeclare(0, "mine", exclusive=True),
            spec.BasicConsume(0, "q", no_ack=False),
            spec.ConfirmSelect(),
        )  # fmt: skip
        whole += content(1, spec.BasicPublish(0, "", "mine"), bytes(500))
        self.broker.declare_queue("q")

        def round_of(count: int) -> None:
            random = Random(count)
            for _ in range(count):
                size = random.choice((0, 8, random.randrange(len(whole)), len(whole)))
                client = self.raw(whole[:size], opened=False)
                if size == 0:
                    client.write(b"\xff")
                self.link.cut()
                self.flush()
            self.endpoint.links.clear()
            self.broker.published.clear()

        round_of(100)
        before = _ours()
        round_of(1000)
        after = _ours()
        # Fewer there may be: other tests of this process leave some, which end late.
        self.assertEqual(after - before, Counter())
        self.assertEqual(self.broker.sessions, [])
        self.assertEqual(self.broker.queues(), ["q"])
        self.assertEqual(self.broker.queue("q").consumers, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])


def _ours() -> Counter[str]:
    """
    How many objects of ours there are, by type.
    """
    gc.collect()
    ours = ("txamqp091._machine", "txamqp091.testing", "txamqp091._timers")
    return Counter(
        type(each).__name__
        for each in gc.get_objects()
        if str(type(each).__module__).startswith(ours)
    )


class SlowClientTests(MemoryCase):
    """
    Tests for clients that do not take what they are sent.
    """

    def slow(self, *methods: Any) -> RawClient:
        """
        Connect, say something, and take nothing from now on.
        """
        client = self.raw()
        client.say(1, spec.ChannelOpen(), *methods)
        self.flush()
        client.heard()
        client.received = 0
        self.link.hole(Direction.DOWN)
        return client

    def test_deliveries(self) -> None:
        """
        Nothing more is delivered than the transport holds; the rest waits in the
        queue, and comes in order when the client takes it; whatever sort of consumer
        it has.
        """
        for no_ack in (True, False):
            self.broker.declare_queue("q")
            client = self.slow(spec.BasicConsume(0, "q", "tag", no_ack=no_ack))
            for number in range(1000):
                self.broker.publish("", "q", b"%4d" % number + bytes(10_000))
            self.flush()
            self.assertLess(self.waiting, 200_000)
            self.assertGreater(self.broker.queue("q").ready, 950)
            self.link.heal()
            self.flush()
            self.assertEqual(self.broker.queue("q").ready, 0)
            tags = [
                each.delivery_tag
                for each in client.heard()
                if isinstance(each, spec.BasicDeliver)
            ]
            self.assertEqual(tags, list(range(1, 1001)))
            self.link.cut()
            self.flush()
            self.broker.delete_queue("q")

    def test_streams(self) -> None:
        """
        So it is with a stream.
        """
        self.broker.declare_queue("s", arguments={"x-queue-type": "stream"})
        first = {"x-stream-offset": "first"}
        client = self.slow(
            spec.BasicQos(0, 5000), spec.BasicConsume(0, "s", "tag", arguments=first)
        )
        for _ in range(500):
            self.broker.publish("", "s", bytes(10_000))
        self.flush()
        self.assertLess(self.waiting, 200_000)
        self.link.heal()
        self.flush()
        self.assertEqual(len(client.heard()), 500)

    def test_others_get_it(self) -> None:
        """
        What a slow client does not take, others get.
        """
        self.broker.declare_queue("q")
        self.slow(spec.BasicConsume(0, "q", "tag", no_ack=True))
        for _ in range(100):
            self.broker.publish("", "q", bytes(10_000))
        self.flush()
        left = self.broker.queue("q").ready
        self.assertGreater(left, 50)
        client = self.raw()
        client.say(1, spec.ChannelOpen(), spec.BasicConsume(0, "q", no_ack=True))
        self.flush()
        self.assertEqual(self.broker.queue("q").ready, 0)
        self.assertEqual(len(client.heard()), 2 + left)

    def test_new_consumer(self) -> None:
        """
        A consumer that begins while nothing is taken gets its messages later.
        """
        self.broker.declare_queue("q")
        self.broker.publish("", "q", bytes(200_000))
        self.broker.publish("", "q", b"last")
        client = self.slow(spec.BasicConsume(0, "q", "one", no_ack=True))
        self.broker.publish("", "q", bytes(200_000))
        client.say(1, spec.BasicConsume(0, "q", "two", no_ack=True))
        self.broker.publish("", "q", b"last")
        self.flush()
        self.link.heal()
        self.flush()
        self.assertEqual(self.broker.queue("q").ready, 0)

    def test_questions(self) -> None:
        """
        A client that asks and asks and takes no answers is not listened to any more;
        when it takes them, all are there, in order.
        """
        self.broker.declare_queue("q")
        for _ in range(300):
            self.broker.publish("", "q", bytes(10_000))
        client = self.slow()
        client.say(1, *[spec.BasicGet(0, "q", True)] * 300)
        self.flush()
        self.assertLess(self.waiting, BOUND)
        self.assertGreater(self.broker.queue("q").ready, 100)
        client.say(1, spec.QueueDeclare(0, "late"))
        self.flush()
        self.assertEqual(self.broker.queues(), ["q"])
        self.link.heal()
        self.flush()
        heard = client.heard()
        gets = [each for each in heard if isinstance(each, spec.BasicGetOk)]
        self.assertEqual([each.delivery_tag for each in gets], list(range(1, 301)))
        self.assertEqual(type(heard[-1]), spec.QueueDeclareOk)

    def test_returns_and_confirms(self) -> None:
        """
        So it is with messages that come back, and confirms.
        """
        client = self.slow(spec.ConfirmSelect())
        data = content(1, spec.BasicPublish(0, "", "nowhere", True), bytes(10_000))
        client.write(data * 500)
        self.flush()
        self.assertLess(self.waiting, BOUND)
        self.assertLess(len(self.broker.published), 200)
        self.link.heal()
        self.flush()
        acks = [each for each in client.heard() if isinstance(each, spec.BasicAck)]
        self.assertEqual(len(acks), 500)

    def test_silence(self) -> None:
        """
        While it is not listened to, it is not blamed for saying nothing; but if it
        says nothing to begin with, it is.
        """
        self.broker.declare_queue("q")
        self.broker.publish("", "q", bytes(2_000_000))
        client = self.slow(spec.BasicGet(0, "q"))
        self.clock.advance(1000)
        self.assertIsNone(client.ended)

    def test_gone(self) -> None:
        """
        When it hangs up, what it was sent and has not acknowledged goes back.
        """
        self.broker.declare_queue("q")
        for _ in range(100):
            self.broker.publish("", "q", bytes(10_000))
        self.slow(spec.BasicConsume(0, "q", "tag"))
        self.flush()
        self.link.cut()
        self.flush()
        self.assertEqual(self.broker.queue("q").ready, 100)

    def test_closed(self) -> None:
        """
        It can be closed; it is dropped if it does not take that either.
        """
        self.broker.declare_queue("q")
        client = self.slow(spec.BasicConsume(0, "q", "tag", no_ack=True))
        for _ in range(100):
            self.broker.publish("", "q", bytes(10_000))
        self.flush()
        self.broker.close_connections()
        self.clock.advance(9)
        self.assertIsNone(client.ended)
        self.clock.advance(2)
        self.assertIsNotNone(client.ended)


class PortTests(TestCase):
    """
    Tests for bad clients of a real port.
    """

    timeout = 240.0

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.broker = MemoryBroker(reactor)
        port = self.broker.listen(self.reactor)
        self.addCleanup(port.stopListening)
        self.protocols = cast(Any, port).factory.protocols
        self.port = cast(IPv4Address, port.getHost()).port
        self.random = Random(3)

    async def good(self) -> Channel:
        """
        A client that keeps to the rules.
        """
        connection = await connect(self.reactor, f"amqp://127.0.0.1:{self.port}")
        self.addCleanup(connection.close)
        return await connection.open_channel()

    def bad(self) -> Deferred[RawClient]:
        """
        A client that does not.
        """
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.port)
        connecting = connectProtocol(endpoint, RawClient())
        return cast("Deferred[RawClient]", connecting)

    async def test_thousand(self) -> None:
        """
        Criterion 24: a thousand connections are opened and dropped, most of them in
        the middle of something; others go on, and memory comes back.
        """
        channel = await self.good()
        await channel.queue_declare("good", exclusive=True)
        # Those who say too little would have to wait for an answer.
        says = [data for data, _ in BAD.values() if len(data) > 7]

        async def misbehave() -> None:
            client = await self.bad()
            client.write(self.random.choice(says))
            if self.random.random() < 0.5:
                await until(lambda: client.received > 0 or client.ended is not None)
            cast(Any, client.transport).abortConnection()

        async def round_of(count: int) -> None:
            cooperator = Cooperator()
            work = (Deferred.fromCoroutine(misbehave()) for _ in range(count))
            workers = [cooperator.coiterate(work) for _ in range(20)]
            await DeferredList(workers, fireOnOneErrback=True)
            await until(lambda: len(self.protocols) == 1)

        await round_of(100)
        before = _ours()
        for number in range(10):
            await round_of(100)
            await channel.basic_publish("", "good", b"%d" % number)
            delivery = await channel.basic_get("good", auto_ack=True)
            assert delivery is not None
            self.assertEqual(delivery.body, b"%d" % number)
            self.broker.published.clear()
        grown = {
            name: count - before[name]
            for name, count in _ours().items()
            if count > before[name] + 2
        }
        self.assertEqual(grown, {})
        self.assertEqual(len(self.broker.sessions), 1)

    async def test_never_reads(self) -> None:
        """
        A client that never reads has a bounded amount of memory, and does not keep
        another from its messages.
        """
        channel = await self.good()
        await channel.confirm_select()
        await channel.queue_declare("slow")
        client = await self.bad()
        consume = spec.BasicConsume(0, "slow", "tag", no_ack=True)
        client.write(HANDSHAKE + OPENED + frames(1, consume))
        await until(lambda: self.broker.queue("slow").consumers == 1)
        transport: Any = client.transport
        transport.pauseProducing()
        for _ in range(400):
            await channel.basic_publish("", "slow", bytes(100_000))
        ready = -1

        def settled() -> bool:
            nonlocal ready
            before, ready = ready, self.broker.queue("slow").ready
            return before == ready > 0

        await until(settled)
        # The kernel holds some megabytes.
        self.assertGreater(ready, 200)
        got = 0
        while await channel.basic_get("slow", auto_ack=True) is not None:
            got += 1
        self.assertGreater(got, 200)
        transport.resumeProducing()
        await until(lambda: client.received > (400 - got) * 100_000)
        transport.abortConnection()
        await until(lambda: len(self.broker.sessions) == 1)
