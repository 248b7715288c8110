# -*- test-case-name: txamqp091.test.rabbitmq.test_queues -*-
"""
The kinds of queues that a real RabbitMQ has, and what they do to consumers: streams,
single active consumers, priorities, dead letters, time limits.
"""

from __future__ import annotations

from collections.abc import Sequence

from txamqp091.arguments import (
    classic_queue,
    queue_consumer,
    quorum_queue,
    stream_consumer,
    stream_queue,
)
from txamqp091.channel import Channel
from txamqp091.errors import ConsumerCancelled, DeliveryAckTimeout
from txamqp091.message import Delivery, Message
from txamqp091.test.support.integration import RabbitTestCase, every_broker, until
from txamqp091.wire.properties import Properties


async def publish(channel: Channel, queue: str, bodies: Sequence[str]) -> None:
    """
    Publish messages, and see them taken.
    """
    await channel.confirm_select()
    await channel.publish_many(Message("", queue, body) for body in bodies)


class Keeper:
    """
    A handler that keeps what came, and acknowledges it if asked to.
    """

    def __init__(self, ack: bool = True) -> None:
        self.came: list[Delivery] = []
        self._ack = ack

    def __call__(self, delivery: Delivery) -> None:
        self.came.append(delivery)
        if self._ack:
            delivery.ack()

    @property
    def bodies(self) -> list[bytes]:
        """
        The bodies of what came.
        """
        return [each.body for each in self.came]


@every_broker
class ConsumerTests(RabbitTestCase):
    """
    Which consumer gets a message.
    """

    async def test_single_active_consumer(self) -> None:
        """
        One consumer gets everything, and the next takes over when it goes.
        """
        channel = await self.open_channel()
        declared = await channel.queue_declare(
            exclusive=True, arguments=classic_queue(single_active_consumer=True)
        )
        queue = declared.queue
        first, second = Keeper(), Keeper()
        active = await channel.basic_consume(queue, first)
        await channel.basic_consume(queue, second)
        await publish(channel, queue, "abc")
        await until(lambda: len(first.came) == 3)
        await active.cancel()
        await publish(channel, queue, "def")
        await until(lambda: len(second.came) == 3)
        self.assertEqual(len(first.came), 3)

    async def test_priority(self) -> None:
        """
        The consumer of the higher priority gets what it can take, the other one the
        rest.
        """
        channel = await self.open_channel()
        queue = (await channel.queue_declare(exclusive=True)).queue
        low, high = Keeper(ack=False), Keeper(ack=False)
        await channel.basic_consume(queue, low)
        await channel.basic_consume(
            queue, high, prefetch=5, arguments=queue_consumer(priority=10)
        )
        await publish(channel, queue, "abcdefg")
        await until(lambda: len(low.came) == 2)
        self.assertEqual(high.bodies, [b"a", b"b", b"c", b"d", b"e"])

    async def test_message_priority(self) -> None:
        """
        Messages of a higher priority come first.
        """
        channel = await self.open_channel()
        declared = await channel.queue_declare(
            exclusive=True, arguments=classic_queue(max_priority=5)
        )
        await channel.confirm_select()
        for priority in (1, 5, 3):
            await channel.basic_publish(
                "", declared.queue, f"{priority}", Properties(priority=priority)
            )
        keeper = Keeper()
        await channel.basic_consume(declared.queue, keeper)
        await until(lambda: len(keeper.came) == 3)
        self.assertEqual(keeper.bodies, [b"5", b"3", b"1"])
        self.assertEqual(keeper.came[0].properties.priority, 5)


@every_broker
class DeadLetterTests(RabbitTestCase):
    """
    What was rejected, has expired or was too much goes elsewhere.
    """

    async def dead(self, channel: Channel) -> str:
        """
        A queue for dead letters.
        """
        return (await channel.queue_declare(exclusive=True)).queue

    async def test_rejected(self) -> None:
        """
        A rejected message goes to the dead letters, with its history in x-death.
        """
        channel = await self.open_channel()
        dead = await self.dead(channel)
        declared = await channel.queue_declare(
            exclusive=True,
            arguments=classic_queue(
                dead_letter_exchange="", dead_letter_routing_key=dead
            ),
        )
        await publish(channel, declared.queue, ["x"])
        delivery = await channel.basic_get(declared.queue)
        assert delivery is not None
        delivery.reject(requeue=False)
        keeper = Keeper()
        await channel.basic_consume(dead, keeper)
        await until(lambda: len(keeper.came) == 1)
        [death] = keeper.came[0].headers["x-death"]
        self.assertEqual(death["queue"], declared.queue)
        self.assertEqual(death["reason"], "rejected")
        self.assertEqual(death["count"], 1)
        self.assertEqual(death["routing-keys"], [declared.queue])
        self.assertEqual(keeper.came[0].headers["x-first-death-reason"], "rejected")

    async def test_expired(self) -> None:
        """
        So does one that was not consumed in time.
        """
        channel = await self.open_channel()
        dead = await self.dead(channel)
        declared = await channel.queue_declare(
            exclusive=True,
            arguments=classic_queue(
                message_ttl=0.01, dead_letter_exchange="", dead_letter_routing_key=dead
            ),
        )
        await publish(channel, declared.queue, ["x"])
        keeper = Keeper()
        await channel.basic_consume(dead, keeper)
        await until(lambda: len(keeper.came) == 1)
        self.assertEqual(keeper.came[0].headers["x-first-death-reason"], "expired")

    async def test_delivery_limit(self) -> None:
        """
        A quorum queue counts rejections, tells how many there were, and lets go of a
        message at the limit.
        """
        channel = await self.open_channel()
        dead = await self.dead(channel)
        queue = self.queue_name()
        await channel.queue_declare(
            queue,
            arguments=quorum_queue(
                delivery_limit=2,
                dead_letter_exchange="",
                dead_letter_routing_key=dead,
            ),
        )
        await publish(channel, queue, ["x"])
        counts: list[object] = []

        def handle(delivery: Delivery) -> None:
            counts.append(delivery.headers.get("x-delivery-count"))
            delivery.reject()

        await channel.basic_consume(queue, handle)
        keeper = Keeper()
        await channel.basic_consume(dead, keeper)
        await until(lambda: len(keeper.came) == 1)
        self.assertEqual(counts[1:], [1, 2])
        self.assertIn(counts[0], (None, 0))
        death = keeper.came[0].headers["x-first-death-reason"]
        self.assertEqual(death, "delivery_limit")
        await channel.queue_delete(queue)


