# -*- test-case-name: txamqp091.test.scenarios.test_consumers -*-
"""
Scenarios: the names of consumers, and their ends.

Who gets which message is in `txamqp091.test.scenarios.test_consuming`.
"""

from __future__ import annotations

from txamqp091.channel import Channel
from txamqp091.errors import Closed, LocalProtocolError
from txamqp091.message import Delivery
from txamqp091.test.scenarios.test_consuming import ConsumingScenario
from txamqp091.test.support.scenarios import every_peer
from txamqp091.wire import spec


@every_peer
class TagScenarios(ConsumingScenario):
    """
    The names of consumers.
    """

    async def consume_raw(
        self, channel: Channel, queue: str, tag: str
    ) -> spec.BasicConsumeOk:
        """
        Consume, as no channel of ours lets its user do it.
        """
        method = spec.BasicConsume(0, queue, tag)
        return await channel._call(method, spec.BasicConsumeOk)

    async def test_named_by_broker(self) -> None:
        """
        The broker makes up names.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        tags = [
            (await self.consume_raw(channel, queue, "")).consumer_tag for _ in range(2)
        ]
        self.assertNotEqual(*tags)
        for tag in tags:
            self.assertRegex(tag, "^amq[.]ctag-[-_A-Za-z0-9]{22}$")

    async def test_used_twice(self) -> None:
        """
        530: a name that the channel has in use; we do not even ask.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await channel.consume(queue, consumer_tag="mine")
        with self.assertRaises(LocalProtocolError):
            await channel.consume(queue, consumer_tag="mine")
        call = self.consume_raw(channel, queue, "mine")
        text = "attempt to reuse consumer tag 'mine'"
        await self.connection_refused(call, 530, "basic.consume", text)

    async def test_other_channel(self) -> None:
        """
        Another channel may have the same, and a name can be used again.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.queue(channel)
        one = await channel.consume(queue, consumer_tag="mine")
        await other.consume(queue, consumer_tag="mine")
        await one.cancel()
        await channel.consume(queue, consumer_tag="mine")

    async def test_no_queue(self) -> None:
        """
        404: there is no such queue to consume from.
        """
        channel = await self.channel()
        name = self.name()
        call = channel.consume(name)
        text = f"NOT_FOUND - no queue '{name}' in vhost '{self.vhost}'"
        await self.channel_refused(channel, call, 404, "basic.consume", text)


@every_peer
class CancelScenarios(ConsumingScenario):
    """
    The end of consumers.
    """

    async def test_cancel(self) -> None:
        """
        After its end nothing comes; what had come can be acknowledged.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        found: list[Delivery] = []
        consumer = await channel.basic_consume(queue, found.append)
        await self.publish(channel, queue, "a")
        await self.quiet(channel, queue)
        await consumer.cancel()
        await self.publish(channel, queue, "b")
        self.assertEqual([each.body for each in found], [b"a"])
        self.assertEqual(await self.count(channel, queue), 1)
        found[0].ack()
        self.assertEqual(await self.bodies(channel, queue), [b"b"])

    async def test_unacknowledged(self) -> None:
        """
        Which stays so until it is, or the channel closes.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.queue(channel)
        await self.publish(channel, queue, "a")
        deliveries = await other.consume(queue)
        await deliveries.get()
        await deliveries.cancel()
        self.assertEqual(await self.count(channel, queue), 0)
        await other.close()
        self.assertTrue((await self.get(channel, queue)).redelivered)

    async def test_unknown(self) -> None:
        """
        There is no harm in cancelling what is not there.
        """
        channel = await self.channel()
        self.assertEqual(
            await channel.basic_cancel("nobody"), spec.BasicCancelOk("nobody")
        )

    async def test_queue_deleted(self) -> None:
        """
        All consumers of a queue are told when it is deleted; the channel goes on.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        consumers = [await channel.consume(queue) for _ in range(2)]
        await channel.queue_delete(queue)
        for consumer in consumers:
            await self.cancelled(consumer)
        other = await self.queue(channel)
        await self.publish(channel, other, "x")
        self.assertEqual((await self.get(channel, other)).body, b"x")

    async def test_queue_of_another_connection(self) -> None:
        """
        Also when another connection deletes it.
        """
        channel = await self.channel()
        queue = await self.durable_queue(channel)
        consumer = await channel.consume(queue)
        other = await (await self.connect()).open_channel()
        await other.queue_delete(queue)
        await self.cancelled(consumer)

    async def test_channel_error(self) -> None:
        """
        A channel that fails takes its consumers with it, and those of others stay.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.queue(channel)
        doomed = await other.consume(queue)
        consumer = await channel.consume(queue)
        call = other.queue_declare(self.name(), passive=True)
        await self.channel_refused(other, call, 404, "queue.declare", "no queue")
        with self.assertRaises(Closed):
            await doomed.get()
        await self.publish(channel, queue, "ab")
        found = await self.take(consumer, 2)
        self.assertEqual([each.body for each in found], [b"a", b"b"])

    async def test_delivery(self) -> None:
        """
        A delivery says where it was published to, whose it is, and what its number is.
        """
        channel = await self.channel()
        queue = await self.bound(channel, "amq.topic", "some.*")
        deliveries = await channel.consume(queue, consumer_tag="mine")
        for number in (1, 2):
            await channel.basic_publish("amq.topic", "some.key", "x")
            delivery = await deliveries.get()
            self.assertEqual(
                (
                    delivery.consumer_tag,
                    delivery.delivery_tag,
                    delivery.redelivered,
                    delivery.exchange,
                    delivery.routing_key,
                ),
                ("mine", number, False, "amq.topic", "some.key"),
            )
