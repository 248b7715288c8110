# -*- test-case-name: txamqp091.test.scenarios.test_limits -*-
"""
Scenarios: what queues drop: messages that wait too long, or are too many.

Where that goes is in `txamqp091.test.scenarios.test_dead_letters`.
"""

from __future__ import annotations

from typing import Any

from txamqp091.channel import Channel
from txamqp091.errors import Nacked, Returned
from txamqp091.test.support.scenarios import Scenario, every_peer
from txamqp091.wire.properties import Properties


@every_peer
class TimeToLiveScenarios(Scenario):
    """
    Messages do not wait for ever.
    """

    async def with_dead_letters(
        self, channel: Channel, arguments: dict[str, Any] | None = None
    ) -> tuple[str, str]:
        """
        A queue, and another that gets what it drops.
        """
        dead = await self.queue(channel)
        queue = await self.queue(
            channel,
            {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead}
            | (arguments or {}),
        )
        return queue, dead

    async def test_queue(self) -> None:
        """
        A queue limits the time of all its messages.
        """
        channel = await self.channel()
        queue, dead = await self.with_dead_letters(channel, {"x-message-ttl": 100})
        for body in "ab":
            await channel.basic_publish("", queue, body)
        self.assertEqual((await self.get(channel, dead)).body, b"a")
        self.assertEqual((await self.get(channel, dead)).body, b"b")
        self.assertEqual(await self.count(channel, queue), 0)

    async def test_message(self) -> None:
        """
        A message may limit its own, and then says no more of it.
        """
        channel = await self.channel()
        queue, dead = await self.with_dead_letters(channel)
        properties = Properties(expiration="80", message_id="m")
        await channel.basic_publish("", queue, "x", properties)
        await channel.basic_publish("", queue, "y")
        delivery = await self.get(channel, dead)
        self.assertEqual(delivery.body, b"x")
        self.assertEqual(delivery.properties.message_id, "m")
        self.assertIsNone(delivery.properties.expiration)
        self.assertEqual(await self.bodies(channel, queue), [b"y"])

    async def test_shorter_one(self) -> None:
        """
        The shorter of the two limits counts.
        """
        channel = await self.channel()
        queue, dead = await self.with_dead_letters(channel, {"x-message-ttl": 60000})
        await channel.basic_publish("", queue, "x", Properties(expiration="50"))
        self.assertEqual((await self.get(channel, dead)).body, b"x")
        queue, dead = await self.with_dead_letters(channel, {"x-message-ttl": 50})
        await channel.basic_publish("", queue, "y", Properties(expiration="60000"))
        self.assertEqual((await self.get(channel, dead)).body, b"y")

    async def test_only_at_the_head(self) -> None:
        """
        A message that has expired behind one that has not stays counted until it comes
        to the head.
        """
        channel = await self.channel()
        queue, dead = await self.with_dead_letters(channel)
        await channel.basic_publish("", queue, "first")
        await channel.basic_publish("", queue, "late", Properties(expiration="1"))
        marker, gone = await self.with_dead_letters(channel)
        await channel.basic_publish("", marker, "x", Properties(expiration="60"))
        await self.get(channel, gone)
        self.assertEqual(await self.count(channel, queue), 2)
        self.assertEqual((await self.get(channel, queue)).body, b"first")
        self.assertEqual((await self.get(channel, dead)).body, b"late")

    async def test_zero_without_consumer(self) -> None:
        """
        With a time of nothing a message is dropped unless a consumer is ready.
        """
        channel = await self.channel()
        queue, dead = await self.with_dead_letters(channel, {"x-message-ttl": 0})
        await channel.basic_publish("", queue, "x")
        self.assertEqual((await self.get(channel, dead)).body, b"x")

    async def test_zero_with_consumer(self) -> None:
        """
        And delivered if one is.
        """
        channel = await self.channel()
        queue, dead = await self.with_dead_letters(channel, {"x-message-ttl": 0})
        deliveries = await channel.consume(queue)
        await channel.basic_publish("", queue, "x")
        self.assertEqual((await deliveries.get()).body, b"x")
        self.assertEqual(await self.count(channel, dead), 0)

    async def test_unacknowledged(self) -> None:
        """
        Time does not matter to what is unacknowledged; when it comes back too late it
        is dropped.
        """
        channel = await self.channel()
        queue, dead = await self.with_dead_letters(channel, {"x-message-ttl": 100})
        # Who waits for it gets it in time.
        deliveries = await channel.consume(queue, prefetch=1)
        await channel.basic_publish("", queue, "held")
        held = await deliveries.get()
        await channel.basic_publish("", queue, "waits")
        self.assertEqual((await self.get(channel, dead)).body, b"waits")
        await deliveries.cancel()
        self.assertEqual(await self.count(channel, dead), 0)
        held.nack()
        self.assertEqual((await self.get(channel, dead)).body, b"held")

    async def test_expiration(self) -> None:
        """
        It may have a sign, and zeros in front.
        """
        channel = await self.channel()
        queue = await self.queue(channel)
        for value in ("+60000", "060000"):
            await channel.basic_publish("", queue, "x", Properties(expiration=value))
        self.assertEqual(await self.bodies(channel, queue), [b"x", b"x"])

    async def test_invalid_expiration(self) -> None:
        """
        406: the time of a message is digits.
        """
        for value, problem in (
            ("soon", "no_integer"),
            ("", "no_integer"),
            (" 5", "no_integer"),
            ("+-5", "no_integer"),
            ("+", "no_integer"),
            ("-1", "{value_negative,-1}"),
            ("12.5", '{leftover_string,".5"}'),
            ("10s", '{leftover_string,"s"}'),
            ("1000000000000", "{value_too_large,1000000000000}"),
        ):
            channel = await self.channel()
            queue = await self.queue(channel)
            call = channel.basic_publish("", queue, "x", Properties(expiration=value))
            text = f"invalid expiration '{value}': {problem}"
            await self.channel_refused(channel, call, 406, "basic.publish", text)


