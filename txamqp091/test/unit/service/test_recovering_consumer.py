# -*- test-case-name: txamqp091.test.unit.service.test_recovering_consumer -*-
"""
Tests for `txamqp091.service.recovering_consumer`: consumers that come back.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from txamqp091.arguments import stream_consumer, stream_queue
from txamqp091.errors import (
    AccessRefused,
    ConnectionLost,
    ConsumerCancelled,
    NotFound,
    PreconditionFailed,
    UndecodableProperty,
)
from txamqp091.message import Delivery
from txamqp091.service.client import AMQPClientService
from txamqp091.service.entities import Binding, Exchange, Queue
from txamqp091.service.topology import Topology
from txamqp091.test.support.service_case import Inbox, ServiceCase
from txamqp091.testing.network import Direction
from txamqp091.wire.properties import Properties


class ConsumerCase(ServiceCase):
    """
    A service that is ready, and a queue.
    """

    def setUp(self) -> None:
        """
        Have them.
        """
        super().setUp()
        self.client: AMQPClientService = self.service()
        self.broker.declare_queue("work")
        self.inbox = Inbox()

    def assertOneSubscription(self, queue: str = "work") -> None:
        """
        There is exactly one.
        """
        self.assertEqual(self.broker.queue(queue).consumers, 1)


class ComingBackTests(ConsumerCase):
    """
    After each kind of end, there is one subscription, of the same object.
    """

    def test_no_answer(self) -> None:
        """
        The broker does not answer, as RabbitMQ while a queue's leader is frozen:
        another channel is used, without waiting for the end of the old one.
        """
        channel = self.client.channel()
        self.turn()
        self.link.hole(Direction.DOWN)
        consumer = self.client.consume("work", self.inbox, channel=channel)
        self.passes(4.5)
        self.assertTrue(channel.is_open)
        self.passes(1)
        self.assertFalse(channel.is_open)
        self.link.heal()
        self.passes(2)
        self.assertTrue(consumer.is_subscribed)
        self.assertEqual(channel.opened, 2)
        self.assertOneSubscription()
        self.assertEqual(len(self.broker.sessions[0].channels), 1)

    def test_link(self) -> None:
        """
        The link breaks.
        """
        consumer = self.client.consume("work", self.inbox, consumer_tag="me")
        self.turn()
        self.successResultOf(consumer.when_subscribed())
        for number in range(3):
            self.assertTrue(consumer.is_subscribed)
            self.assertIsNone(consumer.error)
            self.assertOneSubscription()
            self.assertEqual(self.broker.queue("work").consumer_tags, ["me"])
            self.broker.publish("", "work", b"%d" % number)
            self.turn()
            self.cut()
            self.assertFalse(consumer.is_subscribed)
            self.assertIsInstance(consumer.error, ConnectionLost)
            waiting = consumer.when_subscribed()
            self.assertNoResult(waiting)
            self.passes(10)
            self.successResultOf(waiting)
        self.assertEqual(self.inbox.bodies, [b"0", b"1", b"2"])
        self.assertEqual(consumer.received, 3)
        self.assertEqual(consumer.subscribed, 4)
        self.assertNoResult(consumer.when_ended())

    def test_channel(self) -> None:
        """
        Its channel is closed: nobody else notices.
        """
        consumer = self.client.consume("work", self.inbox)
        other = self.client.consume("work", Inbox())
        self.turn()
        assert consumer.channel.channel is not None
        self.broker.close_channels(number=consumer.channel.channel.number)
        self.turn()
        self.assertFalse(consumer.is_subscribed)
        self.assertIsInstance(consumer.error, PreconditionFailed)
        self.passes(1)
        self.assertTrue(consumer.is_subscribed)
        self.assertEqual(other.subscribed, 1)
        self.assertEqual(self.broker.queue("work").consumers, 2)

    def test_failover(self) -> None:
        """
        The broker ends it, and the queue is still there.
        """
        consumer = self.client.consume("work", self.inbox)
        self.turn()
        self.broker.cancel_consumers("work")
        self.turn()
        self.assertFalse(consumer.is_subscribed)
        self.assertIsInstance(consumer.error, ConsumerCancelled)
        self.passes(1)
        self.assertTrue(consumer.is_subscribed)
        self.assertOneSubscription()
        self.assertEqual(consumer.channel.opened, 1)

    def test_deleted(self) -> None:
        """
        Its queue is deleted: it is not subscribed, and says so, until somebody makes
        the queue again (criterion 20).
        """
        consumer = self.client.consume("work", self.inbox)
        self.turn()
        self.broker.delete_queue("work")
        self.turn()
        self.assertFalse(consumer.is_subscribed)
        self.assertIn("not subscribed", repr(consumer))
        self.passes(60)
        self.assertFalse(consumer.is_subscribed)
        self.assertIsInstance(consumer.error, NotFound)
        self.broker.declare_queue("work")
        self.passes(17)
        self.assertTrue(consumer.is_subscribed)
        self.assertIsNone(consumer.error)
        self.assertOneSubscription()
        self.assertEqual(len(self.endpoint.links), 1)

    def test_missing_from_the_start(self) -> None:
        """
        A queue that is not there yet is waited for.
        """
        consumer = self.client.consume("later", self.inbox)
        self.passes(5)
        self.assertIsInstance(consumer.error, NotFound)
        self.broker.declare_queue("later")
        self.passes(16)
        self.assertTrue(consumer.is_subscribed)

    def test_deleted_from_the_topology(self) -> None:
        """
        A queue of the topology is made again, with what belongs to it.
        """
        topology = Topology.of(
            Exchange(name="x"), Queue(name="q"), Binding(source="x", queue="q")
        )
        client = self.service(topology=topology)
        consumer = client.consume("q", self.inbox)
        self.turn()
        self.broker.delete_queue("q")
        self.turn()
        self.passes(3)
        self.assertTrue(consumer.is_subscribed)
        self.broker.publish("x", "", b"bound")
        self.turn()
        self.assertEqual(self.inbox.bodies, [b"bound"])
        self.assertOneSubscription("q")
        self.assertEqual(consumer.channel.opened, 2)

    def test_no_permission(self) -> None:
        """
        A consumer that is refused is tried again, with delays that grow; the others
        work.
        """
        self.broker.declare_queue("secret")
        self.broker.set_permissions("guest", read="work")
        refused = self.client.consume("secret", Inbox())
        consumer = self.client.consume("work", self.inbox)
        self.passes(60)
        self.assertIsInstance(refused.error, AccessRefused)
        self.assertLess(refused.channel.opened, 12)
        self.assertTrue(consumer.is_subscribed)
        self.assertEqual(consumer.subscribed, 1)
        self.broker.set_permissions("guest")
        self.passes(16)
        self.assertTrue(refused.is_subscribed)

    def test_costly(self) -> None:
        """
        A consumer for which the broker closes the connection waits longer each time,
        and the others have their peace meanwhile.
        """
        consumer = self.client.consume("work", self.inbox)
        self.turn()
        channel = self.client.channel()
        for _ in range(2):  # the same tag twice on a channel is a connection error
            self.client.consume("work", Inbox(), consumer_tag="twice", channel=channel)
        self.passes(100)
        self.assertLess(len(self.endpoint.links), 20)
        self.assertGreater(consumer.subscribed, 0)

    def test_not_resubscribing(self) -> None:
        """
        It can be told to end when the broker ends it.
        """
        consumer = self.client.consume("work", self.inbox, on_cancelled="end")
        self.turn()
        ended = consumer.when_ended()
        self.broker.delete_queue("work")
        self.turn()
        self.failureResultOf(ended, ConsumerCancelled)
        self.failureResultOf(consumer.when_subscribed(), CancelledError)
        self.assertEqual(self.client.consumers, [])
        self.broker.declare_queue("work")
        self.passes(20)
        self.assertEqual(self.broker.queue("work").consumers, 0)
        self.assertEqual(self.successResultOf(consumer.cancel()), 0)

    def test_shared_channel(self) -> None:
        """
        Several may share a channel, and all come back on it.
        """
        channel = self.client.channel()
        consumers = [
            self.client.consume("work", Inbox(), channel=channel) for _ in range(3)
        ]
        self.turn()
        self.broker.close_channels()
        self.passes(1)
        self.cut()
        self.passes(2)
        self.assertTrue(all(each.is_subscribed for each in consumers))
        self.assertEqual(self.broker.queue("work").consumers, 3)
        self.assertEqual(len(self.broker.sessions[0].channels), 1)

    def test_silence(self) -> None:
        """
        A broker that does not answer to basic.consume is asked again on another
        channel.
        """
        channel = self.client.channel()
        self.turn()
        self.link.hole()
        consumer = self.client.consume("work", self.inbox, channel=channel)
        self.passes(16)
        self.link.heal()
        self.passes(6)
        self.assertTrue(consumer.is_subscribed)
        self.assertOneSubscription()


class ServerNamedTests(ServiceCase):
    """
    Queues whose names the broker makes up.
    """

    def test_renamed(self) -> None:
        """
        After a reconnect the queue has another name, in its bindings and for its
        consumers too.
        """
        replies = Queue(exclusive=True, label="replies")
        events = Exchange(name="events", type="fanout")
        client = self.service(
            topology=Topology.of(events, Binding(source=events, queue=replies), replies)
        )
        inbox = Inbox()
        consumer = client.consume(replies, inbox)
        self.turn()
        names = set()
        for number in range(3):
            self.assertTrue(consumer.is_subscribed)
            names.add(client.queue_name(replies))
            self.assertEqual(client.queue_name("replies"), client.queue_name(replies))
            self.broker.publish("events", "", b"%d" % number)
            self.turn()
            self.cut()
            self.passes(10)
        self.assertEqual(len(names), 3)
        self.assertEqual(inbox.bodies, [b"0", b"1", b"2"])
        self.assertEqual(len(self.broker.queues()), 1)

    def test_deleted(self) -> None:
        """
        When somebody deletes it, there is another one, bound as the first was.
        """
        replies = Queue(exclusive=True)
        client = self.service(
            topology=Topology.of(replies, Binding(source="amq.fanout", queue=replies))
        )
        inbox = Inbox()
        consumer = client.consume(replies, inbox)
        self.turn()
        name = client.queue_name(replies)
        self.broker.delete_queue(name)
        self.passes(3)
        self.assertTrue(consumer.is_subscribed)
        self.assertNotEqual(client.queue_name(replies), name)
        self.broker.publish("amq.fanout", "", b"x")
        self.turn()
        self.assertEqual(inbox.bodies, [b"x"])

    def test_failover(self) -> None:
        """
        When only the consumer was ended, the queue is the same.
        """
        replies = Queue(exclusive=True)
        client = self.service(topology=Topology.of(replies))
        consumer = client.consume(replies, Inbox())
        self.turn()
        name = client.queue_name(replies)
        self.broker.cancel_consumers(name)
        self.passes(1)
        self.assertTrue(consumer.is_subscribed)
        self.assertEqual(self.broker.queues(), [name])

    def test_included(self) -> None:
        """
        A consumer brings its queue into the topology.
        """
        client = self.service()
        consumer = client.consume(Queue(exclusive=True), Inbox())
        self.turn()
        self.assertTrue(consumer.is_subscribed)
        self.cut()
        self.passes(1)
        self.assertTrue(consumer.is_subscribed)
        self.assertEqual(len(self.broker.queues()), 1)


class CancelTests(ConsumerCase):
    """
    Tests for `RecoveringConsumer.cancel`.
    """

    def test_cancel(self) -> None:
        """
        Cancelled, it stays away, and its channel is closed.
        """
        consumer = self.client.consume("work", self.inbox)
        self.turn()
        cancelled = consumer.cancel()
        self.turn()
        self.assertEqual(self.successResultOf(cancelled), 0)
        self.assertEqual(self.successResultOf(consumer.cancel()), 0)
        self.successResultOf(consumer.when_ended())
        self.failureResultOf(consumer.when_subscribed(), CancelledError)
        self.assertIn("cancelled", repr(consumer))
        self.cut()
        self.passes(2)
        self.assertEqual(self.broker.queue("work").consumers, 0)
        self.assertEqual(self.broker.sessions[0].channels, {})

    def test_requeued(self) -> None:
        """
        It tells how many messages went back that were on their way.
        """
        consumer = self.client.consume("work", Inbox(ack=False), prefetch=10)
        self.turn()
        cancelled = consumer.cancel()
        for _ in range(3):
            self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual(self.successResultOf(cancelled), 3)

    def test_unsettled(self) -> None:
        """
        The channel waits for handlers, and for what they will acknowledge later.
        """
        inbox = Inbox(ack=False)
        running: Deferred[None] = Deferred()

        def handle(delivery: Delivery) -> Deferred[None]:
            inbox(delivery)
            return running

        consumer = self.client.consume("work", handle)
        self.turn()
        for _ in range(3):
            self.broker.publish("", "work", b"x")
        self.turn()
        consumer.cancel()
        self.turn()
        self.assertEqual(consumer.running, 3)
        running.callback(None)
        self.turn()
        self.assertEqual(consumer.running, 0)
        self.assertEqual(len(self.broker.sessions[0].channels), 1)
        inbox.deliveries[1].ack(multiple=True)
        self.turn()
        self.assertEqual(len(self.broker.sessions[0].channels), 1)
        inbox.deliveries[2].nack(requeue=False)
        self.turn()
        self.assertEqual(self.broker.sessions[0].channels, {})
        self.assertEqual(self.broker.queue("work").bodies, [])

    def test_unsettled_and_lost(self) -> None:
        """
        If the link breaks first, that was that.
        """
        inbox = Inbox(ack=False)
        consumer = self.client.consume("work", inbox)
        self.turn()
        self.broker.publish("", "work", b"x")
        self.turn()
        consumer.cancel()
        self.turn()
        self.cut()
        self.passes(2)
        inbox.deliveries[0].ack()
        self.assertEqual(self.broker.sessions[0].channels, {})
        self.assertEqual(self.broker.queue("work").bodies, [b"x"])

    def test_every_turn(self) -> None:
        """
        Cancelled in whichever turn of subscribing, it leaves nothing behind.
        """
        for turns in range(20):
            consumer = self.client.consume("work", self.inbox)
            self.turn(turns)
            consumer.cancel()
            self.turn()
            self.successResultOf(consumer.cancel())
            self.assertEqual(self.broker.queue("work").consumers, 0)
            self.assertEqual(self.broker.sessions[0].channels, {})

    def test_while_it_waits(self) -> None:
        """
        Cancelled while it waits to subscribe again.
        """
        consumer = self.client.consume("nowhere", self.inbox)
        self.passes(3)
        self.successResultOf(consumer.cancel())
        self.broker.declare_queue("nowhere")
        self.passes(20)
        self.assertEqual(self.broker.queue("nowhere").consumers, 0)

    def test_link_breaks_first(self) -> None:
        """
        When the link breaks before the broker has agreed, everything goes back, nobody
        knows how much.
        """
        consumer = self.client.consume("work", self.inbox)
        self.turn()
        cancelled = consumer.cancel()
        self.cut()
        self.assertEqual(self.successResultOf(cancelled), 0)

    def test_by_the_handler(self) -> None:
        """
        A handler may cancel.
        """

        def handle(delivery: Delivery) -> None:
            delivery.ack()
            consumer.cancel()

        consumer = self.client.consume("work", handle, prefetch=1)
        self.turn()
        for _ in range(3):
            self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual(len(self.broker.queue("work").bodies), 2)


class HandlerTests(ConsumerCase):
    """
    What handlers may do is as without a service.
    """

    def test_failure(self) -> None:
        """
        One that fails has its message once more, and then no more.
        """

        def handle(delivery: Delivery) -> None:
            self.inbox.deliveries.append(delivery)
            raise ZeroDivisionError("a defect")

        self.client.consume("work", handle)
        self.turn()
        self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual(self.inbox.bodies, [b"x", b"x"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(self.broker.queue("work").messages, [])

    def test_running_over_reconnects(self) -> None:
        """
        Handlers of a connection that has gone are still running.
        """
        running: list[Deferred[None]] = []

        def handle(delivery: Delivery) -> Deferred[None]:
            running.append(Deferred())
            return running[-1]

        consumer = self.client.consume("work", handle)
        self.turn()
        self.broker.publish("", "work", b"x")
        self.turn()
        self.cut()
        self.passes(1)
        self.assertEqual(consumer.running, 2)
        idle = consumer.when_idle()
        running[0].callback(None)
        self.assertEqual(consumer.running, 1)
        running[1].callback(None)
        self.successResultOf(idle)
        self.assertEqual(consumer.running, 0)

    def test_auto_ack(self) -> None:
        """
        With ``auto_ack`` there is nothing to answer.
        """
        inbox = Inbox(ack=False)
        consumer = self.client.consume("work", inbox, auto_ack=True)
        self.turn()
        self.broker.publish("", "work", b"x")
        self.turn()
        self.assertEqual(inbox.bodies, [b"x"])
        self.assertEqual(consumer.received_at, self.clock.seconds())
        self.assertEqual(self.broker.queue("work").messages, [])

    def test_bad_arguments(self) -> None:
        """
        What cannot be a handler, or a prefetch limit, is refused at once.
        """
        with self.assertRaises(TypeError):
            self.client.consume("work", "handler")  # type: ignore[arg-type]
        with self.assertRaises(ValueError):
            self.client.consume("work", self.inbox, prefetch=-1)
        self.assertEqual(self.client.consumers, [])


class StreamTests(ServiceCase):
    """
    Consumers of streams go on where they were.
    """

    log = Queue(name="log", arguments=stream_queue())

    def setUp(self) -> None:
        """
        Have a stream.
        """
        super().setUp()
        self.client = self.service(topology=Topology.of(self.log))
        self.turn()
        for number in range(10):
            self.broker.publish("", "log", b"%d" % number)

    def consume(self, handler: Any, queue: str | Queue = "log") -> Any:
        """
        Consume from the beginning.
        """
        consumer = self.client.consume(
            queue, handler, prefetch=4, arguments=stream_consumer("first")
        )
        self.turn()
        return consumer

    def test_in_order(self) -> None:
        """
        Behind the last message that was acknowledged.
        """
        inbox = Inbox(ack=False)
        consumer = self.consume(inbox)
        self.assertEqual(inbox.bodies, [b"0", b"1", b"2", b"3"])
        self.assertEqual(consumer.offset, 0)
        inbox.deliveries[0].ack()
        inbox.deliveries[1].ack()
        self.assertEqual(consumer.offset, 2)
        self.turn()
        self.cut()
        before = len(inbox.bodies)
        self.passes(1)
        self.assertEqual(inbox.bodies[before:][:2], [b"2", b"3"])

    def test_gaps(self) -> None:
        """
        What was not acknowledged comes again, and with it what came after.
        """
        inbox = Inbox(ack=False)
        consumer = self.consume(inbox)
        inbox.deliveries[3].ack()
        inbox.deliveries[0].ack()
        self.assertEqual(consumer.offset, 1)
        self.turn()
        self.cut()
        before = len(inbox.bodies)
        self.passes(1)
        self.assertEqual(inbox.bodies[before], b"1")

    def test_next(self) -> None:
        """
        Also if it began at the end: what was published meanwhile is not passed over.
        """
        inbox = Inbox()
        self.client.consume(self.log, inbox, arguments=stream_consumer("next"))
        self.turn()
        self.broker.publish("", "log", b"10")
        self.turn()
        self.cut()
        self.broker.publish("", "log", b"11")
        self.passes(1)
        self.assertEqual(inbox.bodies, [b"10", b"11"])

    def test_deleted(self) -> None:
        """
        A stream that was deleted, and made again, is another one: it is consumed from
        where it was said to begin.
        """
        inbox = Inbox()
        self.consume(inbox)
        self.assertEqual(len(inbox.bodies), 10)
        self.broker.delete_queue("log")
        self.passes(3)
        self.broker.publish("", "log", b"new")
        self.turn()
        self.assertEqual(inbox.bodies[10:], [b"new"])

    def test_deleted_by_others(self) -> None:
        """
        The same where the topology does not have it.
        """
        client = self.service()
        self.broker.declare_queue("other", arguments=stream_queue())
        for number in range(3):
            self.broker.publish("", "other", b"%d" % number)
        inbox = Inbox()
        consumer = client.consume("other", inbox, arguments=stream_consumer("first"))
        self.turn()
        self.assertEqual(consumer.offset, 3)
        self.broker.delete_queue("other")
        self.passes(2)
        self.assertIsInstance(consumer.error, NotFound)
        self.broker.declare_queue("other", arguments=stream_queue())
        self.broker.publish("", "other", b"new")
        self.passes(16)
        self.assertEqual(inbox.bodies[3:], [b"new"])

    def test_undecodable(self) -> None:
        """
        A message whose headers cannot be decoded does not confuse it.
        """
        inbox = Inbox(ack=False)
        consumer = self.consume(inbox)
        delivery = inbox.deliveries[0]
        delivery._properties = Properties.from_wire(
            b"\x20\x00\x00\x00\x00\x05\x01aX\x00\x00"
        )
        with self.assertRaises(UndecodableProperty):
            delivery.stream_offset
        consumer._take(delivery)
        self.assertEqual(consumer.offset, 0)
        self.assertEqual(consumer.received, 5)
