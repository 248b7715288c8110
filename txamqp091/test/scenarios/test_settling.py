# -*- test-case-name: txamqp091.test.scenarios.test_settling -*-
"""
Scenarios: fetching messages, acknowledging them, and giving them back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from txamqp091.channel import Channel
from txamqp091.errors import AlreadySettled
from txamqp091.message import Delivery, Message
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire import spec


class SettlingScenario(Scenario):
    """
    A scenario with a queue that has messages.
    """

    async def filled(self, channel: Channel, bodies: str) -> str:
        """
        A queue with a message for each letter.
        """
        queue = await self.queue(channel)
        for body in bodies:
            await channel.basic_publish("", queue, body)
        return queue

    async def fetch(self, channel: Channel, queue: str, count: int) -> list[Delivery]:
        """
        The next messages of a queue.
        """
        return [await self.get(channel, queue) for _ in range(count)]


@every_peer
class GetScenarios(SettlingScenario):
    """
    Fetching messages one by one.
    """

    async def test_empty(self) -> None:
        """
        There may be none.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        self.assertIsNone(await channel.basic_get(queue))

    async def test_counts(self) -> None:
        """
        With each comes how many are left, and its number on the channel.
        """
        channel = await self.channel()
        queue = await self.filled(channel, "abc")
        found = await self.fetch(channel, queue, 3)
        self.assertEqual([each.body for each in found], [b"a", b"b", b"c"])
        self.assertEqual([self.left(each) for each in found], [2, 1, 0])
        self.assertEqual([each.delivery_tag for each in found], [1, 2, 3])
        self.assertEqual([each.redelivered for each in found], [False] * 3)

    async def test_numbers(self) -> None:
        """
        Numbers are those of the channel, for all its queues and consumers.
        """
        channel = await self.channel()
        one, other = await self.filled(channel, "a"), await self.filled(channel, "b")
        deliveries = await channel.consume(one)
        self.assertEqual((await deliveries.get()).delivery_tag, 1)
        self.assertEqual((await self.get(channel, other)).delivery_tag, 2)
        new = await self.channel()
        third = await self.filled(new, "c")
        self.assertEqual((await self.get(new, third)).delivery_tag, 1)

    async def test_auto_ack(self) -> None:
        """
        With automatic acknowledgement it is gone.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.filled(channel, "ab")
        await self.get(other, queue, auto_ack=True)
        await other.close()
        self.assertEqual(await self.bodies(channel, queue), [b"b"])

    async def test_missing(self) -> None:
        """
        404: there is no such queue.
        """
        channel = await self.channel()
        name = self.name()
        call = channel.basic_get(name)
        text = f"NOT_FOUND - no queue '{name}' in vhost '{self.vhost}'"
        await self.channel_refused(channel, call, 404, "basic.get", text)


@every_peer
class AcknowledgeScenarios(SettlingScenario):
    """
    Acknowledging by number.
    """

    async def test_multiple(self) -> None:
        """
        All up to a number, those that were before included.
        """
        channel = await self.channel()
        queue = await self.filled(channel, "abcd")
        tags = [each.delivery_tag for each in await self.fetch(channel, queue, 4)]
        await channel.basic_ack(tags[1])
        await channel.basic_ack(tags[2], multiple=True)
        await channel.basic_recover()
        self.assertEqual(await self.bodies(channel, queue), [b"d"])

    async def test_all(self) -> None:
        """
        With several, 0 is all of them, of whichever queue.
        """
        channel = await self.channel()
        queues = [await self.filled(channel, "ab") for _ in range(2)]
        for queue in queues:
            await self.fetch(channel, queue, 2)
        await channel.basic_ack(0, multiple=True)
        await channel.basic_recover()
        for queue in queues:
            self.assertEqual(await self.bodies(channel, queue), [])

    async def test_all_rejected(self) -> None:
        """
        So too to give all back.
        """
        channel = await self.channel()
        queue = await self.filled(channel, "abc")
        await self.fetch(channel, queue, 3)
        await channel.basic_nack(0, multiple=True)
        self.assertEqual(await self.bodies(channel, queue), [b"a", b"b", b"c"])

    async def test_all_of_none(self) -> None:
        """
        There may be none.
        """
        channel = await self.channel()
        await channel.basic_ack(0, multiple=True)
        await channel.basic_nack(0, multiple=True)
        await channel.basic_qos(prefetch_count=1)

    async def unknown(self, channel: Channel, tag: int, operation: str) -> None:
        """
        See the channel end for a number that it does not know.
        """
        text = f"PRECONDITION_FAILED - unknown delivery tag {tag}"
        await self.channel_refused(channel, channel.when_closed(), 406, operation, text)

    async def test_unknown(self) -> None:
        """
        406: a number that was never given.
        """
        channel = await self.channel()
        await channel.basic_ack(7)
        await self.unknown(channel, 7, "basic.ack")

    async def test_unknown_multiple(self) -> None:
        """
        406: also as the last of several.
        """
        channel = await self.channel()
        queue = await self.filled(channel, "a")
        await self.get(channel, queue)
        await channel.basic_ack(2, multiple=True)
        await self.unknown(channel, 2, "basic.ack")

    async def test_twice(self) -> None:
        """
        406: a number that was acknowledged.
        """
        channel = await self.channel()
        queue = await self.filled(channel, "a")
        tag = (await self.get(channel, queue)).delivery_tag
        await channel.basic_ack(tag)
        await channel.basic_ack(tag)
        await self.unknown(channel, tag, "basic.ack")

    async def test_nack_unknown(self) -> None:
        """
        406: so too to give one back that was never given.
        """
        channel = await self.channel()
        await channel.basic_nack(7)
        await self.unknown(channel, 7, "basic.nack")

    async def test_reject_unknown(self) -> None:
        """
        406: or to reject it.
        """
        channel = await self.channel()
        await channel.basic_reject(7)
        await self.unknown(channel, 7, "basic.reject")

    async def test_auto_ack(self) -> None:
        """
        406: what is acknowledged automatically cannot be by hand.
        """
        channel = await self.channel()
        queue = await self.filled(channel, "a")
        tag = (await self.get(channel, queue, auto_ack=True)).delivery_tag
        await channel.basic_ack(tag)
        await self.unknown(channel, tag, "basic.ack")

    async def test_other_channel(self) -> None:
        """
        406: numbers are those of one channel; the delivery goes back when the channel
        ends that it belongs to, not before.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.filled(channel, "a")
        delivery = await self.get(channel, queue)
        await other.basic_ack(delivery.delivery_tag)
        await self.unknown(other, delivery.delivery_tag, "basic.ack")
        delivery.ack()
        self.assertEqual(await self.bodies(channel, queue), [])

    async def test_after_an_error(self) -> None:
        """
        A channel that fails gives back what it had not acknowledged.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.filled(channel, "ab")
        await self.fetch(other, queue, 2)
        await other.basic_ack(9)
        await self.unknown(other, 9, "basic.ack")
        found = await self.fetch(channel, queue, 2)
        self.assertEqual([each.body for each in found], [b"a", b"b"])
        self.assertEqual([each.redelivered for each in found], [True, True])


@every_peer
class RequeueScenarios(SettlingScenario):
    """
    Where messages go that come back.
    """

    async def test_in_place(self) -> None:
        """
        To where they were.
        """
        channel = await self.channel()
        queue = await self.filled(channel, "abcde")
        a, b, c = await self.fetch(channel, queue, 3)
        b.nack()
        a.reject()
        found = await self.fetch(channel, queue, 3)
        self.assertEqual([each.body for each in found], [b"a", b"b", b"d"])
        self.assertEqual([each.redelivered for each in found], [True, True, False])
        c.ack()

    async def test_consumer(self) -> None:
        """
        So that a consumer without room for more gets them next.
        """
        channel = await self.channel()
        queue = await self.filled(channel, "abc")
        deliveries = await channel.consume(queue, prefetch=1)
        (await deliveries.get()).nack()
        delivery = await deliveries.get()
        self.assertEqual((delivery.body, delivery.redelivered), (b"a", True))
        delivery.ack()
        delivery = await deliveries.get()
        self.assertEqual((delivery.body, delivery.redelivered), (b"b", False))

    async def test_channel_closes(self) -> None:
        """
        So too when the channel closes.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.filled(channel, "abcd")
        found = await self.fetch(other, queue, 3)
        found[1].ack()
        await other.close()
        found = await self.fetch(channel, queue, 3)
        self.assertEqual([each.body for each in found], [b"a", b"c", b"d"])
        self.assertEqual([each.redelivered for each in found], [True, True, False])

    async def test_connection_closes(self) -> None:
        """
        And when the connection does.
        """
        connection = await self.connect()
        other = await connection.open_channel()
        channel = await self.channel()
        queue = await self.durable_queue(channel)
        for body in "ab":
            await channel.basic_publish("", queue, body)
        await (await other.consume(queue)).get()
        await connection.close()
        found = [await self.get(channel, queue) for _ in range(2)]
        self.assertEqual([each.body for each in found], [b"a", b"b"])
        self.assertTrue(found[0].redelivered)

    async def test_to_another_consumer(self) -> None:
        """
        Another consumer may get it.
        """
        channel, other = await self.channel(), await self.channel()
        queue = await self.filled(channel, "a")
        one = await channel.consume(queue)
        delivery = await one.get()
        two = await other.consume(queue)
        await one.cancel()
        delivery.nack()
        delivery = await two.get()
        self.assertEqual((delivery.body, delivery.redelivered), (b"a", True))

    async def test_recover(self) -> None:
        """
        A channel can give back everything that it has.
        """
        channel = await self.channel()
        queue = await self.filled(channel, "abc")
        found = await self.fetch(channel, queue, 2)
        self.assertEqual(await channel.basic_recover(), spec.BasicRecoverOk())
        found = await self.fetch(channel, queue, 3)
        self.assertEqual([each.body for each in found], [b"a", b"b", b"c"])
        self.assertEqual([each.redelivered for each in found], [True, True, False])
        self.assertEqual([each.delivery_tag for each in found], [3, 4, 5])

    async def test_recover_async(self) -> None:
        """
        Also without an answer.
        """
        channel = await self.channel()
        queue = await self.filled(channel, "a")
        await self.get(channel, queue)
        await channel.basic_recover_async()
        self.assertTrue((await self.get(channel, queue)).redelivered)

    async def test_recover_to_the_same(self) -> None:
        """
        540: not to have them again itself.
        """
        channel = await self.channel()
        call = channel.basic_recover(requeue=False)
        await self.connection_refused(call, 540, "basic.recover", "requeue=false")


