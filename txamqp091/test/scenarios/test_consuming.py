# -*- test-case-name: txamqp091.test.scenarios.test_consuming -*-
"""
Scenarios: which consumer gets which message, and when consumers end.
"""

from __future__ import annotations

from txamqp091.channel import Channel
from txamqp091.consumer import Deliveries
from txamqp091.errors import PreconditionFailed
from txamqp091.message import Delivery
from txamqp091.test.support.scenarios import Scenario, every_peer


class ConsumingScenario(Scenario):
    """
    A scenario with consumers.
    """

    async def publish(self, channel: Channel, queue: str, bodies: str) -> None:
        """
        Publish one message for each letter.
        """
        for body in bodies:
            await channel.basic_publish("", queue, body)

    async def here(self, channel: Channel, queue: str, *found: Deliveries) -> list[str]:
        """
        What consumers of a channel have got, and nobody has taken yet.
        """
        await self.quiet(channel, queue)
        return [
            "".join([(await each.get()).body.decode() for _ in range(each.buffered)])
            for each in found
        ]


@every_peer
class PrefetchScenarios(ConsumingScenario):
    """
    How many deliveries may be unacknowledged.
    """

    async def test_limit(self) -> None:
        """
        No more than the limit; each acknowledgement makes room for one more.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.publish(channel, queue, "abcde")
        deliveries = await channel.consume(queue, prefetch=2)
        first, second = await self.take(deliveries, 2)
        await self.quiet(channel, queue)
        self.assertEqual(deliveries.buffered, 0)
        self.assertEqual(await self.count(channel, queue), 3)
        first.ack()
        self.assertEqual((await deliveries.get()).body, b"c")
        second.reject(requeue=False)
        self.assertEqual((await deliveries.get()).body, b"d")
        self.assertEqual(await self.count(channel, queue), 1)

    async def test_multiple(self) -> None:
        """
        To acknowledge several makes room for as many.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.publish(channel, queue, "abcde")
        deliveries = await channel.consume(queue, prefetch=2)
        (await self.take(deliveries, 2))[1].ack(multiple=True)
        found = await self.take(deliveries, 2)
        self.assertEqual([each.body for each in found], [b"c", b"d"])

    async def test_none(self) -> None:
        """
        Without a limit everything comes.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.publish(channel, queue, "a" * 150)
        deliveries = await channel.consume(queue, prefetch=0)
        self.assertEqual(len(await self.take(deliveries, 150)), 150)

    async def test_each_consumer(self) -> None:
        """
        Every consumer has its own limit: that which was asked for last when it came.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        one = await channel.consume(queue, prefetch=1)
        three = await channel.consume(queue, prefetch=3)
        await self.publish(channel, queue, "abcdef")
        found = await self.here(channel, queue, one, three)
        self.assertEqual([len(each) for each in found], [1, 3])

    async def test_auto_ack(self) -> None:
        """
        With automatic acknowledgement there is no limit.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.publish(channel, queue, "abcd")
        deliveries = await channel.consume(queue, auto_ack=True, prefetch=1)
        await self.take(deliveries, 4)
        await channel.close()
        channel = await self.channel()
        self.assertEqual(await self.count(channel, queue), 0)

    async def test_get(self) -> None:
        """
        What is fetched does not count.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.publish(channel, queue, "abc")
        for _ in range(2):
            await self.get(channel, queue)
        deliveries = await channel.consume(queue, prefetch=1)
        self.assertEqual((await deliveries.get()).body, b"c")

    async def test_global(self) -> None:
        """
        There may be a limit for the whole channel; 4.3 takes it, and does nothing.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        one = await channel.consume(queue, prefetch=0)
        other = await channel.consume(queue, prefetch=0)
        await channel.basic_qos(prefetch_count=3, global_qos=True)
        await self.publish(channel, queue, "abcd")
        found = await self.here(channel, queue, one, other)
        self.assertEqual(
            found, self.by_version({"3.10": ["ac", "b"], "4.3": ["ac", "bd"]})
        )

    async def test_global_room(self) -> None:
        """
        To settle makes room on the channel, and so does a higher limit, or none.
        """
        if self.by_version({"3.10": False, "4.3": True}):
            return  # which has no such limit
        channel = await self.channel()
        queue = await self.queue(channel)
        await channel.basic_qos(prefetch_count=3, global_qos=True)
        one = await channel.consume(queue, prefetch=0)
        await channel.basic_qos(prefetch_count=3, global_qos=True)
        await self.publish(channel, queue, "abcdefgh")
        held = await self.take(one, 3)
        held[0].ack()
        held[1].reject(requeue=False)
        self.assertEqual(await self.here(channel, queue, one), ["de"])
        await channel.basic_qos(prefetch_count=4, global_qos=True)
        self.assertEqual(await self.here(channel, queue, one), ["f"])
        await channel.basic_qos(prefetch_count=0, global_qos=True)
        self.assertEqual(await self.here(channel, queue, one), ["gh"])

    async def test_global_ends(self) -> None:
        """
        A limit for consumers lifts that for the channel.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await channel.basic_qos(prefetch_count=1, global_qos=True)
        await channel.basic_qos(prefetch_count=3)
        await self.publish(channel, queue, "abcd")
        deliveries = await channel.consume(queue, prefetch=3)
        self.assertEqual(await self.here(channel, queue, deliveries), ["abc"])

    async def test_size(self) -> None:
        """
        540: there is no limit in octets.
        """
        channel = await self.channel()
        call = channel.basic_qos(prefetch_size=1)
        text = "prefetch_size!=0 (1)"
        await self.connection_refused(call, 540, "basic.qos", text)


