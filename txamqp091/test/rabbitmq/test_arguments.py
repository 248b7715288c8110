# -*- test-case-name: txamqp091.test.rabbitmq.test_arguments -*-
"""
Tests for `txamqp091.arguments` against real brokers: they take what it gives, and do
what its docstrings say.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from txamqp091.arguments import (
    Offset,
    alternate_exchange,
    classic_queue,
    queue_consumer,
    quorum_queue,
    stream_consumer,
    stream_queue,
)
from txamqp091.channel import Channel
from txamqp091.errors import Nacked, PreconditionFailed
from txamqp091.message import Delivery
from txamqp091.test.support.integration import RabbitTestCase, every_broker
from txamqp091.wire.properties import Properties

#: One queue of each kind with nothing asked for, and one with everything.
QUEUES: dict[str, dict[str, Any]] = {
    "classic": classic_queue(),
    "classic-all": classic_queue(
        message_ttl=timedelta(minutes=1),
        expires=60,
        max_length=1000,
        max_length_bytes=1 << 20,
        overflow="reject-publish-dlx",
        dead_letter_exchange="amq.fanout",
        dead_letter_routing_key="dead",
        single_active_consumer=True,
        max_priority=3,
    ),
    "quorum": quorum_queue(),
    "quorum-all": quorum_queue(
        delivery_limit=3,
        message_ttl=60,
        expires=60,
        max_length=1000,
        max_length_bytes=1 << 20,
        overflow="reject-publish",
        dead_letter_exchange="amq.fanout",
        dead_letter_routing_key="dead",
        dead_letter_strategy="at-least-once",
        single_active_consumer=True,
        delayed_retry_type="failed",
        delayed_retry_min=0.1,
        delayed_retry_max=1,
        consumer_timeout=600,
        consumer_disconnected_timeout=30,
        initial_group_size=1,
        queue_leader_locator="client-local",
    ),
    "stream": stream_queue(),
    "stream-all": stream_queue(
        max_age=timedelta(days=7),
        max_length_bytes=1 << 30,
        max_segment_size_bytes=1 << 20,
        filter_size_bytes=16,
        initial_cluster_size=1,
        queue_leader_locator="balanced",
    ),
}


@every_broker
class ArgumentTests(RabbitTestCase):
    """
    Queues, exchanges and consumers with arguments.
    """

    async def channel(self) -> Channel:
        """
        A channel in confirm mode.
        """
        connection = await self.connect()
        channel = await connection.open_channel()
        await channel.confirm_select()
        return channel

    async def queue(self, channel: Channel, arguments: dict[str, Any]) -> str:
        """
        A new queue.
        """
        name = self.queue_name()
        await channel.queue_declare(name, arguments=arguments)
        return name

    async def test_queues(self) -> None:
        """
        The broker makes each kind of queue, with nothing asked for and with
        everything, and knows it again.
        """
        channel = await self.channel()
        for arguments in QUEUES.values():
            name = await self.queue(channel, arguments)
            again = await channel.queue_declare(name, arguments=arguments)
            self.assertEqual((again.queue, again.message_count), (name, 0))
            await channel.queue_delete(name)

    async def test_kinds_differ(self) -> None:
        """
        A queue of one kind is not taken for one of another.
        """
        channel = await self.channel()
        name = await self.queue(channel, quorum_queue())
        again = channel.queue_declare(name, arguments=classic_queue())
        await self.assertFailure(again, PreconditionFailed)

    async def test_message_ttl(self) -> None:
        """
        What has waited too long goes to the dead letters.
        """
        channel = await self.channel()
        dead = await self.queue(channel, classic_queue())
        for make in (classic_queue, quorum_queue):
            name = await self.queue(
                channel,
                make(
                    message_ttl=0.01,
                    dead_letter_exchange="",
                    dead_letter_routing_key=dead,
                ),
            )
            await channel.basic_publish("", name, "late")
            [delivery] = await take(channel, dead, 1)
            self.assertEqual(delivery.body, b"late")
            self.assertEqual(delivery.headers["x-first-death-reason"], "expired")

    async def test_overflow(self) -> None:
        """
        A full queue refuses messages, if that was asked for.
        """
        channel = await self.channel()
        name = await self.queue(
            channel, classic_queue(max_length=1, overflow="reject-publish")
        )
        await channel.basic_publish("", name, "first")
        await self.assertFailure(channel.basic_publish("", name, "second"), Nacked)

    async def test_delivery_limit(self) -> None:
        """
        A message that was redelivered often enough goes to the dead letters.
        """
        channel = await self.channel()
        dead = await self.queue(channel, classic_queue())
        name = await self.queue(
            channel,
            quorum_queue(
                delivery_limit=2, dead_letter_exchange="", dead_letter_routing_key=dead
            ),
        )
        bodies: list[bytes] = []

        def refuse(delivery: Delivery) -> None:
            bodies.append(delivery.body)
            delivery.reject()

        await channel.basic_publish("", name, "poison")
        await channel.basic_consume(name, refuse)
        await take(channel, dead, 1)
        self.assertEqual(bodies, [b"poison"] * 3)

    async def test_priorities(self) -> None:
        """
        Messages of a higher priority are delivered first.
        """
        channel = await self.channel()
        name = await self.queue(channel, classic_queue(max_priority=5))
        for priority in (1, 5, 3):
            await channel.basic_publish(
                "", name, str(priority), Properties(priority=priority)
            )
        deliveries = await take(channel, name, 3)
        self.assertEqual([each.body for each in deliveries], [b"5", b"3", b"1"])

    async def test_consumer_priority(self) -> None:
        """
        A consumer of a higher priority is served first.
        """
        channel = await self.channel()
        name = await self.queue(channel, classic_queue())
        low: list[Delivery] = []
        await channel.basic_consume(name, low.append)
        high = await channel.consume(name, arguments=queue_consumer(priority=10))
        for number in range(5):
            await channel.basic_publish("", name, str(number))
        for number in range(5):
            self.assertEqual((await high.get()).body, str(number).encode())
        self.assertEqual(low, [])

    async def test_consumer_timeout(self) -> None:
        """
        A consumer of a quorum queue may say how long it takes.
        """
        channel = await self.channel()
        name = await self.queue(channel, quorum_queue())
        await channel.consume(name, arguments=queue_consumer(timeout=600))

    async def test_alternate_exchange(self) -> None:
        """
        What an exchange cannot route goes where its alternate exchange puts it.
        """
        channel = await self.channel()
        name = await self.queue(channel, classic_queue())
        exchange = self.queue_name()
        await channel.queue_bind(name, "amq.fanout")
        await channel.exchange_declare(
            exchange, arguments=alternate_exchange("amq.fanout")
        )
        await channel.basic_publish(exchange, "nowhere", "lost", mandatory=True)
        [delivery] = await take(channel, name, 1)
        self.assertEqual(delivery.body, b"lost")
        await channel.queue_unbind(name, "amq.fanout")

    async def test_stream_offsets(self) -> None:
        """
        A stream can be read from every sort of place.
        """
        channel = await self.channel()
        name = await self.queue(channel, stream_queue())
        before = datetime.now(UTC) - timedelta(seconds=10)
        for number in range(5):  # confirmed one by one: a chunk each
            await channel.basic_publish("", name, str(number))
        rows: list[tuple[Offset, list[int]]] = [
            ("first", [0, 1, 2, 3, 4]),
            (0, [0, 1, 2, 3, 4]),
            (3, [3, 4]),
            ("last", [4]),
            (before, [0, 1, 2, 3, 4]),
            (timedelta(hours=1), [0, 1, 2, 3, 4]),
            ("1h", [0, 1, 2, 3, 4]),
        ]
        for offset, numbers in rows:
            places = await self.read(channel, name, offset, len(numbers))
            self.assertEqual(places, numbers, offset)

    async def read(
        self, channel: Channel, name: str, offset: Offset, count: int
    ) -> list[int | None]:
        """
        The offsets of the first messages from somewhere in a stream.
        """
        deliveries = await take(channel, name, count, stream_consumer(offset))
        for each in deliveries:
            self.assertEqual(each.body, str(each.stream_offset).encode())
        return [each.stream_offset for each in deliveries]

    async def test_stream_next(self) -> None:
        """
        ``next`` is what is published from now on.
        """
        channel = await self.channel()
        name = await self.queue(channel, stream_queue())
        await channel.basic_publish("", name, "old")
        deliveries = await channel.consume(name, arguments=stream_consumer("next"))
        await channel.basic_publish("", name, "new")
        self.assertEqual((await deliveries.get()).body, b"new")

    async def test_stream_filters(self) -> None:
        """
        Chunks in which nothing fits a filter are left out, where the broker can do
        that.
        """
        channel = await self.channel()
        name = await self.queue(channel, stream_queue())
        for number, value in enumerate(["paid", "sent", None, "paid"]):
            headers = {"x-stream-filter-value": value} if value else {}
            properties = Properties(headers=headers)
            await channel.basic_publish("", name, str(number), properties)
        old = self.node.installation.number < (3, 13)
        rows: list[tuple[dict[str, Any], list[int]]] = [
            ({"filters": "paid"}, [0, 3]),
            ({"filters": ["sent", "paid"]}, [0, 1, 3]),
            ({"filters": "paid", "match_unfiltered": True}, [0, 2, 3]),
        ]
        for keywords, numbers in rows:
            expected = [0, 1, 2, 3] if old else numbers
            deliveries = await take(
                channel, name, len(expected), stream_consumer("first", **keywords)
            )
            self.assertEqual([each.stream_offset for each in deliveries], expected)


async def take(
    channel: Channel,
    queue: str,
    count: int,
    arguments: dict[str, Any] | None = None,
) -> Sequence[Delivery]:
    """
    Consume, and acknowledge, so many messages.
    """
    deliveries = await channel.consume(queue, arguments=arguments)
    taken = [await deliveries.get() for _ in range(count)]
    taken[-1].ack(multiple=True)
    await deliveries.cancel()
    return taken