@every_peer
class StaleScenarios(SettlingScenario):
    """
    Deliveries that a channel has given back to the broker all together.
    """

    async def given_back(
        self, channel: Channel, give_back: Callable[[], Awaitable[object]]
    ) -> None:
        """
        See that handlers which still have their deliveries do no harm with them.
        """
        queue = await self.filled(channel, "abc")
        seen: list[Delivery] = []
        consumer = await channel.basic_consume(queue, seen.append)

        async def delivered() -> bool:
            return len(seen) >= 6

        self.assertEqual(len(await self.until_seen(seen, 3)), 3)
        await give_back()
        await self.until(delivered, "three deliveries more")
        for each in seen[:3]:
            self.assertTrue(each.is_stale)
            each.ack()
        for each in seen[3:]:
            self.assertTrue(each.redelivered)
            self.assertFalse(each.is_stale)
            each.ack()
        await channel.flush()
        self.assertTrue(channel.is_open)
        await consumer.cancel()
        await channel.basic_recover()
        self.assertEqual(await self.bodies(channel, queue), [])

    async def until_seen(self, seen: list[Delivery], count: int) -> list[Delivery]:
        """
        Wait for deliveries.
        """

        async def enough() -> bool:
            return len(seen) >= count

        await self.until(enough, f"{count} deliveries")
        return seen

    async def test_recover(self) -> None:
        """
        ``basic_recover`` has the broker deliver all once more.
        """
        channel = await self.channel()
        await self.given_back(channel, channel.basic_recover)

    async def test_nack_all(self) -> None:
        """
        So has ``basic_nack`` of all.
        """
        channel = await self.channel()
        await self.given_back(channel, lambda: channel.basic_nack(0, multiple=True))

    async def test_iterator(self) -> None:
        """
        An iterator gives out none of those that had come before.
        """
        channel = await self.channel()
        queue = await self.filled(channel, "abc")
        deliveries = await channel.consume(queue)
        first = await deliveries.get()

        async def waiting() -> bool:
            return deliveries.buffered == 2

        await self.until(waiting, "two deliveries that wait")
        await channel.basic_recover()
        again = await self.take(deliveries, 3)
        self.assertEqual([each.redelivered for each in again], [True] * 3)
        self.assertEqual(sorted(each.body for each in again), [b"a", b"b", b"c"])
        for each in (first, *again):
            each.ack()
        await channel.flush()
        self.assertTrue(channel.is_open)

    async def test_on_their_way(self) -> None:
        """
        Deliveries that are on their way when the broker is asked are stale, too.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        count = 300
        await channel.publish_many(
            Message("", queue, b"%d" % number) for number in range(count)
        )
        done: set[bytes] = set()

        def handle(delivery: Delivery) -> None:
            delivery.ack()
            done.add(delivery.body)

        consuming = channel.basic_consume(queue, handle, prefetch=count)
        recovering = channel.basic_recover()
        await consuming
        await recovering
        for _ in range(5):
            await channel.basic_recover()

        async def all_done() -> bool:
            return len(done) == count

        await self.until(all_done, "all messages")
        await channel.flush()
        self.assertTrue(channel.is_open)
        self.assertEqual(await self.count(channel, queue), 0)

    async def test_rolled_back(self) -> None:
        """
        What was settled in a transaction that is rolled back can be settled again.
        """
        channel = await self.channel(False)
        queue = await self.filled(channel, "abc")
        await channel.tx_select()
        first, second, third = await self.fetch(channel, queue, 3)
        second.ack(multiple=True)
        third.reject(requeue=False)
        self.assertTrue(first.settled)
        await channel.tx_rollback()
        self.assertFalse(any(each.settled for each in (first, second, third)))
        first.ack()
        second.reject(requeue=True)
        await channel.tx_commit()
        with self.assertRaises(AlreadySettled):
            first.ack()
        third.nack(requeue=True)
        await channel.tx_commit()
        self.assertTrue(channel.is_open)
        self.assertEqual(sorted(await self.bodies(channel, queue)), [b"b", b"c"])