@every_broker
class StreamTests(RabbitTestCase):
    """
    Streams are read from anywhere, again and again.
    """

    async def read(
        self, channel: Channel, queue: str, offset: object, last: int
    ) -> list[Delivery]:
        """
        The messages of a stream, from one offset to another.
        """
        keeper = Keeper()
        consumer = await channel.basic_consume(
            queue,
            keeper,
            arguments=stream_consumer(offset),  # type: ignore[arg-type]
        )
        await until(lambda: [each.stream_offset for each in keeper.came[-1:]] == [last])
        await consumer.cancel()
        return keeper.came

    async def test_offsets(self) -> None:
        """
        A stream is read from its first message, from its last chunk, and from any
        offset; each delivery has its own.
        """
        channel = await self.open_channel()
        queue = self.queue_name()
        await channel.queue_declare(queue, arguments=stream_queue())
        await publish(channel, queue, [f"{number}" for number in range(50)])
        everything = await self.read(channel, queue, "first", 49)
        self.assertEqual([each.stream_offset for each in everything], [*range(50)])
        self.assertEqual(everything[49].body, b"49")
        some = await self.read(channel, queue, 30, 49)
        self.assertEqual([each.stream_offset for each in some], [*range(30, 50)])
        last = await self.read(channel, queue, "last", 49)
        self.assertEqual(last[-1].stream_offset, 49)
        await channel.queue_delete(queue)

    async def test_next(self) -> None:
        """
        A consumer from ``next`` on gets what is published after it.
        """
        channel = await self.open_channel()
        queue = self.queue_name()
        await channel.queue_declare(queue, arguments=stream_queue())
        await publish(channel, queue, "abc")
        keeper = Keeper()
        await channel.basic_consume(
            queue, keeper, prefetch=1, arguments=stream_consumer("next")
        )
        await publish(channel, queue, "de")
        await until(lambda: len(keeper.came) == 2)
        self.assertEqual([each.stream_offset for each in keeper.came], [3, 4])
        await channel.queue_delete(queue)


@every_broker
class TimeoutTests(RabbitTestCase):
    """
    RabbitMQ does not wait for an ack for ever.
    """

    async def test_ack_timeout(self) -> None:
        """
        When a delivery is not acknowledged in time, 3.10 ends the channel, which is
        `DeliveryAckTimeout`; a quorum queue of 4.3 ends the consumer (and other
        queues of 4.3 do wait).  Either way the message is redelivered.
        """
        connection = await self.connect()
        queue = self.queue_name()
        arguments = quorum_queue()
        if self.node.installation.number < (4, 3):
            arguments = classic_queue()
            self.set_for_test("consumer_timeout", 200)
            self.set_for_test("channel_tick_interval", 100)
        channel = await connection.open_channel()
        await channel.queue_declare(queue, arguments=arguments)
        await publish(channel, queue, ["x"])
        keeper = Keeper(ack=False)
        consumer = await channel.basic_consume(
            queue, keeper, arguments=queue_consumer(timeout=0.5)
        )
        if self.node.installation.number < (4, 3):
            ended = consumer.when_ended()
            with self.assertRaises(DeliveryAckTimeout) as context:
                await channel.when_closed()
            self.assertEqual(context.exception.reply_code, 406)
            self.assertTrue(context.exception.retriable)
            with self.assertRaises(DeliveryAckTimeout):
                await ended
            # The next one takes its time.
            self.node.eval("application:set_env(rabbit, consumer_timeout, 600000).")
        else:
            with self.assertRaises(ConsumerCancelled):
                await consumer.when_ended()
            self.assertTrue(channel.is_open)
        again = await connection.open_channel()
        second = Keeper()
        await again.basic_consume(queue, second)
        await until(lambda: len(second.came) == 1)
        self.assertTrue(second.came[0].redelivered)
        keeper.came[0].ack()  # too late, and harmless
        if channel.is_open:
            await channel.basic_qos(prefetch_count=1)
        await again.queue_delete(queue)

    def set_for_test(self, name: str, value: int) -> None:
        """
        Change a setting of the node, until the test ends.
        """
        old = self.node.eval(f"application:get_env(rabbit, {name}, undefined).")
        restore = f"application:set_env(rabbit, {name}, {old})."
        if old == "undefined":
            restore = f"application:unset_env(rabbit, {name})."
        self.addCleanup(self.node.eval, restore)
        self.node.eval(f"application:set_env(rabbit, {name}, {value}).")
