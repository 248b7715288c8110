# -*- test-case-name: txamqp091.test.faults.test_rabbitmq_publisher -*-
"""
The reliable publisher, remote calls and new secrets, on RabbitMQ: alarms are raised,
messages are refused, and each has its fate (criterion 13).  Nodes are killed elsewhere:
`test_chaos_service`, `test_cluster`.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater

from txamqp091.arguments import classic_queue
from txamqp091.errors import (
    CallTimeout,
    ConnectionBlocked,
    ConnectionClosed,
    NotFound,
    Returned,
)
from txamqp091.message import Delivery
from txamqp091.service import (
    AMQPClientService,
    ExpiringCredentials,
    Publisher,
    Queue,
    RetryPolicy,
    RPCClient,
    RPCServer,
    Secret,
    SecretRefresh,
    Topology,
)
from txamqp091.test.support.books import PATIENCE, assert_quick, report
from txamqp091.test.support.integration import (
    RabbitTestCase,
    every_broker,
    in_thread,
    outcomes,
    resident,
    until,
)
from txamqp091.wire.properties import Properties

#: Tests do not wait for long.
HASTY = RetryPolicy(initial_delay=0.05, max_delay=0.3)


def the_reactor() -> IReactorTime:
    """
    The reactor, which must not be imported before it is there.
    """
    from twisted.internet import reactor

    return reactor


class PublisherTestCase(RabbitTestCase):
    """
    A test case that has services.
    """

    def service(self, *where: Any, **options: Any) -> AMQPClientService:
        """
        A service that is started, and stopped when the test ends.
        """
        options.setdefault("policy", HASTY)
        service = AMQPClientService(the_reactor(), where or self.uri, **options)
        service.startService()
        self.addCleanup(service.stopService)
        return service

    async def drained(self, service: AMQPClientService, queue: str) -> list[Delivery]:
        """
        All that is in a queue.
        """
        connection = await service.when_ready()
        channel = await connection.open_channel()
        count = (await channel.queue_declare(queue, passive=True)).message_count
        got: list[Delivery] = []
        await channel.basic_consume(queue, got.append, auto_ack=True)
        await until(lambda: len(got) >= count)
        await channel.close()
        return got


@every_broker
class AlarmTests(PublisherTestCase):
    """
    The node's memory alarm is raised.
    """

    async def test_bounded(self) -> None:
        """
        Criterion 13, for a few seconds: the publisher is told, takes so much and no
        more, and goes on, with the connection that it had.
        """
        service = self.service(
            f"{self.uri}?heartbeat=2",
            topology=Topology.of(
                Queue(name="work", arguments=classic_queue(max_length=10))
            ),
        )
        publisher = Publisher(service, blocked_timeout=None)
        observer = Alarms()
        service.observe(blocked=observer.blocked, unblocked=observer.unblocked)
        connection = await service.when_ready()
        body = bytes(10_000)
        published: list[Deferred[None]] = []

        def offer() -> None:
            for _ in range(20):
                if publisher.has_room:
                    published.append(publisher.publish("", "work", body))

        call = LoopingCall(offer)
        call.start(0.01)
        await until(lambda: publisher.confirmed > 1000, PATIENCE)
        before = resident()
        self.addCleanup(self.node.set_memory_alarm, False)
        # When that returns, the next message that comes is what is answered so.
        await in_thread(self.node.set_memory_alarm, True)
        began = monotonic()
        await until(lambda: bool(observer.events), PATIENCE)
        told = monotonic() - began
        await until(lambda: not publisher.has_room, PATIENCE)
        # Longer than a silent peer has.
        await deferLater(the_reactor(), 4.5)
        self.assertLessEqual(publisher.size, (16 << 20) + 10_000)
        grown = resident() - before
        # Twice what the criterion says: others have been in this process before.
        self.assertLess(grown, 48 << 20)
        confirmed = publisher.confirmed
        await in_thread(self.node.set_memory_alarm, False)
        await until(lambda: len(observer.events) == 2, PATIENCE)
        began = monotonic()
        await until(lambda: publisher.confirmed > confirmed, PATIENCE)
        resumed = monotonic() - began
        call.stop()
        self.assertEqual(await outcomes(published), [None] * len(published))
        self.assertIs(service.connection, connection)
        self.assertEqual(observer.events, ["blocked", "unblocked"])
        report(self.id(), grown_mib=grown / (1 << 20))
        assert_quick(self, "told_seconds", told, 0.2)
        assert_quick(self, "resumed_seconds", resumed, 1.0)

    async def test_limit(self) -> None:
        """
        A message waits while the broker blocks, but not for longer than it may; whether
        or not it has left.
        """
        service = self.service(topology=Topology.of(Queue(name="limit")))
        publisher = Publisher(service, blocked_timeout=0.5)
        await service.when_ready()
        self.addCleanup(self.node.set_memory_alarm, False)
        await in_thread(self.node.set_memory_alarm, True)
        # RabbitMQ says so when somebody publishes.
        failed = await outcomes([publisher.publish("", "limit", "left")])
        failed += await outcomes([publisher.publish("", "limit", "not left")])
        self.assertEqual([type(each) for each in failed], [ConnectionBlocked] * 2)
        sent = [each.sent for each in failed if isinstance(each, ConnectionBlocked)]
        self.assertEqual(sent, [True, False])
        await in_thread(self.node.set_memory_alarm, False)
        await publisher.publish("", "limit", "later")
        got = await self.drained(service, "limit")
        self.assertEqual([each.body for each in got], [b"left", b"later"])


class Alarms:
    """
    Writes down when the broker blocks, and when it goes on.
    """

    def __init__(self) -> None:
        self.events: list[str] = []

    def blocked(self, reason: str) -> None:
        self.events.append("blocked")

    def unblocked(self) -> None:
        self.events.append("unblocked")


@every_broker
class RefusalTests(PublisherTestCase):
    """
    The broker refuses a message, and says so by closing the channel.
    """

    async def test_others_are_taken(self) -> None:
        """
        A message to an exchange that does not exist, and one with a user that nobody
        is, fail alone.
        """
        service = self.service(topology=Topology.of(Queue(name="others")))
        publisher = Publisher(service)
        await service.when_ready()
        good = [publisher.publish("", "others", f"{n}") for n in range(50)]
        missing = publisher.publish("missing", "", "")
        good += [publisher.publish("", "others", f"{n}") for n in range(50, 100)]
        wrong = publisher.publish("", "others", "", Properties(user_id="nobody"))
        good += [publisher.publish("", "others", f"{n}") for n in range(100, 150)]
        lost = publisher.publish("", "nowhere", "", mandatory=True)
        errors = await outcomes([missing, wrong, lost])
        self.assertIsInstance(errors[0], NotFound)
        self.assertEqual(getattr(errors[1], "reply_code", 0), 406)
        self.assertIsInstance(errors[2], Returned)
        self.assertEqual(await outcomes(good), [None] * 150)
        got = await self.drained(service, "others")
        self.assertEqual({int(each.body) for each in got}, set(range(150)))


@every_broker
class CallTests(PublisherTestCase):
    """
    Remote calls.
    """

    async def test_calls(self) -> None:
        """
        Many calls, each with its own answer; one that nobody answers; one that the
        other side fails at; and one after the connection was lost.
        """
        queue = Queue(name="calls", exclusive=False)
        # Those who wait for ever do not matter when it is stopped.
        server_service = self.service(topology=Topology.of(queue), shutdown_timeout=0.1)
        client_service = self.service()

        def handler(request: Delivery) -> Any:
            if request.body == b"fail":
                raise KeyError("no such thing")
            if request.body == b"wait":
                return Deferred()
            return request.body.upper()

        server = RPCServer(server_service, "calls", handler)
        await server.consumer.when_subscribed()
        client = RPCClient(client_service)
        asked = [
            client.call("", "calls", f"a{n}", timeout=PATIENCE) for n in range(200)
        ]
        for number, each in enumerate(asked):
            self.assertEqual((await each).body, b"A%d" % number)
        failed = await outcomes(
            [
                client.call("", "calls", "fail", timeout=PATIENCE),
                client.call("", "calls", "wait", timeout=0.2),
                client.call("", "nowhere", "", timeout=PATIENCE),
            ]
        )
        self.assertEqual(
            [type(each).__name__ for each in failed],
            ["CallFailed", "CallTimeout", "Returned"],
        )
        self.assertIsInstance(failed[1], CallTimeout)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        pending = client.call("", "calls", "wait", timeout=PATIENCE)
        await until(lambda: server.consumer.running == 2)
        assert client_service.connection is not None
        client_service.connection.close()
        (error,) = await outcomes([pending])
        self.assertIsInstance(error, ConnectionClosed)
        again = await client.call("", "calls", "again", timeout=PATIENCE)
        self.assertEqual(again.body, b"AGAIN")


@every_broker
class SecretTests(PublisherTestCase):
    """
    New secrets, by connection.update-secret.
    """

    async def test_refresh(self) -> None:
        """
        The broker takes new secrets, again and again, and the connection lasts.
        """
        fetched = 0

        def fetch() -> Secret:
            nonlocal fetched
            fetched += 1
            return Secret("guest", "guest", 0.3)

        credentials = ExpiringCredentials(the_reactor(), fetch)
        service = self.service(credentials=credentials)
        refresh = SecretRefresh(service, credentials, policy=HASTY)
        connection = await service.when_ready()
        await until(lambda: refresh.refreshes >= 3)
        self.assertIs(service.connection, connection)
        self.assertGreaterEqual(fetched, 4)
        refresh.stop()