@every_peer
class TurnScenarios(ConsumingScenario):
    """
    Whose turn it is.
    """

    async def test_round_robin(self) -> None:
        """
        Consumers take turns.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        consumers = [await channel.consume(queue) for _ in range(3)]
        await self.publish(channel, queue, "abcdefg")
        found = await self.here(channel, queue, *consumers)
        self.assertEqual(found, ["adg", "be", "cf"])

    async def test_full(self) -> None:
        """
        Who has no room is left out, and back in turn when there is some again.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        one = await channel.consume(queue, prefetch=1)
        other = await channel.consume(queue, prefetch=10)
        await self.publish(channel, queue, "abcd")
        held = await one.get()
        self.assertEqual(await self.here(channel, queue, one, other), ["", "bcd"])
        held.ack()
        await self.quiet(channel, queue)
        await self.publish(channel, queue, "ef")
        found = await self.here(channel, queue, one, other)
        self.assertEqual(sorted(found), ["e", "f"])

    async def test_full_together(self) -> None:
        """
        Of those that have room again at one time, the one that had none the longest is
        next.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.queue(channel)
        consumers = [await channel.consume(queue, prefetch=1) for _ in range(3)]
        await self.publish(other, queue, "abcd")
        held = [await each.get() for each in consumers]
        held[-1].ack(multiple=True)
        self.assertEqual((await consumers[0].get()).body, b"d")

    async def test_going(self) -> None:
        """
        Consumers go while they, or others, have no room.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.queue(channel)
        one = await channel.consume(queue, prefetch=1)
        two = await channel.consume(queue, prefetch=1)
        low = await channel.consume(queue, arguments={"x-priority": -1})
        await self.publish(other, queue, "abc")
        held = [await each.get() for each in (one, two, low)]
        await one.cancel()
        for delivery in held:
            delivery.ack()
        await low.cancel()
        await self.publish(other, queue, "d")
        self.assertEqual((await two.get()).body, b"d")
        await two.cancel()
        await self.publish(other, queue, "e")
        self.assertEqual(await self.count(other, queue), 1)

    async def test_priority(self) -> None:
        """
        A consumer of a higher priority gets everything that it has room for.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        low = await channel.consume(queue, arguments={"x-priority": -1})
        middle = await channel.consume(queue, prefetch=2)
        high = await channel.consume(queue, prefetch=3, arguments={"x-priority": 10})
        await self.publish(channel, queue, "abcdefg")
        found = await self.here(channel, queue, high, middle, low)
        self.assertEqual(found, ["abc", "de", "fg"])

    async def test_equal_priority(self) -> None:
        """
        Those of the same priority take turns.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        arguments = {"x-priority": 5}
        one = await channel.consume(queue, arguments=arguments)
        low = await channel.consume(queue)
        other = await channel.consume(queue, arguments=arguments)
        await self.publish(channel, queue, "abcd")
        found = await self.here(channel, queue, one, other, low)
        self.assertEqual(found, ["ac", "bd", ""])

    async def test_priority_type(self) -> None:
        """
        406: a priority is a number.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        call = channel.consume(queue, arguments={"x-priority": "high"})
        text = "invalid arg 'x-priority' for queue"
        await self.channel_refused(channel, call, 406, "basic.consume", text)


@every_peer
class ConsumerArgumentScenarios(ConsumingScenario):
    """
    What consumers may ask of which queue.
    """

    async def refused(self, type: str) -> set[str]:
        """
        Those arguments, of all that RabbitMQ knows, that a type of queue refuses.
        """
        channel = await self.channel()
        queue = await self.durable_queue(channel, {"x-queue-type": type})
        found = set()
        for name, value in {
            "x-priority": 1,
            "x-consumer-timeout": 500_000,
            "x-stream-offset": "next",
            "x-stream-filter": "some",
            "x-stream-match-unfiltered": True,
            "x-nobody-knows": 1,
        }.items():
            try:
                await channel.consume(queue, arguments={name: value})
            except PreconditionFailed as error:
                self.assertIn(
                    f"invalid arg '{name}' for queue '{queue}' in vhost "
                    f"'{self.vhost}' of queue type rabbit_{type}_queue",
                    error.reply_text,
                )
                found.add(name.removeprefix("x-"))
                channel = await self.channel()
        return found

    async def test_classic(self) -> None:
        """
        406: a classic queue knows nothing of streams, or of timeouts.
        """
        self.assertEqual(
            await self.refused("classic"),
            self.by_version(
                {
                    "3.10": {"stream-offset"},
                    "4.3": {
                        "consumer-timeout",
                        "stream-offset",
                        "stream-filter",
                        "stream-match-unfiltered",
                    },
                }
            ),
        )

    async def test_quorum(self) -> None:
        """
        406: a quorum queue knows nothing of streams.
        """
        self.assertEqual(
            await self.refused("quorum"),
            self.by_version(
                {
                    "3.10": {"stream-offset"},
                    "4.3": {
                        "stream-offset",
                        "stream-filter",
                        "stream-match-unfiltered",
                    },
                }
            ),
        )

    async def test_stream(self) -> None:
        """
        406: a stream knows nothing of priorities, or of timeouts.
        """
        self.assertEqual(
            await self.refused("stream"),
            self.by_version(
                {"3.10": {"priority"}, "4.3": {"priority", "consumer-timeout"}}
            ),
        )


@every_peer
class SingleActiveScenarios(ConsumingScenario):
    """
    A queue with one consumer at a time.
    """

    async def test_first(self) -> None:
        """
        The first consumer gets everything, also when it has no room.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-single-active-consumer": True})
        one = await channel.consume(queue, prefetch=2)
        other = await channel.consume(queue)
        await self.publish(channel, queue, "abc")
        found = await self.here(channel, queue, one, other)
        self.assertEqual(found, ["ab", ""])
        self.assertEqual(await self.count(channel, queue), 1)

    async def test_next(self) -> None:
        """
        When it goes, the next one gets everything.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-single-active-consumer": True})
        one, two, three = [await channel.consume(queue) for _ in range(3)]
        await self.publish(channel, queue, "a")
        (await one.get()).ack()
        await one.cancel()
        await self.publish(channel, queue, "bc")
        found = await self.here(channel, queue, two, three)
        self.assertEqual(found, ["bc", ""])

    async def test_channel_closes(self) -> None:
        """
        When it goes with its channel, the next one gets what it had not acknowledged,
        in order.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-single-active-consumer": True})
        other = await self.channel()
        one = await other.consume(queue)
        two = await channel.consume(queue)
        await self.publish(channel, queue, "abc")
        await self.take(one, 2)
        await other.close()
        found = await self.take(two, 3)
        self.assertEqual([each.body for each in found], [b"a", b"b", b"c"])
        self.assertEqual([each.redelivered for each in found], [True] * 3)

    async def test_exclusive(self) -> None:
        """
        403: no consumer can be exclusive there.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-single-active-consumer": True})
        call = channel.consume(queue, exclusive=True)
        text = (
            f"queue '{queue}' in vhost '{self.vhost}' in exclusive use"
            if self.by_version({"3.10": True})
            else ""
        )
        await self.channel_refused(channel, call, 403, "basic.consume", text)


@every_peer
class ExclusiveConsumerScenarios(ConsumingScenario):
    """
    A consumer that suffers no other.
    """

    async def test_second(self) -> None:
        """
        403: nobody else may consume while it does.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await (await self.channel()).consume(queue, exclusive=True)
        call = channel.consume(queue)
        text = f"queue '{queue}' in vhost '{self.vhost}' in exclusive use"
        await self.channel_refused(channel, call, 403, "basic.consume", text)

    async def test_not_the_first(self) -> None:
        """
        403: nor may it begin while somebody consumes.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await (await self.channel()).consume(queue)
        call = channel.consume(queue, exclusive=True)
        text = f"queue '{queue}' in vhost '{self.vhost}' in exclusive use"
        await self.channel_refused(channel, call, 403, "basic.consume", text)

    async def test_over(self) -> None:
        """
        After it others may.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        consumer = await channel.consume(queue, exclusive=True)
        await consumer.cancel()
        await channel.consume(queue, exclusive=True)

    async def test_get(self) -> None:
        """
        Others may fetch.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        await self.publish(channel, queue, "ab")
        await (await self.channel()).consume(queue, exclusive=True, prefetch=1)
        await self.until_count(channel, queue, 1)
        self.assertEqual((await self.get(channel, queue)).body, b"b")


@every_peer
class FailureScenarios(Scenario):
    """
    What becomes of messages whose handlers fail.
    """

    async def dead_lettering(self, channel: Channel) -> tuple[str, str]:
        """
        A quorum queue, and the queue of its dead letters.
        """
        dead = await self.queue(channel)
        queue = await self.quorum_queue(
            channel, dead_letter_exchange="", dead_letter_routing_key=dead
        )
        return queue, dead

    async def test_rejected(self) -> None:
        """
        With ``on_failure="reject"``, messages that came back since a channel was closed
        in order have not failed: each is tried twice before it is a dead letter.
        """
        channel, other = await self.channel(), await self.channel()
        queue, dead = await self.dead_lettering(channel)
        for body in "abc":
            await channel.basic_publish("", queue, body)
        deliveries = await other.consume(queue)
        await self.take(deliveries, 2)
        await deliveries.cancel()
        await other.basic_nack(0, multiple=True)
        await other.close()
        tried: list[bytes] = []

        def handle(delivery: Delivery) -> None:
            tried.append(delivery.body)
            raise ZeroDivisionError

        consumer = await channel.basic_consume(queue, handle, on_failure="reject")
        await self.until_count(channel, dead, 3)
        await consumer.cancel()
        self.assertEqual(sorted(tried), [b"a", b"a", b"b", b"b", b"c", b"c"])
        found = [await self.get(channel, dead) for _ in range(3)]
        self.assertEqual(
            [[(each.reason, each.queue) for each in one.deaths] for one in found],
            [[("rejected", queue)]] * 3,
        )
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 6)

    async def test_kept(self) -> None:
        """
        Otherwise no message is lost, on whichever queue.
        """
        channel = await self.channel()
        for queue in (await self.queue(channel), await self.quorum_queue(channel)):
            for body in "abc":
                await channel.basic_publish("", queue, body)
            tried: list[bytes] = []

            async def twice(tried: list[bytes] = tried) -> bool:
                return len(tried) == 6

            def handle(delivery: Delivery, tried: list[bytes] = tried) -> None:
                tried.append(delivery.body)
                raise ZeroDivisionError

            consumer = await channel.basic_consume(queue, handle)
            await self.until(twice, "two failures of each message")
            await consumer.cancel()
            await self.until_count(channel, queue, 3)
            self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 6)

    async def test_counts(self) -> None:
        """
        4.3 counts failed deliveries apart from the others.
        """
        channel = await self.channel()
        queue = await self.quorum_queue(channel)
        await channel.basic_publish("", queue, "x")
        counts = []
        for settle in (
            lambda delivery: delivery.nack(),
            lambda delivery: delivery.reject(requeue=True),
            lambda delivery: delivery.ack(),
        ):
            delivery = await self.get(channel, queue)
            counts.append((delivery.delivery_count or 0, delivery.acquired_count or 0))
            settle(delivery)
        self.assertEqual(
            counts,
            self.by_version(
                {
                    "3.10": [(0, 0), (1, 0), (2, 0)],
                    "4.3": [(0, 0), (0, 1), (1, 2)],
                }
            ),
        )
