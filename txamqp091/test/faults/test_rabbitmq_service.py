# -*- test-case-name: txamqp091.test.faults.test_rabbitmq_service -*-
"""
The client service and a real RabbitMQ, through a network that misbehaves: after each
fault it is ready again, with one subscription for each consumer, and the books balance.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sized
from dataclasses import replace
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from txamqp091.arguments import quorum_queue, stream_consumer, stream_queue
from txamqp091.channel import Channel
from txamqp091.credentials import PlainCredentials
from txamqp091.errors import (
    AccessRefused,
    AuthenticationFailed,
    ConnectionForced,
    ConnectionLost,
    ConsumerCancelled,
    HeartbeatTimeout,
    NotFound,
    PreconditionFailed,
    TopologyFailed,
)
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.service import (
    AMQPClientService,
    Binding,
    EntityState,
    Exchange,
    Queue,
    RecoveringChannel,
    RecoveringConsumer,
    RetryPolicy,
    Topology,
)
from txamqp091.test.support.books import PATIENCE, size
from txamqp091.test.support.chaos import Cut, Direction, Frame, Link
from txamqp091.test.support.integration import (
    RabbitTestCase,
    every_broker,
    in_thread,
    until,
)
from txamqp091.test.support.processes import RabbitError
from txamqp091.test.support.service_case import Events
from txamqp091.wire.properties import Properties
from txamqp091.wire.spec import BasicDeliver

#: Tests have no time for the delays that production has.
POLICY = RetryPolicy(initial_delay=0.1, max_delay=0.5)


PERSISTENT = Properties(delivery_mode=2)


class Books:
    """
    What was confirmed, what was delivered, and what was acknowledged.

    :ivar confirmed: the bodies of the messages that the broker has confirmed.
    :ivar delivered: how often each came.
    """

    def __init__(self) -> None:
        self.confirmed: set[bytes] = set()
        self.delivered: dict[bytes, int] = {}
        self.unmarked = 0
        self._count = 0

    def handle(self, delivery: Delivery) -> None:
        """
        A handler.
        """
        before = self.delivered.get(delivery.body, 0)
        if before and not delivery.redelivered:
            self.unmarked += 1
        self.delivered[delivery.body] = before + 1
        delivery.ack()

    def publish(self, channel: RecoveringChannel, queue: str, count: int) -> None:
        """
        Publish messages, and write down those that are confirmed.
        """
        for _ in range(count):
            self._count += 1
            body = b"%d" % self._count
            published = channel.call(
                Channel.basic_publish, "", queue, body, PERSISTENT, mandatory=True
            )
            published.addCallbacks(
                lambda _, body=body: self.confirmed.add(body), lambda _: None
            )

    @property
    def missing(self) -> list[int]:
        """
        What was confirmed and has not come.
        """
        return sorted(int(each) for each in self.confirmed - set(self.delivered))


def longer(things: Sized, count: int) -> bool:
    """
    Whether there are more than so many.
    """
    return len(things) > count


class ServiceTestCase(RabbitTestCase):
    """
    A service, a consumer, and a channel in confirm mode.
    """

    timeout = 900.0

    async def begin(self, **options: Any) -> AMQPClientService:
        """
        Have them, ready.
        """
        from twisted.internet import reactor

        self.queue = self.queue_name()
        self.books = Books()
        self.events = Events()
        parameters = ConnectionParameters.from_uri(self.uri)
        changes = {
            each: options.pop(each)
            for each in list(options)
            if each in ("port", "heartbeat", "credentials")
        }
        options.setdefault("policy", POLICY)
        options.setdefault("topology", Topology.of(Queue(name=self.queue)))
        self.client = AMQPClientService(
            reactor,
            replace(parameters, **changes),
            **options,
        )
        self.events.observe(self.client)
        self.consumer: RecoveringConsumer = self.client.consume(
            self.queue, self.books.handle
        )
        self.channel: RecoveringChannel = self.client.channel(confirm=True)
        self.addCleanup(self.client.stopService)
        self.client.startService()
        return self.client

    async def ready(self) -> None:
        """
        Wait until everything is there.
        """
        await self.client.when_ready()
        await self.channel.when_open()
        await self.consumer.when_subscribed()

    async def whole(self) -> None:
        """
        Everything is there, once, and the books balance.
        """
        await self.ready()
        await self.one_subscription()
        self.books.publish(self.channel, self.queue, 10)
        await self.channel.when_idle()
        with contextlib.suppress(AssertionError):
            await until(lambda: not self.books.missing, PATIENCE)
        self.assertEqual(self.books.missing, [], repr(self.consumer))
        self.assertGreaterEqual(len(self.books.confirmed), 10)
        self.assertEqual(self.books.unmarked, 0)
        await until(self.is_empty, PATIENCE)

    async def one_subscription(self) -> None:
        """
        The broker counts one subscription, as soon as it knows that those of former
        connections have gone.
        """
        from twisted.internet import reactor

        deadline = reactor.seconds() + PATIENCE
        count = 0
        while count != 1:
            self.assertLess(reactor.seconds(), deadline, f"{count} subscriptions")
            declared = await self.channel.call(
                Channel.queue_declare, self.queue, passive=True
            )
            count = declared.consumer_count

    def is_empty(self) -> bool:
        """
        Whether the queue has no messages, neither ready nor unacknowledged.
        """
        # A node that is busy may not let the question in.
        with contextlib.suppress(RabbitError):
            unacknowledged = self.node.unacknowledged(self.queue, self.vhost)
            depth = self.node.queue_depth(self.queue, self.vhost)
            return not (unacknowledged or depth)
        return False

    def depth(self) -> int:
        """
        How many messages the queue has ready; -1 if the node is too busy to say.
        """
        with contextlib.suppress(RabbitError):
            return self.node.queue_depth(self.queue, self.vhost)
        return -1

    async def lost_times(self, count: int) -> None:
        """
        Wait until the connection was lost so many times.
        """
        await until(lambda: self.events.names.count("lost") >= count)

    def lost(self) -> BaseException:
        """
        Why the connection was lost the last time.
        """
        places = [
            place for place, name in enumerate(self.events.names) if name == "lost"
        ]
        self.assertTrue(places, "the connection was not lost")
        reason: BaseException = self.events.details[places[-1]][0]
        return reason


@every_broker
class LinkTests(ServiceTestCase):
    """
    The network misbehaves.
    """

    async def test_reset_mid_frame(self) -> None:
        """
        The connection is reset in the middle of a delivery, ten times, while messages
        are published.
        """
        left = 10

        def hook(unit: Frame | bytes, way: Direction, link: Link) -> Cut | None:
            nonlocal left
            if isinstance(unit, Frame) and unit.method is BasicDeliver and left:
                left -= 1
                return Cut(unit.encode()[:11])
            return None

        proxy = self.proxy(on_frame=hook)
        await self.begin(port=proxy.port)
        await self.ready()
        while left:
            self.books.publish(self.channel, self.queue, 20)
            await self.channel.when_idle()
            await self.ready()
        await self.lost_times(10)
        self.assertIsInstance(self.lost(), ConnectionLost)
        await self.whole()

    async def test_refused(self) -> None:
        """
        Nobody listens for a while.
        """
        proxy = self.proxy()
        await self.begin(port=proxy.port)
        await self.whole()
        proxy.refuse()
        proxy.reset()
        await until(lambda: "recovering" in self.events.names)
        proxy.accept()
        await self.whole()

    async def test_half_open(self) -> None:
        """
        The peer vanishes without a word: the heartbeat notices.
        """
        proxy = self.proxy()
        await self.begin(port=proxy.port, heartbeat=2)
        await self.whole()
        proxy.hole()
        self.books.publish(self.channel, self.queue, 10)
        await until(lambda: "lost" in self.events.names)
        self.assertIsInstance(self.lost(), HeartbeatTimeout)
        proxy.heal()
        await self.whole()

    async def test_slow(self) -> None:
        """
        A slow link is no fault.
        """
        proxy = self.proxy()
        proxy.slow(up=20_000, down=20_000)
        await self.begin(port=proxy.port)
        await self.whole()
        self.assertNotIn("lost", self.events.names)

    async def test_many_reconnects(self) -> None:
        """
        After each of many forced reconnects there is one subscription
        (criterion 18).
        """
        policy = RetryPolicy(initial_delay=0.001, max_delay=0.001)
        await self.begin(policy=policy)
        await self.ready()
        for _ in range(size(100, 1000)):
            lost = self.events.names.count("lost")
            assert self.client.connection is not None
            transport: Any = self.client.connection.transport
            transport.abortConnection()
            await self.lost_times(lost + 1)
            await self.ready()
            await self.one_subscription()
        self.assertEqual(self.consumer.subscribed, size(100, 1000) + 1)
        await self.whole()


@every_broker
class BrokerTests(ServiceTestCase):
    """
    The broker does what brokers do.
    """

    async def test_close_connections(self) -> None:
        """
        An operator closes all connections.
        """
        await self.begin()
        await self.whole()
        await in_thread(self.node.close_connections)
        await until(lambda: "lost" in self.events.names)
        self.assertIsInstance(self.lost(), ConnectionForced)
        await self.whole()

    async def test_channel_killed(self) -> None:
        """
        The broker closes the consumer's channel: the connection stays.
        """
        await self.begin()
        await self.whole()
        assert self.consumer.channel.channel is not None
        self.consumer.channel.channel.basic_ack(4711)
        await until(lambda: self.consumer.channel.error is not None)
        self.assertIsInstance(self.consumer.channel.error, PreconditionFailed)
        await self.whole()
        self.assertNotIn("lost", self.events.names)
        self.assertEqual(self.consumer.subscribed, 2)

    async def test_queue_deleted(self) -> None:
        """
        The queue is deleted under the consumer: being in the topology, it is made again
        (criterion 20).
        """
        await self.begin()
        await self.whole()
        other = await self.open_channel()
        await other.queue_delete(self.queue)
        await until(lambda: "unsubscribed" in self.events.names)
        place = self.events.names.index("unsubscribed")
        self.assertIsInstance(self.events.details[place][1], ConsumerCancelled)
        await self.whole()
        self.assertNotIn("lost", self.events.names)

    async def test_queue_of_others_deleted(self) -> None:
        """
        If it is not, the consumer waits until somebody makes it.
        """
        await self.begin(topology=Topology())
        other = await self.open_channel()
        await other.queue_declare(self.queue)
        await self.whole()
        await other.queue_delete(self.queue)
        await until(lambda: not self.consumer.is_subscribed)
        await until(lambda: self.consumer.channel.opened > 1)
        self.assertFalse(self.consumer.is_subscribed)
        await other.queue_declare(self.queue)
        await self.whole()

    async def test_memory_alarm(self) -> None:
        """
        While the broker takes no messages, deliveries carry on, and observers know.
        """
        await self.begin()
        await self.whole()
        self.books.publish(self.channel, self.queue, 5)
        await self.channel.when_idle()
        await in_thread(self.block_publishers)
        self.books.publish(self.channel, self.queue, 50)
        await until(lambda: "blocked" in self.events.names)
        await in_thread(self.node.set_memory_alarm, False)
        await until(lambda: "unblocked" in self.events.names)
        await self.whole()
        self.assertEqual(len(self.books.confirmed), 75)
        self.assertNotIn("lost", self.events.names)

    async def test_password(self) -> None:
        """
        With a wrong password it tries until somebody puts it right.
        """
        user = self.queue_name()
        everything = ", ".join(['<<".*">>'] * 3)
        self.node.eval(
            f'rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"old">>, <<"t">>),'
            " rabbit_auth_backend_internal:set_permissions("
            f'<<"{user}">>, <<"{self.vhost}">>, {everything}, <<"t">>).'
        )
        await self.begin(credentials=[PlainCredentials(user, "new")])
        await until(lambda: self.events.names.count("recovering") > 2)
        self.assertIsInstance(self.client.error, AuthenticationFailed)
        self.node.eval(
            "rabbit_auth_backend_internal:change_password("
            f'<<"{user}">>, <<"new">>, <<"t">>).'
        )
        await self.whole()


@every_broker
class RefusedTests(ServiceTestCase):
    """
    Consumers that are refused.
    """

    async def test_refused(self) -> None:
        """
        Each reason that does not pass by itself is told apart, and the others work; it
        is well once somebody has put it right (criteria 19 and 20).
        """
        user = self.queue_name()

        def permit(read: str) -> None:
            rights = f'<<".*">>, <<".*">>, <<"{read}">>'
            self.node.eval(
                "rabbit_auth_backend_internal:set_permissions("
                f'<<"{user}">>, <<"{self.vhost}">>, {rights}, <<"t">>).'
            )

        self.node.eval(
            f'rabbit_auth_backend_internal:add_user(<<"{user}">>, <<"p">>, <<"t">>).'
        )
        permit("test_refused.*")
        await self.begin(credentials=[PlainCredentials(user, "p")])
        await self.whole()
        other = await self.open_channel()
        await other.queue_declare("secret")
        taken: list[bytes] = []

        def take(delivery: Delivery) -> None:
            taken.append(delivery.body)
            delivery.ack()

        consumers = [
            (self.client.consume("secret", take), AccessRefused),
            (self.client.consume(f"{user}-later", take), NotFound),
            (
                self.client.consume(self.queue, take, arguments={"x-priority": "high"}),
                PreconditionFailed,
            ),
        ]
        for consumer, kind in consumers:
            await until(partial(getattr, consumer, "is_refused"))
            self.assertIsInstance(consumer.error, kind)
        self.assertNotIn("unsubscribed", self.events.names)
        await self.whole()
        permit(".*")
        await other.queue_declare(f"{user}-later")
        for consumer, _ in consumers[:2]:
            await consumer.when_subscribed()
            self.assertFalse(consumer.is_refused)
        await self.whole()
        self.assertNotIn("lost", self.events.names)

    async def test_ends(self) -> None:
        """
        It ends with the reason, if it is to.
        """
        await self.begin()
        await self.whole()
        consumer = self.client.consume(
            self.queue_name(), self.books.handle, on_refused="end"
        )
        with self.assertRaises(NotFound):
            await consumer.when_ended()
        self.assertEqual(self.client.consumers, [self.consumer])
        await self.whole()


@every_broker
class TopologyTests(ServiceTestCase):
    """
    Topologies on the real thing.
    """

    async def test_all(self) -> None:
        """
        Everything is declared, compared and deleted.
        """
        name = self.queue_name()
        replies = Queue(exclusive=True)
        topology = Topology.of(
            Exchange(name=f"{name}.x", type="topic"),
            Exchange(name=f"{name}.y", type="fanout", auto_delete=True),
            Queue(name=f"{name}.q", arguments=quorum_queue(delivery_limit=3)),
            Queue(name=f"{name}.s", arguments=stream_queue()),
            replies,
            Binding(source=f"{name}.x", queue=f"{name}.q", routing_key="a.#"),
            Binding(source=f"{name}.y", queue=replies),
            Binding(source=f"{name}.x", exchange=f"{name}.y", routing_key="#"),
        )
        connection = await self.connect()
        missing = await topology.diff(connection)
        self.assertEqual(
            [each.state for each in missing[:4]], [EntityState.MISSING] * 4
        )
        outcomes = await topology.apply(connection)
        self.assertEqual([str(each) for each in outcomes if not each.ok], [])
        found = await topology.diff(connection)
        self.assertEqual([each.state for each in found[:4]], [EntityState.PRESENT] * 4)
        other = Queue(name=f"{name}.q", arguments=quorum_queue(delivery_limit=4))
        (different,) = await Topology.of(other).diff(connection)
        self.assertEqual(different.state, EntityState.DIFFERENT)
        self.assertIn("x-delivery-limit", different.detail)
        outcomes = await topology.delete(connection)
        self.assertEqual([str(each) for each in outcomes if not each.ok], [])
        gone = await topology.diff(connection)
        self.assertEqual([each.state for each in gone[:4]], [EntityState.MISSING] * 4)

    async def test_refused(self) -> None:
        """
        A bad entity among good ones: these stand, and that is told (criterion 19).
        """
        name = self.queue_name()
        other = await self.open_channel()
        await other.queue_declare(f"{name}.bad")
        await self.begin(
            topology=Topology.of(
                Queue(name=f"{name}.bad", arguments=quorum_queue()),
                Queue(name=self.queue_name()),
            )
        )
        await self.assertFailure(self.client.when_ready(), TopologyFailed)
        bad, good = self.client.outcomes
        self.assertIsInstance(bad.error, PreconditionFailed)
        self.assertTrue(good.ok)
        await other.queue_delete(f"{name}.bad")
        await until(lambda: all(each.ok for each in self.client.outcomes))
        await self.client.when_ready()

    async def test_costly(self) -> None:
        """
        An exchange of a type that does not exist, for which older brokers close the
        connection, does not keep the service from being there.
        """
        name = self.queue_name()
        queue = Queue(name=f"{name}.good")
        await self.begin(
            topology=Topology.of(Exchange(name=f"{name}.x", type="nothing"), queue)
        )
        await self.assertFailure(self.client.when_ready(), TopologyFailed)
        self.assertIsNotNone(self.client.connection)
        self.assertTrue(self.client.outcomes[1].ok)

    async def test_server_named(self) -> None:
        """
        An exclusive queue without a name is made again, bound and consumed from.
        """
        replies = Queue(exclusive=True)
        name = self.queue_name()
        events = Exchange(name=name, type="fanout")
        proxy = self.proxy()
        await self.begin(
            port=proxy.port,
            topology=Topology.of(
                events, replies, Binding(source=events, queue=replies)
            ),
        )
        got: list[bytes] = []
        consumer = self.client.consume(
            replies, lambda delivery: got.append(delivery.body), auto_ack=True
        )
        names = set()
        for number in range(3):
            await consumer.when_subscribed()
            names.add(self.client.queue_name(replies))
            await self.channel.call(Channel.basic_publish, name, "", b"%d" % number)
            await until(partial(longer, got, number))
            proxy.reset()
            await self.lost_times(number + 1)
        self.assertEqual(got, [b"0", b"1", b"2"])
        self.assertEqual(len(names), 3)


@every_broker
class StreamTests(ServiceTestCase):
    """
    A stream over reconnects.
    """

    async def test_resume(self) -> None:
        """
        It goes on behind the last message that was acknowledged: each comes once.
        """
        name = self.queue_name()
        log = Queue(name=name, arguments=stream_queue())
        proxy = self.proxy()
        await self.begin(port=proxy.port, topology=Topology.of(log))
        offsets: list[int | None] = []

        def handle(delivery: Delivery) -> None:
            offsets.append(delivery.stream_offset)
            delivery.ack()

        consumer = self.client.consume(
            log, handle, prefetch=7, arguments=stream_consumer("first")
        )
        for number in range(1, 4):
            await self.channel.when_open()
            for _ in range(20):
                self.channel.call(Channel.basic_publish, "", name, b"x")
            await self.channel.when_idle()
            await until(partial(longer, offsets, 20 * number - 1))
            self.assertEqual(consumer.offset, 20 * number)
            proxy.reset()
            await self.lost_times(number)
        await consumer.when_subscribed()
        self.assertEqual(offsets, list(range(60)))


@every_broker
class DrainTests(ServiceTestCase):
    """
    Stopping in the middle of it.
    """

    async def test_drain(self) -> None:
        """
        Handlers end, their messages are gone, and those that no handler has are in the
        queue, in order.
        """
        await self.begin()
        await self.ready()
        await self.consumer.cancel()
        running: list[Deferred[None]] = []

        def handle(delivery: Delivery) -> Deferred[None]:
            running.append(Deferred())
            return running[-1].addCallback(lambda _: delivery.ack())

        slow = self.client.consume(self.queue, handle, prefetch=3)
        await slow.when_subscribed()
        self.books.publish(self.channel, self.queue, 10)
        await self.channel.when_idle()
        await until(lambda: len(running) == 3)
        stopped = self.client.stopService()
        await until(lambda: not slow.is_subscribed)
        for each in running:
            each.callback(None)
        await stopped
        await until(lambda: self.depth() == 7)
        channel = await self.open_channel()
        bodies = [await channel.basic_get(self.queue, True) for _ in range(7)]
        self.assertEqual(
            [each and each.body for each in bodies], [b"%d" % n for n in range(4, 11)]
        )


@every_broker
class KilledTests(ServiceTestCase):
    """
    A node of one's own is killed.
    """

    timeout = 3600.0

    async def test_killed(self) -> None:
        """
        It is killed under load, and started again: whatever was confirmed is delivered,
        and marked if it comes again (criterion 15, for consumers).
        """
        self.node = await self.private_node()
        self.uri = f"amqp://guest:guest@{self.node.host}:{self.node.port}"
        self.vhost = "/"
        await self.begin()
        await self.ready()
        # RabbitMQ 3.10 has said that there is a queue before that was on disk.
        await in_thread(self.node.sync)
        for round_ in range(size(1, 3)):
            self.books.publish(self.channel, self.queue, 500)
            await until(
                partial(longer, self.books.confirmed, 100 * (round_ + 1)), PATIENCE
            )
            self.books.publish(self.channel, self.queue, 2000)
            await in_thread(self.node.kill)
            await self.lost_times(round_ + 1)
            await in_thread(self.node.start)
            await self.ready()
        await self.whole()
