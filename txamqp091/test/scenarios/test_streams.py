# -*- test-case-name: txamqp091.test.scenarios.test_streams -*-
"""
Scenarios: streams, which keep what was consumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from twisted.internet.defer import Deferred

from txamqp091.channel import Channel
from txamqp091.message import Delivery
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire.properties import Properties


class StreamScenario(Scenario):
    """
    A scenario with a stream.
    """

    async def stream(self, channel: Channel, bodies: str = "", **arguments: Any) -> str:
        """
        A stream with a message for each letter.
        """
        queue = await self.durable_queue(
            channel,
            {"x-queue-type": "stream"}
            | {f"x-{name.replace('_', '-')}": each for name, each in arguments.items()},
        )
        for body in bodies:
            await channel.basic_publish("", queue, body)
        return queue

    async def read(
        self, channel: Channel, queue: str, offset: object, count: int
    ) -> list[tuple[int | None, bytes]]:
        """
        What a consumer gets that begins at an offset.
        """
        deliveries = await channel.consume(queue, arguments={"x-stream-offset": offset})
        found = []
        for delivery in await self.take(deliveries, count):
            found.append((delivery.stream_offset, delivery.body))
            delivery.ack()
        await deliveries.cancel()
        return found


@every_peer
class StreamDeclareScenarios(StreamScenario):
    """
    What a stream can be.
    """

    async def test_transient(self) -> None:
        """
        406: it is durable.
        """
        channel = await self.channel()
        call = channel.queue_declare(
            self.name(), durable=False, arguments={"x-queue-type": "stream"}
        )
        text = "invalid property 'non-durable' for queue"
        await self.channel_refused(channel, call, 406, "queue.declare", text)

    async def test_auto_delete(self) -> None:
        """
        406: it does not delete itself.
        """
        channel = await self.channel()
        call = channel.queue_declare(
            self.name(), auto_delete=True, arguments={"x-queue-type": "stream"}
        )
        text = "invalid property 'auto-delete' for queue"
        await self.channel_refused(channel, call, 406, "queue.declare", text)

    async def test_argument(self) -> None:
        """
        406: its messages do not die.
        """
        channel = await self.channel()
        call = channel.queue_declare(
            self.name(), arguments={"x-message-ttl": 5, "x-queue-type": "stream"}
        )
        text = "invalid arg 'x-message-ttl' for queue"
        await self.channel_refused(channel, call, 406, "queue.declare", text)

    async def test_max_age(self) -> None:
        """
        406: an age is a number and a unit; 3.10 fails (541).
        """
        channel = await self.channel()
        call = channel.queue_declare(
            self.name(), arguments={"x-max-age": "old", "x-queue-type": "stream"}
        )
        if self.by_version({"3.10": True, "4.3": False}):
            await self.connection_refused(call, 541, "", "INTERNAL_ERROR")
            return
        text = "invalid arg 'x-max-age' for queue"
        await self.channel_refused(channel, call, 406, "queue.declare", text)


@every_peer
class StreamReadingScenarios(StreamScenario):
    """
    Where a consumer begins.
    """

    async def test_first(self) -> None:
        """
        With the oldest message; each says where it is.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "abc")
        found = await self.read(channel, queue, "first", 3)
        self.assertEqual(found, [(0, b"a"), (1, b"b"), (2, b"c")])

    async def test_again(self) -> None:
        """
        What was read and acknowledged is still there.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "ab")
        for _ in range(2):
            found = await self.read(channel, queue, "first", 2)
            self.assertEqual(found, [(0, b"a"), (1, b"b")])

    async def test_number(self) -> None:
        """
        With a message of a number.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "abcd")
        found = await self.read(channel, queue, 2, 2)
        self.assertEqual(found, [(2, b"c"), (3, b"d")])

    async def test_number_to_come(self) -> None:
        """
        Which may be yet to come.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "a")
        deliveries = await channel.consume(queue, arguments={"x-stream-offset": 2})
        for body in "bcd":
            await channel.basic_publish("", queue, body)
        found = await self.take(deliveries, 2)
        self.assertEqual([each.body for each in found], [b"c", b"d"])

    async def test_next(self) -> None:
        """
        With what is published from then on; that is so if nothing is said, too.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "ab")
        told = await channel.consume(queue, arguments={"x-stream-offset": "next"})
        other = await (await self.channel()).consume(queue)
        await channel.basic_publish("", queue, "c")
        for deliveries in (told, other):
            delivery = await deliveries.get()
            self.assertEqual((delivery.stream_offset, delivery.body), (2, b"c"))

    async def test_last(self) -> None:
        """
        With the last of what was written together, which may be one message or more.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "abc")
        deliveries = await channel.consume(queue, arguments={"x-stream-offset": "last"})
        delivery = await deliveries.get()
        while delivery.body != b"c":
            delivery = await deliveries.get()
        self.assertEqual(delivery.stream_offset, 2)

    async def test_moment(self) -> None:
        """
        With a moment, or with so long ago.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "ab")
        before = datetime.now(UTC) - timedelta(hours=1)
        for offset in (before, "1h"):
            found = await self.read(channel, queue, offset, 2)
            self.assertEqual(found, [(0, b"a"), (1, b"b")])

    async def test_moment_to_come(self) -> None:
        """
        A moment that is to come is as good as what comes next.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "ab")
        deliveries = await channel.consume(
            queue,
            arguments={"x-stream-offset": datetime.now(UTC) + timedelta(hours=1)},
        )
        await channel.basic_publish("", queue, "c")
        self.assertEqual((await deliveries.get()).body, b"c")

    async def test_filter(self) -> None:
        """
        With 4.3 a consumer may ask for messages with certain values, and for those with
        none; 3.10 does not look at it.
        """
        channel = await self.channel()
        queue = await self.stream(channel)
        for value in ("a", "b", "c", None):
            headers = {} if value is None else {"x-stream-filter-value": value}
            for _ in range(3):
                await channel.basic_publish(
                    "", queue, value or "-", Properties(headers=headers)
                )
        for filters, unfiltered, expected in (
            ("a", False, "aaa"),
            (["a", "c"], False, "aaaccc"),
            (["b"], True, "bbb---"),
        ):
            deliveries = await channel.consume(
                queue,
                arguments={
                    "x-stream-offset": "first",
                    "x-stream-filter": filters,
                    "x-stream-match-unfiltered": unfiltered,
                },
            )
            expected = self.by_version({"3.10": "aaabbbccc---", "4.3": expected})
            found = await self.take(deliveries, len(expected))
            self.assertEqual(b"".join(each.body for each in found).decode(), expected)
            await deliveries.cancel()

    async def test_filter_type(self) -> None:
        """
        541: such a value is text.
        """
        channel = await self.channel()
        queue = await self.stream(channel)
        call = channel.consume(queue, arguments={"x-stream-filter": [1]})
        if self.by_version({"3.10": True, "4.3": False}):
            await call
        else:
            await self.connection_refused(call, 541, "", "INTERNAL_ERROR")

    async def test_together(self) -> None:
        """
        Each consumer gets everything.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.stream(channel)
        consumers = [
            await each.consume(queue, arguments={"x-stream-offset": "first"})
            for each in (channel, other)
        ]
        for body in "ab":
            await channel.basic_publish("", queue, body)
        for deliveries in consumers:
            found = await self.take(deliveries, 2)
            self.assertEqual([each.body for each in found], [b"a", b"b"])

    async def test_prefetch(self) -> None:
        """
        No more is unacknowledged than the limit; to acknowledge makes room.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "abcdef")
        deliveries = await channel.consume(
            queue, prefetch=2, arguments={"x-stream-offset": "first"}
        )
        one, two = await self.take(deliveries, 2)
        await self.quiet(channel, queue)
        self.assertEqual(deliveries.buffered, 0)
        one.ack()
        two.ack()
        found = await self.take(deliveries, 2)
        self.assertEqual([each.body for each in found], [b"c", b"d"])

    async def test_not_redelivered(self) -> None:
        """
        Nothing is ever redelivered: an unacknowledged message is just read again.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.stream(channel, "a")
        arguments = {"x-stream-offset": "first"}
        await (await other.consume(queue, arguments=arguments)).get()
        await other.close()
        delivery = await (await channel.consume(queue, arguments=arguments)).get()
        self.assertEqual((delivery.body, delivery.redelivered), (b"a", False))

    async def test_reject(self) -> None:
        """
        To reject is to acknowledge for 4.3; 3.10 has no idea of it.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "ab")
        deliveries = await channel.consume(
            queue, prefetch=1, arguments={"x-stream-offset": "first"}
        )
        (await deliveries.get()).reject()
        if self.by_version({"3.10": True, "4.3": False}):
            await self.connection_refused(
                deliveries.get(), 540, "basic.reject", "not supported by stream queues"
            )
        else:
            self.assertEqual((await deliveries.get()).body, b"b")


@every_peer
class StreamSettlingScenarios(StreamScenario):
    """
    What the client settles by itself.  A stream takes nothing back, and 3.10 closes the
    connection for it.
    """

    first: ClassVar[Mapping[str, Any]] = {"x-stream-offset": "first"}

    async def heard(self, seen: list[bytes], count: int) -> None:
        """
        Wait until a handler has had so many messages, and see that all is well.
        """

        async def enough() -> bool:
            return len(seen) >= count

        await self.until(enough, f"{count} messages")

    async def well(self, channel: Channel) -> None:
        """
        See that neither the channel nor the connection has ended.
        """
        await channel.flush()
        self.assertTrue(channel.is_open)

    async def test_handler_fails(self) -> None:
        """
        A handler that fails goes on with the next message.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "abcde")
        seen: list[bytes] = []

        def handle(delivery: Delivery) -> None:
            seen.append(delivery.body)
            raise ZeroDivisionError

        consumer = await channel.basic_consume(
            queue, handle, arguments=self.first, prefetch=1
        )
        await self.heard(seen, 5)
        await consumer.cancel()
        await self.well(channel)
        self.assertEqual(seen, [b"a", b"b", b"c", b"d", b"e"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 5)

    async def test_iterator_cancelled(self) -> None:
        """
        An iterator may be cancelled while messages wait in it.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "abcde")
        deliveries = await channel.consume(queue, arguments=self.first)
        await deliveries.get()

        async def waiting() -> bool:
            return deliveries.buffered == 4

        await self.until(waiting, "four deliveries that wait")
        self.assertEqual(await deliveries.cancel(), 4)
        await self.well(channel)

    async def test_cancelled_on_the_way(self) -> None:
        """
        A consumer may be cancelled while messages are on their way to it.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "abcde" * 20)
        seen: list[bytes] = []
        ends: list[Deferred[Any]] = []

        def handle(delivery: Delivery) -> None:
            seen.append(delivery.body)
            delivery.ack()
            ends.append(channel.basic_cancel("tag"))

        await channel.basic_consume(
            queue, handle, arguments=self.first, consumer_tag="tag"
        )
        await self.heard(seen, 1)
        await ends[0]
        await self.well(channel)

    async def test_too_large(self) -> None:
        """
        A message over the limit is passed over.
        """
        channel = await self.channel()
        queue = await self.stream(channel)
        await channel.basic_publish("", queue, b"x" * 2000)
        await channel.basic_publish("", queue, b"y")
        connection = await self.connect(max_body_size=1000)
        other = await connection.open_channel()
        deliveries = await other.consume(queue, arguments=self.first, prefetch=1)
        self.assertEqual((await deliveries.get()).body, b"y")
        await deliveries.cancel()
        await self.well(other)


