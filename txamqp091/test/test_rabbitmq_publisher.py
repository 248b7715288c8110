# -*- test-case-name: txamqp091.test.test_rabbitmq_publisher -*-
"""
The reliable publisher, remote calls and new secrets, on RabbitMQ: nodes are killed,
alarms are raised, and the books balance (criteria 13 to 16).
"""

from __future__ import annotations

import time
from collections import Counter
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.python.failure import Failure

from txamqp091.arguments import classic_queue
from txamqp091.errors import CallTimeout, ConnectionBlocked, NotFound, Returned
from txamqp091.message import Delivery
from txamqp091.service.backoff import RetryPolicy
from txamqp091.service.client import AMQPClientService
from txamqp091.service.letters import REPUBLISHED
from txamqp091.service.observing import ServiceObserver
from txamqp091.service.publisher import Publisher
from txamqp091.service.rpc import RPCClient, RPCServer
from txamqp091.service.secrets import ExpiringCredentials, Secret, SecretRefresh
from txamqp091.service.topology import Queue, Topology
from txamqp091.test.integration import (
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

PERSISTENT = Properties(delivery_mode=2)


def the_reactor() -> IReactorTime:
    """
    The reactor, which must not be imported before it is there.
    """
    from twisted.internet import reactor

    return reactor


class Load:
    """
    Offers a thousand messages a second to a publisher, and keeps the books.

    :ivar offered: how many messages were offered and taken.
    :ivar refused: how many were not, as the publisher was full.
    :ivar confirmed: the numbers of those that were confirmed.
    :ivar failed: by number, why one was not.
    :ivar longest: the longest time without a confirm, in seconds.
    """

    def __init__(self, publisher: Publisher, queue: str) -> None:
        self.offered = 0
        self.refused = 0
        self.confirmed: set[int] = set()
        self.failed: dict[int, BaseException | None] = {}
        self.longest = 0.0
        self._publisher = publisher
        self._queue = queue
        self._started = self._last = time.monotonic()
        self._call = LoopingCall(self._offer)

    def start(self) -> None:
        """
        Begin.
        """
        self._started = self._last = time.monotonic()
        self._call.start(0.01)

    def stop(self) -> float:
        """
        Offer no more.

        :returns: how many messages per second there were.
        """
        self._call.stop()
        seconds = time.monotonic() - self._started
        return (self.offered + self.refused) / seconds

    def _offer(self) -> None:
        # As many as it takes, also if the reactor was busy.
        due = (time.monotonic() - self._started) * 1050
        while self.offered + self.refused < due:
            if not self._publisher.has_room:
                self.refused += 1
                continue
            number = self.offered
            self.offered += 1
            published = self._publisher.publish(
                "", self._queue, f"{number}", PERSISTENT, mandatory=True
            )
            published.addCallback(self._confirmed, number)
            published.addErrback(self._failed, number)

    def _confirmed(self, _: None, number: int) -> None:
        self.confirmed.add(number)
        now = time.monotonic()
        self.longest = max(self.longest, now - self._last)
        self._last = now

    def _failed(self, failure: Failure, number: int) -> None:
        self.failed[number] = failure.value


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
class KillTests(PublisherTestCase):
    """
    The only node is killed, under load.
    """

    timeout = 120.0

    async def test_killed_three_times(self) -> None:
        """
        Criterion 15: kill -9 and restart, three times, at 1,000 messages a second:
        everything is confirmed in the end and is there, and no more came twice than was
        in flight.
        """
        node = await self.private_node()
        service = self.service(
            f"amqp://guest:guest@{node.host}:{node.port}",
            topology=Topology.of(Queue(name="work")),
        )
        publisher = Publisher(service, limit=30_000)
        await service.when_ready()
        load = Load(publisher, "work")
        load.start()
        in_flight = 0
        for _ in range(3):
            enough = publisher.confirmed + 500
            await until(partial(lambda n: publisher.confirmed > n, enough))
            await in_thread(node.kill)
            await until(lambda: service.connection is None)
            in_flight = publisher.republished
            self.assertEqual(publisher.unconfirmed, 0)
            await in_thread(node.start)
            await service.when_ready()
        rate = load.stop()
        await publisher.when_idle()
        self.assertGreaterEqual(rate, 1000)
        self.assertEqual((load.failed, load.refused), ({}, 0))
        self.assertEqual(len(load.confirmed), load.offered)
        got = await self.drained(service, "work")
        bodies = Counter(int(each.body) for each in got)
        self.assertEqual(set(range(load.offered)) - set(bodies), set())
        self.assertLessEqual(len(got) - load.offered, in_flight)
        seen: set[int] = set()
        for each in got:
            if int(each.body) in seen:
                self.assertIn(REPUBLISHED, each.headers)
            seen.add(int(each.body))


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
            self.uri.replace("?", "?heartbeat=1&")
            if "?" in self.uri
            else f"{self.uri}?heartbeat=1",
            topology=Topology.of(
                Queue(name="work", arguments=classic_queue(max_length=10))
            ),
        )
        publisher = Publisher(service)
        observer = Alarms()
        service.observe(observer)
        connection = await service.when_ready()
        body = bytes(10_000)
        published: list[Deferred[None]] = []

        def offer() -> None:
            for _ in range(20):
                if publisher.has_room:
                    published.append(publisher.publish("", "work", body))

        call = LoopingCall(offer)
        call.start(0.01)
        await until(lambda: publisher.confirmed > 1000)
        before = resident()
        began = time.monotonic()
        self.addCleanup(self.node.set_memory_alarm, False)
        await in_thread(self.node.set_memory_alarm, True)
        await until(lambda: bool(observer.events))
        self.assertLess(time.monotonic() - began, 1.0)
        await until(lambda: not publisher.has_room)
        await deferLater(the_reactor(), 2.0)
        self.assertLessEqual(publisher.size, (16 << 20) + 10_000)
        self.assertLess(resident() - before, 24 << 20)
        confirmed = publisher.confirmed
        await in_thread(self.node.set_memory_alarm, False)
        await until(lambda: len(observer.events) == 2)
        await until(lambda: publisher.confirmed > confirmed, 1.0)
        call.stop()
        self.assertEqual(await outcomes(published), [None] * len(published))
        self.assertIs(service.connection, connection)
        self.assertEqual(observer.events, ["blocked", "unblocked"])

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


class Alarms(ServiceObserver):
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
        asked = [client.call("", "calls", f"a{n}", timeout=10) for n in range(200)]
        for number, each in enumerate(asked):
            self.assertEqual((await each).body, b"A%d" % number)
        failed = await outcomes(
            [
                client.call("", "calls", "fail", timeout=10),
                client.call("", "calls", "wait", timeout=0.2),
                client.call("", "nowhere", "", timeout=10),
            ]
        )
        self.assertEqual(
            [type(each).__name__ for each in failed],
            ["CallFailed", "CallTimeout", "Returned"],
        )
        self.assertIsInstance(failed[1], CallTimeout)
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        pending = client.call("", "calls", "wait", timeout=10)
        await until(lambda: server.consumer.running == 2)
        assert client_service.connection is not None
        began = time.monotonic()
        client_service.connection.close()
        (error,) = await outcomes([pending])
        self.assertIsNotNone(error)
        self.assertLess(time.monotonic() - began, 1.0)
        again = await client.call("", "calls", "again", timeout=10)
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
