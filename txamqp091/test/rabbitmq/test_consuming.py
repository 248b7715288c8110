# -*- test-case-name: txamqp091.test.rabbitmq.test_consuming -*-
"""
Consuming from a real RabbitMQ: handlers, iterators and fetching, what is
acknowledged, and what goes back to its queue.

What kinds of queues do is in `txamqp091.test.rabbitmq.test_queues`.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults

from txamqp091.arguments import classic_queue
from txamqp091.channel import Channel
from txamqp091.consumer import Consumer
from txamqp091.errors import AlreadySettled, ConsumerCancelled
from txamqp091.message import Delivery, Message
from txamqp091.test.support.chaos import Direction, Frame, Link
from txamqp091.test.support.integration import (
    RabbitTestCase,
    every_broker,
    in_thread,
    until,
)
from txamqp091.wire import spec


class ConsumingTestCase(RabbitTestCase):
    """
    A test case with messages in a queue.
    """

    async def filled(self, channel: Channel, count: int, **arguments: object) -> str:
        """
        Make a queue with messages in it, for the time of the test.
        """
        queue = (await channel.queue_declare(exclusive=True, arguments=arguments)).queue
        await channel.confirm_select()
        await channel.publish_many(
            Message("", queue, f"{number}") for number in range(count)
        )
        self.assertEqual(self.depth(queue), count)
        return queue

    def depth(self, queue: str) -> int:
        """
        How many messages of the queue the broker counts as ready.
        """
        return self.node.queue_depth(queue, self.vhost)


@every_broker
class HandlerTests(ConsumingTestCase):
    """
    Messages are given to a function.
    """

    async def test_function(self) -> None:
        """
        A function gets each message, in order, and acknowledges it.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 100)
        bodies: list[bytes] = []

        def handle(delivery: Delivery) -> None:
            bodies.append(delivery.body)
            delivery.ack()

        consumer = await channel.basic_consume(queue, handle)
        await until(lambda: len(bodies) == 100)
        self.assertEqual(bodies, [b"%d" % number for number in range(100)])
        self.assertEqual(await consumer.cancel(), 0)
        await channel.close()
        self.assertEqual(self.depth(queue), 0)

    async def test_coroutine(self) -> None:
        """
        A coroutine may use the channel, and wait for what it likes.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 20)
        target = (await channel.queue_declare(exclusive=True)).queue

        async def forward(delivery: Delivery) -> None:
            await channel.basic_publish("", target, delivery.body)
            delivery.ack()

        await channel.basic_consume(queue, forward, prefetch=3)
        await until(lambda: self.depth(target) == 20)

    async def test_prefetch(self) -> None:
        """
        No more messages come than may be unacknowledged, and each ack makes room
        for one.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 20)
        came: list[Delivery] = []
        await channel.basic_consume(queue, came.append, prefetch=5)
        await until(lambda: len(came) == 5)
        self.assertEqual(self.depth(queue), 15)
        came[0].ack()
        await until(lambda: len(came) == 6)
        came[3].ack(multiple=True)
        await until(lambda: len(came) == 9)
        self.assertEqual(self.depth(queue), 11)

    async def test_prefetch_of_each(self) -> None:
        """
        Each consumer of a channel has a limit of its own.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 20)
        came: dict[str, list[Delivery]] = {"few": [], "many": []}
        await channel.basic_consume(queue, came["few"].append, prefetch=2)
        await channel.basic_consume(queue, came["many"].append, prefetch=7)
        await until(lambda: len(came["few"]) == 2 and len(came["many"]) == 7)
        self.assertEqual(self.depth(queue), 11)

    async def test_auto_ack(self) -> None:
        """
        With auto_ack all messages come, and none needs an answer.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 500)
        came: list[Delivery] = []
        await channel.basic_consume(queue, came.append, auto_ack=True)
        await until(lambda: len(came) == 500)
        self.assertTrue(came[0].settled)
        with self.assertRaises(AlreadySettled):
            came[0].ack()
        self.assertTrue(channel.is_open)

    async def test_handler_fails(self) -> None:
        """
        A message whose handler fails comes once more, and then goes to the dead
        letters, if so asked; both are logged, and the consumer goes on.
        """
        channel = await self.open_channel()
        dead = (await channel.queue_declare(exclusive=True)).queue
        queue = await self.filled(
            channel,
            3,
            **classic_queue(dead_letter_exchange="", dead_letter_routing_key=dead),
        )
        seen: list[tuple[bytes, bool]] = []

        def handle(delivery: Delivery) -> None:
            seen.append((delivery.body, delivery.redelivered))
            if delivery.body == b"1":
                raise ValueError("not this one")
            delivery.ack()

        await channel.basic_consume(queue, handle, prefetch=1, on_failure="reject")
        await until(lambda: len(seen) == 4 and self.depth(dead) == 1)
        self.assertEqual(
            sorted(seen), [(b"0", False), (b"1", False), (b"1", True), (b"2", False)]
        )
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    async def test_ack_from_thread(self) -> None:
        """
        Deliveries can be acknowledged from other threads.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 30)
        working: list[Deferred[None]] = []
        await channel.basic_consume(
            queue, lambda delivery: working.append(in_thread(delivery.ack)), prefetch=5
        )
        await until(lambda: len(working) == 30)
        await gatherResults(working)
        await channel.close()
        self.assertEqual(self.depth(queue), 0)

    async def test_requeued(self) -> None:
        """
        What is refused comes again, marked as redelivered, unless it is to be
        dropped.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 4)
        seen: dict[tuple[bytes, bool], Delivery] = {}

        def handle(delivery: Delivery) -> None:
            seen[delivery.body, delivery.redelivered] = delivery
            if delivery.redelivered:
                delivery.ack()
            elif delivery.body in (b"0", b"1"):
                delivery.reject(requeue=delivery.body == b"1")
            else:
                delivery.nack(requeue=delivery.body == b"3")

        await channel.basic_consume(queue, handle)
        await until(lambda: (b"1", True) in seen and (b"3", True) in seen)
        await channel.close()
        self.assertEqual(len(seen), 6)
        self.assertEqual(self.depth(queue), 0)

    async def test_settled_twice(self) -> None:
        """
        A second ack is an error here, and not the end of the channel at the broker.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 3)
        came: list[Delivery] = []
        await channel.basic_consume(queue, came.append)
        await until(lambda: len(came) == 3)
        came[1].ack(multiple=True)
        for delivery in came[:2]:
            with self.assertRaises(AlreadySettled):
                delivery.nack()
        came[2].ack()
        await channel.basic_qos(prefetch_count=1)

    async def test_stale(self) -> None:
        """
        An ack for a delivery of a channel that has ended is not sent, least of all on
        the next channel of the same number (criterion 17).
        """
        connection = await self.connect()
        channel = await connection.open_channel()
        queue = await self.filled(channel, 2)
        came: list[Delivery] = []
        await channel.basic_consume(queue, came.append)
        await until(lambda: len(came) == 2)
        await channel.close()
        again = await connection.open_channel()
        self.assertEqual(self.depth(queue), 2)
        for delivery in came:
            delivery.ack()
        await again.basic_qos(prefetch_count=1)
        self.assertEqual(self.depth(queue), 2)


@every_broker
class CancelTests(ConsumingTestCase):
    """
    Consumers end.
    """

    async def test_ten_then_cancel(self) -> None:
        """
        After the acks of the first ten messages, cancelling tells how many went
        back: the broker counts the same, and redelivers as many.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 100)
        deliveries = await channel.consume(queue, prefetch=50)
        async for delivery in deliveries:
            delivery.ack()
            if delivery.delivery_tag == 10:
                break
        requeued = await deliveries.cancel()
        # In the broker, a question for the number may overtake what goes back.
        await until(lambda: self.depth(queue) == 90)
        self.assertEqual(self.node.unacknowledged(queue, self.vhost), 0)
        again = [await channel.basic_get(queue, auto_ack=True) for _ in range(90)]
        redelivered = [each for each in again if each is not None and each.redelivered]
        self.assertEqual(len(redelivered), requeued)
        self.assertGreaterEqual(requeued, 40)

    async def test_cancel_while_they_come(self) -> None:
        """
        Deliveries that were on their way when the consumer was cancelled go back,
        and count.
        """
        proxy = self.proxy()
        channel = await self.open_channel(port=proxy.port)
        queue = await self.filled(channel, 30)
        came: list[Delivery] = []
        consuming = channel.basic_consume(queue, came.append, prefetch=10)
        consumer = await consuming
        await until(lambda: len(came) == 10)
        proxy.hole(Direction.DOWN)
        for delivery in came:
            delivery.ack()
        await until(lambda: self.depth(queue) == 10)
        cancelling = consumer.cancel()
        proxy.heal()
        self.assertEqual(await cancelling, 10)
        self.assertEqual(len(came), 10)
        await until(lambda: self.depth(queue) == 20)

    async def test_unfinished_work(self) -> None:
        """
        What a handler has when the consumer is cancelled stays with it.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 3)
        came: list[Delivery] = []
        consumer = await channel.basic_consume(queue, came.append)
        await until(lambda: len(came) == 3)
        self.assertEqual(await consumer.cancel(), 0)
        self.assertEqual(self.depth(queue), 0)
        came[0].ack()
        came[1].nack()
        await until(lambda: self.depth(queue) == 1)

    async def test_iteration_ends(self) -> None:
        """
        An iteration that is cancelled ends, without an error.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 5)
        deliveries = await channel.consume(queue)
        seen = 0
        async for delivery in deliveries:
            delivery.ack()
            seen += 1
            if seen == 5:
                await deliveries.cancel()
        self.assertEqual(seen, 5)

    async def ended(self, channel: Channel, queue: str, consumer: Consumer) -> None:
        """
        See the broker end a consumer, by deleting its queue from elsewhere.
        """
        ended = consumer.when_ended()
        other = await channel.connection.open_channel()
        await other.queue_delete(queue)
        with self.assertRaises(ConsumerCancelled) as context:
            await ended
        self.assertEqual(context.exception.queue, queue)
        self.assertEqual(context.exception.consumer_tag, consumer.consumer_tag)
        self.assertTrue(context.exception.retriable)
        self.assertFalse(consumer.is_active)
        await channel.basic_qos(prefetch_count=1)

    async def test_queue_deleted(self) -> None:
        """
        When its queue is deleted, the consumer is told (criterion 20), and the
        channel goes on.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 0)
        consumer = await channel.basic_consume(queue, lambda delivery: None)
        await self.ended(channel, queue, consumer)

    async def test_queue_deleted_under_iterator(self) -> None:
        """
        An iteration raises so, after what had come.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 3)
        deliveries = await channel.consume(queue)
        await until(lambda: deliveries.buffered == 3)
        await self.ended(channel, queue, deliveries.consumer)
        bodies = []
        with self.assertRaises(ConsumerCancelled):
            async for delivery in deliveries:
                bodies.append(delivery.body)
        self.assertEqual(bodies, [b"0", b"1", b"2"])


