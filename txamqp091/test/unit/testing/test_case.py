# -*- test-case-name: txamqp091.test.unit.testing.test_case -*-
"""
Tests for `txamqp091.testing.case`: what a user's test case is given, and what it must
not leave behind.
"""

from __future__ import annotations

from typing import cast
from unittest import TestResult

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IReactorFromThreads,
    IReactorTime,
)
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from twisted.trial.unittest import SynchronousTestCase, TestCase

from txamqp091.errors import ConnectFailed, ConnectionLost, NotFound
from txamqp091.message import Delivery
from txamqp091.service import AMQPClientService
from txamqp091.testing import AsyncBrokerTestCase, BrokerTestCase, Direction
from txamqp091.testing.memory import MemoryBroker
from txamqp091.testing.reactor import MemoryReactor


class Handler:
    """
    Takes messages, as slowly as the test wants.
    """

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.working: Deferred[None] = succeed(None)

    async def __call__(self, delivery: Delivery) -> None:
        self.bodies.append(delivery.body)
        await self.working
        delivery.ack()


def work_service(
    reactor: MemoryReactor, uri: str, handler: Handler
) -> AMQPClientService:
    """
    A program.
    """
    service = AMQPClientService(reactor, uri)
    service.consume("work", handler)
    return service


class BrokerCaseTests(BrokerTestCase):
    """
    A test case with a clock.
    """

    def setUp(self) -> None:
        super().setUp()
        self.handler = Handler()
        self.broker.declare_queue("work")

    def test_service(self) -> None:
        """
        A service finds the broker, gets messages, and answers for them.
        """
        self.start(work_service(self.reactor, self.uri, self.handler))
        self.broker.publish("", "work", b"one")
        self.assertQueue("work", unacked=1)
        self.flush()
        self.assertEqual(self.handler.bodies, [b"one"])
        self.assertQueue("work", ready=0, unacked=0, consumers=1)

    def test_stop(self) -> None:
        """
        A service is stopped with as much time as it takes.
        """
        self.handler.working = Deferred()
        service = work_service(self.reactor, self.uri, self.handler)
        self.start(service)
        self.broker.publish("", "work", b"one")
        self.flush()
        self.stop(service)
        self.assertQueue("work", ready=1, unacked=0, consumers=0)

    def test_client(self) -> None:
        """
        The test can be a client too, and whatever it asks for has an answer at once.
        """
        channel = self.open_channel(name="a test")
        self.result_of(channel.queue_declare("more"))
        self.assertQueue("more")
        [session] = self.broker.sessions
        self.assertEqual(session.client_properties["connection_name"], "a test")

        async def publish() -> str:
            await channel.basic_publish("", "more", "hello")
            return "done"

        self.assertEqual(self.result_of(publish()), "done")
        self.assertQueue("more", bodies=["hello"])

    def test_users(self) -> None:
        """
        Who connects, and where to, is said by a URI.
        """
        self.broker.add_vhost("shop")
        self.broker.add_user("clerk", "secret")
        self.connect("amqp://clerk:secret@rabbit.example/shop")
        [session] = self.broker.sessions
        self.assertEqual(session.user.name, "clerk")

    def test_timeouts(self) -> None:
        """
        What the broker does later is no debt of the test's.
        """
        self.broker.declare_queue("short", arguments={"x-message-ttl": 10_000})
        self.broker.publish("", "short", b"one")
        self.broker.declare_queue("idle", arguments={"x-expires": 60_000})
        self.advance(9)
        self.assertQueue("short", ready=1)
        self.advance(1)
        self.assertQueue("short", ready=0)
        self.broker.publish("", "short", b"two")

    def test_nobody(self) -> None:
        """
        Without a connection there is none to do anything to.
        """
        error = self.assertRaises(self.failureException, lambda: self.link)
        self.assertEqual(str(error), "Nobody has connected")


class FaultTests(BrokerTestCase):
    """
    What a network and a broker can do to a program.
    """

    def setUp(self) -> None:
        super().setUp()
        self.broker.declare_queue("work")

    def test_bytes(self) -> None:
        """
        Bytes move one at a time, and nobody minds.
        """
        self.endpoint.chunk = 1
        channel = self.open_channel()
        self.result_of(channel.basic_publish("", "work", "hello"))
        self.assertPublished(body="hello")

    def test_delay(self) -> None:
        """
        Bytes take their time.
        """
        channel = self.open_channel()
        self.link.delay = 0.5
        declaring = channel.queue_declare("more")
        self.flush()
        self.assertNoResult(declaring)
        self.advance(0.9)
        self.assertNoResult(declaring)
        self.advance(0.1)
        self.successResultOf(declaring)

    def test_cut_after(self) -> None:
        """
        A connection breaks in the middle of the handshake.
        """
        self.endpoint.cut_after = {Direction.DOWN: 100}
        connecting = self._connect("", {})
        self.flush()
        self.failureResultOf(connecting, ConnectionLost)
        self.assertEqual(self.link.moved[Direction.DOWN], 100)

    def test_half_open(self) -> None:
        """
        A connection dies in one direction, which heartbeats notice.
        """
        connection = self.connect(heartbeat=10)
        closed = connection.when_closed()
        self.advance(60)
        self.assertNoResult(closed)
        self.link.hole(Direction.DOWN)
        self.advance(30)
        self.failureResultOf(closed, ConnectionLost)

    def test_refusing(self) -> None:
        """
        Nobody answers.
        """
        self.endpoint.refusing = True
        connecting = self._connect("", {})
        self.advance(1)
        self.failureResultOf(connecting, ConnectFailed)

    def test_blocked(self) -> None:
        """
        The broker is short of memory, and publishing waits.
        """
        channel = self.open_channel()
        self.broker.block()
        self.flush()
        publishing = channel.basic_publish("", "work", "hello")
        self.advance(5)
        self.assertNotPublished()
        self.broker.unblock()
        self.flush()
        self.assertPublished(body="hello")
        self.successResultOf(publishing)

    def test_channel_killed(self) -> None:
        """
        The broker closes a channel with a code of the test's choice.
        """
        channel = self.open_channel()
        closed = channel.when_closed()
        self.broker.close_channels(404, "no queue 'x'")
        self.flush()
        error = self.failureResultOf(closed, NotFound).value
        self.assertEqual(error.reply_text, "NOT_FOUND - no queue 'x'")