@every_peer
class StreamRefusalScenarios(StreamScenario):
    """
    What cannot be done with a stream.
    """

    async def test_get(self) -> None:
        """
        540: to fetch.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "a")
        call = channel.basic_get(queue)
        text = "basic.get not supported by stream queues"
        await self.connection_refused(call, 540, "basic.get", text)

    async def test_purge(self) -> None:
        """
        540: to purge.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "a")
        call = channel.queue_purge(queue)
        await self.connection_refused(call, 540, "queue.purge", "not supported")

    async def test_auto_ack(self) -> None:
        """
        540: to consume without acknowledging.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "a")
        call = channel.consume(queue, auto_ack=True)
        text = self.by_version(
            {
                "3.10": "automatic acknowledgement not supported by stream queues",
                "4.3": "automatic acknowledgement not supported by stream queue "
                f"'{queue}' in vhost '{self.vhost}'",
            }
        )
        await self.connection_refused(call, 540, "basic.consume", text)

    async def test_without_prefetch(self) -> None:
        """
        406: or without a limit.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "a")
        call = channel.consume(queue, prefetch=0)
        text = self.by_version(
            {
                "3.10": f"consumer prefetch count is not set for 'queue '{queue}'",
                "4.3": f"consumer prefetch count is not set for stream queue '{queue}'",
            }
        )
        await self.channel_refused(channel, call, 406, "basic.consume", text)

    async def test_offset(self) -> None:
        """
        An offset that makes no sense: 406 since 4.3, before that 541.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "a")
        call = channel.consume(queue, arguments={"x-stream-offset": "somewhere"})
        if self.by_version({"3.10": True, "4.3": False}):
            await self.connection_refused(call, 541, "", "INTERNAL_ERROR")
        else:
            await self.channel_refused(
                channel, call, 406, "basic.consume", "x-stream-offset"
            )

    async def test_exclusive(self) -> None:
        """
        A consumer that wants to be the only one.
        """
        channel = await self.channel()
        queue = await self.stream(channel, "a")
        deliveries = await channel.consume(
            queue, exclusive=True, arguments={"x-stream-offset": "first"}
        )
        self.assertEqual((await deliveries.get()).body, b"a")

    async def test_delete(self) -> None:
        """
        Its consumers are told when it is deleted.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.stream(channel)
        consumer = await other.consume(queue)
        await channel.queue_delete(queue)
        await self.cancelled(consumer)