@every_broker
class FetchTests(ConsumingTestCase):
    """
    Messages are fetched.
    """

    async def test_many(self) -> None:
        """
        Many can be fetched without waiting; they come in order, and then comes
        None.
        """
        channel = await self.open_channel()
        queue = await self.filled(channel, 10)
        got = await gatherResults([channel.basic_get(queue) for _ in range(12)])
        bodies = [each.body for each in got if each is not None]
        self.assertEqual(bodies, [b"%d" % number for number in range(10)])
        self.assertEqual(got[10:], [None, None])
        for delivery in got:
            if delivery is not None:
                delivery.ack()
        await channel.close()
        self.assertEqual(self.depth(queue), 0)

    async def test_cancelled(self) -> None:
        """
        A message that was fetched for somebody who gave up goes back.
        """
        sent = 0

        def watch(unit: Frame | bytes, way: Direction, link: Link) -> None:
            nonlocal sent
            sent += isinstance(unit, Frame) and unit.method is spec.BasicGet

        proxy = self.proxy(on_frame=watch)
        channel = await self.open_channel(port=proxy.port)
        queue = await self.filled(channel, 1)
        proxy.hole(Direction.DOWN)
        fetching = channel.basic_get(queue)
        fetching.addErrback(lambda _: None)
        await until(lambda: sent == 1)
        fetching.cancel()
        proxy.heal()
        delivery = None
        while delivery is None:
            delivery = await channel.basic_get(queue)
        self.assertTrue(delivery.redelivered)