class DebtTests(SynchronousTestCase):
    """
    What a test leaves behind fails it.
    """

    def run_case(self, case: SynchronousTestCase) -> str:
        """
        Run a test, and return what was wrong with it, in its first lines.
        """
        result = TestResult()
        case.run(result)
        problems = [each for _, each in result.errors + result.failures]
        self.assertEqual(result.testsRun, 1)
        return "\n".join(problems)

    def test_connection(self) -> None:
        """
        A connection that nobody has closed does.
        """

        class Case(BrokerTestCase):
            def test(self) -> None:
                self.result_of(self._connect("", {}))

        said = self.run_case(Case("test"))
        self.assertIn("1 of 1 connections are still open", said)

    def test_call(self) -> None:
        """
        And so does what is on the clock.
        """

        class Case(BrokerTestCase):
            def test(self) -> None:
                self.reactor.callLater(5, int)

        said = self.run_case(Case("test"))
        self.assertIn("The test has left something on the clock:\n", said)

    def test_stuck(self) -> None:
        """
        And a service that does not stop.
        """

        class Stuck(Service):
            def stopService(self) -> Deferred[None]:
                super().stopService()
                return Deferred()

            def __repr__(self) -> str:
                return "<Stuck>"

        class Case(BrokerTestCase):
            def test(self) -> None:
                self.start(Stuck())

        said = self.run_case(Case("test"))
        self.assertIn("<Stuck> does not stop, not in 300 s", said)

    def test_failing(self) -> None:
        """
        And one that fails to.
        """

        class Failing(Service):
            def stopService(self) -> None:
                super().stopService()
                raise ValueError("no")

        class Case(BrokerTestCase):
            def test(self) -> None:
                self.start(Failing())

        self.assertIn("ValueError: no", self.run_case(Case("test")))

    def test_nothing(self) -> None:
        """
        A test that leaves nothing passes.
        """

        class Case(BrokerTestCase):
            def test(self) -> None:
                self.open_channel()

        self.assertEqual(self.run_case(Case("test")), "")


class AsyncCaseTests(AsyncBrokerTestCase):
    """
    A test case on the reactor.
    """

    def make_broker(self, clock: IReactorTime) -> MemoryBroker:
        """
        One that is like RabbitMQ 4.3.
        """
        return MemoryBroker(clock, version="4.3.6")

    async def test_service(self) -> None:
        """
        A service finds the broker, and the test waits for what it does.
        """
        handler = Handler()
        self.broker.declare_queue("work")
        self.start(work_service(self.reactor, self.uri, handler))
        self.broker.publish("", "work", b"one")
        await self.until(lambda: handler.bodies)
        await self.until(lambda: self.assertQueue("work", unacked=0, consumers=1))
        self.assertEqual(self.broker.version, "4.3.6")

    async def test_client(self) -> None:
        """
        The test can be a client too.
        """
        channel = await self.open_channel()
        await channel.queue_declare("work")
        await channel.basic_publish("", "work", "hello")
        delivery = await channel.basic_get("work")
        assert delivery is not None
        self.assertEqual(delivery.body, b"hello")
        delivery.ack()
        await self.until(lambda: self.assertQueue("work", unacked=0))

    async def test_late(self) -> None:
        """
        What does not come true in time fails the test, an assertion with its own words.
        """
        with self.assertRaises(self.failureException) as caught:
            await self.until(lambda: False, 0.01)
        self.assertIn("is not so after 0.01 s", str(caught.exception))
        with self.assertRaises(self.failureException) as caught:
            await self.until(lambda: self.assertQueue("work"), 0.01)
        self.assertIn("There is no queue 'work'", str(caught.exception))

    async def test_cut(self) -> None:
        """
        The network does as it is told here too.
        """
        connection = await self.connect()
        self.link.cut()
        with self.assertRaises(ConnectionLost):
            await connection.when_closed()

    async def test_threads(self) -> None:
        """
        A handler's thread acknowledges.
        """
        from twisted.internet import reactor

        threads = cast(IReactorFromThreads, reactor)
        pool = ThreadPool(minthreads=0, maxthreads=1)
        pool.start()
        self.addCleanup(pool.stop)
        channel = await self.open_channel()
        await channel.queue_declare("work")
        await channel.basic_consume(
            "work", lambda delivery: deferToThreadPool(threads, pool, delivery.ack)
        )
        self.broker.publish("", "work", b"one")
        await self.until(lambda: self.assertQueue("work", ready=0, unacked=0))


class AsyncDebtTests(TestCase):
    """
    What a test on the reactor leaves behind fails it.
    """

    async def test_connection(self) -> None:
        """
        A connection that nobody has closed does.
        """
        case = AsyncBrokerTestCase()
        case.setUp()
        await case._connect("", {})
        with self.assertRaises(self.failureException) as caught:
            await case._end()
        self.assertIn("1 of 1 connections are still open", str(caught.exception))