@every_peer
class ExpiryScenarios(Scenario):
    """
    Queues that nobody uses do not stay for ever.
    """

    async def is_there(self, queue: str) -> bool:
        """
        Whether a queue exists.  To ask for it would be to use it; to publish is not.
        """
        channel = await self.channel()
        try:
            await channel.basic_publish("", queue, "", mandatory=True)
        except (Returned, Nacked):  # it has gone, or it goes just now
            return False
        finally:
            await channel.close()
        return True

    async def gone(self, queue: str) -> None:
        """
        Wait until a queue has gone.
        """

        async def missing() -> bool:
            return not await self.is_there(queue)

        await self.until(missing, f"the end of {queue}")

    async def test_unused(self) -> None:
        """
        A queue expires when it was unused for a time, and its messages are no dead
        letters.
        """
        channel = await self.channel()
        dead = await self.queue(channel)
        queue = await self.queue(
            channel,
            {
                "x-expires": 100,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": dead,
            },
        )
        await channel.basic_publish("", queue, "x")
        await self.gone(queue)
        self.assertEqual(await self.bodies(channel, dead), [])

    async def test_consumer(self) -> None:
        """
        One with a consumer does not.
        """
        channel = await self.channel()
        marker = await self.queue(channel, {"x-expires": 1600})
        used = await self.queue(channel, {"x-expires": 1500})
        consumer = await channel.consume(used)
        await self.gone(marker)
        self.assertTrue(await self.is_there(used))
        await consumer.cancel()
        await self.gone(used)

    async def test_with_unacknowledged(self) -> None:
        """
        Unacknowledged messages do not keep it.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-expires": 1500})
        await channel.basic_publish("", queue, "x")
        delivery = await self.get(channel, queue)
        await self.gone(queue)
        delivery.ack()
        await channel.basic_qos(prefetch_count=1)


@every_peer
class LengthScenarios(Scenario):
    """
    Queues are not longer than they may be.
    """

    async def fill(self, channel: Channel, queue: str, bodies: str) -> list[str]:
        """
        Publish messages one by one.

        :returns: those that the broker did not take.
        """
        nacked = []
        for body in bodies:
            try:
                await channel.basic_publish("", queue, body)
            except Nacked:
                nacked.append(body)
        return nacked

    async def test_drop_head(self) -> None:
        """
        By default the oldest messages give way.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-max-length": 3})
        self.assertEqual(await self.fill(channel, queue, "abcde"), [])
        self.assertEqual(await self.bodies(channel, queue), [b"c", b"d", b"e"])

    async def test_bytes(self) -> None:
        """
        What the bodies have in bytes can be limited, too.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-max-length-bytes": 100})
        for body in (b"a" * 40, b"b" * 40, b"", b"c" * 30):
            await channel.basic_publish("", queue, body)
        self.assertEqual(await self.bodies(channel, queue), [b"b" * 40, b"", b"c" * 30])

    async def test_larger_than_the_queue(self) -> None:
        """
        A message that is larger than the queue empties it, and itself.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-max-length-bytes": 100})
        await channel.basic_publish("", queue, b"a")
        await channel.basic_publish("", queue, b"b" * 101)
        self.assertEqual(await self.bodies(channel, queue), [])

    async def test_reject_publish(self) -> None:
        """
        With ``reject-publish`` the new ones give way, and are nacked.
        """
        channel = await self.channel()
        queue = await self.queue(
            channel, {"x-max-length": 2, "x-overflow": "reject-publish"}
        )
        self.assertEqual(await self.fill(channel, queue, "abcd"), ["c", "d"])
        self.assertEqual(await self.bodies(channel, queue), [b"a", b"b"])

    async def test_reject_publish_bytes(self) -> None:
        """
        So they are when the bytes are too many: once there are, not if there would be.
        """
        channel = await self.channel()
        queue = await self.queue(
            channel, {"x-max-length-bytes": 2, "x-overflow": "reject-publish"}
        )
        self.assertEqual(await self.fill(channel, queue, "abcd"), ["c", "d"])
        self.assertEqual(await self.bodies(channel, queue), [b"a", b"b"])

    async def test_room_again(self) -> None:
        """
        There is room again when a message has left; unacknowledged ones do not count.
        """
        channel = await self.channel()
        queue = await self.queue(
            channel, {"x-max-length": 1, "x-overflow": "reject-publish"}
        )
        self.assertEqual(await self.fill(channel, queue, "ab"), ["b"])
        held = await self.get(channel, queue)
        self.assertEqual(await self.fill(channel, queue, "cd"), ["d"])
        held.ack()
        self.assertEqual(await self.fill(channel, queue, "e"), ["e"])
        self.assertEqual(await self.bodies(channel, queue), [b"c"])

    async def test_requeued(self) -> None:
        """
        What comes back to a full queue comes to its head, and may be dropped there.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-max-length": 1})
        await self.fill(channel, queue, "a")
        held = await self.get(channel, queue)
        await self.fill(channel, queue, "b")
        held.nack()
        self.assertEqual(await self.bodies(channel, queue), [b"b"])

    async def test_zero(self) -> None:
        """
        A queue of no length hands on what a consumer is ready for, and drops the rest.
        """
        channel = await self.channel()
        queue = await self.queue(channel, {"x-max-length": 0})
        await self.fill(channel, queue, "a")
        self.assertEqual(await self.bodies(channel, queue), [])
        deliveries = await channel.consume(queue)
        await self.fill(channel, queue, "b")
        self.assertEqual((await deliveries.get()).body, b"b")

    async def test_one_queue_of_two(self) -> None:
        """
        A message that one of its queues refuses is nacked, and is in the other one.
        """
        channel = await self.channel()
        exchange = await self.exchange(channel, "fanout")
        full = await self.queue(
            channel, {"x-max-length": 0, "x-overflow": "reject-publish"}
        )
        await channel.queue_bind(full, exchange)
        other = await self.bound(channel, exchange)
        with self.assertRaises(Nacked):
            await channel.basic_publish(exchange, "", "x")
        self.assertEqual(await self.bodies(channel, other), [b"x"])
